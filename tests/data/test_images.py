from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from pydrift.core.errors import InputRefused
from pydrift.data import LabelledImages, as_images, as_member_mask

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (6, 3, 5, 4), dtype=np.uint8)
Y = np.array([0, 1, 2, 0, 1, 2])


def same(a: LabelledImages, b: LabelledImages) -> bool:
    return torch.equal(a.x, b.x) and torch.equal(a.y, b.y) and a.class_names == b.class_names


def message(data: Any, **options: Any) -> str:
    with pytest.raises(InputRefused) as error:
        as_images(data, **options)
    return str(error.value)


def test_properties_subset_and_hash() -> None:
    data = as_images((X, Y), ["a", "b", "c"])
    assert (len(data), data.num_classes, data.input_shape, data.source) == (6, 3, (3, 5, 4), "data")
    assert (data.x.dtype, data.y.dtype) == (torch.float32, torch.int64)
    assert torch.equal(data.x, torch.from_numpy(X) / 255)
    for indices in ([4, 0], torch.tensor([4, 0]), np.array([4, 0])):
        assert torch.equal(data.subset(indices).x, data.x[[4, 0]])
        assert data.subset(indices).y.tolist() == [1, 0]
    assert torch.equal(data.subset(data.y == 1).x, data.x[[1, 4]])
    assert len(data.subset([])) == 0
    assert data.subset([]).class_names == ("a", "b", "c")
    assert data.sha256 == as_images((X.copy(), Y.copy())).sha256
    assert len({data.sha256, data.subset([1, 0, 2, 3, 4, 5]).sha256, as_images((X, Y[::-1])).sha256}) == 3


def test_the_callers_arrays_are_neither_shared_nor_changed() -> None:
    floats = (X / 255).astype(np.float32)
    data = as_images((floats, Y))
    data.x.zero_()
    data.y.zero_()
    assert floats.max() > 0.9
    assert Y.max() == 2


# --- the API's forms of data


class MapStyle:
    """A data set that never raises IndexError and cannot be iterated."""

    __iter__ = None

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(X[i % 6]), int(Y[i % 6])


def batches() -> Iterator[tuple[np.ndarray, list[int]]]:
    yield X[:4], Y[:4].tolist()
    yield X[4:], Y[4:].tolist()


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        (torch.from_numpy(X), torch.from_numpy(Y)),
        (X.transpose(0, 2, 3, 1), Y.astype(np.uint8)),
        (X, Y.tolist()),
        (X / 255, Y),
        (torch.from_numpy(X / 255), torch.from_numpy(Y).int()),
        list(zip(X, Y, strict=True)),
        [[x, int(y)] for x, y in zip(X, Y, strict=True)],
        [(Image.fromarray(x.transpose(1, 2, 0)), int(y)) for x, y in zip(X, Y, strict=True)],
        TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)),
        DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), batch_size=4),
        MapStyle(),
        batches(),
    ],
    ids=lambda data: type(data).__name__,
)
def test_every_form_gives_the_same_images(data: Any) -> None:
    assert same(as_images(data), as_images((X, Y)))


def test_gray_images_and_images_as_they_are() -> None:
    data = as_images((X[:, 0], Y))
    assert data.input_shape == (1, 5, 4)
    assert as_images(data) is data
    assert same(as_images([(x[0], y) for x, y in zip(X, Y, strict=True)]), data)
    assert as_images((torch.from_numpy(X / 256).bfloat16(), Y)).x.dtype == torch.float32


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (([], []), "data: item 0 is a list, not a pair (x, y)"),
        ((X[:0], Y[:0]), "data: no images"),
        ([], "data: no images"),
        (
            (X.reshape(6, 60), Y),
            "images must be [N, H, W], [N, C, H, W] or [N, H, W, C] with 1 or 3 channels, got [6, 60]",
        ),
        ((X[0], 3), "data: labels must be integers [N], got int64 []"),
        (7, "data: int is neither a pair (x, y) nor an iterable of pairs"),
        ([X], "data: item 0 is a ndarray, not a pair (x, y)"),
        ([(X, Y[:3])], "data: item 0 pairs images [6, 3, 5, 4] with labels [3]"),
        ([(X[0], 0), (X[1, :, :4], 1)], "data: image 1 is uint8 [3, 4, 4], the first is uint8 [3, 5, 4]"),
        ([(X[:4], Y[:4]), (X[4:] / 255, Y[4:])], "data: image 4 is float64 [3, 5, 4], the first is uint8 [3, 5, 4]"),
        ((X, Y[:5]), "data: 6 images but 5 labels"),
        ((X, Y / 2), "data: labels must be integers [N], got float64 [6]"),
        ((X, Y[:, None]), "data: labels must be integers [N], got int64 [6, 1]"),
        ((X, Y - 1), "data: image 0 has the label -1, outside 0..9999"),
        ((X, Y * 10_000), "data: image 1 has the label 10000, outside 0..9999"),
        ((X, Y * 0 + 1), "data: all 6 images are of class 1; two classes are needed"),
        ((X.astype(np.int32), Y), "data: images must be uint8 or float, got int32"),
        ((X.astype(np.float32), Y), None),
        ((np.zeros((6, 1, 0, 4)), Y), "data: images without pixels, shape [6, 1, 0, 4]"),
        (
            (X[:, :2], Y),
            "images must be [N, H, W], [N, C, H, W] or [N, H, W, C] with 1 or 3 channels, got [6, 2, 5, 4]",
        ),
        ((X[..., :3], Y), "data: images of shape [3, 5, 3] can have their channels first or last"),
        (
            (X[None], Y),
            "images must be [N, H, W], [N, C, H, W] or [N, H, W, C] with 1 or 3 channels, got [1, 6, 3, 5, 4]",
        ),
    ],
)
def test_refused_with_the_index(data: Any, expected: str | None) -> None:
    if expected is None:
        assert message(data).startswith("data: image 0 has values in [")
        assert message(data).endswith("], outside [0, 1]")
    else:
        assert message(data).removeprefix("data: ") == expected.removeprefix("data: ")


def test_labels_are_held_against_the_class_names() -> None:
    assert message((X, Y), class_names=["a", "b"]) == "data: image 2 has the label 2, outside 0..1"
    assert as_images((X, Y), class_names=["a", "b", "c", "unseen"]).num_classes == 4
    assert message((X, Y * 0), class_names=["cat", "dog"]).startswith("data: all 6 images are of class cat;")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_found(value: float) -> None:
    x = X / 255
    x[4, 2, 1, 3] = value
    assert message((x, Y)) == "data: image 4 has a value that is not finite"


def test_what_rounding_puts_outside_is_clipped() -> None:
    x = np.where(X > 127, 1 + 9e-5, -9e-5)
    assert set(as_images((x, Y)).x.unique().tolist()) == {0.0, 1.0}
    assert message((x * 2, Y)).endswith("outside [0, 1]")


@pytest.mark.parametrize("members", [np.zeros(0, "U4"), np.zeros(0, bool), np.array(["a"]), np.zeros((0, 2), int)])
def test_members_that_are_no_indices_are_refused(members: np.ndarray) -> None:
    with pytest.raises(InputRefused, match=r"^members"):
        as_member_mask(members, as_images((X, Y)))
