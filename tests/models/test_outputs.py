"""What networks return, and what becomes of it at the door: one table for the audits and for fingerprints."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pydrift.data import LabelledImages
from pydrift.fingerprint import fit_fingerprint
from pydrift.inversion import GradientAscent
from pydrift.models.arch import lower
from pydrift.models.classifier import Classifier, freeze
from pydrift.models.outputs import to_logits
from pydrift.models.recipe import TrainingRecipe
from pydrift.training import predict, train

CPU, SHAPE = torch.device("cpu"), (1, 4, 4)
WithAux = namedtuple("WithAux", ["logits", "aux"])


@dataclass
class ModelOutput:
    logits: Tensor
    loss: None = None


class Net(nn.Module):
    """A small network whose logits [N, K] pass through `returns`; BatchNorm, so that fingerprints fold it."""

    def __init__(self, returns: Callable[[nn.Module, Tensor], Any], classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Linear(96, classes)
        self.returns = returns

    def forward(self, x: Tensor) -> Any:
        return self.returns(self, self.head(self.body(x).flatten(1)))


def net(returns: Callable[[nn.Module, Tensor], Any], classes: int = 3) -> Net:
    torch.manual_seed(0)
    module = Net(returns, classes)
    module(torch.rand(16, *SHAPE))
    return module


def autocast(module: nn.Module, z: Tensor) -> Tensor:
    return z.bfloat16()


RETURNS: dict[str, tuple[Callable[[nn.Module, Tensor], Any], int]] = {
    "plain": (lambda m, z: z, 3),
    "ModelOutput": (lambda m, z: ModelOutput(z), 3),
    "dict": (lambda m, z: {"logits": z, "features": z}, 3),
    "OrderedDict": (lambda m, z: OrderedDict(logits=z), 3),
    "tuple": (lambda m, z: (z, z.mean()), 3),
    "list": (lambda m, z: [z], 3),
    "aux in training": (lambda m, z: WithAux(z, z) if m.training else z, 3),
    "N, K, 1, 1": (lambda m, z: z[:, :, None, None], 3),
    "squeezed": (lambda m, z: z[:, :, None, None].squeeze(), 3),
    "float64": (lambda m, z: z.double(), 3),
    "one logit": (lambda m, z: z, 1),
    "one logit, squeezed": (lambda m, z: z.squeeze(), 1),
    "one logit, [N]": (lambda m, z: z[:, 0], 1),
}


def expected(module: Net, x: Tensor) -> Tensor:
    """The logits [N, K], computed by hand."""
    module.eval()
    with torch.no_grad():
        z = module.head(module.body(x).flatten(1))
    return torch.cat([torch.zeros_like(z), z], dim=1) if z.shape[1] == 1 else z


@pytest.mark.parametrize("kind", RETURNS)
def test_every_usual_output_is_taken(kind: str) -> None:
    module = net(*RETURNS[kind])
    classifier, x = freeze(module, SHAPE, CPU), torch.rand(5, *SHAPE)
    assert classifier.num_classes == max(2, RETURNS[kind][1])
    for images in (x, x[:1], x[:2]):
        got = classifier.logits(images)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected(module, images), rtol=1e-4, atol=1e-5)
    gray = GradientAscent(steps=2).invert(classifier, 1, 0)
    assert gray.images.shape == (classifier.num_classes, 1, *SHAPE)


@pytest.mark.parametrize("kind", RETURNS)
def test_what_can_be_audited_can_be_trained_and_has_a_fingerprint(kind: str) -> None:
    module = net(*RETURNS[kind])
    classes = max(2, RETURNS[kind][1])
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(200, *SHAPE, generator=generator), torch.arange(200) % classes
    images = LabelledImages(x, y, tuple(map(str, range(classes))), "a test")
    made = fit_fingerprint(module, images, detector="max-logit")
    assert made.origin.num_classes == classes
    trained = train(module, x, y, TrainingRecipe(epochs=1, batch_size=199), 0)
    assert predict(trained, x[:1]).shape == (1,)


@pytest.mark.parametrize("kind", ["dict", "list", "one logit"])
def test_chains_with_such_outputs_are_lowered(kind: str) -> None:
    assert lower(net(*RETURNS[kind]), SHAPE).num_classes == max(2, RETURNS[kind][1])


def test_a_chain_that_ends_in_pooling_is_lowered() -> None:
    torch.manual_seed(0)
    module, x = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)), torch.rand(4, *SHAPE)
    lowered = lower(module, SHAPE)
    torch.testing.assert_close(lowered(x), module(x).detach().flatten(1))
    assert freeze(module, SHAPE, CPU).num_classes == 3


def test_half_precision_within_the_forward_is_taken_with_its_rounding() -> None:
    module = net(autocast)
    classifier, x = freeze(module, SHAPE, CPU), torch.rand(4, *SHAPE)
    assert classifier.logits(x).dtype == torch.float32
    torch.testing.assert_close(classifier.logits(x), expected(module, x), rtol=2e-2, atol=2e-2)


def test_an_autocast_around_the_call_changes_nothing() -> None:
    module = net(lambda m, z: z * torch.sigmoid(z))  # not lowered
    classifier, x = freeze(module, SHAPE, CPU), torch.rand(4, *SHAPE)
    alone = classifier.logits(x)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(freeze(module, SHAPE, CPU).logits(x), alone, rtol=1e-5, atol=1e-6)


class Viewing(nn.Module):
    """`view` of a map, as in every tutorial; groups, so that torch runs it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x)).view(x.size(0), -1))


def test_a_view_of_a_map_is_taken_in_the_usual_memory_format() -> None:
    torch.manual_seed(0)
    module, x = Viewing().eval(), torch.rand(4, 2, 4, 4)
    classifier = freeze(module, (2, 4, 4), CPU)
    assert classifier.fused is None
    torch.testing.assert_close(classifier.logits(x), module(x).detach())
    _, gradient = classifier.log_probability_gradient(x, torch.tensor([0, 1, 2, 0]))
    assert gradient.shape == x.shape
    images = LabelledImages(torch.rand(200, 2, 4, 4), torch.arange(200) % 3, ("a", "b", "c"), "a test")
    fit_fingerprint(module, images, detector="max-logit")


class Stubborn(Net):
    """Its `train` returns nothing, and keeps BatchNorm as it is."""

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)
        self.body[1].eval()


@pytest.mark.parametrize("returns", [lambda m, z: z, lambda m, z: z * torch.sigmoid(z)], ids=["native", "generic"])
def test_train_may_return_nothing(returns: Callable[[nn.Module, Tensor], Any]) -> None:
    torch.manual_seed(0)
    module = Stubborn(returns)
    assert isinstance(freeze(module, SHAPE, CPU), Classifier)
    x, y = torch.rand(12, *SHAPE), torch.arange(12) % 3
    assert train(module, x, y, TrainingRecipe(epochs=1, batch_size=6), 0) is module


def test_other_outputs_stay_as_they_are() -> None:
    for output in (None, "logits", {}, (), torch.ones(3, 2, 2, 2), torch.ones(7)):
        assert to_logits(output, 3) is output
