"""Takes in a model to audit, in any form: a file, a loaded file or a live module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.files import sha256_bytes
from pydrift.core.run_store import RunFolder
from pydrift.core.spelling import spell
from pydrift.core.tensors import tensors_digest
from pydrift.models.arch import is_spec, resolve
from pydrift.models.classifier import REPEATABLE, Classifier
from pydrift.models.file import LoadedModel, load_model
from pydrift.models.live import copied, frozen_names, in_evaluation, label_names
from pydrift.models.recipe import TrainingRecipe

_NUM_NOISE = 8  # images that tell whether two models are one function
RECIPE_KEY, TRAIN_SIZE_KEY = "recipe", "train_size"


@dataclass(frozen=True)
class AuditedModel:
    """A model to audit, and what is known about it.

    module        in eval mode, on the CPU, float32, without gradients
    name          of the file, or of the class of a live module
    sha256        of the file; of a live module, over all that it shows (see `_identity`)
    architecture  a spec or package.module:factory; None for a live module, which can only be rebuilt by copying it
    recipe        how it was trained; None if not known
    train_size    how many images it was trained on; None if not known
    path          the absolute path of a file that was given by its path, if it is printable
    frozen        names of the parameters that do not learn; the others do
    fresh         the user's function from a seed to a fresh start of a shadow, if there is one
    class_names   of its classes, where the module tells them
    """

    module: nn.Module
    name: str
    sha256: str
    architecture: str | None
    recipe: TrainingRecipe | None
    train_size: int | None
    path: str | None = None
    frozen: frozenset[str] = frozenset()
    fresh: Callable[[int], nn.Module] | None = None
    class_names: tuple[str, ...] | None = None

    @property
    def built_in(self) -> bool:
        """Whether the architecture is one of pydrift's own."""
        return self.architecture is not None and is_spec(self.architecture)

    def initial(self) -> Callable[[int], nn.Module] | None:
        """A function that makes a freshly initialised model from a seed; None if the architecture is not known."""
        if self.fresh is not None:
            return self.fresh
        return None if self.architecture is None else resolve(self.architecture)


Model = nn.Module | LoadedModel | AuditedModel | str | Path
"""What every audit takes as a model: a live module, a loaded file, a model taken in before, or the path of a file."""


def as_audited_model(model: Model, what: str, arch: str | None = None, key: str | None = None) -> AuditedModel:
    """Takes a model file (safetensors or state dict), the result of `load_model`, or any nn.Module, which is copied.

    what  the name of the model in messages; arch, key: as in `load_model`
    UsageError: no such file, no model, or a module that cannot be copied. InputRefused: a bad file or bad metadata.
    """
    if isinstance(model, AuditedModel):
        return model
    if isinstance(model, str | Path):
        loaded = load_model(model, arch, key=key)
        path = str(Path(model).absolute())
        return replace(_from_file(loaded, Path(model).name), path=path if path.isprintable() else None)
    if isinstance(model, LoadedModel):
        return _from_file(model, what)
    if not isinstance(model, nn.Module):
        raise UsageError(f"{what}: expected an nn.Module or a model file, got {type(model).__name__}")
    try:
        module = copied(model)
    except UsageError as error:
        raise UsageError(f"{what}: {error}") from error
    if getattr(getattr(module, "config", None), "problem_type", None) == "multi_label_classification":
        raise InputRefused(f"{what}: a multi-label model, and each image must have one class")
    frozen, name = frozen_names(module), type(module).__name__
    module = in_evaluation(module.to("cpu", torch.float32))
    sha256 = _identity(module, frozen)
    return AuditedModel(module, name, sha256, None, None, None, frozen=frozen, class_names=label_names(module))


def _identity(module: nn.Module, frozen: frozenset[str]) -> str:
    """SHA-256 over all that a live module shows: classes, printed structure, weights, buffers, attributes, extra state.

    What else its answers depend on, only its answers show (see `refuse_other_answers`).
    """
    tensors: dict[str, torch.Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    words = [repr(module), *sorted(frozen)]
    for name, part in module.named_modules():
        plain = {key: value for key, value in vars(part).items() if not key.startswith("_")}
        if type(part).get_extra_state is not nn.Module.get_extra_state:
            plain["extra state"] = part.get_extra_state()
        tensors |= {f"{name}: {key}": value for key, value in plain.items() if isinstance(value, torch.Tensor)}
        words.append(f"{name} {type(part).__module__}.{type(part).__qualname__} {spell(plain)}")
    return sha256_bytes("\n".join([*words, tensors_digest(tensors)]).encode())


def refuse_other_answers(run: RunFolder, task: str, classifier: Classifier) -> None:
    """UsageError where the finished pieces of a run are of a model that gives fixed noise images other logits.

    task  the name under which the run keeps them
    """
    noise = torch.rand((_NUM_NOISE, *classifier.input_shape), generator=torch.Generator().manual_seed(0))
    found, kept = classifier.logits(noise).cpu(), run.get(task)
    if kept is None:
        run.put(task, {"logits": found})
        return
    known = kept["logits"]
    near = REPEATABLE * float(known.abs().max())
    if found.shape != known.shape or not torch.allclose(found, known, rtol=0, atol=near):
        raise UsageError(
            f"{run.path}: holds the work of another model: its answers to noise differ; choose another folder or "
            "delete this one"
        )


def check_num_classes(found: int, what: str, expected: int, of_what: str, *, of_data: bool = True) -> None:
    """InputRefused unless the model `what` has as many classes as `of_what`: data, or another model."""
    if found == expected:
        return
    hint = ""
    if of_data and found == expected - 1:
        hint = "; labels begin at 0: if the largest one is the number of classes, subtract 1 from all"
    elif of_data and found > expected:
        hint = "; if some classes have no images there, name all of them (class_names)"
    raise InputRefused(f"{what} has {found} classes, but {of_what} has {expected}{hint}")


def _from_file(loaded: LoadedModel, name: str) -> AuditedModel:
    recipe, size = loaded.metadata.get(RECIPE_KEY), loaded.metadata.get(TRAIN_SIZE_KEY)
    if size is not None and not (size.isdecimal() and int(size) > 0):
        raise InputRefused(f"{name}: {TRAIN_SIZE_KEY} in its metadata must be a number of images, got {size!r}")
    try:
        trained = None if recipe is None else TrainingRecipe.from_json(recipe)
    except UsageError as error:
        raise InputRefused(f"{name}: {error}") from error
    return AuditedModel(
        loaded.module,
        name,
        loaded.sha256,
        loaded.arch,
        trained,
        None if size is None else int(size),
        frozen=loaded.frozen,
        class_names=label_names(loaded.module),
    )
