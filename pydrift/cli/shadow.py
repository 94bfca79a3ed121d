"""The commands for shadow models: a plan on disk, workers that train its blocks, how far they are, the bank."""

from __future__ import annotations

import json as json_format
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pydrift.cli.app import (
    DATA_HELP,
    ArchOption,
    DeviceOption,
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
from pydrift.core.progress import for_terminal

if TYPE_CHECKING:
    from pydrift.models.intake import AuditedModel
    from pydrift.shadows import TaskFolder

shadow = typer.Typer(
    name="shadow",
    help="Train many shadow models, on this machine or on many: plan them into a folder, let workers train its blocks.",
    no_args_is_help=True,
)
app.add_typer(shadow)

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="folder of the plan")]


@shadow.command()
def plan(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="folder for plan and models, seen by all workers")],
    data: Annotated[str, typer.Option("--data", help=DATA_HELP)],
    count: Annotated[int, typer.Option("--count", min=1, help="how many shadows")],
    arch: Annotated[
        str | None, typer.Option("--arch", help="what they are like: a spec or package.module:factory")
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="or a model file (with --update-mode finetune: it)")
    ] = None,
    update_mode: UpdateModeOption = None,
    draw: Annotated[str, typer.Option("--draw", help="halves, subset:SIZE or bootstrap:SIZE")] = "halves",
    recipe: RecipeOption = None,
    recipes: Annotated[
        str | None,
        typer.Option(
            "--recipes", help="same: all by the recipe; varied: each by its own, as an audit's are (default: same)"
        ),
    ] = None,
    block: Annotated[
        int | None,
        typer.Option("--block", min=1, help="shadows in a block (default: as many as are trained side by side)"),
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
) -> None:
    """Write down which shadows are to be trained; workers with `pydrift shadow train` then do it."""
    from pydrift.models.arch import resolve
    from pydrift.models.intake import as_audited_model
    from pydrift.shadows import Draw, plan_shadows

    find_own_architectures(arch)
    if model is not None:
        start: AuditedModel | str = as_audited_model(model, str(model), arch)
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
    claim_next: Annotated[bool, typer.Option("--claim-next", help="train one block, the next that is free")] = False,
    block: Annotated[int | None, typer.Option("--block", min=0, help="train this block only")] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="start so many workers and wait for them")
    ] = None,
    launcher: Annotated[str, typer.Option("--launcher", help="where they run: local, submitit or ray")] = "local",
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="KEY=VALUE", help="of submitit or Ray, for example slurm_partition=cpu"),
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="where the planned data lies on this machine")] = None,
    arch: ArchOption = None,
) -> None:
    """Train the blocks of a plan that nobody has trained and nobody is training.

    Any number of these may run at once, on any machines that share the folder, and be killed at any time. A block whose
    worker ended is free at once on the same machine, and after 120 s without a sign of life from another one.
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
        say(f"{folder}: trained {_blocks(trained)}; {_done(TaskFolder.open(folder))}")
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
    json: Annotated[bool, typer.Option("--json", help="as one JSON document")] = False,
) -> None:
    """Say how far a plan is: what is done, who is training what, what is free."""
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
    out: Annotated[Path, typer.Option("--out", help="folder for the bank")],
    arch: ArchOption = None,
) -> None:
    """Check a finished folder and write its bank: a model file per shadow, who saw what, and a manifest of hashes."""
    from pydrift.shadows import ShadowBank
    from pydrift.shadows import collect as collect_bank

    find_own_architectures(arch)
    ShadowBank.check_target(out)
    bank = collect_bank(folder, arch=arch)
    bank.save(out)
    unseen = [accuracy for accuracy in bank.accuracy if accuracy is not None]
    mean = f", mean accuracy {sum(unseen) / len(unseen):.1%} on images that they did not see" if unseen else ""
    say(f"{out}: {len(bank)} shadows{mean}")


def _blocks(trained: list[int]) -> str:
    if not trained:
        return "nothing (no block was free)"
    return f"block{'s' if len(trained) > 1 else ''} {', '.join(map(str, trained))}"


def _done(tasks: TaskFolder) -> str:
    done = sum(len(tasks.numbers(block)) for block in tasks.blocks if tasks.is_done(block))
    return f"{done} of {tasks.plan.count} shadows done"
