"""Files that can be trusted: hashes, reading that cannot be fooled, and atomic writes.

Everything pydrift writes goes through `write_atomic`, everything it reads through `read_file`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from pydrift.core.errors import InputRefused, UsageError

_TEMP_NAME = re.compile(r"\.pydrift-(\d+)-[0-9a-f]+\.tmp")


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a regular file's content, read in blocks. Refuses what `read_file` refuses."""
    with _open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_file(path: str | Path, max_bytes: int) -> bytes:
    """The content of a regular file, read once, so that what is hashed is what is parsed.

    A symbolic link to a regular file is followed: the user named the path, and model hubs keep files behind links.
    A missing file is a UsageError; folders, FIFOs, devices, unreadable and over-long files are InputRefused.
    """
    with _open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise InputRefused(f"{path}: {size} bytes, the limit is {max_bytes}")
        data = file.read(size + 1)
    if len(data) != size:
        raise InputRefused(f"{path}: changed while it was being read")
    return data


@contextmanager
def _open_regular(path: str | Path) -> Iterator[BufferedReader]:
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
    folder is synced. Mode 0600. On failure (disk full, no permission) the OSError is raised, `path` is as before and no
    temporary file stays; temporary files of processes that died are removed on the way. Tests may give something to do
    `before_rename`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale_temps(path.parent)
    temp = path.with_name(f".pydrift-{os.getpid()}-{secrets.token_hex(8)}.tmp")
    try:
        with open(os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        before_rename()
        os.replace(temp, path)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


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
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from error


def _remove_stale_temps(folder: Path) -> None:
    for entry in os.scandir(folder):
        match = _TEMP_NAME.fullmatch(entry.name)
        if match and not _is_alive(int(match[1])):
            Path(entry.path).unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return True
