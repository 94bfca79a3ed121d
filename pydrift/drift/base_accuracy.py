"""Whether the base is handed over as it was trained: if not, it knows far less of the reference data than its shadows.

The usual cause is a normalisation that the user's own loader does, and that nobody has told. Then the verdict would be
about a model that nobody uses, and drifts would be missed.
"""

from __future__ import annotations

import numpy as np
import torch

from pydrift.core.errors import InputRefused
from pydrift.data import LabelledImages
from pydrift.models.classifier import Classifier

LEAST_SHARE = 0.5  # of what the shadows have above chance
_MOST_IMAGES = 2000
_SURE = 4.0  # standard errors


def refuse_inaccurate_base(base: Classifier, shadows: tuple[float | None, ...], images: LabelledImages) -> None:
    """InputRefused where the base's accuracy on reference data is far below that of its shadows.

    shadows  the accuracy of each, on images that it did not see; None where there are none
    """
    known = [accuracy for accuracy in shadows if accuracy is not None]
    if not known:
        return
    asked = torch.arange(0, len(images), -(-len(images) // _MOST_IMAGES))  # evenly: the data may be sorted by class
    predicted = base.logits(images.x[asked]).argmax(dim=1).cpu()
    accuracy, of_shadows = float((predicted == images.y[asked]).float().mean()), float(np.mean(known))
    chance = 1 / images.num_classes
    surely = of_shadows - accuracy > _SURE * 0.5 / len(asked) ** 0.5
    if surely and accuracy - chance < LEAST_SHARE * (of_shadows - chance):
        raise InputRefused(
            f"the base's accuracy on {images.source} is {accuracy:.1%}, but that of shadows trained on such images is "
            f"{of_shadows:.1%}; is its normalisation missing (normalize=, --normalize), or are its classes in another "
            "order?"
        )
