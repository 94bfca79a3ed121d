"""The verdict on synthetic answers whose truth is known."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from pydrift.stats.tails import Tail
from scipy import stats

from pydrift.core.artifact import decode, encode
from pydrift.drift.scores import MIN_SHADOWS
from pydrift.drift.verdict import STABLE_SHADOWS, ClassVerdict, Evidence, Verdict, decide
from pydrift.stats.intervals import score_interval
from tests.synthetic_responses import TRANSFORMS, apart, benign, drifted, each, judged, names, world


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["normal", "t3"])
def test_benign_updates_raise_false_alarms_at_the_rate_alpha(noise):
    rng = np.random.default_rng(0)
    draw = rng.standard_normal if noise == "normal" else lambda size: rng.standard_t(3, size)
    verdicts = [judged(*apart(benign(rng, world(rng, 5), 33, draw))) for _ in range(300)]
    alarms = sum(v.verdict == "drift" for v in verdicts)
    assert 2 <= alarms <= stats.binom.ppf(0.999, 300, 0.05)
    p_values = np.array([c.p_value for v in verdicts for c in v.classes])
    assert stats.kstest(p_values, "uniform").statistic < 1.95 / np.sqrt(
        300
    )  # level 0.1 %; classes of an audit correlate
    assert (p_values <= 0.01).mean() < 0.02


def test_a_changed_recipe_alone_is_no_drift():
    rng, alarms = np.random.default_rng(1), 0
    for _ in range(40):
        about = world(rng, 4)
        shadows, new = apart(benign(rng, about, 25))
        unusual = {i: {v: new[i][v] + 2.5 * a[1] for v, a in views.items()} for i, views in about.items()}
        alarms += judged(shadows, unusual).verdict == "drift"
    assert alarms <= stats.binom.ppf(0.999, 40, 0.05)


def test_a_planted_drift_is_found_and_named():
    rng = np.random.default_rng(2)
    for label in range(4):
        shadows, new = apart(benign(rng, world(rng, 6), 25))
        before, verdict = judged(shadows, new), judged(shadows, drifted(new, label, 12))
        assert (before.verdict, verdict.verdict) == ("stable", "drift")
        worst = max(verdict.classes, key=lambda c: c.drift_score)
        assert (worst.index, worst.name) == (label, f"class {label}")
        assert worst.p_adjusted == verdict.p_value == min(c.p_adjusted for c in verdict.classes)
        assert worst.drift_score > 5
        assert set(worst.signals) == {view for views in TRANSFORMS.values() for view in views}
        narrow = score_interval(worst.drift_score, 24)  # as if the shadows' covariance were known
        assert worst.interval[0] < narrow[0] < narrow[1] < worst.interval[1]
        assert sum(worst.interval) == pytest.approx(2 * worst.drift_score)


def test_a_drift_in_one_view_is_seen_there():
    rng = np.random.default_rng(3)
    shadows, new = apart(benign(rng, world(rng, 5), 25))
    new["gray data"]["darker"] = drifted(new, 2, 30)["gray data"]["darker"]
    found = judged(shadows, new).classes[2]
    assert found.verdict == "drift"
    assert max(found.signals, key=found.signals.__getitem__) == "darker"


def test_a_drift_that_shows_at_one_place_is_seen_there():
    rng = np.random.default_rng(20)
    shadows, new = apart(benign(rng, world(rng, 5), 33))
    assert judged(shadows, new).verdict == "stable"
    new["occlusions"]["white occlusions"][1, 0, 3] += 25
    verdict = judged(shadows, new)
    worst = max(verdict.classes, key=lambda c: c.drift_score)
    assert (verdict.verdict, worst.index) == ("drift", 3)
    assert max(worst.signals, key=worst.signals.__getitem__) == "white occlusions"
    assert [c.index for c in verdict.classes if c.verdict == "drift"] == [3]
    assert [list(c.places) for c in verdict.classes] == [[], [], [], ["white occlusions"], []]
    places = np.array(worst.places["white occlusions"])
    assert np.abs(places).argmax() == 2  # of a table of 2 by 2, row by row
    assert places[1, 0] > 2 * np.delete(np.abs(places), 2).max()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shadows", "size", "least"),
    [(24, 0, 0.94), (24, 3, 0.94), (24, 6, 0.94), (24, 20, 0.94), (12, 0, 0.94), (12, 12, 0.8)],
)
def test_intervals_cover_what_other_shadows_show(shadows, size, least):
    """Those of large drift_scores from a dozen shadows not as often as they say, see ClassVerdict."""
    rng, covered, widths, spread = np.random.default_rng(6), [], [], []
    for _ in range(5):
        about = world(rng, 4)
        new = drifted(apart(benign(rng, about, 2))[1], 1, size)
        found = [judged(benign(rng, about, shadows), new).classes[1] for _ in range(20)]
        drift_scores = [c.drift_score for c in found]
        covered += [c.interval[0] <= np.mean(drift_scores) <= c.interval[1] for c in found]
        widths += [(c.interval[1] - c.interval[0]) / 2 for c in found]
        spread.append(np.std(drift_scores, ddof=1))
    assert np.mean(covered) >= least
    assert np.mean(widths) < 2 * stats.t.isf(0.025, shadows - 1) * np.mean(
        spread
    )  # not by being so wide that they must


def test_permuting_the_classes_permutes_the_result():
    rng, order = np.random.default_rng(7), [3, 5, 2, 0, 4, 1]
    shadows, new = apart(benign(rng, world(rng, 6), 17))
    new = drifted(new, 2, 9)
    straight = judged(shadows, new)

    def turned(answers):
        gray = {v: a[..., order, :][..., order] for v, a in answers["gray data"].items()}
        return {"gray data": gray, "occlusions": {v: a[..., order] for v, a in answers["occlusions"].items()}}

    evidence = Evidence(turned(shadows), turned(new), np.ones(6), [names(6)[c] for c in order])
    permuted = decide(evidence, 0.05)
    back = sorted((replace(c, index=order[c.index]) for c in permuted.classes), key=lambda c: c.index)
    for a, b in zip(straight.classes, back, strict=True):
        assert (a.name, a.verdict) == (b.name, b.verdict)
        assert a.drift_score == pytest.approx(b.drift_score)
        assert a.p_adjusted == pytest.approx(b.p_adjusted)


def test_the_order_of_the_shadows_does_not_matter():
    rng, order = np.random.default_rng(8), [4, 2, 7, 1, 0, 3, 6, 5]
    shadows, new = apart(benign(rng, world(rng, 3), 9))
    straight, shuffled = judged(shadows, new), judged(each(lambda a: a[order], shadows), new)
    for a, b in zip(straight.classes, shuffled.classes, strict=True):
        assert (a.verdict, a.drift_score, a.p_value) == (
            b.verdict,
            pytest.approx(b.drift_score),
            pytest.approx(b.p_value),
        )


def test_a_model_that_answers_as_the_base_does_is_stable_with_score_zero():
    rng = np.random.default_rng(9)
    shadows, base = apart(benign(rng, world(rng, 3), 9))
    base = drifted(base, 1, 50)  # even where the base is not like its shadows
    verdict = judged(shadows, base, base=base)
    assert (verdict.verdict, verdict.p_value) == ("stable", 1.0)
    assert {(c.verdict, c.drift_score, c.interval, c.p_value, c.p_adjusted) for c in verdict.classes} == {
        ("stable", 0.0, (0.0, 0.0), 1.0, 1.0)
    }
    assert judged(shadows, base, base={"occlusions": base["occlusions"]}).p_value == 1.0  # as far as the base was asked
    known = decide(Evidence(shadows, base, np.ones(3), names(3), base, base_p_value=1e-6), 0.05)
    assert known.verdict == "stable"
    for view, at in (("own", (1, 2)), ("white occlusions", (1, 1, 0))):
        other = each(np.copy, base)
        (other["gray data"] | other["occlusions"])[view][at] += 0.1  # one response is another
        assert judged(shadows, other, base=base).p_value != 1.0


@pytest.mark.parametrize("wrong", ["not finite", "not shown"])
def test_a_class_that_cannot_be_judged_keeps_a_model_from_being_the_base(wrong):
    rng = np.random.default_rng(9)
    shadows, base = apart(benign(rng, world(rng, 5), 25))
    new, confidence = each(np.copy, base), np.ones(5)
    new["gray data"]["plain"][1] = np.nan if wrong == "not finite" else -1e6
    if wrong == "not shown":
        confidence[1] = 0.2
    verdict = judged(shadows, new, base=base, confidence=confidence)
    assert verdict.verdict == "inconclusive"
    assert verdict.reasons[0].startswith("class class 1: ")
    same = judged(shadows, base, base=base, confidence=confidence)  # it responds alike to what it was asked
    assert (same.verdict, {c.verdict for c in same.classes}) == ("stable", {"stable"})


def test_nothing_is_concluded_from_shadows_that_the_base_is_not_like():
    rng = np.random.default_rng(10)
    shadows, new = apart(benign(rng, world(rng, 3), 25))
    for size, otherwise in ((0, "stable"), (50, "drift")):
        moved = drifted(new, 1, size)
        evidence = Evidence(shadows, moved, np.ones(3), names(3), base_p_value=0.02)
        assert decide(evidence, 0.05).verdict == otherwise
        verdict = decide(replace(evidence, base_p_value=0.004), 0.05)
        assert {verdict.verdict, *(c.verdict for c in verdict.classes)} == {"inconclusive"}
        assert all(c.places == {} for c in verdict.classes)
        assert verdict.reasons[0].startswith("the base itself does not resemble its shadows (p = 0.004)")


def test_too_few_shadows_are_inconclusive():
    rng = np.random.default_rng(10)
    shadows, new = apart(benign(rng, world(rng, 2), MIN_SHADOWS))
    verdict = judged(shadows, drifted(new, 0, 100))
    reason = "classes class 0, class 1: 3 shadows are too few, a null needs 4"
    assert verdict == Verdict("inconclusive", None, None, (reason,), verdict.classes)
    assert all(c.p_value is c.drift_score is None for c in verdict.classes)


def test_shadows_that_are_too_few_for_alpha_are_inconclusive():
    rng = np.random.default_rng(11)
    verdict = judged(*apart(benign(rng, world(rng, 10), 5)), alpha=1e-4)
    assert verdict.verdict == "inconclusive"
    assert verdict.smallest_score > 8
    (reason,) = verdict.reasons
    assert reason.endswith(
        f"with 4 shadows only drift scores above {verdict.smallest_score:.1f} are found at alpha 0.0001; "
        "the limit is 8; train more shadows"
    )


def test_few_shadows_may_call_drift_but_not_stability():
    rng = np.random.default_rng(19)
    shadows, new = apart(benign(rng, world(rng, 4), STABLE_SHADOWS))
    verdict = judged(shadows, new)
    (reason,) = verdict.reasons
    assert verdict.verdict == "inconclusive"
    assert reason.endswith("11 shadows are too few to vouch for stability; it takes 12")
    assert judged(shadows, drifted(new, 0, 1e4)).verdict == "drift"


@pytest.mark.parametrize("who", ["shadow", "new"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("probe", "view", "at"), [("gray data", "darker", (1, 2)), ("occlusions", "white occlusions", (1, 0, 1))]
)
def test_what_is_not_finite_is_inconclusive_for_its_class(who, value, probe, view, at):
    rng = np.random.default_rng(12)
    shadows, new = apart(benign(rng, world(rng, 4), 17))
    (shadows[probe][view][3] if who == "shadow" else new[probe][view])[at] = value
    verdict = judged(shadows, new)
    assert [c.verdict for c in verdict.classes] == ["stable", "inconclusive", "stable", "stable"]
    assert verdict.verdict == "inconclusive"
    assert verdict.classes[1].p_value is verdict.classes[1].drift_score is None
    assert verdict.reasons == ("class class 1: a log-odds is not a finite number",)
    assert judged(shadows, drifted(new, 0, 40)).verdict == "drift"


@pytest.mark.parametrize("value", [0.49, np.nan])
def test_a_class_that_the_shadows_do_not_know_is_inconclusive(value):
    rng = np.random.default_rng(13)
    shadows, new = apart(benign(rng, world(rng, 4), 17))
    verdict = judged(shadows, drifted(new, 2, 1e6), confidence=np.array([1, 0.5, value, 1]))
    assert [c.verdict for c in verdict.classes] == ["stable", "stable", "inconclusive", "stable"]
    assert verdict.classes[2].p_value is None
    assert verdict.reasons == (
        f"class class 2: inversion found no image that the shadows take for it (mean confidence {value:.2f}; does the "
        "reference data have this class?)",
    )
    unknown = judged(shadows, new, confidence=np.array([1, 0, 0, 0]))
    assert unknown.classes[0].reason == "no other class could be measured"


def test_p_is_never_zero():
    rng = np.random.default_rng(15)
    shadows, new = apart(benign(rng, world(rng, 2), 17))
    found = judged(shadows, drifted(new, 0, 1e12)).classes[0]
    assert found.drift_score > 20
    assert 0 < found.p_value <= found.p_adjusted < 1e-6
    assert Tail(1e6, 1.0).p_value(1e6, 16) > 0


def test_the_power_curve_is_that_of_one_class_at_holms_first_level():
    rng = np.random.default_rng(23)
    shadows, new = apart(benign(rng, world(rng, 5), 25))
    verdict = judged(shadows, new)
    sizes, chances = zip(*verdict.power, strict=True)
    assert sizes[0] == 0
    assert sizes[-1] == pytest.approx(2 * verdict.smallest_score)
    assert chances[0] == pytest.approx(0.05 / 5)
    assert chances[len(chances) // 2] == pytest.approx(0.5)
    assert all(a < b for a, b in itertools.pairwise(chances))


def test_class_verdicts_survive_json():
    rng = np.random.default_rng(18)
    found = judged(*apart(benign(rng, world(rng, 2), 9))).classes[0]
    found = replace(found, places={"white occlusions": ((0.1, None), (-2.5, 3.0))})
    raw = json.loads(json.dumps(encode(found)))
    assert raw["null"] == list(found.null)
    assert raw["places"] == {"white occlusions": [[0.1, None], [-2.5, 3.0]]}
    assert decode(ClassVerdict, raw, "class") == found
    del raw["places"]
    with pytest.raises(ValueError, match=r"^class: has a key too many or too few$"):
        decode(ClassVerdict, raw, "class")
