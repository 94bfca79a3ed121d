"""A layer program in plain torch: logits, log-probabilities and their gradient, for any float dtype and device."""

from collections.abc import Sequence
from itertools import islice
from math import prod
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Precision = Literal["float32", "3xtf32", "tf32", "bfloat16"]


def logits(x: Tensor, program: Sequence[int], parameters: Tensor) -> Tensor:
    """[N, K] of images [N, C, H, W] by the network of a program with the parameters [P] of one model."""
    codes = iter(program)
    used = 0

    def take(*shape: int) -> Tensor:
        nonlocal used
        start, used = used, used + prod(shape)
        return parameters[start:used].view(shape)

    for layer, kind in enumerate(codes):
        match kind:
            case 0:
                c_in, c_out = islice(codes, 2)
                x = F.linear(x, take(c_out, c_in), take(c_out))
            case 1:
                c_in, c_out, *window = islice(codes, 8)
                x = F.conv2d(x, take(c_out, c_in, *window[:2]), take(c_out), window[2:4], window[4:])
            case 2:
                (channels,) = islice(codes, 1)
                shape = (channels, *[1] * (x.ndim - 2))
                x = x * take(*shape) + take(*shape)
            case 3:
                x = F.relu(x)
            case 4:
                window = list(islice(codes, 6))
                x = F.max_pool2d(x, window[:2], window[2:4], window[4:])
            case 5:
                window = list(islice(codes, 4))
                x = F.avg_pool2d(x, window[:2], window[2:])
            case 6:
                x = x.flatten(1)
            case _:
                raise ValueError(f"invert: program: layer {layer}: unknown kind {kind}")
    return x


def log_probability(x: Tensor, label: Tensor, program: Sequence[int], parameters: Tensor) -> Tensor:
    """log p(label | x) [N]; NaN where a logit is not finite."""
    values = logits(x, program, parameters)
    chosen = values.log_softmax(1).gather(1, label[:, None])[:, 0]
    return torch.where(values.isfinite().all(1), chosen, torch.nan)


def log_probability_gradient(
    x: Tensor, label: Tensor, program: Sequence[int], parameters: Tensor
) -> tuple[Tensor, Tensor]:
    """log p(label | x) [N] and its gradient in x [N, C, H, W], both NaN where a logit is not finite."""
    x = x.detach().requires_grad_()
    value = log_probability(x, label, program, parameters)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    value = value.detach()
    return value, torch.where(value.isnan().view(-1, 1, 1, 1), torch.nan, gradient)


def num_classes(op: str, x: Tensor, program: Sequence[int], parameters: Tensor) -> int:
    """How many logits the networks of a program, with parameters [K, P], make of images like those of x."""
    probe = logits(x[:0].to(parameters.dtype), program, parameters.new_zeros(parameters.shape[1]))
    if not program or probe.ndim != 2:
        raise ValueError(f"{op}: program: must end in flat logits, one per class")
    return probe.shape[1]


def check_precision(op: str, precision: str, x: Tensor) -> None:
    """Refuses a precision that no device has, or that the device of x has not."""
    if precision not in get_args(Precision):
        raise ValueError(f"{op}: precision must be 'float32', '3xtf32', 'tf32' or 'bfloat16', got '{precision}'")
    if precision != "float32" and x.device.type == "cpu":
        raise ValueError(f"{op}: precision '{precision}' needs a GPU; on the CPU there is 'float32'")


def check_range(op: str, name: str, ids: Tensor, limit: int) -> None:
    """Refuses ids [N] that are not all in [0, limit)."""
    outside = ((ids < 0) | (ids >= limit)).nonzero()[:, 0].tolist()
    if outside:
        raise ValueError(f"{op}: {name} must be in [0, {limit}), got {ids[outside[0]].item()} at index {outside[0]}")
