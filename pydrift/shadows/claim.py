"""Who works on a piece of work that many processes on many machines may take: a claim, which ends with its holder.

A claim on a piece is the newest of the files NAME.1, NAME.2, ... in a folder. Making such a file is atomic on every
file system, so of all that want to take a piece one succeeds; no file is ever renamed or written over, so nobody's
claim can be taken for another's. Its holder keeps it locked (flock) and touches it every HEARTBEAT_S seconds. The claim
counts as abandoned, and the piece may be taken under the next number,
* at once, where the holder ran under this kernel, on this mount, and the lock is free: the kernel drops it when the
  process ends, however it ends;
* LEASE_S seconds after the last touch where it ran on another machine, whose locks may not be visible here. Both times
  are the file server's, so that the machines' clocks need not agree.

A holder that was given up for dead and lives (a suspended machine) works on, beside the next one. So a claim saves work
but guards nothing: whoever publishes a result must do so in one atomic step that only the first can make.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

HEARTBEAT_S = 10.0
LEASE_S = 120.0
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@dataclass(frozen=True)
class Holder:
    """Who holds a claim; host and pid are those that it wrote itself, `silent_s` is how long ago it gave a sign."""

    host: str
    pid: int
    silent_s: float


@contextmanager
def claimed(folder: Path, name: str) -> Iterator[bool]:
    """Claims `name` while the with block runs; yields whether it was to be had. OSError: nothing can be written there.

    Afterwards it is free at once, for everybody.
    """
    folder.mkdir(parents=True, exist_ok=True)
    newest = _newest(folder, name)
    if newest is not None and _holder(newest) is not None:
        yield False
        return
    file = folder / f"{name}.{1 if newest is None else _number(newest) + 1}"
    try:
        claim = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:  # another one was first
        yield False
        return
    try:
        _lock(claim, fcntl.LOCK_EX)  # nobody else holds it for longer than it takes to see that it is held
        said = {"host": platform.node(), "pid": os.getpid(), "locks": _reach_of_locks(claim)}
        os.write(claim, json.dumps(said).encode())
        with _heartbeat(claim):
            yield True
    finally:
        os.utime(claim, (0, 0))  # as if silent for ever
        os.close(claim)


def holder(folder: Path, name: str) -> Holder | None:
    """Who holds the claim on `name`; None if it is free."""
    newest = _newest(folder, name)
    return None if newest is None else _holder(newest)


def forget(folder: Path, name: str) -> None:
    """Removes the claims on a piece of work that is done."""
    for file in _claims(folder, name):
        file.unlink(missing_ok=True)


def _claims(folder: Path, name: str) -> list[Path]:
    return [file for file in folder.glob(f"{name}.*") if file.suffix[1:].isdecimal()]


def _newest(folder: Path, name: str) -> Path | None:
    return max(_claims(folder, name), key=_number, default=None)


def _number(claim: Path) -> int:
    return int(claim.suffix[1:])


def _holder(claim: Path) -> Holder | None:
    try:
        with open(claim, "rb") as file:
            host, pid, locks = _said(file.read(4096))
            silent_s = max(0.0, _now(claim.parent) - os.fstat(file.fileno()).st_mtime)
            free = _lock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
            telling = locks == _reach_of_locks(file.fileno())
    except FileNotFoundError:  # done and forgotten in the meantime
        return None
    if free is False or (not (free and telling) and silent_s < LEASE_S):
        return Holder(host, pid, silent_s)
    return None


def _said(content: bytes) -> tuple[str, int, str]:
    """Host, pid and reach of locks as the holder wrote them; a claim that was only just made says nothing yet."""
    try:
        said = json.loads(content)
        return str(said["host"]), int(said["pid"]), str(said["locks"])
    except (ValueError, TypeError, KeyError):
        return "?", 0, ""


def _lock(file: int, how: int) -> bool | None:
    """Whether the lock was had; None where the file system has none."""
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
    """What two processes have in common whose locks on this file certainly see each other: the kernel and the mount."""
    try:
        kernel = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        kernel = platform.node()
    return f"{kernel} {os.fstat(file).st_dev}"


def _now(folder: Path) -> float:
    """The time by the clock of the machine that keeps the folder; by our own where nothing can be written there."""
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
            with suppress(OSError):  # a file server that is away for a moment
                os.utime(claim)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
