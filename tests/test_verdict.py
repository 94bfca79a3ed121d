"""The verdict on synthetic recognitions whose truth is known."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from pydrift.verdict import (
    DIRECTIONS,
    MIN_SHADOWS,
    ClassVerdict,
    Tail,
    Verdict,
    effect_interval,
    fit_tail,
    holm,
    judge,
)

NOISE = 0.5


def parts(rng, shadows, classes, draw=None):
    """How recognisable each model's gray data is, how keen each observer is, and noise."""
    draw, models = draw or rng.standard_normal, shadows + 2
    source, observer = draw(size=(1, models, classes)), draw(size=(models, 1, classes))
    return source, observer, NOISE * draw(size=(models, models, classes))


def benign(*args):
    """Recognition of exchangeable models."""
    return 5 + sum(parts(*args))


def drifted(recognition, label, shift):
    """The new model's gray data of `label`, and its eyes for that of others, are worse by `shift`."""
    changed = recognition.copy()
    changed[:, -1, label] -= shift
    changed[-1, :, label] -= shift
    return changed


def names(classes):
    return [f"class {c}" for c in range(classes)]


def judged(recognition, alpha=0.05, confidence=None):
    models, _, classes = recognition.shape
    return judge(recognition, np.ones((models, classes)) if confidence is None else confidence, names(classes), alpha)


@pytest.mark.parametrize("noise", ["normal", "t3"])
def test_benign_successors_raise_false_alarms_at_the_rate_alpha(noise):
    rng = np.random.default_rng(0)
    draw = rng.standard_normal if noise == "normal" else lambda size: rng.standard_t(3, size)
    verdicts = [judged(benign(rng, 8, 5, draw)) for _ in range(400)]
    alarms = sum(v.verdict == "drift" for v in verdicts)
    assert 2 <= alarms <= stats.binom.ppf(0.999, 400, 0.05)
    p_values = np.array([c.p_value for v in verdicts for c in v.classes])
    assert 0.02 < (p_values <= 0.05).mean() < 0.06
    assert (p_values <= 0.01).mean() < 0.02


def true_effect(observer, noise):
    """How far the new model's eyes for one class are from all benign models that there could be."""
    alone, averaged = 1 / np.sqrt(1 + NOISE**2) / 2, 1 / np.sqrt(1 + NOISE**2 / 15) / 2
    figures = alone * (observer[-1] + noise[-1, 0]) + averaged * (observer[-1] + noise[-1, 1:-1].mean())
    return float(figures / np.sqrt((alone + averaged) ** 2 + NOISE**2 * (alone**2 + averaged**2 / 15)))


@pytest.mark.parametrize("shift", [0, 4, 12])
def test_effect_has_the_right_size_and_its_interval_covers_it(shift):
    rng, truths, effects = np.random.default_rng(1), [], []
    for _ in range(250):
        source, observer, noise = parts(rng, 16, 1)
        observer[-1] -= shift
        truths.append(true_effect(observer[:, 0, 0], noise[..., 0]))
        effects.append(judged(5 + source + observer + noise).classes[0].signals["new_sees_benign"])
    differences = np.subtract(effects, truths)
    assert np.median(differences) == pytest.approx(0, abs=0.1 + 0.1 * abs(np.mean(truths)))
    intervals = np.array([effect_interval(effect, 16) for effect in effects])
    assert 0.9 <= np.mean((intervals[:, 0] <= truths) & (truths <= intervals[:, 1])) <= 0.99


def test_a_planted_drift_is_found_and_named():
    rng = np.random.default_rng(2)
    for label in range(4):
        verdict = judged(drifted(benign(rng, 16, 4), label, 12))
        assert verdict.verdict == "drift"
        assert [c.verdict for c in verdict.classes].index("drift") == label
        worst = min(verdict.classes, key=lambda c: c.effect)
        assert (worst.index, worst.name) == (label, f"class {label}")
        assert worst.p_adjusted == verdict.p_value == min(c.p_adjusted for c in verdict.classes)
        assert all(value < -4 for value in worst.signals.values())
        assert worst.effect == worst.signals[worst.direction]


def test_a_better_recognised_model_has_not_drifted():
    verdict = judged(drifted(benign(np.random.default_rng(3), 16, 3), 1, -12))
    assert verdict.verdict == "stable"
    assert verdict.classes[1].effect > 5
    assert verdict.classes[1].p_value == 1


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_each_direction_alone_is_enough(direction):
    recognition = benign(np.random.default_rng(4), 8, 2)
    seen = recognition if direction == "new_sees_benign" else recognition.swapaxes(0, 1)
    before = judged(recognition).classes[1]
    seen[-1, :-1, 1] -= 40
    after = judged(recognition).classes[1]
    assert (after.verdict, after.direction) == ("drift", direction)
    assert after.effect == after.signals[direction] < before.signals[direction] - 5
    assert after.interval == effect_interval(after.effect, 8)
    (other,) = set(DIRECTIONS) - {direction}
    assert after.signals[other] == before.signals[other]


def test_effect_and_null_by_hand():
    recognition = benign(np.random.default_rng(5), 5, 1)
    found = judged(recognition).classes[0]

    def effect(seen, candidate, shadows):
        def two(m):
            return [seen[m, 0], np.mean([seen[m, s] for s in shadows if s != m])]

        null = np.array([two(k) for k in shadows])
        standard = (null - null.mean(0)) / null.std(0, ddof=1)
        score = ((two(candidate) - null.mean(0)) / null.std(0, ddof=1)).mean()
        return (score - standard.mean(1).mean()) / standard.mean(1).std(ddof=1)

    shadows = [1, 2, 3, 4, 5]
    planes = dict(zip(DIRECTIONS, (recognition[..., 0], recognition[..., 0].T), strict=True))
    assert found.signals == pytest.approx({d: effect(seen, 6, shadows) for d, seen in planes.items()}, rel=1e-9)
    leave_one_out = [effect(planes[found.direction], k, [s for s in shadows if s != k]) for k in shadows]
    assert found.null == pytest.approx(leave_one_out, rel=1e-9)


def test_permuting_the_classes_permutes_the_result():
    recognition, order = drifted(benign(np.random.default_rng(6), 8, 6), 2, 9), [3, 5, 2, 0, 4, 1]
    straight = judged(recognition)
    permuted = judge(recognition[..., order], np.ones((10, 6)), [names(6)[c] for c in order], 0.05)
    back = sorted((replace(c, index=order[c.index]) for c in permuted.classes), key=lambda c: c.index)
    assert tuple(back) == straight.classes
    assert replace(permuted, classes=()) == replace(straight, classes=())


def test_the_order_of_the_shadows_does_not_matter():
    recognition = drifted(benign(np.random.default_rng(7), 8, 3), 1, 4)
    order = [0, 4, 2, 8, 1, 7, 3, 6, 5, 9]
    straight, shuffled = judged(recognition), judged(recognition[np.ix_(order, order)])
    for a, b in zip(straight.classes, shuffled.classes, strict=True):
        assert (a.verdict, a.effect, a.p_value) == (b.verdict, pytest.approx(b.effect), pytest.approx(b.p_value))


def test_the_same_model_twice_is_stable_with_effect_zero():
    recognition = benign(np.random.default_rng(8), 8, 3)
    recognition[:, -1], recognition[-1] = recognition[:, 0], recognition[0]
    recognition[-1, -1] = recognition[-1, 0] = recognition[0, -1] = recognition[0, 0]
    verdict = judged(recognition)
    assert (verdict.verdict, verdict.p_value) == ("stable", 1.0)
    assert {(c.verdict, c.effect, c.interval, c.p_value, c.p_adjusted) for c in verdict.classes} == {
        ("stable", 0.0, (0.0, 0.0), 1.0, 1.0)
    }
    recognition[-1, 3, 1] += 0.1  # one answer in one class is another
    assert judged(recognition).p_value != 1.0


def test_too_few_shadows_are_inconclusive():
    verdict = judged(drifted(benign(np.random.default_rng(9), MIN_SHADOWS - 1, 2), 0, 100))
    assert verdict == Verdict(
        "inconclusive",
        None,
        None,
        ("classes class 0, class 1: 3 of 3 shadows are too few, a null needs 4",),
        verdict.classes,
    )
    assert all(c.p_value is c.effect is None for c in verdict.classes)


def test_shadows_that_are_too_few_for_alpha_are_inconclusive():
    verdict = judged(benign(np.random.default_rng(10), 4, 10), alpha=1e-4)
    assert verdict.verdict == "inconclusive"
    assert verdict.smallest_effect > 8
    (reason,) = verdict.reasons
    assert reason.endswith(
        f"4 shadows can only be sure of effects beyond {verdict.smallest_effect:.1f} null deviations at alpha 0.0001, "
        "the limit is 8; train more shadows"
    )


@pytest.mark.parametrize("model", [0, 3, -1], ids=["base", "shadow", "new"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_inconclusive_for_its_class(model, value):
    recognition = benign(np.random.default_rng(11), 8, 3)
    recognition[model, 2, 1] = value
    verdict = judged(recognition)
    assert [c.verdict for c in verdict.classes] == ["stable", "inconclusive", "stable"]
    assert verdict.verdict == "inconclusive"
    assert verdict.classes[1].p_value is verdict.classes[1].effect is None
    assert verdict.reasons == ("class class 1: a logit margin is not a finite number",)
    assert judged(drifted(recognition, 0, 20)).verdict == "drift"


@pytest.mark.parametrize(("model", "who"), [(0, "base"), (-1, "new model")])
@pytest.mark.parametrize("value", [0.49, np.nan])
def test_a_failed_inversion_is_inconclusive_for_its_class(model, who, value):
    recognition, confidence = benign(np.random.default_rng(12), 8, 3), np.full((10, 3), 0.5)
    confidence[model, 2] = value
    verdict = judged(recognition, confidence=confidence)
    assert [c.verdict for c in verdict.classes] == ["stable", "stable", "inconclusive"]
    assert verdict.classes[2].p_value is None
    assert verdict.reasons == (
        f"class class 2: inversion found no image that the {who} takes for it (mean confidence {value:.2f})",
    )


def test_shadows_whose_inversion_failed_are_left_out_of_their_class():
    recognition, confidence = benign(np.random.default_rng(13), 8, 2), np.ones((10, 2))
    confidence[[2, 5], 1] = 0.1
    recognition[[2, 5], :, 1] = recognition[:, [2, 5], 1] = np.nan
    found = judged(recognition, confidence=confidence).classes
    assert [len(c.null) for c in found] == [8, 6]
    kept = [0, 1, 3, 4, 6, 7, 8, 9]
    assert found[1].effect == judged(recognition[np.ix_(kept, kept)]).classes[1].effect


@pytest.mark.parametrize("spread", [0, 1e-14])
@pytest.mark.parametrize("others", [0, 1], ids=["all the same", "all but one the same"])
def test_shadows_that_do_not_differ_are_inconclusive(spread, others):
    rng = np.random.default_rng(14)
    recognition = benign(rng, 8, 2)
    same = 0.1 + spread * rng.standard_normal((10 - others, 10 - others))
    recognition[others:-1, others:-1, 0] = same[: 9 - others, : 9 - others]
    recognition[0, 1:-1, 0], recognition[1:-1, 0, 0] = 0.1, 0.1
    if others:
        recognition[1, :, 0], recognition[:, 1, 0] = 7.0, 7.0
    verdict = judged(recognition)
    assert [c.verdict for c in verdict.classes] == ["inconclusive", "stable"]
    assert verdict.reasons == ("class class 0: the shadows do not differ enough to hold the new model against them",)


def test_p_is_never_zero():
    found = judged(drifted(benign(np.random.default_rng(15), 16, 2), 0, 1e6)).classes[0]
    assert found.effect < -1e5
    assert 0 < found.p_value <= found.p_adjusted < 1e-10
    assert Tail(1e6, 1.0).p_value(-1e6, 16) > 0


def test_tail_is_student_t_of_a_prediction():
    tail = Tail(7.0, 1.5)
    assert tail.p_value(-4, 8) == pytest.approx(stats.t.cdf(-4 / 1.5 / np.sqrt(9 / 8), 7))
    assert tail.p_value(0, 8) == 0.5
    assert tail.p_value(-tail.smallest_effect(0.01, 8), 8) == pytest.approx(0.01)
    assert tail.smallest_effect(0.01, 8) > tail.smallest_effect(0.05, 8) > 0


@pytest.mark.parametrize("degrees", [2, 5, 1000])
def test_fitted_tail_finds_the_degrees_and_stays_in_its_bounds(degrees):
    rng = np.random.default_rng(16)
    null = [np.sqrt(1 + 1 / 15) * rng.standard_t(degrees, 16) for _ in range(200)]
    tail = fit_tail(null)
    assert tail.degrees == pytest.approx(min(degrees, 15), rel=0.2)
    assert tail.scale == pytest.approx(1, abs=0.1)
    assert fit_tail([3 * n for n in null]).scale == pytest.approx(3, rel=0.15)
    narrow = fit_tail([0.01 * n for n in null])
    assert narrow.scale == pytest.approx(1)  # never more confident than normal theory
    assert fit_tail([n[:4] for n in null]).degrees <= 3 + 1e-9


def test_holm_is_the_smallest_level_at_which_closed_bonferroni_rejects():
    rng = np.random.default_rng(17)
    for _ in range(50):
        p = rng.random(5) ** 3
        subsets = [s for size in range(1, 6) for s in itertools.combinations(range(5), size)]
        closed = [max(min(1, len(s) * p[list(s)].min()) for s in subsets if i in s) for i in range(5)]
        assert holm(p) == pytest.approx(closed)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]


def test_effect_interval_by_hand():
    low, high = effect_interval(-4.0, 9)
    half = 2.306004 * np.sqrt(1 / 9 + 16 / 16)
    assert (low, high) == (pytest.approx(-4 - half, rel=1e-6), pytest.approx(-4 + half, rel=1e-6))
    narrow = effect_interval(-4.0, 9, level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_class_verdicts_survive_json():
    found = judged(benign(np.random.default_rng(18), 8, 1)).classes[0]
    raw = {**vars(found), "null": list(found.null), "interval": list(found.interval)}
    assert ClassVerdict.from_dict(raw) == found
