"""Trains shadow models: benign models of one architecture, each on its own draw of the reference data."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.progress import Progress, Silent
from pydrift.data import LabelledImages, load_data, take_images
from pydrift.models.classifier import choose_device, exact_arithmetic, freeze
from pydrift.models.file import save_model
from pydrift.models.intake import AuditedModel, Model, check_num_classes
from pydrift.models.recipe import TrainingRecipe
from pydrift.shadows.bank import ShadowBank, WeightStack, template_for
from pydrift.shadows.draw import Draw
from pydrift.shadows.plan import ShadowPlan, arithmetic
from pydrift.shadows.start import planned_start, resolve_start
from pydrift.shadows.tasks import TaskFolder, start_file
from pydrift.shadows.train_block import BlockTrainer, models_per_block
from pydrift.training import Train


def train_shadows(
    model: Model,
    data: Any,
    count: int,
    *,
    update_mode: str = "retrain",
    draw: Draw | None = None,
    recipe: TrainingRecipe | None = None,
    recipes: str = "same",
    train: Train | None = None,
    seed: int = 0,
    arch: str | None = None,
    block: int | None = None,
    resume_dir: str | Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> ShadowBank:
    """Trains `count` benign models of one architecture on draws of `data`: a pure function of its arguments.

    model        the shadows' architecture: a spec ("mlp:1x28x28:256:10"), package.module:factory, a model file or an
                 nn.Module
    data         LabelledImages, (x float32 [N, C, H, W] in [0, 1], y int64 [N]), an iterable of (x, y), or a source
                 such as "fashion-mnist:DIR"
    update_mode  "retrain": from fresh weights; "finetune": from the model's weights, by `recipe.continued`
    draw         which images each shadow sees; default: complementary halves, which need an even `count`
    recipe       default: the recipe in the model's file, else TrainingRecipe()
    recipes      "same": one recipe for all shadows; "varied": each shadow has its own `recipe.varied`
    train        your own training instead of a recipe: (x, y, seed) -> nn.Module of the same architecture
    seed         of draws, initial weights and training, in 0..2**63 - 1
    arch         architecture of a model file that does not name its own
    block        how many models to train side by side and keep together; it changes no result. The default for models
                 that train natively, or of a built-in architecture on the CPU, keeps the device busy: as many as torch
                 has threads on the CPU, and on a GPU as many as fit into 4 GiB with their optimizer's moments, at most
                 64. It is 1 for all others
    resume_dir   a folder of tasks: a killed call goes on from there, and other processes can help (see
                 pydrift.shadows.tasks). None: nothing is kept
    device       "cpu", "cuda" or "cuda:1"; default: a CUDA device if torch sees one
    progress     advanced by one for each shadow; the caller enters and leaves it

    One machine gives the same bits for any number of threads and workers, any `block` and any interruption. UsageError
    and InputRefused name the arguments that do not fit together.
    """
    start = resolve_start(model, update_mode, arch)
    source = _absolute_source(data) if isinstance(data, str) else None
    images = take_images(data)
    where, progress = choose_device(device), progress or Silent()
    settings = _Settings(count, update_mode, draw, recipe, recipes, seed, train)
    plan = _make_plan(start, images, settings, where)
    size = models_per_block(start, plan, images.x, block)
    trainer = BlockTrainer(plan, start, images, train, where)
    progress.phase("training shadows", count)
    with exact_arithmetic():
        if resume_dir is None:
            return _train_in_memory(trainer, size, progress)
        folder = _open_folder(resume_dir, plan, start, size, source)
        _warn_of_differences(folder, block, source)
        resumable = replace(trainer, plan=folder.plan, checkpoint=folder.checkpoint)
        folder.work(resumable, wait=True, advance=progress.advance)
        return folder.bank(start.module)


def plan_shadows(
    folder: str | Path,
    model: Model,
    data: str,
    count: int,
    *,
    update_mode: str = "retrain",
    draw: Draw | None = None,
    recipe: TrainingRecipe | None = None,
    recipes: str = "same",
    seed: int = 0,
    arch: str | None = None,
    block: int | None = None,
    device: str | None = None,
) -> TaskFolder:
    """Makes the folder of tasks in which `train_shadows` of the same arguments would work, and trains nothing."""
    data = _absolute_source(data)
    start, images, where = resolve_start(model, update_mode, arch), load_data(data), choose_device(device)
    if start.architecture is None:
        raise UsageError("shadows of a live module can only be trained by the program that has it: use train_shadows")
    plan = _make_plan(start, images, _Settings(count, update_mode, draw, recipe, recipes, seed, None), where)
    tasks = _open_folder(folder, plan, start, models_per_block(start, plan, images.x, block), data)
    _warn_of_differences(tasks, block, data)
    return tasks


def work_on(
    folder: str | Path,
    *,
    data: str | None = None,
    arch: str | None = None,
    blocks: Sequence[int] | None = None,
    at_most: int | None = None,
    progress: Progress | None = None,
) -> list[int]:
    """Trains blocks of a planned folder that nobody else has trained or is training; returns their numbers.

    data     where the planned data lies on this machine; default: the place named in the plan
    arch     the plan's architecture, to be named if it is not built in, since importing it runs code
    blocks   the numbers of the blocks to train; default: all
    at_most  how many blocks to train

    UsageError where this machine would not give the same bits: other data, another instruction set, another torch.
    """
    tasks, progress = TaskFolder.open(folder), progress or Silent()
    plan = tasks.plan
    if plan.architecture is None or plan.own_training is not None:
        raise UsageError(
            f"{folder}: these shadows are of a live module or use the user's own training, so only the program that "
            "planned them can train them"
        )
    start = planned_start(tasks, arch)
    _check_arithmetic(tasks)
    trainer = BlockTrainer(plan, start, _planned_data(tasks, data), None, plan.device, tasks.checkpoint)
    progress.phase("training shadows", plan.count if blocks is None else sum(len(tasks.numbers(b)) for b in blocks))
    with exact_arithmetic():
        return tasks.work(trainer, blocks=blocks, at_most=at_most, advance=progress.advance)


def collect(folder: str | Path, *, arch: str | None = None) -> ShadowBank:
    """The bank of a finished folder of tasks. `arch` as in `work_on`; TaskFolder.bank says what is refused."""
    tasks = TaskFolder.open(folder)
    return tasks.bank(template_for(tasks.plan, arch, None, tasks.path))


@dataclass(frozen=True)
class _Settings:
    """What the caller asks for; None: a default that depends on the model (see `train_shadows`)."""

    count: int
    update_mode: str
    draw: Draw | None
    recipe: TrainingRecipe | None
    recipes: str
    seed: int
    train: Train | None


def _make_plan(start: AuditedModel, images: LabelledImages, settings: _Settings, device: torch.device) -> ShadowPlan:
    """The plan, with defaults filled in. InputRefused where the model has another number of classes than the data."""
    classes = freeze(start.module, images.input_shape, torch.device("cpu"), start.name).num_classes
    check_num_classes(classes, start.name, images.num_classes, images.source)
    return ShadowPlan.make(
        start,
        images,
        settings.count,
        update_mode=settings.update_mode,
        draw=settings.draw or Draw("halves"),
        seed=settings.seed,
        recipe=settings.recipe or start.recipe or TrainingRecipe(),
        recipes="same" if settings.train else settings.recipes,
        user_train=settings.train,
        device=device,
    )


def _train_in_memory(trainer: BlockTrainer, size: int, progress: Progress) -> ShadowBank:
    """Trains blocks of `size` models one after another and keeps nothing on disk."""
    plan = trainer.plan
    stack, accuracy = WeightStack(trainer.start.module, plan.count), []
    for first in range(0, plan.count, size):
        block = range(first, min(first + size, plan.count))
        for k, (state, unseen) in zip(block, trainer(block), strict=True):
            stack.put(k, state, f"shadow {k}")
            accuracy.append(unseen)
            progress.advance()
    return ShadowBank(plan, plan.members(), tuple(accuracy), stack.weights, stack.template)


def _absolute_source(source: str) -> str:
    """The same source of data with an absolute path, so that it does not depend on the working folder."""
    name, colon, path = source.partition(":")
    return f"{name}:{Path(path).expanduser().absolute()}" if colon else source


def _open_folder(path: str | Path, plan: ShadowPlan, start: AuditedModel, block: int, data: str | None) -> TaskFolder:
    """The folder of tasks of this plan, made if there is none, with blocks of `block` models.

    A folder that was planned with another number of intra-op threads goes on with that number.
    """
    path = Path(path)
    if (path / "plan.json").exists():
        threads = TaskFolder.open(path).plan.arithmetic.get("threads")
        if threads and "threads" in plan.arithmetic:
            plan = replace(plan, arithmetic={**plan.arithmetic, "threads": threads})
    elif plan.update_mode == "finetune" and start.architecture is not None:
        save_model(start_file(path, plan), start.module, start.architecture)
    return TaskFolder.adopt(path, plan, block, data)


def _warn_of_differences(folder: TaskFolder, asked: int | None, data: str | None) -> None:
    """Warns where the folder has blocks of another size than `asked`, or names other data for its workers."""
    if asked not in (None, folder.block):
        warnings.warn(
            f"{folder.path}: keeps its planned blocks of {folder.block}; a block size of {asked} is ignored",
            stacklevel=3,
        )
    if data is not None and data != folder.data:
        warnings.warn(
            f"{folder.path}: its workers still load the images from {folder.data or 'no source'}, not from {data}",
            stacklevel=3,
        )


def _planned_data(tasks: TaskFolder, data: str | None) -> LabelledImages:
    """The plan's data from `data`, or from the place that the plan names. InputRefused where it is other data."""
    source = data or tasks.data
    if source is None:
        raise UsageError(f"{tasks.path}: does not say where its data lies; name it (--data)")
    images = load_data(source)
    if images.sha256 != tasks.plan.data_sha256:
        raise InputRefused(
            f"{source}: not the data of the plan; its SHA-256 is {images.sha256}, and {tasks.path} was planned for "
            f"{tasks.plan.data_sha256}"
        )
    return images


def _check_arithmetic(tasks: TaskFolder) -> None:
    """UsageError where this machine would give other last bits than the one on which the plan was made."""
    there = tasks.plan.arithmetic
    here = arithmetic(choose_device(there["device"]), built_in=True)
    on_cpu = ", or plan with PYDRIFT_SIMD and ATEN_CPU_CAPABILITY set to what all of them have"
    for name in sorted((there.keys() | here.keys()) - {"threads"}):
        if there.get(name) != here.get(name):
            raise UsageError(
                f"{tasks.path}: planned with {name} = {there.get(name)}, but here it is {here.get(name)}, so the last "
                "bits of the weights would differ; use machines like the one it was planned on"
                + (on_cpu if there["device"] == "cpu" else "")
            )
