"""The report of an ownership audit: one HTML page, and a table on the terminal."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pydrift.report import figures
from pydrift.report.page import (
    NAME_LIMIT,
    TABLE_ROWS,
    flat_settings,
    list_names,
    p_text,
    printable,
    render_page,
)
from pydrift.report.terminal import STYLE, literal, print_line

if TYPE_CHECKING:
    from pydrift.ownership import OwnershipReport, SuspectResult

DRAWN = 20  # suspects in the figure of benign models; also figures of p against samples
NAMED = 4  # a headline names so many suspects and counts the rest
CELL_LIMIT = 24  # characters of a name in the table on the terminal
# A verdict has the symbol and the colour of the drift audit's verdict that is as grave.
TONE = {"stolen": "drift", "independent": "stable", "inconclusive": "inconclusive"}


def render_ownership_html(report: OwnershipReport) -> str:
    """The report as one well-formed HTML document (it also parses as XML), the same text for the same report."""
    suspects = by_p(report)
    drawn = [(str(n), TONE[s.verdict], s.knowledge, s.needed) for n, s in enumerate(suspects[:DRAWN], start=1)]
    least = 1 / (report.null.independents + 1)
    return render_page(
        "ownership.html.j2",
        report=report,
        headline=headline(report),
        tone=TONE,
        meaning=meaning,
        suspects=suspects,
        table_rows=suspects[:TABLE_ROWS],
        benign=figures.knowledge_figure(
            report.null.knowledge_widened,
            [*drawn, ("victim", "", report.victim.knowledge, report.victim.needed)],
        ),
        drawn=len(drawn),
        spread=spread(report),
        curves=[
            (name, figures.p_curve(one.by_samples, least, report.alpha))
            for name, one in [
                *((f"{n} {s.name}", s) for n, s in enumerate(suspects[:DRAWN], start=1)),
                ("the victim itself", report.victim),
            ]
            if one.by_samples
        ],
        settings=flat_settings(report.provenance.settings),
    )


def render_ownership_terminal(report: OwnershipReport, console: Console) -> None:
    """Prints the verdict, the reasons, a line for each suspect and one for the victim; every text literally."""
    line = partial(print_line, console)
    line(headline(report), f"bold {STYLE[TONE[report.verdict]]}")
    for reason in report.reasons:
        line(f"  - {reason}")
    suspects = by_p(report)
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    by = [f"p by {sign.name}" for sign in report.victim.components]
    table.add_column("suspect", no_wrap=True)
    for name in ("knowledge", "95 % interval", "p", *by, "queries"):
        table.add_column(literal(console, name), justify="right", no_wrap=name not in by)
    table.add_column("verdict", no_wrap=True)
    for suspect in suspects:
        style = STYLE[TONE[suspect.verdict]]
        table.add_row(*_cells(console, suspect, suspect.name), literal(console, suspect.verdict, style))
    table.add_row(*_cells(console, report.victim, "the victim itself"), literal(console, "the ceiling"))
    console.print(table)
    for suspect in suspects:
        for words in (meaning(report, suspect), *suspect.reasons):
            line(f"{printable(suspect.name, NAME_LIMIT)}: {words}")
    line(
        f"{report.samples} images of {report.private} and twice as many of {report.public}; {report.embedding}; "
        f"{report.null.independents} benign models, {report.null.references} more as references; alpha {report.alpha:g}"
    )


def headline(report: OwnershipReport) -> str:
    """The finding as one sentence."""
    if report.verdict == "independent":
        who = _listed(report, "independent") if len(report.suspects) == 1 else "any suspect"
        return f"Independent: this audit found no sign that {who} comes from the private images."
    who = _listed(report, report.verdict)
    come = "come" if sum(s.verdict == report.verdict for s in report.suspects) > 1 else "comes"
    if report.verdict == "stolen":
        return f"Stolen: {who} {come} from the private images, or from the victim."
    return f"Inconclusive: this audit cannot decide whether {who} {come} from the private images."


def meaning(report: OwnershipReport, suspect: SuspectResult) -> str:
    """The suspect's p in words. It counts the benign models as p counts them (see Null)."""
    benign = report.null.knowledge_widened
    as_much = round(suspect.p * (len(benign) + 1)) - 1
    count = "none" if as_much == 0 else str(as_much)
    verb = "shows" if as_much <= 1 else "show"
    return (
        f"{count} of {len(benign)} benign models {verb} as much knowledge of the private images, "
        f"p = ({as_much} + 1) / ({len(benign)} + 1) = {p_text(suspect.p)}"
    )


def spread(report: OwnershipReport) -> float:
    """The factor by which benign models are spread from their mean before p counts them."""
    found, widened = report.null.knowledge, report.null.knowledge_widened
    reach = max(found) - min(found)
    return (max(widened) - min(widened)) / reach if reach > 0 else 1.0


def by_p(report: OwnershipReport) -> list[SuspectResult]:
    """The suspects, smallest p first; ties by their knowledge, then as they were named."""
    return sorted(report.suspects, key=lambda s: (s.p, -s.knowledge.effect))


def _listed(report: OwnershipReport, verdict: str) -> str:
    """The suspects of this verdict, by name as far as there is room."""
    return list_names([printable(s.name, NAME_LIMIT) for s in by_p(report) if s.verdict == verdict], NAMED)


def _cells(console: Console, suspect: SuspectResult, name: str) -> list[Text]:
    knowledge = suspect.knowledge
    cells = [
        f"{knowledge.effect:+.2f}",
        f"{knowledge.low:+.2f} to {knowledge.high:+.2f}",
        *(p_text(evidence.p_calibrated) for evidence in (knowledge, *suspect.components)),
        f"{suspect.queries:,}",
    ]
    return [literal(console, name, limit=CELL_LIMIT), *(literal(console, cell) for cell in cells)]
