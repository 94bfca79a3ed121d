"""The interface of an embedding: numbers that describe how one model answers around each image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pydrift.core.errors import InputRefused
from pydrift.models.classifier import Classifier


@dataclass(frozen=True)
class ImageEmbeddings:
    """N images embedded by one model.

    features          float64 [N, D]: the input of a confidence regressor; one row is one image
    profile           float64 [N, E]: the answers by which two models are compared; column e means the same for every
                      model
    label_confidence  float64 [N]: how confident the model is in each image's own label; every embedding has its own
                      unit
    queries           how many images the model was shown, all walks included
    """

    features: NDArray[np.float64]
    profile: NDArray[np.float64]
    label_confidence: NDArray[np.float64]
    queries: int


class Embedding(Protocol):
    """A way to embed images: a frozen value of its settings."""

    @property
    def title(self) -> str:
        """Its name in a few words, and the access to the model that it needs."""
        ...

    def embed(self, model: Classifier, x: Tensor, y: Tensor, classes: Tensor) -> ImageEmbeddings:
        """Embeds N images. The result is deterministic and does not depend on the other images.

        x        float32 [N, C, H, W] in [0, 1]
        y        int64 [N]: the labels
        classes  int64 [N, T]: the classes to which distances are measured, image by image; the same for every model

        InputRefused: the model's logits are not finite.
        """
        ...


def nearest_classes(model: Classifier, x: Tensor, count: int) -> Tensor:
    """int64 [N, min(count, K)]: the classes with the largest logits of each image, the largest first."""
    return model.logits(x).cpu().topk(min(count, model.num_classes), dim=1).indices


def refuse_not_finite(distance: Tensor, image: Tensor) -> None:
    """InputRefused if a distance is NaN: a walk met logits or gradients that are not finite. Names the first image.

    distance  float [W] of W walks
    image     int [W]: the image that each walk starts from
    """
    wrong = distance.isnan().nonzero()[:, 0]
    if len(wrong):
        raise InputRefused(
            f"gives logits or gradients that are not finite on the way from image {int(image[wrong[0]])}"
        )
