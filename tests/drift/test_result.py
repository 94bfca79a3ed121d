"""Reports: what is written is what is read, in strict JSON, with or without the images."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from pydrift import DriftReport, InputRefused, UsageError
from pydrift.drift.result import Baselines, NullSummary, Provenance
from pydrift.drift.verdict import ClassVerdict
from pydrift.inversion.gray import GrayData
from pydrift.report import write_report
from tests.seals import resealed, rewrite_report


def gray(seed):
    rng = np.random.default_rng(seed)
    shape = (2, 3, 1, 4, 4)
    return GrayData(
        rng.random(shape, np.float32), rng.random((2, 3), np.float32), rng.integers(0, 99, (2, 3), np.int32)
    )


def found(index, name, **values):
    defaults = {
        "verdict": "drift",
        "drift_score": 0.1 + 0.2,  # no short decimal
        "p_value": 1e-300,
        "p_adjusted": 2e-300,
        "reason": None,
        "null": (0.5, -0.25),
        "signals": {"plain": -1.5, "own gray data": 0.1 + 0.2},
        "places": {"white occlusions": ((0.1 + 0.2, None), (1.0, -1.0))},
    }
    return ClassVerdict(index, name, **{**defaults, **values})


UNTESTED = {"verdict": "unmeasured", "drift_score": None, "p_value": None, "p_adjusted": None}


VERSION = DriftReport.format.schema_version


@pytest.fixture
def report():
    return DriftReport(
        verdict="drift",
        p_value=2e-300,
        alpha=0.05,
        reasons=("class ü: no",),
        classes=(found(0, "<b>"), found(1, "ü", **UNTESTED, reason="no", null=(), signals={})),
        gray_base=gray(0),
        gray_candidate=gray(1),
        null=NullSummary(
            "retrain", "varied", 2, "3 of 4 images", (0.1 + 0.2, None), 3.21, ((0.0, 0.01), (6.42, 0.1 + 0.2))
        ),
        baselines=Baselines(0.9, 0.8, 0.4, 0.05, 1.37, 297, "digits"),
        provenance=Provenance(
            pydrift="0.1.0",
            torch="2.13.0",
            device="cpu",
            native="cpu (avx2)",
            path_base="fused",
            path_candidate="generic: hooks",
            seed=2**63 - 1,
            base_sha256="a" * 64,
            candidate_sha256="b" * 64,
            data_sha256=None,
            calibration_sha256=None,
            base="base",
            candidate="new",
            data=None,
            settings={"inversion": {"steps": 100, "jitter": None}},
            seconds={"invert": 0.5},
        ),
    )


def test_a_table_of_places_that_is_none_is_refused(report, tmp_path):
    write_report(report, tmp_path)
    raw = json.loads((tmp_path / "report.json").read_text())
    raw["classes"][0]["places"]["white occlusions"] = [[1.0, 2.0], [3.0]]
    (tmp_path / "report.json").write_text(resealed(raw))
    with pytest.raises(InputRefused, match=r"the rows of a table of places are not of one length"):
        DriftReport.load(tmp_path)


def test_a_saved_report_comes_back_equal(report, tmp_path):
    write_report(report, tmp_path / "new" / "folder")
    assert {f.name for f in (tmp_path / "new" / "folder").iterdir()} == {"report.json", "report.html", "gray.npz"}
    for path in (tmp_path / "new" / "folder", tmp_path / "new" / "folder" / "report.json"):
        loaded = DriftReport.load(path)
        assert loaded == report
        assert loaded.to_json() == report.to_json()
        assert loaded.gray_base.images.dtype == np.float32
        assert loaded.gray_candidate.steps.dtype == np.int32


def test_reports_with_other_images_or_figures_differ(report):
    assert report == replace(report, gray_base=gray(0))
    assert report != replace(report, gray_base=gray(1))
    assert report != replace(report, alpha=0.01)


def test_json_is_strict_and_holds_no_images(report):
    text = report.to_json()
    raw = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert text == json.dumps(raw, sort_keys=True, indent=2) + "\n"
    assert (raw["kind"], raw["schema_version"]) == ("pydrift drift report", VERSION)
    assert raw["classes"][0]["signals"] == {"plain": -1.5, "own gray data": 0.1 + 0.2}
    assert raw["null"]["recipes"] == "varied"
    assert raw["classes"][1]["p_value"] is None
    assert raw["gray"]["base"].keys() == {"confidence", "steps"}
    with pytest.raises(ValueError, match="JSON compliant"):
        replace(report, alpha=float("nan")).to_json()


def test_without_images_there_are_none_anywhere(report, tmp_path):
    write_report(report, tmp_path)
    with_images = (tmp_path / "report.html").read_text()
    write_report(report, tmp_path, images=False)
    assert {f.name for f in tmp_path.iterdir()} == {"report.json", "report.html"}
    without = (tmp_path / "report.html").read_text()
    assert "data:image/png;base64," in with_images
    assert not re.search(r"data:image|<img", without)
    loaded = DriftReport.load(tmp_path)
    assert loaded.to_json() == report.to_json()
    assert loaded.gray_base.images.shape == loaded.gray_candidate.images.shape == (2, 0, 0, 0, 0)


def test_a_report_without_images_can_be_saved_again(report, tmp_path):
    write_report(report, tmp_path / "first", images=False)
    write_report(DriftReport.load(tmp_path / "first"), tmp_path / "second")
    assert DriftReport.load(tmp_path / "second").to_json() == report.to_json()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a readable drift report: Expecting"),
        ("[]", "not a drift report"),
        ("{}", "not a drift report"),
        ('{"schema_version": 4}', "not a drift report"),
        ('{"schema_version": true, "kind": "pydrift drift report"}', "not a drift report"),
        ('{"schema_version": 3, "kind": "pydrift ownership report"}', "not a drift report"),
        (
            '{"schema_version": 1, "verdict": "stable"}',
            f"a drift report of schema version 1; this pydrift reads version {VERSION}. Run the audit",
        ),
        (
            f'{{"schema_version": {VERSION + 1}, "kind": "pydrift drift report"}}',
            f"a drift report of schema version {VERSION + 1}; this pydrift reads version {VERSION}. Read it",
        ),
    ],
)
def test_what_is_no_report_is_refused(tmp_path, content, message):
    file = tmp_path / "report.json"
    file.write_text(content)
    with pytest.raises(InputRefused, match=f"^{re.escape(f'{file}: {message}')}"):
        DriftReport.load(file)


def test_a_report_that_is_not_there_is_the_users_mistake(tmp_path):
    with pytest.raises(UsageError, match=r"report\.json: no such file$"):
        DriftReport.load(tmp_path / "report.json")


def test_images_of_another_report_are_refused(report, tmp_path):
    write_report(report, tmp_path)
    (tmp_path / "report.json").write_text(replace(report, alpha=0.01).to_json())
    (tmp_path / "report.html").unlink()
    with pytest.raises(InputRefused, match=r"gray\.npz: not what was written with report\.json; write the report"):
        DriftReport.load(tmp_path)


@pytest.mark.parametrize("images", [np.zeros((2, 3, 1, 4, 4)), np.zeros((2, 2, 1, 4, 4), np.float32), np.float32(0)])
def test_images_that_do_not_fit_the_document_are_refused(report, tmp_path, images):
    write_report(report, tmp_path)
    with np.load(tmp_path / "gray.npz") as arrays:
        kept = dict(arrays)
    np.savez_compressed(tmp_path / "gray.npz", **{**kept, "candidate": images})
    rewrite_report(tmp_path / "report.json", lambda text: text)
    with pytest.raises(InputRefused, match=r"gray\.npz: not a readable drift report: images of float"):
        DriftReport.load(tmp_path)


@pytest.mark.parametrize("verdict", ["stable", "inconclusive", "related", "x"])
def test_a_verdict_that_contradicts_its_classes_is_refused(report, tmp_path, verdict):
    write_report(report, tmp_path)
    file = tmp_path / "report.json"
    raw = json.loads(file.read_text())
    file.write_text(resealed({**raw, "verdict": verdict}))
    with pytest.raises(InputRefused, match=rf"the verdict '{verdict}' contradicts those of its classes$"):
        DriftReport.load(tmp_path)
    raw["classes"][0]["verdict"] = "fine"
    file.write_text(resealed({**raw, "verdict": verdict}))
    with pytest.raises(InputRefused, match=r"a class has no verdict that is known$"):
        DriftReport.load(tmp_path)


def test_a_report_that_labelled_data_held_back_is_read(report, tmp_path):
    stable = tuple(replace(c, verdict="stable", reason=None, places={}) for c in report.classes)
    write_report(replace(report, classes=stable, verdict="inconclusive"), tmp_path)
    assert DriftReport.load(tmp_path).verdict == "inconclusive"


def test_the_digest_covers_the_document_and_the_images(report):
    others = [
        {"alpha": 0.01},
        {"gray_candidate": gray(2)},
        {"gray_candidate": replace(gray(1), images=gray(1).images / 2)},
        {"baselines": Baselines()},
        {"provenance": replace(report.provenance, settings={})},
    ]
    assert len({report.digest(), *(replace(report, **other).digest() for other in others)}) == 6


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("report.json", lambda text: text.replace('"alpha"', '"alpah"')),
        ("report.json", lambda text: text.replace('"seed"', '"sead"')),
        ("report.json", lambda text: text.replace('"release": null', '"release": 0')),
        ("report.json", lambda text: text.replace('"release": null', '"release": true')),
        ("report.json", lambda text: text.replace('"null": [', '"null": 5, "x": [')),
        ("report.json", lambda text: text.replace('"null": [', '"more": 1, "null": [')),
        ("report.json", lambda text: text.replace('"alpha": 0.05', '"alpha": "0.05"')),
        ("report.json", lambda text: text.replace('"alpha": 0.05', '"alpha": 1e999')),
        ("report.json", lambda text: text.replace('"jitter": null', '"jitter": ' + "[" * 900 + "]" * 900)),
        ("report.json", lambda text: text.replace('"steps": [', '"steps": [[1],')),
        ("report.json", lambda text: text.replace('"gray": {', '"grey": {')),
        ("report.json", lambda text: re.sub(r'("steps": \[\s*\[\s*)\d+', r"\g<1>9999999999", text)),
        ("report.json", lambda text: re.sub(r'("confidence": \[\s*\[\s*)[\d.]+', r"\g<1>1e300", text)),
        ("gray.npz", lambda data: data[:200]),
        ("gray.npz", lambda data: b"PK" + data[:2]),
    ],
)
def test_a_damaged_report_is_refused(report, tmp_path, name, damage):
    write_report(report, tmp_path)
    file = tmp_path / name
    if name.endswith("npz"):
        file.write_bytes(damage(file.read_bytes()))
        damage = str
    document = tmp_path / "report.json"
    damaged = damage(document.read_text())
    try:
        rewrite_report(document, lambda _: damaged)
    except ValueError:  # what is not JSON has no seal
        document.write_text(damaged)
    with pytest.raises(InputRefused, match=re.escape(f"{file}: ")):
        DriftReport.load(tmp_path)
