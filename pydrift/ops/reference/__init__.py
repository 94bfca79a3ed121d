"""The operations in plain torch, for any float dtype and device: what they mean, and what the tests compare with."""

from pydrift.ops.reference.ascent import ascent_update, invert, prior_gradient, roll, square_root
from pydrift.ops.reference.network import Precision, log_probability, log_probability_gradient, logits, num_classes
from pydrift.ops.reference.statistics import answer_statistics, shadow_logits, shadow_moments, shadow_statistics
from pydrift.ops.reference.train import affine_mask, augment_images, shadow_train
from pydrift.ops.reference.walks import L1, L2, LINF, blind_walk, blind_walk_through, min_gd, min_gd_through

__all__ = [
    "L1",
    "L2",
    "LINF",
    "Precision",
    "affine_mask",
    "answer_statistics",
    "ascent_update",
    "augment_images",
    "blind_walk",
    "blind_walk_through",
    "invert",
    "log_probability",
    "log_probability_gradient",
    "logits",
    "min_gd",
    "min_gd_through",
    "num_classes",
    "prior_gradient",
    "roll",
    "shadow_logits",
    "shadow_moments",
    "shadow_statistics",
    "shadow_train",
    "square_root",
]
