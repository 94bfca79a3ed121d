"""From what models say of gray data to a verdict per class. numpy and scipy only: nothing here knows what a model is.

The published sketch of the method fixes one thing: a changed recognition of gray data is drift. How much change is
too much is this module's own design:

1. A model is described by its *answers*: for each view of the gray data, each class c that the images were made of and
   each other class d, the mean log-odds of c against d. The K shadows' answers are a sample of what honest successors
   say. They vary, and mostly together: a longer training or smoothed labels moves all log-odds at once.
2. So an answer is held against what the candidate's other answers make one expect: its conditional residual under the
   shadows' covariance, shrunk as by Ledoit and Wolf. What the recipe explains drops out; what concerns a pair of
   classes stays. Each shadow is held against the others in the same way, by a mean and covariance that never saw it.
3. A class's *strain* is the root mean square of all residuals that involve it, as the class shown or as the class it
   is held against. Its *effect* is minus the logarithm of the strain, standardised by the shadows' own: how much the
   new model is like an honest successor, in null standard deviations; negative means less alike.
4. The p of a class is the lower tail of a Student t whose degrees of freedom and scale are fitted to the shadows'
   leave-one-out effects, all classes pooled: normal theory (K - 1 degrees of freedom, scale 1) is too optimistic where
   they have heavy tails, and their ranks alone cannot give a p below 1/(K + 1).
5. Over classes: Holm. A class with a small adjusted p has drifted. The others are stable if the null is tight enough to
   have shown a drift of MAX_SMALLEST_EFFECT, else inconclusive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

MIN_SHADOWS = 4  # each is held against the others, and two say next to nothing about a third
MIN_CONFIDENCE = 0.5  # below this mean confidence an inversion has not shown what the class looks like
MAX_SMALLEST_EFFECT = 8.0  # null deviations; a null that could only call larger effects cannot vouch for stability
ROUNDING = 1e-9  # figures that differ by less, relatively, do not differ
SAME_ANSWERS = 1e-4  # models whose answers all agree to this (relative) are one function, rounding aside

Answers = Mapping[str, NDArray[np.float64]]
"""Of one model: for each view [classes, classes], the mean log-odds of the class shown (first) against each class (the
diagonal does not count). Of several models: [models, classes, classes]."""


@dataclass(frozen=True)
class ClassVerdict:
    """The finding for one class.

    effect     how much the new model is like an honest successor in what concerns this class, in null standard
               deviations; 0 is the shadows' mean, negative is less alike
    interval   95 % confidence interval of the effect
    null       each shadow's own effect against the other shadows, the distribution that `effect` is held against
    signals    the effect in each view alone
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
    shadows: Answers,
    new: Answers,
    base: Answers | None,
    confidence: NDArray[np.float64],
    class_names: Sequence[str],
    alpha: float,
) -> Verdict:
    """Judges a new model against the shadows.

    shadows     of each view float64 [K, classes, classes]: the shadows' answers
    new         of each view float64 [classes, classes]: the new model's
    base        the base's, in some views: a new model that gives the same ones is the same function; None: that is not
                asked
    confidence  float64 [classes]: the shadows' mean confidence in the gray data that they made of a class; below 0.5
                the class is inconclusive
    alpha       family-wise error level over the classes, in (0, 1)

    Deterministic. A permutation of the classes permutes the result.
    """
    names = list(enumerate(class_names))
    problems = {c: problem for c, _ in names if (problem := _problem(shadows, new, confidence, c)) is not None}
    classes = [c for c, _ in names if c not in problems]
    try:
        measured = _effects(shadows, new, classes)
    except _Unmeasurable as why:
        measured, problems = {}, {c: problems.get(c, str(why)) for c, _ in names}
    findings = {
        c: ClassVerdict(c, class_names[c], "inconclusive", None, None, None, None, why, (), {})
        for c, why in problems.items()
    }
    smallest = None
    if measured:
        tail = fit_tail([scores[_ALL].null for scores in measured.values()])
        count = len(measured[classes[0]][_ALL].null)
        smallest = tail.smallest_effect(alpha / len(measured), count)
        if base is not None and _same_function(base, new, classes):
            reason = "the new model answers all gray data as the base does, up to rounding: taken for the same function"
            findings |= {c: _unchanged(c, class_names[c], scores) for c, scores in measured.items()}
            return Verdict("stable", 1.0, smallest, (reason,), tuple(findings[c] for c in sorted(findings)))
        tested = {c: _tested(c, class_names[c], scores, tail) for c, scores in measured.items()}
        adjusted = holm([_p(finding) for finding in tested.values()])
        for (c, finding), p_adjusted in zip(tested.items(), adjusted, strict=True):
            findings[c] = _decided(finding, p_adjusted, alpha, smallest)
    found = tuple(findings[c] for c in sorted(findings))
    p_value = min((c.p_adjusted for c in found if c.p_adjusted is not None), default=None)
    verdicts = {c.verdict for c in found}
    verdict = next(v for v in ("drift", "inconclusive", "stable") if v in verdicts)
    return Verdict(verdict, p_value, smallest, _reasons(found), found)


def alpha_of_release(alpha: float, release: int) -> float:
    """The level of the n-th audit of a series that is to stay below `alpha` as a whole, however long it gets.

    alpha * 6 / (pi^2 n^2), which sums to alpha over all n: Bonferroni, so valid for any dependence between the
    audits. `release` counts from 1.
    """
    return alpha * 6 / (np.pi * release) ** 2


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
    """Why no class has an effect."""


_ALL = ""  # all views together


@dataclass(frozen=True)
class _Score:
    effect: float
    null: NDArray[np.float64]  # [K]


def _problem(shadows: Answers, new: Answers, confidence: NDArray[np.float64], c: int) -> str | None:
    """Why a class has no effect."""
    if not confidence[c] >= MIN_CONFIDENCE:
        return (
            f"inversion found no image that the shadows take for it (mean confidence {confidence[c]:.2f}; does the "
            "reference data know it?)"
        )
    if not all(np.isfinite(answers[..., c, :]).all() for side in (shadows, new) for answers in side.values()):
        return "a log-odds is not a finite number"
    return None


def _effects(shadows: Answers, new: Answers, classes: list[int]) -> dict[int, dict[str, _Score]]:
    """Effect and null of each class, of all views together (_ALL) and of each one."""
    pairs = [(c, d) for c in classes for d in classes if c != d]
    if not pairs:
        raise _Unmeasurable("no other class could be measured")
    count = len(next(iter(shadows.values())))
    if count < MIN_SHADOWS:
        raise _Unmeasurable(f"{count} shadows are too few, a null needs {MIN_SHADOWS}")
    shown, against = (np.array(side) for side in zip(*pairs, strict=True))
    null = np.concatenate([answers[:, shown, against] for answers in shadows.values()], axis=1)
    seen = np.concatenate([answers[shown, against] for answers in new.values()])
    view = np.repeat(list(shadows), len(pairs))
    varies = null.std(axis=0, ddof=1) > ROUNDING * np.abs(null).max(axis=0)
    if not varies.any():
        raise _Unmeasurable("the shadows do not differ enough to hold the new model against them")
    of_shadows, of_new = _residuals(null[:, varies], seen[varies])
    view, shown, against = view[varies], *(np.tile(side, len(shadows))[varies] for side in (shown, against))
    concerned = np.stack([(shown == c) | (against == c) for c in classes])  # [classes, E]
    scores: dict[int, dict[str, _Score]] = {c: {} for c in classes}
    for name in (_ALL, *shadows):
        some = concerned if name == _ALL else concerned & (view == name)
        if some.any(axis=1).all():
            effects, null_effects = _standardised(_log_strain(of_shadows, some), _log_strain(of_new[None], some)[0])
            for i, c in enumerate(classes):
                scores[c][name] = _Score(float(effects[i]), null_effects[:, i])
    return scores


def _log_strain(residuals: NDArray[np.float64], concerned: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Each class's log strain [models, classes], from residuals [models, E] and which concern it [classes, E]."""
    mean_square = residuals**2 @ concerned.T / concerned.sum(axis=1)
    return np.log(np.maximum(np.sqrt(mean_square), ROUNDING))


def _standardised(
    shadows: NDArray[np.float64], new: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Effects of the new model [classes], and of each shadow against the others [K, classes], from log strains."""
    held_out = [_effect(np.delete(shadows, k, axis=0), own) for k, own in enumerate(shadows)]
    return _effect(shadows, new), np.stack(held_out)


def _effect(sample: NDArray[np.float64], strain: NDArray[np.float64]) -> NDArray[np.float64]:
    variance = sample.var(axis=0, ddof=1)
    return (sample.mean(axis=0) - strain) / np.maximum(_unit(variance), ROUNDING)


def _residuals(null: NDArray[np.float64], new: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Conditional residuals of each shadow given the others [K, E], and of the new model given all of them [E].

    In units of the others' leave-one-out residuals of the same answer.
    """
    held_out = np.stack([_residual(np.delete(null, k, axis=0), null[k]) for k in range(len(null))])
    total = (held_out**2).sum(axis=0)
    # Without a shadow's own: a deviation that counts in its own unit looks smaller than it is.
    scaled = [row / _unit((total - row**2) / (len(held_out) - 1)) for row in held_out]
    return np.stack(scaled), _residual(null, new) / _unit(total / len(held_out))


def _unit(variance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Deviations, of variances that too few values give: each is averaged with the mean of all."""
    return np.sqrt((variance + variance.mean()) / 2)


def _residual(sample: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each entry of x [E] lies from what its other entries predict, up to a factor common to all of them.

    With P the inverse of the sample's [K, E] covariance, shrunk towards the identity by the intensity of Ledoit and
    Wolf ("A well-conditioned estimator for large-dimensional covariance matrices", Journal of Multivariate Analysis 88,
    2004) after each entry was standardised: (P x)_i / sqrt(P_ii), the deviation from the conditional mean in
    conditional standard deviations. E may be far larger than K: nothing of size E x E is formed.
    """
    deviation = sample.std(axis=0, ddof=1)
    deviation = np.maximum(deviation, ROUNDING * np.abs(sample).max(axis=0) + np.finfo(float).tiny)
    z, y = ((values - sample.mean(axis=0)) / deviation for values in (sample, x))
    shrinkage = shrinkage_intensity(z)
    _, singular, axes = np.linalg.svd(z, full_matrices=False)
    variance = (1 - shrinkage) * singular**2 / (len(z) - 1)
    gain = variance / (variance + shrinkage)  # how much of an axis the other entries explain
    return (y - (gain * (axes @ y)) @ axes) / np.sqrt(1 - gain @ axes**2)


def shrinkage_intensity(z: NDArray[np.float64]) -> float:
    """Ledoit and Wolf's weight of the identity for the covariance of centred rows z [K, E], in (0, 1].

    Computed from the K x K products of the rows.
    """
    count, entries = z.shape
    gram = z @ z.T
    mean_variance = np.trace(gram) / count / entries
    square = (gram**2).sum() / count**2
    distance = square - entries * mean_variance**2
    error = ((np.diag(gram) ** 2).sum() / count - square) / count
    return float(np.clip(error / distance, 1e-6, 1.0)) if distance > 0 else 1.0


def _tested(index: int, name: str, scores: dict[str, _Score], tail: Tail) -> ClassVerdict:
    """The class with its p; not yet decided."""
    score = scores[_ALL]
    return ClassVerdict(
        index=index,
        name=name,
        verdict="inconclusive",
        effect=score.effect,
        interval=effect_interval(score.effect, len(score.null)),
        p_value=tail.p_value(score.effect, len(score.null)),
        p_adjusted=None,
        reason=None,
        null=tuple(score.null.tolist()),
        signals={name: s.effect for name, s in scores.items() if name != _ALL},
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


def _same_function(base: Answers, new: Answers, classes: list[int]) -> bool:
    """Whether the new model answers all gray data as the base does."""
    some = np.ix_(classes, classes)
    return all(np.allclose(base[v][some], new[v][some], rtol=SAME_ANSWERS, atol=SAME_ANSWERS) for v in base)


def _unchanged(index: int, name: str, scores: dict[str, _Score]) -> ClassVerdict:
    null, signals = tuple(scores[_ALL].null.tolist()), {view: 0.0 for view in scores if view != _ALL}
    return ClassVerdict(index, name, "stable", 0.0, (0.0, 0.0), 1.0, 1.0, None, null, signals)
