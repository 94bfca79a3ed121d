"""From embeddings to evidence and verdicts: numbers in, numbers out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pydrift.noise import Phase, derived_seed
from pydrift.ownership.confidence import Confidence, Regressor
from pydrift.ownership.embedding import Embedded
from pydrift.ownership.evidence import (
    Array,
    Departures,
    SamplePoint,
    agreement,
    bootstrap_interval,
    harmonic_mean_p,
    p_by_samples,
    rank_p,
    welch,
    widened,
)
from pydrift.ownership.result import INCONCLUSIVE, INDEPENDENT, STOLEN, Evidence

SAMPLE_COUNTS = (2, 5, 10, 15, 20, 30, 40, 60, 80, 100)  # of private images, for p against their number
_LARGEST_T = 1e6
_CLEAR, _SURELY_CLEAR = 10, 0.2  # a p above so many alphas, or above that: nothing speaks against independence


@dataclass(frozen=True)
class Answers:
    """How all models embed the same images, the private ones first.

    private  how many these are
    """

    private: int
    victim: Embedded
    suspects: Mapping[str, Embedded]
    references: Sequence[Embedded]
    independents: Sequence[Embedded]


@dataclass(frozen=True)
class Judged:
    """Of one suspect; the fields are those of SuspectResult."""

    verdict: str
    evidence: tuple[Evidence, ...]
    by_samples: tuple[SamplePoint, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Judgement:
    """
    null_agreement          of every independent model, as it was found
    null_agreement_widened  and as suspects are ranked among it (see pydrift.ownership.evidence.widened)
    """

    suspects: dict[str, Judged]
    victim: Judged
    null_agreement: tuple[float, ...]
    null_agreement_widened: tuple[float, ...]


def judge(
    answers: Answers,
    *,
    lesson: Array,
    private: np.ndarray,
    regressors: Sequence[Confidence],
    alpha: float,
    seed: int,
) -> Judgement:
    """Judges every suspect, and the victim as if it were one.

    lesson   float64 [L, D]: features of the victim for other images; `private` bool [L] says which of them it has seen
    """
    references, independents = _profiles(answers.references), _profiles(answers.independents)
    departures = Departures.of(references)
    victim = departures(answers.victim.profile)
    found = agreement(victim, departures(independents))
    null_agreement = widened(found)
    fitted = [(kind.title, kind.fit(lesson, private)) for kind in regressors]
    null_confidence = [_Corrected.of(regressor, answers) for _, regressor in fitted]
    of_curves, of_intervals, of_means = (derived_seed(seed, Phase.OWNERSHIP_DRAWS, k) for k in range(3))
    everybody = [answers.victim, *answers.suspects.values()]
    profiles = _profiles(everybody)
    curves = p_by_samples(
        answers.victim.profile, profiles, references, independents, answers.private, SAMPLE_COUNTS, seed=of_curves
    )
    judged: list[Judged] = []
    for one, departure, curve in zip(everybody, departures(profiles), curves, strict=True):
        value = float(agreement(victim, departure))
        low, high = bootstrap_interval(victim, departure, seed=of_intervals)
        evidence = (
            Evidence("agreement", value, low, high, rank_p(value, null_agreement), _z(value, null_agreement)),
            *(
                _confidence(title, regressor(one.features), corrected, of_means)
                for (title, regressor), corrected in zip(fitted, null_confidence, strict=True)
            ),
        )
        blind = bool(judged) and judged[0].verdict != STOLEN  # the victim itself would not be found
        verdict, reasons = _verdict(evidence[0].p_calibrated, alpha, blind)
        judged.append(Judged(verdict, evidence, curve, reasons))
    return Judgement(
        suspects=dict(zip(answers.suspects, judged[1:], strict=True)),
        victim=judged[0],
        null_agreement=tuple(float(value) for value in found),
        null_agreement_widened=tuple(float(value) for value in null_agreement),
    )


@dataclass(frozen=True)
class _Corrected:
    """Confidences from which the references' mean, image by image, is taken; t of Welch's test for every independent,
    widened."""

    usual: Array  # [images]
    null: Array  # [n]
    private: int

    @classmethod
    def of(cls, regressor: Regressor, answers: Answers) -> _Corrected:
        usual = np.mean([regressor(one.features) for one in answers.references], axis=0)
        null = [_t(regressor(one.features) - usual, answers.private) for one in answers.independents]
        return cls(usual, widened(np.array(null)), answers.private)


def _confidence(title: str, scores: Array, corrected: _Corrected, seed: int) -> Evidence:
    private, public = np.split(scores, [corrected.private])
    as_they_are = welch(private, public)
    t = _t(scores - corrected.usual, corrected.private)
    return Evidence(
        f"confidence: {title}",
        as_they_are.effect,
        as_they_are.low,
        as_they_are.high,
        p_calibrated=rank_p(t, corrected.null),
        z=_z(t, corrected.null),
        p_welch=as_they_are.p,
        p_harmonic=harmonic_mean_p(private, public, seed=seed),
    )


def _t(scores: Array, private: int) -> float:
    """Welch's t of the first `private` scores and the others; bounded, since there are scores without spread."""
    return float(np.clip(welch(*np.split(scores, [private])).t, -_LARGEST_T, _LARGEST_T))


def _z(value: float, null: Array) -> float:
    spread = float(null.std(ddof=1))
    return float(value - null.mean()) / spread if spread > 0 else 0.0


def _profiles(embedded: Sequence[Embedded]) -> Array:
    return np.stack([one.profile for one in embedded])


def _verdict(p: float, alpha: float, blind: bool) -> tuple[str, tuple[str, ...]]:
    if blind:
        return INCONCLUSIVE, ("not even the victim itself is told from honest models by this embedding",)
    if p <= alpha:
        return STOLEN, ()
    clear = max(alpha, min(_CLEAR * alpha, _SURELY_CLEAR))
    if p > clear:
        return INDEPENDENT, ()
    return INCONCLUSIVE, (f"p = {p:.2g} lies between alpha = {alpha:g} and {clear:g}: reveal more samples",)
