"""Folding of BatchNorm in networks that cannot be lowered: the same function, fewer layers, or the module as it is."""

import pytest
import torch
from torch import nn

from pydrift.models.arch import build, frozen_copy

SHAPE = (3, 8, 8)


def trained_alike(module: nn.Module) -> nn.Module:
    """Running statistics that are not the identity."""
    generator = torch.Generator().manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.copy_(torch.randn(part.num_features, generator=generator) / 4)
            part.running_var.copy_(torch.rand(part.num_features, generator=generator) + 0.5)
    return module


def batch_norms(module: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in module.modules())


def assert_same_function(copy: nn.Module, module: nn.Module) -> None:
    x = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = module.double().eval()(x.double()).float()
    torch.testing.assert_close(copy(x), expected, rtol=1e-4, atol=1e-5)
    assert not any(p.requires_grad for p in copy.parameters())
    assert not any(part.training for part in copy.modules())


@pytest.mark.parametrize("arch", ["resnet9:3x8x8:10", "resnet18:3x8x8:10"])
def test_residual_networks_lose_their_batch_norm(arch: str) -> None:
    module = trained_alike(build(arch, 0))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    copy = frozen_copy(module, SHAPE)
    assert batch_norms(copy) == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert_same_function(copy, module)


class Shared(nn.Module):
    """What must not be folded: a convolution that is read twice, and one that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.read_twice, self.called_twice = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(3))
        self.head = nn.Linear(3 * 64, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.read_twice(x)
        a = a + self.norms[0](a)
        a = self.norms[1](self.called_twice(a)) + self.norms[2](self.called_twice(x))
        return self.head(a.flatten(1))


class Branching(nn.Module):
    """A forward that cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Linear(3 * 36, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x))
        return self.head((x if x.sum() > 0 else -x).flatten(1))


@pytest.mark.parametrize(("kind", "left"), [(Shared, 3), (Branching, 1)])
def test_what_cannot_be_seen_to_be_right_is_left_alone(kind: type[nn.Module], left: int) -> None:
    torch.manual_seed(0)
    module = trained_alike(kind())
    copy = frozen_copy(module, SHAPE)
    assert batch_norms(copy) == left
    assert_same_function(copy, module)


def test_a_hook_that_changes_the_output_is_not_lost() -> None:
    torch.manual_seed(0)
    module = trained_alike(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 4)))
    wrapped = nn.Sequential(module)
    module.register_forward_hook(lambda _module, _inputs, output: 2 * output)
    assert_same_function(frozen_copy(wrapped, SHAPE), wrapped)
