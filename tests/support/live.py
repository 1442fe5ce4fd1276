"""The line without Ray: collector, strategy worker and order service in one process over real sockets and database."""

from __future__ import annotations

import asyncio
import contextlib
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any

from fks.clock import Clock
from fks.collector.collector import Collector
from fks.config.endpoints import Node
from fks.config.settings import Settings
from fks.exchanges.registry import make_exchange
from fks.model.timeframe import to_ns
from fks.order_manager.service import OrderManager
from fks.runtime import Runtime
from fks.store.leases import HeldLease, raise_epoch
from fks.strategy_worker.worker import StrategyWorker
from fks.venues.registry import make_venues
from tests.support.strategies import watch_over
from tests.support.waiting import until


async def seed_account(db: Any, venue: str, symbol: str) -> None:
    """Insert a venue's account and a collected symbol, under a living guardian."""
    await watch_over(db)
    await db.sql(
        "INSERT INTO accounts (name, venue, currency, initial_balance) VALUES ($1, $1, 'USDT', 1000000) ON CONFLICT "
        "DO NOTHING",
        venue,
    )
    await db.sql("INSERT INTO assets (exchange, symbol) VALUES ('binance', $1) ON CONFLICT DO NOTHING", symbol)


async def seed_instance(
    db: Any, id: str, strategy: str, params: dict[str, Any], symbol: str, timeframe: str, venue: str, size: Decimal
) -> None:
    """Insert an instance on the account of its venue."""
    await db.sql(
        "INSERT INTO strategy_instances (id, strategy, params, symbol, timeframe, account_id, venue, size)"
        " SELECT $1, $2, $3, $4, $5, id, $6, $7 FROM accounts WHERE name = $6",
        id,
        strategy,
        params,
        symbol,
        timeframe,
        venue,
        size,
    )


class Line:
    """Collector, worker and order service, started together and stopped together."""

    def __init__(self, db: Any, parts: list[Any], leases: list[HeldLease]) -> None:
        self.db = db
        self._parts = parts
        self._leases = leases
        self._tasks: list[asyncio.Task[None]] = []

    @staticmethod
    async def open(
        settings: Settings, node: Node, db: Any, bus: Any, clock: Clock, meter: Any, log: Any, home: Path
    ) -> Line:
        """Build the parts; nothing runs yet."""
        leases = {}
        for name in ("collector:binance", "strategy:0", "orders"):
            epoch = await raise_epoch(db, name, "test")
            leases[name] = HeldLease(db, clock, name=name, epoch=epoch, holder="test", ttl_s=5.0, renew_s=0.5)
        collector = Collector(
            make_exchange("binance", settings=settings, node=node, clock=clock, log=log),
            Runtime(settings, clock, db, bus, log, meter, leases["collector:binance"]),
        )
        worker = StrategyWorker(Runtime(settings, clock, db, bus, log, meter, leases["strategy:0"]), 0, 1, home=home)
        venues = make_venues(role="orders", settings=settings, node=node, clock=clock, log=log)
        orders = OrderManager(Runtime(settings, clock, db, bus, log, meter, leases["orders"]), venues)
        return Line(db, [collector, orders, worker], list(leases.values()))

    def knows_price(self, symbol: str) -> bool:
        """Return whether the order service has a price of `symbol`."""
        return any(symbol in str(key) and mark.price for key, mark in self._parts[1].cache.marks.items())

    async def __aenter__(self) -> Line:
        for lease in self._leases:
            await lease.renew()
            self._tasks.append(asyncio.create_task(lease.keep()))
        for part in self._parts:
            await part.start()
            self._tasks.append(asyncio.create_task(part.run()))
        await until(lambda: self._alive() and all(part.is_ready for part in self._parts), deadline_s=30.0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in reversed(self._tasks):
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
        for part in reversed(self._parts):
            await part.stop()

    def _alive(self) -> bool:
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()
                raise AssertionError("a part ended by itself")
        return True

    async def settled(self) -> None:
        """Wait until everything that the newest sealed bar causes has happened."""

        async def is_settled() -> bool:
            self._alive()
            rows = await self.db.sql(
                "SELECT (SELECT count(*) FROM strategy_instances i JOIN feeds f USING (exchange, symbol, timeframe)"
                "         WHERE i.cursor_time IS DISTINCT FROM f.sealed_through) AS behind,"
                " (SELECT count(*) FROM signals WHERE state = 'ready') AS ready,"
                # a leg waits, INTENDED, for its entry to fill: paper fills it at the next bar's open
                " (SELECT count(*) FROM orders o LEFT JOIN orders p ON p.client_order_id = o.parent_id"
                "   WHERE o.state IN ('SENDING','UNKNOWN') OR (o.state = 'INTENDED' AND"
                "         (p.client_order_id IS NULL OR p.state NOT IN ('SENDING','ACCEPTED','WORKING')))) AS unclear,"
                " (SELECT count(*) FROM orders o WHERE state IN ('ACCEPTED','WORKING','PARTIAL') AND type = 'market'"
                "   AND (venue = 'ccxt' OR o.created_at < (SELECT max(updated_at) FROM ohlcv_data) )) AS market,"
                " (SELECT sealed_through FROM feeds WHERE timeframe = '1m') AS sealed"
            )
            row = self._seen = rows[0]
            if row["sealed"] == self._sealed:
                return False
            done = not (row["behind"] or row["ready"] or row["unclear"] or row["market"])
            if done:
                self._sealed = row["sealed"]
            return done

        try:
            await until(is_settled, deadline_s=20.0, every_s=0.01)
        except AssertionError as error:
            open_ = await self.db.sql(
                "SELECT instance, role, type, state, code, created_at FROM orders WHERE state IN"
                " ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL')"
            )
            feeds = await self.db.sql("SELECT * FROM feeds")
            raise AssertionError(f"{self._seen}\n{open_}\n{feeds}") from error

    _sealed: Any = None
    _seen: Any = None

    async def instrument(self, symbol: str) -> Any:
        """Return the instrument as the collector stored it."""
        from fks.store.instruments import InstrumentStore

        return next(item for item in await InstrumentStore(self.db).all() if item.symbol == symbol)

    async def anchors(self) -> dict[str, tuple[int, int, int]]:
        """Return per instance: anchor, the first bar it decided on live, the last one."""
        rows = await self.db.sql("SELECT id, anchor_time, cursor_time, created_at FROM strategy_instances")
        return {
            row["id"]: (to_ns(row["anchor_time"]), to_ns(row["anchor_time"]), to_ns(row["cursor_time"])) for row in rows
        }

    async def fills(self, instance: str) -> list[tuple[int, str, Decimal, Decimal, Decimal, str]]:
        """Return the booked fills of an instance in order."""
        rows = await self.db.sql(
            "SELECT time, trade_type, quantity, price, fee, fee_currency FROM trades WHERE instance = $1 ORDER BY id",
            instance,
        )
        return [
            (to_ns(r["time"]), r["trade_type"].lower(), r["quantity"], r["price"], r["fee"], r["fee_currency"])
            for r in rows
        ]
