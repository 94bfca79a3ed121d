"""Rotates images, for planted drifts and for the transforms that probe models."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def rotate(images: Tensor, degrees: float) -> Tensor:
    """Rotates images float32 [N, C, H, W] in [0, 1] counter-clockwise: bilinear, with zeros outside the image."""
    if len(images) == 0:  # torch refuses these
        return images
    angle, (height, width) = math.radians(degrees), images.shape[2:]
    # Sampling positions are in units of half the height and half the width, which differ unless the image is square.
    turn = [
        [math.cos(angle), -math.sin(angle) * height / width, 0.0],
        [math.sin(angle) * width / height, math.cos(angle), 0.0],
    ]
    theta = torch.tensor([turn]).expand(len(images), 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False).clamp(0, 1)
