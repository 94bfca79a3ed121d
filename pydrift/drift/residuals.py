"""Conditional residuals: how far each response of a model lies from what its other responses predict.

All K + 1 models are treated alike: each by the mean and the covariance of the other K, which are those of all with one
model left out, a rank-one change of one inverse (Sherman and Morrison). Nothing of the size of responses x responses is
formed, and the responses are read block by block: the work grows with the number of responses, which is the square of
the number of classes, times the square of the number of models. numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from pydrift.core.parallel import each

T = TypeVar("T")

ROUNDING = 1e-9  # figures that differ by less, relatively, do not differ
POOLED = (
    0.5  # share of a residual's or a score's variance that is the mean of all, so that a tiny one magnifies nothing
)
_POOLED_DEVIATION = 0.1  # the same of a response's
_BLOCK = 1 << 16  # responses of each model that are worked on at once
_MANY_BLOCKS = 32  # from which on threads pay


class Block(NamedTuple):
    """Some responses of all models to one variant.

    around        float64 [K + 1, e]: around their mean
    variance      float64 [e]
    rows, columns int [e]: the two measured classes that a response concerns, or twice the one
    at            int [e]: its place in the variant's table, flattened
    """

    variant: str
    around: NDArray[np.float64]
    variance: NDArray[np.float64]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    at: NDArray[np.int64]


class Pool:
    """The responses of shadows and candidate to one probe, as far as they concern the measured classes.

    per_class   whether the rows of a table are classes, too
    shadows     of each variant [K, ..., all classes]
    candidate   of each variant [..., all classes]
    classes     the measured ones
    models      K + 1
    entries     how many responses of a model count
    """

    def __init__(
        self,
        per_class: bool,
        shadows: Mapping[str, NDArray[np.floating]],
        candidate: Mapping[str, NDArray[np.floating]],
        classes: tuple[int, ...],
    ) -> None:
        self.per_class, self.shadows, self.candidate, self.classes = per_class, shadows, candidate, classes
        self.models = len(next(iter(shadows.values()))) + 1
        self._position = np.zeros(max(classes) + 1, int)
        self._position[list(classes)] = np.arange(len(classes))
        self._where = [where for variant, table in shadows.items() for where in self._parts(variant, table)]
        totals = list(self.each_block(lambda block: (len(block.variance), float(block.variance.sum()))))
        self.entries = sum(count for count, _ in totals)
        self._variance = sum(total for _, total in totals) / max(self.entries, 1)

    def _parts(self, variant: str, table: NDArray[np.floating]) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """The blocks of a variant: some rows each of its table, all axes but the last flattened."""
        rows = np.array(self.classes) if self.per_class else np.arange(int(np.prod(table.shape[1:-1])))
        step = max(1, _BLOCK // len(self.classes))
        yield from ((variant, rows[first : first + step]) for first in range(0, len(rows), step))

    def each_block(self, work: Callable[[Block], T]) -> Iterator[T]:
        """`work` on all responses in which the shadows differ, block by block, in a fixed order."""
        run = each if len(self._where) > _MANY_BLOCKS else map
        yield from run(lambda where: work(self._load(*where)), self._where)

    def _load(self, variant: str, lines: NDArray[np.int64]) -> Block:
        some, both = np.array(self.classes), (self.shadows[variant], self.candidate[variant][None])
        tables = [side.reshape(len(side), -1, side.shape[-1]) for side in both]
        values = np.concatenate([side[:, lines][:, :, some] for side in tables]).astype(float)
        if not self.per_class and len(some) < tables[0].shape[-1]:
            # Against the mean of these classes: the mean of all moves with a class that is not to count.
            values -= values.mean(axis=2, keepdims=True)
        columns = np.broadcast_to(np.arange(len(some)), (len(lines), len(some)))
        rows = self._position[lines][:, None] if self.per_class else columns
        rows = np.broadcast_to(rows, columns.shape)
        low, high = values[:-1].min(axis=0), values[:-1].max(axis=0)
        kept = high - low > ROUNDING * np.maximum(-low, high)  # nan: no
        if self.per_class:
            kept &= rows != columns
        at = lines[:, None] * tables[0].shape[-1] + some
        around = values[:, kept]
        around -= around.mean(axis=0)
        variance = np.einsum("ke,ke->e", around, around) / (len(around) - 1)
        return Block(variant, around, variance, rows[kept], columns[kept], at[kept])

    def scaled(self, block: Block) -> NDArray[np.float64]:
        """A block's responses [K + 1, e] in deviations from their mean."""
        deviation = np.sqrt(mix(block.variance, self._variance, _POOLED_DEVIATION))
        return block.around / (deviation + np.finfo(float).tiny)


@dataclass(frozen=True)
class LeaveOneOut:
    """Conditional residuals of each model under the mean and the covariance of all the others.

    With P the inverse of the covariance of the others, shrunk towards the identity by the intensity of Ledoit and Wolf
    ("A well-conditioned estimator for large-dimensional covariance matrices", Journal of Multivariate Analysis 88,
    2004): (P x)_e / sqrt(P_ee), the distance of response e from its conditional mean given all other responses of the
    same model, in conditional standard deviations.

    solve, explained  float64 [K + 1, K + 1]: with z the scaled responses [K + 1, E], P z and 1 - diag P of all models
    gain, inflate     of the rank-one change that leaves a model out
    leverage          float64 [K + 1]: x^T P x of each model under the covariance of the others
    """

    solve: NDArray[np.float64]
    explained: NDArray[np.float64]
    shrinkage: float
    gain: float
    inflate: NDArray[np.float64]
    leverage: NDArray[np.float64]

    @classmethod
    def of(cls, pool: Pool) -> LeaveOneOut:
        count = pool.models

        def products(block: Block) -> NDArray[np.float64]:
            z = pool.scaled(block)
            return z @ z.T

        gram = sum(pool.each_block(products), np.zeros((count, count)))
        shrinkage = shrinkage_intensity(gram, pool.entries)
        square, axes = np.linalg.eigh(gram)
        weight = (1 - shrinkage) / (count - 2)
        spread = shrinkage + weight * np.maximum(square, 0)
        solve = (axes / spread) @ axes.T
        gain = weight * count / (count - 1)
        product = np.einsum("ij,ji->i", solve, gram)  # z_i^T P z_i
        inflate = 1 / np.maximum(1 - gain * product, ROUNDING)
        return cls(solve, (axes * (weight / spread)) @ axes.T, shrinkage, gain, inflate, product * inflate)

    def residuals(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of scaled responses [K + 1, e], each model's given the others, up to a factor common to all: [K + 1, e]."""
        solved = self.solve @ z
        diagonal = (1 - np.einsum("ke,ke->e", z, self.explained @ z)) / self.shrinkage
        inflate = self.inflate[:, None]
        spread = self.gain * inflate * solved**2
        spread += diagonal
        solved *= inflate
        solved /= np.sqrt(spread, out=spread)
        return solved


def mix(variance: NDArray[np.float64], mean: float | NDArray[np.float64], pooled: float) -> NDArray[np.float64]:
    """Variances of few values, each with a share `pooled` of their mean."""
    return (1 - pooled) * variance + pooled * mean


def shrinkage_intensity(gram: NDArray[np.float64], entries: int) -> float:
    """Ledoit and Wolf's weight of the identity for the covariance of centred rows z [K, entries], in (0, 1].

    gram  z z^T [K, K], the products of the rows
    """
    count = len(gram)
    mean_variance = np.trace(gram) / count / entries
    square = (gram**2).sum() / count**2
    distance = square - entries * mean_variance**2
    error = ((np.diag(gram) ** 2).sum() / count - square) / count
    return float(np.clip(error / distance, 1e-6, 1.0)) if distance > 0 else 1.0
