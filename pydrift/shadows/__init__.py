"""Shadow models: benign models of one architecture, trained on random draws of the reference data."""

from pydrift.shadows.bank import ShadowBank
from pydrift.shadows.draw import Draw, update_draw
from pydrift.shadows.plan import RECIPES, UPDATE_MODES, ShadowPlan, function_identity
from pydrift.shadows.start import reinitialise, state_shapes
from pydrift.shadows.tasks import FolderStatus, TaskFolder
from pydrift.shadows.train import collect, plan_shadows, train_shadows, work_on

__all__ = [
    "RECIPES",
    "UPDATE_MODES",
    "Draw",
    "FolderStatus",
    "ShadowBank",
    "ShadowPlan",
    "TaskFolder",
    "collect",
    "function_identity",
    "plan_shadows",
    "reinitialise",
    "state_shapes",
    "train_shadows",
    "update_draw",
    "work_on",
]
