"""The largest logit (Hendrycks et al., "Scaling Out-of-Distribution Detection for Real-World Settings", ICML 2022)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pydrift.fingerprint.detector import check_fit
from pydrift.fingerprint.features import Features, Needs


@dataclass(frozen=True)
class MaxLogit:
    title = "maximum logit (Hendrycks et al. 2022)"
    needs = Needs()

    def fit(self, features: Features, labels: Tensor) -> FittedMaxLogit:
        check_fit(self, features, labels)
        return FittedMaxLogit()


@dataclass(frozen=True, eq=False)
class FittedMaxLogit:
    """Learns nothing."""

    def score(self, features: Features) -> Tensor:
        return features.logits.amax(dim=1)
