"""Drift scores: how far a candidate departs, class by class, from what benign shadows say (steps 1 to 3 of
pydrift.drift.verdict). numpy only.

Source: the design is pydrift's own. The covariance is shrunk as by Ledoit and Wolf (see `_residual`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MIN_SHADOWS = 4  # each is compared with the others, and two say next to nothing about a third
ROUNDING = 1e-9  # figures that differ by less, relatively, do not differ
_POOLED = 0.1  # share of a response's variance that is the mean of all, so that a tiny variance magnifies nothing

Responses = Mapping[str, Mapping[str, NDArray[np.float64]]]
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


ALL = ""  # the name of the score of all probes together


@dataclass(frozen=True)
class Score:
    """How far the candidate departs in one class, and how far each shadow departs from the others.

    drift_score  in null standard deviations; 0 is the mean of the shadows, larger is more drift
    null         float64 [K]: each shadow's own score against the other shadows
    error        standard error of drift_score, >= 0, as far as it comes from the shadows' prediction of the responses:
                 a jackknife of the residuals. The units and the null stay fixed.
    places       of a variant with places, the candidate's residual in each, in null deviations; NaN where shadows agree
    """

    drift_score: float
    null: NDArray[np.float64]
    error: float
    places: NDArray[np.float64] | None = None


class _Figures(NamedTuple):
    """One figure per response, or per class.

    candidate  [n]
    shadows    [K, n]  of each shadow, against the others
    without    [K, n]  of the candidate again, with one shadow left out
    """

    candidate: NDArray[np.float64]
    shadows: NDArray[np.float64]
    without: NDArray[np.float64]


@dataclass(frozen=True)
class _Entries:
    """The E responses to one probe that concern the measured classes, in one row.

    concerned  bool [classes, E]: whether an entry concerns a class
    variant    str [E]
    at         int [E]: the entry's place in its variant's table, flattened
    """

    shadows: NDArray[np.float64]  # [K, E]
    candidate: NDArray[np.float64]  # [E]
    concerned: NDArray[np.bool_]
    variant: NDArray[np.str_]
    at: NDArray[np.int64]


def measure_drift_scores(
    shadows: Responses, candidate: Responses, classes: list[int], each_variant: bool = True
) -> dict[int, dict[str, Score]]:
    """The scores of some classes: of all probes together (ALL) and, if wanted, of each variant alone.

    shadows    of each variant [K, ..., classes]
    candidate  of each variant [..., classes]
    classes    the classes to measure; each is told from these only

    Deterministic. Unmeasurable where there is nothing to measure.
    """
    if len(classes) < 2:
        raise Unmeasurable("no other class could be measured")
    count = len(next(iter(next(iter(shadows.values())).values())))
    if count < MIN_SHADOWS:
        raise Unmeasurable(f"{count} shadows are too few, a null needs {MIN_SHADOWS}")
    found: dict[str, _Figures] = {}
    places: dict[str, NDArray[np.float64]] = {}
    of_probes: list[_Figures] = []
    for probe, variants in shadows.items():
        entries = _select_entries(probe, variants, candidate[probe], classes)
        if not entries.concerned.any():
            continue
        residuals = _residuals(entries.shadows, entries.candidate)
        of_probes.append(_score(residuals, entries.concerned, PROBES[probe].power))
        if each_variant:
            found |= _score_variants(probe, variants, entries, residuals)
            places |= _map_places(probe, variants, entries, residuals)
    # fmax: a class about which the shadows agree under one probe has a score by the others.
    most = [np.fmax.reduce(side) for side in zip(*of_probes, strict=True)]
    if not most or np.isnan(most[0]).any():
        raise Unmeasurable("the shadows do not differ enough to compare the candidate with them")
    found[ALL] = _standardise(_Figures(*most))
    return {
        c: {
            name: Score(
                float(scores.candidate[i]),
                scores.shadows[:, i],
                float(scores.without[:, i].std() * np.sqrt(count - 1)),  # the jackknife's
                places[name][..., c] if name in places else None,
            )
            for name, scores in found.items()
        }
        for i, c in enumerate(classes)
    }


def pair_residuals(shadows: Responses, candidate: Responses, classes: list[int]) -> NDArray[np.float64]:
    """How far the candidate departs in telling each class from each other one.

    -> symmetric [classes, classes]: the root mean square of the residuals of images made of the two classes, in null
    deviations; NaN where nothing is known of a pair.
    """
    square, count = np.zeros((2, len(classes), len(classes)))
    for probe, variants in shadows.items():
        if not PROBES[probe].per_class:
            continue
        entries = _select_entries(probe, variants, candidate[probe], classes)
        if not entries.concerned.any():
            continue
        residuals = _residuals(entries.shadows, entries.candidate).candidate
        first, second = np.nonzero(entries.concerned.T)[1].reshape(-1, 2).T
        for side in ((first, second), (second, first)):
            np.add.at(square, side, residuals**2)
            np.add.at(count, side, 1)
    return np.sqrt(np.divide(square, count, out=np.full_like(square, np.nan), where=count > 0))


def _score_variants(
    probe: str, variants: Mapping[str, NDArray[np.float64]], entries: _Entries, residuals: _Figures
) -> dict[str, _Figures]:
    """The scores of each variant alone, of those that concern every class."""
    found = {}
    for variant in variants:
        some = entries.concerned & (entries.variant == variant)
        if some.any(axis=1).all():
            found[variant] = _score(residuals, some, PROBES[probe].power)
    return found


def _map_places(
    probe: str, variants: Mapping[str, NDArray[np.float64]], entries: _Entries, residuals: _Figures
) -> dict[str, NDArray[np.float64]]:
    """The candidate's residual in each place of each variant that has places."""
    places = {}
    for variant, table in variants.items():
        if not PROBES[probe].per_class and table.ndim > 2:
            some = entries.variant == variant
            places[variant] = np.full(table.shape[1:], np.nan)
            places[variant].flat[entries.at[some]] = residuals.candidate[some]
    return places


def _select_entries(
    probe: str,
    shadows: Mapping[str, NDArray[np.float64]],
    candidate: Mapping[str, NDArray[np.float64]],
    classes: list[int],
) -> _Entries:
    """The entries that concern the classes, without those in which the shadows do not differ."""
    parts = []
    for variant, table in shadows.items():
        of_row, of_column = np.indices(table.shape[1:])[[0, -1]].reshape(2, -1)
        some = np.isin(of_column, classes)
        if PROBES[probe].per_class:
            some &= np.isin(of_row, classes) & (of_row != of_column)
        else:
            of_row = of_column
        at = np.flatnonzero(some)
        sides = [side.reshape(len(side), -1)[:, at] for side in (table, candidate[variant][None])]
        if not PROBES[probe].per_class and len(classes) < table.shape[-1]:
            # Against the mean of these classes: the mean of all moves with a class that is not to count.
            sides = [side - _mean_of_place(side, len(classes)) for side in sides]
        parts.append((sides[0], sides[1][0], of_row[at], of_column[at], np.repeat(variant, len(at)), at))
    null, own, row, column, of_variant, at = (np.concatenate(side, axis=-1) for side in zip(*parts, strict=True))
    varies = null.std(axis=0, ddof=1) > ROUNDING * np.abs(null).max(axis=0)
    concerned = np.stack([(row == c) | (column == c) for c in classes])
    return _Entries(null[:, varies], own[varies], concerned[:, varies], of_variant[varies], at[varies])


def _mean_of_place(entries: NDArray[np.float64], classes: int) -> NDArray[np.float64]:
    """Of entries [..., places * classes] the mean over the classes, in the place of each."""
    return entries.reshape(len(entries), -1, classes).mean(axis=-1).repeat(classes, axis=-1)


def _score(residuals: _Figures, concerned: NDArray[np.bool_], power: int) -> _Figures:
    """Scores of the classes from residuals [E] and which of them concern each class, [classes, E]; NaN: none does."""
    measured = concerned.any(axis=1)

    def log_mean_residual(residuals: NDArray[np.float64]) -> NDArray[np.float64]:
        mean = np.abs(residuals) ** power @ concerned[measured].T / concerned[measured].sum(axis=1)
        return np.log(np.maximum(mean ** (1 / power), ROUNDING))

    scores = _standardise(_Figures(*map(log_mean_residual, residuals)))
    filled = _Figures(*(np.full((*side.shape[:-1], len(concerned)), np.nan) for side in scores))
    for side, of_measured in zip(filled, scores, strict=True):
        side[..., measured] = of_measured
    return filled


def _standardise(departures: _Figures) -> _Figures:
    """Departures in standard deviations of the shadows' own; each shadow's against the others."""
    shadows = departures.shadows
    held_out = [_z_score(np.delete(shadows, k, axis=0), own) for k, own in enumerate(shadows)]
    return _Figures(_z_score(shadows, departures.candidate), np.stack(held_out), _z_score(shadows, departures.without))


def _z_score(sample: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    variance = sample.var(axis=0, ddof=1)
    return (values - sample.mean(axis=0)) / np.maximum(_deviation(variance), ROUNDING)


def _residuals(null: NDArray[np.float64], candidate: NDArray[np.float64]) -> _Figures:
    """Conditional residuals: of each shadow [K, E] given the others, of the candidate [E] given all or all but one.

    In units of the shadows' leave-one-out residuals of the same response. A shadow's own residual is left out of its
    unit; the unit of the candidate is that of all shadows.
    """
    pairs = (_residual(np.delete(null, k, axis=0), np.stack([null[k], candidate])) for k in range(len(null)))
    held_out, without = np.stack(list(pairs), axis=1)
    total = (held_out**2).sum(axis=0)
    unit = _deviation(total / len(held_out))
    # Without a shadow's own: a deviation that counts in its own unit looks smaller than it is.
    scaled = [row / _deviation((total - row**2) / (len(held_out) - 1)) for row in held_out]
    return _Figures(_residual(null, candidate) / unit, np.stack(scaled), without / unit)


def _deviation(variance: NDArray[np.float64], pooled: float = 0.5) -> NDArray[np.float64]:
    """Standard deviations from variances of few values: a share `pooled` of each is the mean of all variances."""
    return np.sqrt((1 - pooled) * variance + pooled * variance.mean())


def _residual(sample: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each entry of x [..., E] lies from what its other entries predict, up to a factor common to all of them.

    With P the inverse of the sample's [K, E] covariance, shrunk towards the identity by the intensity of Ledoit and
    Wolf ("A well-conditioned estimator for large-dimensional covariance matrices", Journal of Multivariate Analysis 88,
    2004) after each entry was divided by its deviation: (P x)_i / sqrt(P_ii), the distance from the conditional mean in
    conditional standard deviations. E may be far larger than K: nothing of size E x E is formed.
    """
    deviation = _deviation(sample.var(axis=0, ddof=1), _POOLED) + np.finfo(float).tiny
    z, y = ((values - sample.mean(axis=0)) / deviation for values in (sample, x))
    gram = z @ z.T  # its eigenvectors are the left singular vectors of z, an order of magnitude sooner
    shrinkage = shrinkage_intensity(gram, z.shape[1])
    square, rows = np.linalg.eigh(gram)
    kept = square > ROUNDING * square[-1]  # not the axis that centring took away
    axes = rows[:, kept].T @ z / np.sqrt(square[kept])[:, None]
    variance = (1 - shrinkage) * square[kept] / (len(z) - 1)
    gain = variance / (variance + shrinkage)  # how much of an axis the other entries explain
    return (y - (gain * (y @ axes.T)) @ axes) / np.sqrt(1 - gain @ axes**2)


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
