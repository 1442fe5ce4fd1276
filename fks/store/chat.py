"""Commands that were received by chat: each is begun once, whatever is received twice."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fks.store.db import Database


class ChatStore:
    """Reads and writes chat_commands. Errors: OutageError."""

    def __init__(self, db: Database, service: str) -> None:
        self._db = db
        self._service = service

    async def begin(self, update_id: int, chat_id: int, user: str, command: str, sent_at: datetime) -> bool:
        """Record that a command begins; return False when it was begun before."""
        row = await self._db.fetchrow(
            "chat.begin", self._service, update_id, chat_id, user, command, sent_at, retry=False
        )
        return row is not None

    async def finish(self, update_id: int, state: str, code: str) -> None:
        """Record the end of a command: done or refused, and the code of the refusal."""
        await self._db.execute("chat.finish", self._service, update_id, state, code)

    async def newest(self, chat_id: int) -> int | None:
        """Return the newest update of a chat that was begun."""
        row = await self._db.fetchrow("chat.newest", self._service, chat_id)
        found: int | None = None if row is None else row["update_id"]
        return found

    async def lose(self) -> list[dict[str, Any]]:
        """Mark the commands without an end as lost, and return them: their process ended in the middle."""
        return [dict(row) for row in await self._db.fetch("chat.lose", self._service)]

    async def prune(self) -> None:
        """Delete commands of more than 30 days ago."""
        await self._db.execute("chat.prune")
