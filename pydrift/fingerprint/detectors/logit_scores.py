"""What several detectors read off logits, without the rounding that makes sure answers equal."""

from __future__ import annotations

from torch import Tensor


def log_confidence(logits: Tensor) -> Tensor:
    """log max softmax, [N] of [N, K]. Exact also where the probability rounds to 1: -log1p(sum of the others / top)."""
    top, index = logits.max(dim=1, keepdim=True)
    others = (logits - top).exp().scatter(1, index, 0)
    return -others.sum(dim=1).log1p()


def free_energy(logits: Tensor) -> Tensor:
    """log sum exp, [N] of [N, K]: minus the free energy at temperature 1."""
    return logits.logsumexp(dim=1)
