"""The ownership audit end to end on digits: embeddings, the role of each image, verdicts, and refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pydrift.core.errors import InputRefused, UsageError
from pydrift.data import LabelledImages, load_data
from pydrift.models.arch import build
from pydrift.models.classifier import Classifier, freeze
from pydrift.models.recipe import TrainingRecipe
from pydrift.ownership import EMBEDDINGS, BlindWalk, MinGd, OwnershipReport, ownership_audit
from pydrift.ownership.embeddings import nearest_classes
from pydrift.ownership.roles import Roles
from pydrift.report import write_report
from pydrift.training import train_many
from tests.seals import resealed

pytestmark = pytest.mark.slow

ARCH, RECIPE = "mlp:1x8x8:32:10", TrainingRecipe(epochs=40)
FEW = {"samples": 30, "independents": 40, "references": 12, "alpha": 0.05, "recipe": RECIPE}
CPU = torch.device("cpu")
CLASSES = 10


def trained(arch, images, seed, labels=None):
    y = images.y if labels is None else labels
    return train_many([build(arch, seed)], images.x, y, [np.arange(len(images))], [RECIPE], [seed], device=CPU)[0]


@pytest.fixture(scope="module")
def world():
    """Private images, public images, and images that are in neither set."""
    digits = load_data("digits")
    order = np.random.default_rng(0).permutation(len(digits))
    return [digits.subset(part) for part in np.split(order, [250, 1150])]


@pytest.fixture(scope="module")
def victim(world):
    return trained(ARCH, world[0], 1)


@pytest.fixture(scope="module")
def suspects(world, victim):
    private, _, other = world
    return {
        "copy": victim,
        "architecture": trained("mlp:1x8x8:48:10", private, 2),
        "independent": trained(ARCH, other.subset(range(200)), 3),
    }


@pytest.fixture(scope="module")
def reports(world, victim, suspects):
    private, public, _ = world
    return {name: ownership_audit(victim, suspects, private, public, embedding=name, **FEW) for name in EMBEDDINGS}


# ---- Embeddings


def plain(model):
    """The same classifier as a user's own module would be: not lowered."""
    return replace(model, fused=None)


@pytest.mark.parametrize("embedding", [MinGd(max_steps=60, linf_step=0.01, l2_step=0.05), BlindWalk(scale=0.05)])
def test_lowered_or_not_it_is_the_same_embedding(world, victim, embedding):
    model, images = freeze(victim, (1, 8, 8), CPU), world[0].subset(range(12))
    classes = nearest_classes(model, images.x, CLASSES)
    native, generic = (embedding.embed(m, images.x, images.y, classes) for m in (model, plain(model)))
    assert native.queries == generic.queries
    np.testing.assert_allclose(native.features, generic.features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(native.profile, generic.profile, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(native.label_confidence, generic.label_confidence, rtol=1e-4, atol=1e-5)


def test_min_gd_measures_to_every_class_in_three_norms(world, victim):
    model, images = freeze(victim, (1, 8, 8), CPU), world[0].subset(range(12))
    classes = nearest_classes(model, images.x, CLASSES)
    found = MinGd().embed(model, images.x, images.y, classes)
    sorted_by_norm = found.features.reshape(12, CLASSES, 3)
    assert (np.diff(sorted_by_norm, axis=1) >= 0).all()
    assert (sorted_by_norm[:, 0] == 0).all()  # its own class
    assert (sorted_by_norm[:, 1:] > 0).all()
    linf, l2, l1 = np.moveaxis(sorted_by_norm[:, 1], -1, 0)
    assert (linf < l2).all()
    assert (l2 < l1).all()
    profile = found.profile.reshape(12, CLASSES, 3)
    own = model.logits(images.x).argmax(1)
    assert (classes[:, 0] == own).all()
    assert np.allclose(np.exp(profile[:, 0]), [0.001, 0.01, 0.01 * 64])  # one step, where the distance is 0
    p = model.logits(images.x).double().softmax(1).gather(1, images.y[:, None])[:, 0]
    np.testing.assert_allclose(found.label_confidence, (p / (1 - p)).log(), rtol=1e-4)


def test_only_the_nearest_classes_are_walked_to(world, victim):
    model, images = freeze(victim, (1, 8, 8), CPU), world[0].subset(range(3))
    classes = nearest_classes(model, images.x, 4)
    assert classes.shape == (3, 4)
    assert torch.equal(classes, model.logits(images.x).argsort(1, descending=True)[:, :4])
    assert MinGd().embed(model, images.x, images.y, classes).features.shape == (3, 12)


def test_blind_walk_asks_for_labels_only_and_few_of_them(world, victim):
    model, images = freeze(victim, (1, 8, 8), CPU), world[0].subset(range(30))

    def labels_only(x):
        return torch.nn.functional.one_hot(model.forward(x).argmax(1), CLASSES).float()

    label_only = replace(plain(model), forward=labels_only)
    classes = nearest_classes(model, images.x, CLASSES)
    with_logits, with_labels = (BlindWalk().embed(m, images.x, images.y, classes) for m in (plain(model), label_only))
    assert np.array_equal(with_logits.features, with_labels.features)
    assert np.array_equal(with_logits.profile, with_labels.profile)
    assert 30 * (6 + 30) <= with_logits.queries <= 30 * (6 * 21 + 30)
    assert 180 * (6 * 21 + 30 + 1) < 30_000  # of 60 private and 120 public images, whatever the model


@pytest.mark.parametrize("embedding", [MinGd(max_steps=60), BlindWalk(), BlindWalk(scale=0.05, starts=3)])
def test_queries_are_the_images_that_the_model_was_shown(world, victim, embedding):
    model, images, shown = plain(freeze(victim, (1, 8, 8), CPU)), world[0].subset(range(40)), []

    def counted(x):
        shown.append(len(x))
        return model.forward(x)

    classes = nearest_classes(model, images.x, CLASSES)
    found = embedding.embed(replace(model, forward=counted), images.x, images.y, classes)
    assert found.queries == sum(shown)


def test_more_queries_than_promised_are_named():
    """Of a model whose label never changes and is always right, so that every walk is as long as it may be."""
    images = load_data("digits")
    images = replace(images, y=torch.full_like(images.y, 9))
    stubborn = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    with torch.no_grad():
        stubborn[1].weight.mul_(1e-3)
        stubborn[1].bias.copy_(torch.arange(10.0))
    parts = [images.subset(range(n, n + 470)) for n in (0, 470)]
    few = {"independents": 10, "references": 8, "alpha": 0.1, "recipe": TrainingRecipe(epochs=1), "fit_on": 20}
    for samples, queries in ((63, 189 * 157), (64, 192 * 157)):
        report = ownership_audit(stubborn, [stubborn], *parts, samples=samples, **few)
        assert report.suspects[0].queries == queries
        named = [reason for reason in report.reasons if "more than the 30,000" in reason]
        assert len(named) == (samples == 64)
        assert not named or named[0].startswith("a model was shown 30,144 images, more than the 30,000 ")


def test_noisy_copies_are_counted_by_their_labels(world):
    """Of a model that tells dark images from light ones, for images on either side of the border and on it."""

    def forward(x):
        light = x.flatten(1).mean(dim=1) - 0.5
        return torch.stack([-light, light], dim=1)

    model = Classifier(forward, (1, 8, 8), 2, CPU, "generic: a test")
    x = torch.tensor([0.2, 0.5, 0.8]).view(3, 1, 1, 1).expand(3, 1, 8, 8).contiguous()
    found = BlindWalk(copies=300).embed(model, x, torch.tensor([0, 0, 1]), torch.zeros(3, 1, dtype=torch.int64))
    assert found.profile.shape == (3, 2)
    assert np.allclose(found.profile.sum(axis=1), 1)
    assert found.profile[0].tolist() == [1, 0]
    assert found.profile[2].tolist() == [0, 1]
    assert 0.3 < found.profile[1, 0] < 0.7
    assert found.label_confidence.tolist() == [1, found.profile[1, 0], 1]


def test_blind_walks_go_the_same_ways_for_every_model():
    walk = BlindWalk(starts=2, scale=0.1)
    directions = walk.directions((3, 9, 9))
    assert torch.equal(directions, BlindWalk(starts=2, scale=0.1).directions((3, 9, 9)))
    assert not torch.equal(directions, BlindWalk(starts=2, scale=0.1, seed=1).directions((3, 9, 9)))
    uniform, normal, laplace = directions.split(2)
    assert uniform.abs().max() <= 0.1
    assert normal.std().item() == pytest.approx(0.1, rel=0.15)
    assert laplace.abs().mean().item() == pytest.approx(0.2, rel=0.15)  # of Laplace, the mean size is its parameter


@pytest.mark.parametrize("embedding", [MinGd(), BlindWalk()])
def test_models_that_break_down_are_named(world, victim, suspects, embedding):
    broken = build(ARCH, 0)
    with torch.no_grad():
        broken[1].weight[0, 0] = 1e38  # finite, but not what follows
        broken[3].weight[:, 0] = 1e38
    private, public, _ = world
    with pytest.raises(InputRefused, match=r"^bad: gives (non-finite logits|logits or gradients that are not finite)"):
        ownership_audit(victim, {"bad": broken}, private, public, embedding=embedding, **FEW)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MinGd(max_steps=0), "min-gd: max_steps and l1_coordinates must be >= 1"),
        (lambda: MinGd(l2_step=0), "min-gd: max_steps"),
        (lambda: BlindWalk(starts=0), "blind-walk: starts and max_steps must be >= 1, copies a multiple of 3, scale"),
        (lambda: BlindWalk(scale=float("inf")), "blind-walk: starts"),
        (lambda: BlindWalk(copies=32), "blind-walk: starts"),
        (lambda: BlindWalk(reach=0.0), "blind-walk: starts"),
    ],
)
def test_settings_of_embeddings_are_checked(make, words):
    with pytest.raises(UsageError, match=words):
        make()


# ---- The role of each image


def test_no_image_has_two_roles():
    roles = Roles.of(300, 700, samples=20, fit_on=250, seed=0)
    public = [roles.public_asked, roles.public_fitted, roles.reference_pool, roles.independent_pool]
    private = [roles.private_asked, roles.private_fitted]
    for parts, total in ((public, 700), (private, 300)):
        everything = np.concatenate(parts)
        assert len(np.unique(everything)) == len(everything) <= total
    assert len(np.concatenate(public)) == 699  # two pools of one size
    assert [len(part) for part in (*private, *public)] == [20, 165, 40, 165, 247, 247]
    again = Roles.of(300, 700, samples=20, fit_on=250, seed=0)
    assert all(np.array_equal(a, b) for a, b in zip(vars(roles).values(), vars(again).values(), strict=True))
    assert not np.array_equal(roles.private_asked, Roles.of(300, 700, 20, 250, seed=1).private_asked)


@pytest.mark.parametrize(("private", "public"), [(39, 10_000), (10_000, 219)])
def test_too_few_images_are_refused(private, public):
    words = f"20 samples need 40 private images and 220 public images, got {private} and {public}"
    with pytest.raises(InputRefused, match=words):
        Roles.of(private, public, samples=20, fit_on=250, seed=0)
    Roles.of(max(private, 40), max(public, 220), samples=20, fit_on=250, seed=0)


# ---- Verdicts


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_stolen_models_are_found_and_independent_ones_are_not(reports, embedding):
    copy, architecture, independent = reports[embedding].suspects
    assert (copy.verdict, copy.p) == ("stolen", 1 / 41)
    assert copy.evidence[1].effect == pytest.approx(1)
    assert architecture.p < 0.1 < independent.p
    assert independent.verdict != "stolen"
    assert independent.knowledge.effect < architecture.knowledge.effect
    assert replace(reports[embedding].victim, name="copy", sha256=copy.sha256) == copy


def test_the_report_says_how_it_was_made(reports, world):
    report = reports["min-gd"]
    assert (report.null.references, report.null.independents, len(report.null.knowledge_widened)) == (12, 40, 40)
    assert report.null.draw == "complementary halves of 315 images"
    assert report.embedding == "MinGD (white box)"
    assert (report.provenance.private_sha256, report.provenance.public_sha256) == (world[0].sha256, world[1].sha256)
    assert report.provenance.settings["recipe"]["epochs"] == 40
    assert report.reasons[:2] == (
        "each of 3 suspects is judged by itself: if all are independent, the chance that one of them is accused is up "
        "to 3 times alpha",
        "each independent model saw 157 images and the victim 250: with more public images they would resemble it more",
    )
    assert set(report.provenance.paths) == {"victim", "copy", "architecture", "independent"}


def test_accuracies_are_of_the_images_asked_about(reports, world, victim):
    roles = Roles.of(len(world[0]), len(world[1]), samples=30, fit_on=250, seed=0)
    found = reports["min-gd"].victim
    asked = ((world[0], roles.private_asked, "private"), (world[1], roles.public_asked, "public"))
    for images, indices, name in asked:
        part = images.subset(indices)
        right = float((victim(part.x).argmax(1) == part.y).double().mean())
        assert getattr(found, f"accuracy_{name}") == right


def test_saved_and_read_again(reports, tmp_path):
    report = reports["blind-walk"]
    write_report(report, tmp_path / "out")
    assert OwnershipReport.load(tmp_path / "out") == report
    raw = json.loads((tmp_path / "out" / "ownership.json").read_text())
    for damaged, reason in (
        ({}, "not an ownership report"),
        ({**raw, "schema_version": 3}, "an ownership report of schema version 3; this pydrift reads version 5"),
        ({**raw, "suspects": [{}]}, "not a readable ownership report: suspects: Object missing required field"),
        ({**raw, "more": 1}, "not a readable ownership report: 'more' is unknown"),
    ):
        (tmp_path / "out" / "ownership.json").write_text(resealed(damaged))
        with pytest.raises(InputRefused, match=rf"ownership\.json: {reason}"):
            OwnershipReport.load(tmp_path / "out")
    assert report.digest() == replace(report).digest() != replace(report, alpha=0.01).digest()


def test_the_same_seed_gives_the_same_result(world, victim, suspects, reports, tmp_path):
    private, public, _ = world
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = ownership_audit(victim, suspects, private, public, embedding="blind-walk", resume_dir=tmp_path, **FEW)
    finally:
        torch.set_num_threads(threads)
    assert again.suspects == reports["blind-walk"].suspects
    assert again.null == reports["blind-walk"].null
    once_more = ownership_audit(victim, suspects, private, public, embedding="blind-walk", resume_dir=tmp_path, **FEW)
    assert once_more.suspects == again.suspects
    other = ownership_audit(victim, suspects, private, public, embedding="blind-walk", seed=1, **FEW)
    assert other.null.knowledge != again.null.knowledge


def test_the_user_may_train_and_name(world, victim):
    private, public, other = world

    def train(x, y, seed):
        images = LabelledImages(x, y, private.class_names, "")
        return trained(ARCH, images, seed % 1000)

    settings = {**FEW, "recipe": None}
    report = ownership_audit(victim, [victim, trained(ARCH, other, 3)], private, public, train=train, **settings)
    assert [suspect.name for suspect in report.suspects] == ["suspect 0", "suspect 1"]
    assert report.suspects[0].verdict == "stolen"
    assert "recipe" in report.provenance.settings


# ---- What is refused


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"embedding": "walk"}, UsageError, "no such embedding: 'walk'; known are blind-walk, min-gd"),
        ({"samples": 4}, UsageError, "samples must be at least 5, got 4"),
        ({"references": 7}, UsageError, "references must be at least 8, got 7"),
        ({"independents": 9}, UsageError, "independents must be at least 10, got 9"),
        (
            {"independents": 21},
            UsageError,
            "independents must be an even number, since they are trained on complementary halves; got 21",
        ),
        ({"fit_on": 3}, UsageError, "fit_on must be at least 20, got 3"),
        ({"alpha": 0.0}, UsageError, "alpha must lie between 0 and 1, got 0"),
        ({"alpha": 0.01}, UsageError, "with 40 independent models no p is below 1/41; alpha 0.01 needs 100 of them"),
        ({"seed": -1}, UsageError, r"seed must be in 0\.\.2\*\*63 - 1, got -1"),
        ({"samples": 250}, InputRefused, "250 samples need 270 private images"),
    ],
)
def test_bad_settings_are_refused(world, victim, suspects, change, error, words):
    private, public, _ = world
    with pytest.raises(error, match=words):
        ownership_audit(victim, suspects, private, public, **{**FEW, **change})


def test_images_that_are_private_and_public_are_refused(world, victim, suspects):
    private, public, _ = world
    both = LabelledImages(
        torch.cat([public.x, private.x[7:8]]), torch.cat([public.y, private.y[7:8]]), public.class_names, "p"
    )
    with pytest.raises(InputRefused, match="public: image 900 is private image 7; no image may be in both"):
        ownership_audit(victim, suspects, private, both, **FEW)


def test_what_occurs_twice_is_used_once(world, victim):
    private, public, _ = world
    twice = LabelledImages(
        torch.cat([public.x, public.x[:300]]), torch.cat([public.y, public.y[:300]]), public.class_names, "p"
    )
    once, again = (
        ownership_audit(victim, [victim], private, images, embedding="blind-walk", **FEW) for images in (public, twice)
    )
    assert once.suspects == again.suspects
    assert once.null == again.null


def test_other_classes_are_refused(world, victim):
    private, public, _ = world
    names = tuple(reversed(public.class_names))
    with pytest.raises(InputRefused, match="other class names, or the same in another order"):
        ownership_audit(victim, [victim], private, replace(public, class_names=names), **FEW)


def test_suspects_that_do_not_fit_are_refused(world, victim):
    private, public, _ = world
    with pytest.raises(InputRefused, match="small has 4 classes, but the victim has 10"):
        ownership_audit(victim, {"small": build("mlp:1x8x8:8:4", 0)}, private, public, **FEW)
    with pytest.raises(InputRefused, match="large: does not take images of shape 1x8x8"):
        ownership_audit(victim, {"large": build("mlp:1x28x28:8:10", 0)}, private, public, **FEW)
    with pytest.raises(UsageError, match="suspects: 'victim' is the victim's name; give this one another"):
        ownership_audit(victim, {"victim": victim}, private, public, **FEW)
    with pytest.raises(UsageError, match="suspects: name at least one model"):
        ownership_audit(victim, [], private, public, **FEW)
    with pytest.raises(InputRefused, match="public: images of 1x28x28, but the private ones are of 1x8x8"):
        ownership_audit(victim, [victim], private, (torch.rand(50, 28, 28), torch.arange(50) % 10), **FEW)
    with pytest.raises(UsageError, match=r"suspects: a\.safetensors is named twice"):
        ownership_audit(victim, ["a.safetensors", "a.safetensors"], private, public, **FEW)
