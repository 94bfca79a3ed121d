"""From what models say of images to a verdict per class. numpy and scipy only: nothing here knows what a model is.

The published sketch of the method fixes one thing: a changed recognition of gray data is drift. How much change is
too much is this module's own design:

1. A model is described by its *answers* to each of several *instruments*: log-odds of the classes, about gray data that
   were made of each class, about what small marks change, about images of no class. The K shadows' answers are a sample
   of what benign updates say. They vary, and mostly together: a longer training moves all log-odds at once.
2. So an answer is held against what the candidate's other answers to the same probe make one expect: its
   conditional residual under the shadows' covariance, shrunk as by Ledoit and Wolf. What the recipe explains drops out;
   what concerns a class stays. Each shadow is held against the others in the same way, by a mean and covariance that
   never saw it.
3. A class's *rms_residual* under an probe is the power mean of all residuals that involve it, as the class shown or as
   the class it is held against. Minus its logarithm, standardised by the shadows' own, says how much the new model is
   like an benign update, in null standard deviations; negative means less alike. A drift need not show under every
   probe, so the class's *drift_score* is that of the least alike, standardised once more by the shadows' own least.
4. The p of a class is the lower tail of a Student t whose degrees of freedom and scale are fitted to the shadows'
   leave-one-out drift_scores, all classes pooled: normal theory (K - 1 degrees of freedom, scale 1) is too optimistic where
   they have heavy tails, and their ranks alone cannot give a p below 1/(K + 1).
5. Over classes: Holm. Where an adjusted p is small, something has drifted. The other classes are stable if the null is
   tight enough to have shown a drift of MAX_SMALLEST_SCORE and made of STABLE_SHADOWS at least, else inconclusive.
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

from pydrift.drift.scores import ALL, PROBES, Responses, Score, Unmeasurable, measure_drift_scores, pair_residuals
from pydrift.stats.intervals import score_interval
from pydrift.stats.multiple_tests import holm
from pydrift.stats.tails import Tail, fit_tail

STABLE_SHADOWS = 12  # fewer can show a drift, but hardly ever do: their silence says nothing
MIN_CONFIDENCE = 0.5  # below this mean confidence an inversion has not shown what the class looks like
MAX_SMALLEST_SCORE = 8.0  # null deviations; a null that could only call larger drift_scores cannot vouch for stability
PARTNER = (
    2.5  # times as much rms_residual in a pair as in the median pair of a class, and the two have drifted together
)
STEP_DOWN_CLASSES = 3  # that are left at least: of two, each is only told from the other
NAMED_CLASSES = 4  # a reason names so many classes and counts the rest
POWER_POINTS = 41  # of the power curve, up to twice the smallest drift_score
STRANGE_BASE = 0.01  # a base whose p among its shadows is this low is not what they were trained to be like
SAME_ANSWERS = 1e-4  # models whose answers all agree to this (relative) are one function, rounding aside


@dataclass(frozen=True)
class ClassVerdict:
    """The finding for one class.

    drift_score     how much the new model is like an benign update in what concerns this class, in null standard
               deviations; 0 is the shadows' mean, negative is less alike
    interval   95 % confidence interval of the drift_score: how it would vary over other sets of K shadows that are asked
               about the same images, through the null's mean and deviation and through what each answer is expected
               to be. Near 0 it is wider than need be; of large drift_scores from a dozen shadows it is too narrow
    null       each shadow's own drift_score against the other shadows, the distribution that `drift_score` is held against
    signals    of each view, minus the log rms_residual in it alone in the shadows' deviations
    places     of each view of several places, the rows of the new model's residuals there, in null deviations (None
               where the shadows agree); only of a class that has drifted
    """

    index: int
    name: str
    verdict: str  # "stable" | "drift" | "inconclusive"
    drift_score: float | None
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
    smallest_score: float | None  # the least drift_score that this null calls drift at alpha
    reasons: tuple[str, ...]
    classes: tuple[ClassVerdict, ...]
    power: tuple[tuple[float, float], ...] = ()


def judge(
    shadows: Responses,
    new: Responses,
    base: Responses | None,
    confidence: NDArray[np.float64],
    class_names: Sequence[str],
    alpha: float,
    base_p_value: float | None = None,
) -> Verdict:
    """Judges a new model against the shadows.

    shadows     the K shadows' answers to some of PROBES, float64
    new         the new model's to the same
    base        the base's, in some views: a new model that gives the same ones is the same function; None: that is not
                asked
    confidence  float64 [classes]: the shadows' mean confidence in the gray data that they made of a class; below 0.5
                the class is inconclusive
    alpha       family-wise error level over the classes, in (0, 1)
    base_p_value  of the base as if it were a update; where it is STRANGE_BASE or less nothing can be concluded of
                any class, as the verdict's first reason says, except that a model is the base itself

    Deterministic. A permutation of the classes permutes the result.
    """
    names = list(enumerate(class_names))
    problems = {c: problem for c, _ in names if (problem := _problem(shadows, new, confidence, c)) is not None}
    classes = [c for c, _ in names if c not in problems]
    try:
        measured = measure_drift_scores(shadows, new, classes)
    except Unmeasurable as why:
        measured, problems = {}, {c: problems.get(c, str(why)) for c, _ in names}
    findings = {
        c: ClassVerdict(c, class_names[c], "inconclusive", None, None, None, None, why, (), {})
        for c, why in problems.items()
    }
    null = _Null.of(measured, alpha) if measured else None
    smallest, power = (None, ()) if null is None else (null.smallest, null.power())
    if base is not None and _same_function(base, new):
        reason = "the new model answers as the base does, up to rounding: taken for the same function"
        unchanged = tuple(_unchanged(c, name, measured.get(c)) for c, name in names)
        return Verdict("stable", 1.0, smallest, (reason,), unchanged, power)
    if null is not None:
        findings |= _tested_classes(shadows, new, measured, null, class_names, alpha)
    reasons: tuple[str, ...] = ()
    if base_p_value is not None and base_p_value <= STRANGE_BASE:
        findings = {c: replace(finding, verdict="inconclusive", places={}) for c, finding in findings.items()}
        reasons = (
            f"the base itself does not look like one of its shadows (p = {base_p_value:.2g}): it was trained "
            "otherwise, or on other data, than they were, and nothing can be concluded from them",
        )
    found = tuple(findings[c] for c in sorted(findings))
    p_value = min((c.p_adjusted for c in found if c.p_adjusted is not None), default=None)
    verdicts = {c.verdict for c in found}
    verdict = next(v for v in ("drift", "inconclusive", "stable") if v in verdicts)
    return Verdict(verdict, p_value, smallest, reasons + _reasons(found), found, power)


@dataclass(frozen=True)
class _Null:
    """What the shadows' own drift_scores say of one class's drift_score at a share of alpha."""

    tail: Tail
    level: float
    shadows: int

    @classmethod
    def of(cls, measured: dict[int, dict[str, Score]], alpha: float) -> _Null:
        nulls = [scores[ALL].null for scores in measured.values()]
        return cls(fit_tail(nulls), alpha / len(nulls), len(nulls[0]))

    @property
    def smallest(self) -> float:
        return self.tail.smallest_score(self.level, self.shadows)

    def power(self) -> tuple[tuple[float, float], ...]:
        sizes = np.linspace(0, 2 * self.smallest, POWER_POINTS)
        return tuple((float(size), self.tail.power(size, self.level, self.shadows)) for size in sizes)


def _tested_classes(
    shadows: Responses,
    new: Responses,
    measured: dict[int, dict[str, Score]],
    null: _Null,
    class_names: Sequence[str],
    alpha: float,
) -> dict[int, ClassVerdict]:
    """Steps 4 to 6, for the classes that were measured."""
    tested = {c: _tested(c, class_names[c], scores, null.tail) for c, scores in measured.items()}
    adjusted = dict(zip(tested, holm([_p(finding) for finding in tested.values()]), strict=True))
    differ = [c for c in tested if adjusted[c] <= alpha]
    named = _named(shadows, new, measured, differ, alpha) if differ else []
    apart = f"not seen to differ but in how it is told from what drifted ({_listed([class_names[c] for c in named])})"
    return {
        c: replace(finding, p_adjusted=adjusted[c], reason=apart)
        if c in differ and c not in named
        else _decided(finding, adjusted[c], alpha, null.smallest, measured[c])
        for c, finding in tested.items()
    }


def _problem(shadows: Responses, new: Responses, confidence: NDArray[np.float64], c: int) -> str | None:
    """Why a class has no drift_score."""
    if not confidence[c] >= MIN_CONFIDENCE:
        return (
            f"inversion found no image that the shadows take for it (mean confidence {confidence[c]:.2f}; does the "
            "reference data know it?)"
        )
    for side in (shadows, new):
        for name, views in side.items():
            about = np.s_[..., c, :] if PROBES[name].made_of else np.s_[..., c]
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
        drift_score=score.drift_score,
        interval=score_interval(score.drift_score, len(score.null), score.error),
        p_value=tail.p_value(score.drift_score, len(score.null)),
        p_adjusted=None,
        reason=None,
        null=tuple(score.null.tolist()),
        signals={name: s.drift_score for name, s in scores.items() if name != ALL},
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
    elif smallest > MAX_SMALLEST_SCORE:
        verdict = "inconclusive"
        reason = (
            f"{len(finding.null)} shadows can only be sure of drift_scores beyond {smallest:.1f} null deviations at alpha "
            f"{alpha:g}, the limit is {MAX_SMALLEST_SCORE:g}; train more shadows"
        )
    elif len(finding.null) < STABLE_SHADOWS:
        verdict = "inconclusive"
        reason = f"{len(finding.null)} shadows are too few to vouch for stability, it takes {STABLE_SHADOWS}"
    return replace(finding, verdict=verdict, p_adjusted=p_adjusted, reason=reason, places=places)


def _named(
    shadows: Responses, new: Responses, measured: dict[int, dict[str, Score]], differ: list[int], alpha: float
) -> list[int]:
    """Those of the classes that `differ` whose own concept has changed: see step 6."""
    named: list[int] = []
    left = list(measured)
    scores = {c: found[ALL] for c, found in measured.items()}
    while unexplained := [c for c in left if c in differ]:
        tail = fit_tail([score.null for score in scores.values()])
        p_values = {c: tail.p_value(scores[c].drift_score, len(scores[c].null)) for c in unexplained}
        worst = min(unexplained, key=lambda c: p_values[c])
        if named and p_values[worst] * len(left) > alpha:
            break
        named.append(worst)
        left.remove(worst)
        try:
            if len(left) < STEP_DOWN_CLASSES:
                raise Unmeasurable("too few classes are left")
            scores = {c: found[ALL] for c, found in measure_drift_scores(shadows, new, left, each_view=False).items()}
        except Unmeasurable:  # nobody can say what the rest would look like without it
            named += [c for c in left if c in differ]
            break
    classes = list(measured)
    rms_residuals = pair_residuals(shadows, new, classes)
    np.fill_diagonal(rms_residuals, np.nan)
    partners = []
    for of_pairs in (rms_residuals[classes.index(c)] for c in named):
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


def _same_function(base: Responses, new: Responses) -> bool:
    """Whether the new model answers as the base does."""
    return all(
        np.allclose(table, new[name][view], rtol=SAME_ANSWERS, atol=SAME_ANSWERS, equal_nan=True)
        for name, views in base.items()
        for view, table in views.items()
    )


def _unchanged(index: int, name: str, scores: dict[str, Score] | None) -> ClassVerdict:
    null = () if scores is None else tuple(scores[ALL].null.tolist())
    signals = {view: 0.0 for view in scores or {} if view != ALL}
    return ClassVerdict(index, name, "stable", 0.0, (0.0, 0.0), 1.0, 1.0, None, null, signals)
