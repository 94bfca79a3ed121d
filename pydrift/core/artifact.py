"""What pydrift saves and loads again: reports, calibrations, shadow banks and fingerprints.

Each is one JSON document and named tensors, and each has a `Format`: its kind and its schema version, which head the
document. A file of another kind, of another version, damaged or made up is refused with one sentence.

Documents are decoded by msgspec (`decode_fields`): it fills the frozen dataclasses as they are, checks every type, and
names the place of what does not fit. pydantic can do the same, but to take a list for a tuple in its strict mode it
must parse the text itself, and its parser lets NaN and a key given twice pass. msgspec takes what our own parser made.
It has no dependencies, is loaded in a few milliseconds, and has wheels for Python 3.11 to 3.13.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_type_hints

import msgspec

from pydrift.core.errors import InputRefused, PydriftError, UsageError
from pydrift.core.files import check_writable, read_file, sha256_bytes, sha256_file
from pydrift.core.limits import MAX_JSON
from pydrift.core.manifest import (
    MANIFEST,
    is_litter,
    read_manifest,
    refuse_manifest_folder,
    verify_manifest,
    write_manifest,
)
from pydrift.core.strict_json import parse_strict_json, to_strict_json
from pydrift.core.tensors import content_digest

if TYPE_CHECKING:
    from torch import Tensor


Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
PValue = Annotated[float, msgspec.Meta(gt=0, le=1)]
Level = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Count = Annotated[int, msgspec.Meta(ge=1)]
"""Types of fields whose range is checked when they are decoded."""


@dataclass(frozen=True)
class Format:
    """How files of one kind are headed.

    kind            what they are, in words: "drift report"
    schema_version  raised with every change of what is in them
    remedy          a sentence: how to get a file of this version
    """

    kind: str
    schema_version: int
    remedy: str

    def heading(self) -> dict[str, Any]:
        return {"kind": f"pydrift {self.kind}", "schema_version": self.schema_version}

    def check(self, raw: Any, source: str | Path) -> None:
        """InputRefused unless `raw` is headed as a file of this kind and version."""
        article = "an" if self.kind[0] in "aeiou" else "a"
        if not isinstance(raw, dict):
            raise InputRefused(f"{source}: not {article} {self.kind}")
        version = raw.get("schema_version", raw.get("format"))  # as older manifests call it
        if raw.get("kind", f"pydrift {self.kind}") != f"pydrift {self.kind}" or type(version) is not int:
            raise InputRefused(f"{source}: not {article} {self.kind}")
        if version != self.schema_version:
            remedy = self.remedy if version < self.schema_version else "Read it with a newer pydrift."
            raise InputRefused(
                f"{source}: {article} {self.kind} of schema version {version}; this pydrift reads version "
                f"{self.schema_version}. {remedy}"
            )
        if "kind" not in raw:
            raise InputRefused(f"{source}: not {article} {self.kind}")

    def without_heading(self, raw: Any, source: str | Path) -> dict[str, Any]:
        """`check`, and what follows the heading."""
        self.check(raw, source)
        return {name: value for name, value in raw.items() if name not in ("kind", "schema_version")}

    @contextmanager
    def reading(self, source: str | Path) -> Iterator[None]:
        """Whatever a damaged or made-up file makes the parsers raise becomes an InputRefused that names the source."""
        try:
            yield
        except PydriftError:
            raise
        except Exception as error:
            reason = str(error) if isinstance(error, ValueError) else repr(error)
            raise InputRefused(f"{source}: not a readable {self.kind}: {reason}") from error


class Artifact(ABC):
    """The base of all that is saved and loaded."""

    format: ClassVar[Format]

    @abstractmethod
    def _document(self) -> dict[str, Any]:
        """All that it says but its tensors, as plain JSON values without the heading."""

    @abstractmethod
    def _tensors(self) -> Mapping[str, Tensor]:
        """All its arrays."""

    def digest(self) -> str:
        """SHA-256 of all that it says: the document, its kind and version, and every tensor."""
        return content_digest({**self.format.heading(), **self._document()}, self._tensors())


class Report(Artifact):
    """The base of the audits' results: one JSON document, a page, and where there are arrays an npz file beside it.

    The document is written last, and its seal covers all three: files of two results are never taken for one.

    json_name    of the document in its folder; the HTML page beside it has the same name but for the suffix
    arrays_name  of the npz file; "" where there is none
    """

    json_name: ClassVar[str]
    arrays_name: ClassVar[str] = ""

    def to_dict(self, files: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The report as plain JSON values, without its arrays, and with a seal: one digest over all that it says.

        files  the SHA-256 of each file that is written with it, by name; they are part of the seal
        """
        said = {**self.format.heading(), **self._document()}
        return {**said, "seal": _seal(said, files or {})}

    def to_json(self, files: Mapping[str, str] | None = None) -> str:
        """One strict JSON document (no NaN): `to_dict`."""
        return to_strict_json(self.to_dict(files))

    @classmethod
    def check_target(cls, folder: str | Path) -> None:
        """Asks whether a report could be written there. UsageError where not, or where a manifest seals the folder.

        Leaves nothing.
        """
        refuse_manifest_folder(folder)
        for name in (cls.json_name, *cls._companions()):
            check_writable(Path(folder) / name)

    @classmethod
    def _companions(cls) -> list[str]:
        """The names of what is written with the document: the page, and the arrays if there are any."""
        return [name for name in (Path(cls.json_name).with_suffix(".html").name, cls.arrays_name) if name]

    @classmethod
    def _document_file(cls, path: str | Path) -> Path:
        """The document, where `path` is its folder or the document itself."""
        return Path(path) / cls.json_name if Path(path).is_dir() else Path(path)

    @classmethod
    def _read_document(cls, file: Path) -> dict[str, Any]:
        """What it says after its heading. UsageError: no such file.

        InputRefused: it is not a report of this kind and version, it was changed, or a file beside it is not the one
        that was written with it. Such a file may be missing.
        """
        with cls.format.reading(file):
            raw = parse_strict_json(read_file(file, MAX_JSON))
        document = cls.format.without_heading(raw, file)
        seal = document.pop("seal", None)
        files = seal.get("files") if isinstance(seal, dict) else None
        if not isinstance(files, dict) or seal != _seal({**cls.format.heading(), **document}, files):
            raise InputRefused(f"{file}: was changed or damaged: its digest is not the one in it")
        for beside in map(file.with_name, cls._companions()):
            if beside.exists() and sha256_file(beside) != files.get(beside.name):
                raise InputRefused(f"{beside}: not what was written with {file.name}; write the report again")
        return document


def _seal(said: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """The files that are written with a document, and the digest over the document and them."""
    return {"files": dict(files), "sha256": sha256_bytes(to_strict_json({"said": said, "files": files}).encode())}


class SealedFolder(Artifact):
    """The base of what is kept in a folder of its own, sealed by a MANIFEST.json with the SHA-256 of every file.

    names  of all that it has in the folder, beside the manifest
    """

    names: ClassVar[tuple[str, ...]]

    @abstractmethod
    def _write(self, folder: Path) -> None:
        """Writes all files but the manifest."""

    def save(self, folder: str | Path) -> None:
        """Writes all files and, last, MANIFEST.json with their hashes. The same content gives the same bytes.

        UsageError where the folder holds other files.
        """
        folder = Path(folder)
        self.check_target(folder)
        (folder / MANIFEST).unlink(missing_ok=True)
        self._write(folder)
        write_manifest(folder, self.format.heading())

    @classmethod
    def check_target(cls, folder: str | Path) -> None:
        """Asks whether `save` could write there: UsageError where not, or where other files are. Leaves nothing."""
        folder = Path(folder)
        check_writable(folder / cls.names[0])
        if strangers := cls._strangers(folder):
            raise UsageError(
                f"{folder}: holds other files ({min(strangers)}); give a new folder for the {cls.format.kind}"
            )

    @classmethod
    def _strangers(cls, folder: Path) -> set[str]:
        """Names of what is in the folder and is none of ours."""
        return {file.name for file in folder.glob("*") if not is_litter(file.name)} - {*cls.names, MANIFEST}

    @classmethod
    def _verified(cls, folder: Path) -> dict[str, Any]:
        """The manifest, every file checked. InputRefused on another kind or version and on damage."""
        cls.format.check(read_manifest(folder), folder)
        return verify_manifest(folder)


def decode_fields(cls: type, raw: Any, skip: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a dataclass, but those in `skip`, from plain JSON values: its arguments by name.

    ValueError on a type that does not fit, and on a key that is missing or unknown, wherever in the document it is.
    """
    if not isinstance(raw, dict):
        raise ValueError("not an object")
    hints = get_type_hints(cls, include_extras=True)
    names = {field.name for field in fields(cls)} - set(skip)
    if wrong := sorted(names ^ raw.keys()):
        raise ValueError(f"{wrong[0]!a} is {'missing' if wrong[0] in names else 'unknown'}")
    return {name: decode(hints[name], raw[name], name) for name in sorted(names)}


def decode(kind: Any, raw: Any, name: str) -> Any:
    """A value of a type from plain JSON values; `name` is the document's for it. ValueError as in `decode_fields`."""
    try:
        value = msgspec.convert(raw, kind)
    except (msgspec.ValidationError, PydriftError) as error:  # the latter from the dataclasses' own checks
        raise ValueError(f"{name}: {error}") from error
    if encode(value) != raw:  # a key that no dataclass has, or one that is filled by its default
        raise ValueError(f"{name}: has a key too many or too few")
    return value


def encode(value: Any) -> Any:
    """Dataclasses, tuples, numpy's numbers and subclasses of plain types as plain JSON values.

    Not by msgspec, which leaves out a field that it filled by its default: then a missing key would not be noticed.
    """
    if is_dataclass(value):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {encode(name): encode(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [encode(inner) for inner in value]
    if value is None or isinstance(value, bool):
        return value
    for plain in (str, int, float):
        if isinstance(value, plain):  # torch's version and numpy's float64 are subclasses
            return plain(value)
    if getattr(value, "shape", None) == ():
        return value.item()
    raise TypeError(f"{type(value).__name__} has no place in a document")
