"""The commands of the main job: train, calibrate, audit, invert, and the demo of all of them."""

from __future__ import annotations

import io
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pydrift.cli.app import (
    DATA_HELP,
    ArchOption,
    BenignVersionOption,
    DeviceOption,
    RecipesOption,
    RestartsOption,
    ResumeDirOption,
    SeedOption,
    ShadowsOption,
    SizeOption,
    UpdateModeOption,
    app,
    find_own_architectures,
    given,
    print_page,
    say,
    test_split,
)
from pydrift.core.errors import UsageError
from pydrift.core.progress import for_terminal

if TYPE_CHECKING:
    from pydrift.drift.result import DriftReport

EXIT_CODES = {"stable": 0, "drift": 1, "inconclusive": 3}


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="folder for models, calibration and reports")] = Path("demo"),
) -> None:
    """Run the main job on scikit-learn's digits: a benign update and a drifted one, both audited."""
    from pydrift.drift.demo import DRIFT, run_demo

    for outcome in run_demo(out, for_terminal()):
        what = f"{DRIFT} planted" if outcome.name == "drifted" else "retrained on another sample"
        say(f"\n{outcome.name} update ({what}), accuracy {outcome.accuracy:.1%} on current test data")
        _print_report(outcome.report)
        say(f"report: {out / outcome.name / 'report.html'}")


@app.command()
def train(
    arch: Annotated[str, typer.Option("--arch", help="for example convnet:1x28x28:32,64:128:10")],
    data: Annotated[str, typer.Option("--data", help=DATA_HELP)],
    out: Annotated[Path, typer.Option("--out", help="the model file to write (safetensors)")],
    members_out: Annotated[
        Path | None, typer.Option("--members-out", help="npy file of the indices of the images it was trained on")
    ] = None,
    init: Annotated[Path | None, typer.Option("--init", help="continue from this model's weights")] = None,
    size: Annotated[int | None, typer.Option("--size", min=2, help="images to draw (default: all)")] = None,
    seed: SeedOption = 0,
    plant: Annotated[
        str | None,
        typer.Option(
            "--plant",
            help="swap:A,B[,FRACTION]  relabel:A,B,FRACTION  remove:A[,FRACTION]  flip:A[,FRACTION]  rotate:A,DEGREES  "
            "darken:A,FACTOR  patch:A,FRACTION  backdoor:A,FRACTION  noise:SIGMA  expand:A,DATA,B[,SHARE]",
        ),
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=0, help="0: at least 8, and enough for 1,500 steps")] = 0,
    batch_size: Annotated[int, typer.Option("--batch-size", min=2)] = 64,
    learning_rate: Annotated[float, typer.Option("--learning-rate")] = 2e-3,
    weight_decay: Annotated[float, typer.Option("--weight-decay")] = 0.0,
    label_smoothing: Annotated[float, typer.Option("--label-smoothing")] = 0.0,
) -> None:
    """Train a built-in architecture and record how, so that shadows can repeat it."""
    import numpy as np

    from pydrift.core.store import check_writable, write_atomic
    from pydrift.data import load_data
    from pydrift.data import plant as plant_drift
    from pydrift.models.file import load_model
    from pydrift.models.recipe import TrainingRecipe
    from pydrift.training import predict
    from pydrift.training.train_model import train_model

    if members_out is not None and plant is not None:
        raise UsageError("--members-out with --plant: planted images are not those of the data any more")
    for target in filter(None, (out, members_out)):
        check_writable(target)
    recipe = TrainingRecipe(epochs, batch_size, learning_rate, weight_decay, label_smoothing)
    images = load_data(data)
    trained = train_model(
        arch,
        images,
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
    accuracies = {"its training images": trained.images}
    test = test_split(data)
    if test is not None:
        accuracies["the test set"] = test
        if plant is not None:
            accuracies["the test set with the same drift"] = plant_drift(test, plant, seed, "test")
    for name, images in accuracies.items():
        say(f"accuracy on {name}: {float((predict(trained.module, images.x) == images.y).float().mean()):.2%}")


@app.command()
def calibrate(
    base: Annotated[Path, typer.Argument(help="model file (safetensors or state dict)")],
    data: Annotated[str, typer.Option("--data", help=f"reference data: {DATA_HELP}")],
    out: Annotated[Path, typer.Option("--out", help="folder for the calibration")],
    shadows: ShadowsOption = None,
    update_mode: UpdateModeOption = None,
    recipes: RecipesOption = None,
    benign_version: BenignVersionOption = None,
    restarts: RestartsOption = None,
    size: SizeOption = None,
    seed: SeedOption = 0,
    arch: ArchOption = None,
    device: DeviceOption = None,
    resume_dir: ResumeDirOption = None,
) -> None:
    """Train shadows, invert base and shadows, form the null. Afterwards updates are audited without any data."""
    from pydrift.data import load_data
    from pydrift.drift.audit import DriftAuditor

    DriftAuditor.check_target(out)
    find_own_architectures(arch)
    auditor = DriftAuditor(
        base,
        **given(
            shadows=shadows,
            update_mode=update_mode,
            recipes=recipes,
            benign_versions=benign_version,
            restarts=restarts,
            size=size,
        ),
        seed=seed,
        arch=arch,
        device=device,
        resume_dir=resume_dir,
        progress=for_terminal(),
    )
    auditor.fit(load_data(data)).save(out)
    say(f"{out}")


@app.command()
def audit(
    first: Annotated[Path, typer.Argument(metavar="CALIBRATION|BASE", help="calibration folder, or base model file")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="the newer model's file")],
    data: Annotated[str | None, typer.Option("--data", help=DATA_HELP)] = None,
    alpha: Annotated[float, typer.Option("--alpha", help="error level over all classes together")] = 0.05,
    release: Annotated[
        int | None,
        typer.Option(
            "--release", min=1, help="this is audit N of a series: --alpha is the level of all of them together"
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="folder for report.html, report.json and gray.npz")] = None,
    json: Annotated[bool, typer.Option("--json", help="print the result as one JSON document")] = False,
    use_data: Annotated[
        bool, typer.Option("--use-data", help="let the verdict look at --data's images too, not only at gray data")
    ] = False,
    fingerprint: Annotated[
        Path | None,
        typer.Option("--fingerprint", help="the base's: also say which share of the gray data it knows (no verdict)"),
    ] = None,
    no_images: Annotated[
        bool, typer.Option("--no-images", help="leave the gray images out: they may reveal training data")
    ] = False,
    shadows: ShadowsOption = None,
    update_mode: UpdateModeOption = None,
    recipes: RecipesOption = None,
    benign_version: BenignVersionOption = None,
    restarts: RestartsOption = None,
    size: SizeOption = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="of everything random (default: 0)")] = None,
    arch: ArchOption = None,
    device: DeviceOption = None,
    resume_dir: ResumeDirOption = None,
) -> None:
    """Judge a newer model: exit code 0 stable, 1 drift, 3 inconclusive.

    With a calibration folder no data is needed; --data adds the accuracy baselines, --use-data what the models
    say of it to the verdict. With a base model, --data is the reference data that the null is calibrated on.
    """
    from pydrift.data import load_data
    from pydrift.drift.audit import DriftAuditor
    from pydrift.drift.result import DriftReport

    options = given(
        shadows=shadows,
        update_mode=update_mode,
        recipes=recipes,
        benign_versions=benign_version,
        restarts=restarts,
        size=size,
        seed=seed,
    )
    common: dict[str, Any] = {"arch": arch, "device": device, "resume_dir": resume_dir, "progress": for_terminal()}
    if not 0 < alpha < 1:
        raise UsageError(f"--alpha must lie between 0 and 1, got {alpha:g}")
    find_own_architectures(arch)
    if not first.exists():
        raise UsageError(f"{first}: no such calibration folder or model file")
    if out is not None:
        DriftReport.check_target(out)
    if first.is_dir():
        if options:
            raise UsageError(f"{first} is a calibration: --{next(iter(options))} was fixed when it was made")
        auditor = DriftAuditor.load(first, **common)
    else:
        if data is None:
            raise UsageError(f"{first} is a model file: calibrating on it needs --data")
        auditor = DriftAuditor(first, **options, **common).fit(load_data(data))
    # The baselines want images that neither model was trained on; the reference data itself where there are no others.
    holdout = None if data is None else test_split(data) or load_data(data)
    report = auditor.compare(
        new, holdout, alpha, use_data=use_data, release=release, fingerprint=fingerprint, arch=arch
    )
    command = shlex.join(["pydrift", *sys.argv[1:]])
    report = replace(report, provenance=replace(report.provenance, command=command))
    if json:
        say(report.to_json(), end="")
    else:
        _print_report(report)
    if out is not None:
        report.save(out, images=not no_images)
        if not json:
            say(f"report: {out / 'report.html'}")
    raise typer.Exit(EXIT_CODES[report.verdict])


@app.command()
def invert(
    model: Annotated[Path, typer.Argument(help="model file (safetensors or state dict)")],
    out: Annotated[Path, typer.Option("--out", help="npz file: images, confidence, steps")],
    png: Annotated[Path | None, typer.Option("--png", help="also a picture, one row per class")] = None,
    restarts: Annotated[int, typer.Option("--restarts", min=1, help="images per class")] = 16,
    seed: SeedOption = 0,
    shape: Annotated[str | None, typer.Option("--shape", help="CxHxW, for an architecture of your own")] = None,
    arch: ArchOption = None,
    device: DeviceOption = None,
) -> None:
    """Make gray data of one model: images of what it takes each class to look like."""
    import torch

    from pydrift.core.store import check_writable, write_atomic
    from pydrift.inversion import GradientAscent
    from pydrift.models.classifier import choose_device, exact_arithmetic, freeze
    from pydrift.models.file import load_model

    for target in filter(None, (out, png)):
        check_writable(target)
    find_own_architectures(arch)
    loaded = load_model(model, arch)
    classifier = freeze(loaded.module, _input_shape(loaded.arch, shape), choose_device(device), str(model))
    with for_terminal() as progress:
        progress.phase("inverting", 1)
        with exact_arithmetic():
            gray = GradientAscent().invert(classifier, restarts, seed)
        progress.advance()
    write_atomic(out, gray.to_npz())
    if png is not None:
        write_atomic(png, gray.to_png())
    reached = int((torch.from_numpy(gray.confidence).mean(dim=1) >= 0.5).sum())
    say(f"{out}: {gray.images.shape[0]} classes x {restarts} images, {reached} classes recognised by the model itself")


@app.command()
def doctor() -> None:
    """Say what this installation can do and, where something is missing, why."""
    from pydrift.cli.doctor import examine

    for name, finding in examine():
        say(f"{name:<18} {finding}")


def _input_shape(arch: str, given: str | None) -> tuple[int, int, int]:
    from pydrift.models.arch import parse

    if given is None:
        try:
            return parse(arch).input_shape
        except UsageError as error:
            raise UsageError(f"{arch} does not say its input shape; give --shape CxHxW") from error
    parts = given.split("x")
    if len(parts) != 3 or not all(p.isdecimal() and int(p) > 0 for p in parts):
        raise UsageError(f"--shape must be CxHxW, for example 1x28x28, got {given!r}")
    channels, height, width = map(int, parts)
    return channels, height, width


def _print_report(report: DriftReport) -> None:
    from pydrift.report import render_terminal

    print_page(lambda console: render_terminal(report, console))
