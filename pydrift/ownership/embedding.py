"""What an embedding is here: how a model answers around an image, in many ways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pydrift.core.errors import InputRefused
from pydrift.models.classifier import Classifier


@dataclass(frozen=True)
class Embedded:
    """N images embedded by one model.

    features  float64 [N, D]: what a confidence regressor reads; one row is one image
    profile   float64 [N, E]: what the answers of two models are compared by; column e means the same for every model
    sureness  float64 [N]: how sure the model is of each image's own label, in any unit
    queries   images that the model was shown, those of all walks counted
    """

    features: NDArray[np.float64]
    profile: NDArray[np.float64]
    sureness: NDArray[np.float64]
    queries: int


class Embedding(Protocol):
    """A way to embed images: a frozen value of its settings."""

    @property
    def title(self) -> str:
        """Name and source in a few words."""
        ...

    def embed(self, model: Classifier, x: Tensor, y: Tensor, classes: Tensor) -> Embedded:
        """Embeds images x float32 [N, C, H, W] in [0, 1] of labels y int64 [N].

        classes  int64 [N, T]: of each image the classes that distances are measured to, the same for every model

        A pure function, image by image. InputRefused where the model's logits are not finite.
        """
        ...


def nearest_classes(model: Classifier, x: Tensor, count: int) -> Tensor:
    """int64 [N, min(count, K)]: of each image the classes with the model's largest logits, the likeliest first."""
    return model.logits(x).cpu().topk(min(count, model.num_classes), dim=1).indices


def refuse_not_finite(distance: Tensor, image: Tensor) -> None:
    """InputRefused names the first image where a walk met logits or gradients that are not finite."""
    wrong = distance.isnan().nonzero()[:, 0]
    if len(wrong):
        raise InputRefused(
            f"gives logits or gradients that are not finite on the way from image {int(image[wrong[0]])}"
        )
