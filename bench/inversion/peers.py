"""The peers of `invert`: the ways to run the same ascent in torch, each as strong as it can be made.

All of them ascend log p(label | x) - TV - L2 with Adam and a clamp for a fixed number of steps. They have no stop rule
and tell the host nothing. Weights are frozen and BatchNorm is folded, except where a peer's name says otherwise. On the
CPU each runs its restarts in blocks, because the activations of all would leave the caches. A GPU gets all at once.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.common.compare import Peer
from bench.common.forms import capture_graph, channels_last, compile_function, to_bfloat16, with_own_code
from bench.inversion.steps import (
    Step,
    ascend,
    autograd,
    batched,
    gradient_alone,
    manual,
    prior_and_update,
    stacked,
    step_of,
    whole_step,
)
from bench.inversion.task import BETA1, BETA2, EPSILON, L2_WEIGHT, LEARNING_RATE, TV_WEIGHT, Run, Task, generic, native


def peers(task: Task, quick: bool = False) -> dict[str, Peer]:
    """Returns the peers by name. With `quick` these are eager and the fastest that are known."""
    found: dict[str, Peer] = {}

    def add(name: str, run: Run, precision: str = "float32") -> None:
        found[name] = Peer(run, precision)

    if task.num_models > 1:
        _add_many(add, task, quick)
        return found
    (network,), is_convnet, on_cuda = task.networks, not task.arch.startswith("mlp"), task.device.type == "cuda"
    best, suffix = (channels_last(network), " channels_last") if is_convnet else (network, "")

    def run_of(step: Step) -> Run:
        return ascend(task, [step])

    add("eager", run_of(step_of(autograd(network))))
    if is_convnet:
        add("eager channels_last", run_of(step_of(autograd(best))))
    if quick and task.lowered is None and not on_cuda:
        return found
    add(f"compile{suffix}", run_of(compile_function(whole_step(best))))
    if task.lowered is not None:
        add("by hand", _by_hand(task))
    if on_cuda:
        if task.lowered is not None:
            add("native 3xtf32", native(task, "3xtf32"))
            add("native tf32", native(task, "tf32"), "tf32")
            add("native bfloat16", native(task, "bfloat16"), "bfloat16")
        add("graph of eager", capture_graph(run_of(step_of(autograd(network)))))
        add(f"graph of compile{suffix}", capture_graph(run_of(compile_function(whole_step(best)))))
        small = to_bfloat16(network)
        add(
            "graph of compile bf16 channels_last",
            capture_graph(run_of(compile_function(whole_step(small)))),
            "bfloat16",
        )
    if quick:
        return found
    add("eager, weights trainable", trainable(task))
    if is_convnet:
        add("compile", run_of(compile_function(whole_step(network))))
    if task.jitter == 0 and task.lowered is not None:
        add("pydrift's generic path", generic(task))
    autotuned = run_of(compile_function(whole_step(best), mode="max-autotune-no-cudagraphs"))
    if not on_cuda:
        add(f"compile{suffix} max-autotune", autotuned)
        return found
    add("eager tf32", run_of(step_of(autograd(network))), "tf32")
    add("eager bf16 channels_last", run_of(step_of(autograd(small))), "bfloat16")
    add(f"graph of compile{suffix} tf32", capture_graph(run_of(compile_function(whole_step(best)))), "tf32")
    add(f"compile{suffix} reduce-overhead", run_of(_owned(compile_function(whole_step(best), mode="reduce-overhead"))))
    if is_convnet:
        add("graph of compile", capture_graph(run_of(compile_function(whole_step(network)))))
    if task.lowered is not None:
        add("graph of by hand", capture_graph(_by_hand(task)))
        add(f"graph of compile{suffix} max-autotune", capture_graph(autotuned))
    return found


def _by_hand(task: Task) -> Run:
    """Runs the task of one network with gradients by hand and a compiled update."""
    assert task.lowered is not None
    move = compile_function(with_own_code(lambda *state: prior_and_update(*state)))
    log_probability_and_gradient = manual(task.lowered[0], min(task.block, task.per_model))
    return ascend(task, [step_of(gradient_alone(log_probability_and_gradient), move)])


def _owned(step: Step) -> Step:
    """Copies what a step returns.

    torch's own CUDA graphs give the memory of their outputs to the next replay, so its inputs must be copies.
    """

    def copied(*state: Any) -> tuple[Tensor, Tensor, Tensor]:
        torch.compiler.cudagraph_mark_step_begin()
        x, m, v = step(*state)
        return x.clone(), m.clone(), v.clone()

    return copied


def _add_many(add: Callable[..., None], task: Task, quick: bool) -> None:
    """Adds the peers for several MLPs: one after the other, or all at once with vmap or batched products."""
    one_by_one = [step_of(autograd(network)) for network in task.networks]
    add("eager", ascend(task, one_by_one))
    if not quick:
        add("vmap", ascend(task, [step_of(stacked(task))], one_block=True))
    vmapped = compile_function(with_own_code(step_of(stacked(task))))
    move = compile_function(with_own_code(lambda *state: prior_and_update(*state)))
    both = [manual(model, min(task.block, task.per_model)) for model in task.lowered or []]
    by_hand = [step_of(gradient_alone(function), move) for function in both]
    runs = {
        "compile of vmap": ascend(task, [vmapped], one_block=True),
        "by hand, bmm": ascend(task, [step_of(batched(task), move)], one_block=True),
        "by hand": ascend(task, by_hand),
    }
    for name, run in runs.items():
        add(name, run)
        if task.device.type == "cuda":
            add(f"graph of {name}", capture_graph(run))


def trainable(task: Task) -> Run:
    """Runs the task as the Adversarial Robustness Toolbox and most inversion code do.

    The weights want gradients, an optimizer object takes the steps, and autograd differentiates the penalty.
    """
    networks = [copy.deepcopy(network).requires_grad_(True) for network in task.networks]

    def run() -> Tensor:
        images = []
        for model, block in task.blocks():
            x, label = task.x[block].clone().requires_grad_(True), task.label[block]
            optimizer = torch.optim.Adam([x], LEARNING_RATE, (BETA1, BETA2), EPSILON)
            for _ in range(task.steps):
                optimizer.zero_grad()
                down, right = x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]
                prior = TV_WEIGHT * ((down * down).sum() + (right * right).sum()) + L2_WEIGHT * (x * x).sum()
                (F.cross_entropy(networks[model](x), label, reduction="sum") + prior).backward()
                optimizer.step()
                with torch.no_grad():
                    x.clamp_(0, 1)
            images.append(x.detach())
        return torch.cat(images)

    return run
