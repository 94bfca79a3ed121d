"""The operations in plain torch, for any float dtype and device: what they mean, and what the tests compare with."""

import torch
from torch import Tensor
from torch.nn.functional import pad


def prior_gradient(x: Tensor, tv_weight: float, l2_weight: float) -> Tensor:
    """Gradient of tv_weight * TV + l2_weight * sum(x^2), TV the squared differences of neighbours in a plane.

    x: [N, C, H, W], any float dtype; the result has its shape. A pixel beyond the border equals the one at it.
    """
    padded = pad(x, (1, 1, 1, 1), mode="replicate")
    up, down = padded[..., :-2, 1:-1], padded[..., 2:, 1:-1]
    left, right = padded[..., 1:-1, :-2], padded[..., 1:-1, 2:]
    roughness = ((x - up) + (x - down)) + ((x - left) + (x - right))
    return (2 * tv_weight) * roughness + (2 * l2_weight) * x


def square_root(values: Tensor) -> Tensor:
    """Correctly rounded, as the native code has it; torch's own float32 square root is off by a bit on some CPUs."""
    return values.double().sqrt().to(values.dtype)


def ascent_update(
    x: Tensor,
    gradient: Tensor,
    first_moment: Tensor,
    second_moment: Tensor,
    log_probability: Tensor,
    best_cost: Tensor,
    stale: Tensor,
    steps: Tensor,
    active: Tensor,
    *,
    optimizer: str,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    tv_weight: float,
    l2_weight: float,
    lower: float,
    upper: float,
    confidence_threshold: float,
    patience: int,
) -> None:
    """See `pydrift.ops.ascent_update`. The operations are in the order of the native code, for the same bits."""
    cost = -torch.expm1(log_probability.double()).to(best_cost.dtype)
    improved = cost < best_cost
    stale_now = torch.where(improved, 0, stale + 1)
    confident = log_probability.double().exp() >= confidence_threshold
    finite = gradient.isfinite().flatten(1).all(1)
    best_cost.copy_(torch.where(active & improved, cost, best_cost))
    stale.copy_(torch.where(active, stale_now, stale))
    active &= ~confident & (stale_now < patience) & finite
    steps += active

    def per_sample(values: Tensor) -> Tensor:
        return values.to(x.dtype).view(-1, 1, 1, 1)

    going = active.view(-1, 1, 1, 1)
    ascent = gradient - prior_gradient(x, tv_weight, l2_weight)
    if optimizer == "adam":
        first = beta1 * first_moment + (1 - beta1) * ascent
        second = beta2 * second_moment + (1 - beta2) * (ascent * ascent)
        second_moment.copy_(torch.where(going, second, second_moment))
        step_size = per_sample(learning_rate / (1 - beta1 ** steps.double()))
        second_scale = per_sample(1 / (1 - beta2 ** steps.double()).sqrt())
        change = step_size * (first / (square_root(second) * second_scale + epsilon))
    else:
        first = beta1 * first_moment + ascent
        change = learning_rate * first
    first_moment.copy_(torch.where(going, first, first_moment))
    x.copy_(torch.where(going, (x + change).clamp(lower, upper), x))
