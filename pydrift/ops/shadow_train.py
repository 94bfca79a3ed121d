"""Steps of training for many models of one architecture, in one call."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from pydrift.ops import reference
from pydrift.ops.native import native_status, register_fake, run_op

HYPERPARAMETERS = ("beta1", "beta2", "epsilon", "weight_decay", "label_smoothing")
"""The columns of `hyperparameters`. With "sgd" beta1 is the momentum; beta2 and epsilon are not used."""


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
    optimizer: Literal["adam", "sgd"],
) -> Tensor:
    """Trains K models, each on batches of its own of one pool of images; returns each one's mean loss, float32 [K].

    The images of each step, their augmentation and the learning rates are arguments, so nothing in here is random.
    For each model k, with f its network and b its batch size::

        for step in 0, 1, ..., num_steps[k] - 1:
            batch  = the images that the next b entries of order name, changed by the next b rows of augmentation
            loss   = mean over the batch of cross_entropy(f(x[batch]), label[batch], label_smoothing)
            parameters[k], moments[k] = one step of the optimizer at learning_rate[...], the steps_done[k] + step + 1st

    "adam" is AdamW (decoupled weight decay), "sgd" is SGD with Nesterov's momentum and the weight decay as a part of
    the gradient, both as torch.optim has them. Scales and shifts of affine layers do not learn.

    ===============  =============  ================  ===============================================================
    argument         shape          dtype             meaning
    ===============  =============  ================  ===============================================================
    x                [N, C, H, W]   uint8 or float32  the pool; uint8 is read as value / 255
    label            [N]            int32             in [0, classes)
    parameters       [K, P]         float32           as for `invert`; replaced by the trained ones
    first_moment     [K, P]         float32           of Adam, or the velocity; zero before the first step; replaced
    second_moment    [K, P]         float32           of Adam; with "sgd" [K, 0]; replaced
    order            [T]            int32             images in [0, N), batch after batch, model after model
    augmentation     [T, 3]         int8              down, right, flip: the image is moved by so many pixels and zeros
                                                      come in, then mirrored left to right if flip is not 0; or [0, 3]:
                                                      no augmentation
    steps_done       [K]            int64             steps that the moments have seen
    num_steps        [K]            int32             steps to take, >= 0
    batch_size       [K]            int32             >= 1
    learning_rate    [S]            float64           of each step, model after model
    hyperparameters  [K, 5]         float64           the columns of HYPERPARAMETERS
    ===============  =============  ================  ===============================================================

    T is the sum of num_steps * batch_size, S the sum of num_steps. program: as for `invert`. Ranges: at most 2^24
    values at any layer and 2^28 parameters; rates, epsilon and weight decay finite and >= 0 (epsilon > 0); betas and
    label smoothing in [0, 1). Tensors are contiguous, on one device, and share no memory.

    Errors: ValueError with the argument's name, what it must be and what it is; nothing has been changed then. Training
    that diverges is not an error: the loss and the parameters are then not finite. A model without steps has the loss
    NaN.

    Determinism: a model's result depends on its own arguments only: not on the other models, their order or the number
    of threads, and steps may be taken in one call or in several. Instruction sets, plain torch and GPUs add in another
    order, so theirs agree to rounding errors, which training amplifies.

    Source: AdamW, Loshchilov and Hutter, ICLR 2019; Nesterov's momentum as in Sutskever et al., ICML 2013.
    """
    tensors = {
        "x": x,
        "label": label,
        "parameters": parameters,
        "first_moment": first_moment,
        "second_moment": second_moment,
        "order": order,
        "augmentation": augmentation,
        "steps_done": steps_done,
        "num_steps": num_steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "hyperparameters": hyperparameters,
    }
    loss: Tensor = run_op("shadow_train", reference.shadow_train, tensors, program=list(program), optimizer=optimizer)
    return loss


def why_not_trainable(
    program: Sequence[int], num_parameters: int, input_shape: Sequence[int], device: torch.device
) -> str | None:
    """Why no native `shadow_train` trains this network on `device`; None if one does.

    Asked by a model that takes no step, since what a loop can hold is its own business.
    """
    if not native_status().runs_on(device.type):
        return f"no native training on {device.type}"
    with device:
        none = torch.zeros(0, dtype=torch.int32)
        tensors = (
            torch.zeros(0, *input_shape),
            none,
            torch.zeros(1, num_parameters),
            torch.zeros(1, num_parameters),
            torch.zeros(1, 0),
            none,
            torch.zeros(0, 3, dtype=torch.int8),
            torch.zeros(1, dtype=torch.int64),
            torch.zeros(1, dtype=torch.int32),
            torch.ones(1, dtype=torch.int32),
            torch.zeros(0, dtype=torch.float64),
            torch.zeros(1, len(HYPERPARAMETERS), dtype=torch.float64),
        )
    try:
        shadow_train(*tensors, program=program, optimizer="sgd")
    except ValueError as error:
        return str(error).removeprefix("shadow_train: ")
    return None


def _fake(x: Tensor, label: Tensor, parameters: Tensor, *tensors: Tensor, **options: object) -> Tensor:
    return parameters.new_empty(parameters.shape[0])


register_fake("shadow_train", _fake)
