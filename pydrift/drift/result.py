"""What an audit returns: frozen, typed values, written by `audit`, read by `report`, the command line and the user."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from pydrift.core.arrays import parse_npz
from pydrift.core.artifact import Format, Level, Report, Share, decode, decode_fields, encode
from pydrift.core.errors import InputRefused
from pydrift.core.files import read_file
from pydrift.core.limits import MAX_DATA
from pydrift.drift.verdict import CLASS_VERDICTS, ClassVerdict, verdict_of_classes
from pydrift.inversion.gray import GrayData
from pydrift.stats.multiple_tests import alpha_of_release

if TYPE_CHECKING:
    from torch import Tensor

_GRAY = ("gray_base", "gray_candidate")


@dataclass(frozen=True)
class NullSummary:
    """How the null distribution was made: K benign models and how they were drawn."""

    update_mode: str  # "retrain" | "finetune"
    recipes: str  # "same": trained as the base; "varied": each by a recipe that departs from the base's
    shadows: int
    draw: str  # in words, e.g. "20000 of 60000 images without replacement"
    shadow_accuracy: tuple[float | None, ...]  # of each shadow on reference images it did not see; None: it saw all
    smallest_score: float | None  # the least drift_score, in null standard deviations, that this null can call drift
    power: tuple[tuple[float, float], ...] = ()  # sizes of drift, and how probably this null would have found each


@dataclass(frozen=True)
class Baselines:
    """What a team would look at without pydrift. Accuracies and disagreement need data, the weight change does not.

    gray_known_*  of each class, the share of a model's gray images that the base's fingerprint knows (p above 0.05);
                  None without a fingerprint
    """

    accuracy_base: float | None = None
    accuracy_candidate: float | None = None
    accuracy_p_value: float | None = None  # exact McNemar test on the same images
    disagreement: float | None = None  # share of images on which the two models predict different classes
    relative_weight_change: float | None = None  # |w_new - w_base| / |w_base|, None where the architectures differ
    images: int | None = None  # how many images the data-based figures were computed on
    data: str | None = None  # where they came from
    data_sha256: str | None = None
    gray_known_base: tuple[float, ...] | None = None
    gray_known_candidate: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Provenance:
    """Where the result comes from, enough to repeat it."""

    pydrift: str
    torch: str
    device: str
    native: str  # which library ran the ascent update, e.g. "cpu (avx512)" or "none (plain torch): reason"
    path_base: str  # what inverts it: "native AVX-512" and the like | "generic: reason"
    path_candidate: str
    seed: int
    base_sha256: str
    candidate_sha256: str
    data_sha256: str | None
    calibration_sha256: str | None
    base: str  # file name or class name
    candidate: str
    data: str | None
    settings: dict[str, Any]  # inversion, recipe, restarts: every number that shaped the result
    seconds: dict[str, float] = field(default_factory=dict)  # per phase; with the rate, all that a re-run may change
    restart_steps_per_second: float | None = None  # of the inversion of the candidate model
    command: str | None = None  # the command line that made it


@dataclass(frozen=True)
class DriftReport(Report):
    """The result of one audit.

    `verdict` is "stable", "drift" or "inconclusive"; `reasons` says in words what a bare verdict would hide.
    `p_value` is the smallest adjusted p over the classes (None where no class could be tested).
    """

    verdict: str
    p_value: Share | None
    alpha: Level
    reasons: tuple[str, ...]
    classes: tuple[ClassVerdict, ...]
    gray_base: GrayData
    gray_candidate: GrayData
    null: NullSummary
    baselines: Baselines
    provenance: Provenance
    # The number of this audit in a series, whose level is more than its own alpha.
    release: Annotated[int, Meta(ge=1)] | None = None

    format = Format("drift report", 4, "Run the audit again to get one.")
    json_name = "report.json"
    arrays_name = "gray.npz"

    @property
    def series_alpha(self) -> float:
        """The level of all audits of the series together, or of this one alone."""
        return self.alpha if self.release is None else self.alpha / alpha_of_release(1.0, self.release)

    def _document(self) -> dict[str, Any]:
        names = [name for name in self.__dataclass_fields__ if name not in _GRAY]
        gray = {"base": self.gray_base, "candidate": self.gray_candidate}
        figures = {name: {"confidence": g.confidence.tolist(), "steps": g.steps.tolist()} for name, g in gray.items()}
        return {**{name: encode(getattr(self, name)) for name in names}, "gray": figures}

    def _tensors(self) -> dict[str, Tensor]:
        import torch

        return {name: torch.from_numpy(getattr(self, name).images) for name in _GRAY}

    def gray_npz(self) -> bytes:
        """The content of gray.npz: the arrays `base` and `candidate`."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, base=self.gray_base.images, candidate=self.gray_candidate.images)
        return buffer.getvalue()

    @classmethod
    def load(cls, path: str | Path) -> DriftReport:
        """Reads a report back from its folder or from its report.json. InputRefused on all else.

        Where gray.npz is not beside the JSON, the gray images come back empty (shape [classes, 0, 0, 0, 0]).
        """
        file = cls._document_file(path)
        arrays = file.with_name(cls.arrays_name)
        raw = cls._read_document(file)
        with cls.format.reading(file):
            gray = decode(_Gray, raw.pop("gray", None), "gray")
            values = decode_fields(cls, raw, skip=_GRAY)
            _check_places(values["classes"])
            _check_verdict(values["verdict"], values["classes"])
            gray.check_tables(len(values["classes"]))
        images = _load_images(arrays, len(values["classes"]))
        with cls.format.reading(arrays):
            gray_base, gray_candidate = gray.base.joined(images[0]), gray.candidate.joined(images[1])
        return cls(**values, gray_base=gray_base, gray_candidate=gray_candidate)


@dataclass(frozen=True)
class _GrayFigures:
    """What the document says of a model's gray images: of each class and restart a number."""

    confidence: list[list[float]]
    steps: list[list[Annotated[int, Meta(ge=0, lt=2**31)]]]

    def joined(self, images: NDArray[np.float32]) -> GrayData:
        """With the images. ValueError unless they are [classes, restarts, C, H, W], or none."""
        gray = GrayData(images, np.asarray(self.confidence, np.float32), np.asarray(self.steps, np.int32))
        fits = images.ndim == 5 and (images.size == 0 or images.shape[:2] == gray.steps.shape)
        if not fits or images.dtype != np.float32:
            raise ValueError(f"images of {images.dtype} {list(images.shape)} for gray data of {list(gray.steps.shape)}")
        return gray


@dataclass(frozen=True)
class _Gray:
    base: _GrayFigures
    candidate: _GrayFigures

    def check_tables(self, classes: int) -> None:
        """ValueError unless every table is [classes, restarts] and finite in float32."""
        tables = (self.base.confidence, self.base.steps, self.candidate.confidence, self.candidate.steps)
        if {len(table) for table in tables} != {classes} or len({len(row) for table in tables for row in table}) > 1:
            raise ValueError("the tables of gray are not [classes, restarts]")
        if any(abs(value) > 3e38 for table in tables for row in table for value in row):
            raise ValueError("a confidence in gray is too large")


def _check_places(classes: tuple[ClassVerdict, ...]) -> None:
    for found in classes:
        if any(len({len(row) for row in rows}) != 1 for rows in found.places.values()):
            raise ValueError("the rows of a table of places are not of one length")


def _check_verdict(verdict: str, classes: tuple[ClassVerdict, ...]) -> None:
    """ValueError where the verdict of the audit does not follow from those of its classes."""
    found = [c.verdict for c in classes]
    if [c.index for c in classes] != list(range(len(classes))):
        raise ValueError("the classes are not numbered in their order")
    if not found or not set(found) <= set(CLASS_VERDICTS):
        raise ValueError("a class has no verdict that is known")
    expected = verdict_of_classes(found)
    # What was measured on labelled data can hold back a verdict that no class speaks against.
    if verdict != expected and (verdict, expected) != ("inconclusive", "stable"):
        raise ValueError(f"the verdict {verdict!a} contradicts those of its classes")


def _load_images(file: Path, num_classes: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The images of the base and of the candidate. InputRefused where they are damaged."""
    if not file.exists():
        empty = np.zeros((num_classes, 0, 0, 0, 0), np.float32)
        return empty, empty
    try:
        arrays = parse_npz(read_file(file, MAX_DATA), ("base", "candidate"))
    except ValueError as error:
        raise InputRefused(f"{file}: not the images of a report: {error}") from error
    return arrays["base"], arrays["candidate"]
