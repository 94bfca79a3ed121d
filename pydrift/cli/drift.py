"""`pydrift calibrate` and `pydrift audit`: the drift audit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pydrift.cli.app import (
    DONE,
    DRIFT,
    FOUND,
    INCONCLUSIVE,
    MODEL_HELP,
    SOURCES,
    ArchOption,
    BenignVersionOption,
    DeviceOption,
    JsonOption,
    RecipesOption,
    RestartsOption,
    ResumeDirOption,
    SeedOption,
    ShadowsOption,
    SizeOption,
    UpdateModeOption,
    app,
    check_folder,
    find_own_architectures,
    finish,
    given,
    read_test_split,
    say,
)
from pydrift.core.errors import UsageError
from pydrift.core.files import check_writable
from pydrift.core.progress import for_terminal

if TYPE_CHECKING:
    from pydrift.drift.audit import DriftAuditor

_EXIT_CODE = {"stable": DONE, "drift": FOUND, "inconclusive": INCONCLUSIVE}


@app.command(rich_help_panel=DRIFT)
def calibrate(
    base: Annotated[Path, typer.Argument(metavar="BASE", help=MODEL_HELP)],
    data: Annotated[str, typer.Option("--data", help=f"Reference data: {SOURCES}.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the calibration.")],
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
    """Calibrate on a base model, so that candidates can be audited without any data.

    This trains shadows, inverts the base and the shadows, and measures the null distribution.
    """
    check_writable(out / "state.safetensors")  # at once: torch is imported after it
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


@app.command(rich_help_panel=DRIFT)
def audit(
    base: Annotated[Path, typer.Argument(metavar="CALIBRATION|BASE", help="Calibration folder, or base model file.")],
    candidate: Annotated[Path, typer.Argument(metavar="CANDIDATE", help="Model file of the version to audit.")],
    data: Annotated[str | None, typer.Option("--data", help=f"Images with labels: {SOURCES}.")] = None,
    alpha: Annotated[
        float, typer.Option("--alpha", help="The chance of any false alarm, over all classes together.")
    ] = 0.05,
    release: Annotated[
        int | None,
        typer.Option(
            "--release",
            min=1,
            help="The number of this audit in a series. --alpha is then the level of all its audits together.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for report.html, report.json and gray.npz.")] = None,
    json: JsonOption = False,
    use_data: Annotated[
        bool, typer.Option("--use-data", help="Let the images of --data count in the verdict, beside the gray data.")
    ] = False,
    fingerprint: Annotated[
        Path | None,
        typer.Option(
            "--fingerprint",
            help="The base's fingerprint. The report then says which share of the gray data it knows.",
        ),
    ] = None,
    no_images: Annotated[
        bool, typer.Option("--no-images", help="Leave the gray images out, because they may reveal training data.")
    ] = False,
    shadows: ShadowsOption = None,
    update_mode: UpdateModeOption = None,
    recipes: RecipesOption = None,
    benign_version: BenignVersionOption = None,
    restarts: RestartsOption = None,
    size: SizeOption = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="The seed of everything random.", show_default="0")
    ] = None,
    arch: ArchOption = None,
    device: DeviceOption = None,
    resume_dir: ResumeDirOption = None,
) -> None:
    """Decide whether a candidate has drifted.

    With a calibration folder, the audit needs no data. --data then adds the accuracy baselines. With a base model file,
    --data is the reference data on which the audit first calibrates.

    The exit code is 0 for stable, 1 for drift and 3 for inconclusive.
    """
    check_folder(out, "report.json")
    from pydrift.data import load_data
    from pydrift.drift.result import DriftReport

    if not 0 < alpha < 1:
        raise UsageError(f"--alpha must lie between 0 and 1, got {alpha:g}")
    find_own_architectures(arch)
    if not base.exists():
        raise UsageError(f"{base}: no such calibration folder or model file")
    if out is not None:
        DriftReport.check_target(out)
    of_calibration = given(
        shadows=shadows,
        update_mode=update_mode,
        recipes=recipes,
        benign_versions=benign_version,
        restarts=restarts,
        size=size,
        seed=seed,
    )
    auditor = _auditor(base, data, of_calibration, arch=arch, device=device, resume_dir=resume_dir)
    # The baselines want images that neither model was trained on, or else the reference data itself.
    holdout = None if data is None else read_test_split(data) or load_data(data)
    report = auditor.compare(
        candidate, holdout, alpha, use_data=use_data, release=release, fingerprint=fingerprint, arch=arch
    )
    finish(report, json=json, out=out, images=not no_images, exit_code=_EXIT_CODE[report.verdict])


def _auditor(base: Path, data: str | None, of_calibration: dict[str, Any], **common: Any) -> DriftAuditor:
    """The auditor of a calibration folder, or one that is calibrated now."""
    from pydrift.data import load_data
    from pydrift.drift.audit import DriftAuditor

    common["progress"] = for_terminal()
    if base.is_dir():
        if of_calibration:
            option = next(iter(of_calibration)).replace("_", "-").replace("versions", "version")
            raise UsageError(f"{base} is a calibration: --{option} was fixed when it was made")
        return DriftAuditor.load(base, **common)
    if data is None:
        raise UsageError(f"{base} is a model file: calibrating on it needs --data")
    return DriftAuditor(base, **of_calibration, **common).fit(load_data(data))
