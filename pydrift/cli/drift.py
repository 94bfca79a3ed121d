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
    KeyOption,
    NormalizeOption,
    RecipeOption,
    RecipesOption,
    RestartsOption,
    ResumeDirOption,
    SeedOption,
    ShadowsOption,
    SizeOption,
    UpdateModeOption,
    app,
    changed_recipe,
    check_folder,
    find_own_architectures,
    finish,
    given,
    read_normalization,
    read_test_split,
    say,
)
from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.files import check_writable
from pydrift.core.progress import for_terminal

if TYPE_CHECKING:
    from pydrift.drift.audit import DriftAuditor
    from pydrift.models.recipe import TrainingRecipe

_MAX_RECIPE = 1 << 16  # bytes
_EXIT_CODE = {"stable": DONE, "drift": FOUND, "inconclusive": INCONCLUSIVE}


@app.command(rich_help_panel=DRIFT)
def calibrate(
    base: Annotated[Path, typer.Argument(metavar="BASE", help=MODEL_HELP)],
    data: Annotated[str, typer.Option("--data", help=f"Reference data: {SOURCES}.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the calibration.")],
    shadows: ShadowsOption = None,
    update_mode: UpdateModeOption = None,
    recipes: RecipesOption = None,
    recipe: RecipeOption = None,
    benign_version: BenignVersionOption = None,
    restarts: RestartsOption = None,
    size: SizeOption = None,
    seed: SeedOption = 0,
    arch: ArchOption = None,
    key: KeyOption = None,
    normalize: NormalizeOption = None,
    device: DeviceOption = None,
    resume_dir: ResumeDirOption = None,
) -> None:
    """Calibrate on a base model, so that candidates can be audited without any data.

    This trains shadows, inverts the base and the shadows, and measures the null distribution.
    """
    check_writable(out / "state.safetensors")  # at once: torch is imported after it
    from pydrift.data import load_data
    from pydrift.drift.audit import DriftAuditor
    from pydrift.models.intake import as_audited_model

    DriftAuditor.check_target(out)
    find_own_architectures(arch)
    audited = as_audited_model(base, "base", arch, key)
    auditor = DriftAuditor(
        audited,
        **given(
            normalize=read_normalization(normalize),
            shadows=shadows,
            update_mode=update_mode,
            recipe=changed_recipe(recipe or [], audited.recipe),
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
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            "--recipe",
            metavar="same|KEY=VALUE|FILE",
            help="How the candidate was trained: as the base (same), with one change to that, or by a JSON file. "
            "You may repeat KEY=VALUE.",
            show_default="what the candidate's file records",
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
    key: KeyOption = None,
    normalize: NormalizeOption = None,
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
    from pydrift.models.intake import as_audited_model

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
    where = {"arch": arch, "device": device, "resume_dir": resume_dir, "normalize": read_normalization(normalize)}
    auditor, stated = _auditor(base, data, of_calibration, candidate, recipe or [], key, **where)
    # The baselines want images that neither model was trained on, or else the reference data itself.
    holdout = None if data is None else read_test_split(data) or load_data(data)
    report = auditor.compare(
        as_audited_model(candidate, "candidate", arch, key),
        holdout,
        alpha,
        use_data=use_data,
        release=release,
        fingerprint=fingerprint,
        recipe=stated,
        arch=arch,
    )
    finish(report, json=json, out=out, images=not no_images, exit_code=_EXIT_CODE[report.verdict])


def _read_recipe(stated: list[str], base: TrainingRecipe | None) -> TrainingRecipe | str | None:
    """The candidate's recipe: "same", changes to that of the base, or what a file says; None: nothing is stated."""
    from pydrift.core.files import read_file
    from pydrift.models.recipe import TrainingRecipe

    if stated in ([], ["same"]):
        return stated[0] if stated else None
    if all("=" in one for one in stated):
        if base is None:
            raise UsageError("--recipe: these shadows come from your own training, so state same or nothing")
        return changed_recipe(stated, base)
    if len(stated) > 1 or not Path(stated[0]).is_file():
        raise UsageError(f"--recipe {' '.join(stated)}: neither same, nor KEY=VALUE, nor a file with a recipe")
    text = read_file(Path(stated[0]), _MAX_RECIPE).decode(errors="replace")
    try:
        return TrainingRecipe.from_json(text)
    except UsageError as error:
        raise InputRefused(f"{stated[0]}: {error}") from error


def _auditor(
    base: Path,
    data: str | None,
    of_calibration: dict[str, Any],
    candidate: Path,
    recipe: list[str],
    key: str | None,
    **common: Any,
) -> tuple[DriftAuditor, TrainingRecipe | str | None]:
    """The auditor of a calibration folder, or one that is calibrated now for this candidate; and its stated recipe."""
    from pydrift.data import load_data
    from pydrift.drift.audit import DriftAuditor
    from pydrift.models.intake import as_audited_model

    common["progress"] = for_terminal()
    if base.is_dir():
        if of_calibration:
            option = next(iter(of_calibration)).replace("_", "-").replace("versions", "version")
            raise UsageError(f"{base} is a calibration: --{option} was fixed when it was made")
        auditor = DriftAuditor.load(base, **common)
        return auditor, _read_recipe(recipe, auditor.calibration.recipe)
    if data is None:
        raise UsageError(f"{base} is a model file: calibrating on it needs --data")
    auditor = DriftAuditor(as_audited_model(base, "base", common["arch"], key), **of_calibration, **common)
    stated = _read_recipe(recipe, auditor.recipe)
    asked = as_audited_model(candidate, "candidate", common["arch"], key)
    return auditor.fit(load_data(data), candidate=asked, recipe=stated), stated
