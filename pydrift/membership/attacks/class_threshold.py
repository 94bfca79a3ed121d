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
"""(statistics, labels) -> float64 [K, N], higher for members."""


def confidence(seen: Statistics, y: NDArray[np.int64]) -> NDArray[np.float64]:
    """The logit margin. It orders images as p_y does, and still differs where p_y rounds to 0 or 1."""
    return seen.margin[:, 0].astype(np.float64)


def less_than_certain(margin: NDArray[np.float64]) -> NDArray[np.float64]:
    """p_y - 1."""
    return -expit(-margin)


def negative_entropy(seen: Statistics, y: NDArray[np.int64]) -> NDArray[np.float64]:
    """sum_i p_i log p_i."""
    assert seen.posterior is not None
    return np.stack([(p * _logarithms(p)[0]).sum(axis=1) for p in seen.posterior])


def negative_modified_entropy(seen: Statistics, y: NDArray[np.int64]) -> NDArray[np.float64]:
    """(1 - p_y) log p_y + sum over i != y of p_i log(1 - p_i).

    Unlike the entropy, it is high only where the model is sure of the *right* class. p_y and 1 - p_y come from the
    margin.
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
    """log p and log(1 - p) of probabilities [N, C], each computed from the smaller of p and 1 - p.

    A float32 p near 1 has lost the digits of 1 - p. The other classes, which sum to 1 - p, have kept them. Numbers
    below the smallest float32 number count as that number.
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
    """score = scale(signal) - scale(threshold of the image's class). The paper says "member" above 0.

    The threshold of a class is the one with the best balanced accuracy on the images of that class over all shadows.
    Rounding gives equal scores to signals that are small beside their threshold. Of two equal scores, the one with the
    higher signal is raised to the next float64.
    """

    signal: Signal
    title: str
    needs: Needs
    scale: Callable[[NDArray[np.float64]], NDArray[np.float64]] = (
        np.asarray
    )  # increasing; makes the scores of classes comparable

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
        return _break_ties(scale(signal) - scale(self.threshold), signal)


def _break_ties(score: NDArray[np.float64], signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """`score` [N]; where scores are equal, each higher signal [N] gets the next float64."""
    order = np.lexsort((signal, score))
    score, signal = score[order], signal[order]
    steps = np.append(0, np.cumsum((score[1:] != score[:-1]) | (signal[1:] != signal[:-1])))
    rank = np.maximum.accumulate(_rank(score.view(np.int64)) - steps) + steps
    result = np.empty_like(score)
    result[order] = _rank(rank).view(np.float64)
    return result


def _rank(bits: NDArray[np.int64]) -> NDArray[np.int64]:
    """From the bits of a float64 to its rank among all float64 (0.0 has rank 0), and from a rank back to the bits."""
    return np.where(bits < 0, np.iinfo(np.int64).min - bits, bits)


CONFIDENCE = ClassThreshold(
    confidence, "confidence, threshold per class (Song, Mittal)", Needs(1, 1), less_than_certain
)
ENTROPY = ClassThreshold(negative_entropy, "entropy, threshold per class (Song, Mittal)", Needs(1, 1, posterior=True))
MODIFIED_ENTROPY = ClassThreshold(
    negative_modified_entropy, "modified entropy, threshold per class (Song, Mittal)", Needs(1, 1, posterior=True)
)
