"""Reads models from files that may be hostile, and writes model files.

Two formats are read: safetensors, also in shards with an index, and a state dict saved by `torch.save` (with
`weights_only=True`), alone or within a checkpoint. Everything else (pickled modules, TorchScript, .pt2) can contain a
program and is refused. The file is read into memory once and checked
before any parser sees it. A model file never chooses code to run: it may only name a built-in architecture.
"""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pydrift.core.errors import InputRefused, PydriftError, UsageError
from pydrift.core.files import read_file, sha256_bytes, write_atomic
from pydrift.core.limits import MAX_HEADER, MAX_MODEL, MAX_TENSORS
from pydrift.core.pickles import UnknownName, read_pickle
from pydrift.core.strict_json import parse_strict_json
from pydrift.core.tensors import safetensors_bytes
from pydrift.models import arch as architectures
from pydrift.models.checkpoint import parse_index, pick_state_dict, upcast, without_prefixes
from pydrift.models.live import frozen_names, in_evaluation, unwrapped

PREFIX = "pydrift."

_DTYPES = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),  # buffers such as batch counters
}
# What a pickled state dict may name: its mapping, and what torch makes tensors of.
_STATE_DICT_NAME = re.compile(
    r"collections\.OrderedDict|torch\.(Size|device|nn\.parameter\.Parameter|(storage\.)?\w+Storage"
    r"|(bool|(b?float|u?int|complex|q)\w+)|_utils\._rebuild_\w+|_tensor\._rebuild_from_type_v2|serialization\._get_layout)"
)
_OTHERS = {
    b"\x89HDF\r\n": "Keras (HDF5)",
    b"TFL3": "TensorFlow Lite",
    b"GGUF": "llama.cpp (GGUF)",
    b"\x93NUMPY": "numpy",
    b"\x08\x01\x12": "TensorFlow (a saved model)",
}
_RESAVE = (
    "re-save the weights where the model was made: safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
)


@dataclass(frozen=True)
class ModelFile:
    """The checked content of a model file; `metadata` is from the safetensors header, and empty for a state dict."""

    path: Path
    format: str  # "safetensors" | "state_dict"
    sha256: str
    size_bytes: int
    metadata: dict[str, str]
    tensors: dict[str, Tensor]  # on the CPU, dense, finite


@dataclass(frozen=True)
class LoadedModel:
    """A module in eval mode without gradients; `metadata` is what was given to `save_model`.

    frozen  names of the parameters that the user's factory keeps from learning
    """

    module: nn.Module
    arch: str
    sha256: str
    metadata: dict[str, str]
    frozen: frozenset[str] = frozenset()


def read_tensors(path: str | Path, max_bytes: int = MAX_MODEL, key: str | None = None) -> ModelFile:
    """Reads the tensors of a safetensors file, of an index of shards, or of a state dict saved by `torch.save`.

    The content decides the format, not the name. `key` is the entry of a checkpoint that holds the state dict; a
    checkpoint with one state dict needs none. The SHA-256 of an index is over those of its shards too.

    UsageError: no such file, or no such entry. InputRefused names the file and the reason:
    * it is no regular file, larger than `max_bytes`, damaged or compressed, or of a format that can run code;
    * it has more than 100,000 tensors, or a header over 16 MiB;
    * a tensor is larger than its storage, not finite, or of a dtype that weights do not have;
    * a shard is missing, or its tensors are not those of the index.
    """
    path = Path(path)
    data = read_file(path, max_bytes)
    metadata: dict[str, str] = {}
    try:
        if data[:4] == b"PK\x03\x04":
            kind, tensors = "state_dict", _read_state_dict(data, max_bytes, key)
        elif data[8:9] == b"{":
            kind = "safetensors"
            metadata, tensors = _read_safetensors(data)
        elif data[:1] == b"{":
            return _read_shards(path, data, max_bytes)
        else:
            raise InputRefused(_unknown_format(data))
        for name, tensor in tensors.items():
            _check_values(name, tensor)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    except PydriftError as error:
        raise InputRefused(f"{path}: {error}") from error
    except Exception as error:  # the parsers raise errors of many types, which mean the same to the user
        raise InputRefused(f"{path}: damaged or not a model file: {_quote(error)}") from error
    return ModelFile(path, kind, sha256_bytes(data), len(data), metadata, tensors)


def load_model(
    path: str | Path, arch: str | None = None, expect_sha256: str | None = None, key: str | None = None
) -> LoadedModel:
    """Builds the architecture and loads the file's weights into it.

    arch           a built-in spec, or "package.module:factory", which is imported and called (see `resolve`); default:
                   the built-in spec in the file's metadata
    expect_sha256  of the file, in hex
    key            the entry of a checkpoint that holds the state dict (see `read_tensors`)

    Prefixes that all names have from wrappers (module., _orig_mod., model.) are left out. Weights in float16 or
    bfloat16 become float32, which a warning says.

    InputRefused if the SHA-256 is another one, or if names, shapes or dtypes are not exactly those of the architecture.
    The same if a built-in architecture does not map a zero image to finite logits [1, num_classes]. UsageError: no such
    file, or `arch` names no architecture.
    """
    file = read_tensors(path, key=key)
    if expect_sha256 is not None and file.sha256 != expect_sha256.lower():
        raise InputRefused(f"{path}: its SHA-256 is {file.sha256}, expected {expect_sha256}")
    arch, module = _network(file, arch)
    module = unwrapped(module).float()
    expected = module.state_dict()
    tensors, half = upcast(_with_counters(without_prefixes(file.tensors, expected.keys()), module), expected)
    problems = _mismatches(expected, tensors)
    if problems:
        raise InputRefused(f"{path}: does not fit {arch}: {'; '.join(problems)}")
    if half is not None:
        warnings.warn(f"{path}: its weights are in {half}; they become float32", stacklevel=2)
    # A built-in network is only an outline until here, and takes the tensors of the file for its own.
    outlined = any(tensor.is_meta for tensor in module.state_dict().values())
    module.load_state_dict({name: _own(t) for name, t in tensors.items()}, assign=outlined)
    frozen = frozen_names(module)
    in_evaluation(module)
    _check_zero_image(file.path, module, arch)
    metadata = {key.removeprefix(PREFIX): value for key, value in file.metadata.items() if key.startswith(PREFIX)}
    metadata.pop("arch", None)
    return LoadedModel(module, arch, file.sha256, metadata, frozen)


def save_model(path: str | Path, module: nn.Module, arch: str, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a module's state dict as safetensors, atomically. The bytes are a pure function of the arguments.

    `arch` and each key of `metadata` go into the header with the prefix "pydrift.", which `load_model` removes again.
    """
    entries = {PREFIX + key: value for key, value in {**(metadata or {}), "arch": arch}.items()}
    write_atomic(path, safetensors_bytes(module.state_dict(), entries))


def _read_safetensors(data: bytes) -> tuple[dict[str, str], dict[str, Tensor]]:
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER:
        raise InputRefused(f"the safetensors header claims {length} bytes, the limit is {MAX_HEADER}")
    header = parse_strict_json(data[8 : 8 + length])
    if not isinstance(header, dict) or not isinstance(metadata := header.pop("__metadata__", {}), dict):
        raise InputRefused("its safetensors header is not an object with texts as metadata")
    _check_count(len(header))
    return metadata, dict(sorted(load_safetensors(data).items()))  # the order of its result differs from call to call


def _read_shards(path: Path, index: bytes, max_bytes: int) -> ModelFile:
    """The model of an index: all tensors of its shards, which lie in the same folder."""
    tensors: dict[str, Tensor] = {}
    digests, size = [sha256_bytes(index)], len(index)
    for shard, names in parse_index(index).items():
        if not (path.parent / shard).exists():
            raise InputRefused(f"names the shard {shard}, which is not in its folder; put all shards there")
        part = read_tensors(path.parent / shard, max_bytes - size)
        if part.format != "safetensors" or part.tensors.keys() != names:
            raise InputRefused(f"the shard {shard} does not hold just the tensors that the index names")
        tensors |= part.tensors
        digests.append(part.sha256)
        size += part.size_bytes
    return ModelFile(path, "safetensors", sha256_bytes("".join(digests).encode()), size, {}, tensors)


def _read_state_dict(data: bytes, max_bytes: int, key: str | None) -> dict[str, Tensor]:
    if tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2]) < (2, 10):
        raise InputRefused(
            f"state dicts are read with torch 2.10 or newer only (CVE-2026-24747), this is {torch.__version__}; "
            "use safetensors or upgrade torch"
        )
    tensors = pick_state_dict(torch.load(_copy_checked(data), map_location="cpu", weights_only=True), key)
    if not isinstance(tensors, dict):
        raise InputRefused(f"holds a {type(tensors).__name__}, not a state dict; {_RESAVE}")
    _check_count(len(tensors))
    for name, value in tensors.items():
        if type(name) is not str or type(value) not in (Tensor, nn.Parameter):
            raise InputRefused(
                f"entry {_quote(name)} is a {type(value).__name__}, not a tensor; save the state dict alone, "
                "without optimizer or epoch, or name its entry (key=, --key)"
            )
    return _check_storages({name: value.detach() for name, value in tensors.items()}, max_bytes)


def _copy_checked(data: bytes) -> io.BytesIO:
    """A new archive with the entries of a zip that passed every check, CRC included.

    torch has its own zip reader. It gets our archive, so that the two readers cannot disagree about the content.
    """
    if data.count(b"PK\x01\x02") > 2 * MAX_TENSORS:  # before zipfile makes an object for each entry
        raise InputRefused("too many entries in the archive")
    checked = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(checked, "w") as target:
        entries = source.infolist()
        names = [entry.filename for entry in entries]
        for suffix, kind in (("/constants.pkl", "a TorchScript archive"), ("/archive_format", "a .pt2 archive")):
            if any(name.endswith(suffix) for name in names):
                raise InputRefused(f"{kind}, which is a program: loading it can run any code; {_RESAVE}")
        if {"config.json", "metadata.json", "model.weights.h5"} <= set(names):
            raise InputRefused(f"a file of Keras, and pydrift audits models of PyTorch; convert it, then {_RESAVE}")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise InputRefused("the archive is compressed, which torch.save never does")
        if sum(entry.file_size for entry in entries) > len(data):
            raise InputRefused("the archive's entries claim more bytes than the file has")
        if len(set(names)) != len(names):
            raise InputRefused("the archive has two entries of the same name")
        for entry in entries:
            if entry.filename.endswith("data.pkl") and entry.file_size > MAX_HEADER:
                raise InputRefused(f"{entry.filename} has {entry.file_size} bytes, the limit is {MAX_HEADER}")
            content = source.read(entry)
            if entry.filename.endswith("data.pkl"):
                _check_pickle(content)
            target.writestr(zipfile.ZipInfo(entry.filename), content)
    checked.seek(0)
    return checked


def _check_pickle(content: bytes) -> None:
    """Refuses what no state dict has, before torch reads it: torch would let it make room for any size."""
    try:
        read_pickle(content, lambda name: _STATE_DICT_NAME.fullmatch(name) is not None)
    except UnknownName as error:
        raise InputRefused(
            f"holds pickled Python objects ({error.name[:120]}), and loading those can run any code; {_RESAVE}"
        ) from error


def _check_storages(tensors: dict[str, Tensor], max_bytes: int) -> dict[str, Tensor]:
    """Refuses tensors that are far larger than their file, such as 10^12 elements of stride 0. Reads no element."""
    total = 0
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.dtype not in _DTYPES:
            raise InputRefused(f"tensor {_quote(name)} is not a dense tensor of a usual dtype")
        size = tensor.numel() * tensor.element_size()
        total += size
        if size > tensor.untyped_storage().nbytes():
            raise InputRefused(f"tensor {_quote(name)} of shape {list(tensor.shape)} is larger than its stored data")
    if total > max_bytes:
        raise InputRefused(f"the tensors have {total} bytes together, the limit is {max_bytes}")
    return tensors


def _check_count(count: int) -> None:
    if count > MAX_TENSORS:
        raise InputRefused(f"{count} tensors, the limit is {MAX_TENSORS}")


def _check_values(name: str, tensor: Tensor) -> None:
    if tensor.dtype not in _DTYPES:
        raise InputRefused(f"tensor {_quote(name)} is of dtype {tensor.dtype}, which weights do not have")
    if tensor.is_floating_point() and not (finite := tensor.isfinite()).all():
        bad = tensor.numel() - int(finite.sum())
        raise InputRefused(f"tensor {_quote(name)}: {bad} of {tensor.numel()} values are not finite")


def _with_counters(tensors: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """The tensors, and a zero for each BatchNorm whose counter the file lacks: it counts batches of training only.

    torch before 1.0 and other frameworks do not write it.
    """
    counters = {f"{name}.num_batches_tracked" for name, part in module.named_modules() if isinstance(part, _BatchNorm)}
    expected = module.state_dict().keys()
    return {**{name: torch.tensor(0) for name in counters & expected - tensors.keys()}, **tensors}


def _own(tensor: Tensor) -> Tensor:
    """A contiguous copy that shares its storage with no other tensor of the file."""
    return tensor.clone(memory_format=torch.contiguous_format)


def _network(file: ModelFile, arch: str | None) -> tuple[str, nn.Module]:
    """The architecture's name and a module of it; of a built-in one only the outline."""
    if arch is not None:
        built_in = architectures.is_spec(arch)
        return arch, architectures.outline(arch) if built_in else architectures.resolve(arch)(0)
    named = file.metadata.get(f"{PREFIX}arch")
    if named is None:
        raise UsageError(f"{file.path}: names no architecture; give one, for example convnet:1x28x28:32,64:128:10")
    try:
        return named, architectures.outline(named)
    except UsageError as error:
        if architectures.is_spec(named):
            raise InputRefused(f"{file.path}: {error}") from error
        raise InputRefused(
            f"{file.path}: names an architecture that is not built in ({_quote(error)}); a file may not "
            "choose code to run, so give the architecture yourself"
        ) from error


def _mismatches(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """What differs, as phrases; each names at most three tensors."""
    shared = [name for name in expected if name in found]
    kinds = {
        "missing": [_quote(name) for name in expected if name not in found],
        "unexpected": [_quote(name) for name in found if name not in expected],
        "wrong shape": [
            f"{name} is {list(found[name].shape)}, expected {list(expected[name].shape)}"
            for name in shared
            if found[name].shape != expected[name].shape
        ],
        "wrong dtype": [
            f"{name} is {found[name].dtype}, expected {expected[name].dtype}"
            for name in shared
            if found[name].dtype != expected[name].dtype
        ],
    }
    return [
        f"{kind}: {', '.join(items[:3])}" + (f" and {len(items) - 3} more" if len(items) > 3 else "")
        for kind, items in kinds.items()
        if items
    ]


def _check_zero_image(path: Path, module: nn.Module, arch: str) -> None:
    try:
        spec = architectures.parse(arch)
    except UsageError:
        return  # a user's own factory does not tell its shapes
    with torch.no_grad():
        logits = module(torch.zeros(1, *spec.input_shape))
    if tuple(logits.shape) != (1, spec.num_classes) or not logits.isfinite().all():
        raise InputRefused(f"{path}: does not map a zero image to {spec.num_classes} finite logits")


def _unknown_format(data: bytes) -> str:
    if other := next((name for start, name in _OTHERS.items() if data[:64].find(start) in (0, 4)), None):
        return f"a file of {other}, and pydrift audits models of PyTorch; convert it there, then {_RESAVE}"
    if data[:1] == b"\x08" and any(word in data[:512] for word in (b"pytorch", b"onnx", b"tf2onnx")):
        return f"an ONNX file, and pydrift audits models of PyTorch; {_RESAVE}"
    if data[:1] == b"\x80":
        return f"a bare pickle (or a file of torch before 1.6), and loading it can run any code; {_RESAVE}"
    return f"neither safetensors nor a state dict; {_RESAVE}"


def _quote(value: Any) -> str:
    """Text from a hostile file, short and in quotes."""
    return ascii(str(value)[:120])
