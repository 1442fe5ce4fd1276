"""One request of a browser: its session, its permissions to read and change, and the time zone of its pages."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import Any

from starlette.requests import Request

from fks.interfaces.web.client import BrowserCaller, GatewayAnswer, GatewayClient, GatewayRefusal

#: Scopes of the gateway; each includes those before it.
SCOPES = ("read", "signal", "approve", "trade", "admin")
#: Reads of one page at a time. More would only wait in the gateway's pool of database connections.
_AT_ONCE = 6


@dataclass(frozen=True, slots=True)
class WebSession:
    """The reader as the gateway knows it. `csrf` goes with each change."""

    name: str
    scope: str
    granted: str
    csrf: str = field(repr=False)
    accounts: tuple[int, ...] | None = None

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> WebSession:
        """Return the session that GET /auth/session shows."""
        accounts = body.get("accounts")
        return cls(
            name=str(body["name"]).removeprefix("user:"),
            scope=str(body["scope"]),
            granted=str(body.get("granted_scope") or body["scope"]),
            csrf=str(body.get("csrf_token") or ""),
            accounts=None if accounts is None else tuple(accounts),
        )

    @property
    def phase_ms(self) -> int:
        """Return at what part of a period the tabs of this session read again: other sessions read at other moments."""
        return zlib.crc32(self.csrf.encode()) % 60_000

    def may(self, scope: str) -> bool:
        """Return whether this session's scope includes `scope`. The gateway decides again at each call."""
        return self.scope in SCOPES and SCOPES.index(self.scope) >= SCOPES.index(scope)


@dataclass(frozen=True, slots=True)
class ReadResult:
    """The result of one read: `data`, or the refusal that the page shows in its place."""

    data: Any = None
    refusal: GatewayRefusal | None = None

    @property
    def items(self) -> list[Any]:
        """Return the rows of a list; none when it was refused."""
        found = self.data.get("items") if isinstance(self.data, dict) else None
        return found if isinstance(found, list) else []

    def get(self, name: str, default: Any = None) -> Any:
        """Return a member of the answer."""
        found = self.data.get(name) if isinstance(self.data, dict) else None
        return default if found is None else found


@dataclass(frozen=True, slots=True)
class Visit:
    """One request by a session that the gateway admitted."""

    request: Request
    gateway: GatewayClient
    caller: BrowserCaller
    session: WebSession
    zone: tzinfo
    now: datetime

    async def read(self, path: str, **params: Any) -> Any:
        """Return what the gateway answers. Errors: GatewayRefusal."""
        return await self.gateway.read(self.caller, path, params)

    async def read_all(self, **wanted: str | tuple[str, Mapping[str, Any]]) -> dict[str, ReadResult]:
        """Return the result of each read under its name, read at the same time. `wanted` are paths, or (path,
        parameters). Errors: GatewayRefusal 401: the session has ended, and no part of the page can be shown."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(of: str | tuple[str, Mapping[str, Any]]) -> ReadResult:
            path, params = (of, {}) if isinstance(of, str) else of
            async with gate:
                try:
                    return ReadResult(await self.read(path, **params))
                except GatewayRefusal as refusal:
                    if refusal.status == 401:
                        raise
                    return ReadResult(refusal=refusal)

        found = await asyncio.gather(*(one(of) for of in wanted.values()), return_exceptions=True)
        for each in found:
            if isinstance(each, BaseException):
                raise each
        return {name: each for name, each in zip(wanted, found, strict=True) if isinstance(each, ReadResult)}

    async def change(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, csrf: str, key: str | None = None
    ) -> GatewayAnswer:
        """Send a change with the token of the form that asked for it. Errors: GatewayRefusal."""
        return await self.gateway.change(self.caller, method, path, body, csrf=csrf, key=key)

    def may(self, scope: str) -> bool:
        """Return whether the session has `scope`."""
        return self.session.may(scope)

    def ensure(self, scope: str) -> None:
        """Refuse an action that reads before it changes anything, so that the gateway comes to the scope late. Errors:
        GatewayRefusal 403 SCOPE_MISSING."""
        if not self.may(scope):
            detail = f"this needs scope {scope}, and yours is {self.session.scope}"
            raise GatewayRefusal(403, "SCOPE_MISSING", detail, "an administrator gives it: fks users scope NAME SCOPE")
