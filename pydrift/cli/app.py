"""The command line's frame: the app, the options that commands share, and how they speak."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pydrift.core.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from pydrift.data import LabelledImages
    from pydrift.models.recipe import TrainingRecipe

app = typer.Typer(
    name="pydrift",
    help="Audits image classifiers: has a newer model's concept of a class drifted, even where accuracy did not move?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DATA_HELP = "digits, mnist:DIR, fashion-mnist:DIR, cifar10:DIR, npz:FILE or folder:DIR"
ArchOption = Annotated[
    str | None,
    typer.Option("--arch", help="architecture of models that do not name their own: a spec or package.module:factory"),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="of everything random")]
DeviceOption = Annotated[str | None, typer.Option("--device", help="cpu or cuda; default: cuda if there is one")]
ResumeDirOption = Annotated[
    Path | None, typer.Option("--resume-dir", help="folder for finished pieces, to resume a killed run")
]
ShadowsOption = Annotated[int | None, typer.Option("--shadows", min=2, help="benign models in the null (default: 32)")]
UpdateModeOption = Annotated[
    str | None, typer.Option("--update-mode", help="how updates are made: retrain or finetune (default: retrain)")
]
RecipesOption = Annotated[
    str | None,
    typer.Option("--recipes", help="of the shadows: varied, as benign updates' may be, or same (default: varied)"),
]
BenignVersionOption = Annotated[
    list[Path] | None,
    typer.Option("--benign-version", help="an earlier version that was benign, to widen the null; may be repeated"),
]
RecipeOption = Annotated[
    list[str] | None,
    typer.Option("--recipe", metavar="KEY=VALUE", help="of the training, for example epochs=10; may be repeated"),
]
RestartsOption = Annotated[
    int | None, typer.Option("--restarts", min=1, help="gray images per class and model (default: 4)")
]
SizeOption = Annotated[
    int | None,
    typer.Option(
        "--size",
        min=2,
        help="images a shadow sees (default: as many as the base's file says it saw; retrained ones at most a third of "
        "--data)",
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        from pydrift.version import __version__

        say(f"pydrift {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def find_own_architectures(arch: str | None) -> None:
    """Lets --arch package.module:factory name a module in the current folder; last, so that it can shadow nothing."""
    if arch is not None:
        sys.path.append(os.getcwd())


def given(**options: Any) -> dict[str, Any]:
    """The options that were given, so that the defaults stand in one place: DriftAuditor."""
    return {name: value for name, value in options.items() if value is not None}


def changed_recipe(pairs: Sequence[str], recorded: TrainingRecipe | None) -> TrainingRecipe | None:
    """The recorded recipe, or the default one, with the changes KEY=VALUE; None where there are no changes."""
    from pydrift.models.recipe import TrainingRecipe

    if not pairs:
        return None
    return TrainingRecipe.from_json(json.dumps({**asdict(recorded or TrainingRecipe()), **key_values(pairs)}))


def key_values(pairs: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE, the value a number or true or false where it reads as one, else a string."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not (name.isidentifier() and equals):
            raise UsageError(f"expected KEY=VALUE, got {pair!r}")
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    return values


def test_split(source: str) -> LabelledImages | None:
    from pydrift.data import load_data

    try:
        return load_data(source, "test")
    except UsageError:  # a source without one
        return None


def print_page(render: Callable[[Console], None]) -> None:
    """Prints what `render` draws on a console: as wide as the terminal, or 120 columns of plain text elsewhere."""
    from rich.console import Console

    page = io.StringIO()
    terminal = Console()
    width = terminal.width if terminal.is_terminal else 120
    render(Console(file=page, width=width, force_terminal=terminal.is_terminal))
    say(page.getvalue(), end="")


def say(text: str, end: str = "\n") -> None:
    """Prints a result. Whoever reads it may have left (`| head`), which must not change the exit code."""
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
