"""The energy score: log sum exp of the logits.

Source: Liu, Wang, Owens, Li, "Energy-based Out-of-distribution Detection", NeurIPS 2020.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pydrift.fingerprint.detector import check_fit
from pydrift.fingerprint.detectors.logit_scores import free_energy
from pydrift.fingerprint.features import Features, Needs


@dataclass(frozen=True)
class Energy:
    """Learns nothing: `fit` returns the detector itself."""

    title = "energy, temperature 1 (Liu et al. 2020)"
    needs = Needs()

    def fit(self, features: Features, labels: Tensor) -> Energy:
        check_fit(self, features, labels)
        return self

    def score(self, features: Features) -> Tensor:
        return free_energy(features.logits)
