"""Counts the floating-point operations of a network."""

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def forward_flops(network: nn.Module, x: Tensor) -> float:
    """Returns the operations of one forward pass of x, padding included."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x)
    return float(counter.get_total_flops())


def first_layer_flops(network: nn.Module, x: Tensor) -> float:
    """Returns the operations of the first layer's forward pass of x."""
    first = next(part for part in network.modules() if isinstance(part, nn.Linear | nn.Conv2d))
    return forward_flops(first, x if isinstance(first, nn.Conv2d) else x.flatten(1))
