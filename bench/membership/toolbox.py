"""Runs the black-box attack of the Adversarial Robustness Toolbox on the same target. Only benchmarks need it."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pydrift.data import LabelledImages


def art_is_missing() -> str | None:
    """Returns a sentence where the toolbox cannot be imported."""
    try:
        _classes()
    except ImportError as error:
        return (
            f"the attack of the Adversarial Robustness Toolbox is left out, because it cannot be imported ({error}): "
            "pip install --no-deps -r bench/requirements.txt"
        )
    return None


def _classes() -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from art.attacks.inference.membership_inference import (  # type: ignore[import-not-found,unused-ignore]
            MembershipInferenceBlackBox,
        )
        from art.estimators.classification import PyTorchClassifier  # type: ignore[import-not-found,unused-ignore]
    return MembershipInferenceBlackBox, PyTorchClassifier


def art_black_box(
    target: nn.Module,
    data: LabelledImages,
    known: tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]],
    asked: tuple[NDArray[np.float32], NDArray[np.int64]],
    model_type: str,
) -> NDArray[np.float64]:
    """Returns the attack's probability of "member" for the images `asked`.

    known  what the attack is fitted on: class probabilities of a model, labels, and whether the images were members of
           its training set. In the toolbox's own examples that model is the target. Such an attacker already knows of
           some images whether they are members
    asked  the target's class probabilities and the labels of the images to score

    The toolbox gets the probabilities that were measured for our own attacks. It would ask the target again.
    """
    attack_class, classifier_class = _classes()
    classifier = classifier_class(
        model=target, loss=nn.CrossEntropyLoss(), input_shape=data.input_shape, nb_classes=data.num_classes
    )
    posterior, y, member = known
    np.random.seed(0)  # noqa: NPY002 the toolbox's random forest draws from numpy's global generator
    attack = attack_class(classifier, attack_model_type=model_type)
    attack.fit(None, y[member], None, y[~member], pred=posterior[member], test_pred=posterior[~member])
    probability = attack.infer(None, asked[1], pred=asked[0], probabilities=True)
    return np.asarray(probability, np.float64).reshape(len(asked[1]), -1)[:, -1]
