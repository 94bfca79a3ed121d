"""ODIN: the softmax at a high temperature, after a small step of the image towards the predicted class.

The step raises the score of known images more than that of others. ODIN is the only detector here that needs a
gradient: one forward and one backward pass for the step, and one forward pass for the score.

Source: Liang, Li, Srikant, "Enhancing the Reliability of Out-of-distribution Image Detection in Neural Networks", ICLR
2018.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pydrift.fingerprint.detector import check_fit
from pydrift.fingerprint.detectors.logit_scores import log_confidence
from pydrift.fingerprint.features import Features, Needs

TEMPERATURE = 1000.0  # the paper's
EPSILON = 0.0014  # the paper's for CIFAR-10, tuned there on outliers; for images in [0, 1]


def nudge(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """x + EPSILON * sign(gradient of the log softmax, at TEMPERATURE, of the predicted class): [N, C, H, W].

    As in the paper's code the result is not clipped to [0, 1]. A pixel with gradient 0 does not change.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        log_p = torch.log_softmax(forward(x) / TEMPERATURE, dim=1).amax(dim=1)
        (gradient,) = torch.autograd.grad(log_p.sum(), x)
    return x.detach() + EPSILON * gradient.sign()


@dataclass(frozen=True)
class Odin:
    """Learns nothing: `fit` returns the detector itself."""

    title = "ODIN, temperature 1000, step 0.0014 (Liang et al. 2018)"
    needs = Needs(nudged=True)

    def fit(self, features: Features, labels: Tensor) -> Odin:
        check_fit(self, features, labels)
        return self

    def score(self, features: Features) -> Tensor:
        """float64 [N], since all probabilities are nearly equal at this temperature."""
        assert features.nudged is not None
        return log_confidence(features.nudged.double() / TEMPERATURE)
