"""What all commands share: the app, common options, exit codes, and the end of every audit."""

from __future__ import annotations

import io
import json as json_format
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import asdict, replace
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO

import typer
from typer.core import TyperCommand, TyperGroup

from pydrift.core.errors import InputRefused, PydriftError, UsageError
from pydrift.core.files import check_writable
from pydrift.core.limits import MAX_DATA
from pydrift.core.manifest import refuse_manifest_folder
from pydrift.core.text import printable_lines

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

    from pydrift.data import LabelledImages
    from pydrift.models.normalization import Normalization
    from pydrift.models.recipe import TrainingRecipe
    from pydrift.report import Result

DONE, FOUND, INCONCLUSIVE = 0, 1, 3  # exit codes; those of errors stand in core/errors.py

# The panels of `pydrift --help`, and the commands in each.
DRIFT, OTHER_AUDITS, MODELS, INSTALLATION = "Drift audit", "Other audits", "Models", "Installation"
_ORDER = (
    *("demo", "calibrate", "audit"),
    *("membership", "ownership", "fingerprint"),
    *("train", "invert", "shadow"),
    "doctor",
)


_MIN_COLUMNS = 72
_result_stream: TextIO | None = None  # where results go while a command runs (see stdout_for_results)


class Command(TyperCommand):
    """A command that leaves stdout to its result, whatever the user's own code prints."""

    def invoke(self, ctx: Any) -> Any:
        with stdout_for_results():
            return super().invoke(ctx)


class Group(TyperGroup):
    """Commands whose help the terminal wraps: typer itself keeps the line breaks of a docstring."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is not None and command.help:
            paragraphs = cleandoc(command.help).split("\n\n")
            command.help = "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)
        return command


class _Commands(Group):
    """The commands in the order in which the help shows them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=_ORDER.index)


class App(typer.Typer):
    """Groups of commands of the class above."""

    def command(self, *arguments: Any, **options: Any) -> Any:
        return super().command(*arguments, cls=Command, **options)


app = App(
    name="pydrift",
    cls=_Commands,
    help="Audit image classifiers. Has a candidate's concept of a class drifted, even where its accuracy did not move?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

SOURCES = "digits, mnist:DIR, fashion-mnist:DIR, cifar10:DIR, npz:FILE or folder:DIR"
MODEL_HELP = "Model file (safetensors or a state dict)."
MEMBERS_HELP = "An npy file with indices into the images or a boolean mask; train --members-out writes one."

ArchOption = Annotated[
    str | None,
    typer.Option(
        "--arch",
        help="Architecture of models that do not name their own: a spec, package.module:factory, timm:NAME, "
        "torchvision:NAME or transformers:DIR. ?num_classes=10&pretrained=0 adds arguments.",
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option("--key", help="The entry of a checkpoint that holds the weights, where it has several."),
]
NormalizeOption = Annotated[
    str | None,
    typer.Option(
        "--normalize",
        metavar="MEAN:STD",
        help="Normalise pixels in [0, 1] before the model, for example by 0.5:0.25. Separate the values of channels "
        "by commas.",
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="The seed of everything random.")]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="Run on cpu or cuda.", show_default="cuda if there is one")
]
ResumeDirOption = Annotated[
    Path | None,
    typer.Option("--resume-dir", help="Folder that keeps finished pieces, so that a killed run can resume."),
]
ShadowsOption = Annotated[
    int | None,
    typer.Option("--shadows", min=2, help="Number of benign models in the null distribution.", show_default="32"),
]
UpdateModeOption = Annotated[
    str | None,
    typer.Option(
        "--update-mode",
        help="How you update models: retrain (from scratch) or finetune (from the base's weights).",
        show_default="retrain",
    ),
]
RecipesOption = Annotated[
    str | None,
    typer.Option(
        "--recipes",
        help="How the shadows are trained: by the same recipe as the base, by varied ones, or so many of each (both).",
        show_default="both",
    ),
]
BenignVersionOption = Annotated[
    list[Path] | None,
    typer.Option("--benign-version", help="An earlier version that was benign. It widens the null. You may repeat it."),
]
RecipeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--recipe",
        metavar="KEY=VALUE",
        help="Change the recipe of the training, for example epochs=10. You may repeat it.",
    ),
]
RestartsOption = Annotated[
    int | None, typer.Option("--restarts", min=1, help="Number of gray images per class and model.", show_default="4")
]
SizeOption = Annotated[
    int | None,
    typer.Option(
        "--size",
        min=2,
        help="Number of images that a shadow is trained on. Retrained shadows take at most a third of --data.",
        show_default="as many as the base's file says",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]


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


def check_folder(folder: Path | None, name: str) -> None:
    """Asks whether a file of that name could be written into a folder, at once: the commands import torch after it.

    UsageError where not.
    """
    if folder is not None:
        refuse_manifest_folder(folder)
        check_writable(folder / name)


def find_own_architectures(arch: str | None) -> None:
    """Lets --arch package.module:factory name a module in the current folder; last, so that it can shadow nothing."""
    if arch is not None:
        sys.path.append(os.getcwd())


def given(**options: Any) -> dict[str, Any]:
    """The options that were given. The others keep the defaults of the function that is called."""
    return {name: value for name, value in options.items() if value is not None}


def changed_recipe(pairs: Sequence[str], recorded: TrainingRecipe | None) -> TrainingRecipe | None:
    """The recorded recipe, or the default one, with the changes KEY=VALUE; None where there are no changes."""
    from pydrift.models.recipe import TrainingRecipe

    if not pairs:
        return None
    return TrainingRecipe.from_json(json_format.dumps({**asdict(recorded or TrainingRecipe()), **key_values(pairs)}))


def key_values(pairs: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE, the value a number or true or false where it reads as one, else a string."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not (name.isidentifier() and equals):
            raise UsageError(f"expected KEY=VALUE, got {pair!r}")
        try:
            values[name] = json_format.loads(text)
        except ValueError:
            values[name] = text
    return values


def read_normalization(text: str | None) -> Normalization | None:
    """What --normalize says; None: nothing."""
    from pydrift.models.normalization import Normalization

    return None if text is None else Normalization.parse(text)


def read_test_split(source: str) -> LabelledImages | None:
    """The test split of a source of data; None where it has none."""
    from pydrift.data import load_data

    try:
        return load_data(source, "test")
    except UsageError:
        return None


def read_members(path: Path) -> np.ndarray:
    """The array of an npy file: which images a model was trained on. InputRefused where it is no such file."""
    from pydrift.core.arrays import parse_npy
    from pydrift.core.files import read_file

    raw = read_file(path, MAX_DATA)
    try:
        return parse_npy(raw)
    except ValueError as error:
        raise InputRefused(f"{path}: not an npy file of plain numbers: {error}") from error


def finish(
    result: Result,
    *,
    json: bool,
    out: Path | None,
    images: bool = True,
    exit_code: int = DONE,
    exceeded: Sequence[str] = (),
) -> NoReturn:
    """The end of every audit: writes the report, prints the result, says where it is, and leaves with the exit code.

    exceeded  in words, the limits that the result exceeds; if there are any, the exit code is FOUND
    """
    from pydrift.report import write_report

    result = _with_command(result)
    page = None if out is None else write_report(result, out, images=images)  # before printing, which may fail
    if json:
        say(result.to_json() if page is None else page.with_name(result.json_name).read_text(), end="")
    else:
        print_result(result)
        if page is not None:
            say(f"report: {page}")
    for words in exceeded:
        complain(words)
    raise typer.Exit(FOUND if exceeded else exit_code)


def _with_command(result: Any) -> Any:
    """The result with the command line that made it, if it has a place for that."""
    if not hasattr(result, "provenance"):
        return result
    command = shlex.join(["pydrift", *sys.argv[1:]])
    return replace(result, provenance=replace(result.provenance, command=command))


def print_result(result: Result) -> None:
    """Prints a result for people."""
    from pydrift.report import render_terminal

    _print_page(lambda console: render_terminal(result, console))


def _print_page(render: Callable[[Console], None]) -> None:
    """Prints what `render` draws on a console: as wide as the terminal, or 120 columns of plain text elsewhere.

    On a terminal of less than 72 columns the lines run on, for a table would leave columns out.
    """
    from rich.console import Console

    page = io.StringIO()
    terminal = Console(file=_result_stream or sys.stdout)
    width = max(terminal.width, _MIN_COLUMNS) if terminal.is_terminal else 120
    render(Console(file=page, width=width, force_terminal=terminal.is_terminal))
    _print(page.getvalue())  # its texts are escaped, and its colours are not


def say(text: str, end: str = "\n") -> None:
    """Prints a result; what a terminal would obey in it is escaped. See `_print`."""
    _print(printable_lines(text) + end)


def _print(text: str) -> None:
    """Prints to where results go. Its reader may have left (`| head`), which must not change the exit code.

    PydriftError where it cannot be printed for another reason (a full disk).
    """
    stream = _result_stream or sys.stdout
    try:
        print(text, end="", flush=True, file=stream)
    except BrokenPipeError:
        _drop_the_rest(stream)
    except OSError as error:
        _drop_the_rest(stream)
        raise PydriftError(f"the result cannot be printed: {error.strerror}") from error


def _drop_the_rest(stream: TextIO) -> None:
    """Lets what is still in the stream's buffer go nowhere, so that its end does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def complain(text: str) -> None:
    """Prints lines on stderr, if that can be; what a terminal would obey in them is escaped."""
    with suppress(OSError, ValueError):
        print(printable_lines(f"pydrift: {text}"), file=sys.stderr, flush=True)


@contextmanager
def stdout_for_results() -> Iterator[None]:
    """Inside, only `say` reaches stdout: what models, data and libraries print there goes to stderr."""
    global _result_stream
    _result_stream = stream = sys.stdout
    try:
        with redirect_stdout(sys.stderr):
            if stream is sys.__stdout__ and stream is not None:
                with _descriptor_of_stderr(stream) as _result_stream:
                    yield
            else:  # a test's, which has no descriptor
                yield
    finally:
        _result_stream = None


@contextmanager
def _descriptor_of_stderr(stream: TextIO) -> Iterator[TextIO]:
    """Inside, C code and child processes that write where `stream` does reach stderr; yields a stream to there."""
    stream.flush()
    with open(os.dup(stream.fileno()), "w", encoding=stream.encoding, errors="backslashreplace") as real:
        os.dup2(sys.stderr.fileno(), stream.fileno())
        try:
            yield real
        finally:
            os.dup2(real.fileno(), stream.fileno())
