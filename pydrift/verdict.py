"""From recognition measurements to a verdict per class. numpy and scipy only: nothing here knows what a model is.

The published sketch of the method fixes one thing: a changed recognition of gray data is drift. How much change is
too much is this module's own design:

1. A candidate successor M (the new model, or a shadow in its place) is looked at in two DIRECTIONS: how M recognises
   the gray data of the benign models (the base, and the mean over the shadows but M), and how they recognise M's.
2. In each direction the two figures are standardised by their mean and deviation over the shadows and averaged to a
   score. The two directions are tested apart, not added: a model that answers sharply recognises others more and is
   recognised less, so their sum is a small difference of large numbers and has heavy tails.
3. The new model's distance from the mean of the shadows' scores, in their standard deviations, is its *effect*;
   negative means less recognition than benign successors have. Each shadow's own effect, measured in the same way
   against the others alone, is the null distribution. Steps 1 to 3 are repeated without it: a score that was
   standardised together with the others is drawn towards them, which would make the null too narrow.
4. The p of a direction is the lower tail of a Student t whose degrees of freedom and scale are fitted to the null of
   all classes: normal theory (K - 1 degrees of freedom, scale 1) is too optimistic where scores have heavy tails,
   and the ranks of K = 16 shadows cannot give a p below 1/17.
5. A class's p is twice the smaller of its two (Bonferroni), its effect that direction's. Over classes: Holm. A class
   with a small adjusted p has drifted. The others are stable if the null is tight enough to have shown a drift of
   MAX_SMALLEST_EFFECT, else inconclusive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

MIN_SHADOWS = 4  # each is held against the others, and the scores of two say next to nothing about a third
MIN_CONFIDENCE = 0.5  # below this mean own confidence an inversion has not shown what the class looks like
MAX_SMALLEST_EFFECT = 8.0  # null deviations; a null that could only call larger effects cannot vouch for stability
ROUNDING = 1e-9  # figures that differ by less, relatively, do not differ
SAME_ANSWERS = 1e-4  # models whose mean margins all agree to this (relative) are one function, rounding aside

DIRECTIONS = ("new_sees_benign", "benign_see_new")


@dataclass(frozen=True)
class ClassVerdict:
    """The finding for one class.

    effect     distance of the new model from the null mean, in null standard deviations, in the direction that speaks
               more against it; negative = recognised worse
    interval   95 % confidence interval of the effect
    direction  which of DIRECTIONS that is
    null       each shadow's own effect there against the other shadows, the distribution that `effect` is held against
    signals    the effect in both directions
    """

    index: int
    name: str
    verdict: str  # "stable" | "drift" | "inconclusive"
    effect: float | None
    interval: tuple[float, float] | None
    p_value: float | None
    p_adjusted: float | None
    reason: str | None
    direction: str | None
    null: tuple[float, ...]
    signals: dict[str, float]

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> ClassVerdict:
        interval = None if raw["interval"] is None else (raw["interval"][0], raw["interval"][1])
        return cls(**{**raw, "interval": interval, "null": tuple(raw["null"])})


@dataclass(frozen=True)
class Verdict:
    """verdict "stable" | "drift" | "inconclusive"; p_value the smallest adjusted one; reasons in words."""

    verdict: str
    p_value: float | None
    smallest_effect: float | None  # the least effect that this null is sure to call drift at alpha
    reasons: tuple[str, ...]
    classes: tuple[ClassVerdict, ...]


@dataclass(frozen=True)
class Tail:
    """How far benign successors stray: a Student t of prediction residuals."""

    degrees: float
    scale: float

    def p_value(self, effect: float, shadows: int) -> float:
        """P(a benign successor's effect is this low or lower). Never 0."""
        residual = effect / np.sqrt(1 + 1 / shadows)
        return max(float(stats.t.cdf(residual / self.scale, self.degrees)), float(np.finfo(float).tiny))

    def smallest_effect(self, level: float, shadows: int) -> float:
        """The size of the effect whose p is `level`."""
        return float(stats.t.isf(level, self.degrees) * self.scale * np.sqrt(1 + 1 / shadows))


def judge(
    recognition: NDArray[np.float64], confidence: NDArray[np.float64], class_names: Sequence[str], alpha: float
) -> Verdict:
    """Judges the new model against the shadows.

    recognition  float64 [models, models, classes]: mean logit margin of observer (first) on the gray data of source
                 (second); the models are the base, the K shadows and the new model, in this order
    confidence   float64 [models, classes]: each model's mean confidence in its own gray data. Shadows below 0.5 are
                 left out of that class's null; a base or new model below 0.5 makes the class inconclusive
    alpha        family-wise error level over the classes, in (0, 1)

    Deterministic. A permutation of the classes permutes the result.
    """
    measured: dict[int, dict[str, _Score]] = {}
    findings: dict[int, ClassVerdict] = {}
    for c, name in enumerate(class_names):
        try:
            measured[c] = _scores(recognition[..., c], confidence[:, c])
        except _Unmeasurable as why:
            findings[c] = ClassVerdict(c, name, "inconclusive", None, None, None, None, str(why), None, (), {})
    smallest = None
    if measured:
        tails = {d: fit_tail([scores[d].null for scores in measured.values()]) for d in DIRECTIONS}
        level = alpha / (len(DIRECTIONS) * len(measured))
        smallest = max(tails[d].smallest_effect(level, len(s[d].null)) for s in measured.values() for d in DIRECTIONS)
        if _same_function(recognition):
            reason = "the new model answers all gray data as the base does, up to rounding: taken for the same function"
            findings |= {c: _unchanged(c, class_names[c], scores) for c, scores in measured.items()}
            return Verdict("stable", 1.0, smallest, (reason,), tuple(findings[c] for c in sorted(findings)))
        tested = {c: _tested(c, class_names[c], scores, tails) for c, scores in measured.items()}
        adjusted = holm([_p(finding) for finding in tested.values()])
        for (c, finding), p_adjusted in zip(tested.items(), adjusted, strict=True):
            findings[c] = _decided(finding, p_adjusted, alpha, smallest)
    classes = tuple(findings[c] for c in sorted(findings))
    p_value = min((c.p_adjusted for c in classes if c.p_adjusted is not None), default=None)
    verdicts = {c.verdict for c in classes}
    verdict = next(v for v in ("drift", "inconclusive", "stable") if v in verdicts)
    return Verdict(verdict, p_value, smallest, _reasons(classes), classes)


def fit_tail(null: Sequence[NDArray[np.float64]]) -> Tail:
    """Maximum-likelihood Student t of the shadows' own effects, pooled over classes.

    null  one array per class with the effects of its K shadows, each measured against the K - 1 others. Degrees of
          freedom are kept in [1, K - 1], the scale in [1, 10]: pooling may only make the test more careful than normal
          theory, never less. The order of classes and shadows does not matter.
    """
    # An effect is measured in deviations of single scores; as a prediction from K - 1 of them it has a larger error.
    residuals = np.sort(np.concatenate([effects / np.sqrt(1 + 1 / (len(effects) - 1)) for effects in null]))
    most = max(len(effects) for effects in null) - 1

    def cost(parameters: NDArray[np.float64]) -> float:
        degrees, scale = np.exp(parameters)
        return float(-stats.t.logpdf(residuals / scale, degrees).sum() + len(residuals) * np.log(scale))

    bounds = [(0.0, np.log(most)), (0.0, np.log(10.0))]
    # Not Nelder-Mead: its simplex collapses on the bounds, where the best parameters often lie.
    fitted = optimize.minimize(cost, [np.log(most) / 2, 0.1], method="L-BFGS-B", bounds=bounds)
    degrees, scale = np.exp(fitted.x)
    return Tail(float(degrees), float(scale))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, i in enumerate(np.argsort(p_values, kind="stable")):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def effect_interval(effect: float, shadows: int, level: float = 0.95) -> tuple[float, float]:
    """Confidence interval of an effect measured in the standard deviations of `shadows` null values.

    The large-sample variance of a standardised difference, 1/K + d^2 / (2 (K - 1)) (Hedges and Olkin 1985), with the
    quantile of a Student t, since K is small.
    """
    half = stats.t.isf((1 - level) / 2, shadows - 1) * np.sqrt(1 / shadows + effect**2 / (2 * (shadows - 1)))
    return float(effect - half), float(effect + half)


class _Unmeasurable(Exception):
    """Why a class has no effect."""


@dataclass(frozen=True)
class _Score:
    effect: float
    null: NDArray[np.float64]  # [K]


def _scores(recognition: NDArray[np.float64], confidence: NDArray[np.float64]) -> dict[str, _Score]:
    """Effect and null of one class in both DIRECTIONS, from recognition [models, models] and confidence [models]."""
    new = len(confidence) - 1
    for model, who in ((0, "base"), (new, "new model")):
        if not confidence[model] >= MIN_CONFIDENCE:
            raise _Unmeasurable(
                f"inversion found no image that the {who} takes for it (mean confidence {confidence[model]:.2f})"
            )
    shadows = [k for k in range(1, new) if confidence[k] >= MIN_CONFIDENCE]
    if len(shadows) < MIN_SHADOWS:
        why = "know it (does the reference data?)" if len(shadows) < new - 1 else "are too few"
        raise _Unmeasurable(f"{len(shadows)} of {new - 1} shadows {why}, a null needs {MIN_SHADOWS}")
    used = [0, *shadows, new]
    if not np.isfinite(recognition[np.ix_(used, used)]).all():
        raise _Unmeasurable("a logit margin is not a finite number")
    scores = {}
    for direction, seen in zip(DIRECTIONS, (recognition, recognition.T), strict=True):
        effect = _effect(seen, new, shadows)
        null = np.array([_effect(seen, k, [s for s in shadows if s != k]) for k in shadows])
        if not (np.isfinite(effect) and np.isfinite(null).all()):
            raise _Unmeasurable("the shadows do not differ enough to hold the new model against them")
        scores[direction] = _Score(effect, null)
    return scores


def _effect(seen: NDArray[np.float64], candidate: int, shadows: list[int]) -> float:
    """A candidate successor's distance from the shadows' mean score, in their deviations; NaN where they all agree."""
    null = _figures(seen, shadows, shadows)
    centre, deviation = null.mean(axis=0), null.std(axis=0, ddof=1)
    if not (deviation > ROUNDING * np.abs(null).max(axis=0)).all():
        return np.nan
    spread = ((null - centre) / deviation).mean(axis=1).std(ddof=1)
    score = ((_figures(seen, [candidate], shadows)[0] - centre) / deviation).mean()
    return float(score / spread) if spread > ROUNDING else np.nan


def _figures(seen: NDArray[np.float64], candidates: list[int], shadows: list[int]) -> NDArray[np.float64]:
    """How each candidate sees the base, and the mean over the shadows other than itself: [candidates, 2]."""
    share = (np.array(candidates)[:, None] != np.array(shadows)).astype(float)
    means = (seen[np.ix_(candidates, shadows)] * share).sum(axis=1) / share.sum(axis=1)
    return np.stack([seen[candidates, 0], means], axis=1)


def _tested(index: int, name: str, scores: dict[str, _Score], tails: dict[str, Tail]) -> ClassVerdict:
    """The class with its p, in the direction that speaks more against the new model; not yet decided."""
    p_values = {d: tails[d].p_value(score.effect, len(score.null)) for d, score in scores.items()}
    direction = min(p_values, key=p_values.__getitem__)
    score = scores[direction]
    return ClassVerdict(
        index=index,
        name=name,
        verdict="inconclusive",
        effect=score.effect,
        interval=effect_interval(score.effect, len(score.null)),
        p_value=min(1.0, len(DIRECTIONS) * p_values[direction]),
        p_adjusted=None,
        reason=None,
        direction=direction,
        null=tuple(score.null.tolist()),
        signals={d: s.effect for d, s in scores.items()},
    )


def _p(finding: ClassVerdict) -> float:
    assert finding.p_value is not None
    return finding.p_value


def _decided(finding: ClassVerdict, p_adjusted: float, alpha: float, smallest: float) -> ClassVerdict:
    verdict, reason = "stable", None
    if p_adjusted <= alpha:
        verdict = "drift"
    elif smallest > MAX_SMALLEST_EFFECT:
        verdict = "inconclusive"
        reason = (
            f"{len(finding.null)} shadows can only be sure of effects beyond {smallest:.1f} null deviations at alpha "
            f"{alpha:g}, the limit is {MAX_SMALLEST_EFFECT:g}; train more shadows"
        )
    return replace(finding, verdict=verdict, p_adjusted=p_adjusted, reason=reason)


def _reasons(classes: Sequence[ClassVerdict]) -> tuple[str, ...]:
    """Why classes are inconclusive, those of the same reason together."""
    by_reason: dict[str, list[str]] = {}
    for c in classes:
        if c.reason is not None:
            by_reason.setdefault(c.reason, []).append(c.name)
    return tuple(
        f"{'class' if len(names) == 1 else 'classes'} {', '.join(names)}: {reason}"
        for reason, names in by_reason.items()
    )


def _same_function(recognition: NDArray[np.float64]) -> bool:
    """Whether the new model answers all gray data as the base does, its own included."""
    base, new = recognition[0], recognition[-1]
    return bool(np.isfinite(base).all() and np.allclose(base, new, rtol=SAME_ANSWERS, atol=SAME_ANSWERS))


def _unchanged(index: int, name: str, scores: dict[str, _Score]) -> ClassVerdict:
    direction = DIRECTIONS[0]
    null, signals = tuple(scores[direction].null.tolist()), dict.fromkeys(DIRECTIONS, 0.0)
    return ClassVerdict(index, name, "stable", 0.0, (0.0, 0.0), 1.0, 1.0, None, direction, null, signals)
