"""The operations in plain torch, for any float dtype and device: what they mean, and what the tests compare with."""

from collections.abc import Iterator, Sequence
from itertools import islice
from math import prod
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from pydrift.core.noise import MAX_RESTARTS, Phase, integers, words

Precision = Literal["float32", "3xtf32", "tf32", "bfloat16"]

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


def roll(x: Tensor, shift: Tensor) -> Tensor:
    """Each image of x [N, C, H, W] rolled down and to the right by its own row of shift, int64 [N, 2].

    A permutation of the pixels, undone by -shift.
    """
    count, channels, height, width = x.shape
    row = (torch.arange(height, device=x.device) - shift[:, :1]) % height  # [N, H]
    column = (torch.arange(width, device=x.device) - shift[:, 1:]) % width  # [N, W]
    pixel = (row[:, :, None] * width + column[:, None, :]).view(count, 1, -1).expand(-1, channels, -1)
    return x.flatten(2).gather(2, pixel).view_as(x)


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
    _check_precision("invert", precision, x)
    for name, ids, limit in (
        ("model", model, len(parameters)),
        ("label", label, num_classes("invert", x, program, parameters)),
        ("restart", restart, MAX_RESTARTS + 1),
    ):
        outside = ((ids < 0) | (ids >= limit)).nonzero()[:, 0].tolist()
        if outside:
            got = f"{ids[outside[0]].item()} at index {outside[0]}"
            raise ValueError(f"invert: {name} must be in [0, {limit}), got {got}")
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
    stale, steps, active = taken.clone(), taken.clone(), torch.ones_like(label, dtype=torch.bool)
    for step in range(max_steps):
        bits = words(seed, Phase.JITTER, 2, label=label.cpu().numpy(), restart=restart.cpu().numpy(), step=step)
        shift = torch.from_numpy(integers(bits, -jitter, jitter)).to(x.device)
        value, gradient = log_probability_gradient(roll(x, shift), label, program, parameters)
        gradient = roll(gradient, -shift)
        ascent_update(x, gradient, first, second, value, best_cost, stale, steps, active, **options)
        if not active.all():
            images[rows], taken[rows] = x, steps
            state = (rows, label, restart, x, first, second, best_cost, stale, steps)
            rows, label, restart, x, first, second, best_cost, stale, steps = (part[active] for part in state)
            active = active[active]
        if not len(rows):
            break
    images[rows], taken[rows] = x, steps
    return images, log_probability(images, labels, program, parameters), taken


def shadow_statistics(
    x: Tensor, parameters: Tensor, label: Tensor, *, program: Sequence[int], precision: str = "float32"
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `pydrift.ops.shadow_statistics`, whose arguments these are. Computes in the dtype of the parameters."""
    _check_precision("shadow_statistics", precision, x)
    _check_labels("shadow_statistics", label, program, parameters, x)
    shape = (len(parameters), len(x))
    margin, loss, confidence = (parameters.new_empty(shape) for _ in range(3))
    prediction = label.new_empty(shape)
    for model, rows, values in _in_blocks(x, parameters, program):
        answer = answer_statistics(values, label[rows])
        for kept, found in zip((margin, loss, confidence, prediction), answer, strict=True):
            kept[model, rows] = found.to(kept.dtype)
    return margin, loss, confidence, prediction


def shadow_logits(x: Tensor, parameters: Tensor, *, program: Sequence[int]) -> Tensor:
    """See `pydrift.ops.shadow_logits`, whose arguments these are. Computes in the dtype of the parameters."""
    result = parameters.new_empty((len(parameters), len(x), num_classes("shadow_logits", x, program, parameters)))
    for model, rows, values in _in_blocks(x, parameters, program):
        result[model, rows] = values
    return result


def _in_blocks(x: Tensor, parameters: Tensor, program: Sequence[int]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Model, numbers of some samples, and the model's logits for these; images of bytes as value / 255."""
    for model, numbers in enumerate(parameters):
        for rows in torch.arange(len(x), device=x.device).split(_BLOCK):
            images = x[rows].to(parameters.dtype)
            with torch.no_grad():
                values = logits(images / 255 if x.dtype == torch.uint8 else images, program, numbers)
            yield model, rows, values


def answer_statistics(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Margin, loss, confidence [N] and prediction int64 [N] of logits [N, K] and labels [N] of any integer type.

    As `pydrift.ops.shadow_statistics` defines them: in float64, rounded once to the dtype of the logits; NaN where a
    logit is not finite.
    """
    values, chosen = logits.double(), label[:, None].long()
    lead_of_others = (values - values.gather(1, chosen)).scatter(1, chosen, -torch.inf)
    margin = torch.where(values.isfinite().all(1), -lead_of_others.logsumexp(1), torch.nan)
    loss = margin.clamp(max=0).neg() + margin.abs().neg().exp().log1p()
    in_float64 = margin, loss, margin.sigmoid()
    rounded = [statistic.to(logits.dtype) for statistic in in_float64]
    return rounded[0], rounded[1], rounded[2], logits.argmax(1)


def shadow_moments(
    x: Tensor,
    parameters: Tensor,
    label: Tensor,
    member: Tensor,
    *,
    program: Sequence[int],
    precision: str = "float32",
) -> tuple[Tensor, Tensor, Tensor]:
    """See `pydrift.ops.shadow_moments`, whose arguments these are. Computes in the dtype of the parameters."""
    _check_precision("shadow_moments", precision, x)
    count = label.new_zeros((2, len(x)))
    mean, m2 = parameters.new_zeros(count.shape), parameters.new_zeros(count.shape)
    for model in range(len(parameters)):
        (margin,) = shadow_statistics(x, parameters[model : model + 1], label, program=program)[0]
        side = torch.stack([~member[model], member[model]])
        count += side
        before = margin - mean
        mean = torch.where(side, mean + before / count, mean)
        m2 = torch.where(side, m2 + before * (margin - mean), m2)
    return count, mean, m2


def _check_precision(op: str, precision: str, x: Tensor) -> None:
    if precision not in get_args(Precision):
        raise ValueError(f"{op}: precision must be 'float32', '3xtf32', 'tf32' or 'bfloat16', got '{precision}'")
    if precision != "float32" and x.device.type == "cpu":
        raise ValueError(f"{op}: precision '{precision}' needs a GPU; on the CPU there is 'float32'")


def num_classes(op: str, x: Tensor, program: Sequence[int], parameters: Tensor) -> int:
    """How many logits the networks of a program, with parameters [K, P], make of images like those of x."""
    probe = logits(x[:0].to(parameters.dtype), program, parameters.new_zeros(parameters.shape[1]))
    if not program or probe.ndim != 2:
        raise ValueError(f"{op}: program: must end in flat logits, one per class")
    return probe.shape[1]


def _check_labels(op: str, label: Tensor, program: Sequence[int], parameters: Tensor, x: Tensor) -> None:
    classes = num_classes(op, x, program, parameters)
    outside = ((label < 0) | (label >= classes)).nonzero()[:, 0].tolist()
    if outside:
        got = f"{label[outside[0]].item()} at index {outside[0]}"
        raise ValueError(f"{op}: label must be in [0, {classes}), got {got}")
