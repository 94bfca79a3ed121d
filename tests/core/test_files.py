"""Files: hashes, writes that are all or nothing, and reading that takes regular files only."""

import errno
import os
import re
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pydrift.core import files
from pydrift.core.errors import InputRefused, UsageError
from tests.core.processes import names_below, run_python


def test_hashes_of_bytes_and_files(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.sha256_bytes(b"abc") == files.sha256_file(tmp_path / "f") == expected


def test_write_is_private_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "new" / "f.bin"
    files.write_atomic(target, b"one")
    files.write_atomic(target, b"two")
    assert target.read_bytes() == b"two"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert names_below(tmp_path) == {"new/f.bin"}


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda path: path.symlink_to(path.with_name("outside")),
            "it is a symbolic link; name the file that it points",
        ),
        (lambda path: path.symlink_to("/dev/null"), "it is a symbolic link; name the file that it points to"),
        (os.mkfifo, "it is not a regular file"),
        (Path.mkdir, "Is a directory"),
    ],
)
def test_only_a_regular_file_or_nothing_is_replaced(
    tmp_path: Path, make: Callable[[Path], object], reason: str
) -> None:
    (tmp_path / "outside").write_bytes(b"mine")
    make(tmp_path / "target")
    before = os.lstat(tmp_path / "target")
    for write in (files.check_writable, lambda path: files.write_atomic(path, b"new")):
        with pytest.raises(UsageError, match=f"target: cannot be written: {reason}"):
            write(tmp_path / "target")
    assert os.lstat(tmp_path / "target")[:3] == before[:3]
    assert names_below(tmp_path) == {"outside"} | ({"target"} if (tmp_path / "target").is_file() else set())
    assert (tmp_path / "outside").read_bytes() == b"mine"


def test_a_device_is_not_replaced() -> None:
    for write in (files.check_writable, lambda path: files.write_atomic(path, b"new")):
        with pytest.raises(UsageError, match=r"^/dev/null: cannot be written: it is not a regular file$"):
            write("/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_full_disk_names_the_file_the_need_and_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        files.write_atomic(tmp_path / "f", bytes(12_345))
    assert error.value.filename == str(tmp_path / "f")
    assert re.fullmatch(r"No space left on device: 12,345 bytes are needed, [\d,]+ are free", str(error.value.strerror))
    assert names_below(tmp_path) == set()


def test_disk_full_keeps_the_old_file_and_no_part_of_the_new(tmp_path: Path) -> None:
    code = """
        import resource, signal, sys
        from pydrift.core.files import write_atomic
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            write_atomic(sys.argv[1], b"x" * 100_000)
        except OSError as error:
            print(error.strerror)
    """
    (tmp_path / "f").write_bytes(b"old")
    assert run_python(code, tmp_path / "f").stdout == "File too large\n"
    assert run_python(code, tmp_path / "g").stdout == "File too large\n"
    assert names_below(tmp_path) == {"f"}
    assert (tmp_path / "f").read_bytes() == b"old"


def test_temporary_files_go_by_their_age_only(tmp_path: Path) -> None:
    """Who wrote one cannot be known: its process may be in another container or on another host."""
    for name, hours in (
        (".pydrift-00ff.tmp", 25),
        (".pydrift-12-00ff.tmp", 25),
        (".pydrift-1-2.tmp", 23),
        ("f.tmp", 99),
    ):
        (tmp_path / name).write_bytes(b"part")
        os.utime(tmp_path / name, times=(0, time.time() - 3600 * hours))
    files.write_atomic(tmp_path / "f", b"x")
    assert names_below(tmp_path) == {"f", "f.tmp", ".pydrift-1-2.tmp"}


def test_writers_that_share_a_folder_do_not_disturb_each_other(tmp_path: Path) -> None:
    def write(number: int) -> None:
        files.write_atomic(tmp_path / f"f{number % 3}", str(number).encode())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(200)))
    assert names_below(tmp_path) == {"f0", "f1", "f2"}


def test_read_file_takes_regular_files_and_links_to_them_only(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("f")
    os.mkfifo(tmp_path / "fifo")
    assert files.read_file(tmp_path / "link", 5) == b"12345"
    for name in ("fifo", ".", "/dev/zero"):
        with pytest.raises(InputRefused, match=r": not a regular file$"):
            files.read_file(tmp_path / name, 5)
    with pytest.raises(InputRefused, match=r"f: 5 bytes, the limit is 4$"):
        files.read_file(tmp_path / "f", 4)
    with pytest.raises(InputRefused, match=r"status: changed while it was being read$"):
        files.read_file("/proc/self/status", 5)  # claims 0 bytes and has more
    for name in ("missing", "f/below"):
        with pytest.raises(UsageError, match=r": no such file$"):
            files.read_file(tmp_path / name, 5)


def test_a_write_that_is_stopped_before_the_renaming_changes_nothing(tmp_path: Path) -> None:
    files.write_atomic(tmp_path / "f", b"old")

    def stop() -> None:
        assert len(names_below(tmp_path)) == 2
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_atomic(tmp_path / "f", b"new", stop)
    assert names_below(tmp_path) == {"f"}
    assert (tmp_path / "f").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "an empty file; was its download or its writing cut off?"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "a Git LFS pointer, which only names"),
        (b"\n<!DOCTYPE html><html><body>Sign in", "an HTML page, not the file; open its address in a browser"),
        (b"<HTML>404", "an HTML page, not the file"),
    ],
)
def test_what_often_stands_for_another_file_is_named(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(InputRefused, match=f"f: {re.escape(what)}"):
        files.read_file(tmp_path / "f", 1000)
