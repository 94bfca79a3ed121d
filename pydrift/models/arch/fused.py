"""A lowered network: a flat chain of layers that hold nothing but frozen, contiguous float32 tensors.

The native loops read it. Each layer also runs in plain torch here, which defines its meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Linear:
    """[N, in] -> [N, out]"""

    weight: Tensor  # [out, in]
    bias: Tensor  # [out]

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


@dataclass(frozen=True, eq=False)
class Conv2d:
    """[N, in, H, W] -> [N, out, H', W'], zero padding, one group, no dilation"""

    weight: Tensor  # [out, in, kernel_h, kernel_w]
    bias: Tensor  # [out]
    stride: tuple[int, int]
    padding: tuple[int, int]

    def __call__(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)


@dataclass(frozen=True, eq=False)
class Affine:
    """scale[c] * x + shift[c]: an input normalisation, or a BatchNorm that follows no Linear or Conv2d"""

    scale: Tensor  # [C]
    shift: Tensor  # [C]

    def __call__(self, x: Tensor) -> Tensor:
        shape = (-1, *[1] * (x.ndim - 2))
        return x * self.scale.view(shape) + self.shift.view(shape)


@dataclass(frozen=True)
class ReLU:
    def __call__(self, x: Tensor) -> Tensor:
        return F.relu(x)


@dataclass(frozen=True)
class MaxPool2d:
    """[N, C, H, W] -> [N, C, H', W'], sizes rounded down"""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    def __call__(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, self.kernel, self.stride, self.padding)


@dataclass(frozen=True)
class AvgPool2d:
    """[N, C, H, W] -> [N, C, H', W'], no padding, sizes rounded down"""

    kernel: tuple[int, int]
    stride: tuple[int, int]

    def __call__(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.kernel, self.stride)


@dataclass(frozen=True)
class Flatten:
    """[N, C, H, W] -> [N, C * H * W]"""

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(1)


Layer = Linear | Conv2d | Affine | ReLU | MaxPool2d | AvgPool2d | Flatten


def map_tensors(layer: Layer, function: Callable[[Tensor], Tensor]) -> Layer:
    """The same layer with `function` applied to each of its tensors."""
    changed: dict[str, Any] = {name: function(tensor) for name, tensor in _tensors(layer)}
    return replace(layer, **changed)


def _code(layer: Layer) -> list[int]:
    """The kind of the layer and its sizes."""
    match layer:
        case Linear():
            return [0, layer.weight.shape[1], layer.weight.shape[0]]
        case Conv2d():
            c_out, c_in, *kernel = layer.weight.shape
            return [1, c_in, c_out, *kernel, *layer.stride, *layer.padding]
        case Affine():
            return [2, len(layer.scale)]
        case ReLU():
            return [3]
        case MaxPool2d():
            return [4, *layer.kernel, *layer.stride, *layer.padding]
        case AvgPool2d():
            return [5, *layer.kernel, *layer.stride]
        case Flatten():
            return [6]


def _tensors(layer: Layer) -> Iterator[tuple[str, Tensor]]:
    for field in fields(layer):
        value = getattr(layer, field.name)
        if isinstance(value, Tensor):
            yield field.name, value


@dataclass(frozen=True, eq=False)
class FusedModel:
    """The result of `lower`: the function of a module in evaluation mode.

    Called with images [N, C, H, W] float32 it returns logits [N, K], differentiable with respect to the images.
    """

    layers: tuple[Layer, ...]
    input_shape: tuple[int, int, int]  # (C, H, W)
    num_classes: int

    def __call__(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x

    def program(self) -> list[int]:
        """The layers as integers, as `pydrift.ops.invert` documents them."""
        return [number for layer in self.layers for number in _code(layer)]

    def parameters(self) -> Tensor:
        """The parameters of all layers in the order of `program`: float32 [num_parameters]."""
        tensors = [tensor.flatten() for layer in self.layers for _, tensor in _tensors(layer)]
        return torch.cat(tensors) if tensors else torch.empty(0)

    def map_values(self) -> int:
        """How many values the maps of all layers have for one image."""
        tensors = (tensor for layer in self.layers for _, tensor in _tensors(layer))
        device = next((tensor.device for tensor in tensors), torch.device("cpu"))
        x, count = torch.zeros(1, *self.input_shape, device=device), 0
        for layer in self.layers:
            x = layer(x)
            count += x.numel()
        return count

    @property
    def num_parameters(self) -> int:
        """The number of parameters, after folding."""
        return sum(tensor.numel() for layer in self.layers for _, tensor in _tensors(layer))

    def to(self, device: torch.device | str) -> FusedModel:
        """The same network on `device`."""
        return replace(self, layers=tuple(map_tensors(layer, lambda t: t.to(device)) for layer in self.layers))
