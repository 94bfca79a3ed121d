"""The drift audit: has a candidate's concept of a class drifted from that of its base?

A thin orchestrator: pydrift.drift.fit makes the calibration, pydrift.drift.compare the report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from torch import nn

from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.progress import Progress, Silent
from pydrift.data import take_images
from pydrift.drift.calibration import Calibration
from pydrift.drift.compare import Question, compare
from pydrift.drift.fit import calibrate
from pydrift.drift.own_training import OwnTraining
from pydrift.drift.result import DriftReport
from pydrift.drift.settings import BOTH, AuditSettings, Workplace
from pydrift.fingerprint import Fingerprint
from pydrift.inversion import GradientAscent, InversionAttack
from pydrift.models.classifier import choose_device
from pydrift.models.intake import AuditedModel, Model, as_audited_model, check_num_classes
from pydrift.models.normalization import Normalization
from pydrift.models.recipe import TrainingRecipe
from pydrift.shadows import state_shapes
from pydrift.stats.multiple_tests import alpha_of_release


class DriftAuditor:
    """Audits candidates against one base model: `fit` once while the reference data is there, then `compare` each.

    base             an nn.Module that maps float32 [N, C, H, W] in [0, 1] to logits [N, classes], or a model file
    shadows          how many benign models form each null distribution
    update_mode      "retrain": updates are trained from scratch; "finetune": they continue from the base's weights
    restarts         gray images per class and model
    seed             of everything random, in 0..2**63 - 1; the same seed on the same machine gives the same bits
    recipe           how the base was trained; default: what its file records, else TrainingRecipe()
    recipes          "same": the shadows are trained by `recipe`; they judge candidates of that recipe, and find most.
                     "varied": each departs from it as a benign update may (see TrainingRecipe.varied), so that a
                     changed recipe is no drift. "both": so many shadows of each
    train            or the user's own training, (x, y, seed) -> nn.Module of the base's architecture. It varies where
                     it takes a recipe, (x, y, seed, recipe) -> nn.Module, or where several functions are given
    size             images that a shadow sees. Default: as many as the base's file says that the base saw; for
                     "retrain" at most a third of the reference data (see pydrift.shadows.update_draw).
    attack           the inversion; default: GradientAscent()
    device           "cpu" or "cuda"; default: a CUDA device if torch sees one
    resume_dir       folder for finished pieces, so that a killed run goes on where it was; None: nothing is kept
    progress         is informed of phases and steps (see pydrift.core.progress); default: silent
    arch             architecture of a base given as a file that does not name its own
    normalize        (mean, std), numbers or one for each channel: base, shadows and candidates take (x - mean) / std of
                     pixels x in [0, 1]. `train` gets pixels in [0, 1] and normalises them itself
    init             makes a fresh start of a shadow, seed -> nn.Module of the base's architecture (pretrained weights);
                     default: what the base's architecture or its reset_parameters gives
    benign_versions  versions that were found benign before, of the base's architecture. They join the shadows, so that
                     what has changed before without harm widens the null.

    UsageError for values out of range, InputRefused for files that cannot be used.
    """

    def __init__(
        self,
        base: Model,
        shadows: int = 32,
        update_mode: str = "retrain",
        restarts: int = 4,
        seed: int = 0,
        *,
        recipe: TrainingRecipe | None = None,
        recipes: str = "both",
        train: OwnTraining | None = None,
        size: int | None = None,
        attack: InversionAttack | None = None,
        device: str | None = None,
        resume_dir: str | Path | None = None,
        progress: Progress | None = None,
        arch: str | None = None,
        normalize: Any = None,
        init: Callable[[int], nn.Module] | None = None,
        benign_versions: Sequence[Model] = (),
    ) -> None:
        how = None if normalize is None else Normalization.of(normalize)
        audited = as_audited_model(base, "base", arch)
        audited = audited if init is None else replace(audited, fresh=init)
        audited = audited if how is None else how.apply(audited, "base")
        known = {"recipe": recipe or audited.recipe or train, "size": size or audited.train_size}
        self._settings = AuditSettings(
            shadows=shadows,
            update_mode=update_mode,
            restarts=restarts,
            seed=seed,
            recipe=recipe or audited.recipe or TrainingRecipe(),
            recipes=recipes,
            train=train,
            size=size,
            attack=attack or GradientAscent(),
            guessed=tuple(name for name, value in known.items() if not value),
            normalize=how,
            init=init,
        )
        self._base = audited
        self._benign_versions = _take_versions(benign_versions, audited, arch, how)
        self._workplace = Workplace(
            choose_device(device), None if resume_dir is None else Path(resume_dir), progress or Silent()
        )
        self._calibration: Calibration | None = None

    @property
    def calibration(self) -> Calibration:
        """What `fit` made. UsageError before that."""
        if self._calibration is None:
            raise UsageError("call fit(data) first, or load a calibration")
        return self._calibration

    @property
    def recipe(self) -> TrainingRecipe | None:
        """The base's recipe, as far as it is known or assumed; None with the user's own training."""
        return None if self._settings.train is not None else self._settings.recipe

    def fit(
        self,
        data: Any,
        *,
        candidate: Model | None = None,
        recipe: TrainingRecipe | str | None = None,
        arch: str | None = None,
    ) -> Self:
        """Trains the shadows on draws of the reference data, inverts base and shadows, and measures the null.

        data       LabelledImages, (x, y), any iterable of (x, y), or a source such as "fashion-mnist:DIR"
        candidate  of two nulls, only the one is made that judges this candidate, and where its recipe is known, by that
                   recipe
        recipe     of the candidate, as for `compare`; arch: of a candidate given as a file, likewise

        InputRefused where base and data do not fit.
        """
        images, settings = take_images(data), self._settings
        if candidate is not None and settings.recipes == BOTH:
            recorded = as_audited_model(candidate, "candidate", arch).recipe
            settings = settings.for_candidate(recorded if recipe is None else recipe)
        self._calibration = calibrate(self._base, self._benign_versions, images, settings, self._workplace)
        return self

    def compare(
        self,
        candidate: Model,
        data: Any = None,
        alpha: float = 0.05,
        *,
        use_data: bool = False,
        release: int | None = None,
        fingerprint: Fingerprint | str | Path | None = None,
        recipe: TrainingRecipe | str | None = None,
        arch: str | None = None,
    ) -> DriftReport:
        """Judges one candidate.

        data         optional, as for `fit`: adds the accuracy baselines
        alpha        family-wise error level over the classes, in (0, 1)
        use_data     the verdict also uses the responses to `data`, at most 400 images of each class. No model may have
                     been trained on these images.
        release      N >= 1: this is the N-th audit of a series, and alpha is the level of the whole series (see
                     pydrift.stats.multiple_tests.alpha_of_release)
        fingerprint  of the base, or its file: adds how much of the gray data it knows. The verdict does not use it.
        recipe       how the candidate was trained, "same" for as the base was; default: what its file records. With a
                     known recipe, the shadows of that recipe judge it. Without, those whose recipes vary do.
        arch         architecture of a candidate given as a file that does not name its own
        """
        if not 0 < alpha < 1:
            raise UsageError(f"alpha must lie between 0 and 1, got {alpha:g}")
        if release is not None and release < 1:
            raise UsageError(f"release must be >= 1, got {release}")
        calibration = self.calibration
        images = None if data is None else take_images(data)
        if images is not None and images.num_classes > len(calibration.class_names):  # fewer may just be absent
            check_num_classes(len(calibration.class_names), "the base", images.num_classes, images.source)
        audited, how = as_audited_model(candidate, "candidate", arch), calibration.normalization
        question = Question(
            candidate=audited if how is None else how.apply(audited, "candidate"),
            alpha=alpha if release is None else alpha_of_release(alpha, release),
            release=release,
            images=images,
            use_data=use_data,
            fingerprint=Fingerprint.load(fingerprint) if isinstance(fingerprint, str | Path) else fingerprint,
            recipe=recipe,
        )
        return compare(calibration, question, self._workplace)

    @staticmethod
    def check_target(folder: str | Path) -> None:
        """See Calibration.check_target."""
        Calibration.check_target(folder)

    def save(self, folder: str | Path) -> None:
        """Writes the calibration: weights, gray data and responses, no reference images. See Calibration.save."""
        self.calibration.save(folder)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        base: nn.Module | None = None,
        arch: str | None = None,
        device: str | None = None,
        resume_dir: str | Path | None = None,
        progress: Progress | None = None,
        normalize: Any = None,
    ) -> DriftAuditor:
        """An auditor that can `compare` at once.

        `base` or `arch` is needed only where the base's architecture is not a built-in one (see Calibration.load).
        The calibration knows its normalisation; InputRefused where `normalize` is another one.
        """
        calibration = Calibration.load(folder, arch, base)
        known = calibration.normalization
        if normalize is not None and Normalization.of(normalize) != known:
            raise InputRefused(
                f"{folder}: calibrated {f'with the normalisation {known}' if known else 'without normalisation'}, not "
                f"with {Normalization.of(normalize)}; leave it out here, or calibrate again"
            )
        auditor = cls(
            calibration.base,
            max(len(null.shadows) for null in calibration.nulls.values()),
            calibration.update_mode,
            calibration.restarts,
            calibration.seed,
            attack=calibration.attack,
            normalize=known,
            device=device,
            resume_dir=resume_dir,
            progress=progress,
        )
        auditor._calibration = calibration
        return auditor


def _take_versions(
    versions: Sequence[Model], base: AuditedModel, arch: str | None, how: Normalization | None
) -> list[AuditedModel]:
    taken = [as_audited_model(version, "benign version", arch) for version in versions]
    taken = taken if how is None else [how.apply(version, version.name) for version in taken]
    for version in taken:
        if state_shapes(version.module) != state_shapes(base.module):
            raise InputRefused(f"{version.name}: a benign version must have the architecture of the base")
    return taken


def audit(
    base: Model,
    candidate: Model,
    *,
    data: Any,
    shadows: int = 32,
    update_mode: str = "retrain",
    restarts: int = 4,
    alpha: float = 0.05,
    seed: int = 0,
    resume_dir: str | Path | None = None,
    progress: Progress | None = None,
    holdout: Any = None,
    candidate_recipe: TrainingRecipe | str | None = None,
    **options: Any,
) -> DriftReport:
    """Both halves of a drift audit at once: calibrates on `data` and compares `candidate` with `base`.

    The baselines are measured on `holdout`, or on `data` where none is given. `candidate_recipe` is the `recipe` of
    `DriftAuditor.compare`. `options` are those of DriftAuditor, which also explains the other arguments.
    """
    auditor = DriftAuditor(
        base, shadows, update_mode, restarts, seed, resume_dir=resume_dir, progress=progress, **options
    )
    images = take_images(data)
    auditor.fit(images, candidate=candidate, recipe=candidate_recipe)
    return auditor.compare(candidate, images if holdout is None else holdout, alpha, recipe=candidate_recipe)
