"""The command line. stdout carries the result only; progress and errors go to stderr.

| exit code | meaning                                                                  |
| --------- | ------------------------------------------------------------------------ |
| 0         | stable, independent or done                                              |
| 1         | drift, theft or a limit exceeded                                         |
| 2         | usage                                                                    |
| 3         | inconclusive; of `shadow train`: other workers train the rest            |
| 4         | input refused                                                            |
| 5         | runtime failure; a crash is always 5, so 1 is always a finding           |
| 130, 143  | interrupted; --resume-dir keeps what was finished                        |

torch, numpy and scipy are imported inside the commands: `pydrift --help` and `--version` must answer at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
import warnings
from contextlib import suppress
from functools import cache
from io import TextIOWrapper
from types import FrameType
from typing import Any, NoReturn

import typer

from pydrift.cli import demo, doctor, drift, fingerprint, membership, models, ownership, shadow  # noqa: F401 commands
from pydrift.cli.app import app, complain
from pydrift.core.errors import PydriftError, UsageError

# The base of every parsing error. Newer typers carry a click of their own, so click is reached through typer.
_ParsingError: type[Any] = typer.BadParameter.__mro__[1]

_RUNTIME_FAILURE = 5


def main() -> NoReturn:
    """Runs the command line and always leaves by SystemExit with a code of the table above."""
    _open_standard_streams()
    _leave_on_signals()
    if os.environ.pop("PYDRIFT_ENDS_WITH_STDIN", ""):  # set by a launcher of workers
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            code = app(standalone_mode=False)
    except _ParsingError as error:
        with suppress(OSError):
            error.show()
        code = UsageError.exit_code
    except PydriftError as error:
        complain(str(error))
        code = error.exit_code
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
        code = _RUNTIME_FAILURE
    except SystemExit as error:  # by other code: the commands leave by typer.Exit
        complain(f"ended early by code that it called (exit {error.code!r})")
        code = _RUNTIME_FAILURE
    except Exception:
        complain(f"{traceback.format_exc()}pydrift: pydrift or its environment failed; this is not a finding")
        code = _RUNTIME_FAILURE
    raise SystemExit(code or 0)


def _end_with_stdin() -> None:
    while os.read(0, 64):
        pass
    _leave(signal.SIGTERM, None)


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: str | None = None,
) -> None:
    complain(f"{category.__name__}: {message}")


def _open_standard_streams() -> None:
    """Makes stdin, stdout and stderr something to write to, in any encoding, also where the caller has closed them.

    Else the next file that is opened would be taken for stderr.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 for the life of the process
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _leave_on_signals() -> None:
    """SIGINT and SIGTERM end the process, also while a native call runs.

    Python's own handlers wait until such a call returns. So a thread waits for the number of the signal, which C code
    writes as soon as it comes.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    _start_watching()


@cache
def _start_watching() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))  # its signals are not ours
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()


def _watch(reader: int) -> None:
    while numbers := os.read(reader, 64):
        for number in numbers:
            if signal.getsignal(number) is _leave:  # else a command has its own way to end
                _leave(number, None)


def _leave(signal_number: int, frame: FrameType | None) -> NoReturn:
    """Ends at once, without waiting for threads in mid-training: every write is atomic, so nothing is half-written."""
    show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""
    os.write(2, f"{show_cursor}pydrift: {signal.Signals(signal_number).name}\n".encode())
    os._exit(128 + signal_number)
