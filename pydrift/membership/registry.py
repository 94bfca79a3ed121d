"""All membership attacks by name. A new attack is one file in attacks/, one row here and one row in the test table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

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
_TAKEN = ("member", "y", "file")  # other arrays in a report's scores.npz, and a parameter of its writer

DEFAULT_ATTACKS = tuple(name for name in ATTACKS if name != "boundary")
"""All attacks but "boundary", which takes more queries than all the others together."""


def select_attacks(attacks: Sequence[str] | Mapping[str, Attack], seed: int = 0) -> dict[str, Attack]:
    """The attacks of these names, in this order; a mapping of the caller's own attacks is checked and returned.

    seed  for the named attacks that draw something random (Shokri, boundary); the caller's own attacks keep theirs
    UsageError names the first attack that is unknown, is named twice or is no attack.
    """
    if isinstance(attacks, Mapping):
        for name, attack in attacks.items():
            if not isinstance(name, str) or _NAME.fullmatch(name) is None or name in _TAKEN:
                raise UsageError(
                    f"an attack's name has letters, digits, dots and hyphens only, and is not {' or '.join(_TAKEN)}; "
                    f"got {name!r}"
                )
            if not all(hasattr(attack, part) for part in ("title", "needs", "fit")):
                raise UsageError(f"{name}: expected an attack such as Rmia(gamma=1.5), got {attack!r}")
        if not attacks:
            raise UsageError("attacks must name at least one attack, got none")
        return dict(attacks)
    for name in attacks:
        if name not in ATTACKS:
            raise UsageError(f"no such attack: {name!r}; known are {', '.join(ATTACKS)}")
    if not attacks:
        raise UsageError("attacks must name at least one attack, got none")
    if len(set(attacks)) != len(attacks):
        raise UsageError(f"attacks must name each attack once, got {', '.join(attacks)}")
    return {name: _with_seed(ATTACKS[name], seed) for name in attacks}


def _with_seed(attack: Any, seed: int) -> Attack:
    """The attack with this seed, if it has a setting of that name."""
    return replace(attack, seed=seed) if hasattr(attack, "seed") else attack
