"""What a walk to the decision boundary depends on: nothing but its own arguments, down to the bit."""

import pytest
import torch
from torch import Tensor

from pydrift.ops import native
from tests.ops.test_ascent_update import needs_native
from tests.ops.test_boundary_walks import (
    all_walks,
    assert_agree,
    assert_same_bits,
    both_walks,
    exact,
    implementations,
    of,
    only,
    run,
    task,
)
from tests.ops.test_invert import random_problem

names = pytest.mark.parametrize("name", ["mlp no hidden", "conv 5x5", "normalised input", "batch norm"])


@needs_native
@both_walks
@names
def test_order_and_company_do_not_matter(op: str, name: str) -> None:
    arguments = task(op, name, num_images=4)
    count, whole = len(arguments["model"]), run(op, arguments)
    assert len(whole.steps.unique()) >= 5
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    assert_same_bits(run(op, only(order, arguments)), of(order, whole))
    alone = [slice(n, n + 1) for n in range(0, count, 9)]
    for rows in (slice(0, 17), slice(17, count), *alone):
        assert_same_bits(run(op, only(rows, arguments)), of(rows, whole))


@needs_native
@both_walks
@names
def test_models_do_not_meet(op: str, name: str) -> None:
    arguments = task(op, name, num_models=3)
    whole = run(op, arguments)
    for model in range(3):
        rows = arguments["model"] == model
        alone = only(rows, arguments) | {"parameters": arguments["parameters"][model : model + 1].clone()}
        assert_same_bits(run(op, alone | {"model": torch.zeros_like(alone["model"])}), of(rows, whole))


@needs_native
@both_walks
@names
def test_threads_do_not_matter(op: str, name: str) -> None:
    arguments = task(op, name, num_models=3)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = run(op, arguments)
        for num_threads in (2, 3, 7):
            torch.set_num_threads(num_threads)
            assert_same_bits(run(op, arguments), expected)
    finally:
        torch.set_num_threads(before)


@needs_native
@both_walks
@names
def test_variants(monkeypatch: pytest.MonkeyPatch, op: str, name: str) -> None:
    """AVX2 and AVX-512 agree to the bit, scalar code to rounding errors."""
    arguments = task(op, name)
    expected, results = exact(op, arguments), {}
    for variant in native.simd_variants():
        monkeypatch.setenv("PYDRIFT_SIMD", variant)
        results[variant] = run(op, arguments)
        assert_agree(op, arguments, results[variant], expected)
    if "avx512" in results:
        assert_same_bits(results["avx2"], results["avx512"])


@implementations
@both_walks
def test_arguments_are_only_read(op: str, implementation: str) -> None:
    arguments = task(op, "batch norm", num_images=1)
    before = {key: part.clone() for key, part in arguments.items() if isinstance(part, Tensor)}
    run(op, arguments, implementation)
    assert_same_bits(tuple(arguments[key] for key in before), tuple(before.values()))


@needs_native
@both_walks
def test_random_programs(monkeypatch: pytest.MonkeyPatch, op: str) -> None:
    """Any order, company and, between AVX2 and AVX-512, any variant."""
    for seed in range(40):
        tensors, program = random_problem(seed)
        arguments = all_walks(op, tensors["x"][:5], tensors["parameters"], program)
        whole = run(op, arguments, max_steps=12)
        order = torch.randperm(len(arguments["model"]), generator=torch.Generator().manual_seed(seed))
        for rows in (order, order[:1], order[1:20]):
            assert_same_bits(run(op, only(rows, arguments), max_steps=12), of(rows, whole))
        if "avx512" in native.simd_variants():
            with monkeypatch.context() as environment:
                environment.setenv("PYDRIFT_SIMD", "avx512")
                widest = run(op, arguments, max_steps=12)
                environment.setenv("PYDRIFT_SIMD", "avx2")
                assert_same_bits(run(op, arguments, max_steps=12), widest)
