"""Figures of the HTML pages: inline SVG for numbers, PNG data URIs for gray images.

The SVG is written by hand: it is smaller than a plotting library's, and its colours follow the page's style sheet into
dark mode and print. Figures hold numbers and fixed words only, never a name.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from pydrift.drift.verdict import ClassVerdict
    from pydrift.membership.evaluation import AttackResult
    from pydrift.ownership import Evidence
    from pydrift.ownership.evidence import SamplePoint

BAR_WIDTH, BAR_HEIGHT = 240, 22
STRIP_WIDTH, DOTS_HEIGHT = 620, 56
ROC_EDGE, ROC_LEFT, ROC_LEGEND = 380, 56, 190
P_HEIGHT, P_BINS = 160, 20
FOREST_LEFT, FOREST_ROW = 90, 18
CELL, PLAIN_RESIDUAL = 11, 4.0  # pixels of a place; null deviations below which no place is drawn black
CURVE_WIDTH, CURVE_HEIGHT, CURVE_LEFT = 200, 120, 48
EDGE = 64  # pixels: small gray images are scaled up to about this by a whole factor, large ones are reduced to it

Span = tuple[float, float]


def span(values: Iterable[float]) -> Span:
    """The range of `values` and 0, with a margin; never empty."""
    seen = [0.0, *values]
    low, high = min(seen), max(seen)
    margin = 0.06 * (high - low) or 1.0
    return low - margin, high + margin


def score_axis(shown: Span) -> Markup:
    """The scale above a column of `score_bar`s."""
    x = _scale(shown, BAR_WIDTH)
    labels = "".join(f'<text x="{x(t):.1f}" y="12">{_number(t)}</text>' for t in _ticks(shown, 4))
    return _svg(
        BAR_WIDTH, 16, f'<g class="tick">{labels}</g>', "scale of the drift scores, in null standard deviations"
    )


def score_bar(c: ClassVerdict, shown: Span, smallest: float | None) -> Markup:
    """A bar from 0 to the drift score, and a dashed line at the smallest detectable score."""
    x = _scale(shown, BAR_WIDTH)
    middle = BAR_HEIGHT / 2
    parts = [f'<path class="axis" d="M{x(0):.1f} 0v{BAR_HEIGHT}"/>']
    if smallest is not None and smallest <= shown[1]:
        parts.append(f'<path class="limit" d="M{x(smallest):.1f} 0v{BAR_HEIGHT}"/>')
    if c.drift_score is not None:
        left, right = sorted((x(0), x(c.drift_score)))
        parts.append(
            f'<rect class="bar" x="{left:.1f}" y="{middle - 5}" width="{max(right - left, 1):.1f}" height="10"/>'
        )
    return _svg(BAR_WIDTH, BAR_HEIGHT, "".join(parts))


def null_strip(c: ClassVerdict) -> Markup:
    """Each shadow's drift score as a dot, the candidate's as a marked line: one axis for all.

    Dots of nearly the same value are stacked; `c.drift_score` must not be None and `c.null` not empty.
    """
    assert c.drift_score is not None
    shown = span([*c.null, c.drift_score])
    x = _scale(shown, STRIP_WIDTH)
    base = 20 + DOTS_HEIGHT  # y of the axis
    at = x(c.drift_score)
    anchor = "start" if at < 70 else "end" if at > STRIP_WIDTH - 70 else "middle"
    parts = [_strip(c.null, shown, base)]
    parts.append(f'<path class="observed" d="M{at:.1f} 18V{base}"/>')
    label = f"candidate {_number(c.drift_score)}"
    parts.append(f'<text class="mark" x="{at:.1f}" y="12" text-anchor="{anchor}">{label}</text>')
    shadows = f"{len(c.null)} shadows between {min(c.null):.2f} and {max(c.null):.2f}"
    return _svg(STRIP_WIDTH, base + 20, "".join(parts), f"{shadows}, candidate at {c.drift_score:.2f}")


def knowledge_figure(null: Sequence[float], rows: Sequence[tuple[str, str, Evidence, float | None]]) -> Markup:
    """Each benign model's knowledge of the private images as a dot; above, on the same axis, the rows of the others.

    A row is a label, a style of the style sheet, the evidence (a mark at its effect, with the interval as a whisker)
    and the value from which on its p would be at most alpha (dashed). Each suspect has its own line, because the scale
    of p depends on the suspect.
    """
    values = [[e.effect, e.low, e.high] + ([] if needed is None else [needed]) for _, _, e, needed in rows]
    shown = span([*null, *(value for row in values for value in row)])
    x = _scale(shown, STRIP_WIDTH)
    base = FOREST_ROW * len(rows) + 8 + DOTS_HEIGHT
    parts = [_strip(null, shown, base)]
    for n, (label, style, evidence, needed) in enumerate(rows):
        middle = FOREST_ROW * n + FOREST_ROW // 2
        if needed is not None:
            parts.append(f'<path class="limit" d="M{x(needed):.1f} {FOREST_ROW * n}v{FOREST_ROW}"/>')
        parts.append(
            f'<g class="{style}"><path class="whisker" d="M{x(evidence.low):.1f} {middle}H{x(evidence.high):.1f}"/>'
            f'<path class="observed" d="M{x(evidence.effect):.1f} {middle - 6}v12"/></g>'
            f'<text class="rate" x="-10" y="{middle + 4}">{label}</text>'
        )
    parts.append(f'<text class="rate" x="-10" y="{base - 2}">benign models</text>')
    body = f'<g transform="translate({FOREST_LEFT} 0)">{"".join(parts)}</g>'
    summary = f"knowledge of the private images: {len(null)} benign models between {min(null):.2f} and {max(null):.2f}"
    summary += "".join(f", {label} {evidence.effect:.2f}" for label, _, evidence, _ in rows)
    return _svg(FOREST_LEFT + STRIP_WIDTH + 8, base + 20, body, summary)


def p_curve(points: Sequence[SamplePoint], least: float, alpha: float) -> Markup:
    """The median p, on a logarithmic axis from the `least` possible one to 1, against the number of revealed samples.

    Shaded: between the quartiles. Dashed: alpha. `points` must not be empty.
    """
    most = points[-1].samples
    y = _scale((0.0, math.log10(least) - 0.05), CURVE_HEIGHT)

    def across(samples: int) -> float:
        return CURVE_LEFT + CURVE_WIDTH * samples / most

    def down(p: float) -> float:
        return 8 + y(math.log10(min(max(p, least), 1)))

    def line(corners: Iterable[tuple[int, float]]) -> str:
        return "L".join(f"{across(samples):.1f} {down(p):.1f}" for samples, p in corners)

    base, right = 8 + CURVE_HEIGHT, CURVE_LEFT + CURVE_WIDTH
    band = [*((p.samples, p.low) for p in points), *((p.samples, p.high) for p in reversed(points))]
    parts = [
        f'<path class="axis" d="M{CURVE_LEFT} 8V{base}H{right}"/>',
        f'<path class="limit" d="M{CURVE_LEFT} {down(alpha):.1f}H{right}"/>',
        f'<path class="interval" d="M{line(band)}Z"/>',
        f'<path class="curve" d="M{line((p.samples, p.median) for p in points)}"/>',
    ]
    for power in range(math.floor(-math.log10(least) + 1e-9) + 1):
        at = down(10.0**-power) + 4
        parts.append(f'<text class="rate" x="{CURVE_LEFT - 6}" y="{at:.1f}">{_number(10.0**-power)}</text>')
    for samples in _ticks((0, most), 4):
        parts.append(f'<text class="tick" x="{across(int(samples)):.1f}" y="{base + 16}">{_number(samples)}</text>')
    label = f"median p {points[0].median:.3g} from {points[0].samples} samples, {points[-1].median:.3g} from {most}"
    return _svg(right + 12, base + 20, "".join(parts), label)


def place_map(rows: Sequence[Sequence[float | None]]) -> Markup:
    """A square for each place, darker the further its value is from 0; a frame marks the furthest one."""
    values = np.array([[0.0 if value is None else value for value in row] for row in rows])
    size = np.abs(values)
    top, left = np.unravel_index(int(size.argmax()), size.shape)
    strength = size / max(float(size.max()), PLAIN_RESIDUAL)
    cells = "".join(
        f'<rect class="bar" x="{CELL * x}" y="{CELL * y}" width="{CELL}" height="{CELL}" '
        f'fill-opacity="{strength[y, x]:.2f}"/>'
        for y, x in np.ndindex(values.shape)
    )
    frame = f'<path class="axis" d="M0 0h{CELL * values.shape[1]}v{CELL * values.shape[0]}H0Z"/>'
    if size.any():
        frame += f'<path class="observed" d="M{CELL * left} {CELL * top}h{CELL}v{CELL}h-{CELL}Z"/>'
    body = f'<g transform="translate(2 2)">{cells}{frame}</g>'
    label = f"strongest in row {top + 1} of {values.shape[0]}, column {left + 1} of {values.shape[1]}"
    return _svg(CELL * values.shape[1] + 4, CELL * values.shape[0] + 4, body, label)


def power_curve(points: Sequence[tuple[float, float]]) -> Markup:
    """The chance that a drift is found, against its size in null standard deviations. `points` must not be empty."""
    most = points[-1][0]
    y = _scale((1.0, 0.0), CURVE_HEIGHT)
    base, right = 8 + CURVE_HEIGHT, CURVE_LEFT + CURVE_WIDTH
    corners = [(CURVE_LEFT + CURVE_WIDTH * size / most, 8 + y(chance)) for size, chance in points]
    parts = [
        f'<path class="axis" d="M{CURVE_LEFT} 8V{base}H{right}"/>',
        f'<path class="curve" d="M{"L".join(f"{across:.1f} {down:.1f}" for across, down in corners)}"/>',
    ]
    for chance in (0, 0.5, 1):
        parts.append(f'<text class="rate" x="{CURVE_LEFT - 6}" y="{12 + y(chance):.1f}">{100 * chance:g} %</text>')
    for size in _ticks((0, most), 4):
        across = CURVE_LEFT + CURVE_WIDTH * size / most
        parts.append(f'<text class="tick" x="{across:.1f}" y="{base + 16}">{_number(size)}</text>')
    found = ", ".join(f"{size:.2f} found with {chance:.0%}" for size, chance in points[:: max(1, len(points) // 8)])
    return _svg(right + 12, base + 20, "".join(parts), f"drifts of null deviations {found}")


def roc_figure(attacks: Sequence[AttackResult], strongest: AttackResult, members: int, non_members: int) -> Markup:
    """ROC curves on logarithmic axes, because the left counts most: there few non-members are falsely accused.

    Each axis begins at the decade of one image of its kind; a rate of 0 is drawn there. Dashed: chance.
    """
    decades = [math.ceil(math.log10(max(2, count))) for count in (non_members, members)]
    x, y = (_log_scale(count) for count in decades)
    names = ("false positive rate", "true positive rate")
    parts = [f'<path class="axis" d="M{ROC_LEFT} 10V{10 + ROC_EDGE}H{ROC_LEFT + ROC_EDGE}"/>']
    for power in range(decades[0] + 1):
        at = ROC_LEFT + x(10.0**-power)
        parts.append(f'<text class="tick" x="{at:.1f}" y="{ROC_EDGE + 28}">{_number(10.0**-power)}</text>')
    for power in range(decades[1] + 1):
        at = 10 + ROC_EDGE - y(10.0**-power)
        parts.append(f'<text class="rate" x="{ROC_LEFT - 6}" y="{at + 4:.1f}">{_number(10.0**-power)}</text>')
    middle = ROC_LEFT + ROC_EDGE / 2
    parts.append(f'<text class="tick" x="{middle}" y="{ROC_EDGE + 46}">{names[0]}</text>')
    parts.append(f'<text class="tick" transform="translate(12 {10 + ROC_EDGE / 2}) rotate(-90)">{names[1]}</text>')
    low = 10.0 ** -min(decades)
    chance = f"M{ROC_LEFT + x(low):.1f} {10 + ROC_EDGE - y(low):.1f}L{ROC_LEFT + ROC_EDGE} 10"
    parts.append(f'<path class="limit" d="{chance}"/>')
    for index, attack in enumerate(attacks):
        steps = [(ROC_LEFT + x(fpr), 10 + ROC_EDGE - y(tpr)) for fpr, tpr in attack.roc]
        path = f"M{steps[0][0]:.1f} {steps[0][1]:.1f}" + "".join(f"H{a:.1f}V{b:.1f}" for a, b in steps[1:])
        hue = f'style="stroke:hsl({360 * index // len(attacks)} 60% 48%)"'
        width = 3 if attack is strongest else 1.4
        parts.append(f'<path {hue} stroke-width="{width}" d="{path}"/>')
        row = 22 + 17 * index
        left = ROC_LEFT + ROC_EDGE + 16
        parts.append(f'<path {hue} stroke-width="{width}" d="M{left} {row}h18"/>')
        parts.append(f'<text x="{left + 24}" y="{row + 4}">{attack.name}</text>')
    height = max(ROC_EDGE + 52, 34 + 17 * len(attacks))
    return _svg(ROC_LEFT + ROC_EDGE + ROC_LEGEND, height, "".join(parts), "ROC curves of the attacks, log-log")


def p_histogram(p: NDArray[np.float64], alpha: float) -> Markup:
    """The number of images by their p, in bins of 0.05. Dashed: all p are equally frequent; shaded: p up to alpha."""
    counts, _ = np.histogram(p, bins=P_BINS, range=(0, 1))
    base, top = P_HEIGHT + 12, max(int(counts.max()), 1)
    width = STRIP_WIDTH / P_BINS
    parts = [f'<rect class="interval" x="0" y="12" width="{STRIP_WIDTH * alpha:.1f}" height="{P_HEIGHT}"/>']
    for index, count in enumerate(counts):
        height = P_HEIGHT * count / top
        parts.append(
            f'<rect class="bar" x="{index * width + 1:.1f}" y="{base - height:.1f}" width="{width - 2:.1f}" '
            f'height="{height:.1f}"/>'
        )
    even = base - P_HEIGHT * len(p) / P_BINS / top
    parts.append(
        f'<path class="limit" d="M0 {even:.1f}H{STRIP_WIDTH}"/><path class="axis" d="M0 {base}H{STRIP_WIDTH}"/>'
    )
    for value in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<text class="tick" x="{STRIP_WIDTH * value:.1f}" y="{base + 16}">{value:g}</text>')
    parts.append(f'<text class="rate" x="{STRIP_WIDTH}" y="8">images in the highest bar: {top}</text>')
    body = f'<g transform="translate(8 0)">{"".join(parts)}</g>'  # room for half a number at either end
    return _svg(STRIP_WIDTH + 16, base + 20, body, f"{counts[0]} of {len(p)} images have a p below 0.05")


@dataclass(frozen=True)
class Picture:
    """One gray image as a PNG data URI, with the size to show it at in CSS pixels."""

    uri: str
    width: int
    height: int


def picture(image: NDArray[np.float32]) -> Picture:
    """[C, H, W] in [0, 1] as a picture: RGB where C is 3, else the mean over channels as greyscale."""
    pixels = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
    shown = Image.fromarray(pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels.mean(axis=0).astype(np.uint8))
    shown.thumbnail((EDGE, EDGE))
    factor = max(1, round(EDGE / max(shown.size)))
    buffer = io.BytesIO()
    shown.save(buffer, "PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Picture(uri, shown.width * factor, shown.height * factor)


def _svg(width: int, height: int, body: str, label: str | None = None) -> Markup:
    role = f'role="img" aria-label="{label}"' if label else 'aria-hidden="true"'
    return Markup(f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" {role}>{body}</svg>')


def _strip(values: Sequence[float], shown: Span, base: int) -> str:
    """An axis of `shown` at y = base, with each value as a dot above it; dots of nearly the same value are stacked."""
    x = _scale(shown, STRIP_WIDTH)
    columns: dict[int, int] = {}
    for value in values:
        column = round(x(value) / 7)
        columns[column] = columns.get(column, 0) + 1
    step = min(7.0, (DOTS_HEIGHT - 8) / max(columns.values()))
    # A dashed line with round caps and dashes of length 0 draws one dot every `step`: a column costs 20 bytes.
    dots = "".join(f"M{7 * column} {base - 5}v{-(count - 1) * step - 0.01:.2f}" for column, count in columns.items())
    ticks = "".join(
        f'<path class="axis" d="M{x(t):.1f} {base}v4"/>'
        f'<text class="tick" x="{x(t):.1f}" y="{base + 16}">{_number(t)}</text>'
        for t in _ticks(shown, 8)
    )
    axis = f'<path class="axis" d="M0 {base}H{STRIP_WIDTH}"/>{ticks}'
    return f'{axis}<path class="dots" stroke-dasharray="0 {step:.2f}" d="{dots}"/>'


def _scale(shown: Span, width: int) -> Callable[[float], float]:
    low, high = shown
    return lambda value: width * (value - low) / (high - low)


def _log_scale(decades: int) -> Callable[[float], float]:
    """Maps 10^-decades..1 to 0..ROC_EDGE, and smaller values to 0."""
    return lambda value: ROC_EDGE * (1 + math.log10(max(value, 10.0**-decades)) / decades)


def _ticks(shown: Span, about: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) inside the range, at most about + 1 of them."""
    low, high = shown
    rough = (high - low) / about
    if not rough > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")
