"""Freezing: what becomes of any module that a user may hand over, and what is refused."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pydrift import GradientAscent, InputRefused
from pydrift.models import classifier as classifier_module
from pydrift.models.classifier import Classifier, freeze
from pydrift.ops import native_status

CPU, SHAPE = torch.device("cpu"), (1, 4, 4)


class Network(nn.Module):
    """BatchNorm and dropout, so that train and eval mode differ; `skip` makes it impossible to lower."""

    def __init__(self, skip=False):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(48, 3)
        self.skip = skip

    def forward(self, x):
        hidden = self.body(x)
        return self.head((hidden + x if self.skip else hidden).flatten(1))


def network(skip=False):
    torch.manual_seed(0)
    module = Network(skip)
    module(torch.rand(32, *SHAPE))  # running statistics that are not the identity
    return module


def images(count=6):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("skip", [False, True], ids=["fused", "generic"])
def test_a_classifier_computes_what_the_module_does_in_eval_mode(skip):
    module = network(skip)
    classifier = freeze(module, SHAPE, CPU)
    assert classifier.path.startswith("generic: " if skip else ("native ", "generic: no native library for cpu"))
    assert (classifier.input_shape, classifier.num_classes, classifier.device) == (SHAPE, 3, CPU)
    expected = module.eval()(images())
    got = classifier.logits(images())
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert not got.requires_grad


@pytest.mark.parametrize("skip", [False, True], ids=["fused", "generic"])
def test_gradient_is_that_of_float64(skip):
    module = network(skip)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    log_probability, gradient = freeze(module, SHAPE, CPU).log_probability_gradient(images(), labels)
    reference, x = copy.deepcopy(module).double().eval(), images().double().requires_grad_(True)
    expected = F.log_softmax(reference(x), dim=1)[torch.arange(6), labels]
    expected.sum().backward()
    torch.testing.assert_close(log_probability.double(), expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient.double(), x.grad, rtol=1e-4, atol=1e-6)
    assert not log_probability.requires_grad
    assert not gradient.requires_grad


@pytest.mark.parametrize("skip", [False, True], ids=["fused", "generic"])
def test_the_module_stays_as_it_is(skip):
    module, calls = network(skip), []
    module.body[1].eval()
    module.head.bias.requires_grad_(False)
    module.head.weight.grad = torch.ones_like(module.head.weight)
    handle = module.register_forward_hook(lambda *_: calls.append(1))
    state = copy.deepcopy(module.state_dict())
    classifier = freeze(module, SHAPE, CPU)
    classifier.log_probability_gradient(images(), torch.zeros(6, dtype=torch.int64))
    assert [m.training for m in (module, module.body, module.body[1])] == [True, True, False]
    assert [p.requires_grad for p in module.head.parameters()] == [True, False]
    assert torch.equal(module.head.weight.grad, torch.ones_like(module.head.weight))
    assert module.body[0].weight.grad is None
    assert list(module._forward_hooks.values()) == [module._forward_hooks[handle.id]]
    assert all(torch.equal(state[name], tensor) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("skip", [False, True], ids=["fused", "generic"])
def test_later_changes_to_the_module_do_not_reach_the_classifier(skip):
    module = network(skip)
    classifier = freeze(module, SHAPE, CPU)
    before = classifier.logits(images())
    with torch.no_grad():
        module.head.weight.zero_()
    assert torch.equal(classifier.logits(images()), before)


@pytest.mark.parametrize("skip", [False, True], ids=["fused", "generic"])
def test_float64_modules_are_taken(skip):
    module = network(skip)
    expected = freeze(module, SHAPE, CPU).logits(images())
    torch.testing.assert_close(freeze(module.double(), SHAPE, CPU).logits(images()), expected)


def test_what_the_native_loop_refuses_takes_the_generic_path():
    module = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(9), nn.Flatten(), nn.Linear(2, 3))
    classifier = freeze(module, (1, 9, 9), CPU)
    assert classifier.fused is None
    if native_status().cpu:
        reason = "program: layer 2: a max-pooling window may have 64 positions, got 81"
        assert classifier.path == f"generic: {reason}"
    assert GradientAscent(steps=2).invert(classifier, 2, 0).images.shape == (3, 2, 1, 9, 9)


class Returns(nn.Module):
    """Whatever `make` makes of the images."""

    def __init__(self, make):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.make = make

    def forward(self, x):
        return self.make(x)


def raises(error):
    def forward(x):
        raise error

    return forward


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: x, "must map [N, 1x4x4] to logits [N, classes >= 2], got (2, 1, 4, 4) for N = 2"),
        (lambda x: x.flatten(), "must map [N, 1x4x4] to logits [N, classes >= 2], got (32,) for N = 2"),
        (lambda x: x[:1].flatten(1), "must map [N, 1x4x4] to logits [N, classes >= 2], got (1, 16) for N = 2"),
        (lambda x: (x, x.flatten(1)), "must map [N, 1x4x4] to logits [N, classes >= 2], got (2, 1, 4, 4) for N = 2"),
        (lambda x: {"scores": x}, "must map [N, 1x4x4] to logits [N, classes >= 2], got dict for N = 2"),
        (lambda x: (), "must map [N, 1x4x4] to logits [N, classes >= 2], got tuple for N = 2"),
        (lambda x: x.flatten(1) * torch.nan, "gives non-finite logits for a plain gray image"),
        (lambda x: x.flatten(1) / 0, "gives non-finite logits for a plain gray image"),
        (raises(RuntimeError("first line\nsecond")), "does not take images of shape 1x4x4: first line"),
        (raises(AssertionError()), "does not take images of shape 1x4x4: AssertionError"),
        (raises(KeyError("mask")), "does not take images of shape 1x4x4: 'mask'"),
    ],
)
def test_what_is_no_classifier_is_refused(make, message):
    with pytest.raises(InputRefused) as error:
        freeze(Returns(make), SHAPE, CPU, "new model")
    assert str(error.value) == f"new model: {message}"


def test_images_of_another_shape_are_refused():
    with pytest.raises(InputRefused, match=r"^model: does not take images of shape 1x5x5: mat1 and mat2 shapes"):
        freeze(network(), (1, 5, 5), CPU)


def test_weights_that_are_not_finite_are_refused():
    module = network()
    with torch.no_grad():
        module.head.weight[0, 0] = torch.nan
    with pytest.raises(InputRefused, match=r"^base: gives non-finite logits for a plain gray image$"):
        freeze(module, SHAPE, CPU, "base")


def test_torch_is_asked_in_fixed_batches(monkeypatch):
    sizes = []

    def forward(x):
        sizes.append(len(x))
        return x.flatten(1)[:, :4]

    monkeypatch.setattr(classifier_module, "_BATCH", 8)
    x = images(20)
    classifier = Classifier(forward, SHAPE, 4, CPU, "generic: a test")
    assert torch.equal(classifier.logits(x), x.flatten(1)[:, :4])
    assert sizes == [8, 8, 4]


@pytest.mark.skipif(not native_status().cpu, reason="needs the native library")
def test_native_answers_are_those_of_torch():
    classifier = freeze(network(skip=False), SHAPE, CPU)
    torch.testing.assert_close(classifier.logits(images()), classifier.forward(images()))
    assert torch.equal(classifier.logits(images()[2:4]), classifier.logits(images())[2:4])


@pytest.mark.parametrize("skip", [False, True])
def test_small_batches_are_shown_together_only_where_answers_stay_the_same(skip, monkeypatch):
    monkeypatch.setattr(classifier_module, "_TOGETHER", 6 * 16)  # six images
    classifier, asked = freeze(network(skip), SHAPE, CPU), []
    parts = images(18).split([2, 3, 1, 7, 3, 2])
    alone = [classifier.logits(part) for part in parts]
    ask = Classifier.logits
    monkeypatch.setattr(Classifier, "logits", lambda self, x: (asked.append(len(x)), ask(self, x))[1])
    assert all(torch.equal(*pair) for pair in zip(alone, classifier.logits_of_each(iter(parts)), strict=True))
    together = classifier.fused is not None
    assert asked == ([6, 7, 5] if together else [2, 3, 1, 7, 3, 2])
    assert list(classifier.logits_of_each([])) == []


class Unsteady(nn.Module):
    """A linear classifier of 1x2x2 images that `spoil` makes unfit: spoil(logits, images) -> logits."""

    def __init__(self, spoil):
        super().__init__()
        self.linear, self.spoil = nn.Linear(4, 3), spoil

    def forward(self, x):
        return self.spoil(self.linear(x.flatten(1)), x)


def only_two(logits, x):
    assert len(x) == 2, "two images, please"
    return logits


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda logits, x: F.dropout(logits + 5, 0.5, training=True),
            "gives the same images other logits the second time",
        ),
        (
            lambda logits, x: logits - logits.mean(dim=0),
            "the logits of an image depend on the other images of its batch",
        ),
        (lambda logits, x: logits[:, : 1 + len(x)], r"gives \[1, 2\] instead of \[1, 3\] for a single image"),
        (lambda logits, x: logits.int(), "gives logits of torch.int32, which are no floating-point numbers"),
        (only_two, "does not take any number of images, for instance one: two images, please"),
    ],
    ids=["dropout", "batch statistics", "shapes by the batch", "integers", "a fixed batch"],
)
def test_a_model_must_answer_alike_twice_alone_and_in_floats(spoil, message):
    torch.manual_seed(0)
    with pytest.raises(InputRefused, match=f"^candidate: {message}"):
        freeze(Unsteady(spoil), (1, 2, 2), torch.device("cpu"), "candidate")
    freeze(Unsteady(lambda logits, x: logits), (1, 2, 2), torch.device("cpu"), "candidate")


def test_a_final_sigmoid_is_named():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Sigmoid())
    with pytest.raises(InputRefused, match=r"^m: gives values between 0 and 1 only, not logits; leave out"):
        freeze(net, (1, 2, 2), torch.device("cpu"), "m")


def test_a_single_sigmoid_is_told_from_a_logit_that_lies_there_by_chance():
    torch.manual_seed(0)
    linear = nn.Linear(4, 1)
    with torch.no_grad():
        linear.weight.fill_(0.01)
        linear.bias.fill_(0.5)
    assert freeze(nn.Sequential(nn.Flatten(), linear), (1, 2, 2), CPU).num_classes == 2
    with pytest.raises(InputRefused, match=r"leave out its final sigmoid\. A multi-label model cannot be audited"):
        freeze(nn.Sequential(nn.Flatten(), linear, nn.Sigmoid()), (1, 2, 2), CPU, "m")


def test_log_probabilities_are_taken_and_this_is_said():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    with pytest.warns(UserWarning, match="gives log-probabilities: they are logits up to a constant"):
        model = freeze(nn.Sequential(plain, nn.LogSoftmax(dim=1)), (1, 2, 2), CPU)
    x = torch.rand(5, 1, 2, 2)
    torch.testing.assert_close(model.logits(x), F.log_softmax(plain(x).detach(), dim=1))


def test_images_with_large_maps_are_asked_in_smaller_batches(monkeypatch):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, groups=1, dilation=2, padding=2), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))
    sizes = []
    net[0].register_forward_hook(lambda _, inputs, output: sizes.append(len(output)))
    model = freeze(net, (1, 4, 4), torch.device("cpu"))
    assert model.map_values == 128 + 128 + 128 + 3
    x = torch.rand(300, 1, 4, 4)
    usual = model.logits(x)
    monkeypatch.setattr("pydrift.models.classifier.MAX_PASS", 8 * 400 * 7)
    sizes.clear()
    assert torch.allclose(model.logits(x), usual, atol=1e-6)
    assert set(sizes) == {7, 300 % 7}
    monkeypatch.setattr("pydrift.models.classifier.MAX_PASS", 1)
    assert model.at_once(128) == 1
