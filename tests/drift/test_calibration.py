"""Calibrations: the same bits after a round trip, and nothing foreign or damaged is read."""

import json
import os
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pydrift import GradientAscent, InputRefused, UsageError
from pydrift.core.manifest import write_manifest
from pydrift.core.tensors import safetensors_bytes
from pydrift.drift.calibration import Calibration
from pydrift.drift.null import Null
from pydrift.inversion.gray import GrayData
from pydrift.models.arch import build
from pydrift.models.intake import AuditedModel
from pydrift.models.recipe import TrainingRecipe

pytestmark = pytest.mark.slow

HEADING = Calibration.format.heading()
VERSION = Calibration.format.schema_version
ARCH, SHAPE = "mlp:1x4x4:5:3", (1, 4, 4)
FIGURES = ("confidence", "recognition", "own_confidence")


def gray(seed):
    rng = np.random.default_rng(seed)
    return GrayData(
        rng.random((3, 2, *SHAPE), np.float32), rng.random((3, 2), np.float32), rng.integers(0, 9, (3, 2), np.int32)
    )


def frozen(module):
    return module.eval().requires_grad_(False)


def a_null(seed, shadows):
    """A null of made-up figures, of so many shadows and of the base."""
    rng, models = np.random.default_rng(seed), shadows + 1
    views = ("upside down", "plain", "own gray data")  # neither sorted nor reversed
    responses = {view: rng.standard_normal((3, 4, 13), np.float32).T[:models, :3] for view in views}  # not contiguous
    occlusions = {"white occlusions": rng.standard_normal((models, 5, 2, 3), np.float32)}
    return Null(
        shadows=tuple(frozen(build(ARCH, 100 * seed + k)) for k in range(1, models)),
        accuracy=(0.1 + 0.2, *[0.5] * (shadows - 2), None),
        consensus=rng.random((4, 3, 1, *SHAPE), np.float32),
        responses={"gray data": responses, "occlusions": occlusions},
        confidence=rng.random(3),
        recognition=rng.random((models, 3)),
        own_confidence=rng.random((models, 3)),
        base_p_value=0.7 + 0.1,
        exchanges=(1e-300, 0.1 + 0.2),
    )


@pytest.fixture
def calibration():
    """Of eleven shadows and of two, so that model.1 and model.10 could be taken for one another."""
    return Calibration(
        base=AuditedModel(frozen(build(ARCH, 0)), "base.safetensors", "ab" * 32, ARCH, None, None),
        gray=gray(0),
        nulls={"varied": a_null(1, 11), "same": a_null(2, 2)},
        class_names=("a", "b", "ü"),
        input_shape=SHAPE,
        update_mode="retrain",
        draw="40 of 100 images without replacement",
        draw_size=40,
        recipe=TrainingRecipe(epochs=3, learning_rate=0.1 + 0.2),
        attack=GradientAscent(steps=7, learning_rate=0.1 + 0.2, jitter=1),
        restarts=2,
        seed=2**62 + 1,
        data="digits (train)",
        data_sha256="cd" * 32,
        settings={"recipe": {"epochs": 3}, "guessed": []},
        seconds={"train shadows": 1.5},
    )


def with_null(calibration, **changes):
    """The calibration with another null of the kind "varied"."""
    changed = replace(calibration.nulls["varied"], **changes)
    return replace(calibration, nulls={**calibration.nulls, "varied": changed})


def weights(module):
    return {name: tensor.numpy().tobytes() for name, tensor in module.state_dict().items()}


def test_a_round_trip_keeps_every_bit(calibration, tmp_path):
    calibration.save(tmp_path / "new" / "folder")
    loaded = Calibration.load(tmp_path / "new" / "folder")
    assert set(loaded.nulls) == {"varied", "same"}
    for kind, null in calibration.nulls.items():
        again = loaded.nulls[kind]
        order = [(probe, list(views)) for probe, views in null.responses.items()]
        assert [(probe, list(views)) for probe, views in again.responses.items()] == order
        for before, after in [
            *((t, again.responses[i][view]) for i, views in null.responses.items() for view, t in views.items()),
            (null.consensus, again.consensus),
            *((getattr(null, name), getattr(again, name)) for name in FIGURES),
        ]:
            assert (after.tobytes(), after.shape, after.dtype) == (before.tobytes(), before.shape, before.dtype)
        rest = {"shadows": (), "consensus": None, "responses": {}, **dict.fromkeys(FIGURES)}
        assert replace(again, **rest) == replace(null, **rest)
    of_both = [(calibration.nulls[kind].shadows, loaded.nulls[kind].shadows) for kind in calibration.nulls]
    models = [pair for shadows in of_both for pair in zip(*shadows, strict=True)]
    for before, after in [(calibration.base.module, loaded.base.module), *models]:
        assert weights(after) == weights(before)
        assert not after.training
        assert not any(p.requires_grad for p in after.parameters())
    assert loaded.gray == calibration.gray
    assert (loaded.gray.steps.dtype, loaded.gray.images.dtype) == (np.int32, np.float32)
    assert loaded.digest() == calibration.digest()
    rest = {"base": None, "gray": None, "nulls": {}}
    assert replace(loaded, **rest) == replace(calibration, **rest)
    assert replace(loaded.base, module=None) == replace(calibration.base, module=None)


@pytest.mark.parametrize("kind", ["same", "varied"])
def test_a_calibration_of_one_null_comes_back(calibration, tmp_path, kind):
    one = replace(calibration, nulls={kind: calibration.nulls[kind]}, recipe=None)
    one.save(tmp_path)
    loaded = Calibration.load(tmp_path)
    assert (list(loaded.nulls), loaded.recipe) == ([kind], None)
    assert loaded.digest() == one.digest() != calibration.digest()


def test_a_calibration_holds_models_gray_data_and_measurements_only(calibration, tmp_path):
    calibration.save(tmp_path)
    assert {f.name for f in tmp_path.iterdir()} == {"state.safetensors", "calibration.json", "MANIFEST.json"}
    parameters = list(calibration.base.module.state_dict())
    names = {f"base.{name}" for name in parameters} | {f"gray.{name}" for name in ("images", "confidence", "steps")}
    for kind, null in calibration.nulls.items():
        names |= {f"{kind}.model.{m}.{name}" for m in range(len(null.shadows)) for name in parameters}
        names |= {f"{kind}.responses.{i}.{view}" for i, views in null.responses.items() for view in views}
        names |= {f"{kind}.{name}" for name in ("consensus", *FIGURES)}
    assert set(load_file(tmp_path / "state.safetensors")) == names


def test_saving_again_gives_the_same_bytes_and_leaves_no_stale_manifest(calibration, tmp_path):
    calibration.save(tmp_path)
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}
    (tmp_path / ".pydrift-999999999-00.tmp").write_bytes(b"left by a process that was killed")
    os.utime(tmp_path / ".pydrift-999999999-00.tmp", (0, 0))
    calibration.save(tmp_path)
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == before
    replace(calibration, seed=1).save(tmp_path)
    assert Calibration.load(tmp_path).seed == 1


def test_the_digest_tells_calibrations_apart(calibration):
    null = calibration.nulls["varied"]
    plain = null.responses["gray data"]["plain"].copy()
    plain[3, 1, 2] = np.nextafter(plain[3, 1, 2], np.float32(9))
    of_null = [
        {"responses": null.responses | {"gray data": {**null.responses["gray data"], "plain": plain}}},
        {"consensus": null.consensus / 2},
        *({name: np.ones((12, 3)) / 2} for name in ("recognition", "own_confidence")),
        {"confidence": null.confidence / 2},
        {"shadows": null.shadows[::-1]},
        {"base_p_value": 0.1},
        {"exchanges": (1e-300,)},
        {"accuracy": (0.5,) * 11},
    ]
    others = [
        *({"nulls": with_null(calibration, **change).nulls} for change in of_null),
        {"nulls": {"varied": null}},
        {"nulls": {"varied": calibration.nulls["same"], "same": null}},
        {"gray": gray(99)},
        {"recipe": TrainingRecipe(epochs=4)},
        {"draw_size": 41},
        {"update_mode": "finetune"},
        {"class_names": ("a", "b", "u")},
        {"settings": {**calibration.settings, "recipe": {"epochs": 4}}},
        {"attack": replace(calibration.attack, steps=8)},
        {"restarts": 3},
        {"seed": 5},
        {"data_sha256": "ef" * 32},
        {"draw": "41 of 100 images without replacement"},
        {"base": replace(calibration.base, sha256="ef" * 32)},
        {"base": replace(calibration.base, module=frozen(nn.Sequential(calibration.base.module)))},
    ]
    assert len({calibration.digest(), *(replace(calibration, **other).digest() for other in others)}) == len(others) + 1


def test_how_long_it_took_is_not_in_the_digest(calibration):
    assert replace(calibration, seconds={}).digest() == calibration.digest()


def test_a_folder_with_other_files_is_not_written_into(calibration, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UsageError) as error:
        calibration.save(tmp_path)
    assert str(error.value) == f"{tmp_path}: holds other files (thesis.tex); give a new folder for the calibration"
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("name", ["state.safetensors", "calibration.json"])
def test_a_tampered_file_is_refused(calibration, tmp_path, name):
    calibration.save(tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputRefused) as error:
        Calibration.load(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: '{name}' was changed or damaged: its SHA-256 is not the one in MANIFEST.json"
    )


def test_a_missing_or_added_file_is_refused(calibration, tmp_path):
    calibration.save(tmp_path)
    (tmp_path / "extra").write_text("")
    with pytest.raises(InputRefused, match=r": 'extra' is not listed in MANIFEST.json$"):
        Calibration.load(tmp_path)
    (tmp_path / "extra").unlink()
    (tmp_path / "state.safetensors").unlink()
    with pytest.raises(InputRefused, match=r": 'state.safetensors' is listed in MANIFEST.json but missing$"):
        Calibration.load(tmp_path)


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (
            {"format": 3, "kind": "pydrift calibration"},
            f"a calibration of schema version 3; this pydrift reads version {VERSION}. Calibrate again to get one.",
        ),
        (
            {**HEADING, "schema_version": VERSION + 1},
            f"a calibration of schema version {VERSION + 1}; this pydrift reads version {VERSION}. "
            "Read it with a newer pydrift.",
        ),
        ({**HEADING, "kind": "pydrift shadow bank"}, "not a calibration"),
        ({**HEADING, "schema_version": str(VERSION)}, "not a calibration"),
        ({"schema_version": VERSION}, "not a calibration"),
        ({}, "not a calibration"),
    ],
)
def test_a_foreign_manifest_is_refused(calibration, tmp_path, manifest, reason):
    calibration.save(tmp_path)
    write_manifest(tmp_path, manifest)
    with pytest.raises(InputRefused) as error:
        Calibration.load(tmp_path)
    assert str(error.value) == f"{tmp_path}: {reason}"


def test_a_folder_without_a_manifest_is_no_calibration(tmp_path):
    with pytest.raises(UsageError, match=r"MANIFEST.json: no such file$"):
        Calibration.load(tmp_path)


def rewritten(folder, **changes):
    """Changes calibration.json as someone could who also writes the manifest."""
    file = folder / "calibration.json"
    raw = json.loads(file.read_text())
    raw.update(changes)
    file.write_text(json.dumps(raw))
    write_manifest(folder, HEADING)


def test_an_unknown_inversion_is_refused(calibration, tmp_path):
    calibration.save(tmp_path)
    rewritten(tmp_path, attack={"name": "gan"})
    with pytest.raises(InputRefused) as error:
        Calibration.load(tmp_path)
    assert str(error.value) == f"{tmp_path}: made with the inversion 'gan'; known are gradient_ascent"


def own():
    return build(ARCH, 0)


def test_an_attack_that_no_file_could_name_is_refused(calibration, tmp_path):
    class Mine:
        def settings(self):
            return {}

    with pytest.raises(UsageError, match=r"^Mine is not in pydrift\.inversion\.ATTACKS, so no file could name it$"):
        replace(calibration, attack=Mine()).save(tmp_path / "calibration")


def test_a_description_without_its_parts_is_refused(calibration, tmp_path):
    calibration.save(tmp_path)
    description = tmp_path / "calibration.json"
    description.write_text(json.dumps({k: v for k, v in json.loads(description.read_text()).items() if k != "seed"}))
    write_manifest(tmp_path, HEADING)
    with pytest.raises(InputRefused, match=r"not a readable calibration: 'seed' is missing$"):
        Calibration.load(tmp_path)


def zeros(*shape):
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    "damage",
    [
        {"responses": {"gray data": {"plain": zeros(11, 3, 3)}}},
        {"responses": {"gray data": {"plain": zeros(12, 3, 4)}}},
        {"responses": {"gray data": {"plain": zeros(12, 4, 3)}}},
        {"responses": {"gray data": {"plain": np.zeros((12, 3, 3))}}},  # float64
        {"responses": {"occlusions": {"white occlusions": zeros(12, 5, 4)}}},
        {"responses": {"occlusions": {"white occlusions": zeros(12)}}},
        {"responses": {}},
        {"confidence": np.zeros(4)},
        {"confidence": zeros(3)},  # float32
        {"recognition": np.zeros((11, 3))},
        {"own_confidence": np.zeros((12, 2))},
        {"consensus": zeros(4, 2, 1, *SHAPE)},
        {"consensus": zeros(4, 3, 1, 1, 5, 4)},
        {"consensus": np.zeros((4, 3, 1, *SHAPE))},
        {"accuracy": (0.5,) * 10},
    ],
    ids=lambda damage: next(iter(damage)),
)
def test_parts_of_a_null_that_do_not_fit_together_are_refused(calibration, tmp_path, damage):
    with_null(calibration, **damage).save(tmp_path)
    with pytest.raises(InputRefused, match=r"its parts do not fit together|is of torch\."):
        Calibration.load(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        {"gray": GrayData(np.zeros((3, 3, *SHAPE), "f"), np.zeros((3, 3), "f"), np.zeros((3, 3), "i"))},
        {"nulls": {}},
        {"nulls": {"mixed": a_null(1, 2)}},
        {"settings": {"guessed": ["weather"]}},
        {"settings": {}},
    ],
    ids=lambda damage: next(iter(damage)),
)
def test_parts_that_do_not_fit_together_are_refused(calibration, tmp_path, damage):
    replace(calibration, **damage).save(tmp_path)
    with pytest.raises(InputRefused, match=r"its parts do not fit together"):
        Calibration.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seed": 0.5}, "seed: Expected `int`, got `float`"),
        ({"seed": True}, "seed: Expected `int`, got `bool`"),
        ({"restarts": "2"}, "restarts: Expected `int`, got `str`"),
        ({"input_shape": [4, 4]}, "input_shape: Expected `array` of length 3, got 2"),
        ({"class_names": ["a", "b", 3]}, r"class_names: Expected `str`, got `int` - at `\$\[2\]`"),
        ({"base": {"name": "b", "sha256": "", "architecture": None, "x": 1}}, "base: has a key too many or too few"),
        ({"base": {"name": "b", "sha256": ""}}, "base: Object missing required field `architecture`"),
        ({"recipe": {"epochs": "3"}}, "recipe: "),
        ({"recipe": {"epochs": 3}}, "recipe: "),
        ({"recipe": {**asdict(TrainingRecipe()), "epochs": -3}}, "recipe: "),
        ({"nulls": {"same": {"shadows": 2}}}, "nulls: "),
        ({"attack": {"name": "gradient_ascent", "steps": 0}}, "attack: inversion: steps and patience must be"),
        ({"attack": {"name": "gradient_ascent", "more": 0}}, "attack: has a key too many or too few"),
        ({"more": 1}, "'more' is unknown"),
    ],
)
def test_a_value_of_another_type_is_refused_by_its_name(calibration, tmp_path, change, reason):
    calibration.save(tmp_path)
    rewritten(tmp_path, **change)
    with pytest.raises(InputRefused, match=rf"not a readable calibration: {reason}"):
        Calibration.load(tmp_path)


def test_a_view_that_is_named_and_not_there_is_refused(calibration, tmp_path):
    calibration.save(tmp_path)
    nulls = json.loads((tmp_path / "calibration.json").read_text())["nulls"]
    nulls["varied"]["asked"] = {"gray data": ["plain", "from behind"]}
    rewritten(tmp_path, nulls=nulls)
    with pytest.raises(InputRefused, match=r": the responses to gray data\.from behind are missing$"):
        Calibration.load(tmp_path)


def test_a_probe_that_nobody_knows_is_refused(calibration, tmp_path):
    responses = calibration.nulls["varied"].responses
    with_null(calibration, responses=responses | {"crystal ball": responses["occlusions"]}).save(tmp_path)
    with pytest.raises(InputRefused, match=r"its parts do not fit together"):
        Calibration.load(tmp_path)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("base.", "fc1.weight"),
        ("varied.model.2.", "fc2.bias"),
        ("varied.", "responses.gray data.plain"),
        ("varied.", "consensus"),
        ("varied.", "recognition"),
        ("", "gray.steps"),
    ],
)
def test_tables_and_weights_of_another_type_are_refused(calibration, tmp_path, kind, name):
    """int64 responses would be rounded, and int8 weights would be taken for floats: both would be other figures."""
    calibration.save(tmp_path)
    state = load_file(tmp_path / "state.safetensors")
    state[kind + name] = state[kind + name].to(torch.int8)
    (tmp_path / "state.safetensors").write_bytes(safetensors_bytes(state, {}))
    write_manifest(tmp_path, Calibration.format.heading())
    with pytest.raises(InputRefused, match=rf"'{name}' is of torch\.int8"):
        Calibration.load(tmp_path)


@pytest.mark.parametrize("name", ["tests.drift.test_calibration:own", "os:getcwd"])
def test_an_architecture_that_runs_code_must_be_named_by_the_caller(calibration, tmp_path, name):
    replace(calibration, base=replace(calibration.base, architecture=name)).save(tmp_path)
    with pytest.raises(UsageError) as error:
        Calibration.load(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: names the architecture '{name}', which is not built in; loading it runs code, "
        "so name it yourself (arch=, --arch)"
    )
    loaded = Calibration.load(tmp_path, arch="tests.drift.test_calibration:own")
    assert loaded.digest() == calibration.digest()
    assert loaded.base.architecture == "tests.drift.test_calibration:own"


def test_a_live_module_needs_its_like_to_be_loaded(calibration, tmp_path):
    replace(calibration, base=replace(calibration.base, architecture=None)).save(tmp_path)
    with pytest.raises(UsageError) as error:
        Calibration.load(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: calibrated on a live module; pass base=, a module of the same architecture"
    )
    template = build(ARCH, 77)
    before = weights(template)
    assert Calibration.load(tmp_path, base=template).digest() == calibration.digest()
    assert weights(template) == before
    assert template.training


def test_models_that_do_not_fit_are_refused(calibration, tmp_path):
    calibration.save(tmp_path)
    with pytest.raises(InputRefused, match=r": its models do not fit the architecture: \w+"):
        Calibration.load(tmp_path, arch="mlp:1x4x4:6:3")
    with pytest.raises(InputRefused, match=r": its models do not fit the architecture: \w+"):
        Calibration.load(tmp_path, base=nn.Linear(2, 2))


def test_loading_leaves_the_callers_generator_alone(calibration, tmp_path):
    calibration.save(tmp_path)
    before = torch.get_rng_state()
    Calibration.load(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
