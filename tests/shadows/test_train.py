"""Shadow models: who sees what, how they are started, and that finished ones are kept."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn

from pydrift import TrainingRecipe, UsageError
from pydrift.core.noise import Phase, derived_seed
from pydrift.core.parallel import intra_op_threads
from pydrift.core.tensors import tensors_digest
from pydrift.data import LabelledImages
from pydrift.models.arch import build
from pydrift.models.file import load_model
from pydrift.shadows import Draw, ShadowPlan, reinitialise, train_block, train_shadows, update_draw
from pydrift.shadows import train as shadows_train
from pydrift.training import predict, train, train_many

ARCH, RECIPE = "mlp:1x8x8:12:10", TrainingRecipe(epochs=2)
HALVES, SUBSET, BOOTSTRAP = Draw("halves", 0), Draw("subset", 40), Draw("bootstrap", 150)


def digests(bank):
    return [tensors_digest(bank.state(k)) for k in range(len(bank))]


def trained_alone(start, data, drawn, recipe, seed):
    (module,) = train_many(
        [start], data.x, data.y, [drawn], [recipe], [seed], device=torch.device("cpu"), built_in=True
    )
    return module


@pytest.fixture(scope="module")
def data(digits):
    return digits.data.subset(range(300))


@pytest.fixture
def shadows(data):
    def trained(count=2, **options):
        options = {"model": ARCH, "data": data, "draw": Draw("subset", 200), "recipe": RECIPE, "seed": 5, **options}
        return train_shadows(options.pop("model"), options.pop("data"), count, device="cpu", **options)

    return trained


@pytest.mark.parametrize("draw", [HALVES, SUBSET, BOOTSTRAP], ids=lambda draw: draw.kind)
def test_a_draw_is_a_function_of_seed_images_and_k(draw):
    drawn = [draw.indices(1, 100, k) for k in range(4)]
    assert all(np.array_equal(draw.indices(1, 100, k), indices) for k, indices in enumerate(drawn))
    assert all((np.diff(indices) >= 0).all() for indices in drawn)
    assert all(indices.min() >= 0 and indices.max() < 100 and indices.dtype == np.int64 for indices in drawn)
    assert len({tuple(indices) for indices in drawn}) == 4
    assert not np.array_equal(draw.indices(2, 100, 0), drawn[0])


@pytest.mark.parametrize("images", [100, 101])
def test_halves_make_every_image_a_member_of_half_of_the_shadows(images):
    drawn = [HALVES.indices(3, images, k) for k in range(8)]
    assert (np.bincount(np.concatenate(drawn), minlength=images) == 4).all()
    for even, odd in zip(drawn[::2], drawn[1::2], strict=True):
        assert not np.intersect1d(even, odd).size
        assert len(odd) - len(even) == images % 2


@pytest.mark.parametrize("draw", [HALVES, SUBSET, BOOTSTRAP], ids=lambda draw: draw.kind)
def test_members_are_the_drawn_images(draw):
    member = draw.members(7, 101, 6)
    assert member.shape == (6, 101)
    assert member.dtype == bool
    for k in range(6):
        assert np.array_equal(np.flatnonzero(member[k]), np.unique(draw.indices(7, 101, k)))
    assert np.array_equal(draw.members(7, 101, 2), member[:2])
    if draw == HALVES:
        assert (member.sum(axis=0) == 3).all()  # every image, the last one too, is IN exactly half of the time
        assert np.array_equal(member[::2], ~member[1::2])


def test_every_image_is_drawn_by_some_shadow_and_left_out_by_another():
    for draw in (HALVES, SUBSET, Draw("bootstrap", 40)):
        member = draw.members(0, 100, 64)
        assert member.any(axis=0).all()
        assert not member.all(axis=0).any()


@pytest.mark.parametrize(("text", "draw"), [("halves", HALVES), ("subset:40", SUBSET), ("bootstrap:150", BOOTSTRAP)])
def test_a_draw_by_its_text(text, draw):
    assert Draw.parse(text) == draw


@pytest.mark.parametrize("text", ["halves:3", "subset", "subset:-1", "subset:x", "third:5", ""])
def test_a_text_that_is_no_draw_is_refused(text):
    with pytest.raises(UsageError, match=r"^(no such draw of reference images: |a draw is halves, )"):
        Draw.parse(text)


def test_a_bootstrap_far_above_the_data_is_refused_before_there_is_room():
    assert len(Draw("bootstrap", 1000).indices(0, 100, 0)) == 1000
    with pytest.raises(UsageError, match=r"^cannot draw 1000000000 images from 100 with replacement: the limit"):
        Draw("bootstrap", 10**9).indices(0, 100, 0)


def test_subsets_repeat_nothing_and_bootstraps_do():
    assert [len(set(SUBSET.indices(0, 100, k))) for k in range(3)] == [40] * 3
    drawn = BOOTSTRAP.indices(0, 150, 0)
    assert len(drawn) == 150
    assert len(set(drawn)) == pytest.approx(150 * (1 - np.exp(-1)), abs=15)
    seen = np.bincount(np.concatenate([SUBSET.indices(0, 100, k) for k in range(200)]), minlength=100)
    assert seen.min() > 50  # 80 on average: no image is left out


@pytest.mark.parametrize(
    ("base_size", "size", "expected", "words"),
    [
        (30, None, Draw("subset", 30), "30 of 100 images without replacement"),
        (40, None, Draw("subset", 33), "33 of 100 images without replacement"),
        (250, None, Draw("subset", 33), "33 of 100 images without replacement"),
        (None, None, Draw("subset", 33), "33 of 100 images without replacement"),
        (30, 99, Draw("subset", 99), "99 of 100 images without replacement"),
        (30, 100, Draw("bootstrap", 100), "100 of 100 images with replacement (bootstrap)"),
        (30, 250, Draw("bootstrap", 250), "250 of 100 images with replacement (bootstrap)"),
    ],
)
def test_a_shadow_sees_as_many_images_as_the_base_and_a_third_at_most(base_size, size, expected, words):
    assert update_draw(100, base_size, size) == expected
    assert expected.describe(100) == words


def test_a_finetuned_shadow_sees_as_many_images_as_the_base():
    assert update_draw(100, 40, update_mode="finetune") == Draw("subset", 40)
    assert update_draw(100, 100, update_mode="finetune") == update_draw(100, None, update_mode="finetune")
    assert update_draw(100, None, update_mode="finetune") == Draw("bootstrap", 100)
    assert update_draw(100, 40, 60, update_mode="finetune") == Draw("subset", 60)


def test_shadows_of_a_third_stray_as_fresh_updates_do():
    """For a model that learns the mean of its images: shadows from the mean of all, updates from their base."""
    rng = np.random.default_rng(3)
    strayed, fresh = [], []
    for _ in range(200):
        data, others = rng.standard_normal((2, 300))
        draw = update_draw(len(data), len(data))
        strayed += [data[draw.indices(0, len(data), k)].mean() - data.mean() for k in range(8)]
        fresh.append(others.mean() - data.mean())
    assert np.std(strayed) == pytest.approx(np.std(fresh), rel=0.15)


def test_halves_in_words():
    assert HALVES.describe(100) == "complementary halves of 100 images"


def test_a_shadow_depends_on_its_own_number_only(shadows):
    few, many = digests(shadows(2)), digests(shadows(4))
    assert many[:2] == few
    assert len(set(many)) == 4
    assert digests(shadows(2, seed=6)) != few


def test_retrained_shadows_start_from_scratch_on_their_draw(shadows, data):
    bank = shadows(2)
    seed, drawn = derived_seed(5, Phase.SHADOW_TRAIN, 1), Draw("subset", 200).indices(5, 300, 1)
    expected = trained_alone(build(ARCH, seed), data, drawn, RECIPE, seed)
    assert digests(bank)[1] == tensors_digest(expected.state_dict())
    unseen = np.setdiff1d(np.arange(300), drawn)
    assert bank.accuracy[1] == pytest.approx((predict(expected, data.x[unseen]) == data.y[unseen]).float().mean())
    assert not any(module.training or any(p.requires_grad for p in module.parameters()) for module in bank.models())


def test_built_in_shadows_are_the_same_for_any_number_of_threads_and_any_block(shadows):
    one_by_one = digests(shadows(4))
    with intra_op_threads(3):
        assert digests(shadows(4)) == one_by_one
    assert digests(shadows(4, block=4)) == one_by_one


def test_varied_shadows_are_trained_each_by_its_own_recipe(shadows, data, tmp_path):
    bank = shadows(4, recipes="varied")
    recipes = [bank.plan.recipe_of(k) for k in range(4)]
    assert recipes == [RECIPE.varied(derived_seed(5, Phase.RECIPE, k), 200) for k in range(4)]
    assert len(set(recipes)) == 4
    for k in range(4):
        seed, drawn = derived_seed(5, Phase.SHADOW_TRAIN, k), bank.plan.indices(k)
        expected = trained_alone(build(ARCH, seed), data, drawn, recipes[k], seed)
        assert digests(bank)[k] == tensors_digest(expected.state_dict())
    assert digests(shadows(4, recipes="varied", block=4, resume_dir=tmp_path / "work")) == digests(bank)
    bank.save(tmp_path / "bank")
    for k in range(4):
        metadata = load_model(tmp_path / "bank" / "models" / f"{k:05d}.safetensors").metadata
        assert TrainingRecipe.from_json(metadata["recipe"]) == recipes[k]


def test_varied_shadows_may_be_finetuned(shadows, data, digits):
    bank = shadows(2, model=digits.path("base"), update_mode="finetune", recipes="varied")
    seed, drawn = derived_seed(5, Phase.SHADOW_TRAIN, 1), bank.plan.indices(1)
    start = load_model(digits.path("base")).module.requires_grad_(True)
    expected = trained_alone(start, data, drawn, bank.plan.recipe_of(1).continued(200), seed)
    assert digests(bank)[1] == tensors_digest(expected.state_dict())


@pytest.mark.parametrize("recipes", ["same", "varied"])
def test_a_plan_survives_json(shadows, recipes):
    plan = shadows(2, recipes=recipes).plan
    raw = json.loads(json.dumps(plan.to_dict()))
    assert ShadowPlan.from_dict(raw) == plan
    assert (plan.recipe_of(0) == RECIPE) == (recipes == "same")
    for change, reason in (
        ({"count": 2.0}, "plan: Expected `int`, got `float`"),
        ({"more": 1}, "plan: has a key too many or too few"),
        ({"recipe": {**raw["recipe"], "epochs": -1}}, "plan: recipe: epochs must be in"),
        ({"images": 300_000_000}, r"plan: the number of images must be in 1\.\.10000000, got 300000000"),
        ({"start_sha256": "0" * 63}, "start_sha256 is no SHA-256"),
    ):
        with pytest.raises(ValueError, match=f"^{reason}"):
            ShadowPlan.from_dict({**raw, **change})
    del raw["recipes"]  # every plan of this version has it
    with pytest.raises(ValueError, match=r"^plan: has a key too many or too few$"):
        ShadowPlan.from_dict(raw)


def test_finetuned_shadows_continue_from_the_base(shadows, data, digits):
    base = load_model(digits.path("base")).module
    bank = shadows(1, model=digits.path("base"), update_mode="finetune")
    seed, drawn = derived_seed(5, Phase.SHADOW_TRAIN, 0), Draw("subset", 200).indices(5, 300, 0)
    start = copy.deepcopy(base).requires_grad_(True)
    expected = trained_alone(start, data, drawn, RECIPE.continued(200), seed)
    assert digests(bank) == [tensors_digest(expected.state_dict())]
    assert not any(p.requires_grad for p in base.parameters())


def test_shadows_do_not_touch_the_callers_generator(shadows):
    dropout = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, 10))
    before = torch.get_rng_state()
    first = digests(shadows(1, model=dropout))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert digests(shadows(1, model=dropout)) == first


def test_reinitialise_is_fresh_and_seeded():
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))
    module(torch.rand(8, 1, 8, 8))
    before = tensors_digest(module.state_dict())
    first, again, other = (tensors_digest(reinitialise(module, seed).state_dict()) for seed in (1, 1, 2))
    assert first == again
    assert len({first, other, before}) == 3
    assert tensors_digest(module.state_dict()) == before
    assert torch.equal(reinitialise(module, 1)[2].running_mean, torch.zeros(10))


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(64))
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(x.flatten(1) * self.scale)


@pytest.mark.parametrize(("module", "name"), [(Scaled(), "scale"), (nn.Sequential(nn.Flatten(), Scaled()), "1.scale")])
def test_what_cannot_be_reinitialised_is_refused(module, name):
    with pytest.raises(UsageError) as error:
        reinitialise(module, 0)
    assert str(error.value) == (
        f"the base's parameter {name} keeps its value when the base is reset: no reset_parameters() or "
        "_init_weights() sets it, so shadows cannot start from fresh weights; pass init=, a function seed -> module "
        "with fresh weights, or train=, a function (x, y, seed) -> trained module"
    )


def test_own_training_gets_the_draw_and_the_seed(shadows, data):
    calls, module = [], nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def own(x, y, seed):
        calls.append((x, y, seed, torch.rand(1).item()))
        with torch.no_grad():
            module[1].bias.fill_(len(calls))
        return module  # one and the same each time

    before = torch.get_rng_state()
    bank = shadows(2, model=module, train=own, recipes="varied")
    assert bank.plan.recipes == "same"  # what the user's own training does, only the user can vary
    assert torch.equal(torch.get_rng_state(), before)
    for k, (x, y, seed, random) in enumerate(calls):
        drawn = Draw("subset", 200).indices(5, 300, k)
        assert torch.equal(x, data.x[drawn])
        assert torch.equal(y, data.y[drawn])
        assert seed == derived_seed(5, Phase.SHADOW_TRAIN, k)
        assert random == torch.rand(1, generator=torch.Generator().manual_seed(seed)).item()
    assert [m[1].bias[0].item() for m in bank.models()] == [1, 2]
    assert all(p.requires_grad for p in module.parameters())


def test_finished_shadows_are_not_trained_again(shadows, tmp_path):
    calls = []

    def own(x, y, seed):
        calls.append(seed)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train(build(ARCH, seed), x, y, RECIPE, seed)

    with pytest.raises(KeyboardInterrupt):
        shadows(4, resume_dir=tmp_path, train=own)
    resumed = shadows(4, resume_dir=tmp_path, train=own)
    assert len(calls) == 5  # two finished, one interrupted and begun again, one more
    assert len(set(calls)) == 4
    at_once = shadows(4, train=own)
    assert digests(resumed) == digests(at_once)
    assert resumed.accuracy == at_once.accuracy
    assert len(calls) == 9


def test_accuracy_is_none_where_a_shadow_saw_everything(shadows, data):
    bank = shadows(1, data=data.subset(range(20)), draw=Draw("bootstrap", 200))
    assert bank.accuracy == (None,)


def test_accuracy_is_measured_on_all_classes_of_sorted_data(shadows, data):
    count = 4000
    y = torch.arange(count) * 2 // count  # the first half is of class 0
    always_zero = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        always_zero[1].weight.zero_()
        always_zero[1].bias.copy_(torch.tensor([2.0, 0.0]))
    images = LabelledImages(torch.zeros(count, 1, 1, 1), y, ("a", "b"), "sorted")
    bank = shadows(1, model=always_zero, data=images, draw=SUBSET, train=lambda x, y, seed: always_zero)
    assert bank.accuracy[0] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("kind", "size"), [("third", 5), ("subset", 0), ("bootstrap", 0), ("halves", 5)])
def test_impossible_draws_are_refused(kind, size):
    with pytest.raises(UsageError, match=f"^no such draw of reference images: '{kind}' of size {size}$"):
        Draw(kind, size)


def test_more_images_than_there_are_cannot_be_drawn_without_replacement():
    with pytest.raises(UsageError, match=r"^cannot draw 11 of 10 images without replacement$"):
        Draw("subset", 11).indices(0, 10, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"update_mode": "reuse"}, "update_mode must be one of retrain, finetune, got 'reuse'"),
        ({"recipes": "mixed"}, "recipes must be one of same, varied, got 'mixed'"),
        ({"count": 3, "draw": HALVES}, "complementary halves need an even number of shadows, got 3"),
    ],
)
def test_impossible_shadows_are_refused(shadows, options, message):
    with pytest.raises(UsageError) as error:
        shadows(**options)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("model", "options", "block"),
    [
        (ARCH, {}, 64),
        ("mlp:1x8x8:90000:10", {}, 53),  # 4 GiB, 12 bytes for each of 6,750,010 parameters
        (ARCH, {"recipe": TrainingRecipe(precision="bfloat16")}, 1),
        (ARCH, {"train": lambda x, y, seed: build(ARCH, 0)}, 1),
        (ARCH, {"block": 3}, 3),
    ],
)
def test_on_a_gpu_as_many_are_trained_side_by_side_as_its_memory_holds(data, monkeypatch, model, options, block):
    blocks = []

    def train_nothing(trainer, numbers):
        blocks.append(len(numbers))
        raise KeyboardInterrupt

    monkeypatch.setattr(train_block.BlockTrainer, "__call__", train_nothing)
    monkeypatch.setattr(shadows_train, "choose_device", torch.device)
    monkeypatch.setattr(train_block, "native_program", lambda module, x, device: [0])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    with pytest.raises(KeyboardInterrupt):
        train_shadows(model, data, 100, draw=Draw("subset", 40), device="cuda", **options)
    assert blocks == [block]
