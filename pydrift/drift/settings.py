"""What the user decides about a drift audit, checked once, and where the audit works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pydrift.core.checks import check_seed
from pydrift.core.errors import UsageError
from pydrift.core.manifest import refuse_manifest_folder
from pydrift.core.noise import MAX_RESTARTS
from pydrift.core.progress import Progress
from pydrift.core.run_store import RunFolder
from pydrift.drift.calibration import describe_attack
from pydrift.drift.choice import SAME, VARIED
from pydrift.drift.own_training import OwnTraining, fixed_training, varied_training
from pydrift.inversion import GradientAscent, InversionAttack
from pydrift.models.normalization import Normalization
from pydrift.models.recipe import TrainingRecipe
from pydrift.shadows import UPDATE_MODES, function_identity
from pydrift.version import __version__

VERSIONS = {"pydrift": __version__, "torch": str(torch.__version__)}
"""A finished piece of another version is not used."""

BOTH = "both"
RECIPES = (BOTH, SAME, VARIED)
"""Whether shadows are trained by the base's recipe, by varied ones, or so many of each."""


@dataclass(frozen=True)
class AuditSettings:
    """How a calibration is made; see DriftAuditor for each field. UsageError where a value is out of its range.

    recipe   as used: the user's, else what the base's file records, else the default
    recipes  of RECIPES
    guessed  which of "recipe" and "size" nothing was known about
    init     makes a fresh start of a shadow from a seed; None: as the base's architecture says
    """

    shadows: int = 32
    update_mode: str = "retrain"
    restarts: int = 4
    seed: int = 0
    recipe: TrainingRecipe = field(default_factory=TrainingRecipe)
    recipes: str = BOTH
    train: OwnTraining | None = None
    size: int | None = None
    attack: InversionAttack = field(default_factory=GradientAscent)
    guessed: tuple[str, ...] = ()
    normalize: Normalization | None = None
    init: Callable[[int], nn.Module] | None = None

    def __post_init__(self) -> None:
        if self.shadows < 2:
            raise UsageError(f"shadows must be >= 2, got {self.shadows}")
        if not 1 <= self.restarts <= MAX_RESTARTS:
            raise UsageError(f"restarts must be in 1..{MAX_RESTARTS}, got {self.restarts}")
        if self.update_mode not in UPDATE_MODES:
            raise UsageError(f"update_mode must be one of {', '.join(UPDATE_MODES)}, got {self.update_mode!r}")
        if self.recipes not in RECIPES:
            raise UsageError(f"recipes must be one of {', '.join(RECIPES)}, got {self.recipes!r}")
        varies = self.train is None or varied_training(self.train, self.recipe) is not None
        if self.recipes == VARIED and not varies:
            raise UsageError(
                "recipes='varied' needs a train function that takes a recipe, train(x, y, seed, recipe), or several"
            )
        check_seed(self.seed)
        if self.size is not None and self.size < 2:
            raise UsageError(f"size must be >= 2, got {self.size}")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of shadows, `shadows` of each. The user's own training may have nothing to vary."""
        wanted = (SAME, VARIED) if self.recipes == BOTH else (self.recipes,)
        fixed = self.train is not None and varied_training(self.train, self.recipe) is None
        return (SAME,) if fixed else wanted

    def for_candidate(self, recipe: TrainingRecipe | str | None) -> AuditSettings:
        """The settings that make the one null which judges a candidate.

        recipe  of the candidate; SAME: that of the base; None: nobody knows
        """
        if recipe is None:
            return replace(self, recipes=VARIED if VARIED in self.kinds else SAME)
        if self.train is not None or not isinstance(recipe, TrainingRecipe):
            return replace(self, recipes=SAME)
        return replace(self, recipes=SAME, recipe=recipe)

    def plan(self) -> dict[str, Any]:
        """What of the settings determines the result of a calibration, as plain JSON values."""
        stated: dict[str, Any] = {} if self.normalize is None else {"normalize": self.normalize.describe()}
        if self.init is not None:
            stated["init"] = function_identity(self.init)
        return {
            **stated,
            "shadows": self.shadows,
            "update_mode": self.update_mode,
            "recipe": asdict(self.recipe),
            "recipes": self.recipes,
            "attack": describe_attack(self.attack),
            "restarts": self.restarts,
            "seed": self.seed,
            "train": None if self.train is None else function_identity(fixed_training(self.train, self.recipe)),
        }


@dataclass(frozen=True)
class Workplace:
    """Where an audit computes, keeps its finished pieces and reports its progress.

    resume_dir  folder for finished pieces, so that a killed run goes on where it was; None: nothing is kept
    """

    device: torch.device
    resume_dir: Path | None
    progress: Progress

    def open_run(self, name: str, plan: dict[str, Any]) -> RunFolder:
        """The finished pieces of one run, in a folder of its own.

        UsageError where the folder is a calibration or holds the work of another plan.
        """
        if self.resume_dir is None:
            return RunFolder(None, plan)
        refuse_manifest_folder(self.resume_dir)
        return RunFolder(self.resume_dir / name, {**plan, "device": self.device.type, "versions": VERSIONS})
