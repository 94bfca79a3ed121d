"""The first half of a drift audit: from a base model and reference data to a calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from pydrift.core.files import sha256_bytes
from pydrift.core.parallel import with_one_blas_thread
from pydrift.core.progress import Clock
from pydrift.core.run_store import RunFolder
from pydrift.data import LabelledImages
from pydrift.drift.base_accuracy import refuse_inaccurate_base
from pydrift.drift.calibration import Calibration
from pydrift.drift.choice import SAME, VARIED
from pydrift.drift.exchange import exchange_p_values
from pydrift.drift.null import Null
from pydrift.drift.own_training import fixed_training, varied_training
from pydrift.drift.responses import (
    OWN_GRAY,
    QUESTIONS,
    BenignResponses,
    benign_responses,
    select_models,
    split_groups,
)
from pydrift.drift.settings import AuditSettings, Workplace
from pydrift.drift.verdict import STRANGE_BASE, Evidence, decide, find_unmeasurable
from pydrift.inversion.gray import GrayData
from pydrift.inversion.resumable import consensus_images, invert_resumable
from pydrift.models.classifier import Classifier, exact_arithmetic, freeze
from pydrift.models.intake import AuditedModel, check_num_classes, refuse_other_answers
from pydrift.shadows import Draw, ShadowBank, train_shadows, update_draw

_decide = with_one_blas_thread(decide)
_exchange_p_values = with_one_blas_thread(exchange_p_values)


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
    if settings.normalize is not None:
        settings.normalize.check(images.input_shape[0])
    classifier = freeze(base.module, images.input_shape, workplace.device, "base")
    check_num_classes(classifier.num_classes, "the base", images.num_classes, images.source)
    images = _named(images, base)
    draw = update_draw(len(images), base.train_size, settings.size, settings.update_mode)
    draw_size = len(draw.indices(settings.seed, len(images), 0))
    plan = {
        "base": base.sha256,
        "data": images.sha256,
        "draw": asdict(draw),
        "benign_versions": [version.sha256 for version in benign_versions],
        **settings.plan(),
    }
    with exact_arithmetic(), workplace.progress, workplace.open_run("fit", plan) as run:
        refuse_other_answers(run, "answers", classifier)
        at = _Task(settings, workplace, run, clock)
        (gray,) = at.invert([classifier], ["gray/base"])
        nulls = {}
        for kind in settings.kinds:
            with clock("train shadows"):
                bank = _train(kind, base, images, draw, settings, workplace, run)
            refuse_inaccurate_base(classifier, bank.accuracy, images)
            # What benign versions changed is not known, so they join the shadows that vary, where there are any.
            versions = benign_versions if kind == settings.kinds[-1] else ()
            shadows = [*bank.models(), *(version.module for version in versions)]
            accuracy = bank.accuracy + (None,) * len(versions)
            # The base is a candidate where it was trained as the shadows were, and they do not continue from it.
            of_recipe = base.recipe is None or not base.recipe.departures(settings.recipe, draw_size)
            asks_base = settings.update_mode == "retrain" and of_recipe
            names = images.class_names if asks_base else None
            nulls[kind] = at.measure_null(kind, classifier, gray, shadows, accuracy, names)
    return Calibration(
        base=base,
        gray=gray,
        nulls=nulls,
        class_names=images.class_names,
        input_shape=images.input_shape,
        update_mode=settings.update_mode,
        draw=draw.describe(len(images)),
        draw_size=draw_size,
        recipe=None if settings.train is not None else settings.recipe,
        attack=settings.attack,
        restarts=settings.restarts,
        seed=settings.seed,
        data=images.source,
        data_sha256=images.sha256,
        settings=_describe(settings, benign_versions),
        seconds=clock.seconds,
    )


@dataclass(frozen=True)
class _Task:
    """What the steps of one calibration share."""

    settings: AuditSettings
    workplace: Workplace
    run: RunFolder
    clock: Clock

    def invert(self, models: Sequence[Classifier], tasks: Sequence[str]) -> list[GrayData]:
        """Gray data of each model."""
        settings, progress = self.settings, self.workplace.progress
        with self.clock("invert base and shadows"):
            progress.phase(f"inverting, {settings.restarts} restarts a class", len(models))
            how = (settings.restarts, settings.seed, tasks, self.run, progress.advance)
            return invert_resumable(settings.attack, models, *how)[0]

    def measure_null(
        self,
        kind: str,
        base: Classifier,
        gray: GrayData,
        shadows: Sequence[nn.Module],
        accuracy: tuple[float | None, ...],
        class_names: tuple[str, ...] | None,
    ) -> Null:
        """Inverts the shadows, alone and in groups, and asks them and the base.

        class_names  for the p of the base as if it were a candidate; None: it is none
        """
        settings, progress = self.settings, self.workplace.progress
        frozen = [freeze(m, base.input_shape, self.workplace.device, "shadow") for m in shadows]
        of_each = [gray, *self.invert(frozen, [f"gray/{kind}-{k}" for k in range(len(frozen))])]
        with self.clock("consensus of shadows"):
            groups = [[frozen[k] for k in members] for members in split_groups(len(frozen))]
            progress.phase("inverting groups of shadows", len(groups))
            how = (settings.restarts, settings.seed, self.run, progress.advance, kind)
            consensus = consensus_images(settings.attack, groups, *how)
        with self.clock("measure recognition"):
            models = [base, *frozen]
            progress.phase("measuring recognition", (QUESTIONS + 1) * len(models))
            own = np.stack([of_model.images for of_model in of_each])
            benign = benign_responses(models, consensus, own, progress.advance)
        return Null(
            shadows=tuple(shadows),
            accuracy=accuracy,
            consensus=consensus,
            responses=benign.responses,
            confidence=benign.confidence,
            recognition=benign.recognition,
            own_confidence=np.stack([of_model.confidence.mean(axis=1, dtype=float) for of_model in of_each]),
            base_p_value=None if class_names is None else _base_p_value(benign, kind, class_names),
            exchanges=_exchanges(benign, kind),
        )


def _named(images: LabelledImages, base: AuditedModel) -> LabelledImages:
    """The images with the base's class names, where the data has only numbers."""
    numbers = tuple(map(str, range(images.num_classes)))
    if base.class_names is None or images.class_names != numbers or len(base.class_names) != len(numbers):
        return images
    return replace(images, class_names=base.class_names)


def _train(
    kind: str,
    base: AuditedModel,
    images: LabelledImages,
    draw: Draw,
    settings: AuditSettings,
    workplace: Workplace,
    run: RunFolder,
) -> ShadowBank:
    train = None
    if settings.train is not None:
        train = (fixed_training if kind == SAME else varied_training)(settings.train, settings.recipe)
    if train is not None and settings.normalize is not None:
        train = train.normalized(settings.normalize)
    return train_shadows(
        _start(base, settings),
        images,
        settings.shadows,
        update_mode=settings.update_mode,
        draw=draw,
        recipe=settings.recipe,
        recipes=SAME if train else kind,
        train=train,
        seed=settings.seed,
        resume_dir=None if run.path is None else run.path / f"shadows-{kind}",
        device=str(workplace.device),
        progress=workplace.progress,
    )


def _start(base: AuditedModel, settings: AuditSettings) -> AuditedModel:
    """What shadows are made from. What the name of the architecture does not say, only this program can rebuild."""
    if settings.normalize is None and settings.init is None:
        return base
    sha256 = sha256_bytes(f"{base.sha256} {settings.plan()}".encode())
    return replace(base, architecture=None, fresh=base.initial(), sha256=sha256)


def _exchanges(benign: BenignResponses, kind: str) -> tuple[float, ...]:
    shadows = select_models(benign.responses, slice(1, None))
    problems = find_unmeasurable(shadows, benign.confidence)
    classes = [c for c in range(len(benign.confidence)) if c not in problems]
    found: tuple[float, ...] = _exchange_p_values(shadows, classes, kind == VARIED, OWN_GRAY)
    return found


def _base_p_value(benign: BenignResponses, kind: str, class_names: tuple[str, ...]) -> float | None:
    """p of the base as if it were a candidate: low where the shadows were not trained as it was."""
    shadows, base = select_models(benign.responses, slice(1, None)), select_models(benign.responses, 0)
    as_candidate = Evidence(shadows, base, benign.confidence, class_names, varied=kind == VARIED)
    p_value: float | None = _decide(as_candidate, STRANGE_BASE).p_value
    return p_value


def _describe(settings: AuditSettings, benign_versions: Sequence[AuditedModel]) -> dict[str, Any]:
    """Recipe and draw as used, for the report."""
    return {
        "recipe": "the user's own" if settings.train else asdict(settings.recipe),
        "recipes": settings.recipes if len(settings.kinds) > 1 else settings.kinds[0],
        "guessed": list(settings.guessed),
        **({} if settings.normalize is None else {"normalize": settings.normalize.describe()}),
        "benign_versions": [version.name for version in benign_versions],
    }
