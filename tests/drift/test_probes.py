"""Views, marks and shapes: each does to images, or is, what its name says, in shape and range."""

import numpy as np
import pytest
import torch

from pydrift.data.rotation import rotate
from pydrift.drift.probes import OCCLUSION_COLOURS, SHAPE_KINDS, TRANSFORMS, apply_transform, draw_shapes, occlude

OCCLUSIONS = {
    "white top left": (1.0, slice(0, 2), slice(0, 3)),
    "white top right": (1.0, slice(0, 2), slice(9, 12)),
    "white bottom left": (1.0, slice(6, 8), slice(0, 3)),
    "white bottom right": (1.0, slice(6, 8), slice(9, 12)),
    "white middle": (1.0, slice(3, 5), slice(4, 8)),
    "black middle": (0.0, slice(3, 5), slice(4, 8)),
}


@pytest.fixture
def images():
    """float32 [2, 3, 4, 2, 8, 12], between 0.05 and 0.95."""
    return 0.05 + 0.9 * torch.rand(2, 3, 4, 2, 8, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("view", TRANSFORMS)
def test_a_view_keeps_shape_and_range_and_its_input(images, view):
    before = images.clone()
    got = apply_transform(view, images)
    assert (got.shape, got.dtype) == (images.shape, torch.float32)
    assert 0 <= got.min() <= got.max() <= 1
    assert torch.equal(apply_transform(view, images), got)
    assert torch.equal(images, before)
    assert torch.equal(
        apply_transform(view, images[0]), got[0]
    )  # an image's place among the first ones is all that matters
    assert apply_transform(view, torch.zeros_like(images)).max() <= 1
    assert apply_transform(view, torch.ones_like(images)).min() >= 0


def test_every_view_differs_from_every_other(images):
    seen = {view: apply_transform(view, images).numpy().tobytes() for view in TRANSFORMS}
    assert len(set(seen.values())) == len(TRANSFORMS) == 15
    assert seen["plain"] == images.numpy().tobytes()


@pytest.mark.parametrize(
    ("view", "changed"),
    [
        ("mirrored", lambda x: x.flip(-1)),
        ("upside down", lambda x: x.flip(-2)),
        ("darker", lambda x: x / 2),
        ("lighter", lambda x: (x + 1) / 2),
    ],
)
def test_views_of_all_pixels(images, view, changed):
    torch.testing.assert_close(apply_transform(view, images), changed(images))


@pytest.mark.parametrize("view", OCCLUSIONS)
def test_a_mark_changes_its_place_only(images, view):
    value, rows, columns = OCCLUSIONS[view]
    expected = images.clone()
    expected[..., rows, columns] = value
    assert torch.equal(apply_transform(view, images), expected)
    assert (apply_transform(view, torch.rand(1, 1, 1, 1, 28, 28)) == value).sum() == (100 if "middle" in view else 49)


def test_noise_is_small_of_zero_mean_and_differs_between_images():
    grey = torch.full((2, 10, 4, 1, 28, 28), 0.5)
    noise = apply_transform("noisy", grey) - grey
    assert float(noise.mean()) == pytest.approx(0, abs=0.004)
    assert float(noise.std()) == pytest.approx(0.25, abs=0.02)  # a little less where it meets black and white
    assert len(noise.flatten(0, 2).flatten(1).unique(dim=0)) == 80


def test_blur_is_the_mean_of_three_by_three_with_the_border_repeated(images):
    padded = np.pad(images.double().numpy(), [(0, 0)] * 4 + [(1, 1)] * 2, mode="edge")
    expected = sum(padded[..., i : i + 8, j : j + 12] for i in range(3) for j in range(3)) / 9
    np.testing.assert_allclose(apply_transform("blurred", images).numpy(), expected, atol=1e-6)


def test_turns_are_of_twenty_degrees_either_way(images):
    left, right = apply_transform("turned left", images), apply_transform("turned right", images)
    assert torch.equal(left, rotate(images.flatten(0, 2), 20).view_as(images))
    torch.testing.assert_close(right, apply_transform("turned left", images.flip(-1)).flip(-1), atol=1e-5, rtol=0)
    dot = torch.zeros(1, 1, 1, 1, 29, 29)
    dot[..., 13:16, 23:26] = 1  # ten pixels right of the middle
    across = torch.arange(29.0)
    for view, sine in (("turned left", -0.342), ("turned right", 0.342)):  # rows count downwards
        seen = apply_transform(view, dot)[0, 0, 0, 0]
        row, column = (float((seen.sum(dim) * across).sum() / seen.sum()) for dim in (1, 0))
        assert (row, column) == pytest.approx((14 + 10 * sine, 14 + 10 * 0.940), abs=0.1)


@pytest.mark.parametrize("shape", [(3, 1, 8, 8), (2, 3, 7, 7)])
def test_quarter_turns_move_pixels_counter_clockwise(shape):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    for quarters in (1, 2, 3):
        torch.testing.assert_close(rotate(x, 90 * quarters), torch.rot90(x, quarters, (2, 3)), atol=1e-5, rtol=0)
    torch.testing.assert_close(rotate(x, -90), torch.rot90(x, -1, (2, 3)), atol=1e-5, rtol=0)


def test_a_turn_of_an_oblong_image_keeps_its_proportions():
    x = torch.zeros(1, 1, 21, 41)
    x[..., 10, 12:29] = 1  # a line of 17 pixels, which fits the height too
    turned = rotate(x, 90)
    assert turned.shape == x.shape
    expected = torch.zeros(1, 1, 21, 41)
    expected[..., 2:19, 20] = 1
    torch.testing.assert_close(turned, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(rotate(x, 180), x.flip(2, 3), atol=1e-4, rtol=0)


def test_what_turns_in_at_the_corners_is_black():
    turned = rotate(torch.ones(1, 1, 20, 20), 45)[0, 0]
    assert turned[0, 0] == turned[0, -1] == turned[-1, 0] == turned[-1, -1] == 0
    assert turned[5:15, 5:15].min() == pytest.approx(1)


@pytest.mark.parametrize("colour", OCCLUSION_COLOURS)
@pytest.mark.parametrize(("size", "side"), [((28, 28), 3), ((32, 32), 4), ((8, 8), 1), ((9, 30), 1), ((64, 64), 7)])
def test_marks_cover_every_pixel_one_place_after_the_other(colour, size, side):
    x = 0.1 + 0.8 * torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    before, rows = x.clone(), list(occlude(x, colour))
    assert torch.equal(x, before)
    count = [-(-n // side) for n in size]
    assert len(rows) == count[0]
    covered, corners = torch.zeros(size), []
    for row in rows:
        assert row.shape == (count[1], *x.shape)
        for place in row:
            changed = place != x
            at = changed[0, 0].nonzero()
            corners.append(tuple(at[0].tolist()))
            expected = torch.zeros(size, dtype=torch.bool)
            expected[at[0, 0] : at[0, 0] + side, at[0, 1] : at[0, 1] + side] = True
            assert (changed == expected).all()
            assert (place[changed] == OCCLUSION_COLOURS[colour]).all()
            covered += expected
    assert corners == sorted(set(corners))
    assert corners[-1] == (size[0] - side, size[1] - side)
    assert covered.min() == 1


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 24)])
def test_shapes_are_the_same_every_time_and_all_different(shape):
    seen = {kind: draw_shapes(kind, shape) for kind in SHAPE_KINDS}
    for kind, images in seen.items():
        assert (images.shape[1:], images.dtype) == (shape, torch.float32)
        assert 0 <= images.min() < images.max() <= 1
        assert torch.equal(draw_shapes(kind, shape), images)
        assert len(images.flatten(1).unique(dim=0)) > 0.95 * len(images)
    assert len({images.numpy().tobytes() for images in seen.values()}) == len(SHAPE_KINDS)


def test_more_and_thicker_curves_cover_more():
    ink = {kind: float(draw_shapes(kind, (1, 28, 28)).mean()) for kind in SHAPE_KINDS}
    assert 2 < ink["three thin curves"] / ink["a thin curve"] < 3  # they cross
    assert ink["two thick curves"] > ink["three thin curves"]


def test_rectangles_and_ellipses_are_of_one_shade():
    for kind in ("rectangles", "ellipses"):
        for image in draw_shapes(kind, (1, 28, 28))[:, 0]:
            (shade,) = image[image > 0].unique()
            assert shade >= 0.3
            if kind == "rectangles":
                rows, columns = (image > 0).any(1).nonzero(), (image > 0).any(0).nonzero()
                assert (image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] > 0).all()


def test_coloured_shapes_have_two_colours():
    for image in draw_shapes("ellipses", (3, 32, 32)):
        ground = image[:, 0, 0]
        on_it = (image == ground[:, None, None]).all(dim=0)
        assert 0.1 < on_it.float().mean() < 1
        # of one shade of another colour: all on one line through the ground
        others = (image[:, ~on_it] - ground[:, None]).T.double()
        assert torch.linalg.matrix_rank(others, atol=1e-4) == 1
    shades = draw_shapes("rectangles", (3, 32, 32))
    assert (shades[:, 0] - shades[:, 1]).abs().mean() > 0.1
