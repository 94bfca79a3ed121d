"""What an inversion attack is: a small value object that turns a classifier into gray data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pydrift.inversion.gray import GrayData
from pydrift.models.classifier import Classifier


class InversionAttack(Protocol):
    """One file an attack, one frozen dataclass in it. Its fields are its settings and are written into every report."""

    def invert(self, classifier: Classifier, restarts: int, seed: int) -> GrayData:
        """Gray data of all classes, `restarts` images each: a pure function of settings and arguments."""
        ...

    def invert_all(self, classifiers: Sequence[Classifier], restarts: int, seed: int) -> list[GrayData]:
        """`invert` of each, with the same results; at once where that is faster."""
        ...

    def consensus(self, classifiers: Sequence[Classifier], restarts: int, seed: int) -> NDArray[np.float32]:
        """Images that all of the classifiers take for their class, `restarts` each: float32 [classes, restarts, C, H,
        W] in [0, 1]; a pure function of settings and arguments."""
        ...

    def settings(self) -> dict[str, Any]:
        """The fields as plain JSON values; the same class made with them is the same attack."""
        ...
