"""Results for people: one HTML file and a terminal table of each. Reads a report, computes nothing new."""

from pydrift.report.fingerprint import render_screening_html, render_screening_terminal
from pydrift.report.membership import render_membership_html, render_membership_terminal
from pydrift.report.ownership import render_ownership_html, render_ownership_terminal
from pydrift.report.page import render_html
from pydrift.report.terminal import render_terminal

__all__ = [
    "render_html",
    "render_membership_html",
    "render_membership_terminal",
    "render_ownership_html",
    "render_ownership_terminal",
    "render_screening_html",
    "render_screening_terminal",
    "render_terminal",
]
