"""Logits from whatever a network returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def to_logits(output: Any, count: int) -> Any:
    """The logits [N, classes >= 2] in the output of a network for `count` = N images, in float32.

    Read are
    * `.logits`, or the entry "logits" (transformers), and the first part of a tuple or list (auxiliary heads);
    * [N, K, 1, 1], and what `squeeze()` leaves of the single image;
    * one logit for each image, z: the logits of two classes are 0 and z, as of a sigmoid.
    Anything else is returned as it is, so that the door (`check_logits`) can say what it is.
    """
    found = _tensor(output)
    if not isinstance(found, Tensor):
        return output
    if found.ndim > 2 and all(size == 1 for size in found.shape[2:]):
        found = found.flatten(1)
    elif found.ndim < 2 and count == 1:
        found = found.reshape(1, -1)
    elif found.ndim == 1 and len(found) == count:
        found = found[:, None]
    if found.is_floating_point() and found.dtype != torch.float32:
        found = found.float()
    if found.ndim == 2 and found.shape[1] == 1:
        found = torch.cat([torch.zeros_like(found), found], dim=1)
    return found


def _tensor(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if named is not None:
        return _tensor(named)
    return _tensor(output[0]) if isinstance(output, tuple | list) and output else output
