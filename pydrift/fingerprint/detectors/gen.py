"""GEN, generalised entropy (Liu, Lochman, Zach, CVPR 2023)."""

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
    """Learns nothing: fitted, it is what it was.

    gamma, largest  of the paper: the exponent 0.1, and the 100 largest probabilities, or all there are
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
        """-sum of (p (1 - p))^gamma over the largest p, from logarithms in float64: p near 0 and 1 keep their size."""
        logits = features.logits.double()
        log_p = torch.log_softmax(logits, dim=1)
        _, index = log_p.max(dim=1, keepdim=True)
        log_top = log_confidence(logits)[:, None]
        others = log_p.scatter(1, index, -torch.inf).logsumexp(dim=1, keepdim=True)
        # log(1 - p): of the top one from what is left, where 1 - p would round to 0
        log_rest = torch.log1p(-log_p.exp().clamp_max(0.75)).scatter(1, index, others)
        log_p = log_p.scatter(1, index, log_top)
        terms = (self.gamma * (log_p + log_rest)).exp()
        return -terms.gather(1, log_p.topk(min(self.largest, log_p.shape[1]), dim=1).indices).sum(dim=1)
