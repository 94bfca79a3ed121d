"""The interface of an out-of-distribution detector, and how a fitted one is saved and restored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from pydrift.core.errors import InputRefused, UsageError
from pydrift.fingerprint.features import Features, Needs


class Fitted(Protocol):
    """A detector fitted to training data: a frozen dataclass of tensors, tuples of tensors, and numbers."""

    def score(self, features: Features) -> Tensor:
        """float [N]: higher is more like the training data. Deterministic; a score depends on its own image alone."""
        ...


class Detector(Protocol):
    """A detector before it is fitted: a frozen dataclass of its settings. None of them was tuned on outliers."""

    @property
    def title(self) -> str:
        """Its name and source in a few words."""
        ...

    @property
    def needs(self) -> Needs:
        """The features that it reads beside the logits."""
        ...

    def fit(self, features: Features, labels: Tensor) -> Fitted:
        """Learns from the features of N training images and their labels, int64 [N]. Deterministic.

        A class names the class of its result as the return type: that is how a saved fingerprint is restored.
        UsageError: the features that it needs are missing, or the labels do not fit.
        """
        ...


def check_fit(detector: Detector, features: Features, labels: Tensor) -> None:
    """UsageError: a feature that the detector needs is missing, or the labels are not one class index per image."""
    needs = detector.needs
    for name in ("penultimate", "head", "pooled", "spread", "grams", "nudged"):
        value = getattr(features, name)
        if getattr(needs, name) and (value is None or value == ()):
            raise UsageError(f"{detector.title} needs the features {name!r}, which are missing")
    count, classes = features.logits.shape
    if labels.shape != (count,) or labels.dtype != torch.int64:
        raise UsageError(f"labels must be torch.int64 [{count}], got {labels.dtype} {list(labels.shape)}")
    if count == 0:
        raise UsageError("a detector cannot be fitted on no images")
    if labels.min() < 0 or labels.max() >= classes:
        raise UsageError(f"labels must be in 0..{classes - 1}, got {int(labels.min())} to {int(labels.max())}")


def state_of(fitted: Fitted) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Its tensors and its numbers, both by name. A tuple NAME of tensors is NAME.0, NAME.1, ... and the number NAME."""
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


def restore(kind: type[Any], tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> Fitted:
    """The fitted detector of class `kind` from what `state_of` returned. InputRefused: something is missing."""
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


def to_device(fitted: Fitted, device: torch.device) -> Fitted:
    """The same detector with its tensors on the device."""
    assert is_dataclass(fitted)
    values = {field.name: getattr(fitted, field.name) for field in fields(fitted)}
    for name, value in values.items():
        if isinstance(value, Tensor):
            values[name] = value.to(device)
        elif isinstance(value, tuple):
            values[name] = tuple(tensor.to(device) for tensor in value)
    return replace(fitted, **values)
