"""From recognition measurements to a verdict per class. numpy and scipy only: nothing here knows what a model is.

The published sketch of the method fixes one thing: a changed recognition of gray data is drift. How much change is
too much is this module's own design:

1. For each model M that could be the base's successor (the new model and every shadow) and each class, four figures:
   how the base recognises M's gray data, how M recognises the base's, how the (other) shadows recognise M's gray data,
   and how M recognises theirs.
2. Each figure is standardised by its mean and deviation over the shadows; their average is M's recognition score.
3. The shadows' own scores are the null distribution. The new model's distance from their mean, in their standard
   deviations, is the class's *effect*; negative means recognised worse than a benign successor.
4. p is the lower tail of a Student t. Its degrees of freedom and scale are fitted to the shadows' leave-one-out
   prediction residuals, pooled over the classes: normal theory (K - 1 degrees of freedom, scale 1) is too optimistic
   where the shadows' scores have heavy tails, and the ranks of K = 16 shadows cannot give a p below 1/17.
5. Over classes: Holm. A class with a small adjusted p has drifted. The others are stable if the null is tight enough to
   have shown a drift of MAX_SMALLEST_EFFECT, else inconclusive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

MIN_SHADOWS = 3  # a leave-one-out residual needs two others
MIN_CONFIDENCE = 0.5  # below this mean own confidence an inversion has not shown what the class looks like
MAX_SMALLEST_EFFECT = 8.0  # null deviations; a null that could only call larger effects cannot vouch for stability
SAME_ANSWERS = 1e-4  # models whose mean margins all agree to this (relative) are one function, rounding aside

DIRECTIONS = ("base_sees_new", "new_sees_base", "shadows_see_new", "new_sees_shadows")


@dataclass(frozen=True)
class ClassVerdict:
    """The finding for one class.

    effect    distance of the new model from the null mean, in null standard deviations; negative = recognised worse
    interval  95 % confidence interval of the effect
    null      each shadow's own standardised score, the distribution that `effect` is held against
    signals   each of DIRECTIONS alone, in null standard deviations: who recognises whom less
    """

    index: int
    name: str
    verdict: str  # "stable" | "drift" | "inconclusive"
    effect: float | None
    interval: tuple[float, float] | None
    p_value: float | None
    p_adjusted: float | None
    reason: str | None
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
    classes = [_measured(recognition[..., c], confidence[:, c], c, name) for c, name in enumerate(class_names)]
    measured = [c for c in classes if c.effect is not None]
    if not measured:
        return Verdict("inconclusive", None, None, _reasons(classes), tuple(classes))
    tail = fit_tail([np.asarray(c.null) for c in measured])
    smallest = max(tail.smallest_effect(alpha / len(measured), len(c.null)) for c in measured)
    if _same_function(recognition):
        same = [_unchanged(c) if c.effect is not None else c for c in classes]
        reason = "the new model answers all gray data exactly as the base does: it is the same function"
        return Verdict("stable", 1.0, smallest, (reason,), tuple(same))
    p_values = [tail.p_value(c.effect, len(c.null)) for c in measured if c.effect is not None]
    for finding, p_value, p_adjusted in zip(measured, p_values, holm(p_values), strict=True):
        classes[finding.index] = _decided(finding, p_value, p_adjusted, alpha, smallest)
    verdicts = {c.verdict for c in classes}
    verdict = next(v for v in ("drift", "inconclusive", "stable") if v in verdicts)
    return Verdict(verdict, min(holm(p_values)), smallest, _reasons(classes), tuple(classes))


def fit_tail(null: Sequence[NDArray[np.float64]]) -> Tail:
    """Maximum-likelihood Student t of the leave-one-out prediction residuals, pooled over classes.

    null  one array of K standardised scores per class. Degrees of freedom are kept in [1, K - 1], the scale at 1 or
          above: pooling may only make the test more careful than normal theory, never less.
    """
    residuals = np.concatenate([prediction_residuals(scores) for scores in null])
    most = max(len(scores) for scores in null) - 1

    def cost(parameters: NDArray[np.float64]) -> float:
        degrees, scale = np.exp(parameters)
        return float(-stats.t.logpdf(residuals / scale, degrees).sum() + len(residuals) * np.log(scale))

    bounds = [(0.0, np.log(most)), (0.0, np.log(10.0))]
    fitted = optimize.minimize(cost, [np.log(most) / 2, 0.1], method="Nelder-Mead", bounds=bounds)
    degrees, scale = np.exp(fitted.x)
    return Tail(float(degrees), float(scale))


def prediction_residuals(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each score's distance from the mean of the others, in units of its standard error as a new observation: [K].

    Under normal theory each is a Student t with K - 2 degrees of freedom.
    """
    count = len(scores)
    others = np.stack([np.delete(scores, k) for k in range(count)])  # [K, K - 1]
    error = others.std(axis=1, ddof=1) * np.sqrt(1 + 1 / (count - 1))
    return np.asarray((scores - others.mean(axis=1)) / np.maximum(error, np.finfo(float).tiny))


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

    The large-sample variance of a standardised difference, 1/K + d^2 / (2 (K - 1)) (Hedges and Olkin 1985).
    """
    half = stats.norm.isf((1 - level) / 2) * np.sqrt(1 / shadows + effect**2 / (2 * (shadows - 1)))
    return float(effect - half), float(effect + half)


def _measured(recognition: NDArray[np.float64], confidence: NDArray[np.float64], index: int, name: str) -> ClassVerdict:
    """Effect and null of one class (recognition [models, models]), or why there is none; not yet judged."""

    def impossible(reason: str) -> ClassVerdict:
        return ClassVerdict(index, name, "inconclusive", None, None, None, None, reason, (), {})

    new = len(confidence) - 1
    for model, who in ((0, "base"), (new, "new model")):
        if not confidence[model] >= MIN_CONFIDENCE:
            return impossible(
                f"inversion found no image that the {who} takes for it (mean confidence {confidence[model]:.2f})"
            )
    shadows = [k for k in range(1, new) if confidence[k] >= MIN_CONFIDENCE]
    if len(shadows) < MIN_SHADOWS:
        return impossible(f"{len(shadows)} usable shadows, {MIN_SHADOWS} are needed for any null")
    used = [0, *shadows, new]
    if not np.isfinite(recognition[np.ix_(used, used)]).all():
        return impossible("a logit margin is not a finite number")
    null = np.stack([_directions(recognition, k, [s for s in shadows if s != k]) for k in shadows])  # [K, 4]
    deviation = null.std(axis=0, ddof=1)
    if not (deviation > 0).all():
        return impossible("the shadows do not differ at all, so there is nothing to hold the new model against")
    standard = (null - null.mean(axis=0)) / deviation
    observed = (_directions(recognition, new, shadows) - null.mean(axis=0)) / deviation
    scores, score = standard.mean(axis=1), observed.mean()
    spread = scores.std(ddof=1)
    if not spread > 0:
        return impossible("the shadows' scores do not differ, so there is nothing to hold the new model against")
    effect = float((score - scores.mean()) / spread)
    return ClassVerdict(
        index=index,
        name=name,
        verdict="inconclusive",
        effect=effect,
        interval=effect_interval(effect, len(shadows)),
        p_value=None,
        p_adjusted=None,
        reason=None,
        null=tuple(((scores - scores.mean()) / spread).tolist()),
        signals=dict(zip(DIRECTIONS, observed.tolist(), strict=True)),
    )


def _directions(recognition: NDArray[np.float64], model: int, shadows: list[int]) -> NDArray[np.float64]:
    """DIRECTIONS for one candidate successor: [4]."""
    return np.array(
        [
            recognition[0, model],
            recognition[model, 0],
            recognition[shadows, model].mean(),
            recognition[model, shadows].mean(),
        ]
    )


def _decided(finding: ClassVerdict, p_value: float, p_adjusted: float, alpha: float, smallest: float) -> ClassVerdict:
    verdict, reason = "stable", None
    if p_adjusted <= alpha:
        verdict = "drift"
    elif smallest > MAX_SMALLEST_EFFECT:
        verdict = "inconclusive"
        reason = (
            f"{len(finding.null)} shadows can only be sure of effects beyond {smallest:.1f} null deviations at alpha "
            f"{alpha:g}, the limit is {MAX_SMALLEST_EFFECT:g}; train more shadows"
        )
    return replace(finding, verdict=verdict, p_value=p_value, p_adjusted=p_adjusted, reason=reason)


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


def _unchanged(finding: ClassVerdict) -> ClassVerdict:
    signals = dict.fromkeys(DIRECTIONS, 0.0)
    return replace(
        finding, verdict="stable", effect=0.0, interval=(0.0, 0.0), p_value=1.0, p_adjusted=1.0, signals=signals
    )
