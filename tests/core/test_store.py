import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
import torch

from pydrift.core import store
from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.store import RunFolder

TENSORS = {
    "w": torch.tensor([[1.5, -0.0], [float("nan"), 3e38]]),
    "n": torch.tensor(7),
    "none": torch.empty(0, 3, dtype=torch.float64),
    "flag": torch.tensor([True, False]),
}


def run_python(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )


def names_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return store.tensors_digest(a) == store.tensors_digest(b)


# --- hashes and serialisation


def test_hashes_of_bytes_and_files(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert store.sha256_bytes(b"abc") == store.sha256_file(tmp_path / "f") == expected


def test_digest_ignores_order_and_strides_and_sees_everything_else() -> None:
    digest = store.tensors_digest(TENSORS)
    assert store.tensors_digest(dict(reversed(TENSORS.items()))) == digest
    assert store.tensors_digest({**TENSORS, "w": TENSORS["w"].t().contiguous().t()}) == digest
    for other in (
        {**TENSORS, "w": TENSORS["w"].reshape(4)},
        {**TENSORS, "w": TENSORS["w"].view(torch.int32)},
        {**TENSORS, "w": torch.tensor([[1.5, 0.0], [float("nan"), 3e38]])},
        {("v" if name == "w" else name): tensor for name, tensor in TENSORS.items()},
    ):
        assert store.tensors_digest(other) != digest


def test_safetensors_bytes_do_not_depend_on_the_process_or_the_order() -> None:
    code = """
        import hashlib, torch
        from pydrift.core.store import safetensors_bytes
        metadata = {str(i): "é" for i in range(9)}
        print(hashlib.sha256(safetensors_bytes({"b": torch.ones(3), "a": torch.zeros(2)}, metadata)).hexdigest())
    """
    metadata = {str(i): "é" for i in reversed(range(9))}
    here = store.sha256_bytes(store.safetensors_bytes({"a": torch.zeros(2), "b": torch.ones(3)}, metadata))
    assert run_python(code).stdout.strip() == here


# --- atomic writes


def test_write_is_private_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "new" / "f.bin"
    store.write_atomic(target, b"one")
    store.write_atomic(target, b"two")
    assert target.read_bytes() == b"two"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert names_below(tmp_path) == {"new/f.bin"}


def test_write_replaces_a_link_and_not_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "outside")
    store.write_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "outside").read_bytes() == b"mine"
    assert not (tmp_path / "link").is_symlink()


def test_disk_full_keeps_the_old_file_and_no_part_of_the_new(tmp_path: Path) -> None:
    code = """
        import resource, signal, sys
        from pydrift.core.store import write_atomic
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
        store.write_atomic(tmp_path / "folder", b"x")
    assert names_below(tmp_path) == set()


def test_temporary_files_of_dead_writers_go_and_those_of_live_ones_stay(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, os.getpid()):
        (tmp_path / f".pydrift-{pid}-00ff.tmp").write_bytes(b"part")
    store.write_atomic(tmp_path / "f", b"x")
    assert names_below(tmp_path) == {"f", f".pydrift-{os.getpid()}-00ff.tmp"}


# --- reading


def test_read_file_takes_regular_files_and_links_to_them_only(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("f")
    os.mkfifo(tmp_path / "fifo")
    assert store.read_file(tmp_path / "link", 5) == b"12345"
    for name in ("fifo", ".", "/dev/zero"):
        with pytest.raises(InputRefused, match=r": not a regular file$"):
            store.read_file(tmp_path / name, 5)
    with pytest.raises(InputRefused, match=r"f: 5 bytes, the limit is 4$"):
        store.read_file(tmp_path / "f", 4)
    with pytest.raises(InputRefused, match=r"status: changed while it was being read$"):
        store.read_file("/proc/self/status", 5)  # claims 0 bytes and has more
    for name in ("missing", "f/below"):
        with pytest.raises(UsageError, match=r": no such file$"):
            store.read_file(tmp_path / name, 5)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "a": 2}', "an object has the same key twice"),
        ('{"a": NaN}', "NaN is not JSON"),
        ("[-Infinity]", "-Infinity is not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a"', "Expecting"),
        ("\xff", "Expecting"),
    ],
)
def test_read_json_refuses(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(InputRefused, match=rf"f\.json: not valid JSON: {reason}"):
        store.read_json(tmp_path / "f.json")


def test_json_is_canonical_and_strict(tmp_path: Path) -> None:
    assert store.to_strict_json({"b": 1, "a": "é"}) == '{\n  "a": "\\u00e9",\n  "b": 1\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.write_json(tmp_path / "f", [float("nan")])
    assert names_below(tmp_path) == set()


# --- manifests


def test_manifest_round_trip(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_bytes(b"a")
    (tmp_path / ".lock").touch()
    store.write_manifest(tmp_path, {"kind": "calibration"})
    manifest = store.verify_manifest(tmp_path)
    assert manifest == {"kind": "calibration", "files": {"sub/a": store.sha256_bytes(b"a")}}


def test_manifest_names_what_is_changed_missing_or_unlisted(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    store.write_manifest(tmp_path, {})
    (tmp_path / "a").write_bytes(b"A")
    with pytest.raises(
        InputRefused, match=r"'a' was changed or damaged: its SHA-256 is not the one in MANIFEST\.json$"
    ):
        store.verify_manifest(tmp_path)
    (tmp_path / "a").unlink()
    (tmp_path / "a").symlink_to("b")
    with pytest.raises(InputRefused, match=r"'a' is listed in MANIFEST\.json but missing$"):
        store.verify_manifest(tmp_path)
    (tmp_path / "a").unlink()
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "c").touch()
    with pytest.raises(InputRefused, match=r"'c' is not listed in MANIFEST\.json$"):
        store.verify_manifest(tmp_path)


def test_what_is_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='own key "files"'):
        store.write_manifest(tmp_path, {"files": {}})
    for content in ([], {}, {"files": []}):
        store.write_json(tmp_path / store.MANIFEST, content)
        with pytest.raises(InputRefused, match=r"MANIFEST\.json: not a manifest$"):
            store.verify_manifest(tmp_path)


def test_a_manifest_cannot_point_outside(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s")
    (tmp_path / "folder").mkdir()
    store.write_json(tmp_path / "folder" / store.MANIFEST, {"files": {"../secret": store.sha256_bytes(b"s")}})
    with pytest.raises(InputRefused, match=r"'\.\./secret' is listed in MANIFEST\.json but missing$"):
        store.verify_manifest(tmp_path / "folder")


# --- the run folder


def test_a_task_comes_back_bit_for_bit_in_another_run(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", {"seed": 0}) as run:
        assert run.get("shadow/003") is None
        run.put("shadow/003", TENSORS, {"seconds": "1.5"})
    with RunFolder(tmp_path / "run", {"seed": 0}) as run:
        found = run.get("shadow/003")
        assert found is not None
        assert same_bits(found, TENSORS)
        assert run.metadata("shadow/003") == {"seconds": "1.5"}
        assert run.metadata("shadow/004") is None
    assert names_below(tmp_path) == {
        *("run/plan.json", "run/.lock", "run/tasks/shadow/003.safetensors", "run/tasks/shadow/003.sha256"),
    }
    record = tmp_path / "run/tasks/shadow/003.sha256"
    assert subprocess.run(["sha256sum", "-c", record.name], cwd=record.parent, stdout=subprocess.PIPE).returncode == 0


def test_without_a_path_nothing_is_kept() -> None:
    with RunFolder(None, {}) as run:
        run.put("a", TENSORS)
        assert run.get("a") is None
        assert run.metadata("a") is None


@pytest.mark.parametrize("name", ["", "../a", "/a", "a/", "a//b", "a.b", "A", "a\n", "a/../b", "a b"])
def test_a_task_name_cannot_lead_elsewhere(tmp_path: Path, name: str) -> None:
    with RunFolder(tmp_path, {}) as run, pytest.raises(ValueError, match="not a task name"):
        run.put(name, TENSORS)


def test_another_plan_is_refused_by_its_first_difference(tmp_path: Path) -> None:
    plan = {"seed": 0, "recipe": {"epochs": 3, "sizes": (1, 2)}}
    RunFolder(tmp_path, plan).close()
    RunFolder(tmp_path, plan).close()
    advice = "; choose another folder or delete this one"
    for other, difference in (
        ({**plan, "seed": 1}, "seed is 0 there and 1 here"),
        ({"seed": 1, "recipe": {"epochs": 4, "sizes": (1, 2)}}, "recipe.epochs is 3 there and 4 here"),
        ({"recipe": plan["recipe"]}, "seed is 0 there and not set here"),
        ({**plan, "extra": None}, "extra is not set there and None here"),
    ):
        with pytest.raises(UsageError) as error:
            RunFolder(tmp_path, other)
        assert str(error.value) == f"{tmp_path}: holds the work of another run ({difference}){advice}"
    RunFolder(tmp_path, plan).close()  # a refusal left the folder free and as it was


def test_a_second_process_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    code = """
        import sys
        from pydrift.core.store import RunFolder
        try:
            RunFolder(sys.argv[1], {})
            print("free")
        except Exception as error:
            print(type(error).__name__, error)
    """
    with RunFolder(tmp_path, {}):
        second = run_python(code, tmp_path).stdout
        assert second == f"UsageError {tmp_path}: another pydrift run is working in this folder\n"
    assert run_python(code, tmp_path).stdout == "free\n"


def test_a_file_is_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(UsageError, match=r"f: not a folder$"):
        RunFolder(tmp_path / "f", {})


@pytest.mark.parametrize("damage", ["flip", "truncate", "no record", "no tensors", "empty record"])
def test_a_damaged_task_counts_as_not_done_and_can_be_done_again(tmp_path: Path, damage: str) -> None:
    with RunFolder(tmp_path, {}) as run:
        run.put("a", TENSORS)
        file, record = tmp_path / "tasks/a.safetensors", tmp_path / "tasks/a.sha256"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        match damage:
            case "flip":
                file.write_bytes(data)
            case "truncate":
                file.write_bytes(data[:-1])
            case "no record":
                record.unlink()
            case "no tensors":
                file.unlink()
            case "empty record":
                record.write_text("")
        with pytest.warns(UserWarning, match=r"a\.safetensors: unfinished or damaged; the task is done again$"):
            assert run.get("a") is None
        run.put("a", TENSORS)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert same_bits(run.get("a") or {}, TENSORS)


@pytest.mark.parametrize(("moment", "done"), [("before", False), ("between", False), ("after", True)])
def test_killed_at_a_failpoint_and_resumed(tmp_path: Path, moment: str, done: bool) -> None:
    code = """
        import sys, torch
        from pydrift.core.store import RunFolder
        with RunFolder(sys.argv[1], {"seed": 0}) as run:
            for k in range(3):
                if run.get(f"shadow/{k}") is None:
                    print("task", k, flush=True)
                    run.put(f"shadow/{k}", {"w": torch.full((2,), float(k))})
    """
    killed = run_python(code, tmp_path, PYDRIFT_FAILPOINT=f"put:shadow/1:{moment}")
    assert killed.returncode == -signal.SIGKILL
    assert killed.stdout == "task 0\ntask 1\n"
    resumed = run_python(code, tmp_path)
    assert resumed.returncode == 0
    assert resumed.stdout == ("task 2\n" if done else "task 1\ntask 2\n")
    assert ("unfinished or damaged" in resumed.stderr) == (moment == "between")
    with RunFolder(tmp_path, {"seed": 0}) as run:
        for k in range(3):
            assert same_bits(run.get(f"shadow/{k}") or {}, {"w": torch.full((2,), float(k))})


def test_the_plan_is_readable_json(tmp_path: Path) -> None:
    RunFolder(tmp_path, {"seed": 0, "shape": (1, 2)}).close()
    assert json.loads((tmp_path / "plan.json").read_text()) == {"seed": 0, "shape": [1, 2]}


def test_the_module_needs_no_torch() -> None:
    assert run_python("import sys, pydrift.core.store; print('torch' in sys.modules)").stdout == "False\n"
