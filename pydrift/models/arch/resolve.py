"""From the text of `--arch` to a function that makes networks, by a built-in spec or the user's own factory."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import nn

from pydrift.core.errors import UsageError
from pydrift.models.arch.libraries import LIBRARIES, library_factory
from pydrift.models.arch.networks import build
from pydrift.models.arch.spec import EXAMPLES, is_spec, parse

_WORDS = {"true": True, "false": False}


def resolve(text: str) -> Callable[[int], nn.Module]:
    """A function from a seed to a new network.

    text  a built-in spec (`mlp:1x28x28:256-128:10`), `package.module:factory`, `timm:NAME`, `torchvision:NAME`, or
          `transformers:DIR`, a folder with a config.json. All but specs take keywords: `?num_classes=10&bias=0`

    A factory is imported here and called for each network. torch's CPU generator is seeded for the call and restored
    after it, so that the weights follow from the seed. Importing runs the module's code: `text` must come from the
    user, never from another person's file. UsageError names the part that failed.
    """
    if is_spec(text):
        return partial(build, parse(text))
    path, _, query = text.partition("?")
    library, _, name = path.partition(":")
    try:
        arguments = _arguments(query)
        factory = library_factory(library, name) if library in LIBRARIES and name else _own_factory(path)
    except UsageError as error:
        raise UsageError(f"architecture '{text}': {error}") from error
    return partial(_call_factory, text, partial(factory, **arguments))


def _arguments(query: str) -> dict[str, Any]:
    """The keyword arguments in `num_classes=10&pretrained=false&act=gelu`: numbers, true, false and texts."""
    arguments: dict[str, Any] = {}
    for pair in query.split("&") if query else ():
        name, equals, value = pair.partition("=")
        if not (name.isidentifier() and equals) or name in arguments:
            raise UsageError(f"after the ? come arguments NAME=VALUE, each once and joined by &, got {pair!r}")
        number = re.fullmatch(r"[-+]?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?", value, re.IGNORECASE | re.ASCII)
        if number is None:
            arguments[name] = _WORDS.get(value.lower(), value)
        else:
            arguments[name] = float(value) if number[1] or number[2] else int(value)
    return arguments


def _own_factory(path: str) -> Callable[..., object]:
    """The function or class that package.module:factory names."""
    module_name, _, factory_name = path.partition(":")
    if not (all(part.isidentifier() for part in module_name.split(".")) and factory_name.isidentifier()):
        raise UsageError(f"neither built in ({', '.join(EXAMPLES)}) nor package.module:factory")
    try:
        module = import_module(module_name)
    except (Exception, SystemExit) as error:
        raise UsageError(f"cannot import {module_name}: {type(error).__name__}: {error}") from error
    factory: Any = getattr(module, factory_name, None)
    if not callable(factory):
        where = getattr(module, "__file__", None) or "built into Python"
        raise UsageError(f"{module_name} ({where}) has no function or class {factory_name}")
    return factory


def resolve_stored(stored: str, given: str | None, where: object) -> Callable[[int], nn.Module]:
    """`resolve` for an architecture that a file names, if it is built in, or else for the one the user gives.

    stored, given  the architecture in the file, and the one that the user names
    where          the file, for the message
    UsageError for a stored architecture that is not built in: a file must not choose code to run.
    """
    if given is None:
        try:
            parse(stored)
        except UsageError as error:
            raise UsageError(
                f"{where}: names the architecture {stored!a}, which is not built in; loading it runs code, "
                "so name it yourself (arch=, --arch)"
            ) from error
    return resolve(given or stored)


def _call_factory(text: str, factory: Callable[[], object], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            module = factory()
        except (Exception, SystemExit) as error:
            raise UsageError(f"architecture '{text}': the factory failed: {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise UsageError(f"architecture '{text}': the factory returned a {type(module).__name__}, not an nn.Module")
    return module
