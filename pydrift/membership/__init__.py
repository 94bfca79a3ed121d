"""Membership inference: what models answer (statistics), attacks on it, one a file, and how well they do (metrics)."""

from pydrift.membership.attack import Attack, Fitted, Needs, check_counts
from pydrift.membership.recognition import Recognition, recognise
from pydrift.membership.registry import ATTACKS, DEFAULT, chosen
from pydrift.membership.signals import SIGNALS, confidence, logit_margin, loss
from pydrift.membership.statistics import Statistics, check_finite, measure, view

__all__ = [
    "ATTACKS",
    "DEFAULT",
    "SIGNALS",
    "Attack",
    "Fitted",
    "Needs",
    "Recognition",
    "Statistics",
    "check_counts",
    "check_finite",
    "chosen",
    "confidence",
    "logit_margin",
    "loss",
    "measure",
    "recognise",
    "view",
]
