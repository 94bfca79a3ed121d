"""Manifests: what is changed, missing or not listed is found, and nothing outside the folder is opened."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pydrift.core import manifest as manifests
from pydrift.core.errors import InputRefused
from pydrift.core.files import sha256_bytes
from pydrift.core.manifest import verify_manifest, write_manifest
from pydrift.core.strict_json import write_json
from tests.seals import rewrite_manifest


def test_manifest_round_trip(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_bytes(b"a")
    for litter in (".DS_Store", "sub/Thumbs.db", "desktop.ini", ".nfs00000a1", "sub/._a", ".pydrift-00ff.tmp"):
        (tmp_path / litter).touch()
    (tmp_path / "empty").mkdir()
    write_manifest(tmp_path, {"kind": "calibration"})
    manifest = verify_manifest(tmp_path)
    assert manifest == {"kind": "calibration", "files": {"sub/a": sha256_bytes(b"a")}}
    file = tmp_path / manifests.MANIFEST
    for damaged in (
        file.read_text().replace("calib", "kalib"),
        re.sub('"sha256": "[^"]+"', '"sha256": ""', file.read_text()),
    ):
        file.write_text(damaged)
        with pytest.raises(
            InputRefused, match=r"MANIFEST\.json: was changed or damaged: its digest is not the one in it$"
        ):
            verify_manifest(tmp_path)


def test_manifest_names_what_is_changed_missing_or_unlisted(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    write_manifest(tmp_path, {})
    (tmp_path / "a").write_bytes(b"A")
    with pytest.raises(
        InputRefused, match=r"'a' was changed or damaged: its SHA-256 is not the one in MANIFEST\.json$"
    ):
        verify_manifest(tmp_path)
    (tmp_path / "a").unlink()
    (tmp_path / "a").symlink_to("b")
    with pytest.raises(InputRefused, match=r"'a' is listed in MANIFEST\.json but missing$"):
        verify_manifest(tmp_path)
    (tmp_path / "a").unlink()
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "c").touch()
    with pytest.raises(InputRefused, match=r"'c' is not listed in MANIFEST\.json$"):
        verify_manifest(tmp_path)


def test_what_is_no_manifest(tmp_path: Path) -> None:
    for own in ("files", "sha256"):
        with pytest.raises(ValueError, match=f'own key "{own}"'):
            write_manifest(tmp_path, {own: {}})
    for content in ([], {}, {"files": []}):
        write_json(tmp_path / manifests.MANIFEST, content)
        with pytest.raises(InputRefused, match=r"MANIFEST\.json: not a manifest$"):
            verify_manifest(tmp_path)


def test_a_manifest_cannot_point_outside(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s")
    (tmp_path / "folder").mkdir()
    write_json(tmp_path / "folder" / manifests.MANIFEST, {"files": {}})
    rewrite_manifest(tmp_path / "folder", files={"../secret": sha256_bytes(b"s")})
    with pytest.raises(InputRefused, match=r"'\.\./secret' is listed in MANIFEST\.json but missing$"):
        verify_manifest(tmp_path / "folder")


@pytest.mark.parametrize("name", ["more", ".hidden", ".git/x", "sub/.pydrift.tmp", "Thumbs.db.exe"])
@pytest.mark.parametrize(
    "make", [Path.touch, os.mkfifo, lambda path: path.symlink_to("a"), lambda p: p.symlink_to(".")]
)
def test_whatever_is_added_is_refused(tmp_path: Path, name: str, make: Callable[[Path], object]) -> None:
    (tmp_path / "a").write_bytes(b"a")
    write_manifest(tmp_path, {})
    (tmp_path / name).parent.mkdir(exist_ok=True)
    make(tmp_path / name)
    with pytest.raises(InputRefused, match=rf"{tmp_path}: '{re.escape(name)}' is not listed in MANIFEST\.json$"):
        verify_manifest(tmp_path)
