"""`pydrift membership`: the membership audit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pydrift.cli.app import (
    MEMBERS_HELP,
    MODEL_HELP,
    OTHER_AUDITS,
    SOURCES,
    ArchOption,
    DeviceOption,
    JsonOption,
    KeyOption,
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


@app.command(rich_help_panel=OTHER_AUDITS)
def membership(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    data: Annotated[str, typer.Option("--data", help=f"Members and non-members: {SOURCES}.")],
    members: Annotated[Path, typer.Option("--members", help=f"Which images the model was trained on. {MEMBERS_HELP}")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for membership.html, membership.json and scores.npz.")
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            "--attack",
            help="The attacks: lira, lira-fixed, lira-offline, lira-offline-fixed, rmia, rmia-offline, attack-r, "
            "attack-p, loss, confidence, entropy, modified-entropy, shokri, gap or boundary. You may repeat it.",
            show_default="all but boundary",
        ),
    ] = None,
    shadows: Annotated[
        int | None, typer.Option("--shadows", min=2, help="Number of shadow models, even.", show_default="16")
    ] = None,
    bank: Annotated[
        Path | None,
        typer.Option("--bank", help="Take the shadows from this bank of the same data (see pydrift shadow)."),
    ] = None,
    recipe: RecipeOption = None,
    query: Annotated[
        list[str] | None,
        typer.Option("--query", help="How images are shown: plain, flip or shift:DOWN,RIGHT. You may repeat it."),
    ] = None,
    fail_above: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-above",
            help="Exit with 1 if any attack exceeds this limit: tpr@0.01=0.05, auc=, balanced-accuracy= or epsilon=. "
            "You may repeat it.",
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option("--alpha", help="Intervals have the confidence 1 - alpha.", show_default="0.05"),
    ] = None,
    json: JsonOption = False,
    seed: SeedOption = 0,
    arch: ArchOption = None,
    key: KeyOption = None,
    device: DeviceOption = None,
    resume_dir: ResumeDirOption = None,
) -> None:
    """Attack a model: which images was it trained on?

    The data holds images that the model was trained on (--members) and others like them. Shadow models are trained on
    halves of all of it. They follow the recipe in the model's file, with the changes of --recipe. With a --bank, that
    recipe is compared with the bank's.

    The exit code is 1 if an attack exceeds a --fail-above.
    """
    check_folder(out, "membership.json")
    from pydrift.data import load_data
    from pydrift.membership.audit import membership_audit
    from pydrift.membership.result import Limit, MembershipReport
    from pydrift.models.intake import as_audited_model
    from pydrift.shadows import ShadowBank

    if bank is not None and shadows is not None:
        raise UsageError("--shadows: a --bank brings its own shadows; leave one of the two out")
    limits = [Limit.parse(text) for text in fail_above or []]
    if out is not None:
        MembershipReport.check_target(out)
    indices = read_members(members)
    find_own_architectures(arch)
    target = as_audited_model(model, str(model), arch, key)
    report = membership_audit(
        target,
        load_data(data),
        indices,
        **given(
            attacks=attack,
            shadows=shadows,
            queries=query,
            alpha=alpha,
            recipe=changed_recipe(recipe or [], target.recipe),
        ),
        bank=None if bank is None else ShadowBank.load(bank, arch),
        seed=seed,
        arch=arch,
        device=device,
        resume_dir=resume_dir,
        progress=for_terminal(),
    )
    exceeded = [words for limit in limits if (words := limit.exceeded(report))]
    finish(report, json=json, out=out, exceeded=exceeded)
