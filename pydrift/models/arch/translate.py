"""From traced calls to layers: the tables and rules of the supported modules, functions and methods."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pydrift.models.arch.fused import Affine, AvgPool2d, Conv2d, Flatten, Layer, Linear, MaxPool2d, ReLU


class Unsupported(Exception):
    """The reason why a call is no layer; `lower` adds the place."""


def evaluate(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """What the call returns for these values of its arguments."""
    args = fx.node.map_arg(node.args, values.__getitem__)
    kwargs = fx.node.map_arg(node.kwargs, values.__getitem__)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    if node.op == "call_function" and callable(node.target):
        return node.target(*args, **kwargs)
    raise Unsupported("a layer on constants")


def translate(
    node: fx.Node, head: fx.Node, traced: fx.GraphModule, values: dict[fx.Node, Any], x: Tensor
) -> Layer | None:
    """The layer of a call on the images (node `head`, value `x`); None if the call changes nothing."""
    if node.op == "call_module":
        part = traced.get_submodule(str(node.target))
        from_module = _MODULES.get(type(part))
        if from_module is None:
            raise Unsupported(f"{type(part).__name__} is not supported")
        return from_module(part, x)
    if node.target in _ARITHMETIC:
        return _affine(node, head, values, x)
    if node.target in _RESHAPES and node.args[0] is head:
        return _flatten(evaluate(node, values), x)
    from_function = _FUNCTIONS.get(node.target)
    if from_function is None or node.args[:1] != (head,):
        name = re.sub(r"_\d+$", "", node.name)  # node names are the functions' names, numbered
        raise Unsupported(f"{name} is not supported")
    kwargs = fx.node.map_arg(node.kwargs, values.__getitem__)
    return from_function(x, *fx.node.map_arg(node.args[1:], values.__getitem__), **kwargs)


def _pair(value: Any) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return int(first), int(second)


def _require(kind: str, **options: tuple[Any, Any]) -> None:
    """Raises Unsupported for an option (got, supported) whose two values differ."""
    for name, (got, supported) in options.items():
        if got != supported:
            raise Unsupported(f"{kind} with {name}={got!r} is not supported")


def _linear(m: nn.Linear, x: Tensor) -> Layer:
    if x.ndim != 2:
        raise Unsupported("Linear on images that were not flattened")
    return Linear(m.weight, _bias(m))


def _conv2d(m: nn.Conv2d, x: Tensor) -> Layer:
    _require("Conv2d", groups=(m.groups, 1), dilation=(m.dilation, (1, 1)), padding_mode=(m.padding_mode, "zeros"))
    if isinstance(m.padding, str):
        raise Unsupported(f"Conv2d with padding={m.padding!r} is not supported")
    return Conv2d(m.weight, _bias(m), _pair(m.stride), _pair(m.padding))


def _bias(m: nn.Linear | nn.Conv2d) -> Tensor:
    return m.weight.new_zeros(len(m.weight)) if m.bias is None else m.bias


def _batch_norm(m: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Layer:
    if m.running_mean is None or m.running_var is None:
        raise Unsupported("BatchNorm without running statistics")
    scale = (m.running_var + m.eps).rsqrt()
    shift = -m.running_mean * scale
    return Affine(scale, shift) if m.weight is None else Affine(scale * m.weight, shift * m.weight + m.bias)


def _max_pool(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Layer:
    _require(
        "max_pool2d",
        dilation=(_pair(dilation), (1, 1)),
        ceil_mode=(ceil_mode, False),
        return_indices=(return_indices, False),
    )
    return MaxPool2d(_pair(kernel_size), _pair(stride or kernel_size), _pair(padding))


def _avg_pool(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Layer:
    _require(
        "avg_pool2d",
        padding=(_pair(padding), (0, 0)),
        ceil_mode=(ceil_mode, False),
        divisor_override=(divisor_override, None),
    )
    return AvgPool2d(_pair(kernel_size), _pair(stride or kernel_size))


def _adaptive_avg_pool(x: Tensor, output_size: Any) -> Layer:
    height, width = x.shape[-2:]
    out_h, out_w = (output_size, output_size) if isinstance(output_size, int) else output_size
    out_h, out_w = out_h or height, out_w or width  # None keeps the size
    if height % out_h or width % out_w:
        raise Unsupported(f"adaptive_avg_pool2d from {height}x{width} to {out_h}x{out_w} has windows of several sizes")
    kernel = (height // out_h, width // out_w)
    return AvgPool2d(kernel, kernel)


def _flatten(reshaped: Tensor, x: Tensor) -> Layer | None:
    if reshaped.shape != x.flatten(1).shape:
        raise Unsupported(f"reshapes to [{dims(reshaped)}] instead of [N, features]")
    return None if x.ndim == 2 else Flatten()


def _affine(node: fx.Node, head: fx.Node, values: dict[fx.Node, Any], x: Tensor) -> Layer:
    """Arithmetic of the images with constants: an affine function, determined by its values at 0 and at 1."""
    divides_by_images = node.target in _DIVISIONS and node.args[0] is not head
    if list(node.args).count(head) != 1 or node.kwargs or divides_by_images:
        raise Unsupported("arithmetic other than of the images with a constant")
    at_zero, at_one = (evaluate(node, {**values, head: torch.full_like(x, value)}) for value in (0.0, 1.0))
    if at_zero.shape != x.shape:
        raise Unsupported("arithmetic that changes the shape")
    scale, shift = (t[0].reshape(x.shape[1], -1) for t in (at_one - at_zero, at_zero))
    if not ((scale == scale[:, :1]).all() and (shift == shift[:, :1]).all()):
        raise Unsupported("arithmetic with a constant that differs within a channel")
    return Affine(scale[:, 0], shift[:, 0])


def _nothing(*_: Any, **__: Any) -> None:
    """A layer that does nothing in evaluation mode."""


def _relu(*_: Any, **__: Any) -> Layer:
    return ReLU()


def dims(x: Tensor) -> str:
    """The shape as text, with N for the number of images."""
    return ", ".join(["N", *map(str, x.shape[1:])])


# Exact types: a subclass may compute something else, and is traced into or refused.
_MODULES: dict[type[nn.Module], Callable[[Any, Tensor], Layer | None]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.ReLU: _relu,
    nn.MaxPool2d: lambda m, x: _max_pool(
        x, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices
    ),
    nn.AvgPool2d: lambda m, x: _avg_pool(
        x, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, m.divisor_override
    ),
    nn.AdaptiveAvgPool2d: lambda m, x: _adaptive_avg_pool(x, m.output_size),
    nn.Flatten: lambda m, x: _flatten(m(x), x),
    nn.Dropout: _nothing,
    nn.Dropout2d: _nothing,
    nn.Identity: _nothing,
}

# Functions, and methods by name. F.dropout is dropped for every value of its flag; `_verify` finds out if it is on.
_FUNCTIONS: dict[Any, Callable[..., Layer | None]] = {
    torch.relu: _relu,
    F.relu: _relu,
    "relu": _relu,
    F.max_pool2d: _max_pool,
    torch.max_pool2d: _max_pool,
    F.avg_pool2d: _avg_pool,
    F.adaptive_avg_pool2d: _adaptive_avg_pool,
    F.dropout: _nothing,
    F.dropout2d: _nothing,
    "contiguous": _nothing,
}
_RESHAPES = {torch.flatten, torch.reshape, "flatten", "view", "reshape"}
_DIVISIONS = {operator.truediv, torch.div, "div"}
_ARITHMETIC = {
    *_DIVISIONS,
    *(operator.add, operator.sub, operator.mul),
    *(torch.add, torch.sub, torch.mul),
    *("add", "sub", "mul"),
}
