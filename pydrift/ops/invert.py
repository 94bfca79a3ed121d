"""Whole inversions, from their starts to their stops, in one call."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pydrift.ops import reference
from pydrift.ops.native import native_status, register_fake, run_op
from pydrift.ops.options import AscentOptions
from pydrift.ops.reference import Precision


class Inverted(NamedTuple):
    """What `invert` returns beside the images: of each restart, at its final image and without jitter,

    confidence  float32 [N]  the model's probability of the label
    loss        float32 [N]  -log of it
    steps       int32 [N]    ascent steps taken before the stop rule held
    """

    confidence: Tensor
    loss: Tensor
    steps: Tensor


def invert(
    x: Tensor,
    parameters: Tensor,
    model: Tensor,
    label: Tensor,
    restart: Tensor,
    *,
    program: Sequence[int],
    seed: int,
    jitter: int,
    max_steps: int,
    precision: Precision = "float32",
    options: AscentOptions,
) -> Inverted:
    """Ascends the log-probability of a label from every start, for many restarts of many models; x becomes the images.

    For each restart n, with f the network that `program` and row `model[n]` of `parameters` make::

        for step in 0, 1, ..., max_steps - 1:
            (down, right) = the noise of phase JITTER at (label[n], restart[n], step), each in [-jitter, jitter]
            log_probability = log softmax(f(roll(x[n], down, right)))[label[n]], and its gradient in x[n]
            one `ascent_update` of x[n] with moments, best cost and patience of its own; leave once that stops it

    with the stop rule, the priors, the optimizers, the projection and the options that `ascent_update` documents.

    ==============  =============  =======  =======================================================================
    argument        shape          dtype    meaning
    ==============  =============  =======  =======================================================================
    x               [N, C, H, W]   float32  starting images; replaced by the final ones
    parameters      [M, P]         float32  of each model: weights and biases in the order of the layers, see below
    model           [N]            int32    whose restart it is, in [0, M)
    label           [N]            int32    the class to ascend, in [0, K)
    restart         [N]            int32    number of the restart in the noise, in [0, 65536)
    ==============  =============  =======  =======================================================================

    program: the layers as integers, each a kind and its sizes; `FusedModel.program()` writes it::

        0 linear       in, out                                                   weight [out, in], bias [out]
        1 conv2d       in, out, kernel h, w, stride h, w, padding h, w           weight [out, in, h, w], bias [out]
        2 affine       channels                                                  scale [channels], shift [channels]
        3 relu
        4 max_pool2d   kernel h, w, stride h, w, padding h, w
        5 avg_pool2d   kernel h, w, stride h, w
        6 flatten

    precision: of the products. "float32" everywhere; on a GPU also, on tensor cores with sums in float32, "3xtf32" (as
    exact as float32 but for the last bits), "tf32" (factors rounded to 11 bits, gradients good to about 1e-3) and
    "bfloat16" (8 bits, about 1e-2).

    Ranges: N >= 0; C, H, W >= 1; at most 2^24 values at any layer and 2^28 parameters; seed any 64-bit integer; jitter
    and max_steps >= 0; the others as for `ascent_update`. Tensors are contiguous, on one device, and share no memory.

    Errors: ValueError with the argument's name, what it must be and what it is; also for parameters that are not
    finite, and for tensors that require grad. Nothing has been changed then. Not finite logits stop their restart, as
    in `ascent_update`; its confidence is then NaN. (On the CPU max-pooling prefers a number to a NaN.)

    Determinism: a restart's result depends on its own arguments only: not on the other restarts, their order, the
    number of threads or of models. AVX2 and AVX-512 give the same bits; scalar code, plain torch and a GPU add in
    another order or without fused multiply-add, so theirs agree to rounding errors, which a long ascent amplifies.

    Source: as `ascent_update`; the jitter as in DeepInversion (Yin et al., CVPR 2020).
    """
    tensors = {"x": x, "parameters": parameters, "model": model, "label": label, "restart": restart}
    finite = parameters.isfinite().all(dim=-1)
    if not finite.all():
        raise ValueError(f"invert: parameters of model {int((~finite).nonzero()[0])} are not finite")
    return Inverted(
        *run_op(
            "invert",
            reference.invert,
            tensors,
            program=list(program),
            seed=seed if seed < 2**63 else seed - 2**64,  # the same 64 bits as the signed number of the schema
            jitter=jitter,
            max_steps=max_steps,
            precision=precision,
            **vars(options),
        )
    )


def why_not_invertible(program: Sequence[int], parameters: Tensor, input_shape: Sequence[int]) -> str | None:
    """Why no native `invert` runs this network on the device of its parameters [P]; None if one does.

    Asked by one image and no steps, since what a loop can hold is its own business.
    """
    device = parameters.device
    if not native_status().runs_on(device.type):
        return f"no native library for {device.type}"
    zero = torch.zeros(1, dtype=torch.int32, device=device)
    x = torch.zeros((1, *input_shape), device=device)
    options = AscentOptions(
        optimizer="adam",
        learning_rate=1.0,
        beta1=0.0,
        beta2=0.0,
        epsilon=1.0,
        tv_weight=0.0,
        l2_weight=0.0,
        lower=0.0,
        upper=1.0,
        confidence_threshold=1.0,
        patience=1,
    )
    try:
        invert(x, parameters[None], zero, zero, zero, program=program, seed=0, jitter=0, max_steps=0, options=options)
    except ValueError as error:
        return str(error).removeprefix("invert: ")
    return None


def _fake(x: Tensor, *tensors: Tensor, **options: object) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape[0]), x.new_empty(x.shape[0]), x.new_empty(x.shape[0], dtype=torch.int32)


register_fake("invert", _fake)
