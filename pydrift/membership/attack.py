"""The interface of a membership-inference attack, and the checks that all attacks share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pydrift.core.errors import UsageError
from pydrift.models.classifier import Classifier
from pydrift.shadows.statistics import Statistics

Scores = NDArray[np.float64]
"""float64 [N], one per image; a higher score means: more likely a member."""


@dataclass(frozen=True)
class Needs:
    """What an attack needs.

    shadows_in   how many shadows must have been trained on each image, at least
    shadows_out  how many shadows must not have been trained on it, at least
    posterior    whether target and shadows need `Statistics.posterior`
    distance     whether the target needs `Statistics.distance`
    """

    shadows_in: int = 0
    shadows_out: int = 0
    posterior: bool = False
    distance: bool = False


class Fitted(Protocol):
    """An attack after `fit`."""

    def score(self, target: Statistics) -> Scores:
        """The score of every image. `target` holds the answers of the target (K = 1) to the queries of the shadows."""
        ...


class Attack(Protocol):
    """An attack before `fit`: a frozen value that holds its settings."""

    @property
    def title(self) -> str:
        """Name and paper in a few words, for the report."""
        ...

    @property
    def needs(self) -> Needs: ...

    def fit(self, shadow: Statistics, member: NDArray[np.bool_], y: NDArray[np.int64]) -> Fitted:
        """Learns from shadow models how members differ from non-members.

        shadow  answers of K shadows about the N images that will be scored; K may be 0 if the attack needs none
        member  bool [K, N]: whether shadow k was trained on image n
        y       int64 [N]: the labels
        UsageError where there are fewer shadows than `needs` says.
        """
        ...


@runtime_checkable
class DistanceAttack(Attack, Protocol):
    """An attack that measures `Statistics.distance` itself, with queries of its own."""

    def distances(self, target: Classifier, x: Tensor, y: Tensor) -> NDArray[np.float32]:
        """`Statistics.distance` of the target: float32 [1, N]. x float32 [N, C, H, W] in [0, 1], y int64 [N]."""
        ...


def check_shadows(attack: Attack, shadow: Statistics, member: NDArray[np.bool_]) -> None:
    """UsageError where `shadow` and `member` do not fit together, or lack what the attack needs."""
    expected = (shadow.num_models, shadow.num_images)
    if member.dtype != np.bool_ or member.shape != expected:
        raise UsageError(f"member must be bool {list(expected)}, got {member.dtype} {list(member.shape)}")
    check_counts(attack, member)
    if attack.needs.posterior and shadow.posterior is None:
        raise UsageError(f"{attack.title} needs the posterior: measure with posterior=True")


def check_counts(attack: Attack, member: NDArray[np.bool_]) -> None:
    """UsageError where an image has fewer shadows IN or OUT than the attack needs. member bool [K, N]."""
    needs = attack.needs
    inside = member.sum(axis=0)
    outside = len(member) - inside
    short = np.flatnonzero((inside < needs.shadows_in) | (outside < needs.shadows_out))
    if len(short):
        n = short[0]
        raise UsageError(
            f"{attack.title} needs {needs.shadows_in} shadows IN and {needs.shadows_out} OUT for every image; "
            f"image {n} has {inside[n]} IN and {outside[n]} OUT"
        )
