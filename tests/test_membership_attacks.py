"""Each attack against a slow reference written from its paper's formula, and the properties that are easily lost."""

from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.neural_network import MLPClassifier
from torch import nn

from pydrift import UsageError
from pydrift.classifier import Classifier, freeze
from pydrift.membership import ATTACKS, Statistics, chosen
from pydrift.membership.attack_r import LARGEST_LOSS
from pydrift.membership.boundary import BoundaryDistance
from pydrift.membership.class_threshold import negative_entropy, negative_modified_entropy
from pydrift.membership.lira import MIN_STD, Lira
from pydrift.membership.metrics import auc
from pydrift.membership.rmia import Rmia
from pydrift.membership.shokri import Shokri

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
                spread = max(pooled[side] if fixed else values.std(ddof=1), MIN_STD)
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
    else:  # the answers equal the means but for the last bit, which MIN_STD magnifies
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
        expected.append(1 - (levels[at_tie[-1]] if len(at_tie) else np.interp(own, points, levels)))
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-12)


def test_attack_r_ends_at_the_largest_loss():
    shadow, member, target, _, y = case("random")
    margin = np.full_like(target.margin, -5000)
    lost = Statistics(margin, -margin, margin * 0, target.prediction)
    assert (ATTACKS["attack-r"].fit(shadow, member, y).score(lost) == 0).all()


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
    got, plain = fitted.score(target), attack.signal(target, y)[0]
    values = attack.signal(shadow, y)
    for label in range(CLASSES):
        ours = values[:, y == label].ravel()
        inside = member[:, y == label].ravel()

        def success(threshold, ours=ours, inside=inside):
            return ((ours >= threshold)[inside].mean() + (ours < threshold)[~inside].mean()) / 2

        used = fitted.threshold[y == label][0]
        np.testing.assert_allclose(got[y == label], plain[y == label] - used, rtol=1e-12, atol=1e-12)
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
    again = Shokri(epochs=3).fit(shadow, member, y).score(target)
    assert np.array_equal(fitted.score(target), again)


# --- the boundary


def linear(weight, bias):
    """A two-class model with the decision boundary weight . x + bias = 0."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(len(weight), 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.stack([torch.zeros(len(weight)), torch.tensor(weight)]))
        network[1].bias.copy_(torch.tensor([0.0, bias]))
    return freeze(network, (1, 4, 4), torch.device("cpu"))


def test_the_boundary_distance_is_nearly_that_of_a_known_boundary():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=16).astype(np.float32)
    model = linear(weight, -float(weight.sum()) / 2)
    x = torch.from_numpy(rng.uniform(0.3, 0.7, size=(300, 1, 4, 4)).astype(np.float32))
    signed = x.flatten(1).numpy() @ weight - weight.sum() / 2
    y = torch.from_numpy((signed > 0).astype(np.int64))
    y[:5] = 1 - y[:5]  # wrong already
    got = BoundaryDistance(rounds=8).distances(model, x, y)
    exact = np.abs(signed) / np.linalg.norm(weight)
    assert got.shape == (1, 300)
    assert got.dtype == np.float32
    assert (got[0, :5] == 0).all()
    assert (got[0, 5:] >= exact[5:] - 1e-5).all()
    assert np.median(got[0, 5:] / exact[5:]) < 1.25
    assert np.corrcoef(got[0, 5:], exact[5:])[0, 1] > 0.95


def test_the_boundary_distance_sees_labels_only_and_a_bounded_number_of_them():
    asked = []

    def forward(scale):
        def logits(x):
            asked.append(len(x))
            z = x.flatten(1)[:, :3]
            return scale * (z - z.max(dim=1, keepdim=True).values * 0.5)

        return Classifier(logits, (1, 3, 3), 3, torch.device("cpu"), "generic: a test")

    x = torch.rand(150, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    y = x.flatten(1)[:, :3].argmax(1)
    attack = BoundaryDistance()
    first = attack.distances(forward(1.0), x, y)
    assert sum(asked) <= attack.queries * 150
    assert np.array_equal(attack.distances(forward(37.0), x, y), first)
    assert len(np.unique(first)) > 100


def test_without_another_label_the_boundary_is_nowhere():
    one = Classifier(
        lambda x: torch.tensor([[1.0, 0.0]]).repeat(len(x), 1), (1, 2, 2), 2, torch.device("cpu"), "a test"
    )
    got = BoundaryDistance().distances(one, torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 0]))
    assert got.tolist() == [[2, 0, 2]]


# --- all of them


def fitted_scores(name, shadow, member, target, y):
    if ATTACKS[name].needs.distance:
        target = Statistics(**{**vars(target), "distance": np.maximum(target.margin[:, 0], 0)})
    return ATTACKS[name].fit(shadow, member, y).score(target)


@pytest.mark.parametrize("name", ATTACKS)
def test_members_score_higher(name):
    """The sign. Shadows and target are surer of their members; an attack that is blind or inverted fails."""
    shadow, member, target, inside, y = case("random", models=16, images=300)
    scores = fitted_scores(name, shadow, member, target, y)
    assert scores.shape == (300,)
    assert scores.dtype == np.float64
    area, low, _ = auc(scores, inside)
    assert low > 0.5, area


@pytest.mark.parametrize("name", ATTACKS)
def test_scores_do_not_depend_on_the_order_of_shadows(name):
    shadow, member, target, _, y = case("random")
    order = np.random.default_rng(2).permutation(len(member))
    shuffled = Statistics(*(value[order] for value in list(vars(shadow).values())[:5]))
    expected = fitted_scores(name, shadow, member, target, y)
    if name != "shokri":  # it learns in the order of its rows
        np.testing.assert_allclose(fitted_scores(name, shuffled, member[order], target, y), expected, rtol=1e-9)


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
        (lambda: chosen(["lira", "magic"]), "no such attack: 'magic'; known are lira, lira-fixed, "),
        (lambda: chosen(["lira", "lira"]), "attacks must be one or more different names, got lira, lira"),
        (lambda: chosen([]), "attacks must be one or more different names, got none"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(UsageError) as error:
        make()
    assert str(error.value).startswith(message)
