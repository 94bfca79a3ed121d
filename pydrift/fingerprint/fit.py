"""Takes a model's fingerprint: features once, a detector, held-out images for the p-values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pydrift.core.checks import check_seed
from pydrift.core.errors import InputRefused
from pydrift.core.noise import Phase, derived_seed
from pydrift.core.progress import Progress, Silent
from pydrift.data import LabelledImages, checked_members, take_images
from pydrift.fingerprint.conformal import Conformal
from pydrift.fingerprint.detector import moved
from pydrift.fingerprint.features import Features, Needs, joined
from pydrift.fingerprint.fingerprint import Fingerprint, FingerprintOrigin, identity, probe_logits
from pydrift.fingerprint.probe import BLOCK, Probe
from pydrift.fingerprint.registry import detector_named
from pydrift.models.classifier import choose_device, exact_arithmetic
from pydrift.models.intake import Model, as_audited_model, check_num_classes
from pydrift.version import __version__

MAX_FITTED = 20_000  # images; of more, as many are drawn
MAX_HELD_OUT = 10_000
MIN_HELD_OUT = 19  # fewer have no p as small as 5 %
_SHARE_HELD_OUT = 0.2  # where nobody says what the model was trained on


def fit_fingerprint(
    model: Model,
    data: Any,
    members: ArrayLike | None = None,
    *,
    detector: str = "neuralfp",
    settings: dict[str, Any] | None = None,
    seed: int = 0,
    arch: str | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> Fingerprint:
    """What inputs are to a trained model when they are of its own kind, so that others can be told from them.

    model     an nn.Module that maps float32 [N, C, H, W] in [0, 1] to logits, or a model file
    data      images of the kind that it was trained on: LabelledImages, (x, y), an iterable of (x, y), or a source such
              as "mnist:DIR". No outliers are needed, and none are used
    members   which of them it was trained on: integer indices, or a boolean mask [N]. The detector is fitted on those
              (at most 20,000) and calibrated on the others (at most 10,000). None: one fifth, at random, calibrates;
              if the model knows these images, unseen ones of the same kind are flagged more often than p says
    detector  a name in pydrift.fingerprint.DETECTORS; `settings` changes its settings
    seed      of the draws, and of what the detector draws: the same seed on the same machine and number of threads
              gives the same bits

    UsageError: an unknown detector, a seed below 0. InputRefused: images that the model does not take, too few to hold
    out (19).
    """
    chosen = detector_named(detector, settings, seed)
    check_seed(seed)
    images = take_images(data)
    subject = as_audited_model(model, "model", arch)
    with exact_arithmetic(), progress or Silent() as told:
        probe = Probe(subject.module, images.input_shape, choose_device(device), subject.name)
        check_num_classes(probe.num_classes, subject.name, images.num_classes, images.source)
        if chosen.needs.head and probe.head is None:
            raise InputRefused(f"{subject.name}: its logits are no Linear layer's, which {chosen.title} needs")
        fitted_on, held_out = _split(images, members, seed)
        told.phase("reading activations", -(-len(fitted_on) // BLOCK) + -(-len(held_out) // BLOCK))
        features = _collected(probe, images.x, fitted_on, chosen.needs, told)
        calibration = _collected(probe, images.x, held_out, chosen.needs, told)
        told.phase("fitting", 1)
        fitted = chosen.fit(features, images.y[torch.from_numpy(fitted_on)].to(probe.device))
        conformal = Conformal.of(fitted.score(calibration).double().cpu().numpy())
        told.advance()
        answers = probe_logits(probe)
    origin = FingerprintOrigin(
        detector=detector,
        settings=asdict(chosen),  # type: ignore[call-overload]
        model=subject.name,
        model_path=subject.path,
        model_sha256=identity(subject.module),
        layers=probe.layers,
        input_shape=images.input_shape,
        num_classes=probe.num_classes,
        data=images.source,
        data_sha256=images.sha256,
        fitted_on=len(fitted_on),
        held_out=len(held_out),
        reasons=tuple(_reasons(members is not None, probe.skipped)),
        seed=seed,
        pydrift=__version__,
        torch=torch.__version__,
    )
    return Fingerprint(moved(fitted, torch.device("cpu")), conformal, origin, answers)


_UNKNOWN = (
    "nobody said which images the model was trained on, so those that calibrate may be among them; if so, images that "
    "it has not seen are flagged somewhat more often than alpha (name the training images to avoid it)"
)


def _reasons(named: bool, skipped: tuple[str, ...]) -> Iterator[str]:
    if not named:
        yield _UNKNOWN
    if skipped:
        yield f"not looked at, since they read neither a map nor a vector of each image: {', '.join(skipped)}"


def _split(images: LabelledImages, members: ArrayLike | None, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the images to fit on and of those held out, each ascending."""
    random = np.random.Generator(np.random.Philox(derived_seed(seed, Phase.FINGERPRINT_SPLIT)))
    order = random.permutation(len(images))
    if members is None:
        count = round(_SHARE_HELD_OUT * len(images))
        inside, outside = order[count:], order[:count]
    else:
        member = checked_members(members, images)
        inside, outside = order[member[order]], order[~member[order]]
    if len(outside) < MIN_HELD_OUT:
        raise InputRefused(f"{images.source}: {len(outside)} images to calibrate on, {MIN_HELD_OUT} are needed")
    return np.sort(inside[:MAX_FITTED]), np.sort(outside[:MAX_HELD_OUT])


def _collected(probe: Probe, x: Tensor, indices: NDArray[np.int64], needs: Needs, progress: Progress) -> Features:
    parts = []
    for block in torch.from_numpy(indices).split(BLOCK):
        parts.append(probe.features(x[block], needs))
        progress.advance()
    return joined(parts)
