"""`Idempotency-Key` on changes: the same key with the same body gives the answer of the first call, another body 409.

One rule, two places. Orders, jobs, operations and parameters keep the key in their own rows in PostgreSQL (their routes
take the header themselves), because what they do must never happen twice. Every other change that comes with a key
keeps its answer here, encrypted, in Redis, for a day. Only answers that changed something (2xx) are kept: a refusal may
be repeated. A call without an answer (its replica was killed, or it failed midway: 500) has an unknown outcome: its key
stays as long, and no call with it runs again. Without a key nothing is kept. What reduces risk (cancel, emergency stop)
takes no notice of a key: it is the same however often it is repeated, and never waits for Redis.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from fks.interfaces.api import policy
from fks.interfaces.api.exact import BODY_MAX
from fks.interfaces.api.problems import AnsweredBefore
from fks.model.errors import Problem
from fks.store.bus import Bus
from fks.store.tokens import Principal

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection
    from starlette.types import Message, Receive

HEADER: Final = "idempotency-key"
KEPT_S: Final = 86_400.0
#: A call without an answer for so long has an unknown outcome. No call takes as long while it is well.
RUNNING_S: Final = 60.0
KEY_MAX: Final = 200
_PREFIX: Final = "fks:idempotency:"
_RUNNING: Final = b"running"
_UNKNOWN: Final = b"unknown"
_KEPT_MS: Final = round(KEPT_S * 1000)
#: Headers of an answer that belong to it and not to the connection.
_KEPT_HEADERS: Final = frozenset({"content-type", "location", "warning"})

# KEYS: the call. ARGV: the marker of a call in progress, its milliseconds, what is replaced by it ('' nothing).
# Returns {0} when the key is the caller's now, else {1, what is kept, its age in milliseconds}.
CLAIM: Final = """
local kept = redis.call('GET', KEYS[1])
if kept and kept ~= ARGV[3] then return {1, kept, ARGV[2] - redis.call('PTTL', KEYS[1])} end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {0}
"""

# KEYS: the call. ARGV: its marker, what takes its place ('' nothing), the milliseconds of that. A key that another call
# has by now stays as it is.
FINISH: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1
"""


class BufferedBody:
    """The body of a request, read once, and given again to the route."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._parts: list[bytes] | None = None
        self._is_given = False

    async def read(self, timeout_s: float) -> bytes:
        """Return the body. Errors: Problem 413 past BODY_MAX, 408 past `timeout_s`."""
        parts, size, is_more = [], 0, True
        try:
            async with asyncio.timeout(timeout_s):
                while is_more:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect  # a part of a body is none
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > BODY_MAX:
                        text = f"the body is longer than {BODY_MAX} bytes"
                        raise Problem(413, "BODY_TOO_LARGE", text, remedy="send less")
                    is_more = message["type"] == "http.request" and message.get("more_body", False)
        except TimeoutError:
            text = f"the body did not arrive within {timeout_s:g} s"
            close = {"Connection": "close"}
            raise Problem(408, "BODY_SLOW", text, remedy="send it in one go", headers=close) from None
        self._parts = parts
        return b"".join(parts)

    async def __call__(self) -> Message:
        """Return the next message of the request, as its `receive`."""
        if self._parts is None or self._is_given:
            return await self._receive()
        self._is_given = True
        return {"type": "http.request", "body": b"".join(self._parts), "more_body": False}


@dataclass(slots=True)
class KeyedCall:
    """A call under a key, in progress."""

    name: str
    body_hash: str
    marker: bytes = b""
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    parts: list[bytes] = field(default_factory=list)


class Idempotency:
    """Keeps answers in Redis. Holds no state; all replicas share Redis."""

    def __init__(self, bus: Bus, session_key: str) -> None:
        self._bus = bus
        self._key = base64.urlsafe_b64encode(hashlib.sha256(b"fks idempotency " + session_key.encode()).digest())

    async def begin(self, connection: HTTPConnection, principal: Principal, route: policy.Route) -> None:
        """Claim the key of a change, when it has one and the route does not keep it itself.

        Errors: AnsweredBefore with the kept answer of an equal call; Problem 409 IDEMPOTENCY_CONFLICT for another body,
        IDEMPOTENCY_RUNNING while the first call runs, IDEMPOTENCY_UNKNOWN when it has no answer after RUNNING_S or
        failed midway; 400, 422 for an unusable key; 503 while Redis is away.
        """
        key = connection.headers.get(HEADER)
        if key is None or not is_kept_here(connection.scope, route):
            return
        state = connection.scope["state"]
        body: BufferedBody | None = state.get("buffered_body")  # None: the header is there twice
        if body is None or not key.strip() or not key.isprintable() or len(key) > KEY_MAX:
            text, remedy = "the Idempotency-Key is not usable", f"send 1 to {KEY_MAX} printable characters, or none"
            raise Problem(422, "IDEMPOTENCY_KEY", text, remedy=remedy)
        timeout_s = connection.app.state.gateway.deps.settings.http.body_timeout_s
        digest = hashlib.sha256(await body.read(timeout_s))
        digest.update(b"\0" + connection.url.path.encode() + b"?" + connection.url.query.encode())
        named = "\0".join((principal.key, *route, key))
        call = KeyedCall(_PREFIX + hashlib.sha256(named.encode()).hexdigest(), digest.hexdigest())
        call.marker = b" ".join((_RUNNING, call.body_hash.encode(), secrets.token_hex(8).encode()))
        replaced = b""
        while True:
            found = await self._bus.script(CLAIM, [call.name], [call.marker, _KEPT_MS, replaced])
            if found is None:
                text, remedy = "Redis keeps the keys and is away: nothing was changed", "try again, or without a key"
                raise Problem(503, "UNAVAILABLE", text, remedy=remedy, headers={"Retry-After": "1"})
            if not int(found[0]):
                break
            # unreadable: made with another session key, so the call runs as new, unless another one was faster
            replaced = self._refuse_or_answer(bytes(found[1]), int(found[2]) / 1000, call)
        state["idempotent"] = call

    def _refuse_or_answer(self, kept: bytes, age_s: float, call: KeyedCall) -> bytes:
        """Return what is kept when it cannot be read. Errors: AnsweredBefore, Problem 409."""
        conflict = Problem(
            409, "IDEMPOTENCY_CONFLICT", "this idempotency key was used for another body", remedy="use a new key"
        )
        state, _, rest = kept.partition(b" ")
        if state in (_RUNNING, _UNKNOWN):
            if rest.partition(b" ")[0] != call.body_hash.encode():
                raise conflict
            if state == _RUNNING and age_s < RUNNING_S:
                text, remedy = "the first call with this key is still running", "ask again in a moment"
                raise Problem(409, "IDEMPOTENCY_RUNNING", text, remedy=remedy, headers={"Retry-After": "1"})
            raise Problem(
                409,
                "IDEMPOTENCY_UNKNOWN",
                "the first call with this key has no answer: it may have changed something, or may still do so",
                remedy="look at what it was to change, then use a new key if it did not",
            )
        found = self._opened(kept)
        if found is None:
            return kept
        if found["body_hash"] != call.body_hash:
            raise conflict
        headers = {**found["headers"], "Idempotent-Replayed": "true"}
        raise AnsweredBefore(Response(base64.b64decode(found["body"]), found["status"], headers))

    def note(self, call: KeyedCall, message: Message) -> bool:
        """Keep a part of the answer to a call; return whether it was the last one."""
        if message["type"] == "http.response.start":
            call.status = message["status"]
            pairs = ((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in message["headers"])
            call.headers = {name: value for name, value in pairs if name in _KEPT_HEADERS}
            return False
        call.parts.append(message.get("body", b""))
        return not message.get("more_body", False)

    async def finish(self, call: KeyedCall) -> None:
        """Keep the answer of a call that changed something; free the key of a refusal. A call that failed midway has
        neither: its outcome is unknown."""
        if not 200 <= call.status < 300:
            is_refusal = call.status < 500 or call.status == 503
            left = b"" if is_refusal else b" ".join((_UNKNOWN, call.body_hash.encode()))
            await self._bus.script(FINISH, [call.name], [call.marker, left, _KEPT_MS])
            return
        from cryptography.fernet import Fernet

        found = {
            "body_hash": call.body_hash,
            "status": call.status,
            "headers": call.headers,
            "body": base64.b64encode(b"".join(call.parts)).decode(),
        }
        kept = Fernet(self._key).encrypt(orjson.dumps(found))
        await self._bus.script(FINISH, [call.name], [call.marker, kept, _KEPT_MS])

    def _opened(self, kept: bytes) -> Any:
        from cryptography.fernet import Fernet, InvalidToken

        try:
            return orjson.loads(Fernet(self._key).decrypt(kept))
        except (InvalidToken, orjson.JSONDecodeError):
            return None


def is_kept_here(scope: Any, route: policy.Route) -> bool:
    """Return whether the answer of a change is kept here: its route does not keep keys itself, nor reduce risk."""
    if route[0] in policy.READS or route in policy.FREE | policy.JOURNALED | policy.AUDITED_LATER:
        return False
    return not has_own_key(scope["route"])


def has_own_key(route: Any) -> bool:
    """Return whether a route takes the header itself, and keeps it in its own rows."""
    return any(field.alias.lower() == HEADER for field in route.dependant.header_params)
