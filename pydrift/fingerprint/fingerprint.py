"""A fingerprint: a detector fitted to one model's training data, calibrated on held-out images, in one file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pydrift.core.artifact import Artifact, Format, decode_fields, encode
from pydrift.core.errors import InputRefused, PydriftError
from pydrift.core.files import sha256_bytes, write_atomic
from pydrift.core.strict_json import parse_strict_json
from pydrift.core.tensors import sealed_bytes, tensors_digest, unsealed
from pydrift.fingerprint.conformal import Conformal
from pydrift.fingerprint.detector import Detector, Fitted, restore, state_of, to_device
from pydrift.fingerprint.extraction import BLOCK, FeatureExtractor, blocks
from pydrift.fingerprint.registry import fitted_class, select_detector
from pydrift.models.classifier import choose_device, exact_arithmetic
from pydrift.models.file import read_tensors
from pydrift.models.intake import Model, as_audited_model

_KEY = "pydrift.fingerprint"
_PREFIX = "detector."
_REFERENCE = "reference"
_LOGITS = "logits"
_NUM_SAMPLES = 16
_ROUNDING = 1e-4  # by so much, values may lie outside [0, 1]; they are clipped
_TOLERANCE = 1e-3  # of the largest logit: other machines, thread counts and devices may differ by so much


@dataclass(frozen=True)
class FingerprintOrigin:
    """Where a fingerprint comes from.

    detector      its name in DETECTORS, and `settings` its fields
    model         its name, in words
    model_path    the model's file; None: it was a module in Python
    model_sha256  over the model's printed structure and its weights, whatever file they were in
    layers        names of the modules whose inputs are read
    input_shape   (C, H, W)
    data          where the images come from, in words
    data_sha256   over all images and labels
    fitted_on     how many of the images the detector was fitted on
    held_out      how many of the others calibrate it
    reasons       what a reader of the p-values must know
    pydrift, torch
                  their versions
    """

    detector: str
    settings: dict[str, Any]
    model: str
    model_path: str | None
    model_sha256: str
    layers: tuple[str, ...]
    input_shape: tuple[int, int, int]
    num_classes: int
    data: str
    data_sha256: str
    fitted_on: int
    held_out: int
    reasons: tuple[str, ...]
    seed: int
    pydrift: str
    torch: str


@dataclass(frozen=True, eq=False)
class InputScores:
    """The scores of N images.

    score       float64 [N]: higher is more like the training data; only the order has a meaning
    p           float64 [N] in (0, 1], conformal: for images like the held-out ones, P(p <= alpha) is at most alpha
    prediction  int64 [N]: the class that the model predicts
    """

    score: NDArray[np.float64]
    p: NDArray[np.float64]
    prediction: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.p)

    @classmethod
    def joined(cls, parts: Sequence[InputScores]) -> InputScores:
        """The scores of all images of the parts."""
        none = cls(np.empty(0), np.empty(0), np.empty(0, np.int64))
        return cls(*(np.concatenate([getattr(p, f.name) for p in (none, *parts)]) for f in fields(cls)))


@dataclass(frozen=True, eq=False)
class Fingerprint(Artifact):
    """What `fit_fingerprint` returns. It does not hold the model itself, only its hash and some of its logits.

    fitted     the fitted detector
    conformal  turns its scores into p-values
    origin     where the fingerprint comes from
    logits     float32 [16, K]: the model's logits of 16 seeded images. They identify the model beyond the hash, which
               does not cover what else a forward pass uses
    """

    fitted: Fitted
    conformal: Conformal
    origin: FingerprintOrigin
    logits: Tensor

    format = Format("fingerprint", 3, "Make it again with pydrift fingerprint fit.")

    def save(self, path: str | Path) -> None:
        """Writes one safetensors file, atomically. The same fingerprint gives the same bytes."""
        write_atomic(path, sealed_bytes(_KEY, {**self.format.heading(), **self._document()}, self._tensors()))

    def _document(self) -> dict[str, Any]:
        return {"numbers": state_of(self.fitted)[1], **encode(self.origin)}

    def _tensors(self) -> dict[str, Tensor]:
        content = {_PREFIX + name: tensor for name, tensor in state_of(self.fitted)[0].items()}
        return {**content, _REFERENCE: torch.from_numpy(self.conformal.reference.copy()), _LOGITS: self.logits}

    @classmethod
    def load(cls, path: str | Path) -> Fingerprint:
        """Reads what `save` wrote. UsageError: no such file. InputRefused: the file is damaged or something else."""
        file = read_tensors(path)
        if _KEY not in file.metadata:
            raise InputRefused(f"{path}: not a fingerprint (pydrift fingerprint fit makes one)")
        with cls.format.reading(path):
            cls.format.check(parse_strict_json(file.metadata[_KEY].encode()), path)
            about = cls.format.without_heading(unsealed(_KEY, file.metadata, file.tensors), path)
            try:
                return cls._from_parts(about, file.tensors)
            except PydriftError as error:
                raise ValueError(str(error)) from error

    @classmethod
    def _from_parts(cls, about: dict[str, Any], tensors: Mapping[str, Tensor]) -> Fingerprint:
        numbers = about.pop("numbers", None)
        origin = FingerprintOrigin(**decode_fields(FingerprintOrigin, about))
        texts = [origin.model, origin.model_path or "", origin.model_sha256, origin.data]
        if not all(text.isprintable() for text in (*texts, *origin.layers, *origin.reasons)):
            raise ValueError("a text in it cannot be printed")
        detector = select_detector(origin.detector, origin.settings)
        state = {name.removeprefix(_PREFIX): t for name, t in tensors.items() if name.startswith(_PREFIX)}
        if missing := {_REFERENCE, _LOGITS} - tensors.keys():
            raise ValueError(f"{min(missing)!a} is missing")
        reference, logits = tensors[_REFERENCE].double().numpy(), tensors[_LOGITS]
        if reference.ndim != 1 or (np.diff(reference) < 0).any():
            raise ValueError("the held-out scores are not in order")
        if logits.shape != (_NUM_SAMPLES, origin.num_classes) or logits.dtype != torch.float32:
            raise ValueError(f"the model's answers must be float32 [{_NUM_SAMPLES}, {origin.num_classes}]")
        if not isinstance(numbers, dict):
            raise ValueError("'numbers' is missing")
        return cls(restore(fitted_class(detector), state, numbers), Conformal.of(reference), origin, logits)

    def scorer(
        self,
        model: Model,
        *,
        arch: str | None = None,
        device: str | None = None,
    ) -> Scorer:
        """Prepares the model for scoring inputs.

        arch    the architecture, for a model file that does not name it
        device  default: a CUDA device if torch sees one, else the CPU

        InputRefused: it is another model than the fingerprint's, by its structure, its weights or its logits.
        """
        audited = as_audited_model(model, "model", arch)
        sha256 = model_digest(audited.module)
        if sha256 != self.origin.model_sha256:
            raise InputRefused(
                f"{audited.name}: the fingerprint is of another model ({self.origin.model}, "
                f"{self.origin.model_sha256[:12]}; this one is {sha256[:12]})"
            )
        extractor = FeatureExtractor(audited.module, self.origin.input_shape, choose_device(device), audited.name)
        found = sample_logits(extractor)
        if found.shape != self.logits.shape or not _close(found, self.logits):
            raise InputRefused(
                f"{audited.name}: the fingerprint is of another model ({self.origin.model}): structure and weights are "
                "the same, but the logits differ"
            )
        return Scorer(self, extractor)

    def score(self, model: Model, x: Tensor, **options: Any) -> InputScores:
        """`scorer(model, **options).score(x)`."""
        return self.scorer(model, **options).score(x)


class Scorer:
    """A fingerprint together with its model. `stream` scores any number of inputs in constant memory."""

    def __init__(self, fingerprint: Fingerprint, extractor: FeatureExtractor) -> None:
        self.fingerprint = fingerprint
        self._extractor = extractor
        self._fitted = to_device(fingerprint.fitted, extractor.device)
        origin = fingerprint.origin
        self._detector: Detector = select_detector(origin.detector, origin.settings)
        try:
            if extractor.layers != origin.layers or extractor.num_classes != origin.num_classes:
                raise ValueError("its layers are not the model's")
            self.score(torch.full((1, *extractor.input_shape), 0.5))
        except (RuntimeError, IndexError, ValueError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise InputRefused(f"the fingerprint is damaged: it does not fit its own model: {reason}") from error

    def score(self, x: Tensor) -> InputScores:
        """Scores images float32 [N, C, H, W] in [0, 1]. InputRefused: another shape, dtype or range."""
        return InputScores.joined(list(self.stream([x])))

    def stream(self, batches: Iterable[Tensor]) -> Iterator[InputScores]:
        """Scores batches [n, C, H, W] of any size, 250 images at a time. The sizes do not change the result."""
        for block in blocks(map(self._check, batches)):
            with exact_arithmetic():  # not around the yield: between blocks torch's settings are the caller's
                features = self._extractor.features(block, self._detector.needs)
                score = self._fitted.score(features).double().cpu().numpy()
            yield InputScores(score, self.fingerprint.conformal.p(score), features.logits.argmax(dim=1).cpu().numpy())

    def _check(self, x: Tensor) -> Tensor:
        shape = self._extractor.input_shape
        if not isinstance(x, Tensor) or x.ndim != 4 or tuple(x.shape[1:]) != shape or x.dtype != torch.float32:
            got = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise InputRefused(f"images must be float32 [N, {', '.join(map(str, shape))}], got {got}")
        for start in range(0, len(x), BLOCK):
            block = x[start : start + BLOCK]
            wrong = ~((block >= -_ROUNDING) & (block <= 1 + _ROUNDING)).flatten(1).all(dim=1)  # a NaN compares false
            if wrong.any():
                raise InputRefused(f"image {start + int(wrong.nonzero()[0])} has values outside [0, 1], or not finite")
        return x.clamp(0, 1)


def sample_logits(extractor: FeatureExtractor) -> Tensor:
    """The network's logits float32 [16, K], on the CPU, of 16 seeded random images of its input shape."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((_NUM_SAMPLES, *extractor.input_shape), generator=generator)
    with exact_arithmetic():
        return extractor.logits(x.to(extractor.device)).float().cpu()


def _close(a: Tensor, b: Tensor) -> bool:
    finite = b[b.isfinite()]
    most = float(finite.abs().max()) if len(finite) else 0.0
    return torch.allclose(a, b, rtol=0, atol=_TOLERANCE * most, equal_nan=True)


def model_digest(module: nn.Module) -> str:
    """SHA-256 over the printed structure and the weights: the same for a module and for a file of it."""
    return sha256_bytes(f"{module!r} {tensors_digest(module.state_dict())}".encode())
