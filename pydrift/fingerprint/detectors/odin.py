"""ODIN (Liang, Li, Srikant, "Enhancing the Reliability of Out-of-distribution Image Detection", ICLR 2018).

The only detector here that needs a gradient: each image takes a small step towards the class that the network sees in
it, which moves known images further than others; then the softmax at a high temperature is read. One forward pass and
one backward pass for the step, one forward pass for the answer.
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
EPSILON = 0.0014  # the paper's for CIFAR-10, where outliers chose it; in units of an image in [0, 1]


def nudged(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """x + EPSILON * sign(gradient of the log softmax, at TEMPERATURE, of the predicted class): [N, C, H, W].

    As in the paper's code the image is not clipped to [0, 1] again. Where the gradient is 0 the pixel stays.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        log_p = torch.log_softmax(forward(x) / TEMPERATURE, dim=1).amax(dim=1)
        (gradient,) = torch.autograd.grad(log_p.sum(), x)
    return x.detach() + EPSILON * gradient.sign()


@dataclass(frozen=True)
class Odin:
    """Learns nothing: fitted, it is what it was."""

    title = "ODIN, temperature 1000, step 0.0014 (Liang et al. 2018)"
    needs = Needs(nudged=True)

    def fit(self, features: Features, labels: Tensor) -> Odin:
        check_fit(self, features, labels)
        return self

    def score(self, features: Features) -> Tensor:
        """In float64: at this temperature all probabilities are nearly equal."""
        assert features.nudged is not None
        return log_confidence(features.nudged.double() / TEMPERATURE)
