"""Publisher of the order manager: bus messages and alerts after a commit, never on the way to the wire.

Queues are bounded: a message that does not fit is dropped and counted, since the tables hold the truth.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal
from functools import partial

from fks.clock.waiting import wait_for_event
from fks.model.errors import OutageError
from fks.model.order import Order
from fks.model.ports import Log, Pager
from fks.model.signal import SignalState
from fks.model.timeframe import iso
from fks.store.bus import ALERTS, FILLS, ORDERS, SIGNALS, Bus
from fks.store.db import Database
from fks.store.facts import FactStore
from fks.store.orders import ExecutionRow
from fks.store.signals import SignalRecord, signal_message

QUEUE_MAX = 20_000
BATCH_MAX = 100  # messages of one round trip to Redis
COMPONENT = "orders"
RETRY_S = 1.0


class Publisher:
    """Publishes in order, in a task of its own, which also makes the messages; keeps alerts in the database when it is
    there."""

    def __init__(
        self,
        db: Database,
        bus: Bus,
        log: Log,
        *,
        pager: Pager | None = None,
        is_away: Callable[[], bool] = lambda: False,
    ) -> None:
        """`pager` takes the pages while PostgreSQL `is_away`."""
        self._facts, self._pager, self._is_away = FactStore(db), pager, is_away
        self._bus = bus
        self._log = log
        self._queue: deque[tuple[str, Callable[[], Mapping[str, object]]]] = deque(maxlen=QUEUE_MAX)
        self._alerts: deque[Callable[[], Awaitable[object]]] = deque(maxlen=1000)
        self._wake = asyncio.Event()
        self.dropped = 0

    def order(self, order: Order) -> None:
        """Publish an order's new state."""
        self._put(ORDERS, partial(_order_message, order))

    def fill(self, trade: ExecutionRow, position: Decimal) -> None:
        """Publish an execution and the position after it."""
        self._put(FILLS, partial(_fill_message, trade, position))

    def signal(self, record: SignalRecord, state: SignalState, code: str | None = None) -> None:
        """Publish a signal's outcome."""
        self._put(SIGNALS, partial(signal_message, record.signal, state, code))

    def alert(
        self, severity: str, event: str, message: str, *, condition: str | None = None, **payload: object
    ) -> None:
        """Raise an alert: logged at once, kept and published as soon as that is possible. `page` wakes a person.

        `condition`: the name of one that lasts, of which one alert is open until `end_alert`.
        """
        write = self._log.error if severity in ("page", "error") else self._log.warning
        write(event, message=message, severity=severity, **payload)
        if severity == "page" and self._pager is not None and self._is_away():
            self._pager.page(event, message)
        kept = {name: value if isinstance(value, int | float | None) else str(value) for name, value in payload.items()}
        alert = {"type": "alert", "severity": severity, "event": event, "message": message, **kept}
        self._put(ALERTS, lambda: alert)
        self._alerts.append(partial(self._facts.note_alert, severity, event, message, COMPONENT, kept, condition))

    def end_alert(self, condition: str, message: str) -> None:
        """End the alert of a condition as soon as that is possible."""
        self._log.info("alert.ended", condition=condition, message=message)
        self._alerts.append(partial(self._facts.end_alert, message, condition))
        self._wake.set()

    def _put(self, channel: str, message: Callable[[], Mapping[str, object]]) -> None:
        if len(self._queue) == QUEUE_MAX:
            self.dropped += 1
        self._queue.append((channel, message))
        self._wake.set()

    @property
    def is_idle(self) -> bool:
        """Return whether everything was published."""
        return not self._queue and not self._alerts

    async def run(self) -> None:
        """Publish and keep what waits, for ever."""
        while True:
            while self._queue:
                count = min(len(self._queue), BATCH_MAX)
                waiting = [self._queue.popleft() for _ in range(count)]
                await self._bus.publish_many([(channel, message()) for channel, message in waiting])
            try:
                while self._alerts:
                    await self._alerts[0]()
                    self._alerts.popleft()
            except OutageError:
                pass  # the alert waits in the bounded queue, its log line is written already
            self._wake.clear()
            await wait_for_event(self._wake, RETRY_S if self._alerts else None)  # an unwritten alert is tried again


def _order_message(order: Order) -> dict[str, object]:
    return {
        "type": "order",
        "client_order_id": order.client_order_id,
        "state": order.state,
        "request": order.request,
        "symbol": order.symbol,
        "side": order.side,
        "quantity": _text(order.quantity),
        "filled": _text(order.filled),
        "price": _text(order.price),
        "average_price": _text(order.average_price),
        "role": order.role,
        "instance": order.instance,
        "venue": order.venue,
        "code": order.code,
        "detail": order.detail,
        "trace_id": order.trace_id,
        "time": iso(order.updated_ns),
    }


def _fill_message(trade: ExecutionRow, position: Decimal) -> dict[str, object]:
    fill = trade.fill
    return {
        "type": "fill",
        "fill_id": fill.fill_id,
        "client_order_id": fill.client_order_id,
        "symbol": fill.symbol,
        "side": fill.side,
        "quantity": _text(fill.quantity),
        "price": _text(fill.price),
        "fee": _text(fill.fee),
        "fee_currency": fill.fee_currency,
        "instance": trade.instance,
        "venue": fill.venue,
        "position": _text(position),
        "realized_pnl": _text(trade.realized_pnl),
        "time": iso(fill.time_ns),
    }


def _text(value: object) -> str | None:
    return None if value is None else format(value, "f")
