"""Operations requested by persons: rows that a supervisor claims, performs one at a time, and keeps as the audit.

queued → running → done | failed. The performer's writes carry its attempt number: once another supervisor has taken
the operation over they change nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fks.model.errors import StaleEpochError, conflict
from fks.store.base import RowCount, SqlStore, query
from fks.store.db import Querier

#: Published on the bus when an operation is requested; the supervisor polls besides.
CHANNEL = "operations"


@dataclass(frozen=True, slots=True)
class Operation:
    """A row of operations. `target` names a child, "gateway" or "supervisor"; `result` has the restarted parts, how
    long each took, and its new version; `attempt` counts the supervisors that worked on it."""

    id: uuid.UUID
    kind: str
    target: str
    args: Mapping[str, Any]
    reason: str
    requested_by: str
    state: str
    progress: str
    error: str | None
    result: Mapping[str, Any]
    attempt: int
    created_ns: int
    started_ns: int | None
    finished_ns: int | None

    @property
    def is_ended(self) -> bool:
        return self.state in ("done", "failed")


def _taken(operation: Operation) -> StaleEpochError:
    return StaleEpochError(
        f"operation {operation.id} attempt {operation.attempt} is another supervisor's now", remedy="leave it alone"
    )


class OperationStore(SqlStore[Querier], queries="operations"):
    """Reads and writes of operations. Takes a database or an open transaction. Errors: OutageError."""

    async def request(
        self,
        kind: str,
        *,
        target: str = "",
        args: Mapping[str, Any] | None = None,
        reason: str = "",
        requested_by: str = "",
        id: uuid.UUID | None = None,
    ) -> Operation:
        """Request an operation and return it. Idempotent with an `id` of the caller's.

        Errors: InputError 409 when the id was used for another request.
        """
        chosen, wanted = id or uuid.uuid4(), dict(args or {})
        await self._db.execute("operations.request", chosen, kind, target, wanted, reason, requested_by)
        found = await self.get(chosen)
        assert found is not None
        if (found.kind, found.target, dict(found.args)) != (kind, target, wanted):
            raise conflict(
                "IDEMPOTENCY_CONFLICT",
                "the Idempotency-Key was used for another operation",
                "use a new key for a new wish",
            )
        return found

    async def get(self, id: uuid.UUID) -> Operation | None:
        """Return one operation, or None."""

    async def list(self, *, state: str | None = None, limit: int = 50) -> list[Operation]:
        """Return the newest operations first."""

    @query(retry=False)
    async def claim(self) -> Operation | None:
        """Take the oldest queued operation; None when there is none, or one runs already.

        Errors: OutageError; then it may be taken all the same, and `take_up` finds it.
        """

    async def take_up(self) -> Operation | None:
        """Take over the running operation of a supervisor that died; that one's writes are refused from now on."""

    @query(retry=True)
    async def expire(self, older_than_s: float) -> RowCount:
        """Fail operations that were requested longer ago and never claimed; return how many. Changed configuration
        stays wanted."""

    @query(binds=("operation.id", "operation.attempt", "progress", "result"), missing=_taken)
    async def note(self, operation: Operation, progress: str, result: Mapping[str, Any]) -> None:
        """Record the progress. Errors: StaleEpochError when another supervisor has it."""

    @query(binds=("operation.id", "operation.attempt", "state", "error", "result", "progress"), missing=_taken)
    async def finish(
        self,
        operation: Operation,
        state: str,
        *,
        result: Mapping[str, Any],
        error: str | None = None,
        progress: str = "",
    ) -> None:
        """Write the end (done or failed). Errors: StaleEpochError when another supervisor has it."""

    @query("known_parts")
    async def parts(self) -> dict[str, str]:
        """Return the parts that run and can be named: name -> kind (actor or serve)."""
