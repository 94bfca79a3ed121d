"""The CUDA source of the walks to the decision boundary, executed on the host, against the reference in plain torch."""

import ctypes
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pydrift.ops import L1, L2, LINF, BoundaryWalks, reference
from tests.native_harness import BlockShape, call, host_library, program_of
from tests.ops.test_invert_edges import NOT_FINITE
from tests.ops.test_invert_kernel import FLATTEN, NETWORKS, RELU, linear, parameters_of

pytestmark = pytest.mark.slow

Arguments = dict[str, Any]  # of one call, by name
BOX = {"max_steps": 12, "lower": 0.0, "upper": 1.0}
LENGTHS = {"linf_step": 0.02, "l2_step": 0.1, "l1_step": 0.1, "l1_coordinates": 5, "l1_gap": 0.01}
OPTIONS: dict[str, Arguments] = {"min_gd": BOX | LENGTHS, "blind_walk": BOX}
both_walks = pytest.mark.parametrize("op", OPTIONS)


class Task(ctypes.Structure):
    """BoundaryTask of csrc/boundary/boundary_walks_task.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("program", "x", "directions", "parameters")),
        *((name, ctypes.c_void_p) for name in ("model", "image", "direction", "label", "norm")),
        *((name, ctypes.c_void_p) for name in ("distance", "steps", "prediction")),
        *((name, ctypes.c_int64) for name in ("num_models", "num_images", "num_directions", "num_walks")),
        ("max_steps", ctypes.c_int32),
        ("step", ctypes.c_float * 3),
        ("coordinates", ctypes.c_int32),
        *((name, ctypes.c_float) for name in ("gap", "lower", "upper")),
    )


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return host_library(tmp_path_factory, "boundary_walks")


def run_kernel(
    library: ctypes.CDLL,
    op: str,
    arguments: Arguments,
    *,
    slots: int = 3,
    threads: int = 64,
    shared: int = 1 << 16,
    cluster: int = 1,
    clusters: int = 4,
    reverse: bool = False,
) -> BoundaryWalks:
    options = OPTIONS[op] | arguments
    tensors = {name: part for name, part in options.items() if isinstance(part, Tensor)}
    count, program = len(options["model"]), options["program"]
    result = BoundaryWalks(torch.full((count,), math.nan), *torch.full((2, count), -7, dtype=torch.int32))
    task = Task(
        **{name: part.data_ptr() for name, part in (tensors | result._asdict()).items()},
        num_models=len(options["parameters"]),
        num_images=len(options["x"]),
        num_directions=len(options.get("directions", ())),
        num_walks=count,
        **{name: options[name] for name in BOX},
    )
    if op == "min_gd":
        task.step[LINF], task.step[L2], task.step[L1] = options["linf_step"], options["l2_step"], options["l1_step"]
        task.coordinates, task.gap = options["l1_coordinates"], options["l1_gap"]
    shape = BlockShape(slots, threads, cluster, clusters, shared)
    call(library.run_walk_kernel, task, program_of(program, options["x"].shape[1:]), shape, reverse)
    return result


def run_reference(op: str, arguments: Arguments, dtype: torch.dtype = torch.float64) -> BoundaryWalks:
    wide = {name: part.to(dtype) for name, part in arguments.items() if name in ("x", "directions", "parameters")}
    return BoundaryWalks(*getattr(reference, op)(**(OPTIONS[op] | arguments | wide)))


def walks(
    op: str, x: Tensor, parameters: Tensor, program: list[int], count: int, stride: float = 0.15, seed: int = 1
) -> Arguments:
    """Walks of models, images and norms in no order, to any class or (mostly) from the one that they begin in."""
    generator = torch.Generator().manual_seed(seed)

    def draw(limit: int) -> Tensor:
        return torch.randint(limit, (count,), generator=generator, dtype=torch.int32)

    answers = torch.stack([reference.logits(x, program, numbers) for numbers in parameters])
    arguments = {"model": draw(len(parameters)), "image": draw(len(x)), "label": draw(answers.shape[2])}
    arguments |= {"x": x, "parameters": parameters, "norm": draw(3), "program": program}
    if op == "blind_walk":
        found = answers.argmax(2)[arguments["model"].long(), arguments["image"].long()].int()
        arguments["label"] = torch.where(draw(4) > 0, found, arguments["label"])
        arguments["directions"] = stride * torch.randn((4, *x.shape[1:]), generator=generator)
        arguments["direction"] = draw(4)
    return arguments


def walks_of(op: str, name: str, count: int, num_models: int = 2) -> Arguments:
    """Through networks of the table."""
    shape, program = NETWORKS[name]
    x = torch.rand(7, *shape, generator=torch.Generator().manual_seed(2))
    return walks(op, x, parameters_of(program, shape, num_models), program, count)


def assert_same_bits(result: BoundaryWalks, expected: BoundaryWalks) -> None:
    for got, wanted in zip(result, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)


# ---- Agreement with the reference


@both_walks
@pytest.mark.parametrize("name", NETWORKS)
def test_against_float64(library: ctypes.CDLL, name: str, op: str) -> None:
    """In all norms; more walks than slots, which stop at different steps."""
    arguments = walks_of(op, name, 20)
    result, expected = run_kernel(library, op, arguments), run_reference(op, arguments)
    if name != "one class":
        assert len(expected.steps.unique()) > 1
        assert (expected.distance > 0).sum() > 3
    assert torch.equal(result.steps, expected.steps)
    assert torch.equal(result.prediction, expected.prediction)
    torch.testing.assert_close(result.distance.double(), expected.distance, rtol=1e-5, atol=1e-6)


@both_walks
@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_several_models(library: ctypes.CDLL, name: str, op: str) -> None:
    """Slots are refilled while others walk on; one of the models has no walks."""
    arguments = walks_of(op, name, 40, num_models=4)
    arguments["model"][arguments["model"] == 2] = 1
    expected = run_reference(op, arguments)
    assert len(expected.steps.unique()) > 4
    for slots, clusters, cluster in ((1, 100, 1), (2, 3, 1), (5, 1, 1), (2, 1, 2)):
        result = run_kernel(library, op, arguments, slots=slots, clusters=clusters, cluster=cluster)
        assert torch.equal(result.steps, expected.steps)
        assert torch.equal(result.prediction, expected.prediction)
        torch.testing.assert_close(result.distance.double(), expected.distance, rtol=1e-5, atol=1e-6)


CUTS: tuple[dict[str, Any], ...] = (
    {"slots": 1, "threads": 32, "clusters": 1},
    {"slots": 8, "threads": 96, "reverse": True},
    {"slots": 9, "shared": 0},
    {"slots": 10, "shared": 700, "reverse": True},
    {"slots": 33, "threads": 128},
    {"slots": 2, "cluster": 2},
    {"slots": 3, "cluster": 4, "reverse": True},
    {"slots": 1, "cluster": 8, "shared": 500, "clusters": 1},
)


@both_walks
@pytest.mark.parametrize("name", ["mlp", "convnet", "overlapping windows", "pooled logits"])
def test_same_bits_however_the_work_is_cut(library: ctypes.CDLL, name: str, op: str) -> None:
    """Slots, threads, clusters, kinds of memory, order of the threads and of the walks."""
    arguments = walks_of(op, name, 15) | {"max_steps": 5}
    expected = run_kernel(library, op, arguments)
    for cut in CUTS:
        assert_same_bits(run_kernel(library, op, arguments, **cut), expected)
    ids = ("model", "image", "direction", "label", "norm")
    turned = {key: part.flip(0) if key in ids else part for key, part in arguments.items()}
    result = run_kernel(library, op, turned)
    assert_same_bits(BoundaryWalks(*(part.flip(0) for part in result)), expected)


# ---- What rounding could hide: pixels, weights and steps in binary fractions, so that all but L2 is exact


def fractions(*shape: int, least: int, most: int, unit: float, seed: int) -> Tensor:
    return unit * torch.randint(least, most + 1, shape, generator=torch.Generator().manual_seed(seed)).float()


def exact_walks(op: str) -> Arguments:
    """Gradients tie, logits tie, and pixels lie at their bounds and at the gap."""
    x = fractions(6, 1, 5, 7, least=0, most=7, unit=1 / 8, seed=0)
    parameters = fractions(2, 4 * 36, least=-3, most=3, unit=1 / 4, seed=1)
    return walks(op, x, parameters, [*FLATTEN, *linear(35, 4)], 60) | {"max_steps": 6, "upper": 0.875}


@pytest.mark.parametrize(("coordinates", "gap"), [(1, 0.0), (3, 0.125), (7, 0.25), (35, 0.0), (1000, 0.5)])
def test_exact_min_gd(library: ctypes.CDLL, coordinates: int, gap: float) -> None:
    """Also where fewer coordinates can move than may."""
    arguments = exact_walks("min_gd") | {"linf_step": 1 / 16, "l1_step": 1 / 8}
    arguments |= {"l1_coordinates": coordinates, "l1_gap": gap}
    arguments["norm"] = torch.where(arguments["norm"] == L2, LINF, arguments["norm"]).int()
    result, expected = run_kernel(library, "min_gd", arguments), run_reference("min_gd", arguments)
    assert all(len(expected.steps[arguments["norm"] == norm].unique()) > 1 for norm in (LINF, L1))
    assert_same_bits(result, expected._replace(distance=expected.distance.float()))


def test_exact_blind_walk(library: ctypes.CDLL) -> None:
    arguments = exact_walks("blind_walk")
    arguments["directions"] = fractions(4, 1, 5, 7, least=-3, most=3, unit=1 / 32, seed=2)
    result, expected = run_kernel(library, "blind_walk", arguments), run_reference("blind_walk", arguments)
    assert len(expected.steps.unique()) > 2
    assert_same_bits(result, expected._replace(distance=expected.distance.float()))


@pytest.mark.parametrize("scale", [1e-36, 1e-20, 1e18], ids=str)
def test_l2_step_has_its_length_whatever_the_gradient(library: ctypes.CDLL, scale: float) -> None:
    """Whose squares would vanish or overflow."""
    x, numbers = torch.full((1, 1, 3, 4), 0.5), parameters_of([*FLATTEN, *linear(12, 3)], (1, 3, 4))
    numbers[:, 36:] = torch.tensor([0.0, 1e30, 0.0])  # no walk arrives at 0
    numbers[:, :36] *= scale
    ids = torch.zeros(3, dtype=torch.int32)
    arguments = {"x": x, "parameters": numbers, "model": ids, "image": ids, "label": ids, "norm": ids + L2}
    arguments |= {"program": [*FLATTEN, *linear(12, 3)], "max_steps": 3}
    result = run_kernel(library, "min_gd", arguments)
    assert result.steps.tolist() == [3] * 3
    torch.testing.assert_close(result.distance, torch.full((3,), 0.3), rtol=1e-5, atol=0)


def test_l1_step_takes_the_largest_of_any_size(library: ctypes.CDLL) -> None:
    """The k-th largest of magnitudes that differ in any bit, from the least of all numbers to nearly the largest."""
    sizes = torch.tensor([3e38, 1e38, 1.0, 1 - 2**-24, 1e-30, 2.0**-126, 2.0**-148, 2.0**-149, 0.0, 0.0])
    numbers = torch.stack([sizes, -sizes * 0, sizes * 0])
    parameters = torch.cat([numbers.flatten(), torch.tensor([0.0, 1.0, 0.0])])[None]
    x = torch.zeros(1, 1, 2, 5)
    for coordinates in range(1, 11):
        ids = torch.zeros(2, dtype=torch.int32)
        arguments = {"x": x, "parameters": parameters, "model": ids, "image": ids, "label": ids, "norm": ids + L1}
        arguments |= {"program": [*FLATTEN, *linear(10, 3)], "max_steps": 1, "l1_step": 2.0**-140, "l1_gap": 0.0}
        result = run_kernel(library, "min_gd", arguments | {"l1_coordinates": coordinates})
        assert (result.distance / 2.0**-140).tolist() == [min(coordinates, 8)] * 2


# ---- Edges


@both_walks
def test_no_steps(library: ctypes.CDLL, op: str) -> None:
    arguments = walks_of(op, "convnet", 9) | {"max_steps": 0}
    result, expected = run_kernel(library, op, arguments), run_reference(op, arguments, torch.float32)
    assert_same_bits(result, expected)
    assert result.distance.tolist() == [0.0] * 9


@pytest.mark.parametrize("norm", [LINF, L2, L1])
def test_walk_that_cannot_move_ends(library: ctypes.CDLL, norm: int) -> None:
    """Where all logits are the same whatever the image, and where all pixels are at their bounds."""
    x = torch.stack([torch.full((1, 2, 3), 0.5), torch.ones(1, 2, 3)])
    parameters = torch.tensor([[0.0] * 12 + [0.0, 1.0], [1.0] * 6 + [0.0] * 6 + [-9.0, 0.0]])
    ids = torch.arange(2, dtype=torch.int32)
    arguments = {"x": x, "parameters": parameters, "model": ids, "image": ids, "label": ids * 0, "norm": ids * 0 + norm}
    result = run_kernel(library, "min_gd", arguments | {"program": [*FLATTEN, *linear(6, 2)]})
    assert [part.tolist() for part in result] == [[0.0] * 2, [0] * 2, [1] * 2]


@both_walks
def test_pixels_are_the_logits(library: ctypes.CDLL, op: str) -> None:
    """A network that computes nothing."""
    x = torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    arguments = walks(op, x, torch.empty(1, 0), FLATTEN, 12)
    result, expected = run_kernel(library, op, arguments), run_reference(op, arguments)
    assert torch.equal(result.steps, expected.steps)
    assert torch.equal(result.prediction, expected.prediction)
    torch.testing.assert_close(result.distance.double(), expected.distance, rtol=1e-5, atol=1e-6)
    assert len(expected.steps.unique()) > 2


@both_walks
def test_first_of_equal_logits(library: ctypes.CDLL, op: str) -> None:
    """Of more classes than the lanes of a warp."""
    program, parameters = [*FLATTEN, *linear(4, 70)], torch.full((1, 350), -1.0)
    weights, bias = parameters[0, :280].view(70, 4), parameters[0, 280:]
    for k in (65, 3, 40):
        weights[k], bias[k] = 0.5, 1.0
    arguments = walks(op, torch.rand(5, 1, 2, 2), parameters, program, 8)
    arguments |= {"label": torch.tensor([3, 40, 65, 0] * 2, dtype=torch.int32), "max_steps": 2}
    result, expected = run_kernel(library, op, arguments), run_reference(op, arguments)
    assert result.prediction.tolist() == expected.prediction.tolist() == [3] * 8
    assert result.steps.tolist() == expected.steps.tolist()
    assert len(expected.steps.unique()) == 2


# ---- What is not finite


@both_walks
@pytest.mark.parametrize(("program", "numbers"), NOT_FINITE.values(), ids=NOT_FINITE.keys())
def test_logits_that_are_not_finite(library: ctypes.CDLL, program: list[int], numbers: list[float], op: str) -> None:
    """Whichever the label, and be it one logit only."""
    x, parameters = torch.full((2, 1, 3, 4), 0.5), torch.tensor([numbers])
    arguments = walks(op, x, parameters, program, 6)
    arguments["label"] = torch.arange(6, dtype=torch.int32) % 3
    result = run_kernel(library, op, arguments)
    assert result.distance.isnan().all()
    assert result.steps.tolist() == [0] * 6
    assert result.prediction.tolist() == [-1] * 6


@both_walks
def test_logits_that_are_not_finite_end_their_walk_only(library: ctypes.CDLL, op: str) -> None:
    arguments = walks_of(op, "mlp", 12)
    clean = run_kernel(library, op, arguments)
    arguments["x"][3] = math.nan
    result, spoilt = run_kernel(library, op, arguments), arguments["image"] == 3
    assert 0 < spoilt.sum() < 12
    assert result.distance[spoilt].isnan().all()
    assert (result.prediction[spoilt] == -1).all()
    for got, wanted in zip(result, clean, strict=True):
        assert torch.equal(got[~spoilt], wanted[~spoilt])


@pytest.mark.parametrize("norm", [LINF, L2, L1])
def test_gradient_that_is_not_finite(library: ctypes.CDLL, norm: int) -> None:
    """Where the logits are: the walk has a prediction but no distance. Its neighbours walk on."""
    program = [*FLATTEN, *linear(6, 2), *RELU, *linear(2, 3)]
    first = [1e25, *[0.0] * 5, 0.0, *[1.0] * 5, 1e-30, 1e-30]  # biases by which no ReLU is dead
    numbers = [*first, *(1e25, 0.0, 0.0, 0.0, 0.0, 1.0), 0.0, 1e-3, 0.0]
    ids, x = torch.zeros(6, dtype=torch.int32), torch.zeros(1, 1, 2, 3)
    label = torch.tensor([0, 2, 1] * 2, dtype=torch.int32)
    arguments = {"x": x, "parameters": torch.tensor([numbers]), "model": ids, "image": ids, "label": label}
    arguments |= {"norm": ids + norm, "program": program, "max_steps": 1}
    result = run_kernel(library, "min_gd", arguments)
    assert result.distance.isnan().tolist() == [True, False, False] * 2
    assert result.steps.tolist() == [0, 1, 0] * 2
    assert result.prediction.tolist() == [1, 2, 1] * 2
    assert_same_bits(result, run_reference("min_gd", arguments, torch.float32))
