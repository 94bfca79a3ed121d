"""Normalisation of pixels as a part of the model, so that all audits see images in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pydrift.core.errors import InputRefused, UsageError
from pydrift.models.intake import AuditedModel
from pydrift.models.live import unwrapped


@dataclass(frozen=True)
class Normalization:
    """(x - mean) / std for each channel of x in [0, 1]; one value for all channels, or one for each.

    UsageError: not as many means as standard deviations, a value that is not finite, or a std that is not positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not (len(self.mean) == len(self.std) > 0 and all(map(math.isfinite, self.mean + self.std))):
            raise UsageError(f"normalisation: as many finite means as standard deviations, got {self}")
        if min(self.std) <= 0:
            raise UsageError(f"normalisation: each standard deviation must be > 0, got {self}")

    def __str__(self) -> str:
        return ":".join(",".join(f"{value:g}" for value in values) for values in (self.mean, self.std))

    @classmethod
    def parse(cls, text: str) -> Normalization:
        """Reads MEAN:STD, each a number or a list with commas. UsageError for anything else."""
        mean, _, std = text.partition(":")
        try:
            return cls(*(tuple(float(part) for part in values.split(",")) for values in (mean, std)))
        except ValueError as error:
            raise UsageError(
                f"normalisation: expected MEAN:STD, such as 0.5:0.25 or 0.4,0.5,0.6:0.2,0.2,0.2, got {text!r}"
            ) from error

    @classmethod
    def of(cls, value: Any) -> Normalization:
        """Reads (mean, std), each a number or a sequence of numbers. UsageError for anything else."""
        if isinstance(value, Normalization):
            return value
        try:
            mean, std = value
            return cls(*(tuple(map(float, v if isinstance(v, Sequence | Tensor) else [v])) for v in (mean, std)))
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"normalize must be (mean, std), each a number or one for each channel, got {value!r}"
            ) from error

    def describe(self) -> dict[str, list[float]]:
        """As plain JSON values."""
        return {"mean": list(self.mean), "std": list(self.std)}

    def check(self, channels: int) -> None:
        """UsageError where there are means for another number of channels."""
        if len(self.mean) not in (1, channels):
            raise UsageError(f"normalisation: {len(self.mean)} means, but the images have {channels} channels")

    def apply(self, audited: AuditedModel, what: str) -> AuditedModel:
        """The model, and its fresh starts, with this normalisation before it.

        what  its name in messages. InputRefused where the model is normalised in another way.
        """
        if isinstance(audited.module, Normalized):
            if audited.module.normalization != self:
                raise InputRefused(f"{what}: normalised by {audited.module.normalization}, expected {self}")
            return audited
        initial = audited.initial()
        return replace(
            audited,
            module=Normalized(audited.module, self).eval(),
            frozen=frozenset(f"network.{name}" for name in audited.frozen),
            fresh=None if initial is None else lambda seed: Normalized(unwrapped(initial(seed)), self),
        )


class Normalized(nn.Module):
    """A network that takes normalised images, as one that takes images [N, C, H, W] in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, normalization: Normalization) -> None:
        super().__init__()
        self.network, self.normalization = network, normalization
        # In no state dict: they are no weights, and whoever loads these names the normalisation.
        self.register_buffer("mean", torch.tensor(normalization.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(normalization.std).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Any:
        """What the network returns."""
        return self.network((x - self.mean) / self.std)
