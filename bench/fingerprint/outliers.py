"""Images that detectors are asked to reject: those that a model was not trained on, brought to the shape it takes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pydrift.data import load_data

NAMES = ("mnist", "fashion-mnist", "cifar10", "digits")
_LUMA = (0.299, 0.587, 0.114)
Logits = Callable[[Tensor], Tensor]


def reshape_images(x: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Turns grey or RGB images of any size into float32 [N, *shape] in [0, 1].

    Colour becomes luma, grey becomes three equal channels, and the size changes bilinearly.
    """
    channels, height, width = shape
    if x.shape[1] == 3 and channels == 1:
        x = (x * torch.tensor(_LUMA)[:, None, None]).sum(dim=1, keepdim=True)
    elif x.shape[1] == 1 and channels == 3:
        x = x.expand(-1, 3, -1, -1)
    if x.shape[2:] != (height, width):
        x = F.interpolate(x, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return x.clamp(0, 1).contiguous()


def source(name: str, folder: Path) -> str:
    """Returns the spec of a data set in `folder`."""
    return name if name == "digits" else f"{name}:{folder}"


def outlier_sets(
    own: str, shape: tuple[int, int, int], folder: Path, most: int, seed: int
) -> Iterator[tuple[str, Tensor]]:
    """Yields name and images of each set that is there, at most `most` of each. The model's own set is left out."""
    for name in NAMES:
        if name != own:
            yield name, reshape_images(load_data(source(name, folder), "test").x[:most], shape)
    faces = folder / "olivetti.npz"
    if faces.exists():
        with np.load(faces) as file:
            pixels = file["images"][:most, None].astype(np.float32)
        yield "olivetti", reshape_images(torch.from_numpy(pixels / 255), shape)
    generator = torch.Generator().manual_seed(seed)
    yield "uniform noise", torch.rand((most, *shape), generator=generator)
    yield "Gaussian noise", (0.5 + 0.25 * torch.randn((most, *shape), generator=generator)).clamp(0, 1)


@dataclass(frozen=True)
class Attacked:
    """Adversarial images, float32 [N, C, H, W], made of images that the model got right.

    success  the share of them that the model no longer gets right
    """

    name: str
    x: Tensor
    success: float


def adversarial_sets(logits: Logits, x: Tensor, y: Tensor) -> Iterator[Attacked]:
    """Attacks those of the model's own test images that it gets right: by FGSM of two sizes, and by DeepFool."""

    def attacked(name: str, images: Tensor) -> Attacked:
        with torch.no_grad():
            wrong = logits(images).argmax(dim=1) != y[: len(images)]
        return Attacked(name, images, float(wrong.double().mean()))

    with torch.no_grad():
        right = logits(x).argmax(dim=1) == y
    x, y = x[right], y[right]
    for epsilon in (0.03, 0.1):
        yield attacked(f"FGSM {epsilon:g}", fgsm(logits, x, y, epsilon))
    yield attacked("DeepFool", deepfool(logits, x[:500]))


def fgsm(logits: Logits, x: Tensor, y: Tensor, epsilon: float) -> Tensor:
    """Returns x + epsilon sign(gradient of the loss), clipped (Goodfellow, Shlens, Szegedy, ICLR 2015)."""
    found = []
    for images, labels in zip(x.split(250), y.split(250), strict=True):
        images = images.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits(images), labels, reduction="sum"), images)
        found.append((images.detach() + epsilon * gradient.sign()).clamp(0, 1))
    return torch.cat(found)


def deepfool(logits: Logits, x: Tensor, steps: int = 50, overshoot: float = 0.02) -> Tensor:
    """Returns the nearest images of another predicted class, in l2, by linear logits (Moosavi-Dezfooli et al., 2016).

    All images move at once, and one that has crossed stays where it is. The step's overshoot is the paper's. Every step
    is clipped to [0, 1]. Clipping at the end alone would lead most images back over the boundary.
    """
    with torch.no_grad():
        first = logits(x).argmax(dim=1)
    moved = x.clone()
    for _ in range(steps):
        images = moved.clone().requires_grad_(True)
        z = logits(images)
        inside = (z.argmax(dim=1) == first).nonzero()[:, 0]
        if len(inside) == 0:
            break
        classes = z.shape[1]
        gradients = torch.stack(
            [
                torch.autograd.grad(z[:, k].sum(), images, retain_graph=k + 1 < classes)[0][inside]
                for k in range(classes)
            ]
        )
        own = first[inside]
        each = torch.arange(len(inside))
        directions = gradients - gradients[own, each]
        gap = (z[inside] - z[inside, own][:, None]).detach().T  # [classes, images], 0 for its own class
        length = directions.flatten(2).norm(dim=2).clamp_min(1e-12)
        distance = (gap.abs() / length).index_put((own, each), torch.tensor(torch.inf))
        nearest = distance.argmin(dim=0)
        scale = (gap[nearest, each].abs() + 1e-4) / length[nearest, each].square()
        step = (1 + overshoot) * scale[:, None, None, None] * directions[nearest, each]
        moved[inside] = (moved[inside] + step).clamp(0, 1)
    return moved


def in_blocks(module: nn.Module) -> Logits:
    """Returns a differentiable function for the module's logits, which computes 250 images at a time."""
    return lambda x: torch.cat([module(block) for block in x.split(250)])
