"""Run folders: finished tasks come back bit for bit, whatever was killed, and nothing else does."""

import json
import signal
import warnings
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.run_store import RunFolder
from pydrift.core.tensors import safetensors_bytes, tensors_digest
from tests.core.processes import names_below, run_python

TENSORS = {
    "w": torch.tensor([[1.5, -0.0], [float("nan"), 3e38]]),
    "n": torch.tensor(7),
    "none": torch.empty(0, 3, dtype=torch.float64),
    "flag": torch.tensor([True, False]),
}


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return tensors_digest(a) == tensors_digest(b)


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
    assert names_below(tmp_path) == {"run/plan.json", "run/.lock", "run/tasks/shadow/003.safetensors"}
    assert same_bits(load_file(tmp_path / "run/tasks/shadow/003.safetensors"), TENSORS)


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
        from pydrift.core.run_store import RunFolder
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


@pytest.mark.parametrize("damage", ["flip", "truncate", "no seal", "other seal", "other metadata", "empty"])
def test_a_damaged_task_counts_as_not_done_and_can_be_done_again(tmp_path: Path, damage: str) -> None:
    with RunFolder(tmp_path, {}) as run:
        run.put("a", TENSORS, {"time": "first"})
        file = tmp_path / "tasks/a.safetensors"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        match damage:
            case "flip":
                file.write_bytes(data)
            case "truncate":
                file.write_bytes(data[:-1])
            case "no seal":
                file.write_bytes(safetensors_bytes(TENSORS, {}))
            case "other seal":
                run.put("b", {**TENSORS, "n": torch.tensor(8)})
                with safe_open(tmp_path / "tasks/b.safetensors", "pt") as other:
                    file.write_bytes(safetensors_bytes(TENSORS, other.metadata()))
            case "other metadata":
                file.write_bytes(file.read_bytes().replace(b"first", b"other"))
            case "empty":
                file.write_bytes(b"")
        with pytest.warns(UserWarning, match=r"a\.safetensors: unfinished or damaged; the task is done again$"):
            assert run.get("a") is None
        run.put("a", TENSORS)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert same_bits(run.get("a") or {}, TENSORS)


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "done"), [("before", False), ("between", False), ("after", True)])
def test_killed_at_a_failpoint_and_resumed(tmp_path: Path, moment: str, done: bool) -> None:
    code = """
        import sys, torch
        from pydrift.core.run_store import RunFolder
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
    assert "unfinished or damaged" not in resumed.stderr  # a task is there or it is not
    temporary = {name for name in names_below(tmp_path) if ".pydrift-" in name}  # they go when they are a day old
    assert len(temporary) == (moment == "between")
    kept = {"plan.json", ".lock", *(f"tasks/shadow/{k}.safetensors" for k in range(3))}
    assert names_below(tmp_path) - temporary == kept
    with RunFolder(tmp_path, {"seed": 0}) as run:
        for k in range(3):
            assert same_bits(run.get(f"shadow/{k}") or {}, {"w": torch.full((2,), float(k))})


def test_the_plan_is_readable_json(tmp_path: Path) -> None:
    RunFolder(tmp_path, {"seed": 0, "shape": (1, 2)}).close()
    raw = json.loads((tmp_path / "plan.json").read_text())
    assert raw == {"kind": "pydrift run", "schema_version": 2, "plan": {"seed": 0, "shape": [1, 2]}}


def test_a_folder_of_another_version_or_kind_is_refused(tmp_path: Path) -> None:
    RunFolder(tmp_path, {}).close()
    for raw, reason in (
        ({"seed": 0}, "not a run"),
        ({"kind": "pydrift shadow plan", "schema_version": 2}, "not a run"),
        (
            {"kind": "pydrift run", "schema_version": 1},
            "a run of schema version 1; this pydrift reads version 2. Choose another folder or delete this one.",
        ),
    ):
        (tmp_path / "plan.json").write_text(json.dumps(raw))
        with pytest.raises(InputRefused) as error:
            RunFolder(tmp_path, {})
        assert str(error.value) == f"{tmp_path / 'plan.json'}: {reason}"


def test_core_needs_no_torch() -> None:
    rooms = "artifact, files, manifest, run_store, strict_json, tensors"
    assert (
        run_python(f"import sys; from pydrift.core import {rooms}; print('torch' in sys.modules)").stdout == "False\n"
    )
