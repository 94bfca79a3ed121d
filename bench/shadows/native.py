"""Our side: the calls of the ops that the comparison times, and the check of their results against float64."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench.shadows.statistics_peers import Result, statistics_of
from bench.shadows.task import ADAM, BETA1, BETA2, EPSILON, MOMENTUM, Task
from bench.shadows.training_peers import flat, with_autograd
from pydrift import ops

STATISTICS_TOLERANCE = 1e-5
# The tolerance is a share of the way that the parameters have gone. Rounding them to float32 at each step takes a part
# of it. Adam takes a whole step where a gradient is all rounding, and a pooled maximum may change its place. So the
# error of torch's own float32 in the same run says how near one can come. MOST is the limit beyond which arithmetic is
# wrong. The weight decay here moves the parameters as much as their gradients do, so that an error in it shows.
TRAINING_TOLERANCE, TIMES_TORCH, MOST = 1e-5, 3.0, 1e-3
DECAY = 1.0


def native(task: Task) -> Callable[[], Any]:
    """Returns the run that the peers are compared with."""
    return training(task) if task.steps else statistics(task)


def statistics(task: Task, pixels: bool = False) -> Callable[[], Any]:
    """Returns a run of shadow_statistics. With `pixels` the images are bytes."""
    x, label, parameters = task.pixels if pixels else task.x, task.label.int(), task.parameters
    program = task.lowered[0].program()
    return lambda: ops.shadow_statistics(x, parameters, label, program=program)


def moments(task: Task) -> Callable[[], Any]:
    """Returns a run of shadow_moments."""
    x, label, parameters, member = task.x, task.label.int(), task.parameters, task.member
    program = task.lowered[0].program()
    return lambda: ops.shadow_moments(x, parameters, label, member, program=program)


def training(task: Task) -> Callable[[], Tensor]:
    """Returns a run of shadow_train, which returns the parameters [K, P].

    The parameters go on changing, because each call continues where the last one ended.
    """
    parameters = task.parameters.clone()
    first, second = torch.zeros_like(parameters), torch.zeros_like(parameters)
    models, device = task.num_models, task.device
    beta1 = BETA1 if task.optimizer == ADAM else MOMENTUM
    hyperparameters = torch.tensor(
        [[beta1, BETA2, EPSILON, task.weight_decay, 0.0]], dtype=torch.float64, device=device
    )
    done = torch.zeros(models, dtype=torch.int64, device=device)
    arguments = (
        task.x,
        task.label.int(),
        parameters,
        first,
        second if task.optimizer == ADAM else second[:, :0].contiguous(),
        task.drawn.flatten().int(),
        torch.zeros(0, 3, dtype=torch.int8, device=device),
        done,
        torch.full((models,), task.steps, dtype=torch.int32, device=device),
        torch.full((models,), task.batch_size, dtype=torch.int32, device=device),
        torch.full((models * task.steps,), task.learning_rate, dtype=torch.float64, device=device),
        hyperparameters.repeat(models, 1),
    )
    program = task.lowered[0].program()

    def run() -> Tensor:
        ops.shadow_train(*arguments, program=program, optimizer="adam" if task.optimizer == ADAM else "sgd")
        done.add_(task.steps)
        return parameters

    return run


# ---- Against float64


def verify(task: Task, few: int) -> list[dict[str, Any]]:
    """Returns the errors of each figure with its tolerance, for `few` images, or `few` models where they train."""
    if task.steps:
        return [_training_error(replace(task, num_models=few, steps=n, weight_decay=DECAY), n) for n in (1, 10)]
    return _statistics_errors(replace(task, num_images=few, block=2**30))


def _statistics_errors(task: Task) -> list[dict[str, Any]]:
    """Returns the largest errors. They are relative where the value is above 1."""
    expected = _in_float64(task)
    rows = []
    for pixels in (False, True):
        got = statistics(task, pixels)()
        for name, ours, theirs in zip(("margin", "loss", "confidence"), got, expected, strict=False):
            rows.append(_error(name + (" of bytes" if pixels else ""), ours, theirs))
        rows.append(_error("prediction" + (" of bytes" if pixels else ""), got[3], expected[3]))
    count, mean, m2 = moments(task)()
    for side in (0, 1):
        chosen = (task.member == bool(side)).double()
        number = chosen.sum(0)
        center = (expected[0] * chosen).sum(0) / number
        spread = (((expected[0] - center) ** 2) * chosen).sum(0)
        where = "IN" if side else "OUT"
        rows.append(_error(f"count {where}", count[side], number))
        rows.append(_error(f"mean {where}", mean[side], center))
        rows.append(_error(f"standard deviation {where}", (m2[side] / number).sqrt(), (spread / number).sqrt()))
    return rows


def _in_float64(task: Task) -> Result:
    double = replace(task, dtype=torch.float64)
    with torch.no_grad():
        logits = torch.stack([network(double.x) for network in double.networks])
    return statistics_of(logits, task.label)


def _error(name: str, ours: Tensor, theirs: Tensor) -> dict[str, Any]:
    theirs = theirs.double()
    error = (ours.double() - theirs).abs() / theirs.abs().clamp(min=1)
    return {"of": name, "max": float(error.max()), "tolerance": STATISTICS_TOLERANCE}


def _training_error(task: Task, steps: int) -> dict[str, Any]:
    """Returns the norm of the error divided by the norm of the way that the parameters have gone.

    The figure is that of the worst model.
    """
    double = replace(task, dtype=torch.float64)
    plain = {"foreach": False, "fused": False}
    start = task.parameters.double()
    way = flat(with_autograd(double, plain)()) - start

    def error_of(parameters: Tensor) -> float:
        return float(((parameters.double() - start - way).norm(dim=1) / way.norm(dim=1)).max())

    of_torch = max(error_of(flat(with_autograd(task, plain, last)())) for last in {False, task.is_convnet})
    return {
        "of": f"parameters after {steps} steps",
        "max": error_of(training(task)()),
        "of_torch_in_float32": of_torch,
        "tolerance": min(MOST, max(TRAINING_TOLERANCE, TIMES_TORCH * of_torch)),
    }
