"""The ownership audit (dataset inference): was this model made from my data?

    report = ownership_audit("victim.safetensors", ["suspect.safetensors"], private, public)
    for suspect in report.suspects:
        print(suspect.name, suspect.verdict, suspect.p)

The command line is `pydrift ownership`.
"""

from pydrift.ownership.audit import ownership_audit
from pydrift.ownership.blind_walk import BlindWalk
from pydrift.ownership.embeddings import Embedding, ImageEmbeddings
from pydrift.ownership.min_gd import MinGd
from pydrift.ownership.registry import EMBEDDINGS
from pydrift.ownership.result import Evidence, OwnershipReport, SuspectResult

__all__ = [
    "EMBEDDINGS",
    "BlindWalk",
    "Embedding",
    "Evidence",
    "ImageEmbeddings",
    "MinGd",
    "OwnershipReport",
    "SuspectResult",
    "ownership_audit",
]
