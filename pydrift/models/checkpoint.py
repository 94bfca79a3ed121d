"""From what people save to one plain state dict: nested checkpoints, prefixes of wrappers, an index of shards.

Everything here works on values that a safe reader has made. Nothing is looked up or called.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.limits import MAX_SHARDS, MAX_TENSORS
from pydrift.core.strict_json import parse_strict_json

_PREFIXES = ("module.", "_orig_mod.", "model.")  # of DistributedDataParallel, torch.compile and Lightning modules
_COUNTER = ".num_batches_tracked"
_HALVES = (torch.float16, torch.bfloat16)
_SHARD = re.compile(r"[\w-][\w.-]{0,199}\.safetensors", re.ASCII)


def pick_state_dict(content: Any, key: str | None) -> Any:
    """The state dict in a checkpoint: the content itself, its one entry that is a state dict, or the entry `key`.

    key  names an entry; dots lead further inside ("ema.state_dict")
    UsageError: no such entry, or several state dicts and no key. The result is not checked further.
    """
    if key is not None:
        return _entry(content, key)
    if not isinstance(content, dict) or any(isinstance(value, Tensor) for value in content.values()):
        return content
    found = [name for name, value in content.items() if isinstance(name, str) and _is_state_dict(value)]
    if len(found) > 1:
        names = ", ".join(ascii(name[:80]) for name in found[:5])
        raise UsageError(f"holds {len(found)} state dicts ({names}); name the one to read (key=, --key)")
    return content[found[0]] if found else content


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, dict) and len(value) > 0 and all(isinstance(part, Tensor) for part in value.values())


def _entry(content: Any, key: str) -> Any:
    if isinstance(content, dict) and key in content:
        return content[key]
    first, dot, rest = key.partition(".")
    if dot and isinstance(content, dict) and first in content:
        return _entry(content[first], rest)
    has = ", ".join(ascii(str(name)[:80]) for name in list(content)[:5]) if isinstance(content, dict) else "no entries"
    raise UsageError(f"has no entry {key!a} (key=, --key); it has {has}")


def without_prefixes(tensors: Mapping[str, Tensor], expected: Collection[str]) -> dict[str, Tensor]:
    """The tensors without the prefixes that wrappers give to all names, where that gives the expected names.

    Else as they are. Counters of BatchNorm (num_batches_tracked) may be absent.
    """
    wanted = _without_counters(expected)
    renamed = dict(tensors)
    while _without_counters(renamed) != wanted:
        shorter = _shorter(renamed)
        if shorter is None or len(shorter) < len(renamed):  # two names became one
            return dict(tensors)
        renamed = shorter
    return renamed


def _shorter(tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    for prefix in _PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    plain = {name.replace("._orig_mod.", "."): tensor for name, tensor in tensors.items()}  # parts that were compiled
    return None if plain.keys() == tensors.keys() else plain


def _without_counters(names: Collection[str]) -> set[str]:
    return {name for name in names if not name.endswith(_COUNTER)}


def upcast(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], torch.dtype | None]:
    """float16 and bfloat16 weights as float32 where that is expected, and which of the two they were, if any."""
    halves = {
        name: tensor.dtype
        for name, tensor in tensors.items()
        if tensor.dtype in _HALVES and name in expected and expected[name].dtype == torch.float32
    }
    cast = {name: tensor.float() if name in halves else tensor for name, tensor in tensors.items()}
    return cast, next(iter(halves.values()), None)


def parse_index(data: bytes) -> dict[str, set[str]]:
    """The names of the tensors in each shard, by a model.safetensors.index.json.

    InputRefused unless shards are plain names of safetensors files, at most MAX_SHARDS.
    """
    content = parse_strict_json(data)
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not (isinstance(names, dict) and names and len(names) <= MAX_TENSORS):
        raise InputRefused("JSON, but no index of safetensors shards, which has a weight_map")
    shards: dict[str, set[str]] = {}
    for name, shard in names.items():
        if not (isinstance(shard, str) and _SHARD.fullmatch(shard)):
            raise InputRefused(f"its weight_map names {str(shard)[:120]!a}, not a safetensors file in the same folder")
        shards.setdefault(shard, set()).add(name)
    if len(shards) > MAX_SHARDS:
        raise InputRefused(f"its weight_map names {len(shards)} files, the limit is {MAX_SHARDS}")
    return dict(sorted(shards.items()))
