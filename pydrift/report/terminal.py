"""The result on a terminal, or as plain text where there is none."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pydrift.report.wording import (
    accuracy_remark,
    baseline_rows,
    by_p,
    headline,
    interval_text,
    p_text,
    printable,
    score_text,
)

if TYPE_CHECKING:
    from pydrift.drift.result import DriftReport

ROWS = 12  # classes listed; the rest are counted
STYLE = {"stable": "blue", "drift": "red", "inconclusive": "yellow"}


def literal(console: Console, words: str, style: str = "", limit: int = 2000) -> Text:
    """`words` as they are, in what the console's encoding can say."""
    seen = printable(words, limit)
    return Text(seen.encode(console.encoding, "backslashreplace").decode(console.encoding), style=style)


def render_terminal(report: DriftReport, console: Console) -> None:
    """Prints verdict, reasons, the classes by adjusted p, and the baselines to `console`.

    Every text is printed literally: names are neither markup nor control sequences, and what the console's
    encoding cannot say is escaped.
    """

    text = partial(literal, console)

    def line(words: str, style: str = "") -> None:
        console.print(text(words, style), soft_wrap=True)

    line(headline(report), f"bold {STYLE[report.verdict]}")
    for reason in report.reasons:
        line(f"  - {reason}")

    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in ("class", "effect", "95 % interval", "p", "adjusted p"):
        table.add_column(name, justify="left" if name == "class" else "right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    classes = by_p(report)
    for c in classes[:ROWS]:
        table.add_row(
            text(f"{c.index}" if c.name == str(c.index) else f"{c.index} {c.name}", limit=24),
            text(score_text(c.effect)),
            text(interval_text(c.interval)),
            text(p_text(c.p_value)),
            text(p_text(c.p_adjusted)),
            text(c.verdict, STYLE[c.verdict]),
        )
    console.print(table)
    if len(classes) > ROWS:
        line(f"and {len(classes) - ROWS} more classes, none with a smaller adjusted p")

    smallest = report.null.smallest_score
    line(
        f"null: {report.null.shadows} {report.null.update_mode} shadows, alpha {report.alpha:g}, smallest detectable effect "
        + ("not determined" if smallest is None else f"{abs(smallest):.2f}")
    )
    for name, value in baseline_rows(report.baselines):
        line(f"{name}: {value}")
    remark = accuracy_remark(report)
    if remark:
        line(remark)
