"""`pydrift doctor`: what this installation can do, and why not more."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Iterator

from pydrift.cli.app import INSTALLATION, app, say


@app.command(rich_help_panel=INSTALLATION)
def doctor() -> None:
    """Say what this installation can do. Where something is missing, say why."""
    for name, finding in examine():
        say(f"{name:<18} {finding}")


def examine() -> Iterator[tuple[str, str]]:
    """(name, finding) pairs in the order in which they are shown."""
    import torch

    from pydrift.ops import native_status
    from pydrift.version import __version__

    yield "pydrift", __version__
    yield "python", platform.python_version()
    yield "torch", f"{torch.__version__}, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        yield "device", f"cuda: {torch.cuda.get_device_name()}"
    else:
        yield "device", "cpu (this torch sees no CUDA device)"
    status = native_status()
    yield "native cpu", "loaded" if status.cpu else "not loaded, plain torch runs instead"
    yield "native cuda", "loaded" if status.cuda else "not loaded"
    for reason in status.reasons:
        yield "why", reason
    yield from ((name, value) for name, value in status.build.items() if name != "version")
    yield "torchvision", _torchvision()


def _torchvision() -> str:
    if importlib.util.find_spec("torchvision") is None:
        return "not installed (pydrift does not need it)"
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        return f"installed but broken beside this torch ({type(error).__name__}); pydrift does not use it"
    return "installed (pydrift does not use it)"
