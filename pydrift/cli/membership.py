"""`pydrift mia`: the membership audit on the command line."""

from __future__ import annotations

import io
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
from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.progress import for_terminal

if TYPE_CHECKING:
    import numpy as np

_MAX_BYTES = 1 << 30
_EXCEEDED = 1


@app.command()
def membership(
    model: Annotated[Path, typer.Argument(help="model file (safetensors or state dict)")],
    data: Annotated[str, typer.Option("--data", help=f"members and non-members: {DATA_HELP}")],
    members: Annotated[
        Path, typer.Option("--members", help="npy file: indices into the data, or a boolean mask (train --members-out)")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="folder for membership.html, membership.json and scores.npz")
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            "--attack",
            help="lira, lira-fixed, lira-offline, lira-offline-fixed, rmia, rmia-offline, attack-r, attack-p, loss, "
            "confidence, entropy, modified-entropy, shokri, gap or boundary; repeatable (default: all but boundary)",
        ),
    ] = None,
    shadows: Annotated[
        int | None, typer.Option("--shadows", min=2, help="shadow models, an even number (default: 16)")
    ] = None,
    bank: Annotated[
        Path | None, typer.Option("--bank", help="shadows of the same data that are there already (pydrift shadow)")
    ] = None,
    recipe: RecipeOption = None,
    query: Annotated[
        list[str] | None,
        typer.Option("--query", help="how images are shown: plain, flip or shift:DOWN,RIGHT; repeatable"),
    ] = None,
    fail_above: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-above",
            help="exit 1 if any attack exceeds it: tpr@0.01=0.05, auc=, balanced-accuracy= or epsilon=; repeatable",
        ),
    ] = None,
    alpha: Annotated[float | None, typer.Option("--alpha", help="1 - confidence of intervals (default: 0.05)")] = None,
    json: Annotated[bool, typer.Option("--json", help="print the result as one JSON document")] = False,
    seed: SeedOption = 0,
    arch: ArchOption = None,
    device: DeviceOption = None,
    resume_dir: ResumeDirOption = None,
) -> None:
    """Attack a model: which images was it trained on? Exit code 1 if an attack exceeds a --fail-above.

    The data holds images that the model was trained on (--members) and others like them; shadow models are trained on
    halves of all of it, by the recipe in the model's file with the changes of --recipe. With a --bank, that is what the
    bank's recipe is compared with.
    """
    from pydrift.data import load_data
    from pydrift.membership.audit import membership_audit
    from pydrift.membership.result import Limit, MembershipReport
    from pydrift.models.intake import as_audited_model
    from pydrift.report import render_membership_terminal
    from pydrift.shadows import ShadowBank

    if bank is not None and shadows is not None:
        raise UsageError("--shadows: a --bank has as many as it has")
    limits = [Limit.parse(text) for text in fail_above or []]
    if out is not None:
        MembershipReport.check_target(out)
    indices = read_members(members)
    find_own_architectures(arch)
    target = as_audited_model(model, str(model), arch)
    how = changed_recipe(recipe or [], target.recipe)
    report = membership_audit(
        target,
        load_data(data),
        indices,
        **given(attacks=attack, shadows=shadows, queries=query, alpha=alpha, recipe=how),
        bank=None if bank is None else ShadowBank.load(bank, arch),
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
        print_page(lambda console: render_membership_terminal(report, console))
    if out is not None:
        report.save(out)
        if not json:
            say(f"report: {out / 'membership.html'}")
    exceeded = [words for limit in limits if (words := limit.exceeded(report))]
    for words in exceeded:
        print(f"pydrift: {words}", file=sys.stderr)
    raise typer.Exit(_EXCEEDED if exceeded else 0)


def read_members(path: Path) -> np.ndarray:
    """The array of an npy file: which images a model was trained on. InputRefused where it is no such file."""
    import numpy as np

    from pydrift.core.store import read_file

    raw = read_file(path, _MAX_BYTES)
    try:
        members = np.load(io.BytesIO(raw), allow_pickle=False)
        if not isinstance(members, np.ndarray):
            raise ValueError("an archive, not one array")
    except (ValueError, EOFError, OSError) as error:
        raise InputRefused(f"{path}: not an npy file of plain numbers: {error}") from error
    return members
