"""Makes the models of the membership benchmark: one bank for each kind of training. Every model in turn is the target.

Shadows 2j and 2j + 1 see complementary halves. So where one of them is the target, both are left out. Among the others
every image is IN for exactly half, whether the target saw it or not. So that number gives nothing away.
"""

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.common.digest import digest_of
from pydrift.core.progress import Progress
from pydrift.data import LabelledImages
from pydrift.models.arch import build
from pydrift.models.recipe import TrainingRecipe
from pydrift.shadows import ShadowBank, train_shadows
from pydrift.shadows.statistics import Statistics

DELTA = 1e-5


@dataclass(frozen=True)
class Kind:
    """How target and shadows are trained, and how they are asked about images.

    epsilon  of differential privacy at DELTA, by Opacus, with SGD and momentum. None: they are trained natively
    clip     the norm to which the gradient of an image is clipped
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
    name: str,
    kind: Kind,
    arch: str,
    data: LabelledImages,
    count: int,
    seed: int,
    resume_dir: Path | None,
    progress: Progress,
) -> ShadowBank:
    """Trains `count` models of a kind.

    Finished models are kept below `resume_dir`, in a folder named after all that they depend on.
    """
    own = None if kind.epsilon is None else private_training(arch, kind)
    made_from = {"arch": arch, "data": data.sha256, "count": count, "seed": seed, **asdict(kind)}
    folder = None if resume_dir is None else resume_dir / f"{name}-{digest_of(made_from, 12)}"
    return train_shadows(
        arch, data, count, recipe=kind.recipe, train=own, seed=seed, resume_dir=folder, device="cpu", progress=progress
    )


def without(statistics: Statistics, target: int) -> Statistics:
    """Returns the statistics of all models but the target and the one that saw the other half."""
    first = target - target % 2
    return statistics.models(np.delete(np.arange(statistics.num_models), [first, first + 1]))


def shadows_of(member: NDArray[np.bool_], target: int) -> NDArray[np.bool_]:
    """Returns the rows of `member` that `without` keeps."""
    first = target - target % 2
    return np.delete(member, [first, first + 1], axis=0)


def gap(bank: ShadowBank, statistics: Statistics, y: NDArray[np.int64]) -> dict[str, list[float]]:
    """Returns for each model the accuracy and the mean loss on its members and on the other images."""
    right, loss = statistics.prediction[:, 0] == y, statistics.loss[:, 0].astype(np.float64)
    rows = {"members": bank.member, "others": ~bank.member}
    return {
        f"{what} of {who}": [float(values[k][row[k]].mean()) for k in range(len(bank))]
        for what, values in (("accuracy", right), ("loss", loss))
        for who, row in rows.items()
    }


# ---- Differential privacy


def opacus_is_missing() -> str | None:
    """Returns a sentence where Opacus cannot be imported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import opacus  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: F401
    except ImportError as error:
        return f"private training is left out, because Opacus cannot be imported ({error}): pip install 'pydrift[dp]'"
    return None


def private_training(arch: str, kind: Kind) -> Callable[[Tensor, Tensor, int], nn.Module]:
    """Returns training by DP-SGD (Abadi et al., CCS 2016), which clips each image's gradient and adds noise."""

    def train(x: Tensor, y: Tensor, seed: int) -> nn.Module:
        from opacus import PrivacyEngine  # type: ignore[import-not-found,import-untyped,unused-ignore]

        module, recipe = build(arch, seed), kind.recipe
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about its ordinary random generator, and two from torch
            private, optimizer, criterion, batches = PrivacyEngine().make_private_with_epsilon(
                module=module,
                optimizer=torch.optim.SGD(module.parameters(), recipe.learning_rate, recipe.momentum),
                criterion=nn.CrossEntropyLoss(),
                data_loader=torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), recipe.batch_size),
                target_epsilon=kind.epsilon,
                target_delta=DELTA,
                epochs=recipe.epochs,
                max_grad_norm=kind.clip,
                grad_sample_mode="ghost",  # finds norms without the gradients, a third faster
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


def scale_epochs(kind: Kind, epochs: float) -> Kind:
    """Returns the kind with so many times the epochs, and at least one."""
    return replace(kind, recipe=replace(kind.recipe, epochs=max(1, round(epochs * kind.recipe.epochs))))


def describe(kind: Kind) -> dict[str, Any]:
    """Returns the kind as JSON."""
    return {**asdict(kind), "delta": None if kind.epsilon is None else DELTA}
