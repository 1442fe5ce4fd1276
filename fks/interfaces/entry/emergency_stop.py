"""Emergency stop over HTTP: the kill switch, through the guardian's socket, else through its table.

The guardian of this machine is asked first; it cancels and closes without the database. Where none answers (the gateway
runs on another machine, or the guardian is being restarted) the kill is written as a row: the order manager denies
entries from then on, and the guardian takes the row over and does the rest. Engaging is idempotent: a row that no
guardian has taken over yet is joined. Beside a guardian's own row a new one is written, as the guardian's file may know
of a release that the row does not show yet. A release goes to the guardian alone: only it knows whether all is quiet.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fks.clock import Clock
from fks.config.settings import Settings
from fks.model.errors import OutageError, conflict, unprocessable
from fks.model.kill import KillScope, ScopeKind, account_number
from fks.model.timeframe import iso, to_datetime, to_ns
from fks.store.bus import KILL, Bus
from fks.store.db import Database
from fks.store.kill import KillStore

CONNECT_S = 1.0
#: The guardian answers when all is quiet, or after this wait with where it is: the caller is answered in a second.
WAIT_S = 0.3
ANSWER_S = 15.0


class EmergencyStop:
    """Engages the kill switch. Holds no state; many may exist."""

    def __init__(self, db: Database, bus: Bus, clock: Clock, socket: Path, settings: Settings) -> None:
        self._store, self._settings = KillStore(db), settings
        self._bus = bus
        self._clock = clock
        self._socket = socket

    async def engage(self, *, scope: str, reason: str, by: str, flatten: bool) -> dict[str, Any]:
        """Return the kill that is engaged afterwards; `through` is guardian or database.

        `scope`: system, venue:NAME, account:NAME (or its number), or strategy:NAME (or that of one instance). Errors:
        InputError SCOPE_UNKNOWN; OutageError when neither the guardian nor the database could be reached.
        """
        request = {"op": "kill", "scope": scope, "reason": reason, "by": by, "flatten": flatten, "wait_s": WAIT_S}
        answer = await self._ask(request)
        if answer is not None:
            return answer | {"through": "guardian"}
        try:
            return await self._write(scope=await self._known(scope), reason=reason, by=by, flatten=flatten)
        except OutageError as error:
            raise OutageError(
                f"neither the guardian nor the database could be reached: {error.message}",
                remedy="run 'fks kill' on the guardian's machine, or close in the exchange's own app, now",
            ) from error

    async def release(self, *, by: str, scope: str = "system") -> dict[str, Any]:
        """Release the kill switch of a scope and return the guardian's answer.

        Errors: InputError KILL_WORKING while there is still something to cancel or close; OutageError when the guardian
        did not answer: it is not known then whether the switch is released.
        """
        of = {} if scope == "system" else {"scope": scope}
        answer = await self._answer({"op": "resume", "by": by, "force": False, **of})
        if answer is None:
            raise OutageError(
                "the guardian did not answer", remedy="see GET /kill; on the guardian's machine: fks resume"
            )
        if not answer.get("ok"):
            _raise_unknown(answer)
            raise conflict(
                str(answer.get("code") or "KILL_WORKING"),
                str(answer.get("error") or "the guardian refused"),
                str(answer.get("remedy") or "wait until all is cancelled and closed, see GET /kill"),
            )
        return answer

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Return the guardian's answer; None when it did not answer or refused: a second kill joins. Errors: InputError
        SCOPE_UNKNOWN."""
        answer = await self._answer(request)
        _raise_unknown(answer or {})
        return answer if answer is not None and answer.get("ok") else None

    async def _answer(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Return the guardian's answer; None when it did not answer, whether or not it acted: a second kill joins."""
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await asyncio.open_unix_connection(self._socket, limit=1 << 20)
        except (OSError, TimeoutError):
            return None
        try:
            async with asyncio.timeout(ANSWER_S):
                writer.write(json.dumps(request).encode() + b"\n")
                await writer.drain()
                answer = json.loads(await reader.readline())
        except (OSError, TimeoutError, ValueError):  # ValueError: too long, or cut off when the guardian ended
            return None
        finally:
            writer.close()
        return answer if isinstance(answer, dict) else None

    async def _write(self, *, scope: str, reason: str, by: str, flatten: bool) -> dict[str, Any]:
        everything: list[Mapping[str, Any]] = [dict(row) for row in await self._store.engaged()]
        engaged = [row for row in everything if KillScope.parse(row["scope"]) == KillScope.parse(scope)]
        now_ns = self._clock.now_ns()
        for row in engaged:  # a kill that is engaged without closing positions is asked for more under its own id
            if flatten and not row["flatten"]:
                await self._save(row, {"flatten": True, "asked": row["asked"]})
        # A guardian's own row may be released in its file already, and is then released here as soon as it merges: it
        # says nothing about a kill that is asked for now, which would end with it.
        joined = next((row for row in engaged if row["asked"]), None)
        asked: Mapping[str, Any] = joined or {
            "kill_id": uuid.uuid4().hex,
            "scope": scope,
            "reason": reason,
            "engaged_by": by,
            "engaged_at": to_datetime(now_ns),
            "flatten": flatten,
        }
        if joined is None:
            await self._save(asked, {"flatten": flatten, "asked": True})
        kill_id = asked["kill_id"]
        kill = {"type": "kill", "engaged": True, "kill_id": kill_id, "scope": scope, "reason": reason, "by": by}
        await self._bus.publish(KILL, kill)
        return {
            "ok": True,
            "engaged": True,
            "already": joined is not None,
            "kill_id": kill_id,
            "scope": asked["scope"],
            "reason": asked["reason"],
            "by": asked["engaged_by"],
            "engaged_at": iso(to_ns(asked["engaged_at"])),
            "flatten": flatten or any(row["flatten"] for row in engaged),
            "is_quiet": False,
            "through": "database",
            "beside": [row["kill_id"] for row in everything if row["kill_id"] != kill_id],
        }

    async def _known(self, text: str) -> str:
        """Return a scope as rows have it: an account by its number, the venue of `venue.exchange` by the name in
        tables. Errors: InputError SCOPE_UNKNOWN."""
        scope, name = KillScope.parse(text), text.partition(":")[2]
        if scope.is_system and text == str(scope):
            return text
        accounts, instances = await self._store.accounts(), await self._store.instances()
        numbers = {row["name"]: str(row["id"]) for row in accounts}
        known = {
            ScopeKind.SYSTEM: set[str](),
            ScopeKind.VENUE: {row["venue"] for row in (*accounts, *instances)},
            ScopeKind.ACCOUNT: {*numbers.values()},
            ScopeKind.STRATEGY: {name for row in instances for name in (row["id"], row["strategy"])},
        }[scope.kind]
        if scope.kind is ScopeKind.ACCOUNT:
            name = account_number(name, numbers)
        elif scope.kind is ScopeKind.VENUE:
            name = self._settings.venue_named(name)
        if name not in known:
            offered = sorted(numbers if scope.kind is ScopeKind.ACCOUNT else known) or ["system"]
            raise unprocessable("SCOPE_UNKNOWN", f"scope {text!r} is not known", f"use one of: {', '.join(offered)}")
        return str(KillScope(scope.kind, name))

    async def _save(self, row: Mapping[str, Any], report: Mapping[str, Any]) -> None:
        await self._store.save(
            kill_id=row["kill_id"],
            scope=row["scope"],
            is_engaged=True,
            reason=row["reason"],
            by=row["engaged_by"],
            engaged_at=row["engaged_at"],
            released_by=None,
            released_at=None,
            report=report,
        )


def _raise_unknown(answer: Mapping[str, Any]) -> None:
    if answer.get("code") == "SCOPE_UNKNOWN":
        raise unprocessable("SCOPE_UNKNOWN", str(answer["error"]), str(answer.get("remedy") or ""))
