"""Counter-based noise: known answers, and that a value depends on its own coordinates only."""

import ctypes

import numpy as np
import pytest
from scipy import stats

from pydrift.core.noise import Phase, derived_seed, integers, philox_4x32, uniform, words
from tests.native_harness import host_library, needs_compiler

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # the known-answer vectors of Random123
        ([0] * 4, (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([ONES] * 4, (ONES, ONES), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_known_answers(counter, key, expected):
    assert philox_4x32(np.array(counter, np.uint32), key).tolist() == expected
    batch = np.array([[1, 2, 3, 4], counter], np.uint32)
    assert philox_4x32(batch, key)[1].tolist() == expected


def test_words_follow_the_documented_counter_layout():
    seed = 0x0123456789ABCDEF
    got = words(seed, Phase.JITTER, 8, label=3, restart=5, step=7, model=11)
    blocks = [[block, 7, 3 << 16 | 5, Phase.JITTER << 24 | 11] for block in (0, 1)]
    expected = philox_4x32(np.array(blocks, np.uint32), (0x89ABCDEF, 0x01234567))
    assert np.array_equal(got, expected.ravel())
    assert got.dtype == np.uint32


def test_words_do_not_depend_on_the_batch():
    label, restart = np.repeat(np.arange(4), 3), np.tile(np.arange(3), 4)
    batch = words(9, Phase.START, 6, label=label, restart=restart, step=np.arange(5)[:, None])
    assert batch.shape == (5, 12, 6)
    one = words(9, Phase.START, 6, label=2, restart=1, step=4)
    assert np.array_equal(batch[4, 7], one)
    assert np.array_equal(words(9, Phase.START, 3, label=2, restart=1, step=4), one[:3])


@pytest.mark.parametrize(
    "change",
    [{"seed": 1 << 32}, {"phase": Phase.JITTER}, {"label": 1}, {"restart": 1}, {"step": 1}, {"model": 1}],
    ids=lambda change: next(iter(change)),
)
def test_every_coordinate_matters(change):
    where = {"seed": 0, "phase": Phase.START, "label": 0, "restart": 0, "step": 0, "model": 0}

    def stream(seed, phase, **place):
        return words(seed, phase, 64, **place)

    assert not np.intersect1d(stream(**where), stream(**{**where, **change})).size


def test_labels_and_restarts_do_not_run_into_each_other():
    label, restart = (part.ravel() for part in np.meshgrid([0, 1, 65535], [0, 1, 65535]))
    assert len(np.unique(words(0, Phase.START, 4, label=label, restart=restart), axis=0)) == 9


def test_phases_are_distinct():
    assert len(set(map(int, Phase))) == len(Phase) == len(Phase.__members__)
    assert all(0 < phase < 256 for phase in Phase)


def test_derived_seeds():
    seeds = {derived_seed(s, phase, k) for s in (0, 1, 2**63 - 1) for phase in Phase for k in range(50)}
    assert len(seeds) == 3 * len(Phase) * 50
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62
    assert derived_seed(5, Phase.TRAIN_DRAW, 2) == derived_seed(5, Phase.TRAIN_DRAW, 2)


def test_uniform_is_exact_and_uniform():
    ends = uniform(np.array([0, 255, 256, 2**32 - 1], np.uint32))
    assert ends.dtype == np.float32
    assert ends.tolist() == [0, 0, 2**-24, 1 - 2**-24]
    sample = uniform(words(1, Phase.START, 20_000, label=0, restart=0)).astype(float)
    assert stats.kstest(sample, "uniform").pvalue > 1e-3
    neighbours = np.corrcoef(sample[:-1], sample[1:])[0, 1]
    assert abs(neighbours) < 4 / np.sqrt(len(sample))


@pytest.mark.parametrize(("low", "high"), [(-2, 2), (0, 1), (-1, 4)])
def test_integers_cover_their_range_evenly(low, high):
    assert integers(np.array([0, 2**32 - 1], np.uint32), low, high).tolist() == [low, high]
    values, counts = np.unique(
        integers(words(1, Phase.JITTER, 20_000, label=0, restart=0), low, high), return_counts=True
    )
    assert values.tolist() == list(range(low, high + 1))
    assert values.dtype == np.int64
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    return host_library(tmp_path_factory, "noise")


SEEDS = [0, 1, 2**32 - 1, 2**32, 2**63 + 7, 2**64 - 1]


@needs_compiler
@pytest.mark.parametrize("seed", SEEDS)
def test_native_code_draws_the_same_words(native, seed):
    counters = np.random.default_rng(seed).integers(0, 2**32, (1000, 4), dtype=np.uint32)
    counters[:2] = [[0] * 4, [ONES] * 4]
    got = np.empty_like(counters)
    native.philox_blocks(
        ctypes.c_void_p(counters.ctypes.data), 1000, ctypes.c_uint64(seed), ctypes.c_void_p(got.ctypes.data)
    )
    assert np.array_equal(got, philox_4x32(counters, (seed & ONES, seed >> 32)))


@needs_compiler
@pytest.mark.parametrize("jitter", [0, 1, 2, 16, 2**24 - 1])
@pytest.mark.parametrize("seed", SEEDS)
def test_native_code_shifts_alike(native, seed, jitter):
    rng = np.random.default_rng(seed)
    label, restart = (rng.integers(0, 2**16, 1000, dtype=np.int32) for _ in range(2))
    step = rng.integers(0, 2**31, 1000, dtype=np.int32)
    label[:3], restart[:3], step[:3] = [0, 65535, 65535], [65535, 0, 65535], [0, 1, 2**31 - 1]
    got = np.empty((1000, 2), np.int32)
    arrays = [ctypes.c_void_p(array.ctypes.data) for array in (label, restart, step)]
    native.jitter_shifts(ctypes.c_uint64(seed), *arrays, 1000, jitter, ctypes.c_void_p(got.ctypes.data))
    expected = integers(words(seed, Phase.JITTER, 2, label=label, restart=restart, step=step), -jitter, jitter)
    assert np.array_equal(got, expected)
