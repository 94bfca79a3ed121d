"""Dataset inference: is this model made of my data?

    report = ownership_audit("victim.safetensors", ["suspect.safetensors"], private, public)
    for suspect in report.suspects:
        print(suspect.name, suspect.verdict, suspect.p)

The command line is `pydrift ownership`.
"""

from pydrift.ownership.audit import EMBEDDINGS, ownership_audit
from pydrift.ownership.blind_walk import BlindWalk
from pydrift.ownership.embedding import Embedded, Embedding
from pydrift.ownership.min_gd import MinGd
from pydrift.ownership.result import Evidence, OwnershipReport, SuspectResult

__all__ = [
    "EMBEDDINGS",
    "BlindWalk",
    "Embedded",
    "Embedding",
    "Evidence",
    "MinGd",
    "OwnershipReport",
    "SuspectResult",
    "ownership_audit",
]
