"""What an audit returns: frozen, typed values, written by `audit`, read by `report`, the command line and the user."""

from __future__ import annotations

import io
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pydrift.core.errors import InputRefused
from pydrift.core.store import (
    check_writable,
    parse_strict_json,
    refuse_manifest_folder,
    to_strict_json,
    write_atomic,
)
from pydrift.drift.verdict import ClassVerdict
from pydrift.inversion.gray import GrayData
from pydrift.stats.multiple_tests import alpha_of_release

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class NullSummary:
    """How the null distribution was made: K benign models and how they were drawn."""

    update_mode: str  # "retrain" | "finetune"
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
class DriftReport:
    """The result of one audit.

    `verdict` is "stable", "drift" or "inconclusive"; `reasons` says in words what a bare verdict would hide.
    `p_value` is the smallest Holm-adjusted p over the classes (None where no class could be tested).
    """

    verdict: str
    p_value: float | None
    alpha: float
    reasons: tuple[str, ...]
    classes: tuple[ClassVerdict, ...]
    gray_base: GrayData
    gray_candidate: GrayData
    null: NullSummary
    baselines: Baselines
    provenance: Provenance
    release: int | None = None  # the number of this audit in a series, whose level is more than its own alpha

    @property
    def series_alpha(self) -> float:
        """The level of all audits of the series together, or of this one alone."""
        return self.alpha if self.release is None else self.alpha / alpha_of_release(1.0, self.release)

    def to_dict(self) -> dict[str, Any]:
        """The report without the gray images, as plain JSON values."""
        parts = {
            name: getattr(self, name)
            for name in (
                *("verdict", "p_value", "alpha", "release", "reasons"),
                *("classes", "null", "baselines", "provenance"),
            )
        }
        plain = {k: _plain(v) for k, v in parts.items()}
        gray = {
            name: {"confidence": value.confidence.tolist(), "steps": value.steps.tolist()}
            for name, value in (("base", self.gray_base), ("candidate", self.gray_candidate))
        }
        return {"schema_version": SCHEMA_VERSION, **plain, "gray": gray}

    def to_json(self) -> str:
        """One strict JSON document (no NaN), without the images."""
        return to_strict_json(self.to_dict())

    def save(self, folder: str | Path, images: bool = True) -> None:
        """Writes gray.npz (arrays base, candidate), report.html and report.json into `folder`, each atomically.

        `images=False` leaves the gray images out everywhere; a gray.npz that was there is removed.
        """
        folder = Path(folder)
        self.check_target(folder)
        if images:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, base=self.gray_base.images, candidate=self.gray_candidate.images)
            write_atomic(folder / "gray.npz", buffer.getvalue())
        else:
            (folder / "gray.npz").unlink(missing_ok=True)
        self.save_html(folder / "report.html", images)
        write_atomic(folder / "report.json", self.to_json().encode())

    @staticmethod
    def check_target(folder: str | Path) -> None:
        """Asks whether `save` could write there: UsageError where not, or where it is a calibration. Leaves nothing."""
        refuse_manifest_folder(folder)
        check_writable(Path(folder) / "report.json")

    def save_html(self, path: str | Path, images: bool = True) -> None:
        """Writes one HTML file; `images=False` leaves the gray images out (they may reveal training data)."""
        from pydrift.report import render_html

        write_atomic(Path(path), render_html(self, images=images).encode())

    @classmethod
    def load(cls, path: str | Path) -> DriftReport:
        """Reads a report back from the folder that `save` wrote, or from its report.json. InputRefused on all else.

        Where gray.npz is not beside the JSON, the gray images come back empty (shape [classes, 0, 0, 0, 0]).
        """
        path = Path(path)
        file = path / "report.json" if path.is_dir() else path
        try:
            raw = parse_strict_json(file.read_bytes())
        except (OSError, ValueError) as error:
            raise InputRefused(f"{file}: not a readable report: {error}") from error
        if not isinstance(raw, dict) or raw.get("schema_version") != SCHEMA_VERSION:
            raise InputRefused(f"{file}: not a pydrift report of schema version {SCHEMA_VERSION}")
        try:
            return cls._from_dict(raw, _load_images(file.with_name("gray.npz"), len(raw["classes"])))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise InputRefused(f"{file}: not a readable report: {error!r}") from error

    @classmethod
    def _from_dict(cls, raw: dict[str, Any], images: dict[str, NDArray[np.float32]]) -> DriftReport:
        gray = {
            name: GrayData(
                images[name],
                np.asarray(raw["gray"][name]["confidence"], np.float32),
                np.asarray(raw["gray"][name]["steps"], np.int32),
            )
            for name in ("base", "candidate")
        }
        baselines: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw["baselines"].items()}
        return cls(
            verdict=raw["verdict"],
            p_value=raw["p_value"],
            alpha=raw["alpha"],
            reasons=tuple(raw["reasons"]),
            classes=tuple(ClassVerdict.from_dict(c) for c in raw["classes"]),
            gray_base=gray["base"],
            gray_candidate=gray["candidate"],
            null=NullSummary(
                **{
                    **raw["null"],
                    "shadow_accuracy": tuple(raw["null"]["shadow_accuracy"]),
                    "power": tuple((size, chance) for size, chance in raw["null"].get("power", ())),
                }
            ),
            baselines=Baselines(**baselines),
            provenance=Provenance(**raw["provenance"]),
            release=_release(raw.get("release")),
        )


def _release(value: Any) -> int | None:
    if value is not None and (type(value) is not int or value < 1):
        raise ValueError(f"release must be null or a number from 1 on, got {value!r}")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value


def _load_images(file: Path, num_classes: int) -> dict[str, NDArray[np.float32]]:
    if not file.exists():
        empty = np.zeros((num_classes, 0, 0, 0, 0), np.float32)
        return {"base": empty, "candidate": empty}
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in ("base", "candidate")}
    except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise InputRefused(f"{file}: not the images of a report: {error}") from error
