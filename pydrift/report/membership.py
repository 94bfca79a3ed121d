"""The report of a membership audit: one HTML page, and a table on the terminal."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from pydrift.membership.result import EXPOSED
from pydrift.report import figures
from pydrift.report.page import TABLE_ROWS, flat_settings, percent, render_page
from pydrift.report.terminal import literal, print_line

if TYPE_CHECKING:
    from pydrift.membership.evaluation import AttackResult
    from pydrift.membership.result import MembershipReport


def render_membership_html(report: MembershipReport) -> str:
    """The report as one well-formed HTML document (it also parses as XML), the same text for the same report."""
    strongest = report.strongest
    # The classes that leak most come first, and those that could not be measured come last.
    classes = sorted(strongest.classes, key=lambda c: (-1 if c.auc is None else c.auc, -c.index), reverse=True)
    return render_page(
        "membership.html.j2",
        report=report,
        headline=headline(report),
        strongest=strongest,
        roc=figures.roc_figure(report.attacks, strongest, report.population.members, report.population.non_members),
        classes=classes,
        table_rows=classes[:TABLE_ROWS],
        exposed=[(n, int(report.y[n]), fpr) for n, fpr in report.exposed(EXPOSED)],
        settings=flat_settings(report.provenance.settings),
    )


def render_membership_terminal(report: MembershipReport, console: Console) -> None:
    """Prints the headline, the reasons and a line for each attack to `console`; every text literally."""
    line = partial(print_line, console)
    line(headline(report), "bold")
    for reason in report.reasons:
        line(f"  - {reason}")
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in ("attack", "AUC", "interval", "balanced", *_rate_names(report), "interval", "epsilon >="):
        table.add_column(name, justify="left" if name == "attack" else "right", no_wrap=True)
    for attack in report.attacks:
        table.add_row(*(literal(console, cell) for cell in _cells(attack)))
    console.print(table)
    p = report.population
    line(
        f"{p.members} members and {p.non_members} non-members of {p.source}; accuracy on them "
        f"{percent(p.accuracy_members)} and {percent(p.accuracy_non_members)}; "
        f"{report.shadows.count} shadows; confidence {percent(1 - report.alpha)}"
    )


def headline(report: MembershipReport) -> str:
    """The finding as one sentence."""
    best = report.strongest
    rate = best.tpr_at_fpr[-1]
    return (
        f"The strongest attack ({best.name}) finds {percent(rate.tpr)} of the members while it falsely accuses "
        f"{percent(rate.fpr)} of the non-members; AUC {best.auc:.3f}."
    )


def _rate_names(report: MembershipReport) -> list[str]:
    return [f"TPR at {percent(rate.fpr)}" for rate in report.attacks[0].tpr_at_fpr]


def _cells(attack: AttackResult) -> list[str]:
    low, high = attack.auc_interval
    last = attack.tpr_at_fpr[-1]
    return [
        attack.name,
        f"{attack.auc:.3f}",
        f"{low:.3f} to {high:.3f}",
        f"{attack.balanced_accuracy:.3f}",
        *(percent(rate.tpr) for rate in attack.tpr_at_fpr),
        f"{percent(last.low)} to {percent(last.high)}",
        f"{attack.epsilon:.2f}",
    ]
