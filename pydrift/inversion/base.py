"""The interface of an inversion attack, which turns a classifier into gray data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pydrift.inversion.gray import GrayData
from pydrift.models.classifier import Classifier


class InversionAttack(Protocol):
    """A frozen dataclass in a file of its own. Its fields are its settings, and every report records them."""

    def invert(self, classifier: Classifier, restarts: int, seed: int) -> GrayData:
        """Gray data of all classes, `restarts` images per class: a pure function of settings and arguments."""
        ...

    def invert_all(self, classifiers: Sequence[Classifier], restarts: int, seed: int) -> list[GrayData]:
        """`invert` of each classifier, with the same results; all at once where that is faster."""
        ...

    def consensus(self, classifiers: Sequence[Classifier], restarts: int, seed: int) -> NDArray[np.float32]:
        """Images that all classifiers assign to the same class: float32 [classes, restarts, C, H, W] in [0, 1].

        A pure function of settings and arguments.
        """
        ...

    def settings(self) -> dict[str, Any]:
        """The fields as plain JSON values. The class made with them again is the same attack."""
        ...
