"""The orchestrator on real, small models: an MLP on scikit-learn's digits."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import pydrift
from pydrift import DriftAuditor, InputRefused, TrainingRecipe, UsageError
from pydrift.core.tensors import tensors_digest
from pydrift.data import LabelledImages
from pydrift.drift.calibration import GUESSED
from pydrift.drift.probes import OCCLUSION_COLOURS, SHAPE_KINDS, TRANSFORMS
from pydrift.drift.responses import GRAY, OCCLUSIONS, OWN_GRAY, REFERENCE, SYNTHETIC_SHAPES
from pydrift.models.file import load_model, save_model
from pydrift.report.drift_wording import baseline_rows
from pydrift.training import train
from pydrift.training.train_model import train_model
from tests.seals import unsealed

pytestmark = pytest.mark.slow

SHADOWS, RESTARTS = 24, 4


def make_auditor(digits, **options):
    """Of shadows by the base's recipe, unless set otherwise."""
    return DriftAuditor(digits.path("base"), **{"shadows": SHADOWS, "restarts": RESTARTS, "recipes": "same", **options})


@pytest.fixture(scope="module")
def auditor(digits):
    """Of both nulls. The candidates' files record the base's recipe, so the null of that recipe judges them."""
    return make_auditor(digits, recipes="both").fit(digits.data)


def without_times(report):
    plain = unsealed(report.to_json())
    del plain["provenance"]["seconds"], plain["provenance"]["restart_steps_per_second"]
    return plain


def test_drift_is_found_and_named(auditor, digits):
    report = auditor.compare(digits.path("swapped"))
    assert report.verdict == "drift"
    assert report.p_value == min(c.p_adjusted for c in report.classes) <= 0.05
    assert {c.name for c in report.classes if c.verdict == "drift"} >= {"3", "8"}
    assert {c.index for c in sorted(report.classes, key=lambda c: c.drift_score)[-2:]} == {3, 8}
    assert all(list(c.signals) == [*TRANSFORMS, OWN_GRAY, *OCCLUSION_COLOURS, *SHAPE_KINDS] for c in report.classes)


def test_benign_retrain_is_stable(auditor, digits):
    report = auditor.compare(digits.path("benign"))
    assert report.verdict == "stable"
    assert report.p_value > 0.05
    assert all(c.verdict == "stable" for c in report.classes)


def stripped(path):
    """The model of a file as a live module, of which nobody knows the recipe."""
    return load_model(path).module


def recorded(digits, name, folder, **changes):
    """The file of a model, with another recipe than it was trained by."""
    file = load_model(digits.path(name))
    recipe = replace(TrainingRecipe.from_json(file.metadata["recipe"]), **changes)
    changed = folder / f"{name}-{'-'.join(changes)}.safetensors"
    save_model(changed, file.module, file.arch, {**file.metadata, "recipe": recipe.to_json()})
    return changed


def test_what_is_known_of_the_recipe_chooses_the_null(auditor, digits, tmp_path):
    assert set(auditor.calibration.nulls) == {"same", "varied"}
    assert {len(null.shadows) for null in auditor.calibration.nulls.values()} == {SHADOWS}
    benign = digits.path("benign")
    base = auditor.calibration.recipe
    in_range = replace(base, learning_rate=1.5 * base.learning_rate)
    for candidate, recipe, kind in [
        (benign, None, "same"),  # by what its file records
        (stripped(benign), None, "varied"),
        (stripped(benign), "same", "same"),
        (stripped(benign), base, "same"),
        (stripped(benign), in_range, "varied"),
        (recorded(digits, "benign", tmp_path, learning_rate=in_range.learning_rate), None, "varied"),
        (
            recorded(digits, "benign", tmp_path, epochs=999),
            "same",
            "same",
        ),  # what is stated counts, not what is recorded
    ]:
        report = auditor.compare(candidate, recipe=recipe)
        assert (report.verdict, report.null.recipes) == ("stable", kind), report.reasons
        assert all("recipe" not in reason for reason in report.reasons)


def test_without_a_recipe_a_drift_is_found_too(auditor, digits):
    report = auditor.compare(stripped(digits.path("swapped")))
    assert (report.verdict, report.null.recipes) == ("drift", "varied")
    assert {c.name for c in report.classes if c.verdict == "drift"} >= {"3", "8"}


@pytest.mark.parametrize("name", ["benign", "swapped"])
def test_a_recipe_outside_the_range_is_inconclusive_and_said(auditor, digits, tmp_path, name):
    report = auditor.compare(recorded(digits, name, tmp_path, epochs=999, optimizer="sgd"))
    assert {report.verdict, *(c.verdict for c in report.classes)} == {"inconclusive"}
    assert report.reasons == (
        "the recipe is outside what was calibrated: the candidate's departs too far from the base's (epochs, "
        "optimizer); calibrate by the candidate's recipe",
    )


def test_another_recipe_than_that_of_all_shadows_is_inconclusive_and_an_unknown_one_is_said(digits, tmp_path):
    alone = make_auditor(digits, shadows=12, restarts=2).fit(digits.data)
    report = alone.compare(recorded(digits, "benign", tmp_path, label_smoothing=0.05))
    assert report.verdict == "inconclusive"
    assert report.reasons[0].startswith(
        "the recipe is outside what was calibrated: the candidate's differs from the base's (label_smoothing), by which"
    )
    unknown = alone.compare(stripped(digits.path("benign")))
    assert unknown.null.recipes == "same"
    assert unknown.reasons[-1].startswith(
        "the candidate's recipe is not known, and the shadows were all trained by one"
    )


def test_for_one_candidate_only_its_null_is_made(digits):
    options = {"shadows": 4, "restarts": 1, "recipes": "both"}
    for candidate, recipe, kind in [
        (digits.path("benign"), None, "same"),
        (stripped(digits.path("benign")), None, "varied"),
        (stripped(digits.path("benign")), "same", "same"),
    ]:
        fitted = make_auditor(digits, **options).fit(digits.data, candidate=candidate, recipe=recipe)
        assert list(fitted.calibration.nulls) == [kind]
    options = {"data": digits.data, "shadows": 4, "restarts": 1}
    report = pydrift.audit(digits.path("base"), stripped(digits.path("benign")), candidate_recipe="same", **options)
    assert report.null.recipes == "same"


def test_the_candidate_may_be_of_another_architecture_than_the_base(digits, tmp_path):
    train_model("mlp:1x8x8:20:10", digits.data, size=1000, seed=9).save(tmp_path / "other.safetensors")
    options = {"data": digits.data, "shadows": 4, "restarts": 1}
    report = pydrift.audit(digits.path("base"), tmp_path / "other.safetensors", **options)
    assert report.baselines.relative_weight_change is None
    assert report.null.recipes == "same"


def test_a_recipe_that_is_none_is_refused(auditor, digits):
    with pytest.raises(UsageError, match=r"^recipe must be 'same' or a TrainingRecipe, got 'mine'$"):
        auditor.compare(digits.path("benign"), recipe="mine")


def test_same_model_is_stable_with_effect_zero(auditor, digits):
    report = auditor.compare(digits.path("base"))
    assert (report.verdict, report.p_value) == ("stable", 1.0)
    assert report.reasons[0].endswith("taken for the same function")
    assert all((c.drift_score, c.p_value, c.p_adjusted) == (0.0, 1.0, 1.0) for c in report.classes)
    assert report.baselines.relative_weight_change == 0


def test_same_function_with_permuted_neurons_has_effect_zero(auditor, digits):
    module = copy.deepcopy(load_model(digits.path("base")).module)
    first, second = [m for m in module.modules() if isinstance(m, nn.Linear)]
    order = torch.randperm(len(first.weight), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first.weight.copy_(first.weight[order])
        first.bias.copy_(first.bias[order])
        second.weight.copy_(second.weight[:, order])
    report = auditor.compare(module)
    assert report.baselines.relative_weight_change > 0.5
    assert [c.drift_score for c in report.classes] == [0.0] * 10


def test_verdict_does_not_depend_on_the_data_given_for_the_baselines(auditor, digits):
    blind, informed = auditor.compare(digits.path("benign")), auditor.compare(digits.path("benign"), digits.holdout)
    assert blind.classes == informed.classes
    assert blind.baselines.accuracy_base is None
    assert informed.baselines.images == len(digits.holdout)
    assert 0.9 < informed.baselines.accuracy_base <= 1
    assert informed.baselines.relative_weight_change == blind.baselines.relative_weight_change > 0


def test_a_fingerprint_of_the_base_says_which_gray_data_it_knows(auditor, digits, tmp_path):
    pydrift.fit_fingerprint(digits.path("base"), digits.data, detector="energy").save(tmp_path / "base.fp")
    plain = auditor.compare(digits.path("swapped"))
    report = auditor.compare(digits.path("swapped"), fingerprint=tmp_path / "base.fp")
    assert (report.verdict, report.classes) == (plain.verdict, plain.classes)
    assert plain.baselines.gray_known_base is None
    scorer = pydrift.Fingerprint.load(tmp_path / "base.fp").scorer(digits.path("base"))
    for shares, gray in (
        (report.baselines.gray_known_base, report.gray_base),
        (report.baselines.gray_known_candidate, report.gray_candidate),
    ):
        p = scorer.score(torch.from_numpy(gray.images).flatten(0, 1)).p.reshape(10, RESTARTS)
        assert shares == tuple((p > 0.05).mean(axis=1))
    pydrift.write_report(report, tmp_path / "report")
    assert pydrift.DriftReport.load(tmp_path / "report").baselines == report.baselines
    line = dict(baseline_rows(report.baselines))["gray images that the base's fingerprint knows"]
    assert line.startswith(f"{100 * np.mean(report.baselines.gray_known_base):.2f} % of the base's, ")
    other = pydrift.fit_fingerprint(digits.path("benign"), digits.data, detector="energy")
    with pytest.raises(InputRefused, match=r"^base.safetensors: the fingerprint is of another model \(benign\."):
        auditor.compare(digits.path("swapped"), fingerprint=other)


def test_reference_data_may_be_one_more_probe(auditor, digits):
    blind, informed = (
        {
            name: auditor.compare(digits.path(name), digits.holdout, use_data=use)
            for name in ("base", "benign", "swapped")
        }
        for use in (False, True)
    )
    assert [report.verdict for report in informed.values()] == ["stable", "stable", "drift"]
    assert all(c.drift_score == 0 and c.signals[REFERENCE] == 0 for c in informed["base"].classes)
    for without, c in zip(blind["swapped"].classes, informed["swapped"].classes, strict=True):
        assert c.signals.keys() - without.signals.keys() == {REFERENCE}
        assert c.drift_score != without.drift_score
    by_data = sorted(informed["swapped"].classes, key=lambda c: c.signals[REFERENCE])
    assert {c.name for c in by_data[-2:]} == {"3", "8"}
    probes = {GRAY: [*TRANSFORMS, OWN_GRAY], OCCLUSIONS: list(OCCLUSION_COLOURS), SYNTHETIC_SHAPES: list(SHAPE_KINDS)}
    assert blind["swapped"].provenance.settings["probes"] == probes
    assert informed["swapped"].provenance.settings["probes"] == probes | {REFERENCE: [REFERENCE]}


def test_reference_data_that_cannot_be_asked_about_are_refused(auditor, digits):
    with pytest.raises(
        UsageError, match=r"^there is nothing to look at: use_data \(--use-data\) needs data \(--data\)$"
    ):
        auditor.compare(digits.path("benign"), use_data=True)
    some = digits.holdout.subset(digits.holdout.y != 4)
    with pytest.raises(InputRefused, match=r"^digits \(test\): has no image of class '4', so it cannot serve as ref"):
        auditor.compare(digits.path("benign"), some, use_data=True)
    assert auditor.compare(digits.path("benign"), some).verdict == "stable"


def test_a_saved_calibration_gives_the_same_report(auditor, digits, tmp_path):
    auditor.save(tmp_path / "calibration")
    again = DriftAuditor.load(tmp_path / "calibration").compare(digits.path("swapped"))
    assert without_times(again) == without_times(auditor.compare(digits.path("swapped")))


def test_reports_survive_saving(auditor, digits, tmp_path):
    report = auditor.compare(digits.path("swapped"), digits.holdout)
    pydrift.write_report(report, tmp_path)
    loaded = pydrift.DriftReport.load(tmp_path)
    assert loaded.to_json() == report.to_json()
    assert np.array_equal(loaded.gray_candidate.images, report.gray_candidate.images)


def test_two_runs_give_the_same_bits_whatever_the_threads(digits):
    before, digests = torch.get_num_threads(), set()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            fitted = make_auditor(digits, recipes="both", shadows=6, restarts=2).fit(digits.data)
            digests.add(fitted.calibration.digest())
        assert len(digests) == 1
    finally:
        torch.set_num_threads(before)


def test_the_null_can_be_finetuned(digits):
    auditor = make_auditor(digits, shadows=12, update_mode="finetune").fit(digits.data)
    assert auditor.calibration.nulls["same"].base_p_value is None  # the base is not one of its updates
    assert auditor.compare(digits.path("tuned")).verdict == "stable"
    assert auditor.compare(digits.path("swapped")).verdict == "drift"
    assert auditor.compare(digits.path("tuned")).null.update_mode == "finetune"


def test_benign_versions_join_the_shadows(digits, tmp_path):
    options = {"shadows": 16, "restarts": 4, "recipes": "same", "size": 1000}
    alone, joined = (
        make_auditor(digits, benign_versions=earlier, **options).fit(digits.data)
        for earlier in ([], [digits.path("swapped")])
    )
    fitted, null, before = joined.calibration, joined.calibration.nulls["same"], alone.calibration.nulls["same"]
    assert [tensors_digest(m.state_dict()) for m in null.shadows] == [
        *(tensors_digest(m.state_dict()) for m in before.shadows),
        tensors_digest(load_model(digits.path("swapped")).module.state_dict()),
    ]
    assert null.accuracy == (*before.accuracy, None)
    assert (fitted.settings["benign_versions"], alone.calibration.settings["benign_versions"]) == (
        ["swapped.safetensors"],
        [],
    )
    before, after = (auditor.compare(digits.path("swapped")) for auditor in (alone, joined))
    assert (before.verdict, before.null.shadows, after.null.shadows) == ("drift", 16, 17)
    assert all(len(c.null) == 17 for c in after.classes if c.drift_score is not None)
    assert after.classes[3].drift_score < before.classes[3].drift_score - 1  # what has changed before is expected to
    assert after.null.smallest_score > before.null.smallest_score
    joined.save(tmp_path / "calibration")
    again = DriftAuditor.load(tmp_path / "calibration").compare(digits.path("swapped"))
    assert without_times(again) == without_times(after)


def test_of_two_nulls_benign_versions_join_the_one_that_varies(digits):
    options = {"shadows": 4, "restarts": 1, "size": 300, "recipes": "both"}
    nulls = make_auditor(digits, benign_versions=[digits.path("benign")], **options).fit(digits.data).calibration.nulls
    assert {kind: len(null.shadows) for kind, null in nulls.items()} == {"same": 4, "varied": 5}


def test_a_benign_version_of_another_architecture_is_refused(digits):
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(InputRefused, match=r"^Sequential: a benign version must have the architecture of the base$"):
        make_auditor(digits, benign_versions=[digits.path("benign"), other])


class Flipped(nn.Module):
    """The same weights, another function."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x.flip(3))


def test_live_modules_of_the_same_weights_are_distinguished(auditor, digits, tmp_path):
    straight = load_model(digits.path("base")).module
    auditor.save(tmp_path / "calibration")
    resumable = DriftAuditor.load(tmp_path / "calibration", resume_dir=tmp_path / "work")
    one, other = (resumable.compare(module, recipe="same") for module in (straight, Flipped(straight)))
    assert one.provenance.candidate_sha256 != other.provenance.candidate_sha256
    assert not np.array_equal(one.gray_candidate.images, other.gray_candidate.images)
    assert (one.verdict, other.verdict) == ("stable", "drift")


class Residual(nn.Module):
    """An architecture that cannot be lowered, and that draws from torch's global generator while training."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10)
        self.dropout = nn.Dropout(0.05)

    def forward(self, x):
        hidden = self.dropout(torch.relu(self.first(x.flatten(1))))
        return self.last(hidden + torch.relu(self.second(hidden)))


@pytest.fixture(scope="module")
def live(digits):
    """A live module of the user's own and the user's own way to train it."""
    calls = []

    def own_training(x, y, seed):
        calls.append(seed)
        torch.manual_seed(seed)
        return train(Residual(), x, y, TrainingRecipe(epochs=8), seed)

    chosen = digits.data.subset(range(0, len(digits.data), 2))
    return own_training(chosen.x, chosen.y, 1), own_training, calls


def test_own_modules_take_the_generic_path(live, digits):
    module, own_training, _ = live
    report = pydrift.audit(module, module, data=digits.data, shadows=4, restarts=2, train=own_training, size=721)
    assert report.provenance.path_base.startswith("generic: ")
    assert report.verdict == "stable"
    assert report.null.recipes == "same"  # a fixed training has nothing to vary


def test_own_training_that_takes_a_recipe_and_several_trainings_make_both_nulls(live, digits):
    module, own_training, _ = live
    taken, which = [], []

    def by_recipe(x, y, seed, recipe):
        taken.append(recipe)
        return own_training(x, y, seed)

    def first(x, y, seed):
        which.append("first")
        return own_training(x, y, seed)

    def second(x, y, seed):
        which.append("second")
        return own_training(x, y, seed)

    recipe = TrainingRecipe(epochs=10)
    options = {"shadows": 8, "restarts": 1, "size": 200, "recipe": recipe}
    fitted = DriftAuditor(module, train=by_recipe, **options).fit(digits.data).calibration
    assert set(fitted.nulls) == {"same", "varied"}
    assert fitted.settings["recipes"] == "both"
    assert fitted.recipe is None  # of which pydrift only knows what it hands out
    assert taken[:8] == [recipe] * 8
    assert len(set(map(str, taken[8:]))) > 4
    assert all(recipe.outside_varied(r, 200) == [] for r in taken)
    fitted = DriftAuditor(module, train=[first, second], **options).fit(digits.data).calibration
    assert set(fitted.nulls) == {"same", "varied"}
    assert which[:8] == ["first"] * 8
    assert set(which[8:]) == {"first", "second"}
    only = DriftAuditor(module, train=[first, second], recipes="varied", **options).fit(digits.data).calibration
    assert list(only.nulls) == ["varied"]


def test_own_training_that_cannot_vary_cannot_be_asked_to(live):
    module, own_training, _ = live
    with pytest.raises(
        UsageError, match=r"^recipes='varied' needs a train function that takes a recipe, train\(x, y, s"
    ):
        DriftAuditor(module, train=own_training, recipes="varied")
    for nothing in ([], [3]):
        with pytest.raises(UsageError, match=r"^train must be a function \(x, y, seed\) -> nn\.Module, or several of"):
            DriftAuditor(module, train=nothing)


def test_own_modules_are_left_as_they_were(live, digits):
    module = copy.deepcopy(live[0]).train()
    state, random = {k: v.clone() for k, v in module.state_dict().items()}, torch.get_rng_state()
    report = pydrift.audit(
        module, module, data=digits.data, shadows=3, restarts=2, recipe=TrainingRecipe(epochs=2), size=300
    )
    assert report.null.shadows == 3
    assert module.training
    assert all(p.requires_grad and p.grad is None for p in module.parameters())
    assert all(torch.equal(state[k], v) for k, v in module.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())


def test_a_guessed_recipe_is_said(auditor, digits):
    module = load_model(digits.path("base")).module
    guessed = pydrift.audit(module, module, data=digits.data, shadows=2, restarts=1, size=100)
    assert guessed.reasons[-1] == GUESSED["recipe"]
    assert GUESSED["recipe"] not in auditor.compare(digits.path("benign")).reasons


def test_own_training_of_another_architecture_is_refused(live, digits):
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(
        UsageError, match=r"^train= returned a model whose parameters do not have the names and shapes of"
    ):
        DriftAuditor(live[0], shadows=3, train=lambda x, y, seed: other).fit(digits.data)


def test_own_training_and_a_recipe_do_not_share_a_work_folder(live, digits, tmp_path):
    module, own_training, _ = live
    options = {"shadows": 2, "restarts": 1, "size": 200, "resume_dir": tmp_path}
    DriftAuditor(module, train=own_training, **options).fit(digits.data)
    with pytest.raises(UsageError, match=r"holds the work of another run \(.*train is "):
        DriftAuditor(module, **options).fit(digits.data)
    with pytest.raises(UsageError, match=r"holds the work of another run \(recipes is 'both' there and 'same' here"):
        DriftAuditor(module, train=own_training, recipes="same", **options).fit(digits.data)


def test_a_recipe_that_cannot_be_read_is_refused_with_the_file_named(digits, tmp_path):
    base = load_model(digits.path("base"))
    save_model(tmp_path / "odd.safetensors", base.module, base.arch, {"recipe": '{"speed": 9}'})
    with pytest.raises(InputRefused, match=r"^odd\.safetensors: recipe: not readable: unknown keys \['speed'\]$"):
        DriftAuditor(tmp_path / "odd.safetensors")


def test_own_training_makes_every_shadow(live, digits):
    module, own_training, calls = live
    calls.clear()
    DriftAuditor(module, shadows=3, restarts=2, train=own_training).fit(digits.data)
    assert len(set(calls)) == 3


def test_live_modules_save_and_load_with_their_base(live, digits, tmp_path):
    module, own_training, _ = live
    auditor = DriftAuditor(module, shadows=3, restarts=2, train=own_training).fit(digits.data)
    auditor.save(tmp_path / "calibration")
    with pytest.raises(UsageError, match="calibrated on a live module; pass base="):
        DriftAuditor.load(tmp_path / "calibration")
    loaded = DriftAuditor.load(tmp_path / "calibration", base=module)
    assert loaded.calibration.digest() == auditor.calibration.digest()


def test_a_model_of_other_classes_is_refused(auditor):
    with pytest.raises(InputRefused, match=r"^the candidate has 7 classes, but the base has 10$"):
        auditor.compare(nn.Sequential(nn.Flatten(), nn.Linear(64, 7)))


def test_a_model_of_other_images_is_refused(auditor):
    with pytest.raises(InputRefused, match=r"^candidate: does not take images of shape 1x8x8: "):
        auditor.compare(nn.Sequential(nn.Flatten(), nn.Linear(65, 10)))


def test_data_of_other_classes_is_refused(digits):
    three = digits.data.y < 3
    few = LabelledImages(digits.data.x[three], digits.data.y[three], ("0", "1", "2"), "three digits")
    with pytest.raises(InputRefused, match=r"^the base has 10 classes, but three digits has 3; if some classes"):
        make_auditor(digits).fit(few)


def test_a_class_that_the_candidate_never_predicts_is_drift(auditor, digits):
    module = copy.deepcopy(load_model(digits.path("base")).module)
    last = [m for m in module.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():
        last.weight[4], last.bias[4] = 0, -50
    report = auditor.compare(module)
    assert report.gray_candidate.confidence[4].max() < 1e-6
    assert max(report.classes, key=lambda c: c.drift_score).index == 4
    assert report.classes[4].verdict == "drift"


def test_a_class_that_the_reference_data_do_not_show_is_unmeasured(digits):
    some = digits.data.subset(digits.data.y != 4)
    auditor = make_auditor(digits, shadows=4, restarts=2, recipe=TrainingRecipe(epochs=3), size=300).fit(some)
    assert auditor.calibration.nulls["same"].confidence[4] < 0.1
    finding = auditor.compare(digits.path("benign"), recipe="same").classes[4]
    assert (finding.verdict, finding.drift_score, finding.p_value) == ("unmeasured", None, None)
    assert finding.reason.startswith("inversion found no image that the shadows take for it (mean confidence 0.0")
    assert finding.reason.endswith("; does the reference data have this class?)")


def test_a_base_unlike_its_shadows_makes_the_verdict_inconclusive(auditor, digits):
    assert all(null.base_p_value > 0.05 for null in auditor.calibration.nulls.values())
    strange = DriftAuditor(digits.path("swapped"), shadows=12, restarts=2, recipes="same", size=1000).fit(digits.data)
    assert strange.calibration.nulls["same"].base_p_value < 0.01
    report = strange.compare(digits.path("benign"))
    assert report.verdict == "inconclusive"
    assert {c.verdict for c in report.classes} <= {"inconclusive", "unmeasured"}
    assert report.reasons[0].startswith("the base itself does not resemble its shadows (p = ")
    assert strange.compare(digits.path("swapped")).verdict == "stable"  # the base itself


def test_images_of_the_shadows_are_no_reference_data_for_the_verdict(auditor, digits):
    with pytest.raises(UsageError, match=r"^digits \(train\): the shadows were trained on these images"):
        auditor.compare(digits.path("benign"), digits.data, use_data=True)


def test_an_audit_of_a_series_has_a_share_of_alpha(auditor, digits):
    report = auditor.compare(digits.path("benign"), alpha=0.1, release=3)
    assert (report.release, report.alpha) == (3, pytest.approx(0.1 * 6 / (3 * math.pi) ** 2))
    assert report.series_alpha == pytest.approx(0.1)
    assert auditor.compare(digits.path("benign"), alpha=0.1).series_alpha == 0.1
    with pytest.raises(UsageError, match="release must be >= 1, got 0"):
        auditor.compare(digits.path("benign"), release=0)


def test_too_few_shadows_are_inconclusive(digits):
    report = pydrift.audit(digits.path("base"), digits.path("benign"), data=digits.data, shadows=3, restarts=RESTARTS)
    assert report.verdict == "inconclusive"
    assert all(c.p_value is None for c in report.classes)
    assert any(reason.endswith(": 3 shadows are too few, a null needs 4") for reason in report.reasons)


def test_shadows_are_trained_by_recipes_of_their_own_unless_set_otherwise(live, auditor, digits):
    assert auditor.calibration.settings["recipes"] == "both"
    module, own_training, _ = live
    options = {"shadows": 2, "restarts": 1, "size": 200, "recipe": TrainingRecipe(epochs=1)}
    same = DriftAuditor(module, recipes="same", **options).fit(digits.data).calibration
    varied = DriftAuditor(module, recipes="varied", **options).fit(digits.data).calibration
    assert (same.settings["recipes"], varied.settings["recipes"]) == ("same", "varied")
    assert same.digest() != varied.digest()
    both = DriftAuditor(module, **options).fit(digits.data).calibration
    for kind, one in (("same", same), ("varied", varied)):
        weights = [[tensors_digest(m.state_dict()) for m in fitted.nulls[kind].shadows] for fitted in (one, both)]
        assert weights[0] == weights[1]
    own = DriftAuditor(module, train=own_training, **options).fit(digits.data).calibration
    assert own.settings["recipes"] == "same"  # there is nothing that could be varied


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shadows": 1}, "shadows must be >= 2, got 1"),
        ({"restarts": 0}, "restarts must be in 1..65535, got 0"),
        ({"update_mode": "reuse"}, "update_mode must be one of retrain, finetune, got 'reuse'"),
        ({"recipes": "mixed"}, "recipes must be one of both, same, varied, got 'mixed'"),
        ({"seed": -1}, r"seed must be in 0..2\*\*63 - 1, got -1"),
        ({"size": 1}, "size must be >= 2, got 1"),
    ],
)
def test_impossible_options_are_refused(digits, options, message):
    with pytest.raises(UsageError, match=f"^{message}$"):
        DriftAuditor(digits.path("base"), **options)


def test_compare_before_fit_is_refused(digits):
    with pytest.raises(UsageError, match=r"^call fit\(data\) first, or load a calibration$"):
        make_auditor(digits).compare(digits.path("benign"))


def test_alpha_out_of_range_is_refused(auditor, digits):
    with pytest.raises(UsageError, match=r"^alpha must lie between 0 and 1, got 1$"):
        auditor.compare(digits.path("benign"), alpha=1.0)
