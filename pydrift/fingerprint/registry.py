"""The detectors by name, as the command line and `fit_fingerprint` know them. A new detector needs one row here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, get_type_hints

from pydrift.core.errors import UsageError
from pydrift.fingerprint.detector import Detector
from pydrift.fingerprint.detectors.ash import Ash
from pydrift.fingerprint.detectors.energy import Energy
from pydrift.fingerprint.detectors.gen import Gen
from pydrift.fingerprint.detectors.gram import Gram
from pydrift.fingerprint.detectors.knn import Knn
from pydrift.fingerprint.detectors.mahalanobis import Mahalanobis
from pydrift.fingerprint.detectors.max_logit import MaxLogit
from pydrift.fingerprint.detectors.msp import MaxSoftmax
from pydrift.fingerprint.detectors.neuralfp import NeuralFP
from pydrift.fingerprint.detectors.odin import Odin
from pydrift.fingerprint.detectors.react import React
from pydrift.fingerprint.detectors.she import She
from pydrift.fingerprint.detectors.vim import Vim

DETECTORS: dict[str, Detector] = {
    "neuralfp": NeuralFP(),
    "msp": MaxSoftmax(),
    "max-logit": MaxLogit(),
    "energy": Energy(),
    "odin": Odin(),
    "gen": Gen(),
    "react": React(),
    "ash": Ash(),
    "she": She(),
    "knn": Knn(),
    "vim": Vim(),
    "mahalanobis": Mahalanobis(),
    "mahalanobis-ensemble": Mahalanobis(every_layer=True),
    "gram": Gram(),
}


def select_detector(name: str, settings: Mapping[str, Any] | None = None, seed: int = 0) -> Detector:
    """The detector of that name with `settings` changed. `seed` is the default of a detector that has a seed.

    UsageError: an unknown name or setting.
    """
    if name not in DETECTORS:
        raise UsageError(f"no such detector: {name!r}; known are {', '.join(DETECTORS)}")
    detector: Any = DETECTORS[name]
    if any(field.name == "seed" for field in fields(detector)):
        detector = replace(detector, seed=seed)
    try:
        changed: Detector = replace(detector, **(settings or {}))
    except TypeError as error:
        raise UsageError(f"{name}: {error}") from error
    return changed


def fitted_class(detector: Detector) -> type[Any]:
    """The class of the fitted detector: the return type of its `fit`. A detector that learns nothing returns itself."""
    kind: type[Any] = get_type_hints(type(detector).fit)["return"]
    return kind
