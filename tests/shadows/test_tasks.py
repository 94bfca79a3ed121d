"""Folders of shadow tasks: who may train what, killed at any time, and the same bits in the end."""

import errno
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from pydrift import InputRefused, PydriftError, TrainingRecipe, UsageError, load_data, train_shadows
from pydrift.cli import app
from pydrift.core import run_store
from pydrift.core.parallel import intra_op_threads
from pydrift.ops import native_status
from pydrift.ops.native import NativeStatus
from pydrift.shadows import (
    Draw,
    ShadowBank,
    ShadowPlan,
    TaskFolder,
    checkpoint,
    claim,
    collect,
    function_identity,
    plan_shadows,
    train_block,
    work_on,
)
from pydrift.shadows import plan as plan_module
from pydrift.shadows.claim import HEARTBEAT_S, LEASE_S, claimed, holder
from pydrift.shadows.plan import arithmetic
from tests.seals import rewrite_manifest

pytestmark = pytest.mark.slow

ARCH, RECIPE, COUNT = "mlp:1x8x8:12:10", TrainingRecipe(epochs=2), 12

processes = multiprocessing.get_context("forkserver")  # of a server that has torch, but has run nothing in it
processes.set_forkserver_preload(["pydrift.shadows", "pydrift.cli", "pytest", "typer.testing", "sklearn.datasets"])


def files(folder):
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The files of the bank that one process trains in memory."""
    folder = tmp_path_factory.mktemp("single") / "bank"
    train_shadows(ARCH, "digits", COUNT, recipe=RECIPE, seed=3).save(folder)
    return files(folder)


@pytest.fixture
def tasks(tmp_path):
    return planned(tmp_path / "tasks")


def planned(folder, count=COUNT, **options):
    return plan_shadows(folder, ARCH, "digits", count, **{"recipe": RECIPE, "seed": 3, "block": 2, **options})


def saved(tasks, folder):
    collect(tasks.path).save(folder)
    return files(folder)


# --- without training: a folder of one-weight models


class One(nn.Module):
    def __init__(self, value=0.0):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([float(value)]))


def filled(numbers):
    return [(One(k).state_dict(), k / 10) for k in numbers]


@pytest.fixture
def small(tmp_path):
    plan = ShadowPlan(5, "retrain", Draw("subset", 3), 0, RECIPE, None, "a:b", None, "00", 9, (1, 2, 2), {})
    return TaskFolder.adopt(tmp_path / "small", plan, 2)


def refused(action, kind, message):
    with pytest.raises(kind) as error:
        action()
    assert str(error.value) == message


def test_blocks_divide_the_shadows(small):
    assert [list(small.numbers(block)) for block in small.blocks] == [[0, 1], [2, 3], [4]]
    refused(lambda: small.numbers(3), UsageError, f"{small.path}: has no block 3, the last one is 2")


def test_a_finished_folder_is_a_bank(small):
    advanced = []
    assert small.work(filled, advance=advanced.append) == [0, 1, 2]
    assert small.work(filled, advance=advanced.append) == []
    assert advanced == [2, 2, 1] * 2
    bank = small.bank(One())
    assert bank.weights["w"].tolist() == [[0], [1], [2], [3], [4]]
    assert bank.accuracy == (0, 0.1, 0.2, 0.3, 0.4)
    assert np.array_equal(bank.member, small.plan.members())
    assert {f.name for f in small.path.rglob("*") if f.is_file()} == {
        *("plan.json", "MANIFEST.json", "00000.safetensors", "00001.safetensors", "00002.safetensors"),
        *("00003.safetensors", "00004.safetensors"),
    }


def test_an_unfinished_folder_is_no_bank(small):
    small.work(filled, at_most=1)
    refused(lambda: small.bank(One()), UsageError, f"{small.path}: 2 of 3 blocks are not trained yet")
    refused(
        lambda: ShadowBank.load(small.path),
        UsageError,
        f"{small.path}: is a folder of tasks, not a bank; collect it first with pydrift shadow collect",
    )


def test_only_the_blocks_asked_for_are_trained(small):
    assert small.work(filled, blocks=[1]) == [1]
    assert small.work(filled, at_most=1) == [0]
    assert small.status().blocks_done == (0, 1)


def test_another_plan_is_refused_by_its_first_difference(small):
    other = replace(small.plan, recipe=TrainingRecipe(epochs=3), seed=1)
    refused(
        lambda: TaskFolder.adopt(small.path, other, 2),
        UsageError,
        f"{small.path}: holds the work of another plan (recipe.epochs is 2 there and 3 here); "
        "choose another folder or delete this one",
    )
    assert TaskFolder.adopt(small.path, small.plan, 5).block == 2  # how it is cut is no part of the plan


def test_of_two_planners_at_once_the_first_one_stays(small, monkeypatch):
    (small.path / "plan.json").rename(small.path / "theirs")
    write = run_store.write_json

    def overtaken(path, raw):
        write(path, raw)
        os.link(small.path / "theirs", small.path / "plan.json")

    monkeypatch.setattr(run_store, "write_json", overtaken)
    other = replace(small.plan, seed=1)
    with pytest.raises(UsageError, match=r"holds the work of another plan \(seed is 0 there and 1 here\)"):
        TaskFolder.adopt(small.path, other, 2)
    (small.path / "plan.json").unlink()
    assert TaskFolder.adopt(small.path, small.plan, 5) == small
    assert sorted(os.listdir(small.path)) == ["plan.json", "theirs"]


def test_without_hard_links_a_plan_is_written_all_the_same(small, monkeypatch):
    def unable(source, target):
        raise PermissionError(errno.EPERM, "no links here")

    (small.path / "plan.json").unlink()
    monkeypatch.setattr(os, "link", unable)
    assert TaskFolder.adopt(small.path, small.plan, 2) == small
    assert os.listdir(small.path) == ["plan.json"]


def test_what_an_existing_plan_does_otherwise_is_said(tmp_path):
    data = load_data("digits").subset(range(100))
    for name in ("data", "moved"):
        np.savez(tmp_path / f"{name}.npz", x=data.x, y=data.y)
    first, moved = (f"npz:{tmp_path / name}.npz" for name in ("data", "moved"))
    plan_shadows(tmp_path / "tasks", ARCH, first, 4, recipe=RECIPE, block=2)
    with pytest.warns(UserWarning, match=r"tasks: keeps its planned blocks of 2; a block size of 3 is ignored$"):
        assert plan_shadows(tmp_path / "tasks", ARCH, first, 4, recipe=RECIPE, block=3).block == 2
    with pytest.warns(UserWarning, match=f"workers still load the images from {first}, not from {moved}$"):
        train_shadows(ARCH, moved, 4, recipe=RECIPE, resume_dir=tmp_path / "tasks")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_shadows(ARCH, data, 4, recipe=RECIPE, resume_dir=tmp_path / "tasks")


@pytest.mark.parametrize("kind", ["bank", "block"])
def test_a_sealed_folder_is_named_for_what_it_is(small, tmp_path, kind):
    small.work(filled)
    small.bank(One()).save(tmp_path / "bank")
    folder = {"bank": tmp_path / "bank", "block": small.path / "blocks" / "00000"}[kind]
    refused(
        lambda: TaskFolder.adopt(folder, small.plan, 2),
        UsageError,
        f"{folder}: is a shadow {kind}; give another folder",
    )


def test_a_plan_changed_meanwhile_is_refused_and_nothing_published(small):
    def change(numbers):
        (small.path / "plan.json").write_text((small.path / "plan.json").read_text().replace('"seed": 0', '"seed": 1'))
        return filled(numbers)

    refused(
        lambda: small.work(change),
        UsageError,
        f"{small.path / 'plan.json'}: was changed during the work; nothing was published",
    )
    assert os.listdir(small.path / "blocks") == []
    small.path.joinpath("plan.json").unlink()
    refused(
        lambda: TaskFolder.open(small.path),
        UsageError,
        f"{small.path}: holds no plan of shadows; make one first: pydrift shadow plan",
    )


def test_blocks_of_another_plan_are_refused(small):
    small.work(filled)
    (small.path / "plan.json").write_text((small.path / "plan.json").read_text().replace('"seed": 0', '"seed": 1'))
    first = small.path / "blocks" / "00000"
    refused(
        lambda: TaskFolder.open(small.path).bank(One()),
        InputRefused,
        f"{first}: was trained by another plan; delete {first} and train the block again",
    )


PLAN = '"kind": "pydrift shadow plan", "schema_version": 2'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "not a shadow plan"),
        ("{}", "not a shadow plan"),
        ("{", "not a readable shadow plan: Expecting"),
        (f"{{{PLAN}}}", "not a readable shadow plan: 'block' is missing"),
        (f'{{{PLAN}, "plan": {{}}, "block": 2, "data": null}}', "not a readable shadow plan: plan: Object missing"),
        (
            f'{{{PLAN}, "plan": {{}}, "block": 0, "data": null}}',
            "not a readable shadow plan: block: Expected `int` >= 1",
        ),
        (f'{{{PLAN}, "plan": {{}}, "block": true, "data": null}}', "not a readable shadow plan: block: Expected `int`"),
        (f'{{{PLAN}, "plan": {{}}, "block": 2, "data": 3}}', "not a readable shadow plan: data: Expected"),
        (
            '{"kind": "pydrift shadow plan", "format": 1}',
            "a shadow plan of schema version 1; this pydrift reads version 2. "
            "Plan the shadows again in another folder.",
        ),
    ],
)
def test_what_is_no_plan_is_refused(small, text, reason):
    (small.path / "plan.json").write_text(text)
    with pytest.raises(InputRefused, match=rf"plan\.json: {reason}"):
        TaskFolder.open(small.path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("flip", "{block}: '00002.safetensors' was changed or damaged: its SHA-256 is not the one in MANIFEST.json"),
        (
            "truncate",
            "{block}: '00002.safetensors' was changed or damaged: its SHA-256 is not the one in MANIFEST.json",
        ),
        ("lose", "{block}: '00002.safetensors' is listed in MANIFEST.json but missing"),
        ("link", "{block}: '00002.safetensors' is listed in MANIFEST.json but missing"),
        ("add", "{block}: 'more' is not listed in MANIFEST.json"),
        ("other block", "{block}: not block 1 of this plan"),
        ("linked block", "{block}: is a symbolic link"),
    ],
)
def test_damage_is_refused_by_name_and_can_be_mended(small, tmp_path, damage, message):
    small.work(filled)
    block = small.path / "blocks" / "00001"
    file, elsewhere = block / "00002.safetensors", tmp_path / "elsewhere"
    match damage:
        case "flip":
            file.write_bytes(file.read_bytes()[:-1] + b"\1")
        case "truncate":
            file.write_bytes(file.read_bytes()[:-1])
        case "lose":
            file.unlink()
        case "link":
            file.rename(elsewhere)
            file.symlink_to(elsewhere)
        case "add":
            (block / "more").touch()
        case "other block":
            shutil.rmtree(block)
            shutil.copytree(block.with_name("00000"), block)
        case "linked block":
            block.rename(elsewhere)
            block.symlink_to(elsewhere)
    advice = f"; delete {block} and train the block again"
    refused(lambda: small.bank(One()), InputRefused, message.format(block=block) + advice)
    block.unlink() if block.is_symlink() else shutil.rmtree(block)
    assert small.work(filled) == [1]
    assert small.bank(One()).weights["w"][2] == 2


def test_models_of_another_architecture_are_refused(small):
    small.work(lambda numbers: [({"w": torch.zeros(2)}, None) for _ in numbers])
    block = small.path / "blocks" / "00000"
    refused(
        lambda: small.bank(One()),
        InputRefused,
        f"{block / '00000.safetensors'}: does not fit the architecture: 'w' is float32 [2], expected float32 [1]; "
        f"delete {block} and train the block again",
    )


def test_status_tells_what_is_done_in_work_and_free(small):
    nothing = small.status()
    assert (nothing.shadows, nothing.done, nothing.free, nothing.seconds_per_shadow) == (5, 0, (0, 1, 2), None)
    small.work(lambda numbers: time.sleep(0.1) or filled(numbers), blocks=[2])
    with claimed(small.path / "claims", "00001") as mine:
        assert mine
        now = small.status()
    assert (now.done, now.blocks_done, list(now.held), now.free) == (1, (2,), [1], (0,))
    assert now.held[1].pid == os.getpid()
    assert now.held[1].silent_s < 5
    assert now.seconds_per_shadow == pytest.approx(0.1, abs=0.09)
    assert small.status().free == (0, 1)


@pytest.mark.parametrize("seconds", ['"x"', "null", "-1", "true", "1e999", "[]", str(10**400)])
def test_a_block_that_says_no_time_is_refused(small, seconds):
    small.work(filled, blocks=[1])
    manifest = small.path / "blocks" / "00001" / "MANIFEST.json"
    if seconds == "1e999":
        manifest.write_text(re.sub(r'"seconds": [^,]+', f'"seconds": {seconds}', manifest.read_text()))
    else:
        rewrite_manifest(manifest.parent, seconds=json.loads(seconds))
    too_large = seconds in ("1e999", str(10**400))
    reason = "not valid JSON: a number is too large" if too_large else "not a readable shadow block: seconds: "
    with pytest.raises(InputRefused, match=rf"^{manifest}: {reason}"):
        small.status()
    manifest.write_text("[]")
    with pytest.raises(InputRefused, match=rf"^{manifest}: not a manifest$"):
        small.status()


def test_one_that_was_given_up_for_dead_changes_nothing_when_it_ends(small):
    def overtaken(numbers):
        shutil.rmtree(small.path / "claims")  # as if on another machine, and silent for too long
        assert TaskFolder.open(small.path).work(filled, blocks=[0]) == [0]
        return [(One(99).state_dict(), 0.9) for _ in numbers]

    assert small.work(overtaken, blocks=[0]) == []  # it was not this one that trained it
    assert [entry.name for entry in (small.path / "blocks").iterdir()] == ["00000"]
    small.work(filled)
    assert small.bank(One()).weights["w"].tolist() == [[0], [1], [2], [3], [4]]


def write_with_little_disk(folder):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))  # claims fit, models do not
    try:
        TaskFolder.open(folder).work(lambda numbers: [({"w": torch.zeros(9999)}, None) for _ in numbers])
    except PydriftError as error:
        sys.exit(str(error) != f"{folder}: block 0 cannot be written: File too large; it counts as not trained")


def test_a_full_disk_is_said_and_leaves_nothing_half_written(small):
    child = processes.Process(target=write_with_little_disk, args=(small.path,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert os.listdir(small.path / "blocks") == []
    assert small.status().free == (0, 1, 2)


# --- claims


def hold(folder, pipe):
    with claimed(folder, "x") as mine:
        pipe.send(mine)
        time.sleep(60)


def test_a_claim_ends_with_its_process_and_not_before(tmp_path):
    here, there = processes.Pipe()
    child = processes.Process(target=hold, args=(tmp_path, there))
    child.start()
    assert here.recv() is True
    os.utime(tmp_path / "x.1", (0, 0))  # silent for long, but its lock says that it lives
    assert holder(tmp_path, "x").pid == child.pid
    with claimed(tmp_path, "x") as mine:
        assert not mine
    child.kill()
    child.join()
    assert holder(tmp_path, "x") is None
    with claimed(tmp_path, "x") as mine:
        assert mine
        assert holder(tmp_path, "x").pid == os.getpid()


def foreign(folder, silent_s):
    """A claim of a process on another machine."""
    folder.mkdir(exist_ok=True)
    (folder / "00001.1").write_text(json.dumps({"host": "node7", "pid": 123, "locks": "another kernel"}))
    os.utime(folder / "00001.1", (time.time() - silent_s,) * 2)


def test_the_lease_of_another_machine_is_respected_until_it_is_stale(small):
    claims = small.path / "claims"
    foreign(claims, LEASE_S - 30)
    assert small.work(filled) == [0, 2]
    assert small.status().held[1].host == "node7"
    assert small.status().held[1].silent_s == pytest.approx(LEASE_S - 30, abs=10)
    foreign(claims, LEASE_S + 1)
    assert small.status().free == (1,)
    assert small.work(filled) == [1]
    assert os.listdir(claims) == []
    assert HEARTBEAT_S * 4 < LEASE_S


def test_a_claim_that_no_worker_can_have_made_holds_nothing(small):
    """A FIFO would be waited for without end, and a date in the future would hold the block until then."""
    claims = small.path / "claims"
    foreign(claims, -365 * 24 * 3600)
    os.mkfifo(claims / "00000.1")
    (claims / "00002.1").mkdir()
    (claims / f"00002.{'9' * 5000}"[:200]).touch()
    assert small.status().free == (0, 1, 2)
    assert small.work(filled) == [0, 1, 2]
    foreign(claims, -10)  # clocks of file servers may differ by little
    assert small.status().done == 5


def test_waiting_takes_over_what_others_leave(small):
    foreign(small.path / "claims", LEASE_S - 1)
    assert small.work(filled, wait=True) == [0, 2, 1]


def test_a_claim_that_says_nothing_yet_is_one(tmp_path):
    (tmp_path / "x.1").touch()
    with claimed(tmp_path, "x") as mine:
        assert not mine
    (tmp_path / "x.1").write_text("[1]")
    assert holder(tmp_path, "x").host == "?"


# --- workers that are killed


def worker(folder, failpoint="", pipe=None, locks=True):
    os.environ["PYDRIFT_FAILPOINT"] = failpoint
    torch.set_num_threads(1)
    if not locks:
        claim._lock = lambda file, how: None
    trained = work_on(folder)
    if pipe is not None:
        pipe.send(trained)


@pytest.mark.parametrize(
    ("failpoint", "done"),
    [("shadow/0:before", 0), ("shadow/3:between", 1), ("shadow/5:after", 3)],
)
def test_a_worker_killed_at_a_failpoint_loses_no_published_block(tasks, tmp_path, expected, failpoint, done):
    child = processes.Process(target=worker, args=(tasks.path, f"put:{failpoint}"))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert tasks.status().blocks_done == tuple(range(done))
    assert tasks.status().held == {}
    assert work_on(tasks.path) == list(range(done, 6))
    assert saved(tasks, tmp_path / "bank") == expected
    assert sorted(os.listdir(tasks.path / "blocks")) == [f"{block:05d}" for block in range(6)]


def test_workers_killed_at_any_time_lose_and_double_nothing(tmp_path, expected):
    tasks, random = planned(tmp_path / "tasks", block=1), np.random.default_rng(0)
    struck = 0
    for _ in range(4):
        children = [processes.Process(target=worker, args=(tasks.path,)) for _ in range(2)]
        for child in children:
            child.start()
        begun, patience = tasks.status(), time.monotonic() + 60
        while any(child.is_alive() for child in children) and time.monotonic() < patience:
            now = tasks.status()
            if now.held or now.done > begun.done:
                break
            time.sleep(0.002)
        for child in children:
            child.join(random.uniform(0, 0.05))
            held = any(who.pid == child.pid for who in tasks.status().held.values())
            child.kill()
            child.join()
            struck += held and child.exitcode == -signal.SIGKILL
        if not tasks.status().free:
            break
    assert struck > 0
    assert tasks.status().held == {}
    work_on(tasks.path)
    assert saved(tasks, tmp_path / "bank") == expected
    assert sorted(os.listdir(tasks.path / "blocks")) == [f"{block:05d}" for block in range(COUNT)]


def worker_killed_between_epochs(folder):
    torch.set_num_threads(1)
    write, checkpoint._EVERY_S = checkpoint.write_atomic, 0

    def write_and_end(file, data):
        write(file, data)
        os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.write_atomic = write_and_end
    work_on(folder)


@pytest.mark.skipif(not native_status().cpu, reason="checkpoints are of native training")
@pytest.mark.parametrize("damage", [None, "flip", "truncate", "other block"])
def test_a_killed_workers_block_goes_on_from_its_checkpoint(tmp_path, expected, monkeypatch, damage):
    tasks = planned(tmp_path / "tasks", block=4)
    child = processes.Process(target=worker_killed_between_epochs, args=(tasks.path,))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    (file,) = (tasks.path / "blocks").glob("*/*")
    data = file.read_bytes()
    match damage:
        case "flip":
            file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        case "truncate":
            file.write_bytes(data[:-1])
        case "other block":
            file.write_bytes(data.replace(b"block 0 of", b"block 1 of"))
    epochs, many = [], train_block.train_many

    def watched(*arguments, resume=None, **options):
        epochs.append(resume and resume.epoch)
        return many(*arguments, resume=resume, **options)

    monkeypatch.setattr(train_block, "train_many", watched)
    with pytest.warns(UserWarning, match="from its start$") if damage else nullcontext():
        work_on(tasks.path)
    assert epochs == [None if damage else 1, None, None]
    assert saved(tasks, tmp_path / "bank") == expected
    assert sorted(os.listdir(tasks.path / "blocks")) == ["00000", "00001", "00002"]


@pytest.mark.parametrize("locks", [True, False], ids=["on one machine", "without locks, as on several"])
def test_workers_side_by_side_never_train_a_block_twice(tmp_path, expected, locks):
    tasks = planned(tmp_path / "tasks", block=1)
    pipes = [processes.Pipe() for _ in range(3)]
    for _, there in pipes:
        processes.Process(target=worker, args=(tasks.path, "", there, locks)).start()
    trained = [here.recv() for here, _ in pipes]
    assert sorted(block for blocks in trained for block in blocks) == list(range(COUNT))
    assert saved(tasks, tmp_path / "bank") == expected


def test_a_call_with_a_work_folder_and_workers_on_it_make_the_same_bank(tmp_path, expected):
    tasks = planned(tmp_path / "tasks", block=3)
    work_on(tasks.path, at_most=2)
    bank = train_shadows(ARCH, "digits", COUNT, recipe=RECIPE, seed=3, resume_dir=tasks.path)
    bank.save(tmp_path / "bank")
    assert files(tmp_path / "bank") == expected
    with pytest.raises(UsageError, match=r"holds the work of another plan \(seed is 3 there and 4 here\)"):
        train_shadows(ARCH, "digits", COUNT, recipe=RECIPE, seed=4, resume_dir=tasks.path)


def test_each_by_a_recipe_of_its_own_can_be_planned(tmp_path):
    """As an audit's shadows are: the planned ones are those that a call trains."""
    folder = tmp_path / "tasks"
    arguments = ("--arch", ARCH, "--data", "digits", "--count", 4, "--seed", 3, "--recipe", "epochs=2")
    pydrift("plan", folder, *arguments, "--recipes", "varied")
    plan = TaskFolder.open(folder).plan
    assert plan == planned(tmp_path / "other", 4, block=None, recipes="varied").plan
    assert len({plan.recipe_of(k) for k in range(4)}) > 1
    assert TaskFolder.open(folder).plan != planned(tmp_path / "same", 4).plan
    pydrift("train", folder)
    train_shadows(ARCH, "digits", 4, recipe=RECIPE, recipes="varied", seed=3).save(tmp_path / "bank")
    assert saved(TaskFolder.open(folder), tmp_path / "collected") == files(tmp_path / "bank")


def test_finetuned_shadows_continue_from_the_weights_in_the_folder(digits, tmp_path):
    tasks = plan_shadows(
        tmp_path / "tasks",
        digits.path("base"),
        "digits",
        2,
        update_mode="finetune",
        recipe=RECIPE,
        draw=Draw("subset", 200),
    )
    work_on(tasks.path)
    bank = train_shadows(
        digits.path("base"), "digits", 2, update_mode="finetune", recipe=RECIPE, draw=Draw("subset", 200)
    )
    bank.save(tmp_path / "single")
    assert saved(tasks, tmp_path / "bank") == files(tmp_path / "single")


# --- plans that cannot be carried out here


@pytest.mark.parametrize(("name", "value"), [("kernels", "native AVX9"), ("torch", "1.0"), ("torch_simd", "NO AVX")])
def test_a_machine_that_computes_otherwise_is_refused(tasks, name, value):
    raw = json.loads((tasks.path / "plan.json").read_text())
    here = raw["plan"]["arithmetic"][name]
    raw["plan"]["arithmetic"][name] = value
    (tasks.path / "plan.json").write_text(json.dumps(raw))
    refused(
        lambda: work_on(tasks.path),
        UsageError,
        f"{tasks.path}: planned with {name} = {value}, but here it is {here}, so the last bits of the weights would "
        "differ; use machines like the one it was planned on, or plan with PYDRIFT_SIMD and ATEN_CPU_CAPABILITY set to "
        "what all of them have",
    )


@pytest.mark.parametrize(
    ("name", "planned_with"), [("cuda", "12.6"), ("cudnn", "90100"), ("gpu", "Tesla T4"), ("kernels", "plain torch")]
)
def test_a_gpu_worker_that_computes_otherwise_is_refused(tasks, monkeypatch, name, planned_with):
    here = {"cuda": "13.0", "cudnn": "91300", "gpu": "H100", "kernels": "native CUDA"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: here["gpu"])
    monkeypatch.setattr(torch.version, "cuda", here["cuda"])
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: int(here["cudnn"]))
    monkeypatch.setattr(plan_module, "native_status", lambda: NativeStatus(False, True, (), {}))
    assert arithmetic(torch.device("cuda"), True).items() >= {"device": "cuda", **here}.items()
    raw = json.loads((tasks.path / "plan.json").read_text())
    raw["plan"]["arithmetic"] = {**arithmetic(torch.device("cuda"), True), name: planned_with}
    (tasks.path / "plan.json").write_text(json.dumps(raw))
    refused(
        lambda: work_on(tasks.path),
        UsageError,
        f"{tasks.path}: planned with {name} = {planned_with}, but here it is {here[name]}, so the last bits of the "
        "weights would differ; use machines like the one it was planned on",
    )


def test_other_data_is_refused(tmp_path):
    data = load_data("digits").subset(range(100))
    source = f"npz:{tmp_path / 'data.npz'}"
    np.savez(tmp_path / "data.npz", x=data.x, y=data.y)
    tasks = plan_shadows(tmp_path / "tasks", ARCH, source, 2, recipe=RECIPE)
    np.savez(tmp_path / "data.npz", x=data.x, y=data.y.flip(0))
    with pytest.raises(
        InputRefused, match=rf"^{source}: not the data of the plan; its SHA-256 is \w+, and .* was planned for \w+$"
    ):
        work_on(tasks.path)
    np.savez(tmp_path / "moved.npz", x=data.x, y=data.y)
    assert work_on(tasks.path, data=f"npz:{tmp_path / 'moved.npz'}")


def test_another_start_model_is_refused(digits, tmp_path):
    tasks = plan_shadows(tmp_path / "tasks", digits.path("base"), "digits", 2, update_mode="finetune", recipe=RECIPE)
    shutil.copy(digits.path("benign"), tasks.start)
    with pytest.raises(InputRefused, match=r"start-\w+\.safetensors: not the start model of the plan"):
        work_on(tasks.path)


def own():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def test_a_plan_chooses_no_code_to_run(tmp_path):
    named = "tests.shadows.test_tasks:own"
    tasks = plan_shadows(tmp_path / "tasks", named, "digits", 2, recipe=RECIPE)
    for action in (work_on, collect):
        refused(
            lambda action=action: action(tasks.path),
            UsageError,
            f"{tasks.path}: names the architecture '{named}', which is not built in; loading it runs code, so name it "
            "yourself (arch=, --arch)",
        )
    assert work_on(tasks.path, arch=named) == [0, 1]
    assert len(collect(tasks.path, arch=named)) == 2
    refused(
        lambda: collect(tasks.path, arch="os:getcwd"),
        UsageError,
        f"{tasks.path}: its shadows have the architecture '{named}', not 'os:getcwd'",
    )


def test_the_users_own_go_on_with_the_threads_they_began_with(tmp_path):
    module, threads = own(), []

    def training(x, y, seed):
        threads.append(torch.get_num_threads())
        return module

    def train():
        train_shadows(module, "digits", 2, train=training, resume_dir=tmp_path / "tasks")

    with intra_op_threads(3):
        train()
    shutil.rmtree(tmp_path / "tasks" / "blocks" / "00001")
    train()
    assert threads == [3, 3, 3]
    assert torch.get_num_threads() == 1


OWN_TRAINING = """
import sys
from torch import nn
from pydrift import train_shadows

def training(x, y, seed, *, width={width}, kinds=("a", "b")):
    trained.append([k for k in range(3) if str(k) in {{"0", "1", "two"}}])
    return module

module, trained = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), []
for parameter in module.parameters():
    nn.init.zeros_(parameter)
train_shadows(module, "digits", 2, train=training, resume_dir=sys.argv[1])
print(len(trained))
"""


def test_the_users_own_go_on_in_another_process(tmp_path):
    def run(width, hash_seed):
        return subprocess.run(
            [sys.executable, "-c", OWN_TRAINING.format(width=width), tmp_path / "tasks"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
        )

    assert run(1, "1").stdout == "2\n"
    shutil.rmtree(tmp_path / "tasks" / "blocks" / "00001")
    assert run(1, "2").stdout == "1\n"
    other = run(2, "1")
    assert other.returncode == 1
    assert "holds the work of another plan (own_training is 'training " in other.stderr


def test_functions_are_told_apart_by_what_they_do():
    def made(source):
        scope = {}
        exec(source, scope)
        return function_identity(scope["f"])

    sources = [
        "def f(x, y, seed): return [x + 1 for _ in y]",
        "def f(x, y, seed): return [x + 2 for _ in y]",
        "def f(x, y, seed): return [x + 1.0 for _ in y]",
        "def f(x, y, seed): return [x.sin() for _ in y]",
        "def f(x, y, seed): return [x.cos() for _ in y]",
        "def f(x, y, seed=1): return [x + 1 for _ in y]",
        "def f(x, y, *, seed=1): return [x + 1 for _ in y]",
    ]
    assert len({made(source) for source in sources}) == len(sources)
    assert made(sources[0]) == made("\n" + sources[0])


def test_a_live_module_cannot_be_trained_by_others(tmp_path, digits):
    train_shadows(own(), "digits", 2, recipe=RECIPE, resume_dir=tmp_path / "tasks")
    refused(
        lambda: work_on(tmp_path / "tasks"),
        UsageError,
        f"{tmp_path / 'tasks'}: these shadows are of a live module or use the user's own training, so only the "
        "program that planned them can train them",
    )


# --- the command line


def pydrift(*arguments):
    done = CliRunner().invoke(app, ["shadow", *map(str, arguments)], catch_exceptions=False, standalone_mode=False)
    return done.stdout


def test_the_exit_code_says_that_others_train_the_rest(tmp_path, monkeypatch, capsys):
    folder = planned(tmp_path / "tasks").path
    monkeypatch.setattr("pydrift.shadows.work_on", lambda *_, **__: [])
    assert app(["shadow", "train", str(folder)], standalone_mode=False) == 3
    assert capsys.readouterr().out == f"{folder}: trained nothing (no block was free); 0 of {COUNT} shadows done\n"
    assert app(["shadow", "train", str(folder), "--claim-next"], standalone_mode=False) in (None, 0)
    monkeypatch.setattr(TaskFolder, "is_done", lambda *_: True)
    assert app(["shadow", "train", str(folder)], standalone_mode=False) in (None, 0)


def test_the_commands_from_plan_to_bank(tmp_path, expected):
    folder, bank = tmp_path / "tasks", tmp_path / "bank"
    said = pydrift(
        *("plan", folder, "--arch", ARCH, "--data", "digits", "--count", COUNT, "--block", 3, "--seed", 3),
        *("--recipe", "epochs=2"),
    )
    what = f"{ARCH}, retrain, complementary halves of 1442 images"
    assert said == f"{folder}: 12 shadows in 4 blocks ({what})\n"
    assert pydrift("train", folder, "--claim-next") == f"{folder}: trained block 0; 3 of 12 shadows done\n"
    assert pydrift("train", folder, "--block", "2") == f"{folder}: trained block 2; 6 of 12 shadows done\n"
    assert pydrift("train", folder, "--block", "2").startswith(f"{folder}: trained nothing (no block was free); 6 of")
    status = json.loads(pydrift("status", folder, "--json"))
    assert (status["done"], status["blocks_done"], status["free"], status["held"]) == (6, [0, 2], [1, 3], {})
    assert pydrift("status", folder).startswith(f"{folder}: 6 of 12 shadows done ({what})\nblocks: 2 of 4 done, 0 in ")
    assert pydrift("train", folder, "--workers", "2") == f"{folder}: 12 of 12 shadows done\n"
    assert pydrift("collect", folder, "--out", bank).startswith(f"{bank}: 12 shadows, mean accuracy ")
    assert files(bank) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", "4"], "give --arch or --model"),
        (["--count", "3", "--arch", ARCH], "complementary halves need an even number of shadows, got 3"),
        (["--count", "4", "--arch", "net"], "architecture 'net': neither built in "),
        (["--count", "4", "--arch", ARCH, "--recipe", "speed=9"], r"recipe: not readable: unknown keys \['speed'\]"),
        (["--count", "4", "--arch", ARCH, "--recipe", "speed"], "expected KEY=VALUE, got 'speed'"),
        (["--count", "4", "--arch", ARCH, "--draw", "thirds"], "no such draw of reference images: 'thirds'"),
        (["--count", "4", "--arch", ARCH, "--draw", "subset:9999"], "cannot draw 9999 of 1442 images without"),
        (
            ["--count", "4", "--arch", ARCH, "--update-mode", "finetune"],
            "finetune continues a trained model, and mlp:",
        ),
        (["--count", "4", "--arch", ARCH, "--recipes", "mixed"], "recipes must be one of same, varied, got 'mixed'"),
        (["--count", "100002", "--arch", ARCH], r"the number of shadows must be in 1\.\.100000, got 100002"),
    ],
)
def test_impossible_plans_are_refused_and_leave_nothing(tmp_path, arguments, message):
    with pytest.raises(UsageError, match=f"^{message}"):
        pydrift("plan", tmp_path / "tasks", "--data", "digits", *arguments)
    assert not (tmp_path / "tasks").exists()


def test_workers_that_fail_are_named(tasks):
    (tasks.path / "plan.json").write_text((tasks.path / "plan.json").read_text().replace("AVX", "XVA"))
    with pytest.raises(
        PydriftError, match=r"6 of 6 blocks are not trained \(worker 0 ended with exit code 2: .*differ"
    ):
        pydrift("train", tasks.path, "--workers", "1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--claim-next", "--block", "1"], "--claim-next and --block exclude each other"),
        (["--launcher", "ray"], "--launcher and --option are for --workers"),
        (["--workers", "2", "--block", "1"], "--workers trains all blocks: leave --claim-next and --block out"),
        (["--workers", "2", "--launcher", "cron"], "no such launcher: 'cron'; known are local, submitit, ray"),
        (["--workers", "2", "--option", "a=1"], "the local launcher takes no options, got a"),
        (["--workers", "2", "--launcher", "ray", "--option", "a"], "expected KEY=VALUE, got 'a'"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(tasks, arguments, message):
    refused(lambda: pydrift("train", tasks.path, *arguments), UsageError, message)
