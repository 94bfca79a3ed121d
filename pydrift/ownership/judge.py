"""From embeddings to evidence and verdicts: numbers in, numbers out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pydrift.core.noise import Phase, derived_seed
from pydrift.ownership.confidence import Confidence, Regressor
from pydrift.ownership.embedding import Embedded
from pydrift.ownership.evidence import (
    Array,
    ReferenceScale,
    Said,
    SamplePoint,
    harmonic_mean_p,
    p_by_samples,
    rank_p,
    welch,
    welch_t,
    widened,
)
from pydrift.ownership.result import INCONCLUSIVE, INDEPENDENT, STOLEN, Evidence

SAMPLE_COUNTS = (2, 5, 10, 15, 20, 30, 40, 60, 80, 100)  # of private images, for p against their number
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
    needed: float | None


@dataclass(frozen=True)
class Judgement:
    """
    null_knowledge          of every independent model, as it was found
    null_knowledge_widened  and as far from their mean as benign models of other people may be (see
                            pydrift.ownership.evidence.widened)
    """

    suspects: dict[str, Judged]
    victim: Judged
    null_knowledge: tuple[float, ...]
    null_knowledge_widened: tuple[float, ...]


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
    victim, references, independents = map(_said, ([answers.victim], answers.references, answers.independents))
    victim = Said(victim.profile[0], victim.sureness[0])
    yardstick = ReferenceScale.of(victim, references, independents, answers.private)
    found = yardstick.knowledge(yardstick.null)
    signs_of_null = yardstick.widened_null()
    null = np.column_stack([yardstick.knowledge(signs_of_null), signs_of_null])
    fitted = [(kind.title, kind.fit(lesson, private)) for kind in regressors]
    null_confidence = [_Corrected.of(regressor, answers) for _, regressor in fitted]
    of_curves, of_intervals, of_means = (derived_seed(seed, Phase.OWNERSHIP_DRAWS, k) for k in range(3))
    everybody = [answers.victim, *answers.suspects.values()]
    said = _said(everybody)
    curves = p_by_samples(victim, said, references, independents, answers.private, SAMPLE_COUNTS, seed=of_curves)
    judged: list[Judged] = []
    for one, profile, sureness, curve in zip(everybody, *yardstick.departures(said), curves, strict=True):
        signs = yardstick.signs(profile, sureness)
        surer = welch(*np.split(sureness, [answers.private]))
        known, agreed = yardstick.bootstrap(profile, sureness, seed=of_intervals)
        knowledge = float(yardstick.knowledge(signs))
        evidence = (
            replace(
                _ranked("knowledge", knowledge, known, knowledge, null[:, 0]), p_calibrated=yardstick.p_value(signs)
            ),
            _ranked("agreement", float(signs[0]), agreed, float(signs[0]), null[:, 1]),
            _ranked("membership", surer.effect, (surer.low, surer.high), float(signs[1]), null[:, 2]),
            *(
                _confidence(title, regressor(one.features), corrected, of_means)
                for (title, regressor), corrected in zip(fitted, null_confidence, strict=True)
            ),
        )
        blind = bool(judged) and judged[0].verdict != STOLEN  # the victim itself would not be found
        verdict, reasons = _verdict(evidence[0].p_calibrated, alpha, blind)
        judged.append(Judged(verdict, evidence, curve, reasons, yardstick.needed(signs, alpha)))
    return Judgement(
        suspects=dict(zip(answers.suspects, judged[1:], strict=True)),
        victim=judged[0],
        null_knowledge=tuple(found.tolist()),
        null_knowledge_widened=tuple(null[:, 0].tolist()),
    )


def _ranked(name: str, effect: float, interval: Sequence[float] | Array, value: float, null: Array) -> Evidence:
    """`value` is what is ranked among `null`."""
    low, high = interval
    return Evidence(name, effect, float(low), float(high), rank_p(value, null), _z(value, null))


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
        scores = np.stack([regressor(one.features) for one in answers.independents]) - usual
        return cls(usual, widened(welch_t(scores, answers.private)), answers.private)


def _confidence(title: str, scores: Array, corrected: _Corrected, seed: int) -> Evidence:
    private, public = np.split(scores, [corrected.private])
    as_they_are = welch(private, public)
    t = float(welch_t(scores - corrected.usual, corrected.private))
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


def _z(value: float, null: Array) -> float:
    spread = float(null.std(ddof=1))
    return float(value - null.mean()) / spread if spread > 0 else 0.0


def _said(embedded: Sequence[Embedded]) -> Said:
    return Said(np.stack([one.profile for one in embedded]), np.stack([one.sureness for one in embedded]))


def _verdict(p: float, alpha: float, blind: bool) -> tuple[str, tuple[str, ...]]:
    if blind:
        return INCONCLUSIVE, ("not even the victim itself is told from benign models by this embedding",)
    if p <= alpha:
        return STOLEN, ()
    clear = max(alpha, min(_CLEAR * alpha, _SURELY_CLEAR))
    if p > clear:
        return INDEPENDENT, ()
    return INCONCLUSIVE, (f"p = {p:.2g} lies between alpha = {alpha:g} and {clear:g}: reveal more samples",)
