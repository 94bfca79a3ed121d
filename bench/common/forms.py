"""Forms in which a function or a network runs faster: compiled, captured, another memory layout, other products."""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def with_own_code(function: Any) -> Any:
    """Gives the function a code object of its own.

    torch.compile counts recompilations by code object, so closures of one function would share a limit.
    """
    function.__code__ = function.__code__.replace()
    return function


def compile_function(function: Any, **options: Any) -> Any:
    """Compiles for fixed shapes, in one graph."""
    return torch.compile(function, fullgraph=True, dynamic=False, **options)


def capture_graph(run: Callable[[], Any]) -> Callable[[], Any]:
    """Makes one CUDA graph of the whole run with all its steps. The first call captures it."""
    captured: list[tuple[torch.cuda.CUDAGraph, Any]] = []

    def replay() -> Any:
        if not captured:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                run()  # compilation, autotuning and workspaces
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                result = run()
            captured.append((graph, result))
        graph, result = captured[0]
        graph.replay()
        return result

    return replay


# ---- Memory layout, precision, products


def to_bfloat16(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Runs the network with weights and activations in bfloat16.

    The weights are cast once. That is faster than autocast, which casts them in every step.
    """
    small = channels_last(copy.deepcopy(network).to(torch.bfloat16))
    return lambda x: small(x.to(torch.bfloat16)).float()


def channels_last(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Runs the network with images and convolution weights whose channels are last in memory."""
    changed = copy.deepcopy(network)
    for parameter in changed.parameters():
        parameter.data = nhwc(parameter.data) if parameter.ndim == 4 else parameter.data
    return lambda x: changed(nhwc(x))


def nhwc(x: Tensor) -> Tensor:
    """Lays out a tensor with the channels last in memory.

    With one channel torch would take both layouts for NCHW, and so would all layers behind. max_pool2d alone is then
    ten times slower on a CPU.
    """
    count, channels, height, width = x.shape
    if channels == 1:
        return x.reshape(count, height, width, 1).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


def product(weight: Tensor, bias: Tensor | None, block: int, then: str = "none") -> Callable[[Tensor], Tensor]:
    """Returns a function for x weight^T + bias, followed by `then` ("none" or "relu"), that is fast for `block` rows.

    On the CPU oneDNN computes it with weights that are packed once. On some processors it is twice as fast as torch.
    """
    one_dnn = torch.ops.mkldnn
    if weight.device.type == "cpu" and hasattr(one_dnn, "_linear_pointwise"):
        packed = one_dnn._reorder_linear_weight(weight, block)
        return lambda x: one_dnn._linear_pointwise(x, packed, bias, then, [], "")
    if then == "relu":
        return lambda x: F.linear(x, weight, bias).relu_()
    return lambda x: F.linear(x, weight, bias)
