"""Shadow banks: one value of stacked weights, the same bits after a round trip, and nothing damaged is read."""

import copy
import json
import multiprocessing
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import pydrift
from pydrift import InputRefused, TrainingRecipe, UsageError
from pydrift.core.manifest import write_manifest
from pydrift.core.tensors import tensors_digest
from pydrift.models.file import load_model
from pydrift.shadows import ShadowBank, train_shadows
from tests.signals import logit_margin

ARCH, LARGE, RECIPE = "mlp:1x8x8:12:10", "mlp:1x8x8:4096:10", TrainingRecipe(epochs=2)
MANIFEST = ShadowBank.format.heading()


class Normed(nn.Sequential):
    """An architecture of the user's own, with buffers, one of them of integers."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))


@pytest.fixture(scope="module")
def bank(digits):
    return train_shadows(ARCH, digits.data.subset(range(300)), 4, recipe=RECIPE, seed=1)


@pytest.fixture(scope="module")
def live(digits):
    return train_shadows(Normed(), digits.data.subset(range(300)), 2, recipe=RECIPE, seed=1)


def digests(bank):
    return [tensors_digest(bank.state(k)) for k in range(len(bank))]


def files(folder):
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def refused(action, kind, message):
    with pytest.raises(kind) as error:
        action()
    assert str(error.value) == message


def test_a_bank_says_what_it_is(bank):
    assert len(bank) == 4
    assert bank.weights["fc1.weight"].shape == (4, 12, 64)
    assert bank.member.shape == (4, 300)
    assert (bank.member.sum(axis=0) == 2).all()
    assert all(0 < accuracy < 1 for accuracy in bank.accuracy)
    assert (bank.plan.count, bank.plan.update_mode, bank.plan.draw.kind, bank.plan.seed) == (4, "retrain", "halves", 1)
    assert pydrift.train_shadows is train_shadows
    assert pydrift.ShadowBank is ShadowBank


@pytest.mark.parametrize("name", ["bank", "live"])
def test_models_are_the_banks_own_weights(name, request):
    bank = request.getfixturevalue(name)
    for k, model in enumerate(bank.models()):
        assert tensors_digest(model.state_dict()) == tensors_digest(bank.state(k))
        assert not model.training
        for name, parameter in model.named_parameters():
            assert not parameter.requires_grad
            assert parameter.data_ptr() == bank.weights[name][k].data_ptr()


@pytest.mark.parametrize("name", ["bank", "live"])
def test_a_copy_of_a_model_is_no_copy_of_the_bank(name, request):
    bank = request.getfixturevalue(name)
    copied = copy.deepcopy(bank.models()[1])
    assert tensors_digest(copied.state_dict()) == tensors_digest(bank.state(1))
    for tensor in copied.state_dict().values():
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_statistics_are_those_of_the_models(bank, digits):
    x, y = digits.holdout.x[:50], digits.holdout.y[:50]
    statistics = bank.statistics(x, y, queries=("plain", "flip"))
    assert statistics.margin.shape == (4, 2, 50)
    for k, model in enumerate(bank.models()):
        for q, seen in enumerate((x, x.flip(-1))):
            assert statistics.margin[k, q] == pytest.approx(logit_margin(model(seen), y).numpy(), rel=1e-4, abs=1e-5)
            assert (statistics.prediction[k, q] == model(seen).argmax(1).numpy()).all()
    assert statistics.posterior is None


def test_statistics_do_not_depend_on_which_models_are_asked_together(bank, digits, monkeypatch):
    x, y = digits.holdout.x[:50], digits.holdout.y[:50]
    together = bank.statistics(x, y, posterior=True)
    monkeypatch.setattr("pydrift.shadows.bank._MODELS_AT_ONCE", 3)
    apart = bank.statistics(x, y, posterior=True)
    assert all(np.array_equal(getattr(together, n), getattr(apart, n)) for n in ("margin", "loss", "posterior"))


def test_statistics_of_some_are_those_among_all(bank, digits):
    x, y = digits.holdout.x[:50], digits.holdout.y[:50]
    every, calls = bank.statistics(x, y, posterior=True), []
    some = bank.statistics(x, y, chosen=[3, 1], posterior=True, advance=lambda: calls.append(1))
    assert len(calls) == 2
    for name in ("margin", "loss", "confidence", "prediction", "posterior"):
        assert np.array_equal(getattr(some, name), getattr(every, name)[[3, 1]])
    refused(lambda: bank.statistics(x, y, chosen=[]), UsageError, "chosen must name at least one shadow, got none")


def test_statistics_take_little_more_memory_than_they_are(bank):
    """Of 64 models 16 are asked at a time; nothing is held twice but what these 16 say."""
    rows, x = np.arange(64) % 4, torch.rand(20_000, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    weights = {name: stack[rows] for name, stack in bank.weights.items()}
    many = ShadowBank(replace(bank.plan, count=64), bank.member[rows], (None,) * 64, weights, bank.template)
    tracemalloc.start()
    try:
        statistics = many.statistics(x, torch.zeros(len(x), dtype=torch.int64))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    whole = sum(values.nbytes for values in vars(statistics).values() if values is not None)
    assert whole == 64 * 20_000 * 4 * 4
    assert peak < 1.5 * whole


# --- the folder


def test_a_round_trip_keeps_every_bit(bank, tmp_path):
    bank.save(tmp_path / "new" / "bank")
    loaded = ShadowBank.load(tmp_path / "new" / "bank")
    assert loaded.plan == bank.plan
    assert loaded.accuracy == bank.accuracy
    assert loaded.digest() == bank.digest()
    assert np.array_equal(loaded.member, bank.member)
    assert digests(loaded) == digests(bank)
    assert all(not p.requires_grad for model in loaded.models() for p in model.parameters())
    loaded.save(tmp_path / "again")
    assert files(tmp_path / "again") == files(tmp_path / "new" / "bank")


def test_the_digest_covers_plan_members_accuracy_and_weights(bank):
    member = bank.member.copy()
    member[0, 0] ^= True
    name = next(iter(bank.weights))
    others = [
        {"plan": replace(bank.plan, seed=7)},
        {"member": member},
        {"accuracy": (0.5,) * 4},
        {"weights": {**bank.weights, name: bank.weights[name] + 1}},
    ]
    assert len({bank.digest(), *(replace(bank, **other).digest() for other in others)}) == 5


def test_a_live_module_needs_its_like_to_be_loaded(live, tmp_path):
    live.save(tmp_path)
    refused(
        lambda: ShadowBank.load(tmp_path),
        UsageError,
        f"{tmp_path}: its shadows are of a live module; pass base=, a module of the same architecture",
    )
    like = Normed()
    before = tensors_digest(like.state_dict())
    loaded = ShadowBank.load(tmp_path, base=like)
    assert digests(loaded) == digests(live)
    assert loaded.weights["2.num_batches_tracked"].dtype == torch.int64
    assert tensors_digest(like.state_dict()) == before
    assert like.training


def test_a_bank_is_a_folder_of_model_files(bank, tmp_path):
    bank.save(tmp_path)
    assert set(files(tmp_path)) == {
        *("MANIFEST.json", "bank.json", "member.safetensors"),
        *(f"models/0000{k}.safetensors" for k in range(4)),
    }
    model = load_model(tmp_path / "models" / "00002.safetensors")
    assert model.arch == ARCH
    assert tensors_digest(model.module.state_dict()) == tensors_digest(bank.state(2))
    assert TrainingRecipe.from_json(model.metadata["recipe"]) == RECIPE
    assert model.metadata["train_size"] == "150"


def test_a_smaller_bank_replaces_a_larger_one(bank, tmp_path, digits):
    bank.save(tmp_path)
    smaller = train_shadows(ARCH, digits.data.subset(range(300)), 2, recipe=RECIPE, seed=1)
    smaller.save(tmp_path)
    assert digests(ShadowBank.load(tmp_path)) == digests(bank)[:2]


@pytest.mark.parametrize("name", ["thesis.tex", "models/thesis.tex"])
def test_a_folder_of_other_files_is_left_alone(bank, tmp_path, name):
    (tmp_path / "models").mkdir()
    (tmp_path / name).write_text("mine")
    refused(
        lambda: bank.save(tmp_path),
        UsageError,
        f"{tmp_path}: holds other files (thesis.tex); give a new folder for the shadow bank",
    )
    assert [f.name for f in tmp_path.rglob("*") if f.is_file()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["bank.json", "member.safetensors", "models/00001.safetensors"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "link outside"])
def test_a_damaged_file_is_refused_by_name(bank, tmp_path, name, damage):
    folder, elsewhere = tmp_path / "bank", tmp_path / "elsewhere"
    bank.save(folder)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    match damage:
        case "flip":
            (folder / name).write_bytes(content)
        case "truncate":
            (folder / name).write_bytes(content[:-7])
        case "remove":
            (folder / name).unlink()
        case "link outside":
            (folder / name).rename(elsewhere)
            (folder / name).symlink_to(elsewhere)
    changed = "was changed or damaged: its SHA-256 is not the one in MANIFEST.json"
    reason = changed if damage in ("flip", "truncate") else "is listed in MANIFEST.json but missing"
    refused(lambda: ShadowBank.load(folder), InputRefused, f"{folder}: '{name}' {reason}")


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (
            {"format": 1, "kind": MANIFEST["kind"]},
            "a shadow bank of schema version 1; this pydrift reads version 3. Train the shadows again to get one.",
        ),
        ({**MANIFEST, "kind": "other"}, "not a shadow bank"),
        ({}, "not a shadow bank"),
    ],
)
def test_a_foreign_folder_is_refused(bank, tmp_path, manifest, reason):
    bank.save(tmp_path)
    write_manifest(tmp_path, manifest)
    refused(lambda: ShadowBank.load(tmp_path), InputRefused, f"{tmp_path}: {reason}")
    with pytest.raises(UsageError, match=r"MANIFEST\.json: no such file$"):
        ShadowBank.load(tmp_path / "models")


def rewritten(folder, change):
    """Changes bank.json as someone could who also writes the manifest."""
    raw = json.loads((folder / "bank.json").read_text())
    change(raw)
    (folder / "bank.json").write_text(json.dumps(raw))
    write_manifest(folder, MANIFEST)


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.pop("plan"),
        lambda raw: raw["plan"].update(more=1),
        lambda raw: raw["plan"].update(count=6),
        lambda raw: raw["plan"].update(images="300"),
        lambda raw: raw["plan"]["recipe"].update(epochs="x"),
        lambda raw: raw.update(accuracy=[0.5]),
        lambda raw: raw.update(plan=[]),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(bank, tmp_path, change):
    bank.save(tmp_path)
    rewritten(tmp_path, change)
    with pytest.raises(InputRefused, match=rf"^{tmp_path}: not a readable shadow bank: "):
        ShadowBank.load(tmp_path)


def test_members_that_the_plan_does_not_draw_are_refused(bank, tmp_path):
    member = bank.member.copy()
    member[2, :2] ^= True
    replace(bank, member=member).save(tmp_path)
    refused(
        lambda: ShadowBank.load(tmp_path),
        InputRefused,
        f"{tmp_path / 'member.safetensors'}: shadow 2 has other members than the plan's draw gives it",
    )


def test_models_that_do_not_fit_are_refused(bank, tmp_path):
    bank.save(tmp_path)
    refused(
        lambda: ShadowBank.load(tmp_path, base=Normed()),
        InputRefused,
        f"{tmp_path / 'models/00000.safetensors'}: does not fit the architecture: '1.bias' is missing, expected "
        "float32 [8]",
    )
    rewritten(tmp_path, lambda raw: raw["plan"].update(architecture="mlp:1x8x8:13:10"))
    refused(
        lambda: ShadowBank.load(tmp_path),
        InputRefused,
        f"{tmp_path / 'models/00000.safetensors'}: does not fit the architecture: 'fc1.bias' is float32 [12], expected "
        "float32 [13]",
    )


def test_a_bank_chooses_no_code_to_run(bank, tmp_path):
    named = "tests.shadows.test_bank:Normed"
    replace(bank, plan=replace(bank.plan, architecture=named)).save(tmp_path)
    refused(
        lambda: ShadowBank.load(tmp_path),
        UsageError,
        f"{tmp_path}: names the architecture '{named}', which is not built in; loading it runs code, so name it "
        "yourself (arch=, --arch)",
    )


# --- memory


processes = multiprocessing.get_context("forkserver")  # memory is that of a process which has done nothing else
processes.set_forkserver_preload(["pydrift.shadows", "pytest", "sklearn.datasets"])


def peak_mib():
    """The largest resident memory that this process has had."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure_memory(folder, pipe):
    torch.set_num_threads(1)
    options = {"recipe": TrainingRecipe(epochs=1), "block": 2}
    images = pydrift.load_data("digits").subset(range(128))
    train_shadows(LARGE, images, 2, **options).save(folder / "warm")
    before, peaks = peak_mib(), []
    bank = train_shadows(LARGE, images, 128, **options)
    weights = sum(stack.nbytes for stack in bank.weights.values()) / 2**20
    peaks.append(peak_mib())
    bank.save(folder / "bank")
    peaks.append(peak_mib())
    del bank
    ShadowBank.load(folder / "bank")
    peaks.append(peak_mib())
    pipe.send((weights, [peak - before for peak in peaks]))


def test_a_bank_in_the_making_and_on_disk_costs_little_more_than_its_weights(tmp_path):
    """Nothing is kept twice: neither the models beside the stack nor the stack beside its file."""
    here, there = processes.Pipe()
    child = processes.Process(target=measure_memory, args=(tmp_path, there))
    child.start()
    weights, peaks = here.recv()
    child.join()
    assert weights > 149
    assert max(peaks) < weights + 90  # about 50 MiB are torch's and malloc's, for any number of models
