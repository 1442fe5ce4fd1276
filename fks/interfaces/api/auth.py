"""Authentication: tokens, access tokens of users and session cookies, looked up by hash and cached for seconds.

Every route declares one scope with `require`; tests/contract/interfaces/api walks the routes and fails on one that does
not. A token is never taken from a query string. Websockets take the header, a session cookie from an own page, or a
ticket that works once within 30 s. After the scope, `admitted` applies the rules of `fks.interfaces.api.policy`:
accounts, limits, audit.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from math import ceil
from typing import Any

import orjson
from fastapi import Depends
from starlette.requests import HTTPConnection

from fks.clock import Clock
from fks.config.settings import Http
from fks.interfaces.api import policy
from fks.interfaces.api.auditing import Auditing
from fks.interfaces.api.limits import RequestLimits
from fks.interfaces.api.parameters import check_parameters
from fks.interfaces.entry.logins import Logins, needs_totp
from fks.interfaces.mcp import ORIGIN_HEADER
from fks.model.errors import OutageError, Problem
from fks.store.bus import Bus
from fks.store.tokens import LOCAL, LOOPBACK, MCP, SCOPES, Principal, TokenStore
from fks.system.process.callers import address_of, client_of, is_local, is_own, is_own_origin, network_of

OPEN = "open"
#: A revoked token is refused within this time everywhere (at once on the replica that revoked it).
REMEMBER_S = 2.0
#: How long a good token stays good while PostgreSQL is away: it cannot be revoked meanwhile.
OUTAGE_S = 900.0
#: Wrong tokens of one address in a minute before it gets 429, and how long a wrong token is remembered.
FAILURES_MAX, FAILURES_PERIOD_S = 10, 60.0
#: Lookups of unknown tokens an address gets per second while it is throttled: its honest users are still served.
LOOKUPS_PER_S = 5
#: While PostgreSQL is away, one unknown token in this time is looked up; the others are answered 503 at once.
AWAY_S = 1.0
#: Resolution of `last_used_at`, seconds.
TOUCH_S = 60.0
#: Reasons of a 401.
TOKEN_WRONG, SESSION_OVER = "the token is unknown or revoked", "the session has ended"
_BOUND = 4096
TICKET_S = 30.0
_TICKETS = "fks:ticket:"


class Throttle:
    """Counts wrong tokens per address (`network_of`). Bounded; the oldest address is forgotten first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._lookups: dict[str, tuple[int, int]] = {}

    def note_failure(self, address: str) -> None:
        """Count one wrong token."""
        address = network_of(address)
        since, count = self._failures.pop(address, (self._clock.monotonic(), 0))
        if self._clock.monotonic() - since > FAILURES_PERIOD_S:
            since, count = self._clock.monotonic(), 0
        self._failures[address] = (since, count + 1)
        while len(self._failures) > _BOUND:
            self._failures.popitem(last=False)

    def wait_s(self, address: str) -> float:
        """Return for how many seconds the address is throttled; 0 when it is not."""
        since, count = self._failures.get(network_of(address), (0.0, 0))
        left = since + FAILURES_PERIOD_S - self._clock.monotonic()
        return max(left, 0.0) if count >= FAILURES_MAX else 0.0

    def may_look_up(self, address: str) -> bool:
        """Return whether a throttled address may have one more token looked up this second."""
        second, address = int(self._clock.monotonic()), network_of(address)
        at, count = self._lookups.get(address, (second, 0))
        count = count + 1 if at == second else 1
        if len(self._lookups) > _BOUND:
            self._lookups.clear()
        self._lookups[address] = (second, count)
        return count <= LOOKUPS_PER_S


class Tokens:
    """Cache of recently seen tokens, right or wrong, by hash; it keeps most requests away from the database."""

    def __init__(
        self,
        store: TokenStore,
        clock: Clock,
        http: Http,
        logins: Logins,
        forward_key: bytes | None = None,
        *,
        reads_on_loopback: bool = False,
    ) -> None:
        """`forward_key`: the pages prove with it that an address in a forwarded request is their client's.
        `reads_on_loopback`: programs of this host read without a token."""
        self._forward_key = forward_key
        self._reads_on_loopback = reads_on_loopback
        self._store = store
        self._clock = clock
        self.http = http
        self.logins = logins
        self._seen: OrderedDict[str, tuple[float, Principal | None]] = OrderedDict()
        self._touched: OrderedDict[str, float] = OrderedDict()
        self._away_until_s = float("-inf")  # no look-up before, but by the one that finds out
        self.throttle = Throttle(clock)

    @property
    def cookie_name(self) -> str:
        """Return the name of the session cookie. Behind TLS a browser accepts it from this host alone (`__Host-`)."""
        return "__Host-fks_session" if self.is_tls else "fks_session"

    @property
    def is_tls(self) -> bool:
        """Return whether clients reach this gateway by TLS."""
        return self.http.behind_proxy or self.http.tls_cert is not None

    def address_of(self, connection: HTTPConnection) -> str:
        """Return the caller's address, as far as the settings trust the proxies on the way."""
        if self._forward_key is not None and (client := client_of(connection, self._forward_key)) is not None:
            return client
        return address_of(connection, self.http.behind_proxy, self.http.trusted_proxies)

    def is_loopback_read(self, connection: HTTPConnection) -> bool:
        """Return whether a request may read without a token: from a program of this host, or from a browser's address
        line.

        Requests that a foreign page makes in a browser of this host differ by their Host (DNS rebinding), their Origin,
        or their `Sec-Fetch-Site`, which comes even where no Origin does (images, frames, `no-cors`).
        """
        headers = connection.headers
        return (
            self._reads_on_loopback
            and connection.scope.get("method", "WS") in policy.READS
            and "origin" not in headers
            and "host" in headers
            and headers.get("sec-fetch-site", "none") in ("none", "same-origin")
            and is_own(connection, self.http)
        )

    async def principal(self, token: str, address: str) -> Principal:
        """Return the owner of a token, or the user of an access token. Errors: Problem 401, or 429 after too many
        wrong ones from this address."""
        if token.count(".") == 2:
            if self.logins.session_of(token) is None:  # its time is looked at each time, remembered or not
                raise self._wrong(address, SESSION_OVER)
            return await self._known("jwt:" + token, self.logins.principal_of, token, address, SESSION_OVER)
        return await self._known("key:" + token, self._store.find, token, address, TOKEN_WRONG)

    async def principal_of_cookie(self, cookie: str, address: str) -> Principal:
        """Return the user of a browser's session. Errors: Problem 401, 429."""
        return await self._known("cookie:" + cookie, self.logins.principal_of_cookie, cookie, address, SESSION_OVER)

    async def _known(
        self, name: str, find: Callable[[str], Awaitable[Principal | None]], secret: str, address: str, why: str
    ) -> Principal:
        key = hashlib.sha256(name.encode()).hexdigest()
        now = self._clock.monotonic()
        until, found = self._seen.get(key, (0.0, None))
        if until <= now:
            if self.throttle.wait_s(address) and not self.throttle.may_look_up(address):
                raise self._refusal(address, why)
            try:
                found = await self._look_up(find, secret, now)
            except OutageError:
                if found is None or until + OUTAGE_S <= now or self._is_over(found):
                    raise
                # the kill state and the newest prices do not need PostgreSQL; routes that need it answer 503
                # themselves
                return found
            self._remember(key, found, now)
            if found is not None:
                await self._touch(found, now)
        if found is None or self._is_over(found):
            raise self._wrong(address, why)
        return found

    async def _look_up(
        self, find: Callable[[str], Awaitable[Principal | None]], secret: str, now_s: float
    ) -> Principal | None:
        """Return the owner of a secret from PostgreSQL. Errors: OutageError; at once when it was away just now, so that
        callers with unknown tokens hold nothing up."""
        if now_s < self._away_until_s:
            raise OutageError("tokens cannot be looked up: PostgreSQL does not answer")
        was_away = self._away_until_s > float("-inf")
        if was_away:  # this look-up finds out whether it is back; the others wait for its outcome
            self._away_until_s = now_s + AWAY_S
        try:
            found = await find(secret)
        except OutageError:
            self._away_until_s = self._clock.monotonic() + AWAY_S
            raise
        self._away_until_s = float("-inf")
        return found

    def _is_over(self, principal: Principal) -> bool:
        return principal.expires_ns is not None and principal.expires_ns <= self._clock.now_ns()

    def _wrong(self, address: str, why: str) -> Problem:
        self.throttle.note_failure(address)
        return self._refusal(address, why)

    async def _touch(self, principal: Principal, now: float) -> None:
        key = str(principal.session_id or principal.token_id)
        if self._touched.get(key, float("-inf")) + TOUCH_S > now:
            return
        self._touched[key] = now
        self._touched.move_to_end(key)
        while len(self._touched) > _BOUND:
            self._touched.popitem(last=False)
        with contextlib.suppress(OutageError):  # the time of the last use is worth no refusal
            if principal.session_id is not None:
                await self.logins.store.touch(principal.session_id)
            else:
                await self._store.touch(principal)

    async def is_alive(self, principal: Principal) -> bool:
        """Return whether the principal's token has not been revoked, nor its session ended. Errors: OutageError."""
        if principal is LOOPBACK:
            return True
        if principal.session_id is not None:
            return await self.logins.is_alive(principal)
        return await self._store.is_alive(principal)

    def forget(self) -> None:
        """Look every token and session up again: one was made, changed or ended."""
        self._seen.clear()

    def _remember(self, key: str, found: Principal | None, now: float) -> None:
        self._seen[key] = (now + REMEMBER_S, found)
        self._seen.move_to_end(key)
        while len(self._seen) > _BOUND:
            self._seen.popitem(last=False)

    def _refusal(self, address: str, why: str) -> Problem:
        wait_s = ceil(self.throttle.wait_s(address))
        if wait_s:
            way = "log in" if why == SESSION_OVER else "use a living token"
            return Problem(
                429,
                "TOO_MANY_FAILURES",
                "too many wrong tokens from this address",
                remedy=f"wait {wait_s} s and {way}",
                headers={"Retry-After": str(wait_s)},
            )
        return unauthorized(why)


def unauthorized(why: str) -> Problem:
    """Return the 401 with the way to authenticate that fits: a login for a session, else a token."""
    remedy = "send 'Authorization: Bearer <token>'; 'fks token create --name N --scope read' makes one"
    if why == SESSION_OVER:
        remedy = "log in again: /app/login in a browser; POST /auth/refresh, else POST /auth/login, from a program"
    return Problem(401, "UNAUTHORIZED", why, headers={"WWW-Authenticate": 'Bearer realm="fks"'}, remedy=remedy)


def bearer_of(connection: HTTPConnection) -> str | None:
    """Return the token of the Authorization or the X-API-Key header, or None without one."""
    kind, _, token = connection.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and token.strip():
        return token.strip()
    return connection.headers.get("x-api-key", "").strip() or None


async def authenticate(connection: HTTPConnection, scope: str) -> Principal:
    """Return the principal of a request that may go on. Errors: Problem 401 without a good token, 403 without the
    scope, the account or the CSRF token, 429 over the limit, 503 when a limit or the audit is needed and away."""
    tokens: Tokens = connection.app.state.tokens
    address = tokens.address_of(connection)
    token = bearer_of(connection)
    if token is not None:
        principal = await tokens.principal(token, address)
    elif cookie := connection.cookies.get(tokens.cookie_name):
        try:
            principal = await tokens.principal_of_cookie(cookie, address)
        except Problem:  # a browser sends the cookie of an ended session for a day: not worse than none
            if not tokens.is_loopback_read(connection):
                raise
            principal = LOOPBACK
        _check_csrf(connection, tokens.logins, cookie)
    elif tokens.is_loopback_read(connection):
        principal = LOOPBACK
    else:
        await count_anonymous(connection)
        raise unauthorized("a token is needed here")
    if connection.headers.get(ORIGIN_HEADER) == MCP:
        principal = principal.through_mcp()
    return await admitted(connection, check_scope(principal, scope), scope)


async def admitted(connection: HTTPConnection, principal: Principal, scope: str) -> Principal:
    """Return `principal` when it may call this route now. Errors: Problem 403, 429, 503."""
    limits: RequestLimits = connection.app.state.gateway.limits
    audit: Auditing = connection.app.state.gateway.audit
    route = route_of(connection)
    if principal.accounts is not None and route not in policy.ACCOUNT_SAFE:
        raise Problem(
            403,
            "ACCOUNT_SCOPE",
            f"{principal.name} is bound to accounts, and this route is about all of them",
            remedy="use a token without --account",
        )
    http: Http = connection.app.state.tokens.http
    is_own_shell = principal.name == LOCAL and not principal.origin and is_local(connection, http.host)
    is_watching = policy.bucket_of(route) == "monitoring" and is_own(connection, http)
    if not (is_own_shell or is_watching or principal is LOOPBACK):
        await limits.take(connection, principal, route, scope)
    if (policy.is_audited(route) or principal.origin) and connection.scope["type"] == "http":
        await audit.requested(connection, principal, route)
    return principal


async def count_anonymous(connection: HTTPConnection) -> None:
    """Count a request without a token on its address; this host's own are not counted. Errors: Problem 429."""
    tokens: Tokens = connection.app.state.tokens
    if not is_own(connection, tokens.http):
        limits: RequestLimits = connection.app.state.gateway.limits
        address = tokens.address_of(connection)
        await limits.take_anonymous(connection, address, route_of(connection))


def route_of(connection: HTTPConnection) -> policy.Route:
    """Return the method and the template of the route that serves this connection."""
    route = connection.scope.get("route")
    path = str(getattr(route, "path_format", None) or getattr(route, "path", connection.scope["path"]))
    return policy.known(connection.scope.get("method", "WS"), path)


def check_origin(connection: HTTPConnection, allowed: tuple[str, ...]) -> None:
    """Refuse a change that a browser sends for a page of another origin. Errors: Problem 403 ORIGIN_FORBIDDEN."""
    is_foreign = connection.headers.get("sec-fetch-site") == "cross-site" and "origin" not in connection.headers
    if is_foreign or not is_own_origin(connection, allowed):
        raise Problem(
            403, "ORIGIN_FORBIDDEN", "a page of another origin may change nothing here", remedy="set http.cors_origins"
        )


def _check_csrf(connection: HTTPConnection, logins: Logins, cookie: str) -> None:
    """Errors: Problem 403 CSRF for a change without the session's own token: a browser adds the cookie by itself."""
    if connection.scope["type"] != "http" or connection.scope["method"] in policy.READS:
        return
    given = connection.headers.get("x-csrf-token", "")
    if not hmac.compare_digest(given.encode(), logins.csrf_of(cookie).encode()):
        raise Problem(
            403,
            "CSRF",
            "a change by a browser's session needs its X-CSRF-Token",
            remedy="read it from GET /auth/session and send it along",
        )


def check_scope(principal: Principal, scope: str) -> Principal:
    """Return `principal` when its scope suffices. Errors: Problem 403 SCOPE_MISSING, or TOTP_MISSING when a second
    factor is all that lacks."""
    if principal.may(scope):
        return principal
    headers = {"WWW-Authenticate": f'Bearer realm="fks", error="insufficient_scope", scope="{scope}"'}
    if needs_totp(principal, scope):
        raise Problem(
            403,
            "TOTP_MISSING",
            f"{principal.name} needs a second factor for scope {scope}",
            remedy="set one up: POST /auth/totp, then log in with its code",
            headers=headers,
        )
    if principal.origin == MCP:
        raise Problem(
            403,
            "SCOPE_MISSING",
            f"{principal.kind} {principal.name!r} has scope {principal.scope} through MCP, this needs {scope}",
            remedy="propose a signal (scope signal); a person approves it",
            headers=headers,
        )
    raise Problem(
        403,
        "SCOPE_MISSING",
        f"{principal.kind} {principal.name!r} has scope {principal.scope}, this needs {scope}",
        remedy=f"make one: fks token create --name N --scope {scope}",
        headers=headers,
    )


class Scope:
    """A dependency that admits principals with `scope`, and by which a route names its scope.

    With `checks=False` it only names it: the handler itself authenticates, because it has another way in besides
    (a ticket for /ws, a page for browsers). With `admits_host` this host needs no token.
    """

    def __init__(self, scope: str, *, checks: bool = True, admits_host: bool = False) -> None:
        self.scope = scope
        self.checks = checks
        self.admits_host = admits_host

    async def __call__(self, connection: HTTPConnection) -> Principal | None:
        """Return the principal; None on an open route, or when the handler authenticates itself.

        An authenticated caller also gets Problem 422 for a parameter that the route does not take.
        """
        if connection.scope["type"] == "http" and connection.scope["method"] not in policy.READS:
            check_origin(connection, connection.app.state.tokens.http.cors_origins)
        if self.scope == OPEN or not self.checks:
            if self.scope == OPEN and scope_of(connection.scope["route"]) is self:
                await count_anonymous(connection)
            return None
        if self.admits_host and is_own(connection, connection.app.state.tokens.http):
            return None
        found = await authenticate(connection, self.scope)
        check_parameters(connection)
        if connection.scope["type"] == "http":
            await connection.app.state.gateway.idempotency.begin(connection, found, route_of(connection))
        return found


_SCOPES = {scope: Scope(scope) for scope in (OPEN, *SCOPES)}
_NAMED = {scope: Scope(scope, checks=False) for scope in SCOPES}
_OFF_HOST = Scope("read", admits_host=True)


def require(scope: str) -> Any:
    """Return the dependency for one of read, signal, approve, trade, admin, or open."""
    return Depends(_SCOPES[scope])


def read_off_host() -> Any:
    """Return the dependency of a route that shows nothing of accounts: open on this host, elsewhere scope read."""
    return Depends(_OFF_HOST)


def asks_inside(scope: str) -> Any:
    """Return the dependency that names the scope which the handler itself checks."""
    return Depends(_NAMED[scope])


def scope_of(route: Any) -> Scope | None:
    """Return the scope a route names, or None: then it is a mistake. A route's own wins over an open router's."""
    found = [call for d in route.dependant.dependencies if isinstance(call := d.call, Scope)]
    return min(found, key=lambda scope: (scope.checks, scope.scope == OPEN), default=None)


# ── sockets ──────────────────────────────────────────────────────────────────────────────────────
async def make_ticket(bus: Bus, principal: Principal) -> str:
    """Return a ticket that opens one socket for `principal` within 30 s. Errors: Problem 503 while Redis is away."""
    ticket = secrets.token_urlsafe(32)
    body = orjson.dumps(
        {
            "name": principal.name,
            "scope": principal.scope,
            "id": principal.token_id,
            "prefix": principal.prefix,
            "user": principal.user_id,
            "session": None if principal.session_id is None else str(principal.session_id),
        }
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
    session = found.get("session")
    return Principal(
        found["name"],
        found["scope"],
        found["id"],
        found["prefix"],
        user_id=found.get("user"),
        session_id=None if session is None else uuid.UUID(session),
    )


def _digest(ticket: str) -> str:
    return hashlib.sha256(ticket.encode()).hexdigest()
