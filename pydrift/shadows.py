"""Shadow models: benign models of the base's kind, trained on random draws of the reference data."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pydrift.data import LabelledImages
from pydrift.errors import UsageError
from pydrift.noise import Phase, derived_seed
from pydrift.parallel import each
from pydrift.progress import Progress
from pydrift.store import RunFolder
from pydrift.training import Train, TrainingRecipe, predict, seeded, train

NULLS = ("retrain", "finetune")


@dataclass(frozen=True)
class Draw:
    """Which reference images shadow k sees: a pure function of (seed, number of images, k).

    kind  "halves"     a random half; shadows 2j and 2j+1 see complementary ones, so that with an even number of shadows
                       every image is a member of exactly half of them: what membership attacks need
          "subset"     `size` images without replacement
          "bootstrap"  `size` images with replacement
    """

    kind: str
    size: int = 0  # of "subset" and "bootstrap"

    def __post_init__(self) -> None:
        if self.kind not in ("halves", "subset", "bootstrap") or (self.kind != "halves") != (self.size > 0):
            raise UsageError(f"no such draw of reference images: {self.kind!r} of size {self.size}")

    def indices(self, seed: int, images: int, k: int) -> NDArray[np.int64]:
        """The drawn indices into the reference data, int64, ascending (a bootstrap repeats some)."""
        stream = k // 2 if self.kind == "halves" else k
        random = np.random.Generator(np.random.Philox(derived_seed(seed, Phase.SHADOW_DRAW, stream)))
        if self.kind == "bootstrap":
            return np.sort(random.integers(0, images, self.size))
        order = random.permutation(images)
        if self.kind == "halves":
            return np.sort(order[: images // 2] if k % 2 == 0 else order[images // 2 :])
        if self.size > images:
            raise UsageError(f"cannot draw {self.size} of {images} images without replacement")
        return np.sort(order[: self.size])

    def describe(self, images: int) -> str:
        if self.kind == "halves":
            return f"complementary halves of {images} images"
        how = "with replacement (bootstrap)" if self.kind == "bootstrap" else "without replacement"
        return f"{self.size} of {images} images {how}"


def successor_draw(images: int, base_size: int | None) -> Draw:
    """The draw that makes a shadow look like an honest successor of a base that saw `base_size` images.

    As many images as the base saw: a model that saw fewer is less sure of itself than an honest successor, which would
    read as a lenient null. Where the reference data holds no more than that, a bootstrap of it.
    """
    size = base_size or images
    return Draw("subset", size) if size < images else Draw("bootstrap", size)


@dataclass(frozen=True)
class ShadowBank:
    """K trained shadow models (eval mode) and each one's accuracy on the reference images that it did not see.

    The accuracy is None where a shadow saw them all.
    """

    modules: tuple[nn.Module, ...]
    accuracy: tuple[float | None, ...]


def train_shadows(
    base: nn.Module,
    data: LabelledImages,
    count: int,
    *,
    null: str,
    draw: Draw,
    recipe: TrainingRecipe,
    seed: int,
    initial: Callable[[int], nn.Module] | None = None,
    built_in: bool = False,
    user_train: Train | None = None,
    device: torch.device,
    run: RunFolder,
    progress: Progress,
) -> ShadowBank:
    """Trains `count` benign models of the base's architecture.

    null         "retrain": from scratch (from `initial(seed)`, or a re-initialised copy of the base where it is None);
                 "finetune": from the base's weights, by `recipe.continued`
    built_in     the architecture is one of pydrift's own: on the CPU shadows are then trained side by side
    user_train   replaces all of that by the user's own training
    run          finished shadows are kept there and not trained again
    """
    if null not in NULLS:
        raise UsageError(f"null must be one of {', '.join(NULLS)}, got {null!r}")
    if draw.kind == "halves" and count % 2:
        raise UsageError(f"complementary halves need an even number of shadows, got {count}")

    def shadow(k: int) -> tuple[nn.Module, float | None]:
        drawn = draw.indices(seed, len(data), k)
        saved = run.get(f"shadow/{k}")
        if saved is None:
            module = trained(data.x[drawn], data.y[drawn], derived_seed(seed, Phase.SHADOW_TRAIN, k))
            run.put(f"shadow/{k}", module.state_dict())
        else:
            module = copy.deepcopy(base)
            module.load_state_dict(saved)
        module = module.eval().requires_grad_(False)
        return module, _unseen_accuracy(module, data, drawn)

    def trained(x: Tensor, y: Tensor, seed: int) -> nn.Module:
        if user_train is not None:
            with seeded(seed):
                made = user_train(x, y, seed)
            if _shapes(made) != _shapes(base):
                raise UsageError("train= returned a model whose parameters are not named and shaped as the base's are")
            return copy.deepcopy(made).cpu()  # the user may train one and the same module again
        start = copy.deepcopy(base).requires_grad_(True) if null == "finetune" else fresh(seed)
        how = recipe.continued(len(x)) if null == "finetune" else recipe
        with nullcontext() if built_in else seeded(seed):
            return train(start.to(device), x, y, how, seed, channels_last=built_in).cpu()

    def fresh(seed: int) -> nn.Module:
        return initial(seed) if initial else reinitialised(base, seed)

    progress.phase("training shadows", count)
    bank = []
    # Only the built-in architectures are known not to draw from torch's global generator, which threads would share.
    side_by_side = built_in and user_train is None and device.type == "cpu"
    for finished in each(shadow, range(count)) if side_by_side else map(shadow, range(count)):
        bank.append(finished)
        progress.advance()
    modules, accuracy = zip(*bank, strict=True)
    return ShadowBank(modules, accuracy)


def reinitialised(module: nn.Module, seed: int) -> nn.Module:
    """A copy of `module` with fresh initial weights, a pure function of (architecture, seed).

    Every sub-module that owns parameters must offer torch's `reset_parameters`; UsageError names the first without it.
    """
    fresh = copy.deepcopy(module).requires_grad_(True)
    with seeded(seed):
        for name, part in fresh.named_modules():
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
            elif next(part.parameters(recurse=False), None) is not None:
                kind = type(part).__name__
                raise UsageError(
                    f"the base's {name or 'root'} ({kind}) has parameters but no reset_parameters(), so shadows cannot "
                    "be started afresh; pass train=, a function (x, y, seed) -> trained module"
                )
    return fresh


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def _unseen_accuracy(module: nn.Module, data: LabelledImages, drawn: NDArray[np.int64]) -> float | None:
    """Accuracy on about 2,000 of the images that were not drawn, evenly spread: the data may be sorted by class."""
    unseen = np.setdiff1d(np.arange(len(data)), drawn)
    if len(unseen) == 0:
        return None
    unseen = unseen[:: -(-len(unseen) // 2000)]
    return float((predict(module, data.x[unseen]) == data.y[unseen]).float().mean())
