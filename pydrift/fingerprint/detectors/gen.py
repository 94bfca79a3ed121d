"""GEN, generalised entropy of the softmax probabilities.

Source: Liu, Lochman, Zach, "GEN: Pushing the Limits of Softmax-Based Out-of-Distribution Detection", CVPR 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pydrift.core.errors import UsageError
from pydrift.fingerprint.detector import check_fit
from pydrift.fingerprint.detectors.logit_scores import log_confidence
from pydrift.fingerprint.features import Features, Needs


@dataclass(frozen=True)
class Gen:
    """Learns nothing: `fit` returns the detector itself.

    gamma    the exponent, in (0, 1); the paper's: 0.1
    largest  how many of the largest probabilities count, at most K; the paper's: 100
    """

    gamma: float = 0.1
    largest: int = 100
    needs = Needs()

    def __post_init__(self) -> None:
        if not 0 < self.gamma < 1 or self.largest < 1:
            raise UsageError(f"GEN: gamma must be in (0, 1) and largest >= 1, got {self.gamma:g} and {self.largest}")

    @property
    def title(self) -> str:
        return f"GEN, gamma {self.gamma:g} (Liu et al. 2023)"

    def fit(self, features: Features, labels: Tensor) -> Gen:
        check_fit(self, features, labels)
        return self

    def score(self, features: Features) -> Tensor:
        """float64 [N]: -sum of (p (1 - p))^gamma over the largest p. Logarithms keep p near 0 and near 1 exact."""
        logits = features.logits.double()
        log_p = torch.log_softmax(logits, dim=1)
        _, index = log_p.max(dim=1, keepdim=True)
        log_top = log_confidence(logits)[:, None]
        others = log_p.scatter(1, index, -torch.inf).logsumexp(dim=1, keepdim=True)
        # log(1 - p): for the top one from the sum of the others, since 1 - p may round to 0
        log_rest = torch.log1p(-log_p.exp().clamp_max(0.75)).scatter(1, index, others)
        log_p = log_p.scatter(1, index, log_top)
        terms = (self.gamma * (log_p + log_rest)).exp()
        return -terms.gather(1, log_p.topk(min(self.largest, log_p.shape[1]), dim=1).indices).sum(dim=1)
