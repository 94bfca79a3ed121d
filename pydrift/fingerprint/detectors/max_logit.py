"""The largest logit.

Source: Hendrycks et al., "Scaling Out-of-Distribution Detection for Real-World Settings", ICML 2022.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pydrift.fingerprint.detector import check_fit
from pydrift.fingerprint.features import Features, Needs


@dataclass(frozen=True)
class MaxLogit:
    """Learns nothing: `fit` returns the detector itself."""

    title = "maximum logit (Hendrycks et al. 2022)"
    needs = Needs()

    def fit(self, features: Features, labels: Tensor) -> MaxLogit:
        check_fit(self, features, labels)
        return self

    def score(self, features: Features) -> Tensor:
        return features.logits.amax(dim=1)
