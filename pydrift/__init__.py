"""pydrift audits image classifiers: has a candidate's concept of a class drifted, even where accuracy did not move?

    auditor = pydrift.DriftAuditor("base.safetensors").fit(pydrift.load_data("npz:reference.npz"))
    result = auditor.compare("candidate.safetensors")   # result.verdict: "stable", "drift" or "inconclusive"
    pydrift.write_report(result, "report")              # report.html, report.json, gray.npz

`__all__` is the public interface. Python imports a name when it is first used, so `import pydrift` loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydrift.core.errors import InputRefused, PydriftError, UsageError
    from pydrift.data import LabelledImages, load_data, plant
    from pydrift.drift.audit import DriftAuditor, audit
    from pydrift.drift.calibration import Calibration
    from pydrift.drift.result import DriftReport
    from pydrift.fingerprint import Fingerprint, fit_fingerprint
    from pydrift.inversion import GradientAscent
    from pydrift.inversion.gray import GrayData
    from pydrift.membership.audit import membership_audit
    from pydrift.membership.result import MembershipReport
    from pydrift.models.file import load_model, save_model
    from pydrift.models.recipe import TrainingRecipe
    from pydrift.ownership import OwnershipReport, ownership_audit
    from pydrift.report import write_report
    from pydrift.shadows import Draw, ShadowBank, train_shadows
    from pydrift.version import __version__

_HOME = {
    "Calibration": "drift.calibration",
    "Draw": "shadows",
    "DriftAuditor": "drift.audit",
    "DriftReport": "drift.result",
    "Fingerprint": "fingerprint",
    "GradientAscent": "inversion",
    "GrayData": "inversion.gray",
    "InputRefused": "core.errors",
    "LabelledImages": "data",
    "MembershipReport": "membership.result",
    "OwnershipReport": "ownership",
    "PydriftError": "core.errors",
    "ShadowBank": "shadows",
    "TrainingRecipe": "models.recipe",
    "UsageError": "core.errors",
    "__version__": "version",
    "audit": "drift.audit",
    "fit_fingerprint": "fingerprint",
    "load_data": "data",
    "load_model": "models.file",
    "membership_audit": "membership.audit",
    "ownership_audit": "ownership",
    "plant": "data",
    "save_model": "models.file",
    "train_shadows": "shadows",
    "write_report": "report",
}

__all__ = [
    "Calibration",
    "Draw",
    "DriftAuditor",
    "DriftReport",
    "Fingerprint",
    "GradientAscent",
    "GrayData",
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
    "fit_fingerprint",
    "load_data",
    "load_model",
    "membership_audit",
    "ownership_audit",
    "plant",
    "save_model",
    "train_shadows",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pydrift' has no attribute {name!r}")
    return getattr(import_module(f"pydrift.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
