"""Drift scores: how far a candidate and each shadow depart, class by class, from what all the others say.

The candidate joins the K shadows, and all K + 1 models are measured alike: each against the K others, none of which is
treated otherwise than the rest (a full conformal measure: Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random
World", 2005). So the scores of a benign candidate and of the shadows can change places. numpy and scipy only.

Source: the design is pydrift's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, special

from pydrift.drift.residuals import POOLED, ROUNDING, Block, LeaveOneOut, Pool, mix

MIN_SHADOWS = 4  # each is compared with the others, and two say next to nothing about a third
CENTRED_CLASSES = 4  # with fewer, what concerns one class concerns nearly all responses
_OUTER = 0.1  # share of the models, on either side, that a mean and a deviation of scores do not follow

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
        pool = Pool(PROBES[probe].per_class, shadows[probe], candidate[probe], tuple(classes))
        if pool.entries > 0:
            found.append(_depart(pool, PROBES[probe].power, each_variant))
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


def _depart(pool: Pool, power: int, each_variant: bool) -> _Departures:
    solver = LeaveOneOut.of(pool)

    def own_squares(block: Block) -> NDArray[np.float64]:
        residuals = solver.residuals(pool.scaled(block))
        return np.einsum("ke,ke->k", residuals, residuals)

    # The unit of a residual is that of the other models: a departure in its own unit looks smaller than it is.
    own = sum(pool.each_block(own_squares), np.zeros(pool.models))
    mean = (own.sum() - own) / (pool.models - 1) / pool.entries

    def in_units(block: Block) -> NDArray[np.float64]:
        residuals = solver.residuals(pool.scaled(block))
        unit = -(residuals**2)
        unit -= unit.sum(axis=0)  # that of the others
        unit *= (1 - POOLED) / (pool.models - 1)
        unit += POOLED * mean[:, None]
        residuals /= np.sqrt(unit, out=unit)
        return residuals

    sums = _Sums(pool, power, each_variant)
    for part in pool.each_block(lambda block: sums.part(block, in_units(block))):
        sums.add(*part)
    return _Departures(*sums.departures(), np.log(np.maximum(solver.leverage, ROUNDING)), sums.places, sums.pairs)


_Counted = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Sums of powers of residuals [K + 1, classes], and of how many: [classes]."""


@dataclass
class _Sums:
    """Sums of powers of residuals, by class, and what is kept of the candidate's alone."""

    pool: Pool
    power: int
    each_variant: bool
    places: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    by_variant: dict[str, _Counted] = field(default_factory=dict)

    def __post_init__(self) -> None:
        classes = len(self.pool.classes)
        self.pairs = np.zeros((classes, classes)), np.zeros((classes, classes))

    def part(self, block: Block, residuals: NDArray[np.float64]) -> tuple[Block, NDArray[np.float64], _Counted]:
        """What is to be added of residuals in null deviations [K + 1, e]: the candidate's, and sums by class."""
        concerned = _concerned(block, len(self.pool.classes))
        powers = residuals**2 if self.power == 2 else (residuals**2) ** (self.power / 2)
        counted = (concerned @ powers.T).T, np.asarray(concerned.sum(axis=1)).ravel()
        return block._replace(around=np.empty((0, 0))), residuals[-1].copy(), counted

    def add(self, block: Block, candidate: NDArray[np.float64], counted: _Counted) -> None:
        """Adds what `part` returned."""
        before = self.by_variant.get(block.variant, (0, 0))
        self.by_variant[block.variant] = before[0] + counted[0], before[1] + counted[1]
        if not self.each_variant:
            return
        if self.pool.per_class:
            for side in ((block.rows, block.columns), (block.columns, block.rows)):  # no place twice in a block
                self.pairs[0][side] += candidate**2
                self.pairs[1][side] += 1
        elif (table := self.pool.candidate[block.variant]).ndim > 1:
            place = self.places.setdefault(block.variant, np.full(table.shape, np.nan))
            place.flat[block.at] = candidate

    def departures(self) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
        """Of all variants together, and of each alone."""
        total, count = (sum(side) for side in zip(*self.by_variant.values(), strict=True))
        variants = {
            name: _log_mean(*sums, self.power)
            for name, sums in self.by_variant.items()
            if self.each_variant and (sums[1] > 0).all()
        }
        return _log_mean(total, count, self.power), variants


def _concerned(block: Block, classes: int) -> sparse.csr_array:
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
    deviation = np.sqrt(mix(variance, np.nanmean(variance), POOLED))
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
