"""Drift scores: the statistics by hand."""

import warnings

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf_shrinkage

from pydrift.drift.scores import _residuals, pair_residuals, shrinkage_intensity
from pydrift.stats.intervals import score_interval
from tests.synthetic_responses import PLACES, apart, benign, drifted, each, judged, world


def test_pair_residuals_are_root_mean_squares_of_their_residuals():
    rng = np.random.default_rng(28)
    shadows, new = apart(benign(rng, world(rng, 5), 33))
    new["gray data"]["plain"][1, 3] += 50
    found = pair_residuals(shadows, new, [0, 1, 3, 4])
    assert found.shape == (4, 4)
    np.testing.assert_array_equal(found, found.T)
    assert np.isnan(found.diagonal()).all()
    assert np.unravel_index(np.nanargmax(found), found.shape) == (1, 2)
    # Of two classes alone, the pair's two entries are all that there is.
    first, second = np.array([[1, 3], [3, 1]])
    x = np.concatenate([a[:, first, second] for a in shadows["gray data"].values()], axis=1)
    y = np.concatenate([a[first, second] for a in new["gray data"].values()])
    residuals = _residuals(x, y).candidate
    alone = pair_residuals(shadows, new, [1, 3])
    assert alone[0, 1] == pytest.approx(np.sqrt((residuals**2).mean()), rel=1e-9)


def test_score_and_null_by_hand():
    rng = np.random.default_rng(4)
    shadows, new = apart(benign(rng, world(rng, 3), 7))
    found = judged(shadows, new).classes[1]
    off = ~np.eye(3, dtype=bool)

    def concerned(label):
        pairs = np.tile([label in (c, d) for c in range(3) for d in range(3) if c != d], 3)
        return {"gray data": pairs, "occlusions": np.tile(np.arange(3) == label, 4)}

    def unit(variance, pooled=0.5):
        return np.sqrt((1 - pooled) * variance + pooled * variance.mean())

    def residual(sample, point):
        deviation = unit(sample.var(0, ddof=1), 0.1)
        z = (sample - sample.mean(0)) / deviation
        covariance, weight = z.T @ z / (len(z) - 1), ledoit_wolf_shrinkage(z, assume_centered=True)
        precision = np.linalg.inv((1 - weight) * covariance + weight * np.eye(z.shape[1]))
        # Without the factor that all entries share, which the division by the shadows' residuals takes out.
        return precision @ ((point - sample.mean(0)) / deviation) / np.sqrt(np.diag(precision)) * np.sqrt(weight)

    def log_mean_residual(point, others, entries, power):
        return np.log((np.abs(point / unit((others**2).mean(0)))[entries] ** power).mean() ** (1 / power))

    def drift_score(sample, value):
        return (value - sample.mean(0)) / unit(sample.var(0, ddof=1))

    def held_out(values):
        return np.array([drift_score(np.delete(values, k, 0), values[k]) for k in range(6)])

    drift_scores, nulls, without = [], [], []
    for probe, power in (("gray data", 2), ("occlusions", 4)):
        chosen = off if probe == "gray data" else np.ones((*PLACES, 3), bool)
        x = np.concatenate([a[:, chosen] for a in shadows[probe].values()], axis=1)
        y = np.concatenate([a[chosen] for a in new[probe].values()])
        apart_from = np.array([residual(np.delete(x, k, 0), x[k]) for k in range(6)])
        entries = [concerned(c)[probe] for c in range(3)]
        residual_sizes = [
            [log_mean_residual(apart_from[k], np.delete(apart_from, k, 0), e, power) for e in entries] for k in range(6)
        ]
        mine = np.array([log_mean_residual(residual(x, y), apart_from, e, power) for e in entries])
        drift_scores.append(drift_score(np.array(residual_sizes), mine))
        nulls.append(held_out(np.array(residual_sizes)))
        fewer = [residual(np.delete(x, k, 0), y) for k in range(6)]  # all else is as with all shadows
        mine = np.array([[log_mean_residual(part, apart_from, e, power) for e in entries] for part in fewer])
        without.append(drift_score(np.array(residual_sizes), mine))
    worst, worst_null = np.max(drift_scores, axis=0), np.max(nulls, axis=0)
    assert found.drift_score == pytest.approx(drift_score(worst_null, worst)[1], rel=1e-6)
    assert found.null == pytest.approx(held_out(worst_null)[:, 1], rel=1e-6)
    jackknife = drift_score(worst_null, np.max(without, axis=0))[:, 1]
    error = np.sqrt(5 / 6 * ((jackknife - jackknife.mean()) ** 2).sum())
    assert found.interval == pytest.approx(score_interval(found.drift_score, 6, error), rel=1e-6)
    assert found.signals.keys() == {"plain", "darker", "own", "white occlusions"}
    assert found.signals["white occlusions"] == pytest.approx(drift_scores[1][1], rel=1e-6)


@pytest.mark.parametrize("shape", [(8, 3), (8, 40), (40, 8)])
def test_shrinkage_is_that_of_ledoit_and_wolf(shape):
    z = np.random.default_rng(5).standard_normal(shape) * np.linspace(1, 4, shape[1])
    z -= z.mean(0)
    expected = ledoit_wolf_shrinkage(z, assume_centered=True)
    assert shrinkage_intensity(z @ z.T, z.shape[1]) == pytest.approx(expected, rel=1e-9)


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
    assert np.isnan(pair_residuals(shadows, new, [0, 1, 2, 3])).all()
