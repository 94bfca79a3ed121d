"""Confidence regressors: from the embedding of one image, how much does it look like one that was trained on?

They learn from the victim alone, on images of which none is asked about later. Maini et al., ICLR 2021, have the
perceptron; logistic regression is the plain thing to hold against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pydrift.core.noise import Phase, derived_seed


class Regressor(Protocol):
    """Gives each row of features [N, D] a confidence float64 [N], the higher the more like a private image."""

    def __call__(self, features: NDArray[np.float64]) -> NDArray[np.float64]: ...


class Confidence(Protocol):
    """A kind of regressor: a frozen value of its settings."""

    @property
    def title(self) -> str: ...

    def fit(self, features: NDArray[np.float64], private: NDArray[np.bool_]) -> Regressor:
        """Learns from the victim's features [N, D] of private images and of public ones. Pure and deterministic."""
        ...


@dataclass(frozen=True)
class Perceptron:
    """Linear(D, 100), ReLU, Linear(100, 1), tanh; trained to say 1 for private and -1 for public images.

    As in the paper: plain gradient descent on all rows, learning rate 0.1, 1,000 epochs, loss -mean(+-g). In float64.
    """

    hidden: int = 100
    epochs: int = 1000
    learning_rate: float = 0.1
    seed: int = 0
    title: ClassVar[str] = "perceptron"

    def fit(self, features: NDArray[np.float64], private: NDArray[np.bool_]) -> Regressor:
        scale = Standardise(features)
        rows, sign = torch.from_numpy(scale(features)), torch.from_numpy(np.where(private, 1.0, -1.0))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(self.seed, Phase.CONFIDENCE))
            network = nn.Sequential(
                nn.Linear(rows.shape[1], self.hidden), nn.ReLU(), nn.Linear(self.hidden, 1), nn.Tanh()
            ).double()
        optimizer = torch.optim.SGD(network.parameters(), self.learning_rate)
        with torch.enable_grad():
            for _ in range(self.epochs):
                optimizer.zero_grad()
                (-(sign * network(rows)[:, 0]).mean()).backward()
                optimizer.step()

        def score(features: NDArray[np.float64]) -> NDArray[np.float64]:
            with torch.no_grad():
                result: NDArray[np.float64] = network(torch.from_numpy(scale(features)))[:, 0].numpy()
            return result

        return score


@dataclass(frozen=True)
class Logistic:
    """Logistic regression with scikit-learn's ridge penalty; the confidence is the log-odds."""

    title: ClassVar[str] = "logistic regression"

    def fit(self, features: NDArray[np.float64], private: NDArray[np.bool_]) -> Regressor:
        from sklearn.linear_model import LogisticRegression

        scale = Standardise(features)
        model = LogisticRegression(max_iter=1000).fit(scale(features), private)
        return lambda features: np.asarray(model.decision_function(scale(features)), np.float64)


class Standardise:
    """Takes from each column the mean and the spread that it had in the rows of fitting."""

    def __init__(self, features: NDArray[np.float64]) -> None:
        self._mean, spread = features.mean(axis=0), features.std(axis=0)
        self._scale = np.where(spread > 0, spread, 1.0)

    def __call__(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        return (features - self._mean) / self._scale


CONFIDENCES: dict[str, Confidence] = {"perceptron": Perceptron(), "logistic": Logistic()}
