"""How much a model is like an benign update, class by class: steps 1 to 3 of pydrift.drift.verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MIN_SHADOWS = 4  # each is held against the others, and two say next to nothing about a third
ROUNDING = 1e-9  # figures that differ by less, relatively, do not differ
_POOLED = 0.1  # of an answer's variance: one that hardly varies is not to be magnified by all that it hardly does

Responses = Mapping[str, Mapping[str, NDArray[np.float64]]]
"""Of each probe, of each of its views (which are named apart over all instruments) a table of log-odds: of one
model [..., classes], of several [models, ..., classes]; see Probe."""


@dataclass(frozen=True)
class Probe:
    """How the tables of an probe are read.

    made_of  [classes, classes]: row c is about images that were made of class c, and says how they are told from each
             other class (the diagonal does not count). Else [classes], or of each of several places [..., classes]:
             an entry is about its last class, against the mean of all
    power    of the mean that makes a rms_residual of residuals: 2 where a drift moves many answers, higher where it may move
             a few
    """

    made_of: bool
    power: int


GRAY, OCCLUSIONS, SYNTHETIC_SHAPES, REFERENCE = "gray data", "marks", "shapes", "reference data"
"""Gray data in many views, small marks on it, simple shapes, and real images where there are any."""

PROBES = {
    GRAY: Probe(made_of=True, power=2),
    OCCLUSIONS: Probe(made_of=False, power=4),
    SYNTHETIC_SHAPES: Probe(made_of=False, power=2),
    REFERENCE: Probe(made_of=True, power=2),
}


class Unmeasurable(Exception):
    """Why no class has an drift_score."""


ALL = ""  # the name of the score of all instruments together


@dataclass(frozen=True)
class Score:
    """How much the new model is like an benign update, and how much each shadow is like the others.

    error   standard error of the drift_score, >= 0, as far as it comes from what the shadows make one expect of the new
            model: a jackknife of its residuals, while the units and the null that these are held against stay
    places  of a view that has places, the new model's residual in each, in null deviations; NaN where shadows agree
    """

    drift_score: float
    null: NDArray[np.float64]  # [K]
    error: float
    places: NDArray[np.float64] | None = None


class _Figures(NamedTuple):
    """A figure per answer or class: of the new model [n], of each shadow against the others [K, n], and of the new
    model once more, with each of the shadows left out in turn [K, n]."""

    new: NDArray[np.float64]
    shadows: NDArray[np.float64]
    without: NDArray[np.float64]


@dataclass(frozen=True)
class _Entries:
    """An probe's answers that concern the classes to be judged, in one row.

    concerned  bool [classes, E]: which entries a class has a part in
    view       str [E]
    at         int [E]: the entry's place in its view's table, flattened
    """

    shadows: NDArray[np.float64]  # [K, E]
    new: NDArray[np.float64]  # [E]
    concerned: NDArray[np.bool_]
    view: NDArray[np.str_]
    at: NDArray[np.int64]


def measure_drift_scores(
    shadows: Responses, new: Responses, classes: list[int], each_view: bool = True
) -> dict[int, dict[str, Score]]:
    """Effect and null of each of some classes, told from each other only: of all instruments together (ALL), and of
    each view alone. Unmeasurable where there is nothing to measure."""
    if len(classes) < 2:
        raise Unmeasurable("no other class could be measured")
    count = len(next(iter(next(iter(shadows.values())).values())))
    if count < MIN_SHADOWS:
        raise Unmeasurable(f"{count} shadows are too few, a null needs {MIN_SHADOWS}")
    found: dict[str, _Figures] = {}
    places: dict[str, NDArray[np.float64]] = {}
    of_instruments: list[_Figures] = []
    for probe, views in shadows.items():
        entries = _entries(probe, views, new[probe], classes)
        if not entries.concerned.any():
            continue
        residuals = _residuals(entries.shadows, entries.new)
        power = PROBES[probe].power
        of_instruments.append(_strained(residuals, entries.concerned, power))
        for view, table in views.items() if each_view else ():
            some = entries.concerned & (entries.view == view)
            if not PROBES[probe].made_of and table.ndim > 2:
                places[view] = np.full(table.shape[1:], np.nan)
                places[view].flat[entries.at[entries.view == view]] = residuals.new[entries.view == view]
            if some.any(axis=1).all():
                found[view] = _strained(residuals, some, power)
    # A class about which the shadows agree under one probe has an drift_score by the others.
    least = [np.fmin.reduce(side) for side in zip(*of_instruments, strict=True)]
    if not least or np.isnan(least[0]).any():
        raise Unmeasurable("the shadows do not differ enough to hold the new model against them")
    found[ALL] = _standardised(_Figures(*(-side for side in least)))
    return {
        c: {
            name: Score(
                float(drift_scores.new[i]),
                drift_scores.shadows[:, i],
                float(drift_scores.without[:, i].std() * np.sqrt(count - 1)),  # the jackknife's
                places[name][..., c] if name in places else None,
            )
            for name, drift_scores in found.items()
        }
        for i, c in enumerate(classes)
    }


def pair_residuals(shadows: Responses, new: Responses, classes: list[int]) -> NDArray[np.float64]:
    """How far the new model strays in telling each class from each other one: the root mean square of the residuals of
    images made of the two, in null deviations, symmetric [classes, classes]; NaN where nothing is known of a pair."""
    square, count = np.zeros((2, len(classes), len(classes)))
    for probe, views in shadows.items():
        if PROBES[probe].made_of:
            entries = _entries(probe, views, new[probe], classes)
            if not entries.concerned.any():
                continue
            residuals = _residuals(entries.shadows, entries.new).new
            first, second = np.nonzero(entries.concerned.T)[1].reshape(-1, 2).T
            for side in ((first, second), (second, first)):
                np.add.at(square, side, residuals**2)
                np.add.at(count, side, 1)
    return np.sqrt(np.divide(square, count, out=np.full_like(square, np.nan), where=count > 0))


def _entries(
    probe: str,
    shadows: Mapping[str, NDArray[np.float64]],
    new: Mapping[str, NDArray[np.float64]],
    classes: list[int],
) -> _Entries:
    """Without those in which the shadows do not differ."""
    parts = []
    for view, table in shadows.items():
        of_row, of_column = np.indices(table.shape[1:])[[0, -1]].reshape(2, -1)
        some = np.isin(of_column, classes)
        if PROBES[probe].made_of:
            some &= np.isin(of_row, classes) & (of_row != of_column)
        else:
            of_row = of_column
        at = np.flatnonzero(some)
        told = [side.reshape(len(side), -1)[:, at] for side in (table, new[view][None])]
        if not PROBES[probe].made_of and len(classes) < table.shape[-1]:
            # Against the mean of these classes: the mean of all moves with a class that is not to count.
            told = [(side - _mean_of_place(side, len(classes))) for side in told]
        parts.append((told[0], told[1][0], of_row[at], of_column[at], np.repeat(view, len(at)), at))
    null, seen, shown, against, of_view, at = (np.concatenate(side, axis=-1) for side in zip(*parts, strict=True))
    varies = null.std(axis=0, ddof=1) > ROUNDING * np.abs(null).max(axis=0)
    concerned = np.stack([(shown == c) | (against == c) for c in classes])
    return _Entries(null[:, varies], seen[varies], concerned[:, varies], of_view[varies], at[varies])


def _mean_of_place(entries: NDArray[np.float64], classes: int) -> NDArray[np.float64]:
    """Of entries [..., places * classes] the mean over the classes, in the place of each."""
    return entries.reshape(len(entries), -1, classes).mean(axis=-1).repeat(classes, axis=-1)


def _strained(residuals: _Figures, concerned: NDArray[np.bool_], power: int) -> _Figures:
    """Effects from residuals, of which `concerned` [classes, E] says which concern each class; NaN where none does."""
    told = concerned.any(axis=1)

    def log_strain(residuals: NDArray[np.float64]) -> NDArray[np.float64]:
        mean = np.abs(residuals) ** power @ concerned[told].T / concerned[told].sum(axis=1)
        return np.log(np.maximum(mean ** (1 / power), ROUNDING))

    drift_scores = _standardised(_Figures(*map(log_strain, residuals)))
    filled = _Figures(*(np.full((*side.shape[:-1], len(concerned)), np.nan) for side in drift_scores))
    for side, of_told in zip(filled, drift_scores, strict=True):
        side[..., told] = of_told
    return filled


def _standardised(rms_residuals: _Figures) -> _Figures:
    """Effects from log rms_residuals; each shadow's is against the others."""
    held_out = [
        _effect(np.delete(rms_residuals.shadows, k, axis=0), own) for k, own in enumerate(rms_residuals.shadows)
    ]
    return _Figures(
        _effect(rms_residuals.shadows, rms_residuals.new),
        np.stack(held_out),
        _effect(rms_residuals.shadows, rms_residuals.without),
    )


def _effect(sample: NDArray[np.float64], rms_residual: NDArray[np.float64]) -> NDArray[np.float64]:
    variance = sample.var(axis=0, ddof=1)
    return (sample.mean(axis=0) - rms_residual) / np.maximum(_unit(variance), ROUNDING)


def _residuals(null: NDArray[np.float64], new: NDArray[np.float64]) -> _Figures:
    """Conditional residuals of each shadow [K, E] given the others, and of the new model [E] given all, or all but one.

    In units of the others' leave-one-out residuals of the same answer; those of the new model are always all shadows'.
    """
    pairs = (_residual(np.delete(null, k, axis=0), np.stack([null[k], new])) for k in range(len(null)))
    held_out, without = np.stack(list(pairs), axis=1)
    total = (held_out**2).sum(axis=0)
    unit = _unit(total / len(held_out))
    # Without a shadow's own: a deviation that counts in its own unit looks smaller than it is.
    scaled = [row / _unit((total - row**2) / (len(held_out) - 1)) for row in held_out]
    return _Figures(_residual(null, new) / unit, np.stack(scaled), without / unit)


def _unit(variance: NDArray[np.float64], pooled: float = 0.5) -> NDArray[np.float64]:
    """Deviations, of variances that too few values give: that share of each is the mean of all."""
    return np.sqrt((1 - pooled) * variance + pooled * variance.mean())


def _residual(sample: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each entry of x [..., E] lies from what its other entries predict, up to a factor common to all of them.

    With P the inverse of the sample's [K, E] covariance, shrunk towards the identity by the intensity of Ledoit and
    Wolf ("A well-conditioned estimator for large-dimensional covariance matrices", Journal of Multivariate Analysis 88,
    2004) after each entry was divided by its deviation: (P x)_i / sqrt(P_ii), the distance from the conditional mean in
    conditional standard deviations. E may be far larger than K: nothing of size E x E is formed.
    """
    deviation = _unit(sample.var(axis=0, ddof=1), _POOLED) + np.finfo(float).tiny
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
    """Ledoit and Wolf's weight of the identity for the covariance of centred rows z [K, entries], in (0, 1], from the
    products of the rows gram = z z^T [K, K]."""
    count = len(gram)
    mean_variance = np.trace(gram) / count / entries
    square = (gram**2).sum() / count**2
    distance = square - entries * mean_variance**2
    error = ((np.diag(gram) ** 2).sum() / count - square) / count
    return float(np.clip(error / distance, 1e-6, 1.0)) if distance > 0 else 1.0
