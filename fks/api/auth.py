"""Authentication: bearer tokens looked up by hash, cached for seconds, and a limit for wrong tokens.

Every route declares one scope with `require`; tests/contract/api walks the routes and fails on one that does not.
A token is never taken from a query string. Websockets take the header, or a ticket that works once within 30 s.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections import OrderedDict
from typing import Any

import orjson
from fastapi import Depends
from starlette.requests import HTTPConnection

from fks.api.parameters import check_parameters
from fks.api.problems import Problem
from fks.clock import Clock
from fks.model.errors import OutageError
from fks.store.bus import Bus
from fks.store.tokens import SCOPES, Principal, TokenStore

OPEN = "open"
#: A revoked token is refused within this time everywhere (at once on the replica that revoked it).
REMEMBER_S = 2.0
#: How long a good token stays good while PostgreSQL is away: it cannot be revoked meanwhile.
OUTAGE_S = 900.0
#: Wrong tokens of one address in a minute before it gets 429, and how long a wrong token is remembered.
FAILURES_MAX, FAILURES_PERIOD_S = 10, 60.0
#: Lookups of unknown tokens an address gets per second while it is throttled: its honest users are still served.
LOOKUPS_PER_S = 5
#: Resolution of `last_used_at`, seconds.
TOUCH_S = 60.0
_BOUND = 4096
TICKET_S = 30.0
_TICKETS = "fks:ticket:"


class Throttle:
    """Counts wrong tokens per address. Bounded; the oldest address is forgotten first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._lookups: dict[str, tuple[int, int]] = {}

    def note_failure(self, address: str) -> None:
        """Count one wrong token."""
        since, count = self._failures.pop(address, (self._clock.monotonic(), 0))
        if self._clock.monotonic() - since > FAILURES_PERIOD_S:
            since, count = self._clock.monotonic(), 0
        self._failures[address] = (since, count + 1)
        while len(self._failures) > _BOUND:
            self._failures.popitem(last=False)

    def wait_s(self, address: str) -> float:
        """Return for how many seconds the address is throttled; 0 when it is not."""
        since, count = self._failures.get(address, (0.0, 0))
        left = since + FAILURES_PERIOD_S - self._clock.monotonic()
        return max(left, 0.0) if count >= FAILURES_MAX else 0.0

    def may_look_up(self, address: str) -> bool:
        """Return whether a throttled address may have one more token looked up this second."""
        second = int(self._clock.monotonic())
        at, count = self._lookups.get(address, (second, 0))
        count = count + 1 if at == second else 1
        if len(self._lookups) > _BOUND:
            self._lookups.clear()
        self._lookups[address] = (second, count)
        return count <= LOOKUPS_PER_S


class Tokens:
    """Cache of recently seen tokens, right or wrong, by hash; it keeps most requests away from the database."""

    def __init__(self, store: TokenStore, clock: Clock, *, behind_proxy: bool = False) -> None:
        self._store = store
        self._clock = clock
        self.behind_proxy = behind_proxy
        self._seen: OrderedDict[str, tuple[float, Principal | None]] = OrderedDict()
        self._touched: dict[str, float] = {}
        self.throttle = Throttle(clock)

    async def principal(self, token: str, address: str) -> Principal:
        """Return the owner of the token. Errors: Problem 401, or 429 after too many wrong ones from this address."""
        key = hashlib.sha256(token.encode()).hexdigest()
        now = self._clock.monotonic()
        until, found = self._seen.get(key, (0.0, None))
        if until <= now:
            if self.throttle.wait_s(address) and not self.throttle.may_look_up(address):
                raise self._refusal(address)
            try:
                found = await self._store.find(token)
            except OutageError:
                if found is None or until + OUTAGE_S <= now:
                    raise
                return (
                    # the kill state and the newest prices do not need PostgreSQL; routes that need it answer 503
                    # themselves
                    found
                )
            self._remember(key, found, now)
            if found is not None:
                await self._touch(found, now)
        if found is None:
            self.throttle.note_failure(address)
            raise self._refusal(address)
        return found

    async def _touch(self, principal: Principal, now: float) -> None:
        if self._touched.get(principal.name, float("-inf")) + TOUCH_S > now:
            return
        self._touched[principal.name] = now  # bounded by the number of living tokens
        with contextlib.suppress(OutageError):  # the time of the last use is worth no refusal
            await self._store.touch(principal)

    async def is_alive(self, principal: Principal) -> bool:
        """Return whether the principal's token has not been revoked. Errors: OutageError."""
        return await self._store.is_alive(principal)

    def forget(self) -> None:
        """Look every token up again: one was made or revoked."""
        self._seen.clear()

    def _remember(self, key: str, found: Principal | None, now: float) -> None:
        self._seen[key] = (now + REMEMBER_S, found)
        self._seen.move_to_end(key)
        while len(self._seen) > _BOUND:
            self._seen.popitem(last=False)

    def _refusal(self, address: str) -> Problem:
        wait_s = self.throttle.wait_s(address)
        if wait_s:
            return Problem(
                429,
                "TOO_MANY_FAILURES",
                "too many wrong tokens from this address",
                remedy=f"wait {wait_s:.0f} s and use a living token",
                headers={"Retry-After": str(int(wait_s) + 1)},
            )
        return unauthorized("the token is unknown or revoked")


def unauthorized(why: str) -> Problem:
    """Return the 401 with the ways to authenticate."""
    return Problem(
        401,
        "UNAUTHORIZED",
        why,
        headers={"WWW-Authenticate": 'Bearer realm="fks"'},
        remedy="send 'Authorization: Bearer <token>'; 'fks token create --name N --scope read' makes one",
    )


def address_of(connection: HTTPConnection, behind_proxy: bool) -> str:
    """Return the caller's address: the last hop a trusted proxy saw, or the socket's peer."""
    if behind_proxy and (hops := connection.headers.get("x-forwarded-for")):
        return hops.rpartition(",")[2].strip()
    return connection.client.host if connection.client else "unknown"


def bearer_of(connection: HTTPConnection) -> str | None:
    """Return the token of the Authorization header, or None without one."""
    kind, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" and token.strip() else None


async def authenticate(connection: HTTPConnection, scope: str) -> Principal:
    """Return the principal of a request. Errors: Problem 401 without a good token, 403 without the scope, 429."""
    tokens: Tokens = connection.app.state.tokens
    token = bearer_of(connection)
    if token is None:
        raise unauthorized("a token is needed here")
    return check_scope(await tokens.principal(token, address_of(connection, tokens.behind_proxy)), scope)


def check_scope(principal: Principal, scope: str) -> Principal:
    """Return `principal` when its scope suffices. Errors: Problem 403 SCOPE_MISSING."""
    if not principal.may(scope):
        raise Problem(
            403,
            "SCOPE_MISSING",
            f"token {principal.name!r} has scope {principal.scope}, this needs {scope}",
            remedy=f"make one: fks token create --name N --scope {scope}",
            headers={"WWW-Authenticate": f'Bearer realm="fks", error="insufficient_scope", scope="{scope}"'},
        )
    return principal


class Scope:
    """A dependency that admits principals with `scope`, and by which a route names its scope.

    With `checks=False` it only names it: the handler itself authenticates, because it has another way in besides
    (loopback for /metrics, a ticket for /ws, a page for browsers).
    """

    def __init__(self, scope: str, *, checks: bool = True) -> None:
        self.scope = scope
        self.checks = checks

    async def __call__(self, connection: HTTPConnection) -> Principal | None:
        """Return the principal; None on an open route, or when the handler authenticates itself.

        An authenticated caller also gets Problem 422 for a parameter that the route does not take.
        """
        if self.scope == OPEN or not self.checks:
            return None
        found = await authenticate(connection, self.scope)
        check_parameters(connection)
        return found


_SCOPES = {scope: Scope(scope) for scope in (OPEN, *SCOPES)}
_NAMED = {scope: Scope(scope, checks=False) for scope in SCOPES}


def require(scope: str) -> Any:
    """Return the dependency for one of read, signal, trade, admin, or open."""
    return Depends(_SCOPES[scope])


def asks_inside(scope: str) -> Any:
    """Return the dependency that names the scope which the handler itself checks."""
    return Depends(_NAMED[scope])


def scope_of(route: Any) -> Scope | None:
    """Return the scope a route names, or None: then it is a mistake. One that the handler checks wins over an open
    router."""
    found = [call for d in route.dependant.dependencies if isinstance(call := d.call, Scope)]
    return min(found, key=lambda scope: scope.checks, default=None)


# ── sockets ──────────────────────────────────────────────────────────────────────────────────────
async def make_ticket(bus: Bus, principal: Principal) -> str:
    """Return a ticket that opens one socket for `principal` within 30 s. Errors: Problem 503 while Redis is away."""
    ticket = secrets.token_urlsafe(32)
    body = orjson.dumps(
        {"name": principal.name, "scope": principal.scope, "id": principal.token_id, "prefix": principal.prefix}
    )
    if not await bus.set(_TICKETS + _digest(ticket), body, TICKET_S):
        raise Problem(
            503,
            "UNAVAILABLE",
            "Redis keeps the tickets and is away",
            remedy="try again, or use the Authorization header",
            headers={"Retry-After": "1"},
        )
    return ticket


async def use_ticket(bus: Bus, ticket: str) -> Principal | None:
    """Return the owner of the ticket and spend it; None when it is unknown, spent or too old."""
    key = _TICKETS + _digest(ticket)
    body = await bus.get(key)
    # the counter decides: of two that present one ticket at once, only one sees the count of 1
    if body is None or await bus.count(key + ":used", TICKET_S) != 1:
        return None
    await bus.delete(key)
    found = orjson.loads(body)
    return Principal(found["name"], found["scope"], found["id"], found["prefix"])


def _digest(ticket: str) -> str:
    return hashlib.sha256(ticket.encode()).hexdigest()


def is_own_origin(connection: HTTPConnection, allowed: tuple[str, ...]) -> bool:
    """Return whether a browser's Origin is this gateway itself or one the settings allow. No Origin: not a browser."""
    origin = connection.headers.get("origin")
    if origin is None or origin in allowed:
        return True
    return origin.partition("://")[2] == connection.headers.get("host")
