"""What a dataset inference returns: frozen, typed values, read by `report`, the command line and the user."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydrift.core.artifact import Format, Report, decode_fields, encode
from pydrift.ownership.evidence import SamplePoint

if TYPE_CHECKING:
    from torch import Tensor

STOLEN, INDEPENDENT, INCONCLUSIVE = "stolen", "independent", "inconclusive"


@dataclass(frozen=True)
class Evidence:
    """What one statistic says of one suspect.

    name          "knowledge", "agreement", "membership", or "confidence: " and the regressor's title
    effect        knowledge: agreement and membership together, in standard deviations of the independent models
                  above their mean.
                  Agreement: in [-1, 1]. Membership: the private images' mean sureness minus the public ones', in
                  standard deviations of the reference models. Confidence: the same of the regressor's, as it is
    low, high     its 95 % interval over images (bootstrap, or Welch's)
    p_calibrated  (k + 1) / (n + 1): rank among n independent models, widened, of the effect, or of Welch's t. Of the
                  knowledge, as measured by the scale of all of them and the suspect
    z             how many standard deviations of these it is from their mean
    p_welch       of confidences as they are, as published; None for the others
    p_harmonic    the paper's harmonic mean of p-values, no p-value itself; None for the others
    """

    name: str
    effect: float
    low: float
    high: float
    p_calibrated: float
    z: float
    p_welch: float | None = None
    p_harmonic: float | None = None


@dataclass(frozen=True)
class SuspectResult:
    """One suspect.

    verdict    "stolen": p <= alpha. "independent": p > 10 alpha, or > 0.2. "inconclusive": between, or where the victim
               itself would not be found; `reasons` says
    p          the calibrated p of the knowledge
    evidence   the knowledge first
    by_samples p of the knowledge had fewer private images been revealed
    queries    images it was shown
    accuracy_private, accuracy_public  on the images that were asked about
    needed     knowledge from which on p would be at most alpha, with agreement and membership in the same proportion;
               None where none is enough, or the suspect shows none
    """

    name: str
    sha256: str
    verdict: str
    p: float
    evidence: tuple[Evidence, ...]
    by_samples: tuple[SamplePoint, ...]
    queries: int
    accuracy_private: float
    accuracy_public: float
    reasons: tuple[str, ...] = ()
    needed: float | None = None

    @property
    def knowledge(self) -> Evidence:
        return self.evidence[0]

    @property
    def components(self) -> tuple[Evidence, ...]:
        """Agreement and membership, of which the knowledge is made."""
        return self.evidence[1:3]

    @property
    def published(self) -> tuple[Evidence, ...]:
        """The confidences."""
        return self.evidence[3:]


@dataclass(frozen=True)
class Null:
    """The benign models that suspects are compared with.

    references, independents  how many; each half of the public images that are left has its own
    draw                      which images each was trained on
    accuracy                  of the independents, on images that they were not trained on
    knowledge                 of each independent model, as it was found
    knowledge_widened         and as far from their mean as benign models of other people may be, who have other
                              images (see pydrift.ownership.evidence.widened). p ranks these and the suspect by the
                              mean and the spread of all of them, and so may count a few more or fewer than stand above
    """

    references: int
    independents: int
    draw: str
    accuracy: tuple[float | None, ...]
    knowledge: tuple[float, ...]
    knowledge_widened: tuple[float, ...]


@dataclass(frozen=True)
class OwnershipProvenance:
    """Where the result comes from, enough to repeat it."""

    pydrift: str
    torch: str
    device: str
    native: str
    seed: int
    victim: str
    victim_sha256: str
    private_sha256: str
    public_sha256: str
    settings: dict[str, Any]
    paths: dict[str, str]  # what embedded each suspect: "native AVX-512" and the like | "generic: reason"
    seconds: dict[str, float] = field(default_factory=dict)
    command: str | None = None


@dataclass(frozen=True)
class OwnershipReport(Report):
    """The result of one dataset inference.

    embedding  title of what was measured
    samples    private images revealed to each suspect, with twice as many public ones
    victim     what the evidence is where the suspect is the victim itself: the most that can be seen
    """

    suspects: tuple[SuspectResult, ...]
    victim: SuspectResult
    null: Null
    alpha: float
    samples: int
    embedding: str
    private: str
    public: str
    reasons: tuple[str, ...]
    provenance: OwnershipProvenance

    format = Format("ownership report", 4, "Run the audit again to get one.")
    json_name = "ownership.json"

    @property
    def verdict(self) -> str:
        """ "stolen" if any suspect is, else "inconclusive" if any is, else "independent"."""
        found = {suspect.verdict for suspect in self.suspects}
        return next((verdict for verdict in (STOLEN, INCONCLUSIVE) if verdict in found), INDEPENDENT)

    def _document(self) -> dict[str, Any]:
        return encode(self)

    def _tensors(self) -> dict[str, Tensor]:
        return {}

    @classmethod
    def load(cls, path: str | Path) -> OwnershipReport:
        """Reads a report back from its folder, or from its ownership.json. InputRefused on all else."""
        file, _ = cls._files(path)
        raw = cls._read_document(file)
        with cls.format.reading(file):
            return cls(**decode_fields(cls, raw))
