"""Live modules as people have them: compiled, parallel, half frozen, with hooks that their copies share."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from torch import Tensor, nn

from pydrift.core.errors import UsageError

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def in_evaluation(module: nn.Module) -> nn.Module:
    """The module, set to evaluation mode and without gradients. Its `train` may return anything."""
    module.eval()
    module.requires_grad_(False)
    return module


def unwrapped(module: nn.Module) -> nn.Module:
    """The network in a compiled or data-parallel module, which computes the same."""
    while True:
        inner = getattr(module, "_orig_mod", None)  # torch.compile; to name its class would import the compiler
        if inner is None and isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def copied(module: nn.Module) -> nn.Module:
    """A deep copy, compiled parts unwrapped. UsageError where it cannot be made, or would answer by other weights."""
    module = unwrapped(module)
    # What weight_norm and the like have computed is no leaf, which torch does not copy; it is computed again.
    computed = {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    try:
        copy_of = copy.deepcopy(module, computed)
    except Exception as error:  # whatever the user's own classes raise
        raise UsageError(f"{type(module).__name__} cannot be copied: {error}") from error
    for part in list(copy_of.modules()):
        for name, child in list(part.named_children()):
            setattr(part, name, unwrapped(child))
    _refuse_shared(module, copy_of)
    return copy_of


def _refuse_shared(module: nn.Module, copy_of: nn.Module) -> None:
    """UsageError where a copy reads the weights of the original: then shadows would answer by the base's weights."""
    ours = {id(part) for part in module.modules()} | {id(tensor) for tensor in module.parameters()}
    for name, part in copy_of.named_modules():
        for value in _reached(part):
            if id(value) in ours:
                raise UsageError(
                    f"{name or type(part).__name__}: a hook or function of it holds on to the module that it was made "
                    "with, so copies would answer by its weights; write it so that it uses its first argument, the "
                    "module"
                )
    for name, parameter in copy_of.named_parameters():
        if id(parameter) in ours:
            raise UsageError(f"{type(module).__name__} cannot be copied: copies share the parameter {name}")


def _reached(part: nn.Module) -> Iterator[Any]:
    """What the functions among a module's hooks and attributes hold on to; torch does not copy functions."""
    waiting = [hook for kind in _HOOKS for hook in getattr(part, kind).values()] + _functions(vars(part).values())
    while waiting:
        function = waiting.pop()
        if isinstance(function, functools.partial):
            waiting += [function.func, *_functions(function.args)]
            yield from function.args
            yield from function.keywords.values()
        for cell in getattr(function, "__closure__", None) or ():
            with suppress(ValueError):  # an empty cell
                yield cell.cell_contents
                waiting += _functions([cell.cell_contents])
        yield getattr(function, "__self__", None)


def _functions(values: Any) -> list[Any]:
    return [value for value in values if callable(value) and not isinstance(value, nn.Module | type)]


def frozen_names(module: nn.Module) -> frozenset[str]:
    """The parameters that do not learn, where some do: a frozen backbone. Empty where none learns."""
    frozen = frozenset(name for name, parameter in module.named_parameters() if not parameter.requires_grad)
    return frozenset() if len(frozen) == len(list(module.parameters())) else frozen


def let_learn(module: nn.Module, frozen: frozenset[str]) -> nn.Module:
    """The module, with gradients for all parameters but the frozen ones."""
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in frozen and parameter.is_floating_point())
    return module


def label_names(module: nn.Module) -> tuple[str, ...] | None:
    """The names of the classes in `config.id2label` (transformers); None where there are none but LABEL_0, ..."""
    labels = getattr(getattr(module, "config", None), "id2label", None)
    if not isinstance(labels, dict):
        return None
    by_number = {int(key): str(name) for key, name in labels.items() if str(key).isdecimal()}
    names = tuple(by_number[k] for k in sorted(by_number))
    if sorted(by_number) != list(range(len(labels))) or len(set(names)) != len(names):
        return None
    return None if all(name == f"LABEL_{k}" for k, name in enumerate(names)) else names
