"""Limits on what a file may ask for: the one place that has them.

A reader checks what a file claims before it makes room for it. Sizes are in bytes, unless the name says otherwise.
"""

from __future__ import annotations

MAX_MODEL = 4 << 30  # of a model file
MAX_HEADER = 16 << 20  # of a safetensors file, and of the pickle in a state dict
MAX_TENSORS = 100_000  # in one file
MAX_SHARDS = 1_000  # files of one model
MAX_DATA = 4 << 30  # of a data file, and of its unpacked content
MAX_IMAGE = 64 << 20  # of one image file
MAX_PIXELS = 4096 * 4096  # of one image
MAX_ARTIFACT = 64 << 30  # of a file of weights, gray data or responses that pydrift wrote
MAX_JSON = 64 << 20
MAX_JSON_VALUES = 2_000_000  # in one document: 32 MiB of "[],[]," would become 1 GiB of lists
MAX_PLAN = 16 << 20
MAX_CIFAR_BATCH = 64 << 20  # the published ones have 31 MB
MAX_PICKLE_OPERATIONS = 4_000_000  # a CIFAR-10 batch has 30,000 of them, a state dict some 40 for each tensor
MAX_ARCHIVE_ENTRIES = 10_000  # of an npz file
MAX_PARAMETERS = 1 << 28  # of a network: 1 GiB of float32
MAX_PLANNED = 1 << 30  # for one image: the maps of all layers, and their gradients, in float32
MAX_PASS = 4 << 30  # for the images of one pass of torch, planned in the same way
MAX_IMAGES = 10_000_000  # that a plan may name
MAX_STEPS = 1_000_000  # of an ascent, and of its patience
MAX_SHADOWS = 100_000  # their files are numbered with five digits
MAX_JITTER = 4096  # pixels
MAX_EPOCHS = 1_000_000
MAX_BATCH = 1 << 20
MAX_CLASSES = 10_000  # of data that does not name them
MAX_BOOTSTRAP = 10  # times the number of images may be drawn

_FREE_UNPACKED = 64 << 20
_MAX_RATIO = 100  # unpacked to packed; images and scores reach 50 at most, zeros 1,000


def check_unpacked(claimed: int, packed: int) -> None:
    """ValueError where the content of a packed file, by its own claim, is out of proportion, or over MAX_DATA."""
    limit = min(MAX_DATA, max(_FREE_UNPACKED, _MAX_RATIO * packed))
    if claimed > limit:
        raise ValueError(f"it unpacks to {claimed} bytes, the limit for its size is {limit}")
