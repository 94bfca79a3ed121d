"""Many models at once: the same as each alone, the same as in torch, and what must not be trained natively."""

import numpy as np
import pytest
import torch
from torch import nn

from pydrift import TrainingRecipe, UsageError
from pydrift.core.errors import PydriftError
from pydrift.core.tensors import tensors_digest
from pydrift.models.arch import build
from pydrift.ops import native_status
from pydrift.training import native_program, predict, train, train_many
from tests.ops.test_ascent_update import needs_native

CPU = torch.device("cpu")
ARCH = "convnet:1x8x8:8:16:10"
SHORT = TrainingRecipe(epochs=2, batch_size=32)
RECIPES = [
    SHORT,
    TrainingRecipe(epochs=2, weight_decay=0.1, label_smoothing=0.1),
    TrainingRecipe(epochs=2, batch_size=32, optimizer="sgd", learning_rate=0.1, schedule="one-cycle"),
    TrainingRecipe(epochs=2, batch_size=32, optimizer="sgd", momentum=0.0, learning_rate=0.1),
    TrainingRecipe(epochs=2, batch_size=32, augment="shift:1,flip"),
]


def digest(module):
    return tensors_digest(module.state_dict())


def many(digits, count=3, arch=ARCH, **options):
    starts = options.pop("starts", None) or [build(arch, k) for k in range(count)]
    drawn = options.pop("drawn", [np.arange(k, 300 + k) for k in range(count)])
    recipes = options.pop("recipes", [SHORT] * count)
    data = digits.data
    return train_many(starts, data.x, data.y, drawn, recipes, list(range(count)), device=CPU, **options)


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_the_same_as_in_torch(digits, recipe):
    start, drawn = build(ARCH, 5), np.arange(7, 207)
    (ours,) = train_many([start], digits.data.x, digits.data.y, [drawn], [recipe], [3], device=CPU)
    theirs = train(build(ARCH, 5), digits.data.x[drawn], digits.data.y[drawn], recipe, 3)
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor, rtol=1e-3, atol=2e-4)
    assert not ours.training
    assert not any(parameter.requires_grad for parameter in ours.parameters())
    assert digest(start) == digest(build(ARCH, 5))


def test_trained_models_know_their_digits(digits):
    for module in many(digits, recipes=[TrainingRecipe()] * 3, drawn=[np.arange(1000)] * 3):
        assert (predict(module, digits.holdout.x) == digits.holdout.y).float().mean() > 0.9


@pytest.mark.parametrize("arch", [ARCH, "resnet9:1x8x8:10"])
def test_a_model_does_not_depend_on_its_companions(digits, arch):
    recipe = TrainingRecipe(epochs=1, batch_size=100) if arch.startswith("resnet") else SHORT
    together = many(digits, arch=arch, built_in=True, recipes=[recipe] * 3)
    alone = train_many(
        [build(arch, 1)], digits.data.x, digits.data.y, [np.arange(1, 301)], [recipe], [1], device=CPU, built_in=True
    )
    assert digest(alone[0]) == digest(together[1])
    assert len({digest(module) for module in together}) == 3


def test_models_may_differ_in_images_epochs_and_batches(digits):
    recipes = [SHORT, TrainingRecipe(epochs=3, batch_size=50, augment="flip"), TrainingRecipe(epochs=1)]
    drawn = [np.arange(100), np.arange(300), np.arange(65)]
    together = many(digits, recipes=recipes, drawn=drawn)
    for k in range(3):
        alone = train_many([build(ARCH, k)], digits.data.x, digits.data.y, [drawn[k]], [recipes[k]], [k], device=CPU)
        assert digest(alone[0]) == digest(together[k])


@needs_native
def test_training_goes_on_from_a_checkpoint(digits):
    kept = []
    whole = many(digits, on_epoch=lambda state: kept.append((state.epoch, state.parameters.clone(), state)))
    assert [epoch for epoch, _, _ in kept] == [1, 2]

    class Killed(Exception):
        pass

    def kill(state):
        raise Killed(state)

    with pytest.raises(Killed) as killed:
        many(digits, on_epoch=kill)
    (checkpoint,) = killed.value.args
    resumed = many(digits, resume=checkpoint)
    assert [digest(module) for module in resumed] == [digest(module) for module in whole]
    assert torch.equal(checkpoint.parameters, kept[0][1])  # it can be resumed from again


def test_bytes_train_as_floats_do(digits):
    pixels = (digits.data.x * 255).round().to(torch.uint8)
    models = [
        train_many([build(ARCH, 0)], x, digits.data.y, [np.arange(99)], [SHORT], [0], device=CPU)[0]
        for x in (pixels, pixels / 255.0)
    ]
    assert digest(models[0]) == digest(models[1])


def dropout(probability):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Dropout(probability), nn.ReLU(), nn.Linear(32, 10))


def frozen_layer():
    module = build(ARCH, 0)
    next(module.parameters()).requires_grad_(False)
    return module


def tied():
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    module[3].weight = module[1].weight
    return module


NOT_NATIVE = {
    "dropout": lambda: dropout(0.02),
    "batch norm": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
    ),
    "no bias": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False)),
    "frozen layer": frozen_layer,
    "tied weights": tied,
    "residual": lambda: build("resnet9:1x8x8:10", 0),
}


@needs_native
def test_plain_chains_are_trained_natively(digits):
    for module in (build(ARCH, 0), build("mlp:1x8x8:16:10", 0), dropout(0.0)):
        assert native_program(module, digits.data.x, CPU) is not None
    assert native_program(build(ARCH, 0), digits.data.x, torch.device("meta")) is None


@pytest.mark.skipif(not (torch.cuda.is_available() and native_status().cuda), reason="needs a GPU")
def test_cuda_trains_as_the_cpu_does(digits):
    """The parameters, the pool and the moments live on the GPU; the models that come back are on the CPU."""
    cuda = torch.device("cuda")
    assert native_program(build(ARCH, 0), digits.data.x, cuda) is not None
    kept = []
    start, drawn = build(ARCH, 5), np.arange(7, 207)
    (ours,) = train_many(
        [start], digits.data.x, digits.data.y, [drawn], [SHORT], [3], device=cuda, on_epoch=kept.append
    )
    (theirs,) = train_many([start], digits.data.x, digits.data.y, [drawn], [SHORT], [3], device=CPU)
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor, rtol=1e-3, atol=2e-4)
    assert [state.epoch for state in kept] == [1, 2]
    assert all(state.parameters.is_cuda for state in kept)


@pytest.mark.parametrize("name", NOT_NATIVE)
def test_anything_else_is_trained_in_torch(digits, name):
    module = NOT_NATIVE[name]()
    assert native_program(module, digits.data.x, CPU) is None
    recipe = TrainingRecipe(epochs=1, batch_size=64)
    (trained,) = train_many([module], digits.data.x, digits.data.y, [np.arange(128)], [recipe], [0], device=CPU)
    assert digest(trained) != digest(module)
    assert all(tensor.isfinite().all() for tensor in trained.state_dict().values())


@pytest.mark.slow
def test_bfloat16_is_torchs(digits):
    recipes = [TrainingRecipe(precision="bfloat16")] * 2
    modules = many(digits, count=2, recipes=recipes, drawn=[np.arange(1000)] * 2, built_in=True)
    for module in modules:
        assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
        assert (predict(module, digits.holdout.x) == digits.holdout.y).float().mean() > 0.9
    assert digest(modules[0]) != digest(many(digits, count=1, drawn=[np.arange(1000)], recipes=[TrainingRecipe()])[0])


def test_a_checkpoint_of_what_torch_trains_is_refused(digits):
    kept = []
    many(digits, on_epoch=kept.append)
    if not native_status().cpu:
        assert kept == []
        return
    with pytest.raises(UsageError, match="resume: only native training can go on from a checkpoint"):
        many(digits, arch="resnet9:1x8x8:10", resume=kept[0])


def test_divergence_is_an_error(digits):
    recipes = [SHORT, TrainingRecipe(epochs=1, learning_rate=1e30), SHORT]
    with pytest.raises(PydriftError, match="training diverged: the weights are not finite; lower the learning rate"):
        many(digits, recipes=recipes)


# ---- What a recipe makes of a number of images


def test_one_cycle_rises_and_falls():
    rates = TrainingRecipe(epochs=10, batch_size=10, learning_rate=1.0, schedule="one-cycle").rates(105)
    assert len(rates) == 100
    assert rates[0] == pytest.approx(1 / 25)
    assert rates[30] == pytest.approx(1.0)
    assert (np.diff(rates[:31]) > 0).all()
    assert (np.diff(rates[30:]) < 0).all()
    assert 0 < rates[-1] < 0.02


def test_augmentation_is_what_the_recipe_says():
    order, augmentation = TrainingRecipe(batch_size=50, augment="shift:2,flip").epoch(1, 0, 1010)
    assert sorted(order) != list(range(1000))
    assert len(set(order)) == len(order) == 1000
    assert augmentation.dtype == np.int8
    assert [sorted(set(column)) for column in augmentation.T] == [[-2, -1, 0, 1, 2], [-2, -1, 0, 1, 2], [0, 1]]
    assert (TrainingRecipe(batch_size=50, augment="shift:2").epoch(1, 0, 1000)[1][:, 2] == 0).all()
    assert (TrainingRecipe(batch_size=50, augment="flip").epoch(1, 0, 1000)[1][:, :2] == 0).all()
    plain, none = TrainingRecipe(batch_size=50).epoch(1, 0, 1010)
    assert none.shape == (0, 3)
    assert (plain == order).all()  # augmentation does not change which images are taken
    assert (TrainingRecipe(batch_size=50).epoch(1, 1, 1010)[0] != order).any()
