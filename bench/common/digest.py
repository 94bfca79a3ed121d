"""Names of kept files: a hash of everything that a file was made from, so that a killed run goes on."""

import hashlib
import json
from typing import Any


def digest_of(made_from: dict[str, Any], digits: int) -> str:
    """Returns the first hexadecimal digits of the SHA-256 of a JSON object, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:digits]
