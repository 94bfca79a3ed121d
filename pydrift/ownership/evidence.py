"""The statistics of dataset inference: what speaks for a suspect knowing the private images, and how rare that is.

Numpy and scipy only. A model's departures from what is usual, and how far benign models depart, reference models say;
how much happens by chance, independent ones. Signs of knowledge:

* agreement (ours): does the suspect depart from what is usual in the same places as the victim? Of whoever learnt from
  the victim's answers, or from the images that made it.
* membership: is the suspect surer of the private images than usual, and more so than of public ones? Welch's t. Of
  whoever was trained on them.
* knowledge decides: how far both of these together are from the independent models.
* confidence (the paper's): is a regressor that knows the victim surer of private images than of public ones? One-sided
  Welch test; and calibrated: what reference models say of each image is first taken away, and the difference is then
  ranked among those of independent models.

Independent models must not be among the reference models, nor share their images: all models from outside the
references' data depart from these in one common direction, the victim and an benign suspect too. And they stand for
benign models of other people, who have other images, though they share what is left of the public ones: see `widened`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

_CLIP = 2.0  # standard deviations: no single image, and no single walk, may decide
_FLOOR = 0.25  # of the usual spread is added to each: with few reference models some come out too small by chance
_LARGEST_T = 1e6
_PER_COMMON = 6  # reference models, and answers, for each of their common directions that is taken out
_ROUNDING = 1e-9  # departures below this are none


@dataclass(frozen=True)
class Welch:
    """One-sided Welch test of whether `private` has the higher mean.

    effect    the difference of the means; `low` and `high` its 95 % interval
    t, p      p = P(T >= t) where the means are equal
    """

    effect: float
    low: float
    high: float
    t: float
    p: float


def welch(private: Array, public: Array) -> Welch:
    """Of scores [n] and [m], two of each at least. Without any spread p is 0, 1, or 0.5 for equal means."""
    effect = float(private.mean() - public.mean())
    parts = private.var(ddof=1) / len(private), public.var(ddof=1) / len(public)
    error = float(np.sqrt(sum(parts)))
    if error == 0:
        return Welch(
            effect, effect, effect, float(np.sign(effect)) * np.inf if effect else 0.0, 0.5 - np.sign(effect) / 2
        )
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (len(private) - 1) + parts[1] ** 2 / (len(public) - 1))
    reach = float(stats.t.ppf(0.975, freedom)) * error
    return Welch(effect, effect - reach, effect + reach, effect / error, float(stats.t.sf(effect / error, freedom)))


def welch_t(scores: Array, private: int) -> Array:
    """Welch's t [...] of the first `private` of scores [..., N] and the others; bounded where they have no spread."""
    groups = scores[..., :private], scores[..., private:]
    effect = groups[0].mean(axis=-1) - groups[1].mean(axis=-1)
    error = np.sqrt(sum(group.var(axis=-1, ddof=1) / group.shape[-1] for group in groups))
    result: Array = effect / np.maximum(error, np.maximum(np.abs(effect) / _LARGEST_T, np.finfo(float).tiny))
    return result


def harmonic_mean_p(private: Array, public: Array, *, rows: int = 10, repeats: int = 100, seed: int = 0) -> float:
    """The figure that the paper's code reports: the harmonic mean of the p of `repeats` Welch tests on drawn rows.

    For comparison with published tables only. The draws overlap, and a harmonic mean of p-values is no p-value.
    """
    random = np.random.Generator(np.random.Philox(seed))
    rows = min(rows, len(private), len(public))
    drawn = [
        welch(private[random.permutation(len(private))[:rows]], public[random.permutation(len(public))[:rows]]).p
        for _ in range(repeats)
    ]
    return float(stats.hmean(np.maximum(drawn, np.finfo(float).tiny)))


def rank_p(value: float, null: Array) -> float:
    """(k + 1) / (n + 1), k of the n values of `null` being as far out: exact where all are exchangeable."""
    return (int((null >= value).sum()) + 1) / (len(null) + 1)


@dataclass(frozen=True)
class Departures:
    """How far models depart from what reference models say, image by image and answer by answer.

    centre, spread  float64 [N, E]: of the reference models' profiles
    common          float64 [Q, N E], orthonormal: how reference models differ from each other above all

    A model that is better, or surer of itself, than the references departs from them in much the same way as any other
    such model, whatever each was trained on. So departures are centred, column by column, and the directions in which
    the references themselves vary most are taken out.
    """

    centre: Array
    spread: Array
    common: Array

    @classmethod
    def of(cls, references: Array) -> Departures:
        """From the profiles [R, N, E] of R >= 2 reference models."""
        spread = references.std(axis=0, ddof=1)
        usual = np.sqrt((spread**2).mean(axis=0, keepdims=True))
        spread = np.sqrt(spread**2 + (_FLOOR * usual) ** 2)
        plain = cls(references.mean(axis=0), np.where(spread > 0, spread, 1.0), np.empty((0, references[0].size)))
        rows = plain(references).reshape(len(references), -1)
        values, vectors = np.linalg.eigh(rows @ rows.T)
        most = min(len(rows) // _PER_COMMON, rows.shape[1] // _PER_COMMON)
        kept = [k for k in range(len(rows) - most, len(rows)) if values[k] > 1e-9 * values[-1]]
        common = vectors[:, kept].T @ rows
        return replace(plain, common=common / np.linalg.norm(common, axis=1, keepdims=True))

    def __call__(self, profile: Array) -> Array:
        """[..., N, E] of profiles [..., N, E], in standard deviations and cut off at two of them before the rest."""
        departed = np.clip((profile - self.centre) / self.spread, -_CLIP, _CLIP)
        departed = departed - departed.mean(axis=-2, keepdims=True)
        flat = departed.reshape(*departed.shape[:-2], -1)
        freed = (flat - (flat @ self.common.T) @ self.common).reshape(departed.shape)
        result: Array = np.where(np.abs(freed) > _ROUNDING, freed, 0.0)
        return result


def _distance(signs: Array, models: Array) -> Array:
    """[...] of signs [..., 2]: how far above the mean of models [n, 2] they are, in standard deviations of these."""
    spread = models.std(axis=0, ddof=1)
    away = np.divide(signs - models.mean(axis=0), spread, out=np.zeros_like(signs), where=spread > 0)
    result: Array = np.sqrt((np.maximum(away, 0) ** 2).sum(axis=-1))
    return result


def agreement(victim: Array, other: Array) -> Array:
    """The cosine of departures [..., N, E] of the victim and of other models: [...]. 0 where one departs nowhere."""
    product = np.einsum("...ne,...ne->...", victim, other)
    size = np.sqrt(np.einsum("...ne,...ne->...", victim, victim) * np.einsum("...ne,...ne->...", other, other))
    result: Array = np.divide(product, size, out=np.zeros_like(product), where=size > 0)
    return result


def widened(null: Array) -> Array:
    """A statistic [n] of independent models, its distances from the mean as large as they may be among strangers.

    The independent models saw halves of one pool, but an benign suspect has images of its own. What a model owes to the
    images that it saw varies, among halves of a pool, only half as much as among samples from outside; and the pool's
    own peculiarity, as large again, is in all of the halves and in no outsider. So if all of the models' spread is owed
    to their images, outsiders vary three times as much about the pool's mean as its halves do (to first order, for
    suspects that saw about as many images). What is owed to chance in training varies no more outside than inside: the
    factor is an upper bound, and p errs to the side of the accused.
    """
    mean = null.mean()
    result: Array = mean + np.sqrt(3.0) * (null - mean)
    return result


@dataclass(frozen=True)
class Said:
    """What models say of N images.

    profile   float64 [..., N, E], sureness float64 [..., N]: see pydrift.ownership.Embedded
    """

    profile: Array
    sureness: Array

    def of(self, rows: NDArray[np.int64]) -> Said:
        """Of some of the images."""
        return Said(self.profile[..., rows, :], self.sureness[..., rows])


@dataclass(frozen=True)
class ReferenceScale:
    """What a model's knowledge of private images is measured by.

    private           images, the first ones; the others are public
    usual, sure       where references stand, in their profiles and in their sureness
    victim            float64 [N, E]: its departures
    null              float64 [n, 2]: agreement and membership of the independent models
    """

    private: int
    usual: Departures
    sure: Departures
    victim: Array
    null: Array

    @classmethod
    def of(cls, victim: Said, references: Said, independents: Said, private: int) -> ReferenceScale:
        usual, sure = Departures.of(references.profile), Departures.of(references.sureness[..., None])
        yardstick = cls(private, usual, sure, usual(victim.profile), np.empty((0, 2)))
        return replace(yardstick, null=yardstick.signs(*yardstick.departures(independents)))

    def departures(self, said: Said) -> tuple[Array, Array]:
        """[..., N, E] of the profiles and [..., N] of the sureness."""
        return self.usual(said.profile), self.sure(said.sureness[..., None])[..., 0]

    def signs(self, profile: Array, sureness: Array) -> Array:
        """Of departures: [..., 2], the agreement with the victim and the membership."""
        return np.stack([agreement(self.victim, profile), welch_t(sureness, self.private)], axis=-1)

    def knowledge(self, signs: Array) -> Array:
        """[...]: how far out, in standard deviations of the independents from their mean, where signs count that are
        above it: the root of the sum of their squares. A thief may show both or only one of them."""
        return _distance(signs, self.null)

    def widened_null(self) -> Array:
        """`null`, each sign of it spread as `widened` has it."""
        return np.stack([widened(sign) for sign in self.null.T], axis=-1)

    def p_value(self, signs: Array) -> float:
        """Of one model's signs [2]: the rank of its knowledge among the independents, widened.

        Measured by the mean and the spread of all of them and the model itself, so that it is treated as they are:
        exact where all are exchangeable.
        """
        everybody = np.concatenate([self.widened_null(), signs[None]])
        *benign, own = _distance(everybody, everybody)
        return rank_p(float(own), np.array(benign))

    def needed(self, signs: Array, alpha: float) -> float | None:
        """The knowledge from which on `p_value` is at most alpha, for a model that shows more, or less, of the same.

        Of one model's signs [2]: what is above the independents' mean is scaled, in the same proportion. At most the
        model's own knowledge exactly where its own p is at most alpha. None: nothing is above, or no size is enough.
        """
        mean, spread = self.null.mean(axis=0), self.null.std(axis=0, ddof=1)
        own = float(self.knowledge(signs))
        if own == 0:
            return None

        def enough(knowledge: float) -> bool:
            above = (signs > mean) & (spread > 0)
            return self.p_value(np.where(above, mean + (signs - mean) * (knowledge / own), signs)) <= alpha

        if self.p_value(signs) <= alpha:
            low, high = 0.0, own
        else:
            low, high = own, 2 * own
            while not enough(high):
                low, high = high, 2 * high
                if high > _LARGEST_T:
                    return None
        while high - low > _ROUNDING * high:
            middle = (low + high) / 2
            low, high = (low, middle) if enough(middle) else (middle, high)
        return high

    def bootstrap(self, profile: Array, sureness: Array, repeats: int = 1000, seed: int = 0) -> tuple[Array, Array]:
        """Of one model's departures: 95 % percentile intervals [2] of knowledge and agreement, over draws of private
        and of public images with replacement."""
        random, count = np.random.Generator(np.random.Philox(seed)), len(self.victim)
        sides = (0, self.private), (self.private, count)
        rows = np.concatenate([random.integers(low, high, (repeats, high - low)) for low, high in sides], axis=1)
        drawn = []
        for some in np.array_split(rows, 10):  # bounds the memory
            agreed = agreement(self.victim[some], profile[some])
            drawn.append(np.stack([agreed, welch_t(sureness[some], self.private)], axis=-1))
        signs = np.concatenate(drawn)
        low_high = [0.025, 0.975]
        return np.quantile(self.knowledge(signs), low_high), np.quantile(signs[:, 0], low_high)


@dataclass(frozen=True)
class SamplePoint:
    """What p comes out if only so many private images are revealed: quartiles over draws."""

    samples: int
    low: float
    median: float
    high: float


def p_by_samples(
    victim: Said,
    suspects: Said,
    references: Said,
    independents: Said,
    private: int,
    counts: tuple[int, ...],
    repeats: int = 50,
    seed: int = 0,
) -> list[tuple[SamplePoint, ...]]:
    """Of each suspect the calibrated p of its knowledge from fewer private images, all else done as with all of them.

    What is said of N images, `private` ones first and then public ones, by the victim and by S, R and n others.

    counts  of private images; those above `private` are left out
    """
    random = np.random.Generator(np.random.Philox(seed))
    public = np.arange(private, len(victim.sureness))
    curves: list[list[SamplePoint]] = [[] for _ in suspects.sureness]
    for count in (c for c in counts if c <= private):
        p = []
        for _ in range(1 if count == private else repeats):
            rows = np.concatenate([random.permutation(private)[:count], public])
            yardstick = ReferenceScale.of(victim.of(rows), references.of(rows), independents.of(rows), count)
            p.append([yardstick.p_value(s) for s in yardstick.signs(*yardstick.departures(suspects.of(rows)))])
        for curve, (low, median, high) in zip(curves, np.quantile(p, [0.25, 0.5, 0.75], axis=0).T, strict=True):
            curve.append(SamplePoint(count, float(low), float(median), float(high)))
    return [tuple(curve) for curve in curves]
