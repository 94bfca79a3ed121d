"""Names for the three figures of `pydrift.ops.reference.answer_statistics`, for tests.

Each function takes logits [N, classes] and labels int64 [N], and returns [N] in the dtype of the logits. It computes in
float64 and rounds once. The result is NaN where a logit is not finite.
"""

from __future__ import annotations

from torch import Tensor

from pydrift.ops.reference import answer_statistics


def logit_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """log p_y - log(1 - p_y), computed without 1 - p_y.

    It equals -logsumexp(z_j - z_y) over the other classes j. So it stays exact where p_y rounds to 0 or 1, and where
    all logits are large. It is the signal of LiRA (Carlini et al.,
    "Membership Inference Attacks From First Principles", S&P 2022).
    """
    return answer_statistics(logits, labels)[0]


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p_y, in [0, inf). It is low for members (Yeom et al., "Privacy Risk in Machine Learning", CSF 2018)."""
    return answer_statistics(logits, labels)[1]


def confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """p_y, in [0, 1]."""
    return answer_statistics(logits, labels)[2]


SIGNALS = {"margin": logit_margin, "confidence": confidence, "loss": loss}
