"""Seeded noise that is the same bits on every device, batch, thread count and resume history.

Counter-based random numbers (Philox4x32-10; Salmon, Moraes, Dror, Shaw: "Parallel Random Numbers: As Easy as 1, 2, 3",
SC 2011). A value is a pure function of (seed, phase, model, class, restart, step, position), never "the next draw".
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

_MULTIPLIER = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


MAX_RESTARTS = 65_535  # restart and label share a word of the counter


class Phase(IntEnum):
    """What the noise is for; a part of the key, so that no two uses ever share a stream."""

    START = 1  # starting images of an inversion
    JITTER = 2  # image shifts during an inversion
    SHADOW_DRAW = 3  # which reference images a shadow sees
    SHADOW_TRAIN = 4  # a shadow's initial weights and order of images
    TRAIN_DRAW = 5  # which images a model trained on the command line sees
    CONSENSUS = 6  # image shifts of each turn of an inversion that models share
    RECIPE = 7  # how a shadow's recipe departs from the base's
    EPSILON_SPLIT = 9  # which images choose the threshold of an epsilon bound
    BLIND_WALK = 10  # directions of a blind walk
    OWNERSHIP_SPLIT = 11  # what each private and public image of a dataset inference is for
    CONFIDENCE = 12  # initial weights of a confidence regressor
    OWNERSHIP_DRAWS = 13  # which images a resampled figure of a dataset inference is of
    REFERENCES = 14  # everything random about its reference models
    INDEPENDENTS = 15  # and about its independent ones
    AUTOENCODER = 20  # a fingerprint's autoencoders: initial weights and order of images
    FINGERPRINT_SPLIT = 21  # which images a fingerprint is fitted on, and which calibrate it


def philox_4x32(counter: NDArray[np.uint32], key: tuple[int, int], rounds: int = 10) -> NDArray[np.uint32]:
    """Philox4x32 of every counter. counter: uint32 [..., 4]; returns uint32 [..., 4]."""
    c0, c1, c2, c3 = (counter[..., i].astype(np.uint64) for i in range(4))
    k0, k1 = key
    for _ in range(rounds):
        p0, p1 = _MULTIPLIER[0] * c0, _MULTIPLIER[1] * c2
        c0, c1, c2, c3 = (
            (p1 >> _SHIFT) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _SHIFT) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def words(
    seed: int, phase: Phase, count: int, *, label: ArrayLike, restart: ArrayLike, step: ArrayLike = 0, model: int = 0
) -> NDArray[np.uint32]:
    """`count` random 32-bit words for every (label, restart, step), which broadcast against each other.

    Counter layout: [block of four words, step, label << 16 | restart, phase << 24 | model]; key: the seed's two halves.
    Labels and restarts are below 65,536, models below 2**24, seeds below 2**64. Returns uint32 [..., count].
    """
    label, restart, step = np.broadcast_arrays(
        np.asarray(label, np.uint32), np.asarray(restart, np.uint32), np.asarray(step, np.uint32)
    )
    blocks = -(-count // 4)
    counter = np.empty((*label.shape, blocks, 4), np.uint32)
    counter[..., 0] = np.arange(blocks, dtype=np.uint32)
    counter[..., 1] = step[..., None]
    counter[..., 2] = ((label << np.uint32(16)) | restart)[..., None]
    counter[..., 3] = np.uint32((int(phase) << 24) | model)
    key = (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF)
    return philox_4x32(counter, key).reshape(*label.shape, blocks * 4)[..., :count]


def derived_seed(seed: int, phase: Phase, index: int = 0) -> int:
    """A 63-bit seed for one purpose, so that seed 1 of one thing never meets seed 1 of another."""
    low, high = words(seed, phase, 2, label=0, restart=0, step=index)
    return (int(high) << 32 | int(low)) >> 1


def uniform(bits: NDArray[np.uint32]) -> NDArray[np.float32]:
    """float32 in [0, 1) from the upper 24 bits: exact, so the same on every device."""
    return ((bits >> np.uint32(8)).astype(np.float32)) * np.float32(2.0**-24)


def integers(bits: NDArray[np.uint32], low: int, high: int) -> NDArray[np.int64]:
    """Integers in [low, high], by multiply-shift (bias below 2**-29 for small ranges)."""
    span = np.uint64(high - low + 1)
    return ((bits.astype(np.uint64) * span) >> _SHIFT).astype(np.int64) + low
