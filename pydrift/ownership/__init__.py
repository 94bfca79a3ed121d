"""Dataset inference: is this model made of my data?

    report = dataset_inference("victim.safetensors", ["suspect.safetensors"], private, public)
    for suspect in report.suspects:
        print(suspect.name, suspect.verdict, suspect.p)

The command line is `pydrift ownership`.
"""

from pydrift.ownership.blind_walk import BlindWalk
from pydrift.ownership.embedding import Embedded, Embedding
from pydrift.ownership.inference import EMBEDDINGS, dataset_inference
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
    "dataset_inference",
]
