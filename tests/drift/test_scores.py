"""Drift scores: the statistics by hand, and that all K + 1 models are measured alike."""

import warnings

import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.covariance import ledoit_wolf_shrinkage

from pydrift.drift import residuals as module
from pydrift.drift.residuals import shrinkage_intensity
from pydrift.drift.scores import PROBES, Unmeasurable, measure_drift_scores
from tests.synthetic_responses import apart, benign, drifted, each, judged, world


def unit(variance, pooled=0.5):
    """Deviations of variances, each with a share of the mean over the last axis."""
    return np.sqrt((1 - pooled) * variance + pooled * variance.mean(axis=-1, keepdims=True))


def left_out(values, i):
    return np.delete(values, i, axis=0)


def standardised(values):
    """Each model's values [K + 1, n] by mean and deviation of the others."""
    rows = [(v - left_out(values, i).mean(0)) / unit(left_out(values, i).var(0, ddof=1)) for i, v in enumerate(values)]
    return np.array(rows)


def residuals_by_hand(x):
    """Of responses [K + 1, E], each model's conditional residuals, with one explicit inverse for each model."""
    deviation = unit(x.var(0, ddof=1), 0.1)
    z = (x - x.mean(0)) / deviation
    weight = ledoit_wolf_shrinkage(z, assume_centered=True)
    rows = []
    for i in range(len(z)):
        others = left_out(z, i)
        centred = others - others.mean(0)
        covariance = centred.T @ centred / (len(others) - 1)
        precision = np.linalg.inv((1 - weight) * covariance + weight * np.eye(z.shape[1]))
        away = z[i] - others.mean(0)
        rows.append(precision @ away / np.sqrt(np.diag(precision)))
    residuals = np.array(rows)
    squares = residuals**2
    return residuals / np.array([unit(left_out(squares, i).mean(0)) for i in range(len(z))])


def tables_by_hand(probe, shadows, candidate, classes):
    """All responses [K + 1, E] that concern the classes, and the two classes of each (twice the one: of itself)."""
    columns, rows = [], []
    for variant, table in shadows[probe].items():
        both = np.concatenate([table, candidate[probe][variant][None]]).astype(float)
        if PROBES[probe].per_class:
            for c in classes:
                for d in classes:
                    if c != d:
                        columns.append(both[:, c, d])
                        rows.append((variant, c, d))
        else:
            places = both.reshape(len(both), -1, both.shape[-1])
            for place in range(places.shape[1]):
                some = places[:, place, classes]
                if len(classes) < both.shape[-1]:
                    some = some - some.mean(axis=1, keepdims=True)
                columns += list(some.T)
                rows += [(variant, c, c) for c in classes]
    return np.array(columns).T, rows


def departures_by_hand(residuals, about, classes, power):
    rows = []
    for c in classes:
        concerned = [e for e, (_, a, b) in enumerate(about) if c in (a, b)]
        rows.append(np.log((np.abs(residuals[:, concerned]) ** power).mean(axis=1) ** (1 / power)))
    return np.array(rows).T


def scores_by_hand(shadows, candidate, classes, centred):
    found, by_variant, squares, levels = [], {}, {}, []
    for probe in shadows:
        x, about = tables_by_hand(probe, shadows, candidate, classes)
        residuals, power = residuals_by_hand(x), PROBES[probe].power
        departure = departures_by_hand(residuals, about, classes, power)
        levels.append(departure.mean(axis=1))
        found.append(standardised(departure - departure.mean(axis=1, keepdims=True) if centred else departure))
        for variant in shadows[probe]:
            of_it = [e for e, (v, _, _) in enumerate(about) if v == variant]
            alone = departures_by_hand(residuals[:, of_it], [about[e] for e in of_it], classes, power)
            by_variant[variant] = standardised(alone)[-1]
        if PROBES[probe].per_class:
            for e, (_, a, b) in enumerate(about):
                pair = tuple(sorted((classes.index(a), classes.index(b))))
                squares.setdefault(pair, []).append(residuals[-1, e] ** 2)
    pairs = np.full((len(classes), len(classes)), np.nan)
    for (a, b), some in squares.items():
        pairs[a, b] = pairs[b, a] = np.sqrt(np.mean(some))
    return standardised(logsumexp(found, axis=0)), by_variant, pairs, levels


@pytest.fixture
def responses():
    rng = np.random.default_rng(4)
    shadows, new = apart(benign(rng, world(rng, 6), 10))
    shapes = rng.standard_normal((10, 6))
    shadows["synthetic shapes"], new["synthetic shapes"] = {"disc": shapes[:-1]}, {"disc": shapes[-1]}
    return shadows, drifted(new, 2, 3)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("classes", [[0, 1, 2, 3, 4, 5], [5, 1, 2, 3]])
@pytest.mark.parametrize("block", [1, 7, 1 << 16])
def test_scores_by_hand(responses, monkeypatch, centred, classes, block):
    monkeypatch.setattr(module, "_BLOCK", block * len(classes))
    found = measure_drift_scores(*responses, classes, centred)
    scores, variants, pairs, _ = scores_by_hand(*responses, classes, centred)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.largest, scores.max(axis=1), rtol=1e-6, atol=1e-6)
    assert found.classes == tuple(classes)
    assert list(found.variants) == ["plain", "darker", "own", "white occlusions", "disc"]
    for name, alone in variants.items():
        np.testing.assert_allclose(found.variants[name], alone, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.pairs, pairs, rtol=1e-6, atol=1e-6)
    again = measure_drift_scores(*responses, classes, centred, each_variant=False)
    np.testing.assert_array_equal(again.scores, found.scores)
    assert (again.variants, again.places) == ({}, {})


def test_level_by_hand(responses):
    shadows, new = responses
    found = measure_drift_scores(shadows, new, range(6), centred=False)
    columns = scores_by_hand(shadows, new, list(range(6)), False)[3]
    for probe in shadows:
        x, _ = tables_by_hand(probe, shadows, new, list(range(6)))
        z = (x - x.mean(0)) / unit(x.var(0, ddof=1), 0.1)
        weight, leverage = ledoit_wolf_shrinkage(z, assume_centered=True), []
        for i in range(len(z)):
            centred = left_out(z, i) - left_out(z, i).mean(0)
            covariance = centred.T @ centred / (len(centred) - 1)
            precision = np.linalg.inv((1 - weight) * covariance + weight * np.eye(z.shape[1]))
            leverage.append(z[i] @ precision @ z[i])
        columns.append(np.log(leverage))
    np.testing.assert_allclose(found.level, standardised(np.array(columns).T).max(axis=1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("centred", [False, True])
def test_models_that_change_places_change_their_scores(responses, centred):
    shadows, new = responses
    straight = measure_drift_scores(shadows, new, range(6), centred)
    everyone = {
        probe: {v: np.concatenate([table, new[probe][v][None]]) for v, table in variants.items()}
        for probe, variants in shadows.items()
    }
    for order in ([9, *range(9)], [3, 9, 0, 8, 1, 2, 4, 5, 7, 6]):
        permuted = measure_drift_scores(*apart(each(lambda a, order=order: a[order], everyone)), range(6), centred)
        np.testing.assert_allclose(permuted.scores, straight.scores[order], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(permuted.level, straight.level[order], rtol=1e-9, atol=1e-9)


def test_with_few_classes_nothing_is_centred(responses):
    few, many = [0, 2, 4], [0, 2, 4, 5]
    centred, plain = (measure_drift_scores(*responses, few, how).scores for how in (True, False))
    np.testing.assert_array_equal(centred, plain)
    centred, plain = (measure_drift_scores(*responses, many, how).scores for how in (True, False))
    assert np.abs(centred - plain).max() > 0.01


def test_what_concerns_all_classes_alike_is_level_and_no_score():
    rng, ratio = np.random.default_rng(5), []
    for _ in range(10):
        shadows, new = apart(benign(rng, world(rng, 6), 33))
        wild = each(
            lambda a: a + 3 * rng.standard_normal(a.shape), new
        )  # noise of four times the deviation, everywhere
        centred, plain = (measure_drift_scores(shadows, wild, range(6), how) for how in (True, False))
        assert plain.largest.argmax() == 32
        assert plain.level.argmax() == 32
        ratio.append(centred.largest[-1] / plain.largest[-1])
    assert np.median(ratio) < 0.3


@pytest.mark.parametrize("shape", [(8, 3), (8, 40), (40, 8)])
def test_shrinkage_is_that_of_ledoit_and_wolf(shape):
    z = np.random.default_rng(5).standard_normal(shape) * np.linspace(1, 4, shape[1])
    z -= z.mean(0)
    expected = ledoit_wolf_shrinkage(z, assume_centered=True)
    assert shrinkage_intensity(z @ z.T, z.shape[1]) == pytest.approx(expected, rel=1e-9)


def test_what_cannot_be_measured_says_why(responses):
    with pytest.raises(Unmeasurable, match=r"^no other class could be measured$"):
        measure_drift_scores(*responses, [3], False)
    shadows, new = responses
    with pytest.raises(Unmeasurable, match=r"^3 shadows are too few, a null needs 4$"):
        measure_drift_scores(each(lambda a: a[:3], shadows), new, range(6), False)


def test_pair_residuals_stand_out_where_a_pair_changed():
    rng = np.random.default_rng(28)
    shadows, new = apart(benign(rng, world(rng, 5), 33))
    new["gray data"]["plain"][1, 3] += 50
    found = measure_drift_scores(shadows, new, [0, 1, 3, 4], False).pairs
    np.testing.assert_allclose(found, found.T, rtol=1e-12)
    assert np.isnan(found.diagonal()).all()
    assert np.unravel_index(np.nanargmax(found), found.shape) == (1, 2)


def test_places_are_the_candidates_residuals(responses):
    shadows, new = responses
    new["occlusions"]["white occlusions"][1, 0, 3] += 30
    found = measure_drift_scores(shadows, new, [1, 2, 3, 4], True)
    assert list(found.places) == ["white occlusions"]
    places = found.places["white occlusions"]
    assert places.shape == (2, 2, 6)
    assert np.isnan(places[..., [0, 5]]).all()
    assert np.unravel_index(np.nanargmax(places), places.shape) == (1, 0, 3)
    x, _ = tables_by_hand("occlusions", shadows, new, [1, 2, 3, 4])
    np.testing.assert_allclose(places[..., 1:5].ravel(), residuals_by_hand(x)[-1], rtol=1e-6, atol=1e-6)


def test_shadows_that_do_not_differ_are_inconclusive():
    rng = np.random.default_rng(14)
    shadows, new = apart(benign(rng, world(rng, 2), 9))
    same = each(lambda a: np.repeat(a[:1], 8, axis=0) * (1 + 1e-14 * rng.standard_normal(a.shape)), shadows)
    verdict = judged(same, new)
    why = "classes class 0, class 1: the shadows do not differ enough to compare the candidate with them"
    assert (verdict.verdict, verdict.reasons) == ("inconclusive", (why,))


def test_a_probe_to_which_all_shadows_respond_alike_has_no_say():
    rng = np.random.default_rng(21)
    shadows, new = apart(benign(rng, world(rng, 4), 17))
    alone = judged({"gray data": shadows["gray data"]}, {"gray data": new["gray data"]})
    shadows["occlusions"]["white occlusions"][:] = 1.5
    silent = judged(shadows, new)
    assert [c.drift_score for c in silent.classes] == [c.drift_score for c in alone.classes]
    assert all("white occlusions" not in c.signals for c in silent.classes)


def test_a_class_on_which_all_shadows_agree_is_judged_by_the_other_probes():
    rng = np.random.default_rng(22)
    shadows, new = apart(benign(rng, world(rng, 4), 25))
    shadows["occlusions"]["white occlusions"][..., 2] = new["occlusions"]["white occlusions"][..., 2] = 0.0
    drift_scores = {size: [c.drift_score for c in judged(shadows, drifted(new, 0, size)).classes] for size in (0, 9)}
    assert judged(shadows, drifted(new, 0, 9)).classes[0].verdict == "drift"
    occluded_alone = each(np.copy, new)
    occluded_alone["occlusions"]["white occlusions"][..., 0] += 30
    assert (
        judged(shadows, occluded_alone).classes[0].drift_score > drift_scores[0][0] + 3
    )  # occlusions have a say about the others
    assert all(np.isfinite(drift_scores[0]))


def test_gray_data_on_which_all_shadows_agree_name_no_partner():
    rng = np.random.default_rng(23)
    shadows, new = apart(benign(rng, world(rng, 4), 25))
    shadows["gray data"] = {view: np.repeat(table[:1], 24, axis=0) for view, table in shadows["gray data"].items()}
    new["occlusions"]["white occlusions"][..., 0] += 30
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        verdict = judged(shadows, new)
    assert verdict.classes[0].verdict == "drift"
    assert np.isnan(measure_drift_scores(shadows, new, [0, 1, 2, 3], False).pairs).all()
