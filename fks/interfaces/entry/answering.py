"""Answers with sources: passages that a search finds, and the text of a language model where one is served.

A model's failure costs its text and nothing else: the answer is then the passages alone. Nothing of its text is
carried out; there is no tool that it could call.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from fks.ai.answers import ModelAnswer, answer_so_far, chat_of, checked_answer
from fks.interfaces.entry.external import PROVIDER, ExternalModel
from fks.interfaces.entry.replicas import ModelReplicas, SentText, ServedModel
from fks.model.errors import FksError, OutageError, Problem
from fks.model.ports import Log
from fks.store.documents import DocumentStore, FoundPassages


class Answering:
    """Answers questions. Holds no state."""

    def __init__(self, documents: DocumentStore, models: ModelReplicas, log: Log, external: ExternalModel) -> None:
        """`external` is asked while no model is deployed."""
        self._documents, self._models, self._log, self._external = documents, models, log, external

    async def answer(self, question: str, *, collection: str | None = None, model: str | None = None) -> dict[str, Any]:
        """Return the answer to a question. `model`: a deployment; None: the first that serves.

        Errors: OutageError without PostgreSQL; Problem 503 AI_BUSY while each replica has as many requests as it
        keeps. Guarantees: any other failure of a model gives the passages alone, within its deadline.
        """
        found = await self._documents.passages(question, collection=collection)
        return await self._answered(found, await self._models.serving(model) if found.passages else None, model)

    async def events(
        self, question: str, *, collection: str | None = None, model: str | None = None
    ) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        """Yield the answer as it is made: `passages`, then each `token` of a model's text, which is unchecked, then
        `answer`, as `answer` returns it. In its place `error` (code, detail) when each replica is busy, or when the
        process ended after a token. Closed, the model's work ends.

        Errors: OutageError without PostgreSQL, before the first event.
        """
        found = await self._documents.passages(question, collection=collection)
        served = await self._models.serving(model) if found.passages else None
        yield "passages", found.shown()
        sent = SentText(answer_so_far)
        try:
            async with contextlib.aclosing(sent.followed(self._answered(found, served, model, sent))) as parts:
                async for part in parts:
                    yield ("token", {"text": part}) if isinstance(part, str) else ("answer", part)
        except (Problem, OutageError) as error:
            code = error.code if isinstance(error, Problem) else "AI_BROKEN_OFF"
            yield "error", {"code": code, "detail": str(error)}

    async def _answered(
        self, found: FoundPassages, served: ServedModel | None, model: str | None, sent: SentText | None = None
    ) -> dict[str, Any]:
        """Errors: Problem AI_BUSY; OutageError when the process ended after a token was sent."""
        if served is None:
            return found.shown() if model else await self._by_provider(found)
        written, reason = None, "the model's text is no answer in the form that was asked for"
        asked = chat_of(found.question, found.texts, self._models.timeout_s)
        try:
            written = checked_answer((await self._models.complete(served, asked, sent)).text, found.texts)
        except FksError as error:
            is_broken_off = isinstance(error, OutageError) and sent is not None and sent.length
            if is_broken_off or (isinstance(error, Problem) and error.code == "AI_BUSY"):
                raise
            reason = str(error)
        if written is None:
            self._log.warning("ai.unanswered", model=served.name, reason=reason)
            return found.shown() | {"model": served.name, "reason": reason}
        return found.shown() | _shown(written, found) | {"model": served.name}

    async def _by_provider(self, found: FoundPassages) -> dict[str, Any]:
        written = await self._external.written(found) if found.passages else None
        if written is None:
            return found.shown()
        name, read, answer = written
        if isinstance(answer, str):
            self._log.warning("ai.unanswered", model=name, reason=answer)
            return found.shown() | {"provider": PROVIDER, "model": name, "reason": answer}
        return found.shown() | _shown(answer, read) | {"provider": PROVIDER, "model": name}


def _shown(written: ModelAnswer, found: FoundPassages) -> dict[str, Any]:
    citations = [
        {
            "chunk": found.passages[cited.passage - 1]["chunk"],
            "quote": cited.quote,
            "chunk_start": cited.start,
            "chunk_end": cited.end,
        }
        for cited in written.citations
    ]
    is_flagged = written.removed > 0 or not citations
    return {
        "mode": "model",
        "answer": written.text,
        "citations": citations,
        "flagged": is_flagged,
        "removed_quotes": written.removed,
    }
