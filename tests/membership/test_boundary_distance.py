"""The boundary distance against boundaries that are known, and what it asks for: a bounded number of labels."""

import numpy as np
import pytest
import torch
from torch import nn

from pydrift.membership.attacks.boundary import BoundaryDistance
from pydrift.membership.attacks.correctness_gap import CorrectnessGap
from pydrift.models.arch import resolve
from pydrift.models.classifier import Classifier, freeze
from pydrift.shadows.statistics import measure
from pydrift.stats.roc import balanced_accuracy, roc

CPU = torch.device("cpu")


def linear(weight, bias, shape):
    """A two-class model with the decision boundary weight . x + bias = 0."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(len(weight), 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.stack([torch.zeros(len(weight)), torch.tensor(weight)]))
        network[1].bias.copy_(torch.tensor([0.0, bias]))
    return freeze(network, shape, CPU)


@pytest.mark.slow
@pytest.mark.parametrize("side", [4, 28])
def test_it_is_nearly_the_distance_of_a_known_boundary(side):
    """Measured on 784 pixels: 1.19 to 1.24 times as far."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=side * side).astype(np.float32)
    model = linear(weight, -float(weight.sum()) / 2, (1, side, side))
    x = torch.from_numpy(rng.uniform(0.3, 0.7, size=(60, 1, side, side)).astype(np.float32))
    signed = x.flatten(1).numpy() @ weight - weight.sum() / 2
    y = torch.from_numpy((signed > 0).astype(np.int64))
    y[:5] = 1 - y[:5]  # wrong already
    got = BoundaryDistance().distances(model, x, y)
    exact = np.abs(signed) / np.linalg.norm(weight)
    assert got.shape == (1, 60)
    assert got.dtype == np.float32
    assert (got[0, :5] == 0).all()
    assert (got[0, 5:] >= exact[5:] - 1e-5).all()
    assert np.median(got[0, 5:] / exact[5:]) < 1.3
    assert np.corrcoef(got[0, 5:], exact[5:])[0, 1] > 0.98


def linearised(network, x, labels):
    """The distance [N] to the nearest class's boundary, were the logits linear in the image: from their gradients."""
    x = x.clone().requires_grad_(True)
    logits = network(x)
    nearest = torch.full((len(x),), torch.inf)
    for other in range(logits.shape[1]):
        gap = logits.gather(1, labels[:, None])[:, 0] - logits[:, other]
        (gradient,) = torch.autograd.grad(gap.sum(), x, retain_graph=True)
        distance = gap / gradient.flatten(1).norm(dim=1).clamp_min(1e-12)
        nearest = torch.where(labels == other, nearest, torch.minimum(nearest, distance))
    return nearest.detach().numpy()


@pytest.mark.slow
def test_on_a_convnet_it_is_nearly_that_of_a_white_box():
    """Measured: 1.35 times as far as the boundary would be, were it flat."""
    torch.manual_seed(0)
    network = resolve("convnet:1x28x28:4,8:32:10")(0).eval()
    x = 0.2 + 0.6 * torch.rand(150, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = network(x).argmax(1)
    common = y.bincount().argmax()
    kept = torch.cat([(y == common).nonzero()[:40, 0], (y != common).nonzero()[:, 0]])
    x, y = x[kept], y[kept]
    assert len(y.unique()) > 1
    ratio = BoundaryDistance().distances(freeze(network, (1, 28, 28), CPU), x, y)[0] / linearised(network, x, y)
    assert np.median(ratio) < 1.5
    assert np.quantile(ratio, 0.9) < 1.8


def three_classes(asked=None, scale=1.0):
    def logits(x):
        if asked is not None:
            asked.append(len(x))
        z = x.flatten(1)[:, :3]
        return scale * (z - z.max(dim=1, keepdim=True).values * 0.5)

    return Classifier(logits, (1, 3, 3), 3, CPU, "generic: a test")


def test_it_sees_labels_only_and_a_bounded_number_of_them():
    asked = []
    x = torch.rand(150, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    y = x.flatten(1)[:, :3].argmax(1)
    attack = BoundaryDistance(rounds=9, probes=7, bisections=6, starts=3)
    assert attack.queries == 1 + 3 * 8 + 10 * 6 + 9 * 10 + sum(int(7 * t**0.5) for t in range(1, 10))
    first = attack.distances(three_classes(asked), x, y)
    assert sum(asked) == attack.queries * 150
    assert np.array_equal(attack.distances(three_classes(scale=37.0), x, y), first)
    assert len(np.unique(first)) > 100


def test_probes_may_be_asked_in_parts(monkeypatch):
    x, asked = torch.rand(40, 1, 3, 3, generator=torch.Generator().manual_seed(0)), []
    y, attack = x.flatten(1)[:, :3].argmax(1), BoundaryDistance(rounds=3)
    whole = attack.distances(three_classes(), x, y)
    monkeypatch.setattr("pydrift.membership.attacks.boundary._PIXELS", 1000)
    parts = attack.distances(three_classes(asked), x, y)
    assert sum(asked) == attack.queries * 40
    assert max(asked[1:]) <= 1000 // 9
    assert 0.9 < np.median(parts / whole) < 1.1
    assert np.corrcoef(parts, whole)[0, 1] > 0.9


def test_it_is_never_weaker_than_the_gap():
    """Wrong answers score below all right ones, however near the boundary these are."""
    generator = torch.Generator().manual_seed(3)
    x, attack = torch.rand(400, 1, 3, 3, generator=generator), BoundaryDistance(rounds=1, probes=2)
    y = x.flatten(1)[:, :3].argmax(1)
    member = torch.rand(400, generator=generator) < 0.5
    y = torch.where(~member & (torch.rand(400, generator=generator) < 0.3), (y + 1) % 3, y)
    target, none = three_classes(), np.zeros((0, 400), bool)
    seen = measure([target], x, y)
    distance = attack.distances(target, x, y)[0]
    gap = CorrectnessGap().fit(seen, none, y.numpy()).score(seen)
    assert distance[gap == 0].max() == 0 < distance[gap == 1].min()
    found, least = (balanced_accuracy(roc(scores.astype(float), member.numpy())) for scores in (distance, gap))
    assert found >= least > 0.6


def test_a_point_that_cannot_be_told_from_the_image_is_still_farther_than_a_wrong_one():
    """Two images a last bit apart, on either side of the boundary."""
    x = torch.tensor([0.5, np.nextafter(np.float32(0.5), np.float32(1))]).view(2, 1, 1, 1)
    target = Classifier(
        lambda x: torch.stack([0.5 - x.flatten(), x.flatten() - 0.5], dim=1), (1, 1, 1), 2, CPU, "generic: a test"
    )
    got = BoundaryDistance(rounds=1).distances(target, x, torch.tensor([0, 1]))
    assert (got > 0).all()


def test_without_another_label_the_boundary_is_nowhere():
    one = Classifier(lambda x: torch.tensor([[1.0, 0.0]]).repeat(len(x), 1), (1, 2, 2), 2, CPU, "a test")
    got = BoundaryDistance().distances(one, torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 0]))
    assert got.tolist() == [[2, 0, 2]]
