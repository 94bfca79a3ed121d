"""Makes the models of the ownership benchmark: victims, models stolen from them, and benign models.

The ways of theft are those of Maini, Yaghini and Papernot, "Dataset Inference: Ownership Resolution in Machine
Learning" (ICLR 2021). The training fits small networks. Each model is kept in a file whose name is the hash of
all that made it, so that a killed run goes on.
"""

import copy
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.common.digest import digest_of
from bench.ownership.data_free import extract_model
from bench.ownership.world import Indices, World
from pydrift.core.parallel import one_intra_op_thread
from pydrift.models.arch import build
from pydrift.models.file import load_model, save_model
from pydrift.models.recipe import TrainingRecipe
from pydrift.training import predict, train_many
from pydrift.training.loop import refuse_divergence
from pydrift.version import __version__

STOLEN = (
    *("copy", "fine-tuning", "architecture", "distillation", "label-query", "logit-query", "data-free"),
    "adversarial",
)
INDEPENDENT = 24
_TESTED = 2000  # images for each accuracy
_SECONDS = "seconds"  # key in the header of a model's file, for the time of its training


@dataclass(frozen=True)
class Model:
    """A finished model.

    kind        "victim", "independent" or one of STOLEN
    trained_on  indices int64 of the images that its own training used, with whatever labels. None for "data-free"
    variant     "same recipe", "other recipe" or "other architecture" for an independent model, else empty
    seconds     of its own training, on one core
    """

    kind: str
    module: nn.Module
    arch: str
    trained_on: Indices
    variant: str
    seconds: float


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of a model.

    train      on the images that it was trained on. None: it was trained on none
    private    on the victim's training images
    test       on the public images
    agreement  share of the public images for which it predicts what the victim predicts
    """

    train: float | None
    private: float
    test: float
    agreement: float


@dataclass(frozen=True)
class _Job:
    """A model to be made. `index` says which of the shared models, for which the world's seed does not matter."""

    world: World
    kind: str
    index: int = 0

    @property
    def name(self) -> str:
        """The name of its file. A path to data does not change the model. Another version of pydrift may."""
        setting = self.world.setting
        own = {"data-free": asdict(setting.data_free), "adversarial": [setting.radius, setting.attack_steps]}
        made_from = {
            "source": self.world.source.partition(":")[0],
            "kind": self.kind,
            "seed": self.seed,
            "arch": self.arch,
            "recipe": asdict(self.recipe),
            "own": own.get(self.kind),
            "images": hashlib.sha256(self.trained_on.tobytes()).hexdigest()[:16],
            "owner": None if self.owner is None else self.owner.name,
            "version": __version__,
        }
        return f"{self.kind}-{digest_of(made_from, 20)}.safetensors"

    @property
    def owner(self) -> "_Job | None":
        """The victim, for a stolen model."""
        return _Job(self.world, "victim") if self.kind in STOLEN else None

    @property
    def variant(self) -> str:
        """The variant of an independent model, else empty."""
        if self.kind != "independent":
            return ""
        return ("same recipe", "other recipe", "other architecture")[self.index % 3]

    @property
    def arch(self) -> str:
        """The architecture."""
        setting = self.world.setting
        if self.variant == "other architecture":
            return setting.others[self.index // 3 % len(setting.others)]
        return {"architecture": setting.others[0], "distillation": setting.student}.get(self.kind, setting.arch)

    @property
    def recipe(self) -> TrainingRecipe:
        recipe = self.world.setting.recipe
        if self.variant == "other recipe":
            return recipe.varied(self.index, self.world.size)
        if self.kind == "distillation":  # a narrow network needs longer
            return replace(recipe, epochs=2 * recipe.epochs_for(self.world.size))
        return recipe.continued(len(self.trained_on)) if self.kind == "fine-tuning" else recipe

    @property
    def trained_on(self) -> Indices:
        world = self.world
        match self.kind:
            case "independent":
                return world.draw(world.independent_pool, self.index)
            case "fine-tuning" | "label-query" | "logit-query":
                return world.surrogate
            case "data-free":
                return np.zeros(0, np.int64)
        return world.private

    @property
    def seed(self) -> int:
        """The seed of initial weights and of the order of images. No two models share it."""
        family = ("victim", "independent", *STOLEN).index(self.kind)
        return 10_000 * family + (self.index if self.kind == "independent" else self.world.seed)


# ---- What the benchmark asks for


def victim(world: World, folder: Path) -> Model:
    """Returns the owner's model, trained on the private images."""
    return _model(_Job(world, "victim"), folder)


def independents(world: World, folder: Path, count: int = INDEPENDENT) -> list[Model]:
    """Returns models that nobody stole, a third of each variant. They are the same for all seeds."""
    return [_model(_Job(world, "independent", i), folder) for i in range(count)]


def suspects(world: World, folder: Path) -> dict[str, Model]:
    """Returns the stolen models by kind, in the order of STOLEN.

    copy          the victim itself
    fine-tuning   the victim, trained further on surrogate images and their true labels
    architecture  another architecture, on the private images and their labels
    distillation  a narrower network, on the private images with the victim's probabilities, for twice the epochs
    label-query   a new network, on surrogate images with the classes that the victim predicts
    logit-query   a new network, on surrogate images with the victim's probabilities
    data-free     a new network, on images that a generator makes (see data_free.py)
    adversarial   a new network, on the private images and their labels, which are attacked at every step. Dataset
                  inference is known to miss such a theft (Szyller et al., "On the Robustness of Dataset Inference",
                  TMLR 2023)
    """
    return {kind: _model(_Job(world, kind), folder) for kind in STOLEN}


def train_all(
    worlds: Sequence[World], folder: Path, workers: int, *, num_independent: int = INDEPENDENT
) -> Iterator[str]:
    """Trains the models that have no file yet, in so many processes of one thread. Yields the names of finished files.

    All worlds have the same source. The functions above train, too, but one model after another.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first = worlds[0]
    shared = [_Job(first, "independent", i) for i in range(num_independent)]
    victims = [_Job(world, "victim") for world in worlds]
    stolen = [_Job(world, kind) for kind in reversed(STOLEN) for world in worlds if kind != "copy"]  # the longest first
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        for jobs in (victims, stolen + shared):
            yield from pool.map(_keep, jobs, [folder] * len(jobs))


def accuracy(world: World, owner: Model, model: Model) -> Accuracy:
    """Measures a model in a world whose victim is `owner`, on the first _TESTED images of each part."""

    def right(indices: Indices, truth: Tensor | None = None) -> float:
        x, y = _some(world, indices[:_TESTED])
        with one_intra_op_thread():
            return float((predict(model.module, x) == (y if truth is None else truth)).double().mean())

    with one_intra_op_thread():
        predicted = predict(owner.module, _some(world, world.public[:_TESTED])[0])
    return Accuracy(
        train=right(model.trained_on) if len(model.trained_on) else None,
        private=right(world.private),
        test=right(world.public),
        agreement=right(world.public, predicted),
    )


# ---- Making one


def _model(job: _Job, folder: Path) -> Model:
    """Returns the model of a job, and trains it where it has no file."""
    if job.kind == "copy":
        return replace(victim(job.world, folder), kind="copy")
    _keep(job, folder)
    file = load_model(folder / job.name)
    return Model(job.kind, file.module, file.arch, job.trained_on, job.variant, float(file.metadata[_SECONDS]))


def _keep(job: _Job, folder: Path) -> str:
    path = folder / job.name
    if not path.exists():
        owner = None if job.owner is None else _model(job.owner, folder).module
        x, y = _some(job.world, job.trained_on)
        with one_intra_op_thread():
            start = time.process_time()
            module = _train_model(job, owner, x, y)
            save_model(path, module, job.arch, {_SECONDS: f"{time.process_time() - start:.1f}"})
    return job.name


def _train_model(job: _Job, owner: nn.Module | None, x: Tensor, y: Tensor) -> nn.Module:
    """Trains the model of a job, from its images with true labels. `owner` is the victim's module."""
    setting, start = job.world.setting, build(job.arch, job.seed)
    if owner is None or job.kind == "architecture":
        return _by_labels(start, x, y, job)
    match job.kind:
        case "fine-tuning":
            return _by_labels(copy.deepcopy(owner).requires_grad_(True), x, y, job)
        case "label-query":
            return _by_labels(start, x, predict(owner, x), job)
        case "distillation" | "logit-query":
            with torch.no_grad():
                p = torch.cat([F.softmax(owner(part), 1) for part in x.split(512)])
            return _by_loss(start, len(x), job, lambda batch: F.cross_entropy(start(_last(x[batch])), p[batch]))
        case "adversarial":

            def attacked(batch: Tensor) -> Tensor:
                images = _attack_images(start, _last(x[batch]), y[batch], setting.radius, setting.attack_steps)
                return F.cross_entropy(start(images), y[batch])

            return _by_loss(start, len(x), job, attacked)
        case "data-free":
            return extract_model(owner, start, job.world.images.input_shape, setting.data_free, job.seed)
    raise AssertionError(job.kind)


def _by_labels(start: nn.Module, x: Tensor, y: Tensor, job: _Job) -> nn.Module:
    every = np.arange(len(x))
    (module,) = train_many([start], x, y, [every], [job.recipe], [job.seed], device=torch.device("cpu"), built_in=True)
    return module


def _by_loss(module: nn.Module, images: int, job: _Job, loss: Callable[[Tensor], Tensor]) -> nn.Module:
    """Trains `module` in place by the job's recipe for Adam, on any loss of a batch of indices."""
    recipe = job.recipe
    module.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=recipe.weight_decay)
    rates = iter(recipe.rates(images).tolist())
    for epoch in range(recipe.epochs_for(images)):
        order, _ = recipe.epoch(job.seed, epoch, images)
        for batch in torch.from_numpy(order).split(recipe.batch_size_for(images)):
            value = loss(batch)
            optimizer.zero_grad()
            value.backward()
            optimizer.param_groups[0]["lr"] = next(rates)
            optimizer.step()
    refuse_divergence(module.parameters())
    return module.eval()


def _attack_images(module: nn.Module, x: Tensor, y: Tensor, radius: float, steps: int) -> Tensor:
    """Looks for images within `radius` of x, in the maximum norm, that the module gets wrong.

    It takes `steps` steps of projected gradient ascent from x (Madry et al., ICLR 2018).
    """
    low, high = (x - radius).clamp(min=0), (x + radius).clamp(max=1)
    found = x
    for _ in range(steps):
        found = found.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(module(found), y), found)
        found = torch.clamp(found + 1.5 * radius / steps * gradient.sign(), low, high)
    return found.detach()


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _some(world: World, indices: Indices) -> tuple[Tensor, Tensor]:
    chosen = torch.from_numpy(indices)
    return world.images.x[chosen], world.images.y[chosen]
