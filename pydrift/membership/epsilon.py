"""The lower bound on the epsilon of differential privacy that an attack proves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pydrift.core.noise import Phase, derived_seed
from pydrift.stats.intervals import clopper_pearson
from pydrift.stats.roc import roc


def epsilon_lower_bound(
    scores: NDArray[np.float64], member: NDArray[np.bool_], alpha: float = 0.05, delta: float = 0.0, seed: int = 0
) -> float:
    """The least epsilon for which the training can be (epsilon, delta)-differentially private.

    The bound has confidence 1 - alpha.

    scores  float64 [N], higher for members; member bool [N]
    seed    of the random halves

    Differential privacy bounds every test: TPR <= e^epsilon FPR + delta. The same holds for 1 - FPR and 1 - TPR. So
    epsilon >= log((TPR - delta) / FPR). TPR is replaced by the lower end of its Clopper-Pearson interval and FPR by the
    upper end, each at alpha / 2. The threshold and one of the two tests are chosen on one random half of the images.
    The bound is computed on the other half, so the choice costs no confidence.

    Assumption: the images are independent trials. As usual they are all scored on *one* trained model. A rigorous
    statement needs many trainings, or the argument of Steinke, Nasr, Jagielski, "Privacy Auditing with One (1) Training
    Run", NeurIPS 2023. A result of 0 means that nothing was shown; it does not mean that nothing leaks.
    """
    if min(member.sum(), (~member).sum()) < 2:
        return 0.0
    first = _draw_half(member, seed)
    choice = roc(scores[first], member[first])
    accuse, acquit = _bounds(
        choice.true_positives, choice.false_positives, choice.members, choice.non_members, alpha, delta
    )
    accusing = accuse.max() >= acquit.max()
    threshold = choice.threshold[np.argmax(accuse if accusing else acquit)]
    inside, outside = scores[~first & member], scores[~first & ~member]
    true, false = (np.array([(scores_of >= threshold).sum()]) for scores_of in (inside, outside))
    bounds = _bounds(true, false, len(inside), len(outside), alpha, delta)
    return max(0.0, float(bounds[0 if accusing else 1][0]))


def _bounds(
    true: NDArray[np.int64], false: NDArray[np.int64], members: int, non_members: int, alpha: float, delta: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower bounds of epsilon for each threshold: from accusing members, and from acquitting non-members."""
    tpr_low = clopper_pearson(true, members, alpha)[0]
    fpr_high = clopper_pearson(false, non_members, alpha)[1]
    with np.errstate(divide="ignore"):
        accuse = np.log(np.maximum(tpr_low - delta, 0) / fpr_high)
        acquit = np.log(np.maximum(1 - fpr_high - delta, 0) / (1 - tpr_low))
    return accuse, acquit


def _draw_half(member: NDArray[np.bool_], seed: int) -> NDArray[np.bool_]:
    """A random half of the members, and of the non-members: bool [N]."""
    random = np.random.Generator(np.random.Philox(derived_seed(seed, Phase.EPSILON_SPLIT)))
    chosen = np.zeros(len(member), bool)
    for kind in (np.flatnonzero(member), np.flatnonzero(~member)):
        chosen[random.permutation(kind)[: len(kind) // 2]] = True
    return chosen
