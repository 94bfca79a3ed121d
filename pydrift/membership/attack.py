"""What a membership-inference attack is here, and the one check that all of them share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pydrift.core.errors import UsageError
from pydrift.shadows.statistics import Statistics

Scores = NDArray[np.float64]
"""float64 [N], one per image: the higher, the more likely a member."""


@dataclass(frozen=True)
class Needs:
    """What an attack must be given."""

    shadows_in: int = 0  # of every image: shadows that were trained on it
    shadows_out: int = 0  # and shadows that were not
    posterior: bool = False  # Statistics.posterior of target and shadows
    distance: bool = False  # Statistics.distance of the target


class Fitted(Protocol):
    """An attack that has seen the shadows."""

    def score(self, target: Statistics) -> Scores:
        """The score of every image, from the target's answers (K = 1) to the same queries as the shadows'."""
        ...


class Attack(Protocol):
    """An attack before it has seen anything: a frozen value of its settings."""

    @property
    def title(self) -> str:
        """Name and source in a few words."""
        ...

    @property
    def needs(self) -> Needs: ...

    def fit(self, shadow: Statistics, member: NDArray[np.bool_], y: NDArray[np.int64]) -> Fitted:
        """Learns from shadow models what members look like.

        shadow  statistics of K shadows (none, where the attack needs none) on the N images that will be scored
        member  [K, N]: whether shadow k was trained on image n
        y       [N]: the labels
        UsageError where the shadows are fewer than `needs` says.
        """
        ...


def check_shadows(attack: Attack, shadow: Statistics, member: NDArray[np.bool_]) -> None:
    """UsageError where some image has fewer shadows IN or OUT than the attack needs, or `member` does not fit."""
    expected = (shadow.num_models, shadow.num_images)
    if member.dtype != np.bool_ or member.shape != expected:
        raise UsageError(f"member must be bool {list(expected)}, got {member.dtype} {list(member.shape)}")
    check_counts(attack, member)
    if attack.needs.posterior and shadow.posterior is None:
        raise UsageError(f"{attack.title} needs the posterior: measure with posterior=True")


def check_counts(attack: Attack, member: NDArray[np.bool_]) -> None:
    """UsageError where some image has fewer shadows IN or OUT, by member bool [K, N], than the attack needs."""
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
