"""Feature extraction: which layers are read, which of their inputs are maps, and which networks are refused."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

import pydrift
from pydrift.core.errors import InputRefused
from pydrift.fingerprint import FeatureExtractor, Needs
from pydrift.fingerprint.detectors.gram import gram_rows
from pydrift.fingerprint.extraction import BLOCK, blocks
from pydrift.models.arch import build

CPU = torch.device("cpu")
ALL = Needs(True, True, True, True, True, True)


def images(count, shape=(1, 8, 8), seed=0):
    return torch.rand((count, *shape), generator=torch.Generator().manual_seed(seed))


def test_an_extractor_reads_what_each_stage_gives():
    network = build("convnet:1x8x8:6,8:12:10", seed=0)
    extractor = FeatureExtractor(network, (1, 8, 8), CPU)
    assert extractor.layers == ("conv2", "fc1", "fc2")
    x = images(7)
    with torch.no_grad():
        stages = list(network)
        first = nn.Sequential(*stages[:3])(x)
        second = nn.Sequential(*stages[3:6])(first)
        last = nn.Sequential(*stages[6:9])(second)
        logits = stages[9](last)
    got = extractor.features(images(7), ALL)
    expected = (first.flatten(2), second.flatten(2), last[..., None])
    for i, layer in enumerate(expected):
        torch.testing.assert_close(got.pooled[i], layer.mean(dim=2))
        torch.testing.assert_close(got.grams[i], gram_rows(layer))
        if i < 2:
            torch.testing.assert_close(got.spread[i], layer.std(dim=2, correction=0))
    assert got.spread[2].shape == (7, 0)
    torch.testing.assert_close(got.penultimate, last)
    torch.testing.assert_close(got.logits, logits)
    torch.testing.assert_close(got.head(got.penultimate), logits)
    assert got.nudged.shape == logits.shape
    assert not torch.equal(got.nudged, got.logits)
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in extractor._module.modules())


def test_only_what_is_needed_is_collected():
    got = FeatureExtractor(build("mlp:1x8x8:16-12:10", seed=0), (1, 8, 8), CPU).features(images(3), Needs())
    assert (got.penultimate, got.pooled, got.spread, got.grams, got.nudged, got.head) == (None, (), (), (), None, None)


@pytest.mark.parametrize(
    ("spec", "shape", "channels"),
    [
        ("mlp:1x8x8:16-12:10", (1, 8, 8), [16, 12]),
        ("convnet:3x9x9:4,6:10:3", (3, 9, 9), [4, 6, 10]),
        ("resnet9:3x16x16:10", (3, 16, 16), [64, 128, 128, 128, 256, 512, 512, 512]),
        ("resnet18:3x8x8:10", (3, 8, 8), [*[64] * 5, *[128] * 4, *[256] * 4, *[512] * 4]),
    ],
)
def test_layers_of_the_built_in_networks(spec, shape, channels):
    extractor = FeatureExtractor(build(spec, seed=0), shape, CPU)
    got = extractor.features(images(2, shape), Needs(pooled=True, head=True, penultimate=True))
    assert [layer.shape[1] for layer in got.pooled] == channels
    torch.testing.assert_close(got.head(got.penultimate), got.logits)


class Twice(nn.Module):
    """One layer that runs twice, a branch that reads what another one reads, no bias in the head."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(64, 9)
        self.shared = nn.Linear(9, 9)
        self.branch = nn.Linear(9, 9)
        self.head = nn.Linear(9, 5, bias=False)

    def forward(self, x):
        a = self.first(x.flatten(1)).relu()
        b = self.shared(input=self.shared(a).relu()) + self.branch(a)
        return self.head(b.relu())


def test_a_layer_that_runs_twice_or_is_read_twice_counts_once():
    network = Twice().eval()
    extractor = FeatureExtractor(network, (1, 8, 8), CPU)
    assert extractor.layers == ("shared", "head")
    got = extractor.features(images(3), Needs(pooled=True, head=True))
    with torch.no_grad():
        torch.testing.assert_close(got.pooled[0], network.first(images(3).flatten(1)).relu())
    assert got.head.bias.tolist() == [0] * 5


def test_networks_without_a_linear_head_have_none():
    class Scaled(nn.Sequential):
        def forward(self, x):
            return 2 * super().forward(x)

    network = Scaled(OrderedDict(flatten=nn.Flatten(), a=nn.Linear(64, 8), relu=nn.ReLU(), b=nn.Linear(8, 3)))
    assert FeatureExtractor(network, (1, 8, 8), CPU).head is None
    again = nn.Linear(64, 64)
    extractor = FeatureExtractor(nn.Sequential(nn.Flatten(), again, again), (1, 8, 8), CPU)
    assert extractor.head is None
    with torch.no_grad():  # what its second call reads: the first one reads the image
        torch.testing.assert_close(
            extractor.features(images(3), Needs(pooled=True)).pooled[0], again(images(3).flatten(1))
        )
        last = extractor.features(images(3), Needs(penultimate=True)).penultimate
        torch.testing.assert_close(last, again(images(3).flatten(1)))
    softmax_regression = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    extractor = FeatureExtractor(softmax_regression, (1, 8, 8), CPU)
    assert extractor.layers == ("1",)  # there is nothing but the image
    assert extractor.features(images(2), Needs(pooled=True)).pooled[0].shape == (2, 64)
    y = torch.arange(60) % 3
    with pytest.raises(
        InputRefused, match=r"^Scaled: its logits do not come from a Linear layer, which ViM \(.*needs$"
    ):
        pydrift.fit_fingerprint(network, (images(60), y), detector="vim")
    with pytest.raises(InputRefused, match="has no Linear or Conv2d layer"):
        FeatureExtractor(nn.Sequential(nn.Flatten(), nn.LayerNorm(64)), (1, 8, 8), CPU)


class Concatenated(nn.Module):
    """Two convolutions whose pooled maps are joined, as in a DenseNet: 4 + 12 features, read after the second one."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 12, 3, padding=1), nn.Conv2d(12, 4, 3, padding=1)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        a = self.first(x).relu()
        return self.head(torch.cat([a, self.second(a).relu()], dim=1).mean(dim=(2, 3)))


class Gated(nn.Module):
    """A vector that is scaled by a gate of one output, which runs in between."""

    def __init__(self):
        super().__init__()
        self.first, self.gate, self.head = nn.Linear(64, 32), nn.Linear(32, 1), nn.Linear(32, 3)

    def forward(self, x):
        a = self.first(x.flatten(1)).relu()
        return self.head(a * self.gate(a).sigmoid())


class Functional(nn.Module):
    """A map that is pooled and flattened by functions, with nothing in between that is a module."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Conv2d(1, 5, 3, padding=1), nn.Linear(80, 3)

    def forward(self, x):
        return self.head(nn.functional.max_pool2d(self.first(x), 2).flatten(1))


class Bare(nn.Module):
    """A map that is flattened as the first convolution gives it."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Conv2d(1, 5, 3, padding=1), nn.Linear(320, 3)

    def forward(self, x):
        return self.head(self.first(x).flatten(1))


@pytest.mark.parametrize(
    ("kind", "channels", "places"),
    [
        (Concatenated, {"second": 12, "head": 16}, {"second": 64, "head": 1}),
        (Gated, {"gate": 32, "head": 32}, {"gate": 1, "head": 1}),
        (Functional, {"head": 5}, {"head": 16}),
        (Bare, {"head": 5}, {"head": 64}),
    ],
)
def test_only_flattened_maps_have_their_channels_back(kind, channels, places):
    torch.manual_seed(0)
    extractor = FeatureExtractor(kind().eval(), (1, 8, 8), CPU)
    assert {tap.name: tap.channels for tap in extractor.taps} == channels
    got = extractor.features(images(3), Needs(pooled=True, spread=True))
    assert [layer.shape[1] for layer in got.pooled] == list(channels.values())
    assert [layer.shape[1] > 0 for layer in got.spread] == [count > 1 for count in places.values()]


class Adapted(nn.Linear):
    """A layer with a layer in it, as low-rank adapters are."""

    def __init__(self):
        super().__init__(64, 64)
        self.inside = nn.Linear(64, 64)

    def forward(self, x):
        return super().forward(x) + self.inside(x)


def test_a_layer_may_have_another_in_it():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), Adapted()).eval()
    extractor = FeatureExtractor(network, (1, 8, 8), CPU)
    got = extractor.features(images(3), Needs(pooled=True, penultimate=True))
    with torch.no_grad():
        read = network[:3](images(3))
    assert [tap.channels for tap in extractor.taps] == [64]
    torch.testing.assert_close(got.pooled[0], read)
    torch.testing.assert_close(got.penultimate, read)


class Tokens(nn.Module):
    """Patches of an image, each by itself through a block, then their mean: a Vision Transformer's shapes."""

    def __init__(self, pooled):
        super().__init__()
        self.pooled, self.patches, self.block, self.head = (
            pooled,
            nn.Conv2d(1, 6, 4, 4),
            nn.Linear(6, 6),
            nn.Linear(6, 3),
        )

    def forward(self, x):
        tokens = self.block(self.patches(x).flatten(2).transpose(1, 2)).relu()
        return self.head(tokens.mean(dim=1)) if self.pooled else self.head(tokens).mean(dim=1)


def test_layers_that_read_tokens_are_skipped_and_named():
    torch.manual_seed(0)
    extractor = FeatureExtractor(Tokens(True).eval(), (1, 8, 8), CPU)
    assert (extractor.layers, extractor.skipped) == (("head",), ("block",))
    data = images(60), torch.arange(60) % 3
    (reason,) = pydrift.fit_fingerprint(Tokens(True), data, range(30)).origin.reasons
    assert reason == "not read, since their inputs are neither a map nor a vector of each image: block"
    words = r"^Tokens: no Linear or Conv2d layer after the first reads a map .* \(block, head read neither\), so a"
    with pytest.raises(InputRefused, match=words):
        pydrift.fit_fingerprint(Tokens(False), data)


def test_features_do_not_depend_on_how_images_come():
    extractor = FeatureExtractor(build("convnet:1x8x8:6:12:10", seed=0), (1, 8, 8), CPU)
    x = images(2 * BLOCK + 30)
    whole = extractor.features(x, ALL)
    for sizes in ([len(x)], [1, BLOCK, BLOCK + 5, 24], [10] * 53):
        stream = list(extractor.stream(iter(x.split(sizes)), ALL))
        assert [len(part) for part in stream] == [BLOCK, BLOCK, 30]
        assert torch.equal(torch.cat([part.logits for part in stream]), whole.logits)
        assert torch.equal(torch.cat([part.grams[0] for part in stream]), whole.grams[0])
    assert list(blocks([])) == []


def test_a_map_that_was_permuted_has_no_channels_to_give_back():
    class ChannelsLast(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)
            self.head = nn.Linear(144, 5)

        def forward(self, x):
            return self.head(self.conv(x).permute(0, 2, 3, 1).flatten(1))

    extractor = FeatureExtractor(ChannelsLast().eval(), (1, 8, 8), CPU)
    assert [layer.shape[1] for layer in extractor.features(images(2), Needs(pooled=True)).pooled] == [144]


def test_images_with_large_maps_are_read_in_smaller_passes(monkeypatch):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()
    x, needs = torch.rand(40, 1, 4, 4), Needs(pooled=True, penultimate=True)
    usual = FeatureExtractor(net, (1, 4, 4), torch.device("cpu")).features(x, needs)
    monkeypatch.setattr("pydrift.models.classifier.MAX_PASS", 8 * 200 * 7)
    extractor = FeatureExtractor(net, (1, 4, 4), torch.device("cpu"))
    sizes = []
    extractor._module[0].register_forward_hook(lambda _, inputs, output: sizes.append(len(output)))
    found = extractor.features(x, needs)
    assert set(sizes) == {7, 40 % 7}
    assert torch.allclose(found.logits, usual.logits, atol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found.pooled, usual.pooled, strict=True))
    assert torch.allclose(found.penultimate, usual.penultimate, atol=1e-6)
