"""Files: hashes, writes that are all or nothing, and reading that takes regular files only."""

import os
import stat
import subprocess
import sys
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


def test_write_replaces_a_link_and_not_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "outside")
    files.write_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "outside").read_bytes() == b"mine"
    assert not (tmp_path / "link").is_symlink()


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


def test_a_failed_rename_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        files.write_atomic(tmp_path / "folder", b"x")
    assert names_below(tmp_path) == set()


def test_temporary_files_of_dead_writers_go_and_those_of_live_ones_stay(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, os.getpid()):
        (tmp_path / f".pydrift-{pid}-00ff.tmp").write_bytes(b"part")
    files.write_atomic(tmp_path / "f", b"x")
    assert names_below(tmp_path) == {"f", f".pydrift-{os.getpid()}-00ff.tmp"}


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
