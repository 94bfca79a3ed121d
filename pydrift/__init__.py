"""pydrift: has a newer image classifier's concept of a class drifted, even where its accuracy did not move?

    report = pydrift.audit(base, production, data=(x, y))
    report.verdict            # "stable" | "drift" | "inconclusive"

Names are imported when first used, so that `import pydrift` alone loads neither torch nor scipy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydrift.auditor import DriftAuditor, audit
    from pydrift.data import LabelledImages, load_data, plant
    from pydrift.errors import InputRefused, PydriftError, UsageError
    from pydrift.fingerprint import Fingerprint, fit_fingerprint
    from pydrift.inversion import GradientAscent
    from pydrift.modelfile import load_model, save_model
    from pydrift.ownership import OwnershipReport, dataset_inference
    from pydrift.privacy import membership_audit
    from pydrift.privacy_result import MembershipReport
    from pydrift.result import DriftReport
    from pydrift.shadows import Draw, ShadowBank, train_shadows
    from pydrift.training import TrainingRecipe
    from pydrift.version import __version__

_HOME = {
    "Draw": "shadows",
    "DriftAuditor": "auditor",
    "DriftReport": "result",
    "Fingerprint": "fingerprint",
    "GradientAscent": "inversion",
    "InputRefused": "errors",
    "LabelledImages": "data",
    "MembershipReport": "privacy_result",
    "OwnershipReport": "ownership",
    "PydriftError": "errors",
    "ShadowBank": "shadows",
    "TrainingRecipe": "training",
    "UsageError": "errors",
    "__version__": "version",
    "audit": "auditor",
    "dataset_inference": "ownership",
    "fit_fingerprint": "fingerprint",
    "load_data": "data",
    "load_model": "modelfile",
    "membership_audit": "privacy",
    "plant": "data",
    "save_model": "modelfile",
    "train_shadows": "shadows",
}

__all__ = [
    "Draw",
    "DriftAuditor",
    "DriftReport",
    "Fingerprint",
    "GradientAscent",
    "InputRefused",
    "LabelledImages",
    "MembershipReport",
    "OwnershipReport",
    "PydriftError",
    "ShadowBank",
    "TrainingRecipe",
    "UsageError",
    "__version__",
    "audit",
    "dataset_inference",
    "fit_fingerprint",
    "load_data",
    "load_model",
    "membership_audit",
    "plant",
    "save_model",
    "train_shadows",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pydrift' has no attribute {name!r}")
    return getattr(import_module(f"pydrift.{_HOME[name]}"), name)
