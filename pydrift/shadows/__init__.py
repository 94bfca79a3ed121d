"""Shadow models: benign models of one architecture, trained on random draws of the reference data, kept as a bank."""

from pydrift.shadows.bank import ShadowBank
from pydrift.shadows.draw import Draw, successor_draw
from pydrift.shadows.plan import NULLS, RECIPES, ShadowPlan, described
from pydrift.shadows.tasks import FolderStatus, TaskFolder
from pydrift.shadows.train import collect, plan_shadows, reinitialised, state_shapes, train_shadows, work_on

__all__ = [
    "NULLS",
    "RECIPES",
    "Draw",
    "FolderStatus",
    "ShadowBank",
    "ShadowPlan",
    "TaskFolder",
    "collect",
    "described",
    "plan_shadows",
    "reinitialised",
    "state_shapes",
    "successor_draw",
    "train_shadows",
    "work_on",
]
