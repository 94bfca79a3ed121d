"""Files that can be trusted: hashes, atomic writes, strict JSON, manifests, and the run folder that lets a run resume.

Everything pydrift writes goes through `write_atomic`, everything it reads through `read_file`. The rest of the package
imports this module before torch, so torch and safetensors are imported where they are used.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import signal
import stat
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pydrift.core.errors import InputRefused, UsageError

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "MANIFEST.json"
_MAX_JSON = 256 << 20
_MAX_TENSORS = 64 << 30
_TASK_NAME = re.compile(r"[a-z0-9_-]+(/[a-z0-9_-]+)*")
_TEMP_NAME = re.compile(r"\.pydrift-(\d+)-[0-9a-f]+\.tmp")


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's content, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names (sorted), dtypes, shapes and bytes; whatever the device, strides and order of the mapping."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file as bytes, a pure function of its arguments.

    `safetensors.torch.save` puts the metadata in an order that changes from call to call, which would give the same
    model another SHA-256 each time it is saved; so its header is written again with sorted keys.
    """
    from safetensors.torch import save

    raw = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, dict(metadata))
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.dumps(json.loads(raw[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the tensors stay aligned to 8 bytes
    return len(header).to_bytes(8, "little") + header + raw[end:]


def read_file(path: str | Path, max_bytes: int) -> bytes:
    """The content of a regular file, read once, so that what is hashed is what is parsed.

    A symbolic link to a regular file is followed: the user named the path, and model hubs keep files behind links.
    A missing file is a UsageError; folders, FIFOs, devices, unreadable and over-long files are InputRefused.
    """
    try:
        # O_NONBLOCK: opening a FIFO that nobody writes to would otherwise wait forever.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputRefused(f"{path}: not a regular file")
            if status.st_size > max_bytes:
                raise InputRefused(f"{path}: {status.st_size} bytes, the limit is {max_bytes}")
            data = file.read(status.st_size + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise InputRefused(f"{path}: not a regular file") from error
    except OSError as error:
        raise InputRefused(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) != status.st_size:
        raise InputRefused(f"{path}: changed while it was being read")
    return data


def write_atomic(path: str | Path, data: bytes) -> None:
    """Writes a file so that any reader, at any time and after any crash, sees the old content or the new, never a part.

    The data goes to a temporary file in the same folder (made if missing), is synced, renamed onto `path`, and the
    folder is synced. Mode 0600. On failure (disk full, no permission) the OSError is raised, `path` is as before and no
    temporary file stays; temporary files of processes that died are removed on the way.
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


def to_strict_json(obj: Any) -> str:
    """Canonical JSON: sorted keys, indent 2, ASCII, trailing newline. ValueError for NaN and infinities."""
    return json.dumps(obj, allow_nan=False, sort_keys=True, indent=2) + "\n"


def write_json(path: str | Path, obj: Any) -> None:
    """Writes `to_strict_json(obj)` atomically."""
    write_atomic(path, to_strict_json(obj).encode())


def parse_strict_json(text: bytes) -> Any:
    """Parses JSON. ValueError for what JSON does not have (NaN, Infinity) and for an object with the same key twice."""

    def refuse_constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("an object has the same key twice")
        return result

    try:
        return json.loads(text, parse_constant=refuse_constant, object_pairs_hook=unique)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_json(path: str | Path) -> Any:
    """Reads a strict JSON file; InputRefused names the file if it is not one."""
    try:
        return parse_strict_json(read_file(path, _MAX_JSON))
    except ValueError as error:
        raise InputRefused(f"{path}: not valid JSON: {error}") from error


def write_manifest(folder: str | Path, extra: Mapping[str, Any]) -> None:
    """Writes MANIFEST.json: `extra` and, under "files", the SHA-256 of every file below `folder`. Call it last.

    Hidden files and symbolic links are not listed.
    """
    if "files" in extra:
        raise ValueError('a manifest\'s own key "files" cannot be given as extra')
    hashes = {name: sha256_file(path) for name, path in _files_below(Path(folder)).items()}
    write_json(Path(folder) / MANIFEST, {**extra, "files": hashes})


def verify_manifest(folder: str | Path) -> dict[str, Any]:
    """Checks every file below `folder` against its MANIFEST.json and returns the manifest.

    InputRefused names the first file that is missing, changed or not listed. Only files found below the folder are
    opened, so a path in a manifest can lead nowhere else.
    """
    folder = Path(folder)
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise InputRefused(f"{folder / MANIFEST}: not a manifest")
    listed, found = manifest["files"], _files_below(folder)
    for name in sorted(listed.keys() | found.keys()):
        if name not in found:
            raise InputRefused(f"{folder}: {name!a} is listed in {MANIFEST} but missing")
        if name not in listed:
            raise InputRefused(f"{folder}: {name!a} is not listed in {MANIFEST}")
        if sha256_file(found[name]) != listed[name]:
            raise InputRefused(f"{folder}: {name!a} was changed or damaged: its SHA-256 is not the one in {MANIFEST}")
    return manifest


def read_verified(folder: str | Path, name: str, manifest: Mapping[str, Any]) -> bytes:
    """The content of a listed file, read once, so that what is hashed is what is parsed. InputRefused if it changed."""
    file = Path(folder) / name
    data = read_file(file, _MAX_TENSORS)
    if sha256_bytes(data) != manifest["files"].get(name):
        raise InputRefused(f"{file}: its SHA-256 is not the one in {MANIFEST}")
    return data


def _files_below(folder: Path) -> dict[str, Path]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    relative = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: path for name, path in relative.items() if name != MANIFEST and not f"/{name}".count("/.")}


def refuse_manifest_folder(folder: str | Path) -> None:
    """UsageError where `folder` is sealed by a manifest: one more file in it would make it unreadable."""
    if (Path(folder) / MANIFEST).exists():
        manifest = read_json(Path(folder) / MANIFEST)
        kind = manifest.get("kind") if isinstance(manifest, dict) else None
        what = kind.removeprefix("pydrift ") if isinstance(kind, str) else "folder with a manifest"
        raise UsageError(f"{folder}: is a {ascii(what)[1:-1]}; give another folder")


class RunFolder:
    """The finished tasks of a run, kept on disk so that a killed run resumes; with `path=None` nothing is kept.

    A task (a name like "shadow/003": lower-case letters, digits, `_` and `-`, with `/` for sub-folders) is one
    safetensors file in PATH/tasks and, written after it, its SHA-256 in the format of sha256sum. A task whose hash is
    missing or wrong counts as not done, with a warning. `plan` is what determines the run's result; it is kept in
    PATH/plan.json, and a folder made for another plan is refused with UsageError, as is a folder that another live
    process works in. Use it as a context manager, or call `close`.

    For tests only: the environment variable PYDRIFT_FAILPOINT="put:PREFIX:before|between|after" makes the process kill
    itself with SIGKILL in `put` of the first task whose name starts with PREFIX: before anything is written, between
    the tensors and the hash, or after both.
    """

    def __init__(self, path: str | Path | None, plan: Mapping[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self._lock: IO[bytes] | None = None
        if self.path is not None:
            self._lock = _lock_folder(self.path)
            try:
                self._adopt_plan(self.path / "plan.json", json.loads(to_strict_json(plan)))
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
        from safetensors.torch import load

        data = self._read(task)
        return None if data is None else dict(sorted(load(data).items()))

    def metadata(self, task: str) -> dict[str, str] | None:
        """The `meta` of a finished task; None if it is not done."""
        data = self._read(task)
        if data is None:
            return None
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return dict(header.get("__metadata__", {}))

    def put(self, task: str, tensors: Mapping[str, Tensor], meta: Mapping[str, str] | None = None) -> None:
        """Records a task as finished. OSError (disk full) leaves it not done."""
        if self.path is None:
            return
        file, record = self._files(task)
        failpoint(task, "before")
        data = safetensors_bytes(tensors, meta or {})
        write_atomic(file, data)
        failpoint(task, "between")
        write_atomic(record, f"{sha256_bytes(data)}  {file.name}\n".encode())
        failpoint(task, "after")

    def _files(self, task: str) -> tuple[Path, Path]:
        if not _TASK_NAME.fullmatch(task):
            raise ValueError(f"not a task name: {task!r}")
        assert self.path is not None
        base = self.path / "tasks" / task
        return base.with_name(base.name + ".safetensors"), base.with_name(base.name + ".sha256")

    def _read(self, task: str) -> bytes | None:
        if self.path is None:
            return None
        file, record = self._files(task)
        if not file.exists() and not record.exists():
            return None
        try:
            data = read_file(file, _MAX_TENSORS)
            if record.read_text().split() == [sha256_bytes(data), file.name]:
                return data
        except (UsageError, InputRefused, OSError, ValueError):
            pass
        warnings.warn(f"{file}: unfinished or damaged; the task is done again", stacklevel=3)
        return None

    @staticmethod
    def _adopt_plan(file: Path, plan: dict[str, Any]) -> None:
        if not file.exists():
            write_json(file, plan)
            return
        difference = first_difference(read_json(file), plan)
        if difference is not None:
            key, there, here = difference
            raise UsageError(
                f"{file.parent}: holds the work of another run ({key} is {there} there and {here} here); "
                "choose another folder or delete this one"
            )


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
