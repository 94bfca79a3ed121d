"""Plain torch's products with their factors rounded as the tensor cores of a GPU round them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

FEW_OUTPUTS = 4  # for so few the kernels keep to float32; BlockPlanner of csrc/network/cuda/block_planner.h


def to_tf32(values: Tensor) -> Tensor:
    """10 bits of mantissa; ties away from zero."""
    bits = values.float().contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32).to(values.dtype)


def to_bfloat16(values: Tensor) -> Tensor:
    return values.float().bfloat16().to(values.dtype)


ROUNDED = {"tf32": to_tf32, "bfloat16": to_bfloat16}


def round_products(patch: pytest.MonkeyPatch, rounded: Callable[[Tensor], Tensor]) -> None:
    """Rounds the factors of F.linear and F.conv2d, and of their gradients in the input."""
    for name in ("linear", "conv2d"):
        patch.setattr(F, name, _with_rounding(getattr(F, name), rounded))


def _with_rounding(exact: Callable[..., Tensor], rounded: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def product(x: Tensor, weight: Tensor, bias: Tensor, *window: Any) -> Tensor:
        class Product(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Tensor) -> Tensor:
                if len(weight) <= FEW_OUTPUTS:
                    return exact(x, weight, bias, *window)
                return exact(rounded(x), rounded(weight), bias, *window)

            @staticmethod
            def backward(ctx: Any, *gradients: Tensor) -> Tensor:
                (gradient,), factor = gradients, weight
                if weight.shape[1] > FEW_OUTPUTS:
                    gradient, factor = rounded(gradient), rounded(weight)
                with torch.enable_grad():
                    anywhere = torch.zeros_like(x, requires_grad=True)  # the product is linear
                    return torch.autograd.grad(exact(anywhere, factor, None, *window), anywhere, gradient)[0]

        result: Tensor = Product.apply(x)
        return result

    return product
