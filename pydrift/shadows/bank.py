"""K trained shadow models as one value, and the folder it is kept in."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from pydrift.core.artifact import Format, SealedFolder, decode_fields, encode
from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.files import check_writable, write_atomic
from pydrift.core.limits import MAX_ARTIFACT
from pydrift.core.manifest import is_litter, read_verified
from pydrift.core.run_store import PlanFile
from pydrift.core.strict_json import parse_strict_json, write_json
from pydrift.core.tensors import safetensors_bytes
from pydrift.models.arch import resolve_stored
from pydrift.models.classifier import choose_device, exact_arithmetic, freeze
from pydrift.models.file import PREFIX
from pydrift.models.intake import RECIPE_KEY, TRAIN_SIZE_KEY
from pydrift.models.live import in_evaluation
from pydrift.shadows.plan import ShadowPlan

if TYPE_CHECKING:
    from pydrift.shadows.statistics import Statistics

_DESCRIPTION, _MEMBER, _MODELS = "bank.json", "member.safetensors", "models"
_MODEL_NAME = re.compile(r"[0-9]{5}\.safetensors")
_MODELS_AT_ONCE = 16  # that are made ready to be asked: each of them packs a copy of its weights


@dataclass(frozen=True)
class _Description:
    """bank.json."""

    plan: dict[str, Any]
    accuracy: tuple[float | None, ...]


@dataclass(frozen=True, eq=False)
class ShadowBank(SealedFolder):
    """K trained shadow models of one architecture.

    plan      all that determines them
    member    bool [K, N]: whether shadow k was trained on image i of the data
    accuracy  of each shadow, on up to 2,000 images that it was not trained on; None where it saw all images
    weights   the entries of the models' state dicts, stacked over the models: [K, ...]
    template  a module of the architecture; only its code is used
    """

    plan: ShadowPlan
    member: NDArray[np.bool_]
    accuracy: tuple[float | None, ...]
    weights: dict[str, Tensor]
    template: nn.Module

    format = Format("shadow bank", 3, "Train the shadows again to get one.")
    names = (_DESCRIPTION, _MEMBER, _MODELS)

    def __len__(self) -> int:
        return self.plan.count

    def state(self, k: int) -> dict[str, Tensor]:
        """The state dict of shadow k: rows of `weights`, not copies."""
        return {name: stack[k] for name, stack in self.weights.items()}

    def models(self) -> list[nn.Module]:
        """The K models in eval mode, on the CPU, without gradients. They share the bank's weights: read-only."""
        return [self._model(k) for k in range(len(self))]

    def _model(self, k: int) -> nn.Module:
        module = copy.deepcopy(self.template)
        parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
        # A later copy of the module copies the elements of a parameter, but the whole storage behind a buffer.
        own = {name: row if name in parameters else row.clone() for name, row in self.state(k).items()}
        module.load_state_dict(own, assign=True)
        return in_evaluation(module)

    def statistics(
        self, x: Tensor, y: Tensor, *, chosen: Sequence[int] | None = None, device: str | None = None, **options: Any
    ) -> Statistics:
        """The answers of the models about images x [N, C, H, W] with labels y [N] (see statistics.measure).

        chosen   the numbers of the models; default: all. UsageError where it is empty
        options  of `pydrift.shadows.statistics.measure` (queries, posterior, ...)

        Models are asked 16 at a time, so that memory holds the answers of 16 models beside the result.
        """
        from pydrift.shadows.statistics import Statistics, measure

        where, numbers = choose_device(device), list(range(len(self)) if chosen is None else chosen)

        def parts() -> Iterator[Statistics]:
            for first in range(0, len(numbers), _MODELS_AT_ONCE):
                some = numbers[first : first + _MODELS_AT_ONCE]
                models = [freeze(self._model(k), self.plan.input_shape, where, f"shadow {k}") for k in some]
                yield measure(models, x, y, **options)

        if not numbers:
            raise UsageError("chosen must name at least one shadow, got none")
        with exact_arithmetic():
            return Statistics.join(parts(), len(numbers))

    def _write(self, folder: Path) -> None:
        """bank.json, member.safetensors and a model file per shadow in models/."""
        names = {model_name(k) for k in range(len(self))}
        for old in (folder / _MODELS).glob("*"):
            if old.name not in names:
                old.unlink()
        for k in range(len(self)):
            write_atomic(folder / _MODELS / model_name(k), model_bytes(self.plan, k, self.state(k)))
        write_atomic(folder / _MEMBER, safetensors_bytes(self._member(), {}))
        write_json(folder / _DESCRIPTION, self._document())

    def _document(self) -> dict[str, Any]:
        return encode(_Description(self.plan.to_dict(), self.accuracy))

    def _member(self) -> dict[str, Tensor]:
        return {"member": torch.from_numpy(self.member)}

    def _tensors(self) -> dict[str, Tensor]:
        return {**self._member(), **{f"weights.{name}": stack for name, stack in self.weights.items()}}

    @classmethod
    def check_target(cls, folder: str | Path) -> None:
        """See SealedFolder."""
        check_writable(Path(folder) / _MODELS / model_name(0))
        super().check_target(folder)

    @classmethod
    def _strangers(cls, folder: Path) -> set[str]:
        models = {file.name for file in (folder / _MODELS).glob("*") if not _MODEL_NAME.fullmatch(file.name)}
        return super()._strangers(folder) | {name for name in models if not is_litter(name)}

    @classmethod
    def load(cls, folder: str | Path, arch: str | None = None, base: nn.Module | None = None) -> ShadowBank:
        """Reads a bank, one model after another, and checks every file against the manifest.

        An architecture that is not built in must be named by the caller: as `arch` ("package.module:factory"), or by
        `base`, a module of that architecture. InputRefused for damaged or foreign folders.
        """
        folder = Path(folder)
        if PlanFile.exists(folder):
            raise UsageError(
                f"{folder}: is a folder of tasks, not a bank; collect it first with pydrift shadow collect"
            )
        manifest = cls._verified(folder)
        with cls.format.reading(folder):
            raw = parse_strict_json(read_verified(folder, _DESCRIPTION, manifest))
            description = _Description(**decode_fields(_Description, raw))
            plan, accuracy = ShadowPlan.from_dict(description.plan), description.accuracy
            member = load_safetensors(read_verified(folder, _MEMBER, manifest))["member"].numpy()
            if member.shape != (plan.count, plan.images) or member.dtype != np.bool_ or len(accuracy) != plan.count:
                raise ValueError("its parts do not fit together")
            planned = plan.members()
        if len(wrong := np.flatnonzero((member != planned).any(axis=1))):
            raise InputRefused(f"{folder / _MEMBER}: shadow {wrong[0]} has other members than the plan's draw gives it")
        stack = WeightStack(template_for(plan, arch, base, folder), plan.count)
        for k in range(plan.count):
            name = f"{_MODELS}/{model_name(k)}"
            stack.put(k, read_state(folder, name, manifest), f"{folder / name}")
        return cls(plan, member, accuracy, stack.weights, stack.template)


class WeightStack:
    """The state dicts of K models, stacked entry by entry as they arrive, so that no model is in memory twice."""

    def __init__(self, template: nn.Module, count: int) -> None:
        self.template = in_evaluation(copy.deepcopy(template))
        needed = count * sum(t.numel() * t.element_size() for t in self.template.state_dict().values())
        if needed > MAX_ARTIFACT:
            raise InputRefused(f"{count} models of this architecture need {needed} bytes, the limit is {MAX_ARTIFACT}")
        self.weights = {
            name: torch.empty((count, *tensor.shape), dtype=tensor.dtype)
            for name, tensor in self.template.state_dict().items()
        }

    def put(self, k: int, state: Mapping[str, Tensor], source: str) -> None:
        """Fills row k. InputRefused, which names `source`, if names, shapes or dtypes differ from the template's."""
        found = {name: (tensor.dtype, list(tensor.shape)) for name, tensor in state.items()}
        expected = {name: (stack.dtype, list(stack.shape[1:])) for name, stack in self.weights.items()}
        for name in sorted(found.keys() | expected.keys()):
            if found.get(name) != expected.get(name):
                has, needs = (_describe_entry(entries.get(name)) for entries in (found, expected))
                raise InputRefused(f"{source}: does not fit the architecture: {name!a} is {has}, expected {needs}")
        for name, stack in self.weights.items():
            stack[k] = state[name]


def model_name(k: int) -> str:
    """The name of the file of shadow k, in a bank and in a folder of tasks."""
    return f"{k:05d}.safetensors"


def model_bytes(plan: ShadowPlan, k: int, state: Mapping[str, Tensor]) -> bytes:
    """The file of shadow k: a model file that records its architecture and how it was trained."""
    known = {"arch": plan.architecture, TRAIN_SIZE_KEY: str(len(plan.indices(k)))}
    if plan.own_training is None:
        known[RECIPE_KEY] = plan.recipe_of(k).to_json()
    return safetensors_bytes(state, {PREFIX + key: value for key, value in known.items() if value is not None})


def read_state(folder: Path, name: str, manifest: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict in a listed file. InputRefused where the file changed or is no safetensors file."""
    try:
        return load_safetensors(read_verified(folder, name, manifest))
    except InputRefused:
        raise
    except Exception as error:  # safetensors raises errors of many types
        raise InputRefused(f"{folder / name}: not a safetensors file: {error}") from error


def template_for(plan: ShadowPlan, arch: str | None, base: nn.Module | None, folder: Path) -> nn.Module:
    """A module of the plan's architecture: `base`, or a new one (see ShadowBank.load)."""
    if base is not None:
        return base
    if plan.architecture is None:
        raise UsageError(f"{folder}: its shadows are of a live module; pass base=, a module of the same architecture")
    if arch not in (None, plan.architecture):
        raise UsageError(f"{folder}: its shadows have the architecture {plan.architecture!a}, not {arch!a}")
    return resolve_stored(plan.architecture, arch, folder)(0)


def _describe_entry(entry: tuple[torch.dtype, list[int]] | None) -> str:
    return "missing" if entry is None else f"{entry[0]} {entry[1]}".removeprefix("torch.")
