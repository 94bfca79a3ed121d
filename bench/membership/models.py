"""The models of bench_membership: for each kind of training a bank, in which every model in turn is the target.

Shadows 2j and 2j + 1 see complementary halves. So where one of them is the target, both are left out: among those that
stay every image is IN for exactly half, whether the target saw it or not, and their number gives nothing away.
"""

import hashlib
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pydrift.core.progress import Progress
from pydrift.data import LabelledImages
from pydrift.models.arch import build
from pydrift.models.recipe import TrainingRecipe
from pydrift.shadows import ShadowBank, train_shadows
from pydrift.shadows.statistics import Statistics

DELTA = 1e-5


@dataclass(frozen=True)
class Kind:
    """How target and shadows are trained, and how images are shown to them.

    epsilon  of differential privacy at DELTA, by Opacus, with plain SGD and momentum; None: trained natively
    """

    recipe: TrainingRecipe
    queries: tuple[str, ...] = ("plain",)
    epsilon: float | None = None
    clip: float = 1.0


KINDS = {
    "cifar10": {
        "convnet": Kind(TrainingRecipe(12, 128, 2e-3, 5e-4, augment="shift:2,flip"), ("plain", "flip")),
        "overfit": Kind(TrainingRecipe(30, 128, 2e-3)),
        "private": Kind(TrainingRecipe(8, 256, 0.5, optimizer="sgd"), epsilon=8.0),
    },
    "other": {
        "regular": Kind(TrainingRecipe(20, 64, 2e-3, 5e-4)),
        "overfit": Kind(TrainingRecipe(100, 64, 3e-3)),
        "private": Kind(TrainingRecipe(8, 64, 0.25, optimizer="sgd"), epsilon=8.0),
    },
}


def bank_of(
    name: str, kind: Kind, arch: str, data: LabelledImages, count: int, seed: int, work: Path | None, progress: Progress
) -> ShadowBank:
    """`count` models of a kind. In `work` the finished ones are kept, in a folder named after all they depend on."""
    own = None if kind.epsilon is None else private_training(arch, kind)
    how = {"arch": arch, "data": data.sha256, "count": count, "seed": seed, **asdict(kind)}
    digest = hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()
    folder = None if work is None else work / f"{name}-{digest[:12]}"
    return train_shadows(
        arch, data, count, recipe=kind.recipe, train=own, seed=seed, resume_dir=folder, device="cpu", progress=progress
    )


def without(statistics: Statistics, target: int) -> Statistics:
    """All models but the target and the one that saw the other half."""
    first = target - target % 2
    return statistics.models(np.delete(np.arange(statistics.num_models), [first, first + 1]))


def shadows_of(member: NDArray[np.bool_], target: int) -> NDArray[np.bool_]:
    """The rows of `member` that `without` keeps."""
    first = target - target % 2
    return np.delete(member, [first, first + 1], axis=0)


def gap(bank: ShadowBank, statistics: Statistics, y: NDArray[np.int64]) -> dict[str, list[float]]:
    """Of each model the accuracy and the mean loss on its members and on the other images."""
    right, loss = statistics.prediction[:, 0] == y, statistics.loss[:, 0].astype(np.float64)
    rows = {"members": bank.member, "others": ~bank.member}
    return {
        f"{what} of {who}": [float(values[k][row[k]].mean()) for k in range(len(bank))]
        for what, values in (("accuracy", right), ("loss", loss))
        for who, row in rows.items()
    }


# ---- Differential privacy


def opacus_is_missing() -> str | None:
    """A sentence where Opacus cannot be imported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import opacus  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: F401
    except ImportError as error:
        return f"no privately trained target: Opacus cannot be imported ({error}); pip install 'pydrift[dp]'"
    return None


def private_training(arch: str, kind: Kind) -> Callable[[Tensor, Tensor, int], nn.Module]:
    """DP-SGD (Abadi et al., CCS 2016): every image's gradient is clipped, and noise is added to their sum."""

    def train(x: Tensor, y: Tensor, seed: int) -> nn.Module:
        from opacus import PrivacyEngine  # type: ignore[import-not-found,import-untyped,unused-ignore]

        module, recipe = build(arch, seed), kind.recipe
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the noise is from an ordinary generator, and two of torch's own
            private, optimizer, criterion, batches = PrivacyEngine().make_private_with_epsilon(
                module=module,
                optimizer=torch.optim.SGD(module.parameters(), recipe.learning_rate, recipe.momentum),
                criterion=nn.CrossEntropyLoss(),
                data_loader=torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), recipe.batch_size),
                target_epsilon=kind.epsilon,
                target_delta=DELTA,
                epochs=recipe.epochs,
                max_grad_norm=kind.clip,
                grad_sample_mode="ghost",  # the norms of the images' gradients without the gradients: a third faster
            )
            for _ in range(recipe.epochs):
                for images, labels in batches:
                    if len(images) == 0:  # batches are drawn at random, and one may be empty
                        continue
                    optimizer.zero_grad()
                    criterion(private(images), labels).backward()
                    optimizer.step()
        trained = build(arch, seed)  # Opacus leaves hooks on the module that it trained
        trained.load_state_dict(private._module.state_dict())
        return trained.eval()

    return train


def scaled(kind: Kind, epochs: float) -> Kind:
    """The same with so many times the epochs, one at least."""
    return replace(kind, recipe=replace(kind.recipe, epochs=max(1, round(epochs * kind.recipe.epochs))))


def note(text: str) -> None:
    print(text, file=sys.stderr)


def described(kind: Kind) -> dict[str, Any]:
    return {**asdict(kind), "delta": None if kind.epsilon is None else DELTA}
