"""Membership inference: what models answer (statistics), attacks on it, one a file, and how well they do (metrics)."""

from pydrift.membership.attack import Attack, Fitted, Needs, check_counts
from pydrift.membership.boundary import BoundaryDistance
from pydrift.membership.lira import Lira
from pydrift.membership.recognition import Recognition, changed_by_marks, leanings, recognise
from pydrift.membership.registry import ATTACKS, DEFAULT, chosen
from pydrift.membership.rmia import Rmia
from pydrift.membership.shokri import Shokri
from pydrift.membership.signals import SIGNALS, confidence, logit_margin, loss
from pydrift.membership.statistics import Statistics, check_finite, check_varied, measure, view

__all__ = [
    "ATTACKS",
    "DEFAULT",
    "SIGNALS",
    "Attack",
    "BoundaryDistance",
    "Fitted",
    "Lira",
    "Needs",
    "Recognition",
    "Rmia",
    "Shokri",
    "Statistics",
    "changed_by_marks",
    "check_counts",
    "check_finite",
    "check_varied",
    "chosen",
    "confidence",
    "leanings",
    "logit_margin",
    "loss",
    "measure",
    "recognise",
    "view",
]
