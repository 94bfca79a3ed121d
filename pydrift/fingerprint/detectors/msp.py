"""The largest softmax probability.

Source: Hendrycks, Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks",
ICLR 2017.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pydrift.fingerprint.detector import check_fit
from pydrift.fingerprint.detectors.logit_scores import log_confidence
from pydrift.fingerprint.features import Features, Needs


@dataclass(frozen=True)
class MaxSoftmax:
    """Learns nothing: `fit` returns the detector itself."""

    title = "maximum softmax probability (Hendrycks and Gimpel 2017)"
    needs = Needs()

    def fit(self, features: Features, labels: Tensor) -> MaxSoftmax:
        check_fit(self, features, labels)
        return self

    def score(self, features: Features) -> Tensor:
        """float [N]: its logarithm, so that probabilities that round to 1 still differ."""
        return log_confidence(features.logits)
