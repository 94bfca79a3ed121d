"""`pydrift shadow`: a plan on disk, workers that train its blocks, how far they are, and the bank."""

from __future__ import annotations

import json as json_format
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pydrift.cli.app import (
    INCONCLUSIVE,
    MODELS,
    SOURCES,
    App,
    ArchOption,
    DeviceOption,
    Group,
    KeyOption,
    RecipeOption,
    SeedOption,
    UpdateModeOption,
    app,
    changed_recipe,
    find_own_architectures,
    given,
    key_values,
    say,
)
from pydrift.core.errors import UsageError
from pydrift.core.files import check_writable
from pydrift.core.progress import for_terminal

if TYPE_CHECKING:
    from pydrift.models.intake import AuditedModel
    from pydrift.shadows import TaskFolder

shadow = App(
    name="shadow",
    cls=Group,
    help="Train many shadow models, on this machine or on many. A folder holds the plan, and workers train its blocks.",
    no_args_is_help=True,
)
app.add_typer(shadow, rich_help_panel=MODELS)

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the plan.")]


@shadow.command()
def plan(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder for the plan and the models; all workers must see it.")
    ],
    data: Annotated[str, typer.Option("--data", help=f"Images to train on: {SOURCES}.")],
    count: Annotated[int, typer.Option("--count", min=1, help="Number of shadows.")],
    arch: Annotated[
        str | None,
        typer.Option("--arch", help="Architecture of the shadows: a spec or package.module:factory."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            help="A model file that the shadows are like, instead of --arch. With --update-mode finetune, they start "
            "from its weights.",
        ),
    ] = None,
    key: KeyOption = None,
    update_mode: UpdateModeOption = None,
    draw: Annotated[
        str, typer.Option("--draw", help="How images are drawn: halves, subset:SIZE or bootstrap:SIZE.")
    ] = "halves",
    recipe: RecipeOption = None,
    recipes: Annotated[
        str | None,
        typer.Option(
            "--recipes",
            help="Train all shadows by the same recipe, or by varied ones as in an audit.",
            show_default="same",
        ),
    ] = None,
    block: Annotated[
        int | None,
        typer.Option(
            "--block", min=1, help="Number of shadows in a block.", show_default="as many as are trained side by side"
        ),
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
) -> None:
    """Plan which shadows to train. Workers with `pydrift shadow train` then train them."""
    from pydrift.models.arch import resolve
    from pydrift.models.intake import as_audited_model
    from pydrift.shadows import Draw, plan_shadows

    find_own_architectures(arch)
    if model is not None:
        start: AuditedModel | str = as_audited_model(model, str(model), arch, key)
    elif arch is not None:
        resolve(arch)  # refuses what is no architecture
        start = arch
    else:
        raise UsageError("give --arch or --model")
    recorded = None if isinstance(start, str) else start.recipe
    made = plan_shadows(
        folder,
        start,
        data,
        count,
        **given(
            update_mode=update_mode,
            block=block,
            device=device,
            recipe=changed_recipe(recipe or [], recorded),
            recipes=recipes,
        ),
        draw=Draw.parse(draw),
        seed=seed,
    )
    say(f"{folder}: {count} shadows in {len(made.blocks)} blocks ({made.plan.describe()})")


@shadow.command()
def train(
    folder: FolderArgument,
    claim_next: Annotated[bool, typer.Option("--claim-next", help="Train only the next free block.")] = False,
    block: Annotated[int | None, typer.Option("--block", min=0, help="Train only this block.")] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Start this number of workers and wait for them.")
    ] = None,
    launcher: Annotated[str, typer.Option("--launcher", help="Run the workers by local, submitit or ray.")] = "local",
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            metavar="KEY=VALUE",
            help="An option of submitit or Ray, for example slurm_partition=cpu. You may repeat it.",
        ),
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="Where the planned data lies on this machine.")] = None,
    arch: ArchOption = None,
) -> None:
    """Train the blocks of a plan that no worker has trained or is training.

    Any number of workers may run at once, on any machines that share the folder. You may kill them at any time. The
    block of a worker that ended is free at once on the same machine. On other machines it is free after 120 s without a
    sign of life.

    The exit code is 3 if other workers are still training blocks.
    """
    from pydrift.shadows import TaskFolder, work_on

    find_own_architectures(arch)
    if claim_next and block is not None:
        raise UsageError("--claim-next and --block exclude each other")
    if workers is None and (launcher != "local" or option):
        raise UsageError("--launcher and --option are for --workers")
    if workers is None:
        with for_terminal() as progress:
            trained = work_on(
                folder,
                data=data,
                arch=arch,
                blocks=None if block is None else [block],
                at_most=1 if claim_next else None,
                progress=progress,
            )
        tasks = TaskFolder.open(folder)
        say(f"{folder}: trained {_blocks(trained)}; {_done(tasks)}")
        if not claim_next and block is None and not all(map(tasks.is_done, tasks.blocks)):
            raise typer.Exit(INCONCLUSIVE)
        return
    if claim_next or block is not None:
        raise UsageError("--workers trains all blocks: leave --claim-next and --block out")
    from pydrift.shadows.engines import launch

    tasks = TaskFolder.open(folder)
    extra = [f"--{name}={value}" for name, value in given(data=data, arch=arch).items()]
    with for_terminal() as progress:
        launch(tasks, launcher, workers, progress, extra=extra, options=key_values(option or []))
    say(f"{folder}: {_done(tasks)}")


@shadow.command()
def status(
    folder: FolderArgument,
    json: Annotated[bool, typer.Option("--json", help="Print the state as one JSON document.")] = False,
) -> None:
    """Say how far a plan is: which blocks are done, who trains which, and which are free."""
    from pydrift.shadows import TaskFolder

    tasks = TaskFolder.open(folder)
    now = tasks.status()
    if json:
        say(json_format.dumps({**asdict(now), "plan": tasks.plan.to_dict()}, indent=2, sort_keys=True))
        return
    say(f"{folder}: {_done(tasks)} ({tasks.plan.describe()})")
    say(f"blocks: {len(now.blocks_done)} of {len(tasks.blocks)} done, {len(now.held)} in work, {len(now.free)} free")
    for number, who in now.held.items():
        say(f"block {number}: process {who.pid} on {ascii(who.host)[1:-1]}, last sign of life {who.silent_s:.0f} s ago")
    if now.seconds_per_shadow is not None:
        left = now.seconds_per_shadow * (now.shadows - now.done) / max(1, len(now.held))
        say(f"{now.seconds_per_shadow:.2g} s a shadow" + (f", about {left:.0f} s left" if now.held else ""))


@shadow.command()
def collect(
    folder: FolderArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder for the bank.")],
    arch: ArchOption = None,
) -> None:
    """Check a finished folder and write its bank.

    A bank holds a model file per shadow, the images that each was trained on, and a manifest of hashes.
    """
    check_writable(out / "bank.json")
    from pydrift.shadows import ShadowBank
    from pydrift.shadows import collect as collect_bank

    find_own_architectures(arch)
    ShadowBank.check_target(out)
    bank = collect_bank(folder, arch=arch)
    bank.save(out)
    unseen = [accuracy for accuracy in bank.accuracy if accuracy is not None]
    mean = f", mean accuracy {sum(unseen) / len(unseen):.1%} on images that they were not trained on" if unseen else ""
    say(f"{out}: {len(bank)} shadows{mean}")


def _blocks(trained: list[int]) -> str:
    if not trained:
        return "nothing (no block was free)"
    return f"block{'s' if len(trained) > 1 else ''} {', '.join(map(str, trained))}"


def _done(tasks: TaskFolder) -> str:
    done = sum(len(tasks.numbers(block)) for block in tasks.blocks if tasks.is_done(block))
    return f"{done} of {tasks.plan.count} shadows done"
