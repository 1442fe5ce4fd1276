"""Replicas of language models: the choice of a process for a request, its text as it is written, and one more process
after the death of the first."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeVar

from fks.ai.engines.port import Completed, Completion, InferenceCall
from fks.clock import Clock
from fks.model.errors import FksError, InputError, OutageError, PeerError, Problem, not_found
from fks.store.db import Database
from fks.store.deployments import DeploymentStore

T = TypeVar("T")

#: processes that a request is sent to at most: after the death of one, once to another
ATTEMPTS: Final = 2
RETRY_AFTER_S: Final = 5
#: between two looks for the text of a request that a process has not begun
READ_AGAIN_S: Final = 0.005
#: between two looks for more of a text: a look at each token would take a fifth of the tokens from a fast model
PARTS_S: Final = 0.04


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A deployed model that writes texts. `replicas`: its processes that serve, in the order in which they are tried;
    `sha256`: of its file, "" without one."""

    name: str
    sha256: str
    replicas: Sequence[str]


class SentText:
    """The text of a model that a client was sent, in parts; an empty part is the end."""

    def __init__(self, shown: Callable[[str], str] = str) -> None:
        """`shown`: the part of a model's text that the client is sent; a longer text only adds to it."""
        self.parts: asyncio.Queue[str] = asyncio.Queue()
        self.length = 0
        self._shown = shown

    def add(self, text: str) -> None:
        """Send what is new in a text."""
        shown = self._shown(text)
        if len(shown) > self.length:
            self.parts.put_nowait(shown[self.length :])
            self.length = len(shown)

    async def followed(self, work: Coroutine[Any, Any, T]) -> AsyncGenerator[str | T, None]:
        """Yield the parts that work sends, then its result. Closed, the work ends. Errors: those of the work."""
        working = asyncio.ensure_future(work)
        working.add_done_callback(lambda _: self.parts.put_nowait(""))
        try:
            while part := await self.parts.get():
                yield part
            yield await working
        finally:
            working.cancel()


class AllEndedError(OutageError):
    """Each of two processes ended while it worked on a request, which may be the cause."""


class ModelReplicas:
    """Sends requests to the processes of models. Holds only the turn of the replicas."""

    def __init__(self, db: Database, call: InferenceCall | None, clock: Clock, timeout_s: float) -> None:
        """`call` is None where no model can be reached; `timeout_s`: how long a model may take."""
        self._deployments = DeploymentStore(db)
        self._call, self._clock, self.timeout_s = call, clock, timeout_s
        self._turn = itertools.count()

    async def serving(self, name: str | None) -> ServedModel | None:
        """Return the model of a deployment, None: of the first that serves; None while it has no replica that does."""
        rows = [row for row in await self.deployed() if row["ready"] and name in (None, row["name"])]
        return self._served(rows[0]) if rows else None

    async def find(self, name: str) -> ServedModel:
        """Return the model of a deployment. Errors: InputError 404 MODEL_NOT_FOUND; Problem 503 AI_AWAY while none of
        its replicas serves."""
        row = next((row for row in await self.deployed() if row["name"] == name), None)
        if row is None:
            raise not_found("MODEL_NOT_FOUND", f"no model {name!r} is deployed here that writes texts")
        if not row["ready"]:
            reason = f": {row['reason']}" if row["reason"] else ""
            raise Problem(
                503,
                "AI_AWAY",
                f"the model {name} is {row['state']}{reason}",
                remedy="see 'fks ai models'",
                headers={"Retry-After": str(RETRY_AFTER_S)},
            )
        return self._served(row)

    async def deployed(self) -> list[dict[str, Any]]:
        """Return the rows of the deployments that write texts (`DeploymentStore.all`)."""
        if self._call is None:
            return []
        return [row for row in await self._deployments.all() if row["purpose"] == "answer"]

    def _served(self, row: Mapping[str, Any]) -> ServedModel:
        ready = row["ready"]
        first = next(self._turn) % len(ready)
        return ServedModel(row["name"], row["sha256"], [*ready[first:], *ready[:first]])

    async def complete(self, model: ServedModel, asked: Completion, sent: SentText | None = None) -> Completed:
        """Return the text of a model; `sent` is given it as it is written.

        Errors: Problem 503 AI_BUSY while each replica that was tried has as many requests as it keeps; Problem 504
        AI_LATE after `timeout_s`; InputError for a request that the model cannot take; OutageError when the processes
        ended, AllEndedError when two did: before anything was sent the request goes once to another one; PeerError for
        another failure.
        """
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self._tried(model.replicas[:ATTEMPTS], asdict(asked), sent)
        except TimeoutError:
            raise self._late() from None

    async def _tried(self, tried: Sequence[str], message: dict[str, object], sent: SentText | None) -> Completed:
        assert self._call is not None
        end_s, reason, busy, ended = self._clock.monotonic() + self.timeout_s, "", 0, 0
        for child in tried:
            left = message | {"timeout_s": max(end_s - self._clock.monotonic(), 0.0)}
            try:
                answer = await (self._call(child, left) if sent is None else self._read(child, left, sent))
            except OutageError as error:
                reason, ended = f"a process of the model ended, or had not begun: {error.message}", ended + 1
                if sent is not None and sent.length:
                    raise OutageError(reason) from error
                continue
            if answer.get("refused") == "busy":
                busy += 1
                continue
            return self._completed(answer)
        if busy == len(tried):
            raise Problem(
                503,
                "AI_BUSY",
                "the language model has as many requests as it keeps",
                remedy="try again, or deploy more replicas",
                headers={"Retry-After": str(RETRY_AFTER_S)},
            )
        raise AllEndedError(reason) if ended == ATTEMPTS else OutageError(reason)

    def _completed(self, answer: Mapping[str, Any]) -> Completed:
        if "text" in answer:
            is_whole = bool(answer.get("is_whole"))
            return Completed(str(answer["text"]), answer.get("tokens", 0), is_whole, answer.get("prompt_tokens", 0))
        if answer.get("refused") == "deadline":
            raise self._late()
        error: FksError = PeerError(str(answer.get("error") or answer.get("refused")))
        raise InputError(error.message, code=answer["code"]) if "code" in answer else error

    def _late(self) -> Problem:
        message = f"the model did not answer within {self.timeout_s:g} s, its deadline"
        # clients of OpenAI's interface repeat other 5xx, and would wait as long again
        return Problem(504, "AI_LATE", message, headers={"X-Should-Retry": "false"})

    async def _read(self, child: str, message: dict[str, object], sent: SentText) -> Mapping[str, Any]:
        """Return the answer of a process, and send its text as it is written."""
        assert self._call is not None
        stream = uuid.uuid4().hex
        reading = asyncio.ensure_future(self._send(child, stream, sent))
        try:
            return await self._call(child, message | {"stream": stream})
        finally:
            reading.cancel()

    async def _send(self, child: str, stream: str, sent: SentText) -> None:
        assert self._call is not None
        text = ""
        with contextlib.suppress(OutageError, PeerError):  # the request itself reports it
            while True:
                part = await self._call(child, {"read": stream, "after": len(text)})
                text += str(part.get("text", ""))
                sent.add(text)
                # one that is not open has not arrived, or its answer is on the way
                await asyncio.sleep(PARTS_S if part.get("is_open") else READ_AGAIN_S)
