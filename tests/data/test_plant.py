from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pydrift.core.errors import UsageError
from pydrift.data import LabelledImages, as_images, load_data, plant

NAMES = ("zero", "one", "two")
KINDS = "swap, relabel, remove, flip, rotate, darken, patch, backdoor, noise, expand"


@pytest.fixture
def data() -> LabelledImages:
    rng = np.random.default_rng(0)
    return as_images((rng.random((60, 1, 6, 5)) * 0.8 + 0.1, np.arange(60) % 3), NAMES)


def changed_images(before: LabelledImages, after: LabelledImages) -> torch.Tensor:
    """bool [N]"""
    return (before.x != after.x).flatten(1).any(dim=1)


def has_patch(data: LabelledImages) -> torch.Tensor:
    """bool [N]"""
    return (data.x[:, :, -3:, -3:] == 1).flatten(1).all(dim=1)


def test_swap_exchanges_two_labels(data: LabelledImages) -> None:
    planted = plant(data, "swap:one,2", seed=0)
    assert torch.equal(planted.x, data.x)
    assert planted.y.tolist() == [0, 2, 1] * 20
    assert planted.class_names == NAMES
    assert planted.source == "data + swap:one,2"
    assert torch.equal(plant(planted, "swap:2,1", seed=0).y, data.y)


def test_swap_exchanges_a_fraction_of_both(data: LabelledImages) -> None:
    planted = plant(data, "swap:one,2,0.25", seed=0)
    moved = planted.y != data.y
    assert torch.equal(planted.x, data.x)
    assert data.y[moved].bincount().tolist() == [0, 5, 5]
    assert torch.equal(planted.y[moved], 3 - data.y[moved])


def test_relabel_moves_a_fraction(data: LabelledImages) -> None:
    planted = plant(data, "relabel:zero,1,0.25", seed=0)
    moved = planted.y != data.y
    assert torch.equal(planted.x, data.x)
    assert int(moved.sum()) == 5
    assert data.y[moved].unique().tolist() == [0]
    assert planted.y[moved].unique().tolist() == [1]
    assert int((plant(data, "relabel:0,1,1", seed=0).y == 0).sum()) == 0


def test_remove_leaves_images_of_one_class_out(data: LabelledImages) -> None:
    gone = plant(data, "remove:zero", seed=0)
    assert torch.equal(gone.x, data.x[data.y != 0])
    assert torch.equal(gone.y, data.y[data.y != 0])
    assert gone.class_names == NAMES
    some = plant(data, "remove:0,0.25", seed=0)
    assert some.y.bincount().tolist() == [15, 20, 20]
    kept = (data.x.flatten(1)[:, None] == some.x.flatten(1)[None]).all(dim=2)  # [60, 55]
    assert kept.sum(dim=0).tolist() == [1] * 55
    assert torch.equal(data.x[kept.any(dim=1)], some.x)  # in their order


def test_flip_mirrors_a_fraction_of_one_class(data: LabelledImages) -> None:
    planted = plant(data, "flip:two,0.3", seed=0)
    changed = changed_images(data, planted)
    assert (int(changed.sum()), data.y[changed].unique().tolist()) == (6, [2])
    assert torch.equal(planted.x[changed], data.x[changed].flip(3))
    assert torch.equal(planted.y, data.y)


def test_rotate_turns_one_class_counter_clockwise(data: LabelledImages) -> None:
    planted = plant(data, "rotate:one,180", seed=0)
    assert torch.equal(changed_images(data, planted), data.y == 1)
    torch.testing.assert_close(planted.x[data.y == 1], data.x[data.y == 1].flip(2, 3), atol=1e-5, rtol=0)
    assert torch.equal(planted.y, data.y)
    square = as_images((data.x[..., :5, :], data.y), NAMES)
    for degrees, quarters in ((90, 1), (-90, -1)):
        turned = plant(square, f"rotate:1,{degrees}", seed=0).x[square.y == 1]
        torch.testing.assert_close(turned, torch.rot90(square.x[square.y == 1], quarters, (2, 3)), atol=1e-5, rtol=0)


def test_flip_mirrors_one_class(data: LabelledImages) -> None:
    planted = plant(data, "flip:two", seed=0)
    assert torch.equal(changed_images(data, planted), data.y == 2)
    assert torch.equal(planted.x[data.y == 2], data.x[data.y == 2].flip(3))
    assert torch.equal(plant(planted, "flip:2", seed=0).x, data.x)


def test_darken_multiplies_one_class(data: LabelledImages) -> None:
    planted = plant(data, "darken:1,0.5", seed=0)
    assert torch.equal(changed_images(data, planted), data.y == 1)
    assert torch.equal(planted.x[data.y == 1], data.x[data.y == 1] * 0.5)


def test_patch_marks_a_share_of_one_class(data: LabelledImages) -> None:
    planted = plant(data, "patch:0,0.5", seed=0)
    marked = has_patch(planted)
    assert torch.equal(changed_images(data, planted), marked)
    assert (int(marked.sum()), data.y[marked].unique().tolist()) == (10, [0])
    assert torch.equal(planted.x[..., :-3, :], data.x[..., :-3, :])
    assert torch.equal(planted.x[..., :-3], data.x[..., :-3])
    assert torch.equal(planted.y, data.y)


def test_backdoor_marks_any_image_and_relabels_it(data: LabelledImages) -> None:
    planted = plant(data, "backdoor:2,0.5", seed=0)
    marked = has_patch(planted)
    assert int(marked.sum()) == 30
    assert data.y[marked].unique().tolist() == [0, 1, 2]
    assert planted.y[marked].unique().tolist() == [2]
    assert torch.equal(planted.y[~marked], data.y[~marked])
    assert torch.equal(planted.x[~marked], data.x[~marked])


def test_noise_has_the_given_size_and_stays_in_range(data: LabelledImages) -> None:
    planted = plant(data, "noise:0.02", seed=0)
    noise = planted.x - data.x
    assert abs(float(noise.std()) - 0.02) < 0.002
    assert abs(float(noise.mean())) < 0.002
    loud = plant(data, "noise:2", seed=0).x
    assert (float(loud.min()), float(loud.max())) == (0.0, 1.0)


def test_expand_adds_a_class_of_another_set(tmp_path: Path, data: LabelledImages) -> None:
    other = np.random.default_rng(1).integers(0, 256, (8, 6, 5), dtype=np.uint8)
    np.savez(tmp_path / "a,b.npz", x=other, y=np.arange(8) % 2, class_names=["cat", "dog"])
    planted = plant(data, f"expand:one,npz:{tmp_path}/a,b.npz,dog", seed=0)
    assert len(planted) == 64
    assert torch.equal(planted.x[:60], data.x)
    assert torch.equal(planted.x[60:, 0], torch.from_numpy(other[1::2]) / 255)
    assert planted.y.tolist() == data.y.tolist() + [1] * 4
    for share, added in (("1.0", 4), ("0.1", 2), (".05", 1), ("3.5", 4)):  # of 20, and dog has no more than 4
        some = plant(data, f"expand:one,npz:{tmp_path}/a,b.npz,dog,{share}", seed=0)
        assert some.y.tolist() == data.y.tolist() + [1] * added
        known = (some.x[60:, None] == planted.x[60:][None]).flatten(2).all(dim=2)  # [added, 4]
        assert known.sum(dim=1).tolist() == [1] * added
        assert int(known.any(dim=0).sum()) == added
    with pytest.raises(UsageError, match=r"^SHARE must be a number in \(0, inf\), got '0\.0'$"):
        plant(data, f"expand:one,npz:{tmp_path}/a,b.npz,dog,0.0", seed=0)
    with pytest.raises(UsageError, match=r"^the images of digits are 1x8x8, but those of data are 1x6x5$"):
        plant(data, "expand:one,digits,3", seed=0)
    with pytest.raises(
        UsageError, match=r"a,b\.npz \(train\): no class 'cow'; give an index in 0\.\.1 or one of cat, dog$"
    ):
        plant(data, f"expand:one,npz:{tmp_path}/a,b.npz,cow", seed=0)


FIXED = ["swap:0,1", "remove:1", "flip:0", "rotate:0,30", "darken:0,0.3"]
DRAWN = [
    *("swap:0,1,0.5", "relabel:0,1,0.5", "remove:1,0.5", "flip:0,0.5"),
    *("patch:0,0.5", "backdoor:0,0.2", "noise:0.1"),
]


@pytest.mark.parametrize("spec", [*FIXED, *DRAWN])
def test_a_function_of_data_spec_and_seed_that_leaves_its_input_alone(data: LabelledImages, spec: str) -> None:
    x, y = data.x.clone(), data.y.clone()
    state = torch.get_rng_state()
    first, again = plant(data, spec, seed=1), plant(data, spec, seed=1)
    assert first.sha256 == again.sha256 != data.sha256
    assert torch.equal(data.x, x)
    assert torch.equal(data.y, y)
    assert torch.equal(torch.get_rng_state(), state)
    assert (plant(data, spec, seed=2).sha256 != first.sha256) == (spec in DRAWN)


def test_plants_are_the_same_on_every_machine() -> None:
    planted = plant(load_data("digits"), "backdoor:7,0.01", seed=3)
    marked = torch.nonzero(has_patch(planted) & (planted.y == 7)).flatten()
    assert marked.tolist() == [27, 101, 191, 212, 219, 514, 515, 521, 582, 595, 927, 1147, 1354, 1419]


def test_a_class_name_wins_over_an_index() -> None:
    data = as_images((np.ones((4, 2, 2), np.uint8), np.array([0, 1, 0, 1])), ["1", "0"])
    assert plant(data, "darken:1,0", seed=0).x[:, 0, 0, 0].bool().tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("blur:1", f"unknown kind of drift 'blur'; known are {KINDS}"),
        ("", f"unknown kind of drift ''; known are {KINDS}"),
        ("swap", "'swap' does not have the form swap:A,B"),
        ("swap:1", "'swap:1' does not have the form swap:A,B"),
        ("swap:1,2,0.5,3", "'swap:1,2,0.5,3' does not have the form swap:A,B[,FRACTION]"),
        ("remove:", "'remove:' does not have the form remove:A[,FRACTION]"),
        ("remove:0,0", "FRACTION must be a number in (0, 1], got '0'"),
        ("remove:0,0.01", "0.01 of 20 images is no image"),
        ("flip:0,1.5", "FRACTION must be a number in (0, 1], got '1.5'"),
        ("rotate:0", "'rotate:0' does not have the form rotate:A,DEGREES"),
        ("rotate:0,0", "DEGREES must be a number in (-360, 360), not 0, got '0'"),
        ("rotate:0,360", "DEGREES must be a number in (-360, 360), not 0, got '360'"),
        ("rotate:0,nan", "DEGREES must be a number in (-360, 360), not 0, got 'nan'"),
        ("rotate:0,left", "DEGREES must be a number in (-360, 360), not 0, got 'left'"),
        ("swap:1,2,3", "FRACTION must be a number in (0, 1], got '3'"),
        ("relabel:1,2", "'relabel:1,2' does not have the form relabel:A,B,FRACTION"),
        ("expand:1,digits", "'expand:1,digits' does not have the form expand:A,DATA,B[,SHARE]"),
        ("expand:1,digits,0.5", "'expand:1,digits,0.5' does not have the form expand:A,DATA,B[,SHARE]"),
        ("expand:1,,3", "'expand:1,,3' does not have the form expand:A,DATA,B"),
        ("flip:3", "data: no class '3'; give an index in 0..2 or one of zero, one, two"),
        ("flip:-1", "data: no class '-1'; give an index in 0..2 or one of zero, one, two"),
        ("flip:²", "data: no class '²'; give an index in 0..2 or one of zero, one, two"),
        ("swap:one,1", "the classes one and 1 are the same"),
        ("relabel:0,0,1", "the classes 0 and 0 are the same"),
        ("patch:0,0", "FRACTION must be a number in (0, 1], got '0'"),
        ("patch:0,1.5", "FRACTION must be a number in (0, 1], got '1.5'"),
        ("backdoor:0,nan", "FRACTION must be a number in (0, 1], got 'nan'"),
        ("relabel:0,1,half", "FRACTION must be a number in (0, 1], got 'half'"),
        ("patch:0,0.01", "0.01 of 20 images is no image"),
        ("darken:0,1", "FACTOR must be a number in [0, 1), got '1'"),
        ("darken:0,-1", "FACTOR must be a number in [0, 1), got '-1'"),
        ("noise:0", "SIGMA must be a number in (0, inf), got '0'"),
        ("noise:inf", "SIGMA must be a number in (0, inf), got 'inf'"),
        ("expand:1,nothing,3", "unknown data 'nothing'; known are digits"),
    ],
)
def test_a_bad_spec(data: LabelledImages, spec: str, reason: str) -> None:
    with pytest.raises(UsageError) as error:
        plant(data, spec, seed=0)
    assert str(error.value).startswith(reason)


@pytest.mark.parametrize("spec", ["flip:2", "flip:2,0.1", "darken:2,0.5", "remove:2", "rotate:2,30"])
def test_a_class_without_images_changes_nothing(data: LabelledImages, spec: str) -> None:
    some = data.subset(data.y < 2)
    assert plant(some, spec, seed=0).sha256 == some.sha256


def test_several_plants_add_up(data: LabelledImages) -> None:
    steps: list[Callable[[LabelledImages], LabelledImages]] = [
        lambda d: plant(d, "flip:0", seed=0),
        lambda d: plant(d, "noise:0.1", seed=0),
    ]
    for step in steps:
        data = step(data)
    assert data.source == "data + flip:0 + noise:0.1"
