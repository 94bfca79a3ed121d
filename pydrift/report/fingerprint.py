"""A set of images held against a fingerprint, for people: one HTML file, and lines on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from pydrift.report import figures, wording
from pydrift.report.page import ENVIRONMENT, SETTINGS, flat, style_sheet
from pydrift.report.terminal import literal

if TYPE_CHECKING:
    from pydrift.fingerprint import Screening

STRANGEST = 20  # images listed on the page; on the terminal STRANGEST_LINE
STRANGEST_LINE = 5
CHANCE = 0.01  # a set whose p is above it holds no more foreign images than chance explains


def render_screening_html(result: Screening) -> str:
    """The result as one well-formed HTML document (it also parses as XML), the same text for the same result."""
    scores = result.scores
    return ENVIRONMENT.get_template("screening.html.j2").render(
        result=result,
        origin=result.fingerprint,
        count=len(scores),
        css=style_sheet(),
        words=wording,
        headline=headline(result),
        chance=chance(result),
        histogram=figures.p_histogram(scores.p, result.alpha),
        strangest=[
            (int(n), float(scores.p[n]), float(scores.score[n]), int(scores.prediction[n]))
            for n in result.strangest(STRANGEST)
        ],
        classes=[
            (int(c), int(of_class.sum()), float((scores.p[of_class] <= result.alpha).mean()))
            for c in np.unique(scores.prediction)
            for of_class in (scores.prediction == c,)
        ],
        settings=flat(result.fingerprint.settings)[:SETTINGS],
    )


def render_screening_terminal(result: Screening, console: Console) -> None:
    """Prints how many images are flagged, whether chance explains it, and the strangest; every text literally."""
    said = [headline(result), chance(result)]
    if result.flagged:
        images = (f"{n} (p = {wording.p_text(float(result.scores.p[n]))})" for n in result.strangest(STRANGEST_LINE))
        said.append(f"strangest: image {', '.join(images)}")
    for words in (*said, *(f"  - {reason}" for reason in result.fingerprint.reasons)):
        console.print(literal(console, words), soft_wrap=True)


def headline(result: Screening) -> str:
    """The finding as one sentence."""
    low, high = result.interval
    return (
        f"{result.flagged} of {len(result.scores)} images are flagged at alpha {result.alpha:g}: "
        f"{100 * result.share:.2f} % ({100 * low:.2f} to {100 * high:.2f} %)"
    )


def chance(result: Screening) -> str:
    """Whether so many are flagged by chance."""
    more = "more" if result.p_set <= CHANCE else "no more"
    p = wording.p_text(result.p_set)
    return f"{more} than chance explains: so many of images like the held-out ones are flagged with p = {p}"
