"""The attacks by name, as the command line and `membership_audit` know them."""

from __future__ import annotations

from collections.abc import Sequence

from pydrift.errors import UsageError
from pydrift.membership.attack import Attack
from pydrift.membership.attack_p import AttackP
from pydrift.membership.attack_r import AttackR
from pydrift.membership.boundary import BoundaryDistance
from pydrift.membership.class_threshold import CONFIDENCE, ENTROPY, MODIFIED_ENTROPY
from pydrift.membership.correctness_gap import CorrectnessGap
from pydrift.membership.lira import Lira
from pydrift.membership.loss_threshold import LossThreshold
from pydrift.membership.rmia import Rmia
from pydrift.membership.shokri import Shokri

ATTACKS: dict[str, Attack] = {
    "lira": Lira(),
    "lira-fixed": Lira(fixed=True),
    "lira-offline": Lira(online=False),
    "lira-offline-fixed": Lira(online=False, fixed=True),
    "rmia": Rmia(),
    "rmia-offline": Rmia(online=False),
    "attack-r": AttackR(),
    "attack-p": AttackP(),
    "loss": LossThreshold(),
    "confidence": CONFIDENCE,
    "entropy": ENTROPY,
    "modified-entropy": MODIFIED_ENTROPY,
    "shokri": Shokri(),
    "gap": CorrectnessGap(),
    "boundary": BoundaryDistance(),
}

DEFAULT = tuple(name for name in ATTACKS if name != "boundary")
"""All but the one whose queries cost more than all the others' together."""


def chosen(attacks: Sequence[str]) -> dict[str, Attack]:
    """The attacks of these names, in this order. UsageError names the first that is not known, or given twice."""
    for name in attacks:
        if name not in ATTACKS:
            raise UsageError(f"no such attack: {name!r}; known are {', '.join(ATTACKS)}")
    if not attacks or len(set(attacks)) != len(attacks):
        raise UsageError(f"attacks must be one or more different names, got {', '.join(attacks) or 'none'}")
    return {name: ATTACKS[name] for name in attacks}
