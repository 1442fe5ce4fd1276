"""Documents that are stored without a gateway."""

from __future__ import annotations

import uuid

from fks.ai.chunks import chunks_of, document_id
from fks.store.documents import USER, DocumentStore


async def save(store: DocumentStore, name: str, source: str) -> tuple[uuid.UUID, bool]:
    """Store a document in Markdown; return what `DocumentStore.save` does."""
    chunks = chunks_of(document_id(USER, name), "markdown", source)
    return await store.save(name, "markdown", source, chunks, by="me")
