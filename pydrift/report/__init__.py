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
from pydrift.core.files import check_writable, write_atomic
from pydrift.core.manifest import refuse_manifest_folder
from pydrift.drift.result import DriftReport
from pydrift.fingerprint.screening import Screening
from pydrift.membership.result import MembershipReport
from pydrift.ownership.result import OwnershipReport
from pydrift.report.drift import render_drift_html, render_drift_terminal
from pydrift.report.fingerprint import render_screening_html, render_screening_terminal
from pydrift.report.membership import render_membership_html, render_membership_terminal
from pydrift.report.ownership import render_ownership_html, render_ownership_terminal

__all__ = ["Result", "check_report_folder", "render_html", "render_terminal", "write_report"]

Result = DriftReport | MembershipReport | OwnershipReport | Screening


@dataclass(frozen=True)
class _Kind:
    """How one type of result becomes a report."""

    name: str  # of the JSON document and of the page, without the ending
    html: Callable[..., str]
    terminal: Callable[..., None]
    arrays_name: str | None = None
    arrays: Callable[[Any], bytes] | None = None
    has_images: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        return (f"{self.name}.json", f"{self.name}.html", *((self.arrays_name,) if self.arrays_name else ()))


def write_report(result: Result, folder: str | Path, *, images: bool = True) -> Path:
    """Writes the report of an audit's result into `folder`, each file atomically, and returns the path of its page.

    | result           | files                                             |
    | ---------------- | ------------------------------------------------- |
    | DriftReport      | report.json, report.html, gray.npz                |
    | MembershipReport | membership.json, membership.html, scores.npz      |
    | OwnershipReport  | ownership.json, ownership.html                    |
    | Screening        | screening.json, screening.html, scores.npz        |

    images  False leaves the gray images of a drift audit out everywhere, because they may reveal training data; it also
            removes a gray.npz that was there

    UsageError: the folder cannot be written, or holds a calibration or a bank.
    """
    kind, folder = _kind(type(result)), Path(folder)
    check_report_folder(type(result), folder)
    leave_out = kind.has_images and not images
    if kind.arrays_name and kind.arrays and leave_out:
        (folder / kind.arrays_name).unlink(missing_ok=True)
    elif kind.arrays_name and kind.arrays:
        write_atomic(folder / kind.arrays_name, kind.arrays(result))
    page = folder / f"{kind.name}.html"
    write_atomic(page, render_html(result, images=images).encode())
    # The JSON document comes last: it says that the others are there.
    write_atomic(folder / f"{kind.name}.json", result.to_json().encode())
    return page


def check_report_folder(type_of_result: type, folder: str | Path) -> None:
    """Asks whether `write_report` could write there. It leaves nothing behind.

    UsageError: the folder cannot be written, or holds a calibration or a bank.
    """
    refuse_manifest_folder(folder)
    for name in _kind(type_of_result).files:
        check_writable(Path(folder) / name)


def render_html(result: Result, *, images: bool = True) -> str:
    """The page as one well-formed HTML document (it also parses as XML), the same text for the same result.

    The page has no script, needs no network, and is under 2 MB. Every text in it is escaped.
    """
    kind = _kind(type(result))
    return kind.html(result, images=images) if kind.has_images else kind.html(result)


def render_terminal(result: Result, console: Console) -> None:
    """Prints the finding and its figures to `console`; every text literally."""
    _kind(type(result)).terminal(result, console)


def _kind(type_of_result: type) -> _Kind:
    for known, kind in _KINDS.items():
        if issubclass(type_of_result, known):
            return kind
    raise UsageError(f"there is no report of a {type_of_result.__name__}")


_KINDS: dict[type, _Kind] = {
    DriftReport: _Kind(
        "report", render_drift_html, render_drift_terminal, "gray.npz", DriftReport.gray_npz, has_images=True
    ),
    MembershipReport: _Kind(
        "membership", render_membership_html, render_membership_terminal, "scores.npz", MembershipReport.scores_npz
    ),
    OwnershipReport: _Kind("ownership", render_ownership_html, render_ownership_terminal),
    Screening: _Kind("screening", render_screening_html, render_screening_terminal, "scores.npz", Screening.scores_npz),
}
