"""The black-box attack of the Adversarial Robustness Toolbox on the same target: a benchmark-only dependency."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pydrift.data import LabelledImages


def art_is_missing() -> str | None:
    """A sentence where the toolbox cannot be imported."""
    try:
        _classes()
    except ImportError as error:
        return (
            f"no attack by the Adversarial Robustness Toolbox: it cannot be imported ({error}); "
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
    """The attack's probability of "member" for the images `asked`.

    known  what the attack is fitted on: answers of a model (class probabilities), labels, and whether the images were
           members of that model's training set. The toolbox's own examples take the target as that model, that is, an
           attacker who already knows of some images whether they are members
    asked  the target's answers and the labels of the images to score
    The answers are given to the toolbox as they were measured for our own attacks: it would ask the target again.
    """
    attack_class, classifier_class = _classes()
    classifier = classifier_class(
        model=target, loss=nn.CrossEntropyLoss(), input_shape=data.input_shape, nb_classes=data.num_classes
    )
    answers, y, member = known
    np.random.seed(0)  # noqa: NPY002 the toolbox's random forest draws from numpy's global generator
    attack = attack_class(classifier, attack_model_type=model_type)
    attack.fit(None, y[member], None, y[~member], pred=answers[member], test_pred=answers[~member])
    probability = attack.infer(None, asked[1], pred=asked[0], probabilities=True)
    return np.asarray(probability, np.float64).reshape(len(asked[1]), -1)[:, -1]
