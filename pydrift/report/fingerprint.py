"""The report of images that a fingerprint has screened: one HTML page, and lines on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from pydrift.report import figures
from pydrift.report.page import TABLE_ROWS, flat_settings, p_text, render_page
from pydrift.report.terminal import print_line

if TYPE_CHECKING:
    from pydrift.fingerprint import Screening

STRANGEST = 20  # images listed on the page; on the terminal STRANGEST_LINE
STRANGEST_LINE = 5
CHANCE = 0.01  # if the p of a set is above this, chance explains its flagged images


def render_screening_html(result: Screening) -> str:
    """The result as one well-formed HTML document (it also parses as XML), the same text for the same result."""
    scores = result.scores
    classes = [
        (int(c), int(of_class.sum()), float((scores.p[of_class] <= result.alpha).mean()))
        for c in np.unique(scores.prediction)
        for of_class in (scores.prediction == c,)
    ]
    return render_page(
        "fingerprint.html.j2",
        result=result,
        origin=result.fingerprint,
        count=len(scores),
        headline=headline(result),
        chance=chance(result),
        histogram=figures.p_histogram(scores.p, result.alpha),
        strangest=[
            (int(n), float(scores.p[n]), float(scores.score[n]), int(scores.prediction[n]))
            for n in result.strangest(STRANGEST)
        ],
        classes=classes,
        table_rows=classes[:TABLE_ROWS],
        settings=flat_settings(result.fingerprint.settings),
    )


def render_screening_terminal(result: Screening, console: Console) -> None:
    """Prints how many images are flagged, whether chance explains it, and the strangest; every text literally."""
    lines = [headline(result), chance(result)]
    if result.flagged:
        images = (f"{n} (p = {p_text(float(result.scores.p[n]))})" for n in result.strangest(STRANGEST_LINE))
        lines.append(f"strangest: image {', '.join(images)}")
    for words in (*lines, *(f"  - {reason}" for reason in result.fingerprint.reasons)):
        print_line(console, words)


def headline(result: Screening) -> str:
    """The finding as one sentence."""
    low, high = result.interval
    return (
        f"{result.flagged} of {len(result.scores)} images are flagged at alpha {result.alpha:g}: "
        f"{100 * result.share:.2f} % ({100 * low:.2f} to {100 * high:.2f} %)"
    )


def chance(result: Screening) -> str:
    """Whether chance explains so many flagged images, as one sentence."""
    more = "more" if result.p_set <= CHANCE else "no more"
    p = p_text(result.p_set)
    return f"This is {more} than chance explains: p = {p} for so many flagged among images like the held-out ones."
