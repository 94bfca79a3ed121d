"""The per-example statistics that membership inference is made of, computed stably from logits.

Each takes logits float32 [N, K] and labels int64 [N] and returns float32 [N].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p_y, in [0, inf). Members have a low one (Yeom et al., "Privacy Risk in Machine Learning", CSF 2018)."""
    return F.cross_entropy(logits, labels, reduction="none")


def confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """p_y, in [0, 1]."""
    return logits.softmax(dim=1).gather(1, labels[:, None])[:, 0]


def logit_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """log p_y - log(1 - p_y), without ever forming 1 - p_y.

    It equals -logsumexp over the other classes of z_j - z_y, so it stays exact where p_y rounds to 0 or 1, and where
    all logits are large.
    The statistic of LiRA (Carlini et al., "Membership Inference Attacks From First Principles", S&P 2022).
    """
    label = labels[:, None]
    lead_of_others = (logits - logits.gather(1, label)).scatter(1, label, -torch.inf)
    return -lead_of_others.logsumexp(dim=1)


SIGNALS = {"margin": logit_margin, "confidence": confidence, "loss": loss}
