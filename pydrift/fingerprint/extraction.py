"""Extracts the features that detectors read from any network.

The features are the inputs of the weighted layers (Linear and Conv2d), in the order in which the layers run. These are
the activations of each stage, after its ReLU and pooling, and they are found in any nn.Module. The image itself is left
out. Inputs may be maps [N, C, H, W] or vectors [N, D]; a layer with other inputs, such as tokens [N, T, D], is skipped.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pydrift.core.errors import InputRefused
from pydrift.fingerprint.detectors.gram import gram_rows
from pydrift.fingerprint.detectors.odin import nudge
from pydrift.fingerprint.features import Features, Head, Needs, join_features
from pydrift.models.arch import frozen_copy
from pydrift.models.classifier import check_logits, images_at_once, logits_of, map_values

BLOCK = 250  # images in one forward pass: fixed, so that the batch size never changes a result


@dataclass(frozen=True)
class Tap:
    """A layer whose input is read.

    name      the module's name in the network
    channels  how many channels its input has
    call      the number of the call that is read, from 0: a module may run more than once in a forward pass
    """

    name: str
    channels: int
    call: int = 0

    def as_map(self, x: Tensor) -> Tensor:
        """The input as [N, C, S]. A vector that is a flattened map gets its channels back."""
        return x.reshape(len(x), self.channels, -1)


class FeatureExtractor:
    """A frozen network from which features are extracted. Not thread-safe.

    module       maps float32 [N, C, H, W] in [0, 1] to logits [N, K]; it is copied, with BatchNorm folded if possible
    input_shape  (C, H, W)

    layers       names of the modules whose inputs are read
    skipped      names of the modules whose inputs are neither maps nor vectors
    head         the last layer; None: the logits do not come from one Linear layer

    InputRefused: the module does not accept such images, or no Linear or Conv2d layer reads a map or a vector.
    """

    def __init__(
        self, module: nn.Module, input_shape: tuple[int, int, int], device: torch.device, name: str = "model"
    ) -> None:
        self._module = frozen_copy(module, input_shape).to(device)
        self._forward = logits_of(self._module, input_shape)
        self.device, self.input_shape = device, input_shape
        self.num_classes = check_logits(self._forward, input_shape, device, name)
        self._at_once = images_at_once(BLOCK, map_values(self._module, input_shape, device))
        self.taps, self.skipped, self._last, self.head = self._explore(name)
        self.layers = tuple(tap.name for tap in self.taps)

    def logits(self, x: Tensor) -> Tensor:
        """Logits float32 [N, K] of images [N, C, H, W] on the extractor's device: the plain forward pass."""
        with torch.no_grad():
            return self._forward(x)

    def features(self, x: Tensor, needs: Needs) -> Features:
        """Features of images float32 [N, C, H, W] in [0, 1], computed in blocks of 250 for any N."""
        return join_features([self._block(block, needs) for block in x.split(BLOCK)])

    def stream(self, batches: Iterable[Tensor], needs: Needs) -> Iterator[Features]:
        """Features of the images of all batches, 250 at a time, in constant memory. The batch sizes change nothing."""
        for block in blocks(batches):
            yield self._block(block, needs)

    def _block(self, x: Tensor, needs: Needs) -> Features:
        if len(x) > self._at_once:
            return join_features([self._block(part, needs) for part in x.split(self._at_once)])
        x = x.to(self.device)
        pooled: list[Tensor] = []
        spread: list[Tensor] = []
        grams: list[Tensor] = []
        last: list[Tensor] = []

        def read(tap: Tap, value: Tensor) -> None:
            value = tap.as_map(value)
            mean = value[:, :, 0] if value.shape[2] == 1 else value.mean(dim=2)
            if needs.pooled:
                pooled.append(mean)
            if needs.spread:
                spread.append(_spread(value, mean))
            if needs.grams:
                grams.append(gram_rows(value))

        def keep(value: Tensor) -> None:
            last.append(value.flatten(1))

        readers: list[tuple[str, int, Callable[[Tensor], None]]] = []
        if needs.pooled or needs.spread or needs.grams:
            readers += [(tap.name, tap.call, partial(read, tap)) for tap in self.taps]
        if needs.penultimate:
            readers.append((*self._last, keep))
        with torch.no_grad(), self._reading(readers):
            logits = self._forward(x)
        return Features(
            logits,
            last[0] if needs.penultimate else None,
            tuple(pooled),
            tuple(spread),
            tuple(grams),
            self.logits(nudge(self._forward, x)) if needs.nudged else None,
            self.head if needs.head else None,
        )

    @contextmanager
    def _reading(self, readers: Iterable[tuple[str, int, Callable[[Tensor], None]]]) -> Iterator[None]:
        """Calls each reader with the input of its module, in the call that it names. No map outlives its layer."""
        parts = dict(self._module.named_modules())
        handles = []
        for name, call, function in readers:
            handles.append(parts[name].register_forward_pre_hook(_at(call, function), with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _explore(self, name: str) -> tuple[tuple[Tap, ...], tuple[str, ...], tuple[str, int], Head | None]:
        """Runs two images and finds the taps, the skipped modules, the last module with its call, and the head."""
        calls: list[_Call] = []
        maps = _Maps()
        before: list[int] = []  # how many maps there were when a layer began; one may run within another

        def note(path: str, part: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], out: Tensor) -> None:
            calls.append(_Call(path, part, _input(args, kwargs), out, before.pop()))

        handles = []
        for path, part in self._module.named_modules():
            if isinstance(part, nn.Linear | nn.Conv2d):
                handles.append(part.register_forward_pre_hook(lambda *_: before.append(len(maps.seen))))
                handles.append(part.register_forward_hook(partial(note, path), with_kwargs=True))
        generator = torch.Generator().manual_seed(0)
        x = torch.rand((2, *self.input_shape), generator=generator).to(self.device)
        try:
            with torch.no_grad(), maps:
                logits = self._forward(x)
        finally:
            for handle in handles:
                handle.remove()
        if not calls:
            raise InputRefused(f"{name}: has no Linear or Conv2d layer, so a fingerprint is not possible")
        taps, skipped = _taps(calls, maps.seen)
        if not taps:
            why = f" ({', '.join(skipped)} read neither)" if skipped else ""
            raise InputRefused(
                f"{name}: no Linear or Conv2d layer after the first reads a map [N, C, H, W] or a vector [N, D]{why}, "
                "so a fingerprint is not possible"
            )
        last, head = calls[-1], None
        part, output = last.part, last.output
        times = sum(call.name == last.name for call in calls)
        if times == 1 and isinstance(part, nn.Linear) and output.shape == logits.shape and torch.equal(output, logits):
            bias = torch.zeros(self.num_classes, device=self.device) if part.bias is None else part.bias
            head = Head(part.weight.detach(), bias.detach())
        return taps, skipped, (last.name, times - 1), head


@dataclass(frozen=True, eq=False)
class _Call:
    """One call of a weighted layer: its input, its output, and how many maps there were before it."""

    name: str
    part: nn.Module
    value: Tensor
    output: Tensor
    maps: int


_REORDERS = {
    torch.ops.aten.permute.default,
    torch.ops.aten.transpose.int,
}  # may move the channels


class _Maps(TorchDispatchMode):
    """Keeps every map [2, C, H, W] that an operation returns, inside a module or not."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = () if func in _REORDERS else result if isinstance(result, tuple | list) else (result,)
        self.seen += [each for each in given if isinstance(each, Tensor) and each.ndim == 4 and len(each) == 2]
        return result


def blocks(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """The images of batches [n, C, H, W] of any size, 250 at a time; the last block may be smaller."""
    kept: list[Tensor] = []
    count = 0
    for batch in batches:
        rest = batch
        while count + len(rest) >= BLOCK:
            missing = BLOCK - count
            yield torch.cat([*kept, rest[:missing]])
            kept, count, rest = [], 0, rest[missing:]
        if len(rest):
            kept.append(rest)
            count += len(rest)
    if count:
        yield torch.cat(kept)


def _taps(calls: list[_Call], maps: list[Tensor]) -> tuple[tuple[Tap, ...], tuple[str, ...]]:
    """The distinct inputs of the weighted layers, and the names of the layers with neither a map nor a vector.

    The input of the first layer is the image; it counts only if there is no other.
    """
    seen = {calls[0].value.data_ptr()} if len(calls) > 1 else set()
    ran: Counter[str] = Counter()
    taps: dict[str, Tap] = {}
    skipped: dict[str, None] = {}
    for call in calls:
        name, value = call.name, call.value
        # every value is held in `calls`, so no two of them share memory unless they are the same
        if value.data_ptr() not in seen and name not in taps:
            if len(value) == 2 and value.ndim == 4:
                taps[name] = Tap(name, value.shape[1], ran[name])
            elif len(value) == 2 and value.ndim == 2:
                taps[name] = Tap(name, _channels(value, maps[calls[0].maps : call.maps]), ran[name])
            else:
                skipped[name] = None
        ran[name] += 1
        seen.add(value.data_ptr())
    return tuple(taps.values()), tuple(name for name in skipped if name not in taps)


def _channels(value: Tensor, maps: list[Tensor]) -> int:
    """The channels of a vector [2, D]: if it is a flattened map, those of the map, else D."""
    for each in reversed(maps):
        if each.numel() == value.numel() and torch.equal(each.flatten(1), value):
            return each.shape[1]
    return value.shape[1]


def _spread(value: Tensor, mean: Tensor) -> Tensor:
    """The standard deviation over space: [N, C] of [N, C, S], or [N, 0] if S is 1."""
    if value.shape[2] == 1:
        return mean[:, :0]
    return (value - mean[..., None]).square().mean(dim=2).sqrt()


def _at(call: int, function: Callable[[Tensor], None]) -> Callable[..., None]:
    """A hook that passes the input on in that call of the module only."""
    calls = itertools.count()

    def hook(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        if next(calls) == call:
            function(_input(args, kwargs))

    return hook


def _input(args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> Tensor:
    return args[0] if args else kwargs["input"]
