import io
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as safetensors_save
from torch import nn

from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.files import sha256_bytes, sha256_file
from pydrift.core.tensors import tensors_digest
from pydrift.models import arch
from pydrift.models.file import load_model, read_tensors, save_model

SPEC = "mlp:1x4x4:5:3"
RESAVE = "re-save the weights where the model was made: safetensors.torch.save_file"


def weights() -> dict[str, torch.Tensor]:
    return dict(arch.build(SPEC, seed=1).state_dict())


def torch_bytes(obj: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(obj, buffer, **options)
    return buffer.getvalue()


def rezipped(
    data: bytes,
    change: Callable[[str, bytes], bytes] = lambda _, content: content,
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    """The same archive with some entries changed and all checksums right again."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w", compression) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, change(entry.filename, source.read(entry)))
    return buffer.getvalue()


def with_header(header: bytes, body: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + body


class Command:
    """Unpickling it runs a command that leaves a file behind."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.witness}",)


def refusal(tmp_path: Path, data: bytes) -> str:
    """The message with which `read_tensors` refuses these bytes, without the file name that it must begin with."""
    file = tmp_path / "model"
    file.write_bytes(data)
    with pytest.raises(InputRefused) as error:
        read_tensors(file)
    message = str(error.value)
    assert message.startswith(f"{file}: ")
    return message.removeprefix(f"{file}: ")


# --- what is accepted


@pytest.mark.parametrize("spec", ["mlp:1x4x4:5:3", "convnet:1x8x8:2,3:4:3", "resnet9:3x8x8:4"])
def test_round_trip(tmp_path: Path, spec: str) -> None:
    module = arch.build(spec, seed=1)
    save_model(tmp_path / "m.safetensors", module, spec, {"recipe": "é"})
    loaded = load_model(tmp_path / "m.safetensors")
    assert tensors_digest(loaded.module.state_dict()) == tensors_digest(module.state_dict())
    assert (loaded.arch, loaded.metadata) == (spec, {"recipe": "é"})
    assert loaded.sha256 == sha256_file(tmp_path / "m.safetensors")
    assert not loaded.module.training
    assert not any(parameter.requires_grad for parameter in loaded.module.parameters())


def test_the_same_model_is_the_same_file(tmp_path: Path) -> None:
    metadata = {str(i): "" for i in range(9)}
    save_model(tmp_path / "a", arch.build(SPEC, seed=1), SPEC, metadata)
    save_model(tmp_path / "b", arch.build(SPEC, seed=1), SPEC, dict(reversed(metadata.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_state_dict_is_found_by_its_content_and_needs_an_architecture(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(torch_bytes(weights()))
    file = read_tensors(tmp_path / "m.safetensors")
    assert (file.format, file.metadata) == ("state_dict", {})
    assert file.size_bytes == (tmp_path / "m.safetensors").stat().st_size
    assert tensors_digest(file.tensors) == tensors_digest(weights())
    assert load_model(tmp_path / "m.safetensors", SPEC).arch == SPEC
    with pytest.raises(UsageError, match=r"names no architecture; give one, for example convnet:1x28x28:32,64:128:10$"):
        load_model(tmp_path / "m.safetensors")


def test_tied_parameters_and_foreign_metadata_are_accepted(tmp_path: Path) -> None:
    tied = nn.Parameter(torch.ones(3, 3))
    (tmp_path / "tied.pt").write_bytes(torch_bytes({"a": tied, "b": tied}))
    assert set(read_tensors(tmp_path / "tied.pt").tensors) == {"a", "b"}
    (tmp_path / "m").write_bytes(safetensors_save(weights(), {"format": "pt", "pydrift.arch": SPEC}))
    assert load_model(tmp_path / "m").metadata == {}


def test_a_factory_of_the_user_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_for_test.py").write_text("import torch\ndef net(): return torch.nn.Linear(2, 3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    save_model(tmp_path / "m", nn.Linear(2, 3), "mine_for_test:net")
    assert isinstance(load_model(tmp_path / "m", "mine_for_test:net").module, nn.Linear)


def test_the_expected_hash_is_compared(tmp_path: Path) -> None:
    save_model(tmp_path / "m", arch.build(SPEC, seed=1), SPEC)
    found = sha256_file(tmp_path / "m")
    load_model(tmp_path / "m", expect_sha256=found.upper())
    with pytest.raises(InputRefused, match=f"m: its SHA-256 is {found}, expected {'0' * 64}$"):
        load_model(tmp_path / "m", expect_sha256="0" * 64)


# --- what can run code


def test_pickles_do_not_run(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    os_name = os.system.__module__
    hostile = {"w": torch.ones(2), "x": Command(witness)}
    expected = f"holds pickled Python objects ({os_name}.system), and loading those can run any code; {RESAVE}"
    assert refusal(tmp_path, torch_bytes(hostile)).startswith(expected)
    bare = f"a bare pickle (or a file of torch before 1.6), and loading it can run any code; {RESAVE}"
    assert refusal(tmp_path, pickle.dumps(hostile["x"])).startswith(bare)
    assert refusal(tmp_path, torch_bytes(weights(), _use_new_zipfile_serialization=False)).startswith(bare)
    assert not witness.exists()
    with zipfile.ZipFile(io.BytesIO(torch_bytes(hostile))) as archive:  # the file was a live one
        pickle.loads(pickle.dumps(hostile["x"]))
        assert b"system" in archive.read("archive/data.pkl")
    assert witness.exists()


def test_modules_and_programs_are_refused_with_the_way_out(tmp_path: Path) -> None:
    module, example = nn.Linear(3, 2), torch.ones(1, 3)
    assert refusal(tmp_path, torch_bytes(module)).startswith(
        f"holds pickled Python objects (torch.nn.modules.linear.Linear), and loading those can run any code; {RESAVE}"
    )
    script = io.BytesIO()
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.save(torch.jit.trace(module, example), script)
    assert refusal(tmp_path, script.getvalue()).startswith(
        f"a TorchScript archive, which is a program: loading it can run any code; {RESAVE}"
    )
    exported = io.BytesIO()
    torch.export.save(torch.export.export(module, (example,)), exported)
    assert refusal(tmp_path, exported.getvalue()).startswith(
        f"a .pt2 archive, which is a program: loading it can run any code; {RESAVE}"
    )


def test_a_file_cannot_choose_code_to_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hostile_for_test.py").write_text(f"open({str(tmp_path / 'witness')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    save_model(tmp_path / "m", arch.build(SPEC, seed=1), "hostile_for_test:net")
    with pytest.raises(InputRefused, match=r"a file may not choose code to run, so give the architecture yourself$"):
        load_model(tmp_path / "m")
    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize("spec", ["mlp:1x999x999:99999:10", "convnet:1x8x8:99999,99999:9:9"])
def test_a_file_cannot_choose_a_huge_network(tmp_path: Path, spec: str) -> None:
    save_model(tmp_path / "m", arch.build(SPEC, seed=1), spec)
    with pytest.raises(InputRefused, match=rf"m: architecture '{spec}': \S+ parameters, more than the 268,435,456"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize("spec", ["resnet9:1x99999x99999:2", "convnet:1x2048x2048:200,1,1,1,1,1,1,1,1,1,1:1:2"])
def test_a_file_cannot_choose_huge_feature_maps(tmp_path: Path, spec: str) -> None:
    save_model(tmp_path / "m", nn.Linear(1, 1), spec)
    with pytest.raises(
        InputRefused, match=rf"m: architecture '{spec}': one image needs \S+ bytes for its feature maps"
    ):
        load_model(tmp_path / "m")


def test_shapes_are_compared_before_a_network_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """124 bytes that ask for 2**28 parameters."""
    (tmp_path / "m").write_bytes(safetensors_save({"a": torch.ones(1)}, {"pydrift.arch": "mlp:1x1000x1000:268:2"}))
    monkeypatch.setattr(nn.Module, "to_empty", lambda *_, **__: pytest.fail("made room"))
    with pytest.raises(InputRefused, match=r"does not fit mlp:1x1000x1000:268:2: missing: 'fc1.weight', 'fc1.bias'"):
        load_model(tmp_path / "m")


class Asks:
    """Pickles a call that torch's restricted unpickler makes."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call[0], self.call[1:]


def test_a_state_dict_cannot_ask_for_room_or_time(tmp_path: Path) -> None:
    room = refusal(tmp_path, torch_bytes({"w": torch.ones(2), "x": Asks(bytearray, 3 << 30)}))
    assert room.startswith("holds pickled Python objects (__builtin__.bytearray), and loading those can run any code")
    entry = torch_bytes({"w": torch.ones(2)})
    hash_bomb = rezipped(  # nested pairs as a key: hashing it takes 2**40 steps
        entry, lambda name, old: b"\x80\x02})" + b"2\x86" * 40 + b"K\x01s." if name.endswith("data.pkl") else old
    )
    assert "it has the opcode DUP" in refusal(tmp_path, hash_bomb)
    memo = b"\x80\x02})" + b"q\x00h\x00\x86" * 40 + b"K\x01s."
    assert "a key in it is neither a text nor a number" in refusal(
        tmp_path, rezipped(entry, lambda name, old: memo if name.endswith("data.pkl") else old)
    )


# --- files that are not what they seem


def test_only_regular_files_of_a_sane_size(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "."):
        with pytest.raises(InputRefused, match=r": not a regular file$"):
            read_tensors(tmp_path / name)
    with pytest.raises(InputRefused, match=r"status: changed while it was being read$"):
        read_tensors("/proc/self/status")  # claims 0 bytes and has more
    with pytest.raises(UsageError, match=r"missing: no such file$"):
        read_tensors(tmp_path / "missing")
    (tmp_path / "m").write_bytes(b"x" * 101)
    with pytest.raises(InputRefused, match=r"m: 101 bytes, the limit is 100$"):
        read_tensors(tmp_path / "m", max_bytes=100)


@pytest.mark.parametrize("data", [b"\0", b"PK", b"hello world, this is no model"])
def test_other_formats(tmp_path: Path, data: bytes) -> None:
    assert refusal(tmp_path, data).startswith(f"neither safetensors nor a state dict; {RESAVE}")


# --- hostile safetensors


def test_safetensors_headers(tmp_path: Path) -> None:
    good = safetensors_save(weights())
    limit = "the limit is 16777216"
    assert refusal(tmp_path, (2**63).to_bytes(8, "little") + good[8:]) == (
        f"the safetensors header claims {2**63} bytes, {limit}"
    )
    padded = with_header(b'{"__metadata__":{}}'.ljust((16 << 20) + 8))
    assert refusal(tmp_path, padded) == f"the safetensors header claims {(16 << 20) + 8} bytes, {limit}"
    entry = '"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    twice = with_header(f"{{{entry},{entry}}}".encode(), bytes(4))
    assert "an object has the same key twice" in refusal(tmp_path, twice)
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    many = with_header(json.dumps({str(i): empty for i in range(100_001)}).encode())
    assert refusal(tmp_path, many) == "100001 tensors, the limit is 100000"
    assert "nested too deeply" in refusal(tmp_path, with_header(b'{"a":' * 100_000))


def test_damaged_safetensors(tmp_path: Path) -> None:
    good = safetensors_save(weights())
    for data in (with_header(b'{"__metadata__": 7}'), with_header(b'{"__metadata__":null}'), with_header(b"{}[]")):
        assert re.match(
            "its safetensors header is not an object|damaged or not a model file: ", refusal(tmp_path, data)
        )
    for data in (good[:-1], good + b"\0", good[:100]):
        assert refusal(tmp_path, data).startswith("damaged or not a model file: ")
    overlapping = (
        '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}'
    )
    assert refusal(tmp_path, with_header(overlapping.encode(), bytes(12))).startswith("damaged or not a model file: ")


# --- hostile state dicts


def test_compressed_archives(tmp_path: Path) -> None:
    bomb = rezipped(torch_bytes({"w": torch.zeros(1 << 22)}), compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 100_000
    assert refusal(tmp_path, bomb) == "the archive is compressed, which torch.save never does"


def test_a_directory_of_very_many_entries(tmp_path: Path) -> None:
    data = torch_bytes(weights())
    assert refusal(tmp_path, data + 200_000 * b"PK\x01\x02") == "too many entries in the archive"


def test_entries_that_overlap_or_repeat(tmp_path: Path) -> None:
    good = torch_bytes({"w": torch.zeros(1000)})
    buffer = io.BytesIO(good)
    with zipfile.ZipFile(buffer, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("archive/data.pkl", b"")
    assert refusal(tmp_path, buffer.getvalue()) == "the archive has two entries of the same name"
    buffer = io.BytesIO(good)
    with zipfile.ZipFile(buffer, "a") as archive:  # more names for one large entry
        for i in range(3):
            alias = zipfile.ZipInfo(f"archive/data/9{i}")
            archive.filelist.append(alias)
            archive.NameToInfo[alias.filename] = alias
            original = archive.getinfo("archive/data/0")
            alias.header_offset, alias.CRC = original.header_offset, original.CRC
            alias.file_size = alias.compress_size = original.file_size
        archive._didModify = True
    assert refusal(tmp_path, buffer.getvalue()) == "the archive's entries claim more bytes than the file has"


def test_a_large_pickle(tmp_path: Path) -> None:
    data = rezipped(torch_bytes(weights()), lambda name, old: bytes(1 << 25) if name.endswith(".pkl") else old)
    assert refusal(tmp_path, data) == f"archive/data.pkl has {1 << 25} bytes, the limit is 16777216"


def test_tensors_larger_than_what_is_stored(tmp_path: Path) -> None:
    huge = torch_bytes({"w": torch.zeros(1).expand(10**12)})
    assert len(huge) < 2000
    assert refusal(tmp_path, huge) == "tensor 'w' of shape [1000000000000] is larger than its stored data"
    storage = torch.zeros(1 << 20)
    many = torch_bytes({str(i): storage for i in range(2000)})
    (tmp_path / "many").write_bytes(many)
    with pytest.raises(InputRefused, match=r"the tensors have 8388608000 bytes together, the limit is 4294967296$"):
        read_tensors(tmp_path / "many")


def test_a_flipped_bit_in_the_weights_is_noticed(tmp_path: Path) -> None:
    data = bytearray(torch_bytes({"w": torch.full((64,), 1.5)}))
    position = bytes(data).index(torch.full((64,), 1.5).numpy().tobytes())
    data[position + 9] ^= 1
    assert refusal(tmp_path, bytes(data)).startswith(
        "damaged or not a model file: \"Bad CRC-32 for file 'archive/data/0'\""
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([torch.ones(1)], f"holds a list, not a state dict; {RESAVE}"),
        (torch.ones(1), f"holds a Tensor, not a state dict; {RESAVE}"),
        (
            {"w": torch.ones(1), "epoch": 3},
            "entry 'epoch' is a int, not a tensor; save the state dict alone, without optimizer or epoch, or name",
        ),
        ({0: torch.ones(1)}, "entry '0' is a Tensor, not a tensor"),
        ({"w": torch.eye(2).to_sparse()}, "tensor 'w' is not a dense tensor of a usual dtype"),
        ({"w": torch.ones(2, dtype=torch.complex64)}, "tensor 'w' is not a dense tensor of a usual dtype"),
        ({"w": torch.empty(2, device="meta")}, "tensor 'w' is not a dense tensor of a usual dtype"),
    ],
)
def test_other_contents(tmp_path: Path, content: Any, reason: str) -> None:
    assert refusal(tmp_path, torch_bytes(content)).startswith(reason)


def test_state_dicts_need_a_torch_without_the_known_hole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    assert refusal(tmp_path, torch_bytes(weights())) == (
        "state dicts are read with torch 2.10 or newer only (CVE-2026-24747), this is 2.9.1+cpu; "
        "use safetensors or upgrade torch"
    )


# --- weights that do not fit


@pytest.mark.parametrize("write", [safetensors_save, torch_bytes])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tmp_path: Path, write: Callable[..., bytes], value: float) -> None:
    bad = {"good": torch.ones(2), "layer.weight": torch.tensor([1.0, value, 2.0], dtype=torch.bfloat16)}
    assert refusal(tmp_path, write(bad)) == "tensor 'layer.weight': 1 of 3 values are not finite"


def test_float8_is_no_dtype_of_weights(tmp_path: Path) -> None:
    data = safetensors_save({"w": torch.ones(2).to(torch.float8_e4m3fn)})
    assert refusal(tmp_path, data) == "tensor 'w' is of dtype torch.float8_e4m3fn, which weights do not have"


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    tensors = weights()
    names = list(tensors)
    assert names == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]

    def message(changed: dict[str, torch.Tensor]) -> str:
        (tmp_path / "m").write_bytes(safetensors_save(changed))
        with pytest.raises(InputRefused) as error:
            load_model(tmp_path / "m", SPEC)
        return str(error.value).removeprefix(f"{tmp_path / 'm'}: does not fit {SPEC}: ")

    assert message({f"net.{k}": v for k, v in tensors.items()}) == (
        "missing: 'fc1.weight', 'fc1.bias', 'fc2.weight' and 1 more; "
        "unexpected: 'net.fc1.bias', 'net.fc1.weight', 'net.fc2.bias' and 1 more"
    )
    assert message({**tensors, "fc1.bias": torch.ones(6)}) == "wrong shape: fc1.bias is [6], expected [5]"
    assert message({**tensors, "fc1.bias": torch.ones(5).double()}) == (
        "wrong dtype: fc1.bias is torch.float64, expected torch.float32"
    )


def test_names_from_a_file_cannot_reach_the_terminal_raw(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(safetensors_save({**weights(), "\x1b[31m" + "x" * 500: torch.ones(1)}))
    with pytest.raises(InputRefused, match=r"unexpected: '\\x1b\[31mx{115}'$"):
        load_model(tmp_path / "m", SPEC)


def test_a_network_that_overflows_on_a_zero_image(tmp_path: Path) -> None:
    module = arch.build(SPEC, seed=1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(3e38)
    save_model(tmp_path / "m", module, SPEC)
    with pytest.raises(InputRefused, match=r"m: does not map a zero image to 3 finite logits$"):
        load_model(tmp_path / "m")


# --- mutations


@pytest.mark.parametrize("target", ["safetensors", "archive", "pickle"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, about odd pickle protocols
def test_mutated_files_are_read_or_refused_and_nothing_else(
    tmp_path: Path, mutated: Callable[[bytes, int], bytes], target: str
) -> None:
    good = safetensors_save(weights(), {"pydrift.arch": SPEC}) if target == "safetensors" else torch_bytes(weights())
    header = 8 + int.from_bytes(good[:8], "little")
    arch_given = None if target == "safetensors" else SPEC
    messages, unnamed = [], []
    for seed in range(400):
        if target == "safetensors":
            data = mutated(good[:header], seed) + good[header:]
        elif target == "archive":
            data = mutated(good, seed)
        else:  # behind right checksums, so that torch's unpickler sees it
            data = rezipped(good, lambda name, old, s=seed: mutated(old, s) if name.endswith("data.pkl") else old)
        (tmp_path / "m").write_bytes(data)
        try:
            assert load_model(tmp_path / "m", arch_given).sha256 == sha256_bytes(data)
        except InputRefused as error:
            messages.append(str(error))
        except UsageError as error:
            unnamed.append(str(error))
    assert all("names no architecture" in message for message in unnamed)
    assert len(messages) > 100
    assert max(map(len, messages)) < 900


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "a file of Keras (HDF5)"),
        (bytes(4) + b"TFL3" + bytes(100), "a file of TensorFlow Lite"),
        (b"\x08\x07\x12\x07pytorch\x1a", "an ONNX file"),
        (b"\x93NUMPY\x01\x00", "a file of numpy"),
    ],
)
def test_a_file_of_another_framework_is_named(tmp_path: Path, data: bytes, what: str) -> None:
    assert refusal(tmp_path, data).startswith(f"{what}, and pydrift audits models of PyTorch; ")


def test_a_keras_archive_is_named(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("metadata.json", "config.json", "model.weights.h5"):
            archive.writestr(name, b"{}")
    assert refusal(tmp_path, buffer.getvalue()).startswith("a file of Keras, and pydrift audits models of PyTorch; ")


def test_batch_norms_without_their_counter_are_accepted(tmp_path: Path) -> None:
    state = dict(arch.build("resnet9:1x8x8:2", seed=1).state_dict())
    state = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    (tmp_path / "m").write_bytes(safetensors_save(state))
    loaded = load_model(tmp_path / "m", "resnet9:1x8x8:2").module.state_dict()
    assert int(loaded["prep.bn.num_batches_tracked"]) == 0
    del state["prep.bn.running_mean"]
    (tmp_path / "m").write_bytes(safetensors_save(state))
    with pytest.raises(InputRefused, match=r"missing: 'prep.bn.running_mean'$"):
        load_model(tmp_path / "m", "resnet9:1x8x8:2")
