"""Many models on many samples at once: their logits, membership statistics, or the moments of these over the models."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pydrift.ops import reference
from pydrift.ops.native import register_fake, run_op
from pydrift.ops.reference import Precision


class ShadowStatistics(NamedTuple):
    """Of each sample under each model, with p_y the probability of its label:

    margin      float32 [K, N]  log p_y - log(1 - p_y)
    loss        float32 [K, N]  -log p_y
    confidence  float32 [K, N]  p_y
    prediction  int32   [K, N]  the class of the largest logit, the first of equals
    """

    margin: Tensor
    loss: Tensor
    confidence: Tensor
    prediction: Tensor


class ShadowMoments(NamedTuple):
    """Of each sample's margin, over the models that it was no member of (row 0, OUT) and a member of (row 1, IN):

    count  int32   [2, N]  models
    mean   float32 [2, N]  0 where there are none
    m2     float32 [2, N]  sum of the squared differences from the mean; the variance is m2 / count, or / (count - 1)
    """

    count: Tensor  # type: ignore[assignment]  # in place of tuple.count, of which nobody has need
    mean: Tensor
    m2: Tensor


def shadow_statistics(
    x: Tensor, parameters: Tensor, label: Tensor, *, program: Sequence[int], precision: Precision = "float32"
) -> ShadowStatistics:
    """The statistics of every sample under every model; no logits are kept.

    For each model k and sample n, with z = f(x[n]) the logits of the network f that `program` and row k of `parameters`
    make, and y = label[n]::

        margin      = -log sum over the classes j other than y of exp(z_j - z_y)     = log p_y - log(1 - p_y)
        loss        = log(1 + exp(-margin))                                          = -log p_y
        confidence  = 1 / (1 + exp(-margin))                                         = p_y
        prediction  = argmax z

    so that nothing is ever taken as 1 - p: a margin keeps its digits where p rounds to 0 or 1, and a loss where p is
    nearly 1. These four are computed from the float32 logits in float64 and rounded once.

    ==============  =============  =================  ================================================================
    argument        shape          dtype              meaning
    ==============  =============  =================  ================================================================
    x               [N, C, H, W]   uint8 or float32   images; uint8 is read as value / 255
    parameters      [K, P]         float32            of each model: `FusedModel.parameters()`
    label           [N]            int32              the class of each sample, in [0, classes)
    ==============  =============  =================  ================================================================

    program: the layers as integers, as `pydrift.ops.invert` documents them; `FusedModel.program()` writes it.

    precision: of the products. "float32" everywhere; on a GPU also, on tensor cores with sums in float32, "3xtf32" (as
    exact as float32 but for the last bits), "tf32" (factors rounded to 11 bits, margins good to about 1e-3) and
    "bfloat16" (8 bits, about 1e-2).

    Ranges: N, K >= 0; C, H, W >= 1; at most 2^24 values at any layer and 2^28 parameters. Tensors are contiguous and on
    one device. With one class only, margin is +inf, loss 0 and confidence 1.

    Not finite: where any logit is, margin, loss and confidence are NaN; the prediction is that of torch, for which a
    NaN is the largest of all. (On the CPU max-pooling prefers a number to a NaN.)

    Errors: ValueError with the argument's name, what it must be and what it is; also for a tensor that requires grad,
    since nothing here is differentiable.

    Determinism: what is said of a sample under a model depends on these two only, not on the others, their order or the
    number of threads. AVX2 and AVX-512 give the same bits; scalar code, plain torch and a GPU add in another order or
    without fused multiply-add, so theirs agree to rounding errors of the logits.

    Source: Carlini et al., "Membership Inference Attacks From First Principles", S&P 2022, for the margin.
    """
    tensors = {"x": x, "parameters": parameters, "label": label}
    scalars = {"program": list(program), "precision": precision}
    return ShadowStatistics(*run_op("shadow_statistics", reference.shadow_statistics, tensors, **scalars))


def shadow_moments(
    x: Tensor,
    parameters: Tensor,
    label: Tensor,
    member: Tensor,
    *,
    program: Sequence[int],
    precision: Precision = "float32",
) -> ShadowMoments:
    """Count, mean and sum of squared deviations of every sample's margin over the models IN and OUT; no more is kept.

    For each sample n, with margin[k, n] as `shadow_statistics` has it and both sides starting at zero::

        for k in 0, 1, ..., K - 1:    (the side is member[k, n])
            count = count + 1
            before = margin[k, n] - mean,   mean = mean + before / count,   m2 = m2 + before * (margin[k, n] - mean)

    in float32. The arguments are those of `shadow_statistics` and

    ==============  =============  =================  ================================================================
    member          [K, N]         bool               whether sample n was in the training set of model k
    ==============  =============  =================  ================================================================

    Ranges and errors: as `shadow_statistics`. A margin that is not finite makes its sample's mean and m2 NaN (a single
    infinite one, the mean infinite).

    Determinism: as `shadow_statistics`; the models are taken in their order, whatever the number of threads.

    Source: Welford, "Note on a Method for Calculating Corrected Sums of Squares and Products", Technometrics 1962.
    """
    tensors = {"x": x, "parameters": parameters, "label": label, "member": member}
    scalars = {"program": list(program), "precision": precision}
    return ShadowMoments(*run_op("shadow_moments", reference.shadow_moments, tensors, **scalars))


def shadow_logits(x: Tensor, parameters: Tensor, *, program: Sequence[int]) -> Tensor:
    """The logits float32 [K, N, classes] of every sample under every model.

    x [N, C, H, W], parameters [K, P] and program, ranges, errors and, on the CPU, determinism: as `shadow_statistics`.
    Native on the CPU only; on a GPU torch's own convolutions and products run.
    """
    tensors = {"x": x, "parameters": parameters}
    result: Tensor = run_op("shadow_logits", reference.shadow_logits, tensors, program=list(program))
    return result


def _fake_statistics(x: Tensor, parameters: Tensor, label: Tensor, **options: object) -> ShadowStatistics:
    shape = (parameters.shape[0], x.shape[0])
    margin, loss, confidence = (parameters.new_empty(shape) for _ in range(3))
    return ShadowStatistics(margin, loss, confidence, parameters.new_empty(shape, dtype=torch.int32))


def _fake_moments(x: Tensor, parameters: Tensor, label: Tensor, member: Tensor, **options: object) -> ShadowMoments:
    shape = (2, x.shape[0])
    return ShadowMoments(
        parameters.new_empty(shape, dtype=torch.int32), parameters.new_empty(shape), parameters.new_empty(shape)
    )


def _fake_logits(x: Tensor, parameters: Tensor, *, program: Sequence[int]) -> Tensor:
    classes = reference.num_classes("shadow_logits", x, program, parameters)
    return parameters.new_empty((parameters.shape[0], x.shape[0], classes))


register_fake("shadow_logits", _fake_logits)
register_fake("shadow_statistics", _fake_statistics)
register_fake("shadow_moments", _fake_moments)
