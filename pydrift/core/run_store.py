"""What lets a killed run resume: a folder with the plan of a run and its finished tasks."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import signal
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pydrift.core.artifact import Format
from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.files import read_file, sha256_bytes, sha256_file, sync_folder, write_atomic
from pydrift.core.limits import MAX_ARTIFACT, MAX_PLAN
from pydrift.core.strict_json import parse_strict_json, to_strict_json, write_json
from pydrift.core.tensors import parse_sealed, sealed_bytes

if TYPE_CHECKING:
    from torch import Tensor

_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP}
_TASK_NAME = re.compile(r"[a-z0-9_-]+(/[a-z0-9_-]+)*")
_SEAL = "pydrift.task"


@dataclass(frozen=True)
class PlanFile:
    """FOLDER/plan.json: what determines the result of the work in a folder. It is written once and never changed.

    content  plain JSON values
    sha256   of the file, as it was read
    """

    format: Format
    folder: Path
    content: dict[str, Any]
    sha256: str

    @property
    def path(self) -> Path:
        return _plan_path(self.folder)

    @staticmethod
    def exists(folder: Path) -> bool:
        return _plan_path(folder).exists()

    @classmethod
    def adopt(cls, format: Format, folder: Path, content: Mapping[str, Any]) -> PlanFile:
        """The plan of the folder; `content` where it has none yet. Of several that write one at once, one does."""
        if not cls.exists(folder):
            if folder.exists() and not folder.is_dir():
                raise UsageError(f"{folder}: not a folder")
            _write_once(_plan_path(folder), {**format.heading(), **content})
        return cls.read(format, folder)

    @classmethod
    def read(cls, format: Format, folder: Path) -> PlanFile:
        """The plan of the folder. UsageError where there is none, InputRefused where it cannot be read."""
        file = _plan_path(folder)
        data = read_file(file, MAX_PLAN)
        with format.reading(file):
            raw = parse_strict_json(data)
        return cls(format, folder, format.without_heading(raw, file), sha256_bytes(data))

    def refuse_other(self, there: Any, here: Any, whose: str) -> None:
        """UsageError, by the first difference, unless the two plans are equal; `there` is of this folder."""
        difference = first_difference(there, here)
        if difference is not None:
            key, old, new = difference
            raise UsageError(
                f"{self.folder}: holds the work of another {whose} ({key} is {old} there and {new} here); "
                "choose another folder or delete this one"
            )

    def check_unchanged(self) -> None:
        """UsageError where the file on disk is no longer the one that was read."""
        if not self.path.exists() or sha256_file(self.path) != self.sha256:
            raise UsageError(f"{self.path}: was changed during the work; nothing was published")


def _plan_path(folder: Path) -> Path:
    return folder / "plan.json"


def _write_once(path: Path, raw: Mapping[str, Any]) -> None:
    """Writes JSON where no such file is; one that another process wrote first stays."""
    hidden = path.with_name(f".pydrift-{secrets.token_hex(16)}.tmp")
    try:
        write_json(hidden, raw)
        with suppress(FileExistsError):
            os.link(hidden, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A file system without hard links: who writes last wins, and work on the other plan is not published.
        os.rename(hidden, path)
    finally:
        hidden.unlink(missing_ok=True)
    sync_folder(path.parent)


class RunFolder:
    """The finished tasks of a run, kept on disk so that a killed run resumes; with `path=None` nothing is kept.

    A task has a name like "shadow/003": lower-case letters, digits, `_` and `-`, with `/` for sub-folders. It is one
    safetensors file in PATH/tasks, sealed with the SHA-256 of its content and written in one atomic step. A task whose
    seal is broken counts as not done, with a warning. `plan` is what determines the run's result; it is kept in
    PATH/plan.json. UsageError refuses a folder made for another plan, and one that another live process works in. Use
    it as a context manager, or call `close`.

    For tests only: the environment variable PYDRIFT_FAILPOINT="put:PREFIX:before|between|after" makes the process kill
    itself with SIGKILL in `put` of the first task whose name starts with PREFIX: before anything is written, between
    the writing of the file and its renaming, or after both.
    """

    _FORMAT = Format("run", 2, "Choose another folder or delete this one.")

    def __init__(self, path: str | Path | None, plan: Mapping[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self._lock: IO[bytes] | None = None
        if self.path is not None:
            self._lock = _lock_folder(self.path)
            try:
                here = parse_strict_json(to_strict_json(plan).encode())
                kept = PlanFile.adopt(self._FORMAT, self.path, {"plan": here})
                kept.refuse_other(kept.content.get("plan"), here, "run")
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets another process have the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def get(self, task: str) -> dict[str, Tensor] | None:
        """The tensors of a finished task by sorted name, on the CPU, bit for bit as they were put; None if not done."""
        found = self._read(task)
        return None if found is None else found[1]

    def metadata(self, task: str) -> dict[str, str] | None:
        """The `meta` of a finished task; None if it is not done."""
        found = self._read(task)
        return None if found is None else found[0]

    def put(self, task: str, tensors: Mapping[str, Tensor], meta: Mapping[str, str] | None = None) -> None:
        """Records a task as finished. OSError (disk full) leaves it not done."""
        if self.path is None:
            return
        file = self._file(task)
        failpoint(task, "before")
        write_atomic(file, sealed_bytes(_SEAL, meta or {}, tensors), partial(failpoint, task, "between"))
        failpoint(task, "after")

    def _file(self, task: str) -> Path:
        if not _TASK_NAME.fullmatch(task):
            raise ValueError(f"not a task name: {task!r}")
        assert self.path is not None
        base = self.path / "tasks" / task
        return base.with_name(base.name + ".safetensors")

    def _read(self, task: str) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        if self.path is None or not (file := self._file(task)).exists():
            return None
        try:
            return parse_sealed(_SEAL, read_file(file, MAX_ARTIFACT))
        except (UsageError, InputRefused, ValueError):
            warnings.warn(f"{file}: unfinished or damaged; the task is done again", stacklevel=3)
            return None


def _lock_folder(path: Path) -> IO[bytes]:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise UsageError(f"{path}: not a folder") from error
    lock = open(os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b")  # noqa: SIM115 kept open
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel drops it when the process ends, however it ends
    except BlockingIOError as error:
        lock.close()
        raise UsageError(f"{path}: another pydrift run is working in this folder") from error
    return lock


def first_difference(there: Any, here: Any, key: str = "") -> tuple[str, str, str] | None:
    """The first key, in sorted order and dotted for nested ones, whose values differ."""
    if isinstance(there, dict) and isinstance(here, dict):
        for name in sorted(there.keys() | here.keys()):
            inner = f"{key}.{name}" if key else name
            if name not in there or name not in here:
                shown = [repr(plan[name]) if name in plan else "not set" for plan in (there, here)]
                return inner, shown[0], shown[1]
            if difference := first_difference(there[name], here[name], inner):
                return difference
        return None
    return None if there == here and type(there) is type(here) else (key, repr(there), repr(here))


def failpoint(task: str, moment: str) -> None:
    """For tests only: see RunFolder."""
    _, _, wanted = os.environ.get("PYDRIFT_FAILPOINT", "").partition("put:")
    prefix, _, when = wanted.rpartition(":")
    if when == moment and task.startswith(prefix):
        os.kill(os.getpid(), signal.SIGKILL)
