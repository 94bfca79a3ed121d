"""What shadows are made from: an architecture, or a model that they continue."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.tensors import tensors_digest
from pydrift.models.arch import resolve
from pydrift.models.file import load_model
from pydrift.models.intake import AuditedModel, Model, as_audited_model
from pydrift.models.live import copied, frozen_names, in_evaluation, let_learn, unwrapped
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
    return AuditedModel(in_evaluation(module), architecture, "", architecture, None, None)


def fresh_start(initial: Callable[[int], nn.Module], seed: int, like: nn.Module) -> nn.Module:
    """What a factory or the user's `init` makes from the seed, in float32. It says itself what is frozen.

    UsageError where its parameters do not have the names and shapes of those of `like`.
    """
    fresh = unwrapped(initial(seed)).float()
    if state_shapes(fresh) != state_shapes(like):
        raise UsageError("a fresh start (init=, --arch) has parameters of other names or shapes than the base")
    return fresh if frozen_names(fresh) else fresh.requires_grad_(True)


def reinitialise(module: nn.Module, seed: int, frozen: frozenset[str] = frozenset()) -> nn.Module:
    """A copy of `module` with fresh initial weights: a pure function of architecture, seed and frozen parameters.

    Fresh values come from torch's `reset_parameters` of each part, and then from `_init_weights` (transformers, timm)
    or `_reset_parameters` (attention) where a part has it, the outermost last. Parameters named in `frozen` keep their
    values, and so do buffers beside them. UsageError names the first other parameter that none of these sets: shadows
    would go on from the base's values.
    """
    fresh = let_learn(copied(module), frozen)
    kept = _kept(fresh, frozen)
    with torch.no_grad(), seeded(seed):
        for name, parameter in fresh.named_parameters():
            if name not in frozen and parameter.is_floating_point():
                parameter.fill_(torch.nan)  # what is still there afterwards was not set
                vars(parameter).pop("_is_hf_initialized", None)  # transformers leaves out what has this flag
        for part in fresh.modules():
            vars(part).pop("_is_hf_initialized", None)
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
        for part in reversed(list(fresh.modules())):
            _initialise_within(part)
        for tensor, values in kept:
            tensor.copy_(values)
    for name, parameter in fresh.named_parameters():
        if parameter.isnan().any():
            raise UsageError(
                f"the base's parameter {name} keeps its value when the base is reset: no reset_parameters() or "
                "_init_weights() sets it, so shadows cannot start from fresh weights; pass init=, a function "
                "seed -> module with fresh weights, or train=, a function (x, y, seed) -> trained module"
            )
    return fresh


def _kept(module: nn.Module, frozen: frozenset[str]) -> list[tuple[Tensor, Tensor]]:
    """The frozen parameters and the buffers of parts of which all parameters are frozen, each with its values."""
    kept: list[Tensor] = []
    for prefix, part in module.named_modules():
        own = {f"{prefix}.{name}".lstrip("."): p for name, p in part.named_parameters(recurse=False)}
        kept += [parameter for name, parameter in own.items() if name in frozen]
        if own and own.keys() <= frozen:
            kept += part.buffers(recurse=False)
    return [(tensor, tensor.detach().clone()) for tensor in kept]


def _initialise_within(part: nn.Module) -> None:
    """Calls the part's `_init_weights`, or the `_reset_parameters` of torch's attention.

    It takes a module, or nothing and then goes through the modules itself.
    """
    init = getattr(part, "_init_weights", None) or getattr(part, "_reset_parameters", None)
    if not callable(init):
        return
    try:
        needed = [p for p in inspect.signature(init).parameters.values() if p.default is p.empty]
    except (TypeError, ValueError):  # a callable of another language
        return
    if not needed:
        init()
    elif len(needed) == 1:
        part.apply(init)


def state_shapes(module: nn.Module) -> dict[str, torch.Size]:
    """The shape of each entry of the module's state dict, by name."""
    return {name: tensor.shape for name, tensor in module.state_dict().items()}
