"""Results for people and for programs: a folder with a JSON document and one HTML page, and a page on the terminal.

    write_report(result, "report")

A report reads a result and computes nothing new. Results know nothing of reports.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from pydrift.core.errors import UsageError
from pydrift.core.files import sha256_bytes, write_atomic
from pydrift.drift.result import DriftReport
from pydrift.fingerprint.screening import Screening
from pydrift.membership.result import MembershipReport
from pydrift.ownership.result import OwnershipReport
from pydrift.report.drift import render_drift_html, render_drift_terminal
from pydrift.report.fingerprint import render_screening_html, render_screening_terminal
from pydrift.report.membership import render_membership_html, render_membership_terminal
from pydrift.report.ownership import render_ownership_html, render_ownership_terminal

__all__ = ["Result", "render_html", "render_terminal", "write_report"]

Result = DriftReport | MembershipReport | OwnershipReport | Screening


@dataclass(frozen=True)
class _Renderer:
    """How one type of result becomes a report."""

    html: Callable[..., str]
    terminal: Callable[[Any, Console], None]
    arrays: Callable[[Any], bytes] | None = None  # the content of the result's npz file
    has_images: bool = False  # `html` and `arrays` hold gray images


_RENDERERS: dict[type, _Renderer] = {
    DriftReport: _Renderer(render_drift_html, render_drift_terminal, DriftReport.gray_npz, has_images=True),
    MembershipReport: _Renderer(render_membership_html, render_membership_terminal, MembershipReport.scores_npz),
    OwnershipReport: _Renderer(render_ownership_html, render_ownership_terminal),
    Screening: _Renderer(render_screening_html, render_screening_terminal, Screening.scores_npz),
}


def write_report(result: Result, folder: str | Path, *, images: bool = True) -> Path:
    """Writes the report of an audit's result into `folder`, each file atomically, and returns the path of its page.

    | result           | files                                        |
    | ---------------- | -------------------------------------------- |
    | DriftReport      | report.json, report.html, gray.npz           |
    | MembershipReport | membership.json, membership.html, scores.npz |
    | OwnershipReport  | ownership.json, ownership.html               |
    | Screening        | screening.json, screening.html, scores.npz   |

    images  False leaves the gray images of a drift audit out everywhere, because they may reveal training data. It also
            removes a gray.npz that was there.

    UsageError: there is no report of such a result, the folder cannot be written, or it holds a calibration or a bank.
    """
    renderer, folder = _renderer(result), Path(folder)
    result.check_target(folder)
    page = Path(result.json_name).with_suffix(".html").name
    contents = {page: render_html(result, images=images).encode()}
    if result.arrays_name and renderer.arrays:
        if images or not renderer.has_images:
            contents[result.arrays_name] = renderer.arrays(result)
        else:
            (folder / result.arrays_name).unlink(missing_ok=True)
    for name, content in contents.items():
        write_atomic(folder / name, content)
    # The last one, with the digests of the others: after a crash before it, no files of two results pass for one.
    digests = {name: sha256_bytes(content) for name, content in contents.items()}
    write_atomic(folder / result.json_name, result.to_json(digests).encode())
    return folder / page


def render_html(result: Result, *, images: bool = True) -> str:
    """The page as one well-formed HTML document (it also parses as XML), the same text for the same result.

    The page has no script, needs no network, and is under 2 MB. Every text in it is escaped.
    """
    renderer = _renderer(result)
    return renderer.html(result, images=images) if renderer.has_images else renderer.html(result)


def render_terminal(result: Result, console: Console) -> None:
    """Prints the finding and its figures to `console`; every text literally."""
    _renderer(result).terminal(result, console)


def _renderer(result: Result) -> _Renderer:
    for known, renderer in _RENDERERS.items():
        if isinstance(result, known):
            return renderer
    raise UsageError(f"there is no report of a {type(result).__name__}")
