"""Fingerprints: does an input look like the images that a model was trained on? Calibrated p-values."""

from pydrift.fingerprint.conformal import Conformal
from pydrift.fingerprint.detector import Detector, Fitted
from pydrift.fingerprint.detectors.neuralfp import NeuralFP
from pydrift.fingerprint.extraction import FeatureExtractor
from pydrift.fingerprint.features import Features, Head, Needs
from pydrift.fingerprint.fingerprint import Fingerprint, FingerprintOrigin, InputScores, Scorer
from pydrift.fingerprint.fit import fit_fingerprint
from pydrift.fingerprint.metrics import Separation, separation
from pydrift.fingerprint.registry import DETECTORS, select_detector
from pydrift.fingerprint.screening import Screening, screen

__all__ = [
    "DETECTORS",
    "Conformal",
    "Detector",
    "FeatureExtractor",
    "Features",
    "Fingerprint",
    "FingerprintOrigin",
    "Fitted",
    "Head",
    "InputScores",
    "Needs",
    "NeuralFP",
    "Scorer",
    "Screening",
    "Separation",
    "fit_fingerprint",
    "screen",
    "select_detector",
    "separation",
]
