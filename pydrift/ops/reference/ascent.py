"""`ascent_update` and `invert` in plain torch: the truth that the native code is tested against."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pydrift.core.noise import MAX_RESTARTS, Phase, integers, words
from pydrift.ops.options import AscentOptions
from pydrift.ops.reference.network import (
    check_precision,
    check_range,
    log_probability,
    log_probability_gradient,
    num_classes,
)

_BLOCK = 256  # restarts ascended together: bounds the memory, and the work does not depend on the number of restarts


def prior_gradient(x: Tensor, tv_weight: float, l2_weight: float) -> Tensor:
    """Gradient of tv_weight * TV + l2_weight * sum(x^2), TV the squared differences of neighbours in a plane.

    x: [N, C, H, W], any float dtype; the result has its shape. A pixel beyond the border equals the one at it.
    """
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
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
    steps_without_improvement: Tensor,
    steps: Tensor,
    active: Tensor,
    **options: Any,
) -> None:
    """See `pydrift.ops.ascent_update`; options are those of `AscentOptions`, by name.

    The operations are in the order of the native code, for the same bits.
    """
    chosen = AscentOptions(**options)
    cost = -torch.expm1(log_probability.double()).to(best_cost.dtype)
    improved = cost < best_cost
    count_now = torch.where(improved, 0, steps_without_improvement + 1)
    confident = log_probability.double().exp() >= chosen.confidence_threshold
    finite = gradient.isfinite().flatten(1).all(1)
    best_cost.copy_(torch.where(active & improved, cost, best_cost))
    steps_without_improvement.copy_(torch.where(active, count_now, steps_without_improvement))
    active &= ~confident & (count_now < chosen.patience) & finite
    steps += active

    def per_sample(values: Tensor) -> Tensor:
        return values.to(x.dtype).view(-1, 1, 1, 1)

    going = active.view(-1, 1, 1, 1)
    ascent = gradient - prior_gradient(x, chosen.tv_weight, chosen.l2_weight)
    if chosen.optimizer == "adam":
        first = chosen.beta1 * first_moment + (1 - chosen.beta1) * ascent
        second = chosen.beta2 * second_moment + (1 - chosen.beta2) * (ascent * ascent)
        second_moment.copy_(torch.where(going, second, second_moment))
        step_size = per_sample(chosen.learning_rate / (1 - chosen.beta1 ** steps.double()))
        second_scale = per_sample(1 / (1 - chosen.beta2 ** steps.double()).sqrt())
        change = step_size * (first / (square_root(second) * second_scale + chosen.epsilon))
    else:
        first = chosen.beta1 * first_moment + ascent
        change = chosen.learning_rate * first
    first_moment.copy_(torch.where(going, first, first_moment))
    x.copy_(torch.where(going, (x + change).clamp(chosen.lower, chosen.upper), x))


def roll(x: Tensor, shift: Tensor) -> Tensor:
    """Each image of x [N, C, H, W] rolled down and to the right by its own row of shift, int64 [N, 2].

    A permutation of the pixels, undone by -shift.
    """
    count, channels, height, width = x.shape
    row = (torch.arange(height, device=x.device) - shift[:, :1]) % height  # [N, H]
    column = (torch.arange(width, device=x.device) - shift[:, 1:]) % width  # [N, W]
    pixel = (row[:, :, None] * width + column[:, None, :]).view(count, 1, -1).expand(-1, channels, -1)
    return x.flatten(2).gather(2, pixel).view_as(x)


def invert(
    x: Tensor,
    parameters: Tensor,
    model: Tensor,
    label: Tensor,
    restart: Tensor,
    *,
    program: Sequence[int],
    precision: str,
    **options: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `pydrift.ops.invert`, whose arguments these are. Computes in the dtype of x, whatever the precision."""
    check_precision("invert", precision, x)
    check_range("invert", "model", model, len(parameters))
    check_range("invert", "label", label, num_classes("invert", x, program, parameters))
    check_range("invert", "restart", restart, MAX_RESTARTS + 1)
    with torch.inference_mode(False), torch.enable_grad():  # of what the caller is in, autograd must know nothing
        images, parameters, label = x.clone(), parameters.clone(), label.to(torch.int64, copy=True)
        value, steps = images.new_empty(len(images)), torch.zeros_like(label, dtype=torch.int32)
        for owner in model.unique().tolist():
            for rows in (model == owner).nonzero()[:, 0].split(_BLOCK):
                images[rows], value[rows], steps[rows] = _ascend(
                    images[rows], parameters[owner], label[rows], restart[rows], program=program, **options
                )
    x.copy_(images)
    return value.exp(), -value, steps


def _ascend(
    starts: Tensor,
    parameters: Tensor,
    label: Tensor,
    restart: Tensor,
    *,
    program: Sequence[int],
    seed: int,
    jitter: int,
    max_steps: int,
    **options: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Final images [N, C, H, W], log-probabilities [N] and steps [N] of restarts of one model."""
    images, taken, labels = starts.clone(), torch.zeros_like(label, dtype=torch.int32), label
    rows = torch.arange(len(starts), device=starts.device)  # of the restarts that still run; what follows is theirs
    x, first, second = starts, torch.zeros_like(starts), torch.zeros_like(starts)
    best_cost = starts.new_full(label.shape, torch.inf)
    steps_without_improvement, steps, active = taken.clone(), taken.clone(), torch.ones_like(label, dtype=torch.bool)
    for step in range(max_steps):
        bits = words(seed, Phase.JITTER, 2, label=label.cpu().numpy(), restart=restart.cpu().numpy(), step=step)
        shift = torch.from_numpy(integers(bits, -jitter, jitter)).to(x.device)
        value, gradient = log_probability_gradient(roll(x, shift), label, program, parameters)
        gradient = roll(gradient, -shift)
        ascent_update(x, gradient, first, second, value, best_cost, steps_without_improvement, steps, active, **options)
        if not active.all():
            images[rows], taken[rows] = x, steps
            state = (rows, label, restart, x, first, second, best_cost, steps_without_improvement, steps)
            rows, label, restart, x, first, second, best_cost, steps_without_improvement, steps = (
                part[active] for part in state
            )
            active = active[active]
        if not len(rows):
            break
    images[rows], taken[rows] = x, steps
    return images, log_probability(images, labels, program, parameters), taken
