"""From what models say of images to a verdict per class. numpy and scipy only: nothing here knows what a model is.

The published sketch of the method fixes one thing: a changed recognition of gray data is drift. How much change is
too much is this module's own design:

1. A model is described by its *answers* to each of several *instruments*: log-odds of the classes, about gray data that
   were made of each class, about what small marks change, about images of no class. The K shadows' answers are a sample
   of what honest successors say. They vary, and mostly together: a longer training moves all log-odds at once.
2. So an answer is held against what the candidate's other answers to the same instrument make one expect: its
   conditional residual under the shadows' covariance, shrunk as by Ledoit and Wolf. What the recipe explains drops out;
   what concerns a class stays. Each shadow is held against the others in the same way, by a mean and covariance that
   never saw it.
3. A class's *strain* under an instrument is the power mean of all residuals that involve it, as the class shown or as
   the class it is held against. Minus its logarithm, standardised by the shadows' own, says how much the new model is
   like an honest successor, in null standard deviations; negative means less alike. A drift need not show under every
   instrument, so the class's *effect* is that of the least alike, standardised once more by the shadows' own least.
4. The p of a class is the lower tail of a Student t whose degrees of freedom and scale are fitted to the shadows'
   leave-one-out effects, all classes pooled: normal theory (K - 1 degrees of freedom, scale 1) is too optimistic where
   they have heavy tails, and their ranks alone cannot give a p below 1/(K + 1).
5. Over classes: Holm. Where an adjusted p is small, something has drifted. The other classes are stable if the null is
   tight enough to have shown a drift of MAX_SMALLEST_EFFECT and made of STABLE_SHADOWS at least, else inconclusive.
6. Every class has pairs with the one that changed, so a large drift gives many a small p. The smallest names its class.
   The others are then asked about each other alone, as if that class were not there, and so on until none of those that
   are left is seen to differ, or too few are left to tell. What differed before, but not so, is inconclusive, unless it
   stands out as the partner of a named one: where two classes have changed places, one without the other would leave
   nothing to see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from pydrift.likeness import ALL, INSTRUMENTS, Answers, Score, Unmeasurable, measure_effects, strained_pairs

STABLE_SHADOWS = 12  # fewer can show a drift, but hardly ever do: their silence says nothing
MIN_CONFIDENCE = 0.5  # below this mean confidence an inversion has not shown what the class looks like
MAX_SMALLEST_EFFECT = 8.0  # null deviations; a null that could only call larger effects cannot vouch for stability
PARTNER = 2.5  # times as much strain in a pair as in the median pair of a class, and the two have drifted together
STEP_DOWN_CLASSES = 3  # that are left at least: of two, each is only told from the other
NAMED_CLASSES = 4  # a reason names so many classes and counts the rest
POWER_POINTS = 41  # of the power curve, up to twice the smallest effect
SAME_ANSWERS = 1e-4  # models whose answers all agree to this (relative) are one function, rounding aside


@dataclass(frozen=True)
class ClassVerdict:
    """The finding for one class.

    effect     how much the new model is like an honest successor in what concerns this class, in null standard
               deviations; 0 is the shadows' mean, negative is less alike
    interval   95 % confidence interval of the effect
    null       each shadow's own effect against the other shadows, the distribution that `effect` is held against
    signals    of each view, minus the log strain in it alone in the shadows' deviations
    places     of each view of several places, the rows of the new model's residuals there, in null deviations (None
               where the shadows agree); only of a class that has drifted
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
    places: dict[str, tuple[tuple[float | None, ...], ...]] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> ClassVerdict:
        interval = None if raw["interval"] is None else (raw["interval"][0], raw["interval"][1])
        places = {view: tuple(map(tuple, rows)) for view, rows in raw.get("places", {}).items()}
        if any(len({len(row) for row in rows}) != 1 for rows in places.values()):
            raise ValueError("the rows of a table of places are not of one length")
        return cls(**{**raw, "interval": interval, "null": tuple(raw["null"]), "places": places})


@dataclass(frozen=True)
class Verdict:
    """verdict "stable" | "drift" | "inconclusive"; p_value the smallest adjusted one; reasons in words.

    power  sizes of drift, in null deviations from 0 on, each with the chance that this null finds one class of it
    """

    verdict: str
    p_value: float | None
    smallest_effect: float | None  # the least effect that this null calls drift at alpha
    reasons: tuple[str, ...]
    classes: tuple[ClassVerdict, ...]
    power: tuple[tuple[float, float], ...] = ()


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

    def power(self, size: float, level: float, shadows: int) -> float:
        """P(a drift has a p of `level` or less) if it takes `size` off the effect that an honest successor would have
        had."""
        beyond = size - self.smallest_effect(level, shadows)
        return float(stats.t.cdf(beyond / self.scale / np.sqrt(1 + 1 / shadows), self.degrees))


def judge(
    shadows: Answers,
    new: Answers,
    base: Answers | None,
    confidence: NDArray[np.float64],
    class_names: Sequence[str],
    alpha: float,
) -> Verdict:
    """Judges a new model against the shadows.

    shadows     the K shadows' answers to some of INSTRUMENTS, float64
    new         the new model's to the same
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
        measured = measure_effects(shadows, new, classes)
    except Unmeasurable as why:
        measured, problems = {}, {c: problems.get(c, str(why)) for c, _ in names}
    findings = {
        c: ClassVerdict(c, class_names[c], "inconclusive", None, None, None, None, why, (), {})
        for c, why in problems.items()
    }
    smallest: float | None = None
    power: tuple[tuple[float, float], ...] = ()
    if measured:
        tail = fit_tail([scores[ALL].null for scores in measured.values()])
        count = len(measured[classes[0]][ALL].null)
        level = alpha / len(measured)
        smallest = tail.smallest_effect(level, count)
        sizes = np.linspace(0, 2 * smallest, POWER_POINTS)
        power = tuple((float(size), tail.power(size, level, count)) for size in sizes)
        if base is not None and _same_function(base, new, classes):
            reason = "the new model answers as the base does, up to rounding: taken for the same function"
            findings |= {c: _unchanged(c, class_names[c], scores) for c, scores in measured.items()}
            return Verdict("stable", 1.0, smallest, (reason,), tuple(findings[c] for c in sorted(findings)), power)
        tested = {c: _tested(c, class_names[c], scores, tail) for c, scores in measured.items()}
        adjusted = dict(zip(tested, holm([_p(finding) for finding in tested.values()]), strict=True))
        differ = [c for c in tested if adjusted[c] <= alpha]
        named = _named(shadows, new, measured, differ, alpha) if differ else []
        apart = (
            f"not seen to differ but in how it is told from what drifted ({_listed([class_names[c] for c in named])})"
        )
        for c, finding in tested.items():
            if c in differ and c not in named:
                findings[c] = replace(finding, p_adjusted=adjusted[c], reason=apart)
            else:
                findings[c] = _decided(finding, adjusted[c], alpha, smallest, measured[c])
    found = tuple(findings[c] for c in sorted(findings))
    p_value = min((c.p_adjusted for c in found if c.p_adjusted is not None), default=None)
    verdicts = {c.verdict for c in found}
    verdict = next(v for v in ("drift", "inconclusive", "stable") if v in verdicts)
    return Verdict(verdict, p_value, smallest, _reasons(found), found, power)


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

    def cost(parameters: NDArray[np.float64]) -> tuple[float, list[float]]:
        """Minus the log-likelihood of log degrees and log scale, and its gradient: by differences it would be too
        coarse, and the order of the classes be seen in p."""
        degrees, scale = np.exp(parameters)
        square = (residuals / scale) ** 2
        pull = (degrees + 1) * square / (degrees + square)
        of_degrees = special.digamma((degrees + 1) / 2) - special.digamma(degrees / 2) - 1 / degrees
        slope = (np.log1p(square / degrees) - pull / degrees - of_degrees).sum() * degrees / 2
        likelihood = stats.t.logpdf(residuals / scale, degrees).sum() - len(residuals) * np.log(scale)
        return -float(likelihood), [float(slope), float((1 - pull).sum())]

    bounds = [(0.0, np.log(most)), (0.0, np.log(10.0))]
    tight = {"ftol": 1e-15, "gtol": 1e-9}
    # Not Nelder-Mead: its simplex collapses on the bounds, where the best parameters often lie.
    fitted = optimize.minimize(cost, [np.log(most) / 2, 0.1], method="L-BFGS-B", jac=True, bounds=bounds, options=tight)
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


def _problem(shadows: Answers, new: Answers, confidence: NDArray[np.float64], c: int) -> str | None:
    """Why a class has no effect."""
    if not confidence[c] >= MIN_CONFIDENCE:
        return (
            f"inversion found no image that the shadows take for it (mean confidence {confidence[c]:.2f}; does the "
            "reference data know it?)"
        )
    for side in (shadows, new):
        for name, views in side.items():
            about = np.s_[..., c, :] if INSTRUMENTS[name].made_of else np.s_[..., c]
            if not all(np.isfinite(table[about]).all() for table in views.values()):
                return "a log-odds is not a finite number"
    return None


def _tested(index: int, name: str, scores: dict[str, Score], tail: Tail) -> ClassVerdict:
    """The class with its p; not yet decided."""
    score = scores[ALL]
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
        signals={name: s.effect for name, s in scores.items() if name != ALL},
    )


def _p(finding: ClassVerdict) -> float:
    assert finding.p_value is not None
    return finding.p_value


def _decided(
    finding: ClassVerdict, p_adjusted: float, alpha: float, smallest: float, scores: dict[str, Score]
) -> ClassVerdict:
    verdict, reason, places = "stable", None, {}
    if p_adjusted <= alpha:
        verdict = "drift"
        places = {view: _rows(score.places) for view, score in scores.items() if score.places is not None}
    elif smallest > MAX_SMALLEST_EFFECT:
        verdict = "inconclusive"
        reason = (
            f"{len(finding.null)} shadows can only be sure of effects beyond {smallest:.1f} null deviations at alpha "
            f"{alpha:g}, the limit is {MAX_SMALLEST_EFFECT:g}; train more shadows"
        )
    elif len(finding.null) < STABLE_SHADOWS:
        verdict = "inconclusive"
        reason = f"{len(finding.null)} shadows are too few to vouch for stability, it takes {STABLE_SHADOWS}"
    return replace(finding, verdict=verdict, p_adjusted=p_adjusted, reason=reason, places=places)


def _named(
    shadows: Answers, new: Answers, measured: dict[int, dict[str, Score]], differ: list[int], alpha: float
) -> list[int]:
    """Those of the classes that `differ` whose own concept has changed: see step 6."""
    named: list[int] = []
    left = list(measured)
    scores = {c: found[ALL] for c, found in measured.items()}
    while unexplained := [c for c in left if c in differ]:
        tail = fit_tail([score.null for score in scores.values()])
        p_values = {c: tail.p_value(scores[c].effect, len(scores[c].null)) for c in unexplained}
        worst = min(unexplained, key=lambda c: p_values[c])
        if named and p_values[worst] * len(left) > alpha:
            break
        named.append(worst)
        left.remove(worst)
        try:
            if len(left) < STEP_DOWN_CLASSES:
                raise Unmeasurable("too few classes are left")
            scores = {c: found[ALL] for c, found in measure_effects(shadows, new, left, each_view=False).items()}
        except Unmeasurable:  # nobody can say what the rest would look like without it
            named += [c for c in left if c in differ]
            break
    classes = list(measured)
    strains = strained_pairs(shadows, new, classes)
    np.fill_diagonal(strains, np.nan)
    partners = []
    for of_pairs in (strains[classes.index(c)] for c in named):
        if np.isfinite(of_pairs).any() and np.nanmax(of_pairs) > PARTNER * np.nanmedian(of_pairs):
            partners.append(classes[int(np.nanargmax(of_pairs))])
    return sorted({*named, *(c for c in partners if c in differ)})


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED_CLASSES]) + (f" and {len(names) - NAMED_CLASSES} more" * (len(names) > NAMED_CLASSES))


def _rows(residuals: NDArray[np.float64]) -> tuple[tuple[float | None, ...], ...]:
    return tuple(tuple(None if np.isnan(value) else float(value) for value in row) for row in residuals)


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
    """Whether the new model answers as the base does."""
    for name, views in base.items():
        for view, table in views.items():
            some = np.ix_(classes, classes) if INSTRUMENTS[name].made_of else np.s_[..., classes]
            if not np.allclose(table[some], new[name][view][some], rtol=SAME_ANSWERS, atol=SAME_ANSWERS):
                return False
    return True


def _unchanged(index: int, name: str, scores: dict[str, Score]) -> ClassVerdict:
    null, signals = tuple(scores[ALL].null.tolist()), {view: 0.0 for view in scores if view != ALL}
    return ClassVerdict(index, name, "stable", 0.0, (0.0, 0.0), 1.0, 1.0, None, null, signals)
