"""Scores that several detectors compute from logits, exact also for very confident answers."""

from __future__ import annotations

from torch import Tensor


def log_confidence(logits: Tensor) -> Tensor:
    """log max softmax, [N] of logits [N, K]: -log1p(sum of the others / top). Exact even if the softmax rounds to 1."""
    top, index = logits.max(dim=1, keepdim=True)
    others = (logits - top).exp().scatter(1, index, 0)
    return -others.sum(dim=1).log1p()


def free_energy(logits: Tensor) -> Tensor:
    """log sum exp, [N] of logits [N, K]: minus the free energy at temperature 1."""
    return logits.logsumexp(dim=1)
