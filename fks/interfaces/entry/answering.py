"""Answers with sources: passages that a search finds, and the text of a language model where one is served.

A model's failure costs its text and nothing else: the answer is then the passages alone. Nothing of its text is
carried out; there is no tool that it could call.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from fks.ai.answers import SYSTEM, TOKENS_MAX, ModelAnswer, answer_so_far, checked_answer, prompt_of, schema_of
from fks.ai.engines.port import Completion, InferenceCall
from fks.clock import Clock
from fks.interfaces.entry.external import PROVIDER, ExternalModel
from fks.model.errors import OutageError, Problem
from fks.model.ports import Log
from fks.store.db import Database
from fks.store.deployments import DeploymentStore
from fks.store.documents import DocumentStore, FoundPassages

#: processes that a request is sent to at most: after the death of one, once to another
ATTEMPTS: Final = 2
RETRY_AFTER_S: Final = 5
#: between two looks for the text of a request that a process has not begun
READ_AGAIN_S: Final = 0.05


class Answering:
    """Answers questions. Holds only the turn of the replicas."""

    def __init__(
        self,
        db: Database,
        documents: DocumentStore,
        call: InferenceCall | None,
        clock: Clock,
        log: Log,
        timeout_s: float,
        external: ExternalModel,
    ) -> None:
        """`call` is None where no model can be reached; `timeout_s`: how long a model may take; `external` is asked
        while none is deployed."""
        self._external = external
        self._deployments, self._documents = DeploymentStore(db), documents
        self._call, self._clock, self._log, self._timeout_s = call, clock, log, timeout_s
        self._turn = itertools.count()

    async def answer(self, question: str, *, collection: str | None = None, model: str | None = None) -> dict[str, Any]:
        """Return the answer to a question. `model`: a deployment; None: the first that serves.

        Errors: OutageError without PostgreSQL; Problem 503 AI_BUSY while each replica has as many requests as it
        keeps. Guarantees: any other failure of a model gives the passages alone, within `timeout_s`.
        """
        found = await self._documents.passages(question, collection=collection)
        return await self._answered(found, await self._replicas(model) if found.passages else (), model)

    async def events(
        self, question: str, *, collection: str | None = None, model: str | None = None
    ) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        """Yield the answer as it is made: `passages`, then each `token` of a model's text, which is unchecked, then
        `answer`, as `answer` returns it. In its place `error` (code, detail) when each replica is busy, or when the
        process ended after a token. Closed, the model's work ends.

        Errors: OutageError without PostgreSQL, before the first event.
        """
        found = await self._documents.passages(question, collection=collection)
        replicas = await self._replicas(model) if found.passages else ()
        yield "passages", found.shown()
        sent = _SentText()
        answering = asyncio.ensure_future(self._answered(found, replicas, model, sent))
        answering.add_done_callback(lambda _: sent.parts.put_nowait(""))
        try:
            while part := await sent.parts.get():
                yield "token", {"text": part}
            yield "answer", await answering
        except (Problem, OutageError) as error:
            code = error.code if isinstance(error, Problem) else "AI_BROKEN_OFF"
            yield "error", {"code": code, "detail": str(error)}
        finally:
            answering.cancel()

    async def _answered(
        self, found: FoundPassages, replicas: Sequence[str], model: str | None, sent: _SentText | None = None
    ) -> dict[str, Any]:
        """Errors: Problem AI_BUSY; OutageError when the process ended after a token was sent."""
        if not replicas:
            return found.shown() if model else await self._by_provider(found)
        name, message = replicas[0].split(":")[1], self._message(found)
        try:
            async with asyncio.timeout(self._timeout_s):
                written, reason = await self._ask(replicas, message, found.texts, sent)
        except TimeoutError:
            written, reason = None, f"the model did not answer within {self._timeout_s:g} s"
        if written is None:
            self._log.warning("ai.unanswered", model=name, reason=reason)
            return found.shown() | {"model": name, "reason": reason}
        return found.shown() | _shown(written, found) | {"model": name}

    async def _by_provider(self, found: FoundPassages) -> dict[str, Any]:
        written = await self._external.written(found) if found.passages else None
        if written is None:
            return found.shown()
        name, read, answer = written
        if isinstance(answer, str):
            self._log.warning("ai.unanswered", model=name, reason=answer)
            return found.shown() | {"provider": PROVIDER, "model": name, "reason": answer}
        return found.shown() | _shown(answer, read) | {"provider": PROVIDER, "model": name}

    async def _replicas(self, model: str | None) -> Sequence[str]:
        """Return the processes of a model that serve, in the order in which they are tried."""
        if self._call is None:
            return ()
        rows = await self._deployments.all()
        serving = next(
            (
                row["ready"]
                for row in rows
                if row["ready"] and row["purpose"] == "answer" and model in (None, row["name"])
            ),
            (),
        )
        first = next(self._turn) % len(serving) if serving else 0
        return [*serving[first:], *serving[:first]]

    def _message(self, found: FoundPassages) -> dict[str, object]:
        user, schema = prompt_of(found.question, found.texts), schema_of(len(found.texts))
        return asdict(Completion(SYSTEM, user, schema, TOKENS_MAX, self._timeout_s))

    async def _ask(
        self, replicas: Sequence[str], message: dict[str, object], texts: Sequence[str], sent: _SentText | None
    ) -> tuple[ModelAnswer | None, str]:
        """Return the model's answer, or None and the reason. Errors: as `_answered`."""
        assert self._call is not None
        end_s, reason, busy = self._clock.monotonic() + self._timeout_s, "", 0
        tried = replicas[:ATTEMPTS]
        for child in tried:
            left = message | {"timeout_s": max(end_s - self._clock.monotonic(), 0.0)}
            try:
                answer = await (self._call(child, left) if sent is None else self._followed(child, left, sent))
            except OutageError as error:
                reason = f"{child} ended: {error.message}"
                if sent is not None and sent.length:
                    raise OutageError(reason) from error
                continue
            if answer.get("refused") == "busy":
                busy += 1
                continue
            if "text" not in answer:
                return None, str(answer.get("error") or answer.get("refused"))
            written = checked_answer(str(answer["text"]), texts)
            return written, "" if written else "the model's text is no answer in the form that was asked for"
        if busy == len(tried):
            raise Problem(
                503,
                "AI_BUSY",
                "the language model has as many requests as it keeps",
                remedy="try again, or deploy more replicas",
                headers={"Retry-After": str(RETRY_AFTER_S)},
            )
        return None, reason or "each replica is busy or has ended"

    async def _followed(self, child: str, message: dict[str, object], sent: _SentText) -> Mapping[str, Any]:
        """Return the answer of a process, and send its text as it is written."""
        assert self._call is not None
        stream = uuid.uuid4().hex
        reading = asyncio.ensure_future(self._read(child, stream, sent))
        try:
            return await self._call(child, message | {"stream": stream})
        finally:
            reading.cancel()

    async def _read(self, child: str, stream: str, sent: _SentText) -> None:
        assert self._call is not None
        text = ""
        with contextlib.suppress(OutageError):  # the request itself reports it
            while True:
                part = await self._call(child, {"read": stream, "after": len(text)})
                text += str(part.get("text", ""))
                sent.add(answer_so_far(text))
                if not part.get("is_open"):  # it waits for its turn, or its answer is on the way
                    await asyncio.sleep(READ_AGAIN_S)


class _SentText:
    """The text of a model that a client was sent, in parts; an empty part is the end."""

    def __init__(self) -> None:
        self.parts: asyncio.Queue[str] = asyncio.Queue()
        self.length = 0

    def add(self, text: str) -> None:
        """Send what is new in a text."""
        if len(text) > self.length:
            self.parts.put_nowait(text[self.length :])
            self.length = len(text)


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
