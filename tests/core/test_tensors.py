"""Tensors as files: their hash, bytes that depend on nothing else, and seals."""

import pytest
import torch

from pydrift.core.files import sha256_bytes
from pydrift.core.tensors import parse_sealed, safetensors_bytes, sealed_bytes, tensors_digest
from tests.core.processes import run_python

TENSORS = {
    "w": torch.tensor([[1.5, -0.0], [float("nan"), 3e38]]),
    "n": torch.tensor(7),
    "none": torch.empty(0, 3, dtype=torch.float64),
    "flag": torch.tensor([True, False]),
}


def test_digest_ignores_order_and_strides_and_sees_everything_else() -> None:
    digest = tensors_digest(TENSORS)
    assert tensors_digest(dict(reversed(TENSORS.items()))) == digest
    assert tensors_digest({**TENSORS, "w": TENSORS["w"].t().contiguous().t()}) == digest
    for other in (
        {**TENSORS, "w": TENSORS["w"].reshape(4)},
        {**TENSORS, "w": TENSORS["w"].view(torch.int32)},
        {**TENSORS, "w": torch.tensor([[1.5, 0.0], [float("nan"), 3e38]])},
        {("v" if name == "w" else name): tensor for name, tensor in TENSORS.items()},
    ):
        assert tensors_digest(other) != digest


@pytest.mark.slow
def test_safetensors_bytes_do_not_depend_on_the_process_or_the_order() -> None:
    code = """
        import hashlib, torch
        from pydrift.core.tensors import safetensors_bytes
        metadata = {str(i): "é" for i in range(9)}
        print(hashlib.sha256(safetensors_bytes({"b": torch.ones(3), "a": torch.zeros(2)}, metadata)).hexdigest())
    """
    metadata = {str(i): "é" for i in reversed(range(9))}
    here = sha256_bytes(safetensors_bytes({"a": torch.zeros(2), "b": torch.ones(3)}, metadata))
    assert run_python(code).stdout.strip() == here


def test_a_sealed_file_comes_back_bit_for_bit() -> None:
    about, tensors = parse_sealed("pydrift.test", sealed_bytes("pydrift.test", {"n": [1, 0.1 + 0.2]}, TENSORS))
    assert about == {"n": [1, 0.1 + 0.2]}
    assert list(tensors) == sorted(TENSORS)
    assert tensors_digest(tensors) == tensors_digest(TENSORS)


def test_a_broken_seal_is_found() -> None:
    data = sealed_bytes("pydrift.test", {"n": 1}, {"w": torch.zeros(3)})
    other = {"w": torch.ones(3)}
    for damaged in (
        data[:-1],
        data[:-1] + b"\x01",
        data.replace(b'\\"n\\": 1', b'\\"n\\": 2'),
        data[: -len(b"\0" * 12)] + safetensors_bytes(other, {})[-12:],
        safetensors_bytes({"w": torch.zeros(3)}, {}),
        b"",
        b"\0" * 8,
        b"\xff" * 64,
    ):
        assert damaged != data
        with pytest.raises(ValueError, match=r"\w"):
            parse_sealed("pydrift.test", damaged)
    with pytest.raises(ValueError, match="not what was written"):
        parse_sealed("pydrift.other", data)
