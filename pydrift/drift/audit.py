"""The orchestrator: trains shadows, inverts, asks, judges. Each step is one call into the module that knows how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.noise import MAX_RESTARTS
from pydrift.core.parallel import with_one_blas_thread
from pydrift.core.progress import Clock, Progress, Silent
from pydrift.core.store import RunFolder, refuse_manifest_folder
from pydrift.data import as_images, load_data
from pydrift.drift.baselines import measure_baselines, with_gray_known
from pydrift.drift.calibration import GUESSED, Calibration, describe_attack
from pydrift.drift.responses import (
    GRAY,
    OWN_GRAY,
    QUESTIONS,
    benign_responses,
    candidate_responses,
    groups,
    of_models,
    reference_responses,
)
from pydrift.drift.result import DriftReport, NullSummary, Provenance
from pydrift.drift.verdict import STRANGE_BASE, judge
from pydrift.fingerprint import Fingerprint
from pydrift.inversion import GradientAscent, InversionAttack
from pydrift.inversion.resumable import consensus_images, invert_resumable
from pydrift.models.classifier import choose_device, exact_arithmetic, freeze
from pydrift.models.file import LoadedModel
from pydrift.models.intake import AuditedModel, as_audited_model
from pydrift.models.recipe import TrainingRecipe
from pydrift.ops import native_status
from pydrift.shadows import RECIPES, UPDATE_MODES, function_identity, state_shapes, train_shadows, update_draw
from pydrift.stats.multiple_tests import alpha_of_release
from pydrift.training import Train
from pydrift.version import __version__

_judge = with_one_blas_thread(judge)
_VERSIONS = {"pydrift": __version__, "torch": str(torch.__version__)}
Model = nn.Module | LoadedModel | AuditedModel | str | Path


class DriftAuditor:
    """Audits updates of one base model: `fit` once while the reference data is there, `compare` whenever one comes.

    base      an nn.Module that maps float32 [N, C, H, W] in [0, 1] to logits, or a model file
    shadows   how many benign models form the null distribution
    update_mode  "retrain": updates are trained from scratch; "finetune": they continue from the base's weights
    restarts  gray images per class and model
    seed      of everything random; the same seed on the same machine gives the same bits
    recipe    how the base was trained; default: what its file records, else TrainingRecipe()
    recipes   "varied": each shadow departs from that as an benign update may (see TrainingRecipe.varied), so that a
              changed recipe is no drift; "same": all are trained by it. With train= there is nothing to vary
    train     or the user's own training, (x, y, seed) -> nn.Module of the base's architecture
    size      images a shadow sees; default: as many as the base's file says that it saw, but of a retrained one no more
              than a third of the reference data (see pydrift.shadows.update_draw)
    attack    the inversion
    device    default: a CUDA device if torch sees one
    resume_dir  folder for finished pieces, so that a killed run goes on where it was; None: nothing is kept
    progress  told about phases and steps (see pydrift.core.progress); default: silent
    arch      architecture of a base given as a file that does not name its own
    earlier   earlier versions that were found to be benign, of the base's architecture: they join the shadows, so that
              what has changed before without harm widens the null
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
        recipes: str = "varied",
        train: Train | None = None,
        size: int | None = None,
        attack: InversionAttack | None = None,
        device: str | None = None,
        resume_dir: str | Path | None = None,
        progress: Progress | None = None,
        arch: str | None = None,
        benign_versions: Sequence[Model] = (),
    ) -> None:
        if shadows < 2:
            raise UsageError(f"shadows must be >= 2, got {shadows}")
        if not 1 <= restarts <= MAX_RESTARTS:
            raise UsageError(f"restarts must be in 1..{MAX_RESTARTS}, got {restarts}")
        if update_mode not in UPDATE_MODES:
            raise UsageError(f"update_mode must be one of {', '.join(UPDATE_MODES)}, got {update_mode!r}")
        if recipes not in RECIPES:
            raise UsageError(f"recipes must be one of {', '.join(RECIPES)}, got {recipes!r}")
        if not 0 <= seed < 2**63:
            raise UsageError(f"seed must be in 0..2**63 - 1, got {seed}")
        if size is not None and size < 2:
            raise UsageError(f"size must be >= 2, got {size}")
        self._base = as_audited_model(base, "base", arch)
        self._benign_versions = [as_audited_model(model, "earlier version", arch) for model in benign_versions]
        for subject in self._benign_versions:
            if state_shapes(subject.module) != state_shapes(self._base.module):
                raise InputRefused(f"{subject.name}: an earlier version must have the architecture of the base")
        self._shadows, self._update_mode, self._restarts, self._seed = shadows, update_mode, restarts, seed
        self._recipe = recipe or self._base.recipe or TrainingRecipe()
        known = {"recipe": recipe or self._base.recipe or train, "size": size or self._base.train_size}
        self._guessed = [name for name, value in known.items() if not value]
        self._recipes = "same" if train else recipes
        self._train, self._size = train, size
        self._attack: InversionAttack = attack or GradientAscent()
        self._device = choose_device(device)
        self._work_dir = resume_dir
        self._progress = progress or Silent()
        self._calibration: Calibration | None = None

    @property
    def calibration(self) -> Calibration:
        """What `fit` made. UsageError before that."""
        if self._calibration is None:
            raise UsageError("call fit(data) first, or load a calibration")
        return self._calibration

    def fit(self, data: Any) -> Self:
        """Trains the shadows on draws of the reference data, inverts base and shadows, and measures the null.

        data: LabelledImages, (x, y), any iterable of (x, y), or a source such as "fashion-mnist:DIR".
        """
        images = load_data(data) if isinstance(data, str) else as_images(data)
        clock = Clock()
        base = freeze(self._base.module, images.input_shape, self._device, "base")
        if base.num_classes != images.num_classes:
            raise InputRefused(
                f"the base tells {base.num_classes} classes apart, but {images.source} names {images.num_classes}"
            )
        draw = update_draw(len(images), self._base.train_size, self._size, self._update_mode)
        plan = {
            "base": self._base.sha256,
            "data": images.sha256,
            "shadows": self._shadows,
            "update_mode": self._update_mode,
            "draw": asdict(draw),
            "recipe": asdict(self._recipe),
            "recipes": self._recipes,
            "attack": describe_attack(self._attack),
            "restarts": self._restarts,
            "seed": self._seed,
            "device": self._device.type,
            "benign_versions": [subject.sha256 for subject in self._benign_versions],
            "train": None if self._train is None else function_identity(self._train),
            "versions": _VERSIONS,
        }
        with exact_arithmetic(), self._progress as progress, self._run("fit", plan) as run:
            with clock("train shadows"):
                bank = train_shadows(
                    self._base,
                    images,
                    self._shadows,
                    update_mode=self._update_mode,
                    draw=draw,
                    recipe=self._recipe,
                    recipes=self._recipes,
                    train=self._train,
                    seed=self._seed,
                    resume_dir=None if run.path is None else run.path / "shadows",
                    device=str(self._device),
                    progress=progress,
                )
            shadows = [*bank.models(), *(subject.module for subject in self._benign_versions)]
            models = [base, *(freeze(m, images.input_shape, self._device, "shadow") for m in shadows)]
            with clock("invert base and shadows"):
                progress.phase(f"inverting base and shadows, {self._restarts} restarts a class", len(models))
                names = [f"gray/{m}" for m in range(len(models))]
                gray, _ = invert_resumable(
                    self._attack, models, self._restarts, self._seed, names, run, progress.advance
                )
            with clock("consensus of shadows"):
                made_by = [[models[1 + k] for k in members] for members in groups(len(shadows))]
                progress.phase("inverting groups of shadows", len(made_by))
                consensus = consensus_images(self._attack, made_by, self._restarts, self._seed, run, progress.advance)
            with clock("measure recognition"):
                progress.phase("measuring recognition", (QUESTIONS + 1) * len(models))
                own = np.stack([images_of.images for images_of in gray])
                answers, confidence = benign_responses(models, consensus, own, progress.advance)
        of_shadows, of_base = of_models(answers, slice(1, None)), of_models(answers, 0)
        as_candidate = _judge(of_shadows, of_base, None, confidence, images.class_names, STRANGE_BASE)
        self._calibration = Calibration(
            base=self._base,
            shadows=tuple(shadows),
            gray=gray[0],
            consensus=consensus,
            answers=answers,
            confidence=confidence,
            base_p_value=as_candidate.p_value if self._update_mode == "retrain" else None,
            class_names=images.class_names,
            input_shape=images.input_shape,
            update_mode=self._update_mode,
            draw=draw.describe(len(images)),
            shadow_accuracy=bank.accuracy + (None,) * len(self._benign_versions),
            attack=self._attack,
            restarts=self._restarts,
            seed=self._seed,
            data=images.source,
            data_sha256=images.sha256,
            settings={
                "recipe": "the user's own" if self._train else asdict(self._recipe),
                "recipes": self._recipes,
                "guessed": self._guessed,
                "benign_versions": [subject.name for subject in self._benign_versions],
            },
            seconds=clock.seconds,
        )
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
        arch: str | None = None,
    ) -> DriftReport:
        """Judges one update.

        `data` is optional. It adds the accuracy baselines, and with `use_data` what all models say of its images, at
        most 400 of each class, is one more probe of the verdict: images that none of the models was trained on.
        With `release` N this is the N-th audit of a series, and alpha the level of all together (alpha_of_release of
        pydrift.stats.tails). A `fingerprint` of the base (or its file) adds, without a say in the verdict, how much
        gray data it knows.
        """
        if not 0 < alpha < 1:
            raise UsageError(f"alpha must lie between 0 and 1, got {alpha:g}")
        if release is not None and release < 1:
            raise UsageError(f"release must be >= 1, got {release}")
        level = alpha if release is None else alpha_of_release(alpha, release)
        fitted, clock = self.calibration, Clock(self.calibration.seconds)
        calibration_sha256 = fitted.digest()
        images = None if data is None else load_data(data) if isinstance(data, str) else as_images(data)
        subject = as_audited_model(candidate, "candidate", arch)
        new = freeze(subject.module, fitted.input_shape, self._device, "candidate model")
        if new.num_classes != len(fitted.class_names):
            raise InputRefused(
                f"the candidate model tells {new.num_classes} classes apart, the base {len(fitted.class_names)}"
            )
        if images is not None and images.input_shape != fitted.input_shape:
            raise InputRefused(f"{images.source}: images of shape {images.input_shape}, expected {fitted.input_shape}")
        if use_data and images is None:
            raise UsageError("there is nothing to look at: use_data (--use-data) needs data (--data)")
        if use_data and images is not None and images.sha256 == fitted.data_sha256:
            raise UsageError(f"{images.source}: the shadows were trained on these images, use_data needs others")
        known = Fingerprint.load(fingerprint) if isinstance(fingerprint, str | Path) else fingerprint
        scorer = None if known is None else known.scorer(fitted.base, device=str(self._device))
        models = [
            freeze(m, fitted.input_shape, self._device, "calibrated model")
            for m in (fitted.base.module, *fitted.shadows)
        ]
        plan = {
            "calibration": calibration_sha256,
            "candidate": subject.sha256,
            "attack": describe_attack(fitted.attack),
            "restarts": fitted.restarts,
            "seed": fitted.seed,
            "device": self._device.type,
            "versions": _VERSIONS,
        }
        with exact_arithmetic(), self._progress as progress:
            with self._run(f"compare-{subject.sha256[:16]}", plan) as run, clock("invert new model"):
                progress.phase(f"inverting the new model, {self._restarts} restarts a class", 1)
                (gray,), rate = invert_resumable(
                    self._attack, [new], self._restarts, self._seed, ["gray/new"], run, progress.advance
                )
            with clock("measure recognition of new model"):
                progress.phase("measuring recognition", QUESTIONS + len(models))
                seen = candidate_responses(models, new, fitted.consensus, gray.images, progress.advance)
                answers = fitted.answers
                if use_data and images is not None:
                    progress.phase("asking about reference data", len(models) + 1)
                    asked = reference_responses([*models, new], images, progress.advance)
                    answers, seen = answers | of_models(asked, slice(-1)), seen | of_models(asked, -1)
        of_shadows, of_base = of_models(answers, slice(1, None)), of_models(answers, 0)
        del of_base[GRAY][OWN_GRAY]  # about the new model's the base is asked too, about the base's own it was not
        null = (fitted.confidence, fitted.class_names)
        verdict = _judge(of_shadows, seen, of_base, *null, level, fitted.base_p_value)
        with clock("measure baselines"):
            baselines = measure_baselines(models[0], new, fitted.base.module, subject.module, images)
            if scorer is not None:
                baselines = with_gray_known(baselines, scorer, fitted.gray, gray)
        return DriftReport(
            verdict=verdict.verdict,
            p_value=verdict.p_value,
            alpha=level,
            release=release,
            reasons=verdict.reasons + tuple(GUESSED[name] for name in fitted.settings["guessed"]),
            classes=verdict.classes,
            gray_base=fitted.gray,
            gray_candidate=gray,
            null=NullSummary(
                update_mode=fitted.update_mode,
                shadows=len(fitted.shadows),
                draw=fitted.draw,
                shadow_accuracy=fitted.shadow_accuracy,
                smallest_score=verdict.smallest_score,
                power=verdict.power,
            ),
            baselines=baselines,
            provenance=Provenance(
                pydrift=__version__,
                torch=torch.__version__,
                device=str(self._device),
                native=native_status().describe(self._device.type),
                path_base=models[0].path,
                path_candidate=new.path,
                restart_steps_per_second=rate,
                seed=fitted.seed,
                base_sha256=fitted.base.sha256,
                candidate_sha256=subject.sha256,
                data_sha256=fitted.data_sha256,
                calibration_sha256=calibration_sha256,
                base=fitted.base.name,
                candidate=subject.name,
                data=fitted.data,
                settings={
                    **fitted.settings,
                    "inversion": describe_attack(fitted.attack),
                    "restarts": fitted.restarts,
                    "asked": {probe: list(views) for probe, views in answers.items()},
                },
                seconds=clock.seconds,
            ),
        )

    @staticmethod
    def check_target(folder: str | Path) -> None:
        """See Calibration.check_target."""
        Calibration.check_target(folder)

    def save(self, folder: str | Path) -> None:
        """Writes the calibration: weights, gray data and answers, no reference images. See Calibration.save."""
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
    ) -> DriftAuditor:
        """An auditor that can `compare` at once. `base` or `arch` is needed only where the base's architecture is not
        a built-in one (see Calibration.load)."""
        fitted = Calibration.load(folder, arch, base)
        auditor = cls(
            fitted.base,
            len(fitted.shadows),
            fitted.update_mode,
            fitted.restarts,
            fitted.seed,
            attack=fitted.attack,
            device=device,
            resume_dir=resume_dir,
            progress=progress,
        )
        auditor._calibration = fitted
        return auditor

    def _run(self, name: str, plan: dict[str, Any]) -> RunFolder:
        if self._work_dir is not None:
            refuse_manifest_folder(self._work_dir)
        return RunFolder(None if self._work_dir is None else Path(self._work_dir) / name, plan)


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
    **options: Any,
) -> DriftReport:
    """Both halves at once: calibrates on `data` and compares `candidate` with `base`.

    The baselines are measured on `holdout`, or on `data` where none is given. `options` are DriftAuditor's.
    """
    auditor = DriftAuditor(
        base, shadows, update_mode, restarts, seed, resume_dir=resume_dir, progress=progress, **options
    )
    images = load_data(data) if isinstance(data, str) else as_images(data)
    return auditor.fit(images).compare(candidate, images if holdout is None else holdout, alpha)
