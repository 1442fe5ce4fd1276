"""Answers by OpenAI, from the passages of a collection for which a person gave consent.

A request holds the question and those passages, and nothing else of FKS. It is decided and recorded in one transaction
before it is sent, so that a consent that was revoked, or whose budget is used up, sends nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Final

import httpx

from fks.ai.answers import TOKENS_MAX, ModelAnswer, chat_of, checked_answer
from fks.ai.consent import TOKENS_READ_MAX, Consent, may_call
from fks.ai.engines.http import ProviderEngine
from fks.ai.engines.port import Completed
from fks.model.errors import FksError, OutageError
from fks.store.consents import ConsentStore
from fks.store.db import Database
from fks.store.documents import FoundPassages

#: how `POST /answer` names it
PROVIDER: Final = "openai"


class ExternalModel:
    """OpenAI's API, used while no model is deployed here that writes answers."""

    def __init__(self, db: Database, url: str, key: str, timeout_s: float) -> None:
        self._db, self._url, self._key, self._timeout_s = db, url, key, timeout_s

    async def written(self, found: FoundPassages) -> tuple[str, FoundPassages, ModelAnswer | str] | None:
        """Return the model, the passages that it was meant to read, and its answer or the reason of none; None without
        a consent for one of the passages.

        Of passages of several collections those are sent that are of the same collection as the best one with a
        consent. Errors: OutageError without PostgreSQL, before anything was sent.
        """
        if not self._key:
            return None
        async with contextlib.AsyncExitStack() as stack:
            async with self._db.transaction() as tx:
                store = ConsentStore(tx)
                collections = [passage["document"]["collection"] for passage in found.passages]
                consents = {one.collection: one for one in await store.usable(sorted(set(collections)), "answer")}
                consent = next((consents[name] for name in collections if name in consents), None)
                if consent is None:
                    return None
                shown = _of_collection(found, consent.collection)
                engine = ProviderEngine(self._url, consent.model, self._key)
                stack.push_async_callback(engine.close)
                request = engine.request(chat_of(shown.question, shown.texts, self._timeout_s))
                size = len(request.content)
                most = consent.cost(size, TOKENS_MAX)
                reason = may_call(self._key, consent, await store.spent_today(consent), most)
                if reason:
                    return consent.model, shown, reason
                id = await store.begin_call(consent, size, most)
            return consent.model, shown, await self._sent(engine, request, consent, id, shown)

    async def _sent(
        self, engine: ProviderEngine, request: httpx.Request, consent: Consent, id: int, shown: FoundPassages
    ) -> ModelAnswer | str:
        done: Completed | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                done = await engine.send(request)
            written: ModelAnswer | str = (
                checked_answer(done.text, shown.texts) or "the model's text is no answer in the form that was asked for"
            )
        except TimeoutError:
            written = f"the model did not answer within {self._timeout_s:g} s"
        except FksError as error:
            written = error.message
        outcome = written if isinstance(written, str) else "answered"
        tokens_in, tokens_out, cost = None, None, None
        if done is not None and all(0 < tokens < TOKENS_READ_MAX for tokens in (done.prompt_tokens, done.tokens)):
            tokens_in, tokens_out = done.prompt_tokens, done.tokens
            cost = consent.cost(tokens_in, tokens_out)
        with contextlib.suppress(OutageError):  # the call stays recorded with the most that it can have cost
            await ConsentStore(self._db).end_call(id, outcome, tokens_in, tokens_out, cost)
        return written


def _of_collection(found: FoundPassages, collection: str) -> FoundPassages:
    pairs = zip(found.passages, found.texts, strict=True)
    kept = [(passage, text) for passage, text in pairs if passage["document"]["collection"] == collection]
    return replace(found, passages=[passage for passage, _ in kept], texts=[text for _, text in kept])
