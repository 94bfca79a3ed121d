"""Trains the models that suspects are compared with; none of them sees a private image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydrift.core.manifest import refuse_manifest_folder
from pydrift.core.noise import Phase, derived_seed
from pydrift.core.progress import Progress
from pydrift.models.recipe import TrainingRecipe
from pydrift.ownership.case import Case
from pydrift.ownership.roles import Indices, Roles
from pydrift.ownership.settings import OwnershipSettings
from pydrift.shadows import Draw, ShadowBank, train_shadows
from pydrift.training import Train


@dataclass(frozen=True)
class ModelTraining:
    """How reference and independent models are trained: the arguments of `ownership_audit`.

    recipe  None: neither the caller nor the victim's file names one, so the default recipe is used
    """

    recipe: TrainingRecipe | None
    train: Train | None
    resume_dir: str | Path | None
    device: str | None


@dataclass(frozen=True)
class TrainedModels:
    """The reference models and the independent models; each bank is trained on halves of a pool of its own."""

    references: ShadowBank
    independents: ShadowBank


def train_independent_models(
    case: Case, roles: Roles, settings: OwnershipSettings, training: ModelTraining, progress: Progress
) -> TrainedModels:
    """Trains both banks, or resumes them from `training.resume_dir`. Deterministic."""
    if training.resume_dir is not None:
        refuse_manifest_folder(training.resume_dir)

    def train(name: str, pool: Indices, count: int, phase: Phase) -> ShadowBank:
        return train_shadows(
            case.victim.model,
            case.public.subset(pool),
            count,
            draw=Draw("halves"),
            recipe=training.recipe or TrainingRecipe(),
            recipes="varied" if training.train is None else "same",
            train=training.train,
            seed=derived_seed(settings.seed, phase),
            device=training.device,
            progress=progress,
            resume_dir=None if training.resume_dir is None else Path(training.resume_dir) / name,
        )

    return TrainedModels(
        references=train("references", roles.reference_pool, settings.references, Phase.REFERENCES),
        independents=train("independents", roles.independent_pool, settings.independents, Phase.INDEPENDENTS),
    )
