"""What the verdict does not look at: accuracies, disagreement, the size of the weight change, a fingerprint's view."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from scipy import stats
from torch import nn

from pydrift.data import LabelledImages
from pydrift.drift.result import Baselines
from pydrift.fingerprint import Scorer
from pydrift.inversion.gray import GrayData
from pydrift.models.classifier import Classifier

GRAY_ALPHA = 0.05  # a gray image with a p up to this is foreign


def measure_baselines(
    base: Classifier,
    candidate: Classifier,
    base_module: nn.Module,
    candidate_module: nn.Module,
    data: LabelledImages | None,
) -> Baselines:
    """The baselines of a report; without data only the weight change."""
    change = relative_weight_change(base_module, candidate_module)
    if data is None:
        return Baselines(relative_weight_change=change)
    predictions = [model.logits(data.x).argmax(dim=1).cpu() for model in (base, candidate)]
    right_base, right_new = (p == data.y for p in predictions)
    return Baselines(
        accuracy_base=float(right_base.float().mean()),
        accuracy_candidate=float(right_new.float().mean()),
        accuracy_p_value=mcnemar(int((right_base & ~right_new).sum()), int((right_new & ~right_base).sum())),
        disagreement=float((predictions[0] != predictions[1]).float().mean()),
        relative_weight_change=change,
        images=len(data),
        data=data.source,
        data_sha256=data.sha256,
    )


def with_gray_known(baselines: Baselines, scorer: Scorer, base: GrayData, candidate: GrayData) -> Baselines:
    """With the share of each class's gray images that the base's fingerprint knows: those with a p above 0.05."""
    scorer.fingerprint.conformal.check_alpha(GRAY_ALPHA)

    def known(gray: GrayData) -> tuple[float, ...]:
        return tuple(float((scorer.score(torch.from_numpy(images)).p > GRAY_ALPHA).mean()) for images in gray.images)

    return replace(baselines, gray_known_base=known(base), gray_known_candidate=known(candidate))


def mcnemar(only_first_right: int, only_second_right: int) -> float:
    """Exact two-sided p of equal accuracy (McNemar), from the images that just one model gets right; never 0."""
    discordant = only_first_right + only_second_right
    p_value = float(stats.binomtest(only_first_right, discordant).pvalue) if discordant else 1.0
    return max(p_value, float(np.finfo(float).tiny))


def relative_weight_change(base: nn.Module, candidate: nn.Module) -> float | None:
    """|w_new - w_base| / |w_base| over all parameters; None where names or shapes differ."""
    old, new = dict(base.named_parameters()), dict(candidate.named_parameters())
    if old.keys() != new.keys() or any(old[n].shape != new[n].shape for n in old):
        return None
    with torch.no_grad():
        difference = sum(float((new[n].double().cpu() - old[n].double().cpu()).square().sum()) for n in old)
        size = sum(float(old[n].double().square().sum()) for n in old)
    return math.sqrt(difference / size) if size > 0 else None
