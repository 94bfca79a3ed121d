"""The result of a membership audit: frozen, typed values for the report, the command line and the user."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pydrift.core.arrays import parse_npz
from pydrift.core.artifact import Count, Format, Level, Report, Share, decode_fields, encode
from pydrift.core.errors import UsageError
from pydrift.core.files import read_file
from pydrift.core.limits import MAX_DATA
from pydrift.membership.evaluation import AttackResult, strongest
from pydrift.stats.roc import false_positive_rate_of, roc, tpr_at_fpr

if TYPE_CHECKING:
    from torch import Tensor

EXPOSED = 20  # members that a report lists
_ARRAYS = ("scores", "member", "y")
_LIMIT = re.compile(r"(tpr@(?P<fpr>[^=]+)|auc|balanced-accuracy|epsilon)=(?P<value>.+)")


@dataclass(frozen=True)
class Population:
    """The images that were scored, and how well the target does on members and on non-members."""

    source: str
    members: Count
    non_members: Count
    class_names: tuple[str, ...]
    accuracy_members: float
    accuracy_non_members: float
    loss_members: float  # mean
    loss_non_members: float


@dataclass(frozen=True)
class ShadowSummary:
    """The shadows that the attacks used; count is 0 where no attack needed any."""

    count: int
    draw: str
    accuracy: tuple[float | None, ...]  # of each shadow on images that it did not see


@dataclass(frozen=True)
class MembershipProvenance:
    """Where the result comes from: enough to repeat the audit."""

    pydrift: str
    torch: str
    device: str
    native: str
    path: str  # what computed the answers: "native AVX-512" and the like, or "generic: <reason>"
    seed: int
    target: str
    target_sha256: str
    data_sha256: str
    members_sha256: str
    settings: dict[str, Any]
    bank: dict[str, Any] | None = None  # the shadows' plan, and one SHA-256 over all their weights
    seconds: dict[str, float] = field(default_factory=dict)
    command: str | None = None


@dataclass(frozen=True)
class MembershipReport(Report):
    """The result of one membership audit.

    attacks  in the order in which they were asked for
    reasons  sentences that a reader must know before believing the figures
    scores   float64 [attacks, N]; a higher score means: more likely a member
    member   bool [N]; y int64 [N]
    """

    attacks: tuple[AttackResult, ...]
    alpha: Level
    delta: Share
    reasons: tuple[str, ...]
    population: Population
    shadows: ShadowSummary
    provenance: MembershipProvenance
    scores: NDArray[np.float64]
    member: NDArray[np.bool_]
    y: NDArray[np.int64]

    format = Format("membership report", 4, "Run the audit again to get one.")
    json_name = "membership.json"
    arrays_name = "scores.npz"

    @property
    def strongest(self) -> AttackResult:
        """The attack with the highest TPR at 1 % FPR; the higher AUC decides between equals."""
        return strongest(self.attacks)

    def scores_of(self, attack: str) -> NDArray[np.float64]:
        """The scores of one attack: float64 [N]. KeyError where the attack was not asked for."""
        names = [result.name for result in self.attacks]
        if attack not in names:
            raise KeyError(attack)
        return self.scores[names.index(attack)]

    def exposed(self, count: int) -> list[tuple[int, float]]:
        """The members that the strongest attack finds most easily: (index, share of non-members that score as high)."""
        scores = self.scores_of(self.strongest.name)
        members = np.flatnonzero(self.member)
        order = members[np.argsort(-scores[members], kind="stable")][:count]
        exposure = false_positive_rate_of(scores, self.member)
        return [(int(n), float(exposure[n])) for n in order]

    def scores_npz(self) -> bytes:
        """The content of scores.npz: `member`, `y` and one array per attack, under its name."""
        return self._archive

    @cached_property
    def _archive(self) -> bytes:
        arrays = dict(zip((attack.name for attack in self.attacks), self.scores, strict=True))
        buffer = io.BytesIO()
        np.savez_compressed(buffer, member=self.member, y=self.y, **arrays)
        return buffer.getvalue()

    def _document(self) -> dict[str, Any]:
        """The report as plain values, without the scores.

        exposed  the strongest attack, and for each of the most exposed members its index in the data, its class, its
                 score, and the share of non-members that score as high: the FPR at which it is found
        """
        scores = self.scores_of(self.strongest.name)
        exposed = [
            {"index": n, "class": int(self.y[n]), "score": float(scores[n]), "fpr": fpr}
            for n, fpr in self.exposed(EXPOSED)
        ]
        names = [name for name in self.__dataclass_fields__ if name not in _ARRAYS]
        return {
            **{name: encode(getattr(self, name)) for name in names},
            "exposed": {"attack": self.strongest.name, "members": exposed},
        }

    def _tensors(self) -> dict[str, Tensor]:
        import torch

        return {name: torch.from_numpy(getattr(self, name)) for name in _ARRAYS}

    @classmethod
    def load(cls, path: str | Path) -> MembershipReport:
        """Reads a report back from its folder, or from its membership.json. InputRefused on all else."""
        file = cls._document_file(path)
        archive = file.with_name(cls.arrays_name)
        raw = cls._read_document(file)
        with cls.format.reading(file):
            del raw["exposed"]  # follows from the scores
            values = decode_fields(cls, raw, skip=_ARRAYS)
        with cls.format.reading(archive):
            content = read_file(archive, MAX_DATA)
            names = [attack.name for attack in values["attacks"]]
            arrays = parse_npz(content, ("member", "y", *names))
            member, y, scores = arrays["member"], arrays["y"], np.stack([arrays[name] for name in names])
            types = (scores.dtype, member.dtype, y.dtype) == (np.float64, np.bool_, np.int64)
            if not types or member.ndim != 1 or scores.shape[1:] != member.shape or member.shape != y.shape:
                raise ValueError("its arrays do not fit together")
            classes = len(values["population"].class_names)
            if any(not 0 <= c.index < classes for a in values["attacks"] for c in a.classes):
                raise ValueError("an attack names a class that the population does not have")
            if not ((y >= 0) & (y < classes)).all() or not values["attacks"]:
                raise ValueError("its arrays do not fit its population")
            return cls(**values, scores=scores, member=member, y=y)


@dataclass(frozen=True)
class Limit:
    """A limit that no attack may exceed, on "auc", "balanced-accuracy", "epsilon" or the TPR at an FPR."""

    text: str
    figure: str
    fpr: float
    value: float

    @classmethod
    def parse(cls, text: str) -> Limit:
        """Reads "tpr@0.01=0.05", "auc=0.6", "balanced-accuracy=0.6" or "epsilon=1". UsageError for anything else."""
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
        """A sentence about the attack that exceeds the limit most, by its estimate; None if none does."""
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
