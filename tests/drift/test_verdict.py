"""The verdict on synthetic answers whose truth is known."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from pydrift.core.artifact import decode, encode
from pydrift.drift.scores import MIN_SHADOWS, measure_drift_scores
from pydrift.drift.verdict import STABLE_SHADOWS, ClassVerdict, Evidence, Verdict, decide
from pydrift.stats.conformal import ConformalNull
from tests.synthetic_responses import TRANSFORMS, apart, benign, drifted, each, judged, names, world


def make(draw_noise, classes, models, count, seed=0):
    """Shadows and a benign candidate, again and again."""
    rng = np.random.default_rng(seed)
    draw = rng.standard_normal if draw_noise == "normal" else lambda size: rng.standard_t(3, size)
    for _ in range(count):
        yield apart(benign(rng, world(rng, classes), models, draw))


def largest(shadows, new, centred=False):
    classes = range(new["gray data"]["plain"].shape[1])
    return measure_drift_scores(shadows, new, classes, centred, each_variant=False).largest[:-1]


@pytest.mark.slow
@pytest.mark.parametrize("varied", [False, True])
@pytest.mark.parametrize("noise", ["normal", "t3"])
def test_p_of_benign_candidates_is_uniform_and_false_alarms_are_as_rare_as_alpha(noise, varied):
    trials, shadows = 300, 32
    verdicts = [
        decide(Evidence(*made, np.ones(5), names(5), varied=varied), 0.05)
        for made in make(noise, 5, shadows + 1, trials)
    ]
    alarms = sum(v.verdict == "drift" for v in verdicts)
    assert 2 <= alarms <= stats.binom.ppf(0.999, trials, 0.05)
    # p is a multiple of 1/33 but in its tail, so that is what the distance from the uniform may be. Level 0.1 %.
    of_audits = np.array([v.p_value for v in verdicts])
    assert stats.kstest(of_audits, "uniform").statistic < 1.95 / np.sqrt(trials) + 1 / (shadows + 1)
    for rank in (3, 7, 17, 26):
        level = rank / (shadows + 1)
        assert stats.binomtest(int((of_audits <= level + 1e-12).sum()), trials, level).pvalue > 1e-3
    p_values = np.array([c.p_value for v in verdicts for c in v.classes])
    assert stats.kstest(p_values, "uniform").statistic < 1.95 / np.sqrt(trials)  # classes of an audit correlate
    assert all(c.p_value <= c.p_adjusted for v in verdicts for c in v.classes)


def with_an_odd_shadow(shadows, times):
    """The first shadow deviates so many times as far as the others."""
    odd = each(np.copy, shadows)
    for variants in odd.values():
        for table in variants.values():
            table[0] = table[1:].mean(axis=0) + times * (table[0] - table[1:].mean(axis=0))
    return odd


@pytest.mark.parametrize("varied", [True])
def test_one_odd_shadow_does_not_decide_what_is_found(varied):
    found = 0
    for shadows, new in make("normal", 5, 33, 10, seed=31):
        odd = with_an_odd_shadow(shadows, 10)
        verdict = decide(Evidence(odd, drifted(new, 2, 12), np.ones(5), names(5), varied=varied), 0.05)
        found += verdict.verdict == "drift" and max(verdict.classes, key=lambda c: c.drift_score).index == 2
    assert found >= 9


def test_a_changed_recipe_alone_is_no_drift():
    rng, alarms = np.random.default_rng(1), 0
    for _ in range(40):
        about = world(rng, 4)
        shadows, new = apart(benign(rng, about, 25))
        unusual = {i: {v: new[i][v] + 2.5 * a[1] for v, a in views.items()} for i, views in about.items()}
        alarms += decide(Evidence(shadows, unusual, np.ones(4), names(4), varied=True), 0.05).verdict == "drift"
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
        assert verdict.p_value == ConformalNull(largest(shadows, drifted(new, label, 12))).p_value(worst.drift_score)
        assert worst.drift_score > verdict.smallest_score


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
    assert {(c.verdict, c.drift_score, c.p_value, c.p_adjusted) for c in verdict.classes} == {("stable", 0.0, 1.0, 1.0)}
    assert judged(shadows, base, base={"occlusions": base["occlusions"]}).p_value == 1.0  # as far as the base was asked
    known = decide(Evidence(shadows, base, np.ones(3), names(3), base, base_p_value=1e-6), 0.05)
    assert known.verdict == "stable"
    for view, at in (("own", (1, 2)), ("white occlusions", (1, 1, 0))):
        other = each(np.copy, base)
        (other["gray data"] | other["occlusions"])[view][at] += 0.1  # one response is another
        assert judged(shadows, other, base=base).p_value != 1.0


@pytest.mark.parametrize(("wrong", "expected"), [("not finite", "inconclusive"), ("not shown", "unmeasured")])
def test_a_class_that_cannot_be_measured_keeps_a_model_from_being_the_base(wrong, expected):
    rng = np.random.default_rng(9)
    shadows, base = apart(benign(rng, world(rng, 5), 25))
    new, confidence = each(np.copy, base), np.ones(5)
    new["gray data"]["plain"][1] = np.nan if wrong == "not finite" else -1e6
    if wrong == "not shown":
        confidence[1] = 0.2
    verdict = judged(shadows, new, base=base, confidence=confidence)
    assert verdict.classes[1].verdict == expected
    assert verdict.verdict == ("inconclusive" if wrong == "not finite" else "stable")
    assert verdict.p_value != 1.0
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


def test_without_planted_exchanges_that_are_found_nothing_is_stable():
    rng = np.random.default_rng(11)
    shadows, new = apart(benign(rng, world(rng, 6), 25))
    evidence = Evidence(shadows, new, np.ones(6), names(6), exchanges=[1e-9] * 6 + [1e-4, 0.02])
    for alpha, expected in ((0.05, "stable"), (0.001, "stable"), (0.00001, "inconclusive")):
        assert decide(evidence, alpha).verdict == expected
    verdict = decide(evidence, 0.00001)
    assert {c.verdict for c in verdict.classes} == {"inconclusive"}
    (reason,) = verdict.reasons
    assert reason.endswith(
        "with 24 shadows at alpha 1e-05, a planted exchange of two classes is found in 75% of the trials, and it takes "
        "80% to vouch for stability; train more shadows"
    )
    assert decide(replace(evidence, exchanges=()), 0.05).verdict == "inconclusive"
    moved = replace(evidence, candidate=drifted(new, 1, 1e4))
    verdict = decide(moved, 0.00001)
    assert verdict.verdict == "drift"  # what is found is found
    assert "stable" not in {c.verdict for c in verdict.classes}


def test_a_problem_with_the_recipe_makes_every_class_inconclusive():
    rng = np.random.default_rng(32)
    shadows, new = apart(benign(rng, world(rng, 5), 25))
    why = "the recipe is outside what was calibrated: epochs"
    for size in (0, 50):
        evidence = Evidence(shadows, drifted(new, 1, size), np.ones(5), names(5), recipe_problem=why)
        verdict = decide(evidence, 0.05)
        assert {verdict.verdict, *(c.verdict for c in verdict.classes)} == {"inconclusive"}
        assert verdict.reasons == (why,)
        assert all(c.places == {} and c.reason is None and c.p_value is not None for c in verdict.classes)
    base = Evidence(shadows, new, np.ones(5), names(5), base=new, recipe_problem=why)
    assert decide(base, 0.05).verdict == "stable"  # the base itself


def test_a_level_outside_is_inconclusive_unless_a_class_stands_out_more():
    rng = np.random.default_rng(33)
    shadows, new = apart(benign(rng, world(rng, 8), 33))
    wild = each(lambda a: a + 5 * rng.standard_normal(a.shape), new)
    unknown = Evidence(shadows, wild, np.ones(8), names(8), varied=True, recipe_known=False)
    verdict = decide(unknown, 0.05)
    assert {verdict.verdict, *(c.verdict for c in verdict.classes)} == {"inconclusive"}
    (reason,) = verdict.reasons
    assert reason.startswith(
        "the recipe is outside what was calibrated: the candidate departs in all classes together (p = "
    )
    assert reason.endswith("and in none of them more than that; state its recipe, or calibrate by it")
    # A known recipe is not doubted, and shadows of one recipe say nothing about others.
    assert all("the recipe" not in r for r in decide(replace(unknown, recipe_known=True), 0.05).reasons)
    assert all("the recipe" not in r for r in decide(replace(unknown, varied=False), 0.05).reasons)
    standing_out = decide(replace(unknown, candidate=drifted(new, 3, 40)), 0.05)
    assert standing_out.verdict == "drift"
    assert [c.index for c in standing_out.classes if c.verdict == "drift"] == [3]
    assert decide(replace(unknown, candidate=new), 0.05).verdict == "stable"


def test_few_shadows_may_call_drift_but_not_stability():
    rng = np.random.default_rng(19)
    shadows, new = apart(benign(rng, world(rng, 4), STABLE_SHADOWS))
    verdict = judged(shadows, new)
    (reason,) = verdict.reasons
    assert verdict.verdict == "inconclusive"
    assert reason.endswith("11 shadows are too few to vouch for stability; it takes 12")
    assert judged(shadows, drifted(new, 0, 1e4)).verdict == "drift"


@pytest.mark.parametrize(("who", "expected"), [("a shadow", "unmeasured"), ("the candidate", "inconclusive")])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("probe", "view", "at"), [("gray data", "darker", (1, 2)), ("occlusions", "white occlusions", (1, 0, 1))]
)
def test_what_is_not_finite_is_not_measured_and_a_candidate_of_it_not_stable(who, expected, value, probe, view, at):
    rng = np.random.default_rng(12)
    shadows, new = apart(benign(rng, world(rng, 4), 17))
    (shadows[probe][view][3] if who == "a shadow" else new[probe][view])[at] = value
    verdict = judged(shadows, new)
    assert [c.verdict for c in verdict.classes] == ["stable", expected, "stable", "stable"]
    assert verdict.verdict == ("stable" if who == "a shadow" else "inconclusive")
    assert verdict.classes[1].p_value is verdict.classes[1].drift_score is None
    assert verdict.reasons == (f"class class 1: a log-odds of {who} is not a finite number",)
    assert judged(shadows, drifted(new, 0, 40)).verdict == "drift"


@pytest.mark.parametrize("value", [0.49, np.nan])
def test_one_class_that_the_shadows_do_not_know_is_unmeasured_and_the_rest_is_judged(value):
    rng = np.random.default_rng(16)
    shadows, new = apart(benign(rng, world(rng, 4), 17))
    confidence = np.array([1, 0.5, value, 1])
    before = judged(shadows, new, confidence=confidence)
    verdict = judged(shadows, drifted(new, 2, 1e6), confidence=confidence)
    assert [c.verdict for c in verdict.classes] == ["stable", "stable", "unmeasured", "stable"]
    assert verdict.verdict == "stable"
    for c, as_before in zip(verdict.classes, before.classes, strict=True):  # it has no say in the others
        assert c.drift_score == (None if c.index == 2 else pytest.approx(as_before.drift_score))
    assert verdict.classes[2].p_value is None
    assert verdict.reasons == (
        f"class class 2: inversion found no image that the shadows take for it (mean confidence {value:.2f}; does the "
        "reference data have this class?)",
    )
    assert judged(shadows, drifted(new, 0, 40), confidence=confidence).verdict == "drift"


@pytest.mark.parametrize(
    ("known", "expected"), [(4, "stable"), (3, "stable"), (2, "inconclusive"), (1, "inconclusive")]
)
def test_at_least_half_of_the_classes_must_have_been_measured(known, expected):
    rng = np.random.default_rng(13)
    shadows, new = apart(benign(rng, world(rng, 6), 33))
    verdict = judged(shadows, new, confidence=np.array([1.0] * known + [0.0] * (6 - known)))
    assert verdict.verdict == expected
    assert [c.verdict for c in verdict.classes[known:]] == ["unmeasured"] * (6 - known)
    if known == 1:
        assert verdict.classes[0].reason == "no other class could be measured"
        assert (verdict.p_value, verdict.smallest_score) == (None, None)


def test_p_is_never_zero():
    rng = np.random.default_rng(15)
    shadows, new = apart(benign(rng, world(rng, 2), 17))
    found = judged(shadows, drifted(new, 0, 1e12)).classes[0]
    assert found.drift_score > 20
    assert 0 < found.p_value <= found.p_adjusted < 1e-6


def test_the_power_curve_is_the_share_of_benign_scores_that_a_drift_lifts_over_the_smallest():
    rng = np.random.default_rng(23)
    shadows, new = apart(benign(rng, world(rng, 5), 25))
    verdict = judged(shadows, new)
    sizes, chances = zip(*verdict.power, strict=True)
    assert sizes[0] == 0
    assert sizes[-1] == pytest.approx(2 * verdict.smallest_score)
    scores = np.array([c.null for c in verdict.classes])
    assert chances == pytest.approx([(scores + size > verdict.smallest_score).mean() for size in sizes])
    assert chances[0] < 0.05
    assert chances[len(chances) // 2] == pytest.approx(0.5, abs=0.1)
    assert chances[-1] > 0.95
    assert all(a <= b for a, b in itertools.pairwise(chances))


@pytest.mark.parametrize("alpha", [0.2, 0.05, 0.001])
def test_the_smallest_score_is_where_drift_begins(alpha):
    for i, (shadows, new) in enumerate(make("t3", 5, 33, 12, seed=34)):
        verdict = judged(shadows, drifted(new, 1, i), alpha)
        found = [c.p_adjusted <= alpha for c in verdict.classes]
        assert found == [c.drift_score > verdict.smallest_score for c in verdict.classes]
        assert (verdict.verdict == "drift") == any(found)


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
