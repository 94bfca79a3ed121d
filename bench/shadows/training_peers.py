"""The peers of `shadow_train`: the ways to train many networks, each on batches of its own, in torch.

All of them gather a batch, take the gradient of the mean cross-entropy, and update weights and moments in place. The
optimizer is SGD with Nesterov momentum, or AdamW. A call continues where the last one ended. Where a name says nothing
else, the optimizer is torch's fused one. On a CPU it runs for each model while its gradients are in the caches, on a
GPU once for all models.
"""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.common.compare import Peer
from bench.common.forms import capture_graph, compile_function, nhwc, with_own_code
from bench.shadows.task import ADAM, BETA1, BETA2, EPSILON, MOMENTUM, Task

Weights = dict[str, Tensor]
Run = Callable[[], list[Weights]]  # returns each model's weights by name, which go on changing


def flat(models: list[Weights]) -> Tensor:
    """Returns the weights as the ops have them: [K, P], in the order of the layers."""
    return torch.stack([torch.cat([w.detach().contiguous().flatten() for w in weights.values()]) for weights in models])


def peers(task: Task, quick: bool = False) -> dict[str, Peer]:
    """Returns the peers by name. With `quick` these are eager, vmap and the fastest that are known."""
    found: dict[str, Peer] = {}

    def add(name: str, run: Run, precision: str = "float32") -> None:
        found[name] = Peer(run, precision)

    on_cuda, suffix = task.device.type == "cuda", " channels_last" if task.is_convnet else ""
    usual = {"foreach": True} if on_cuda else {"foreach": False, "fused": False}
    last = bool(suffix)
    add("eager", with_autograd(task, usual))
    add(f"eager{suffix}, fused optimizer", with_autograd(task, last=last))
    add("vmap", with_vmap(task))
    add(f"compile{suffix}", whole_step(task, last))
    if on_cuda:
        add(f"graph of eager{suffix}, fused optimizer", capture_graph(with_autograd(task, last=last)))
        add(f"graph of compile{suffix}", capture_graph(whole_step(task, last)))
        add(f"graph of compile{suffix} bf16", capture_graph(whole_step(task, last, torch.bfloat16)), "bfloat16")
    else:
        add("by hand", by_hand(task))
    if quick:
        return found
    add("eager, fused optimizer", with_autograd(task))
    add(f"eager{suffix}", with_autograd(task, usual, last))
    add(f"eager{suffix}, foreach optimizer", with_autograd(task, {"foreach": True}, last))
    if task.is_convnet:
        add("compile", whole_step(task))
        add("grouped convolutions, bmm", grouped(task))
    add("compile of vmap", compiled_vmap(task))
    if on_cuda:
        add(f"eager{suffix} tf32, fused optimizer", with_autograd(task, last=last), "tf32")
        small = with_autograd(task, last=last, dtype=torch.bfloat16)
        add(f"eager{suffix} bf16, fused optimizer", small, "bfloat16")
        add(f"graph of eager{suffix} bf16, fused optimizer", capture_graph(small), "bfloat16")
        add(f"graph of compile{suffix} tf32", capture_graph(whole_step(task, last)), "tf32")
        add("graph of compile of vmap", capture_graph(compiled_vmap(task)))
        add("graph of grouped convolutions, bmm", capture_graph(grouped(task)))
    return found


# ---- torch's optimizers


def optimizer_of(task: Task, parameters: list[Tensor], form: dict[str, bool] | None = None) -> torch.optim.Optimizer:
    """Returns torch's optimizer for the task. `form` has torch's words for its implementation, by default the fused."""
    kind: dict[str, Any] = {"fused": True} if form is None else dict(form)
    if task.optimizer == ADAM:
        kind["capturable"] = task.device.type == "cuda"
        betas = (BETA1, BETA2)
        return torch.optim.AdamW(parameters, task.learning_rate, betas, EPSILON, task.weight_decay, **kind)
    return torch.optim.SGD(parameters, task.learning_rate, MOMENTUM, 0, task.weight_decay, nesterov=True, **kind)


def with_autograd(
    task: Task, form: dict[str, bool] | None = None, last: bool = False, dtype: torch.dtype | None = None
) -> Run:
    """Trains model by model with autograd. `form` is that of `optimizer_of`, `dtype` that of autocast."""
    networks = [network.train() for network in task.built()]
    for network in networks if last else []:
        _to_nhwc(network)
    weights: list[Weights] = [dict(network.named_parameters()) for network in networks]
    together = task.device.type == "cuda"
    groups = [[w for own in weights for w in own.values()]] if together else [list(own.values()) for own in weights]
    optimizers = [optimizer_of(task, group, form) for group in groups]

    def run() -> list[Weights]:
        for step in range(task.steps):
            for k, network in enumerate(networks):
                if not together:
                    optimizers[k].zero_grad(set_to_none=True)
                x, label = task.batch(k, step)
                with nullcontext() if dtype is None else torch.autocast(task.device.type, dtype):
                    loss = F.cross_entropy(network(nhwc(x) if last else x), label)
                loss.backward()
                if not together:
                    optimizers[k].step()
            if together:
                optimizers[0].step()
                optimizers[0].zero_grad(set_to_none=True)
        return weights

    return run


def _to_nhwc(network: nn.Module) -> None:
    for parameter in network.parameters():
        parameter.data = nhwc(parameter.data) if parameter.ndim == 4 else parameter.data


# ---- The whole step as one compiled function


def _update(task: Task, weights: Weights, state: dict[str, Any], gradients: Weights) -> None:
    """Updates in place, as torch's optimizers do. Compiled, it is one loop over each tensor."""
    state["t"].add_(1)
    for name, w in weights.items():
        g, m = gradients[name], state["m"][name]
        if task.optimizer == ADAM:
            v = state["v"][name]
            m.mul_(BETA1).add_(g, alpha=1 - BETA1)
            v.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
            rate, scale = task.learning_rate / (1 - BETA1 ** state["t"]), (1 - BETA2 ** state["t"]).rsqrt()
            w.mul_(1 - task.learning_rate * task.weight_decay).sub_(rate * m / (v.sqrt() * scale + EPSILON))
        else:
            g = g + task.weight_decay * w
            m.mul_(MOMENTUM).add_(g)
            w.sub_(task.learning_rate * (g + MOMENTUM * m))


def _state_of(task: Task, weights: Weights) -> dict[str, Any]:
    moments = {name: {key: torch.zeros_like(w) for key, w in weights.items()} for name in ("m", "v")}
    return {**moments, "t": torch.zeros((), device=task.device)}


def _loss(
    task: Task, last: bool = False, dtype: torch.dtype = torch.float32
) -> Callable[[Weights, Tensor, Tensor], Tensor]:
    skeleton = copy.deepcopy(task.networks[0]).to("meta")

    def loss(weights: Weights, x: Tensor, label: Tensor) -> Tensor:
        small = {name: w.to(dtype) for name, w in weights.items()}
        logits = torch.func.functional_call(skeleton, small, ((nhwc(x) if last else x).to(dtype),))
        return F.cross_entropy(logits.float(), label)

    return loss


def whole_step(task: Task, last: bool = False, dtype: torch.dtype = torch.float32) -> Run:
    """Trains model by model, with gradient and update in one compiled function."""
    networks = task.built()
    for network in networks if last else []:
        _to_nhwc(network)
    weights = [{name: p.detach() for name, p in network.named_parameters()} for network in networks]
    states = [_state_of(task, own) for own in weights]
    gradient = torch.func.grad(_loss(task, last, dtype))

    def step(weights: Weights, state: dict[str, Any], x: Tensor, label: Tensor) -> None:
        _update(task, weights, state, gradient(weights, x, label))

    code = compile_function(with_own_code(step))

    def run() -> list[Weights]:
        for i in range(task.steps):
            for k in range(task.num_models):
                code(weights[k], states[k], *task.batch(k, i))
        return weights

    return run


# ---- All networks at once


def _stacked(task: Task) -> Weights:
    parameters, _ = torch.func.stack_module_state(task.built())
    return {name: tensor.detach() for name, tensor in parameters.items()}


def _apart(task: Task, weights: Weights) -> list[Weights]:
    return [{name: w[k] for name, w in weights.items()} for k in range(task.num_models)]


def with_vmap(task: Task) -> Run:
    """Trains all models at once with vmap over their gradients."""
    weights = _stacked(task)
    gradient = torch.func.vmap(torch.func.grad(_loss(task)))
    optimizer = optimizer_of(task, list(weights.values()))

    def run() -> list[Weights]:
        for step in range(task.steps):
            for name, g in gradient(weights, *task.batches(step)).items():
                weights[name].grad = g
            optimizer.step()
        return _apart(task, weights)

    return run


def compiled_vmap(task: Task) -> Run:
    """Trains all models at once, with the gradients by vmap and the update in one compiled function."""
    weights = _stacked(task)
    state = _state_of(task, weights)
    gradient = torch.func.vmap(torch.func.grad(_loss(task)))

    def step(weights: Weights, state: dict[str, Any], x: Tensor, label: Tensor) -> None:
        _update(task, weights, state, gradient(weights, x, label))

    code = compile_function(with_own_code(step))

    def run() -> list[Weights]:
        for i in range(task.steps):
            code(weights, state, *task.batches(i))
        return _apart(task, weights)

    return run


def grouped(task: Task) -> Run:
    """Trains all convnets at once, with one group of channels for each model. Batched products follow."""
    weights = {name: w.requires_grad_() for name, w in _stacked(task).items()}
    optimizer = optimizer_of(task, list(weights.values()))
    convolutions = [name[: -len(".weight")] for name, w in weights.items() if w.ndim == 5]
    linear = [name[: -len(".weight")] for name, w in weights.items() if w.ndim == 3]
    models = task.num_models

    def run() -> list[Weights]:
        for step in range(task.steps):
            x, label = task.batches(step)
            h = x.transpose(0, 1).flatten(1, 2).contiguous(memory_format=torch.channels_last)
            for name in convolutions:
                w, b = nhwc(weights[f"{name}.weight"].flatten(0, 1)), weights[f"{name}.bias"].flatten()
                h = F.max_pool2d(F.conv2d(h, w, b, padding=1, groups=models), 2).relu()
            h = h.reshape(h.shape[0], models, -1).transpose(0, 1)
            for name in linear:
                h = torch.baddbmm(weights[f"{name}.bias"].unsqueeze(1), h, weights[f"{name}.weight"].transpose(1, 2))
                h = h.relu() if name != linear[-1] else h
            optimizer.zero_grad(set_to_none=True)
            (F.cross_entropy(h.flatten(0, 1), label.flatten()) * models).backward()
            optimizer.step()
        return _apart(task, weights)

    return run


# ---- By hand


@dataclass(frozen=True)
class _Layout:
    """The layers of a network by name. `flattened` is (C, H, W) where the convolutions end, empty without them."""

    convolutions: list[str]
    linear: list[str]
    flattened: list[int]


def _layout(task: Task, network: nn.Module) -> _Layout:
    kinds = [part for part in network.children() if isinstance(part, nn.Conv2d | nn.Linear | nn.MaxPool2d)]
    if any(isinstance(part, nn.MaxPool2d) and part.kernel_size != 2 for part in kinds):
        raise NotImplementedError("pooling by hand must be 2x2")
    weights = dict(network.named_parameters())
    names = [name[: -len(".weight")] for name in weights if name.endswith(".weight")]
    convolutions = [name for name in names if weights[f"{name}.weight"].ndim == 4]
    flattened: list[int] = []
    if convolutions:
        side = 2 ** len(convolutions)
        flattened = [len(weights[f"{convolutions[-1]}.bias"]), *(s // side for s in task.input_shape[1:])]
    return _Layout(convolutions, names[len(convolutions) :], flattened)


def by_hand(task: Task) -> Run:
    """Trains model by model with forward and backward passes by torch's primitives, without autograd.

    The channels are last, pooling comes before ReLU, and the images get no gradient. The weights after the flattening
    keep their inputs in the order of the pooled image.
    """
    networks = task.built()
    layout, weights = _layout(task, networks[0]), []
    for network in networks:
        _to_nhwc(network)
        own = {name: p.detach() for name, p in network.named_parameters()}
        if layout.convolutions:
            w = own[f"{layout.linear[0]}.weight"]
            w = w.view(len(w), *layout.flattened).permute(0, 2, 3, 1).flatten(1).contiguous()
            own[f"{layout.linear[0]}.weight"] = w
        weights.append(own)
    optimizers = [optimizer_of(task, list(own.values())) for own in weights]

    def run() -> list[Weights]:
        with torch.no_grad():
            for i in range(task.steps):
                for k, own in enumerate(weights):
                    _gradients_by_hand(layout, own, *task.batch(k, i))
                    optimizers[k].step()
        return [_as_built(own, layout) for own in weights]

    return run


def _gradients_by_hand(layout: _Layout, own: Weights, x: Tensor, label: Tensor) -> None:
    """Sets the gradients of a model's weights."""
    aten, convolutions, linear = torch.ops.aten, layout.convolutions, layout.linear
    window = [[2, 2], [2, 2], [0, 0], [1, 1], False]
    around = [[1, 1], [1, 1], [1, 1], False, [0, 0], 1]
    h, kept = nhwc(x), []
    for name in convolutions:
        raw = F.conv2d(h, own[f"{name}.weight"], own[f"{name}.bias"], padding=1)
        pooled, index = aten.max_pool2d_with_indices(raw, *window)
        kept.append((h, raw, pooled.relu_(), index))
        h = pooled
    h = h.permute(0, 2, 3, 1).flatten(1) if convolutions else h.flatten(1)
    inputs = []
    for name in linear:
        inputs.append(h)
        h = _product(h, own[f"{name}.weight"].t(), own[f"{name}.bias"])
        h = h.relu_() if name != linear[-1] else h
    d = (h.softmax(1) - F.one_hot(label, h.shape[1])).div_(len(label))
    for name, h in zip(reversed(linear), reversed(inputs), strict=True):
        w = own[f"{name}.weight"]
        w.grad, own[f"{name}.bias"].grad = _product(d.t(), h), d.sum(0)
        if convolutions or name != linear[0]:
            d = aten.threshold_backward(_product(d, w), h, 0)
    if convolutions:
        channels, height, width = layout.flattened
        d = d.view(-1, height, width, channels).permute(0, 3, 1, 2)
    for name, (h, raw, pooled, index) in zip(reversed(convolutions), reversed(kept), strict=True):
        d = aten.threshold_backward(d, pooled, 0) if name != convolutions[-1] else d
        d = aten.max_pool2d_with_indices_backward(d, raw, *window, index)
        w = own[f"{name}.weight"]
        wanted = [name != convolutions[0], True, True]
        d, w.grad, own[f"{name}.bias"].grad = aten.convolution_backward(d, h, w, [len(w)], *around, wanted)


def _product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns a b + bias, computed by oneDNN. On some processors it is twice as fast as torch."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(a, b.t(), bias, "none", [], "")
    return result


def _as_built(own: Weights, layout: _Layout) -> Weights:
    """Returns a view of the weights in which the first product's inputs have the order of the network."""
    if not layout.convolutions:
        return own
    name, (channels, height, width) = f"{layout.linear[0]}.weight", layout.flattened
    w = own[name]
    return {**own, name: w.view(len(w), height, width, channels).permute(0, 3, 1, 2)}
