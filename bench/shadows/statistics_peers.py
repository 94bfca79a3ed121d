"""The peers of `shadow_statistics`: the ways to ask many networks about the same images in torch.

All of them return margin, loss, confidence and prediction of every (model, image). They compute these from the logits
of a whole model, or of a whole block where the models run together. On the CPU the images go in blocks, because the
activations of all would leave the caches. Weights are frozen, and laid out and packed beforehand.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.common.compare import Peer
from bench.common.forms import capture_graph, channels_last, compile_function, nhwc, product, to_bfloat16, with_own_code
from bench.shadows.task import Task
from pydrift.models.arch.fused import Conv2d, Flatten, FusedModel, Layer, Linear, MaxPool2d, ReLU

Network = Callable[[Tensor], Tensor]
Result = tuple[Tensor, Tensor, Tensor, Tensor]
Run = Callable[[], Result]  # returns margin, loss, confidence and prediction, each [K, N]


def statistics_of(logits: Tensor, label: Tensor) -> Result:
    """Returns the statistics of logits [..., N, C] and labels [N]. With the margin m, p_y is sigmoid(m)."""
    own = label.expand(logits.shape[:-1]).unsqueeze(-1)
    margin = logits.gather(-1, own).squeeze(-1) - logits.scatter(-1, own, -torch.inf).logsumexp(-1)
    return margin, -F.logsigmoid(margin), margin.sigmoid(), logits.argmax(-1)


def peers(task: Task, quick: bool = False) -> dict[str, Peer]:
    """Returns the peers by name. With `quick` these are eager, vmap and the fastest that are known."""
    found: dict[str, Peer] = {}

    def add(name: str, run: Run, precision: str = "float32") -> None:
        found[name] = Peer(run, precision)

    on_cuda, networks = task.device.type == "cuda", task.networks
    last = [channels_last(network) for network in networks] if task.is_convnet else list(networks)
    suffix = " channels_last" if task.is_convnet else ""
    add("eager", loop(task, networks))
    if task.is_convnet:
        add("eager channels_last", loop(task, last))
    add("vmap", at_once(task, stacked(task)))
    if on_cuda:
        add(f"compile{suffix}", loop(task, compiled_each(task, bool(suffix))))
        small = [to_bfloat16(network) for network in networks]
        add("graph of eager bf16" + suffix, capture_graph(loop(task, small)), "bfloat16")
        add(
            "graph of compile bf16" + suffix,
            capture_graph(loop(task, compiled_each(task, True, torch.bfloat16))),
            "bfloat16",
        )
    else:
        add("by hand", loop(task, [by_hand(model, task.block) for model in task.lowered]))
        pool = pooling(task.lowered[0]) if task.is_convnet else None
        some = [by_hand(model, task.block, pool) for model in task.lowered]
        add("by hand, the rest compiled", loop(task, some, statistics=compile_function(statistics_of)))
    if not task.is_convnet:
        add("one product for layer 1, bmm", at_once(task, concatenated(task)))
        if on_cuda:
            add("one product for layer 1, bmm, tf32", at_once(task, concatenated(task)), "tf32")
            add("one product for layer 1, bmm, bf16", at_once(task, concatenated(task, torch.bfloat16)), "bfloat16")
        else:
            add(
                "one product for layer 1, by hand",
                at_once(task, concatenated_by_hand(task), compile_function(statistics_of)),
            )
    if quick:
        return found
    if not on_cuda:
        add("eager, all images at once", loop(task, networks, task.num_images))
        add(f"compile{suffix}", loop(task, compiled_each(task, bool(suffix))))
    if task.is_convnet:
        add("compile", loop(task, compiled_each(task)))
        add("one convolution for layer 1, grouped after", at_once(task, grouped(task)))
    add("compile of vmap", at_once(task, compile_function(with_own_code(stacked(task)))))
    if on_cuda:
        add("eager tf32" + suffix, loop(task, last), "tf32")
        add("eager bf16" + suffix, loop(task, small), "bfloat16")
        add(f"graph of compile{suffix}", capture_graph(loop(task, compiled_each(task, bool(suffix)))))
        add(f"graph of compile{suffix} tf32", capture_graph(loop(task, compiled_each(task, bool(suffix)))), "tf32")
        add("vmap bf16", at_once(task, stacked(task, torch.bfloat16)), "bfloat16")
        add(
            "compile of vmap bf16",
            at_once(task, compile_function(with_own_code(stacked(task, torch.bfloat16)))),
            "bfloat16",
        )
    return found


# ---- The two ways to go through models and images


def loop(
    task: Task, networks: list[Any], block: int | None = None, statistics: Callable[..., Result] = statistics_of
) -> Run:
    """Runs model by model. Each network turns [N, C, H, W] into [N, classes]."""

    def run() -> Result:
        with torch.no_grad():
            blocks = task.x.split(block or task.block)
            parts = [statistics(torch.cat([network(x) for x in blocks]), task.label) for network in networks]
        margin, loss, confidence, prediction = (torch.stack(part) for part in zip(*parts, strict=True))
        return margin, loss, confidence, prediction

    return run


def at_once(task: Task, network: Network, statistics: Callable[..., Result] = statistics_of) -> Run:
    """Runs all models on each block of images. The network turns [N, C, H, W] into [K, N, classes]."""

    def run() -> Result:
        with torch.no_grad():
            parts = [statistics(network(task.x[block]), task.label[block]) for block in task.blocks()]
        margin, loss, confidence, prediction = (torch.cat(part, 1) for part in zip(*parts, strict=True))
        return margin, loss, confidence, prediction

    return run


# ---- One network, compiled or by hand


def compiled_each(task: Task, last: bool = False, dtype: torch.dtype = torch.float32) -> list[Network]:
    """Compiles the networks to one code, which takes the weights as arguments."""
    skeleton = copy.deepcopy(task.networks[0]).to("meta")

    def logits(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        x = nhwc(x) if last else x
        return torch.func.functional_call(skeleton, weights, (x.to(dtype),)).float()

    code = compile_function(with_own_code(logits))

    def of(network: nn.Module) -> Network:
        weights = {name: tensor.to(dtype) for name, tensor in network.named_parameters()}
        if last:
            weights = {name: nhwc(tensor) if tensor.ndim == 4 else tensor for name, tensor in weights.items()}
        return lambda x: code(weights, x)

    return [of(network) for network in task.networks]


def by_hand(model: FusedModel, block: int, pool: Any = None) -> Network:
    """Returns the network made of oneDNN's convolutions and products on packed weights.

    The channels are last to the end, and pooling comes before ReLU. `pool` may be a function compiled from both.
    """
    functions: list[Network] = []
    probe = torch.zeros(1, *model.input_shape)
    shape = probe.shape  # at the last Flatten
    before: Layer | None = None
    for layer, after in zip(model.layers, [*model.layers[1:], None], strict=True):
        match layer:
            case Linear(weight, bias):
                if isinstance(before, Flatten):
                    weight = weight.view(len(weight), *shape[1:]).permute(0, 2, 3, 1).flatten(1).contiguous()
                functions.append(product(weight, bias, block, "relu" if isinstance(after, ReLU) else "none"))
            case Conv2d():
                functions.append(_convolution(layer))
            case MaxPool2d():
                functions.append(_pooling(layer) if pool is None else pool)
            case Flatten():
                shape = probe.shape
                functions.append(lambda x: x.permute(0, 2, 3, 1).flatten(1))
            case ReLU() if isinstance(before, Linear) or isinstance(after, MaxPool2d):
                pass  # part of the product, or after the pooling: the same function of fewer values
            case _:
                raise NotImplementedError(f"there is no {type(layer).__name__} by hand")
        probe, before = layer(probe), layer

    def logits(x: Tensor) -> Tensor:
        for function in functions:
            x = function(x)
        return x

    return logits


def _convolution(layer: Conv2d) -> Network:
    weight = nhwc(layer.weight)
    return lambda x: F.conv2d(nhwc(x), weight, layer.bias, layer.stride, layer.padding)


def _pooling(layer: MaxPool2d) -> Network:
    return lambda x: layer(x).relu_()


def pooling(model: FusedModel) -> Network:
    """Compiles max-pooling and ReLU to one function, for a model whose poolings are all alike."""
    kind = {layer for layer in model.layers if isinstance(layer, MaxPool2d)}
    if len(kind) != 1:
        raise NotImplementedError("poolings by hand must be alike")
    (pooled,) = kind
    relu_of: Network = compile_function(with_own_code(lambda x: F.relu(pooled(x))))
    return relu_of


# ---- All networks at once


def stacked(task: Task, dtype: torch.dtype = torch.float32) -> Network:
    """Runs all networks by vmap over their stacked weights."""
    parameters, buffers = torch.func.stack_module_state(task.networks)
    weights = {name: tensor.detach().to(dtype) for name, tensor in parameters.items()}
    skeleton = copy.deepcopy(task.networks[0]).to("meta")

    def logits(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(skeleton, (weights, buffers), (x,))

    mapped = torch.func.vmap(logits, in_dims=(0, None))
    return lambda x: mapped(weights, x.to(dtype)).float()


def _layers_of(task: Task, kind: type) -> list[tuple[Tensor, Tensor]]:
    """Returns the weights and the biases of all models for each layer of that kind."""
    models = [[layer for layer in model.layers if isinstance(layer, kind)] for model in task.lowered]
    return [
        (torch.stack([layer.weight for layer in layers]), torch.stack([layer.bias for layer in layers]))
        for layers in zip(*models, strict=True)
    ]


def concatenated(task: Task, dtype: torch.dtype = torch.float32) -> Network:
    """Runs the first layer of all MLPs as one product, because they share the images. Batched products follow."""
    (weight, bias), *rest = _layers_of(task, Linear)
    first, shift = weight.flatten(0, 1).t().contiguous().to(dtype), bias.flatten().to(dtype)
    behind = [(b.unsqueeze(1).to(dtype), w.transpose(1, 2).contiguous().to(dtype)) for w, b in rest]

    def logits(x: Tensor) -> Tensor:
        h = torch.addmm(shift, x.flatten(1).to(dtype), first).relu_()
        h = h.view(len(x), task.num_models, -1).transpose(0, 1)
        for b, w in behind[:-1]:
            h = torch.baddbmm(b, h, w).relu_()
        return torch.baddbmm(*[behind[-1][0], h, behind[-1][1]]).float()

    return logits


def concatenated_by_hand(task: Task) -> Network:
    """Does the same with oneDNN's products. Those of the later layers run model by model."""
    (weight, bias), *rest = _layers_of(task, Linear)
    first = product(weight.flatten(0, 1), bias.flatten(), task.block, "relu")
    behind = [
        [product(w[k], b[k], task.block, "relu" if i < len(rest) - 1 else "none") for i, (w, b) in enumerate(rest)]
        for k in range(task.num_models)
    ]

    def logits(x: Tensor) -> Tensor:
        hidden = first(x.flatten(1)).view(len(x), task.num_models, -1)
        outputs = []
        for k, functions in enumerate(behind):
            h = hidden[:, k].contiguous()
            for function in functions:
                h = function(h)
            outputs.append(h)
        return torch.stack(outputs)

    return logits


def grouped(task: Task) -> Network:
    """Runs the first layer of all convnets as one convolution.

    Later convolutions have one group for each model, with the channels last. Batched products follow.
    """
    (weight, bias), *convolutions = _layers_of(task, Conv2d)
    linear = [(b.unsqueeze(1), w.transpose(1, 2).contiguous()) for w, b in _layers_of(task, Linear)]
    first = (nhwc(weight.flatten(0, 1)), bias.flatten())
    behind = [(nhwc(w.flatten(0, 1)), b.flatten()) for w, b in convolutions]

    def logits(x: Tensor) -> Tensor:
        h = F.max_pool2d(F.conv2d(nhwc(x), *first, padding=1), 2).relu_()
        for w, b in behind:
            h = F.max_pool2d(F.conv2d(h, w, b, padding=1, groups=task.num_models), 2).relu_()
        h = h.view(len(x), task.num_models, -1, *h.shape[2:]).flatten(2).transpose(0, 1)
        for i, (b, w) in enumerate(linear):
            h = torch.baddbmm(b, h, w)
            h = h.relu_() if i < len(linear) - 1 else h
        return h

    return logits
