"""Membership inference: attacks that tell a model's training images from others, and the audit that runs them all."""

from pydrift.membership.attack import Attack, Fitted, Needs
from pydrift.membership.attacks.boundary import BoundaryDistance
from pydrift.membership.attacks.lira import Lira
from pydrift.membership.attacks.rmia import Rmia
from pydrift.membership.attacks.shokri import Shokri
from pydrift.membership.audit import membership_audit
from pydrift.membership.registry import ATTACKS, DEFAULT_ATTACKS, select_attacks
from pydrift.membership.result import MembershipReport

__all__ = [
    "ATTACKS",
    "DEFAULT_ATTACKS",
    "Attack",
    "BoundaryDistance",
    "Fitted",
    "Lira",
    "MembershipReport",
    "Needs",
    "Rmia",
    "Shokri",
    "membership_audit",
    "select_attacks",
]
