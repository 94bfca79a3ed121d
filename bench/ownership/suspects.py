"""The models of the dataset-inference bench: victims, those that were stolen from them, and benign ones.

The ways of theft are those of Maini, Yaghini and Papernot, "Dataset Inference: Ownership Resolution in Machine
Learning" (ICLR 2021), with training that fits small networks. Each model is kept in a file whose name is the hash of
all that made it, so that a killed run goes on.
"""

import copy
import hashlib
import json
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

from bench.ownership.data_free import extracted
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
_TESTED = 2000  # images, for each accuracy
_SECONDS = "seconds"  # what training took; in the header of a model's file


@dataclass(frozen=True)
class Model:
    """A finished model.

    kind        "victim", "independent" or one of STOLEN
    trained_on  indices int64 of the images that its own training used, with whatever labels; none for "data-free"
    variant     of an independent model: "same recipe", "other recipe" or "other architecture"; else empty
    seconds     of one core, that its own training took
    """

    kind: str
    module: nn.Module
    arch: str
    trained_on: Indices
    variant: str
    seconds: float


@dataclass(frozen=True)
class Accuracy:
    """Of a model, by true labels.

    train      on the images that it was trained on; None: on none
    private    on the victim's training images
    test       on the public images
    agreement  with the victim's answers, on the public images
    """

    train: float | None
    private: float
    test: float
    agreement: float


@dataclass(frozen=True)
class _Job:
    """A model to be made: of shared ones `index` says which, and the world's seed does not matter."""

    world: World
    kind: str
    index: int = 0

    @property
    def name(self) -> str:
        """Of its file. A path to data does not change the model; another version of pydrift may."""
        setting = self.world.setting
        own = {"data-free": asdict(setting.data_free), "adversarial": [setting.radius, setting.attack_steps]}
        told = {
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
        return f"{self.kind}-{hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:20]}.safetensors"

    @property
    def owner(self) -> "_Job | None":
        """The victim, whom only thieves ask."""
        return _Job(self.world, "victim") if self.kind in STOLEN else None

    @property
    def variant(self) -> str:
        if self.kind != "independent":
            return ""
        return ("same recipe", "other recipe", "other architecture")[self.index % 3]

    @property
    def arch(self) -> str:
        """What is built for it."""
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
        """Of initial weights and of the order of images: no two models share it."""
        family = ("victim", "independent", *STOLEN).index(self.kind)
        return 10_000 * family + (self.index if self.kind == "independent" else self.world.seed)


# ---- What the bench asks for


def victim(world: World, work: Path) -> Model:
    """The owner's model, trained on the private images."""
    return _model(_Job(world, "victim"), work)


def independents(world: World, work: Path, count: int = INDEPENDENT) -> list[Model]:
    """Models that nobody stole, on draws of the independent pool, a third of each variant. The same for all seeds."""
    return [_model(_Job(world, "independent", i), work) for i in range(count)]


def suspects(world: World, work: Path) -> dict[str, Model]:
    """The stolen models by kind, in the order of STOLEN.

    copy          the victim itself
    fine-tuning   the victim, trained on with surrogate images and their true labels
    architecture  another architecture, on the private images and their labels
    distillation  a narrower network, on the private images with the victim's probabilities, for twice the epochs
    label-query   a new network, on surrogate images with the classes that the victim gives them
    logit-query   a new network, on surrogate images with the victim's probabilities
    data-free     a new network, on images that a generator makes (see _ownership_data_free)
    adversarial   a new network, on the private images and their labels, attacked at every step: not theft of another
                  kind, but where dataset inference is known to miss it (Szyller et al., "On the Robustness of Dataset
                  Inference", TMLR 2023)
    """
    return {kind: _model(_Job(world, kind), work) for kind in STOLEN}


def train_all(
    worlds: Sequence[World], work: Path, workers: int, *, num_independent: int = INDEPENDENT
) -> Iterator[str]:
    """Trains what is not there yet in as many processes, each on one thread; yields the files' names as they are done.

    `worlds` are of one source. The functions above train, too, one model after another.
    """
    work.mkdir(parents=True, exist_ok=True)
    first = worlds[0]
    shared = [_Job(first, "independent", i) for i in range(num_independent)]
    victims = [_Job(world, "victim") for world in worlds]
    stolen = [_Job(world, kind) for kind in reversed(STOLEN) for world in worlds if kind != "copy"]  # long ones first
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        for jobs in (victims, stolen + shared):
            yield from pool.map(_keep, jobs, [work] * len(jobs))


def accuracy(world: World, owner: Model, model: Model) -> Accuracy:
    """What a model gets right in a world whose victim is `owner`, of the first _TESTED images of each kind."""

    def right(indices: Indices, truth: Tensor | None = None) -> float:
        x, y = _some(world, indices[:_TESTED])
        with one_intra_op_thread():
            return float((predict(model.module, x) == (y if truth is None else truth)).double().mean())

    with one_intra_op_thread():
        answers = predict(owner.module, _some(world, world.public[:_TESTED])[0])
    return Accuracy(
        train=right(model.trained_on) if len(model.trained_on) else None,
        private=right(world.private),
        test=right(world.public),
        agreement=right(world.public, answers),
    )


# ---- Making one


def _model(job: _Job, work: Path) -> Model:
    """The model of a job, trained where its file is not there."""
    if job.kind == "copy":
        return replace(victim(job.world, work), kind="copy")
    _keep(job, work)
    file = load_model(work / job.name)
    return Model(job.kind, file.module, file.arch, job.trained_on, job.variant, float(file.metadata[_SECONDS]))


def _keep(job: _Job, work: Path) -> str:
    path = work / job.name
    if not path.exists():
        owner = None if job.owner is None else _model(job.owner, work).module
        x, y = _some(job.world, job.trained_on)
        with one_intra_op_thread():
            start = time.process_time()
            module = _trained(job, owner, x, y)
            save_model(path, module, job.arch, {_SECONDS: f"{time.process_time() - start:.1f}"})
    return job.name


def _trained(job: _Job, owner: nn.Module | None, x: Tensor, y: Tensor) -> nn.Module:
    """A new model for the job, from its images with true labels; `owner` is the victim's module."""
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
                images = _attacked(start, _last(x[batch]), y[batch], setting.radius, setting.attack_steps)
                return F.cross_entropy(start(images), y[batch])

            return _by_loss(start, len(x), job, attacked)
        case "data-free":
            return extracted(owner, start, job.world.images.input_shape, setting.data_free, job.seed)
    raise AssertionError(job.kind)


def _by_labels(start: nn.Module, x: Tensor, y: Tensor, job: _Job) -> nn.Module:
    every = np.arange(len(x))
    (module,) = train_many([start], x, y, [every], [job.recipe], [job.seed], device=torch.device("cpu"), built_in=True)
    return module


def _by_loss(module: nn.Module, images: int, job: _Job, loss: Callable[[Tensor], Tensor]) -> nn.Module:
    """Trains `module` in place by the job's recipe for Adam, but on any loss of a batch of indices."""
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


def _attacked(module: nn.Module, x: Tensor, y: Tensor, radius: float, steps: int) -> Tensor:
    """Images within `radius` of x in the maximum norm that the module gets wrong, if `steps` steps of projected
    gradient ascent find them (Madry et al., ICLR 2018); they begin at x."""
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
