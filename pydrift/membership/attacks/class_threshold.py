"""One threshold for each class, set on shadow models: confidence, entropy and modified entropy.

Song, Mittal: "Systematic Evaluation of Privacy Risks of Machine Learning Models", USENIX Security 2021.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from pydrift.membership.attack import Needs, Scores, check_shadows
from pydrift.shadows.statistics import Statistics
from pydrift.stats.roc import roc

Signal = Callable[[Statistics, NDArray[np.int64]], NDArray[np.float64]]
"""(statistics, labels) -> float64 [K, N], members high."""


def confidence(seen: Statistics, y: NDArray[np.int64]) -> NDArray[np.float64]:
    """The logit margin, which orders images as p_y does and tells them apart where p_y rounds to 0 or 1."""
    return seen.margin[:, 0].astype(np.float64)


def less_than_certain(margin: NDArray[np.float64]) -> NDArray[np.float64]:
    """p_y - 1."""
    return -expit(-margin)


def negative_entropy(seen: Statistics, y: NDArray[np.int64]) -> NDArray[np.float64]:
    """sum_i p_i log p_i."""
    assert seen.posterior is not None
    return np.stack([(p * _logarithms(p)[0]).sum(axis=1) for p in seen.posterior])


def negative_modified_entropy(seen: Statistics, y: NDArray[np.int64]) -> NDArray[np.float64]:
    """(1 - p_y) log p_y + sum over i != y of p_i log(1 - p_i): unlike the entropy, high only for the *right* certainty.

    p_y and 1 - p_y are taken from the margin.
    """
    assert seen.posterior is not None
    margin, log_p = seen.margin[:, 0].astype(np.float64), seen.log_p()[:, 0]
    values = expit(-margin) * log_p
    for k, p in enumerate(seen.posterior):
        terms = p * _logarithms(p)[1]
        terms[np.arange(len(y)), y] = 0
        values[k] += terms.sum(axis=1)
    return values


def _logarithms(posterior: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """log p and log(1 - p) of probabilities [N, C], each from the smaller of p and 1 - p.

    A float32 p near 1 has lost the digits of 1 - p, but the other classes, whose sum that is, have kept them. What is
    below float32's smallest number counts as that number.
    """
    p = posterior.astype(np.float64)
    rest = np.zeros_like(p)  # what comes before a class and what comes after it: no subtraction
    rest[:, 1:] += p[:, :-1].cumsum(axis=1)
    rest[:, :-1] += p[:, :0:-1].cumsum(axis=1)[:, ::-1]
    small, tiny = np.minimum(p, rest), np.finfo(np.float32).tiny
    log_small, log_large = np.log(np.maximum(small, tiny)), np.log1p(-small)
    return np.where(p < rest, log_small, log_large), np.where(p < rest, log_large, log_small)


@dataclass(frozen=True)
class ClassThreshold:
    """score = signal - threshold of the image's class, both on `scale`; above 0 the paper says "member".

    The threshold of a class is the one with the best balanced accuracy on that class's images over all shadows. Signals
    that are small next to their threshold would round together: of equal scores, the one of the higher signal is the
    next float64.
    """

    signal: Signal
    title: str
    needs: Needs
    scale: Callable[[NDArray[np.float64]], NDArray[np.float64]] = np.asarray  # rising; how scores of classes compare

    def fit(self, shadow: Statistics, member: NDArray[np.bool_], y: NDArray[np.int64]) -> _Fitted:
        check_shadows(self, shadow, member)
        values, threshold = self.signal(shadow, y), np.zeros(int(y.max()) + 1)
        for label in np.unique(y):
            of_class = y == label
            curve = roc(values[:, of_class].ravel(), member[:, of_class].ravel())
            threshold[label] = curve.threshold[1 + np.argmax((curve.tpr - curve.fpr)[1:])]
        return _Fitted(self, y, threshold[y])


@dataclass(frozen=True)
class _Fitted:
    attack: ClassThreshold
    y: NDArray[np.int64]
    threshold: NDArray[np.float64]  # [N]

    def score(self, target: Statistics) -> Scores:
        signal, scale = self.attack.signal(target, self.y)[0], self.attack.scale
        return _told_apart(scale(signal) - scale(self.threshold), signal)


def _told_apart(score: NDArray[np.float64], signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """`score` [N], rising by a float64's last bit from one signal [N] to the next higher where it is the same."""
    order = np.lexsort((signal, score))
    score, signal = score[order], signal[order]
    steps = np.append(0, np.cumsum((score[1:] != score[:-1]) | (signal[1:] != signal[:-1])))
    place = np.maximum.accumulate(_place(score.view(np.int64)) - steps) + steps
    result = np.empty_like(score)
    result[order] = _place(place).view(np.float64)
    return result


def _place(bits: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of a float64 of these bits among all, 0 being that of 0.0; and from a place its float64's bits."""
    return np.where(bits < 0, np.iinfo(np.int64).min - bits, bits)


CONFIDENCE = ClassThreshold(
    confidence, "confidence, threshold per class (Song, Mittal)", Needs(1, 1), less_than_certain
)
ENTROPY = ClassThreshold(negative_entropy, "entropy, threshold per class (Song, Mittal)", Needs(1, 1, posterior=True))
MODIFIED_ENTROPY = ClassThreshold(
    negative_modified_entropy, "modified entropy, threshold per class (Song, Mittal)", Needs(1, 1, posterior=True)
)
