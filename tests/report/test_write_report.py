"""`write_report`: which files each result leaves, what they say, and in which order they are written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pydrift
from pydrift import DriftReport, InputRefused, OwnershipReport, UsageError
from pydrift.core import files as files_module
from pydrift.core.files import sha256_file
from pydrift.core.manifest import write_manifest
from pydrift.report import render_html, write_report
from tests.report.drift_reports import make
from tests.report.test_fingerprint import screening
from tests.report.test_ownership import ALL
from tests.seals import resealed, unsealed


def files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_drift_audit_comes_back_and_renders_the_same(tmp_path: Path) -> None:
    report = make()
    assert write_report(report, tmp_path / "new" / "folder") == tmp_path / "new" / "folder" / "report.html"
    folder = tmp_path / "new" / "folder"
    assert files(folder) == ["gray.npz", "report.html", "report.json"]
    assert (folder / "report.html").read_text("utf-8") == render_html(report)
    written = json.loads((folder / "report.json").read_text())
    assert unsealed(json.dumps(written)) == unsealed(report.to_json())
    assert written["seal"]["files"] == {name: sha256_file(folder / name) for name in ("gray.npz", "report.html")}
    with np.load(folder / "gray.npz", allow_pickle=False) as arrays:
        assert np.array_equal(arrays["base"], report.gray_base.images)
        assert np.array_equal(arrays["candidate"], report.gray_candidate.images)
    assert render_html(DriftReport.load(folder)) == render_html(report)


def test_images_may_be_left_out_and_then_none_stay_behind(tmp_path: Path) -> None:
    write_report(make(), tmp_path)
    assert "data:image" in (tmp_path / "report.html").read_text("utf-8")
    write_report(make(), tmp_path, images=False)
    assert files(tmp_path) == ["report.html", "report.json"]
    assert "data:image" not in (tmp_path / "report.html").read_text("utf-8")
    write_report(DriftReport.load(tmp_path), tmp_path / "again")  # a report without images can be written again
    assert "This report was made without its gray images." in (tmp_path / "again" / "report.html").read_text("utf-8")


def test_an_ownership_audit_comes_back(tmp_path: Path) -> None:
    assert write_report(ALL, tmp_path) == tmp_path / "ownership.html"
    assert files(tmp_path) == ["ownership.html", "ownership.json"]
    assert (tmp_path / "ownership.html").read_text("utf-8") == render_html(ALL)
    assert OwnershipReport.load(tmp_path) == ALL
    raw = json.loads((tmp_path / "ownership.json").read_text())
    for damaged in ({**raw, "schema_version": 1}, {**raw, "suspects": [{}]}, {**raw, "more": 1}):
        (tmp_path / "ownership.json").write_text(resealed(damaged))
        with pytest.raises(InputRefused, match=r"ownership\.json"):
            OwnershipReport.load(tmp_path)


def test_a_screening_leaves_its_scores(tmp_path: Path) -> None:
    result = screening()
    assert write_report(result, str(tmp_path)) == tmp_path / "screening.html"
    assert files(tmp_path) == ["scores.npz", "screening.html", "screening.json"]
    assert json.loads((tmp_path / "screening.json").read_text())["flagged"] == 2
    with np.load(tmp_path / "scores.npz", allow_pickle=False) as arrays:
        assert {name: arrays[name].tolist() for name in arrays.files} == {
            "p": result.scores.p.tolist(),
            "score": result.scores.score.tolist(),
            "prediction": result.scores.prediction.tolist(),
        }


def test_the_json_document_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr("pydrift.report.write_atomic", lambda path, data: written.append(path.name))
    for result in (make(), ALL, screening()):
        write_report(result, tmp_path)
    assert written == [
        *("report.html", "gray.npz", "report.json"),
        *("ownership.html", "ownership.json"),
        *("screening.html", "scores.npz", "screening.json"),
    ]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_crash_between_the_files_leaves_the_old_report_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Killed after report.html, report.json says stable and report.html says drift."""
    write_report(make(), tmp_path)
    write, left = files_module.write_atomic, number

    def killed(path: Path, data: bytes) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        write(path, data)

    monkeypatch.setattr("pydrift.report.write_atomic", killed)
    other = replace(make(), alpha=0.01, gray_base=make().gray_candidate)
    with pytest.raises(KeyboardInterrupt):
        write_report(other, tmp_path)
    if number == 1:
        assert DriftReport.load(tmp_path).alpha == make().alpha
        return
    with pytest.raises(InputRefused, match=r"report\.html: not what was written with report\.json"):
        DriftReport.load(tmp_path)


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        DriftReport.check_target(tmp_path / "text")
    (tmp_path / "calibration").mkdir()
    write_manifest(tmp_path / "calibration", {})
    with pytest.raises(UsageError, match="give another folder"):
        write_report(make(), tmp_path / "calibration")
    DriftReport.check_target(tmp_path / "new")
    assert files(tmp_path) == ["calibration", "text"]
    with pytest.raises(UsageError, match="there is no report of a int"):
        write_report(3, tmp_path)  # type: ignore[arg-type]


def test_it_is_a_public_name() -> None:
    assert pydrift.write_report is write_report
