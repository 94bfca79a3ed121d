"""Planted exchanges: what follows for the responses is what a model with two logits exchanged really gives."""

import numpy as np
import pytest
import torch
from torch import nn

from pydrift.drift import exchange as module
from pydrift.drift.exchange import PLANTS, exchange, exchange_p_values
from pydrift.drift.probes import SHAPE_KINDS, draw_shapes
from pydrift.drift.recognition import class_bias, occlusion_sensitivity, recognise
from pydrift.drift.responses import OCCLUSIONS, OWN_GRAY, REFERENCE, SYNTHETIC_SHAPES, candidate_responses
from pydrift.drift.verdict import FOUND_EXCHANGES
from pydrift.models.classifier import freeze
from tests.synthetic_responses import apart, benign, each, world

CLASSES, SHAPE = 5, (1, 6, 6)


def model(seed, order=None):
    """A small network; with `order` it says of class c what it said of order[c]."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, CLASSES))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter *= 3
        if order is not None:
            module[3].weight.copy_(module[3].weight[order])
            module[3].bias.copy_(module[3].bias[order])
    return freeze(module, SHAPE, torch.device("cpu"), f"model {seed}")


def images(seed):
    """One image of each class: the mean of compressed log-odds is over one image alone."""
    return np.random.default_rng(seed).random((CLASSES, 1, *SHAPE), np.float32)


@pytest.mark.parametrize(("a", "b"), [(1, 3), (3, 1), (0, 4), (2, 2)])
def test_an_exchange_is_what_a_model_with_exchanged_logits_responds(a, b):
    order = list(range(CLASSES))
    order[a], order[b] = b, a
    consensus, gray, nobody = images(1)[None], images(2), lambda: None
    others = [model(9)]  # a mean over several would be one of compressed figures
    straight, _ = candidate_responses(others, model(5), consensus, gray, nobody)
    # The gray data that the exchanged model makes of class a are those that the model makes of class b.
    changed, _ = candidate_responses(others, model(5, order), consensus, gray[order], nobody)
    for responses, m in ((straight, model(5)), (changed, model(5, order))):
        reference = recognise([m], torch.from_numpy(images(3))[None]).odds[0, 0]
        responses[REFERENCE] = {REFERENCE: reference.astype(np.float32)}
        del responses[OCCLUSIONS]  # a mean over the images of all other classes; see below
    planted = exchange(straight, a, b, OWN_GRAY)
    assert {p: list(variants) for p, variants in planted.items()} == {p: list(v) for p, v in changed.items()}
    for probe, variants in changed.items():
        for v, table in variants.items():
            np.testing.assert_allclose(planted[probe][v], table, rtol=1e-5, atol=1e-5, err_msg=f"{probe} {v}")


def test_occlusions_and_shapes_are_relabelled():
    order = [0, 3, 2, 1, 4]
    same = torch.from_numpy(np.repeat(images(1)[:1], CLASSES, axis=0))  # the same image of every class
    straight, changed = (occlusion_sensitivity([model(5, o)], same[None, :, 0]) for o in (None, order))
    shapes = draw_shapes(next(iter(SHAPE_KINDS)), SHAPE)[None]
    bias, of_changed = (class_bias([model(5, o)], shapes)[0, 0] for o in (None, order))
    responses = {OCCLUSIONS: {c: t[0, 0] for c, t in straight.items()}, SYNTHETIC_SHAPES: {"shape": bias}}
    planted = exchange(responses, 1, 3, OWN_GRAY)
    for colour, table in changed.items():
        np.testing.assert_allclose(planted[OCCLUSIONS][colour], table[0, 0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(planted[SYNTHETIC_SHAPES]["shape"], of_changed, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("a", "b"), [(0, 1), (3, 2), (1, 1)])
def test_an_exchange_twice_is_none(a, b):
    rng = np.random.default_rng(1)
    _, one = apart(benign(rng, world(rng, 5), 2))
    for table in one["gray data"].values():
        np.fill_diagonal(table, 0)
    one["synthetic shapes"] = {"disc": rng.standard_normal(5)}
    before = each(np.copy, one)
    twice = exchange(exchange(one, a, b, "own"), b, a, "own")
    for probe, variants in one.items():
        for v, table in variants.items():
            np.testing.assert_allclose(twice[probe][v], table, rtol=1e-9, atol=1e-9)
            np.testing.assert_array_equal(table, before[probe][v])  # it is left as it was


def separable(rng, classes, models):
    """Shadows that are sure of every class, on gray data as on others'."""
    responses = benign(
        rng,
        each(lambda a: a * np.array([1.0, 0.2, 0.2]).reshape(-1, *[1] * (a.ndim - 1)), world(rng, classes)),
        models,
        lambda size: 0.3 * rng.standard_normal(size),
    )
    for table in responses["gray data"].values():
        table += 6
        table[:, np.arange(classes), np.arange(classes)] = 0
    return responses


@pytest.mark.parametrize("centred", [False, True])
def test_exchanges_among_sure_shadows_are_found(centred):
    shadows = separable(np.random.default_rng(2), 6, 32)
    found = exchange_p_values(shadows, range(6), centred, "own")
    assert len(found) == PLANTS
    assert list(found) == sorted(found)
    assert max(found) < 1e-3
    assert exchange_p_values(shadows, range(6), centred, "own") == found


@pytest.mark.parametrize("seed", range(4))
def test_shadows_that_know_nothing_cannot_vouch_for_stability(seed):
    rng = np.random.default_rng(seed)
    about = each(lambda a: 0 * a, world(rng, 6))
    found = exchange_p_values(benign(rng, about, 32), range(6), False, "own")
    assert np.mean([p <= 0.05 for p in found]) < FOUND_EXCHANGES


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 10])
def test_every_plant_exchanges_two_classes_and_no_two_the_same_where_there_are_enough(monkeypatch, classes):
    pairs = []

    def recorded(responses, a, b, own):
        pairs.append((a, b))
        return exchange(responses, a, b, own)

    monkeypatch.setattr(module, "exchange", recorded)
    found = exchange_p_values(separable(np.random.default_rng(6), classes, 16), range(classes), False, "own")
    assert all(a != b for a, b in pairs)
    assert len({frozenset(pair) for pair in pairs}) == min(PLANTS, classes * (classes - 1) // 2)
    assert {c for pair in pairs for c in pair} == set(range(min(classes, PLANTS + 1)))
    assert max(found) < 0.05


def test_only_measured_classes_are_exchanged():
    shadows = separable(np.random.default_rng(4), 6, 16)
    for table in shadows["gray data"].values():
        table[:, 4] = np.nan
        table[:, :, 4] = np.nan
    shadows["occlusions"]["white occlusions"][..., 4] = np.nan
    found = exchange_p_values(shadows, [0, 1, 2, 3, 5], False, "own")
    assert len(found) == PLANTS
    assert np.isfinite(found).all()


def test_where_nothing_can_be_measured_there_are_none():
    shadows = separable(np.random.default_rng(5), 4, 12)
    assert exchange_p_values(shadows, [2], False, "own") == exchange_p_values(shadows, [], False, "own") == ()
    assert exchange_p_values(each(lambda a: a[:4], shadows), range(4), False, "own") == ()  # three others are too few
