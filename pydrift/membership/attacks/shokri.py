"""A classifier that learns from shadow models to tell answers about members from answers about non-members.

Shokri, Stronati, Song, Shmatikov: "Membership Inference Attacks against Machine Learning Models", S&P 2017.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pydrift.membership.attack import Needs, Scores, check_shadows
from pydrift.shadows.statistics import Statistics

_LEAST, _MOST = np.nextafter(0.0, 1.0), np.nextafter(1.0, 0.0)


@dataclass(frozen=True)
class Shokri:
    """One attack model for each class, trained on the answers of every shadow about every image of the class.

    An attack model is a network with 64 hidden ReLU units, as in the paper, and reads the class probabilities.
    score = log-odds of "member". It is finite: a probability that rounds to 0 or 1 counts as the float64 next to it.
    The same seed gives the same model on the same machine.
    """

    hidden: int = 64
    epochs: int = 30
    seed: int = 0
    title: ClassVar[str] = "learned attack classifier per class (Shokri et al.)"
    needs: ClassVar[Needs] = Needs(shadows_in=1, shadows_out=1, posterior=True)

    def fit(self, shadow: Statistics, member: NDArray[np.bool_], y: NDArray[np.int64]) -> _Fitted:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier

        check_shadows(self, shadow, member)
        assert shadow.posterior is not None
        models = {}
        for label in np.unique(y):
            of_class = y == label
            answers = shadow.posterior[:, of_class].astype(np.float64)  # scikit-learn computes in its input's dtype
            rows = answers.shape[0] * answers.shape[1]
            batch = min(rows, max(64, rows // 100))  # about 100 steps per epoch for any number of shadows
            random = np.random.RandomState(np.random.MT19937(self.seed))  # accepts seeds of any size
            model = MLPClassifier((self.hidden,), batch_size=batch, max_iter=self.epochs, random_state=random)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is fixed on purpose
                model.fit(answers.reshape(rows, -1), member[:, of_class].ravel())
            models[int(label)] = model
        return _Fitted(models, y)


@dataclass(frozen=True)
class _Fitted:
    models: dict[int, object]  # scikit-learn classifiers by class
    y: NDArray[np.int64]

    def score(self, target: Statistics) -> Scores:
        assert target.posterior is not None
        scores = np.empty(target.num_images)
        for label, model in self.models.items():
            of_class = self.y == label
            answers = target.posterior[0, of_class].astype(np.float64)
            chance = model.predict_proba(answers)[:, 1].clip(_LEAST, _MOST)  # type: ignore[attr-defined]
            scores[of_class] = np.log(chance) - np.log1p(-chance)
        return scores
