"""Files that can be trusted: hashes, reading that cannot be fooled, and atomic writes.

Everything pydrift writes goes through `write_atomic`, everything it reads through `read_file`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from pydrift.core.errors import InputRefused, UsageError

_TEMP_NAME = re.compile(r"\.pydrift-[0-9a-f-]+\.tmp")
_STALE_S = 24 * 3600  # no write takes so long


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a regular file's content, read in blocks. Refuses what `read_file` refuses."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_file(path: str | Path, max_bytes: int) -> bytes:
    """The content of a regular file, read once, so that what is hashed is what is parsed.

    A symbolic link to a regular file is followed: the user named the path, and model hubs keep files behind links.
    A missing file is a UsageError; folders, FIFOs, devices, unreadable, over-long and empty files are InputRefused. So
    are HTML pages and Git LFS pointers, which are often found where another file should be.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise InputRefused(f"{path}: {size} bytes, the limit is {max_bytes}")
        data = file.read(size + 1)
    if len(data) != size:
        raise InputRefused(f"{path}: changed while it was being read")
    if stands_for := _stand_in(data):
        raise InputRefused(f"{path}: {stands_for}")
    return data


def _stand_in(data: bytes) -> str | None:
    """In words, what a file is that is often found in the place of another one; None if it is no such file."""
    if not data:
        return "an empty file; was its download or its writing cut off?"
    head = data[:256].lstrip().lower()
    if head.startswith(b"version https://git-lfs.github.com/"):
        return "a Git LFS pointer, which only names the file; fetch the file itself: git lfs pull"
    if head.startswith((b"<!doctype html", b"<html")):
        return "an HTML page, not the file; open its address in a browser to see what the server says"
    return None


@contextmanager
def open_regular(path: str | Path) -> Iterator[BufferedReader]:
    """A regular file, open for reading. Other things are refused without waiting for them; see `read_file`."""
    try:
        # O_NONBLOCK: opening a FIFO that nobody writes to would otherwise wait forever.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InputRefused(f"{path}: not a regular file")
            yield file
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise InputRefused(f"{path}: not a regular file") from error
    except OSError as error:
        raise InputRefused(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in the path
        raise UsageError(f"{path}: no such file") from error


def write_atomic(path: str | Path, data: bytes, before_rename: Callable[[], None] = lambda: None) -> None:
    """Writes a file so that any reader, at any time and after any crash, sees the old content or the new, never a part.

    The data goes to a temporary file in the same folder (made if missing), is synced, renamed onto `path`, and the
    folder is synced. Mode 0600. UsageError where `path` is something else than a regular file: it is never replaced. On
    failure (disk full, no permission) the OSError names `path`, which is as before, and no temporary file stays. Those
    of writers that were killed are removed on the way when they are a day old. Tests may give something to do
    `before_rename`.
    """
    path = Path(path)
    _refuse_to_replace(path)
    temp = path.with_name(f".pydrift-{secrets.token_hex(16)}.tmp")  # hosts and containers may share the folder
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                _remove_stale_temps(path.parent, os.fstat(file.fileno()).st_mtime)
            before_rename()
            _refuse_to_replace(path)
            os.replace(temp, path)
        except BaseException:
            temp.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno, _reason(error, path, len(data)), str(path)) from error


def sync_folder(path: Path) -> None:
    """Makes the names in a folder outlive a crash of the machine."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def check_writable(path: str | Path) -> None:
    """UsageError where `write_atomic(path, ...)` could not succeed: to ask before hours of work. Leaves nothing."""
    path = Path(path)
    folder = path.parent
    try:
        _refuse_to_replace(path)
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from error


def _refuse_to_replace(path: Path) -> None:
    """UsageError unless `path` is a regular file or nothing: a device or a FIFO would be gone, a link be cut."""
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISLNK(mode):
        raise UsageError(f"{path}: cannot be written: it is a symbolic link; name the file that it points to")
    if stat.S_ISDIR(mode):
        raise UsageError(f"{path}: cannot be written: {os.strerror(errno.EISDIR)}")
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path}: cannot be written: it is not a regular file")


def _reason(error: OSError, path: Path, needed: int) -> str:
    """Why a write failed; of a full disk also the need and what is free."""
    reason = error.strerror or type(error).__name__
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return reason
    return f"{reason}: {needed:,} bytes are needed, {shutil.disk_usage(path.parent).free:,} are free"


def _remove_stale_temps(folder: Path, now: float) -> None:
    """Removes the temporary files of killed writers; `now` is the time on the machine that holds the folder."""
    for entry in os.scandir(folder):
        if _TEMP_NAME.fullmatch(entry.name):
            with suppress(OSError):
                if now - entry.stat(follow_symlinks=False).st_mtime > _STALE_S:
                    os.unlink(entry.path)
