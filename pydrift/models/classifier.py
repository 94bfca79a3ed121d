"""A classifier that is ready for queries: frozen, in eval mode, on one device, and lowered where possible."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.limits import MAX_PASS
from pydrift.models.arch import FusedModel, NotLowerable, frozen_copy, lower
from pydrift.models.outputs import to_logits
from pydrift.ops import native_status, shadow_logits, why_not_invertible

# Images per call of torch: fixed, since last bits may depend on it, and few, so that feature maps stay in caches.
_BATCH = 128
REPEATABLE = 1e-3  # of the largest |logit|: by how much the logits of one image may differ from call to call
_LOG_SOFTMAX = "a model gives log-probabilities: they are logits up to a constant, and are taken as such"
_TOGETHER = 1 << 22  # pixels of small batches that share one native call, in which no image depends on another


@dataclass(frozen=True)
class Classifier:
    """A frozen classifier.

    forward      float32 [N, C, H, W] in [0, 1] -> logits float32 [N, num_classes], differentiable in its input
    input_shape  (C, H, W)
    path         what inverts it: "native AVX-512" and the like, or "generic: <why not native>"
    fused        the lowered network, if it is inverted natively
    map_values   how many values the maps of all layers have for one image, as far as known
    """

    forward: Callable[[Tensor], Tensor]
    input_shape: tuple[int, int, int]
    num_classes: int
    device: torch.device
    path: str
    fused: FusedModel | None = None
    map_values: int = 0

    def at_once(self, most: int) -> int:
        """See `images_at_once`."""
        return images_at_once(most, self.map_values)

    def log_probability_gradient(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """log p(label | x) [N] of labels int64 [N], and its gradient in x [N, C, H, W]. Weights get no gradient."""
        x = x.detach().requires_grad_(True)
        log_probability = F.log_softmax(self.forward(x), dim=1).gather(1, labels[:, None])[:, 0]
        (gradient,) = torch.autograd.grad(log_probability.sum(), x)
        return log_probability.detach(), gradient.contiguous()

    def logits(self, x: Tensor) -> Tensor:
        """Logits float32 [N, num_classes] on the model's device, without gradient.

        x  [N, C, H, W] on any device, float32 in [0, 1] or uint8 (value / 255)
        """
        if self.fused is not None and self.device.type == "cpu":
            images = x.detach().to(self.device).contiguous()
            return shadow_logits(images, self.fused.parameters()[None], program=self.fused.program())[0]
        with torch.no_grad():
            return torch.cat([self.forward(_as_float(part.to(self.device))) for part in x.split(self.at_once(_BATCH))])

    def logits_of_each(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """`logits` of each batch, with the same bits. Small batches share calls, each of which packs the parameters."""
        if self.fused is None or self.device.type != "cpu":
            yield from map(self.logits, batches)
            return
        waiting: list[Tensor] = []
        for batch in batches:
            waiting.append(batch)
            if sum(one.numel() for one in waiting) >= _TOGETHER:
                yield from self._logits_together(waiting)
                waiting = []
        yield from self._logits_together(waiting)

    def _logits_together(self, batches: list[Tensor]) -> Iterable[Tensor]:
        if len(batches) < 2:  # a large batch is not copied
            return map(self.logits, batches)
        return self.logits(torch.cat(batches)).split([len(one) for one in batches])


def freeze(
    module: nn.Module, input_shape: tuple[int, int, int], device: torch.device, name: str = "model"
) -> Classifier:
    """Makes a Classifier of any module that maps float32 [N, C, H, W] in [0, 1] to logits [N, classes].

    The module is not changed. InputRefused, which starts with `name`, if it does not map images of `input_shape`
    (C, H, W) to finite logits of two or more classes.
    """
    fused: FusedModel | None = None
    network: FusedModel | nn.Module
    try:
        network = lowered = lower(module, input_shape).to(device)
        forward: Callable[[Tensor], Tensor] = lowered
        refusal = why_not_invertible(lowered.program(), lowered.parameters(), input_shape)
        fused = lowered if refusal is None else None
        path = f"generic: {refusal}" if fused is None else native_status().path(device.type)
    except NotLowerable as reason:
        network = frozen_copy(module, input_shape).to(device)
        forward, path = logits_of(network, input_shape), f"generic: {reason}"
    num_classes = check_logits(forward, input_shape, device, name)
    values = map_values(network, input_shape, device) if fused is None else 0  # native loops plan their own memory
    return Classifier(forward, input_shape, num_classes, device, path, fused, values)


def images_at_once(most: int, map_values: int) -> int:
    """How many images one pass of torch takes: `most`, or fewer where their maps need over MAX_PASS bytes."""
    return max(1, min(most, MAX_PASS // (8 * map_values + 1)))


def map_values(network: FusedModel | nn.Module, input_shape: tuple[int, int, int], device: torch.device) -> int:
    """How many values the maps of all parts of a network have for one image."""
    if isinstance(network, FusedModel):
        return network.map_values()
    count = 0

    def add(_: nn.Module, inputs: object, output: object) -> None:
        nonlocal count
        count += output.numel() if isinstance(output, Tensor) else 0

    hooks = [part.register_forward_hook(add) for part in network.modules() if not any(part.children())]
    try:
        with torch.no_grad():
            network(torch.full((1, *input_shape), 0.5, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    return count


def _as_float(x: Tensor) -> Tensor:
    return x / 255.0 if x.dtype == torch.uint8 else x


def choose_device(name: str | None) -> torch.device:
    """The device of that name; for None a CUDA device if torch sees one, else the CPU. UsageError: no such device."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {name!r}: this torch sees no CUDA device")
    return device


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Inside the with block, CUDA computes in full float32 (no TF32) and with deterministic kernels only."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def logits_of(module: nn.Module, input_shape: tuple[int, int, int]) -> Callable[[Tensor], Tensor]:
    """A function from images [N, C, H, W] to the module's logits in float32, whatever it returns (see `to_logits`).

    The module takes the memory format that is fast for convolutions on the CPU, where its forward works with that:
    a `view` of a map needs the usual one. An autocast that the caller has turned on does not reach it.
    """
    layout = torch.channels_last if _works_channels_last(module, input_shape) else torch.contiguous_format
    module.to(memory_format=layout)  # type: ignore[call-overload]

    def forward(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            output = module(x.contiguous(memory_format=layout))
        logits: Tensor = to_logits(output, len(x))
        return logits

    return forward


def _works_channels_last(module: nn.Module, input_shape: tuple[int, int, int]) -> bool:
    """Whether it is worth it, and the forward takes two such images; `check_logits` says where it takes none at all."""
    convolves = any(isinstance(part, nn.Conv2d) for part in module.modules())
    if not convolves or any(parameter.device.type != "cpu" for parameter in module.parameters()):
        return False
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.full((2, *input_shape), 0.5).contiguous(memory_format=torch.channels_last)
    try:
        with torch.no_grad():
            module(images)
    except Exception:  # whatever the user's forward raises
        return False
    return True


def check_logits(
    forward: Callable[[Tensor], Tensor], input_shape: tuple[int, int, int], device: torch.device, name: str
) -> int:
    """The number of classes. InputRefused if `forward` does not map such images to finite logits [N, classes]."""
    shape = "x".join(map(str, input_shape))
    try:
        with torch.no_grad():
            logits = forward(torch.full((2, *input_shape), 0.5, device=device))
    except Exception as error:  # whatever the user's forward raises
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputRefused(f"{name}: does not take images of shape {shape}: {reason}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[0] != 2 or logits.shape[1] < 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputRefused(f"{name}: must map [N, {shape}] to logits [N, classes >= 2], got {got} for N = 2")
    if not torch.isfinite(logits).all():
        raise InputRefused(f"{name}: gives non-finite logits for a plain gray image")
    if logits.dtype != torch.float32:
        raise InputRefused(f"{name}: gives logits of {logits.dtype}, which are no floating-point numbers")
    if (logits >= 0).all() and torch.allclose(logits.sum(dim=1), torch.ones(2, device=device), atol=1e-5):
        raise InputRefused(f"{name}: gives probabilities, not logits; leave out its final softmax")
    if (logits <= 0).all() and torch.allclose(logits.exp().sum(dim=1), torch.ones(2, device=device), atol=1e-5):
        warnings.warn(_LOG_SOFTMAX, stacklevel=3)
    _check_repeatable(forward, input_shape, device, name)
    return logits.shape[1]


def _refuse_sigmoid(forward: Callable[[Tensor], Tensor], images: Tensor, logits: Tensor, name: str) -> None:
    """InputRefused where all logits lie between 0 and 1, whatever the images: then no image has an unlikely class."""
    of_one = logits.shape[1] == 2 and not logits[:, 0].any()  # a single logit, see `to_logits`
    values = logits[:, 1:] if of_one else logits
    if not ((values > 0) & (values < 1)).all():
        return
    try:
        with torch.no_grad():
            far = forward(200 * images - 100)  # logits that lie there by chance go far with such images
    except Exception:  # whatever the user's forward raises
        return
    if ((far >= 0) & (far <= 1)).all():
        raise InputRefused(
            f"{name}: gives values between 0 and 1 only, not logits; leave out its final sigmoid. A multi-label model "
            "cannot be audited: each image must have one class"
        )


def _repeatable(logits: Tensor) -> float:
    """By how much these logits may differ from call to call: more where they are computed in half precision."""
    for dtype in (torch.bfloat16, torch.float16):
        if torch.equal(logits, logits.to(dtype).float()):
            return max(REPEATABLE, 4 * torch.finfo(dtype).eps)
    return REPEATABLE


def _check_repeatable(
    forward: Callable[[Tensor], Tensor], input_shape: tuple[int, int, int], device: torch.device, name: str
) -> None:
    """InputRefused where the logits of an image change from call to call, or with the other images of its batch."""
    images = torch.rand((3, *input_shape), generator=torch.Generator().manual_seed(0)).to(device)
    try:
        with torch.no_grad():
            first, again, alone = forward(images), forward(images), forward(images[:1])
    except Exception as error:  # whatever the user's forward raises
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputRefused(f"{name}: does not take any number of images, for instance one: {reason}") from error
    if alone.shape != (1, first.shape[1]):
        raise InputRefused(f"{name}: gives {list(alone.shape)} instead of [1, {first.shape[1]}] for a single image")
    _refuse_sigmoid(forward, images, first, name)
    near = _repeatable(first) * float(first.abs().max())
    if not torch.allclose(first, again, rtol=0, atol=near, equal_nan=True):
        raise InputRefused(f"{name}: gives the same images other logits the second time; is dropout still on?")
    if not torch.allclose(first[:1], alone, rtol=0, atol=near, equal_nan=True):
        raise InputRefused(
            f"{name}: the logits of an image depend on the other images of its batch; has a BatchNorm no running "
            "statistics?"
        )
