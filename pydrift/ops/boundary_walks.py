"""Walks from images to where a network's answer changes, many at once, each from its start to its stop in one call."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from pydrift.ops import reference
from pydrift.ops.native import register_fake, run_op
from pydrift.ops.options import BlindWalkOptions, MinGdOptions
from pydrift.ops.reference import L1, L2, LINF

__all__ = ["L1", "L2", "LINF", "BoundaryWalks", "blind_walk", "min_gd"]


class BoundaryWalks(NamedTuple):
    """Of every walk:

    distance    float32 [N]  how far it came, in its norm; NaN where a logit or a gradient was not finite
    steps       int32 [N]    steps it took: the network was asked once more than that
    prediction  int32 [N]    the class in which it ended, the first of equals; -1 where a logit was not finite
    """

    distance: Tensor
    steps: Tensor
    prediction: Tensor


def min_gd(
    x: Tensor,
    parameters: Tensor,
    model: Tensor,
    image: Tensor,
    label: Tensor,
    norm: Tensor,
    *,
    program: Sequence[int],
    options: MinGdOptions,
) -> BoundaryWalks:
    """Walks from images along the gradient: how far must each go until the network takes it for a given class?

    For each walk n, with z the logits of the network that `program` and row `model[n]` of `parameters` make::

        start = now = x[image[n]]
        for step in 0, 1, ..., max_steps:
            prediction = argmax z(now);   stop if that is label[n], or if step = max_steps
            g = gradient in now of z(now)[label[n]] - max z(now)
            change = linf_step * sign(g)                              norm 0, LINF
                     l2_step * g / |g|_2                              norm 1, L2
                     l1_step * sign(g) on some coordinates, else 0    norm 2, L1
            now = clamp(now + change, lower, upper);   stop if that changed nothing
        distance = norm of (now - start)

    An l1 step moves the `l1_coordinates` coordinates of the largest |g| (and those equal to the last of them) among
    those that can go on by `l1_gap` before they are at their bound.

    ==============  =============  =======  =======================================================================
    argument        shape          dtype    meaning
    ==============  =============  =======  =======================================================================
    x               [I, C, H, W]   float32  images
    parameters      [M, P]         float32  of each model: `FusedModel.parameters()`
    model           [N]            int32    through which model each walk goes, in [0, M)
    image           [N]            int32    where it begins, in [0, I)
    label           [N]            int32    the class that it walks to
    norm            [N]            int32    LINF, L2 or L1
    ==============  =============  =======  =======================================================================

    program: the layers as integers, as `pydrift.ops.invert` documents them; `FusedModel.program()` writes it.

    Ranges: N >= 0; max_steps in [0, 2^24); steps > 0; l1_coordinates >= 1; l1_gap >= 0; lower < upper, and the
    images between these. Tensors are contiguous and on one device.

    Not finite: a walk that meets a logit that is not finite ends there, without a prediction; one whose gradient is not
    finite ends with the prediction that it had. (On the CPU max-pooling prefers a number to a NaN, and the borders of a
    convolution are zeros, which times an infinite weight are NaN.)

    Errors: ValueError with the argument's name, what it must be and what it is; also for a tensor that requires grad.

    Determinism: a walk depends on its own image, model, label and norm only, not on the other walks, their order or
    the number of threads. AVX2 and AVX-512 give the same bits. Other code adds in another order: where a logit nearly
    equals the largest, or a gradient is nearly zero, a walk may then take another step, and end up a little elsewhere.

    Source: Maini, Yaghini, Papernot, "Dataset Inference: Ownership Resolution in Machine Learning", ICLR 2021.
    """
    tensors = {"x": x, "parameters": parameters, "model": model, "image": image, "label": label, "norm": norm}
    return BoundaryWalks(*run_op("min_gd", reference.min_gd, tensors, program=list(program), **vars(options)))


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
    options: BlindWalkOptions,
) -> BoundaryWalks:
    """Walks from images along given directions: how far until the network no longer takes the image for its label?

    For each walk n, with z the logits of the network that `program` and row `model[n]` of `parameters` make::

        for step in 0, 1, ..., max_steps:
            now = clamp(x[image[n]] + step * directions[direction[n]], lower, upper)
            prediction = argmax z(now);   stop if that is not label[n]
        distance = norm of (now - x[image[n]])

    Only labels are asked for: no gradient, no logits.

    ==============  =============  =======  =======================================================================
    argument        shape          dtype    meaning
    ==============  =============  =======  =======================================================================
    x               [I, C, H, W]   float32  images
    directions      [D, C, H, W]   float32  what one step adds
    direction       [N]            int32    along which each walk goes, in [0, D)
    label           [N]            int32    the class that it leaves
    ==============  =============  =======  =======================================================================

    and the others, ranges, errors, determinism and source as `min_gd` has them.
    """
    tensors = {
        "x": x,
        "directions": directions,
        "parameters": parameters,
        "model": model,
        "image": image,
        "direction": direction,
        "label": label,
        "norm": norm,
    }
    return BoundaryWalks(*run_op("blind_walk", reference.blind_walk, tensors, program=list(program), **vars(options)))


def _fake_min_gd(x: Tensor, parameters: Tensor, model: Tensor, *tensors: Tensor, **options: object) -> BoundaryWalks:
    return _fake(x, model)


def _fake_blind_walk(
    x: Tensor, directions: Tensor, parameters: Tensor, model: Tensor, *tensors: Tensor, **options: object
) -> BoundaryWalks:
    return _fake(x, model)


def _fake(x: Tensor, model: Tensor) -> BoundaryWalks:
    shape = model.shape
    return BoundaryWalks(x.new_empty(shape), model.new_empty(shape), model.new_empty(shape))


register_fake("min_gd", _fake_min_gd)
register_fake("blind_walk", _fake_blind_walk)
