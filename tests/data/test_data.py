import gzip
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pydrift.core.errors import InputRefused, UsageError
from pydrift.data import LabelledImages, as_images, load_data, sources, take_images
from pydrift.data.cifar import CLASSES

Mutate = Callable[[bytes, int], bytes]

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (6, 3, 5, 4), dtype=np.uint8)
Y = np.array([0, 1, 2, 0, 1, 2])


def same(a: LabelledImages, b: LabelledImages) -> bool:
    return torch.equal(a.x, b.x) and torch.equal(a.y, b.y) and a.class_names == b.class_names


# --- digits and specs


def test_digits_are_split_the_same_way_each_time() -> None:
    train, test = load_data("digits"), load_data("digits", "test")
    assert (len(train), len(test), train.input_shape, train.num_classes) == (1442, 355, (1, 8, 8), 10)
    assert (float(train.x.min()), float(train.x.max())) == (0.0, 1.0)
    assert set(torch.bincount(test.y).tolist()) == {34, 35, 36}
    assert train.source == "digits (train)"
    assert same(train, load_data("digits"))


@pytest.mark.parametrize("spec", ["", "digit", "digits:x", "mnist", "mnist:", "npz:", "cifar100:x"])
def test_an_unknown_spec_lists_the_known_ones(spec: str) -> None:
    with pytest.raises(UsageError) as error:
        load_data(spec)
    assert str(error.value) == (
        f"unknown data {spec!r}; known are digits, mnist:DIR, fashion-mnist:DIR, cifar10:DIR, npz:FILE and folder:DIR"
    )


def test_an_unknown_split() -> None:
    with pytest.raises(UsageError, match=r'^split must be "train" or "test", got \'val\'$'):
        load_data("digits", "val")


@pytest.mark.parametrize("spec", ["mnist", "fashion-mnist", "cifar10", "npz", "folder"])
def test_what_is_not_there(tmp_path: Path, spec: str) -> None:
    with pytest.raises(UsageError, match=rf"^{tmp_path}/none: "):
        load_data(f"{spec}:{tmp_path}/none")


# --- idx


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


IMAGES = RNG.integers(0, 256, (5, 28, 28), dtype=np.uint8)
LABELS = np.array([0, 9, 2, 3, 3], np.uint8)


def write_idx(folder: Path, images: bytes, labels: bytes, stem: str = "train", packed: bool = False) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("images-idx3", images), ("labels-idx1", labels)):
        file = folder / f"{stem}-{name}-ubyte{'.gz' if packed else ''}"
        file.write_bytes(gzip.compress(content) if packed else content)
    return str(folder)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("kind", "inner"), [("mnist", ""), ("mnist", "MNIST/raw"), ("fashion-mnist", "FashionMNIST/raw")]
)
def test_idx_layouts(tmp_path: Path, kind: str, inner: str, packed: bool) -> None:
    write_idx(tmp_path / inner, idx(IMAGES), idx(LABELS), "t10k", packed)
    data = load_data(f"{kind}:{tmp_path}", "test")
    assert torch.equal(data.x, torch.from_numpy(IMAGES)[:, None] / 255)
    assert data.y.tolist() == LABELS.tolist()
    assert data.class_names[9] == ("9" if kind == "mnist" else "ankle boot")
    with pytest.raises(
        UsageError, match=r"neither \w+/raw/train-images-idx3-ubyte\[\.gz\] nor train-images-idx3-ubyte"
    ):
        load_data(f"{kind}:{tmp_path}")


@pytest.mark.parametrize(
    ("images", "labels", "reason"),
    [
        (
            idx(IMAGES)[:-1],
            idx(LABELS),
            "images-idx3-ubyte: fewer bytes than its header says (3920 for shape [5, 28, 28])",
        ),
        (
            idx(IMAGES) + b"\0",
            idx(LABELS),
            "images-idx3-ubyte: more bytes than its header says (3920 for shape [5, 28, 28])",
        ),
        (idx(LABELS), idx(LABELS), "images-idx3-ubyte: not an idx file of 3-dimensional unsigned bytes"),
        (b"\0", idx(LABELS), "images-idx3-ubyte: not an idx file of 3-dimensional unsigned bytes"),
        (
            b"\0\0\x08\x03" + b"\xff" * 12,
            idx(LABELS),
            "images-idx3-ubyte: images must be 28x28, got 4294967295x4294967295",
        ),
        (
            b"\0\0\x08\x03" + b"\xff" * 4 + idx(IMAGES)[8:16],
            idx(LABELS),
            f"images-idx3-ubyte: damaged: it unpacks to {784 * (2**32 - 1)} bytes, the limit for its size is 67108864",
        ),
        (idx(IMAGES[:, 1:]), idx(LABELS), "images-idx3-ubyte: images must be 28x28, got 27x28"),
        (idx(IMAGES), idx(LABELS[1:]), "images-idx3-ubyte: 5 images but 4 labels"),
        (
            idx(IMAGES),
            idx(LABELS + 1),
            "images-idx3-ubyte: image 1 has the label 10, outside 0..9; its labels begin at 1: subtract 1 from all",
        ),
        (idx(IMAGES[:0]), idx(LABELS[:0]), "images-idx3-ubyte: no images"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_idx(tmp_path: Path, images: bytes, labels: bytes, reason: str, packed: bool) -> None:
    write_idx(tmp_path, images, labels, packed=packed)
    with pytest.raises(InputRefused) as error:
        load_data(f"mnist:{tmp_path}")
    assert str(error.value).replace(".gz", "") == f"{tmp_path}/train-{reason}"


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("train-images.idx3-ubyte", "train-labels.idx1-ubyte"),
        ("train-images-idx3-ubyte/train-images-idx3-ubyte", "train-labels-idx1-ubyte/train-labels-idx1-ubyte"),
    ],
)
def test_idx_by_the_names_that_kaggle_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: str, labels: str
) -> None:
    for name, content in ((images, idx(IMAGES)), (labels, idx(LABELS))):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(content)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_data("mnist:~/data").y.tolist() == LABELS.tolist()


def test_damaged_gzip(tmp_path: Path) -> None:
    write_idx(tmp_path, idx(IMAGES), idx(LABELS), packed=True)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    good = file.read_bytes()
    for damaged in (good[: len(good) // 2], b"no gzip", good[:-8] + bytes(8), good[:900] + b"\xff" * 50 + good[950:]):
        file.write_bytes(damaged)
        with pytest.raises(InputRefused, match=r"train-images-idx3-ubyte\.gz: damaged: "):
            load_data(f"mnist:{tmp_path}")


# --- CIFAR-10


def write_cifar(folder: Path, protocol: int = 4) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    data = RNG.integers(0, 256, (4, 3072), dtype=np.uint8)
    for name in ("test_batch", *(f"data_batch_{i}" for i in range(1, 6))):
        (folder / name).write_bytes(
            pickle.dumps({b"data": data, b"labels": [0, 9, 4, 5], b"filenames": ["x"]}, protocol)
        )
    return data


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("inner", ["", "cifar-10-batches-py"])
def test_cifar_layouts(tmp_path: Path, inner: str, protocol: int) -> None:
    pixels = write_cifar(tmp_path / inner, protocol)
    train, test = load_data(f"cifar10:{tmp_path}"), load_data(f"cifar10:{tmp_path}", "test")
    assert (len(train), len(test), train.class_names) == (20, 4, CLASSES)
    assert torch.equal(test.x, torch.from_numpy(pixels).reshape(4, 3, 32, 32) / 255)
    assert test.y.tolist() == [0, 9, 4, 5]
    (tmp_path / inner / "data_batch_3").unlink()
    with pytest.raises(UsageError, match=r": data_batch_3 of CIFAR-10's python version is not there$"):
        load_data(f"cifar10:{tmp_path}")


def test_cifar_as_python_2_wrote_it(tmp_path: Path) -> None:
    def text(value: bytes) -> bytes:  # SHORT_BINSTRING
        return b"U" + bytes([len(value)]) + value

    u1 = (
        b"cnumpy\ndtype\n"
        + text(b"u1")
        + b"K\x00K\x01\x87R(K\x03"
        + text(b"|")
        + b"NNN"
        + b"J\xff\xff\xff\xff" * 2
        + b"K\x00tb"
    )
    pixels = b"T" + (6144).to_bytes(4, "little") + bytes(6144)  # BINSTRING
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    array = empty + b"(K\x01K\x02M\x00\x0c\x86" + u1 + b"\x89" + pixels + b"tb"
    raw = b"\x80\x02}(" + text(b"data") + array + text(b"labels") + b"](K\x03K\x04eu."
    (tmp_path / "test_batch").write_bytes(raw)
    data = load_data(f"cifar10:{tmp_path}", "test")
    assert (tuple(data.x.shape), data.y.tolist(), float(data.x.max())) == ((2, 3, 32, 32), [3, 4], 0.0)


class Calls:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call[0], self.call[1:]


GOOD_ROWS = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        (
            {b"data": Calls(os.system, "touch witness")},
            f"it refers to '{os.system.__module__}.system', which no CIFAR-10",
        ),
        ({b"data": Calls(eval, "open('witness', 'w')")}, "it refers to 'builtins.eval', which no CIFAR-10 batch does"),
        ({b"data": Calls(np.load, "witness")}, "it refers to 'numpy.load', which no CIFAR-10 batch does"),
        ({b"data": np.array([print], object)}, "it refers to 'builtins.print', which no CIFAR-10 batch does"),
        ({b"data": np.zeros((2, 3072)), b"labels": [0, 1]}, "its data is not an array of unsigned bytes [n, 3072]"),
        ({b"data": np.zeros((2, 100), np.uint8), b"labels": [0, 1]}, "its data is not an array of unsigned bytes"),
        ({b"data": GOOD_ROWS, b"labels": [0]}, "2 images but 1 labels"),
        ([1, 2], "it is not a dictionary with data and labels"),
        ({b"data": GOOD_ROWS, b"labels": [0, [1]]}, "its labels are not a list of integers"),
    ],
)
def test_a_hostile_or_damaged_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: Any, reason: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch))
    with pytest.raises(InputRefused) as error:
        load_data(f"cifar10:{tmp_path}", "test")
    assert str(error.value).startswith(f"{tmp_path}/test_batch: not a CIFAR-10 batch: {reason}")
    assert not (tmp_path / "witness").exists()


def test_a_pickle_that_asks_for_a_huge_memo_or_is_cut(tmp_path: Path) -> None:
    bytearray8 = b"\x80\x05\x96" + (3 << 30).to_bytes(8, "little") + b"."
    nested_keys = b"\x80\x02})" + b"2\x86" * 40 + b"K\x01s."  # hashing the last tuple takes 2**40 steps
    huge_memo = b"\x80\x02}r\xff\xff\xff\x7f."
    long_bytes = b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f"
    for raw in (bytearray8, nested_keys, huge_memo, long_bytes, b".", b"\x80\x02}", b"}(]K\x01u.", b"})R."):
        (tmp_path / "test_batch").write_bytes(raw)
        with pytest.raises(InputRefused, match="not a CIFAR-10 batch"):
            load_data(f"cifar10:{tmp_path}", "test")


def test_cifar_labels_are_checked(tmp_path: Path) -> None:
    (tmp_path / "test_batch").write_bytes(pickle.dumps({b"data": GOOD_ROWS, b"labels": [0, 10]}))
    with pytest.raises(InputRefused, match=r"test_batch: image 1 has the label 10, outside 0\.\.9$"):
        load_data(f"cifar10:{tmp_path}", "test")


# --- npz


def write_npz(path: Path, **arrays: Any) -> str:
    np.savez_compressed(path, **arrays)
    return f"npz:{path}"


def test_npz(tmp_path: Path) -> None:
    spec = write_npz(tmp_path / "d.npz", x=X, y=Y, x_test=X[:2] / 255, y_test=[0, 3], class_names=list("abcd"))
    assert same(load_data(spec), as_images((X, Y), "abcd"))
    assert same(load_data(spec, "test"), as_images((X[:2], np.array([0, 3])), "abcd"))
    assert load_data(spec, "test").source == f"{tmp_path}/d.npz (test)"


def test_npz_without_names_has_the_same_classes_in_both_splits(tmp_path: Path) -> None:
    spec = write_npz(tmp_path / "d.npz", x=X, y=Y, x_test=X[:2], y_test=[0, 4])
    assert load_data(spec).class_names == load_data(spec, "test").class_names == tuple("01234")


def test_npz_without_a_test_split(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"d\.npz: no test split: it needs the arrays x_test and y_test$"):
        load_data(write_npz(tmp_path / "d.npz", x=X, y=Y), "test")


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        (
            {"images": X, "labels": Y},
            ": not an npz file of plain arrays: it needs the arrays x, y, has images, labels",
        ),
        (
            {"x": X, "y": Y, "class_names": np.array(["a", None])},
            ": not an npz file of plain arrays: array 'class_names': it holds Python objects, and loading those can",
        ),
        ({"x": X, "y": Y, "class_names": np.arange(3)}, " (train): class_names must be strings [K], got int64 [3]"),
        (
            {"x": X, "y": np.array([Y, print], object)},
            ": not an npz file of plain arrays: array 'y': it holds Python objects, and loading those can run any code",
        ),
        ({"x": X, "y": Y, "class_names": ["a", "b"]}, " (train): image 2 has the label 2, outside 0..1"),
        ({"x": X, "y": -Y}, " (train): y: image 1 has the label -1, outside 0..9999"),
        ({"x": X[:0], "y": Y[:0]}, " (train): no images"),
        ({"x": np.float32(1), "y": Y}, " (train): images must be [N, H, W], [N, C, H, W] or [N, H, W, C] with 1 or 3"),
        ({"x": X[..., :3], "y": Y}, " (train): images of shape [3, 5, 3] can have their channels first or last"),
    ],
)
def test_npz_refused(tmp_path: Path, arrays: dict[str, Any], reason: str) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(InputRefused) as error:
        load_data(f"npz:{tmp_path}/d.npz")
    assert str(error.value).startswith(f"{tmp_path}/d.npz{reason}")


def test_npz_bombs_and_damage(tmp_path: Path) -> None:
    file = tmp_path / "d.npz"
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": (1 << 46, 8, 8)})
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", buffer.getvalue())
        archive.writestr("y.npy", buffer.getvalue())
    with pytest.raises(InputRefused, match=r"d\.npz: not an npz file of plain arrays: "):
        load_data(f"npz:{file}")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", b"abc")
        archive.writestr("y.npy", b"abc")
    good = file.read_bytes()
    start, *entries = good.split(b"PK\x01\x02")  # the directory; at byte 20 of an entry stands its unpacked size
    file.write_bytes(b"PK\x01\x02".join([start, *(e[:20] + b"\xfe\xff\xff\xff" + e[24:] for e in entries)]))
    with pytest.raises(
        InputRefused, match=r"d\.npz: .* it unpacks to 8589934588 bytes, the limit for its size is 67108864$"
    ):
        load_data(f"npz:{file}")
    for data in (good, good[:-5], b"\x80\x04N.", b"\x93NUMPY"):
        file.write_bytes(data)
        with pytest.raises(InputRefused, match=r"d\.npz: not an npz file of plain arrays: "):
            load_data(f"npz:{file}")


# --- folders of images


def write_images(folder: Path, mode: str = "L", size: tuple[int, int] = (4, 5), classes: str = "ab") -> None:
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(2):
            Image.new(mode, size, color=tuple([50 * label + i] * len(mode)) if mode == "RGB" else 50 * label + i).save(
                folder / name / f"{i}.png"
            )


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_folder(tmp_path: Path, mode: str, channels: int) -> None:
    write_images(tmp_path, mode)
    (tmp_path / "a" / ".hidden").touch()
    (tmp_path / ".cache").mkdir()
    data = load_data(f"folder:{tmp_path}")
    assert (data.input_shape, data.class_names, data.y.tolist()) == ((channels, 5, 4), ("a", "b"), [0, 0, 1, 1])
    assert torch.allclose(data.x[:, -1, 0, 0] * 255, torch.tensor([0.0, 1, 50, 51]))
    with pytest.raises(UsageError, match=r": no test split: it needs the sub-folders train and test$"):
        load_data(f"folder:{tmp_path}", "test")


def test_folder_with_splits(tmp_path: Path) -> None:
    write_images(tmp_path / "train", classes="abc")
    write_images(tmp_path / "test", classes="bc")
    data = load_data(f"folder:{tmp_path}", "test")
    assert (data.class_names, data.y.tolist()) == (("a", "b", "c"), [1, 1, 2, 2])
    assert len(load_data(f"folder:{tmp_path}")) == 6
    write_images(tmp_path / "test", classes="z")
    with pytest.raises(InputRefused, match=rf"^{tmp_path}/test/z: not a class of {tmp_path}/train$"):
        load_data(f"folder:{tmp_path}", "test")


def test_folder_refused(tmp_path: Path) -> None:
    def reason() -> str:
        with pytest.raises(InputRefused) as error:
            load_data(f"folder:{tmp_path}")
        return str(error.value).removeprefix(f"{tmp_path}")

    assert reason() == ": no images"
    write_images(tmp_path)
    odd = tmp_path / "b" / "9.png"
    Image.new("L", (4, 6)).save(odd)
    assert reason() == "/b/9.png: 4x6 gray, but the first image is 4x5 gray"
    Image.new("RGB", (4, 5)).save(odd)
    assert reason() == "/b/9.png: 4x5 RGB, but the first image is 4x5 gray"
    Image.new("RGBA", (4, 5)).save(odd)
    assert reason() == "/b/9.png: mode RGBA; save it as 8-bit gray (L) or RGB"
    odd.write_bytes((tmp_path / "b" / "0.png").read_bytes()[:-20])
    assert reason().startswith("/b/9.png: not an image that can be read: ")
    odd.write_text("%!PS not taken for PostScript")
    assert reason().startswith("/b/9.png: not an image that can be read: cannot identify image file")
    odd.unlink()
    os.mkfifo(odd)
    assert reason() == "/b/9.png: not a regular file"
    odd.unlink()
    (tmp_path / "readme").touch()
    assert reason() == "/readme: not a folder of images, one sub-folder per class is expected"
    (tmp_path / "readme").unlink()
    for file in (tmp_path / "b").iterdir():
        file.unlink()
    assert reason() == ": all 2 images are of class a; two classes are needed"


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    write_images(tmp_path)
    Image.new("1", (8192, 8192)).save(tmp_path / "a" / "0.png")
    with pytest.raises(InputRefused, match=r"a/0\.png: 8192x8192 pixels, the limit is 16777216 in all$"):
        load_data(f"folder:{tmp_path}")


def test_all_images_of_a_folder_together_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path)
    monkeypatch.setattr(sources, "MAX_DATA", 3 * 20)
    with pytest.raises(InputRefused, match=rf"^{tmp_path}: more than 60 bytes of pixels$"):
        load_data(f"folder:{tmp_path}")


# --- mutations


@pytest.mark.parametrize("kind", ["cifar10", "npz", "mnist", "folder"])
def test_mutated_data_are_read_or_refused_and_nothing_else(tmp_path: Path, mutated: Mutate, kind: str) -> None:
    spec, file = f"{kind}:{tmp_path}", tmp_path / "train-images-idx3-ubyte.gz"
    if kind == "cifar10":
        write_cifar(tmp_path)
        file = tmp_path / "data_batch_2"
    elif kind == "npz":
        file = tmp_path / "d.npz"
        spec = write_npz(file, x=X, y=Y)
    elif kind == "folder":
        write_images(tmp_path)
        file = tmp_path / "a" / "0.png"
    else:
        write_idx(tmp_path, idx(IMAGES), idx(LABELS), packed=True)
    good = file.read_bytes()
    if kind == "cifar10":  # most of it is pixels, which may be anything
        start = good.index(b"labels")
        parts = (good[:200], good[200:start], good[start:])
    else:
        parts = (good, b"", b"")
    refused = 0
    for seed in range(150):
        file.write_bytes(mutated(parts[0], seed) + parts[1] + (mutated(parts[2], seed) if parts[2] else b""))
        try:
            load_data(spec)
        except InputRefused:
            refused += 1
    assert refused > 50


# --- the real sets


@pytest.mark.parametrize(
    ("kind", "shape", "counts", "last"),
    [
        ("fashion-mnist", (1, 28, 28), [6000] * 10, "ankle boot"),
        ("mnist", (1, 28, 28), [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949], "9"),
        ("cifar10", (3, 32, 32), [5000] * 10, "truck"),
    ],
)
def test_real_data(shared_data: Path, kind: str, shape: tuple[int, int, int], counts: list[int], last: str) -> None:
    train, test = load_data(f"{kind}:{shared_data}"), load_data(f"{kind}:{shared_data}", "test")
    assert train.input_shape == test.input_shape == shape
    assert torch.bincount(train.y).tolist() == counts
    assert len(test) == 10_000
    assert train.class_names[9] == last
    assert 0.2 < float(train.x.mean()) < 0.5 or kind == "mnist"


# --- what a user hands over


def test_a_spec_is_loaded_and_all_else_is_adapted() -> None:
    digits = load_data("digits")
    assert same(take_images("digits"), digits)
    assert take_images(digits) is digits
    assert same(take_images((X, Y)), as_images((X, Y)))
    with pytest.raises(UsageError, match="unknown data 'nothing'"):
        take_images("nothing")


@pytest.mark.parametrize(("train", "test"), [("Train", "TEST"), ("train", "test")])
def test_splits_in_capitals(tmp_path: Path, train: str, test: str) -> None:
    write_images(tmp_path / train)
    write_images(tmp_path / test)
    assert (
        load_data(f"folder:{tmp_path}").class_names == load_data(f"folder:{tmp_path}", "test").class_names == ("a", "b")
    )
