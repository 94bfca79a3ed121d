"""How a long computation says how far it is (silence, a bar on a terminal, plain lines elsewhere), and its seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from pydrift.core.text import printable

if TYPE_CHECKING:
    from rich.progress import TaskID

INTERVAL_S = 2.0  # plain lines come at most this often, but for the ends of phases


class Progress(Protocol):
    """What an audit tells while it runs: phases one after another, each of `total` equal steps.

    Used as a context manager; leaving it ends the last phase. Any object with these methods will do.
    """

    def phase(self, name: str, total: int) -> None:
        """Ends the phase before and begins the phase `name` of `total` steps."""

    def advance(self, n: int = 1, note: str = "") -> None:
        """`n` more steps of the phase are done; `note` says in a few words which."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Silent:
    """Says nothing."""

    def phase(self, name: str, total: int) -> None:
        pass

    def advance(self, n: int = 1, note: str = "") -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class PlainLines(Silent):
    """Lines like `invert: 4/17, 12 s, about 39 s left (shadow 3)`: one per INTERVAL_S at most, one at each end."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic):
        self._stream = stream
        self._clock = clock
        self._name: str | None = None
        self._done = self._total = 0
        self._began = 0.0
        self._said = clock()

    def phase(self, name: str, total: int) -> None:
        self._end()
        self._name, self._done, self._total = name, 0, total
        self._began = self._clock()

    def advance(self, n: int = 1, note: str = "") -> None:
        self._done += n
        now = self._clock()
        if now - self._said < INTERVAL_S or self._done >= self._total:
            return  # the last step is said by the phase's end
        self._said = now
        past = now - self._began
        left = past * (self._total - self._done) / self._done if self._done else 0
        self._say(f"{past:.0f} s, about {left:.0f} s left" + (f" ({_visible(note)})" if note else ""))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self._name is not None:
            past = self._clock() - self._began
            self._say(f"{'done' if self._done >= self._total else 'stopped'} after {past:.1f} s")
            self._name = None

    def _say(self, words: str) -> None:
        with suppress(OSError):  # a full disk or a reader that left must not end the work
            print(f"{_visible(self._name or '')}: {self._done}/{self._total}, {words}", file=self._stream, flush=True)


class Bars(Silent):
    """One bar per phase with done, total, time and time left, drawn by rich; nothing before the first phase."""

    def __init__(self, stream: TextIO):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bars = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            console=Console(file=stream),
            redirect_stdout=False,  # stdout carries the result only
        )
        self._task: TaskID | None = None

    def phase(self, name: str, total: int) -> None:
        self._clear_note()
        self._bars.start()
        self._task = self._bars.add_task(_visible(name), total=total, note="")

    def advance(self, n: int = 1, note: str = "") -> None:
        if self._task is not None:
            self._bars.update(self._task, advance=n, note=_visible(note))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear_note()
        self._bars.stop()

    def _clear_note(self) -> None:
        if self._task is not None:
            self._bars.update(self._task, note="")


def for_terminal(stream: TextIO | None = None) -> Progress:
    """Bars where `stream` (default: stderr) is a terminal that can redraw, plain lines anywhere else."""
    stream = stream or sys.stderr
    if stream.isatty():
        from rich.console import Console

        if not Console(file=stream).is_dumb_terminal:
            return Bars(stream)
    return PlainLines(stream)


class Clock:
    """Seconds per phase."""

    def __init__(self, earlier: dict[str, float] | None = None) -> None:
        self.seconds = dict(earlier or {})

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[phase] = round(time.perf_counter() - start, 3)


def _visible(text: str) -> str:
    """Text that a terminal does not obey and any encoding can say, at most 60 characters of it."""
    return printable(text, 60).encode("ascii", "backslashreplace").decode()
