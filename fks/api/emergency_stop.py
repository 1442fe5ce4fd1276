"""Emergency stop over HTTP: the kill switch, through the guardian's socket, else through its table.

The guardian of this machine is asked first; it cancels and closes without the database. Where none answers (the gateway
runs on another machine, or the guardian is being restarted) the kill is written as a row: the order manager denies
entries from then on, and the guardian takes the row over and does the rest. Engaging is idempotent: an engaged kill is
joined. There is no way back here: a person releases it with `fks resume`.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path
from typing import Any

from fks.clock import Clock
from fks.model.errors import InputError, OutageError
from fks.model.timeframe import iso, to_datetime
from fks.store.bus import KILL, Bus
from fks.store.db import Database
from fks.store.kill import KillStore

CONNECT_S = 1.0
#: The guardian answers when all is quiet, or after some seconds with what is left.
ANSWER_S = 15.0


class EmergencyStop:
    """Engages the kill switch. Holds no state; many may exist."""

    def __init__(self, db: Database, bus: Bus, clock: Clock, socket: Path) -> None:
        self._store = KillStore(db)
        self._bus = bus
        self._clock = clock
        self._socket = socket

    async def engage(self, *, scope: str, reason: str, by: str, flatten: bool) -> dict[str, Any]:
        """Return the kill that is engaged afterwards; `through` is guardian or database.

        Errors: InputError SCOPE_UNKNOWN; OutageError when neither the guardian nor the database could be reached.
        """
        if scope != "system":
            raise InputError(
                f"scope {scope!r} is not offered", code="SCOPE_UNKNOWN", status=422, remedy="use system: all accounts"
            )
        request = {"op": "kill", "scope": scope, "reason": reason, "by": by, "flatten": flatten}
        answer = await self._ask(request)
        if answer is not None:
            return answer | {"through": "guardian"}
        try:
            return await self._write(scope=scope, reason=reason, by=by, flatten=flatten)
        except OutageError as error:
            raise OutageError(
                f"neither the guardian nor the database could be reached: {error.message}",
                remedy="run 'fks kill' on the guardian's machine, or close in the exchange's own app, now",
            ) from error

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any] | None:
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
        return answer if isinstance(answer, dict) and answer.get("ok") else None

    async def _write(self, *, scope: str, reason: str, by: str, flatten: bool) -> dict[str, Any]:
        engaged = await self._store.engaged()
        more = not engaged or (flatten and not any(row["flatten"] for row in engaged))
        kill_id, now_ns = (engaged[0]["kill_id"] if engaged else uuid.uuid4().hex), self._clock.now_ns()
        if more:  # a kill that is engaged without closing positions is asked for more under its own id
            first = engaged[0] if engaged else None
            await self._store.save(
                kill_id=kill_id,
                scope=scope,
                is_engaged=True,
                reason=first["reason"] if first else reason,
                by=first["engaged_by"] if first else by,
                engaged_at=first["engaged_at"] if first else to_datetime(now_ns),
                released_by=None,
                released_at=None,
                report={"flatten": flatten},
            )
            kill = {"type": "kill", "engaged": True, "kill_id": kill_id, "scope": scope, "reason": reason, "by": by}
            await self._bus.publish(KILL, kill)
        return {
            "ok": True,
            "engaged": True,
            "already": bool(engaged),
            "kill_id": kill_id,
            "scope": scope,
            "reason": reason,
            "by": by,
            "engaged_at": iso(now_ns),
            "flatten": flatten,
            "is_quiet": False,
            "through": "database",
        }
