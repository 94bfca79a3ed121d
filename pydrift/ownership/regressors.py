"""Confidence regressors: from the embedding of an image to a confidence that the model was trained on it.

They learn from the victim alone, on images that no suspect is asked about. The perceptron is that of Maini et al.,
ICLR 2021; logistic regression is the simple baseline beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pydrift.core.noise import Phase, derived_seed
from pydrift.core.parallel import one_intra_op_thread


@dataclass(frozen=True)
class RegressorData:
    """What the regressors learn from: the victim's embedding of L images.

    features  float64 [L, D]
    private   bool [L]: which of the images are private, so that the victim was trained on them
    """

    features: NDArray[np.float64]
    private: NDArray[np.bool_]


class FittedRegressor(Protocol):
    """Gives each row of features [N, D] a confidence float64 [N]; it is higher for images that look private."""

    def __call__(self, features: NDArray[np.float64]) -> NDArray[np.float64]: ...


class Regressor(Protocol):
    """A regressor before it is fitted: a frozen value of its settings."""

    @property
    def title(self) -> str: ...

    def fit(self, data: RegressorData) -> FittedRegressor:
        """Learns to tell private images from public ones. Deterministic; no global state changes."""
        ...


@dataclass(frozen=True)
class Perceptron:
    """Linear(D, 100), ReLU, Linear(100, 1), tanh; its target is 1 for private and -1 for public images.

    As in the paper: plain gradient descent on all rows, learning rate 0.1, 1,000 epochs, loss -mean(target * output).
    Computed in float64, with the same bits for any number of threads. `seed` draws the initial weights.
    """

    hidden: int = 100
    epochs: int = 1000
    learning_rate: float = 0.1
    seed: int = 0
    title: ClassVar[str] = "perceptron"

    def fit(self, data: RegressorData) -> FittedRegressor:
        scale = Standardise(data.features)
        rows, target = torch.from_numpy(scale(data.features)), torch.from_numpy(np.where(data.private, 1.0, -1.0))
        network = self._initial(rows.shape[1])
        optimizer = torch.optim.SGD(network.parameters(), self.learning_rate)
        with one_intra_op_thread(), torch.enable_grad():  # products of several threads differ in their last bits
            for _ in range(self.epochs):
                optimizer.zero_grad()
                (-(target * network(rows)[:, 0]).mean()).backward()
                optimizer.step()

        def score(features: NDArray[np.float64]) -> NDArray[np.float64]:
            with one_intra_op_thread(), torch.no_grad():
                result: NDArray[np.float64] = network(torch.from_numpy(scale(features)))[:, 0].numpy()
            return result

        return score

    def _initial(self, width: int) -> nn.Sequential:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(self.seed, Phase.CONFIDENCE))
            return nn.Sequential(
                nn.Linear(width, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 1), nn.Tanh()
            ).double()


@dataclass(frozen=True)
class Logistic:
    """Logistic regression with scikit-learn's default L2 penalty; the confidence is the log-odds."""

    title: ClassVar[str] = "logistic regression"

    def fit(self, data: RegressorData) -> FittedRegressor:
        from sklearn.linear_model import LogisticRegression

        scale = Standardise(data.features)
        model = LogisticRegression(max_iter=1000).fit(scale(data.features), data.private)
        return lambda features: np.asarray(model.decision_function(scale(features)), np.float64)


class Standardise:
    """Subtracts the mean of each column and divides by its standard deviation; both are those of the fitted rows.

    A column without spread is only centred.
    """

    def __init__(self, features: NDArray[np.float64]) -> None:
        self._mean, spread = features.mean(axis=0), features.std(axis=0)
        self._scale = np.where(spread > 0, spread, 1.0)

    def __call__(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        return (features - self._mean) / self._scale


REGRESSORS: dict[str, Regressor] = {"perceptron": Perceptron(), "logistic": Logistic()}
