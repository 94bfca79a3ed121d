"""What computed a result: versions, device and native library, as every report records them."""

from __future__ import annotations

from typing import TypedDict

import torch

from pydrift.ops.native import native_status
from pydrift.version import __version__


class Environment(TypedDict):
    """native says which library computes on the device, e.g. "cpu (avx512)", or why there is none."""

    pydrift: str
    torch: str
    device: str
    native: str


def describe_environment(device: torch.device) -> Environment:
    """The environment of a computation on `device`."""
    return Environment(
        pydrift=__version__,
        torch=str(torch.__version__),
        device=str(device),
        native=native_status().describe(device.type),
    )
