"""What models say of images, arranged so that each is asked only about gray data that it had no part in making."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pydrift.core.errors import InputRefused
from pydrift.data import LabelledImages
from pydrift.drift.probes import OCCLUSION_COLOURS, SHAPE_KINDS, TRANSFORMS, apply_transform, draw_shapes
from pydrift.drift.recognition import class_bias, occlusion_sensitivity, recognise
from pydrift.drift.scores import GRAY, OCCLUSIONS, REFERENCE, SYNTHETIC_SHAPES
from pydrift.models.classifier import Classifier

GROUPS = 4  # of shadows, each of which makes a consensus: one to leave out, and three to ask about
QUESTIONS = len(TRANSFORMS) + 2  # put to each model, besides those about gray data that a single model made
MAX_REFERENCE = 400  # images of a class; more would change its mean little

OWN_GRAY = "own gray data"
"""The view of GRAY in which others are asked about the gray data that a model alone made."""

Responses = dict[str, dict[str, NDArray[np.float64]]]
"""Of each probe, of each view a table of one model or of several (first); see pydrift.drift.scores.Responses. The views
of OCCLUSIONS are the colours, with tables [down, across, classes]; those of SYNTHETIC_SHAPES the kinds of shape, [classes]."""


def groups(count: int) -> list[list[int]]:
    """The numbers of the shadows that make each consensus."""
    return [list(range(first, count, GROUPS)) for first in range(min(GROUPS, count))]


def benign_responses(
    models: Sequence[Classifier],
    consensus: NDArray[np.float32],
    gray: NDArray[np.float32],
    advance: Callable[[], None],
) -> tuple[Responses, NDArray[np.float64]]:
    """-> the answers of base and shadows [K + 1, ...], and shadows' mean confidence in their own consensus [classes].

    models     the base, then the K shadows
    consensus  float32 [groups, classes, restarts, C, H, W]: what each group of shadows takes the classes for
    gray       float32 [K + 1, classes, restarts, C, H, W]: what each model alone takes them for
    advance    called QUESTIONS + 1 times per model

    A shadow's answers are about the other groups' consensus; OWN_GRAY is what the other models say of a model's own
    gray data.
    """
    count, made = len(models) - 1, len(consensus)
    foreign = np.ones((count + 1, made), bool)
    for group, members in enumerate(groups(count)):
        foreign[[1 + k for k in members], group] = False
    answers, confidence = _answers(models, consensus, foreign, advance)
    seen = recognise(models, torch.from_numpy(gray), advance)
    answers[GRAY][OWN_GRAY] = _mean(seen.odds.swapaxes(0, 1), ~np.eye(count + 1, dtype=bool))
    return answers, _mean(confidence[1:], ~foreign[1:]).mean(axis=0)


def candidate_responses(
    models: Sequence[Classifier],
    new: Classifier,
    consensus: NDArray[np.float32],
    gray: NDArray[np.float32],
    advance: Callable[[], None],
) -> Responses:
    """The answers of a new model about all of the consensus, and of base and shadows about its gray data.

    `advance` is called QUESTIONS times, and once per model.
    """
    answers, _ = _answers([new], consensus, np.ones((1, len(consensus)), bool), advance)
    seen = recognise(models, torch.from_numpy(gray[None]), advance)
    of_new = of_models(answers, 0)
    of_new[GRAY][OWN_GRAY] = seen.odds[:, 0].mean(axis=0)
    return of_new


def reference_responses(models: Sequence[Classifier], data: LabelledImages, advance: Callable[[], None]) -> Responses:
    """What models say of the first real images of each class; `advance` is called once per model.

    InputRefused where a class has no image.
    """
    rows = []
    for c, name in enumerate(data.class_names):
        images = data.x[data.y == c][:MAX_REFERENCE]
        if len(images) == 0:
            raise InputRefused(f"{data.source}: has no image of class {name!a}, so it cannot serve as reference data")
        told = advance if c == data.num_classes - 1 else lambda: None
        rows.append(recognise(models, images[None, None], told, made_of=[c]).odds[:, 0, 0])
    return {REFERENCE: {REFERENCE: np.stack(rows, axis=1)}}


def of_models(answers: Responses, chosen: int | slice) -> Responses:
    """The answers of one model, or of some."""
    return {i: {view: values[chosen] for view, values in views.items()} for i, views in answers.items()}


def _answers(
    models: Sequence[Classifier], consensus: NDArray[np.float32], asked: NDArray[np.bool_], advance: Callable[[], None]
) -> tuple[Responses, NDArray[np.float64]]:
    """-> answers about the consensus of those groups that each model is asked about (asked [models, groups]) and about
    shapes; and confidence in the plain consensus of every group [models, groups, classes]."""
    images = torch.from_numpy(consensus)
    seen = {view: recognise(models, apply_transform(view, images), advance) for view in TRANSFORMS}
    # One image of a class and group: four of them found no more drifts.
    moved = occlusion_sensitivity(models, images[:, :, 0], advance)
    shapes = torch.stack(
        [draw_shapes(kind, (images.shape[3], images.shape[4], images.shape[5])) for kind in SHAPE_KINDS]
    )
    leaning = class_bias(models, shapes, advance)
    answers = {
        GRAY: {view: _mean(seen[view].odds, asked) for view in TRANSFORMS},
        OCCLUSIONS: {colour: _mean(moved[colour], asked) for colour in OCCLUSION_COLOURS},
        SYNTHETIC_SHAPES: {kind: leaning[:, i] for i, kind in enumerate(SHAPE_KINDS)},
    }
    return answers, seen["plain"].confidence


def _mean(values: NDArray[np.float64], asked: NDArray[np.bool_]) -> NDArray[np.float64]:
    """values [models, sources, ...] averaged over those sources that each model is asked about."""
    return np.stack([row[some].mean(axis=0) for row, some in zip(values, asked, strict=True)])
