"""What a team would do without pydrift to notice that a candidate means something else by a class.

Each method gets the most data that a team could have for it, and decides by its own usual rule at ALPHA:

original set  the labelled test set that the base was released with, if the team still has it
current set   the same with the candidate's drift planted, as if drawn from the candidate's own distribution. For a
              benign candidate it is the original set
two samples   for methods that ask whether the data have changed: a random half of the original set, and the other half
              with the drift planted. The images are disjoint, so that a benign candidate is a true null. On the same
              images twice such a method could not be wrong. These methods ask the base alone. So the halves are drawn
              anew for each candidate. Else a single draw would decide about all benign candidates of one base
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from math import nan, sqrt

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import stats
from scipy.spatial.distance import pdist
from scipy.special import softmax
from torch import Tensor, nn

from pydrift.data import LabelledImages, plant
from pydrift.drift.baselines import relative_weight_change

ALPHA = 0.05
_BATCH = 128  # images of a forward pass: small ones stay in the cache
_FREQUENCIES = 256
_MEDIAN_OF = 1000  # images; the median of their distances is the width of the kernel
_PERMUTATIONS = 199


@dataclass(frozen=True)
class Finding:
    """What a method says of one candidate.

    score  higher means more drift. It orders candidates, and never saturates as a p-value does
    alarm  the method's own rule at ALPHA. None where it has none
    first  the class that the method names first. None where it names none, or sees no difference at all
    """

    score: float
    alarm: bool | None = None
    first: int | None = None


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a model computes: the input of its last layer, float32 [N, D], and its softmax, float64 [N, classes]."""

    features: NDArray[np.float32]
    probabilities: NDArray[np.float64]

    @property
    def predictions(self) -> NDArray[np.int64]:
        """The predicted classes, [N]."""
        return self.probabilities.argmax(axis=1)

    def at(self, rows: NDArray[np.int64]) -> "Outputs":
        """Returns the outputs for some of the images."""
        return Outputs(self.features[rows], self.probabilities[rows])


class Alternatives:
    """Applies the methods to all candidates of one base, whose outputs on the original test set are kept."""

    def __init__(self, base: nn.Module, original: LabelledImages) -> None:
        self._base, self._original = base, original
        self._labels = original.y.numpy()
        self._row = {key: row for row, key in enumerate(_bytes(original.x))}
        self._outputs = outputs(base, original.x)

    def findings(self, candidate: nn.Module, drift: str | None = None, seed: int = 0) -> dict[str, Finding]:
        """Returns what each method says of a candidate. On one machine with one torch it is a pure function.

        candidate  a model of the base's architecture
        drift      what was planted into its training data (see pydrift.data.plant). None: it is benign
        seed       of the halves, of what is planted into the test images, and of the random parts of the MMD
        """
        random = np.random.default_rng(seed)
        order = random.permutation(len(self._original))
        kept, fresh = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
        current, arriving = self._original, self._original.subset(torch.from_numpy(fresh))
        if drift is not None:
            current = plant(current, drift, int(random.integers(2**31)), "test")
            arriving = plant(arriving, drift, int(random.integers(2**31)), "test")

        before, after = self._outputs, outputs(candidate, self._original.x)
        after_current = self._recall(candidate, after, current.x)
        was, now = before.at(kept), self._recall(self._base, before, arriving.x)
        return {
            "accuracy, current set": accuracy_on_current(before, self._labels, after_current, current.y.numpy()),
            "accuracy of the base, current set": accuracy_on_current(
                before, self._labels, self._recall(self._base, before, current.x), current.y.numpy()
            ),
            "accuracy, original set": accuracy_on_original(before, after, self._labels),
            "disagreement": disagreement(before, after, self._labels),
            "BBSD of the models": bbsd(before, after),
            "BBSD of the data": bbsd(was, now),
            "KS of features": ks_of_features(was, now),
            "MMD of features": mmd_of_features(was, now, random),
            "weight distance": weight_distance(self._base, candidate),
            "CKA": cka(before, after),
        }

    def _recall(self, module: nn.Module, known: Outputs, x: Tensor) -> Outputs:
        """Returns the outputs for `x`. Those for original images are taken from `known`, the others are computed."""
        rows = np.array([self._row.get(key, -1) for key in _bytes(x)])
        found = known.at(rows)
        if (asked := rows < 0).any():
            computed = outputs(module, x[torch.from_numpy(asked)])
            found.features[asked], found.probabilities[asked] = computed.features, computed.probabilities
        return found


# ---- Methods that look at labels or predictions


def accuracy_on_current(
    before: Outputs, labels_before: NDArray[np.int64], after: Outputs, labels_after: NDArray[np.int64]
) -> Finding:
    """Measures how far the candidate's accuracy on its own data is below the base's accuracy on the base's data.

    The rule is Fisher's exact test, one-sided, because to a team the current set is another sample. Here the two sets
    share most of their images, which makes the drop less noisy and the test cautious.
    """
    right_before, right_after = before.predictions == labels_before, after.predictions == labels_after
    table = [[int(right.sum()), int((~right).sum())] for right in (right_before, right_after)]
    p_value = stats.fisher_exact(table, alternative="greater").pvalue
    classes = before.probabilities.shape[1]
    by_class = _by_class(right_before, labels_before, classes) - _by_class(right_after, labels_after, classes)
    return Finding(float(right_before.mean() - right_after.mean()), bool(p_value <= ALPHA), _largest(by_class))


def accuracy_on_original(before: Outputs, after: Outputs, labels: NDArray[np.int64]) -> Finding:
    """Asks whether fewer of the same images are right, by McNemar's exact test (1947), one-sided, as in a gate."""
    right_before, right_after = before.predictions == labels, after.predictions == labels
    lost, won = int((right_before & ~right_after).sum()), int((right_after & ~right_before).sum())
    alarm = lost + won > 0 and stats.binomtest(lost, lost + won, alternative="greater").pvalue <= ALPHA
    classes = before.probabilities.shape[1]
    by_class = _by_class(right_before, labels, classes) - _by_class(right_after, labels, classes)
    return Finding((lost - won) / sqrt(max(1, lost + won)), bool(alarm), _largest(by_class))


def disagreement(before: Outputs, after: Outputs, labels: NDArray[np.int64]) -> Finding:
    """Returns the share of images that the two models put into different classes, and the class where it is largest."""
    differs = before.predictions != after.predictions
    return Finding(float(differs.mean()), first=_largest(_by_class(differs, labels, before.probabilities.shape[1])))


# ---- Tests of two samples


def bbsd(before: Outputs, after: Outputs) -> Finding:
    """Black box shift detection: a Kolmogorov-Smirnov test of each class's softmax output, with Bonferroni.

    Lipton, Wang, Smola: "Detecting and Correcting for Label Shift with Black Box Predictors", ICML 2018. Rabanser,
    Günnemann, Lipton use it with this test: "Failing Loudly", NeurIPS 2019. It is meant for one model on two samples.
    For two models on the same images the samples are not independent.
    """
    statistic, p_value = kolmogorov_smirnov(before.probabilities, after.probabilities)
    return Finding(float(statistic.max()), bool((p_value <= ALPHA / len(p_value)).any()), _largest(statistic))


def ks_of_features(before: Outputs, after: Outputs) -> Finding:
    """Tests each feature by Kolmogorov-Smirnov with Bonferroni, as alibi-detect and TorchDrift do."""
    statistic, p_value = kolmogorov_smirnov(before.features, after.features)
    return Finding(float(statistic.max()), bool((p_value <= ALPHA / len(p_value)).any()))


def mmd_of_features(before: Outputs, after: Outputs, random: Generator) -> Finding:
    """The kernel two-sample test (Gretton et al., JMLR 2012) on features, as in alibi-detect and TorchDrift."""
    statistic, p_value = maximum_mean_discrepancy(before.features, after.features, random)
    return Finding(statistic, p_value <= ALPHA)


def kolmogorov_smirnov(
    first: NDArray[np.floating], second: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the statistic [D] and the asymptotic p [D] of each column of two samples, [N, D] and [M, D]."""
    result = stats.ks_2samp(first, second, axis=0, method="asymp")
    return result.statistic, result.pvalue


def maximum_mean_discrepancy(
    first: NDArray[np.float32], second: NDArray[np.float32], random: Generator
) -> tuple[float, float]:
    """Returns the unbiased MMD^2 of two samples, [N, D] and [M, D], and its p, (k + 1) / (permutations + 1).

    The kernel is exp(-d^2 / median d^2), as in alibi-detect and TorchDrift. Random Fourier features stand for it
    (Rahimi, Recht: "Random Features for Large-Scale Kernel Machines", NeurIPS 2007). So the cost is linear in the
    images, and all of them can be used. That finds far more than the kernel itself on the thousand images that cost as
    much.
    """
    n, m, both = len(first), len(second), np.concatenate([first, second])
    median = np.median(pdist(random.permutation(both)[:_MEDIAN_OF], "sqeuclidean"))
    frequencies = random.standard_normal((both.shape[1], _FREQUENCIES), np.float32) * np.float32(np.sqrt(2 / median))
    angles = both @ frequencies
    waves = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)  # the kernel is their dot product / _FREQUENCIES

    is_first = np.zeros((1 + _PERMUTATIONS, n + m), np.float32)  # row 0 has the samples as they are
    is_first[:, :n] = 1
    is_first[1:] = random.permuted(is_first[1:], axis=1)
    x = (is_first @ waves).astype(np.float64)
    y = waves.sum(axis=0, dtype=np.float64) - x
    xx, yy, xy = ((a * b).sum(axis=1) / _FREQUENCIES for a, b in ((x, x), (y, y), (x, y)))
    mmd = (xx - n) / (n * (n - 1)) + (yy - m) / (m * (m - 1)) - 2 * xy / (n * m)  # n, m: each image with itself
    return float(mmd[0]), float((1 + (mmd[1:] >= mmd[0]).sum()) / (1 + _PERMUTATIONS))


# ---- Distances between the models, without a rule


def weight_distance(base: nn.Module, candidate: nn.Module) -> Finding:
    """Returns |w_candidate - w_base| / |w_base|, a distance of WeightWatcher. NaN where the architectures differ."""
    change = relative_weight_change(base, candidate)
    return Finding(nan if change is None else change)


def cka(before: Outputs, after: Outputs) -> Finding:
    """Returns 1 - linear CKA of the features.

    Kornblith et al.: "Similarity of Neural Network Representations Revisited", ICML 2019.
    """
    x, y = (o.features - o.features.mean(axis=0, dtype=np.float64) for o in (before, after))
    alike = np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    return Finding(max(0.0, 1 - float(alike)))


# ---- A model's outputs


def outputs(module: nn.Module, x: Tensor) -> Outputs:
    """Returns the outputs of a module for images [N, C, H, W]. It must end with a linear layer."""
    asked = deepcopy(module).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    logits = []
    with torch.inference_mode(), _inputs_of_last_linear(asked) as features:
        for part in x.split(_BATCH):
            logits.append(asked(part))
    return Outputs(torch.cat(features).numpy(), softmax(torch.cat(logits).double().numpy(), axis=1))


@contextmanager
def _inputs_of_last_linear(module: nn.Module) -> Iterator[list[Tensor]]:
    """Yields a list to which every forward pass adds the input of the last linear layer."""
    seen: list[Tensor] = []
    last = [part for part in module.modules() if isinstance(part, nn.Linear)][-1]
    hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        hook.remove()


def _bytes(x: Tensor) -> Iterator[bytes]:
    return (image.tobytes() for image in x.numpy())


def _by_class(values: NDArray[np.bool_], labels: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Returns the share of `values` that hold in each class, NaN for a class without images."""
    with np.errstate(invalid="ignore"):
        return np.bincount(labels, values, classes) / np.bincount(labels, minlength=classes)


def _largest(by_class: NDArray[np.float64]) -> int | None:
    """Returns the class of the largest value. None where none is above 0."""
    values = np.nan_to_num(by_class)
    return int(values.argmax()) if values.max() > 0 else None
