"""From embeddings to evidence and verdicts: numbers in, numbers out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pydrift.core.noise import Phase, derived_seed
from pydrift.ownership.embeddings import ImageEmbeddings
from pydrift.ownership.evidence import ModelProfiles, ReferenceScale, SamplePoint, p_by_samples, rank_p, widen
from pydrift.ownership.regressors import FittedRegressor, Regressor, RegressorData
from pydrift.ownership.result import INCONCLUSIVE, INDEPENDENT, STOLEN, Evidence
from pydrift.ownership.welch import Array, harmonic_mean_p, welch, welch_t

SAMPLE_COUNTS = (2, 5, 10, 15, 20, 30, 40, 60, 80, 100)  # private images, for the curve of p against their number
_CLEAR, _SURELY_CLEAR = 10, 0.2  # a p above so many alphas, or above that: no evidence against independence


@dataclass(frozen=True)
class OwnershipEmbeddings:
    """The embeddings of the same N images by all models; the first `num_private` images are private."""

    num_private: int
    victim: ImageEmbeddings
    suspects: Mapping[str, ImageEmbeddings]
    references: Sequence[ImageEmbeddings]
    independents: Sequence[ImageEmbeddings]


@dataclass(frozen=True)
class Decision:
    """The decision on one suspect; the fields are those of SuspectResult."""

    verdict: str
    evidence: tuple[Evidence, ...]
    by_samples: tuple[SamplePoint, ...]
    reasons: tuple[str, ...]
    needed: float | None


@dataclass(frozen=True)
class Decisions:
    """The decisions on all suspects, and on the victim as if it were one.

    null_knowledge          float [n]: the knowledge of each independent model
    null_knowledge_widened  float [n]: the same, widened (see `pydrift.ownership.evidence.widen`)
    """

    suspects: dict[str, Decision]
    victim: Decision
    null_knowledge: tuple[float, ...]
    null_knowledge_widened: tuple[float, ...]


def decide(
    embeddings: OwnershipEmbeddings,
    data: RegressorData,
    regressors: Sequence[Regressor],
    *,
    alpha: float,
    seed: int,
) -> Decisions:
    """Decides on every suspect, and on the victim as if it were one. Deterministic.

    data  the victim's embeddings of other images; the regressors learn from them
    """
    curve_seed, interval_seed, mean_seed = (derived_seed(seed, Phase.OWNERSHIP_DRAWS, k) for k in range(3))
    victim, references, independents = map(
        _stack, ([embeddings.victim], embeddings.references, embeddings.independents)
    )
    victim = ModelProfiles(victim.profile[0], victim.label_confidence[0])
    scale = ReferenceScale.of(victim, references, independents, embeddings.num_private)
    calibration = _Calibration(
        scale=scale,
        null=_null(scale),
        regressors=tuple(_CalibratedRegressor.of(regressor, data, embeddings) for regressor in regressors),
        interval_seed=interval_seed,
        mean_seed=mean_seed,
    )
    accused = [embeddings.victim, *embeddings.suspects.values()]
    profiles = _stack(accused)
    curves = p_by_samples(
        victim, profiles, references, independents, embeddings.num_private, SAMPLE_COUNTS, seed=curve_seed
    )
    deviations = zip(*scale.deviations(profiles), strict=True)
    decisions: list[Decision] = []
    for one, (profile, confidence), curve in zip(accused, deviations, curves, strict=True):
        evidence = calibration.evidence(one.features, profile, confidence)
        is_blind = bool(decisions) and decisions[0].verdict != STOLEN  # the victim itself would not be found
        verdict, reasons = decide_verdict(evidence[0].p_calibrated, alpha, is_blind)
        needed = scale.needed(scale.components(profile, confidence), alpha)
        decisions.append(Decision(verdict, evidence, curve, reasons, needed))
    return Decisions(
        suspects=dict(zip(embeddings.suspects, decisions[1:], strict=True)),
        victim=decisions[0],
        null_knowledge=tuple(scale.knowledge(scale.null).tolist()),
        null_knowledge_widened=tuple(calibration.null[:, 0].tolist()),
    )


def decide_verdict(p: float, alpha: float, is_blind: bool) -> tuple[str, tuple[str, ...]]:
    """The verdict and its reasons. `is_blind` says that even the victim itself is not found."""
    if is_blind:
        return INCONCLUSIVE, ("this embedding cannot tell even the victim itself from independent models",)
    if p <= alpha:
        return STOLEN, ()
    clear = max(alpha, min(_CLEAR * alpha, _SURELY_CLEAR))
    if p > clear:
        return INDEPENDENT, ()
    return INCONCLUSIVE, (f"p = {p:.2g} lies between alpha = {alpha:g} and {clear:g}: reveal more samples",)


@dataclass(frozen=True)
class _Calibration:
    """What the evidence on a model is measured by.

    null  float64 [n, 3]: knowledge, agreement and membership of the independents, widened
    """

    scale: ReferenceScale
    null: Array
    regressors: tuple[_CalibratedRegressor, ...]
    interval_seed: int
    mean_seed: int

    def evidence(self, features: Array, profile: Array, confidence: Array) -> tuple[Evidence, ...]:
        """Of one model, from its features [N, D] and its deviations [N, E] and [N] from the references."""
        components = self.scale.components(profile, confidence)
        knowledge, agreement, membership = float(self.scale.knowledge(components)), *map(float, components)
        of_knowledge, of_agreement = self.scale.bootstrap(profile, confidence, seed=self.interval_seed)
        test = welch(*np.split(confidence, [self.scale.num_private]))
        ranked = _ranked("knowledge", knowledge, of_knowledge, knowledge, self.null[:, 0])
        return (
            replace(ranked, p_calibrated=self.scale.p_value(components)),
            _ranked("agreement", agreement, of_agreement, agreement, self.null[:, 1]),
            _ranked("membership", test.effect, (test.low, test.high), membership, self.null[:, 2]),
            *(regressor.evidence(features, self.mean_seed) for regressor in self.regressors),
        )


@dataclass(frozen=True)
class _CalibratedRegressor:
    """A regressor that the victim has taught, and its scores of reference and independent models.

    usual  float64 [N]: the mean over the references, image by image; it is subtracted before calibration
    null   float64 [n]: t of Welch's test for each independent model, widened
    """

    title: str
    score: FittedRegressor
    usual: Array
    null: Array
    num_private: int

    @classmethod
    def of(cls, kind: Regressor, data: RegressorData, embeddings: OwnershipEmbeddings) -> _CalibratedRegressor:
        score, num_private = kind.fit(data), embeddings.num_private
        usual = np.mean([score(one.features) for one in embeddings.references], axis=0)
        corrected = np.stack([score(one.features) for one in embeddings.independents]) - usual
        return cls(kind.title, score, usual, widen(welch_t(corrected, num_private)), num_private)

    def evidence(self, features: Array, seed: int) -> Evidence:
        """Of one model, from its features [N, D]."""
        scores = self.score(features)
        private, public = np.split(scores, [self.num_private])
        published = welch(private, public)
        t = float(welch_t(scores - self.usual, self.num_private))
        return Evidence(
            f"confidence: {self.title}",
            published.effect,
            published.low,
            published.high,
            p_calibrated=rank_p(t, self.null),
            z=_z_score(t, self.null),
            p_welch=published.p,
            p_harmonic=harmonic_mean_p(private, public, seed=seed),
        )


def _null(scale: ReferenceScale) -> Array:
    components = scale.widened_null()
    return np.column_stack([scale.knowledge(components), components])


def _ranked(name: str, effect: float, interval: Sequence[float] | Array, value: float, null: Array) -> Evidence:
    """The evidence whose `value` is ranked among `null`."""
    low, high = interval
    return Evidence(name, effect, float(low), float(high), rank_p(value, null), _z_score(value, null))


def _z_score(value: float, null: Array) -> float:
    spread = float(null.std(ddof=1))
    return float(value - null.mean()) / spread if spread > 0 else 0.0


def _stack(models: Sequence[ImageEmbeddings]) -> ModelProfiles:
    return ModelProfiles(np.stack([one.profile for one in models]), np.stack([one.label_confidence for one in models]))
