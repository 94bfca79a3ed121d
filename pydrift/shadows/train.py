"""Trains shadow models: benign models of one architecture, each on its own draw of the reference data."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.noise import Phase, derived_seed
from pydrift.core.parallel import each, intra_op_threads
from pydrift.core.progress import Progress, Silent
from pydrift.core.store import tensors_digest
from pydrift.data import LabelledImages, load_data, take_images
from pydrift.models.arch import resolve
from pydrift.models.classifier import choose_device, exact_arithmetic, freeze
from pydrift.models.file import load_model, save_model
from pydrift.models.intake import AuditedModel, Model, as_audited_model, check_num_classes
from pydrift.models.recipe import TrainingRecipe
from pydrift.shadows.bank import ShadowBank, WeightStack, template_for
from pydrift.shadows.checkpoint import BlockCheckpoint
from pydrift.shadows.draw import Draw
from pydrift.shadows.plan import ShadowPlan, arithmetic
from pydrift.shadows.tasks import TaskFolder, Trained, start_file
from pydrift.training import Train, native_program, predict, seeded, train_many

_GPU_MODELS, _GPU_STATES = 64, 4 << 30  # side by side on a GPU: at most so many, with so many bytes of state


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

    model     what they are like: a spec ("mlp:1x28x28:256:10"), package.module:factory, a model file or an nn.Module
    data      LabelledImages, (x, y), an iterable of (x, y), or a source such as "fashion-mnist:DIR"
    update_mode      "retrain": from scratch; "finetune": from the model's weights, by `recipe.continued`
    draw      which images each one sees; default: complementary halves, for which `count` must be even
    recipe    default: the one recorded in the model's file, else TrainingRecipe()
    recipes   "same": all are trained by it; "varied": each by its own `recipe.varied`
    train     the user's own training instead, (x, y, seed) -> nn.Module of the same architecture
    arch      architecture of a model file that does not name its own
    block     models that are trained side by side and kept together, which changes no result; default: where that can
              be, on the CPU (natively or of a built-in architecture) as many as torch has threads, on a GPU (natively)
              as many as fit 4 GiB with their optimizer's moments, at most 64; else 1
    resume_dir  a folder of tasks, so that a killed call goes on where it was and other processes can help (see
              pydrift.shadows.tasks); None: nothing is kept
    device    default: a CUDA device if torch sees one
    progress  told about each shadow; entering and leaving it is the caller's

    The same bits on one machine for any number of threads and workers, any `block` and any interruption. UsageError and
    InputRefused say what does not fit together.
    """
    start = _start(model, update_mode, arch)
    source = _absolute(data) if isinstance(data, str) else None
    images = take_images(data)
    where, progress = choose_device(device), progress or Silent()
    plan = _plan(start, images, count, update_mode, draw, recipe, recipes, seed, train, where)
    size = _block(start, plan, images.x, block)
    make = partial(_trained, start=start, data=images, user_train=train, device=where)
    progress.phase("training shadows", count)
    with exact_arithmetic():
        if resume_dir is not None:
            folder = _adopt(resume_dir, plan, start, size, source, block)
            folder.work(partial(make, folder.plan, kept=folder.checkpoint), wait=True, advance=progress.advance)
            return folder.bank(start.module)
        stack, accuracy = WeightStack(start.module, count), []
        for first in range(0, count, size):
            some = range(first, min(first + size, count))
            for k, (state, unseen) in zip(some, make(plan, some), strict=True):
                stack.put(k, state, f"shadow {k}")
                accuracy.append(unseen)
                progress.advance()
    return ShadowBank(plan, plan.members(), tuple(accuracy), stack.weights, stack.template)


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
    """Makes the folder of tasks that `train_shadows` of the same arguments would work in, and trains nothing."""
    data = _absolute(data)
    start, images, where = _start(model, update_mode, arch), load_data(data), choose_device(device)
    if start.architecture is None:
        raise UsageError("shadows of a live module can only be trained by the program that has it: train_shadows")
    plan = _plan(start, images, count, update_mode, draw, recipe, recipes, seed, None, where)
    return _adopt(folder, plan, start, _block(start, plan, images.x, block), data, block)


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

    data     where the planned data lies on this machine; default: where it lay when the plan was made
    arch     names the plan's architecture where it is not built in: importing it runs code
    blocks   only these; `at_most` so many

    UsageError where the plan cannot be carried out here to the same bits: other data, another instruction set,
    another torch.
    """
    tasks, progress = TaskFolder.open(folder), progress or Silent()
    plan = tasks.plan
    if plan.architecture is None or plan.own_training is not None:
        raise UsageError(
            f"{folder}: shadows of a live module or by the user's own training; only the program that planned them can "
            "train them"
        )
    start = _planned_start(tasks, arch)
    _check_arithmetic(tasks)
    source = data or tasks.data
    if source is None:
        raise UsageError(f"{folder}: does not say where its data lies; name it (--data)")
    images = load_data(source)
    if images.sha256 != plan.data_sha256:
        raise InputRefused(
            f"{source}: not the data of the plan: its SHA-256 is {images.sha256}, in {folder} it is {plan.data_sha256}"
        )
    make = partial(_trained, plan, start=start, data=images, user_train=None, device=plan.device, kept=tasks.checkpoint)
    progress.phase("training shadows", plan.count if blocks is None else sum(len(tasks.numbers(b)) for b in blocks))
    with exact_arithmetic():
        return tasks.work(make, blocks=blocks, at_most=at_most, advance=progress.advance)


def collect(folder: str | Path, *, arch: str | None = None) -> ShadowBank:
    """The bank of a finished folder of tasks. `arch` as in `work_on`; see TaskFolder.bank for what is refused."""
    tasks = TaskFolder.open(folder)
    return tasks.bank(template_for(tasks.plan, arch, None, tasks.path))


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


def _trained(
    plan: ShadowPlan,
    numbers: Sequence[int],
    *,
    start: AuditedModel,
    data: LabelledImages,
    user_train: Train | None,
    device: torch.device,
    kept: Callable[[Sequence[int]], BlockCheckpoint] | None = None,
) -> list[Trained]:
    """State dict and accuracy of the shadows of these numbers, each a function of the plan and of its own number.

    `kept` gives where their training is to go on from and to be kept as it goes.
    """
    x, y, drawn = data.x, data.y, [plan.drawn(k) for k in numbers]
    seeds = [derived_seed(plan.seed, Phase.SHADOW_TRAIN, k) for k in numbers]
    threads = plan.arithmetic.get("threads")
    with intra_op_threads(int(threads)) if threads else nullcontext():
        if user_train is not None:
            models = [_by_user(user_train, start.module, x[d], y[d], s) for d, s in zip(drawn, seeds, strict=True)]
        else:
            finetune, initial = plan.update_mode == "finetune", start.initial()
            recipes = [plan.recipe_of(k) for k in numbers]
            if finetune:
                recipes = [recipe.continued(len(d)) for recipe, d in zip(recipes, drawn, strict=True)]
            starts = [
                copy.deepcopy(start.module).requires_grad_(True)
                if finetune
                else (initial(s) if initial else reinitialised(start.module, s))
                for s in seeds
            ]
            how: dict[str, Any] = {"device": device, "built_in": start.built_in}
            if kept is not None:
                checkpoint = kept(numbers)
                how |= {"resume": checkpoint.load(), "on_epoch": checkpoint}
            models = train_many(starts, x, y, drawn, recipes, seeds, **how)
        asked = map if threads else each  # `each` gives every model one intra-op thread
        accuracy = asked(lambda i: _unseen_accuracy(models[i], data, drawn[i]), range(len(models)))
        return [(model.state_dict(), unseen) for model, unseen in zip(models, accuracy, strict=True)]


def _by_user(user_train: Train, base: nn.Module, x: Tensor, y: Tensor, seed: int) -> nn.Module:
    with seeded(seed):
        made = user_train(x, y, seed)
    if state_shapes(made) != state_shapes(base):
        raise UsageError("train= returned a model whose parameters are not named and shaped as the base's are")
    return copy.deepcopy(made).cpu().eval()  # the user may train one and the same module again


def state_shapes(module: nn.Module) -> dict[str, torch.Size]:
    """The shape of each entry of the module's state dict, by its name."""
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def _unseen_accuracy(module: nn.Module, data: LabelledImages, drawn: NDArray[np.int64]) -> float | None:
    """Accuracy on about 2,000 of the images that were not drawn, evenly spread: the data may be sorted by class."""
    unseen = np.setdiff1d(np.arange(len(data)), drawn)
    if len(unseen) == 0:
        return None
    unseen = unseen[:: -(-len(unseen) // 2000)]
    return float((predict(module, data.x[unseen]) == data.y[unseen]).float().mean())


def _start(model: Model, update_mode: str, arch: str | None) -> AuditedModel:
    if isinstance(model, str) and ":" in model and not Path(model).exists():
        if update_mode == "finetune":
            raise UsageError(f"finetune continues from a trained model, and {model} is only an architecture")
        return _untrained(model, resolve(model)(0))
    return as_audited_model(model, "model", arch)


def _untrained(architecture: str, module: nn.Module) -> AuditedModel:
    return AuditedModel(module.eval().requires_grad_(False), architecture, "", architecture, None, None)


def _planned_start(tasks: TaskFolder, arch: str | None) -> AuditedModel:
    """What the shadows of a folder are made from. InputRefused where the start model is not the planned one."""
    plan = tasks.plan
    module = template_for(plan, arch, None, tasks.path)
    if plan.update_mode == "retrain":
        return _untrained(plan.architecture or "", module)
    loaded = load_model(tasks.start, plan.architecture)
    if tensors_digest(loaded.module.state_dict()) != plan.start_sha256:
        raise InputRefused(f"{tasks.start}: not the start model of the plan: its weights have another SHA-256")
    return as_audited_model(loaded, tasks.start.name)


def _plan(
    start: AuditedModel,
    images: LabelledImages,
    count: int,
    update_mode: str,
    draw: Draw | None,
    recipe: TrainingRecipe | None,
    recipes: str,
    seed: int,
    user_train: Train | None,
    device: torch.device,
) -> ShadowPlan:
    classes = freeze(start.module, images.input_shape, torch.device("cpu"), start.name).num_classes
    check_num_classes(classes, start.name, images.num_classes, images.source)
    return ShadowPlan.make(
        start,
        images,
        count,
        update_mode=update_mode,
        draw=draw or Draw("halves"),
        seed=seed,
        recipe=recipe or start.recipe or TrainingRecipe(),
        recipes="same" if user_train else recipes,
        user_train=user_train,
        device=device,
    )


def _absolute(source: str) -> str:
    """The same data, whatever the working folder of who reads it."""
    name, colon, path = source.partition(":")
    return f"{name}:{Path(path).absolute()}" if colon else source


def _block(start: AuditedModel, plan: ShadowPlan, x: Tensor, asked: int | None) -> int:
    """As many models as are trained side by side, so that a block keeps the device busy and is soon done."""
    if asked is not None:
        if asked < 1:
            raise UsageError(f"a block needs at least one shadow, got {asked}")
        return asked
    if plan.own_training is not None:
        return 1
    learning, device = copy.deepcopy(start.module).requires_grad_(True), plan.device
    natively = plan.recipe.precision == "float32" and native_program(learning, x, device) is not None
    if device.type == "cpu":
        return torch.get_num_threads() if natively or start.built_in else 1
    states = 3 * sum(parameter.numel() * parameter.element_size() for parameter in learning.parameters())
    return max(1, min(_GPU_MODELS, _GPU_STATES // states)) if natively else 1


def _adopt(
    path: str | Path, plan: ShadowPlan, start: AuditedModel, block: int, data: str | None, asked: int | None
) -> TaskFolder:
    """The folder of the plan. One that was planned with another number of intra-op threads goes on with that.

    Warns where it is cut otherwise than in blocks of `asked`, or names other data for its workers.
    """
    path = Path(path)
    if (path / "plan.json").exists():
        threads = TaskFolder.open(path).plan.arithmetic.get("threads")
        if threads and "threads" in plan.arithmetic:
            plan = replace(plan, arithmetic={**plan.arithmetic, "threads": threads})
    elif plan.update_mode == "finetune" and start.architecture is not None:
        save_model(start_file(path, plan), start.module, start.architecture)
    folder = TaskFolder.adopt(path, plan, block, data)
    if asked not in (None, folder.block):
        warnings.warn(f"{path}: is planned in blocks of {folder.block}, which stay, not of {asked}", stacklevel=3)
    if data is not None and data != folder.data:
        warnings.warn(
            f"{path}: has its workers load the same images from {folder.data or 'no source'}, which stays, not {data}",
            stacklevel=3,
        )
    return folder


def _check_arithmetic(tasks: TaskFolder) -> None:
    there = tasks.plan.arithmetic
    here = arithmetic(choose_device(there["device"]), built_in=True)
    on_cpu = ", or plan it with PYDRIFT_SIMD and ATEN_CPU_CAPABILITY set to what all of them have"
    for name in sorted((there.keys() | here.keys()) - {"threads"}):
        if there.get(name) != here.get(name):
            raise UsageError(
                f"{tasks.path}: planned with {name} = {there.get(name)}, here it is {here.get(name)}: the last bits "
                "of the weights would differ; use machines like the one it was planned on"
                + (on_cpu if there["device"] == "cpu" else "")
            )
