"""Normalisation as a part of the model: the same function, by the wrapper and by hand."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from pydrift.core.errors import InputRefused, UsageError
from pydrift.models.arch import lower
from pydrift.models.classifier import freeze
from pydrift.models.intake import as_audited_model
from pydrift.models.normalization import Normalization, Normalized

RGB = Normalization((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def network(channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def test_the_wrapper_is_the_function_by_hand_and_stays_a_chain_of_layers() -> None:
    module, x = network(), torch.rand(5, 3, 4, 4)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (RGB.mean, RGB.std))
    expected = module((x - mean) / std).detach()
    wrapped = Normalized(module, RGB)
    torch.testing.assert_close(wrapped(x).detach(), expected)
    torch.testing.assert_close(lower(wrapped, (3, 4, 4))(x), expected, rtol=1e-4, atol=1e-5)
    classifier = freeze(wrapped, (3, 4, 4), torch.device("cpu"))
    torch.testing.assert_close(classifier.logits(x), expected, rtol=1e-4, atol=1e-5)
    assert set(wrapped.state_dict()) == {f"network.{name}" for name in module.state_dict()}


def test_a_model_is_normalised_once() -> None:
    model = as_audited_model(network(), "m")
    once = RGB.apply(model, "m")
    assert RGB.apply(once, "m") is once
    with pytest.raises(InputRefused, match=r"^m: normalised by 0.4,0.5,0.6:0.2,0.25,0.3, expected 0.5:0.5$"):
        Normalization((0.5,), (0.5,)).apply(once, "m")


def test_frozen_parameters_and_fresh_starts_go_along() -> None:
    module = network()
    module[0].requires_grad_(False)
    normalised = RGB.apply(as_audited_model(module, "m"), "m")
    assert normalised.frozen == {"network.0.weight", "network.0.bias"}
    assert normalised.initial() is None
    made = RGB.apply(replace(as_audited_model(module, "m"), fresh=lambda seed: network()), "m").initial()
    assert made is not None
    assert isinstance(made(0), Normalized)


def test_text_and_pairs_are_read() -> None:
    assert Normalization.parse("0.4,0.5,0.6:0.2,0.25,0.3") == RGB == Normalization.parse(str(RGB))
    assert Normalization.parse("0.5:0.25") == Normalization.of((0.5, 0.25)) == Normalization.of(([0.5], (0.25,)))
    assert Normalization.of(((0.4, 0.5, 0.6), [0.2, 0.25, 0.3])) == RGB
    assert Normalization.of(RGB) is RGB


@pytest.mark.parametrize("text", ["", "0.5", "0.5:0", "0.5:-1", "nan:1", "0.5:inf", "1,2:1", "a:b", "0.5:0.2:0.1", ":"])
def test_wrong_texts_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"^normalisation: "):
        Normalization.parse(text)


@pytest.mark.parametrize("value", [0.5, (0.5,), ("a", "b"), (None, None), object()])
def test_wrong_values_are_refused(value: object) -> None:
    with pytest.raises(UsageError, match=r"^normalize must be \(mean, std\), each a number or one for"):
        Normalization.of(value)


def test_means_of_other_channels_are_refused() -> None:
    RGB.check(3)
    Normalization((0.5,), (0.5,)).check(3)
    with pytest.raises(UsageError, match=r"^normalisation: 3 means, but the images have 1 channels$"):
        RGB.check(1)
