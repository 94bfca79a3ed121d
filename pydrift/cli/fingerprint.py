"""`pydrift fingerprint`: what a model takes for its own kind of data, and whether other data is of that kind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pydrift.cli.app import (
    MEMBERS_HELP,
    MODEL_HELP,
    OTHER_AUDITS,
    SOURCES,
    App,
    ArchOption,
    DeviceOption,
    Group,
    JsonOption,
    KeyOption,
    SeedOption,
    app,
    check_folder,
    find_own_architectures,
    finish,
    read_members,
    say,
)
from pydrift.core.errors import UsageError
from pydrift.core.files import check_writable
from pydrift.core.progress import for_terminal

if TYPE_CHECKING:
    from pydrift.fingerprint import Fingerprint

fingerprint = App(
    name="fingerprint",
    cls=Group,
    help="Tell images of a model's own kind from others. No outliers are needed.",
    no_args_is_help=True,
)
app.add_typer(fingerprint, rich_help_panel=OTHER_AUDITS)

_DETECTORS = (
    "neuralfp, msp, max-logit, energy, odin, gen, react, ash, she, knn, vim, mahalanobis, mahalanobis-ensemble or gram"
)


@fingerprint.command()
def fit(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    data: Annotated[
        str, typer.Option("--data", help=f"The images that it was trained on, and others like them: {SOURCES}.")
    ],
    out: Annotated[Path, typer.Option("--out", help="File for the fingerprint (safetensors).")],
    members: Annotated[
        Path | None,
        typer.Option(
            "--members", help=f"Which images it was trained on. The others calibrate the fingerprint. {MEMBERS_HELP}"
        ),
    ] = None,
    detector: Annotated[str, typer.Option("--detector", help=f"The detector: {_DETECTORS}.")] = "neuralfp",
    json: Annotated[bool, typer.Option("--json", help="Print what was made as one JSON document.")] = False,
    seed: SeedOption = 0,
    arch: ArchOption = None,
    key: KeyOption = None,
    device: DeviceOption = None,
) -> None:
    """Take a model's fingerprint.

    Without --members, a random fifth of the data calibrates it.
    """
    check_writable(out)
    from dataclasses import asdict

    from pydrift.core.strict_json import to_strict_json
    from pydrift.data import load_data
    from pydrift.fingerprint import fit_fingerprint, select_detector
    from pydrift.models.intake import as_audited_model

    select_detector(detector)  # refuses an unknown one before the work
    find_own_architectures(arch)
    made = fit_fingerprint(
        as_audited_model(model, str(model), arch, key),
        load_data(data),
        None if members is None else read_members(members),
        detector=detector,
        seed=seed,
        device=device,
        progress=for_terminal(),
    )
    made.save(out)
    origin = made.origin
    if json:
        say(to_strict_json({"schema_version": 1, "file": str(out), "fingerprint": asdict(origin)}), end="")
        return
    say(f"{out}: {detector} of {origin.model}, {len(origin.layers)} layers ({', '.join(origin.layers)})")
    say(f"fitted on {origin.fitted_on} images of {origin.data}, calibrated on {origin.held_out} others")
    for reason in origin.reasons:
        say(f"  - {reason}")


@fingerprint.command()
def score(
    file: Annotated[Path, typer.Argument(metavar="FINGERPRINT", help="File that pydrift fingerprint fit made.")],
    data: Annotated[str, typer.Option("--data", help=f"Images to score: {SOURCES}.")],
    model: Annotated[
        Path | None,
        typer.Option("--model", help="File of the fingerprint's model.", show_default="the file that it was then"),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Which split of the data to score: train or test.")] = "train",
    alpha: Annotated[float, typer.Option("--alpha", help="An image is flagged if its p is at most alpha.")] = 0.05,
    fail_above: Annotated[
        float | None,
        typer.Option(
            "--fail-above", min=0, max=1, help="Exit with 1 if more than this share of the images is flagged."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for screening.html, screening.json and scores.npz.")
    ] = None,
    json: JsonOption = False,
    arch: ArchOption = None,
    key: KeyOption = None,
    device: DeviceOption = None,
) -> None:
    """Score images: which are of the model's own kind?

    The exit code is 1 if more than --fail-above of them are flagged.
    """
    check_folder(out, "screening.json")
    from pydrift.data import load_data
    from pydrift.fingerprint import Fingerprint, Screening, screen
    from pydrift.models.intake import as_audited_model

    if out is not None:
        Screening.check_target(out)
    find_own_architectures(arch)
    known = Fingerprint.load(file)
    known.conformal.check_alpha(alpha)
    of = model or _model_of(known, file)
    scorer = known.scorer(as_audited_model(of, str(of), arch, key), device=device)
    result = screen(scorer, load_data(data, split), alpha, for_terminal())
    exceeded = []
    if fail_above is not None and result.share > fail_above:
        exceeded.append(f"{result.share:.4g} of the images are flagged, more than {fail_above:g}")
    finish(result, json=json, out=out, exceeded=exceeded)


def _model_of(known: Fingerprint, file: Path) -> Path:
    """The model's file as the fingerprint recorded it."""
    path = known.origin.model_path
    if path is None:
        raise UsageError(f"{file}: does not say which file its model is in; name it (--model)")
    if not Path(path).exists():
        raise UsageError(f"{path}: the model that {file} was made of is no longer there; name its file (--model)")
    return Path(path)
