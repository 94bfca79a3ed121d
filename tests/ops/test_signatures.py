"""Python, the native schemas and C++ name the arguments of every op alike, in the same order."""

import inspect
import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch

from pydrift import ops
from pydrift.ops import HYPERPARAMETERS, AscentOptions, BlindWalkOptions, MinGdOptions, reference
from tests.ops.test_ascent_update import needs_native

CSRC = Path(__file__).parents[2] / "csrc"
OPTIONS = {
    # op: its options, the C++ header that has a struct of the same name
    "ascent_update": (AscentOptions, "invert/ascent_options.h"),
    "invert": (AscentOptions, "invert/ascent_options.h"),
    "min_gd": (MinGdOptions, "boundary/walk_options.h"),
    "blind_walk": (BlindWalkOptions, "boundary/walk_options.h"),
}
OPS = [*OPTIONS, "shadow_statistics", "shadow_moments", "shadow_logits", "shadow_train"]
SCHEMA_TYPES: dict[Any, str] = {int: "int", float: "float", str: "str"}
CPP_TYPES = {"int": "int64_t", "float": "double", "str": "std::string"}

with_options = pytest.mark.parametrize("op", OPTIONS)


def schema(op: str) -> Any:
    return getattr(torch.ops.pydrift, op).default._schema


def python_fields(options: type) -> list[tuple[str, str]]:
    """Name and schema type of each."""
    hints = get_type_hints(options)
    types = (type(get_args(hint)[0]) if get_args(hint) else hint for hint in hints.values())  # a Literal's: of a value
    return list(zip(hints, (SCHEMA_TYPES[kind] for kind in types), strict=True))


def cpp_struct(header: str, name: str) -> str:
    found = re.search(rf"^struct {name} {{\n(.*?)^}};", (CSRC / header).read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def cpp_fields(struct: str) -> list[tuple[str, str]]:
    """Name and type of each; one with a default is none."""
    return [(name, kind) for kind, name in re.findall(r"^  ([\w:]+) (\w+);", struct, re.MULTILINE)]


@needs_native
@with_options
def test_options_of_python_are_those_of_the_schema(op: str) -> None:
    """Every op takes them last. Only Python may have defaults: it passes all."""
    options = python_fields(OPTIONS[op][0])
    arguments = schema(op).arguments[-len(options) :]
    assert [(argument.name, str(argument.type)) for argument in arguments] == options
    assert all(argument.kwarg_only and not argument.has_default_value() for argument in arguments)


@with_options
def test_options_of_python_are_those_of_cpp(op: str) -> None:
    options, header = OPTIONS[op]
    struct = cpp_struct(header, options.__name__)
    expected = [(name, CPP_TYPES[kind]) for name, kind in python_fields(options)]
    assert cpp_fields(struct) == expected
    types = re.search(r"std::tuple<([^>]*)>;", struct)
    assert types is not None
    assert types[1].split(", ") == [kind for _, kind in expected]


def test_defaults_of_the_options() -> None:
    given = {
        options.__name__: {field.name: field.default for field in fields(options) if field.default is not MISSING}
        for options, _ in OPTIONS.values()
    }
    box = {"lower": 0.0, "upper": 1.0}
    assert given == {"AscentOptions": {}, "MinGdOptions": box, "BlindWalkOptions": box}


def test_hyperparameters_of_python_are_those_of_cpp() -> None:
    struct = cpp_struct("train/shadow_train_task.h", "TrainHyperparameters")
    assert cpp_fields(struct) == [(name, "double") for name in HYPERPARAMETERS]


@needs_native
@pytest.mark.parametrize("op", OPS)
def test_arguments_of_python_and_of_the_reference_are_those_of_the_schema(op: str) -> None:
    named = [argument.name for argument in schema(op).arguments]
    tensors = [argument.name for argument in schema(op).arguments if not argument.kwarg_only]
    options = [field.name for field in fields(OPTIONS[op][0])] if op in OPTIONS else []
    scalars = [name for name in named if name not in (*tensors, *options)]
    parameters = inspect.signature(getattr(ops, op)).parameters
    assert list(parameters)[: len(tensors)] == tensors
    assert [*list(parameters)[len(tensors) :]] == [*scalars, *(["options"] if options else [])]
    plain = inspect.signature(getattr(reference, op)).parameters
    by_name = [name for name, parameter in plain.items() if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
    assert by_name[: len(tensors)] == tensors
    assert set(by_name[len(tensors) :]) <= set(scalars)
