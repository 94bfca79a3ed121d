"""The evidence that a suspect has knowledge of the private images, and how rare so much evidence is by chance.

Numpy and scipy only. Two kinds of other models are needed, both trained without the private images. Reference models
define what is usual on each image. Independent models show how much evidence arises by chance.

* Agreement (ours): does the suspect deviate from the references where the victim does? This finds models that learned
  from the victim's answers, or from the images that made the victim.
* Membership: is the suspect's confidence in private images higher than usual, compared with public ones (Welch's t)?
  This finds models that were trained on the private images.
* Knowledge combines both: the distance from the independent models. The verdict uses it alone.
* Confidence (the paper's): a regressor learns from the victim. Does it rate the suspect's private images higher than
  the public ones? One-sided Welch test. The calibrated p first subtracts the reference models' mean for each image, and
  then ranks the difference among those of the independent models.

Independent models must be no reference models and share no images with them. Every model from outside the references'
data deviates from these in one common direction; so do the victim and an independent suspect. The independent models
stand for models of other people, who have other images; `widen` corrects for the images that they share.

Source: Maini, Yaghini, Papernot, "Dataset Inference: Ownership Resolution in Machine Learning", ICLR 2021, for the
confidence; the rest is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pydrift.core.artifact import Count
from pydrift.ownership.reference_profile import ReferenceProfile, agreement
from pydrift.ownership.welch import Array, welch_t

_LARGEST_KNOWLEDGE = 1e6  # where the search for a sufficient one ends
_PRECISION = 1e-9  # of that search, relative


def rank_p(value: float, null: Array) -> float:
    """(k + 1) / (n + 1), where k of the n values of `null` are at least `value`. Exact if all are exchangeable."""
    return (int((null >= value).sum()) + 1) / (len(null) + 1)


def widen(null: Array) -> Array:
    """A statistic [n] of independent models, spread about its mean as widely as among unrelated models.

    The independent models saw halves of one pool; an independent suspect has images of its own. Assume that the models
    differ only through their images. Among halves of a pool this part varies half as much as among samples from
    outside. The pool's own peculiarity is as large again; all halves have it, and no outside model has it. So the
    variance of outside models about the pool's mean is three times that of the halves. (This holds to first order, and
    for suspects with about as many images.) What comes from randomness in training varies no more outside than inside.
    So the factor is an upper bound, and p errs in favour of the suspect.
    """
    mean = null.mean()
    result: Array = mean + np.sqrt(3.0) * (null - mean)
    return result


@dataclass(frozen=True)
class ModelProfiles:
    """How one or more models answer around N images (see `pydrift.ownership.ImageEmbeddings`).

    profile           float64 [..., N, E]
    label_confidence  float64 [..., N]
    """

    profile: Array
    label_confidence: Array

    def subset(self, rows: NDArray[np.int64]) -> ModelProfiles:
        """The profiles of some of the images, in that order."""
        return ModelProfiles(self.profile[..., rows, :], self.label_confidence[..., rows])


@dataclass(frozen=True)
class ReferenceScale:
    """The scale on which a model's knowledge of private images is measured.

    num_private       the first so many images are private, the others public
    profile           the references' profiles
    label_confidence  the references' label confidence
    victim            float64 [N, E]: the victim's deviations from the references
    null              float64 [n, 2]: agreement and membership of the independent models
    """

    num_private: int
    profile: ReferenceProfile
    label_confidence: ReferenceProfile
    victim: Array
    null: Array

    @classmethod
    def of(
        cls, victim: ModelProfiles, references: ModelProfiles, independents: ModelProfiles, num_private: int
    ) -> ReferenceScale:
        """From the profiles of the victim [N, E], of the references [R, N, E] and of the independents [n, N, E]."""
        profile = ReferenceProfile.of(references.profile)
        confidence = ReferenceProfile.of(references.label_confidence[..., None])
        scale = cls(num_private, profile, confidence, profile.deviations(victim.profile), np.empty((0, 2)))
        return replace(scale, null=scale.components(*scale.deviations(independents)))

    def deviations(self, models: ModelProfiles) -> tuple[Array, Array]:
        """From the references: [..., N, E] of the profiles and [..., N] of the label confidence."""
        confidence = self.label_confidence.deviations(models.label_confidence[..., None])
        return self.profile.deviations(models.profile), confidence[..., 0]

    def components(self, profile: Array, confidence: Array) -> Array:
        """The two components of knowledge, [..., 2]: agreement and membership.

        profile, confidence  deviations [..., N, E] and [..., N], as `deviations` returns them
        """
        return np.stack([agreement(self.victim, profile), welch_t(confidence, self.num_private)], axis=-1)

    def knowledge(self, components: Array) -> Array:
        """[...] of components [..., 2]: the distance above the independents' mean, in their standard deviations.

        It is the root of the sum of squares of the components above the mean. A stolen model may show both or one.
        """
        return _distance(components, self.null)

    def widened_null(self) -> Array:
        """`null` with each component widened (see `widen`): float64 [n, 2]."""
        return np.stack([widen(component) for component in self.null.T], axis=-1)

    def p_value(self, components: Array) -> float:
        """The rank of one model's knowledge among the widened independents; `components` [2] are the model's.

        Mean and spread are those of all of them and the model itself, so that it is treated as they are. Exact if all
        are exchangeable.
        """
        everyone = np.concatenate([self.widened_null(), components[None]])
        *null, own = _distance(everyone, everyone)
        return rank_p(float(own), np.array(null))

    def needed(self, components: Array, alpha: float) -> float | None:
        """The smallest knowledge with `p_value` <= alpha, for a model whose components [2] keep their proportion.

        Only what is above the independents' mean is scaled. The result is at most the model's own knowledge exactly
        where its own p is at most alpha. None: no component is above the mean, or no size is enough.
        """
        mean, spread = self.null.mean(axis=0), self.null.std(axis=0, ddof=1)
        own = float(self.knowledge(components))
        if own == 0:
            return None

        def is_enough(knowledge: float) -> bool:
            above = (components > mean) & (spread > 0)
            return self.p_value(np.where(above, mean + (components - mean) * (knowledge / own), components)) <= alpha

        low, high = 0.0, own
        if self.p_value(components) > alpha:
            low, high = own, 2 * own
            while not is_enough(high):
                low, high = high, 2 * high
                if high > _LARGEST_KNOWLEDGE:
                    return None
        while high - low > _PRECISION * high:
            middle = (low + high) / 2
            low, high = (low, middle) if is_enough(middle) else (middle, high)
        return high

    def bootstrap(self, profile: Array, confidence: Array, repeats: int = 1000, seed: int = 0) -> tuple[Array, Array]:
        """95 % percentile intervals [2] of one model's knowledge and agreement.

        profile, confidence  the model's deviations [N, E] and [N]
        repeats              draws of private and of public images, with replacement
        """
        random, count = np.random.Generator(np.random.Philox(seed)), len(self.victim)
        sides = (0, self.num_private), (self.num_private, count)
        rows = np.concatenate([random.integers(low, high, (repeats, high - low)) for low, high in sides], axis=1)
        parts = []
        for some in np.array_split(rows, 10):  # bounds the memory
            agreed = agreement(self.victim[some], profile[some])
            parts.append(np.stack([agreed, welch_t(confidence[some], self.num_private)], axis=-1))
        components = np.concatenate(parts)
        low_high = [0.025, 0.975]
        return np.quantile(self.knowledge(components), low_high), np.quantile(components[:, 0], low_high)


def _distance(components: Array, models: Array) -> Array:
    """[...] of components [..., 2]: the distance above the mean of models [n, 2], in their standard deviations."""
    spread = models.std(axis=0, ddof=1)
    away = np.divide(components - models.mean(axis=0), spread, out=np.zeros_like(components), where=spread > 0)
    result: Array = np.sqrt((np.maximum(away, 0) ** 2).sum(axis=-1))
    return result


@dataclass(frozen=True)
class SamplePoint:
    """The p that so many private images would give: quartiles over draws of them."""

    samples: Count
    low: float
    median: float
    high: float


def p_by_samples(
    victim: ModelProfiles,
    suspects: ModelProfiles,
    references: ModelProfiles,
    independents: ModelProfiles,
    num_private: int,
    counts: tuple[int, ...],
    repeats: int = 50,
    seed: int = 0,
) -> list[tuple[SamplePoint, ...]]:
    """The calibrated p of each suspect's knowledge with fewer private images; everything else is as with all of them.

    victim, suspects, references, independents  profiles of 1, S, R and n models of the same N images, the private
                                                images first
    counts                                      numbers of private images; those above `num_private` are left out
    repeats                                     draws of images for each number

    Returns one curve for each suspect.
    """
    random = np.random.Generator(np.random.Philox(seed))
    public = np.arange(num_private, len(victim.label_confidence))
    curves: list[list[SamplePoint]] = [[] for _ in suspects.label_confidence]
    for count in (c for c in counts if c <= num_private):
        p = []
        for _ in range(1 if count == num_private else repeats):
            rows = np.concatenate([random.permutation(num_private)[:count], public])
            scale = ReferenceScale.of(victim.subset(rows), references.subset(rows), independents.subset(rows), count)
            p.append([scale.p_value(c) for c in scale.components(*scale.deviations(suspects.subset(rows)))])
        for curve, (low, median, high) in zip(curves, np.quantile(p, [0.25, 0.5, 0.75], axis=0).T, strict=True):
            curve.append(SamplePoint(count, float(low), float(median), float(high)))
    return [tuple(curve) for curve in curves]
