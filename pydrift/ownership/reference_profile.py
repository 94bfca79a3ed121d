"""What reference models answer, and how far another model deviates from it. Numpy only."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pydrift.ownership.welch import Array

_CLIP = 2.0  # standard deviations: no single image, and no single walk, may decide
_FLOOR = 0.25  # share of the usual spread that is added to each: from few reference models some are small by chance
_PER_COMMON = 6  # reference models, and answers, for each common direction that is removed
_ROUNDING = 1e-9  # smaller deviations are rounding errors


@dataclass(frozen=True)
class ReferenceProfile:
    """The answers of the reference models, image by image and column by column.

    centre, spread  float64 [N, E]: mean and standard deviation over the reference models' profiles
    common          float64 [Q, N E], orthonormal: the main directions in which reference models differ

    Any model that is better, or more confident, than the references deviates from them in much the same way. That says
    nothing about its training images. So deviations are centred column by column, and the main directions in which the
    references themselves vary are removed.
    """

    centre: Array
    spread: Array
    common: Array

    @classmethod
    def of(cls, references: Array) -> ReferenceProfile:
        """From the profiles float64 [R, N, E] of R >= 2 reference models."""
        spread = references.std(axis=0, ddof=1)
        usual = np.sqrt((spread**2).mean(axis=0, keepdims=True))
        spread = np.sqrt(spread**2 + (_FLOOR * usual) ** 2)
        plain = cls(references.mean(axis=0), np.where(spread > 0, spread, 1.0), np.empty((0, references[0].size)))
        rows = plain.deviations(references).reshape(len(references), -1)
        values, vectors = np.linalg.eigh(rows @ rows.T)
        most = min(len(rows) // _PER_COMMON, rows.shape[1] // _PER_COMMON)
        kept = [k for k in range(len(rows) - most, len(rows)) if values[k] > 1e-9 * values[-1]]
        common = vectors[:, kept].T @ rows
        return replace(plain, common=common / np.linalg.norm(common, axis=1, keepdims=True))

    def deviations(self, profile: Array) -> Array:
        """How far profiles [..., N, E] deviate: float64 [..., N, E], in standard deviations of the references.

        They are clipped at two standard deviations, then centred, and then the common directions are removed.
        """
        clipped = np.clip((profile - self.centre) / self.spread, -_CLIP, _CLIP)
        centred = clipped - clipped.mean(axis=-2, keepdims=True)
        flat = centred.reshape(*centred.shape[:-2], -1)
        result = (flat - (flat @ self.common.T) @ self.common).reshape(centred.shape)
        result = np.where(np.abs(result) > _ROUNDING, result, 0.0)
        return result


def agreement(victim: Array, other: Array) -> Array:
    """The cosine, in [-1, 1], of the victim's deviations and other models': [...] of [..., N, E].

    It is 0 where one of the two does not deviate.
    """
    product = np.einsum("...ne,...ne->...", victim, other)
    size = np.sqrt(np.einsum("...ne,...ne->...", victim, victim) * np.einsum("...ne,...ne->...", other, other))
    result: Array = np.divide(product, size, out=np.zeros_like(product), where=size > 0)
    return result
