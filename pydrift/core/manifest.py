"""Folders sealed by a MANIFEST.json, which lists the SHA-256 of every file in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.files import read_file, sha256_bytes, sha256_file
from pydrift.core.limits import MAX_ARTIFACT
from pydrift.core.strict_json import read_json, to_strict_json, write_json

MANIFEST = "MANIFEST.json"
_LITTER = re.compile(r"\.DS_Store|\._.+|(?i:thumbs\.db|desktop\.ini)|\.nfs[0-9a-f]+|\.pydrift-[0-9a-f-]+\.tmp")


def write_manifest(folder: str | Path, extra: Mapping[str, Any]) -> None:
    """Writes MANIFEST.json: `extra`, under "files" the SHA-256 of every file below `folder`, and a digest of it all.

    Call it last.
    """
    if own := {"files", "sha256"} & extra.keys():
        raise ValueError(f'a manifest\'s own key "{min(own)}" cannot be given as extra')
    hashes = {name: sha256_file(path) for name, path in _files_below(Path(folder)).items()}
    said = {**extra, "files": hashes}
    write_json(Path(folder) / MANIFEST, {**said, "sha256": _digest(said)})


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The MANIFEST.json of a folder. Neither its digest nor the files are checked. InputRefused where it is none."""
    file = Path(folder) / MANIFEST
    manifest = read_json(file)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise InputRefused(f"{file}: not a manifest")
    return manifest


def check_digest(folder: str | Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest says, without its digest. InputRefused where the digest is another one."""
    said = {name: value for name, value in manifest.items() if name != "sha256"}
    if manifest.get("sha256") != _digest(said):
        raise InputRefused(f"{Path(folder) / MANIFEST}: was changed or damaged: its digest is not the one in it")
    return said


def _digest(said: Mapping[str, Any]) -> str:
    return sha256_bytes(to_strict_json(said).encode())


def verify_manifest(folder: str | Path) -> dict[str, Any]:
    """Checks every file below `folder` against its MANIFEST.json and returns the manifest.

    InputRefused names the first file that is missing, changed or not listed, be it hidden, a link or a device. Only
    what file managers leave (Thumbs.db, .DS_Store) may be there too. Only files found below the folder are opened, so a
    path in a manifest can lead nowhere else.
    """
    folder = Path(folder)
    manifest = check_digest(folder, read_manifest(folder))
    listed, found = manifest["files"], _files_below(folder)
    for name in sorted(listed.keys() | found.keys()):
        if name not in listed:
            raise InputRefused(f"{folder}: {name!a} is not listed in {MANIFEST}")
        if name not in found or not found[name].is_file() or found[name].is_symlink():
            raise InputRefused(f"{folder}: {name!a} is listed in {MANIFEST} but missing")
        if sha256_file(found[name]) != listed[name]:
            raise InputRefused(f"{folder}: {name!a} was changed or damaged: its SHA-256 is not the one in {MANIFEST}")
    return manifest


def read_verified(folder: str | Path, name: str, manifest: Mapping[str, Any]) -> bytes:
    """The content of a listed file, read once, so that what is hashed is what is parsed. InputRefused if it changed."""
    file = Path(folder) / name
    data = read_file(file, MAX_ARTIFACT)
    if sha256_bytes(data) != manifest["files"].get(name):
        raise InputRefused(f"{file}: its SHA-256 is not the one in {MANIFEST}")
    return data


def is_litter(name: str) -> bool:
    """Whether a file of that name is left by file managers, file servers or killed writers, and means nothing."""
    return _LITTER.fullmatch(name) is not None


def _files_below(folder: Path) -> dict[str, Path]:
    """Everything below a folder but folders, litter and the manifest: also what is hidden, a link or a device."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    relative = {path.relative_to(folder).as_posix(): path for path in found if not is_litter(path.name)}
    return {name: path for name, path in relative.items() if name != MANIFEST}


def refuse_manifest_folder(folder: str | Path) -> None:
    """UsageError where `folder` is sealed by a manifest: one more file in it would make it unreadable."""
    if (Path(folder) / MANIFEST).exists():
        manifest = read_json(Path(folder) / MANIFEST)
        kind = manifest.get("kind") if isinstance(manifest, dict) else None
        what = kind.removeprefix("pydrift ") if isinstance(kind, str) else "folder with a manifest"
        raise UsageError(f"{folder}: is a {ascii(what)[1:-1]}; give another folder")
