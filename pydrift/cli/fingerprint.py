"""`pydrift fingerprint`: what a model takes for its own kind of data, and whether other data is of that kind."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pydrift.cli.app import (
    DATA_HELP,
    ArchOption,
    DeviceOption,
    SeedOption,
    app,
    find_own_architectures,
    print_page,
    say,
)
from pydrift.cli.membership import read_members
from pydrift.core.errors import UsageError
from pydrift.core.progress import for_terminal

if TYPE_CHECKING:
    from pydrift.fingerprint import Fingerprint

fingerprint = typer.Typer(
    name="fingerprint",
    help="Tell inputs that are of a model's own kind from others; no outliers are needed.",
    no_args_is_help=True,
)
app.add_typer(fingerprint)

_EXCEEDED = 1
_DETECTORS = (
    "neuralfp, msp, max-logit, energy, odin, gen, react, ash, she, knn, vim, mahalanobis, mahalanobis-ensemble or gram"
)


@fingerprint.command()
def fit(
    model: Annotated[Path, typer.Argument(help="model file (safetensors or state dict)")],
    data: Annotated[str, typer.Option("--data", help=f"what it was trained on, and others like it: {DATA_HELP}")],
    out: Annotated[Path, typer.Option("--out", help="file for the fingerprint (safetensors)")],
    members: Annotated[
        Path | None,
        typer.Option(
            "--members",
            help="npy file: which of the data it was trained on (train --members-out); the others calibrate",
        ),
    ] = None,
    detector: Annotated[str, typer.Option("--detector", help=_DETECTORS)] = "neuralfp",
    json: Annotated[bool, typer.Option("--json", help="print what was made as one JSON document")] = False,
    seed: SeedOption = 0,
    arch: ArchOption = None,
    device: DeviceOption = None,
) -> None:
    """Take a model's fingerprint.

    Without --members a fifth of the data, drawn at random, calibrates.
    """
    from dataclasses import asdict

    from pydrift.core.store import check_writable, to_strict_json
    from pydrift.data import load_data
    from pydrift.fingerprint import detector_named, fit_fingerprint
    from pydrift.models.intake import as_audited_model

    check_writable(out)
    detector_named(detector)  # refuses unknown ones before the work
    find_own_architectures(arch)
    indices = None if members is None else read_members(members)
    made = fit_fingerprint(
        as_audited_model(model, str(model), arch), load_data(data), indices, detector=detector, seed=seed, device=device,
        progress=for_terminal(),
    )  # fmt: skip
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
    file: Annotated[Path, typer.Argument(metavar="FINGERPRINT", help="what pydrift fingerprint fit made")],
    data: Annotated[str, typer.Option("--data", help=f"images to score: {DATA_HELP}")],
    model: Annotated[
        Path | None, typer.Option("--model", help="the model that it was made of; default: the file that it was then")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="train or test")] = "train",
    alpha: Annotated[float, typer.Option("--alpha", help="images with p up to this are flagged")] = 0.05,
    fail_above: Annotated[
        float | None,
        typer.Option("--fail-above", min=0, max=1, help="exit 1 if more than this share of the images is flagged"),
    ] = None,
    scores: Annotated[
        Path | None, typer.Option("--scores", help="npz file for p, score and prediction of each image")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="HTML file of the result")] = None,
    json: Annotated[bool, typer.Option("--json", help="print the result as one JSON document")] = False,
    arch: ArchOption = None,
    device: DeviceOption = None,
) -> None:
    """Score images: which are of the kind that the model knows? Exit code 1 if too many are not (--fail-above)."""
    from pydrift.core.store import check_writable
    from pydrift.data import load_data
    from pydrift.fingerprint import Fingerprint, screen
    from pydrift.models.intake import as_audited_model
    from pydrift.report import render_screening_terminal

    for target in filter(None, (scores, html)):
        check_writable(target)
    find_own_architectures(arch)
    known = Fingerprint.load(file)
    known.conformal.check_alpha(alpha)
    of = model or _model_of(known, file)
    scorer = known.scorer(as_audited_model(of, str(of), arch), device=device)
    result = screen(scorer, load_data(data, split), alpha, for_terminal())
    if scores is not None:
        result.save_scores(scores)
    if html is not None:
        result.save_html(html)
    if json:
        say(result.to_json(), end="")
    else:
        print_page(lambda console: render_screening_terminal(result, console))
    exceeded = fail_above is not None and result.share > fail_above
    if exceeded:
        print(f"pydrift: {result.share:.4g} of the images are flagged, more than {fail_above:g}", file=sys.stderr)
    raise typer.Exit(_EXCEEDED if exceeded else 0)


def _model_of(known: Fingerprint, file: Path) -> Path:
    """The model's file as the fingerprint recorded it."""
    path = known.origin.model_path
    if path is None:
        raise UsageError(f"{file}: does not say which file its model is in; name it (--model)")
    if not Path(path).exists():
        raise UsageError(f"{path}: the model that {file} was made of is no longer there; name its file (--model)")
    return Path(path)
