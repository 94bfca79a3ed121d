"""Data sets by name: scikit-learn's digits and the standard file layouts. All data is checked before use."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from pydrift.core.arrays import parse_npz
from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.files import read_file
from pydrift.core.limits import MAX_DATA, MAX_IMAGE, MAX_PIXELS, check_unpacked
from pydrift.data.cifar import load_cifar10
from pydrift.data.images import LabelledImages, as_images, check_images, check_labels

_IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "PPM", "WEBP", "TIFF")

DIGITS = tuple("0123456789")
FASHION = (
    *("T-shirt/top", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)


def load_data(spec: str, split: str = "train") -> LabelledImages:
    """Loads a data set by its spec; `split` is "train" or "test".

    digits             scikit-learn's 1,797 digits, 1x8x8; every fifth image of each class is the test split
    mnist:DIR          idx files, plain or gzipped, in DIR/MNIST/raw or DIR, also by Kaggle's names
    fashion-mnist:DIR  the same in DIR/FashionMNIST/raw or DIR
    cifar10:DIR        the python batches in DIR/cifar-10-batches-py or DIR
    npz:FILE           arrays x and y (test split: x_test and y_test), and optionally class_names (strings). The shapes
                       are those of `as_images`; pickled arrays are refused
    folder:DIR         one sub-folder of images for each class, in DIR or in DIR/train and DIR/test, in capitals or not.
                       The classes are sorted by name. All images have the same size and are all gray or all RGB

    UsageError: an unknown spec, no such file, or no test split. InputRefused: damaged or unusable data; it names the
    file, and the index of the image.
    """
    name, _, argument = spec.partition(":")
    if split not in ("train", "test"):
        raise UsageError(f'split must be "train" or "test", got {split!r}')
    if name not in _SOURCES or (name == "digits") != (argument == ""):
        raise UsageError(
            f"unknown data {spec!r}; "
            "known are digits, mnist:DIR, fashion-mnist:DIR, cifar10:DIR, npz:FILE and folder:DIR"
        )
    return _SOURCES[name](Path(argument).expanduser(), split)


def take_images(data: Any) -> LabelledImages:
    """The images that a user passes. It loads a spec such as "fashion-mnist:DIR"; the rest goes to `as_images`."""
    return load_data(data) if isinstance(data, str) else as_images(data)


def _load_digits(_: Path, split: str) -> LabelledImages:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    is_test = np.zeros(len(bunch.target), bool)
    for label in range(10):  # by class, since the images are in the order 0, 1, ..., 9, 0, 1, ...
        is_test[np.flatnonzero(bunch.target == label)[4::5]] = True
    chosen = is_test == (split == "test")
    return check_images((bunch.images / 16)[chosen], bunch.target[chosen], DIGITS, f"digits ({split})")


def _load_mnist(folder: Path, split: str) -> LabelledImages:
    return _load_idx(folder, "MNIST", split, DIGITS)


def _load_fashion_mnist(folder: Path, split: str) -> LabelledImages:
    return _load_idx(folder, "FashionMNIST", split, FASHION)


def _load_idx(folder: Path, name: str, split: str, class_names: tuple[str, ...]) -> LabelledImages:
    stem = {"train": "train", "test": "t10k"}[split]
    images_file = _find_idx(folder, name, f"{stem}-images-idx3-ubyte")
    images = _read_idx(images_file, (28, 28))
    labels = _read_idx(_find_idx(folder, name, f"{stem}-labels-idx1-ubyte"), ())
    return check_images(images, labels, class_names, str(images_file))


def _find_idx(folder: Path, name: str, file: str) -> Path:
    # Kaggle's names have a dot, or each file lies in a folder of its own name.
    names = [file, file.replace("-idx", ".idx"), f"{file}/{file}", f"{file.replace('-idx', '.idx')}/{file}"]
    bases = (folder / name / "raw", folder)
    for candidate in [base / (one + end) for base in bases for one in names for end in ("", ".gz")]:
        if candidate.exists() and not candidate.is_dir():
            return candidate
    raise UsageError(f"{folder}: neither {name}/raw/{file}[.gz] nor {file}[.gz] is there")


def _read_idx(path: Path, item: tuple[int, ...]) -> np.ndarray:
    """Reads an idx file of N items of unsigned bytes, each of the shape `item`: uint8 [N, *item].

    The format: 0, 0, type 8, number of dimensions, the sizes (big endian), the bytes.
    """
    raw = read_file(path, MAX_DATA)
    file = gzip.GzipFile(fileobj=io.BytesIO(raw)) if path.suffix == ".gz" else io.BytesIO(raw)
    dimensions = 1 + len(item)
    header_size = 4 + 4 * dimensions
    try:
        header = file.read(header_size)
        if header[:4] != bytes((0, 0, 8, dimensions)) or len(header) != header_size:
            raise InputRefused(f"{path}: not an idx file of {dimensions}-dimensional unsigned bytes")
        shape = [int.from_bytes(header[i : i + 4], "big") for i in range(4, header_size, 4)]
        if tuple(shape[1:]) != item:
            raise InputRefused(f"{path}: images must be {_times(item)}, got {_times(shape[1:])}")
        size = prod(shape)
        check_unpacked(size, len(raw))
        data = file.read(size + 1)
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise InputRefused(f"{path}: damaged: {error}") from error
    if len(data) != size:
        relation = "more" if len(data) > size else "fewer"
        raise InputRefused(f"{path}: {relation} bytes than its header says ({size} for shape {shape})")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _times(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def _load_npz(path: Path, split: str) -> LabelledImages:
    raw = read_file(path, MAX_DATA)
    try:
        arrays = parse_npz(raw, ("x", "y"), ("x_test", "y_test", "class_names"))
    except ValueError as error:
        raise InputRefused(f"{path}: not an npz file of plain arrays: {error}") from error
    if split == "test" and not {"x_test", "y_test"} <= arrays.keys():
        raise UsageError(f"{path}: no test split: it needs the arrays x_test and y_test")
    source = f"{path} ({split})"
    end = "_test" if split == "test" else ""
    return check_images(arrays["x" + end], arrays["y" + end], _npz_class_names(arrays, source), source)


def _npz_class_names(arrays: dict[str, np.ndarray], source: str) -> tuple[str, ...]:
    """The file's own names, or numbers up to the largest label of both splits, so that the splits agree."""
    names = arrays.get("class_names")
    if names is not None:
        if names.ndim != 1 or names.dtype.kind != "U":
            raise InputRefused(f"{source}: class_names must be strings [K], got {names.dtype} {list(names.shape)}")
        return tuple(str(name) for name in names)
    labels = [check_labels(arrays[key], None, f"{source}: {key}") for key in ("y", "y_test") if key in arrays]
    return tuple(str(i) for i in range(1 + max(int(part.max(initial=-1)) for part in labels)))


def _load_folder(folder: Path, split: str) -> LabelledImages:
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    splits = {entry.name.lower(): entry for entry in sorted(folder.iterdir()) if entry.is_dir()}
    has_splits = "train" in splits
    train = splits.get("train", folder)
    chosen = train if split == "train" else splits.get("test", folder / "test")
    if split == "test" and not (has_splits and chosen.is_dir()):
        raise UsageError(f"{folder}: no test split: it needs the sub-folders train and test")
    class_names = _visible(train)
    images: list[np.ndarray] = []
    labels: list[int] = []
    for name in _visible(chosen):
        if name not in class_names:
            raise InputRefused(f"{chosen / name}: not a class of {train}")
        for file in _visible(chosen / name):
            images.append(_read_image(chosen / name / file))
            labels.append(class_names.index(name))
            if images[-1].shape != images[0].shape:
                raise InputRefused(
                    f"{chosen / name / file}: {_describe(images[-1])}, but the first image is {_describe(images[0])}"
                )
            if len(images) * images[0].size > MAX_DATA:
                raise InputRefused(f"{chosen}: more than {MAX_DATA} bytes of pixels")
    if not images:
        raise InputRefused(f"{chosen}: no images")
    return check_images(np.stack(images), np.array(labels), class_names, str(chosen))


def _visible(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise InputRefused(f"{folder}: not a folder of images, one sub-folder per class is expected")
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))


def _read_image(path: Path) -> np.ndarray:
    """uint8 [C, H, W]."""
    from PIL import Image

    raw = read_file(path, MAX_IMAGE)
    try:
        with Image.open(io.BytesIO(raw), formats=_IMAGE_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:  # from the header, before any pixel is decoded
                raise InputRefused(f"{path}: {image.width}x{image.height} pixels, the limit is {MAX_PIXELS} in all")
            if image.mode not in ("L", "RGB"):
                raise InputRefused(f"{path}: mode {image.mode}; save it as 8-bit gray (L) or RGB")
            pixels = np.asarray(image)
    except InputRefused:
        raise
    except Exception as error:  # Pillow's decoders raise many types
        raise InputRefused(f"{path}: not an image that can be read: {error}") from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _describe(image: np.ndarray) -> str:
    channels, height, width = image.shape
    return f"{width}x{height} {'gray' if channels == 1 else 'RGB'}"


_SOURCES: dict[str, Callable[[Path, str], LabelledImages]] = {
    "digits": _load_digits,
    "mnist": _load_mnist,
    "fashion-mnist": _load_fashion_mnist,
    "cifar10": load_cifar10,
    "npz": _load_npz,
    "folder": _load_folder,
}
