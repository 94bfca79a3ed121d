"""From the responses of models to a verdict per class. numpy and scipy only: nothing here knows what a model is.

The published sketch of the method fixes one thing: a changed recognition of gray data is drift. How much change is
too much is this module's own design:

1. A model is described by its *responses* to several *probes*: log-odds of the classes on gray data of each class, what
   small occlusions change, and log-odds on synthetic shapes. The responses of the K shadows are a sample of those of
   benign updates. They vary, and mostly together: a longer training moves all log-odds at once.
2. The candidate joins the shadows, and from here on all K + 1 models are treated alike. Each response is compared with
   what the model's other responses to the same probe predict, by the mean and the covariance of the other models. The
   difference is its conditional residual. What all responses share, as a changed recipe does, drops out; what concerns
   one class stays.
3. The power mean of all residuals that concern a class, standardised by those of the other models, is the class's score
   under a probe. A drift need not show under every probe: the class's *drift score* is their soft maximum, standardised
   once more. It is in null standard deviations; 0 is the mean, larger is more drift. Where the shadows' recipes vary,
   what a model shows in all classes alike is taken out first.
4. One test decides: the largest score of the candidate among the K largest scores of the shadows, by its rank, or
   beyond the ranks by a tail that is fitted to them (pydrift.stats.conformal). Each shadow counts once. The adjusted p
   of a class is the p of its score among the same K, so the smallest adjusted p is that of the test, and the chance of
   any false alarm is alpha (a single-step maximum test: Westfall and Young, "Resampling-Based Multiple Testing", 1993).
5. Absolute checks come before "stable": the candidate recognises each class (pydrift.drift.soundness), and a planted
   exchange of two classes would be found at this alpha (pydrift.drift.exchange). Of a candidate whose recipe nobody
   stated, what it shows in all classes together must lie within the shadows' range. If it does not, the recipe is
   outside what was calibrated: that is inconclusive, unless a class stands out even more, or surely (STANDS_OUT). Far
   outside (TOO_FAR), no candidate is stable.
6. Every class is also told from the one that changed, so a large drift gives many classes a small p. The largest score
   names its class. The others are then measured among each other alone, as if that class did not exist. This goes on
   until none of the rest differs by a share of the first (NAMED_SHARE), or too few are left. A class that differed
   before, but not so, is *related*: it differs less, and perhaps only relative to the classes that drifted. It is named
   all the same if it stands out as the partner of a named class: where two classes have changed places, one without the
   other would leave nothing to see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pydrift.drift.scores import PROBES, DriftScores, Responses, Unmeasurable, measure_drift_scores
from pydrift.drift.soundness import Recognised, find_unrecognised
from pydrift.stats.conformal import ConformalNull

CLASS_VERDICTS = ("drift", "related", "inconclusive", "unmeasured", "stable")
STABLE_SHADOWS = 12  # fewer can show a drift, but hardly ever do: their silence says nothing
MIN_CONFIDENCE = 0.5  # below this mean confidence an inversion has not shown what the class looks like
FOUND_EXCHANGES = 0.8  # share of the planted exchanges that a null must find to vouch for stability
OUTSIDE = 0.05  # p of the level of all classes together, at which a recipe is outside what was calibrated
STANDS_OUT = 1e-3  # p of a class, at which it has drifted whatever the level says
TOO_FAR = 1e-3  # p of that level, at which no candidate is stable, whatever its recipe
MEASURED_SHARE = 0.5  # of the classes that must have been measured for an audit to be stable
NAMED_SHARE = 0.6  # of the first named class's score, that another one must have among those that are left
PARTNER = 2.5  # a pair with so many times the residual of a class's median pair has drifted together
STEP_DOWN_CLASSES = 3  # classes that must be left: of two, each is only told from the other
NAMED_CLASSES = 4  # a reason names so many classes and counts the rest
POWER_POINTS = 41  # of the power curve, up to twice the smallest score
STRANGE_BASE = 0.01  # a base whose p among its shadows is this low was not trained as they were
SAME_RESPONSES = 1e-4  # models whose responses all agree to this (relative) are one function, rounding aside


@dataclass(frozen=True)
class ClassVerdict:
    """The finding for one class.

    verdict      "stable", "drift", "related" (differs less, and perhaps only relative to the classes that drifted),
                 "inconclusive", or "unmeasured" (the shadows cannot show what the class looks like)
    drift_score  how far the candidate departs in what concerns this class, in null standard deviations; 0 is the mean,
                 larger is more drift
    p_value      of this class alone; p_adjusted: over all classes
    null         each shadow's own score, measured as the candidate's
    signals      of each variant of each probe, the drift score by it alone
    places       of each variant with places, rows of the candidate's residuals there, in null deviations (None where
                 the shadows agree); only of a class that has drifted
    """

    index: int
    name: str
    verdict: str
    drift_score: float | None
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

    shadows         the K shadows' responses to some of PROBES, see pydrift.drift.scores.Responses
    candidate       the candidate's responses to the same
    confidence      float64 [classes]: the shadows' mean confidence in the gray data that they made of a class; below
                    MIN_CONFIDENCE the class is not measured
    class_names     one per class
    base            the base's responses to some of the variants: a candidate that gives the same ones is the same
                    function. None: this is not asked.
    base_p_value    p of the base as if it were a candidate. At STRANGE_BASE or below nothing can be concluded of any
                    class, except that a candidate is the base itself.
    recognition     how surely candidate and shadows recognise the classes, see pydrift.drift.soundness; a class that
                    the candidate does not recognise is never stable
    varied          whether the shadows' recipes vary; else all were trained as the candidate was
    recipe_known    whether the candidate's recipe is known to lie among the shadows'. Else its level is looked at, but
                    only where the shadows' recipes vary: where they do not, a changed recipe reads as drift.
    recipe_problem  why nothing can be concluded from these shadows about the candidate's recipe; None: nothing speaks
                    against it
    exchanges       p of planted exchanges (pydrift.drift.exchange); None: this is not asked
    """

    shadows: Responses
    candidate: Responses
    confidence: NDArray[np.float64]
    class_names: Sequence[str]
    base: Responses | None = None
    base_p_value: float | None = None
    recognition: Mapping[str, Recognised] = field(default_factory=dict)
    varied: bool = False
    recipe_known: bool = True
    recipe_problem: str | None = None
    exchanges: Sequence[float] | None = None


def decide(evidence: Evidence, alpha: float) -> Verdict:
    """The verdict on a candidate, at the family-wise error level `alpha` in (0, 1) over the classes.

    Deterministic. A permutation of the classes permutes the result.
    """
    names = list(enumerate(evidence.class_names))
    problems = find_unmeasurable(evidence.shadows, evidence.confidence)
    infinite = _find_infinite(evidence.candidate, "the candidate")
    broken, problems = infinite.keys() - problems.keys(), infinite | problems
    measured: DriftScores | None = None
    try:
        some = [c for c, _ in names if c not in problems]
        measured = measure_drift_scores(evidence.shadows, evidence.candidate, some, evidence.varied)
    except Unmeasurable as why:
        problems = {c: problems.get(c, str(why)) for c, _ in names}
    smallest, power = (None, ()) if measured is None else _describe_null(measured, alpha)
    if evidence.base is not None and _is_same_function(evidence.base, evidence.candidate):
        reason = "the candidate responds as the base does, up to rounding: taken for the same function"
        unchanged = tuple(_unchanged(c, name, measured) for c, name in names)
        return Verdict("stable", 1.0, smallest, (reason,), unchanged, power)
    findings = {
        c: ClassVerdict(c, names[c][1], "inconclusive" if c in broken else "unmeasured", None, None, None, why, (), {})
        for c, why in problems.items()
    }
    reasons: tuple[str, ...] = ()
    if measured is not None:
        findings |= _test_classes(evidence, measured, alpha)
        findings, reasons = _hold_back(evidence, measured, findings, alpha)
    found = tuple(findings[c] for c in sorted(findings))
    p_value = min((c.p_adjusted for c in found if c.p_adjusted is not None), default=None)
    return Verdict(
        verdict_of_classes([c.verdict for c in found]), p_value, smallest, reasons + _list_reasons(found), found, power
    )


def verdict_of_classes(verdicts: Sequence[str]) -> str:
    """The verdict of an audit, from those of its classes."""
    found = next((verdict for verdict in ("drift", "inconclusive") if verdict in verdicts), "stable")
    too_few = verdicts.count("unmeasured") > (1 - MEASURED_SHARE) * len(verdicts)
    return "inconclusive" if found == "stable" and too_few else found


def find_unmeasurable(shadows: Responses, confidence: NDArray[np.float64]) -> dict[int, str]:
    """The classes of which these shadows can say nothing, each with the reason; see Evidence for the arguments."""
    unknown = {
        int(c): (
            f"inversion found no image that the shadows take for it (mean confidence {confidence[c]:.2f}; does the "
            "reference data have this class?)"
        )
        for c in np.flatnonzero(~(confidence >= MIN_CONFIDENCE))
    }
    return _find_infinite(shadows, "a shadow") | unknown


def _find_infinite(responses: Responses, whose: str) -> dict[int, str]:
    found = set()
    for probe, variants in responses.items():
        axis = -2 if PROBES[probe].per_class else -1
        for table in variants.values():
            finite = np.isfinite(table).all(axis=tuple(i for i in range(table.ndim) if i != table.ndim + axis))
            found.update(np.flatnonzero(~finite).tolist())
    return dict.fromkeys(sorted(found), f"a log-odds of {whose} is not a finite number")


def _describe_null(measured: DriftScores, alpha: float) -> tuple[float, tuple[tuple[float, float], ...]]:
    """The smallest score that is found, and the chance that a drift in one class is, against its size."""
    smallest = ConformalNull(measured.largest[:-1]).smallest_score(alpha)
    benign = measured.scores[:-1]
    sizes = np.linspace(0, 2 * max(smallest, 0.0), POWER_POINTS)
    return smallest, tuple((float(size), float((benign + size > smallest).mean())) for size in sizes)


def _test_classes(evidence: Evidence, measured: DriftScores, alpha: float) -> dict[int, ClassVerdict]:
    """Steps 4 and 6, for the classes that were measured."""
    names, null = evidence.class_names, ConformalNull(measured.largest[:-1])
    tested = {c: _test(c, names[c], measured, i, null) for i, c in enumerate(measured.classes)}
    differ = [c for c, finding in tested.items() if _adjusted(finding) <= alpha]
    named = _name_drifted(evidence, measured, differ, alpha) if differ else []
    related = (
        f"differs less, and perhaps only relative to the classes that drifted ({_listed([names[c] for c in named])})"
    )
    for c in differ:
        if c in named:
            places = {name: _rows(table[..., c]) for name, table in measured.places.items()}
            tested[c] = replace(tested[c], verdict="drift", places=places)
        else:
            tested[c] = replace(tested[c], verdict="related", reason=related)
    return tested


def _test(index: int, name: str, measured: DriftScores, i: int, null: ConformalNull) -> ClassVerdict:
    """The class with its p; not yet decided."""
    own, score = measured.scores[:-1, i], float(measured.scores[-1, i])
    adjusted = null.p_value(score)
    return ClassVerdict(
        index=index,
        name=name,
        verdict="stable",
        drift_score=score,
        p_value=min(ConformalNull(own).p_value(score), adjusted),  # the tail of one class may be the wider one
        p_adjusted=adjusted,
        reason=None,
        null=tuple(own.tolist()),
        signals={variant: float(scores[i]) for variant, scores in measured.variants.items()},
    )


def _adjusted(finding: ClassVerdict) -> float:
    assert finding.p_adjusted is not None
    return finding.p_adjusted


def _hold_back(
    evidence: Evidence, measured: DriftScores, findings: dict[int, ClassVerdict], alpha: float
) -> tuple[dict[int, ClassVerdict], tuple[str, ...]]:
    """Step 5: the findings that these shadows cannot vouch for become inconclusive; and why all do, if they do."""
    unsound = _distrust(evidence, measured, findings)
    if unsound is not None:
        tested = {c: replace(findings[c], verdict="inconclusive", reason=None, places={}) for c in measured.classes}
        return findings | tested, (unsound,)
    weak = _find_excess(measured) or _find_weakness(evidence, len(measured.largest) - 1, alpha)
    unrecognised = find_unrecognised(evidence.recognition)
    for c in measured.classes:
        reason = unrecognised.get(c, weak if findings[c].verdict == "stable" else None)
        if reason is not None and findings[c].verdict != "drift":
            findings[c] = replace(findings[c], verdict="inconclusive", reason=reason)
    return findings, ()


def _distrust(evidence: Evidence, measured: DriftScores, findings: dict[int, ClassVerdict]) -> str | None:
    """Why nothing can be concluded of any class from these shadows."""
    if evidence.base_p_value is not None and evidence.base_p_value <= STRANGE_BASE:
        return (
            f"the base itself does not resemble its shadows (p = {evidence.base_p_value:.2g}): it was trained in "
            "another way or on other data, so nothing can be concluded from them"
        )
    if evidence.recipe_problem is not None:
        return evidence.recipe_problem
    if not evidence.varied or evidence.recipe_known:
        return None
    level = _level_p_value(measured)
    smallest = min(_adjusted(findings[c]) for c in measured.classes)
    if level > OUTSIDE or smallest < level or smallest <= STANDS_OUT:
        return None
    return (
        f"the recipe is outside what was calibrated: the candidate departs in all classes together (p = {level:.2g}) "
        "and in none of them more than that; state its recipe, or calibrate by it"
    )


def _level_p_value(measured: DriftScores) -> float:
    return ConformalNull(measured.level[:-1]).p_value(float(measured.level[-1]))


def _find_excess(measured: DriftScores) -> str | None:
    """Why the candidate is not stable although no class stands out.

    The residuals forgive what lies along the axes in which shadows vary, however far; the level does not.
    """
    level = _level_p_value(measured)
    if level > TOO_FAR:
        return None
    return f"the candidate departs in all classes together as no benign model does (p = {level:.2g})"


def _find_weakness(evidence: Evidence, shadows: int, alpha: float) -> str | None:
    """Why these shadows cannot vouch for stability."""
    if shadows < STABLE_SHADOWS:
        return f"{shadows} shadows are too few to vouch for stability; it takes {STABLE_SHADOWS}"
    if evidence.exchanges is None:
        return None
    found = float(np.mean([p <= alpha for p in evidence.exchanges])) if len(evidence.exchanges) else 0.0
    if found >= FOUND_EXCHANGES:
        return None
    return (
        f"with {shadows} shadows at alpha {alpha:g}, a planted exchange of two classes is found in {found:.0%} of the "
        f"trials, and it takes {FOUND_EXCHANGES:.0%} to vouch for stability; train more shadows"
    )


def _name_drifted(evidence: Evidence, measured: DriftScores, differ: list[int], alpha: float) -> list[int]:
    """Those of the classes that `differ` whose own concept has changed: see step 6."""
    named: list[int] = []
    now, first = measured, 0.0
    while unexplained := [c for c in now.classes if c in differ]:
        scores = dict(zip(now.classes, now.scores[-1].tolist(), strict=True))
        worst = max(unexplained, key=lambda c: scores[c])
        far = not named or scores[worst] >= NAMED_SHARE * first
        if not far or ConformalNull(now.largest[:-1]).p_value(scores[worst]) > alpha:
            break
        first = first if named else scores[worst]
        named.append(worst)
        left = [c for c in now.classes if c != worst]
        try:
            if len(left) < STEP_DOWN_CLASSES:
                raise Unmeasurable("too few classes are left")
            now = measure_drift_scores(evidence.shadows, evidence.candidate, left, evidence.varied, each_variant=False)
        except Unmeasurable:  # nobody can say what the rest would look like without it
            named += [c for c in left if c in differ]
            break
    return sorted({*named, *(c for c in _find_partners(measured, named) if c in differ)})


def _find_partners(measured: DriftScores, named: list[int]) -> list[int]:
    """The classes that stand out in a pair with a named one."""
    residuals = measured.pairs.copy()
    np.fill_diagonal(residuals, np.nan)
    partners = []
    for of_pairs in (residuals[measured.classes.index(c)] for c in named):
        if np.isfinite(of_pairs).any() and np.nanmax(of_pairs) > PARTNER * np.nanmedian(of_pairs):
            partners.append(measured.classes[int(np.nanargmax(of_pairs))])
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


def _unchanged(index: int, name: str, measured: DriftScores | None) -> ClassVerdict:
    null: tuple[float, ...] = ()
    signals: dict[str, float] = {}
    if measured is not None and index in measured.classes:
        null = tuple(measured.scores[:-1, measured.classes.index(index)].tolist())
        signals = dict.fromkeys(measured.variants, 0.0)
    return ClassVerdict(index, name, "stable", 0.0, 1.0, 1.0, None, null, signals)
