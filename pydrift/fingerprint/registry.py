"""The detectors by name, as the command line and `fit_fingerprint` know them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydrift.core.errors import UsageError
from pydrift.fingerprint.detector import Detector
from pydrift.fingerprint.detectors.ash import Ash, FittedAsh
from pydrift.fingerprint.detectors.energy import Energy
from pydrift.fingerprint.detectors.gen import Gen
from pydrift.fingerprint.detectors.gram import FittedGram, Gram
from pydrift.fingerprint.detectors.knn import FittedKnn, Knn
from pydrift.fingerprint.detectors.mahalanobis import FittedMahalanobis, Mahalanobis
from pydrift.fingerprint.detectors.max_logit import MaxLogit
from pydrift.fingerprint.detectors.msp import MaxSoftmax
from pydrift.fingerprint.detectors.neuralfp import FittedNeuralFP, NeuralFP
from pydrift.fingerprint.detectors.odin import Odin
from pydrift.fingerprint.detectors.react import FittedReact, React
from pydrift.fingerprint.detectors.she import FittedShe, She
from pydrift.fingerprint.detectors.vim import FittedVim, Vim

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

_FITTED: dict[type[Any], type[Any]] = {
    NeuralFP: FittedNeuralFP,
    React: FittedReact,
    Ash: FittedAsh,
    She: FittedShe,
    Knn: FittedKnn,
    Vim: FittedVim,
    Mahalanobis: FittedMahalanobis,
    Gram: FittedGram,
}


def detector_named(name: str, settings: Mapping[str, Any] | None = None, seed: int = 0) -> Detector:
    """The detector of that name with `settings` changed. `seed` is of those that draw something.

    UsageError where it, or a setting, is not known.
    """
    if name not in DETECTORS:
        raise UsageError(f"no such detector: {name!r}; known are {', '.join(DETECTORS)}")
    detector: Any = DETECTORS[name]
    if isinstance(detector, NeuralFP):
        detector = replace(detector, seed=seed)
    try:
        changed: Detector = replace(detector, **(settings or {}))
    except TypeError as error:
        raise UsageError(f"{name}: {error}") from error
    return changed


def fitted_class(detector: Detector) -> type[Any]:
    """The class of what the detector becomes when fitted: its own, where it learns nothing."""
    return _FITTED.get(type(detector), type(detector))
