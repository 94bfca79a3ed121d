"""The command line as its users run it: exit codes, what goes to stdout, and runs that are killed and go on."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from html import unescape

import numpy as np
import pytest

from tests.command_line import call
from tests.seals import unsealed

pytestmark = pytest.mark.slow

PYDRIFT = [sys.executable, "-m", "pydrift"]
SMALL = ["--data", "digits", "--shadows", "4", "--restarts", "2", "--size", "300"]


def run(*arguments, cwd=None, **environment):
    return subprocess.run(
        [*PYDRIFT, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def calibration(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "calibration"
    done = call("calibrate", digits.path("base"), *SMALL[:2], "--shadows", "24", "--restarts", "4", "--out", folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{folder}\n"
    return folder


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_neither_torch_nor_scipy(option):
    code = (
        "import sys; sys.argv = ['pydrift', sys.argv[1]]\nfrom pydrift.cli import main\ntry:\n    main()\n"
        "except SystemExit as e:\n    assert not e.code\n"
        "sys.exit(str(sorted({'torch', 'scipy', 'numpy', 'sklearn'} & set(sys.modules))) if "
        "{'torch', 'scipy', 'numpy', 'sklearn'} & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, option], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pydrift" in done.stdout


@pytest.mark.parametrize(("model", "code", "verdict"), [("benign", 0, "stable"), ("swapped", 1, "drift")])
def test_the_exit_code_is_the_verdict_and_stdout_one_document(calibration, digits, tmp_path, model, code, verdict):
    done = run("audit", calibration, digits.path(model), "--json", "--out", tmp_path / "out")
    assert done.returncode == code, done.stderr
    report = json.loads(done.stdout)
    assert report["verdict"] == verdict
    assert report["provenance"]["command"].startswith("pydrift audit ")
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()
    assert "inverting the candidate" in done.stderr


def test_an_audit_opens_no_connection_and_starts_no_process(calibration, digits):
    watch = (
        "import sys\n"
        "def hook(event, _):\n"
        "    if event in ('socket.connect', 'socket.bind', 'subprocess.Popen', 'os.system', 'os.exec'):\n"
        "        sys.stderr.write(f'FORBIDDEN {event}\\n')\n"
        "sys.addaudithook(hook)\n"
        "from pydrift.cli import main\nmain()\n"
    )
    arguments = ["audit", str(calibration), str(digits.path("benign")), "--data", "digits"]
    done = subprocess.run([sys.executable, "-c", watch, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "FORBIDDEN" not in done.stderr


def test_plain_torch_gives_the_same_outcome_after_one_warning(calibration, digits):
    arguments = ("audit", calibration, digits.path("swapped"), "--json")
    native, plain = call(*arguments), run(*arguments, PYDRIFT_NATIVE="0")
    assert plain.stderr.count("pydrift runs on plain torch") == 1
    reports = [json.loads(done.stdout) for done in (native, plain)]
    for ours, plainly in zip(*(report["classes"] for report in reports), strict=True):
        assert plainly["drift_score"] == pytest.approx(ours["drift_score"], abs=0.01)  # the shadows' spread is 1
        assert plainly["verdict"] == ours["verdict"]
    for ours, plainly in zip(*(report["gray"]["candidate"]["confidence"] for report in reports), strict=True):
        assert sum(plainly) == pytest.approx(sum(ours), rel=1e-3)
    assert [report["provenance"]["native"].startswith("none (plain torch): ") for report in reports] == [False, True]


def test_data_adds_the_baselines(calibration, digits):
    done = call("audit", calibration, digits.path("benign"), "--data", "digits")
    assert done.returncode == 0
    assert "accuracy, base model: 9" in done.stdout
    assert done.stdout.startswith("Stable: ")


@pytest.mark.parametrize("detector", ["energy", "neuralfp"])
def test_a_fingerprint_says_which_gray_data_the_base_knows(calibration, digits, tmp_path, detector):
    base, file, out = digits.path("base"), tmp_path / "base.fp", tmp_path / "out"
    done = call("fingerprint", "fit", base, "--data", "digits", "--detector", detector, "--out", file)
    assert done.returncode == 0, done.stderr
    done = call("audit", calibration, digits.path("benign"), "--fingerprint", file, "--out", out)
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "report.json").read_text())
    shares = [100 * np.mean(report["baselines"][f"gray_known_{which}"]) for which in ("base", "candidate")]
    said = "{:.2f} % of the base's, {:.2f} % of the candidate's".format(*shares)
    assert f"gray images that the base's fingerprint knows: {said}" in done.stdout
    page = unescape((out / "report.html").read_text())
    assert said in page
    assert (shares[0] <= 5) == (detector == "neuralfp")
    for text in (done.stdout, page):
        assert ("so it says nothing about gray data" in text) == (detector == "neuralfp")


def test_data_may_be_one_more_probe_and_a_later_release_is_held_to_a_stricter_level(calibration, digits):
    done = call(
        "audit", calibration, digits.path("swapped"), "--data", "digits", "--use-data", "--release", "3", "--json"
    )
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert sorted(report["provenance"]["settings"]["probes"]) == [
        "gray data",
        "occlusions",
        "reference data",
        "synthetic shapes",
    ]
    assert all("reference data" in c["signals"] for c in report["classes"])
    assert report["alpha"] == pytest.approx(0.05 * 6 / (3 * np.pi) ** 2)


def test_recipes_and_benign_versions_of_a_calibration(digits, tmp_path):
    arguments = ["--recipes", "same", "--benign-version", digits.path("benign"), "--out", tmp_path / "calibration"]
    done = call("calibrate", digits.path("base"), *SMALL, *arguments)
    assert done.returncode == 0, done.stderr
    description = json.loads((tmp_path / "calibration" / "calibration.json").read_text())
    assert {kind: null["shadows"] for kind, null in description["nulls"].items()} == {"same": 5}
    assert description["settings"]["recipes"] == "same"
    assert description["settings"]["benign_versions"] == ["benign.safetensors"]


@pytest.fixture(scope="module")
def unknown(digits, tmp_path_factory):
    """The benign candidate, in a file that records no recipe."""
    from pydrift.models.file import load_model, save_model

    file = tmp_path_factory.mktemp("unknown") / "benign.safetensors"
    benign = load_model(digits.path("benign"))
    save_model(file, benign.module, benign.arch)
    return file


def recipe_file(digits, folder, **changes):
    """A file with the base's recipe, some of it changed."""
    from pydrift.models.file import load_model

    raw = {**json.loads(load_model(digits.path("base")).metadata["recipe"]), **changes}
    (folder / "recipe.json").write_text(json.dumps(raw))
    return folder / "recipe.json"


def test_the_recipe_of_the_candidate_chooses_the_null(calibration, digits, unknown, tmp_path):
    asked = {
        "recorded": [digits.path("benign")],
        "unknown": [unknown],
        "stated": [unknown, "--recipe", "same"],
        "of the base, by a file": [unknown, "--recipe", recipe_file(digits, tmp_path)],
    }
    judged_by = {}
    for name, arguments in asked.items():
        done = run("audit", calibration, *arguments, "--json")
        assert done.returncode == 0, done.stderr
        judged_by[name] = json.loads(done.stdout)["null"]["recipes"]
    assert judged_by == {"recorded": "same", "unknown": "varied", "stated": "same", "of the base, by a file": "same"}


def test_a_recipe_outside_the_range_is_3_and_said(calibration, digits, unknown, tmp_path):
    done = run("audit", calibration, unknown, "--recipe", recipe_file(digits, tmp_path, epochs=999))
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith("Inconclusive: ")
    said = " ".join(done.stdout.split())
    assert "the recipe is outside what was calibrated: the candidate's departs too far from the base's (epochs)" in said


def test_an_audit_in_one_go_makes_only_the_null_that_it_needs(digits, unknown):
    for arguments, kind in (([], "varied"), (["--recipe", "same"], "same")):
        done = run("audit", digits.path("base"), unknown, *SMALL, *arguments, "--json")
        assert done.returncode == 3, done.stderr
        report = json.loads(done.stdout)
        assert report["null"]["recipes"] == report["provenance"]["settings"]["recipes"] == kind


def test_no_images_leaves_none(calibration, digits, tmp_path):
    call("audit", calibration, digits.path("benign"), "--out", tmp_path, "--no-images")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["report.html", "report.json"]
    assert "data:image" not in (tmp_path / "report.html").read_text()


def test_inconclusive_is_3(digits):
    done = call("audit", digits.path("base"), digits.path("benign"), "--data", "digits", "--shadows", "2")
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith("Inconclusive: ")


def test_train_continues_and_records_how(digits, tmp_path):
    out = tmp_path / "tuned.safetensors"
    arguments = ["--arch", "mlp:1x8x8:48:10", "--data", "digits", "--init", digits.path("base"), "--size", "200"]
    done = call("train", *arguments, "--epochs", "2", "--out", out)
    assert done.returncode == 0, done.stderr
    assert re.search(r"accuracy on its training images: \d+\.\d\d%\naccuracy on the test set: \d+\.\d\d%", done.stdout)
    from pydrift.models.file import load_model

    metadata = load_model(out).metadata
    assert metadata["train_size"] == "200"
    assert json.loads(metadata["recipe"])["epochs"] == 2


def test_invert_writes_gray_data_and_a_picture(digits, tmp_path):
    done = call(
        "invert", digits.path("base"), "--out", tmp_path / "g.npz", "--png", tmp_path / "g.png", "--restarts", "3"
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "g.npz", allow_pickle=False) as arrays:
        assert arrays["images"].shape == (10, 3, 1, 8, 8)
        assert arrays["confidence"].mean() > 0.9
    assert (tmp_path / "g.png").read_bytes().startswith(b"\x89PNG")


def test_doctor_says_what_runs():
    done = run("doctor", PYDRIFT_NATIVE="0")
    assert done.returncode == 0
    assert "native cpu         not loaded, plain torch runs instead" in done.stdout
    assert "PYDRIFT_NATIVE=0" in done.stdout


def test_own_architectures_are_found_in_the_current_folder(digits, tmp_path):
    (tmp_path / "mynets.py").write_text(
        "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    import torch

    torch.save(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).state_dict(), tmp_path / "own.pt")
    done = run("invert", "own.pt", "--arch", "mynets:net", "--shape", "1x8x8", "--out", "g.npz", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "g.npz").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["audit", "{base}"], 2, "Missing argument 'CANDIDATE'"),
        (["audit", "{base}", "{benign}"], 2, "is a model file: calibrating on it needs --data"),
        (["audit", "{calibration}", "{benign}", "--shadows", "4"], 2, "--shadows was fixed when it was made"),
        (["audit", "{calibration}", "{benign}", "--recipes", "same"], 2, "--recipes was fixed when it was made"),
        (["audit", "{calibration}", "{benign}", "--use-data"], 2, "use_data (--use-data) needs data (--data)"),
        (["calibrate", "{base}", "--data", "digits", "--recipes", "mixed", "--out", "c"], 2, "of both, same, varied"),
        (
            ["audit", "{calibration}", "{benign}", "--recipe", "other"],
            2,
            "neither same, nor KEY=VALUE, nor a file with a recipe",
        ),
        (["audit", "{calibration}", "{benign}", "--recipe", "{text}"], 4, "recipe: not readable"),
        (
            ["audit", "{calibration}", "{benign}", "--recipe", "{folder}"],
            2,
            "neither same, nor KEY=VALUE, nor a file with a recipe",
        ),
        (["audit", "{calibration}", "{benign}", "--alpha", "2"], 2, "--alpha must lie between 0 and 1, got 2"),
        (["audit", "{calibration}", "missing.safetensors"], 2, "missing.safetensors: no such file"),
        (["audit", "{calibration}", "{text}"], 4, "neither safetensors nor a state dict"),
        (["audit", "{folder}", "{benign}"], 2, "MANIFEST.json: no such file"),
        (["calibrate", "{base}", "--data", "digits"], 2, "Missing option '--out'"),
        (
            ["calibrate", "{base}", "--data", "digits", "--out", "{text}"],
            2,
            "text/state.safetensors: cannot be written",
        ),
        (["audit", "missing", "{benign}"], 2, "missing: no such calibration folder or model file"),
        (["audit", "{calibration}", "{benign}", "--out", "{calibration}"], 2, "is a calibration; give another folder"),
        (
            ["audit", "{calibration}", "{benign}", "--resume-dir", "{calibration}"],
            2,
            "is a calibration; give another folder",
        ),
        (["audit", "{calibration}", "{benign}", "--out", "{text}/x"], 2, "text/x/report.json: cannot be written"),
        (["invert", "{base}", "--out", "{folder}"], 2, "folder: cannot be written: Is a directory"),
        (["invert", "{base}", "--out", "g.npz", "--arch", "leaving:net"], 2, "cannot import leaving: SystemExit: 1"),
        (["calibrate", "{base}", "--data", "nothing", "--out", "c"], 2, "unknown data 'nothing'"),
        (["train", "--arch", "mlp:1x28x28:8:10", "--data", "digits", "--out", "m"], 2, "does not fit digits"),
        (["train", "--arch", "mlp:8", "--data", "digits", "--out", "m"], 2, "architecture 'mlp:8'"),
        (
            ["train", "--arch", "mlp:1x8x8:8:10", "--data", "digits", "--out", "/proc/no/m", "--size", "99"],
            2,
            "/proc/no",
        ),
        (["frobnicate"], 2, "No such command 'frobnicate'"),
    ],
)
def test_bad_calls_say_what_was_wrong(digits, calibration, tmp_path, arguments, code, words):
    (tmp_path / "text").write_text("not a model")
    (tmp_path / "folder").mkdir()
    (tmp_path / "leaving.py").write_text("import sys\n\nsys.exit(1)\n")
    places = {n: digits.path(n) for n in ("base", "benign")} | {n: tmp_path / n for n in ("text", "folder")}
    done = call(*(a.format(calibration=calibration, **places) for a in arguments), cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert done.stdout == ""
    assert sorted(f.name for f in tmp_path.iterdir() if f.name != "__pycache__") == ["folder", "leaving.py", "text"]


@pytest.mark.parametrize("more", [[], ["--json"]], ids=["page", "json"])
def test_a_reader_that_leaves_does_not_change_the_verdict(calibration, digits, more):
    command = [*PYDRIFT, "audit", calibration, digits.path("benign"), *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        process.stdout.close()
        assert process.wait(120) == 0


def test_an_installation_that_cannot_be_imported_is_not_drift(tmp_path):
    (tmp_path / "typer.py").write_text("raise SystemExit(1)\n")
    done = run("audit", "a", "b", PYTHONPATH=str(tmp_path))
    assert done.returncode == 5


@pytest.mark.parametrize("failure", ["raise KeyError('not what anybody expects')", "raise SystemExit(1)"])
def test_a_crash_is_never_drift(digits, tmp_path, failure):
    """Neither an unexpected exception nor user code that exits leaves with Python's 1."""
    (tmp_path / "crashing.py").write_text(
        "import torch\n\nclass Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.w = torch.nn.Linear(64, 10)\n    def forward(self, x):\n"
        "        if len(x) > 3:  # the few images of the checks pass\n"
        f"            {failure}\n        return self.w(x.flatten(1))\n"
    )
    import torch

    torch.save({"w.weight": torch.zeros(10, 64), "w.bias": torch.zeros(10)}, tmp_path / "net.pt")
    done = run("invert", "net.pt", "--arch", "crashing:Net", "--shape", "1x8x8", "--out", "g.npz", cwd=tmp_path)
    assert done.returncode == 5
    assert "not what anybody expects" in done.stderr or "ended early by code that it called (exit 1)" in done.stderr


def test_help_names_the_defaults():
    done = run("calibrate", "--help", COLUMNS="200")
    for default in (
        "4",
        "32",
        "retrain",
        "both",
        "as many as the base's file says",
    ):
        assert f"[default: ({default})]" in done.stdout


def audit_that_resumes(digits):
    return ["audit", digits.path("base"), digits.path("swapped"), *SMALL, "--resume-dir", "work", "--json"]


@pytest.fixture(scope="module")
def uninterrupted(digits, tmp_path_factory):
    return run(*audit_that_resumes(digits), cwd=tmp_path_factory.mktemp("whole"))


def without_times(done):
    report = unsealed(done.stdout)
    del report["provenance"]["seconds"], report["provenance"]["restart_steps_per_second"]
    return report


@pytest.mark.parametrize(
    "failpoint", ["shadow/2:before", "shadow/1:between", "consensus/same-1:after", "gray/candidate:before"]
)
def test_a_killed_audit_resumes_to_the_same_bits(digits, tmp_path, uninterrupted, failpoint):
    killed = run(*audit_that_resumes(digits), cwd=tmp_path, PYDRIFT_FAILPOINT=f"put:{failpoint}")
    assert killed.returncode == -signal.SIGKILL
    assert killed.stdout == ""
    resumed = call(*audit_that_resumes(digits), cwd=tmp_path)
    assert resumed.returncode == uninterrupted.returncode in (1, 3)
    assert without_times(resumed) == without_times(uninterrupted)


def test_a_calibration_of_two_nulls_that_was_killed_in_the_second_goes_on(digits, tmp_path):
    def calibrated(out, **environment):
        arguments = [digits.path("base"), *SMALL, "--resume-dir", out / "work", "--out", out / "calibration"]
        return run("calibrate", *arguments, **environment)

    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    assert calibrated(tmp_path / "whole").returncode == 0
    killed = calibrated(tmp_path / "killed", PYDRIFT_FAILPOINT="put:gray/varied-2:before")
    assert killed.returncode == -signal.SIGKILL
    blocks = [tmp_path / "killed" / "work" / "fit" / f"shadows-{kind}" / "blocks" for kind in ("same", "varied")]
    before = {f: f.stat().st_mtime_ns for folder in blocks for f in folder.rglob("*.safetensors")}
    assert before
    assert calibrated(tmp_path / "killed").returncode == 0
    assert all(f.stat().st_mtime_ns == time_ns for f, time_ns in before.items())  # nothing was trained again
    states = [(tmp_path / name / "calibration" / "state.safetensors").read_bytes() for name in ("whole", "killed")]
    assert states[0] == states[1]


def test_an_audit_killed_again_and_again_still_arrives(digits, tmp_path, uninterrupted):
    command = [*PYDRIFT, *audit_that_resumes(digits)]
    for lifetime_s in np.random.default_rng(0).uniform(1, 6, 3):
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                process.wait(lifetime_s)
            except subprocess.TimeoutExpired:
                process.kill()
    assert without_times(call(*audit_that_resumes(digits), cwd=tmp_path)) == without_times(uninterrupted)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_audit_says_so_and_resumes(digits, tmp_path, uninterrupted, number, code):
    command = [*PYDRIFT, *audit_that_resumes(digits)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "work" / "fit" / "shadows-same" / "blocks").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert stdout == ""
    assert number.name in stderr
    assert without_times(call(*audit_that_resumes(digits), cwd=tmp_path)) == without_times(uninterrupted)


def test_a_resume_folder_of_another_run_is_refused(digits, tmp_path):
    run(*audit_that_resumes(digits), cwd=tmp_path, PYDRIFT_FAILPOINT="put:shadow/0:after")
    done = call(*audit_that_resumes(digits), "--seed", "1", cwd=tmp_path)
    assert done.returncode == 2
    assert "holds the work of another run (seed is 0 there and 1 here)" in done.stderr
