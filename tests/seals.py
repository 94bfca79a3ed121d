"""Seals of reports and manifests, made right again after a change, as someone could who knows how they are made."""

import json
from pathlib import Path
from typing import Any

from pydrift.core import artifact, manifest
from pydrift.core.strict_json import parse_strict_json


def unsealed(text: str | bytes) -> dict[str, Any]:
    """A report's document without its seal."""
    raw = parse_strict_json(text if isinstance(text, bytes) else text.encode())
    assert raw.pop("seal").keys() == {"files", "sha256"}
    return raw


def resealed(raw: dict[str, Any], files: dict[str, str] | None = None) -> str:
    """A report's document with a seal that fits; `files` default to those in its old seal."""
    said = {name: value for name, value in raw.items() if name != "seal"}
    files = files if files is not None else raw.get("seal", {}).get("files", {})
    return json.dumps({**said, "seal": artifact._seal(said, files)})


def rewrite_report(file: Path, change: Any) -> None:
    """Changes the text of a report's document, and makes its seal and the digests of its files right again."""
    raw = json.loads(change(file.read_text()))
    beside = [file.with_name(name) for name in raw["seal"]["files"] if file.with_name(name).exists()]
    file.write_text(resealed(raw, {path.name: artifact.sha256_file(path) for path in beside}))


def rewrite_manifest(folder: Path, **changes: Any) -> None:
    """Changes what a manifest says, and makes its digest right again."""
    raw = json.loads((folder / manifest.MANIFEST).read_text())
    said = {name: value for name, value in {**raw, **changes}.items() if name != "sha256"}
    (folder / manifest.MANIFEST).write_text(json.dumps({**said, "sha256": manifest._digest(said)}))
