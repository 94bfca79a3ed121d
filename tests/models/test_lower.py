"""Lowering: the chain of layers computes what the module computes in evaluation mode, or says why it cannot."""

from __future__ import annotations

import copy
import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pydrift.models.arch import NotLowerable, build, lower
from pydrift.models.arch.fused import Affine, Conv2d, Linear

Shape = tuple[int, int, int]


def trained_like(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights, biases and BatchNorm statistics far from their initial values, as training leaves them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) and part.running_var is not None:
                part.running_mean.normal_(generator=generator)
                part.running_var.uniform_(0.05, 4.0, generator=generator)
                for parameter in part.parameters():
                    parameter.normal_(generator=generator)
            elif isinstance(part, nn.Linear | nn.Conv2d):
                part.weight.normal_(generator=generator).div_(part.weight[0].numel() ** 0.5)
                if part.bias is not None:
                    part.bias.normal_(generator=generator)
    return module


def sequential(*layers: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*copy.deepcopy(layers))


class Functional(nn.Module):
    """A chain written out in `forward`, in the functional forms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 5, stride=2, padding=2)
        self.bn = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 6, 3)
        self.fc = nn.Linear(6, 4)
        self.register_buffer("mean", torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1))
        self.std = torch.tensor([0.2, 0.3, 0.4])

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / self.std[:, None, None].to(x.device)
        x = F.max_pool2d(F.relu(self.bn(self.conv1(x))), 2)
        x = F.avg_pool2d(torch.relu(self.conv2(x)), kernel_size=(3, 2), stride=1)
        x = F.dropout(F.adaptive_avg_pool2d(x, 1), 0.3, training=self.training)
        return self.fc(x.view(x.size(0), -1))


class Reshaping(nn.Module):
    """Any of the ways to flatten."""

    def __init__(self, flatten: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.flatten = flatten
        self.fc = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.flatten(1.0 - x * 2.0).relu())


class Nested(nn.Module):
    """Blocks inside blocks, one of them used twice."""

    def __init__(self) -> None:
        super().__init__()
        block = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU(inplace=True))
        self.body = nn.ModuleList([nn.Sequential(block, nn.Identity()), block])
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d((2, None)), nn.Flatten(), nn.Dropout(), nn.Linear(30, 4))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.body:
            x = block(x)
        return self.head(x)


# One row per architecture: name, module, input shape, the layers that lowering leaves.
CHAINS: list[tuple[str, Callable[[], nn.Module], Shape, str]] = [
    ("mlp", lambda: build("mlp:1x8x8:19-7:10", 0), (1, 8, 8), "Flatten Linear ReLU Linear ReLU Linear"),
    (
        "convnet",
        lambda: build("convnet:3x9x13:5,8:16:10", 0),
        (3, 9, 13),
        "Conv2d ReLU MaxPool2d Conv2d ReLU MaxPool2d Flatten Linear ReLU Linear",
    ),
    (
        "functional forms",
        Functional,
        (3, 19, 17),
        "Affine Conv2d ReLU MaxPool2d Conv2d ReLU AvgPool2d AvgPool2d Flatten Linear",
    ),
    ("nested", Nested, (3, 4, 5), "Conv2d ReLU Conv2d ReLU AvgPool2d Flatten Linear"),
    ("view -1", lambda: Reshaping(lambda x: x.view(-1, 32)), (2, 4, 4), "Affine Flatten ReLU Linear"),
    ("reshape", lambda: Reshaping(lambda x: x.reshape(x.shape[0], -1)), (2, 4, 4), "Affine Flatten ReLU Linear"),
    ("torch.flatten", lambda: Reshaping(lambda x: torch.flatten(x, 1)), (2, 4, 4), "Affine Flatten ReLU Linear"),
    ("x.flatten", lambda: Reshaping(lambda x: x.flatten(1)), (2, 4, 4), "Affine Flatten ReLU Linear"),
    (
        "BatchNorm everywhere",
        sequential(
            nn.BatchNorm2d(2),
            nn.Conv2d(2, 5, (5, 3), stride=(2, 1), padding=(1, 0), bias=False),
            nn.BatchNorm2d(5, affine=False),
            nn.BatchNorm2d(5, eps=0.1),
            nn.ReLU(),
            nn.BatchNorm2d(5),
            nn.MaxPool2d(3, stride=2, padding=1),
            nn.Flatten(),
            nn.Linear(45, 9),
            nn.BatchNorm1d(9),
            nn.ReLU(),
            nn.Linear(9, 4, bias=False),
        ),
        (2, 11, 7),
        "Affine Conv2d ReLU Affine MaxPool2d Flatten Linear ReLU Linear",
    ),
    (
        "average pools",
        sequential(nn.AvgPool2d(2), nn.Conv2d(1, 4, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
        (1, 9, 9),
        "AvgPool2d Conv2d AvgPool2d Flatten Linear",
    ),
]


@pytest.mark.parametrize(("make", "shape", "layers"), [row[1:] for row in CHAINS], ids=[row[0] for row in CHAINS])
def test_chain(make: Callable[[], nn.Module], shape: Shape, layers: str) -> None:
    module = trained_like(make()).eval()
    fused = lower(module, shape)
    assert " ".join(type(layer).__name__ for layer in fused.layers) == layers
    assert fused.input_shape == shape

    assert fused(torch.empty(0, *shape)).shape == (0, fused.num_classes)
    for num_images in (1, 5):
        x = torch.rand(num_images, *shape, generator=torch.Generator().manual_seed(1)) * 2 - 0.5
        x.requires_grad_()
        expected = module(x)
        logits = fused(x)
        assert logits.shape == (num_images, fused.num_classes)
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
        seed = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
        (gradient,) = torch.autograd.grad(logits, x, seed)
        (expected_gradient,) = torch.autograd.grad(expected, x, seed)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-5)
        assert gradient.abs().max() > 0


def test_layers_are_frozen_contiguous_float32() -> None:
    module = trained_like(Functional()).to(memory_format=torch.channels_last)
    fused = lower(module, (3, 19, 17))
    tensors = [v for layer in fused.layers for v in vars(layer).values() if isinstance(v, Tensor)]
    assert len(tensors) == 8
    own = {p.data_ptr() for p in [*module.parameters(), *module.buffers()]}
    for tensor in tensors:
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
        assert not tensor.requires_grad
        assert tensor.data_ptr() not in own
    assert fused.num_parameters == sum(t.numel() for t in tensors) == 6 + (600 + 8) + (432 + 6) + (24 + 4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        fused.num_classes = 3  # type: ignore[misc]
    moved = fused.to("meta")
    assert moved(torch.empty(2, 3, 19, 17, device="meta")).shape == (2, 4)
    assert fused.layers[0].scale.device.type == "cpu"


def test_folding_is_exact_to_float32() -> None:
    """A bias close to the running mean, times a large scale: folded in float32 it would lose half of its digits."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3, eps=0.0))
    with torch.no_grad():
        module[1].weight.uniform_(1e-4, 2e-4, generator=torch.Generator().manual_seed(0))
        module[1].bias.copy_(torch.tensor([0.3001, 0.3002, 0.3003]))
        module[2].running_mean.fill_(0.3)
        module[2].running_var.fill_(3e-9)
    _, linear = lower(module, (1, 2, 2)).layers
    assert isinstance(linear, Linear)
    _, fc, norm = module.double()
    exact = (fc.bias - norm.running_mean) / norm.running_var.sqrt()
    torch.testing.assert_close(linear.bias.double(), exact.detach(), rtol=1e-7, atol=0)
    exact = fc.weight / norm.running_var.sqrt()[:, None]
    torch.testing.assert_close(linear.weight.double(), exact.detach(), rtol=1e-7, atol=0)


def test_input_normalisation() -> None:
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv((x - 0.5) / 0.25).flatten(1)

    affine, conv, _ = lower(Normalised(), (1, 4, 4)).layers
    assert isinstance(affine, Affine)
    assert isinstance(conv, Conv2d)
    assert (affine.scale.tolist(), affine.shift.tolist()) == ([4.0], [-2.0])


@pytest.mark.parametrize("training", [True, False])
def test_module_is_untouched(training: bool) -> None:
    module = trained_like(Functional()).train(training)
    module.bn.eval()
    module(torch.rand(2, 3, 19, 17)).sum().backward()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    gradients = {name: p.grad.clone() for name, p in module.named_parameters()}
    modes = [part.training for part in module.modules()]
    attributes = {name: set(vars(part)) for name, part in module.named_modules()}
    pointers = [p.data_ptr() for p in module.parameters()]
    torch.manual_seed(4)
    state = torch.get_rng_state()

    lower(module, (3, 19, 17))

    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(torch.equal(p.grad, gradients[name]) for name, p in module.named_parameters())
    assert all(p.requires_grad for p in module.parameters())
    assert [part.training for part in module.modules()] == modes
    assert {name: set(vars(part)) for name, part in module.named_modules()} == attributes
    assert [p.data_ptr() for p in module.parameters()] == pointers


def test_lowered_inside_inference_mode_still_differentiates() -> None:
    with torch.inference_mode():
        fused = lower(build("mlp:1x4x4:5:3", 0), (1, 4, 4))
    x = torch.rand(2, 1, 4, 4, requires_grad=True)
    fused(x).sum().backward()
    assert x.grad is not None


class Forward(nn.Module):
    """A small classifier with a `forward` given from outside."""

    def __init__(self, forward: Callable[[Forward, Tensor], object]) -> None:
        super().__init__()
        self.call = forward
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(64, 3)
        self.calls = 0

    def forward(self, x: Tensor) -> object:
        return self.call(self, x)


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x


def hooked() -> nn.Module:
    module = Forward(lambda m, x: m.fc(m.conv(x).flatten(1)))
    module.conv.register_forward_hook(lambda *_: None)
    return module


def weight_norm() -> nn.Module:
    module = Forward(lambda m, x: m.fc(m.conv(x).flatten(1)))
    nn.utils.parametrizations.weight_norm(module.fc)
    return module


def with_nan() -> nn.Module:
    module = build("mlp:1x4x4:5:3", 0)
    with torch.no_grad():
        module.fc1.weight[0, 0] = float("nan")
    return module


def alternating(m: Forward, x: Tensor) -> Tensor:
    m.calls += 1
    return m.fc(m.conv(x).flatten(1)) * (2.0 if m.calls > 1 else 1.0)


def concatenated(m: Forward, x: Tensor) -> Tensor:
    x = m.conv(x)
    return m.fc(torch.cat([x[:, :2], x[:, 2:]], 1).flatten(1))


MISMATCH = "the lowered network does not reproduce the module: "


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: build("resnet18:1x4x4:3", 0), "layer1.0: residual or parallel connection"),
        (lambda: build("resnet9:1x8x8:3", 0), "residual1: residual or parallel connection"),
        (lambda: Forward(lambda m, x: x + m.conv(x)), "forward: residual or parallel connection"),
        (lambda: Forward(concatenated), "forward: residual or parallel connection"),
        (lambda: Forward(lambda m, x: x * x), "forward: arithmetic other than of the images with a constant"),
        (lambda: Forward(lambda m, x: 1 / x), "forward: arithmetic other than of the images with a constant"),
        (lambda: Forward(lambda m, x: x + torch.ones(3, 1, 1)), "forward: arithmetic that changes the shape"),
        (
            lambda: Forward(lambda m, x: x + torch.eye(4)),
            "forward: arithmetic with a constant that differs within a channel",
        ),
        (lambda: Forward(lambda m, x: m.fc(torch.sigmoid(m.conv(x)).flatten(1))), "forward: sigmoid is not supported"),
        (lambda: Forward(lambda m, x: F.adaptive_max_pool2d(x, 1)), "forward: adaptive_max_pool2d is not supported"),
        (lambda: Forward(lambda m, x: m.conv(x)), "forward: returns [N, 4, 4, 4] instead of logits [N, K]"),
        (lambda: Forward(lambda m, x: {"scores": x.flatten(1)}), "forward: does not return logits alone"),
        (lambda: Forward(lambda m, x: m.fc(x.view(-1, 8))), "forward: reshapes to [N, 8] instead of [N, features]"),
        (
            lambda: Forward(lambda m, x: m.conv2(x)),
            "conv2: RuntimeError: Given groups=1, weight of size [4, 4, 3, 3], expected input[7, 1, 4, 4] to have "
            "4 channels, but got 1 channels instead",
        ),
        (
            lambda: Forward(lambda m, x: x if x.sum() > 0 else -x),
            "forward: cannot be traced: TraceError: symbolically traced variables cannot be used as inputs to "
            "control flow",
        ),
        (lambda: Forward(alternating), MISMATCH + "logits differ by {} where the largest is {}"),
        (
            lambda: Forward(lambda m, x: m.fc(F.dropout(m.conv(x)).flatten(1))),
            MISMATCH + "logits differ by {} where the largest is {}",
        ),
        (with_nan, MISMATCH + "logits differ by nan where the largest is nan"),
        (TwoInputs, "forward: takes 2 arguments instead of the images alone"),
        (hooked, "conv: has hooks"),
        (weight_norm, "fc: parametrised weights"),
        (sequential(nn.Conv2d(1, 2, 1), nn.LayerNorm([2, 4, 4])), "1: LayerNorm is not supported"),
        (sequential(nn.Linear(4, 2)), "0: Linear on images that were not flattened"),
        (sequential(nn.Conv2d(1, 1, 3, dilation=2)), "0: Conv2d with dilation=(2, 2) is not supported"),
        (
            sequential(nn.Conv2d(1, 2, 1), nn.Sequential(nn.Conv2d(2, 2, 3, groups=2))),
            "1.0: Conv2d with groups=2 is not supported",
        ),
        (sequential(nn.Conv2d(1, 1, 3, padding="same")), "0: Conv2d with padding='same' is not supported"),
        (
            sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")),
            "0: Conv2d with padding_mode='reflect' is not supported",
        ),
        (sequential(nn.MaxPool2d(3, ceil_mode=True)), "0: max_pool2d with ceil_mode=True is not supported"),
        (sequential(nn.AvgPool2d(3, padding=1)), "0: avg_pool2d with padding=(1, 1) is not supported"),
        (
            sequential(nn.AdaptiveAvgPool2d(3)),
            "0: adaptive_avg_pool2d from 4x4 to 3x3 has windows of several sizes",
        ),
        (
            sequential(nn.BatchNorm2d(1, track_running_stats=False)),
            "0: BatchNorm without running statistics",
        ),
    ],
)
def test_not_lowerable(make: Callable[[], nn.Module], reason: str) -> None:
    shape = (1, 8, 8) if "residual1" in reason else (1, 4, 4)
    with pytest.raises(NotLowerable) as caught:
        lower(make(), shape)
    start, *rest = reason.split("{}")
    assert str(caught.value).startswith(start)
    assert str(caught.value) == reason or rest


def test_uncopyable_module() -> None:
    module = build("mlp:1x4x4:5:3", 0)
    module.cached = module.fc1.weight * 2
    with pytest.raises(NotLowerable, match=r"^module: cannot be copied: RuntimeError: Only Tensors created explicitly"):
        lower(module, (1, 4, 4))


def test_logits_that_depend_on_the_number_of_images_are_refused() -> None:
    """Tracing and walking see seven images; the comparison with the module is on another number of them."""
    module = Forward(lambda m, x: m.fc(m.conv(x).reshape(7, 64)))
    with pytest.raises(NotLowerable, match=r"^forward: fails on 4 images: RuntimeError: shape '\[7, 64\]' is invalid"):
        lower(module, (1, 4, 4))


def test_other_threads_run_modules_while_one_is_traced():
    """fx replaces nn.Module.__call__ for all threads: a module run elsewhere must not end in the trace."""
    traced, ran, outcome = threading.Event(), threading.Event(), []

    class Slow(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x):
            if isinstance(x, fx.Proxy):
                traced.set()
                assert ran.wait(10)
            return self.linear(x.flatten(1))

    def run_elsewhere():
        assert traced.wait(10)
        try:
            outcome.append(nn.Sequential(nn.Flatten(), nn.Linear(4, 2))(torch.zeros(5, 1, 2, 2)).shape)
        except Exception as error:
            outcome.append(error)
        ran.set()

    other = threading.Thread(target=run_elsewhere)
    other.start()
    fused = lower(Slow(), (1, 2, 2))
    other.join()
    assert outcome == [(5, 2)]
    assert len(fused.layers) == 2


def test_many_threads_lower_at_once():
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda seed: lower(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (1, 2, 2)), range(64)))
    assert all(len(fused.layers) == 2 for fused in found)
    assert nn.Module.__call__.__module__.startswith("torch.nn")  # nothing of a trace is left behind
