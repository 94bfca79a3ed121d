"""What an inversion depends on: nothing but its own arguments, down to the bit; and its jitter is the seeded noise."""

import pytest
import torch
from torch import Tensor

from pydrift.core.noise import Phase, integers, words
from pydrift.ops import native
from tests.ops.test_ascent_update import needs_native
from tests.ops.test_invert import (
    TO_GRADIENT,
    Implementation,
    assert_images_agree,
    devices,
    exact,
    implementations,
    problem,
    random_problem,
    run,
)

STOPPING = {"max_steps": 40, "confidence_threshold": 0.8, "patience": 4}  # at steps all over the range
names = pytest.mark.parametrize("name", ["mlp 17-100", "conv 5x5 stride 2", "two pools", "affine after relu"])


def only(rows: Tensor | slice, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Some restarts of a call or of its outcome."""
    return {name: t if name == "parameters" else t[rows] for name, t in tensors.items()}


def assert_same_bits(result: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for key, value in expected.items():
        torch.testing.assert_close(result[key], value, rtol=0, atol=0, equal_nan=True, msg=f"{key} differs")


# ---- The same bits, always


@needs_native
@devices
@names
def test_order_and_company_do_not_matter(device: str, name: str) -> None:
    tensors, program = problem(name, count=45, num_models=3, device=device)
    options = STOPPING | {"program": program}
    whole = run(tensors, **options)
    assert len(whole["steps"].unique()) > 3
    order = torch.randperm(45, generator=torch.Generator().manual_seed(1))
    assert_same_bits(run(only(order, tensors), **options), only(order, whole))
    for rows in (slice(0, 1), slice(1, 17), slice(17, 45), slice(44, 45)):
        assert_same_bits(run(only(rows, tensors), **options), only(rows, whole))


@needs_native
@devices
@names
def test_models_do_not_meet(device: str, name: str) -> None:
    tensors, program = problem(name, count=20, num_models=3, device=device)
    options = STOPPING | {"program": program}
    whole = run(tensors, **options)
    for model in range(3):
        rows = tensors["model"] == model
        alone = only(rows, tensors) | {"parameters": tensors["parameters"][model : model + 1].clone()}
        alone["model"] = torch.zeros_like(alone["model"])
        assert_same_bits(run(alone, **options), only(rows, whole))


@needs_native
@devices
@pytest.mark.parametrize("name", ["mlp 17-100", "max-pool 3x3"])
def test_a_queue_of_restarts_gives_what_each_alone_gives(device: str, name: str) -> None:
    """More restarts than run at once: a place that one leaves is taken by the next, which starts afresh."""
    tensors, program = problem(name, count=200, device=device)
    options = STOPPING | {"program": program}
    whole = run(tensors, **options)
    assert len(whole["steps"].unique()) > 10
    for n in range(200):
        assert_same_bits(run(only(slice(n, n + 1), tensors), **options), only(slice(n, n + 1), whole))


@needs_native
@names
def test_threads_do_not_matter(name: str) -> None:
    tensors, program = problem(name, count=70)
    options = STOPPING | {"program": program}
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = run(tensors, **options)
        for num_threads in (2, 5):
            torch.set_num_threads(num_threads)
            assert_same_bits(run(tensors, **options), expected)
    finally:
        torch.set_num_threads(before)


@needs_native
@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
@names
def test_variants(monkeypatch: pytest.MonkeyPatch, name: str, optimizer: str) -> None:
    """AVX2 and AVX-512 agree to the bit, scalar code to rounding errors."""
    tensors, program = problem(name, count=37)
    options = {"program": program, "optimizer": optimizer}
    expected = exact(tensors, **options)
    results = {}
    for variant in native.simd_variants():
        monkeypatch.setenv("PYDRIFT_SIMD", variant)
        results[variant] = run(tensors, **options)
        assert_images_agree(results[variant]["x"], expected["x"], 1e-4)
        results[variant, "stopping"] = run(tensors, **(options | STOPPING))
    if "avx512" in results:
        assert_same_bits(results["avx2"], results["avx512"])
        assert_same_bits(results["avx2", "stopping"], results["avx512", "stopping"])


@needs_native
def test_random_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any order, company and, between AVX2 and AVX-512, any variant."""
    for seed in range(60):
        tensors, program = random_problem(seed)
        options = STOPPING | {"program": program, "optimizer": ("adam", "momentum")[seed % 2]}
        whole = run(tensors, **options)
        order = torch.randperm(len(tensors["x"]), generator=torch.Generator().manual_seed(seed))
        assert_same_bits(run(only(order, tensors), **options), only(order, whole))
        assert_same_bits(run(only(order[:1], tensors), **options), only(order[:1], whole))
        if "avx512" in native.simd_variants():
            with monkeypatch.context() as environment:
                environment.setenv("PYDRIFT_SIMD", "avx2")
                assert_same_bits(run(tensors, **options), whole)


@devices
def test_arguments_are_only_read(device: str) -> None:
    tensors, program = problem("batch norm", device=device)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    run(tensors, program=program)
    assert_same_bits(tensors, before)


# ---- Jitter


@devices
@pytest.mark.parametrize("jitter", [0, 1, 3, 40])
@implementations
def test_jitter_is_the_noise_of_its_phase(device: str, jitter: int, implementation: Implementation) -> None:
    """A network that sees one pixel only: each step raises the pixel that the shift has put there."""
    height, width, place, num_steps, seed = 9, 13, (4, 5), 12, 2**64 - 12345
    _, program = problem("mlp no hidden")
    assert program == [6, 0, 351, 10]
    weight = torch.zeros(2, height, width)
    weight[0][place] = 1e-3
    tensors = {
        "x": torch.zeros(24, 1, height, width),
        "parameters": torch.cat([weight.flatten(), torch.zeros(2)])[None],
        "model": torch.zeros(24, dtype=torch.int32),
        "label": torch.arange(24, dtype=torch.int32) % 2,
        "restart": torch.randint(0, 65_536, (24,), generator=torch.Generator().manual_seed(0), dtype=torch.int32),
    }
    tensors["restart"][:4] = torch.tensor([0, 0, 65_535, 65_535])
    bits = words(
        seed,
        Phase.JITTER,
        2,
        label=tensors["label"].numpy()[:, None],
        restart=tensors["restart"].numpy()[:, None],
        step=range(num_steps),
    )
    expected = (torch.tensor(place) - torch.from_numpy(integers(bits, -jitter, jitter))) % torch.tensor([height, width])
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    options = TO_GRADIENT | {"learning_rate": 1.0, "program": [6, 0, height * width, 2], "jitter": jitter, "seed": seed}
    before = tensors["x"]
    for step in range(num_steps):
        after = run(tensors, implementation, **(options | {"max_steps": step + 1}))["x"]
        changed = (after != before).nonzero().cpu()
        assert changed[:, 0].tolist() == list(range(24))
        assert torch.equal(changed[:, 2:], expected[:, step])
        before = after
