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
from pydrift.fingerprint.detector import Detector, Fitted, moved, restored, state_of
from pydrift.fingerprint.probe import BLOCK, Probe, blocks
from pydrift.fingerprint.registry import detector_named, fitted_class
from pydrift.models.classifier import choose_device, exact_arithmetic
from pydrift.models.file import read_tensors
from pydrift.models.intake import Model, as_audited_model

_KEY = "pydrift.fingerprint"
_PREFIX = "detector."
_REFERENCE = "reference"
_LOGITS = "logits"
_NUM_PROBES = 16
_TOLERANCE = 1e-3  # of the largest logit: what other machines, threads and devices may differ by


@dataclass(frozen=True)
class FingerprintOrigin:
    """Where a fingerprint comes from.

    model_path    the model's file; None of a module that was handed over in Python
    model_sha256  over the model's printed structure and its weights, whatever file they were in
    layers        the modules whose inputs are read
    data_sha256   of all images it was made with, of which `fitted_on` were fitted and `held_out` calibrated on
    reasons       what a reader of its p-values must know
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
    """What a fingerprint says of N images.

    score       float64 [N], the higher the more at home; only its order means something
    p           float64 [N], conformal: at most alpha for a share of at most alpha of images like the held-out ones
    prediction  int64 [N], the model's classes
    """

    score: NDArray[np.float64]
    p: NDArray[np.float64]
    prediction: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.p)

    @classmethod
    def joined(cls, parts: Sequence[InputScores]) -> InputScores:
        """Those of all images of the parts."""
        none = cls(np.empty(0), np.empty(0), np.empty(0, np.int64))
        return cls(*(np.concatenate([getattr(p, f.name) for p in (none, *parts)]) for f in fields(cls)))


@dataclass(frozen=True, eq=False)
class Fingerprint(Artifact):
    """See `fit_fingerprint`, which makes one. The model itself is not in it, only its hash and a few of its answers.

    logits  float32 [16, K]: of seeded images. A hash of structure and weights does not see what else a forward uses
    """

    fitted: Fitted
    conformal: Conformal
    origin: FingerprintOrigin
    logits: Tensor

    format = Format("fingerprint", 3, "Make it again with pydrift fingerprint fit.")

    def save(self, path: str | Path) -> None:
        """One safetensors file, written atomically; the bytes are a pure function of the fingerprint."""
        write_atomic(path, sealed_bytes(_KEY, {**self.format.heading(), **self._document()}, self._tensors()))

    def _document(self) -> dict[str, Any]:
        return {"numbers": state_of(self.fitted)[1], **encode(self.origin)}

    def _tensors(self) -> dict[str, Tensor]:
        content = {_PREFIX + name: tensor for name, tensor in state_of(self.fitted)[0].items()}
        return {**content, _REFERENCE: torch.from_numpy(self.conformal.reference.copy()), _LOGITS: self.logits}

    @classmethod
    def load(cls, path: str | Path) -> Fingerprint:
        """Reads what `save` wrote. InputRefused names the file and what is wrong with it; UsageError: no such file."""
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
        detector = detector_named(origin.detector, origin.settings)
        state = {name.removeprefix(_PREFIX): t for name, t in tensors.items() if name.startswith(_PREFIX)}
        if missing := {_REFERENCE, _LOGITS} - tensors.keys():
            raise ValueError(f"{min(missing)!a} is missing")
        reference, logits = tensors[_REFERENCE].double().numpy(), tensors[_LOGITS]
        if reference.ndim != 1 or (np.diff(reference) < 0).any():
            raise ValueError("the held-out scores are not in order")
        if logits.shape != (_NUM_PROBES, origin.num_classes) or logits.dtype != torch.float32:
            raise ValueError("the model's answers are not those that a fingerprint has")
        if not isinstance(numbers, dict):
            raise ValueError("'numbers' is missing")
        return cls(restored(fitted_class(detector), state, numbers), Conformal.of(reference), origin, logits)

    def scorer(
        self,
        model: Model,
        *,
        arch: str | None = None,
        device: str | None = None,
    ) -> Scorer:
        """Makes the model ready to have inputs scored.

        InputRefused where it is not the fingerprint's model: by structure and weights, or by what it answers.
        """
        subject = as_audited_model(model, "model", arch)
        sha256 = identity(subject.module)
        if sha256 != self.origin.model_sha256:
            raise InputRefused(
                f"{subject.name}: the fingerprint is of another model ({self.origin.model}, "
                f"{self.origin.model_sha256[:12]}; this one is {sha256[:12]})"
            )
        probe = Probe(subject.module, self.origin.input_shape, choose_device(device), subject.name)
        answered = probe_logits(probe)
        if answered.shape != self.logits.shape or not _close(answered, self.logits):
            raise InputRefused(
                f"{subject.name}: the fingerprint is of another model ({self.origin.model}): structure and weights are "
                "the same, but this one answers otherwise"
            )
        return Scorer(self, probe)

    def score(self, model: Model, x: Tensor, **options: Any) -> InputScores:
        """`scorer(model, **options).score(x)`."""
        return self.scorer(model, **options).score(x)


class Scorer:
    """A fingerprint and its model: `stream` scores inputs in memory that does not grow with their number."""

    def __init__(self, fingerprint: Fingerprint, probe: Probe) -> None:
        self.fingerprint = fingerprint
        self._probe = probe
        self._fitted = moved(fingerprint.fitted, probe.device)
        origin = fingerprint.origin
        self._detector: Detector = detector_named(origin.detector, origin.settings)
        try:
            if probe.layers != origin.layers or probe.num_classes != origin.num_classes:
                raise ValueError("its layers are not the model's")
            self.score(torch.full((1, *probe.input_shape), 0.5))
        except (RuntimeError, IndexError, ValueError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise InputRefused(f"the fingerprint is damaged: it does not fit its own model: {reason}") from error

    def score(self, x: Tensor) -> InputScores:
        """Of images float32 [N, C, H, W] in [0, 1]. InputRefused where they are of another shape, kind or range."""
        return InputScores.joined(list(self.stream([x])))

    def stream(self, batches: Iterable[Tensor]) -> Iterator[InputScores]:
        """Of batches [n, C, H, W] of any sizes, 250 images at a time. A result depends on no batch size."""
        for block in blocks(map(self._checked, batches)):
            with exact_arithmetic():  # not around the yield: between blocks torch's settings are the caller's
                features = self._probe.features(block, self._detector.needs)
                score = self._fitted.score(features).double().cpu().numpy()
            yield InputScores(score, self.fingerprint.conformal.p(score), features.logits.argmax(dim=1).cpu().numpy())

    def _checked(self, x: Tensor) -> Tensor:
        shape = self._probe.input_shape
        if not isinstance(x, Tensor) or x.ndim != 4 or tuple(x.shape[1:]) != shape or x.dtype != torch.float32:
            got = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise InputRefused(f"images must be float32 [N, {', '.join(map(str, shape))}], got {got}")
        for start in range(0, len(x), BLOCK):
            block = x[start : start + BLOCK]
            wrong = ~((block >= 0) & (block <= 1)).flatten(1).all(dim=1)  # a NaN compares false
            if wrong.any():
                raise InputRefused(f"image {start + int(wrong.nonzero()[0])} has values outside [0, 1], or not finite")
        return x


def probe_logits(probe: Probe) -> Tensor:
    """The network's logits float32 [16, K], on the CPU, of images that are the same for every network of its shape."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((_NUM_PROBES, *probe.input_shape), generator=generator)
    with exact_arithmetic():
        return probe.logits(x.to(probe.device)).float().cpu()


def _close(a: Tensor, b: Tensor) -> bool:
    finite = b[b.isfinite()]
    most = float(finite.abs().max()) if len(finite) else 0.0
    return torch.allclose(a, b, rtol=0, atol=_TOLERANCE * most, equal_nan=True)


def identity(module: nn.Module) -> str:
    """SHA-256 over the printed structure and the weights: the same for a module and for the file it was saved in."""
    return sha256_bytes(f"{module!r} {tensors_digest(module.state_dict())}".encode())
