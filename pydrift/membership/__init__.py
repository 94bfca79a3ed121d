"""Membership signals: how strongly a model recognises an image as a member of its class."""

from pydrift.membership.recognition import SIGNALS, Recognition, recognise
from pydrift.membership.signals import confidence, logit_margin, loss

__all__ = ["SIGNALS", "Recognition", "confidence", "logit_margin", "loss", "recognise"]
