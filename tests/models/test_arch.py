"""The built-in networks: their text, their sizes, their weights; and the user's own, by `package.module:factory`."""

from __future__ import annotations

import re
import sys
import types

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pydrift.core.errors import UsageError
from pydrift.core.text import printable
from pydrift.models.arch import ArchSpec, build, parse, resolve

# One row per architecture: text, parameters, first and last name of the state dict. The counts are known from outside:
# by hand for the first two, as published for the ResNets (kuangliu/pytorch-cifar; ResNet-9 without convolution biases).
ARCHITECTURES = [
    ("mlp:1x28x28:256-128:10", 235_146, "fc1.weight", "fc3.bias"),
    ("mlp:3x5x7:9:2", 974, "fc1.weight", "fc2.bias"),
    ("convnet:1x28x28:32,64:128:10", 421_642, "conv1.weight", "fc2.bias"),
    ("convnet:2x9x11:3:5:4", 386, "conv1.weight", "fc2.bias"),
    ("resnet9:3x32x32:10", 6_573_130, "prep.conv.weight", "fc.bias"),
    ("resnet9:1x9x11:3", 6_568_387, "prep.conv.weight", "fc.bias"),
    ("resnet18:3x32x32:10", 11_173_962, "conv1.weight", "fc.bias"),
    ("resnet18:1x1x5:2", 11_168_706, "conv1.weight", "fc.bias"),
]


@pytest.mark.parametrize(("text", "num_parameters", "first", "last"), ARCHITECTURES)
def test_architecture(text: str, num_parameters: int, first: str, last: str) -> None:
    spec = parse(text)
    assert str(spec) == text
    network = build(text, seed=3)
    names = list(network.state_dict())
    assert (names[0], names[-1]) == (first, last)
    assert sum(p.numel() for p in network.parameters()) == num_parameters
    assert all(p.requires_grad and p.dtype == torch.float32 for p in network.parameters())
    assert network.training
    logits = network.eval()(torch.rand(2, *spec.input_shape))
    assert logits.shape == (2, spec.num_classes)
    assert logits.isfinite().all()
    logits.sum().backward()

    same, other = build(spec, seed=3).state_dict(), build(spec, seed=4).state_dict()
    assert all(torch.equal(tensor, same[name]) for name, tensor in network.state_dict().items())
    assert not torch.equal(same[first], other[first])


def test_initial_weights_fill_the_range_of_torch_layers() -> None:
    layer = build("mlp:1x10x10:500:10", seed=0).fc1
    for parameter in layer.parameters():
        assert 0.095 < parameter.abs().max() <= 0.1
        assert parameter.mean().abs() < 0.01


def test_build_uses_and_touches_nothing_global() -> None:
    text = "resnet9:1x8x8:2"
    expected = build(text, seed=1).state_dict()
    torch.manual_seed(123)
    state = torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode():
            network = build(text, seed=1)
            assert torch.is_inference_mode_enabled()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name])
    assert not any(p.is_inference() for p in network.parameters())


number = st.integers(1, 99_999)
shape = st.tuples(st.integers(1, 99), st.integers(8, 99), st.integers(8, 99))
classes = st.integers(2, 99_999)
specs = st.one_of(
    st.builds(
        ArchSpec, st.just("mlp"), shape, classes, st.just(()), st.lists(number, min_size=1, max_size=9).map(tuple)
    ),
    st.builds(
        ArchSpec,
        st.just("convnet"),
        shape,
        classes,
        st.lists(st.integers(1, 999), min_size=1, max_size=3).map(tuple),
        st.tuples(number),
    ),
    st.builds(ArchSpec, st.sampled_from(["resnet9", "resnet18"]), shape, classes),
)


@pytest.mark.parametrize(
    "text", ["mlp:1x8x8:20-30:10", "convnet:3x16x18:8,4:6:10", "resnet9:3x16x16:4", "resnet18:1x9x8:4"]
)
def test_planned_bytes_cover_the_maps_of_all_layers(text: str) -> None:
    spec, network, found = parse(text), build(text, seed=0), 0

    def count(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal found
        found += output.numel()

    for part in network.modules():
        if not list(part.children()) and not isinstance(part, nn.Flatten):
            part.register_forward_hook(count)
    network.eval()(torch.zeros(1, *spec.input_shape))
    assert 8 * found <= spec.planned_bytes <= 8 * 1.7 * found


@given(specs)
def test_text_round_trip(spec: ArchSpec) -> None:
    assert parse(str(spec)) == spec


MLP = "not of the form mlp:CxHxW:WIDTH-...:CLASSES with numbers from 1 to 99999, as in mlp:1x28x28:256-128:10"
CONVNET = (
    "not of the form convnet:CxHxW:CHANNELS,...:WIDTH:CLASSES with numbers from 1 to 99999, "
    "as in convnet:1x28x28:32,64:128:10"
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("mlp:1x28:10", MLP),
        ("mlp:1x28x28::10", MLP),
        ("mlp:1x28x28:256-0:10", MLP),
        ("mlp:1x28x28:0256:10", MLP),
        ("mlp:1x28x28:256:10 ", MLP),
        ("mlp:1x28x28:256:10\n", MLP),
        ("mlp:1x28x28:٣:10", MLP),
        ("mlp:1x28x28:100000:10", MLP),
        ("convnet:1x28x28:32,64:10", CONVNET),
        ("convnet:1x28x28:32,64:128-64:10", CONVNET),
        (
            "resnet18:32x32:10",
            "not of the form resnet18:CxHxW:CLASSES with numbers from 1 to 99999, as in resnet18:3x32x32:10",
        ),
        ("vgg:1x28x28:10", "no such family; the built-in ones are mlp, convnet, resnet9, resnet18"),
        ("", "no such family; the built-in ones are mlp, convnet, resnet9, resnet18"),
        ("mlp:1x28x28:256:1", "a classifier needs at least 2 classes"),
        ("convnet:1x28x7:8,8,8:16:10", "28x7 pixels are pooled away: each side needs at least 8"),
        ("resnet9:3x7x32:10", "7x32 pixels are pooled away: each side needs at least 8"),
    ],
)
def test_bad_text(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert str(caught.value) == printable(f"architecture '{text}': {reason}")


def test_text_of_a_stranger_is_bounded() -> None:
    with pytest.raises(UsageError) as caught:
        parse("mlp:1x28x28:" + "9-" * 1000 + "9:10")
    assert str(caught.value) == "architecture 'mlp:1x28x28:9-9-9-9-9-9-9-9-9-9-9-9-9-9-...': longer than 200 characters"
    with pytest.raises(UsageError) as caught:
        build("mlp:1x9x9:99999-99999:10", seed=0)
    assert str(caught.value) == (
        "architecture 'mlp:1x9x9:99999-99999:10': 10,009,099,918 parameters, more than the 268,435,456 allowed"
    )


def test_a_spec_made_by_hand_is_checked_too() -> None:
    with pytest.raises(UsageError, match=r"^architecture 'mlp:1x8x8:10': not of the form mlp:"):
        ArchSpec("mlp", (1, 8, 8), 10)


FACTORIES = """
from torch import nn
class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(4, 2))
def broken(): raise ValueError("no weights here")
def text(): return "a network"
number = 3
"""


@pytest.fixture
def factories(tmp_path, monkeypatch) -> str:
    (tmp_path / "own_factories.py").write_text(FACTORIES)
    (tmp_path / "own_broken.py").write_text("import not_installed_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    return "own_factories"


def test_resolve_built_in() -> None:
    make = resolve("mlp:1x2x2:3:2")
    assert torch.equal(make(5).fc1.weight, build("mlp:1x2x2:3:2", 5).fc1.weight)
    with pytest.raises(UsageError, match=r"^architecture 'mlp:1x28:10': not of the form"):
        resolve("mlp:1x28:10")


def test_resolve_factory(factories: str) -> None:
    make = resolve(f"{factories}:Net")
    torch.manual_seed(9)
    state = torch.get_rng_state()
    first, again, other = make(1), make(1), make(2)
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(first, nn.Sequential)
    assert torch.equal(first[1].weight, again[1].weight)
    assert not torch.equal(first[1].weight, other[1].weight)


KEYWORDS = """
from torch import nn

class Keeps(nn.Module):
    def __init__(self, **given):
        super().__init__()
        self.given = given
"""


def test_a_factory_takes_arguments(tmp_path, monkeypatch) -> None:
    (tmp_path / "own_keywords.py").write_text(KEYWORDS)
    monkeypatch.syspath_prepend(tmp_path)
    made = resolve("own_keywords:Keeps?num_classes=10&pretrained=0&bias=False&rate=1e-3&drop=0.5&act=gelu&shift=-2")(0)
    expected = {"num_classes": 10, "pretrained": 0, "bias": False, "rate": 1e-3, "drop": 0.5, "act": "gelu"}
    assert made.given == {**expected, "shift": -2}
    assert made.given["bias"] is False
    for bad in ("a", "=1", "a=1&a=2", "a b=1", "a=1&"):
        with pytest.raises(UsageError, match=r"Keeps\?.*: after the \? come arguments NAME=VALUE, each once"):
            resolve(f"own_keywords:Keeps?{bad}")
    with pytest.raises(UsageError, match=r"the factory failed: TypeError: .*unexpected keyword argument 'wide'"):
        resolve("torch.nn:ReLU?wide=1")(0)


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **content: object) -> None:
    """A module that can be imported under that name, whether the real one is installed or not."""
    module = types.ModuleType(name)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)


def test_networks_of_timm_and_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def make(name: str, **arguments: object) -> nn.Module:
        calls.append((name, arguments))
        return nn.Linear(2, 3)

    stand_in(monkeypatch, "timm", create_model=make)
    stand_in(monkeypatch, "torchvision", models=types.SimpleNamespace(get_model=make))
    first, again = (resolve("timm:vit_tiny.augreg?num_classes=3")(seed) for seed in (1, 1))
    assert torch.equal(first.weight, again.weight)
    resolve("torchvision:resnet18")(0)
    assert calls == [("vit_tiny.augreg", {"num_classes": 3})] * 2 + [("resnet18", {})]


def test_networks_of_transformers_by_their_config_only(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    config = types.SimpleNamespace(from_pretrained=lambda folder, **how: (calls.append((folder, how)), "config")[1])
    model = types.SimpleNamespace(from_config=lambda config, **how: (calls.append((config, how)), nn.Linear(2, 3))[1])
    stand_in(monkeypatch, "transformers", AutoConfig=config, AutoModelForImageClassification=model)
    with pytest.raises(UsageError, match=r"the factory failed: ValueError: .* is no folder with a config.json"):
        resolve(f"transformers:{tmp_path}")(0)
    (tmp_path / "config.json").write_text("{}")
    resolve(f"transformers:{tmp_path}?num_labels=3")(0)
    assert calls == [
        (str(tmp_path), {"local_files_only": True, "trust_remote_code": False, "num_labels": 3}),
        ("config", {"trust_remote_code": False}),
    ]


@pytest.mark.parametrize("library", ["timm", "torchvision", "transformers"])
def test_a_missing_library_is_named_with_its_cure(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)  # import then fails as if it were not there
    with pytest.raises(UsageError, match=f"'{library}:x': {library} is not installed; .*pip install {library}$"):
        resolve(f"{library}:x")


NEITHER = (
    "neither built in (mlp:1x28x28:256-128:10, convnet:1x28x28:32,64:128:10, resnet9:3x32x32:10, resnet18:3x32x32:10) "
    "nor package.module:factory"
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("resnet50", NEITHER),
        ("vgg11:3x32x32:10", NEITHER),
        ("mlp::10", NEITHER),
        ("./model.py:Net", NEITHER),
        ("no.such:Net", "cannot import no.such: ModuleNotFoundError: No module named 'no'"),
        (
            "own_broken:Net",
            "cannot import own_broken: ModuleNotFoundError: No module named 'not_installed_anywhere'",
        ),
        ("own_factories:Gone", "own_factories (FILE) has no function or class Gone"),
        ("own_factories:number", "own_factories (FILE) has no function or class number"),
        ("own_factories:broken", "the factory failed: ValueError: no weights here"),
        ("own_factories:text", "the factory returned a str, not an nn.Module"),
    ],
)
def test_resolve_errors(factories: str, text: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(text)(0)
    said = re.sub(r"\(/.+own_factories\.py\)", "(FILE)", str(caught.value))
    assert said == f"architecture '{text}': {reason}"
