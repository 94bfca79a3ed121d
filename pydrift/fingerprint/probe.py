"""A network with its layers tapped: the one place where features come from.

What is tapped is what the weighted layers (Linear and Conv2d) read, in the order in which they run: the activations of
each stage, behind its ReLU and pooling, found in any nn.Module without knowing its kind. The image itself is not one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from pydrift.arch import frozen_copy
from pydrift.classifier import channels_last, check_logits
from pydrift.errors import InputRefused
from pydrift.fingerprint.features import Features, Head, Needs, joined
from pydrift.fingerprint.gram import gram_rows
from pydrift.fingerprint.odin import nudged

BLOCK = 250  # images a pass: fixed, so that a result depends on no batch size


@dataclass(frozen=True)
class Tap:
    """A layer whose input is read.

    name      of the module in the network
    channels  of its input
    """

    name: str
    channels: int

    def as_map(self, x: Tensor) -> Tensor:
        """[N, C, S] of what was read; the vector that a flattened map is has its channels back."""
        return x.reshape(len(x), self.channels, -1)


class Probe:
    """A frozen network that gives Features. Not for use by two threads at once.

    module       maps float32 [N, C, H, W] in [0, 1] to logits [N, K]; it is copied, BatchNorm folded where possible
    input_shape  (C, H, W)

    InputRefused where it does not, or has no Linear or Conv2d layer.
    """

    def __init__(
        self, module: nn.Module, input_shape: tuple[int, int, int], device: torch.device, name: str = "model"
    ) -> None:
        self._module = frozen_copy(module, input_shape).to(device)
        self._forward = channels_last(self._module)
        self.device, self.input_shape = device, input_shape
        self.num_classes = check_logits(self._forward, input_shape, device, name)
        self.taps, self._last, self.head = self._explored(name)

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the modules whose inputs are read."""
        return tuple(tap.name for tap in self.taps)

    def logits(self, x: Tensor) -> Tensor:
        """Logits [N, K] of images [N, C, H, W] on the probe's device: the plain forward pass."""
        with torch.no_grad():
            return self._forward(x)

    def features(self, x: Tensor, needs: Needs) -> Features:
        """Features of images float32 [N, C, H, W] in [0, 1], cut into blocks of 250 whatever N is."""
        return joined([self._block(block, needs) for block in x.split(BLOCK)])

    def stream(self, batches: Iterable[Tensor], needs: Needs) -> Iterator[Features]:
        """Features of the images of all batches, 250 at a time: the same, and in the same memory, however they come."""
        for block in blocks(batches):
            yield self._block(block, needs)

    def _block(self, x: Tensor, needs: Needs) -> Features:
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

        readers: dict[str, Callable[[Tensor], None]] = {}
        if needs.pooled or needs.spread or needs.grams:
            readers |= {tap.name: partial(read, tap) for tap in self.taps}
        with torch.no_grad(), self._reading(readers, {self._last: keep} if needs.penultimate else {}):
            logits = self._forward(x)
        return Features(
            logits,
            last[-1] if needs.penultimate else None,
            tuple(pooled),
            tuple(spread),
            tuple(grams),
            self.logits(nudged(self._forward, x)) if needs.nudged else None,
            self.head if needs.head else None,
        )

    @contextmanager
    def _reading(self, *readers: Mapping[str, Callable[[Tensor], None]]) -> Iterator[None]:
        """Hands what each named module reads over at once, so that no whole map outlives its layer."""
        parts = dict(self._module.named_modules())
        handles = []
        for function_of in readers:
            for name, function in function_of.items():
                handles.append(parts[name].register_forward_pre_hook(_once(function), with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _explored(self, name: str) -> tuple[tuple[Tap, ...], str, Head | None]:
        """The taps, the module that runs last, and the head: from one pass over two images."""
        calls: list[tuple[str, nn.Module, Tensor, Tensor]] = []
        handles = [
            part.register_forward_hook(
                lambda part, args, kwargs, output, path=path: calls.append((path, part, _input(args, kwargs), output)),
                with_kwargs=True,
            )
            for path, part in self._module.named_modules()
            if isinstance(part, nn.Linear | nn.Conv2d)
        ]
        generator = torch.Generator().manual_seed(0)
        x = torch.rand((2, *self.input_shape), generator=generator).to(self.device)
        try:
            with torch.no_grad():
                logits = self._forward(x)
        finally:
            for handle in handles:
                handle.remove()
        if not calls:
            raise InputRefused(f"{name}: has no Linear or Conv2d layer, so there is nothing to take a fingerprint of")
        last, part, _, output = calls[-1]
        head = None
        alone = sum(path == last for path, *_ in calls) == 1
        if alone and isinstance(part, nn.Linear) and output.shape == logits.shape and torch.equal(output, logits):
            bias = torch.zeros(self.num_classes, device=self.device) if part.bias is None else part.bias
            head = Head(part.weight.detach(), bias.detach())
        return tuple(_taps(calls)), last, head


def blocks(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """The images of batches [n, C, H, W] of any sizes, 250 at a time, the last fewer."""
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


def _taps(calls: list[tuple[str, nn.Module, Tensor, Tensor]]) -> Iterator[Tap]:
    """Distinct inputs of the weighted layers, but for what the first one reads, unless it is all there is."""
    seen = {calls[0][2].data_ptr()} if len(calls) > 1 else set()
    names: set[str] = set()
    channels = calls[0][2].shape[1]  # of the layer before
    for path, part, value, output in calls:
        # every value is held in `calls`, so no two of them share memory unless they are the same
        if value.data_ptr() not in seen and path not in names and len(value) == 2:
            if value.ndim == 4:
                yield Tap(path, value.shape[1])
            elif value.ndim == 2:
                yield Tap(path, channels if value.shape[1] % channels == 0 else value.shape[1])
            names.add(path)
        seen.add(value.data_ptr())
        channels = part.out_channels if isinstance(part, nn.Conv2d) else output.shape[-1]


def _spread(value: Tensor, mean: Tensor) -> Tensor:
    """The standard deviation over space, [N, C] of [N, C, S]; [N, 0] where there is no space."""
    if value.shape[2] == 1:
        return mean[:, :0]
    return (value - mean[..., None]).square().mean(dim=2).sqrt()


def _once(function: Callable[[Tensor], None]) -> Callable[..., None]:
    """A hook that reads the first call only: a module may run more than once in a pass."""
    called = False

    def hook(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        nonlocal called
        if not called:
            called = True
            function(_input(args, kwargs))

    return hook


def _input(args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> Tensor:
    return args[0] if args else kwargs["input"]
