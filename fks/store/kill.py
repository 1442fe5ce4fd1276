"""The kill switch in the database: rows that the guardian reads while the database answers, and merges later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from fks.model.order import Order, State
from fks.model.timeframe import to_datetime
from fks.store.alerting import settle
from fks.store.base import SqlStore, query
from fks.store.db import Querier, Row


class KillStore(SqlStore[Querier], queries="kill"):
    """Statements of the guardian. Each is idempotent."""

    async def snapshot(self, window_s: float, client_order_ids: Sequence[str] = ()) -> Row:
        """Return positions, instruments, orders and executions of the last `window_s` seconds, from one moment.
        Orders that are open, or named, are among them however old."""

    @query("upsert")
    async def save(
        self,
        *,
        kill_id: str,
        scope: str,
        is_engaged: bool,
        reason: str,
        by: str,
        engaged_at: datetime,
        released_by: str | None,
        released_at: datetime | None,
        report: Mapping[str, Any],
    ) -> None:
        """Record the kill itself."""

    async def engaged(self) -> list[Row]:
        """Return kill_id, scope, reason, engaged_by, engaged_at, flatten and asked of the kills that are engaged.

        The oldest comes first. `asked`: a request that no guardian has taken over yet."""

    async def has_session(self, venue: str) -> bool:
        """Return whether a living order manager has a session with a venue."""

    async def accounts(self) -> list[Row]:
        """Return id, name and venue of every account."""

    async def instances(self) -> list[Row]:
        """Return id, strategy and venue of every strategy instance."""

    async def orders(self, since: datetime) -> list[Row]:
        """Return the flattening orders created since then, oldest first."""

    async def open_alert(self, event: str, message: str, payload: Mapping[str, Any]) -> None:
        """Page a person about a kill (`kill_id` in `payload`), unless that page is open."""

    async def end_alert(self, event: str, scope: str = "system") -> None:
        """End the pages of that event about the kills of a scope: its cause is over.

        They are found by their scope, not by a key: a guardian that takes over ends the pages of kills before its own.
        """
        rows = await self._db.fetch("kill.open_alerts", event, scope)
        await settle(self._db, ids=[row["id"] for row in rows])

    async def release(self, kill_id: str) -> Row | None:
        """Return released_by and released_at of a kill that was released; None of any other."""

    async def release_all(self, *, by: str, at: datetime, scope: str = "system") -> None:
        """Leave no kill of a scope engaged that was engaged by `at`."""

    async def save_order(
        self, order: Order, state: State, *, venue_order_id: str | None, code: str | None, detail: str, step: str
    ) -> None:
        """Record a flattening order, or a stop placed again, and the `step` that brought it to `state`."""
        await self._db.execute(
            "kill.save_order",
            order.client_order_id,
            order.intent_id,
            order.account_id,
            order.venue,
            order.exchange,
            order.symbol,
            order.instance,
            order.attempt,
            order.side.value,
            order.quantity,
            state.value,
            venue_order_id,
            code,
            detail or None,
            to_datetime(order.sent_ns or order.created_ns),
            order.role.value,
            order.type.value,
            order.parent_id,
            order.price,
            order.stop_price,
            step,
            {"detail": detail, "code": code},
        )
