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
            "pip install -r bench/requirements.txt"
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
    source: nn.Module,
    source_member: NDArray[np.bool_],
    target: nn.Module,
    fitted_on: NDArray[np.int64],
    scored: NDArray[np.int64],
    data: LabelledImages,
    model_type: str,
) -> NDArray[np.float64]:
    """The attack's probability of "member" for the images `scored`, under the target.

    It is fitted on the answers of `source` to the images `fitted_on`, of which `source_member` [N] says whether the
    source was trained on them. The toolbox's own examples take the target itself as the source, that is, an attacker
    who already knows of some images whether they are members.
    """
    attack_class, _ = _classes()
    x, y = data.x.numpy(), data.y.numpy()
    inside, outside = fitted_on[source_member[fitted_on]], fitted_on[~source_member[fitted_on]]
    answers = [_wrapped(source, data).predict(x[part]) for part in (inside, outside)]
    np.random.seed(0)  # noqa: NPY002 the toolbox's random forest draws from numpy's global generator
    attack = attack_class(_wrapped(target, data), attack_model_type=model_type)
    attack.fit(x[inside], y[inside], x[outside], y[outside], pred=answers[0], test_pred=answers[1])
    probability = attack.infer(x[scored], y[scored], probabilities=True)
    return np.asarray(probability, np.float64).reshape(len(scored), -1)[:, -1]


def _wrapped(model: nn.Module, data: LabelledImages) -> Any:
    _, classifier = _classes()
    return classifier(
        model=model,
        loss=nn.CrossEntropyLoss(),
        input_shape=data.input_shape,
        nb_classes=data.num_classes,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
