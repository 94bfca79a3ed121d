"""A dataset inference for people: one HTML file, and a table on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pydrift.report import figures, wording
from pydrift.report.membership import percent
from pydrift.report.page import ENVIRONMENT, SETTINGS, TABLE_ROWS, flat, style_sheet
from pydrift.report.terminal import STYLE, literal

if TYPE_CHECKING:
    from pydrift.ownership import OwnershipReport, SuspectResult

DRAWN = 20  # suspects in the figure of benign models; also figures of p against samples
NAMED = 4  # a headline names so many suspects and counts the rest
NAME_LIMIT = 24  # characters of a name in the table on the terminal
TONE = {"stolen": "drift", "independent": "stable", "inconclusive": "inconclusive"}  # symbol and colour, as in an audit


def render_ownership_html(report: OwnershipReport) -> str:
    """The report as one well-formed HTML document (it also parses as XML), the same text for the same report."""
    suspects = by_p(report)
    drawn = [(str(n), TONE[s.verdict], s.knowledge, s.needed) for n, s in enumerate(suspects[:DRAWN], start=1)]
    least = 1 / (report.null.independents + 1)
    return ENVIRONMENT.get_template("ownership.html.j2").render(
        report=report,
        css=style_sheet(),
        words=wording,
        headline=headline(report),
        tone=TONE,
        percent=percent,
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
        settings=flat(report.provenance.settings)[:SETTINGS],
    )


def render_ownership_terminal(report: OwnershipReport, console: Console) -> None:
    """Prints the verdict, the reasons, a line for each suspect and one for the victim; every text literally."""

    def line(words: str, style: str = "") -> None:
        console.print(literal(console, words, style), soft_wrap=True)

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
            line(f"{wording.printable(suspect.name, wording.NAME_LIMIT)}: {words}")
    line(
        f"{report.samples} images of {report.private} and twice as many of {report.public}; {report.embedding}; "
        f"{report.null.independents} benign models, {report.null.references} more as references; alpha {report.alpha:g}"
    )


def headline(report: OwnershipReport) -> str:
    """The finding as one sentence."""
    if report.verdict == "independent":
        who = _listed(report, "independent") if len(report.suspects) == 1 else "any suspect"
        return f"Independent: nothing says that {who} comes from the private images."
    who = _listed(report, report.verdict)
    many = sum(s.verdict == report.verdict for s in report.suspects) > 1
    if report.verdict == "stolen":
        return f"Stolen: {who} {'come' if many else 'comes'} from the private images, or from the victim."
    return f"Inconclusive: whether {who} {'come' if many else 'comes'} from the private images cannot be told."


def meaning(report: OwnershipReport, suspect: SuspectResult) -> str:
    """What the suspect's p is, in words. Benign models are counted as p counts them (see Null)."""
    benign = report.null.knowledge_widened
    as_much = round(suspect.p * (len(benign) + 1)) - 1
    count = "none" if as_much == 0 else str(as_much)
    verb = "shows" if as_much <= 1 else "show"
    return (
        f"{count} of {len(benign)} benign models {verb} as much knowledge of the private images, "
        f"p = ({as_much} + 1) / ({len(benign)} + 1) = {wording.p_text(suspect.p)}"
    )


def spread(report: OwnershipReport) -> float:
    """How many times as far from their mean benign models are counted as they were found."""
    found, widened = report.null.knowledge, report.null.knowledge_widened
    reach = max(found) - min(found)
    return (max(widened) - min(widened)) / reach if reach > 0 else 1.0


def by_p(report: OwnershipReport) -> list[SuspectResult]:
    """The suspects, smallest p first; ties by their knowledge, then as they were named."""
    return sorted(report.suspects, key=lambda s: (s.p, -s.knowledge.effect))


def _listed(report: OwnershipReport, verdict: str) -> str:
    """The suspects of this verdict, by name as far as there is room."""
    names = [wording.printable(s.name, wording.NAME_LIMIT) for s in by_p(report) if s.verdict == verdict]
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _cells(console: Console, suspect: SuspectResult, name: str) -> list[Text]:
    knowledge = suspect.knowledge
    cells = [
        f"{knowledge.effect:+.2f}",
        f"{knowledge.low:+.2f} to {knowledge.high:+.2f}",
        *(wording.p_text(evidence.p_calibrated) for evidence in (knowledge, *suspect.components)),
        f"{suspect.queries:,}",
    ]
    return [literal(console, name, limit=NAME_LIMIT), *(literal(console, cell) for cell in cells)]
