"""Tensors as files: a hash of their content, and safetensors files, plain or sealed with the hash of what they say.

torch and safetensors are imported where they are used: the command line checks files before it loads torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydrift.core.files import sha256_bytes
from pydrift.core.strict_json import parse_strict_json, to_strict_json

if TYPE_CHECKING:
    from torch import Tensor


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names (sorted), dtypes, shapes and bytes; whatever the device, strides and order of the mapping."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file as bytes, a pure function of its arguments.

    `safetensors.torch.save` puts the metadata in an order that changes from call to call, which would give the same
    model another SHA-256 each time it is saved; so its header is written again with sorted keys.
    """
    from safetensors.torch import save

    raw = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, dict(metadata))
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.dumps(json.loads(raw[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the tensors stay aligned to 8 bytes
    return len(header).to_bytes(8, "little") + header + raw[end:]


def content_digest(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over plain JSON values and tensors together."""
    return sha256_bytes(f"{to_strict_json(about)} {tensors_digest(tensors)}".encode())


def sealed_bytes(key: str, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """A safetensors file whose metadata has `about` under `key`, with the digest of all that the file says.

    The seal shows damage and unfinished work. It does not stop anybody who means harm from writing another one.
    """
    sealed = {**about, "sha256": content_digest(about, tensors)}
    return safetensors_bytes(tensors, {key: to_strict_json(sealed)})


def unsealed(key: str, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """`about` of a sealed file, by its metadata and tensors. ValueError where the seal is missing or broken."""
    about = parse_strict_json(metadata.get(key, "null").encode())
    if not isinstance(about, dict) or about.pop("sha256", None) != content_digest(about, tensors):
        raise ValueError("its content is not what was written")
    return about


def parse_sealed(key: str, data: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """`about` and the tensors of `sealed_bytes`. ValueError on all else."""
    from safetensors.torch import load

    try:
        tensors = load(data)
        metadata = parse_strict_json(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
        return unsealed(key, metadata, tensors), dict(sorted(tensors.items()))
    except Exception as error:  # whatever a damaged file makes the parsers say
        raise ValueError(str(error) or type(error).__name__) from error
