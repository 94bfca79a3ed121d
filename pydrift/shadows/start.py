"""What shadows are made from: an architecture, or a model that they continue."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn

from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.tensors import tensors_digest
from pydrift.models.arch import resolve
from pydrift.models.file import load_model
from pydrift.models.intake import AuditedModel, Model, as_audited_model
from pydrift.shadows.bank import template_for
from pydrift.shadows.tasks import TaskFolder
from pydrift.training import seeded


def resolve_start(model: Model, update_mode: str, arch: str | None) -> AuditedModel:
    """The model or the architecture that shadows are made from. UsageError where finetune has no trained model."""
    if isinstance(model, str) and ":" in model and not Path(model).exists():
        if update_mode == "finetune":
            raise UsageError(f"finetune continues a trained model, and {model} is only an architecture")
        return _untrained_model(model, resolve(model)(0))
    return as_audited_model(model, "model", arch)


def planned_start(tasks: TaskFolder, arch: str | None) -> AuditedModel:
    """What the shadows of a folder are made from. InputRefused where the start model is not the planned one."""
    plan = tasks.plan
    module = template_for(plan, arch, None, tasks.path)
    if plan.update_mode == "retrain":
        return _untrained_model(plan.architecture or "", module)
    loaded = load_model(tasks.start, plan.architecture)
    if tensors_digest(loaded.module.state_dict()) != plan.start_sha256:
        raise InputRefused(f"{tasks.start}: not the start model of the plan, since its weights have another SHA-256")
    return as_audited_model(loaded, tasks.start.name)


def _untrained_model(architecture: str, module: nn.Module) -> AuditedModel:
    return AuditedModel(module.eval().requires_grad_(False), architecture, "", architecture, None, None)


def reinitialise(module: nn.Module, seed: int) -> nn.Module:
    """A copy of `module` with fresh initial weights: a pure function of architecture and seed.

    Every part that owns parameters must have torch's `reset_parameters`; UsageError names the first part without it.
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
                    "start from fresh weights; pass train=, a function (x, y, seed) -> trained module"
                )
    return fresh


def state_shapes(module: nn.Module) -> dict[str, torch.Size]:
    """The shape of each entry of the module's state dict, by name."""
    return {name: tensor.shape for name, tensor in module.state_dict().items()}
