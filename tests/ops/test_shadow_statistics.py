"""Statistics of many models: against float64, on extreme logits, down to the bit, and what is refused."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pydrift.ops import Precision, ShadowMoments, ShadowStatistics, native, reference, shadow_moments, shadow_statistics
from tests import signals
from tests.ops.test_ascent_update import needs_native
from tests.ops.test_invert import ARCHITECTURES, architectures, devices, problem, random_problem
from tests.rounded_products import ROUNDED, round_products

Arguments = dict[str, Tensor]
FLOATS = ("margin", "loss", "confidence")
SMALL = ["mlp 17-100", "two pools", "affine after relu", "avg-pool overlapping"]
implementations = pytest.mark.parametrize(
    "ops",
    [(shadow_statistics, shadow_moments), (reference.shadow_statistics, reference.shadow_moments)],
    ids=["op", "reference"],
)


def task(name: str, count: int, num_models: int, device: str = "cpu") -> tuple[Arguments, list[int]]:
    """x, parameters, label and member, and the program."""
    tensors, program = problem(name, count=count, num_models=num_models, device=device)
    return with_members(tensors), program


def with_members(tensors: Arguments) -> Arguments:
    shape = (len(tensors["parameters"]), len(tensors["x"]))
    member = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5
    return {key: tensors[key] for key in ("x", "parameters", "label")} | {"member": member.to(tensors["x"].device)}


def statistics(
    arguments: Arguments, program: list[int], op: Callable[..., tuple[Tensor, ...]] = shadow_statistics
) -> ShadowStatistics:
    return ShadowStatistics(*op(arguments["x"], arguments["parameters"], arguments["label"], program=program))


def moments(
    arguments: Arguments, program: list[int], op: Callable[..., tuple[Tensor, ...]] = shadow_moments
) -> ShadowMoments:
    return ShadowMoments(*op(*arguments.values(), program=program))


def exact(arguments: Arguments) -> Arguments:
    arguments = {key: tensor.cpu() for key, tensor in arguments.items()}
    return arguments | {"parameters": arguments["parameters"].double()}


def assert_same_bits(result: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for one, other in zip(result, expected, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def assert_close(result: ShadowStatistics, expected: ShadowStatistics, size: float | None = None) -> None:
    """By the norm of each model's difference, and at every sample relative to its value and the usual size of a margin;
    both with `size` in place of the values where it is given."""
    for key in FLOATS:
        value, truth = getattr(result, key).cpu(), getattr(expected, key)
        assert value.dtype == torch.float32
        difference, norm = value.double() - truth, truth.norm(dim=1, keepdim=True)
        usual = expected.margin.square().mean(1, keepdim=True).sqrt()
        if size is not None:
            norm, usual = torch.full_like(norm, size * max(1, truth.shape[1]) ** 0.5), torch.full_like(usual, size)
        assert (difference.norm(dim=1, keepdim=True) <= 1e-5 * norm).all(), key
        assert (difference.abs() <= 1e-5 * (truth.abs() + usual)).all(), key
    assert result.prediction.dtype == torch.int32
    # Two logits that differ by rounding errors alone may change places.
    assert (result.prediction.cpu() != expected.prediction).sum() <= 1e-3 * result.prediction.numel()


# ---- Against the reference


def test_reference_is_what_membership_means() -> None:
    arguments, program = task("two pools", 20, 2)
    result = statistics(arguments, program, reference.shadow_statistics)
    for model, parameters in enumerate(arguments["parameters"]):
        logits, label = reference.logits(arguments["x"], program, parameters), arguments["label"].long()
        torch.testing.assert_close(result.margin[model], signals.logit_margin(logits, label))
        torch.testing.assert_close(result.loss[model], signals.loss(logits, label))
        torch.testing.assert_close(result.confidence[model], signals.confidence(logits, label))
        assert result.prediction[model].tolist() == logits.argmax(1).tolist()


@needs_native
@pytest.mark.parametrize("name", ["mlp 17-100", "batch norm"])
def test_opcheck(name: str) -> None:
    arguments, program = task(name, 5, 2)
    of_all = (arguments["x"], arguments["parameters"], arguments["label"])
    options = {"program": program, "precision": "float32"}
    torch.library.opcheck(torch.ops.pydrift.shadow_statistics.default, of_all, options)
    torch.library.opcheck(torch.ops.pydrift.shadow_moments.default, (*of_all, arguments["member"]), options)


@devices
@architectures
def test_against_float64(device: str, name: str) -> None:
    arguments, program = task(name, 37, 2, device)
    expected = statistics(exact(arguments), program, reference.shadow_statistics)
    result = statistics(arguments, program)
    assert_close(result, expected)
    assert_same_bits(moments(arguments, program), welford(result.margin, arguments["member"]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@architectures
@pytest.mark.parametrize("precision", ["3xtf32", "tf32", "bfloat16"])
def test_tensor_cores_against_float64(monkeypatch: pytest.MonkeyPatch, name: str, precision: Precision) -> None:
    arguments, program = task(name, 37, 2, "cuda")
    of_all = (arguments["x"], arguments["parameters"], arguments["label"])
    margin = shadow_statistics(*of_all, program=program, precision=precision).margin.cpu().double()
    if precision in ROUNDED:
        round_products(monkeypatch, ROUNDED[precision])
    expected = statistics(exact(arguments), program, reference.shadow_statistics).margin
    assert (margin - expected).norm() <= 1e-5 * expected.norm()


@needs_native
@devices
def test_random_programs(device: str) -> None:
    """Where the logits nearly cancel, float32 knows a margin as well as it knows these."""
    for seed in range(80):
        tensors, program = random_problem(seed, device)
        arguments = with_members(tensors)
        expected = statistics(exact(arguments), program, reference.shadow_statistics)
        if not expected.margin.isfinite().all():  # one class
            continue
        largest = max(reference.logits(arguments["x"], program, p).abs().max() for p in arguments["parameters"])
        assert_close(statistics(arguments, program), expected, float(largest))


@pytest.mark.parametrize("num_models", [1, 3, 17])
@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 1000])
@pytest.mark.parametrize("name", ["mlp 17-100", "conv 3x3 stride 2"])
def test_any_number_of_samples_and_models(name: str, count: int, num_models: int) -> None:
    arguments, program = task(name, count, num_models)
    result = statistics(arguments, program)
    assert result.margin.shape == (num_models, count)
    assert_close(result, statistics(exact(arguments), program, reference.shadow_statistics))
    assert_same_bits(moments(arguments, program), welford(result.margin, arguments["member"]))


@implementations
def test_no_models(ops: tuple[Callable[..., tuple[Tensor, ...]], ...]) -> None:
    arguments, program = task("mlp 17-100", 5, 1)
    arguments["parameters"], arguments["member"] = arguments["parameters"][:0], arguments["member"][:0]
    assert [tuple(part.shape) for part in statistics(arguments, program, ops[0])] == [(0, 5)] * 4
    assert all(torch.equal(part, torch.zeros(2, 5, dtype=part.dtype)) for part in moments(arguments, program, ops[1]))


@pytest.mark.parametrize("name", ["mlp 17-100", "two pools"])
def test_bytes_are_pixels(name: str) -> None:
    arguments, program = task(name, 70, 2)
    arguments["x"] = (arguments["x"] * 256).to(torch.uint8)
    arguments["x"].view(-1)[:256] = torch.arange(256, dtype=torch.uint8)
    floats = arguments | {"x": arguments["x"].float() / 255}
    assert_same_bits(statistics(arguments, program), statistics(floats, program))
    assert_same_bits(moments(arguments, program), moments(floats, program))


@needs_native
def test_more_models_than_are_packed_together() -> None:
    tensors = {
        "x": torch.rand(9, 1, 28, 28, generator=torch.Generator().manual_seed(0)),
        "parameters": 0.05 * torch.randn(8, 784 * 1300 + 1300 + 13_010, generator=torch.Generator().manual_seed(1)),
        "label": torch.arange(9, dtype=torch.int32),
    }
    arguments, program = with_members(tensors), [6, 0, 784, 1300, 3, 0, 1300, 10]
    result = statistics(arguments, program)
    assert_close(result, statistics(exact(arguments), program, reference.shadow_statistics))
    assert_same_bits(moments(arguments, program), welford(result.margin, arguments["member"]))


# ---- Moments


def welford(margin: Tensor, member: Tensor) -> ShadowMoments:
    """The documented recurrence."""
    count = torch.zeros(2, margin.shape[1], dtype=torch.int32, device=margin.device)
    mean, m2 = torch.zeros_like(count, dtype=torch.float32), torch.zeros_like(count, dtype=torch.float32)
    for phi, is_in in zip(margin, member, strict=True):
        side = torch.stack([~is_in, is_in])
        count += side
        before = phi - mean
        mean = torch.where(side, mean + before / count, mean)
        m2 = torch.where(side, m2 + before * (phi - mean), m2)
    return ShadowMoments(count, mean, m2)


@pytest.mark.parametrize("name", SMALL)
def test_moments_against_two_passes(name: str) -> None:
    arguments, program = task(name, 70, 12)
    margin = statistics(exact(arguments), program, reference.shadow_statistics).margin
    result = moments(arguments, program)
    assert [part.dtype for part in result] == [torch.int32, torch.float32, torch.float32]
    for row, side in enumerate((~arguments["member"], arguments["member"])):
        count = side.sum(0)
        mean = (margin * side).sum(0) / count.clamp(min=1)
        m2 = ((margin - mean) ** 2 * side).sum(0)
        assert torch.equal(result.count[row], count.int())
        assert (result.mean[row].double() - mean).norm() <= 1e-5 * mean.norm()
        assert (result.m2[row].double() - m2).norm() <= 1e-5 * m2.norm()


@implementations
@pytest.mark.parametrize("is_in", [False, True])
def test_one_side_only(ops: tuple[Callable[..., tuple[Tensor, ...]], ...], is_in: bool) -> None:
    arguments, program = task("two pools", 20, 3)
    arguments["member"].fill_(is_in)
    result = moments(arguments, program, ops[1])
    assert result.count[int(is_in)].tolist() == [3] * 20
    for part in result:
        assert torch.equal(part[int(not is_in)], torch.zeros_like(part[0]))


@implementations
def test_one_model_has_no_spread(ops: tuple[Callable[..., tuple[Tensor, ...]], ...]) -> None:
    arguments, program = task("two pools", 20, 1)
    result, margin = moments(arguments, program, ops[1]), statistics(arguments, program, ops[0]).margin
    assert torch.equal(result.mean.sum(0), margin[0])
    assert torch.equal(result.m2, torch.zeros(2, 20))


# ---- Extreme logits: a network without weights, whose logits are the pixels

LOGITS = [
    [0.0, 0.0, 0.0],  # ties
    [2.0, 1.0, 2.0],
    [1.0000001, 1.0, -1e30],  # a margin that almost cancels
    [-200.0, 700.0, 700.0],  # p = 0
    [80.0, 0.0, 1.0],  # 1 - p far below the rounding of p
    [100.0, 0.0, -1.0],  # and a loss that float32 holds as a denormal number
    [1e4, -1e4, 0.0],  # p = 1
    [1e30, 1e30, 1e30],
    [3e38, -3e38, -3e38],  # a margin beyond float32
    [-3e38, 3e38, 1.0],
    [1e-40, 0.0, 0.0],
    [16_777_216.0, 16_777_215.0, 16_777_214.0],
]


@implementations
def test_extreme_logits(ops: tuple[Callable[..., tuple[Tensor, ...]], ...]) -> None:
    logits = torch.tensor([row[-shift:] + row[:-shift] for row in LOGITS for shift in range(3)])
    for label in range(3):
        labels = torch.full((len(logits),), label, dtype=torch.int32)
        wide, others = logits.double(), [k for k in range(3) if k != label]
        margin = -(wide[:, others] - wide[:, [label]]).logsumexp(1)
        expected = (margin, margin.neg().exp().log1p(), margin.sigmoid())
        expected[1][margin < -700] = -margin[margin < -700]
        if ops[0] is reference.shadow_statistics:
            parameters = torch.empty(1, 0, dtype=torch.float64)
            result = ops[0](wide.view(-1, 3, 1, 1), parameters, labels, program=[6])
        else:
            result = ops[0](logits.view(-1, 3, 1, 1), torch.empty(1, 0), labels, program=[6])
        for value, truth in zip(result, expected, strict=False):
            torch.testing.assert_close(value[0].float(), truth.float(), rtol=1e-6, atol=1e-45)
        assert result[3][0].tolist() == logits.argmax(1).tolist()


@implementations
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite(ops: tuple[Callable[..., tuple[Tensor, ...]], ...], bad: float) -> None:
    logits = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    rows, columns = torch.tensor([3, 17, 20, 39]), torch.tensor([0, 1, 2, 3])
    logits[rows, columns] = bad
    logits[20, 3] = math.nan
    label = torch.zeros(40, dtype=torch.int32)
    result = ShadowStatistics(*ops[0](logits.view(-1, 4, 1, 1), torch.empty(1, 0), label, program=[6]))
    for key in FLOATS:
        assert getattr(result, key)[0].isnan().nonzero()[:, 0].tolist() == rows.tolist()
    assert result.prediction[0].tolist() == logits.argmax(1).tolist()


@implementations
def test_one_class(ops: tuple[Callable[..., tuple[Tensor, ...]], ...]) -> None:
    label = torch.zeros(5, dtype=torch.int32)
    result = ShadowStatistics(*ops[0](torch.rand(5, 1, 1, 1), torch.empty(2, 0), label, program=[6]))
    for part, value in zip(result, (math.inf, 0.0, 1.0, 0), strict=True):
        assert torch.equal(part, torch.full_like(part, value))


@needs_native
def test_a_thousand_classes() -> None:
    logits = 4 * torch.randn(70, 1000, generator=torch.Generator().manual_seed(0))
    label = torch.arange(70, dtype=torch.int32)
    margin = shadow_statistics(logits.view(-1, 1000, 1, 1), torch.empty(1, 0), label, program=[6]).margin[0]
    torch.testing.assert_close(margin, signals.logit_margin(logits.double(), label.long()).float(), rtol=1e-6, atol=0)


# ---- The same bits, always


@needs_native
@pytest.mark.parametrize("name", SMALL)
def test_company_does_not_matter(name: str) -> None:
    arguments, program = task(name, 150, 5)
    whole, of_models = statistics(arguments, program), moments(arguments, program)
    order = torch.randperm(150, generator=torch.Generator().manual_seed(1))
    for rows in (order, torch.tensor([149]), torch.arange(16, 17), torch.arange(3, 90)):
        part = arguments | {key: arguments[key][rows] for key in ("x", "label")}
        part["member"] = arguments["member"][:, rows].contiguous()
        assert_same_bits(statistics(part, program), tuple(of_all[:, rows] for of_all in whole))
        assert_same_bits(moments(part, program), tuple(of_all[:, rows] for of_all in of_models))
    for models in (slice(1, 2), slice(2, 5)):
        part = arguments | {"parameters": arguments["parameters"][models]}
        assert_same_bits(statistics(part, program), tuple(of_all[models] for of_all in whole))


@needs_native
@pytest.mark.parametrize(("count", "num_models"), [(1, 7), (70, 7), (700, 3)])
@pytest.mark.parametrize("name", ["mlp 17-100", "batch norm"])
def test_number_of_threads_does_not_matter(name: str, count: int, num_models: int) -> None:
    arguments, program = task(name, count, num_models)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = statistics(arguments, program), moments(arguments, program)
        for num_threads in (2, 3):
            torch.set_num_threads(num_threads)
            assert_same_bits(statistics(arguments, program), expected[0])
            assert_same_bits(moments(arguments, program), expected[1])
    finally:
        torch.set_num_threads(before)


@needs_native
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_variants(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """AVX2 and AVX-512 agree to the bit, scalar code to rounding errors."""
    arguments, program = task(name, 150, 2)
    expected = statistics(exact(arguments), program, reference.shadow_statistics)
    results = {}
    for variant in native.simd_variants():
        monkeypatch.setenv("PYDRIFT_SIMD", variant)
        results[variant] = statistics(arguments, program)
        assert_close(results[variant], expected)
        results[variant, "moments"] = moments(arguments, program)
        assert_same_bits(results[variant, "moments"], welford(results[variant].margin, arguments["member"]))
    if "avx512" in results:
        assert_same_bits(results["avx2"], results["avx512"])
        assert_same_bits(results["avx2", "moments"], results["avx512", "moments"])


@implementations
def test_arguments_are_only_read(ops: tuple[Callable[..., tuple[Tensor, ...]], ...]) -> None:
    arguments, program = task("batch norm", 9, 2)
    before = {key: tensor.clone() for key, tensor in arguments.items()}
    statistics(arguments, program, ops[0])
    moments(arguments, program, ops[1])
    assert_same_bits(tuple(arguments.values()), tuple(before.values()))


# ---- What is refused

IMAGES = "x must be [N, C, H, W] uint8 or float32 and contiguous, got "
NUMBERS = "parameters must be [models, 117] float32, contiguous and on the device of x, got "
LABELS = "label must be [5] int32, contiguous and on the device of x, got "
MEMBERS = "member must be [2, 5] bool, contiguous and on the device of x, got "
BAD_TENSORS = [
    ("x", lambda x: x[0], IMAGES + "[1, 3, 4] float32 on the CPU"),
    ("x", lambda x: x.double(), IMAGES + "[5, 1, 3, 4] float64 on the CPU"),
    ("x", lambda x: x.transpose(2, 3), IMAGES + "[5, 1, 4, 3] float32 on the CPU, not contiguous"),
    (
        "x",
        lambda x: x[..., :0],
        f"C, H and W must be >= 1 and C * H * W <= {2**24}, got [5, 1, 3, 0] float32 on the CPU",
    ),
    ("x", lambda x: torch.zeros(5, 1, 2, 2), "program: layer 1: takes 12 channels, but gets 4"),
    ("parameters", lambda p: p[0], NUMBERS + "[117] float32 on the CPU"),
    ("parameters", lambda p: p[:, 1:].contiguous(), NUMBERS + "[2, 116] float32 on the CPU"),
    ("parameters", lambda p: p.double(), NUMBERS + "[2, 117] float64 on the CPU"),
    ("parameters", lambda p: p.repeat(1, 2)[:, ::2], NUMBERS + "[2, 117] float32 on the CPU, not contiguous"),
    ("label", lambda y: y[:4], LABELS + "[4] int32 on the CPU"),
    ("label", lambda y: y.long(), LABELS + "[5] int64 on the CPU"),
    ("label", lambda y: y.repeat(2)[::2], LABELS + "[5] int32 on the CPU, not contiguous"),
    ("label", lambda y: y - 1, "label must be in [0, 9), got -1 at index 0"),
    ("label", lambda y: y + 5, "label must be in [0, 9), got 9 at index 4"),
]
BAD_MEMBERS = [
    ("member", lambda m: m[0], MEMBERS + "[5] bool on the CPU"),
    ("member", lambda m: m.T.contiguous(), MEMBERS + "[5, 2] bool on the CPU"),
    ("member", lambda m: m.int(), MEMBERS + "[2, 5] int32 on the CPU"),
    ("member", lambda m: m.T.contiguous().T, MEMBERS + "[2, 5] bool on the CPU, not contiguous"),
]


def small_task() -> tuple[Arguments, list[int]]:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "x": torch.rand(5, 1, 3, 4, generator=generator),
        "parameters": torch.randn(2, 12 * 9 + 9, generator=generator),
        "label": torch.arange(5, dtype=torch.int32),
    }
    return with_members(tensors), [6, 0, 12, 9]


def assert_refused(run: Callable[..., object], arguments: Arguments, program: list[int], message: str) -> None:
    with pytest.raises(ValueError) as refusal:
        run(arguments, program)
    assert str(refusal.value) == message


@needs_native
@pytest.mark.parametrize(("name", "spoil", "message"), BAD_TENSORS + BAD_MEMBERS)
def test_bad_tensors_are_refused(name: str, spoil: Callable[[Tensor], Tensor], message: str) -> None:
    arguments, program = small_task()
    arguments[name] = spoil(arguments[name])
    assert_refused(moments, arguments, program, f"shadow_moments: {message}")
    if name != "member":
        assert_refused(statistics, arguments, program, f"shadow_statistics: {message}")


@needs_native
@pytest.mark.parametrize(
    ("program", "message"),
    [
        ([], "program: must end in flat logits, one per class"),
        ([0, 12, 9], "program: layer 0: linear needs a flatten before it"),
        ([6, 0, 12], "program: layer 1: linear is cut off"),
        ([6, 9], "program: layer 1: unknown kind 9"),
    ],
)
def test_bad_programs_are_refused(program: list[int], message: str) -> None:
    arguments, _ = small_task()
    assert_refused(statistics, arguments, program, f"shadow_statistics: {message}")


@implementations
def test_precision_of_tensor_cores_is_refused(ops: tuple[Callable[..., tuple[Tensor, ...]], ...]) -> None:
    arguments, program = small_task()
    for name, op in zip(("shadow_statistics", "shadow_moments"), ops, strict=True):
        tensors = [part for key, part in arguments.items() if name == "shadow_moments" or key != "member"]
        with pytest.raises(ValueError, match=f"{name}: precision 'tf32' needs a GPU; on the CPU there is 'float32'"):
            op(*tensors, program=program, precision="tf32")
        with pytest.raises(ValueError, match=f"{name}: precision must be 'float32', .* or 'bfloat16', got 'half'"):
            op(*tensors, program=program, precision="half")


@pytest.mark.parametrize("op", ["shadow_statistics", "shadow_moments"])
@pytest.mark.parametrize("name", ["x", "parameters"])
def test_requires_grad_is_refused(op: str, name: str) -> None:
    arguments, program = small_task()
    arguments[name].requires_grad_()
    run = statistics if op == "shadow_statistics" else moments
    message = f"{op}: {name} must not require grad ({op} is not differentiable)"
    assert_refused(run, arguments, program, message)


def test_reference_refuses_labels_and_programs() -> None:
    arguments, program = small_task()
    labels = arguments | {"label": arguments["label"] + 5}
    message = "shadow_statistics: label must be in [0, 9), got 9 at index 4"
    assert_refused(lambda a, p: statistics(a, p, reference.shadow_statistics), labels, program, message)
    message = "shadow_statistics: program: must end in flat logits, one per class"
    assert_refused(lambda a, p: statistics(a, p, reference.shadow_statistics), arguments, [3], message)
