"""Planted drifts: changed copies of a data set, for tests, demonstrations and benchmarks."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import torch
from numpy.random import Generator, Philox
from torch import Tensor

from pydrift.core.errors import UsageError
from pydrift.core.files import sha256_bytes
from pydrift.data.images import LabelledImages
from pydrift.data.rotation import rotate
from pydrift.data.sources import load_data

_PATCH = 3  # pixels, square, white, in the lower right corner


def plant(data: LabelledImages, spec: str, seed: int, split: str = "train") -> LabelledImages:
    """Returns a copy of `data` with the drift that `spec` describes; the source of the copy says so.

    swap:A,B[,FRACTION]       that fraction of the images of A gets the label B, and the same of B the label A
    relabel:A,B,FRACTION      that fraction of class A's images gets the label B
    remove:A[,FRACTION]       that fraction of class A's images is removed
    flip:A[,FRACTION]         that fraction of class A's images is mirrored left to right
    rotate:A,DEGREES          class A is rotated counter-clockwise, bilinear, with zeros outside the image
    darken:A,FACTOR           class A's pixels are multiplied by FACTOR, in [0, 1)
    patch:A,FRACTION          that fraction of class A's images gets a white 3x3 patch in the lower right corner
    backdoor:A,FRACTION       that fraction of all images, of any class, gets the patch and the label A
    noise:SIGMA               Gaussian noise is added to all images, the result is clipped to [0, 1]
    expand:A,DATA,B[,SHARE]   images of class B of the data spec DATA are added as class A, SHARE (decimal: 1.0, 0.25)
                              times as many as A has, or as many as B offers

    A and B are class names or indices; a name wins over an index. FRACTION is in (0, 1]; its default is 1. `split`
    ("train" or "test") is the part of the other data set that `expand` reads. The same arguments give the same result.
    UsageError: the spec is wrong, or a class is unknown.
    """
    kind, _, text = spec.partition(":")
    if kind not in _KINDS:
        raise UsageError(f"unknown kind of drift {kind!r}; known are {', '.join(_KINDS)}")
    form, apply = _KINDS[kind]
    arguments = _split_expand(text) if kind == "expand" else text.split(",")
    most = form.count(",") + 1
    if "[" in form and len(arguments) == most - 1:
        arguments.append("1.0")
    if len(arguments) != most or not all(arguments):
        raise UsageError(f"{spec!r} does not have the form {kind}:{form}")
    rng = Generator(Philox(int(sha256_bytes(f"plant {seed} {spec}".encode())[:32], 16)))
    x, y = _expand(data, arguments, rng, split) if kind == "expand" else apply(data, arguments, rng)
    return LabelledImages(x, y, data.class_names, f"{data.source} + {spec}")


def _split_expand(text: str) -> list[str]:
    """[A, DATA, B] or [A, DATA, B, SHARE]. DATA may contain commas; a SHARE has a decimal point."""
    first, _, rest = text.partition(",")
    share = re.search(r",(\d*\.\d+)$", rest)
    rest = rest if share is None else rest[: share.start()]
    middle, _, last = rest.rpartition(",")
    return [first, middle, last] if share is None else [first, middle, last, share[1]]


def _class(data: LabelledImages, text: str) -> int:
    if text in data.class_names:
        return data.class_names.index(text)
    if text.isascii() and text.isdigit() and int(text) < data.num_classes:
        return int(text)
    names = ", ".join(data.class_names[:20]) + (", ..." if data.num_classes > 20 else "")
    raise UsageError(f"{data.source}: no class {text!r}; give an index in 0..{data.num_classes - 1} or one of {names}")


def _two_classes(data: LabelledImages, a: str, b: str) -> tuple[int, int]:
    first, second = _class(data, a), _class(data, b)
    if first == second:
        raise UsageError(f"the classes {a} and {b} are the same")
    return first, second


def _number(text: str, name: str, bounds: str, inside: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not inside(value):
        raise UsageError(f"{name} must be a number in {bounds}, got {text!r}")
    return value


def _draw(indices: Tensor, fraction: str, rng: Generator) -> Tensor:
    """Draws `fraction` of the indices, rounded, without replacement; in ascending order."""
    share = _number(fraction, "FRACTION", "(0, 1]", lambda value: 0 < value <= 1)
    count = round(share * len(indices))
    if count == 0 and len(indices) > 0:
        raise UsageError(f"{fraction} of {len(indices)} images is no image")
    return indices[torch.from_numpy(np.sort(rng.permutation(len(indices))[:count]))]


def _members(data: LabelledImages, label: int) -> Tensor:
    return torch.nonzero(data.y == label).flatten()


def _add_patch(x: Tensor, indices: Tensor) -> Tensor:
    x = x.clone()
    x[indices, :, -_PATCH:, -_PATCH:] = 1.0
    return x


def _swap(data: LabelledImages, arguments: list[str], rng: Generator) -> tuple[Tensor, Tensor]:
    a, b = _two_classes(data, arguments[0], arguments[1])
    y = data.y.clone()
    for old, new in ((a, b), (b, a)):
        y[_draw(_members(data, old), arguments[2], rng)] = new
    return data.x, y


def _relabel(data: LabelledImages, arguments: list[str], rng: Generator) -> tuple[Tensor, Tensor]:
    a, b = _two_classes(data, arguments[0], arguments[1])
    y = data.y.clone()
    y[_draw(_members(data, a), arguments[2], rng)] = b
    return data.x, y


def _remove(data: LabelledImages, arguments: list[str], rng: Generator) -> tuple[Tensor, Tensor]:
    kept = torch.ones(len(data), dtype=torch.bool)
    kept[_draw(_members(data, _class(data, arguments[0])), arguments[1], rng)] = False
    return data.x[kept], data.y[kept]


def _flip(data: LabelledImages, arguments: list[str], rng: Generator) -> tuple[Tensor, Tensor]:
    chosen = _draw(_members(data, _class(data, arguments[0])), arguments[1], rng)
    x = data.x.clone()
    x[chosen] = data.x[chosen].flip(-1)
    return x, data.y


def _rotate(data: LabelledImages, arguments: list[str], _: Generator) -> tuple[Tensor, Tensor]:
    degrees = _number(arguments[1], "DEGREES", "(-360, 360), not 0", lambda value: 0 < abs(value) < 360)
    chosen = _members(data, _class(data, arguments[0]))
    x = data.x.clone()
    x[chosen] = rotate(data.x[chosen], degrees)
    return x, data.y


def _darken(data: LabelledImages, arguments: list[str], _: Generator) -> tuple[Tensor, Tensor]:
    factor = _number(arguments[1], "FACTOR", "[0, 1)", lambda value: 0 <= value < 1)
    x = data.x.clone()
    x[_members(data, _class(data, arguments[0]))] *= factor
    return x, data.y


def _patch(data: LabelledImages, arguments: list[str], rng: Generator) -> tuple[Tensor, Tensor]:
    chosen = _draw(_members(data, _class(data, arguments[0])), arguments[1], rng)
    return _add_patch(data.x, chosen), data.y


def _backdoor(data: LabelledImages, arguments: list[str], rng: Generator) -> tuple[Tensor, Tensor]:
    target = _class(data, arguments[0])
    chosen = _draw(torch.arange(len(data)), arguments[1], rng)
    y = data.y.clone()
    y[chosen] = target
    return _add_patch(data.x, chosen), y


def _noise(data: LabelledImages, arguments: list[str], rng: Generator) -> tuple[Tensor, Tensor]:
    sigma = _number(arguments[0], "SIGMA", "(0, inf)", lambda value: 0 < value < math.inf)
    noise = torch.from_numpy(rng.standard_normal(tuple(data.x.shape), dtype=np.float32))
    return (data.x + sigma * noise).clamp(0, 1), data.y


def _expand(data: LabelledImages, arguments: list[str], rng: Generator, split: str = "train") -> tuple[Tensor, Tensor]:
    label = _class(data, arguments[0])
    other = load_data(arguments[1], split)
    if other.input_shape != data.input_shape:
        shapes = ["x".join(str(n) for n in shape) for shape in (other.input_shape, data.input_shape)]
        raise UsageError(f"the images of {arguments[1]} are {shapes[0]}, but those of {data.source} are {shapes[1]}")
    found = _members(other, _class(other, arguments[2]))
    share = _number(arguments[3], "SHARE", "(0, inf)", lambda value: 0 < value < math.inf)
    chosen = rng.permutation(len(found))[: round(share * len(_members(data, label)))]
    added = other.x[found[torch.from_numpy(np.sort(chosen))]]
    return torch.cat([data.x, added]), torch.cat([data.y, torch.full((len(added),), label)])


_KINDS: dict[str, tuple[str, Callable[[LabelledImages, list[str], Generator], tuple[Tensor, Tensor]]]] = {
    "swap": ("A,B[,FRACTION]", _swap),
    "relabel": ("A,B,FRACTION", _relabel),
    "remove": ("A[,FRACTION]", _remove),
    "flip": ("A[,FRACTION]", _flip),
    "rotate": ("A,DEGREES", _rotate),
    "darken": ("A,FACTOR", _darken),
    "patch": ("A,FRACTION", _patch),
    "backdoor": ("A,FRACTION", _backdoor),
    "noise": ("SIGMA", _noise),
    "expand": ("A,DATA,B[,SHARE]", _expand),
}
