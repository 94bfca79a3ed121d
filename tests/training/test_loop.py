"""Training: the recipe as a value, determinism, threads, and the models that `pydrift train` makes."""

import copy
import math
import threading
from dataclasses import replace

import pytest
import torch
from torch import nn

from pydrift import TrainingRecipe, UsageError
from pydrift.core.errors import PydriftError
from pydrift.core.noise import Phase, derived_seed
from pydrift.core.parallel import each
from pydrift.core.tensors import tensors_digest
from pydrift.models.arch import build
from pydrift.models.file import load_model
from pydrift.models.intake import RECIPE_KEY, TRAIN_SIZE_KEY
from pydrift.training import predict, seeded, train
from pydrift.training.train_model import train_model

SHORT = TrainingRecipe(epochs=3)
ARCH = "mlp:1x8x8:16:10"


def digest(module):
    return tensors_digest(module.state_dict())


def test_recipe_survives_json():
    recipe = TrainingRecipe(epochs=3, batch_size=32, learning_rate=1e-3, weight_decay=0.01, label_smoothing=0.1)
    assert TrainingRecipe.from_json(recipe.to_json()) == recipe
    assert TrainingRecipe.from_json("{}") == TrainingRecipe()
    sgd = TrainingRecipe(optimizer="sgd", momentum=0.5, schedule="one-cycle", augment="shift:4,flip")
    assert TrainingRecipe.from_json(sgd.to_json()) == sgd
    assert TrainingRecipe(weight_decay=0.5).to_json() == (
        '{"augment": "", "batch_size": 64, "epochs": 0, "label_smoothing": 0.0, "learning_rate": 0.002, '
        '"momentum": 0.9, "optimizer": "adam", "precision": "float32", "schedule": "cosine", "weight_decay": 0.5}'
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"epoch": 1}', r"recipe: not readable: unknown keys \['epoch'\]"),
        ("not json", "recipe: not readable: "),
        ("[]", "recipe: not readable: "),
        ("[" * 100_000, "recipe: not readable: nested too deeply"),
        ('{"learning_rate": "fast"}', "recipe: not readable: "),
        ('{"learning_rate": NaN}', "recipe: not readable: NaN is not JSON"),
        ('{"epochs": 2.5}', "recipe: epochs and batch_size must be integers, got 2.5 and 64"),
        ('{"batch_size": 8.0}', "recipe: epochs and batch_size must be integers, got 0 and 8.0"),
        ('{"epochs": -1}', "recipe: epochs must be in 0..1000000 and batch_size in 2..1048576, got -1 and 64"),
        ('{"batch_size": 2000000}', "recipe: epochs must be in 0..1000000 and batch_size in 2..1048576, got 0 and"),
        ('{"batch_size": 1}', "recipe: epochs must be in 0..1000000 and batch_size in 2..1048576, got 0 and 1"),
        ('{"learning_rate": 0}', "recipe: learning_rate > 0, weight_decay >= 0, 0 <= label_smoothing < 1, got "),
        ('{"learning_rate": 1e999}', "recipe: not readable: a number is too large"),
        ('{"weight_decay": -1}', "recipe: learning_rate > 0, "),
        ('{"label_smoothing": 1}', "recipe: learning_rate > 0, "),
        ('{"optimizer": "lamb"}', "recipe: optimizer must be one of adam, sgd, got 'lamb'"),
        ('{"momentum": 1}', r"recipe: momentum must be in \[0, 1\), got 1"),
        ('{"schedule": "step"}', "recipe: schedule must be one of cosine, one-cycle, got 'step'"),
        ('{"augment": "flip,shift:4"}', "recipe: augment must be shift:N, flip or shift:N,flip, got 'flip,shift:4'"),
        ('{"augment": "shift:4flip"}', "recipe: augment must be shift:N, flip or shift:N,flip, got 'shift:4flip'"),
        ('{"augment": "shift:0"}', "recipe: augment must be shift:N, "),
        ('{"augment": ","}', "recipe: augment must be shift:N, "),
        ('{"augment": "shift:128"}', "recipe: augment shifts by at most 127 pixels, got 'shift:128'"),
        ('{"precision": "float16"}', "recipe: precision must be one of float32, bfloat16, got 'float16'"),
        ('{"augment": 4}', "recipe: not readable: "),
    ],
)
def test_unreadable_recipes_are_refused(text, message):
    with pytest.raises(UsageError, match=f"^{message}"):
        TrainingRecipe.from_json(text)


@pytest.mark.parametrize(
    ("images", "epochs"),
    [(1000, 100), (64, 1500), (10, 1500), (64 * 150, 10), (64 * 1500, 8), (10**6, 8)],  # 1,500 steps, 8 passes at least
)
def test_epochs_follow_the_number_of_images(images, epochs):
    assert TrainingRecipe().epochs_for(images) == epochs
    assert TrainingRecipe(epochs=5).epochs_for(images) == 5


def test_continued_recipe_is_a_quarter():
    assert TrainingRecipe(weight_decay=0.1).continued(1000) == TrainingRecipe(25, 64, 5e-4, 0.1)
    assert TrainingRecipe(epochs=1).continued(1000).epochs == 1


RECIPES = [
    TrainingRecipe(),
    TrainingRecipe(5, 32, 1e-3, 0.01, 0.2, "sgd", 0.8, "one-cycle", "shift:2,flip", "bfloat16"),
    TrainingRecipe(epochs=1, batch_size=2, augment="flip"),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=["default", "sgd", "small"])
def test_varied_recipes_depart_in_some_things_and_within_bounds(recipe):
    varied = [recipe.varied(seed, 1000) for seed in range(400)]
    assert varied == [recipe.varied(seed, 1000) for seed in range(400)]
    kept = ("weight_decay", "optimizer", "momentum", "schedule", "precision")
    assert all(getattr(v, name) == getattr(recipe, name) for v in varied for name in kept)
    epochs, shift = recipe.epochs_for(1000), recipe._augmentation()[0]
    departed = {
        "epochs": [v.epochs - epochs for v in varied],
        "learning_rate": [math.log2(v.learning_rate / recipe.learning_rate) for v in varied],
        "batch_size": [v.batch_size - recipe.batch_size for v in varied],
        "label_smoothing": [v.label_smoothing - recipe.label_smoothing for v in varied],
        "shift": [v._augmentation()[0] - shift for v in varied],
    }
    bounds = {
        "epochs": (max(1, round(0.7 * epochs)) - epochs, round(1.3 * epochs) - epochs),
        "learning_rate": (-1, 1),
        "batch_size": (max(2, recipe.batch_size // 2) - recipe.batch_size, recipe.batch_size),
        "label_smoothing": (0, 0.1),
        "shift": (0, 2),
    }
    for name, values in departed.items():
        low, high = bounds[name]
        assert low <= min(values) <= low + 0.05 * (high - low), name
        assert high - 0.05 * (high - low) <= max(values) <= high, name
        if name in ("learning_rate", "label_smoothing", "shift"):  # where no departure can end where it began
            assert sum(value != 0 for value in values) == pytest.approx(200, abs=40), name
    assert {v.augment.removesuffix("flip").rstrip(",") for v in varied} == (
        {f"shift:{n}" if n else "" for n in range(shift, shift + 3)}
    )
    assert all(v.augment.endswith("flip") == recipe.augment.endswith("flip") for v in varied)
    assert any(v == replace(recipe, epochs=epochs) for v in varied)  # departs in nothing
    assert len(set(varied)) > 100


def test_what_cannot_grow_does_not():
    most = TrainingRecipe(epochs=1, label_smoothing=0.985, augment="shift:126,flip")
    varied = [most.varied(seed, 10) for seed in range(60)]
    assert {v.augment for v in varied} == {"shift:126,flip", "shift:127,flip"}
    assert max(v.label_smoothing for v in varied) == 0.99
    assert all(TrainingRecipe.from_json(v.to_json()) == v for v in varied)


def test_training_is_deterministic_and_leaves_the_callers_generators_alone(digits):
    x, y = digits.data.x[:300], digits.data.y[:300]

    def trained(seed, start=0):
        return digest(train(build(ARCH, start), x, y, SHORT, seed))

    before = torch.get_rng_state()
    first = trained(1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert trained(1) == first
    assert trained(2) != first  # the order of the images
    assert trained(1, start=1) != first


def test_training_works_in_place_and_ends_in_eval_mode(digits):
    module = build(ARCH, 0)
    before = digest(module)
    assert train(module, digits.data.x[:200], digits.data.y[:200], SHORT, 0) is module
    assert not module.training
    assert digest(module) != before


def test_learning_rate_warms_up_and_decays_to_zero(monkeypatch):
    rates, step = [], torch.optim.AdamW.step

    def recording(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", recording)
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    train(module, torch.rand(45, 1, 2, 2), torch.arange(45) % 2, TrainingRecipe(10, 4, 0.01), 0)
    assert len(rates) == 10 * 11  # the incomplete last batch is left out
    assert rates[:11] == pytest.approx([0.01 * k / 11 for k in range(1, 12)])
    assert rates[11] == pytest.approx(0.01)
    assert rates[11:] == sorted(rates[11:], reverse=True)
    assert 0 < rates[-1] < 1e-5


def test_every_epoch_sees_every_image_once_in_an_order_of_its_own():
    seen = []

    class Watching(nn.Linear):
        def forward(self, x):
            seen.extend(x.flatten().tolist())
            return super().forward(x.flatten(1))

    train(Watching(1, 2), torch.arange(8.0).view(8, 1, 1, 1), torch.arange(8) % 2, TrainingRecipe(3, 4, 1e-4), 0)
    epochs = [seen[i : i + 8] for i in range(0, 24, 8)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(8))] * 3
    assert len(set(map(tuple, epochs))) == 3


def test_fewer_images_than_a_batch_still_train():
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    x, y = torch.tensor([[0.0], [1.0]]).expand(2, 4).reshape(2, 1, 2, 2), torch.tensor([0, 1])
    train(module, x, y, TrainingRecipe(epochs=200, learning_rate=0.05), 0)
    assert predict(module, x).tolist() == [0, 1]


class Viewing(nn.Module):
    """`view` after a convolution takes contiguous tensors only."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(16, 2)

    def forward(self, x):
        return self.head(self.conv(x).view(len(x), -1))


def test_networks_that_use_view_can_be_trained():
    train(Viewing(), torch.rand(16, 3, 4, 4), torch.arange(16) % 2, TrainingRecipe(epochs=1, batch_size=8), 0)


def test_channels_last_trains_the_same_network():
    x, y = torch.rand(32, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 3
    plain, last = (
        train(build("convnet:3x8x8:4:8:3", 0), x, y, TrainingRecipe(epochs=2, batch_size=8), 0, channels_last=flag)
        for flag in (False, True)
    )
    for name, tensor in last.state_dict().items():
        assert tensor.is_contiguous()
        torch.testing.assert_close(tensor, plain.state_dict()[name], rtol=1e-3, atol=1e-4)


def test_divergence_is_an_error():
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(PydriftError, match=r"^training diverged: the weights are not finite; lower the learning rate$"):
        train(module, torch.rand(8, 1, 2, 2), torch.arange(8) % 2, TrainingRecipe(20, 2, 1e38, 1.0), 0)


def test_seeded_seeds_and_restores():
    before = torch.get_rng_state()
    with seeded(3):
        inside = torch.rand(4)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(inside, torch.rand(4, generator=torch.Generator().manual_seed(3)))
    with pytest.raises(KeyError), seeded(3):
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)


def test_predict_does_not_depend_on_the_batch(digits):
    module, x = load_model(digits.path("base")).module, digits.holdout.x[:50]
    assert torch.equal(predict(module, x, 7), predict(module, x))
    assert predict(module, x).dtype == torch.int64


def test_each_keeps_order_and_one_thread_inside():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        met = threading.Barrier(2, timeout=10)  # passes only if two items are under way at once

        def work(item):
            met.wait()
            return item, torch.get_num_threads()

        assert list(each(work, range(4))) == [(k, 1) for k in range(4)]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_each_gives_the_threads_back_however_it_ends():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        results = each(lambda item: item, range(5))
        assert next(results) == 0
        assert torch.get_num_threads() == 1
        results.close()
        assert torch.get_num_threads() == 3
        with pytest.raises(ZeroDivisionError):
            list(each(lambda item: 1 // item, [1, 0, 1]))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_trained_model_is_accurate_and_its_file_says_how_it_was_made(digits):
    loaded = load_model(digits.path("base"))
    assert (predict(loaded.module, digits.holdout.x) == digits.holdout.y).float().mean() > 0.9
    assert TrainingRecipe.from_json(loaded.metadata[RECIPE_KEY]) == TrainingRecipe()
    assert loaded.metadata[TRAIN_SIZE_KEY] == "1000"


def test_train_model_is_a_function_of_its_arguments(digits):
    def made(**options):
        return train_model(ARCH, digits.data, **{"size": 200, "seed": 1, "recipe": SHORT, **options})

    first = made()
    assert digest(made().module) == digest(first.module)
    assert not any(p.requires_grad for p in first.module.parameters())
    assert len(first.images) == 200
    assert len(torch.unique(first.images.x, dim=0)) == 200  # drawn without replacement
    assert not torch.equal(made(seed=2).images.x, first.images.x)
    assert len(made(size=None).images) == len(digits.data)
    swapped = made(drift="swap:3,8").images
    assert torch.equal(swapped.x, first.images.x)
    assert ((swapped.y == 3) == (first.images.y == 8)).all()


def test_continuing_leaves_the_initial_model_as_it_is(digits):
    base = load_model(digits.path("base"))
    before = digest(base.module)
    tuned = [train_model(base.arch, digits.data, size=200, seed=3, recipe=SHORT, init=base) for _ in range(2)]
    assert digest(base.module) == before
    assert not any(p.requires_grad for p in base.module.parameters())
    assert digest(tuned[0].module) == digest(tuned[1].module) != before
    by_hand = train(
        copy.deepcopy(base.module).requires_grad_(True), tuned[0].images.x, tuned[0].images.y, SHORT.continued(200), 3
    )
    for name, tensor in by_hand.state_dict().items():  # in torch, where these were trained natively
        torch.testing.assert_close(tuned[0].module.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
    assert tuned[0].recipe == SHORT


def test_continuing_repeats_the_recorded_recipe(digits, tmp_path):
    first = train_model(ARCH, digits.data, size=200, seed=1, recipe=SHORT)
    first.save(tmp_path / "first.safetensors")
    tuned = train_model(ARCH, digits.data, size=200, seed=2, init=load_model(tmp_path / "first.safetensors"))
    assert tuned.recipe == SHORT != TrainingRecipe()


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        ("mlp:1x9x9:16:10", {}, "mlp:1x9x9:16:10 does not fit digits (train): images of 1x8x8 in 10 classes"),
        ("mlp:1x8x8:16:9", {}, "mlp:1x8x8:16:9 does not fit digits (train): images of 1x8x8 in 10 classes"),
        (ARCH, {"size": 1}, "size must be in 2..1442, got 1"),
        (ARCH, {"size": 1443}, "size must be in 2..1442, got 1443"),
    ],
)
def test_impossible_training_is_refused(digits, arch, options, message):
    with pytest.raises(UsageError) as error:
        train_model(arch, digits.data, **options)
    assert str(error.value) == message


def test_continuing_another_architecture_is_refused(digits):
    with pytest.raises(UsageError, match=r"^init: mlp:1x8x8:16:10 cannot continue the training of a mlp:1x8x8:48:10$"):
        train_model(ARCH, digits.data, init=load_model(digits.path("base")))


def test_training_draws_have_their_own_stream():
    assert derived_seed(1, Phase.TRAIN_DRAW) != derived_seed(1, Phase.SHADOW_DRAW)
