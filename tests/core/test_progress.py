"""Progress: silent by default, bars on a terminal, few plain lines elsewhere, never on stdout."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from pydrift.core.progress import Bars, PlainLines, Progress, Silent, for_terminal


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_silent_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with Silent() as progress:
        progress.phase("invert", 2)
        progress.advance()
        progress.advance(note="shadow 1")
    assert capfd.readouterr() == ("", "")


def test_plain_lines_are_few_and_end_each_phase() -> None:
    stream, clock = io.StringIO(), Clock()
    with PlainLines(stream, clock) as progress:
        progress.phase("train shadows", 80)
        for k in range(80):
            clock.now += 0.125
            progress.advance(note=f"shadow {k}")
        progress.phase("invert", 3)
        clock.now += 5
        progress.advance(2)
        clock.now += 1
        progress.advance()
    assert stream.getvalue().splitlines() == [
        "train shadows: 16/80, 2 s, about 8 s left (shadow 15)",
        "train shadows: 32/80, 4 s, about 6 s left (shadow 31)",
        "train shadows: 48/80, 6 s, about 4 s left (shadow 47)",
        "train shadows: 64/80, 8 s, about 2 s left (shadow 63)",
        "train shadows: 80/80, done after 10.0 s",
        "invert: 2/3, 5 s, about 2 s left",
        "invert: 3/3, done after 6.0 s",
    ]


def test_plain_lines_say_where_an_error_stopped_them() -> None:
    stream, clock = io.StringIO(), Clock()

    def interrupted() -> None:
        with PlainLines(stream, clock) as progress:
            progress.phase("invert", 3)
            progress.advance()
            clock.now = 1.5
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert stream.getvalue() == "invert: 1/3, stopped after 1.5 s\n"


def test_an_empty_phase_and_no_phase_at_all() -> None:
    stream = io.StringIO()
    with PlainLines(stream, Clock()):
        pass
    assert stream.getvalue() == ""
    with PlainLines(stream, Clock()) as progress:
        progress.phase("resume", 0)
    assert stream.getvalue() == "resume: 0/0, done after 0.0 s\n"


def test_bars_show_phase_done_total_and_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    with Bars(stream) as progress:
        progress.advance()  # before any phase: nothing to advance
        progress.phase("invert [bold]", 3)
        progress.advance(2, note="shadow [red]1")
        progress._bars.refresh()  # type: ignore[attr-defined]
        assert "shadow [red]1" in stream.getvalue()
        progress.phase("verdict", 1)
        progress.advance()
    text = stream.getvalue()
    assert "invert [bold]" in text
    assert "2/3" in text
    assert "1/1" in text
    stream = Terminal()
    with Bars(stream):
        pass
    assert "0/" not in stream.getvalue()


@pytest.mark.parametrize("make", [lambda s: PlainLines(s, Clock()), Bars])
def test_hostile_words_reach_no_stream(make, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    stream = Terminal()
    progress: Progress = make(stream)
    with progress:
        progress.phase("a\x1b]0;owned\x07b", 2)
        progress.advance()
    assert "\x1b]0;owned" not in stream.getvalue()
    assert "\x07" not in stream.getvalue()
    assert r"a\x1b]0;owned\x07b" in stream.getvalue()


def test_for_terminal_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    assert isinstance(for_terminal(Terminal()), Bars)
    assert isinstance(for_terminal(io.StringIO()), PlainLines)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(for_terminal(), PlainLines)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(for_terminal(Terminal()), PlainLines)


def test_rich_is_imported_late() -> None:
    code = "import sys, pydrift.core.progress; sys.exit('rich' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
