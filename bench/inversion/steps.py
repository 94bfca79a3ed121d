"""The parts that the peers are made of: gradients of log p by several means, the step and the loop around them."""

import copy
from collections.abc import Callable
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.common.forms import nhwc, product, with_own_code
from bench.inversion.task import BETA1, BETA2, EPSILON, L2_WEIGHT, TV_WEIGHT, Run, Task
from pydrift.models.arch.fused import Conv2d, Flatten, FusedModel, Layer, Linear, MaxPool2d, ReLU
from pydrift.ops.reference import prior_gradient, roll

Gradient = Callable[[Tensor, Tensor], Tensor]  # takes images and labels, returns d log p / d images
Step = Callable[..., tuple[Tensor, Tensor, Tensor]]  # takes x, m, v, label, rate, scale and shift, returns x, m and v


# ---- Loop and step


def ascend(task: Task, steps: list[Step], one_block: bool = False) -> Run:
    """Runs all steps of one block, then those of the next. `steps` has a function for each model."""

    def run() -> Tensor:
        images = []
        for model, block in task.blocks(one_block):
            x, label = task.x[block], task.label[block]
            m, v = torch.zeros_like(x), torch.zeros_like(x)
            shifts: Any = repeat(None) if task.shifts is None else (shift[block] for shift in task.shifts)
            with torch.no_grad():
                for (rate, scale), shift in zip(task.corrections, shifts, strict=False):
                    x, m, v = steps[model](x, m, v, label, rate, scale, shift)
            images.append(x)
        return torch.cat(images)

    return run


def update(x: Tensor, ascent: Tensor, m: Tensor, v: Tensor, rate: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
    """Takes one step of Adam along `ascent`. Returns x, m and v."""
    m = BETA1 * m + (1 - BETA1) * ascent
    v = BETA2 * v + (1 - BETA2) * ascent * ascent
    return (x + rate * m / (v.sqrt() * scale + EPSILON)).clamp(0, 1), m, v


def prior_and_update(x: Tensor, g: Tensor, m: Tensor, v: Tensor, rate: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
    """Takes one step of Adam along the gradient `g` of log p less the gradient of the priors."""
    return update(x, g - prior_gradient(x, TV_WEIGHT, L2_WEIGHT), m, v, rate, scale)


def step_of(gradient: Gradient, move: Callable[..., Any] = prior_and_update) -> Step:
    """Returns the step that finds the gradient, with jitter where a shift is given, and then moves."""

    def step(
        x: Tensor, m: Tensor, v: Tensor, label: Tensor, rate: Tensor, scale: Tensor, shift: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        g = gradient(x, label) if shift is None else roll(gradient(roll(x, shift), label), -shift)
        x, m, v = move(x, g, m, v, rate, scale)
        return x, m, v

    return step


def log_probability(network: Callable[[Tensor], Tensor], x: Tensor, label: Tensor) -> Tensor:
    """Returns log p(label | x), [N, 1]."""
    return F.log_softmax(network(x), dim=1).gather(1, label[:, None])


def autograd(network: Callable[[Tensor], Tensor]) -> Gradient:
    """Returns the gradient of log p by torch's autograd."""

    def gradient(x: Tensor, label: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            (result,) = torch.autograd.grad(log_probability(network, x, label).sum(), x)
        return result

    return gradient


def whole_step(network: Callable[[Tensor], Tensor]) -> Step:
    """Returns a step for torch.compile, which is faster where autograd differentiates the priors, too."""

    def objective(x: Tensor, seen: Tensor, label: Tensor) -> Tensor:
        down, right = x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]
        prior = TV_WEIGHT * ((down * down).sum() + (right * right).sum()) + L2_WEIGHT * (x * x).sum()
        return log_probability(network, seen, label).sum() - prior

    gradient_of = torch.func.grad(objective, argnums=(0, 1))

    def step(
        x: Tensor, m: Tensor, v: Tensor, label: Tensor, rate: Tensor, scale: Tensor, shift: Tensor | None
    ) -> tuple[Tensor, ...]:
        if shift is None:
            prior, g = gradient_of(x, x, label)
        else:
            prior, g = gradient_of(x, roll(x, shift), label)
            g = roll(g, -shift)
        return update(x, prior + g, m, v, rate, scale)

    compilable: Step = with_own_code(step)
    return compilable


# ---- Forward and backward by hand


def manual(model: FusedModel, block: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Returns a function for log p and its gradient, with a forward and a backward pass written by hand.

    They work in place where they can, and pool before ReLU. On the CPU oneDNN computes the products with weights that
    are packed for the block. On some processors it is twice as fast as torch.
    """
    layers = list(model.layers)
    for i in range(len(layers) - 1):
        if isinstance(layers[i], ReLU) and isinstance(layers[i + 1], MaxPool2d):
            layers[i], layers[i + 1] = layers[i + 1], layers[i]  # the same function on a quarter of the values
    forward, backward = zip(*(_by_hand(layer, block) for layer in layers), strict=True)

    def gradient(x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        saved = []
        for function in forward:
            x, kept = function(x)
            saved.append(kept)
        log_probability = x.log_softmax(1)
        d = F.one_hot(label, model.num_classes) - log_probability.exp()
        for function, kept in zip(reversed(backward), reversed(saved), strict=True):
            d = function(d, kept)
        return log_probability.gather(1, label[:, None])[:, 0], d

    return gradient


def gradient_alone(function: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Gradient:
    """Returns the gradient without log p."""
    return lambda x, label: function(x, label)[1]


_Forward = Callable[[Tensor], tuple[Tensor, Any]]  # also returns what the backward pass needs
_Backward = Callable[[Tensor, Any], Tensor]


def _by_hand(layer: Layer, block: int) -> tuple[_Forward, _Backward]:
    """Returns the two passes of a layer."""
    aten = torch.ops.aten
    match layer:
        case Linear(weight, bias):
            forward, backward = product(weight, bias, block), product(weight.t().contiguous(), None, block)
            return (lambda x: (forward(x), None)), (lambda d, _: backward(d))
        case Conv2d(weight, bias, stride, padding):
            weight = nhwc(weight)
            shape = [list(stride), list(padding), [1, 1], False, [0, 0], 1, [True, False, False]]
            return (
                lambda x: (F.conv2d(nhwc(x), weight, bias, stride, padding), x),
                lambda d, x: aten.convolution_backward(d, x, weight, None, *shape)[0],
            )
        case ReLU():
            return (lambda x: (x.relu_(), x)), (lambda d, x: aten.threshold_backward(d, x, 0))
        case MaxPool2d(kernel, stride, padding):
            window = [list(kernel), list(stride), list(padding), [1, 1], False]

            def pool(x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
                pooled, index = aten.max_pool2d_with_indices(x, *window)
                return pooled, (x, index)

            return pool, lambda d, kept: aten.max_pool2d_with_indices_backward(d, kept[0], *window, kept[1])
        case Flatten():
            return (lambda x: (x.flatten(1), x.shape)), (lambda d, shape: nhwc(d.view(shape)))
    raise NotImplementedError(f"there is no {type(layer).__name__} by hand")


# ---- Many models at once


def stacked(task: Task) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns the gradient of all models at once, by vmap over their weights. Images [N, C, H, W] are by model."""
    parameters, buffers = torch.func.stack_module_state(task.networks)
    parameters = {name: tensor.detach() for name, tensor in parameters.items()}
    skeleton = copy.deepcopy(task.networks[0]).to("meta")

    def objective(x: Tensor, weights: dict[str, Tensor], label: Tensor) -> Tensor:
        logits = torch.func.functional_call(skeleton, (weights, buffers), (x,))
        return F.log_softmax(logits, dim=1).gather(1, label[:, None]).sum()

    gradient_of = torch.func.vmap(torch.func.grad(objective))

    def gradient(x: Tensor, label: Tensor) -> Tensor:
        by_model = x.view(task.num_models, task.per_model, *task.input_shape)
        gradient: Tensor = gradient_of(by_model, parameters, label.view(task.num_models, -1))
        return gradient.view_as(x)

    return gradient


def batched(task: Task) -> Gradient:
    """Returns the gradient of all MLPs at once, by hand, with one batched product per layer."""
    models = task.lowered or []
    linear = [[layer for layer in model.layers if isinstance(layer, Linear)] for model in models]
    weight = [torch.stack([layer.weight for layer in layers]) for layers in zip(*linear, strict=True)]
    turned = [w.transpose(1, 2).contiguous() for w in weight]
    bias = [torch.stack([layer.bias for layer in layers]).unsqueeze(1) for layers in zip(*linear, strict=True)]

    def gradient(x: Tensor, label: Tensor) -> Tensor:
        h = x.view(task.num_models, task.per_model, -1)
        saved: list[Tensor] = []
        for b, w in zip(bias, turned, strict=True):
            h = torch.baddbmm(b, h, w)
            if len(saved) < len(bias) - 1:
                saved.append(h.relu_())
        d = F.one_hot(label.view(h.shape[:2]), task.num_classes) - h.softmax(-1)
        for w, h in zip(reversed(weight[1:]), reversed(saved), strict=True):
            d = torch.ops.aten.threshold_backward(torch.bmm(d, w), h, 0)
        return torch.bmm(d, weight[0]).view_as(x)

    return gradient
