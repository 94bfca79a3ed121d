"""The result as one HTML file: no script, no network, everything escaped, under 2 MB."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pydrift.report import figures, wording
from pydrift.report.figures import Picture

if TYPE_CHECKING:
    from pydrift.drift.result import DriftReport
    from pydrift.drift.verdict import ClassVerdict
    from pydrift.inversion.gray import GrayData

# What keeps any report under 2 MB, whatever the number of classes, shadows and restarts and the length of names.
TABLE_ROWS = 250
NULL_FIGURES = 6
MAP_PLACES = 400
IMAGE_ROWS = 40
IMAGES_PER_MODEL = 4
IMAGE_BYTES = 1_000_000  # of data URIs; at least one row is shown
TEXT_LIMIT = 4000  # characters of any one text
REASONS = 20
SETTINGS = 100

FOLDER = Path(__file__).parent


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
    new: GraySide


def render_html(report: DriftReport, images: bool = True) -> str:
    """The report as one well-formed HTML document (it also parses as XML), the same text for the same report.

    `images=False` leaves the gray images out: they may reveal training data. Reports that were loaded without their
    images render without them too.
    """
    classes = wording.by_p(report)
    smallest = report.null.smallest_score
    shown = figures.span(
        value
        for c in classes[:TABLE_ROWS]
        for value in (c.effect, *(c.interval or ()), None if smallest is None else -abs(smallest))
        if value is not None
    )
    has_images = report.gray_base.images.size > 0 and report.gray_candidate.images.size > 0
    return ENVIRONMENT.get_template("report.html.j2").render(
        report=report,
        css=style_sheet(),
        words=wording,
        classes=classes,
        table_rows=classes[:TABLE_ROWS],
        bars=[figures.score_bar(c, shown, smallest) for c in classes[:TABLE_ROWS]],
        axis=figures.score_axis(shown),
        strips=[_against_null(c) for c in drifted_first(classes) if c.null and c.effect is not None][:NULL_FIGURES],
        power=figures.power_curve(report.null.power) if report.null.power else None,
        images=images,
        gray=_gray_rows(report, classes) if images and has_images else [],
        reasons=report.reasons[:REASONS],
        settings=flat(report.provenance.settings)[:SETTINGS],
        images_per_model=IMAGES_PER_MODEL,
    )


def drifted_first(classes: list[ClassVerdict]) -> list[ClassVerdict]:
    return sorted(classes, key=lambda c: c.verdict != "drift")


def _against_null(c: ClassVerdict) -> tuple[ClassVerdict, Markup, list[tuple[str, str, Markup]]]:
    """A class, its null, and of each view with places its name, words and map."""
    small = {name: rows for name, rows in c.places.items() if 0 < sum(map(len, rows)) <= MAP_PLACES}
    maps = [(name, wording.strongest_place(rows), figures.place_map(rows)) for name, rows in small.items()]
    return c, figures.null_strip(c), maps


def _gray_rows(report: DriftReport, classes: list[ClassVerdict]) -> list[GrayRow]:
    """The drifted classes first, then by adjusted p, until the rows or the bytes are used up."""
    rows: list[GrayRow] = []
    room = IMAGE_BYTES
    for c in drifted_first(classes)[:IMAGE_ROWS]:
        row = GrayRow(c, base=_gray_side(report.gray_base, c.index), new=_gray_side(report.gray_candidate, c.index))
        room -= sum(len(p.uri) for p in (*row.base.pictures, *row.new.pictures))
        if rows and room < 0:
            break
        rows.append(row)
    return rows


def _gray_side(gray: GrayData, index: int) -> GraySide:
    return GraySide(
        pictures=[figures.picture(image) for image in gray.images[index, :IMAGES_PER_MODEL]],
        note=f"own confidence {np.median(gray.confidence[index]):.2f}, {np.median(gray.steps[index]):.0f} steps",
    )


def style_sheet() -> Markup:
    return Markup((FOLDER / "report.css").read_text("utf-8"))


def flat(settings: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names and JSON values, sorted: a report read back from JSON has lost their order."""
    rows: list[tuple[str, str]] = []
    for name, value in sorted(settings.items()):
        if isinstance(value, dict):
            rows += flat(value, f"{prefix}{name}.")
        else:
            rows.append((prefix + name, value if isinstance(value, str) else json.dumps(value)))
    return rows


def _finalize(value: Any) -> Any:
    """Every text on its way into the page: control characters made visible before autoescape makes markup harmless."""
    return wording.printable(value, TEXT_LIMIT) if type(value) is str else value


def _minus(text: str) -> str:
    """A number's hyphen as a minus sign."""
    return text.replace("-", "\N{MINUS SIGN}")


ENVIRONMENT = Environment(
    loader=FileSystemLoader(FOLDER),
    autoescape=True,
    finalize=_finalize,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters["minus"] = _minus
