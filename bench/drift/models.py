"""Trains and keeps the models of the drift suite. The name of a file is the hash of all that made its model."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import torch

from bench.common.digest import digest_of
from bench.drift.candidates import RECIPE, Candidate, DataSet
from pydrift.data import LabelledImages, load_data
from pydrift.models.file import load_model
from pydrift.models.recipe import TrainingRecipe
from pydrift.training.train_model import train_model
from pydrift.version import __version__


@dataclass(frozen=True)
class Job:
    """A model to be trained. `init` is the file of the model that training continues from."""

    source: str
    arch: str
    size: int
    seed: int
    recipe: TrainingRecipe
    drift: str | None = None
    init: str | None = None

    def file(self, folder: Path) -> Path:
        """Returns the file of the model in `folder`."""
        # A path to data does not change the model. Another version of pydrift may.
        made_from = asdict(self) | {"source": self.source.partition(":")[0], "version": __version__}
        made_from["init"] = None if self.init is None else Path(self.init).name
        return folder / f"{digest_of(made_from, 20)}.safetensors"


def base_job(data: DataSet, base: int) -> Job:
    """Returns the job of a base model."""
    return Job(data.source, data.arch, data.size, 100 + base, RECIPE)


def candidate_job(data: DataSet, update_mode: str, candidate: Candidate, folder: Path) -> Job:
    """Returns the job of a candidate. With "finetune" it continues from its base, whose file is in `folder`."""
    init = None if update_mode == "retrain" else str(base_job(data, candidate.base).file(folder))
    return Job(data.source, data.arch, candidate.size, candidate.seed, candidate.recipe, candidate.drift, init)


def train_all(jobs: Sequence[Job], folder: Path, workers: int) -> Iterable[Path]:
    """Trains the models that have no file yet, and yields all files in order. Files to continue from must exist."""
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
