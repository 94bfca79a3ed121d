"""The audit's result for people: one HTML file and a terminal table. Reads a `DriftReport`, computes nothing new."""

from pydrift.report.html import render_html
from pydrift.report.terminal import render_terminal

__all__ = ["render_html", "render_terminal"]
