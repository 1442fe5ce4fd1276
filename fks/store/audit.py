"""The audit of changes: rows that are added and never changed.

Triggers refuse UPDATE, DELETE and TRUNCATE to every role. A request that changes something has two rows of one
`request_id`: `requested`, committed before the change begins, and `answered` with the status of its answer.
`noted` marks events with one row only: a login, a lockout, a refresh token that was used twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fks.store.base import SqlStore, query
from fks.store.db import Querier


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A row of the audit. `action` is a route (`POST /tokens`) or an event (`login`); `object` what it was about."""

    request_id: str
    actor: str
    kind: str
    action: str
    object: str = ""
    phase: str = "noted"
    status: int | None = None
    address: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


_COLUMNS = ("request_id", "phase", "actor", "kind", "action", "object", "status", "address", "detail")


class AuditStore(SqlStore[Querier], queries="audit"):
    """Adds and reads rows of audit_log."""

    @query(binds=tuple(f"entry.{name}" for name in _COLUMNS))
    async def add(self, entry: AuditEntry) -> None:
        """Add a row. Errors: OutageError, then it may or may not be there."""

    async def list(
        self,
        *,
        actor: str | None = None,
        action: str | None = None,
        since: datetime | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[dict[str, Any]]:
        """Return rows, newest first; `action` is a part of the action's text."""
