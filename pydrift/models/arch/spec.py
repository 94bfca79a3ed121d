"""The text that fully determines a built-in network, such as `mlp:1x28x28:256-128:10`. No torch here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from pydrift.core.errors import UsageError
from pydrift.core.limits import MAX_PLANNED

# A spec may come from the metadata of a hostile model file: numbers and length are limited before anything is built.
_MAX_LENGTH = 200
_NUMBER = "[1-9][0-9]{0,4}"
_SHAPE = f"(?P<shape>{_NUMBER}x{_NUMBER}x{_NUMBER})"
_CHANNELS = f"(?P<channels>{_NUMBER}(?:,{_NUMBER})*)"
_HIDDEN = f"(?P<hidden>{_NUMBER}(?:-{_NUMBER})*)"
_CLASSES = f"(?P<classes>{_NUMBER})"


class _Family(NamedTuple):
    form: str
    example: str
    pattern: str


_FAMILIES = {
    "mlp": _Family(
        "mlp:CxHxW:WIDTH-...:CLASSES",
        "mlp:1x28x28:256-128:10",
        f"mlp:{_SHAPE}:{_HIDDEN}:{_CLASSES}",
    ),
    "convnet": _Family(
        "convnet:CxHxW:CHANNELS,...:WIDTH:CLASSES",
        "convnet:1x28x28:32,64:128:10",
        f"convnet:{_SHAPE}:{_CHANNELS}:(?P<hidden>{_NUMBER}):{_CLASSES}",
    ),
    "resnet9": _Family("resnet9:CxHxW:CLASSES", "resnet9:3x32x32:10", f"resnet9:{_SHAPE}:{_CLASSES}"),
    "resnet18": _Family("resnet18:CxHxW:CLASSES", "resnet18:3x32x32:10", f"resnet18:{_SHAPE}:{_CLASSES}"),
}

# Of residual networks: channels, by how much the image is smaller, and how many maps of that size a pass makes.
_RESIDUAL_MAPS = {
    "resnet9": ((64, 1, 3), (128, 1, 3), (128, 2, 8), (256, 2, 3), (256, 4, 1), (512, 4, 3), (512, 8, 8)),
    "resnet18": ((64, 1, 17), (128, 2, 16), (256, 4, 16), (512, 8, 16)),
}

EXAMPLES = tuple(family.example for family in _FAMILIES.values())


@dataclass(frozen=True)
class ArchSpec:
    """A built-in network. `str(spec)` is its one canonical text, and `parse(str(spec)) == spec`.

    family       "mlp" | "convnet" | "resnet9" | "resnet18"
    input_shape  (C, H, W)
    num_classes  at least 2
    channels     output channels of each stage (convnet), else empty
    hidden       widths of the hidden layers (mlp: one or more, convnet: one), else empty

    UsageError where the text would be invalid, pooling leaves no pixel of the image, or one image would need more than
    MAX_PLANNED bytes (see `planned_bytes`).
    """

    family: str
    input_shape: tuple[int, int, int]
    num_classes: int
    channels: tuple[int, ...] = ()
    hidden: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        text = str(self)
        _match(text)
        if self.num_classes < 2:
            raise _error(text, "a classifier needs at least 2 classes")
        num_poolings = 3 if self.family == "resnet9" else len(self.channels)
        _, height, width = self.input_shape
        smallest = 2**num_poolings
        if min(height, width) < smallest:
            raise _error(text, f"{height}x{width} pixels are pooled away: each side needs at least {smallest}")
        if self.planned_bytes > MAX_PLANNED:
            raise _error(
                text, f"one image needs {self.planned_bytes:,} bytes for its feature maps, the limit is {MAX_PLANNED:,}"
            )

    @property
    def planned_bytes(self) -> int:
        """What the maps of all layers take for one image, with their gradients: 8 bytes a value."""
        channels, height, width = self.input_shape
        values = channels * height * width + 2 * sum(self.hidden) + self.num_classes
        for made in self.channels:
            values += 2 * made * height * width  # convolution and ReLU
            height, width = height // 2, width // 2
            values += made * height * width
        for made, shrunk, maps in _RESIDUAL_MAPS.get(self.family, ()):
            values += maps * made * -(-height // shrunk) * -(-width // shrunk)
        return 8 * values

    def __str__(self) -> str:
        parts = [self.family, "x".join(map(str, self.input_shape))]
        if self.channels:
            parts.append(",".join(map(str, self.channels)))
        if self.hidden:
            parts.append("-".join(map(str, self.hidden)))
        return ":".join([*parts, str(self.num_classes)])


def parse(text: str) -> ArchSpec:
    """Reads a spec. UsageError, with the text and the reason, if it is none."""
    groups = _match(text)
    channels, height, width = map(int, groups["shape"].split("x"))
    return ArchSpec(
        family=text.partition(":")[0],
        input_shape=(channels, height, width),
        num_classes=int(groups["classes"]),
        channels=_numbers(groups.get("channels"), ","),
        hidden=_numbers(groups.get("hidden"), "-"),
    )


def is_spec(text: str) -> bool:
    """Whether `text` means a built-in network, valid or not: a family's name, a colon and a digit."""
    family, _, rest = text.partition(":")
    return family in _FAMILIES and rest[:1].isdigit()


def _match(text: str) -> dict[str, str]:
    if len(text) > _MAX_LENGTH:
        raise _error(text[:40] + "...", f"longer than {_MAX_LENGTH} characters")
    family = _FAMILIES.get(text.partition(":")[0])
    if family is None:
        raise _error(text, f"no such family; the built-in ones are {', '.join(_FAMILIES)}")
    match = re.fullmatch(family.pattern, text)
    if match is None:
        raise _error(text, f"not of the form {family.form} with numbers from 1 to 99999, as in {family.example}")
    return match.groupdict()


def _numbers(text: str | None, separator: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(separator))) if text else ()


def _error(text: str, reason: str) -> UsageError:
    return UsageError(f"architecture '{text}': {reason}")
