"""The embeddings by name, as the command line and `ownership_audit` know them."""

from __future__ import annotations

from pydrift.core.errors import UsageError
from pydrift.ownership.blind_walk import BlindWalk
from pydrift.ownership.embeddings import Embedding
from pydrift.ownership.min_gd import MinGd

EMBEDDINGS: dict[str, Embedding] = {"blind-walk": BlindWalk(), "min-gd": MinGd()}


def select_embedding(embedding: str | Embedding) -> Embedding:
    """The embedding of that name; an embedding is returned as it is. UsageError: an unknown name."""
    if not isinstance(embedding, str):
        return embedding
    if embedding not in EMBEDDINGS:
        raise UsageError(f"no such embedding: {embedding!r}; known are {', '.join(EMBEDDINGS)}")
    return EMBEDDINGS[embedding]
