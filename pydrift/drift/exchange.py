"""Planted exchanges: would a model that takes two classes for each other be found? numpy only.

Before a verdict vouches for stability, it must be able to find a blatant drift with these shadows, this alpha and this
number of classes. The drift is planted into the responses of a shadow, from which those of a model follow that differs
from it in one thing: it has exchanged the names of two classes. No training is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pydrift.drift.scores import GRAY, PROBES, Responses, Unmeasurable, measure_drift_scores
from pydrift.stats.conformal import ConformalNull

PLANTS = 8  # shadows, each with an exchange of other classes


def exchange_p_values(shadows: Responses, classes: Sequence[int], centred: bool, own: str) -> tuple[float, ...]:
    """p of planted exchanges, ascending: each of up to PLANTS shadows as a candidate, judged by the other shadows.

    shadows  of each variant [K, ..., classes], see pydrift.drift.scores.Responses
    classes  the measured ones, among which pairs are exchanged
    centred  as in `measure_drift_scores`
    own      the variant of GRAY in which others were asked about the gray data of the model itself

    Empty where nothing can be measured. Deterministic.
    """
    count = len(next(iter(next(iter(shadows.values())).values())))
    found = []
    if len(classes) < 2:
        return ()
    for k in range(min(PLANTS, count)):
        others = {probe: {v: np.delete(table, k, axis=0) for v, table in vs.items()} for probe, vs in shadows.items()}
        apart = 1 + k // len(classes) % (len(classes) - 1)  # never a class with itself
        pair = classes[k % len(classes)], classes[(k + apart) % len(classes)]
        one = {probe: {v: table[k] for v, table in vs.items()} for probe, vs in shadows.items()}
        try:
            measured = measure_drift_scores(others, exchange(one, *pair, own), classes, centred, each_variant=False)
        except Unmeasurable:
            return ()
        found.append(ConformalNull(measured.largest[:-1]).p_value(float(measured.largest[-1])))
    return tuple(sorted(found))


def exchange(responses: Responses, a: int, b: int, own: str) -> dict[str, dict[str, NDArray[np.float64]]]:
    """The responses [..., classes] of a model that answers a where this one answers b, and b where it answers a.

    Its gray data of class a are what this model takes for b, so others answer about them as they did about those of b.
    The log-odds of the tables are compressed means; they are exchanged as if they were those of a single image.
    """
    return {
        probe: {
            v: _exchange_table(np.asarray(table, float), a, b, PROBES[probe].per_class, probe == GRAY and v == own)
            for v, table in variants.items()
        }
        for probe, variants in responses.items()
    }


def _exchange_table(table: NDArray[np.float64], a: int, b: int, per_class: bool, own: bool) -> NDArray[np.float64]:
    if a == b:
        return table.copy()
    order = np.arange(table.shape[-1])
    order[[a, b]] = b, a
    if not per_class:
        return table[..., order]
    # Row c of `odds` holds log p(c) - log p(d) on images that were made of c; nothing is in its diagonal.
    odds = 2 * np.sinh(np.where(np.eye(len(table), dtype=bool), 0.0, table) / 2)
    changed = odds.copy() if own else odds[:, order]
    for c, other in ((a, b), (b, a)):
        # The model says of images of c what it said of `other`; others are shown images of `other` in place of c.
        row = odds[other] if own else odds[c][order]
        changed[c] = row - (odds[other, c] if own else odds[c, other])
    changed = 2 * np.arcsinh(changed / 2)
    changed[np.diag_indices(len(table))] = np.diag(table)
    return changed
