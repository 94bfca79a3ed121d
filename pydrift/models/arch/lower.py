"""Lowering: from an nn.Module to the flat chain of layers that the native loops run.

The module's forward is traced symbolically (torch.fx), and then walked with a few random images. A call on the images
becomes a layer; a call on constants or sizes is evaluated at once. Anything but one plain chain of known layers is
refused with a reason. In the end the chain is compared with the module.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.parametrize import is_parametrized

from pydrift.core.errors import PydriftError
from pydrift.models.arch.fused import Affine, Conv2d, Flatten, FusedModel, Layer, Linear, map_tensors
from pydrift.models.arch.translate import Unsupported, dims, evaluate, translate
from pydrift.models.live import in_evaluation
from pydrift.models.outputs import to_logits

RELATIVE_TOLERANCE = 1e-4  # of the largest |logit|, for the float32 chain against the module in float64
_NUM_WALK_IMAGES = 7  # no reshape contains it by accident, and it is not _NUM_PROBES, so no layer can depend on it
_NUM_PROBES = 4


class NotLowerable(PydriftError):
    """The module is no plain chain of supported layers. The text gives the place and the reason."""


def lower(module: nn.Module, input_shape: Sequence[int]) -> FusedModel:
    """The function of `module` in evaluation mode as a chain of frozen float32 layers, on the CPU.

    Supported, as modules in any nesting and in their functional forms:
    * Linear, Conv2d (one group, no dilation, zero padding), ReLU, max- and average-pooling, Flatten;
    * BatchNorm with running statistics, which is folded in float64 into the Linear or Conv2d before it;
    * arithmetic with constants per channel;
    * Dropout and Identity, which are dropped.
    The result is compared with the module on seeded images.

    module       maps [N, C, H, W] to logits [N, K]; only a copy of it is read, so it does not change
    input_shape  (C, H, W)

    Raises NotLowerable for anything else: residual connections, hooks, parametrisations, other layers. Deterministic.
    Other threads may run or lower modules meanwhile.
    """
    channels, height, width = input_shape
    for name, part in module.named_modules():
        _refuse_hidden_effects(name or "module", part)
    with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            reference = in_evaluation(copy.deepcopy(module).cpu().double())
        except Exception as error:
            raise NotLowerable(f"module: cannot be copied: {_first_line(error)}") from error
        try:
            traced = _trace(reference)
        except Exception as error:
            raise NotLowerable(f"forward: cannot be traced: {_first_line(error)}") from error
        shape = (_NUM_WALK_IMAGES + _NUM_PROBES, channels, height, width)
        images = torch.rand(shape, generator=torch.Generator("cpu").manual_seed(0), dtype=torch.float32, device="cpu")
        walk_images, probes = images.split([_NUM_WALK_IMAGES, _NUM_PROBES])
        layers, logits = _walk(traced, walk_images.double())
        logits = _finish(layers, logits)
        if logits.ndim != 2:
            raise NotLowerable(f"forward: returns [{dims(logits)}] instead of logits [N, K]")
        frozen = tuple(map_tensors(layer, lambda t: t.to(torch.float32, copy=True).contiguous()) for layer in layers)
        fused = FusedModel(frozen, (channels, height, width), logits.shape[1])
        _verify(fused, reference, probes)
    return fused


_tracing = threading.Lock()  # a second trace would restore what the first one has replaced


class _Tracer(fx.Tracer):
    """Traces the calls of its own thread. fx replaces nn.Module.__call__ for all threads while it traces."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


def _trace(module: nn.Module) -> fx.GraphModule:
    with _tracing:
        tracer = _Tracer()
        graph = tracer.trace(module)
        return fx.GraphModule(tracer.root, graph)


def _refuse_hidden_effects(name: str, part: nn.Module) -> None:
    """Refuses what the trace of the forward does not contain."""
    if is_parametrized(part):
        raise NotLowerable(f"{name}: parametrised weights")
    if part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks:
        raise NotLowerable(f"{name}: has hooks")


def _verify(fused: FusedModel, reference: nn.Module, probes: Tensor) -> None:
    try:
        expected = to_logits(reference(probes.double()), len(probes))
    except Exception as error:
        raise NotLowerable(f"forward: fails on {len(probes)} images: {_first_line(error)}") from error
    got = fused(probes)
    if got.shape != expected.shape:
        raise _mismatch(f"logits are [{dims(got)}] instead of [{dims(expected)}]")
    difference, largest = (got - expected).abs().max().item(), expected.abs().max().item()
    if not difference <= RELATIVE_TOLERANCE * largest:  # "not": a NaN is a mismatch
        raise _mismatch(f"logits differ by {difference:.1e} where the largest is {largest:.1e}")


def _mismatch(how: str) -> NotLowerable:
    return NotLowerable(f"the lowered network does not reproduce the module: {how}")


def _walk(traced: fx.GraphModule, images: Tensor) -> tuple[list[Layer], Tensor]:
    """The layers in float64, and their output for `images` [N, C, H, W]."""
    placeholders = traced.graph.find_nodes(op="placeholder")
    if len(placeholders) != 1:
        raise NotLowerable(f"forward: takes {len(placeholders)} arguments instead of the images alone")
    layers: list[Layer] = []
    values: dict[fx.Node, Any] = {}
    head, x = placeholders[0], images  # the images after the layers so far
    for node in traced.graph.nodes:
        try:
            if node.op == "output":
                if _returned(node.args[0]) is not head:
                    raise Unsupported("does not return logits alone")
                break
            if node.op == "get_attr":
                values[node] = reduce(getattr, node.target.split("."), traced)
                continue
            if _asks_size(node) or (node is not head and head not in node.all_input_nodes):
                values[node] = evaluate(node, values)
                continue
            if node is not head:
                layer = translate(node, head, traced, values, x)
                if layer is not None:
                    x = layer(x)
                    _append(layers, layer)
        except (Unsupported, RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            reason = str(error) if isinstance(error, Unsupported) else _first_line(error)
            raise NotLowerable(f"{_place(node)}: {reason}") from error
        head, values[node] = node, x
        readers = [user for user in node.users if not _asks_size(user)]
        if len(readers) > 1:  # from here on, all calls on the images must read the head
            raise NotLowerable(f"{_common_owner(readers)}: residual or parallel connection")
    return layers, x


def _returned(value: Any) -> Any:
    """What is read of the traced output, as `to_logits` reads it."""
    while isinstance(value, tuple | list | dict) and value:
        value = value.get("logits") if isinstance(value, dict) else value[0]
    return value


def _finish(layers: list[Layer], logits: Tensor) -> Tensor:
    """Appends the layers of what `to_logits` does with [N, K, 1, 1] and with a single logit; returns their output."""
    if logits.ndim == 4 and logits.shape[2:] == (1, 1):
        layers.append(Flatten())
        logits = logits.flatten(1)
    if logits.ndim == 2 and logits.shape[1] == 1:
        second = Linear(logits.new_tensor([[0.0], [1.0]]), logits.new_zeros(2))
        layers.append(second)
        logits = second(logits)
    return logits


def _append(layers: list[Layer], layer: Layer) -> None:
    """Appends, or folds an Affine into the layer before it where that is linear: s * (W x + b) + t."""
    last = layers[-1] if layers else None
    if not (isinstance(layer, Affine) and isinstance(last, Linear | Conv2d | Affine)):
        layers.append(layer)
        return
    scale, shift = layer.scale, layer.shift
    if isinstance(last, Affine):
        layers[-1] = Affine(last.scale * scale, last.shift * scale + shift)
        return
    weight = last.weight * scale.view(-1, *[1] * (last.weight.ndim - 1))
    bias = last.bias * scale + shift
    layers[-1] = Linear(weight, bias) if isinstance(last, Linear) else Conv2d(weight, bias, last.stride, last.padding)


def _asks_size(node: fx.Node) -> bool:
    """Whether the call reads only sizes and types, no pixels: x.shape, x.size(0), x.device, ..."""
    if node.target is getattr:
        return node.args[1] in {"shape", "ndim", "device", "dtype"}
    return node.op == "call_method" and node.target in {"size", "dim"}


def _place(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else _owner(node) or "forward"


def _owner(node: fx.Node) -> str:
    """The dotted name of the module whose forward makes this call; "" for the whole module."""
    if node.op == "call_module":
        return str(node.target).rpartition(".")[0]
    stack = node.meta.get("nn_module_stack") or {"": None}
    return list(stack)[-1]


def _common_owner(nodes: list[fx.Node]) -> str:
    """The innermost module that makes all of these calls."""
    paths = zip(*(_owner(node).split(".") for node in nodes), strict=False)
    return ".".join(names[0] for names in takewhile(lambda names: len(set(names)) == 1, paths)) or "forward"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
