"""Who is asked about whose gray data, and that no model is ever asked about images that it had a part in making."""

import numpy as np
import pytest
import torch
from torch import nn

from pydrift import InputRefused
from pydrift.data import as_images
from pydrift.drift import responses
from pydrift.drift.probes import OCCLUSION_COLOURS, SHAPE_KINDS, TRANSFORMS, apply_transform, draw_shapes
from pydrift.drift.recognition import class_bias, occlusion_sensitivity, recognise
from pydrift.drift.responses import (
    GRAY,
    GROUPS,
    OCCLUSIONS,
    OWN_GRAY,
    QUESTIONS,
    REFERENCE,
    SYNTHETIC_SHAPES,
    benign_responses,
    candidate_responses,
    reference_responses,
    select_models,
    split_groups,
)
from pydrift.drift.scores import PROBES
from pydrift.models.classifier import freeze

CLASSES, SHAPE, SHADOWS = 3, (1, 4, 4), 6
NEXT_GROUP = SHADOWS % GROUPS  # that of a seventh shadow


def model(seed):
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES))
    with torch.no_grad():
        module[1].weight *= 5
    return freeze(module, SHAPE, torch.device("cpu"), f"model {seed}")


def images(seed, sources):
    return np.random.default_rng(seed).random((sources, CLASSES, 2, *SHAPE), np.float32)


def nothing():
    pass


@pytest.fixture(scope="module")
def models():
    """A base and six shadows, of which groups 0 and 1 have two and groups 2 and 3 one."""
    return [model(m) for m in range(SHADOWS + 1)]


@pytest.fixture(scope="module")
def made():
    """Consensus of each group, and gray data of each model."""
    return images(0, GROUPS), images(1, SHADOWS + 1)


def odds(observer, source):
    """float64 [classes, classes] and confidence [classes] of one observer about [classes, restarts, ...]."""
    said = recognise([observer], torch.as_tensor(source)[None])
    return said.odds[0, 0], said.confidence[0, 0]


def moved(observer, source, colour):
    return occlusion_sensitivity([observer], torch.as_tensor(source)[None, :, 0])[colour][0, 0]


def close(got, expected):
    """To float32, in which responses are kept, or, of float64, to rounding."""
    tolerance = 1e-6 if np.asarray(got).dtype == np.float32 else 1e-9
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("count", range(2, 40))
def test_groups_share_out_the_shadows(count):
    made = split_groups(count)
    assert len(made) == min(GROUPS, count)
    assert sorted(k for members in made for k in members) == list(range(count))
    assert max(map(len, made)) - min(map(len, made)) <= 1


def tables(responses):
    return {(i, view): table for i, views in responses.items() for view, table in views.items()}


def test_answers_are_means_over_what_others_made(models, made):
    consensus, gray = made
    steps = []
    got, confidence, recognition = benign_responses(models, consensus, gray, lambda: steps.append(1))
    assert {i: list(views) for i, views in got.items()} == {
        GRAY: [*TRANSFORMS, OWN_GRAY],
        OCCLUSIONS: list(OCCLUSION_COLOURS),
        SYNTHETIC_SHAPES: list(SHAPE_KINDS),
    }
    assert {*got, REFERENCE} == set(PROBES)
    assert len(steps) == (QUESTIONS + 1) * len(models)
    rows = {GRAY: (CLASSES,), OCCLUSIONS: (4, 4), SYNTHETIC_SHAPES: ()}
    assert all(table.shape == (SHADOWS + 1, *rows[i], CLASSES) for (i, _), table in tables(got).items())
    assert all(table.dtype == np.float32 for table in tables(got).values())
    group_of = {k: g for g, members in enumerate(split_groups(SHADOWS)) for k in members}
    sure = []
    for m, observer in enumerate(models):
        foreign = [g for g in range(GROUPS) if g != (NEXT_GROUP if m == 0 else group_of[m - 1])]
        assert len(foreign) == GROUPS - 1
        for view in TRANSFORMS:
            seen = apply_transform(view, torch.from_numpy(consensus))
            close(got[GRAY][view][m], np.mean([odds(observer, seen[g])[0] for g in foreign], axis=0))
        for colour in OCCLUSION_COLOURS:
            close(got[OCCLUSIONS][colour][m], np.mean([moved(observer, consensus[g], colour) for g in foreign], axis=0))
        for kind in SHAPE_KINDS:
            close(got[SYNTHETIC_SHAPES][kind][m], class_bias([observer], draw_shapes(kind, SHAPE)[None])[0, 0])
        if m > 0:  # of its own group's, which must have convinced who made it
            sure.append(odds(observer, consensus[group_of[m - 1]])[1])
        close(got[GRAY][OWN_GRAY][m], np.mean([odds(o, gray[m])[0] for n, o in enumerate(models) if n != m], axis=0))
        close(recognition[m], np.mean([odds(observer, consensus[g])[1] for g in foreign], axis=0))
    close(confidence, np.mean(sure, axis=0))


@pytest.mark.parametrize("group", range(GROUPS))
def test_no_shadow_is_asked_about_its_own_groups_consensus(models, made, group):
    consensus, gray = made
    other = consensus.copy()
    other[group] = images(2, 1)[0]
    before, after = (tables(benign_responses(models, c, gray, nothing)[0]) for c in (consensus, other))
    for (probe, view), table in before.items():
        same = {m for m in range(SHADOWS + 1) if np.array_equal(table[m], after[probe, view][m])}
        of_consensus = probe in (GRAY, OCCLUSIONS) and view != OWN_GRAY
        blind = {1 + k for k in split_groups(SHADOWS)[group]} | ({0} if group == NEXT_GROUP else set())
        assert same == (blind if of_consensus else set(range(SHADOWS + 1)))


@pytest.mark.parametrize("m", [0, 1, 5])
def test_no_model_is_asked_about_its_own_gray_data(models, made, m):
    consensus, gray = made
    before = benign_responses(models, consensus, gray, nothing)[0]
    others = gray.copy()
    others[m] = images(2, 1)[0]
    after = benign_responses(models, consensus, others, nothing)[0]
    own, other_own = before[GRAY].pop(OWN_GRAY), after[GRAY].pop(OWN_GRAY)
    assert {n for n in range(SHADOWS + 1) if not np.array_equal(own[n], other_own[n])} == {m}
    assert all(np.array_equal(table, tables(after)[at]) for at, table in tables(before).items())
    replaced = [*models[:m], model(99), *models[m + 1 :]]
    other_own = benign_responses(replaced, consensus, gray, nothing)[0][GRAY][OWN_GRAY]
    changed = {n for n in range(SHADOWS + 1) if not np.array_equal(own[n], other_own[n])}
    assert changed == set(range(SHADOWS + 1)) - {m}


def test_a_candidate_is_asked_as_one_more_shadow_and_all_about_its_gray_data(models, made):
    """About the consensus of all groups but one, so that its means are over as many as a shadow's."""
    consensus, _ = made
    new, own, steps = model(50), images(3, 1)[0], []
    foreign = [g for g in range(GROUPS) if g != NEXT_GROUP]
    got, recognition = candidate_responses(models, new, consensus, own, lambda: steps.append(1))
    assert len(steps) == QUESTIONS + len(models)
    for view in TRANSFORMS:
        seen = apply_transform(view, torch.from_numpy(consensus))[foreign]
        close(got[GRAY][view], np.mean([odds(new, source)[0] for source in seen], axis=0))
    for colour in OCCLUSION_COLOURS:
        close(got[OCCLUSIONS][colour], np.mean([moved(new, source, colour) for source in consensus[foreign]], axis=0))
    close(got[GRAY][OWN_GRAY], np.mean([odds(observer, own)[0] for observer in models], axis=0))
    close(recognition, np.mean([odds(new, source)[1] for source in consensus[foreign]], axis=0))
    assert all(table.dtype == np.float32 for table in tables(got).values())


def test_where_there_is_one_consensus_a_candidate_is_asked_about_it(models, made):
    consensus, _ = made
    got, _ = candidate_responses(models, model(50), consensus[:1], images(3, 1)[0], nothing)
    close(got[GRAY]["plain"], odds(model(50), consensus[0])[0])


def test_the_base_and_the_same_model_as_a_new_one_answer_the_same(models, made):
    consensus, gray = made
    of_base = select_models(benign_responses(models, consensus, gray, nothing)[0], 0)
    new, _ = candidate_responses(models, models[0], consensus, gray[0], nothing)
    assert tables(new).keys() == tables(of_base).keys()
    del of_base[GRAY][OWN_GRAY]  # the base is not asked about its own
    for at, table in tables(of_base).items():
        np.testing.assert_allclose(tables(new)[at], table, rtol=1e-6, atol=1e-6)


def test_reference_answers_are_means_over_the_first_images_of_each_class(models, monkeypatch):
    rng = np.random.default_rng(4)
    y = np.array([2, 0, 0, 1, 2, 2, 2, 0, 0, 1, 2])
    data, steps = as_images((rng.random((11, *SHAPE), np.float32), y), ["a", "b", "c"]), []
    monkeypatch.setattr(responses, "MAX_REFERENCE", 3)
    got = reference_responses(models, data, lambda: steps.append(1))
    assert {i: list(views) for i, views in got.items()} == {REFERENCE: [REFERENCE]}
    table = got[REFERENCE][REFERENCE]
    assert table.shape == (SHADOWS + 1, CLASSES, CLASSES)
    assert len(steps) == len(models)
    first = {0: [1, 2, 7], 1: [3, 9], 2: [0, 4, 5]}
    for m, observer in enumerate(models):
        for c, chosen in first.items():
            close(table[m, c], recognise([observer], data.x[chosen][None, None], made_of=[c]).odds[0, 0, 0])


def test_reference_data_without_a_class_are_refused(models):
    data = as_images((np.zeros((4, *SHAPE), np.float32), np.array([0, 0, 2, 2])), ["a", "ü", "c"])
    with pytest.raises(InputRefused) as error:
        reference_responses(models, data, nothing)
    assert str(error.value) == "data: has no image of class '\\xfc', so it cannot serve as reference data"
