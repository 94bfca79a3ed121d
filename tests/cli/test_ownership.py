"""`pydrift ownership` as its users run it, on digits: verdicts as exit codes, what goes where, and what is refused."""

import inspect
import json
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import pydrift
from pydrift.core.strict_json import parse_strict_json
from pydrift.data import load_data
from pydrift.models.file import load_model
from pydrift.ownership import EMBEDDINGS, OwnershipReport, decision, ownership_audit
from pydrift.report.page import p_text
from pydrift.training.train_model import train_model
from tests.command_line import call
from tests.seals import unsealed

pytestmark = pytest.mark.slow

ARCH = "mlp:1x8x8:32:10"
FEW = ("--samples", "20", "--fit-on", "40", "--independents", "40", "--references", "12")


@dataclass(frozen=True)
class World:
    """`victim` was trained on the members, `thief` goes on from it and `benign` begins anew, both on other digits.

    `three` tells three classes apart; `others` is an npz file of all images but the members, `few` of 40 of them.
    """

    folder: Path

    def path(self, name: str) -> Path:
        return self.folder / name

    @property
    def names(self) -> dict[str, Path]:
        models = {name: self.path(f"{name}.safetensors") for name in ("victim", "thief", "benign", "three")}
        return {"folder": self.folder, "members": self.path("members.npy"), **models}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ownership")
    data = load_data("digits")
    trained = train_model(ARCH, data, size=300, seed=1)
    trained.save(folder / "victim.safetensors")
    np.save(folder / "members.npy", trained.drawn)
    other = torch.ones(len(data), dtype=torch.bool)
    other[torch.as_tensor(trained.drawn)] = False
    others = data.subset(other)
    train_model(ARCH, others, size=300, seed=2, init=load_model(folder / "victim.safetensors")).save(
        folder / "thief.safetensors"
    )
    train_model(ARCH, others, size=300, seed=3).save(folder / "benign.safetensors")
    three = replace(data.subset(data.y < 3), class_names=("0", "1", "2"))
    train_model("mlp:1x8x8:8:3", three, size=100, seed=4).save(folder / "three.safetensors")
    for name, images in (("others", others), ("few", others.subset(range(40)))):
        np.savez(folder / f"{name}.npz", x=images.x.numpy(), y=images.y.numpy())
    return World(folder)


@pytest.fixture
def ownership(world):
    """Runs `pydrift ownership`, in whose arguments the names of the world stand in braces."""
    return lambda *arguments: call("ownership", *(argument.format(**world.names) for argument in arguments))


WHITE = ("--embedding", "min-gd")  # of networks as small as these, labels tell too little
MINE = ("--victim", "{victim}", "--private", "digits", "--members", "{members}", *FEW, "--resume-dir", "{folder}/work")


@pytest.fixture(scope="module")
def outcome(world):
    """Of a thief and a benign model, in a process of its own."""
    arguments = ["{benign}", "{thief}", *WHITE, *MINE, "--alpha", "0.05", "--json", "--out", "{folder}/out"]
    given = [argument.format(**world.names) for argument in arguments]
    return subprocess.run(
        [sys.executable, "-m", "pydrift", "ownership", *given], capture_output=True, text=True, timeout=300
    )


def test_json_is_one_document_and_the_folder_holds_the_same(outcome, world):
    assert outcome.returncode == 1, outcome.stderr
    found = parse_strict_json(outcome.stdout.encode())
    benign, thief = found["suspects"]
    assert (benign["name"], thief["name"]) == ("benign.safetensors", "thief.safetensors")
    assert thief["verdict"] == "stolen"
    assert thief["p"] <= 2 / 41
    assert benign["verdict"] != "stolen"
    assert found["private"] == "the members of digits (train)"
    assert found["public"] == "the others of digits (train)"
    assert found["provenance"]["command"].startswith("pydrift ownership ")
    assert found["provenance"]["settings"]["fit_on"] == 40
    assert "training shadows: 40/40" in outcome.stderr
    assert "embedding: 56/56" in outcome.stderr
    out = world.path("out")
    assert json.loads((out / "ownership.json").read_text()) == found
    loaded = OwnershipReport.load(out)
    assert unsealed(loaded.to_json()) == unsealed(outcome.stdout)
    assert loaded.verdict == "stolen"
    assert (
        "Stolen: thief.safetensors comes from the private images, or from the victim."
        in (out / "ownership.html").read_text()
    )


def test_a_benign_model_is_not_accused_and_the_table_says_what_p_is(ownership, outcome, world):
    finished = {file: file.stat().st_mtime_ns for file in world.path("work").rglob("*.safetensors")}
    code, out, err = ownership("{benign}", *WHITE, *MINE, "--alpha", "0.05")
    assert "Stolen" not in out
    assert (code, out.split(":")[0]) in ((0, "Independent"), (3, "Inconclusive")), err
    p = json.loads(outcome.stdout)["suspects"][0]["p"]
    k = round(41 * p) - 1
    words = f"{k} of 40 benign models show as much knowledge of the private images, p = ({k} + 1) / (40 + 1) = "
    assert words + p_text(p) in out
    assert "the victim itself" in out
    assert finished  # and none of them was trained again
    assert {file: file.stat().st_mtime_ns for file in world.path("work").rglob("*.safetensors")} == finished


def test_where_nothing_can_be_said_the_exit_code_is_three(ownership, monkeypatch):
    monkeypatch.setattr(decision, "_SURELY_CLEAR", 1.0)
    code, out, err = ownership("{benign}", *WHITE, *MINE, "--alpha", "0.1")
    assert code == 3, err
    assert out.startswith(
        "Inconclusive: this audit cannot decide whether benign.safetensors comes from the private images.\n"
    )
    assert "reveal more samples" in out


def test_public_images_may_be_named(ownership, outcome, world):
    """Those that --members leaves over, from a file of their own, give the same result."""
    public = ("--public", "npz:{folder}/others.npz", "--alpha", "0.05", "--json")
    code, out, err = ownership("{benign}", "{thief}", *WHITE, *MINE, *public)
    assert code == 1, err
    found, before = json.loads(out), json.loads(outcome.stdout)
    assert found["public"] == f"{world.path('others.npz')} (train)"
    assert found["suspects"] == before["suspects"]
    assert found["null"] == before["null"]


def test_labels_alone_may_be_asked_for(ownership):
    code, out, err = ownership("{victim}", *MINE, "--alpha", "0.05", "--embedding", "blind-walk", "--json")
    assert code == 1, err
    found = json.loads(out)
    assert found["embedding"] == "Blind Walk (label only)"
    assert 40 * 9 < found["suspects"][0]["queries"] < 30_000


def test_the_recipe_may_be_changed(ownership):
    code, out, err = ownership("{thief}", *MINE[:-2], "--alpha", "0.05", "--recipe", "epochs=2", "--json")
    assert code in (0, 1, 3), err
    assert json.loads(out)["provenance"]["settings"]["recipe"]["epochs"] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (MINE, 2, "Missing argument 'SUSPECT"),
        (("{thief}", "--private", "digits"), 2, "Missing option '--victim'"),
        (("{thief}", *MINE[:4]), 2, "--public: name images that the victim was not trained on"),
        (("{thief}", *MINE, "--public", "digits"), 2, "--public names the same images as --private"),
        (("{thief}", *MINE, "--embedding", "magic"), 2, "no such embedding: 'magic'"),
        (("{thief}", *MINE, "--alpha", "0.01"), 2, "alpha 0.01 needs 100 of them"),
        (("{thief}", *MINE, "--samples", "2"), 2, "samples must be at least 5, got 2"),
        (("{thief}", "{thief}", *MINE, "--alpha", "0.05"), 2, "is named twice"),
        (("{thief}", *MINE, "--recipe", "epochs"), 2, "expected KEY=VALUE, got 'epochs'"),
        (("{thief}", *MINE, "--out", "{victim}"), 2, "cannot be written"),
        (("{folder}/nobody", *MINE, "--alpha", "0.05"), 2, "no such file"),
        (("{thief}", *MINE, "--members", "{victim}"), 4, "not an npy file"),
        (("{thief}", *MINE, "--alpha", "0.05", "--samples", "290"), 4, "290 samples need 310 private images"),
        (("{three}", *MINE, "--alpha", "0.05"), 4, "three.safetensors has 3 classes, but the victim has 10"),
        (("{members}", *MINE, "--alpha", "0.05"), 4, "members.npy"),
        (
            ("{thief}", *MINE[:2], "--private", "npz:{folder}/few.npz", "--public", "digits", *FEW, "--alpha", "0.05"),
            4,
            "is private image",
        ),
    ],
)
def test_bad_calls_say_what_was_wrong(ownership, arguments, code, words):
    left, out, err = ownership(*arguments)
    assert left == code, err
    assert words in re.sub(r"[\s│]+", " ", err)
    assert out == ""


def test_the_help_states_the_defaults_and_the_embeddings(monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    words = call("ownership", "--help").stdout
    parameters = inspect.signature(ownership_audit).parameters
    for name in ("embedding", "samples", "fit_on", "independents", "references", "alpha"):
        (line,) = (line for line in words.splitlines() if f"--{name.replace('_', '-')} " in line)
        assert f"[default: ({parameters[name].default})]" in line
        assert name != "embedding" or all(known in line for known in EMBEDDINGS)


def test_it_is_a_name_of_the_package():
    assert pydrift.ownership_audit is ownership_audit
    assert pydrift.OwnershipReport is OwnershipReport
    assert {"OwnershipReport", "ownership_audit"} <= set(pydrift.__all__)
