"""What an out-of-distribution detector is here, and the state that a fitted one is saved and restored by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from pydrift.core.errors import InputRefused, UsageError
from pydrift.fingerprint.features import Features, Needs


class Fitted(Protocol):
    """A detector that has seen the training data: a frozen dataclass of tensors, tuples of tensors and numbers."""

    def score(self, features: Features) -> Tensor:
        """float [N]: the higher, the more like what it was fitted on. A pure function, image by image."""
        ...


class Detector(Protocol):
    """A detector before it has seen anything: a frozen value of its settings, none of them chosen on outlier data."""

    @property
    def title(self) -> str:
        """Name and source in a few words."""
        ...

    @property
    def needs(self) -> Needs: ...

    def fit(self, features: Features, labels: Tensor) -> Fitted:
        """Learns from the features [N, ...] of images that the network was trained on, and their labels int64 [N].

        UsageError where the features that it needs were not collected, or the labels do not fit.
        """
        ...


def check_fit(detector: Detector, features: Features, labels: Tensor) -> None:
    """UsageError unless the features hold what the detector needs, and the labels are one class index per image."""
    needs = detector.needs
    for name in ("penultimate", "head", "pooled", "spread", "grams", "nudged"):
        value = getattr(features, name)
        if getattr(needs, name) and (value is None or value == ()):
            raise UsageError(f"{detector.title} needs the features {name!r}, which were not collected")
    count, classes = features.logits.shape
    if labels.shape != (count,) or labels.dtype != torch.int64:
        raise UsageError(f"labels must be torch.int64 [{count}], got {labels.dtype} {list(labels.shape)}")
    if count == 0:
        raise UsageError("a detector cannot be fitted on no images")
    if labels.min() < 0 or labels.max() >= classes:
        raise UsageError(f"labels must be in 0..{classes - 1}, got {int(labels.min())} to {int(labels.max())}")


def state_of(fitted: Fitted) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name (those of a tuple as NAME.0, NAME.1, ...) and plain numbers by name."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for field in fields(fitted):  # type: ignore[arg-type]
        value = getattr(fitted, field.name)
        if isinstance(value, Tensor):
            tensors[field.name] = value
        elif isinstance(value, tuple):
            numbers[field.name] = len(value)
            tensors |= {f"{field.name}.{i}": tensor for i, tensor in enumerate(value)}
        else:
            numbers[field.name] = value
    return tensors, numbers


def restored(kind: type[Any], tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> Fitted:
    """The fitted detector of class `kind` that `state_of` was asked for. InputRefused where something is missing."""
    values: dict[str, Any] = {}
    for field in fields(kind):
        try:
            if "tuple" in str(field.type):
                values[field.name] = tuple(tensors[f"{field.name}.{i}"] for i in range(int(numbers[field.name])))
            elif "Tensor" in str(field.type):
                values[field.name] = tensors[field.name]
            else:
                values[field.name] = {"int": int, "float": float}[str(field.type)](numbers[field.name])
        except (KeyError, TypeError, ValueError) as error:
            raise InputRefused(f"{field.name} of a {kind.__name__} is missing or damaged") from error
    fitted: Fitted = kind(**values)
    return fitted


def moved(fitted: Fitted, device: torch.device) -> Fitted:
    """The same on a device."""
    assert is_dataclass(fitted)
    values = {field.name: getattr(fitted, field.name) for field in fields(fitted)}
    for name, value in values.items():
        if isinstance(value, Tensor):
            values[name] = value.to(device)
        elif isinstance(value, tuple):
            values[name] = tuple(tensor.to(device) for tensor in value)
    return replace(fitted, **values)
