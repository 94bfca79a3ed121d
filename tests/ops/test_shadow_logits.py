"""Logits of many models: against float64, against what the statistics say, down to the bit, and what is refused."""

import pytest
import torch
from torch import Tensor

from pydrift.ops import native, reference, shadow_logits, shadow_statistics
from tests.ops.test_ascent_update import needs_native
from tests.ops.test_invert import ARCHITECTURES, architectures, problem, random_problem


def task(name: str, count: int, num_models: int) -> tuple[Tensor, Tensor, list[int]]:
    tensors, program = problem(name, count=count, num_models=num_models)
    return tensors["x"], tensors["parameters"], program


def assert_exact(x: Tensor, parameters: Tensor, program: list[int]) -> None:
    result = shadow_logits(x, parameters, program=program)
    expected = reference.shadow_logits(x, parameters.double(), program=program)
    assert result.dtype == torch.float32
    assert result.shape == expected.shape
    difference = (result.double() - expected).norm(dim=(1, 2))
    assert (difference <= 1e-5 * expected.norm(dim=(1, 2))).all()


@architectures
@pytest.mark.parametrize("as_bytes", [False, True])
def test_against_float64(name: str, as_bytes: bool) -> None:
    x, parameters, program = task(name, 37, 2)
    assert_exact((255 * x).byte() if as_bytes else x, parameters, program)


@needs_native
def test_random_programs() -> None:
    for seed in range(80):
        tensors, program = random_problem(seed)
        assert_exact(tensors["x"], tensors["parameters"], program)


@pytest.mark.parametrize("num_models", [0, 1, 3])
@pytest.mark.parametrize("count", [0, 1, 64, 65, 600])
def test_any_number_of_samples_and_models(count: int, num_models: int) -> None:
    x, parameters, program = task("two pools", count, max(num_models, 1))
    result = shadow_logits(x, parameters[:num_models], program=program)
    assert result.shape == (num_models, count, 10)
    for model, numbers in enumerate(parameters[:num_models]):
        torch.testing.assert_close(result[model], reference.logits(x, program, numbers), rtol=1e-4, atol=1e-4)


@needs_native
@pytest.mark.parametrize("name", ["mlp 17-100", "batch norm"])
def test_opcheck(name: str) -> None:
    x, parameters, program = task(name, 5, 2)
    torch.library.opcheck(torch.ops.pydrift.shadow_logits.default, (x, parameters), {"program": program})


@needs_native
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_statistics_are_of_these_logits(name: str) -> None:
    x, parameters, program = task(name, 37, 2)
    logits = shadow_logits(x, parameters, program=program)
    label = torch.arange(37, dtype=torch.int32) % logits.shape[2]
    statistics = shadow_statistics(x, parameters, label, program=program)
    for model, values in enumerate(logits):
        for found, expected in zip(reference.answer_statistics(values, label), statistics, strict=True):
            torch.testing.assert_close(found.to(expected.dtype), expected[model], rtol=1e-6, atol=0)


@needs_native
@pytest.mark.parametrize("name", ["mlp 17-100", "two pools", "conv 3x3 of many channels"])
def test_company_and_threads_do_not_matter(name: str) -> None:
    x, parameters, program = task(name, 300, 3)
    together = shadow_logits(x, parameters, program=program)
    assert torch.equal(shadow_logits(x[17:90], parameters[1:2], program=program)[0], together[1, 17:90])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(shadow_logits(x, parameters, program=program), together)
    finally:
        torch.set_num_threads(before)


@needs_native
@pytest.mark.parametrize("name", ["mlp 17-100", "two pools", "conv 3x3 of many channels"])
def test_variants(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """AVX2 and AVX-512 agree to the bit, scalar code to rounding errors."""
    x, parameters, program = task(name, 37, 2)
    results = {}
    for variant in native.simd_variants():
        monkeypatch.setenv("PYDRIFT_SIMD", variant)
        results[variant] = shadow_logits(x, parameters, program=program)
        torch.testing.assert_close(results[variant], results["scalar"], rtol=1e-4, atol=1e-5)
    if "avx512" in results:
        assert torch.equal(results["avx512"], results["avx2"])


@needs_native
def test_bad_arguments_are_refused() -> None:
    x, parameters, program = task("mlp 17-100", 3, 2)
    for images, numbers, codes, message in (
        (x[0], parameters, program, r"shadow_logits: x must be \[N, C, H, W\]"),
        (x, parameters[:, 1:], program, "shadow_logits: parameters must be"),
        (x, parameters.double(), program, "shadow_logits: parameters must be"),
        (x, parameters, [*program, 9], "shadow_logits: program: layer"),
    ):
        with pytest.raises((ValueError, RuntimeError), match=message):
            shadow_logits(images, numbers, program=codes)


@pytest.mark.parametrize("name", ["x", "parameters"])
def test_requires_grad_is_refused(name: str) -> None:
    x, parameters, program = task("mlp 17-100", 3, 2)
    arguments = {"x": x, "parameters": parameters}
    arguments[name].requires_grad_()
    with pytest.raises(ValueError, match=f"shadow_logits: {name} must not require grad"):
        shadow_logits(**arguments, program=program)
