"""The old address of what files, strict_json, manifest, tensors and run_store hold; gone once nothing imports it."""

from pydrift.core.files import check_writable, read_file, sha256_bytes, sha256_file, sync_folder, write_atomic
from pydrift.core.manifest import MANIFEST, read_verified, refuse_manifest_folder, verify_manifest, write_manifest
from pydrift.core.run_store import RunFolder, failpoint, first_difference
from pydrift.core.strict_json import parse_strict_json, read_json, to_strict_json, write_json
from pydrift.core.tensors import safetensors_bytes, tensors_digest

__all__ = [
    "MANIFEST",
    "RunFolder",
    "check_writable",
    "failpoint",
    "first_difference",
    "parse_strict_json",
    "read_file",
    "read_json",
    "read_verified",
    "refuse_manifest_folder",
    "safetensors_bytes",
    "sha256_bytes",
    "sha256_file",
    "sync_folder",
    "tensors_digest",
    "to_strict_json",
    "verify_manifest",
    "write_atomic",
    "write_json",
    "write_manifest",
]
