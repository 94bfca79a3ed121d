"""Each attack against a slow reference written from its paper's formula, and the properties that are easily lost."""

from dataclasses import replace
from decimal import Decimal, localcontext

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.neural_network import MLPClassifier

from pydrift import UsageError
from pydrift.membership import ATTACKS, select_attacks
from pydrift.membership.attacks.attack_r import LARGEST_LOSS
from pydrift.membership.attacks.boundary import BoundaryDistance
from pydrift.membership.attacks.class_threshold import (
    _break_ties,
    negative_entropy,
    negative_modified_entropy,
)
from pydrift.membership.attacks.lira import Lira
from pydrift.membership.attacks.rmia import Rmia
from pydrift.membership.attacks.shokri import Shokri
from pydrift.shadows.statistics import Statistics
from pydrift.stats.roc import auc

CLASSES = 3


def statistics(logits, y):
    """Statistics of logits [K, Q, N, C], by definition, in float64 (longdouble where it matters)."""
    z = logits.astype(np.longdouble)
    own = np.take_along_axis(z, y[None, None, :, None], -1)[..., 0]
    others = np.array(z)
    np.put_along_axis(others, np.broadcast_to(y[None, None, :, None], (*z.shape[:3], 1)), -np.inf, -1)
    margin = own - np.logaddexp.reduce(others, axis=-1)
    log_p = own - np.logaddexp.reduce(z, axis=-1)
    p = np.exp(z[:, 0] - np.logaddexp.reduce(z[:, 0], axis=-1)[..., None])
    return Statistics(
        margin.astype(np.float32),
        (-log_p).astype(np.float32),
        np.exp(log_p).astype(np.float32),
        logits.argmax(-1).astype(np.int32),
        posterior=p.astype(np.float32),
    )


def halves(models, images, rng):
    member = np.zeros((models, images), bool)
    for pair in range(models // 2):
        member[2 * pair, rng.permutation(images)[: images // 2]] = True
        member[2 * pair + 1] = ~member[2 * pair]
    return member


def case(kind, models=8, queries=1, images=60, seed=0):
    """(shadow statistics, member [K, N], target statistics, target member [N], y): members answer more surely."""
    rng = np.random.default_rng(seed)
    y = np.arange(images) % CLASSES
    member = halves(models + 2, images, rng)[: models + 1]
    logits = rng.normal(size=(models + 1, queries, images, CLASSES)) + rng.normal(size=(1, 1, images, CLASSES))
    own = np.zeros((models + 1, 1, images, CLASSES))
    np.put_along_axis(own, np.broadcast_to(y[None, None, :, None], (models + 1, 1, images, 1)), 1.0, -1)
    logits += own * (1 + 3 * member[:, None, :, None])
    match kind:
        case "sure":  # p rounds to 1 and to 0
            logits *= 60
        case "ties":
            logits = np.round(logits)
        case "equal":  # every model answers alike: no variance at all
            logits[:] = logits[:1]
    all_of = statistics(logits, y)
    last = models
    return all_of.models(slice(0, last)), member[:last], all_of.models(slice(last, None)), member[last], y


KINDS = ("random", "sure", "ties")


def log_p(seen):
    """log p_y in float64 from the float32 margin: -log(1 + exp(-margin))."""
    return -np.logaddexp(0, -seen.margin.astype(np.float64))


# --- LiRA


def lira_reference(shadow, member, target, online, fixed):
    """log N(phi; mu_in, s_in^2) - log N(phi; mu_out, s_out^2) image by image; offline (phi - mu_out) / s_out."""
    _, queries, images = shadow.margin.shape
    phi, seen = target.margin[0].astype(np.float64), shadow.margin.astype(np.float64)
    total = np.zeros(images)
    for q in range(queries):
        sides = {side: [seen[member[:, n] == side, q, n] for n in range(images)] for side in (True, False)}
        pooled = {
            side: np.sqrt(sum(((v - v.mean()) ** 2).sum() for v in groups) / sum(len(v) - 1 for v in groups))
            for side, groups in sides.items()
            if all(len(v) for v in groups)
        }
        for n in range(images):
            terms = {}
            for side in (True, False) if online else (False,):
                values = sides[side][n]
                spread = max(pooled[side] if fixed else values.std(ddof=1), 1e-6, 2**-23 * abs(values.mean()))
                terms[side] = (values.mean(), spread)
            out = (phi[q, n] - terms[False][0]) / terms[False][1]
            total[n] += norm.logpdf(phi[q, n], *terms[True]) - norm.logpdf(phi[q, n], *terms[False]) if online else out
    return total / queries


@pytest.mark.parametrize("kind", [*KINDS, "equal"])
@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("queries", [1, 3])
def test_lira_is_the_papers_likelihood_ratio(kind, online, fixed, queries):
    shadow, member, target, _, y = case(kind, queries=queries)
    got = Lira(online, fixed).fit(shadow, member, y).score(target)
    assert got.dtype == np.float64
    expected = lira_reference(shadow, member, target, online, fixed)
    if kind != "equal":
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-9)
    else:  # the answers equal the means but for the last bit, which the least spread magnifies
        np.testing.assert_allclose(got, expected, atol=1e-3)


def test_offline_lira_is_one_sided():
    """The paper's 1 - Pr[Z > phi] rises with phi: an answer far below all OUT shadows' is the least like a member's."""
    shadow, member, target, _, y = case("random")
    fitted = Lira(online=False).fit(shadow, member, y)
    scores = []
    for shift in (-100, -3, 0, 3, 100):
        moved = Statistics(target.margin + np.float32(shift), target.loss, target.confidence, target.prediction)
        scores.append(fitted.score(moved))
    assert (np.diff(scores, axis=0) > 0).all()
    out = np.where(member, np.nan, shadow.margin[:, 0].astype(np.float64))
    paper = 1 - norm.sf(target.margin[0, 0], np.nanmean(out, 0), np.nanstd(out, 0, ddof=1))
    np.testing.assert_allclose(norm.cdf(scores[2]), paper, rtol=1e-6)


def test_the_fixed_variance_is_that_within_images():
    """Adding another constant to every image's margins changes no score; a variance around one mean would."""
    shadow, member, target, _, y = case("random")
    offset = np.linspace(-50, 50, len(y)).astype(np.float32)
    moved, moved_target = (Statistics(s.margin + offset, s.loss, s.confidence, s.prediction) for s in (shadow, target))
    before = Lira(fixed=True).fit(shadow, member, y).score(target)
    after = Lira(fixed=True).fit(moved, member, y).score(moved_target)
    np.testing.assert_allclose(after, before, atol=1e-3)


@pytest.mark.parametrize("fixed", [True, False])
def test_lira_tells_margins_apart_no_finer_than_float32_does(fixed):
    """Shadows that agree to the last bit on a large margin are no evidence: a last bit off is one deviation off."""
    shadow, member, target, _, y = case("equal")
    large = replace(shadow, margin=np.full_like(shadow.margin, 1024))
    above = replace(target, margin=np.full_like(target.margin, np.nextafter(np.float32(1024), np.float32(2000))))
    got = Lira(online=False, fixed=fixed).fit(large, member, y).score(above)
    np.testing.assert_allclose(got, 1, rtol=1e-12)


# --- RMIA


def rmia_reference(shadow, member, target, online, gamma, a):
    """Pr_z[LR(x, z) > gamma] from the N x Z matrix of ratios of each query, x beating z in most queries."""
    p_shadow, p_target = np.exp(log_p(shadow)), np.exp(log_p(target))[0]
    _, queries, images = p_shadow.shape
    ratio = np.zeros((queries, images))
    for q in range(queries):
        for n in range(images):
            out = p_shadow[~member[:, n], q, n].mean()
            p_x = p_shadow[:, q, n].mean() if online else ((1 + a) * out + (1 - a)) / 2
            ratio[q, n] = p_target[q, n] / p_x
    votes = ratio[:, :, None] / ratio[0][None, None, :] > gamma
    return (2 * votes.sum(axis=0) > queries).mean(axis=1)


@pytest.mark.parametrize("kind", ["random", "ties"])
@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize(("gamma", "a"), [(1.0, 0.0), (1.05, 0.3), (2.0, 1.0)])
@pytest.mark.parametrize("queries", [1, 2, 3])
def test_rmia_counts_are_those_of_the_whole_matrix(kind, online, gamma, a, queries):
    shadow, member, target, _, y = case(kind, queries=queries, images=150)
    got = Rmia(online, gamma, a).fit(shadow, member, y).score(target)
    expected = rmia_reference(shadow, member, target, online, gamma, a)
    assert np.array_equal(np.rint(got * 150), np.rint(expected * 150))
    assert len(np.unique(got)) > 10


@pytest.mark.parametrize("kind", ["sure", "ties", "sure ties"])
@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize(("gamma", "a"), [(1.0, 0.3), (1.7, 0.0), (1.7, 1.0)])
@pytest.mark.parametrize("queries", [1, 3])
def test_rmia_is_its_definition_where_p_is_0_or_1(kind, online, gamma, a, queries):
    """In 50 digits, from margins whose p no float64 holds. Some images are there twice: they do not beat their twins.

    Where p rounds to 1 everywhere, ratios differ from 1 by less than float64 tells; at gamma = 1 such comparisons may
    go either way, at 1.7 there are none.
    """
    shadow, member, target, _, y = case(kind.split()[0], queries=queries, images=40)
    twin = np.r_[np.arange(40), np.arange(0, 40, 4)] if "ties" in kind else np.arange(40)
    images = len(twin)
    for seen in (shadow, target):
        seen.margin[..., :4] = [-2000, 2000, -104, 104]
        seen.margin[..., 4:8] = np.where(seen.margin[..., 4:8] > 0, 150, -150)
    shadow, target = (replace(s, margin=s.margin[..., twin], posterior=None) for s in (shadow, target))
    member = member[:, twin]
    with localcontext(prec=50):

        def p(margin):
            return 1 / (1 + (-Decimal(float(margin))).exp())

        def ratio(q, n):
            every = [p(margin) for margin in shadow.margin[:, q, n]]
            out = [p_out for p_out, inside in zip(every, member[:, n], strict=True) if not inside]
            offline = ((1 + Decimal(a)) * sum(out) / len(out) + (1 - Decimal(a))) / 2
            return p(target.margin[0, q, n]) / (sum(every) / len(every) if online else offline)

        ratios = np.array([[ratio(q, n) for n in range(images)] for q in range(queries)])  # of Decimals
        bound, slack = Decimal(gamma) * ratios[0], 1 + Decimal("1e-12")
        surely = ratios[:, :, None] > bound * slack
        perhaps = ratios[:, :, None] > bound / slack
        perhaps[0, twin[:, None] == twin] = False  # its own ratio, bit for bit
    least, most = ((2 * votes.sum(axis=0) > queries).sum(axis=1) for votes in (surely, perhaps))
    got = np.rint(Rmia(online, gamma, a).fit(shadow, member, y[twin]).score(target) * images)
    assert (least <= got).all()
    assert (got <= most).all()
    assert gamma == 1 or (least == most).all()
    assert (least == most).mean() > 0.3


@pytest.mark.parametrize("online", [True, False])
def test_rmia_needs_no_care_where_p_is_0(online):
    shadow, member, target, inside, y = case("sure", images=200)
    assert target.confidence.min() == 0
    got = Rmia(online).fit(shadow, member, y).score(target)
    assert np.isfinite(got).all()
    assert ((got >= 0) & (got <= 1)).all()
    assert auc(got, inside)[0] > 0.6


def test_rmia_works_with_one_shadow_out():
    shadow, member, target, _, y = case("random", models=1)
    got = Rmia(online=False).fit(shadow, np.zeros_like(member), y).score(target)
    expected = rmia_reference(shadow, np.zeros_like(member), target, False, 2.0, 0.3)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_an_image_never_beats_itself():
    shadow, member, target, _, y = case("ties", images=40)
    same = Statistics(*(np.repeat(v[:, :, :1], 40, axis=2) for v in list(vars(target).values())[:4]))
    shadows = Statistics(*(np.repeat(v[:, :, :1], 40, axis=2) for v in list(vars(shadow).values())[:4]))
    got = Rmia(gamma=1).fit(shadows, np.repeat(member[:, :1], 40, axis=1), y).score(same)
    assert (got == 0).all()


# --- thresholds and ranks


def test_the_loss_threshold_is_minus_the_loss():
    _, member, target, _, y = case("random")
    got = ATTACKS["loss"].fit(target.models(slice(0, 0)), member[:0], y).score(target)
    np.testing.assert_allclose(got, -target.loss[0, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got, log_p(target)[0, 0], rtol=1e-12)


def test_the_gap_is_whether_the_label_is_right():
    _, member, target, _, y = case("random")
    got = ATTACKS["gap"].fit(target.models(slice(0, 0)), member[:0], y).score(target)
    assert got.tolist() == [float(target.prediction[0, 0, n] == y[n]) for n in range(len(y))]


@pytest.mark.parametrize("kind", KINDS)
def test_attack_p_is_the_share_of_larger_losses(kind):
    _, member, target, _, y = case(kind)
    got = ATTACKS["attack-p"].fit(target.models(slice(0, 0)), member[:0], y).score(target)
    loss = -log_p(target)[0, 0]
    np.testing.assert_allclose(got, [np.mean(loss > own) for own in loss], rtol=1e-12)


@pytest.mark.parametrize("kind", [*KINDS, "equal"])
@pytest.mark.parametrize("models", [2, 8])
def test_attack_r_interpolates_the_losses_of_out_shadows(kind, models):
    shadow, member, target, _, y = case(kind, models=models)
    got = ATTACKS["attack-r"].fit(shadow, member, y).score(target)
    expected = []
    for n in range(len(y)):
        losses = np.sort(-log_p(shadow)[~member[:, n], 0, n])
        levels = np.arange(len(losses) + 2) / (len(losses) + 1)
        points = np.concatenate([[0], losses, [LARGEST_LOSS]])
        own = -log_p(target)[0, 0, n]
        at_tie = np.flatnonzero(points == own)  # the highest of equal ones
        expected.append(-(levels[at_tie[-1]] if len(at_tie) else np.interp(own, points, levels)))
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=0)


def test_attack_r_ends_at_the_largest_loss():
    shadow, member, target, _, y = case("random")
    margin = np.full_like(target.margin, -5000)
    lost = Statistics(margin, -margin, margin * 0, target.prediction)
    assert (ATTACKS["attack-r"].fit(shadow, member, y).score(lost) == -1).all()


@pytest.mark.parametrize("name", ["attack-r", "confidence", "entropy", "modified-entropy"])
def test_images_that_a_model_is_all_but_certain_of_are_break_ties(name):
    """Margins of 38 and more, of which p_y is 1 in float64: no share or difference may round them together."""
    images, y = 12, np.zeros(12, np.int64)
    logits = np.zeros((5, 1, images, 2))
    logits[:4, 0, :, 0] = np.linspace(-1, 3, images)
    logits[4, 0, :, 0] = np.linspace(38, 80, images)
    seen, member = statistics(logits, y), np.arange(4)[:, None] % 2 == np.arange(images) % 2
    target = seen.models(slice(4, 5))
    assert (target.confidence == 1).all()
    got = ATTACKS[name].fit(seen.models(slice(0, 4)), member, y).score(target)
    assert (np.diff(got) > 0).all()


def test_confidence_is_how_far_p_is_above_its_threshold():
    """Whatever the class: on the scale of margins, thresholds that hardly differ would move whole classes."""
    shadow, member, target, _, y = case("random")
    fitted = ATTACKS["confidence"].fit(shadow, member, y)
    p, threshold = 1 / (1 + np.exp(-target.margin[0, 0].astype(float))), 1 / (1 + np.exp(-fitted.threshold))
    np.testing.assert_allclose(fitted.score(target), p - threshold, rtol=1e-9, atol=1e-12)


def test_only_what_rounding_made_equal_is_break_ties():
    score, signal = np.array([0.5, -0.5, 0.5, 0.0, 0.5, -0.5]), np.array([3.0, 1, 2, 9, 3, 0])
    got = _break_ties(score, signal)
    assert got.tolist() == [np.nextafter(0.5, 1), np.nextafter(-0.5, 1), 0.5, 0, np.nextafter(0.5, 1), -0.5]
    rng = np.random.default_rng(0)
    score, signal = np.round(rng.normal(size=500), 1) * 1e-16, rng.permutation(500).astype(float)
    order = np.lexsort((signal, score))
    assert (np.diff(_break_ties(score, signal)[order]) > 0).all()
    np.testing.assert_allclose(_break_ties(score, signal), score, atol=1e-28)


def entropy_reference(logits, y):
    """(-H, -Mentr) of logits [N, C]: H = -sum p log p; Mentr = -(1 - p_y) log p_y - sum p_i log(1 - p_i).

    In 60 decimal digits: near certainty, float64 and even longdouble lose those of log p.
    """
    entropy, modified = [], []
    with localcontext(prec=60):
        for row, label in zip(logits.tolist(), y, strict=True):
            weight = [Decimal(z).exp() for z in row]
            p = [w / sum(weight) for w in weight]
            entropy.append(sum(q * q.ln() for q in p))
            terms = [(1 - q) * q.ln() if i == label else q * (1 - q).ln() for i, q in enumerate(p)]
            modified.append(sum(terms))
    return np.array(entropy, np.float64), np.array(modified, np.float64)


@pytest.mark.parametrize("scale", [0.1, 3, 20])
def test_the_entropies_follow_their_definition(scale):
    rng = np.random.default_rng(1)
    y = rng.integers(0, 5, 80)
    logits = scale * rng.normal(size=(80, 5))
    logits[0] = 0  # all classes alike
    seen = statistics(logits[None, None], y)
    entropy, modified = entropy_reference(logits, y)
    np.testing.assert_allclose(negative_entropy(seen, y)[0], entropy, rtol=1e-6)
    np.testing.assert_allclose(negative_modified_entropy(seen, y)[0], modified, rtol=1e-6)


def test_the_entropies_are_finite_where_p_is_0_or_1():
    y = np.array([0, 1])
    seen = statistics(np.array([[[[500.0, 0, 0], [500.0, 0, 0]]]]), y)
    assert seen.posterior[0, 0].tolist() == [1, 0, 0]
    for signal in (negative_entropy, negative_modified_entropy):
        right, wrong = signal(seen, y)[0]
        assert right == pytest.approx(0, abs=1e-12)
        assert np.isfinite(wrong)
    assert negative_modified_entropy(seen, y)[0, 1] < -500  # sure of the wrong class; its plain entropy is 0


@pytest.mark.parametrize("name", ["confidence", "entropy", "modified-entropy"])
@pytest.mark.parametrize("kind", ["random", "ties"])
def test_class_thresholds_have_the_best_balanced_accuracy_on_the_shadows(name, kind):
    shadow, member, target, _, y = case(kind)
    attack = ATTACKS[name]
    fitted = attack.fit(shadow, member, y)
    got, plain = fitted.score(target), attack.scale(attack.signal(target, y)[0])
    values = attack.signal(shadow, y)
    for label in range(CLASSES):
        ours = values[:, y == label].ravel()
        inside = member[:, y == label].ravel()

        def success(threshold, ours=ours, inside=inside):
            return ((ours >= threshold)[inside].mean() + (ours < threshold)[~inside].mean()) / 2

        used = fitted.threshold[y == label][0]
        np.testing.assert_allclose(got[y == label], plain[y == label] - attack.scale(used), rtol=1e-12, atol=1e-12)
        assert success(used) == pytest.approx(max(success(t) for t in np.unique(ours)), abs=1e-12)


# --- Shokri


def test_shokri_learns_from_every_answer_of_every_shadow(monkeypatch):
    rows = {}
    original = MLPClassifier.fit

    def fit(self, features, labels):
        rows[len(rows)] = (features.copy(), labels.copy())
        return original(self, features, labels)

    monkeypatch.setattr(MLPClassifier, "fit", fit)
    shadow, member, target, _, y = case("random", images=61)
    fitted = Shokri(epochs=3).fit(shadow, member, y)
    assert len(rows) == CLASSES
    for label in range(CLASSES):
        features, labels = rows[label]
        of_class = np.flatnonzero(y == label)
        assert len(features) == len(labels) == shadow.num_models * len(of_class)
        for k in range(shadow.num_models):
            for j, n in enumerate(of_class):  # the last image, too
                assert np.array_equal(features[k * len(of_class) + j], shadow.posterior[k, n])
                assert labels[k * len(of_class) + j] == member[k, n]
                assert features.dtype == np.float64
    again = Shokri(epochs=3).fit(shadow, member, y).score(target)
    assert np.array_equal(fitted.score(target), again)
    assert not np.array_equal(Shokri(epochs=3, seed=2**40).fit(shadow, member, y).score(target), again)


def test_shokri_scores_are_the_log_odds_of_each_class_own_classifier():
    shadow, member, target, _, y = case("random")
    fitted = Shokri(epochs=3).fit(shadow, member, y)
    got = fitted.score(target)
    for n, label in enumerate(y):
        out, inside = fitted.models[label].predict_proba(target.posterior[0, n : n + 1].astype(np.float64))[0]
        assert got[n] == pytest.approx(np.log(inside / out), rel=1e-9, abs=1e-12)


def test_shokri_stays_finite_where_the_classifier_is_certain():
    shadow, member, target, _, y = case("random")
    fitted = Shokri(epochs=1).fit(shadow, member, y)

    class Certain:
        def predict_proba(self, answers):
            sure = np.arange(len(answers)) % 2
            return np.stack([1 - sure, sure], axis=1).astype(np.float64)

    got = replace(fitted, models=dict.fromkeys(fitted.models, Certain())).score(target)
    assert np.isfinite(got).all()
    for label in range(CLASSES):
        of_class = got[y == label]
        assert (of_class[::2] < -700).all()
        assert (of_class[1::2] > 36).all()


# --- all of them


@pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if not attack.needs.distance])
def test_members_score_higher(name):
    """The sign. Shadows and target are surer of their members; an attack that is blind or inverted fails."""
    shadow, member, target, inside, y = case("random", models=16, images=300)
    scores = ATTACKS[name].fit(shadow, member, y).score(target)
    assert scores.shape == (300,)
    assert scores.dtype == np.float64
    area, low, _ = auc(scores, inside)
    assert low > 0.5, area


@pytest.mark.parametrize(
    "name",
    ["lira", "lira-fixed", "lira-offline", "lira-offline-fixed", "rmia", "rmia-offline", "attack-r", "confidence"]
    + ["entropy", "modified-entropy"],
)  # Shokri's classifiers learn in the order of their rows
def test_scores_depend_on_the_shadows_but_not_on_their_order(name):
    shadow, member, target, _, y = case("random")
    order = np.random.default_rng(2).permutation(len(member))
    expected = ATTACKS[name].fit(shadow, member, y).score(target)
    got = ATTACKS[name].fit(shadow.models(order), member[order], y).score(target)
    np.testing.assert_allclose(got, expected, rtol=1e-9)
    fewer = ATTACKS[name].fit(shadow.models(slice(0, 4)), member[:4], y).score(target)
    assert not np.allclose(fewer, expected)


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("lira", 2, 2), ("lira-fixed", 2, 2), ("lira-offline", 0, 2), ("lira-offline-fixed", 0, 2), ("rmia", 1, 1),
        ("rmia-offline", 0, 1), ("attack-r", 0, 1), ("confidence", 1, 1), ("entropy", 1, 1),
        ("modified-entropy", 1, 1), ("shokri", 1, 1),
    ],
)  # fmt: skip
def test_too_few_shadows_are_refused_by_image(name, inside, outside):
    attack = ATTACKS[name]
    assert (attack.needs.shadows_in, attack.needs.shadows_out) == (inside, outside)
    shadow, member, _, _, y = case("random")
    member[:, 17] = True
    with pytest.raises(UsageError) as error:
        attack.fit(shadow, member, y)
    assert str(error.value) == (
        f"{attack.title} needs {inside} shadows IN and {outside} OUT for every image; image 17 has 8 IN and 0 OUT"
    )


def test_a_membership_matrix_that_does_not_fit_is_refused():
    shadow, member, _, _, y = case("random")
    with pytest.raises(UsageError, match=r"^member must be bool \[8, 60\], got bool \[7, 60\]$"):
        Lira().fit(shadow, member[1:], y)
    with pytest.raises(UsageError, match=r"^member must be bool \[8, 60\], got int64 \[8, 60\]$"):
        Rmia().fit(shadow, member.astype(np.int64), y)
    without = Statistics(shadow.margin, shadow.loss, shadow.confidence, shadow.prediction)
    with pytest.raises(UsageError, match="needs the posterior: measure with posterior=True"):
        Shokri().fit(without, member, y)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rmia(gamma=0.5), "RMIA: gamma must be >= 1 and a in [0, 1], got 0.5 and 0.3"),
        (lambda: Rmia(a=np.nan), "RMIA: gamma must be >= 1 and a in [0, 1], got 2 and nan"),
        (lambda: BoundaryDistance(rounds=0), "boundary distance: rounds, probes, bisections and starts must be >= 1"),
        (lambda: select_attacks(["lira", "magic"]), "no such attack: 'magic'; known are lira, lira-fixed, "),
        (lambda: select_attacks(["lira", "lira"]), "attacks must name each attack once, got lira, lira"),
        (lambda: select_attacks([]), "attacks must name at least one attack, got none"),
        (lambda: select_attacks({}), "attacks must name at least one attack, got none"),
        (
            lambda: select_attacks({"member": Rmia()}),
            "an attack's name has letters, digits, dots and hyphens only, and is not member",
        ),
        (lambda: select_attacks({"a/b": Rmia()}), "an attack's name has letters, digits, dots and hyphens only"),
        (lambda: select_attacks({"mine": "rmia"}), "mine: expected an attack such as Rmia(gamma=1.5), got 'rmia'"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(UsageError) as error:
        make()
    assert str(error.value).startswith(message)
