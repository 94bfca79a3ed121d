"""Drift scores: how far a candidate and each shadow depart, class by class, from what all the others say.

The candidate joins the K shadows, and all K + 1 models are measured alike: each against the K others, none of which is
treated otherwise than the rest (a full conformal measure: Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random
World", 2005). So the scores of a benign candidate and of the shadows can change places. numpy and scipy only.

Nothing of the size of responses x responses is formed, and the responses are read block by block: the work grows with
the number of responses, which is the square of the number of classes, times the square of the number of models.

Source: the design is pydrift's own. The covariance is shrunk as by Ledoit and Wolf; leaving a model out of it is a
rank-one change of its inverse (Sherman and Morrison).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, special

MIN_SHADOWS = 4  # each is compared with the others, and two say next to nothing about a third
ROUNDING = 1e-9  # figures that differ by less, relatively, do not differ
CENTRED_CLASSES = 4  # with fewer, what concerns one class concerns nearly all responses
_POOLED_DEVIATION = 0.1  # share of a response's variance that is the mean of all, so that a tiny one magnifies nothing
_POOLED = 0.5  # the same of a residual's and of a score's
_OUTER = 0.1  # share of the models, on either side, that a mean and a deviation of scores do not follow
_BLOCK = 1 << 16  # responses of each model that are worked on at once

Responses = Mapping[str, Mapping[str, NDArray[np.floating]]]
"""Of each probe, of each of its variants, a table of log-odds: of one model [..., classes], of several
[models, ..., classes]. The names of variants are unique over all probes. See Probe for the axes."""


@dataclass(frozen=True)
class Probe:
    """How the tables of a probe are read.

    per_class  True: the images were made of the classes, and a table is [classes, classes]. Row c says how images of
               class c are told from each other class; the diagonal does not count.
               False: the images are of no class, and a table is [classes] or, of several places, [..., classes].
               An entry is about its last class, against the mean of all.
    power      of the mean over residuals: 2 where a drift moves many responses, higher where it may move a few
    """

    per_class: bool
    power: int


GRAY, OCCLUSIONS, SYNTHETIC_SHAPES, REFERENCE = "gray data", "occlusions", "synthetic shapes", "reference data"
"""Transformed gray data, small occlusions of it, images of simple shapes, and real images where there are any."""

PROBES = {
    GRAY: Probe(per_class=True, power=2),
    OCCLUSIONS: Probe(per_class=False, power=4),
    SYNTHETIC_SHAPES: Probe(per_class=False, power=2),
    REFERENCE: Probe(per_class=True, power=2),
}


class Unmeasurable(Exception):
    """Says why no class has a drift score."""


@dataclass(frozen=True)
class DriftScores:
    """How far K shadows and a candidate depart from each other; in each array the candidate is the last of the K + 1.

    classes    the measured classes, the last axis of `scores`
    scores     float64 [K + 1, classes]: the drift score, in null standard deviations; 0 is the mean, larger is more
    level      float64 [K + 1]: how far a model departs in all classes together, as a changed recipe does
    variants   of each variant, the candidate's score by it alone: float64 [classes]
    places     of each variant with places, the candidate's residuals [..., all classes] in null deviations; NaN
               where shadows agree or a class was not measured
    pairs      symmetric float64 [classes, classes]: the root mean square of the candidate's residuals on images that
               were made of the two classes; NaN where nothing is known of a pair
    """

    classes: tuple[int, ...]
    scores: NDArray[np.float64]
    level: NDArray[np.float64]
    variants: dict[str, NDArray[np.float64]]
    places: dict[str, NDArray[np.float64]]
    pairs: NDArray[np.float64]

    @property
    def largest(self) -> NDArray[np.float64]:
        """float64 [K + 1]: the largest score of each model, which the whole verdict rests on."""
        return self.scores.max(axis=1)


def measure_drift_scores(
    shadows: Responses, candidate: Responses, classes: Sequence[int], centred: bool, each_variant: bool = True
) -> DriftScores:
    """The drift scores of some classes.

    shadows       of each variant [K, ..., classes]
    candidate     of each variant [..., classes]
    classes       the classes to measure; each is told from these only
    centred       whether what a model shows in all classes alike does not count: for shadows whose recipes vary. With
                  fewer than CENTRED_CLASSES classes it counts all the same.
    each_variant  whether `variants`, `places` and `pairs` are wanted; else they are empty

    Deterministic. Unmeasurable where there is nothing to measure.
    """
    if len(classes) < 2:
        raise Unmeasurable("no other class could be measured")
    count = len(next(iter(next(iter(shadows.values())).values())))
    if count < MIN_SHADOWS:
        raise Unmeasurable(f"{count} shadows are too few, a null needs {MIN_SHADOWS}")
    centred &= len(classes) >= CENTRED_CLASSES
    found = []
    for probe in shadows:
        pool = _Pool(probe, shadows[probe], candidate[probe], tuple(classes))
        if pool.entries > 0:
            found.append(_depart(pool, each_variant))
    with_all = [of_probe.departure for of_probe in found]
    if not with_all or np.isnan(np.stack(with_all)).all(axis=0).any():
        raise Unmeasurable("the shadows do not differ enough to compare the candidate with them")
    variants = {name: departure for of_probe in found for name, departure in of_probe.variants.items()}
    return DriftScores(
        classes=tuple(classes),
        scores=_combine([_standardise(_centre(departure) if centred else departure) for departure in with_all]),
        level=_level(found),
        variants={name: _standardise(departure)[-1] for name, departure in variants.items()},
        places={name: places for of_probe in found for name, places in of_probe.places.items()},
        pairs=_root_mean([of_probe.pairs for of_probe in found], len(classes)),
    )


class _Block(NamedTuple):
    """Some responses of all models to one variant.

    values        float64 [K + 1, e]
    rows, columns int [e]: the two measured classes that a response concerns, or twice the one
    at            int [e]: its place in the variant's table, flattened
    """

    variant: str
    values: NDArray[np.float64]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    at: NDArray[np.int64]


class _Pool:
    """The responses of shadows and candidate to one probe, as far as they concern the measured classes."""

    def __init__(
        self,
        probe: str,
        shadows: Mapping[str, NDArray[np.floating]],
        candidate: Mapping[str, NDArray[np.floating]],
        classes: tuple[int, ...],
    ) -> None:
        self.kind, self.shadows, self.candidate, self.classes = PROBES[probe], shadows, candidate, classes
        variances = [block.values.var(axis=0, ddof=1) for block in self.blocks()]
        self.entries = sum(map(len, variances))
        self.models = len(next(iter(shadows.values()))) + 1
        self._variance = sum(float(part.sum()) for part in variances) / max(self.entries, 1)

    def blocks(self) -> Iterator[_Block]:
        """All responses in which the shadows differ, in a fixed order."""
        some = np.array(self.classes)
        for variant, table in self.shadows.items():
            both = (table, self.candidate[variant][None])
            tables = [side.reshape(len(side), -1, side.shape[-1]) for side in both]
            lines = some if self.kind.per_class else np.arange(tables[0].shape[1])
            step = max(1, _BLOCK // len(some))
            for first in range(0, len(lines), step):
                line = lines[first : first + step]
                values = np.concatenate([side[:, line][:, :, some] for side in tables]).astype(float)
                if not self.kind.per_class and len(some) < table.shape[-1]:
                    # Against the mean of these classes: the mean of all moves with a class that is not to count.
                    values -= values.mean(axis=2, keepdims=True)
                columns = np.broadcast_to(np.arange(len(some)), (len(line), len(some)))
                rows = np.arange(first, first + len(line))[:, None] if self.kind.per_class else columns
                rows = np.broadcast_to(rows, columns.shape)
                of_shadows = values[:-1]
                kept = of_shadows.std(axis=0, ddof=1) > ROUNDING * np.abs(of_shadows).max(axis=0)
                if self.kind.per_class:
                    kept &= rows != columns
                at = line[:, None] * table.shape[-1] + some
                yield _Block(variant, values[:, kept], rows[kept], columns[kept], at[kept])

    def scaled(self) -> Iterator[tuple[_Block, NDArray[np.float64]]]:
        """The blocks, each with its values [K + 1, e] around their mean and in their deviations."""
        for block in self.blocks():
            deviation = np.sqrt(_mix(block.values.var(axis=0, ddof=1), self._variance, _POOLED_DEVIATION))
            yield block, (block.values - block.values.mean(axis=0)) / (deviation + np.finfo(float).tiny)


class _Departures(NamedTuple):
    """How far models depart under one probe.

    departure  float64 [K + 1, classes]: log of the power mean of a class's residuals; NaN where no response concerns it
    variants   the same of each variant alone, of those that concern every class
    leverage   float64 [K + 1]: log of how far a model lies along the axes in which the others vary together
    places     see DriftScores
    pairs      the candidate's squared residuals on images of two classes, and how many: two [classes, classes]
    """

    departure: NDArray[np.float64]
    variants: dict[str, NDArray[np.float64]]
    leverage: NDArray[np.float64]
    places: dict[str, NDArray[np.float64]]
    pairs: tuple[NDArray[np.float64], NDArray[np.float64]]


def _depart(pool: _Pool, each_variant: bool) -> _Departures:
    solver = _LeaveOneOut.of(pool)
    # The unit of a residual is that of the other models: a departure in its own unit looks smaller than it is.
    own = np.zeros(pool.models)
    for _, z in pool.scaled():
        own += (solver.residuals(z) ** 2).sum(axis=1)
    mean = (own.sum() - own) / (pool.models - 1) / pool.entries
    sums = _Sums(pool, each_variant)
    for block, z in pool.scaled():
        residuals = solver.residuals(z)
        square = residuals**2
        others = (square.sum(axis=0) - square) / (pool.models - 1)
        sums.add(block, residuals / np.sqrt(_mix(others, mean[:, None], _POOLED)))
    return _Departures(*sums.departures(), np.log(np.maximum(solver.leverage, ROUNDING)), sums.places, sums.pairs)


@dataclass(frozen=True)
class _LeaveOneOut:
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
    def of(cls, pool: _Pool) -> _LeaveOneOut:
        count = pool.models
        gram = np.zeros((count, count))
        for _, z in pool.scaled():
            gram += z @ z.T
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
        diagonal = (1 - (z * (self.explained @ z)).sum(axis=0)) / self.shrinkage
        return solved * self.inflate[:, None] / np.sqrt(diagonal + self.gain * self.inflate[:, None] * solved**2)


@dataclass
class _Sums:
    """Sums of powers of residuals, by class, and what is kept of the candidate's alone."""

    pool: _Pool
    each_variant: bool
    places: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    by_variant: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        classes = len(self.pool.classes)
        self.pairs = np.zeros((classes, classes)), np.zeros((classes, classes))

    def add(self, block: _Block, residuals: NDArray[np.float64]) -> None:
        """Adds residuals in null deviations [K + 1, e]."""
        classes = len(self.pool.classes)
        total, count = self.by_variant.setdefault(
            block.variant, (np.zeros((self.pool.models, classes)), np.zeros(classes))
        )
        concerned = _concerned(block, classes)
        total += (concerned @ (residuals**self.pool.kind.power).T).T
        count += np.asarray(concerned.sum(axis=1)).ravel()
        if not self.each_variant:
            return
        if self.pool.kind.per_class:
            for side in ((block.rows, block.columns), (block.columns, block.rows)):
                np.add.at(self.pairs[0], side, residuals[-1] ** 2)
                np.add.at(self.pairs[1], side, 1)
        elif (table := self.pool.candidate[block.variant]).ndim > 1:
            place = self.places.setdefault(block.variant, np.full(table.shape, np.nan))
            place.flat[block.at] = residuals[-1]

    def departures(self) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
        """Of all variants together, and of each alone."""
        power = self.pool.kind.power
        total, count = (sum(side) for side in zip(*self.by_variant.values(), strict=True))
        variants = {
            name: _log_mean(*sums, power)
            for name, sums in self.by_variant.items()
            if self.each_variant and (sums[1] > 0).all()
        }
        return _log_mean(total, count, power), variants


def _concerned(block: _Block, classes: int) -> sparse.csr_array:
    """Which class each response concerns: [classes, e], of zeros and ones."""
    entries = np.arange(len(block.rows))
    rows, columns = block.rows, block.columns
    apart = rows != columns
    ones = np.ones(len(rows) + apart.sum())
    where = (np.concatenate([rows, columns[apart]]), np.concatenate([entries, entries[apart]]))
    return sparse.csr_array((ones, where), shape=(classes, len(rows)))


def _log_mean(total: NDArray[np.float64], count: NDArray[np.float64], power: int) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(count > 0, total / count, np.nan)
    return np.log(np.maximum(mean ** (1 / power), ROUNDING))


def _mix(variance: NDArray[np.float64], mean: float | NDArray[np.float64], pooled: float) -> NDArray[np.float64]:
    """Variances of few values, each with a share `pooled` of their mean."""
    return (1 - pooled) * variance + pooled * mean


def _centre(departure: NDArray[np.float64]) -> NDArray[np.float64]:
    return departure - np.nanmean(departure, axis=1, keepdims=True)


def _standardise(departure: NDArray[np.float64]) -> NDArray[np.float64]:
    """Departures [K + 1, n] around their mean, in standard deviations.

    The lowest and the highest tenth of the models count as the next ones do (a Winsorised mean and deviation: Tukey,
    "The Future of Data Analysis", 1962). So neither a drift nor an odd shadow widens the unit that it is measured in.
    """
    outer = max(1, round(_OUTER * len(departure)))
    ordered = np.sort(departure, axis=0)[outer:-outer]
    kept = np.clip(departure, ordered[0], ordered[-1])
    variance = ((kept - kept.mean(axis=0)) ** 2).sum(axis=0) / (len(ordered) - 1)
    deviation = np.sqrt(_mix(variance, np.nanmean(variance), _POOLED))
    return (departure - kept.mean(axis=0)) / np.maximum(deviation, ROUNDING)


def _combine(scores: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """One score of those under several probes [K + 1, classes]: a soft maximum, since a drift may show under one."""
    known = np.where(np.isnan(np.stack(scores)), -np.inf, np.stack(scores))
    return _standardise(special.logsumexp(known, axis=0))


def _level(found: Sequence[_Departures]) -> NDArray[np.float64]:
    """The most that a model departs as a whole, under any probe, by its residuals or along the common axes."""
    means = [np.nanmean(of_probe.departure, axis=1) for of_probe in found]
    return _standardise(np.stack([*means, *(of_probe.leverage for of_probe in found)], axis=1)).max(axis=1)


def _root_mean(pairs: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], classes: int) -> NDArray[np.float64]:
    square, count = (sum(side, np.zeros((classes, classes))) for side in zip(*pairs, strict=True))
    return np.sqrt(np.divide(square, count, out=np.full_like(square, np.nan), where=count > 0))


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
