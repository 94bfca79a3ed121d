"""`pydrift ownership`: dataset inference on the command line."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pydrift.cli.app import (
    DATA_HELP,
    ArchOption,
    DeviceOption,
    RecipeOption,
    ResumeDirOption,
    SeedOption,
    app,
    changed_recipe,
    find_own_architectures,
    given,
    print_page,
    say,
)
from pydrift.cli.membership import read_members
from pydrift.core.errors import UsageError
from pydrift.core.progress import for_terminal

if TYPE_CHECKING:
    from pydrift.data import LabelledImages

_EXIT_CODE = {"stolen": 1, "independent": 0, "inconclusive": 3}


@app.command()
def ownership(
    suspects: Annotated[list[Path], typer.Argument(metavar="SUSPECT", help="model files (safetensors or state dict)")],
    victim: Annotated[Path, typer.Option("--victim", help="the model file that was trained on the private images")],
    private: Annotated[str, typer.Option("--private", help=f"images that nobody else should have: {DATA_HELP}")],
    public: Annotated[
        str | None,
        typer.Option(
            "--public",
            help="images like them that the victim has not seen (default: those of --private that are no --members)",
        ),
    ] = None,
    members: Annotated[
        Path | None,
        typer.Option(
            "--members",
            help="npy file: on which images of --private the victim was trained (train --members-out); only they are "
            "private",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="folder for ownership.html and ownership.json")] = None,
    embedding: Annotated[
        str | None,
        typer.Option("--embedding", help="blind-walk (labels only) or min-gd (white box) (default: blind-walk)"),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option("--samples", help="private images revealed, with twice as many public ones (default: 60)"),
    ] = None,
    fit_on: Annotated[
        int | None,
        typer.Option("--fit-on", help="further images of each kind, at most, to fit regressors on (default: 250)"),
    ] = None,
    independents: Annotated[
        int | None, typer.Option("--independents", help="benign models that p is a rank among (default: 100)")
    ] = None,
    references: Annotated[
        int | None, typer.Option("--references", help="benign models that say what is usual (default: 24)")
    ] = None,
    recipe: RecipeOption = None,
    alpha: Annotated[
        float | None, typer.Option("--alpha", help="a suspect with p up to this is stolen (default: 0.01)")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print the result as one JSON document")] = False,
    seed: SeedOption = 0,
    arch: ArchOption = None,
    device: DeviceOption = None,
    resume_dir: ResumeDirOption = None,
) -> None:
    """Is a model made of my images? Exit code 1 if any suspect is stolen, else 3 if any is inconclusive.

    Suspects are compared with benign models, trained on public images by the recipe in the victim's file with the
    changes of --recipe.
    """
    from pydrift.models.intake import as_audited_model
    from pydrift.ownership import OwnershipReport, ownership_audit
    from pydrift.report import render_ownership_terminal

    if out is not None:
        OwnershipReport.check_target(out)
    ours, theirs = _images(private, public, members)
    find_own_architectures(arch)
    owner = as_audited_model(victim, str(victim), arch)
    report = ownership_audit(
        owner,
        suspects,
        ours,
        theirs,
        **given(
            embedding=embedding,
            samples=samples,
            fit_on=fit_on,
            independents=independents,
            references=references,
            alpha=alpha,
            recipe=changed_recipe(recipe or [], owner.recipe),
        ),
        seed=seed,
        arch=arch,
        device=device,
        resume_dir=resume_dir,
        progress=for_terminal(),
    )
    command = shlex.join(["pydrift", *sys.argv[1:]])
    report = replace(report, provenance=replace(report.provenance, command=command))
    if json:
        say(report.to_json(), end="")
    else:
        print_page(lambda console: render_ownership_terminal(report, console))
    if out is not None:
        report.save(out)
        if not json:
            say(f"report: {out / 'ownership.html'}")
    raise typer.Exit(_EXIT_CODE[report.verdict])


def _images(private: str, public: str | None, members: Path | None) -> tuple[LabelledImages, LabelledImages]:
    """The private images and the public ones, as the options name them."""
    import torch

    from pydrift.data import checked_members, load_data

    if public is None and members is None:
        raise UsageError("--public: name images that the victim has not seen, or say by --members which it has")
    if public == private:
        raise UsageError(
            "--public names the same images as --private: leave it out, and those that are no --members are public"
        )
    ours = load_data(private)
    if members is not None:
        member = torch.from_numpy(checked_members(read_members(members), ours))
        others = replace(ours.subset(~member), source=f"the others of {ours.source}")
        ours = replace(ours.subset(member), source=f"the members of {ours.source}")
    return ours, load_data(public) if public is not None else others
