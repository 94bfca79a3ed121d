"""Trains and keeps the models of the drift suite: each in a file whose name is the hash of all that made it."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import torch

from bench.drift.candidates import RECIPE, DataSet, Update
from pydrift.data import LabelledImages, load_data
from pydrift.models.file import load_model
from pydrift.models.recipe import TrainingRecipe
from pydrift.training.train_model import train_model
from pydrift.version import __version__


@dataclass(frozen=True)
class Job:
    """A model to be trained; `init` is the file of the model that it continues from."""

    source: str
    arch: str
    size: int
    seed: int
    recipe: TrainingRecipe
    drift: str | None = None
    init: str | None = None

    def file(self, folder: Path) -> Path:
        # A path to data does not change the model; another version of pydrift may.
        told = asdict(self) | {"source": self.source.partition(":")[0], "version": __version__}
        told["init"] = None if self.init is None else Path(self.init).name
        return folder / f"{hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:20]}.safetensors"


def base_job(data: DataSet, base: int) -> Job:
    return Job(data.source, data.arch, data.size, 100 + base, RECIPE)


def update_job(data: DataSet, mode: str, update: Update, folder: Path) -> Job:
    init = None if mode == "retrain" else str(base_job(data, update.base).file(folder))
    return Job(data.source, data.arch, update.size, update.seed, update.recipe, update.drift, init)


def train_all(jobs: Sequence[Job], folder: Path, workers: int) -> Iterable[Path]:
    """The jobs' files, in order, training those that are not there. Inits must be there."""
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers, get_context("spawn"), _one_thread) as pool:
        yield from pool.map(_train, jobs, [folder] * len(jobs))


def _one_thread() -> None:
    torch.set_num_threads(1)


@cache
def _data(source: str) -> LabelledImages:
    return load_data(source)


def _train(job: Job, folder: Path) -> Path:
    path = job.file(folder)
    if not path.exists():
        init = None if job.init is None else load_model(job.init)
        recipe, data = job.recipe, _data(job.source)
        train_model(job.arch, data, size=job.size, seed=job.seed, recipe=recipe, init=init, drift=job.drift).save(path)
    return path
