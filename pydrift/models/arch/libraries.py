"""Networks of timm, torchvision and transformers, by name. The libraries are imported when a network is asked for."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from pydrift.core.errors import UsageError


def _timm(library: Any, name: str, arguments: dict[str, Any]) -> object:
    return library.create_model(name, **arguments)


def _torchvision(library: Any, name: str, arguments: dict[str, Any]) -> object:
    return library.models.get_model(name, **arguments)


def _transformers(library: Any, folder: str, arguments: dict[str, Any]) -> object:
    """By the folder's config.json alone: no weights, no download, and no code that the folder names."""
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"{folder} is no folder with a config.json")
    config = library.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **arguments)
    return library.AutoModelForImageClassification.from_config(config, trust_remote_code=False)


LIBRARIES: dict[str, Callable[[Any, str, dict[str, Any]], object]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "transformers": _transformers,
}
"""For each library a function (library, name, keyword arguments) -> network."""


def library_factory(library: str, name: str) -> Callable[..., object]:
    """A factory of the networks that a library has under that name. UsageError: the library cannot be imported."""
    try:
        module = import_module(library)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise UsageError(f"cannot import {library}: {error}") from error
        raise UsageError(f"{library} is not installed; install it beside your torch: pip install {library}") from error
    except Exception as error:
        raise UsageError(f"cannot import {library}: {type(error).__name__}: {error}") from error

    def make(**arguments: Any) -> object:
        return LIBRARIES[library](module, name, arguments)

    return make
