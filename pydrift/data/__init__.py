"""Labelled images: from the standard file layouts, from arrays and data loaders, and with planted drifts."""

from pydrift.data.images import LabelledImages, as_images
from pydrift.data.members import as_member_mask
from pydrift.data.plant import plant
from pydrift.data.sources import load_data, take_images

__all__ = ["LabelledImages", "as_images", "as_member_mask", "load_data", "plant", "take_images"]
