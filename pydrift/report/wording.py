"""The result in words and numbers, said the same way in HTML and on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydrift.drift.result import Baselines, DriftReport
    from pydrift.drift.verdict import ClassVerdict

NAME_LIMIT = 60  # characters of a class name that are shown
SYMBOL = {"stable": "●", "drift": "▲", "inconclusive": "◆"}  # a verdict is never told by colour alone
BENIGN = {"retrain": "benign retraining", "finetune": "benign fine-tuning"}
SHOWN_VIEWS = 3
NAMED_CLASSES = 4  # a headline names so many classes and counts the rest
NO_DATA = "not measured: no data given"
_HARDLY_KNOWN = 0.05  # of the base's own gray images: a fingerprint that knows no more of them takes none for its own


def printable(text: str, limit: int) -> str:
    """`text` in at most `limit` characters, with control, bidirectional and surrogate characters as visible escapes.

    Names come from files that others wrote: a terminal must not obey them, and a page must stay valid XML and UTF-8.
    """
    head = text[: limit + 1]  # an escape is never shorter than its character, so the rest could not be shown
    seen = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in head)
    return seen if len(seen) <= limit else seen[: limit - 3] + "..."


def by_p(report: DriftReport) -> list[ClassVerdict]:
    """The classes, smallest adjusted p first, untested ones last; ties by p, then by the effect, then by index."""

    def key(c: ClassVerdict) -> tuple[float, float, float, int]:
        last = float("inf")
        p, adjusted, effect = (last if v is None else v for v in (c.p_value, c.p_adjusted, c.effect))
        return adjusted, p, effect, c.index

    return sorted(report.classes, key=key)


def class_label(c: ClassVerdict) -> str:
    """`class 3 ("dress")`, or `class 3` where the name is only the number."""
    name = printable(c.name, NAME_LIMIT)
    return f"class {c.index}" if name == str(c.index) else f'class {c.index} ("{name}")'


def headline(report: DriftReport) -> str:
    """The verdict as one sentence."""
    if report.verdict == "stable":
        return f"Stable: no class's concept changed more than {BENIGN[report.null.update_mode]} changes it."
    if report.verdict == "inconclusive":
        return "Inconclusive: this audit can neither find nor rule out drift."
    drifted = [class_label(c) for c in by_p(report) if c.verdict == "drift"]
    if len(drifted) == 1:
        return f"Drift: the new model's concept of {drifted[0]} has changed."
    named, more = drifted[:NAMED_CLASSES], len(drifted) - NAMED_CLASSES
    listed = ", ".join(named) + (f" and {more} more" if more > 0 else "")
    return f"Drift: the new model's concept of {len(drifted)} classes has changed: {listed}."


def advice(report: DriftReport) -> str:
    """What the verdict means for the decision to promote the new model."""
    if report.verdict == "drift":
        return (
            "Before promoting, look at the named classes: at their gray images and at labelled examples. "
            "The audit says that a concept changed, not that it became worse: an intended change also reads as drift, "
            "and then calls for a new base model and a new calibration."
        )
    b = report.baselines
    if report.verdict == "stable" and _accuracy_fell(b, report.alpha):
        return (
            f"No class's concept changed beyond what benign retraining changes, but accuracy on {b.data} fell from "
            f"{_percent(b.accuracy_base)} to {_percent(b.accuracy_candidate)}: do not promote on this verdict alone."
        )
    if report.verdict == "stable":
        return (
            "This audit gives no reason to hold the new model back. It is not proof that nothing changed: "
            "see what this calibration can detect, and what the method cannot show."
        )
    return "This is neither a pass nor a failure. The reasons say what is missing; repeat the audit when it is there."


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
        return f"Test accuracy fell (p = {p_text(p)}): do not promote on this verdict alone."
    return f"Test accuracy differs {'(' if differs else 'no more than chance explains ('}p = {p_text(p)})."


def baseline_rows(b: Baselines) -> list[tuple[str, str]]:
    """Name and value of each figure a team would look at without pydrift, and of a fingerprint's where there is one."""
    weights = b.relative_weight_change
    rows = [
        ("accuracy, base model", _percent(b.accuracy_base)),
        ("accuracy, new model", _percent(b.accuracy_candidate)),
        ("p of the accuracy difference", NO_DATA if b.accuracy_p_value is None else p_text(b.accuracy_p_value)),
        ("disagreement of the two models", _percent(b.disagreement)),
        (
            "relative weight change",
            "not measured: the architectures differ" if weights is None else f"{weights:.3g}",
        ),
    ]
    if b.gray_known_base and b.gray_known_candidate:
        base, new = (sum(shares) / len(shares) for shares in (b.gray_known_base, b.gray_known_candidate))
        said = f"{_percent(base)} of the base's, {_percent(new)} of the new model's"
        if base <= _HARDLY_KNOWN:
            said += ": it hardly knows the base's own, so it says nothing about gray data"
        rows.append(("gray images that the base's fingerprint knows", said))
    return rows


def _percent(value: float | None) -> str:
    return NO_DATA if value is None else f"{100 * value:.2f} %"


def _accuracy_fell(b: Baselines, alpha: float) -> bool:
    """Whether the new model is less accurate than the base by more than chance explains."""
    if b.accuracy_base is None or b.accuracy_candidate is None or b.accuracy_p_value is None:
        return False
    return b.accuracy_candidate < b.accuracy_base and b.accuracy_p_value <= alpha


def p_text(p: float | None) -> str:
    return "n/a" if p is None else f"{p:.3g}"


def score_text(effect: float | None) -> str:
    """An effect with its sign, two decimals (three digits from a thousand on)."""
    if effect is None:
        return "n/a"
    if abs(effect) < 0.005:
        return "0.00"
    return f"{effect:+.2f}" if abs(effect) < 1000 else f"{effect:+.3g}"


def interval_text(interval: tuple[float, float] | None) -> str:
    return "n/a" if interval is None else f"{score_text(interval[0])} to {score_text(interval[1])}"


def size_found(power: Sequence[tuple[float, float]], chance: float) -> float | None:
    """The size of drift that a null finds with that chance, between the points of its power curve; None beyond them."""
    for (small, low), (large, high) in pairwise(power):
        if low <= chance <= high and low < high:
            return small + (large - small) * (chance - low) / (high - low)
    return None


def strongest_place(rows: Sequence[Sequence[float | None]]) -> str:
    """Where the residual of a view with places is largest, and how large."""
    at = {(y, x): value for y, row in enumerate(rows) for x, value in enumerate(row) if value is not None}
    if not at:
        return "nowhere"
    (y, x), value = max(at.items(), key=lambda item: abs(item[1]))
    down = ("top", "middle", "bottom")[min(2, 3 * y // len(rows))]
    across = ("left", "middle", "right")[min(2, 3 * x // len(rows[0]))]
    where = down if down == across else f"{down} {across}"
    return f"{score_text(value)} at the {where} (row {y + 1} of {len(rows)}, column {x + 1} of {len(rows[0])})"


def strongest_views(c: ClassVerdict) -> list[tuple[str, float]]:
    """The views (marks, shapes) that speak most against the new model, with the effect in each alone."""
    views = sorted(c.signals.items(), key=lambda item: (item[1], item[0]))[:SHOWN_VIEWS]
    return [(printable(name, NAME_LIMIT), effect) for name, effect in views]
