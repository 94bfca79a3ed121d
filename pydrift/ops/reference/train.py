"""`shadow_train` in plain torch: the truth that the native code is tested against."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pydrift.ops.reference.network import logits


def augment_images(x: Tensor, augmentation: Tensor) -> Tensor:
    """Images [N, C, H, W], each moved and mirrored by its row (down, right, flip) of `augmentation` [N, 3]."""
    _, _, height, width = x.shape
    down, right, flip = augmentation.long().unbind(1)
    rows = torch.arange(height, device=x.device) - down[:, None]
    columns = torch.arange(width, device=x.device).expand(len(x), -1)
    columns = torch.where(flip[:, None] != 0, width - 1 - columns, columns) - right[:, None]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    picked = x[
        torch.arange(len(x), device=x.device)[:, None, None, None],
        torch.arange(x.shape[1], device=x.device)[None, :, None, None],
        rows.clamp(0, height - 1)[:, None, :, None],
        columns.clamp(0, width - 1)[:, None, None, :],
    ]
    return torch.where(inside[:, None], picked, x.new_zeros(()))


def affine_mask(program: Sequence[int], num_parameters: int) -> Tensor:
    """Which parameters are scales or shifts of affine layers, which do not learn: bool [num_parameters]."""
    mask = torch.zeros(num_parameters, dtype=torch.bool)
    sizes = {0: 2, 1: 8, 2: 1, 3: 0, 4: 6, 5: 4, 6: 0}
    at = begin = 0
    while at < len(program):
        kind, numbers = program[at], program[at + 1 : at + 1 + sizes[program[at]]]
        count = {
            0: lambda n: n[0] * n[1] + n[1],
            1: lambda n: n[0] * n[1] * n[2] * n[3] + n[1],
            2: lambda n: 2 * n[0],
        }.get(kind, lambda n: 0)(numbers)
        mask[begin : begin + count] = kind == 2
        begin, at = begin + count, at + 1 + len(numbers)
    return mask


def shadow_train(
    x: Tensor,
    label: Tensor,
    parameters: Tensor,
    first_moment: Tensor,
    second_moment: Tensor,
    order: Tensor,
    augmentation: Tensor,
    steps_done: Tensor,
    num_steps: Tensor,
    batch_size: Tensor,
    learning_rate: Tensor,
    hyperparameters: Tensor,
    *,
    program: Sequence[int],
    optimizer: str,
) -> Tensor:
    """See `pydrift.ops.shadow_train`, whose arguments these are. Computes in the dtype of the parameters."""
    if optimizer not in ("adam", "sgd"):
        raise ValueError(f"shadow_train: optimizer must be 'adam' or 'sgd', got '{optimizer}'")
    loss = parameters.new_empty(len(parameters))
    fixed = affine_mask(program, parameters.shape[1]).to(parameters.device)
    at, rates = 0, iter(learning_rate.tolist())
    for k in range(len(parameters)):
        beta1, beta2, epsilon, weight_decay, label_smoothing = hyperparameters[k].tolist()
        p, m, size, total = parameters[k].clone(), first_moment[k], int(batch_size[k]), 0.0
        for step in range(int(num_steps[k])):
            batch = order[at : at + size].long()
            images = x[batch] / 255.0 if x.dtype == torch.uint8 else x[batch]
            images = images.to(p.dtype)
            if len(augmentation):
                images = augment_images(images, augmentation[at : at + size])
            at += size
            with torch.inference_mode(False), torch.enable_grad():
                p = p.clone().requires_grad_()
                values = logits(images.clone(), program, p)
                step_loss = F.cross_entropy(values, label[batch].long(), label_smoothing=label_smoothing)
                (gradient,) = torch.autograd.grad(step_loss, p)
            p, gradient = p.detach(), gradient.masked_fill(fixed, 0.0)
            total, lr, count = total + step_loss.item(), next(rates), int(steps_done[k]) + step + 1
            before = p
            if optimizer == "adam":
                v = second_moment[k]
                m.lerp_(gradient, 1 - beta1)
                v.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
                denominator = v.sqrt() / (1 - beta2**count) ** 0.5 + epsilon
                p = p * (1 - lr * weight_decay) - lr / (1 - beta1**count) * m / denominator
            else:
                gradient = gradient + weight_decay * p.masked_fill(fixed, 0.0)
                m.mul_(beta1).add_(gradient)
                p = p - lr * (gradient + beta1 * m)
            p = torch.where(fixed, before, p)
        parameters[k] = p
        loss[k] = total / int(num_steps[k]) if num_steps[k] else torch.nan
    return loss
