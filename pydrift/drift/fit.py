"""The first half of a drift audit: from a base model and reference data to a calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from pydrift.core.parallel import with_one_blas_thread
from pydrift.core.progress import Clock
from pydrift.core.run_store import RunFolder
from pydrift.data import LabelledImages
from pydrift.drift.calibration import Calibration
from pydrift.drift.responses import QUESTIONS, BenignResponses, benign_responses, select_models, split_groups
from pydrift.drift.settings import AuditSettings, Workplace
from pydrift.drift.verdict import STRANGE_BASE, Evidence, decide
from pydrift.inversion.gray import GrayData
from pydrift.inversion.resumable import consensus_images, invert_resumable
from pydrift.models.classifier import Classifier, exact_arithmetic, freeze
from pydrift.models.intake import AuditedModel, check_num_classes, refuse_other_answers
from pydrift.shadows import Draw, ShadowBank, train_shadows, update_draw

_decide = with_one_blas_thread(decide)


def calibrate(
    base: AuditedModel,
    benign_versions: Sequence[AuditedModel],
    images: LabelledImages,
    settings: AuditSettings,
    workplace: Workplace,
) -> Calibration:
    """Trains the shadows on draws of the reference data, inverts base and shadows, and measures their responses.

    The result is a pure function of base, versions, images and settings, for one kind of device. InputRefused where the
    base does not fit the images.
    """
    clock = Clock()
    classifier = freeze(base.module, images.input_shape, workplace.device, "base")
    check_num_classes(classifier.num_classes, "the base", images.num_classes, images.source)
    draw = update_draw(len(images), base.train_size, settings.size, settings.update_mode)
    plan = {
        "base": base.sha256,
        "data": images.sha256,
        "draw": asdict(draw),
        "benign_versions": [version.sha256 for version in benign_versions],
        **settings.plan(),
    }
    with exact_arithmetic(), workplace.progress, workplace.open_run("fit", plan) as run:
        refuse_other_answers(run, "answers", classifier)
        with clock("train shadows"):
            bank = _train(base, images, draw, settings, workplace, run)
        shadows = [*bank.models(), *(version.module for version in benign_versions)]
        models = [classifier, *(freeze(m, images.input_shape, workplace.device, "shadow") for m in shadows)]
        gray, consensus = _invert(models, settings, workplace, run, clock)
        with clock("measure recognition"):
            workplace.progress.phase("measuring recognition", (QUESTIONS + 1) * len(models))
            own = np.stack([of_model.images for of_model in gray])
            benign = benign_responses(models, consensus, own, workplace.progress.advance)
    retrained = settings.update_mode == "retrain"  # else the base is none of what its shadows are
    return Calibration(
        base=base,
        shadows=tuple(shadows),
        gray=gray[0],
        consensus=consensus,
        responses=benign.responses,
        confidence=benign.confidence,
        recognition=benign.recognition,
        own_confidence=np.stack([of_model.confidence.mean(axis=1, dtype=float) for of_model in gray]),
        base_p_value=_base_p_value(benign, images.class_names) if retrained else None,
        class_names=images.class_names,
        input_shape=images.input_shape,
        update_mode=settings.update_mode,
        draw=draw.describe(len(images)),
        shadow_accuracy=bank.accuracy + (None,) * len(benign_versions),
        attack=settings.attack,
        restarts=settings.restarts,
        seed=settings.seed,
        data=images.source,
        data_sha256=images.sha256,
        settings=_describe(settings, benign_versions),
        seconds=clock.seconds,
    )


def _train(
    base: AuditedModel,
    images: LabelledImages,
    draw: Draw,
    settings: AuditSettings,
    workplace: Workplace,
    run: RunFolder,
) -> ShadowBank:
    return train_shadows(
        base,
        images,
        settings.shadows,
        update_mode=settings.update_mode,
        draw=draw,
        recipe=settings.recipe,
        recipes=settings.recipes,
        train=settings.train,
        seed=settings.seed,
        resume_dir=None if run.path is None else run.path / "shadows",
        device=str(workplace.device),
        progress=workplace.progress,
    )


def _invert(
    models: Sequence[Classifier], settings: AuditSettings, workplace: Workplace, run: RunFolder, clock: Clock
) -> tuple[list[GrayData], np.ndarray]:
    """Gray data of each model (the base first), and the consensus of each group of shadows."""
    progress, how = workplace.progress, (settings.restarts, settings.seed)
    with clock("invert base and shadows"):
        progress.phase(f"inverting base and shadows, {settings.restarts} restarts a class", len(models))
        tasks = [f"gray/{m}" for m in range(len(models))]
        gray, _ = invert_resumable(settings.attack, models, *how, tasks, run, progress.advance)
    with clock("consensus of shadows"):
        groups = [[models[1 + k] for k in members] for members in split_groups(len(models) - 1)]
        progress.phase("inverting groups of shadows", len(groups))
        consensus = consensus_images(settings.attack, groups, *how, run, progress.advance)
    return gray, consensus


def _base_p_value(benign: BenignResponses, class_names: tuple[str, ...]) -> float | None:
    """p of the base as if it were a candidate: low where the shadows were not trained as it was."""
    shadows, base = select_models(benign.responses, slice(1, None)), select_models(benign.responses, 0)
    as_candidate = Evidence(shadows, base, benign.confidence, class_names)
    p_value: float | None = _decide(as_candidate, STRANGE_BASE).p_value
    return p_value


def _describe(settings: AuditSettings, benign_versions: Sequence[AuditedModel]) -> dict[str, Any]:
    """Recipe and draw as used, for the report."""
    return {
        "recipe": "the user's own" if settings.train else asdict(settings.recipe),
        "recipes": settings.recipes,
        "guessed": list(settings.guessed),
        "benign_versions": [version.name for version in benign_versions],
    }
