"""Walks to the decision boundary in plain torch, for any network, float dtype and device: what the operations mean."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pydrift.ops.options import BlindWalkOptions, MinGdOptions
from pydrift.ops.reference.network import check_range, logits, num_classes

_BLOCK, _BLOCK_VALUES = 256, 1 << 22  # walks under way together, and their pixels: no result depends on it
LINF, L2, L1 = 0, 1, 2

Forward = Callable[[Tensor], Tensor]
Walked = tuple[Tensor, Tensor, Tensor]  # distance [N], steps int32 [N], prediction int32 [N]


def min_gd(
    x: Tensor,
    parameters: Tensor,
    model: Tensor,
    image: Tensor,
    label: Tensor,
    norm: Tensor,
    *,
    program: Sequence[int],
    **scalars: Any,
) -> Walked:
    """See `pydrift.ops.min_gd`; scalars are those of `MinGdOptions`, by name. Computes in the dtype of x."""
    options = MinGdOptions(**scalars)
    _check("min_gd", x, parameters, program, options, model=model, image=image, label=label, norm=norm)
    walk = partial(min_gd_through, x=x, options=options)
    return _by_model(
        parameters, program, model, lambda forward, rows: walk(forward, image[rows], label[rows], norm[rows])
    )


def blind_walk(
    x: Tensor,
    directions: Tensor,
    parameters: Tensor,
    model: Tensor,
    image: Tensor,
    direction: Tensor,
    label: Tensor,
    norm: Tensor,
    *,
    program: Sequence[int],
    **scalars: Any,
) -> Walked:
    """See `pydrift.ops.blind_walk`; scalars are those of `BlindWalkOptions`, by name. Computes in the dtype of x."""
    options = BlindWalkOptions(**scalars)
    _check("blind_walk", x, parameters, program, options, model=model, image=image, label=label, norm=norm)
    check_range("blind_walk", "direction", direction, len(directions))
    walk = partial(blind_walk_through, x=x, directions=directions, options=options)
    return _by_model(
        parameters,
        program,
        model,
        lambda forward, rows: walk(forward, image[rows], direction[rows], label[rows], norm[rows]),
    )


def min_gd_through(
    forward: Forward, image: Tensor, label: Tensor, norm: Tensor, *, x: Tensor, options: MinGdOptions
) -> Walked:
    """The walks of `pydrift.ops.min_gd` through one network, [n, C, H, W] -> logits [n, K], differentiable."""

    def answer_and_gradient(now: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode(False), torch.enable_grad():
            now = now.clone().requires_grad_()
            answer = forward(now)
            chosen = label[rows, None].long()
            gain = answer.gather(1, chosen)[:, 0] - answer.max(1).values
            (gradient,) = torch.autograd.grad(gain.sum(), now)
        return answer.detach(), gradient

    def go(now: Tensor, gradient: Tensor, rows: Tensor, step: int) -> Tensor:
        change = _change(now, gradient, norm[rows], options)
        return (now + change).clamp(options.lower, options.upper)

    return _walk(
        answer_and_gradient, go, x, image, norm, lambda prediction, rows: prediction == label[rows], options.max_steps
    )


def blind_walk_through(
    forward: Forward,
    image: Tensor,
    direction: Tensor,
    label: Tensor,
    norm: Tensor,
    *,
    x: Tensor,
    directions: Tensor,
    options: BlindWalkOptions,
) -> Walked:
    """The walks of `pydrift.ops.blind_walk` through one network, [n, C, H, W] -> logits [n, K]."""

    def answer_and_gradient(now: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return forward(now), torch.zeros_like(now)

    def go(now: Tensor, gradient: Tensor, rows: Tensor, step: int) -> Tensor:
        ahead = x[image[rows].long()] + step * directions[direction[rows].long()]
        return ahead.clamp(options.lower, options.upper)

    return _walk(
        answer_and_gradient,
        go,
        x,
        image,
        norm,
        lambda prediction, rows: prediction != label[rows],
        options.max_steps,
        stops=False,
    )


def _walk(
    answer_and_gradient: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    go: Callable[[Tensor, Tensor, Tensor, int], Tensor],
    x: Tensor,
    image: Tensor,
    norm: Tensor,
    crosses: Callable[[Tensor, Tensor], Tensor],
    max_steps: int,
    stops: bool = True,
) -> Walked:
    """Walks in blocks; each goes on while it has neither crossed nor (where it `stops`) come to a halt.

    go(now, gradient, rows, step): where they are after `step` steps.
    """
    count = len(image)
    distance, steps = x.new_empty(count), torch.zeros(count, dtype=torch.int32, device=x.device)
    prediction = torch.zeros_like(steps)
    block = max(1, min(_BLOCK, _BLOCK_VALUES // max(1, x[:1].numel())))
    for rows in torch.arange(count, device=x.device).split(block):
        start = x[image[rows].long()]
        now = start.clone() if stops else go(start, start, rows, 0)
        for step in range(max_steps + 1):
            answer, gradient = answer_and_gradient(now, rows)
            failed = ~answer.isfinite().all(1)
            found = torch.where(failed, -1, answer.argmax(1)).int()
            there = ~failed & crosses(found, rows)
            if step < max_steps:
                failed |= ~there & ~gradient.isfinite().flatten(1).all(1)
            ended = failed | there
            ahead = now
            if step < max_steps:
                ahead = go(now, gradient, rows, step + 1)
                if stops:
                    ended |= (ahead == now).flatten(1).all(1)
            else:
                ended = torch.ones_like(ended)
            change = (now - start)[ended].flatten(1).double()
            done = rows[ended]
            distance[done] = torch.where(failed[ended], torch.nan, _size(change, norm[done])).to(x.dtype)
            steps[done], prediction[done] = step, found[ended]
            rows, start, now = rows[~ended], start[~ended], ahead[~ended]
            if not len(rows):
                break
    return distance, steps, prediction


def _change(x: Tensor, gradient: Tensor, norm: Tensor, options: MinGdOptions) -> Tensor:
    """One step of every walk, before the projection."""
    flat = gradient.flatten(1)
    largest = flat.abs().amax(1, keepdim=True)
    share = flat / torch.where(largest > 0, largest, 1)
    length = share.norm(dim=1, keepdim=True)
    l2 = share * torch.where(length > 0, options.l2_step / length, 0)
    rising, falling = x <= options.upper - options.l1_gap, x >= options.lower + options.l1_gap
    can_move = torch.where(gradient > 0, rising, falling).flatten(1)
    movable = torch.where(can_move, flat.abs(), 0)
    least = movable.topk(min(options.l1_coordinates, movable.shape[1]), dim=1).values[:, -1:]
    l1 = torch.where((movable >= least) & (movable > 0), options.l1_step * flat.sign(), 0)
    kind = norm[:, None]
    change = torch.where(kind == L2, l2, torch.where(kind == L1, l1, options.linf_step * flat.sign()))
    return change.view_as(x)


def _size(change: Tensor, norm: Tensor) -> Tensor:
    """[N] of changes float64 [N, D], each by its own norm."""
    if not len(change):
        return change.new_empty(0)
    sizes = torch.stack([change.abs().amax(1), change.norm(dim=1), change.abs().sum(1)])
    return sizes.gather(0, norm[None].long())[0]


def _by_model(
    parameters: Tensor, program: Sequence[int], model: Tensor, walk: Callable[[Forward, Tensor], Walked]
) -> Walked:
    """Walks of several models, `rows` those of one of them."""
    count = len(model)
    distance, steps, prediction = parameters.new_empty(count), torch.zeros_like(model), torch.zeros_like(model)
    for owner, rows in _rows_by_model(model):
        with torch.inference_mode(False):  # of what the caller is in, autograd must know nothing
            numbers = parameters[owner].clone()
        result = walk(lambda x, numbers=numbers: logits(x, program, numbers), rows)  # type: ignore[misc]
        distance[rows], steps[rows], prediction[rows] = result
    return distance, steps, prediction


def _rows_by_model(model: Tensor) -> Iterator[tuple[int, Tensor]]:
    for owner in model.unique().tolist():
        yield owner, (model == owner).nonzero()[:, 0]


def _check(
    op: str,
    x: Tensor,
    parameters: Tensor,
    program: Sequence[int],
    options: MinGdOptions | BlindWalkOptions,
    **ids: Tensor,
) -> None:
    classes = num_classes(op, x, program, parameters)
    if not 0 <= options.max_steps < 2**24:
        raise ValueError(f"{op}: max_steps must be in [0, 2^24), got {options.max_steps}")
    if not options.lower < options.upper:
        raise ValueError(f"{op}: lower must be below upper, got {options.lower:g} and {options.upper:g}")
    if isinstance(options, MinGdOptions):
        _check_steps(op, options)
    limits = {"model": len(parameters), "image": len(x), "label": classes, "norm": 3}
    for name, values in ids.items():
        check_range(op, name, values, limits[name])


def _check_steps(op: str, options: MinGdOptions) -> None:
    steps = (options.linf_step, options.l2_step, options.l1_step)
    if not all(0 < step < math.inf for step in steps):
        raise ValueError(f"{op}: steps must be finite and > 0, got {steps[0]:g}, {steps[1]:g} and {steps[2]:g}")
    if not 1 <= options.l1_coordinates <= 2**24:
        raise ValueError(f"{op}: l1_coordinates must be in [1, 2^24], got {options.l1_coordinates}")
    if not 0 <= options.l1_gap < math.inf:
        raise ValueError(f"{op}: l1_gap must be finite and >= 0, got {options.l1_gap:g}")
