"""Job that stores FKS's own pages and gives the chunks of all documents their vectors; vectors by OpenAI.

A request to OpenAI holds the texts of chunks of one collection, or a question. It is decided and recorded in one
transaction before it is sent, so that a consent that was revoked, or whose budget is used up, sends nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from fks.ai.consent import TOKENS_READ_MAX, may_call
from fks.ai.engines.http import ProviderEngine
from fks.ai.engines.port import Embedding, InferenceCall
from fks.config.settings import Ai
from fks.model.errors import FksError, OutageError
from fks.model.timeframe import iso
from fks.store.consents import ConsentStore
from fks.store.db import Database
from fks.store.documents import PROVIDER_PREFIX, SHIPPED, USER, DocumentStore, shipped_pages
from fks.store.jobs import JobStore

KIND: Final = "documents"
_IDS = uuid.UUID("6d7b9f0a-5d4c-4f7e-8f7a-2f1c9d0b7e57")


async def submit_pending(db: Database, now_ns: int, provider: str = "") -> uuid.UUID | None:
    """Queue the job if there is work for it, and return its id; None: there is none. The same work is queued once an
    hour: again where its runners died. Nothing is queued while a job builds a version, which may take hours: another
    one would give that version up and begin again.

    `provider`: as of `DocumentStore`. Errors: OutageError.
    """
    store, jobs = DocumentStore(db, provider=provider), JobStore(db)
    work = await store.pending(shipped_pages())
    if work is None or (await store.is_building() and await jobs.open_of(KIND)):
        return None
    job_id = uuid.uuid5(_IDS, f"{work}:{iso(now_ns)[:13]}")
    return await jobs.submit(KIND, {}, submitted_by=KIND, job_id=job_id)


async def run_documents(db: Database, call: InferenceCall | None = None, provider: str = "") -> dict[str, Any]:
    """Store the shipped pages that differ, then embed. Killed, it runs again: a version of which the build did not end
    is not in force. `call` and `provider`: as of `DocumentStore`."""
    return {"changed": await store_shipped(db), "vectors": await DocumentStore(db, call, provider).embed()}


async def store_shipped(db: Database) -> int:
    """Make the stored pages of FKS those of this build; return how many changed. A second of work, once a build: the
    scheduler does it, so that answers need no runner of jobs."""
    pages = shipped_pages()
    return await DocumentStore(db).store_pages(pages) if pages else 0


def with_provider(db: Database, ai: Ai, call: InferenceCall | None) -> InferenceCall | None:
    """Return the way to the processes of models (None: they cannot be reached), and to OpenAI's vectors where there is
    a key."""
    if not ai.provider:
        return call

    async def with_openai(child: str, message: Mapping[str, object]) -> Mapping[str, Any]:
        if child.startswith(PROVIDER_PREFIX):
            asked: Any = message["embed"]
            return await _embedded(db, ai, child.removeprefix(PROVIDER_PREFIX), Embedding(**asked))
        if call is None:
            raise OutageError(f"{child} cannot be reached")
        return await call(child, message)

    return with_openai


async def _embedded(db: Database, ai: Ai, model: str, asked: Embedding) -> Mapping[str, Any]:
    """Return vectors by OpenAI, or the error. A text of no collection is sent under any of the consents."""
    assert ai.openai_api_key is not None
    key, collections = ai.openai_api_key.get_secret_value(), [asked.collection] if asked.collection else [SHIPPED, USER]
    async with contextlib.AsyncExitStack() as stack:
        engine = ProviderEngine(ai.openai_url, model, key)
        stack.push_async_callback(engine.close)
        request = engine.embedding_request(asked.texts)
        size = len(request.content)
        async with db.transaction() as tx:
            store = ConsentStore(tx)
            given = [one for one in await store.usable(collections, "embed") if one.model == model]
            consent = given[0] if given else None
            most = consent.cost(size, 0) if consent else Decimal(0)
            reason = may_call(key, consent, await store.spent_today(consent) if consent else Decimal(0), most)
            if reason or consent is None:
                return {"error": reason}
            id = await store.begin_call(consent, size, most)
        answer: dict[str, Any] = {}
        tokens = None
        try:
            async with asyncio.timeout(asked.timeout_s):
                answer["vectors"], read = await engine.send_embedding(request)
            tokens = read if 0 < read < TOKENS_READ_MAX else None
        except TimeoutError:
            answer = {"error": f"OpenAI did not answer within {asked.timeout_s:g} s"}
        except FksError as error:
            answer = {"error": error.message}
        cost = None if tokens is None else consent.cost(tokens, 0)
        with contextlib.suppress(OutageError):  # the call stays recorded with the most that it can have cost
            ended = str(answer.get("error", "embedded"))
            await ConsentStore(db).end_call(id, ended, tokens, None if tokens is None else 0, cost)
        return answer
