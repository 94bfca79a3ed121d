"""A null: benign shadow models, and what they and the base say of gray data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pydrift.drift.scores import PROBES
from pydrift.drift.soundness import CONSENSUS, OWN, Recognised
from pydrift.inversion.gray import GrayData

_FIGURES = ("confidence", "recognition", "own_confidence")
_TYPES = dict.fromkeys(_FIGURES, torch.float64)


@dataclass(frozen=True)
class Null:
    """K shadows of one kind, see pydrift.drift.choice.

    shadows         in eval mode, on the CPU
    accuracy        of each shadow on reference images that it did not see; None where it saw all
    consensus       float32 [groups, classes, restarts, C, H, W]: images that groups of shadows take for the classes
    responses       of each probe, of each variant float32 [K + 1, ..., classes], the base first (see
                    pydrift.drift.responses)
    confidence      float64 [classes]: the shadows' mean confidence in the consensus images that they made
    recognition     float64 [K + 1, classes]: each model's mean confidence in the consensus that it had no part in
    own_confidence  float64 [K + 1, classes]: each model's mean confidence in its own gray data
    base_p_value    p of the base as if it were a candidate; None where it is none (shadows that continue from it)
    exchanges       p of planted exchanges (see pydrift.drift.exchange)
    """

    shadows: tuple[nn.Module, ...]
    accuracy: tuple[float | None, ...]
    consensus: NDArray[np.float32]
    responses: dict[str, dict[str, NDArray[np.float32]]]
    confidence: NDArray[np.float64]
    recognition: NDArray[np.float64]
    own_confidence: NDArray[np.float64]
    base_p_value: float | None
    exchanges: tuple[float, ...]

    def compare_recognition(self, recognition: NDArray[np.float64], gray: GrayData) -> dict[str, Recognised]:
        """How surely shadows and a candidate recognise the classes, for pydrift.drift.soundness.

        recognition  float64 [classes]: the candidate's mean confidence in the consensus
        gray         of the candidate
        """
        own = gray.confidence.mean(axis=1, dtype=float)
        return {
            CONSENSUS: Recognised(self.recognition[1:], recognition),
            OWN: Recognised(self.own_confidence[1:], own),
        }

    def describe(self) -> NullDescription:
        """What is not a tensor."""
        asked = {name: list(variants) for name, variants in self.responses.items()}
        return NullDescription(len(self.shadows), self.accuracy, asked, self.base_p_value, self.exchanges)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, those of the shadows' weights too."""
        arrays = {"consensus": self.consensus, **{name: getattr(self, name) for name in _FIGURES}}
        arrays |= {
            f"responses.{probe}.{v}": table
            for probe, variants in self.responses.items()
            for v, table in variants.items()
        }
        weights = {
            f"model.{k}.{name}": tensor
            for k, module in enumerate(self.shadows)
            for name, tensor in module.state_dict().items()
        }
        return {name: torch.from_numpy(values) for name, values in arrays.items()} | weights


@dataclass(frozen=True)
class NullDescription:
    """What a file says of a null; fields that Null has too are that field.

    shadows  how many
    asked    the variants of each probe, in their order
    """

    shadows: int
    accuracy: tuple[float | None, ...]
    asked: dict[str, list[str]]
    base_p_value: float | None
    exchanges: tuple[float, ...]

    def rebuild(self, state: Mapping[str, Tensor], shadows: Sequence[nn.Module], images: Sequence[int]) -> Null:
        """The null of tensors as `Null.tensors` names them.

        images  [classes, C, H, W] of the consensus. ValueError unless the tensors have the shapes that are described.
        """
        check_types({name: t for name, t in state.items() if not name.startswith("model.")}, _TYPES, torch.float32)
        tables = {name: tensor.numpy() for name, tensor in below("responses.", state).items()}
        responses = _responses(self.asked, tables)
        classes = images[0]
        fits = state["confidence"].shape == (classes,) and len(self.accuracy) == self.shadows
        for name in ("recognition", "own_confidence"):
            fits &= state[name].shape == (self.shadows + 1, classes)
        consensus = state["consensus"]
        fits &= consensus.shape[1:2] + consensus.shape[3:] == tuple(images)
        for probe, variants in responses.items():
            for table in variants.values():
                fits &= table.ndim >= 2 and (table.shape[0], table.shape[-1]) == (self.shadows + 1, classes)
                fits &= not PROBES[probe].per_class or table.shape[1:] == (classes, classes)
        if not fits:
            raise ValueError("its parts do not fit together")
        return Null(
            shadows=tuple(shadows),
            accuracy=self.accuracy,
            consensus=consensus.numpy(),
            responses=responses,
            base_p_value=self.base_p_value,
            exchanges=self.exchanges,
            **{name: state[name].numpy() for name in _FIGURES},
        )


def check_types(tensors: Mapping[str, Tensor], types: Mapping[str, torch.dtype], other: torch.dtype) -> None:
    """ValueError unless each tensor has the type that is written: that of its name in `types`, else `other`."""
    for name, tensor in tensors.items():
        if tensor.dtype != types.get(name, other):
            raise ValueError(f"{name!a} is of {tensor.dtype}")


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _responses(
    asked: Mapping[str, Sequence[str]], tables: Mapping[str, NDArray[np.float32]]
) -> dict[str, dict[str, NDArray[np.float32]]]:
    """The tables by probe and variant, in the order of PROBES and of `asked`. ValueError unless they are just those."""
    for probe, variants in asked.items():
        for variant in variants:
            if probe in PROBES and f"{probe}.{variant}" not in tables:
                raise ValueError(f"the responses to {probe}.{variant} are missing")
    responses = {i: {variant: tables[f"{i}.{variant}"] for variant in asked[i]} for i in PROBES if i in asked}
    if not 0 < sum(map(len, asked.values())) == sum(map(len, responses.values())) == len(tables):
        raise ValueError("its parts do not fit together")
    return responses
