"""What models say of gray data, arranged so that each is asked only about images that it had no part in making."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pydrift.classifier import Classifier
from pydrift.data import LabelledImages
from pydrift.errors import InputRefused
from pydrift.inversion import VIEWS, shown
from pydrift.membership import recognise

GROUPS = 4  # of shadows, each of which makes a consensus: one to leave out, and three to ask about
OWN_GRAY = "own gray data"
REFERENCE = "reference data"
MAX_REFERENCE = 200  # images of a class; more would change its mean little

Answers = dict[str, NDArray[np.float64]]
"""Of each view [models, classes, classes], or [classes, classes] of one model: see pydrift.verdict.Answers. The views
are those of consensus gray data, OWN_GRAY, and where reference data are used REFERENCE."""


def groups(count: int) -> list[list[int]]:
    """The numbers of the shadows that make each consensus."""
    return [list(range(first, count, GROUPS)) for first in range(min(GROUPS, count))]


def benign_answers(
    models: Sequence[Classifier],
    consensus: NDArray[np.float32],
    gray: NDArray[np.float32],
    advance: Callable[[], None],
) -> tuple[Answers, NDArray[np.float64]]:
    """-> the answers of base and shadows [K + 1, ...], and shadows' mean confidence in their own consensus [classes].

    models     the base, then the K shadows
    consensus  float32 [groups, classes, restarts, C, H, W]: what each group of shadows takes the classes for
    gray       float32 [K + 1, classes, restarts, C, H, W]: what each model alone takes them for
    advance    called once per view and model

    A view's answers are a shadow's about the other groups' consensus; OWN_GRAY is what the other models say of a
    model's own gray data.
    """
    count, made = len(models) - 1, len(consensus)
    foreign = np.ones((count + 1, made), bool)
    for group, members in enumerate(groups(count)):
        foreign[[1 + k for k in members], group] = False
    answers, confidence = {}, np.zeros(consensus.shape[1])
    for view in VIEWS:
        seen = recognise(models, shown(view, torch.from_numpy(consensus)), advance)
        answers[view] = _mean(seen.log_odds, foreign)
        if view == "plain":
            confidence = _mean(seen.confidence[1:], ~foreign[1:]).mean(axis=0)
    seen = recognise(models, torch.from_numpy(gray), advance)
    answers[OWN_GRAY] = _mean(seen.log_odds.swapaxes(0, 1), ~np.eye(count + 1, dtype=bool))
    return answers, confidence


def new_answers(
    models: Sequence[Classifier],
    new: Classifier,
    consensus: NDArray[np.float32],
    gray: NDArray[np.float32],
    advance: Callable[[], None],
) -> Answers:
    """The answers of a new model about all of the consensus, and of base and shadows about its gray data."""
    answers = {}
    for view in VIEWS:
        answers[view] = recognise([new], shown(view, torch.from_numpy(consensus)), advance).log_odds[0].mean(axis=0)
    answers[OWN_GRAY] = recognise(models, torch.from_numpy(gray[None]), advance).log_odds[:, 0].mean(axis=0)
    return answers


def reference_answers(
    models: Sequence[Classifier], data: LabelledImages, advance: Callable[[], None]
) -> NDArray[np.float64]:
    """What models say of real images: [models, classes, classes], means over the first images of each class.

    InputRefused where a class has no image.
    """
    rows = []
    for c, name in enumerate(data.class_names):
        images = data.x[data.y == c][:MAX_REFERENCE]
        if len(images) == 0:
            raise InputRefused(f"{data.source}: has no image of class {name!a}, so it cannot serve as reference data")
        # As one source of one class, whose log-odds are then turned to be those of class c.
        seen = recognise(models, images[None, None], advance if c == 0 else lambda: None).log_odds[:, 0, 0]
        rows.append(seen - seen[:, c : c + 1])
    return np.stack(rows, axis=1)


def _mean(values: NDArray[np.float64], asked: NDArray[np.bool_]) -> NDArray[np.float64]:
    """values [models, sources, ...] averaged over those sources that each model is asked about."""
    return np.stack([row[some].mean(axis=0) for row, some in zip(values, asked, strict=True)])
