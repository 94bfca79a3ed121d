"""Claims on pieces of work that many processes on many machines may take. A claim ends with its holder.

The claim on a piece is the newest of the files NAME.1, NAME.2, ... in a folder. Making a file is atomic on every file
system, so only one of several processes gets a piece. No file is ever renamed or overwritten, so no claim is taken for
another one. The holder keeps its file locked (flock) and touches it every HEARTBEAT_S seconds. A claim counts as
abandoned, and the piece may be claimed under the next number, in two cases:
* The holder ran under this kernel, on this mount, and the lock is free. The kernel drops a lock when its process ends.
* The holder ran on another machine, whose locks may not be visible here, and the last touch is LEASE_S seconds old.
  Both times come from the file server, so the clocks of the machines need not agree.

A holder that counts as dead may still be alive (a suspended machine), and then works beside the next holder. So a claim
saves work but protects nothing: a result must be published in one atomic step that only the first worker can make.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.files import open_regular

HEARTBEAT_S = 10.0
LEASE_S = 120.0
_NUMBER = re.compile("[0-9]{1,15}")
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@dataclass(frozen=True)
class Holder:
    """The process that holds a claim: its host and pid, and the seconds since it last touched its file."""

    host: str
    pid: int
    silent_s: float


@contextmanager
def claimed(folder: Path, name: str) -> Iterator[bool]:
    """Claims `name` while the with block runs; yields whether the claim succeeded. OSError: the folder is not writable.

    After the with block `name` is free at once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    newest = _newest(folder, name)
    if newest is not None and _holder(newest) is not None:
        yield False
        return
    file = folder / f"{name}.{1 if newest is None else _number(newest) + 1}"
    try:
        claim = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:  # another process was first
        yield False
        return
    try:
        _lock(claim, fcntl.LOCK_EX)  # others hold it only for the moment in which they test it
        record = {"host": platform.node(), "pid": os.getpid(), "locks": _reach_of_locks(claim)}
        os.write(claim, json.dumps(record).encode())
        with _heartbeat(claim):
            yield True
    finally:
        os.utime(claim, (0, 0))  # as if last touched long ago
        os.close(claim)


def holder(folder: Path, name: str) -> Holder | None:
    """The holder of the claim on `name`; None if it is free."""
    newest = _newest(folder, name)
    return None if newest is None else _holder(newest)


def forget(folder: Path, name: str) -> None:
    """Removes all claims on a piece of work that is done."""
    for file in _claims(folder, name):
        with suppress(IsADirectoryError, PermissionError):  # a folder is no claim
            file.unlink(missing_ok=True)


def _claims(folder: Path, name: str) -> list[Path]:
    return [file for file in folder.glob(f"{name}.*") if _NUMBER.fullmatch(file.suffix[1:])]


def _newest(folder: Path, name: str) -> Path | None:
    return max(_claims(folder, name), key=_number, default=None)


def _number(claim: Path) -> int:
    return int(claim.suffix[1:])


def _holder(claim: Path) -> Holder | None:
    try:
        with open_regular(claim) as file:
            host, pid, locks = _read_holder(file.read(4096))
            silent_s = _now(claim.parent) - os.fstat(file.fileno()).st_mtime
            free = _lock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
            telling = locks == _reach_of_locks(file.fileno())
    except (UsageError, InputRefused):  # removed in the meantime, or nothing that a worker makes
        return None
    # A date in the future is none of a heartbeat, and would hold the claim until then.
    if free is False or (not (free and telling) and -LEASE_S < silent_s < LEASE_S):
        return Holder(host, pid, max(0.0, silent_s))
    return None


def _read_holder(content: bytes) -> tuple[str, int, str]:
    """Host, pid and reach of locks as the holder wrote them; a claim that was just made may be empty."""
    try:
        record = json.loads(content)
        return str(record["host"]), int(record["pid"]), str(record["locks"])
    except (ValueError, TypeError, KeyError):
        return "?", 0, ""


def _lock(file: int, how: int) -> bool | None:
    """Whether the lock was acquired; None where the file system has no locks."""
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def _reach_of_locks(file: int) -> str:
    """The kernel and the mount. Two processes that have both in common certainly see each other's locks."""
    try:
        kernel = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        kernel = platform.node()
    return f"{kernel} {os.fstat(file).st_dev}"


def _now(folder: Path) -> float:
    """The time on the machine that holds the folder; our own time where the folder is not writable."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()


@contextmanager
def _heartbeat(claim: int) -> Iterator[None]:
    done = threading.Event()

    def beat() -> None:
        while not done.wait(HEARTBEAT_S):
            with suppress(OSError):  # a file server may be away for a moment
                os.utime(claim)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
