"""What is saved and loaded: its heading, its typed decoding, and refusals that say what is wrong."""

import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
import pytest
import torch
from msgspec import Meta

from pydrift.core.artifact import Artifact, Format, Report, decode, decode_fields, encode
from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.files import sha256_file
from pydrift.core.strict_json import to_strict_json
from tests.seals import resealed, unsealed

FORMAT = Format("oak report", 3, "Plant again.")


@dataclass(frozen=True)
class Leaf:
    name: str
    size: float
    colour: str = "green"

    def __post_init__(self) -> None:
        if self.size < 0:
            raise UsageError(f"size must be >= 0, got {self.size:g}")


@dataclass(frozen=True)
class Tree(Report):
    leaves: tuple[Leaf, ...]
    box: tuple[float, float] | None
    number: Annotated[int, Meta(ge=1)]
    settings: dict[str, Any] = field(default_factory=dict)

    format: ClassVar[Format] = FORMAT
    json_name = "oak.json"

    def _document(self) -> dict[str, Any]:
        return encode(self)

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {"size": torch.tensor([leaf.size for leaf in self.leaves])}


TREE = Tree((Leaf("ü", 0.1 + 0.2), Leaf("b", 1.0)), (0.0, 1e-300), 2**62, {"a": [1, None, {"b": True}]})
RAW = unsealed(TREE.to_json())


def test_a_document_is_headed_and_comes_back_equal():
    assert (RAW["kind"], RAW["schema_version"]) == ("pydrift oak report", 3)
    assert Tree(**decode_fields(Tree, FORMAT.without_heading(RAW, "f"))) == TREE
    assert unsealed(TREE.to_json()) == RAW
    assert to_strict_json(TREE.to_dict()) == TREE.to_json()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"number": 1.0}, "number: Expected `int`, got `float`"),
        ({"number": True}, "number: Expected `int`, got `bool`"),
        ({"number": 0}, "number: Expected `int` >= 1"),
        ({"box": [1.0]}, "box: Expected `array` of length 2, got 1"),
        ({"box": {}}, "box: Expected `array | null`, got `object`"),
        ({"leaves": [{"name": "a"}]}, "leaves: Object missing required field `size` - at `$[0]`"),
        ({"leaves": [{"name": 1, "size": 1}]}, "leaves: Expected `str`, got `int` - at `$[0].name`"),
        ({"leaves": [{"name": "a", "size": 1}]}, "leaves: has a key too many or too few"),
        ({"leaves": [{"name": "a", "size": 1, "colour": "red", "more": 1}]}, "leaves: has a key too many or too few"),
        ({"leaves": [{"name": "a", "size": -1}]}, "leaves: size must be >= 0, got -1"),
        ({"leaves": [{"name": "a", "size": 10**400}]}, "leaves: "),
        ({"settings": [1]}, "settings: Expected `object`, got `array`"),
        ({"more": 1}, "'more' is unknown"),
        ({"m\x1b[2J": 1}, "'m\\x1b[2J' is unknown"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_its_name(change, reason):
    with pytest.raises(ValueError) as error:
        decode_fields(Tree, {**FORMAT.without_heading(RAW, "f"), **change})
    assert str(error.value).startswith(reason)


def test_a_missing_key_is_refused_even_where_it_has_a_default():
    raw = {name: value for name, value in FORMAT.without_heading(RAW, "f").items() if name != "settings"}
    with pytest.raises(ValueError, match="'settings' is missing"):
        decode_fields(Tree, raw)
    with pytest.raises(ValueError, match="not an object"):
        decode_fields(Tree, [])


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ([], "not an oak report"),
        ({}, "not an oak report"),
        ({"kind": "pydrift oak report"}, "not an oak report"),
        ({"schema_version": 3}, "not an oak report"),
        ({"schema_version": 3, "kind": "pydrift elm report"}, "not an oak report"),
        ({"schema_version": True, "kind": "pydrift oak report"}, "not an oak report"),
        ({"schema_version": 2}, "an oak report of schema version 2; this pydrift reads version 3. Plant again."),
        (
            {"format": 1, "kind": "pydrift oak report"},
            "an oak report of schema version 1; this pydrift reads version 3. Plant again.",
        ),
        (
            {"schema_version": 4, "kind": "pydrift oak report"},
            "an oak report of schema version 4; this pydrift reads version 3. Read it with a newer pydrift.",
        ),
    ],
)
def test_another_kind_or_version_is_refused(raw, reason):
    with pytest.raises(InputRefused) as error:
        FORMAT.check(raw, "file")
    assert str(error.value) == f"file: {reason}"


def test_what_parsers_raise_becomes_a_refusal_and_what_pydrift_raises_stays():
    for raised, reason in ((ValueError("x"), "x"), (KeyError("x"), "KeyError('x')"), (RecursionError(), "Recursion")):
        with pytest.raises(InputRefused, match=r"^file: not a readable oak report: ") as error, FORMAT.reading("file"):
            raise raised
        assert reason in str(error.value)
    with pytest.raises(UsageError, match=r"^mine$"), FORMAT.reading("file"):
        raise UsageError("mine")


def test_numbers_of_numpy_and_subclasses_of_plain_types_are_plain_in_a_document():
    found = encode({"a": (np.float64(0.5), np.float32(0.25), np.int64(3), np.bool_(True)), "b": torch.__version__})
    assert found == {"a": [0.5, 0.25, 3, True], "b": str(torch.__version__)}
    assert [type(value) for value in found["a"]] == [float, float, int, bool]
    assert type(found["b"]) is str
    with pytest.raises(TypeError, match=r"^object has no place in a document$"):
        encode({"a": object()})


def test_a_value_that_is_no_field_can_be_decoded_alone():
    assert decode(tuple[int, ...], [1, 2], "sizes") == (1, 2)


def test_the_digest_covers_heading_document_and_tensors(monkeypatch):
    class Other(Tree):
        format = Format("oak report", 4, "")

    class Bare(Tree):
        def _tensors(self) -> dict[str, torch.Tensor]:
            return {}

    values = {name: getattr(TREE, name) for name in ("leaves", "box", "number", "settings")}
    trees: list[Artifact] = [TREE, Other(**values), Bare(**values), Tree(**{**values, "number": 7})]
    assert len({tree.digest() for tree in trees}) == 4
    assert Tree(**values).digest() == TREE.digest()


def test_a_target_that_cannot_be_written_is_found_before_the_work(tmp_path):
    Tree.check_target(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    for name in ("oak.json", "oak.html"):
        folder = tmp_path / name.replace(".", "-")
        (folder / name).mkdir(parents=True)
        with pytest.raises(UsageError, match=rf"{name}: cannot be written"):
            Tree.check_target(folder)


def test_a_seal_covers_the_document_and_the_files_beside_it(tmp_path):
    page = tmp_path / "oak.html"
    page.write_text("an oak")
    file = tmp_path / "oak.json"
    file.write_text(TREE.to_json({"oak.html": sha256_file(page)}))
    assert Tree._read_document(file) == {name: RAW[name] for name in ("leaves", "box", "number", "settings")}
    whole = file.read_bytes()
    accepted = []
    for position in range(len(whole)):
        bit = 1 << position % 8
        file.write_bytes(whole[:position] + bytes([whole[position] ^ bit]) + whole[position + 1 :])
        with suppress(InputRefused):
            accepted.append(Tree._read_document(file))
    assert all(document == {name: RAW[name] for name in document} for document in accepted)  # 1E-9 says what 1e-9 does
    assert len(accepted) < 5
    file.write_bytes(whole)
    page.write_text("an elm")
    with pytest.raises(InputRefused, match=r"oak\.html: not what was written with oak\.json; write the report again$"):
        Tree._read_document(file)
    page.unlink()  # the document alone may be sent on
    Tree._read_document(file)
    raw = {**RAW, "number": 7}
    file.write_text(json.dumps(raw))
    with pytest.raises(InputRefused, match=r"oak\.json: was changed or damaged: its digest is not the one in it$"):
        Tree._read_document(file)
    file.write_text(resealed(raw))
    assert Tree._read_document(file)["number"] == 7
