"""Statistics of many models on many samples in plain torch: the truth that the native code is tested against."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pydrift.ops.reference.network import check_precision, check_range, logits, num_classes

_BLOCK = 256  # samples asked together: bounds the memory, and no result depends on it


def shadow_statistics(
    x: Tensor, parameters: Tensor, label: Tensor, *, program: Sequence[int], precision: str = "float32"
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `pydrift.ops.shadow_statistics`, whose arguments these are. Computes in the dtype of the parameters."""
    check_precision("shadow_statistics", precision, x)
    check_range("shadow_statistics", "label", label, num_classes("shadow_statistics", x, program, parameters))
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
    check_precision("shadow_moments", precision, x)
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
