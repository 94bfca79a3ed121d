"""From the responses of models to a verdict per class. numpy and scipy only: nothing here knows what a model is.

The published sketch of the method fixes one thing: a changed recognition of gray data is drift. How much change is
too much is this module's own design:

1. A model is described by its *responses* to several *probes*: log-odds of the classes on gray data of each class, what
   small occlusions change, and log-odds on synthetic shapes. The responses of the K shadows are a sample of those of
   benign updates. They vary, and mostly together: a longer training moves all log-odds at once.
2. So each response is compared with what the candidate's other responses to the same probe predict. The difference is
   its conditional residual under the shadows' covariance, shrunk as by Ledoit and Wolf. The recipe explains what all
   responses share and drops out; what concerns one class stays. Each shadow is compared with the others in the same
   way, by a mean and a covariance that never saw it.
3. The power mean of all residuals that concern a class, standardised by the shadows' own, is the class's score under a
   probe. A drift need not show under every probe. So the class's *drift score* is the largest of them, standardised
   once more by the shadows' own largest. It is in null standard deviations; 0 is the shadows' mean, larger is more
   drift.
4. The p of a class is the upper tail of a Student t. Its degrees of freedom and scale are fitted to the shadows'
   leave-one-out scores, all classes pooled. Normal theory (K - 1 degrees of freedom, scale 1) is too optimistic where
   these have heavy tails, and their ranks alone cannot give a p below 1/(K + 1).
5. Over classes: Holm. Where an adjusted p is small, something has drifted. The other classes are stable if the null
   could have shown a drift of MAX_SMALLEST_SCORE and is made of at least STABLE_SHADOWS. Else they are inconclusive.
6. Every class is also told from the one that changed, so a large drift gives many classes a small p. The smallest p
   names its class. The others are then measured among each other alone, as if that class did not exist. This goes on
   until none of the rest differs, or too few are left. A class that differed before, but not so, is *related*: it
   differs only relative to the classes that drifted. It is named all the same if it stands out as the partner of a
   named class: where two classes have changed places, one without the other would leave nothing to see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pydrift.drift.scores import (
    ALL,
    PROBES,
    Responses,
    Score,
    Unmeasurable,
    measure_drift_scores,
    pair_residuals,
)
from pydrift.stats.intervals import score_interval
from pydrift.stats.multiple_tests import holm
from pydrift.stats.tails import Tail, fit_tail

STABLE_SHADOWS = 12  # fewer can show a drift, but hardly ever do: their silence says nothing
MIN_CONFIDENCE = 0.5  # below this mean confidence an inversion has not shown what the class looks like
MAX_SMALLEST_SCORE = 8.0  # null deviations; a null that can only find larger scores cannot vouch for stability
PARTNER = 2.5  # a pair with so many times the residual of a class's median pair has drifted together
STEP_DOWN_CLASSES = 3  # classes that must be left: of two, each is only told from the other
NAMED_CLASSES = 4  # a reason names so many classes and counts the rest
POWER_POINTS = 41  # of the power curve, up to twice the smallest score
STRANGE_BASE = 0.01  # a base whose p among its shadows is this low was not trained as they were
SAME_RESPONSES = 1e-4  # models whose responses all agree to this (relative) are one function, rounding aside


@dataclass(frozen=True)
class ClassVerdict:
    """The finding for one class.

    verdict      "stable", "drift", "related" (differs only relative to the classes that drifted) or "inconclusive"
    drift_score  how far the candidate departs in what concerns this class, in null standard deviations; 0 is the
                 shadows' mean, larger is more drift
    interval     95 % confidence interval of the drift score: how it would vary over other sets of K shadows that are
                 asked about the same images. Near 0 it is wider than it need be; for large scores from a dozen shadows
                 it is too narrow.
    p_value      of this class alone; p_adjusted: over all classes (Holm)
    null         each shadow's own score against the other shadows: what `drift_score` is compared with
    signals      of each variant of each probe, the drift score by it alone
    places       of each variant with places, rows of the candidate's residuals there, in null deviations (None where
                 the shadows agree); only of a class that has drifted
    """

    index: int
    name: str
    verdict: str
    drift_score: float | None
    interval: tuple[float, float] | None
    p_value: float | None
    p_adjusted: float | None
    reason: str | None
    null: tuple[float, ...]
    signals: dict[str, float]
    places: dict[str, tuple[tuple[float | None, ...], ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """The findings for all classes, and the verdict of the audit.

    verdict         "stable", "drift" or "inconclusive"
    p_value         the smallest adjusted p; None where no class could be tested
    smallest_score  the smallest drift score that this null calls drift at alpha; None without a null
    reasons         why, in words
    power           sizes of drift, in null deviations from 0 on, each with the chance that it is found in one class
    """

    verdict: str
    p_value: float | None
    smallest_score: float | None
    reasons: tuple[str, ...]
    classes: tuple[ClassVerdict, ...]
    power: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Evidence:
    """What a verdict is made from.

    shadows       the K shadows' responses to some of PROBES, float64, see pydrift.drift.scores.Responses
    candidate     the candidate's responses to the same
    confidence    float64 [classes]: the shadows' mean confidence in the gray data that they made of a class; below
                  MIN_CONFIDENCE the class is inconclusive
    class_names   one per class
    base          the base's responses to some of the variants: a candidate that gives the same ones is the same
                  function. None: this is not asked.
    base_p_value  p of the base as if it were a candidate. At STRANGE_BASE or below nothing can be concluded of any
                  class, except that a candidate is the base itself.
    """

    shadows: Responses
    candidate: Responses
    confidence: NDArray[np.float64]
    class_names: Sequence[str]
    base: Responses | None = None
    base_p_value: float | None = None


def decide(evidence: Evidence, alpha: float) -> Verdict:
    """The verdict on a candidate, at the family-wise error level `alpha` in (0, 1) over the classes.

    Deterministic. A permutation of the classes permutes the result.
    """
    names = list(enumerate(evidence.class_names))
    problems = {c: problem for c, _ in names if (problem := _find_problem(evidence, c)) is not None}
    try:
        measured = measure_drift_scores(
            evidence.shadows, evidence.candidate, [c for c, _ in names if c not in problems]
        )
    except Unmeasurable as why:
        measured, problems = {}, {c: problems.get(c, str(why)) for c, _ in names}
    null = _Null.of(measured, alpha) if measured else None
    smallest, power = (None, ()) if null is None else (null.smallest, null.power())
    if evidence.base is not None and _is_same_function(evidence.base, evidence.candidate):
        reason = "the candidate responds as the base does, up to rounding: taken for the same function"
        unchanged = tuple(_unchanged(c, name, measured.get(c)) for c, name in names)
        return Verdict("stable", 1.0, smallest, (reason,), unchanged, power)
    findings = {c: _untested(c, evidence.class_names[c], why) for c, why in problems.items()}
    if null is not None:
        findings |= _test_classes(evidence, measured, null, alpha)
    reasons: tuple[str, ...] = ()
    if evidence.base_p_value is not None and evidence.base_p_value <= STRANGE_BASE:
        findings = {c: replace(finding, verdict="inconclusive", places={}) for c, finding in findings.items()}
        reasons = (
            f"the base itself does not resemble its shadows (p = {evidence.base_p_value:.2g}): it was trained in "
            "another way or on other data, so nothing can be concluded from them",
        )
    found = tuple(findings[c] for c in sorted(findings))
    p_value = min((c.p_adjusted for c in found if c.p_adjusted is not None), default=None)
    verdicts = {c.verdict for c in found}
    verdict = next(v for v in ("drift", "inconclusive", "stable") if v in verdicts)
    return Verdict(verdict, p_value, smallest, reasons + _list_reasons(found), found, power)


@dataclass(frozen=True)
class _Null:
    """The null distribution of one class's score, at its share of alpha."""

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


def _test_classes(
    evidence: Evidence, measured: dict[int, dict[str, Score]], null: _Null, alpha: float
) -> dict[int, ClassVerdict]:
    """Steps 4 to 6, for the classes that were measured."""
    names = evidence.class_names
    tested = {c: _test(c, names[c], scores, null.tail) for c, scores in measured.items()}
    adjusted = dict(zip(tested, holm([_p_of(finding) for finding in tested.values()]), strict=True))
    differ = [c for c in tested if adjusted[c] <= alpha]
    named = _name_drifted(evidence, measured, differ, alpha) if differ else []
    related = f"differs only relative to the classes that drifted ({_listed([names[c] for c in named])})"
    return {
        c: replace(finding, verdict="related", p_adjusted=adjusted[c], reason=related)
        if c in differ and c not in named
        else _decide_class(finding, adjusted[c], alpha, null.smallest, measured[c])
        for c, finding in tested.items()
    }


def _find_problem(evidence: Evidence, c: int) -> str | None:
    """Why a class has no drift score."""
    confidence = evidence.confidence[c]
    if not confidence >= MIN_CONFIDENCE:
        return (
            f"inversion found no image that the shadows take for it (mean confidence {confidence:.2f}; does the "
            "reference data have this class?)"
        )
    for side in (evidence.shadows, evidence.candidate):
        for name, variants in side.items():
            about = np.s_[..., c, :] if PROBES[name].per_class else np.s_[..., c]
            if not all(np.isfinite(table[about]).all() for table in variants.values()):
                return "a log-odds is not a finite number"
    return None


def _untested(index: int, name: str, why: str) -> ClassVerdict:
    return ClassVerdict(index, name, "inconclusive", None, None, None, None, why, (), {})


def _test(index: int, name: str, scores: dict[str, Score], tail: Tail) -> ClassVerdict:
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


def _p_of(finding: ClassVerdict) -> float:
    assert finding.p_value is not None
    return finding.p_value


def _decide_class(
    finding: ClassVerdict, p_adjusted: float, alpha: float, smallest: float, scores: dict[str, Score]
) -> ClassVerdict:
    verdict, reason, places = "stable", None, {}
    if p_adjusted <= alpha:
        verdict = "drift"
        places = {name: _rows(score.places) for name, score in scores.items() if score.places is not None}
    elif smallest > MAX_SMALLEST_SCORE:
        verdict = "inconclusive"
        reason = (
            f"with {len(finding.null)} shadows only drift scores above {smallest:.1f} are found at alpha {alpha:g}; "
            f"the limit is {MAX_SMALLEST_SCORE:g}; train more shadows"
        )
    elif len(finding.null) < STABLE_SHADOWS:
        verdict = "inconclusive"
        reason = f"{len(finding.null)} shadows are too few to vouch for stability; it takes {STABLE_SHADOWS}"
    return replace(finding, verdict=verdict, p_adjusted=p_adjusted, reason=reason, places=places)


def _name_drifted(
    evidence: Evidence, measured: dict[int, dict[str, Score]], differ: list[int], alpha: float
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
            again = measure_drift_scores(evidence.shadows, evidence.candidate, left, each_variant=False)
        except Unmeasurable:  # nobody can say what the rest would look like without it
            named += [c for c in left if c in differ]
            break
        scores = {c: found[ALL] for c, found in again.items()}
    partners = _find_partners(evidence, list(measured), named)
    return sorted({*named, *(c for c in partners if c in differ)})


def _find_partners(evidence: Evidence, classes: list[int], named: list[int]) -> list[int]:
    """The classes that stand out in a pair with a named one."""
    residuals = pair_residuals(evidence.shadows, evidence.candidate, classes)
    np.fill_diagonal(residuals, np.nan)
    partners = []
    for of_pairs in (residuals[classes.index(c)] for c in named):
        if np.isfinite(of_pairs).any() and np.nanmax(of_pairs) > PARTNER * np.nanmedian(of_pairs):
            partners.append(classes[int(np.nanargmax(of_pairs))])
    return partners


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED_CLASSES]) + (f" and {len(names) - NAMED_CLASSES} more" * (len(names) > NAMED_CLASSES))


def _rows(residuals: NDArray[np.float64]) -> tuple[tuple[float | None, ...], ...]:
    return tuple(tuple(None if np.isnan(value) else float(value) for value in row) for row in residuals)


def _list_reasons(classes: Sequence[ClassVerdict]) -> tuple[str, ...]:
    """The reasons of the classes, those of the same reason together."""
    by_reason: dict[str, list[str]] = {}
    for c in classes:
        if c.reason is not None:
            by_reason.setdefault(c.reason, []).append(c.name)
    return tuple(
        f"class {names[0]}: {reason}"
        if len(names) == 1
        else f"classes {', '.join(names)}: {reason.replace('differs', 'differ', 1)}"
        for reason, names in by_reason.items()
    )


def _is_same_function(base: Responses, candidate: Responses) -> bool:
    """Whether the candidate responds as the base does."""
    return all(
        np.allclose(table, candidate[probe][name], rtol=SAME_RESPONSES, atol=SAME_RESPONSES, equal_nan=True)
        for probe, variants in base.items()
        for name, table in variants.items()
    )


def _unchanged(index: int, name: str, scores: dict[str, Score] | None) -> ClassVerdict:
    null = () if scores is None else tuple(scores[ALL].null.tolist())
    signals = {variant: 0.0 for variant in scores or {} if variant != ALL}
    return ClassVerdict(index, name, "stable", 0.0, (0.0, 0.0), 1.0, 1.0, None, null, signals)
