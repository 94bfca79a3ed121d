"""Fingerprints: does an input belong to what a model was trained on? One detector a file, calibrated p-values."""

from pydrift.fingerprint.conformal import Conformal
from pydrift.fingerprint.detector import Detector, Fitted
from pydrift.fingerprint.detectors.neuralfp import NeuralFP
from pydrift.fingerprint.features import Features, Head, Needs
from pydrift.fingerprint.fingerprint import Fingerprint, FingerprintOrigin, InputScores, Scorer
from pydrift.fingerprint.fit import fit_fingerprint
from pydrift.fingerprint.metrics import Separation, separation
from pydrift.fingerprint.probe import Probe
from pydrift.fingerprint.registry import DETECTORS, detector_named
from pydrift.fingerprint.screening import Screening, screen

__all__ = [
    "DETECTORS",
    "Conformal",
    "Detector",
    "Features",
    "Fingerprint",
    "FingerprintOrigin",
    "Fitted",
    "Head",
    "InputScores",
    "Needs",
    "NeuralFP",
    "Probe",
    "Scorer",
    "Screening",
    "Separation",
    "detector_named",
    "fit_fingerprint",
    "screen",
    "separation",
]
