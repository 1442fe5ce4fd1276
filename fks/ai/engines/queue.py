"""Queue of the requests of one process: few at work, some that wait, each with a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from fks.ai.engines.port import SLOTS, AnotherModelError, Completion, Embedding, FeatureRows, ModelEngine
from fks.model.errors import FksError, InputError
from fks.model.minute import LastMinute


class InferenceQueue:
    """The requests of one process: `SLOTS` at work, `waiting_max` that wait, each with a deadline.

    An answer is a mapping: the fields of `Completed`; or `vectors`; or `values`; or `refused` (busy, deadline, or that
    another model is meant); or `error`, with `code` where the request is at fault.
    A request with a `stream` can be read before its answer, by messages with `read` (that stream) and `after` (the
    characters that are known): the answer has the `text` after those, as soon as there is some, and `is_open`.
    """

    def __init__(
        self, engine: ModelEngine, *, waiting_max: int = 8, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine, self._waiting_max, self._monotonic = engine, waiting_max, monotonic
        self._slots = asyncio.Semaphore(SLOTS)
        self._open = 0
        self._streams: dict[str, _TextStream] = {}
        self._written = LastMinute()  # tokens
        self.counts = {"answered": 0, "tokens": 0, "busy": 0, "late": 0, "failed": 0, "cancelled": 0}

    @property
    def open(self) -> int:
        """Return how many requests wait or are at work."""
        return self._open

    def detail(self) -> dict[str, float]:
        """Return the open requests, the tokens of a second, and the counts.

        `tokens_s`: of the last minute; the tokens of a text count as it ends.
        """
        working = min(self._open, SLOTS)
        per_second = round(self._written.total(self._monotonic()) / 60, 1)
        return {"working": working, "waiting": self._open - working, "tokens_s": per_second, **self.counts}

    async def call(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to a message: the fields of `Completion`, with or without `stream`; `Embedding.message`,
        `FeatureRows.message`; or `read` and `after`. Cancelled, its slot becomes free."""
        if "read" in message:
            stream = self._streams.get(str(message["read"]))
            return {"text": "", "is_open": False} if stream is None else await stream.read(int(message["after"]))
        if self._open >= self._waiting_max + SLOTS:
            self.counts["busy"] += 1
            return {"refused": "busy"}
        self._open += 1
        name = str(message.get("stream", ""))
        try:
            if "embed" in message:
                return await self._embedded(Embedding(**message["embed"]))
            if "predict" in message:
                return await self._predicted(FeatureRows(**message["predict"]))
            if name:
                self._streams[name] = _TextStream()
            return await self._completed(
                Completion(**{key: value for key, value in message.items() if key != "stream"}), self._streams.get(name)
            )
        except TimeoutError:
            self.counts["late"] += 1
            return {"refused": "deadline"}
        except asyncio.CancelledError:
            self.counts["cancelled"] += 1
            raise
        except AnotherModelError as error:
            self.counts["failed"] += 1
            return {"refused": str(error)}
        except FksError as error:
            self.counts["failed"] += 1
            return {"error": str(error)} | ({"code": error.code} if isinstance(error, InputError) else {})
        finally:
            self._open -= 1
            if name in self._streams:
                self._streams.pop(name).end()

    async def _completed(self, asked: Completion, stream: _TextStream | None) -> dict[str, Any]:
        async with asyncio.timeout(asked.timeout_s), self._slots:
            done = await self._engine.complete(asked, None if stream is None else stream.take)
        self.counts["answered"] += 1
        self.counts["tokens"] += done.tokens
        self._written.add(done.tokens, self._monotonic())
        return asdict(done)

    async def _embedded(self, asked: Embedding) -> dict[str, Any]:
        async with asyncio.timeout(asked.timeout_s), self._slots:
            vectors = await self._engine.embed(asked)
        self.counts["answered"] += 1
        return {"vectors": vectors}

    async def _predicted(self, asked: FeatureRows) -> dict[str, Any]:
        async with asyncio.timeout(asked.timeout_s), self._slots:
            values = await self._engine.predict(asked)
        self.counts["answered"] += 1
        return {"values": values}


class _TextStream:
    """The text of a request as far as it is written. `take` may be called on any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._text = ""
        self._is_open = True
        self._is_awaited = False
        self._changed = asyncio.Event()

    def take(self, text: str) -> None:
        self._text += text
        if self._is_awaited:  # the loop is not woken for a token that nothing waits for
            self._loop.call_soon_threadsafe(self._changed.set)

    def end(self) -> None:
        self._is_open = False
        self._changed.set()

    async def read(self, after: int) -> dict[str, Any]:
        """Return the text after so many characters, once there is some, or it has ended."""
        while self._is_open and len(self._text) <= after:
            self._changed.clear()
            self._is_awaited = True
            if len(self._text) <= after:  # nothing was written before it was awaited
                await self._changed.wait()
            self._is_awaited = False
        return {"text": self._text[after:], "is_open": self._is_open}
