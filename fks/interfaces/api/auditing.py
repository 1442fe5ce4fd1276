"""The audit of requests that change something: one row before, one with the answer's status.

The first row is committed before the change begins, and without it there is no change (503). Cancels, closes and the
kill switch do not wait for it. Orders and signals are recorded by their own journal, with their author. Of requests
through `fks mcp` reads are recorded, too, and their first row has the origin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fks.interfaces.api import policy
from fks.model.errors import OutageError, Problem
from fks.store.audit import AuditEntry, AuditStore
from fks.store.tokens import Principal

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection
    from starlette.types import Scope

    from fks.model.ports import Log

#: A field whose name has one of these in it is never written to the audit. Addresses of deliveries hold tokens.
_SECRET = (
    *("pass", "pwd", "secret", "token", "totp", "otp", "code", "key", "credential", "signature", "authorization"),
    *("cookie", "salt", "private", "mnemonic", "url", "dsn"),
)
_TEXT_MAX, _ITEMS_MAX = 200, 30
_INT_MAX = 2**53  # larger ones are kept as text: JSON readers would round them


@dataclass(frozen=True, slots=True)
class _Begun:
    entry: AuditEntry


class Auditing:
    """Writes the rows of requests and events."""

    def __init__(self, store: AuditStore, log: Log) -> None:
        self._store = store
        self._log = log

    async def requested(self, connection: HTTPConnection, principal: Principal, route: policy.Route) -> None:
        """Record that `principal` is about to change something. Errors: Problem 503 while that cannot be recorded."""
        state = connection.scope.setdefault("state", {})
        entry = AuditEntry(
            request_id=state.get("request_id", ""),
            actor=principal.name,
            kind=principal.kind,
            action=" ".join(route),
            object=str(connection.scope["path"])[:_TEXT_MAX],
            phase="requested",
            address=connection.app.state.tokens.address_of(connection),
            detail={"scope": principal.scope} | ({"origin": principal.origin} if principal.origin else {}),
        )
        state["audited"] = _Begun(entry)
        if route in policy.AUDITED_LATER:
            return
        try:
            await self._store.add(entry)
        except OutageError:
            raise Problem(
                503,
                "UNAVAILABLE",
                "the audit cannot be written: nothing was changed",
                remedy="try again in a moment",
                headers={"Retry-After": "1"},
            ) from None

    async def answered(self, scope: Scope, status: int) -> None:
        """Record the status of a request that `requested` recorded, with its body without secrets. Never raises for an
        outage."""
        state = scope.get("state") or {}
        begun = state.pop("audited", None)
        if begun is None:
            return
        entry: AuditEntry = begun.entry
        detail = redacted(state["body"]) if isinstance(state.get("body"), Mapping) else {}
        await self._add(
            AuditEntry(
                request_id=entry.request_id,
                actor=entry.actor,
                kind=entry.kind,
                action=entry.action,
                object=entry.object,
                phase="answered",
                status=status,
                address=entry.address,
                detail=detail,
            )
        )

    async def note(
        self, connection: HTTPConnection, actor: str, action: str, object: str = "", **detail: object
    ) -> None:
        """Record an event that no authenticated request stands for: a login, a lockout. Never raises for an outage."""
        state = connection.scope.get("state") or {}
        address = connection.app.state.tokens.address_of(connection)
        entry = AuditEntry(state.get("request_id", ""), actor, "user", action, object, address=address, detail=detail)
        await self._add(entry)

    async def _add(self, entry: AuditEntry) -> None:
        try:
            await self._store.add(entry)
        except OutageError as error:
            self._log.error("audit.lost", action=entry.action, actor=entry.actor, phase=entry.phase, error=str(error))


def redacted(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the audit keeps of a body: its plain values, short, and no secret."""
    return {str(name)[:_TEXT_MAX]: _shown(str(name), value) for name, value in list(body.items())[:_ITEMS_MAX]}


def _shown(name: str, value: object) -> object:
    if any(part in name.lower() for part in _SECRET):
        return "***"
    if isinstance(value, Mapping):
        return redacted(value)
    if isinstance(value, list | tuple):
        return [_shown(name, item) for item in value[:_ITEMS_MAX]]
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < _INT_MAX):
        return value
    return str(value)[:_TEXT_MAX]
