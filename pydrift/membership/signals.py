"""The per-example statistics that membership inference is made of, computed stably from logits.

Each takes logits [N, K] and labels int64 [N] and returns [N] in the dtype of the logits, computed in float64 and
rounded once; NaN where a logit is not finite.
"""

from __future__ import annotations

from torch import Tensor

from pydrift.ops.reference import answer_statistics


def logit_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """log p_y - log(1 - p_y), without ever forming 1 - p_y.

    It equals -logsumexp over the other classes of z_j - z_y, so it stays exact where p_y rounds to 0 or 1, and where
    all logits are large.
    The statistic of LiRA (Carlini et al., "Membership Inference Attacks From First Principles", S&P 2022).
    """
    return answer_statistics(logits, labels)[0]


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p_y, in [0, inf). Members have a low one (Yeom et al., "Privacy Risk in Machine Learning", CSF 2018)."""
    return answer_statistics(logits, labels)[1]


def confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """p_y, in [0, 1]."""
    return answer_statistics(logits, labels)[2]


SIGNALS = {"margin": logit_margin, "confidence": confidence, "loss": loss}
