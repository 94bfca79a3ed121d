"""Membership inference: what models answer (statistics), attacks on it, one a file, and how well they do (metrics)."""

from pydrift.membership.attack import Attack, Fitted, Needs, check_counts
from pydrift.membership.attacks.boundary import BoundaryDistance
from pydrift.membership.attacks.lira import Lira
from pydrift.membership.attacks.rmia import Rmia
from pydrift.membership.attacks.shokri import Shokri
from pydrift.membership.registry import ATTACKS, DEFAULT, select_attacks
from pydrift.membership.signals import SIGNALS, confidence, logit_margin, loss
from pydrift.shadows.statistics import Statistics, check_finite, check_varied, measure, view

__all__ = [
    "ATTACKS",
    "DEFAULT",
    "SIGNALS",
    "Attack",
    "BoundaryDistance",
    "Fitted",
    "Lira",
    "Needs",
    "Rmia",
    "Shokri",
    "Statistics",
    "check_counts",
    "check_finite",
    "check_varied",
    "confidence",
    "logit_margin",
    "loss",
    "measure",
    "select_attacks",
    "view",
]
