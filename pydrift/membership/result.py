"""What a membership audit returns: frozen, typed values, read by `report`, the command line and the user."""

from __future__ import annotations

import io
import re
import zipfile
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.store import (
    check_writable,
    parse_strict_json,
    read_file,
    refuse_manifest_folder,
    sha256_bytes,
    to_strict_json,
    write_atomic,
)
from pydrift.membership.evaluation import AttackResult, ClassResult, strongest
from pydrift.stats.roc import TprAtFpr, false_positive_rate_of, roc, tpr_at_fpr

SCHEMA_VERSION = 2
EXPOSED = 20  # members that a report lists
_MAX_BYTES = 1 << 30
_FILES = ("membership.html", "membership.json", "scores.npz")
_LIMIT = re.compile(r"(tpr@(?P<fpr>[^=]+)|auc|balanced-accuracy|epsilon)=(?P<value>.+)")


@dataclass(frozen=True)
class Population:
    """The images that were scored, and how the target does on those it was trained on and on the others."""

    source: str
    members: int
    non_members: int
    class_names: tuple[str, ...]
    accuracy_members: float
    accuracy_non_members: float
    loss_members: float  # mean
    loss_non_members: float


@dataclass(frozen=True)
class ShadowSummary:
    """How the shadows were made; count 0 where no attack needed any."""

    count: int
    draw: str
    accuracy: tuple[float | None, ...]  # of each on the images that it did not see


@dataclass(frozen=True)
class MembershipProvenance:
    """Where the result comes from, enough to repeat it."""

    pydrift: str
    torch: str
    device: str
    native: str
    path: str  # what answered: "native AVX-512" and the like | "generic: reason"
    seed: int
    target: str
    target_sha256: str
    data_sha256: str
    members_sha256: str
    settings: dict[str, Any]
    bank: dict[str, Any] | None = None  # of the shadows: their plan, and the SHA-256 over those of their weights
    seconds: dict[str, float] = field(default_factory=dict)
    command: str | None = None


@dataclass(frozen=True)
class MembershipReport:
    """The result of one membership audit.

    attacks  in the order asked for; `reasons` says in words what bare figures would hide
    scores   float64 [attacks, N], the higher the more likely a member; member bool [N]; y int64 [N]
    """

    attacks: tuple[AttackResult, ...]
    alpha: float
    delta: float
    reasons: tuple[str, ...]
    population: Population
    shadows: ShadowSummary
    provenance: MembershipProvenance
    scores: NDArray[np.float64]
    member: NDArray[np.bool_]
    y: NDArray[np.int64]

    @property
    def strongest(self) -> AttackResult:
        """The attack with the highest TPR at 1 % FPR, ties by AUC."""
        return strongest(self.attacks)

    def scores_of(self, attack: str) -> NDArray[np.float64]:
        """[N]. KeyError where the attack was not asked for."""
        names = [result.name for result in self.attacks]
        if attack not in names:
            raise KeyError(attack)
        return self.scores[names.index(attack)]

    def exposed(self, count: int) -> list[tuple[int, float]]:
        """The members that the strongest attack is surest of: index, and share of non-members that score as high."""
        scores = self.scores_of(self.strongest.name)
        members = np.flatnonzero(self.member)
        order = members[np.argsort(-scores[members], kind="stable")][:count]
        exposure = false_positive_rate_of(scores, self.member)
        return [(int(n), float(exposure[n])) for n in order]

    @cached_property
    def archive(self) -> bytes:
        """The content of scores.npz: `member`, `y` and one array per attack, under its name."""
        arrays = dict(zip((attack.name for attack in self.attacks), self.scores, strict=True))
        buffer = io.BytesIO()
        np.savez_compressed(buffer, member=self.member, y=self.y, **arrays)
        return buffer.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values; of the scores those of the most exposed members, and the SHA-256 of
        scores.npz.

        exposed  by which attack, and of each member its index in the data, its class, its score, and the share of
                 non-members that score as high: the FPR at which it is found
        """
        scores = self.scores_of(self.strongest.name)
        exposed = [
            {"index": n, "class": int(self.y[n]), "score": float(scores[n]), "fpr": fpr}
            for n, fpr in self.exposed(EXPOSED)
        ]
        names = ("alpha", "delta", "reasons", "population", "shadows", "provenance")
        return {
            "schema_version": SCHEMA_VERSION,
            "attacks": [_plain(attack) for attack in self.attacks],
            "exposed": {"attack": self.strongest.name, "members": exposed},
            "scores_sha256": sha256_bytes(self.archive),
            **{name: _plain(getattr(self, name)) for name in names},
        }

    def to_json(self) -> str:
        """One strict JSON document (no NaN): `to_dict`."""
        return to_strict_json(self.to_dict())

    def save(self, folder: str | Path) -> None:
        """Writes scores.npz (see `archive`), membership.html and, last, membership.json into `folder`, each atomically.

        membership.json holds the SHA-256 of scores.npz, so that a save that was killed between the two is noticed.
        """
        from pydrift.report import render_membership_html

        folder = Path(folder)
        self.check_target(folder)
        write_atomic(folder / "scores.npz", self.archive)
        write_atomic(folder / "membership.html", render_membership_html(self).encode())
        write_atomic(folder / "membership.json", self.to_json().encode())

    @staticmethod
    def check_target(folder: str | Path) -> None:
        """Asks whether `save` could write there: UsageError where not. Leaves nothing."""
        refuse_manifest_folder(folder)
        for name in _FILES:
            check_writable(Path(folder) / name)

    @classmethod
    def load(cls, folder: str | Path) -> MembershipReport:
        """Reads a report back from the folder that `save` wrote. InputRefused on all else."""
        folder = Path(folder)
        file = folder / "membership.json"
        try:
            raw = parse_strict_json(read_file(file, _MAX_BYTES))
            if raw["schema_version"] != SCHEMA_VERSION:
                raise ValueError(f"schema version {raw['schema_version']}, expected {SCHEMA_VERSION}")
            attacks = tuple(_attack(attack) for attack in raw["attacks"])
            archive = read_file(folder / "scores.npz", _MAX_BYTES)
            if sha256_bytes(archive) != raw["scores_sha256"]:
                raise InputRefused(f"{folder / 'scores.npz'}: its SHA-256 is not the one in {file.name}; save it again")
            with np.load(io.BytesIO(archive), allow_pickle=False) as arrays:
                member, y = arrays["member"], arrays["y"]
                scores = np.stack([arrays[attack.name] for attack in attacks])
            population = {**raw["population"], "class_names": tuple(raw["population"]["class_names"])}
            shadows = {**raw["shadows"], "accuracy": tuple(raw["shadows"]["accuracy"])}
            return cls(
                attacks,
                raw["alpha"],
                raw["delta"],
                tuple(raw["reasons"]),
                Population(**population),
                ShadowSummary(**shadows),
                MembershipProvenance(**raw["provenance"]),
                scores,
                member,
                y,
            )
        except (KeyError, TypeError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise InputRefused(f"{file}: not a readable membership report: {error!r}") from error


@dataclass(frozen=True)
class Limit:
    """A figure that no attack may exceed: "auc", "balanced-accuracy", "epsilon", or the TPR at an FPR."""

    text: str
    figure: str
    fpr: float
    value: float

    @classmethod
    def parse(cls, text: str) -> Limit:
        """From "tpr@0.01=0.05", "auc=0.6", "balanced-accuracy=0.6" or "epsilon=1". UsageError on anything else."""
        match = _LIMIT.fullmatch(text)
        try:
            if match is None:
                raise ValueError
            fpr, value = float(match["fpr"] or 0), float(match["value"])
            if not (0 <= fpr < 1 and 0 <= value < np.inf):
                raise ValueError
        except ValueError as error:
            raise UsageError(
                f"no such limit: {text!r}; known are tpr@FPR=, auc=, balanced-accuracy= and epsilon=, "
                "for example tpr@0.01=0.05"
            ) from error
        return cls(text, match[1].partition("@")[0], fpr, value)

    def exceeded(self, report: MembershipReport) -> str | None:
        """What exceeds it most, in words; None where nothing does. The estimate counts, not its interval."""
        figures = {attack.name: self._figure(report, attack) for attack in report.attacks}
        worst = max(figures, key=lambda name: figures[name])
        if not figures[worst] > self.value:
            return None
        return f"{worst}: {self.text.partition('=')[0]} is {figures[worst]:.4g}, more than {self.value:g}"

    def _figure(self, report: MembershipReport, attack: AttackResult) -> float:
        match self.figure:
            case "auc":
                return attack.auc
            case "epsilon":
                return attack.epsilon
            case "balanced-accuracy":
                return attack.balanced_accuracy
            case _:
                return tpr_at_fpr(roc(report.scores_of(attack.name), report.member), self.fpr).tpr


def _attack(raw: dict[str, Any]) -> AttackResult:
    intervals = {name: _pair(raw[name]) for name in ("auc_interval", "balanced_accuracy_interval")}
    return AttackResult(
        **{
            **raw,
            **intervals,
            "tpr_at_fpr": tuple(TprAtFpr(**rate) for rate in raw["tpr_at_fpr"]),
            "roc": tuple((x, y) for x, y in raw["roc"]),
            "classes": tuple(ClassResult(**c) for c in raw["classes"]),
        }
    )


def _pair(values: list[float]) -> tuple[float, float]:
    low, high = values
    return low, high


def _plain(value: Any) -> Any:
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value
