"""The attacks by name, as the command line and `membership_audit` know them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pydrift.core.errors import UsageError
from pydrift.membership.attack import Attack
from pydrift.membership.attacks.attack_p import AttackP
from pydrift.membership.attacks.attack_r import AttackR
from pydrift.membership.attacks.boundary import BoundaryDistance
from pydrift.membership.attacks.class_threshold import CONFIDENCE, ENTROPY, MODIFIED_ENTROPY
from pydrift.membership.attacks.correctness_gap import CorrectnessGap
from pydrift.membership.attacks.lira import Lira
from pydrift.membership.attacks.loss_threshold import LossThreshold
from pydrift.membership.attacks.rmia import Rmia
from pydrift.membership.attacks.shokri import Shokri

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

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
_TAKEN = ("member", "y", "file")  # what else a report's scores.npz holds, and a parameter of its writer

DEFAULT = tuple(name for name in ATTACKS if name != "boundary")
"""All but the one whose queries cost more than all the others' together."""


def select_attacks(attacks: Sequence[str] | Mapping[str, Attack], seed: int = 0) -> dict[str, Attack]:
    """The attacks of these names, in this order, or the caller's own under names of the caller's.

    seed  of the named ones that draw something (Shokri, boundary); the caller's own have theirs
    UsageError names the first that is not known, given twice or no attack.
    """
    if isinstance(attacks, Mapping):
        for name, attack in attacks.items():
            if not isinstance(name, str) or _NAME.fullmatch(name) is None or name in _TAKEN:
                raise UsageError(
                    f"an attack's name is of letters, digits, dots and hyphens, and not {' or '.join(_TAKEN)}; "
                    f"got {name!r}"
                )
            if not all(hasattr(attack, part) for part in ("title", "needs", "fit")):
                raise UsageError(f"{name}: expected an attack such as Rmia(gamma=1.5), got {attack!r}")
        if not attacks:
            raise UsageError("attacks must be one or more different names, got none")
        return dict(attacks)
    for name in attacks:
        if name not in ATTACKS:
            raise UsageError(f"no such attack: {name!r}; known are {', '.join(ATTACKS)}")
    if not attacks or len(set(attacks)) != len(attacks):
        raise UsageError(f"attacks must be one or more different names, got {', '.join(attacks) or 'none'}")
    return {name: _seeded(ATTACKS[name], seed) for name in attacks}


def _seeded(attack: Attack, seed: int) -> Attack:
    return replace(attack, seed=seed) if isinstance(attack, Shokri | BoundaryDistance) else attack
