"""Makes the fingerprint of a model: reads features, fits a detector, and calibrates its p-values on other images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pydrift.core.checks import check_seed
from pydrift.core.errors import InputRefused
from pydrift.core.noise import Phase, derived_seed
from pydrift.core.progress import Progress, Silent
from pydrift.data import LabelledImages, as_member_mask, take_images
from pydrift.fingerprint.conformal import Conformal
from pydrift.fingerprint.detector import Detector, Fitted, to_device
from pydrift.fingerprint.extraction import BLOCK, FeatureExtractor
from pydrift.fingerprint.features import Features, Needs, join_features
from pydrift.fingerprint.fingerprint import Fingerprint, FingerprintOrigin, model_digest, sample_logits
from pydrift.fingerprint.registry import select_detector
from pydrift.models.classifier import choose_device, exact_arithmetic
from pydrift.models.intake import AuditedModel, Model, as_audited_model, check_num_classes
from pydrift.version import __version__

MAX_FITTED = 20_000  # images; from more, so many are drawn
MAX_HELD_OUT = 10_000
_ROUNDING = 2e-6  # of the largest logit: scores that differ by less say nothing
MIN_HELD_OUT = 19  # with fewer, no p is as small as 5 %
_SHARE_HELD_OUT = 0.2  # if nobody says which images the model was trained on


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
    """Learns what inputs of its own kind look like to a trained model, so that other inputs can be told from them.

    model     an nn.Module that maps float32 [N, C, H, W] in [0, 1] to logits [N, K], or a model file
    data      images of the kind that it was trained on: LabelledImages, (x, y), an iterable of (x, y), or a source such
              as "mnist:DIR". No outliers are needed, and none are used
    members   the images among them that it was trained on: integer indices [M], or a boolean mask [N]. The detector is
              fitted on at most 20,000 of these and calibrated on at most 10,000 of the others. None: one fifth of the
              images, drawn at random, calibrates. If the model was trained on these, it flags unseen images of the same
              kind more often than p says
    detector  a name in pydrift.fingerprint.DETECTORS
    settings  values for the detector's fields
    seed      of all random draws, in 0..2**63 - 1
    arch      the architecture, for a model file that does not name it
    device    default: a CUDA device if torch sees one, else the CPU
    progress  is told about each phase

    The same seed on the same machine and number of threads gives the same bits. UsageError: an unknown detector or
    setting, a seed out of range. InputRefused: images that the model does not accept, or fewer than 19 to calibrate on.
    """
    chosen = select_detector(detector, settings, seed)
    check_seed(seed)
    images = take_images(data)
    audited = as_audited_model(model, "model", arch)
    with exact_arithmetic(), progress or Silent() as progress:
        extractor = FeatureExtractor(audited.module, images.input_shape, choose_device(device), audited.name)
        check_num_classes(extractor.num_classes, audited.name, images.num_classes, images.source)
        if chosen.needs.head and extractor.head is None:
            raise InputRefused(
                f"{audited.name}: its logits do not come from a Linear layer, which {chosen.title} needs"
            )
        split = _split_images(images, members, seed)
        fitted, conformal = _fit_detector(chosen, extractor, images, split, progress)
        answers = sample_logits(extractor)
    origin = FingerprintOrigin(
        detector=detector,
        settings=asdict(chosen),  # type: ignore[call-overload]
        **_describe_model(audited, extractor),
        data=images.source,
        data_sha256=images.sha256,
        fitted_on=len(split.fitted_on),
        held_out=len(split.held_out),
        reasons=tuple(_explain(members is not None, extractor.skipped)),
        seed=seed,
        pydrift=__version__,
        torch=torch.__version__,
    )
    return Fingerprint(to_device(fitted, torch.device("cpu")), conformal, origin, answers)


@dataclass(frozen=True)
class _Split:
    """Ascending indices int64: the images that the detector is fitted on, and those that calibrate it."""

    fitted_on: NDArray[np.int64]
    held_out: NDArray[np.int64]


def _split_images(images: LabelledImages, members: ArrayLike | None, seed: int) -> _Split:
    """InputRefused: too few images to calibrate on."""
    random = np.random.Generator(np.random.Philox(derived_seed(seed, Phase.FINGERPRINT_SPLIT)))
    order = random.permutation(len(images))
    if members is None:
        count = round(_SHARE_HELD_OUT * len(images))
        inside, outside = order[count:], order[:count]
    else:
        member = as_member_mask(members, images)
        inside, outside = order[member[order]], order[~member[order]]
    if len(outside) < MIN_HELD_OUT:
        raise InputRefused(f"{images.source}: {len(outside)} images to calibrate on, {MIN_HELD_OUT} are needed")
    return _Split(np.sort(inside[:MAX_FITTED]), np.sort(outside[:MAX_HELD_OUT]))


def _fit_detector(
    detector: Detector, extractor: FeatureExtractor, images: LabelledImages, split: _Split, progress: Progress
) -> tuple[Fitted, Conformal]:
    progress.phase("reading activations", -(-len(split.fitted_on) // BLOCK) + -(-len(split.held_out) // BLOCK))
    features = _extract(extractor, images.x, split.fitted_on, detector.needs, progress)
    calibration = _extract(extractor, images.x, split.held_out, detector.needs, progress)
    progress.phase("fitting", 1)
    fitted = detector.fit(features, images.y[torch.from_numpy(split.fitted_on)].to(extractor.device))
    scores = fitted.score(calibration).double().cpu().numpy()
    if np.ptp(scores) <= _ROUNDING * max(1.0, float(calibration.logits.abs().max())):
        raise InputRefused(
            f"{detector.title}: all {len(scores)} held-out images have the same score, up to rounding; leave out "
            "a final log-softmax of the model, or choose another detector"
        )
    progress.advance()
    return fitted, Conformal.of(scores)


def _extract(
    extractor: FeatureExtractor, x: Tensor, indices: NDArray[np.int64], needs: Needs, progress: Progress
) -> Features:
    parts = []
    for block in torch.from_numpy(indices).split(BLOCK):
        parts.append(extractor.features(x[block], needs))
        progress.advance()
    return join_features(parts)


def _describe_model(audited: AuditedModel, extractor: FeatureExtractor) -> dict[str, Any]:
    """The fields of FingerprintOrigin that say which model it is."""
    return {
        "model": audited.name,
        "model_path": audited.path,
        "model_sha256": model_digest(audited.module),
        "layers": extractor.layers,
        "input_shape": extractor.input_shape,
        "num_classes": extractor.num_classes,
    }


def _explain(are_members_known: bool, skipped: tuple[str, ...]) -> Iterator[str]:
    """What a reader of the p-values must know."""
    if not are_members_known:
        yield (
            "it is not known which images the model was trained on, so the images that calibrate may be among them; "
            "then unseen images are flagged somewhat more often than alpha (name the training images to avoid this)"
        )
    if skipped:
        yield f"not read, since their inputs are neither a map nor a vector of each image: {', '.join(skipped)}"
