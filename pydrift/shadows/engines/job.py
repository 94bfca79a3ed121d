"""What every launcher is given, and what all of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from pydrift.core.errors import UsageError

POLL_S = 0.5
BLOCKS_LEFT = 3  # exit code of a worker that ends while others train the rest
ENDS_WITH_STDIN = "PYDRIFT_ENDS_WITH_STDIN"  # the environment variable that asks a worker to


@dataclass(frozen=True)
class Job:
    """The work that a launcher starts.

    command  of one worker, as a list of words
    blocks   how many blocks are not trained yet
    workers  how many commands may run at the same time
    folder   the folder of tasks
    options  of the launcher's own library
    watch    to be called now and then; it reports the blocks that were finished meanwhile
    """

    command: tuple[str, ...]
    blocks: int
    workers: int
    folder: Path
    options: Mapping[str, Any]
    watch: Callable[[], None]


def last_error(text: str) -> str:
    """The error that a worker printed last, without the words that a launcher has put around it."""
    lines = text.strip().splitlines() or ["it printed no error"]
    return next((line.partition("pydrift: ")[2] for line in reversed(lines) if "pydrift: " in line), lines[-1])


def import_extra(name: str) -> Any:
    """The module of an optional dependency. UsageError, with the command that installs it, if it is missing."""
    try:
        module = import_module(name)
    except ImportError:
        module = None
    if getattr(module, "__file__", None) is None:  # missing, or only a folder of that name
        raise UsageError(f"the launcher {name} is not installed: pip install 'pydrift[{name}]'")
    return module
