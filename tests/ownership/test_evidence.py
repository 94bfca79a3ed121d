"""The statistics of the ownership audit, against scipy and against simulations with a known truth."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from pydrift.core.noise import Phase, derived_seed
from pydrift.ownership.decision import OwnershipEmbeddings, decide, decide_verdict
from pydrift.ownership.embeddings import ImageEmbeddings
from pydrift.ownership.evidence import ModelProfiles, ReferenceScale, p_by_samples, rank_p, widen
from pydrift.ownership.reference_profile import ReferenceProfile, agreement
from pydrift.ownership.regressors import REGRESSORS, RegressorData, Standardise
from pydrift.ownership.result import INCONCLUSIVE, INDEPENDENT, STOLEN
from pydrift.ownership.welch import harmonic_mean_p, welch, welch_t


def rng(seed=0):
    return np.random.default_rng(seed)


# ---- Confidence


def test_welch_is_scipys():
    a, b = rng(1).normal(0.3, 1, 40), rng(2).normal(0, 2, 25)
    ours, theirs = welch(a, b), stats.ttest_ind(a, b, equal_var=False, alternative="greater")
    both = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert (ours.t, ours.p) == pytest.approx((theirs.statistic, theirs.pvalue))
    assert (ours.low, ours.high) == pytest.approx((both.low, both.high))
    assert ours.effect == pytest.approx(a.mean() - b.mean())


@pytest.mark.parametrize(("a", "b", "p"), [(1.0, 0.0, 0.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.5)])
def test_welch_without_spread(a, b, p):
    assert welch(np.full(5, a), np.full(5, b)).p == p


@pytest.mark.slow
def test_a_harmonic_mean_of_p_values_is_no_p_value():
    """It is below 5 % more often than in 5 % of cases where nothing is there to be found: why it is only reported."""
    found = [harmonic_mean_p(*rng(k).normal(size=(2, 60)), repeats=30) for k in range(400)]
    assert stats.binomtest(sum(p <= 0.05 for p in found), len(found), 0.05, alternative="greater").pvalue < 1e-3


@pytest.mark.parametrize("kind", REGRESSORS)
def test_regressors_learn_what_private_images_look_like(kind):
    private = np.arange(200) < 100
    data = RegressorData(rng().normal(size=(200, 6)) + private[:, None] * [1.5, 0, 0, 0.5, 0, 0], private)
    regressor = REGRESSORS[kind].fit(data)
    fresh = rng(1).normal(size=(400, 6)) + (np.arange(400) < 200)[:, None] * [1.5, 0, 0, 0.5, 0, 0]
    scores = regressor(fresh)
    assert welch(scores[:200], scores[200:]).p < 1e-12
    again = REGRESSORS[kind].fit(data)(fresh)
    assert np.array_equal(scores, again)
    assert np.array_equal(regressor(fresh[:7]), scores[:7])


def test_the_perceptron_is_the_papers_and_leaves_the_global_generator_alone():
    """Against gradient descent by hand, from the same initial weights."""
    x, private, fresh = rng().normal(size=(40, 3)), np.arange(40) < 20, rng(1).normal(size=(9, 3))
    before = torch.random.get_rng_state()
    scores = REGRESSORS["perceptron"].fit(RegressorData(x, private))(fresh)
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(0, Phase.CONFIDENCE))
        hidden, out = torch.nn.Linear(3, 100), torch.nn.Linear(100, 1)
    w, b, v, c = (p.detach().double().numpy() for p in (hidden.weight, hidden.bias, out.weight[0], out.bias))
    rows, sign = (x - x.mean(0)) / x.std(0), np.where(private, 1.0, -1.0)
    for _ in range(1000):  # loss -mean(sign tanh(v relu(w x + b) + c)), learning rate 0.1
        before_relu = rows @ w.T + b
        active = np.maximum(before_relu, 0)
        of_output = -sign * (1 - np.tanh(active @ v + c) ** 2) / len(rows)
        of_hidden = of_output[:, None] * v * (before_relu > 0)
        steps = of_hidden.T @ rows, of_hidden.sum(0), of_output @ active, of_output.sum()
        w, b, v, c = (p - 0.1 * step for p, step in zip((w, b, v, c), steps, strict=True))
    expected = np.tanh(np.maximum((fresh - x.mean(0)) / x.std(0) @ w.T + b, 0) @ v + c)
    np.testing.assert_allclose(scores, expected, rtol=1e-9)


def test_the_perceptron_is_the_same_for_any_number_of_threads():
    private = np.arange(500) < 250
    data = RegressorData(rng().normal(size=(500, 30)) + 0.1 * private[:, None], private)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(REGRESSORS["perceptron"].fit(data)(data.features))
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(*found)


def test_columns_without_spread_are_left_alone():
    rows = np.column_stack([np.full(5, 3.0), np.arange(5.0)])
    assert np.allclose(Standardise(rows)(rows)[:, 0], 0)


def test_rows_are_images_and_what_mixing_them_does():
    """The published notebook's rows, `x.T.reshape(N, 30)` of distances [N, 10 classes, 3 norms], are 30 images each.

    Here private images lie further from all classes, each in its own degree. Mixed rows average that degree away: ten
    of them stand for up to 300 images, and every image is in the regressor's half and in the half that is tested.
    """
    images, classes, norms = 300, 10, 3
    degree = rng().normal(size=images) + 0.5 * (np.arange(images) < images // 2)
    distance = degree[:, None, None] + 0.1 * rng(1).normal(size=(images, classes, norms))
    seen, unseen = distance[: images // 2], distance[images // 2 :]
    number = np.broadcast_to(np.arange(images // 2)[:, None, None], seen.shape)

    def mixed(x):
        return x.T.reshape(len(x), classes * norms)

    def as_described(x):
        return x.reshape(len(x), classes * norms)

    assert len(np.unique(mixed(number)[0])) == 30
    assert (as_described(number) == np.arange(images // 2)[:, None]).all()
    first, second = np.split(mixed(number), 2)
    assert len(np.intersect1d(first, second)) == images // 2  # every image is in both halves

    def p_of(rows):
        draws = [rng(k).permutation(images // 2)[:10] for k in range(100)]
        return np.median([welch(rows(seen).mean(1)[d], rows(unseen).mean(1)[d]).p for d in draws])

    assert p_of(as_described) > 0.05  # ten images say little
    assert p_of(mixed) < 1e-3  # what passes for ten says much


# ---- Calibration


def test_rank_p_counts_those_as_far_out():
    null = np.array([0.1, 0.2, 0.3])
    assert [rank_p(v, null) for v in (0.4, 0.3, 0.15, 0.0)] == [0.25, 0.5, 0.75, 1.0]


def models(seed, count, images=40, columns=6, noise=1.0, shared=None, common=0.0):
    """Profiles [count, images, columns] of models that depart at random, `shared` being in all of them."""
    profiles = noise * rng(seed).normal(size=(count, images, columns)) + common
    return profiles if shared is None else profiles + shared


def test_agreement_finds_what_was_taken_over():
    own = rng(5).normal(size=(40, 6))
    references = ReferenceProfile.of(models(1, 24))
    victim = references.deviations(own)
    benign, thief = (
        agreement(victim, references.deviations(models(2, 99))),
        references.deviations(models(3, 1, shared=0.6 * own)),
    )
    assert rank_p(float(agreement(victim, thief)[0]), benign) == 0.01
    assert agreement(victim, victim) == pytest.approx(1)


def test_being_more_confident_everywhere_is_no_agreement():
    """The victim and an independent suspect are more confident than the references on every image: a common shift."""
    references = ReferenceProfile.of(models(1, 24))
    victim = references.deviations(models(2, 1, common=1.0)[0])
    usual, shifted = (agreement(victim, references.deviations(models(3, 99, common=common))) for common in (0.0, 1.0))
    assert abs(shifted.mean() - usual.mean()) < 0.02
    raw = [models(seed, 99, common=common) / references.spread for seed, common in ((3, 0.0), (4, 1.0))]
    own = models(2, 1, common=1.0)[0] / references.spread
    uncentred = [agreement(own, profiles - references.centre).mean() for profiles in raw]
    assert uncentred[1] > uncentred[0] + 0.3


def test_how_references_differ_is_no_agreement():
    """Some models are better than others: among the references, too, and the victim and an independent suspect are."""
    better = rng(30).normal(size=(40, 6))
    references = ReferenceProfile.of(models(1, 24) + rng(31).normal(size=(24, 1, 1)) * better)
    victim, suspects = (
        references.deviations(models(2, 1, shared=2 * better)[0]),
        references.deviations(models(4, 60, shared=2 * better)),
    )
    assert abs(agreement(victim, suspects).mean()) < 0.25  # 24 references tell their common direction to about 4 %
    blunt = replace(references, common=references.common[:0])
    victim, suspects = (blunt.deviations(models(seed, n, shared=2 * better)) for seed, n in ((2, 1), (4, 60)))
    assert agreement(victim[0], suspects).mean() > 0.5


def test_independent_models_must_not_share_the_references_images():
    """All models from outside the references' data depart from it together: among such models p is uniform, and a rank
    among models of the references' own data would accuse."""
    pool = rng(11).normal(size=(40, 6)) * 0.7
    references = ReferenceProfile.of(models(1, 24, shared=pool))
    victim, suspects = references.deviations(models(2, 1)[0]), references.deviations(models(3, 200))
    same_pool = agreement(victim, references.deviations(models(4, 99, shared=pool)))
    other_pool = agreement(victim, references.deviations(models(5, 99)))
    found = agreement(victim, suspects)
    assert np.mean([rank_p(v, same_pool) <= 0.05 for v in found]) > 0.5
    assert np.mean([rank_p(v, other_pool) <= 0.05 for v in found]) < 0.12


def test_p_is_uniform_among_independent_models():
    references = ReferenceProfile.of(models(1, 24))
    victim = references.deviations(models(2, 1)[0])
    p = []
    for k in range(400):
        found = agreement(victim, references.deviations(models(100 + k, 50)))
        p.append(rank_p(float(found[0]), found[1:]))
    assert stats.kstest(p, "uniform").pvalue > 0.01


def halves(seed, count, data, noise):
    """Deviations [count, 40, 6] of models that saw complementary halves of one pool, whose images weigh `data`."""
    pool = rng(seed).normal(size=(60, 40, 6)) * data
    found = []
    for k in range(0, count, 2):
        order = rng(seed + 1 + k).permutation(60)
        found += [pool[order[:30]].sum(0), pool[order[30:]].sum(0)]
    return np.array(found) + noise * rng(seed + 500).normal(size=(count, 40, 6))


def test_what_is_owed_to_images_spreads_further_outside_the_pool():
    """The spread within a pool, widened, is that of models with images of their own about such a pool's mean, where all
    of it is owed to images; else it is more."""
    direction = rng(8).normal(size=(40, 6))
    for data, noise in ((0.3, 0.0), (0.2, 1.0), (0.0, 1.0)):
        distances = []
        for k in range(60):
            alone = rng(3000 + k).normal(size=(30, 40, 6)).sum(0) * data + noise * rng(4000 + k).normal(size=(40, 6))
            distances.append(((alone - halves(9000 + 600 * k, 12, data, noise).mean(0)) * direction).sum())
        inside = (halves(7, 60, data, noise) * direction).sum((1, 2))
        factor = widen(inside).std() / np.std(distances)
        assert factor == pytest.approx(1, rel=0.35) if noise == 0 else factor > 0.9  # exact, or an upper bound


def test_widened_about_the_mean():
    assert np.allclose(widen(np.array([1.0, 2.0, 6.0])), 3 + 3**0.5 * np.array([-2, -1, 3]))


def test_no_single_image_decides():
    references = ReferenceProfile.of(models(1, 24))
    wild = models(2, 1)[0]
    wild[7] = 1e6
    wilder = wild.copy()
    wilder[7] = 1e12
    assert np.array_equal(references.deviations(wild), references.deviations(wilder))
    assert np.abs(references.deviations(wild)).max() < 4


def test_common_directions_do_not_use_up_what_there_is():
    """Of few answers only some directions are taken out, and what is left is no rounding error."""
    confidence = rng(3).normal(size=(84, 15, 1))
    references = ReferenceProfile.of(confidence)
    assert len(references.common) == 2
    assert np.abs(references.deviations(rng(4).normal(size=(15, 1)))).max() > 0.1
    few = np.where(np.arange(15)[:, None] < 2, confidence, 0.0)  # only two images vary, about as many as are removed
    found = ReferenceProfile.of(few).deviations(few[0])
    assert ((found == 0) | (np.abs(found) > 1e-9)).all()


def test_constant_answers_agree_with_nobody():
    references = ReferenceProfile.of(np.ones((8, 5, 3)))
    one, four = (references.deviations(np.ones(shape)) for shape in ((5, 3), (4, 5, 3)))
    assert np.array_equal(agreement(one, four), np.zeros(4))


def profiles_of(profiles, boost=0.0):
    """Models whose label confidence is the mean of their profile, and higher by `boost` on the 20 private images."""
    return ModelProfiles(profiles, profiles.mean(axis=-1) + boost * (np.arange(profiles.shape[-2]) < 20))


OWN = rng(5).normal(size=(40, 6))
SCALE = ReferenceScale.of(profiles_of(OWN), profiles_of(models(1, 24)), profiles_of(models(2, 100)), 20)


def known(other):
    """Knowledge, agreement and membership of models."""
    components = SCALE.components(*SCALE.deviations(other))
    return SCALE.knowledge(components), components[..., 0], components[..., 1]


def test_welch_t_of_many_at_once():
    scores = rng(4).normal(size=(3, 5, 30))
    found = welch_t(scores, 12)
    assert found.shape == (3, 5)
    for i in np.ndindex(3, 5):
        assert found[i] == pytest.approx(welch(scores[i][:12], scores[i][12:]).t)
    assert welch_t(np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0], [2.0] * 4]), 2).tolist() == [1e6, -1e6, 0.0]


def test_knowledge_has_two_components():
    """Descent without membership, membership without descent, and both."""
    assert np.allclose(known(profiles_of(models(2, 100)))[0], SCALE.knowledge(SCALE.null))
    descended, member, both = (
        [value.mean() for value in known(profiles_of(models(3, 50, shared=share * OWN), boost=boost))]
        for share, boost in ((0.5, 0.0), (0.0, 1.0), (0.5, 1.0))
    )
    usual = [value.mean() for value in known(profiles_of(models(4, 50)))]
    assert descended[1] > usual[1] + 0.2
    assert abs(descended[2] - usual[2]) < 1
    assert abs(member[1] - usual[1]) < 0.05
    assert member[2] > usual[2] + 2
    assert both[0] > max(descended[0], member[0]) + 1 > usual[0] + 2


def test_knowledge_is_a_distance_from_independent_models():
    mean, spread = SCALE.null.mean(axis=0), SCALE.null.std(axis=0, ddof=1)
    for z, expected in (((3, 4), 5), ((3, -4), 3), ((-3, 4), 4), ((-3, -4), 0)):
        assert SCALE.knowledge(mean + spread * np.array(z)) == pytest.approx(expected)
    assert np.allclose(SCALE.knowledge(SCALE.widened_null()), 3**0.5 * SCALE.knowledge(SCALE.null))


@pytest.mark.parametrize("count", [10, 30])
def test_p_of_knowledge_is_exact(count):
    """Where suspect and independents are exchangeable: components of one distribution, with widening undone."""
    least = 0
    for k in range(3000):
        components = rng(k).normal(size=(count + 1, 2)) * [0.1, 3.0]
        mean = components[:-1].mean(axis=0)
        null = mean + (components[:-1] - mean) / 3**0.5  # widening undoes this
        least += replace(SCALE, null=null).p_value(components[-1]) <= 1 / (count + 1)
    assert stats.binomtest(least, 3000, 1 / (count + 1)).pvalue > 0.01


def test_intervals_of_knowledge_hold_what_they_are_of():
    thief = profiles_of(models(3, 1, shared=0.6 * OWN)[0], boost=0.5)
    for interval, value in zip(SCALE.bootstrap(*SCALE.deviations(thief)), known(thief), strict=False):
        assert interval[0] < value < interval[1]
    again = SCALE.bootstrap(*SCALE.deviations(thief))
    assert np.array_equal(again, SCALE.bootstrap(*SCALE.deviations(thief)))


def test_p_by_samples_ends_at_the_p_of_all():
    null = 3**0.5 * known(profiles_of(models(2, 100)))[0]
    suspects = profiles_of(models(3, 2, shared=0.3 * OWN), boost=0.3)
    victim, references, independents = map(profiles_of, (OWN, models(1, 24), models(2, 100)))
    curves = p_by_samples(victim, suspects, references, independents, 20, (2, 5, 20, 80))
    for curve, knowledge in zip(curves, known(suspects)[0], strict=True):
        assert [point.samples for point in curve] == [2, 5, 20]
        last = curve[-1]
        assert last.low == last.median == last.high == rank_p(float(knowledge), null)
        assert curve[0].median > curve[-1].median
        assert all(point.low <= point.median <= point.high for point in curve)


# ---- Verdicts


def embedded(profile, shift=0.0):
    """Features say what the profile says, and private images (the first half) are `shift` further away."""
    features = profile + shift * (np.arange(len(profile)) < len(profile) // 2)[:, None]
    return ImageEmbeddings(features, profile, profile.mean(axis=1), queries=len(profile))


def decisions_on(suspects, alpha=0.01, independents=100):
    own = rng(5).normal(size=(40, 6))
    embeddings = OwnershipEmbeddings(
        num_private=20,
        victim=embedded(own, 1.0),
        suspects={name: embedded(profile, shift) for name, (profile, shift) in suspects.items()},
        references=[embedded(profile) for profile in models(1, 24)],
        independents=[embedded(profile) for profile in models(2, independents)],
    )
    private = np.arange(120) < 60
    data = RegressorData(rng(9).normal(size=(120, 6)) + private[:, None], private)
    return decide(embeddings, data, list(REGRESSORS.values()), alpha=alpha, seed=3)


def test_verdicts_and_evidence():
    own = rng(5).normal(size=(40, 6))
    result = decisions_on(
        {
            "thief": (models(3, 1, shared=0.7 * own)[0], 1.0),
            "independent": (models(21, 1)[0], 0.0),
            "seen": (models(22, 1)[0], 1.5),
        }
    )
    thief, independent, seen = result.suspects.values()
    assert (thief.verdict, result.victim.verdict) == (STOLEN, STOLEN)
    assert independent.verdict != STOLEN
    assert [one.name for one in thief.evidence] == [
        "knowledge",
        "agreement",
        "membership",
        "confidence: perceptron",
        "confidence: logistic regression",
    ]
    assert {(one.p_welch, one.p_harmonic) for one in thief.evidence[:3]} == {(None, None)}
    for one in seen.evidence[3:]:  # knows the private images, but shares nothing else with the victim
        assert one.p_calibrated == pytest.approx(1 / 101)
        assert one.p_welch < 1e-3
        assert one.low < one.effect < one.high
    assert len(result.null_knowledge) == 100
    assert result.victim.evidence[1].effect == pytest.approx(1)


@pytest.mark.slow
def test_between_stolen_and_independent_there_is_a_doubt():
    cases = {f"s{k}": (models(100 + k, 1, shared=0.005 * k * OWN)[0], 0.0) for k in range(60)}
    result = decisions_on(cases)
    for one in result.suspects.values():
        p = one.evidence[0].p_calibrated
        expected = STOLEN if p <= 0.01 else INDEPENDENT if p > 0.1 else INCONCLUSIVE
        assert one.verdict == expected
        assert bool(one.reasons) == (one.verdict == INCONCLUSIVE)
    assert {one.verdict for one in result.suspects.values()} >= {INDEPENDENT, INCONCLUSIVE}


def test_an_embedding_that_does_not_know_the_victim_acquits_nobody():
    """Where no walk arrives, all answers are the same."""
    blank = ImageEmbeddings(np.ones((40, 6)), np.ones((40, 6)), np.ones(40), 40)
    embeddings = OwnershipEmbeddings(20, blank, {"thief": blank}, [blank] * 24, [blank] * 100)
    private = np.arange(120) < 60
    result = decide(embeddings, RegressorData(np.ones((120, 6)), private), [], alpha=0.01, seed=0)
    thief = result.suspects["thief"]
    assert thief.verdict == INCONCLUSIVE
    assert thief.reasons == ("this embedding cannot tell even the victim itself from independent models",)


@pytest.mark.parametrize(
    ("p", "alpha", "verdict"), [(0.3, 0.1, INDEPENDENT), (0.15, 0.1, INCONCLUSIVE), (0.4, 0.5, STOLEN)]
)
def test_large_alphas_leave_room_for_independence(p, alpha, verdict):
    assert decide_verdict(p, alpha, is_blind=False)[0] == verdict


def test_which_images_are_private_does_not_matter_to_agreement():
    """Agreement is descent from the victim or its images: it does not ask which of the images are private."""
    own = rng(5).normal(size=(40, 6))
    swap = np.r_[20:40, 0:20]
    profiles = {name: models(seed, 1, shared=share * own)[0] for name, seed, share in (("a", 3, 0.5), ("b", 4, 0.0))}

    def results(order):
        embeddings = OwnershipEmbeddings(
            num_private=20,
            victim=embedded(own[order], 1.0),
            suspects={name: embedded(profile[order], 1.0) for name, profile in profiles.items()},
            references=[embedded(profile[order]) for profile in models(1, 24)],
            independents=[embedded(profile[order]) for profile in models(2, 100)],
        )
        private = np.arange(120) < 60
        data = RegressorData(rng(9).normal(size=(120, 6)) + private[:, None], private)
        found = decide(embeddings, data, [], alpha=0.01, seed=3)
        return np.array([[e.p_calibrated for e in one.evidence] for one in found.suspects.values()])

    one, other = results(np.arange(40)), results(swap)
    assert np.array_equal(one[:, 1], other[:, 1])
    assert not np.array_equal(one[:, 2], other[:, 2])
