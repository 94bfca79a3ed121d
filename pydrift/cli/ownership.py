"""`pydrift ownership`: the ownership audit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pydrift.cli.app import (
    DONE,
    FOUND,
    INCONCLUSIVE,
    MEMBERS_HELP,
    OTHER_AUDITS,
    SOURCES,
    ArchOption,
    DeviceOption,
    JsonOption,
    RecipeOption,
    ResumeDirOption,
    SeedOption,
    app,
    changed_recipe,
    check_folder,
    find_own_architectures,
    finish,
    given,
    read_members,
)
from pydrift.core.errors import UsageError
from pydrift.core.progress import for_terminal

if TYPE_CHECKING:
    from pydrift.data import LabelledImages

_EXIT_CODE = {"stolen": FOUND, "independent": DONE, "inconclusive": INCONCLUSIVE}


@app.command(rich_help_panel=OTHER_AUDITS)
def ownership(
    suspects: Annotated[
        list[Path], typer.Argument(metavar="SUSPECT", help="Model files (safetensors or state dicts).")
    ],
    victim: Annotated[Path, typer.Option("--victim", help="The model file that was trained on the private images.")],
    private: Annotated[str, typer.Option("--private", help=f"Images that nobody else should have: {SOURCES}.")],
    public: Annotated[
        str | None,
        typer.Option(
            "--public",
            help="Images like the private ones that the victim was not trained on.",
            show_default="the images of --private that are no --members",
        ),
    ] = None,
    members: Annotated[
        Path | None,
        typer.Option(
            "--members",
            help="Which images of --private the victim was trained on. Only these are then private. " + MEMBERS_HELP,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for ownership.html and ownership.json.")] = None,
    embedding: Annotated[
        str | None,
        typer.Option(
            "--embedding",
            help="How suspects are asked: blind-walk (it needs labels only) or min-gd (it needs the weights).",
            show_default="blind-walk",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples",
            help="Number of private images that are revealed. Twice as many public images are added.",
            show_default="60",
        ),
    ] = None,
    fit_on: Annotated[
        int | None,
        typer.Option(
            "--fit-on",
            help="The most further images of each kind on which regressors are fitted.",
            show_default="250",
        ),
    ] = None,
    independents: Annotated[
        int | None,
        typer.Option(
            "--independents", help="Number of benign models among which p is a suspect's rank.", show_default="100"
        ),
    ] = None,
    references: Annotated[
        int | None,
        typer.Option("--references", help="Number of benign models that say what is usual.", show_default="24"),
    ] = None,
    recipe: RecipeOption = None,
    alpha: Annotated[
        float | None,
        typer.Option("--alpha", help="A suspect is stolen if its p is at most alpha.", show_default="0.01"),
    ] = None,
    json: JsonOption = False,
    seed: SeedOption = 0,
    arch: ArchOption = None,
    device: DeviceOption = None,
    resume_dir: ResumeDirOption = None,
) -> None:
    """Find out whether a model is made of your images.

    Suspects are compared with benign models. These are trained on public images by the recipe in the victim's file,
    with the changes of --recipe.

    The exit code is 1 if any suspect is stolen, else 3 if any is inconclusive, else 0.
    """
    check_folder(out, "ownership.json")
    from pydrift.models.intake import as_audited_model
    from pydrift.ownership import OwnershipReport, ownership_audit

    if out is not None:
        OwnershipReport.check_target(out)
    private_images, public_images = _images(private, public, members)
    find_own_architectures(arch)
    owner = as_audited_model(victim, str(victim), arch)
    report = ownership_audit(
        owner,
        suspects,
        private_images,
        public_images,
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
    finish(report, json=json, out=out, exit_code=_EXIT_CODE[report.verdict])


def _images(private: str, public: str | None, members: Path | None) -> tuple[LabelledImages, LabelledImages]:
    """The private images and the public ones, as the options name them."""
    import torch

    from pydrift.data import as_member_mask, load_data

    if public is None and members is None:
        raise UsageError("--public: name images that the victim was not trained on, or name its --members")
    if public == private:
        raise UsageError(
            "--public names the same images as --private: leave it out, and those that are no --members are public"
        )
    images = load_data(private)
    if members is None:
        assert public is not None
        return images, load_data(public)
    member = torch.from_numpy(as_member_mask(read_members(members), images))
    others = replace(images.subset(~member), source=f"the others of {images.source}")
    ours = replace(images.subset(member), source=f"the members of {images.source}")
    return ours, load_data(public) if public is not None else others
