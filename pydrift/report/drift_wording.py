"""A drift audit in words and numbers, the same in HTML and on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from pydrift.report.page import NAME_LIMIT, list_names, p_text, printable

if TYPE_CHECKING:
    from pydrift.drift.result import Baselines, DriftReport
    from pydrift.drift.verdict import ClassVerdict

RECIPES = {"same": "one recipe", "varied": "varied recipes"}
BENIGN = {"retrain": "benign retraining", "finetune": "benign fine-tuning"}
SHOWN_SIGNALS = 3
NAMED_CLASSES = 4  # a headline names so many classes and counts the rest
NO_DATA = "not measured: no data given"
_HARDLY_KNOWN = 0.05  # share of the base's own gray images; a fingerprint that knows no more says nothing about them


def by_p(report: DriftReport) -> list[ClassVerdict]:
    """The classes, smallest adjusted p first, untested ones last; ties by p, then the larger drift score first."""

    def key(c: ClassVerdict) -> tuple[float, float, float, int]:
        last = float("inf")
        p, adjusted = (last if p is None else p for p in (c.p_value, c.p_adjusted))
        return adjusted, p, last if c.drift_score is None else -c.drift_score, c.index

    return sorted(report.classes, key=key)


def class_label(c: ClassVerdict) -> str:
    """`class 3 ("dress")`, or `class 3` where the name is only the number."""
    name = printable(c.name, NAME_LIMIT)
    return f"class {c.index}" if name == str(c.index) else f'class {c.index} ("{name}")'


def headline(report: DriftReport) -> str:
    """The verdict as one sentence."""
    if report.verdict == "stable":
        told = f"Stable: no class's concept changed more than {BENIGN[report.null.update_mode]} changes it."
        return told + _unmeasured(sum(c.verdict == "unmeasured" for c in report.classes))
    if report.verdict == "inconclusive":
        return "Inconclusive: this audit can neither find nor rule out drift."
    drifted = [class_label(c) for c in by_p(report) if c.verdict == "drift"]
    if len(drifted) == 1:
        return f"Drift: the candidate's concept of {drifted[0]} has changed."
    listed = list_names(drifted, NAMED_CLASSES)
    return f"Drift: the candidate's concept of {len(drifted)} classes has changed: {listed}."


def _unmeasured(count: int) -> str:
    if count == 0:
        return ""
    return f" {count} {'class' if count == 1 else 'classes'} could not be measured."


def advice(report: DriftReport) -> str:
    """What the verdict means for the decision to promote the candidate."""
    if report.verdict == "drift":
        return (
            "Before you promote the candidate, look at the named classes: at their gray images and at labelled "
            "examples. The audit says that a concept changed. It does not say that the concept became worse. "
            "An intended change also reads as drift. It then needs a new base model and a new calibration."
        )
    b = report.baselines
    if report.verdict == "stable" and _accuracy_fell(b, report.alpha):
        return (
            "No class's concept changed more than benign models differ. "
            f"But accuracy on {b.data} fell from {_percent(b.accuracy_base)} to {_percent(b.accuracy_candidate)}: "
            "do not promote the candidate on this verdict alone."
        )
    if report.verdict == "stable":
        return (
            "This audit gives no reason to hold the candidate back. It is not proof that nothing changed. "
            "Below, see what this calibration can detect and what the method cannot show."
        )
    return "This is neither a pass nor a failure. The reasons say what is missing. Repeat the audit when it is there."


def accuracy_remark(report: DriftReport) -> str | None:
    """Whether test accuracy agrees with the verdict; None where it was not measured."""
    p = report.baselines.accuracy_p_value
    if p is None:
        return None
    differs = p <= report.alpha
    if report.verdict == "drift":
        return (
            "Test accuracy differs too."
            if differs
            else f"Test accuracy alone would not have shown this: its difference has p = {p_text(p)}."
        )
    if report.verdict == "stable" and _accuracy_fell(report.baselines, report.alpha):
        return f"Test accuracy fell (p = {p_text(p)}): do not promote the candidate on this verdict alone."
    return f"Test accuracy differs {'(' if differs else 'no more than chance explains ('}p = {p_text(p)})."


def baseline_rows(b: Baselines) -> list[tuple[str, str]]:
    """Name and value of each figure that a team would look at without pydrift, and of a fingerprint if there is one."""
    weights = b.relative_weight_change
    rows = [
        ("accuracy, base model", _percent(b.accuracy_base)),
        ("accuracy, candidate", _percent(b.accuracy_candidate)),
        ("p of the accuracy difference", NO_DATA if b.accuracy_p_value is None else p_text(b.accuracy_p_value)),
        ("disagreement of the two models", _percent(b.disagreement)),
        (
            "relative weight change",
            "not measured: the architectures differ" if weights is None else f"{weights:.3g}",
        ),
    ]
    if b.gray_known_base and b.gray_known_candidate:
        base, candidate = (sum(shares) / len(shares) for shares in (b.gray_known_base, b.gray_known_candidate))
        value = f"{_percent(base)} of the base's, {_percent(candidate)} of the candidate's"
        if base <= _HARDLY_KNOWN:
            value += ": it hardly knows the base's own, so it says nothing about gray data"
        rows.append(("gray images that the base's fingerprint knows", value))
    return rows


def _percent(value: float | None) -> str:
    return NO_DATA if value is None else f"{100 * value:.2f} %"


def _accuracy_fell(b: Baselines, alpha: float) -> bool:
    """Whether the candidate is less accurate than the base by more than chance explains."""
    if b.accuracy_base is None or b.accuracy_candidate is None or b.accuracy_p_value is None:
        return False
    return b.accuracy_candidate < b.accuracy_base and b.accuracy_p_value <= alpha


def score_text(drift_score: float | None) -> str:
    """A drift score with two decimals (three digits from a thousand on)."""
    if drift_score is None:
        return "n/a"
    if abs(drift_score) < 0.005:
        return "0.00"
    return f"{drift_score:.2f}" if abs(drift_score) < 1000 else f"{drift_score:.3g}"


def size_found(power: Sequence[tuple[float, float]], chance: float) -> float | None:
    """The size of drift that is found with that chance, between the points of a power curve; None beyond them."""
    for (small, low), (large, high) in pairwise(power):
        if low <= chance <= high and low < high:
            return small + (large - small) * (chance - low) / (high - low)
    return None


def strongest_place(rows: Sequence[Sequence[float | None]]) -> str:
    """Where the residual of a probe with places is largest, and how large."""
    at = {(y, x): value for y, row in enumerate(rows) for x, value in enumerate(row) if value is not None}
    if not at:
        return "nowhere"
    (y, x), value = max(at.items(), key=lambda item: abs(item[1]))
    down = ("top", "middle", "bottom")[min(2, 3 * y // len(rows))]
    across = ("left", "middle", "right")[min(2, 3 * x // len(rows[0]))]
    where = down if down == across else f"{down} {across}"
    sign = "+" if value > 0 else ""
    return f"{sign}{score_text(value)} at the {where} (row {y + 1} of {len(rows)}, column {x + 1} of {len(rows[0])})"


def strongest_signals(c: ClassVerdict) -> list[tuple[str, float]]:
    """The parts of the probes in which the candidate differs most from benign models, each with its drift score."""
    signals = sorted(c.signals.items(), key=lambda item: (-item[1], item[0]))[:SHOWN_SIGNALS]
    return [(printable(name, NAME_LIMIT), drift_score) for name, drift_score in signals]
