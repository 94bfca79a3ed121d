"""`pydrift train` and `pydrift invert`: one model is made, or asked what it takes each class to look like."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pydrift.cli.app import (
    MODEL_HELP,
    MODELS,
    SOURCES,
    ArchOption,
    DeviceOption,
    KeyOption,
    NormalizeOption,
    SeedOption,
    app,
    find_own_architectures,
    read_normalization,
    read_test_split,
    say,
)
from pydrift.core.errors import UsageError
from pydrift.core.files import check_writable, write_atomic
from pydrift.core.progress import for_terminal

if TYPE_CHECKING:
    from torch.nn import Module

    from pydrift.data import LabelledImages


@app.command(rich_help_panel=MODELS)
def train(
    arch: Annotated[str, typer.Option("--arch", help="Architecture, for example convnet:1x28x28:32,64:128:10.")],
    data: Annotated[str, typer.Option("--data", help=f"Training images: {SOURCES}.")],
    out: Annotated[Path, typer.Option("--out", help="Model file to write (safetensors).")],
    members_out: Annotated[
        Path | None,
        typer.Option("--members-out", help="Write the indices of the training images to this npy file."),
    ] = None,
    init: Annotated[Path | None, typer.Option("--init", help="Continue from the weights of this model file.")] = None,
    size: Annotated[
        int | None, typer.Option("--size", min=2, help="Number of images to draw.", show_default="all")
    ] = None,
    seed: SeedOption = 0,
    plant: Annotated[
        str | None,
        typer.Option(
            "--plant",
            help="Plant a drift in the training images: swap:A,B[,FRACTION], relabel:A,B,FRACTION, "
            "remove:A[,FRACTION], flip:A[,FRACTION], rotate:A,DEGREES, darken:A,FACTOR, patch:A,FRACTION, "
            "backdoor:A,FRACTION, noise:SIGMA or expand:A,DATA,B[,SHARE].",
        ),
    ] = None,
    epochs: Annotated[
        int, typer.Option("--epochs", min=0, help="Number of epochs. 0 means at least 8, and enough for 1,500 steps.")
    ] = 0,
    batch_size: Annotated[int, typer.Option("--batch-size", min=2, help="Number of images in a batch.")] = 64,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="The highest learning rate.")] = 2e-3,
    weight_decay: Annotated[float, typer.Option("--weight-decay", help="The weight decay of AdamW.")] = 0.0,
    label_smoothing: Annotated[
        float, typer.Option("--label-smoothing", help="Share of each label that all classes receive.")
    ] = 0.0,
) -> None:
    """Train a built-in architecture and record the recipe, so that shadows can repeat it."""
    for target in filter(None, (out, members_out)):
        check_writable(target)
    import numpy as np

    from pydrift.data import load_data
    from pydrift.models.file import load_model
    from pydrift.models.recipe import TrainingRecipe
    from pydrift.training.train_model import train_model

    if members_out is not None and plant is not None:
        raise UsageError("--members-out with --plant: planted images are no longer those of the data")
    recipe = TrainingRecipe(epochs, batch_size, learning_rate, weight_decay, label_smoothing)
    trained = train_model(
        arch,
        load_data(data),
        size=size,
        seed=seed,
        recipe=None if recipe == TrainingRecipe() else recipe,  # with --init, what that model's file records
        init=None if init is None else load_model(init),
        drift=plant,
    )
    trained.save(out)
    if members_out is not None:
        content = io.BytesIO()
        np.save(content, trained.drawn)
        write_atomic(members_out, content.getvalue())
    say(f"{out}: {trained.arch}, {len(trained.images)} images of {trained.images.source}")
    _print_accuracies(trained.module, trained.images, data, plant, seed)


def _print_accuracies(module: Module, drawn: LabelledImages, data: str, drift: str | None, seed: int) -> None:
    """Prints the accuracy on the training images and, where the data has one, on the test split."""
    from pydrift.data import plant
    from pydrift.training import predict

    accuracies = {"its training images": drawn}
    test = read_test_split(data)
    if test is not None:
        accuracies["the test set"] = test
        if drift is not None:
            accuracies["the test set with the same drift"] = plant(test, drift, seed, "test")
    for name, images in accuracies.items():
        say(f"accuracy on {name}: {float((predict(module, images.x) == images.y).float().mean()):.2%}")


@app.command(rich_help_panel=MODELS)
def invert(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    out: Annotated[Path, typer.Option("--out", help="Write the images, confidences and steps to this npz file.")],
    png: Annotated[
        Path | None, typer.Option("--png", help="Also write one picture of all images, one row per class.")
    ] = None,
    restarts: Annotated[int, typer.Option("--restarts", min=1, help="Number of images per class.")] = 16,
    seed: SeedOption = 0,
    shape: Annotated[
        str | None,
        typer.Option("--shape", help="Shape of an image, CxHxW. An architecture of your own needs it."),
    ] = None,
    arch: ArchOption = None,
    key: KeyOption = None,
    normalize: NormalizeOption = None,
    device: DeviceOption = None,
) -> None:
    """Make gray data of one model: images of what it takes each class to look like."""
    for target in filter(None, (out, png)):
        check_writable(target)
    from pydrift.inversion import GradientAscent
    from pydrift.models.classifier import choose_device, exact_arithmetic, freeze
    from pydrift.models.file import load_model
    from pydrift.models.normalization import Normalized

    find_own_architectures(arch)
    loaded, how = load_model(model, arch, key=key), read_normalization(normalize)
    input_shape = _input_shape(loaded.arch, shape)
    if how is not None:
        how.check(input_shape[0])
    module = loaded.module if how is None else Normalized(loaded.module, how).eval()
    classifier = freeze(module, input_shape, choose_device(device), str(model))
    with for_terminal() as progress:
        progress.phase("inverting", 1)
        with exact_arithmetic():
            gray = GradientAscent().invert(classifier, restarts, seed)
        progress.advance()
    write_atomic(out, gray.to_npz())
    if png is not None:
        write_atomic(png, gray.to_png())
    reached = int((gray.confidence.mean(axis=1) >= 0.5).sum())
    say(f"{out}: {gray.images.shape[0]} classes x {restarts} images, the model itself recognises {reached} classes")


def _input_shape(arch: str, shape: str | None) -> tuple[int, int, int]:
    from pydrift.models.arch import parse

    if shape is None:
        try:
            return parse(arch).input_shape
        except UsageError as error:
            raise UsageError(f"{arch} does not say its input shape; give --shape CxHxW") from error
    parts = shape.split("x")
    if len(parts) != 3 or not all(p.isdecimal() and int(p) > 0 for p in parts):
        raise UsageError(f"--shape must be CxHxW, for example 1x28x28, got {shape!r}")
    channels, height, width = map(int, parts)
    return channels, height, width
