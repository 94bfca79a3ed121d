"""What is measured beside the comparison at equal steps: all threads, jitter, the stop rule, how the cost grows."""

import os
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.common.compare import Peer
from bench.common.harness import ratio, time_in_turns
from bench.inversion.peers import peers
from bench.inversion.steps import manual
from bench.inversion.task import SEED, Run, Task, native, options
from pydrift.models.arch import build
from pydrift.ops import ascent_update, invert

_ROUNDS = 5
_SLICE_S = 0.02


def _in_turns(task: Task, others: dict[str, Callable[[], object]], threads: int = 1) -> dict[str, Any]:
    """Returns our time, and the ratios of the others to it."""
    ours = Peer(native(task), "float32")
    samples = time_in_turns({"native": ours, **others}, task.device, _ROUNDS, _SLICE_S, threads)
    seconds = statistics.median(samples["native"]) / (task.num_restarts * task.steps)
    return {"s_per_restart_step": seconds, "ratios": {name: ratio(samples, name, "native") for name in others}}


def all_threads(task: Task, best: str) -> dict[str, Any]:
    """Measures wall time on every core, against eager and the best peer, in blocks and with all restarts at once."""
    threads = os.cpu_count() or 1
    others: dict[str, Callable[[], object]] = {}
    for suffix, variant in (("", task), (", in one block", replace(task, block=2**30))):
        found = peers(variant)
        others |= {f"{name}{suffix}": found[name] for name in ("eager", best)}
    return {"threads": threads, **_in_turns(task, others, threads)}


def with_jitter(task: Task, best: str) -> dict[str, Any]:
    """Measures with jitter: every image is rolled before its gradient is taken. The peers are given the shifts."""
    shaken = replace(task, jitter=2)
    found = peers(shaken)
    return _in_turns(shaken, {name: found[name] for name in dict.fromkeys((best, "eager"))})


def scale_sweep(task: Task) -> list[dict[str, Any]]:
    """Measures our seconds per restart-step for more restarts, more models and more threads."""
    all_cores = (os.cpu_count() or 1) if task.device.type == "cpu" else 1
    points = [(restarts, 1, 1) for restarts in (1, 4, 16, 64, 256, 1000)]  # of each class
    points += [(64 // models, models, 1) for models in (4, 16, 64)]
    points += [(restarts, 1, all_cores) for restarts in (1, 16, 64, 1000) if all_cores > 1]
    rows = []
    for restarts, models, threads in points:
        many = restarts * models > 100
        some = replace(task, restarts=restarts, num_models=models, steps=task.steps // 2 if many else task.steps)
        run = Peer(native(some), "float32")
        samples = time_in_turns({"native": run}, task.device, 1 if many else 3, _SLICE_S, threads)["native"]
        rows.append(
            {
                "restarts": some.num_restarts,
                "steps": some.steps,
                "models": models,
                "threads": threads,
                "s_per_restart_step": statistics.median(samples) / (some.num_restarts * some.steps),
            }
        )
    return rows


# ---- The stop rule

_STOP: dict[str, Any] = {"confidence_threshold": 0.9999, "patience": 25}
_MAX_STEPS = 100


def early_stop(task: Task) -> dict[str, Any]:
    """Measures the stop rule on a trained network. Our restarts end alone, a peer's block waits for its slowest.

    The peer takes its gradients by hand and pydrift's fused update. It asks every five steps whether all are done.
    """
    trained = replace(task, restarts=min(task.restarts, 32))
    trained.__dict__["networks"] = [_train(trained)]  # in place of the random ones
    taken: list[Tensor] = []
    waited: list[int] = []
    ours, theirs = _ours_with_stop(trained, taken), _lockstep(trained, waited)
    samples = time_in_turns({"native": ours, "lockstep": theirs}, task.device, 3, slice_s=0)
    steps = taken[-1]
    return {
        "restarts": trained.num_restarts,
        "mean_steps": float(steps.double().mean()),
        "most_steps": int(steps.max()),
        "lockstep_steps": sum(waited[-len(list(trained.blocks())) :]) / len(list(trained.blocks())),
        "s_per_restart_step": statistics.median(samples["native"]) / max(1, int(steps.sum())),
        "ratios": {"lockstep": ratio(samples, "lockstep", "native")},
    }


def _train(task: Task) -> nn.Module:
    """Trains briefly on noisy copies of random images.

    The later a class, the more of its labels are wrong. So some restarts reach the threshold early, and others only run
    out of patience.
    """
    generator = torch.Generator().manual_seed(0)
    network, classes = build(task.arch, 0), task.num_classes
    centers = torch.rand(classes, *task.input_shape, generator=generator)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(60):
        label, other = torch.randint(0, classes, (2, 64), generator=generator)
        noise = torch.randn(64, *task.input_shape, generator=generator)
        target = torch.where(torch.rand(64, generator=generator) < label / classes, other, label)
        optimizer.zero_grad()
        F.cross_entropy(network((centers[label] + 0.3 * noise).clamp(0, 1)), target).backward()
        optimizer.step()
    return network.eval().requires_grad_(False).to(task.device)


def _ours_with_stop(task: Task, taken: list[Tensor]) -> Run:
    models = task.lowered or []
    parameters = torch.stack([m.parameters() for m in models])
    model, label, restart = task.model, task.label.int(), task.restart.int()
    settings: dict[str, Any] = {"options": options(**_STOP), "seed": SEED, "jitter": task.jitter}
    settings |= {"program": models[0].program(), "max_steps": _MAX_STEPS}

    def run() -> Tensor:
        x = task.x.clone()
        taken.append(invert(x, parameters, model, label, restart, **settings).steps)
        return x

    return run


def _lockstep(task: Task, waited: list[int]) -> Run:
    models = task.lowered or []
    gradient_of = manual(models[0], min(task.block, task.per_model))
    rule = options(**_STOP)

    def run() -> Tensor:
        images = []
        for _, block in task.blocks():
            x, label = task.x[block].clone(), task.label[block]
            m, v, count = torch.zeros_like(x), torch.zeros_like(x), len(x)
            best = torch.full((count,), torch.inf, device=task.device)
            steps_without_improvement, steps = (
                torch.zeros(count, dtype=torch.int32, device=task.device) for _ in range(2)
            )
            active = torch.ones(count, dtype=torch.bool, device=task.device)
            for step in range(_MAX_STEPS):
                log_probability, gradient = gradient_of(x, label)
                ascent_update(
                    x,
                    gradient.contiguous(),
                    m,
                    v,
                    log_probability,
                    best,
                    steps_without_improvement,
                    steps,
                    active,
                    options=rule,
                )
                if step % 5 == 4 and not active.any():
                    break
            waited.append(step + 1)
            images.append(x)
        return torch.cat(images)

    return run
