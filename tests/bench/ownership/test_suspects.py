"""The models of the ownership benchmark, on digits: who has which images, and that theft takes something."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bench.ownership import suspects as bench
from bench.ownership.data_free import DataFree, extract_model
from bench.ownership.world import World
from pydrift import UsageError
from pydrift.models.arch import build
from pydrift.models.file import load_model

pytestmark = pytest.mark.slow

WORLD = World("digits", 0)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("suspects")


@pytest.fixture(scope="module")
def owner(work):
    return bench.victim(WORLD, work)


@pytest.fixture(scope="module")
def suspects(work):
    return bench.suspects(WORLD, work)


def parts(world):
    return [world.public, world.independent_pool, world.private, world.surrogate]


def test_every_image_is_in_one_part():
    dealt = np.concatenate(parts(WORLD))
    assert np.array_equal(np.sort(dealt), np.arange(len(WORLD.images)))
    assert [round(len(part) / len(dealt), 2) for part in parts(WORLD)] == [0.44, 0.18, 0.12, 0.26]


def test_other_data_is_refused():
    with pytest.raises(UsageError, match=r"no suspects are made for 'mnist:there', only for cifar10, digits"):
        _ = World("mnist:there", 0).setting


def test_every_file_has_its_own_name():
    jobs = [bench._Job(World("digits", seed), kind) for seed in (0, 1) for kind in ("victim", *bench.STOLEN)]
    jobs += [bench._Job(WORLD, kind, i) for kind in ("independent",) for i in range(3)]
    assert len({job.name for job in jobs}) == len({job.seed for job in jobs}) == len(jobs)
    shared = (bench._Job(World("digits", seed), "independent", 2).name for seed in (0, 1))
    assert len(set(shared)) == 1


def test_worlds_share_what_is_public():
    other = World("digits", 1)
    same = [np.array_equal(a, b) for a, b in zip(parts(WORLD), parts(other), strict=True)]
    assert same == [True, True, False, False]


def test_draws_are_from_their_pool_and_differ():
    draws = [WORLD.draw(WORLD.independent_pool, i) for i in range(3)]
    for draw in draws:
        assert len(np.unique(draw)) == len(draw) == len(WORLD.private)
        assert np.isin(draw, WORLD.independent_pool).all()
    assert not any(np.array_equal(np.sort(a), np.sort(b)) for a, b in combinations(draws, 2))


def test_only_those_with_access_to_the_private_images_train_on_them(suspects):
    saw_private = {kind for kind, model in suspects.items() if np.isin(WORLD.private, model.trained_on).any()}
    assert saw_private == {"copy", "architecture", "distillation", "adversarial"}
    assert not len(suspects["data-free"].trained_on)
    for kind in ("fine-tuning", "label-query", "logit-query"):
        assert np.array_equal(suspects[kind].trained_on, WORLD.surrogate)


def test_benign_models_never_saw_a_private_image(work):
    benign = bench.independents(WORLD, work, 3)
    assert [model.variant for model in benign] == ["same recipe", "other recipe", "other architecture"]
    for model in benign:
        assert not np.isin(model.trained_on, np.concatenate([WORLD.private, WORLD.surrogate])).any()


def test_every_theft_gets_the_model(owner, suspects):
    assert tuple(suspects) == bench.STOLEN
    for kind, model in suspects.items():
        found = bench.accuracy(WORLD, owner, model)
        assert found.test > 0.8, kind
        assert found.agreement > 0.8, kind
        assert (found.train is None) == (kind == "data-free")
    assert bench.accuracy(WORLD, owner, suspects["copy"]).agreement == 1


def test_answers_say_more_than_classes(owner, suspects):
    x = WORLD.images.x[torch.from_numpy(WORLD.independent_pool)]

    def distance(kind):
        answers = [F.softmax(model.module(x), 1) for model in (owner, suspects[kind])]
        return float((answers[0] - answers[1]).abs().sum(1).mean())

    assert distance("logit-query") < distance("label-query")


def test_attacked_images_are_near_and_worse(owner):
    indices = torch.from_numpy(WORLD.independent_pool)
    x, y = WORLD.images.x[indices], WORLD.images.y[indices]
    attacked = bench._attack_images(owner.module, x, y, 0.1, 3)
    assert float((attacked - x).abs().max()) <= 0.1 + 1e-6
    assert 0 <= float(attacked.min()) <= float(attacked.max()) <= 1
    assert F.cross_entropy(owner.module(attacked), y) > F.cross_entropy(owner.module(x), y)


def test_adversarial_training_withstands_more(owner, suspects):
    indices = torch.from_numpy(WORLD.independent_pool)
    x, y = WORLD.images.x[indices], WORLD.images.y[indices]

    def withstood(model):
        return float((model.module(bench._attack_images(model.module, x, y, 0.1, 10)).argmax(1) == y).double().mean())

    assert withstood(suspects["adversarial"]) > withstood(owner)


def test_finished_models_are_kept(work, owner, suspects, monkeypatch):
    def refused(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(bench, "_train_model", refused)
    for kind, model in bench.suspects(WORLD, work).items():
        pairs = zip(model.module.parameters(), suspects[kind].module.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    with pytest.raises(AssertionError, match="trained again"):
        bench.victim(World("digits", 1), work)


def test_a_process_of_its_own_gives_the_same_bits(tmp_path, work, suspects):
    made = list(bench.train_all([WORLD], tmp_path, 1, num_independent=1))
    assert len(made) == len(set(made)) == 1 + 1 + len(bench.STOLEN) - 1  # a copy is no file of its own
    assert {path.name for path in tmp_path.iterdir()} == set(made)
    bench.independents(WORLD, work, 1)
    assert set(made) <= {path.name for path in work.iterdir()}
    for name in made:
        here, there = (load_model(folder / name).module.parameters() for folder in (work, tmp_path))
        assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True)), name


def test_the_data_free_thief_leaves_torchs_generator_alone(owner):
    before = torch.get_rng_state()
    how = DataFree(rounds=1, batch_size=8, width=4)
    extract_model(owner.module, build(owner.arch, 1), (1, 8, 8), how, seed=3)
    assert torch.equal(before, torch.get_rng_state())
