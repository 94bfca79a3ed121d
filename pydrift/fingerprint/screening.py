"""Screens a set of images with a fingerprint: how many are flagged, and is that more than chance?"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import betabinom

from pydrift.core.artifact import Format, Report, encode
from pydrift.core.errors import InputRefused
from pydrift.core.progress import Progress, Silent
from pydrift.data import LabelledImages
from pydrift.fingerprint.extraction import BLOCK
from pydrift.fingerprint.fingerprint import FingerprintOrigin, InputScores, Scorer
from pydrift.stats.intervals import clopper_pearson

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Screening(Report):
    """The result of screening N images.

    flagged      how many images have p <= alpha
    share        their share of all images, in [0, 1]
    interval     its exact (Clopper-Pearson) 95 % interval
    p_set        the probability that at least so many of N images like the held-out ones are flagged. Exact: the number
                 is beta-binomial, since all images are calibrated by the same held-out ones
    data         where the images come from, in words; data_sha256 is over the images and labels
    fingerprint  where the fingerprint comes from
    scores       the score, p and prediction of each image
    """

    flagged: int
    share: float
    interval: tuple[float, float]
    p_set: float
    alpha: float
    data: str
    data_sha256: str
    fingerprint: FingerprintOrigin
    scores: InputScores

    format = Format("screening", 3, "Screen the images again to get one.")
    json_name = "screening.json"
    arrays_name = "scores.npz"

    def _document(self) -> dict[str, Any]:
        """It has the p of every image."""
        names = ("flagged", "share", "p_set", "alpha", "data", "data_sha256")
        return {
            "images": len(self.scores),
            **{name: getattr(self, name) for name in names},
            "interval": list(self.interval),
            "fingerprint": encode(self.fingerprint),
            "p": [float(p) for p in self.scores.p],
        }

    def _tensors(self) -> dict[str, Tensor]:
        import torch

        return {name: torch.from_numpy(values) for name, values in vars(self.scores).items()}

    def strangest(self, count: int) -> NDArray[np.int64]:
        """int64: indices of at most `count` flagged images, the lowest score first."""
        return np.argsort(self.scores.score, kind="stable")[: min(count, self.flagged)]

    def scores_npz(self) -> bytes:
        """An npz file with `p` and `score` float64 [N] and `prediction` int64 [N]."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, p=self.scores.p, score=self.scores.score, prediction=self.scores.prediction)
        return buffer.getvalue()


def screen(scorer: Scorer, images: LabelledImages, alpha: float = 0.05, progress: Progress | None = None) -> Screening:
    """Scores every image and counts those with p <= alpha.

    UsageError: the fingerprint has too few held-out images for this alpha. InputRefused: images of another shape.
    """
    conformal, origin = scorer.fingerprint.conformal, scorer.fingerprint.origin
    conformal.check_alpha(alpha)
    if images.input_shape != origin.input_shape:
        shapes = ("x".join(map(str, shape)) for shape in (images.input_shape, origin.input_shape))
        raise InputRefused("{}: images of {}, but the model takes {}".format(images.source, *shapes))
    parts = []
    with progress or Silent() as progress:
        progress.phase("scoring", -(-len(images) // BLOCK))
        for part in scorer.stream([images.x]):
            parts.append(part)
            progress.advance()
    scores = InputScores.joined(parts)
    flagged = int((scores.p <= alpha).sum())
    low, high = clopper_pearson(flagged, len(scores))
    return Screening(
        flagged=flagged,
        share=flagged / len(scores),
        interval=(float(low), float(high)),
        p_set=p_of_count(flagged, len(scores), len(conformal.reference), alpha),
        alpha=alpha,
        data=images.source,
        data_sha256=images.sha256,
        fingerprint=origin,
        scores=scores,
    )


def p_of_count(flagged: int, images: int, held_out: int, alpha: float) -> float:
    """P(at least `flagged` of `images` have p <= alpha) if these and the held-out images are exchangeable. Never 0.

    Without ties, p <= alpha means that at most t - 1 held-out scores are no higher, with t = floor(alpha (n + 1)). The
    probability of so low a score has the distribution Beta(t, n + 1 - t). So the number is beta-binomial.
    """
    t = int(np.floor(alpha * (held_out + 1) * (1 + 1e-12)))
    p = betabinom.sf(flagged - 1, images, t, held_out + 1 - t)
    return float(np.clip(p, np.finfo(float).tiny, 1.0))
