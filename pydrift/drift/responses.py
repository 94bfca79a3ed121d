"""The responses of models to the probes. A model is never asked about gray data that it helped to make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pydrift.core.errors import InputRefused
from pydrift.data import LabelledImages
from pydrift.drift.probes import OCCLUSION_COLOURS, SHAPE_KINDS, TRANSFORMS, apply_transform, draw_shapes
from pydrift.drift.recognition import class_bias, occlusion_sensitivity, recognise, recognised_by_others
from pydrift.drift.scores import GRAY, OCCLUSIONS, REFERENCE, SYNTHETIC_SHAPES
from pydrift.models.classifier import Classifier

GROUPS = 4  # of shadows, each of which makes a consensus: one to leave out, and three to ask about
QUESTIONS = len(TRANSFORMS) + 2  # put to each model, besides those about gray data that a single model made
MAX_REFERENCE = 400  # images of a class; more would change its mean little

PLAIN = "plain"
"""The transform of gray data that changes nothing."""

OWN_GRAY = "own gray data"
"""The variant of GRAY in which others are asked about the gray data that a model alone made."""

Responses = dict[str, dict[str, NDArray[np.float32]]]
"""Of each probe, of each variant, a table of one model or (first axis) of several; see pydrift.drift.scores.Responses.
The variants of OCCLUSIONS are the colours, with tables [down, across, classes]. Those of SYNTHETIC_SHAPES are the kinds
of shape, with tables [classes]."""


def split_groups(count: int) -> list[list[int]]:
    """The numbers of the shadows in each group; a group makes one consensus."""
    return [list(range(first, count, GROUPS)) for first in range(min(GROUPS, count))]


class BenignResponses(NamedTuple):
    """What base and shadows say, the base first.

    responses    to the probes, of each variant float32 [K + 1, ...]
    confidence   float64 [classes]: the shadows' mean confidence in the consensus that they made themselves
    recognition  float64 [K + 1, classes]: each model's mean confidence in the consensus that it had no part in
    """

    responses: Responses
    confidence: NDArray[np.float64]
    recognition: NDArray[np.float64]


def benign_responses(
    models: Sequence[Classifier],
    consensus: NDArray[np.float32],
    gray: NDArray[np.float32],
    advance: Callable[[], None],
) -> BenignResponses:
    """Asks the base and the shadows.

    models     the base, then the K shadows
    consensus  float32 [groups, classes, restarts, C, H, W] in [0, 1]: the images that each group of shadows agrees on
    gray       float32 [K + 1, classes, restarts, C, H, W] in [0, 1]: the gray data of each model alone
    advance    called QUESTIONS + 1 times per model

    A shadow is asked about the consensus of the other groups, and the base as a candidate is. Under OWN_GRAY are the
    responses of all other models to the model's own gray data. Deterministic.
    """
    count, made = len(models) - 1, len(consensus)
    foreign = np.ones((count + 1, made), bool)
    foreign[0] = _asked_of_candidate(count, made)
    for group, members in enumerate(split_groups(count)):
        foreign[[1 + k for k in members], group] = False
    responses, confidence = _ask(models, consensus, foreign, advance)
    responses[GRAY][OWN_GRAY] = recognised_by_others(models, torch.from_numpy(gray), advance).astype(np.float32)
    own_confidence = _mean(confidence[1:], ~foreign[1:]).mean(axis=0)
    return BenignResponses(responses, own_confidence, _mean(confidence, foreign))


def candidate_responses(
    models: Sequence[Classifier],
    candidate: Classifier,
    consensus: NDArray[np.float32],
    gray: NDArray[np.float32],
    advance: Callable[[], None],
) -> tuple[Responses, NDArray[np.float64]]:
    """Asks the candidate about the consensus, and base and shadows about the candidate's gray data.

    The candidate is asked as if it were one more shadow: about the consensus of all groups but one. An answer that is a
    mean over more groups would vary less than the shadows' do.

    gray     float32 [classes, restarts, C, H, W] in [0, 1], of the candidate
    advance  called QUESTIONS times, and once per model

    -> responses, and float64 [classes]: the candidate's mean confidence in the consensus
    """
    foreign = _asked_of_candidate(len(models) - 1, len(consensus))[None]
    asked, confidence = _ask([candidate], consensus, foreign, advance)
    seen = recognise(models, torch.from_numpy(gray[None]), advance)
    responses = select_models(asked, 0)
    responses[GRAY][OWN_GRAY] = seen.odds[:, 0].mean(axis=0).astype(np.float32)
    return responses, _mean(confidence, foreign)[0]


def _asked_of_candidate(shadows: int, made: int) -> NDArray[np.bool_]:
    """About the consensus of which groups a model is asked that is judged by so many shadows: bool [made]."""
    asked = np.ones(made, bool)
    asked[shadows % made] = made == 1
    return asked


def reference_responses(models: Sequence[Classifier], data: LabelledImages, advance: Callable[[], None]) -> Responses:
    """Asks models about the first MAX_REFERENCE real images of each class; `advance` is called once per model.

    InputRefused where a class has no image.
    """
    rows = []
    for c, name in enumerate(data.class_names):
        images = data.x[data.y == c][:MAX_REFERENCE]
        if len(images) == 0:
            raise InputRefused(f"{data.source}: has no image of class {name!a}, so it cannot serve as reference data")
        step = advance if c == data.num_classes - 1 else lambda: None
        rows.append(recognise(models, images[None, None], step, made_of=[c]).odds[:, 0, 0])
    return {REFERENCE: {REFERENCE: np.stack(rows, axis=1).astype(np.float32)}}


def select_models(responses: Responses, chosen: int | slice | Sequence[int]) -> Responses:
    """The responses of one model, or of some."""
    return {probe: {v: table[chosen] for v, table in variants.items()} for probe, variants in responses.items()}


def _ask(
    models: Sequence[Classifier], consensus: NDArray[np.float32], asked: NDArray[np.bool_], advance: Callable[[], None]
) -> tuple[Responses, NDArray[np.float64]]:
    """Asks models about the consensus of some groups (asked bool [models, groups]) and about synthetic shapes.

    -> responses, and the confidence in the plain consensus of every group, float64 [models, groups, classes]
    """
    images = torch.from_numpy(consensus)
    gray, confidence = {}, np.empty(0)
    for name in TRANSFORMS:  # one after the other: what every model says of every group is large
        seen = recognise(models, apply_transform(name, images), advance)
        gray[name] = _mean(seen.odds, asked)
        confidence = seen.confidence if name == PLAIN else confidence
    # One image of a class and group: four of them found no more drifts.
    moved = occlusion_sensitivity(models, images[:, :, 0], advance)
    image_shape = (images.shape[3], images.shape[4], images.shape[5])
    shapes = torch.stack([draw_shapes(kind, image_shape) for kind in SHAPE_KINDS])
    bias = class_bias(models, shapes, advance)
    responses = {
        GRAY: gray,
        OCCLUSIONS: {colour: _mean(moved[colour], asked) for colour in OCCLUSION_COLOURS},
        SYNTHETIC_SHAPES: {kind: bias[:, i] for i, kind in enumerate(SHAPE_KINDS)},
    }
    return _as_float32(responses), confidence


def _as_float32(responses: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> Responses:
    """Half the memory, and still a hundred times finer than what two calls of a model may differ by."""
    return {probe: {v: table.astype(np.float32) for v, table in vs.items()} for probe, vs in responses.items()}


def _mean(values: NDArray[np.float64], asked: NDArray[np.bool_]) -> NDArray[np.float64]:
    """values [models, sources, ...] averaged over those sources that each model is asked about."""
    return np.stack([row[some].mean(axis=0) for row, some in zip(values, asked, strict=True)])
