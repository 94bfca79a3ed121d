"""The built-in networks as plain torch modules, float32 logits [N, K] from images [N, C, H, W] in [0, 1].

MLP and ConvNet are flat Sequentials (conv1, fc1, fc2, ...). ResNet18 is He et al. 2015 (arXiv:1512.03385) with the
usual stem for small images; ResNet9 is the network of D. Page, "How to Train Your ResNet" (2018).
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from pydrift.core.errors import UsageError
from pydrift.core.limits import MAX_PARAMETERS
from pydrift.models.arch.spec import ArchSpec, parse


def build(spec: ArchSpec | str, seed: int) -> nn.Module:
    """The network of `spec`, in training mode, on the CPU, in float32.

    The initial weights are a pure function of (spec, seed): uniform in +-1/sqrt(fan_in) as in torch's own layers, and
    drawn in the order of the modules. BatchNorm starts as the identity. The caller's generators, default dtype and
    grad mode are neither used nor changed. UsageError for a bad spec or more than 2**28 parameters.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    with torch.inference_mode(False), torch.no_grad():
        network = outline(spec).to_empty(device="cpu")
        for module in network.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                bound = prod(module.weight.shape[1:]) ** -0.5
                for parameter in module.parameters(recurse=False):
                    parameter.uniform_(-bound, bound, generator=generator)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
    return network


def outline(spec: ArchSpec | str) -> nn.Module:
    """The network of `spec` with names, shapes and dtypes, and without memory for its weights (on the device "meta").

    UsageError as in `build`.
    """
    spec = parse(spec) if isinstance(spec, str) else spec
    with torch.inference_mode(False), torch.no_grad(), torch.device("meta"):
        network = _NETWORKS[spec.family](spec)
    num_parameters = sum(p.numel() for p in network.parameters())
    if num_parameters > MAX_PARAMETERS:
        raise UsageError(
            f"architecture '{spec}': {num_parameters:,} parameters, more than the {MAX_PARAMETERS:,} allowed"
        )
    return network.to(torch.float32)


class MLP(nn.Sequential):
    """Flatten, then Linear and ReLU per hidden width, then Linear."""

    def __init__(self, spec: ArchSpec) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        _append_linear(layers, (prod(spec.input_shape), *spec.hidden, spec.num_classes))
        super().__init__(layers)


class ConvNet(nn.Sequential):
    """3x3 convolution, ReLU and 2x2 max-pool per stage, then Flatten, Linear, ReLU, Linear."""

    def __init__(self, spec: ArchSpec) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        in_channels, height, width = spec.input_shape
        for i, (c_in, c_out) in enumerate(pairwise((in_channels, *spec.channels)), start=1):
            layers[f"conv{i}"] = nn.Conv2d(c_in, c_out, 3, padding=1)
            layers[f"relu{i}"] = nn.ReLU()
            layers[f"pool{i}"] = nn.MaxPool2d(2)
            height, width = height // 2, width // 2
        layers["flatten"] = nn.Flatten()
        _append_linear(layers, (spec.channels[-1] * height * width, *spec.hidden, spec.num_classes))
        super().__init__(layers)


def _append_linear(layers: OrderedDict[str, nn.Module], widths: tuple[int, ...]) -> None:
    """fc1, fc_relu1, fc2, ...: no ReLU after the last."""
    for i, (n_in, n_out) in enumerate(pairwise(widths), start=1):
        if i > 1:
            layers[f"fc_relu{i - 1}"] = nn.ReLU()
        layers[f"fc{i}"] = nn.Linear(n_in, n_out)


class ConvBlock(nn.Sequential):
    """3x3 convolution, BatchNorm, ReLU and, where `pool` is set, 2x2 max-pool."""

    def __init__(self, c_in: int, c_out: int, pool: bool = False) -> None:
        super().__init__(
            OrderedDict(
                conv=nn.Conv2d(c_in, c_out, 3, padding=1, bias=False),
                bn=nn.BatchNorm2d(c_out),
                relu=nn.ReLU(),
                **({"pool": nn.MaxPool2d(2)} if pool else {}),
            )
        )


class Residual(nn.Sequential):
    """x + layers(x)"""

    def forward(self, input: Tensor) -> Tensor:
        return input + super().forward(input)


class ResNet9(nn.Module):
    """prep 64, layer1 128 with a residual pair, layer2 256, layer3 512 with a residual pair, global max-pool, fc."""

    def __init__(self, spec: ArchSpec) -> None:
        super().__init__()
        self.prep = ConvBlock(spec.input_shape[0], 64)
        self.layer1 = ConvBlock(64, 128, pool=True)
        self.residual1 = Residual(ConvBlock(128, 128), ConvBlock(128, 128))
        self.layer2 = ConvBlock(128, 256, pool=True)
        self.layer3 = ConvBlock(256, 512, pool=True)
        self.residual3 = Residual(ConvBlock(512, 512), ConvBlock(512, 512))
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.fc = nn.Linear(512, spec.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.residual1(self.layer1(self.prep(x)))
        x = self.residual3(self.layer3(self.layer2(x)))
        return self.fc(self.pool(x).flatten(1))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm beside an identity, or beside a 1x1 convolution where the shape changes."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.downsample = nn.Sequential()
        if stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return relu(out + self.downsample(x))


class ResNet18(nn.Module):
    """A 3x3 stem with stride 1 and no max-pool, four stages of two basic blocks, global average pool, fc."""

    def __init__(self, spec: ArchSpec) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(spec.input_shape[0], 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256, 1))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, 2), BasicBlock(512, 512, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, spec.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


_NETWORKS: dict[str, type[nn.Module]] = {"mlp": MLP, "convnet": ConvNet, "resnet9": ResNet9, "resnet18": ResNet18}
