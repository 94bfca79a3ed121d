"""The orchestrator: trains shadows, inverts, asks, judges. Each step is one call into the module that knows how."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from pydrift.baselines import measure_baselines
from pydrift.calibration import Calibration, describe_attack
from pydrift.classifier import Classifier, choose_device, exact_arithmetic, freeze
from pydrift.data import as_images, load_data
from pydrift.errors import InputRefused, UsageError
from pydrift.gray import GrayData
from pydrift.inversion import GradientAscent, InversionAttack, invert_models
from pydrift.membership import recognise
from pydrift.modelfile import LoadedModel
from pydrift.noise import MAX_RESTARTS
from pydrift.ops import native_status
from pydrift.progress import Clock, Progress, Silent
from pydrift.result import DriftReport, NullSummary, Provenance
from pydrift.shadows import NULLS, described, successor_draw, train_shadows
from pydrift.store import RunFolder, refuse_manifest_folder
from pydrift.subject import Subject, as_subject
from pydrift.training import Train, TrainingRecipe
from pydrift.verdict import judge
from pydrift.version import __version__

Model = nn.Module | LoadedModel | Subject | str | Path

GUESSED = {
    "recipe": "nothing says how the base was trained, so the shadows were trained by pydrift's default recipe; where "
    "that differs much, benign updates can read as drift (pass recipe= or train=)",
    "size": "nothing says how many images the base was trained on, so each shadow saw a bootstrap of all reference "
    "data; where that differs much, benign updates can read as drift (pass size=, --size)",
}
"""What is added to the reasons of a report whose null rests on a guess."""


class DriftAuditor:
    """Audits successors of one base model: `fit` once while the reference data is there, `compare` whenever one comes.

    base      an nn.Module that maps float32 [N, C, H, W] in [0, 1] to logits, or a model file
    shadows   how many benign models form the null distribution
    null      "retrain": successors are trained from scratch; "finetune": they continue from the base's weights
    restarts  gray images per class and model
    seed      of everything random; the same seed on the same machine gives the same bits
    recipe    how to train the shadows; default: the one recorded in the base's file, else TrainingRecipe()
    train     or the user's own training, (x, y, seed) -> nn.Module of the base's architecture
    size      images a shadow sees; default: as many as the base's file says that it saw, else all of the reference data
    attack    the inversion
    device    default: a CUDA device if torch sees one
    work_dir  folder for finished pieces, so that a killed run goes on where it was; None: nothing is kept
    progress  told about phases and steps (see pydrift.progress); default: silent
    arch      architecture of a base given as a file that does not name its own
    """

    def __init__(
        self,
        base: Model,
        shadows: int = 16,
        null: str = "retrain",
        restarts: int = 16,
        seed: int = 0,
        *,
        recipe: TrainingRecipe | None = None,
        train: Train | None = None,
        size: int | None = None,
        attack: InversionAttack | None = None,
        device: str | None = None,
        work_dir: str | Path | None = None,
        progress: Progress | None = None,
        arch: str | None = None,
    ) -> None:
        if shadows < 2:
            raise UsageError(f"shadows must be >= 2, got {shadows}")
        if not 1 <= restarts <= MAX_RESTARTS:
            raise UsageError(f"restarts must be in 1..{MAX_RESTARTS}, got {restarts}")
        if null not in NULLS:
            raise UsageError(f"null must be one of {', '.join(NULLS)}, got {null!r}")
        if not 0 <= seed < 2**63:
            raise UsageError(f"seed must be in 0..2**63 - 1, got {seed}")
        if size is not None and size < 2:
            raise UsageError(f"size must be >= 2, got {size}")
        self._base = as_subject(base, "base", arch)
        self._shadows, self._null, self._restarts, self._seed = shadows, null, restarts, seed
        self._recipe = recipe or self._base.recipe or TrainingRecipe()
        known = {"recipe": recipe or self._base.recipe or train, "size": size or self._base.train_size}
        self._guessed = [name for name, value in known.items() if not value]
        self._train, self._size = train, size or self._base.train_size
        self._attack: InversionAttack = attack or GradientAscent()
        self._device = choose_device(device)
        self._work_dir = work_dir
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
        draw = successor_draw(len(images), self._size)
        plan = {
            "base": self._base.sha256,
            "data": images.sha256,
            "shadows": self._shadows,
            "null": self._null,
            "draw": asdict(draw),
            "recipe": asdict(self._recipe),
            "attack": describe_attack(self._attack),
            "restarts": self._restarts,
            "seed": self._seed,
            "device": self._device.type,
            "train": None if self._train is None else described(self._train),
            "versions": _versions(),
        }
        with exact_arithmetic(), self._progress as progress, self._run("fit", plan) as run:
            with clock("train shadows"):
                bank = train_shadows(
                    self._base,
                    images,
                    self._shadows,
                    null=self._null,
                    draw=draw,
                    recipe=self._recipe,
                    train=self._train,
                    seed=self._seed,
                    work_dir=None if run.path is None else run.path / "shadows",
                    device=str(self._device),
                    progress=progress,
                )
            shadows = bank.models()
            models = [base, *(freeze(m, images.input_shape, self._device, "shadow") for m in shadows)]
            with clock("invert base and shadows"):
                progress.phase(f"inverting base and shadows, {self._restarts} restarts a class", len(models))
                gray, _ = self._inverted(models, [f"gray/{m}" for m in range(len(models))], run, progress)
            with clock("measure recognition"):
                progress.phase("measuring recognition", len(models))
                recognition = recognise(models, gray, progress.advance)["margin"]
        self._calibration = Calibration(
            base=self._base,
            shadows=tuple(shadows),
            gray=tuple(gray),
            recognition=recognition,
            class_names=images.class_names,
            input_shape=images.input_shape,
            null=self._null,
            draw=draw.describe(len(images)),
            shadow_accuracy=bank.accuracy,
            attack=self._attack,
            restarts=self._restarts,
            seed=self._seed,
            data=images.source,
            data_sha256=images.sha256,
            settings={"recipe": "the user's own" if self._train else asdict(self._recipe), "guessed": self._guessed},
            seconds=clock.seconds,
        )
        return self

    def compare(
        self, production: Model, data: Any = None, alpha: float = 0.05, *, arch: str | None = None
    ) -> DriftReport:
        """Judges one successor. `data` is optional and only adds the accuracy baselines; the verdict never uses it."""
        if not 0 < alpha < 1:
            raise UsageError(f"alpha must lie between 0 and 1, got {alpha:g}")
        fitted, clock = self.calibration, Clock(self.calibration.seconds)
        calibration_sha256 = fitted.digest()
        images = None if data is None else load_data(data) if isinstance(data, str) else as_images(data)
        subject = as_subject(production, "production", arch)
        new = freeze(subject.module, fitted.input_shape, self._device, "production model")
        if new.num_classes != len(fitted.class_names):
            raise InputRefused(
                f"the production model tells {new.num_classes} classes apart, the base {len(fitted.class_names)}"
            )
        if images is not None and images.input_shape != fitted.input_shape:
            raise InputRefused(f"{images.source}: images of shape {images.input_shape}, expected {fitted.input_shape}")
        models = [
            freeze(m, fitted.input_shape, self._device, "calibrated model")
            for m in (fitted.base.module, *fitted.shadows)
        ]
        plan = {
            "calibration": calibration_sha256,
            "production": subject.sha256,
            "attack": describe_attack(fitted.attack),
            "restarts": fitted.restarts,
            "seed": fitted.seed,
            "device": self._device.type,
            "versions": _versions(),
        }
        with exact_arithmetic(), self._progress as progress:
            with self._run(f"compare-{subject.sha256[:16]}", plan) as run, clock("invert new model"):
                progress.phase(f"inverting the new model, {self._restarts} restarts a class", 1)
                (gray,), rate = self._inverted([new], ["gray/new"], run, progress)
            with clock("measure recognition of new model"):
                progress.phase("measuring recognition", len(models) + 2)
                seen_by_others = recognise(models, [gray], progress.advance)["margin"]
                seen_by_new = recognise([new], [*fitted.gray, gray], progress.advance)["margin"]
        recognition = np.concatenate(
            [np.concatenate([fitted.recognition, seen_by_others], axis=1), seen_by_new], axis=0
        )
        confidence = np.stack([g.confidence.mean(axis=1, dtype=np.float64) for g in (*fitted.gray, gray)])
        verdict = judge(recognition, confidence, fitted.class_names, alpha)
        with clock("measure baselines"):
            baselines = measure_baselines(models[0], new, fitted.base.module, subject.module, images)
        return DriftReport(
            verdict=verdict.verdict,
            p_value=verdict.p_value,
            alpha=alpha,
            reasons=verdict.reasons + tuple(GUESSED[name] for name in fitted.settings["guessed"]),
            classes=verdict.classes,
            gray_base=fitted.gray[0],
            gray_production=gray,
            null=NullSummary(
                kind=fitted.null,
                shadows=len(fitted.shadows),
                draw=fitted.draw,
                shadow_accuracy=fitted.shadow_accuracy,
                smallest_effect=verdict.smallest_effect,
            ),
            baselines=baselines,
            provenance=Provenance(
                pydrift=__version__,
                torch=torch.__version__,
                device=str(self._device),
                native=native_status().describe(self._device.type),
                path_base=models[0].path,
                path_production=new.path,
                restart_steps_per_second=rate,
                seed=fitted.seed,
                base_sha256=fitted.base.sha256,
                production_sha256=subject.sha256,
                data_sha256=fitted.data_sha256,
                calibration_sha256=calibration_sha256,
                base=fitted.base.name,
                production=subject.name,
                data=fitted.data,
                settings={
                    **fitted.settings,
                    "inversion": describe_attack(fitted.attack),
                    "restarts": fitted.restarts,
                    "signal": "logit margin",
                },
                seconds=clock.seconds,
            ),
        )

    @staticmethod
    def check_target(folder: str | Path) -> None:
        """Asks before the work whether `save` could write there. See Calibration.check_target."""
        Calibration.check_target(folder)

    def save(self, folder: str | Path) -> None:
        """Writes the calibration: weights, gray data and measurements, no reference images. See Calibration.save."""
        self.calibration.save(folder)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        base: nn.Module | None = None,
        arch: str | None = None,
        device: str | None = None,
        work_dir: str | Path | None = None,
        progress: Progress | None = None,
    ) -> DriftAuditor:
        """An auditor that can `compare` at once. `base` or `arch` is needed only where the base's architecture is not
        a built-in one (see Calibration.load)."""
        fitted = Calibration.load(folder, arch, base)
        auditor = cls(
            fitted.base,
            len(fitted.shadows),
            fitted.null,
            fitted.restarts,
            fitted.seed,
            attack=fitted.attack,
            device=device,
            work_dir=work_dir,
            progress=progress,
        )
        auditor._calibration = fitted
        return auditor

    def _inverted(
        self, models: Sequence[Classifier], tasks: Sequence[str], run: RunFolder, progress: Progress
    ) -> tuple[list[GrayData], float | None]:
        """Gray data of each model, kept as a task of the run, and restart-steps per second if any had to be made."""
        gray = {}
        for task in tasks:
            if (saved := run.get(task)) is not None:
                gray[task] = GrayData(**{name: tensor.numpy() for name, tensor in saved.items()})
                progress.advance()
        missing = [task for task in tasks if task not in gray]
        made = invert_models(self._attack, [models[tasks.index(task)] for task in missing], self._restarts, self._seed)
        began, steps = time.perf_counter(), 0
        for task, images in zip(missing, made, strict=True):
            run.put(task, {name: torch.from_numpy(array) for name, array in vars(images).items()})
            gray[task] = images
            steps += int(images.steps.sum())
            progress.advance()
        rate = steps / (time.perf_counter() - began) if missing else None
        return [gray[task] for task in tasks], rate

    def _run(self, name: str, plan: dict[str, Any]) -> RunFolder:
        if self._work_dir is not None:
            refuse_manifest_folder(self._work_dir)
        return RunFolder(None if self._work_dir is None else Path(self._work_dir) / name, plan)


def audit(
    base: Model,
    production: Model,
    *,
    data: Any,
    shadows: int = 16,
    null: str = "retrain",
    restarts: int = 16,
    alpha: float = 0.05,
    seed: int = 0,
    work_dir: str | Path | None = None,
    progress: Progress | None = None,
    holdout: Any = None,
    **options: Any,
) -> DriftReport:
    """Both halves at once: calibrates on `data` and compares `production` with `base`.

    The baselines are measured on `holdout`, or on `data` where none is given. `options` are DriftAuditor's.
    """
    auditor = DriftAuditor(base, shadows, null, restarts, seed, work_dir=work_dir, progress=progress, **options)
    images = load_data(data) if isinstance(data, str) else as_images(data)
    return auditor.fit(images).compare(production, images if holdout is None else holdout, alpha)


def _versions() -> dict[str, str]:
    return {"pydrift": __version__, "torch": str(torch.__version__)}
