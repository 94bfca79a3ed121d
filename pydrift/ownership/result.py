"""The result of an ownership audit: frozen, typed values for the report, the command line and the user."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydrift.core.artifact import Count, Format, Level, PValue, Report, Share, decode_fields, encode
from pydrift.ownership.evidence import SamplePoint

if TYPE_CHECKING:
    from torch import Tensor

STOLEN, INDEPENDENT, INCONCLUSIVE = "stolen", "independent", "inconclusive"


@dataclass(frozen=True)
class Evidence:
    """One statistic of one suspect.

    name          "knowledge", "agreement", "membership", or "confidence: " and the regressor's title
    effect        its size. Knowledge: agreement and membership together, as the distance above the mean of the
                  independent models in their standard deviations. Agreement: a cosine in [-1, 1]. Membership: how much
                  higher the mean label confidence is on private than on public images, in standard deviations of the
                  reference models. Confidence: the same difference of the regressor's confidence, not standardised
    low, high     its 95 % interval over images (bootstrap, or Welch's)
    p_calibrated  (k + 1) / (n + 1), the rank among n independent models, which are widened: of the effect for knowledge
                  and agreement, of Welch's t for the others. For knowledge, the mean and spread that it is measured by
                  include the suspect
    z             how many standard deviations it is above the mean of the widened independent models
    p_welch       confidence only: p of Welch's test, as published; else None
    p_harmonic    confidence only: the paper's harmonic mean of p-values, which is not a p-value; else None
    """

    name: str
    effect: float
    low: float
    high: float
    p_calibrated: PValue
    z: float
    p_welch: float | None = None
    p_harmonic: float | None = None


@dataclass(frozen=True)
class SuspectResult:
    """The result for one suspect.

    sha256      of the model's file; of a live module, over its structure and weights
    verdict     "stolen": p <= alpha. "independent": p > 10 alpha, or p > 0.2. "inconclusive": p lies between, or the
                audit would not find the victim itself; see `reasons`
    p           the calibrated p of the knowledge
    evidence    knowledge, agreement, membership, and one confidence for each regressor
    by_samples  the p that fewer private images would have given
    queries     how many images the suspect was shown
    accuracy_private, accuracy_public
                on the private and public images that suspects are asked about, in [0, 1]
    needed      the smallest knowledge with p <= alpha, if agreement and membership keep their proportion. None: none is
                large enough, or the suspect shows no knowledge
    """

    name: str
    sha256: str
    verdict: str
    p: PValue
    evidence: tuple[Evidence, ...]
    by_samples: tuple[SamplePoint, ...]
    queries: int
    accuracy_private: Share
    accuracy_public: Share
    reasons: tuple[str, ...] = ()
    needed: float | None = None

    def check(self, alpha: float) -> None:
        """ValueError where the verdict is none, or contradicts p, or the evidence is not complete."""
        if self.verdict not in (STOLEN, INDEPENDENT, INCONCLUSIVE):
            raise ValueError(f"{self.verdict!a} is no verdict")
        if (self.verdict == STOLEN and self.p > alpha) or (self.verdict == INDEPENDENT and self.p <= alpha):
            raise ValueError(f"the verdict {self.verdict} contradicts p = {self.p:g}")
        if len(self.evidence) < 3:
            raise ValueError("knowledge, agreement and membership are not all there")

    @property
    def knowledge(self) -> Evidence:
        return self.evidence[0]

    @property
    def components(self) -> tuple[Evidence, ...]:
        """Agreement and membership, the two components of knowledge."""
        return self.evidence[1:3]

    @property
    def published(self) -> tuple[Evidence, ...]:
        """The confidences of the published method, one for each regressor."""
        return self.evidence[3:]


@dataclass(frozen=True)
class Null:
    """The null distribution: the independent models that suspects are compared with.

    references, independents  how many reference and independent models there are; each kind has its own pool of images
    draw                      which images of its pool each model was trained on, in words
    accuracy                  of each independent model, on images that it was not trained on; None: there are none
    knowledge                 of each independent model
    knowledge_widened         the same, spread about the mean as widely as among unrelated models with other images (see
                              pydrift.ownership.evidence.widen). p ranks the suspect among these; it measures all by a
                              mean and spread that include the suspect, so its count may differ by a few
    """

    references: Count
    independents: Count
    draw: str
    accuracy: tuple[float | None, ...]
    knowledge: tuple[float, ...]
    knowledge_widened: tuple[float, ...]


@dataclass(frozen=True)
class OwnershipProvenance:
    """Where the result comes from: enough to repeat the audit.

    paths    how each model was computed: "native AVX-512" and the like, or "generic: " and the reason
    seconds  of each phase
    command  the command line; None: called from Python
    """

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
    paths: dict[str, str]
    seconds: dict[str, float] = field(default_factory=dict)
    command: str | None = None


@dataclass(frozen=True)
class OwnershipReport(Report):
    """The result of one ownership audit.

    victim           the result if the suspect were the victim itself: the strongest evidence possible
    alpha            level of the test
    samples          how many private images each suspect was asked about, with twice as many public ones
    embedding        its title
    private, public  where the images come from, in words
    reasons          what a reader of the verdicts must know
    """

    suspects: tuple[SuspectResult, ...]
    victim: SuspectResult
    null: Null
    alpha: Level
    samples: Count
    embedding: str
    private: str
    public: str
    reasons: tuple[str, ...]
    provenance: OwnershipProvenance

    format = Format("ownership report", 5, "Run the audit again to get one.")
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
        """Reads a report from its folder, or from its ownership.json. InputRefused: the file is something else."""
        file = cls._document_file(path)
        raw = cls._read_document(file)
        with cls.format.reading(file):
            report = cls(**decode_fields(cls, raw))
            for suspect in (*report.suspects, report.victim):
                suspect.check(report.alpha)
            return report
