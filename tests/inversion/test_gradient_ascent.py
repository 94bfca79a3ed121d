"""Inversion: the ascent against float64 autograd of its documented objective, its stop rule, and what it depends on."""

import copy
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from pydrift import GradientAscent, UsageError
from pydrift.core.noise import Phase, derived_seed, integers, uniform, words
from pydrift.inversion import gradient_ascent, invert_models
from pydrift.inversion.gray import GrayData
from pydrift.models.classifier import Classifier, freeze
from pydrift.models.file import load_model
from pydrift.ops.reference import roll

CPU, SHAPE = torch.device("cpu"), (2, 6, 5)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(120, 3))
    with torch.no_grad():
        module[-1].weight *= 5
    return module


class Opaque(nn.Module):
    """The same function, but nothing that can be lowered."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) + 0 * x.flatten(1).sum(1, keepdim=True)


def starts(attack, label, restart, seed, shape):
    """float64: 0.5 + contrast * (u - 0.5)."""
    bits = words(seed, Phase.START, int(np.prod(shape)), label=label, restart=restart)
    return 0.5 + attack.start_contrast * (torch.from_numpy(uniform(bits)).double().view(-1, *shape) - 0.5)


def climbed(attack, module, x, label, restart, seed, jitter):
    """What `attack` documents, without its stop rule: Adam on the objective from x on in float64, by autograd."""
    rows = torch.arange(len(label))
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    for t in range(1, attack.steps + 1):
        bits = words(seed, Phase.JITTER, 2, label=label, restart=restart, step=t - 1)
        shift = integers(bits, -jitter, jitter)
        x = x.detach().requires_grad_(True)
        seen = torch.stack([torch.roll(image, tuple(s), (1, 2)) for image, s in zip(x, shift.tolist(), strict=True)])
        roughness = (x[..., 1:, :] - x[..., :-1, :]).square().sum() + (x[..., 1:] - x[..., :-1]).square().sum()
        objective = F.log_softmax(module(seen), 1)[rows, label].sum()
        objective = objective - attack.tv_weight * roughness - attack.l2_weight * x.square().sum()
        (g,) = torch.autograd.grad(objective, x)
        first = attack.beta1 * first + (1 - attack.beta1) * g
        second = attack.beta2 * second + (1 - attack.beta2) * g * g
        scaled = (second / (1 - attack.beta2**t)).sqrt() + attack.epsilon
        x = (x + attack.learning_rate * (first / (1 - attack.beta1**t)) / scaled).clamp(0, 1)
    return x.detach()


def ascended(attack, module, restarts, seed, jitter):
    """-> images and confidence of three classes, in float64."""
    label, restart = np.repeat(np.arange(3), restarts), np.tile(np.arange(restarts), 3)
    module = module.double()
    x = climbed(attack, module, starts(attack, label, restart, seed, SHAPE), label, restart, seed, jitter)
    confidence = F.softmax(module(x), 1)[torch.arange(len(label)), label].detach()
    return x.view(3, restarts, *SHAPE).numpy(), confidence.view(3, -1).numpy()


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("jitter", [0, 2])
def test_steps_are_those_of_float64_autograd(network, steps, jitter):
    never = {"confidence_threshold": 2.0, "patience": 1000}
    attack = GradientAscent(steps=steps, jitter=jitter, tv_weight=0.05, l2_weight=0.02, **never)
    got = attack.invert(freeze(network, SHAPE, CPU), restarts=2, seed=7)
    images, confidence = ascended(attack, nn.Sequential(*network).requires_grad_(False), 2, 7, jitter)
    network.float().requires_grad_(True)
    assert got.images.dtype == np.float32
    np.testing.assert_allclose(got.images, images, atol=1e-5 if steps == 1 else 1e-4)
    np.testing.assert_allclose(got.confidence, confidence, atol=1e-4)
    assert (got.steps == steps).all()


def test_default_jitter_goes_with_the_image_size():
    for side, expected in ((28, 2), (8, 1), (32, 2), (6, 0), (224, 16)):
        assert GradientAscent()._shifts(np.zeros(40), np.arange(40), 0, (1, side, side)).abs().max() == expected
    assert GradientAscent(jitter=3)._shifts(np.zeros(40), np.arange(40), 0, (1, 8, 8)).abs().max() == 3


def test_roll_is_torch_roll_image_by_image_and_undone_by_its_negative():
    x = torch.rand(7, *SHAPE, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([[0, 0], [1, 0], [0, 1], [-2, 3], [5, -4], [6, 5], [-13, 11]])
    rolled = roll(x, shift)
    for image, got, s in zip(x, rolled, shift.tolist(), strict=True):
        assert torch.equal(got, torch.roll(image, tuple(s), (1, 2)))
    assert torch.equal(roll(rolled, -shift), x)


def says(confidences):
    """A classifier of two classes whose confidence in class 0 at the n-th question is confidences[n], whatever it sees.

    The image's own gradient is not zero, so a restart that goes on also moves.
    """
    asked = iter(confidences)

    def forward(x):
        p = torch.tensor(next(asked))
        z = torch.stack([p.log(), (1 - p).log()]).expand(len(x), 2)
        return z + (x - x.detach()).sum((1, 2, 3))[:, None] * torch.tensor([1.0, 0.0])

    return Classifier(forward, (1, 1, 1), 2, CPU, "generic: a test")


STEADY = {"jitter": 0, "tv_weight": 0.0, "l2_weight": 0.0}


@pytest.mark.parametrize(
    ("confidences", "steps"),
    [
        ([0.1, 0.2, 0.95], 2),  # the threshold is reached at the third look, after two steps
        ([0.95], 0),  # at once
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 6),  # falling cost goes on to the last step: the inverted rule stops here
        ([0.5, 0.4, 0.4, 0.3], 3),  # three looks in a row without gain
        ([0.5, 0.4, 0.4, 0.6, 0.5, 0.5], 6),  # a gain in time starts the count anew
        ([0.5, 0.5, 0.5, 0.5], 3),  # an equal cost has not fallen
    ],
)
def test_stop_rule(confidences, steps):
    attack = GradientAscent(steps=6, confidence_threshold=0.9, patience=3, **STEADY)
    label = restart = np.zeros(1, np.int64)
    start = starts(attack, label, restart, 0, (1, 1, 1)).float()
    x, confidence, taken = attack._ascend(says([*confidences, 0.9]), start, label, restart, 0)
    assert taken.tolist() == [steps]
    assert confidence.item() == pytest.approx(0.9)
    assert (x.item() != start.item()) == (steps > 0)


def test_an_early_stop_of_one_restart_leaves_the_others_going():
    def forward(x):  # class 0 is confident from the start, class 1 needs a bright image
        return torch.stack([torch.full((len(x),), 6.0), 8 * x.mean((1, 2, 3))], dim=1)

    classifier = Classifier(forward, (1, 2, 2), 2, CPU, "generic: a test")
    got = GradientAscent(steps=100, confidence_threshold=0.85, **STEADY).invert(classifier, 3, 0)
    assert (got.steps[0] < got.steps[1]).all()
    assert (got.steps[1] < 100).all()
    assert (got.confidence >= 0.85).all()


def test_result_is_deterministic_and_a_function_of_the_seed(network):
    classifier, attack = freeze(network, SHAPE, CPU), GradientAscent(steps=10)
    first, again, other = (attack.invert(classifier, 3, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len(np.unique(first.images.reshape(9, -1), axis=0)) == 9


def test_restarts_start_from_the_same_noise_whatever_the_model_and_count(network):
    other = freeze(nn.Sequential(nn.Flatten(), nn.Linear(60, 3)), SHAPE, CPU)
    attack = GradientAscent(steps=1, learning_rate=1e-12, tv_weight=0.0)
    few, many = (attack.invert(c, n, 5).images for c, n in ((freeze(network, SHAPE, CPU), 2), (other, 4)))
    np.testing.assert_allclose(few, many[:, :2], atol=1e-6)


def test_blocks_of_the_generic_path_do_not_change_a_restart(network, monkeypatch):
    classifier, attack = freeze(Opaque(network), SHAPE, CPU), GradientAscent(steps=15)
    whole = attack.invert(classifier, 5, 3)
    monkeypatch.setattr(gradient_ascent, "_BLOCK", 4)
    cut = attack.invert(classifier, 5, 3)
    np.testing.assert_allclose(cut.images, whole.images, atol=1e-4)
    np.testing.assert_allclose(cut.confidence, whole.confidence, atol=1e-4)
    assert cut.images.shape == (3, 5, *SHAPE)


def test_models_inverted_together_are_those_inverted_alone(network):
    torch.manual_seed(1)
    twin = nn.Sequential(*(type(m)(*a) for m, a in zip(network, [(2, 4, 3, 1, 1), (), (), (120, 3)], strict=True)))
    other = nn.Sequential(nn.Flatten(), nn.Linear(60, 3))
    attack = GradientAscent(steps=12, patience=4)
    for modules in ([network, twin], [network, other], [network, Opaque(twin)]):
        models = [freeze(module, SHAPE, CPU) for module in modules]
        alone = [attack.invert(model, 5, 0) for model in models]
        assert attack.invert_all(models, 5, 0) == alone
        assert list(invert_models(attack, models, 5, 0)) == alone
        assert list(invert_models(attack, models[:1], 5, 0)) == alone[:1]
    assert list(invert_models(attack, [], 5, 0)) == []


def test_images_stay_in_the_box_and_reach_its_walls(network):
    attack = GradientAscent(steps=40, learning_rate=0.2, confidence_threshold=2.0, l2_weight=0.0)
    got = attack.invert(freeze(network, SHAPE, CPU), 2, 0)
    assert (got.images.min(), got.images.max()) == (0, 1)
    assert got.steps.dtype == np.int32


def test_fused_and_generic_paths_agree(network):
    fused, generic = freeze(network, SHAPE, CPU), freeze(Opaque(network), SHAPE, CPU)
    assert fused.fused is not None or fused.path == "generic: no native library for cpu"
    assert generic.path.startswith("generic: ")
    attack = GradientAscent(steps=20)
    a, b = attack.invert(fused, 3, 0), attack.invert(generic, 3, 0)
    np.testing.assert_allclose(a.images, b.images, atol=1e-3)
    np.testing.assert_allclose(a.confidence, b.confidence, atol=1e-3)


def test_gray_data_of_a_trained_model_convinces_it_and_fresh_eyes(digits):
    base, benign = (
        freeze(load_model(digits.path(name)).module, digits.data.input_shape, CPU) for name in ("base", "benign")
    )
    got = GradientAscent().invert(base, 4, 0)
    assert got.confidence.mean(axis=1).min() > 0.7
    assert GradientAscent(jitter=0).invert(base, 4, 0).confidence.min() > 0.99
    own = base.logits(torch.from_numpy(got.images).flatten(0, 1)).softmax(1).view(10, 4, 10)
    np.testing.assert_allclose(own[torch.arange(10), :, torch.arange(10)], got.confidence, atol=1e-6)
    seen = benign.logits(torch.from_numpy(got.images).flatten(0, 1)).argmax(1).view(10, 4)
    assert (seen == torch.arange(10)[:, None]).float().mean() > 0.9  # a concept, not an adversarial pattern


def test_a_consensus_is_climbed_by_each_in_turn(network):
    """Four times around, five steps a turn, the last time around with two fifths of the rate, by float64 autograd."""
    torch.manual_seed(2)
    other = nn.Sequential(nn.Flatten(), nn.Linear(60, 3))
    attack = GradientAscent(jitter=1, tv_weight=0.05, l2_weight=0.02, steps=1, confidence_threshold=0.0, patience=1)
    got = attack.consensus([freeze(module, SHAPE, CPU) for module in (network, other)], 2, 7)
    label, restart = np.repeat(np.arange(3), 2), np.tile(np.arange(2), 3)
    x = starts(attack, label, restart, 7, SHAPE)
    for turn in range(8):
        climb = replace(attack, steps=5, learning_rate=0.05 if turn < 6 else 0.02)
        module = copy.deepcopy((network, other)[turn % 2]).double().requires_grad_(False)
        x = climbed(climb, module, x, label, restart, derived_seed(7, Phase.CONSENSUS, turn), 1)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, x.view(3, 2, *SHAPE).numpy(), atol=1e-3)


def test_a_consensus_is_a_function_of_its_arguments(network):
    models, attack = [freeze(module, SHAPE, CPU) for module in (network, Opaque(network))], GradientAscent()
    first, again, other = (attack.consensus(models, 3, seed) for seed in (1, 1, 2))
    assert first.shape == (3, 3, *SHAPE)
    assert 0 <= first.min() <= first.max() <= 1
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(np.unique(first.reshape(9, -1), axis=0)) == 9
    np.testing.assert_allclose(attack.consensus(models, 2, 1), first[:, :2], atol=1e-3)  # whatever else is climbed
    assert not np.allclose(attack.consensus(models[:1], 3, 1), first, atol=1e-2)


def test_fused_and_generic_paths_agree_on_a_consensus(network):
    torch.manual_seed(3)
    modules = network, nn.Sequential(nn.Flatten(), nn.Linear(60, 3))
    attack = GradientAscent(jitter=1)
    fused, generic = (
        attack.consensus([freeze(kind(module), SHAPE, CPU) for module in modules], 3, 0)
        for kind in (lambda module: module, Opaque)
    )
    np.testing.assert_allclose(fused, generic, atol=1e-3)


def test_all_who_made_a_consensus_take_it_for_its_class_and_so_does_who_did_not(digits):
    base, benign, tuned = (
        freeze(load_model(digits.path(name)).module, digits.data.input_shape, CPU)
        for name in ("base", "benign", "tuned")
    )
    got = torch.from_numpy(GradientAscent().consensus([base, tuned], 4, 0))

    def confidence(model):
        return model.logits(got.flatten(0, 1)).softmax(1).view(10, 4, 10)[torch.arange(10), :, torch.arange(10)]

    assert confidence(base).mean(dim=1).min() > 0.7
    assert confidence(tuned).mean(dim=1).min() > 0.7
    assert confidence(benign).mean() > 0.7


class Waits(Opaque):
    """A forward that looks at a value, which no CUDA graph can hold."""

    def forward(self, x):
        return super().forward(x) + (0.0 if x.sum() > -1 else 1.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", [Opaque, Waits])
def test_generic_path_on_cuda_is_that_of_the_cpu(network, kind):
    module, attack = kind(network), GradientAscent(steps=20)
    here, there = (attack.invert(freeze(module, SHAPE, torch.device(d)), 3, 0) for d in ("cpu", "cuda"))
    np.testing.assert_allclose(there.images, here.images, atol=1e-3)
    assert torch.rand(2, device="cuda").isfinite().all()  # a capture has not spoilt the generator


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "inversion: steps and patience must be in 1..1000000, got 0 and 25"),
        ({"steps": 2**31 - 1}, "inversion: steps and patience must be in 1..1000000, got 2147483647 and 25"),
        ({"patience": 0}, "inversion: steps and patience must be in 1..1000000, got 100 and 0"),
        ({"jitter": -1}, "inversion: jitter must be in 0..4096, got -1"),
        (
            {"start_contrast": 2.0, "tv_weight": 0.0},
            "inversion: learning_rate > 0, tv_weight >= 0, l2_weight >= 0 and 0 <= start_contrast <= 1, got "
            "0.05, 0, 0.001 and 2",
        ),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(UsageError) as error:
        GradientAscent(**settings)
    assert str(error.value) == message


def test_settings_make_the_same_attack_again():
    attack = GradientAscent(steps=7, jitter=1, patience=3)
    assert GradientAscent(**attack.settings()) == attack


@pytest.mark.parametrize("channels", [1, 3])
def test_gray_data_as_files(channels):
    rng = np.random.default_rng(0)
    shape = (2, 3, channels, 5, 4)
    gray = GrayData(rng.random(shape, np.float32), rng.random((2, 3), np.float32), np.ones((2, 3), np.int32))
    with np.load(io.BytesIO(gray.to_npz())) as arrays:
        assert GrayData(**arrays) == gray
    picture = np.asarray(Image.open(io.BytesIO(gray.to_png(pixels_per_image=10)))).reshape(24, 30, channels)
    top = 12 + 2 * 1  # class 1, restart 2, row 1, column 3; images are scaled by 2 and set 2 pixels apart
    left = 2 * 10 + 2 * 3
    assert picture[top, left].tolist() == (gray.images[1, 2, :, 1, 3] * 255).round().astype(int).tolist()
    assert (picture[10:12] == 255).all()
