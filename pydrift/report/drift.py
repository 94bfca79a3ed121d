"""The report of a drift audit: one HTML page, and a table on the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from rich import box
from rich.console import Console
from rich.table import Table

from pydrift.report import drift_wording as words
from pydrift.report import figures
from pydrift.report.figures import Picture
from pydrift.report.page import TABLE_ROWS, flat_settings, p_text, render_page
from pydrift.report.terminal import STYLE, literal, print_line

if TYPE_CHECKING:
    from pydrift.drift.result import DriftReport
    from pydrift.drift.verdict import ClassVerdict
    from pydrift.inversion.gray import GrayData

# These keep a page under 2 MB, whatever the number of classes, shadows and restarts.
NULL_FIGURES = 6
MAP_PLACES = 400
IMAGE_ROWS = 40
IMAGES_PER_MODEL = 4
IMAGE_BYTES = 1_000_000  # of data URIs; the page shows at least one row

TERMINAL_ROWS = 12  # classes listed on a terminal; the rest are counted


@dataclass(frozen=True)
class GraySide:
    """One model's gray images of one class."""

    pictures: list[Picture]
    note: str


@dataclass(frozen=True)
class GrayRow:
    """One class as both models see it."""

    of: ClassVerdict
    base: GraySide
    candidate: GraySide


def render_drift_html(report: DriftReport, images: bool = True) -> str:
    """The report as one well-formed HTML document (it also parses as XML), the same text for the same report.

    `images=False` leaves the gray images out: they may reveal training data. Reports that were loaded without their
    images render without them too.
    """
    classes = words.by_p(report)
    table_rows = classes[:TABLE_ROWS]
    smallest = report.null.smallest_score
    shown = figures.span(value for c in table_rows for value in (c.drift_score, smallest) if value is not None)
    in_strips = [c for c in _drifted_first(classes) if c.null and c.drift_score is not None][:NULL_FIGURES]
    has_images = report.gray_base.images.size > 0 and report.gray_candidate.images.size > 0
    return render_page(
        "drift.html.j2",
        report=report,
        words=words,
        classes=classes,
        table_rows=table_rows,
        bars=[figures.score_bar(c, shown, smallest) for c in table_rows],
        axis=figures.score_axis(shown),
        strips=[_against_null(c) for c in in_strips],
        power=figures.power_curve(report.null.power) if report.null.power else None,
        images=images,
        gray=_gray_rows(report, classes) if images and has_images else [],
        settings=flat_settings(report.provenance.settings),
        images_per_model=IMAGES_PER_MODEL,
    )


def render_drift_terminal(report: DriftReport, console: Console) -> None:
    """Prints verdict, reasons, the classes by adjusted p, and the baselines to `console`; every text literally."""
    line = partial(print_line, console)
    line(words.headline(report), f"bold {STYLE[report.verdict]}")
    for reason in report.reasons:
        line(f"  - {reason}")
    classes = words.by_p(report)
    console.print(_class_table(classes[:TERMINAL_ROWS], console))
    if len(classes) > TERMINAL_ROWS:
        line(f"and {len(classes) - TERMINAL_ROWS} more classes, none with a smaller adjusted p")
    null, smallest = report.null, report.null.smallest_score
    line(
        f"null distribution: {null.shadows} shadows ({null.update_mode}, {words.RECIPES[null.recipes]}), "
        f"alpha {report.alpha:g}, "
        "smallest detectable drift score " + ("not determined" if smallest is None else f"{smallest:.2f}")
    )
    for name, value in words.baseline_rows(report.baselines):
        line(f"{name}: {value}")
    remark = words.accuracy_remark(report)
    if remark:
        line(remark)


def _class_table(classes: list[ClassVerdict], console: Console) -> Table:
    text = partial(literal, console)
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in ("class", "drift score", "p", "adjusted p"):
        table.add_column(name, justify="left" if name == "class" else "right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for c in classes:
        table.add_row(
            text(f"{c.index}" if c.name == str(c.index) else f"{c.index} {c.name}", limit=24),
            text(words.score_text(c.drift_score)),
            text(p_text(c.p_value)),
            text(p_text(c.p_adjusted)),
            text(c.verdict, STYLE[c.verdict]),
        )
    return table


def _drifted_first(classes: list[ClassVerdict]) -> list[ClassVerdict]:
    return sorted(classes, key=lambda c: c.verdict != "drift")


def _against_null(c: ClassVerdict) -> tuple[ClassVerdict, Markup, list[tuple[str, str, Markup]]]:
    """A class, its null distribution, and the name, words and map of each probe that has places."""
    small = {name: rows for name, rows in c.places.items() if 0 < sum(map(len, rows)) <= MAP_PLACES}
    maps = [(name, words.strongest_place(rows), figures.place_map(rows)) for name, rows in small.items()]
    return c, figures.null_strip(c), maps


def _gray_rows(report: DriftReport, classes: list[ClassVerdict]) -> list[GrayRow]:
    """The drifted classes first, then by adjusted p, until the rows or the bytes are used up."""
    rows: list[GrayRow] = []
    room = IMAGE_BYTES
    for c in _drifted_first(classes)[:IMAGE_ROWS]:
        base, candidate = (_gray_side(gray, c.index) for gray in (report.gray_base, report.gray_candidate))
        room -= sum(len(p.uri) for p in (*base.pictures, *candidate.pictures))
        if rows and room < 0:
            break
        rows.append(GrayRow(c, base, candidate))
    return rows


def _gray_side(gray: GrayData, index: int) -> GraySide:
    return GraySide(
        pictures=[figures.picture(image) for image in gray.images[index, :IMAGES_PER_MODEL]],
        note=f"own confidence {np.median(gray.confidence[index]):.2f}, {np.median(gray.steps[index]):.0f} steps",
    )
