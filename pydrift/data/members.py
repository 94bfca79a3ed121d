"""The images of a data set that a model was trained on, as the user names them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from pydrift.core.errors import InputRefused
from pydrift.data.images import LabelledImages


def as_member_mask(members: ArrayLike, images: LabelledImages) -> NDArray[np.bool_]:
    """The members among N images as bool [N], from distinct integer indices [M] or from a boolean mask [N].

    InputRefused: labels instead of indices, an index out of range or given twice, or none or all of the images.
    """
    given = np.asarray(members.cpu() if isinstance(members, torch.Tensor) else members)
    count = len(images)
    if given.dtype == np.bool_:
        if given.shape != (count,):
            raise InputRefused(f"members: a boolean mask must be [{count}], one per image, got {list(given.shape)}")
        member = given.copy()
    else:
        is_empty_list = given.dtype == np.float64 and not given.size
        if given.ndim != 1 or (given.dtype.kind not in "iu" and not is_empty_list):
            raise InputRefused(
                f"members must be integer indices [M] or a boolean mask [{count}], "
                f"got {given.dtype} {list(given.shape)}"
            )
        outside = np.flatnonzero((given < 0) | (given >= count))
        if len(outside):
            raise InputRefused(f"members: entry {outside[0]} is {given[outside[0]]}, outside 0..{count - 1}")
        member = np.zeros(count, bool)
        member[given.astype(np.int64)] = True
        if member.sum() < len(given):
            values, times = np.unique(given, return_counts=True)
            raise InputRefused(
                f"members: the index {values[times.argmax()]} is given {times.max()} times; members are indices of "
                "images, each once, or a boolean mask, not labels"
            )
    if member.all() or not member.any():
        which = "all" if member.all() else "none"
        raise InputRefused(f"members: {which} of the {count} images; an audit needs members and non-members")
    return member
