"""Commands that were received by chat: each is begun once, whatever is received twice."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fks.store.base import SqlStore, query
from fks.store.db import Database


class ChatStore(SqlStore[Database], queries="chat"):
    """Reads and writes chat_commands. Errors: OutageError."""

    def __init__(self, db: Database, service: str) -> None:
        super().__init__(db)
        self._service = service

    @query(binds=("_service", "update_id", "chat_id", "user", "command", "sent_at"), retry=False)
    async def begin(self, update_id: int, chat_id: int, user: str, command: str, sent_at: datetime) -> bool:
        """Record that a command begins; return False when it was begun before."""

    @query(binds=("_service", "update_id", "state", "code"))
    async def finish(self, update_id: int, state: str, code: str) -> None:
        """Record the end of a command: done or refused, and the code of the refusal."""

    @query(binds=("_service", "chat_id"))
    async def newest(self, chat_id: int) -> int | None:
        """Return the newest update of a chat that was begun."""

    @query(binds=("_service",))
    async def lose(self) -> list[dict[str, Any]]:
        """Mark the commands without an end as lost, and return them: their process ended in the middle."""

    async def prune(self) -> None:
        """Delete commands of more than 30 days ago."""
