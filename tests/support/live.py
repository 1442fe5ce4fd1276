"""The line without Ray: collector, strategy worker and order service in one process over real sockets and database."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

from fks.clock import Clock, RealClock
from fks.config.endpoints import NodeEndpoints
from fks.config.settings import Settings
from fks.market.collector.collector import TICK_S, Collector
from fks.market.exchanges.registry import make_exchange
from fks.model.timeframe import to_ns
from fks.store.bus import WAKE
from fks.store.leases import HeldLease, raise_epoch
from fks.strategies.base import Strategy
from fks.system.runtime import Runtime
from fks.trading.order_manager.service import OrderManager
from fks.trading.strategy_worker.worker import StrategyWorker
from fks.trading.venues.registry import Making, make_venues
from tests.support.strategies import DECIDABLE, watch_over
from tests.support.waiting import until


@contextlib.asynccontextmanager
async def held_exchange(
    home: Path, tapes: Sequence[Path], symbols: Sequence[str], opens_ns: int, cash: Decimal
) -> AsyncIterator[dict[str, Any]]:
    """Run the local exchange on held tapes, as a process of its own. It takes any number of stops."""
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "fks.interfaces.cli",
            "sim",
            "exchange",
            "--port",
            "0",
            "--json",
            "--data-dir",
            str(home),
        ),
        *(text for tape in tapes for text in ("--tape", str(tape))),
        *("--fills", "tape", "--hold", "--start", datetime.fromtimestamp(opens_ns // 10**9, UTC).isoformat()),
        *("--balance", f"USDT={cash}"),
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        found = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))
        for symbol in symbols:
            limits = {"symbol": symbol, "algo_orders_max": 200, "order_lists_max": 200}
            await post_to(found, "/sim/filters", limits)
        yield found
    finally:
        process.kill()
        await process.wait()


async def post_to(node: dict[str, Any], path: str, body: dict[str, Any]) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{node['rest']}{path}", json=body) as answer,
    ):
        assert answer.status == 200, await answer.text()


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
    db: Any, id: str, strategy: Strategy, symbol: str, timeframe: str, venue: str, size: Decimal
) -> None:
    """Insert an instance on the account of its venue."""
    await db.sql(
        "INSERT INTO strategy_instances (id, strategy, params, symbol, timeframe, account_id, venue, size, pyramiding)"
        " SELECT $1, $2, $3, $4, $5, id, $6, $7, $8 FROM accounts WHERE name = $6",
        id,
        strategy.name,
        strategy.model_dump(mode="json"),
        symbol,
        timeframe,
        venue,
        size,
        strategy.entries_max(),
    )


class FlushedAtOnce(RealClock):
    """The machine's clock for a collector whose tape moves by request: it does not pause between two flushes.

    `ahead_ns`: what it is ahead of the machine's, so that a tape of the future plays in its past.
    """

    def __init__(self, ahead_ns: int = 0) -> None:
        self._ahead_ns = ahead_ns

    def now_ns(self) -> int:
        return super().now_ns() + self._ahead_ns

    async def sleep(self, seconds: float) -> None:
        await super().sleep(0.01 if seconds == TICK_S else seconds)


class Line:
    """Collector, worker and order service, started together and stopped together."""

    def __init__(self, db: Any, bus: Any, parts: list[Any], leases: list[HeldLease]) -> None:
        self.db, self._bus = db, bus
        self._parts = parts
        self._leases = leases
        self._tasks: list[asyncio.Task[None]] = []

    @staticmethod
    async def open(
        settings: Settings,
        node: NodeEndpoints,
        db: Any,
        bus: Any,
        clock: Clock,
        meter: Any,
        log: Any,
        home: Path,
        *,
        collector_ahead_ns: int = 0,
    ) -> Line:
        """Build the parts; nothing runs yet."""
        leases = {}
        for name in ("collector:binance", "strategy:0", "orders"):
            epoch = await raise_epoch(db, name, "test")
            leases[name] = HeldLease(db, clock, name=name, epoch=epoch, holder="test", ttl_s=5.0, renew_s=0.5)
        collector = Collector(
            make_exchange("binance", settings=settings, node=node, clock=clock, log=log),
            Runtime(settings, FlushedAtOnce(collector_ahead_ns), db, bus, log, meter, leases["collector:binance"]),
        )
        worker = StrategyWorker(Runtime(settings, clock, db, bus, log, meter, leases["strategy:0"]), 0, home=home)
        venues = make_venues("orders", Making(settings=settings, node=node, clock=clock, log=log))
        orders = OrderManager(Runtime(settings, clock, db, bus, log, meter, leases["orders"]), venues)
        return Line(db, bus, [collector, orders, worker], list(leases.values()))

    async def __aenter__(self) -> Line:
        for lease in self._leases:
            await lease.renew()
            self._tasks.append(asyncio.create_task(lease.keep()))
        for part in self._parts:
            await part.start()
            if not isinstance(part, StrategyWorker):  # `settled` lets it decide
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

    async def settled(self, bar_ns: int, timeframe: str = "1m") -> None:
        """Wait until everything that the bar of `timeframe` which opened at `bar_ns` causes has happened.

        The worker decides when the order service knows the newest prices: at the pace of a market it reads them many
        times a bar.
        """

        async def is_sealed() -> bool:
            self._alive()
            rows = await self.db.sql(
                "SELECT min(sealed_through) FILTER (WHERE timeframe = $1) AS sealed,"
                " jsonb_object_agg(symbol, last_price::text) FILTER (WHERE timeframe = 'trades') AS prices FROM feeds",
                timeframe,
            )
            if rows[0]["sealed"] is None or to_ns(rows[0]["sealed"]) < bar_ns:
                return False
            await self._bus.publish(WAKE, {"type": "look"})
            known = {symbol: mark.price for (_, symbol), mark in self._parts[1].cache.marks.items()}
            wanted = {name: Decimal(text) for name, text in rows[0]["prices"].items() if text is not None}
            return known == wanted

        async def is_settled() -> bool:
            self._alive()
            rows = await self.db.sql(
                "SELECT (SELECT count(*) FROM strategy_instances i JOIN feeds f USING (exchange, symbol, timeframe)"
                "         WHERE i.cursor_time IS DISTINCT FROM f.sealed_through) AS behind,"
                f" {DECIDABLE} AS ready,"
                # a leg waits, INTENDED, for its entry to fill: paper fills it at the next bar's open
                " (SELECT count(*) FROM orders o LEFT JOIN orders p ON p.client_order_id = o.parent_id"
                "   WHERE o.state IN ('SENDING','UNKNOWN') OR (o.state = 'INTENDED' AND"
                "         (p.client_order_id IS NULL OR p.state NOT IN ('SENDING','ACCEPTED','WORKING')))) AS unclear,"
                " (SELECT count(*) FROM orders o WHERE state IN ('ACCEPTED','WORKING','PARTIAL')"
                "   AND (type = 'market' OR time_in_force = 'fok')"
                "   AND (venue = 'ccxt' OR o.created_at < (SELECT max(updated_at) FROM ohlcv_data) )) AS market,"
                " (SELECT count(*) FROM orders WHERE state IN ('ACCEPTED','WORKING','PARTIAL') AND request <> 'none')"
                # an entry that went out with its exits was executed, or a list made smaller: one of its own may follow
                " + (SELECT count(*) FROM order_events e JOIN orders o USING (client_order_id)"
                "     WHERE e.recv_time > now() - interval '150 ms' AND (e.event LIKE 'Replace%' OR e.event = 'TargetMoved'"
                "       OR (e.event = 'FillSeen' AND o.role = 'entry' AND o.group_id IS NOT NULL)))"
                # the order manager reads the prices to which strategies move their legs after they are written
                " + (SELECT count(*) FROM stop_moves WHERE created_at > now() - interval '150 ms')"
                # and then moves one half of a pair after the other
                " + (SELECT count(*) FROM orders l JOIN orders p ON p.client_order_id = l.parent_id"
                "     WHERE l.venue = 'ccxt' AND l.state IN ('ACCEPTED','WORKING','PARTIAL')"
                "       AND l.type = 'take_profit' AND l.price <> p.take_profit) AS changing"
            )
            self._seen = rows[0]
            if rows[0]["behind"]:  # it waits for a forecast
                await self._parts[2].step()
            return not any(rows[0].values())

        try:
            await until(is_sealed, deadline_s=20.0, every_s=0.01)
            await self._parts[2].step()
            await until(is_settled, deadline_s=20.0, every_s=0.01)
        except AssertionError as error:
            open_ = await self.db.sql(
                "SELECT instance, role, type, state, code, created_at FROM orders WHERE state IN"
                " ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL')"
            )
            waiting = await self.db.sql(
                "SELECT instance, kind, side, type, ts_event, detail FROM signals WHERE state = 'ready'"
            )
            ill = await self.db.sql("SELECT id, error FROM strategy_instances WHERE error <> ''")
            feeds = await self.db.sql("SELECT symbol, timeframe, sealed_through, state, last_price FROM feeds")
            marks = self._parts[1].cache.marks
            raise AssertionError("\n".join(map(str, (self._seen, ill, open_, waiting, feeds, marks)))) from error

    _seen: Any = None

    async def instrument(self, symbol: str) -> Any:
        """Return the instrument as the collector stored it."""
        from fks.store.instruments import InstrumentStore

        return next(item for item in await InstrumentStore(self.db).all() if item.symbol == symbol)

    async def anchors(self) -> dict[str, tuple[int, int]]:
        """Return each instance's anchor and the last bar that it decided on."""
        rows = await self.db.sql("SELECT id, anchor_time, cursor_time FROM strategy_instances")
        return {row["id"]: (to_ns(row["anchor_time"]), to_ns(row["cursor_time"])) for row in rows}

    async def outcomes(self, instance: str) -> str:
        """Return what became of an instance's signals and orders, to explain a difference."""
        signals = await self.db.sql(
            "SELECT state, code, max(detail) AS detail, count(*) FROM signals WHERE instance = $1 GROUP BY 1, 2",
            instance,
        )
        orders = await self.db.sql(
            "SELECT state, role, type, code, max(detail) AS detail, count(*) FROM orders WHERE instance = $1"
            " GROUP BY 1, 2, 3, 4",
            instance,
        )
        (row,) = await self.db.sql("SELECT state, error FROM strategy_instances WHERE id = $1", instance)
        return "\n".join(str(dict(item)) for item in (row, *signals, *orders))

    async def expired(self, instance: str) -> list[int]:
        """Return the bars that decided the entries of an instance that expired, in order."""
        rows = await self.db.sql(
            "SELECT s.ts_event FROM orders o JOIN signals s ON s.id = o.signal_id"
            " WHERE o.instance = $1 AND o.role = 'entry' AND o.state = 'EXPIRED' ORDER BY 1",
            instance,
        )
        return [to_ns(row["ts_event"]) for row in rows]

    async def fills(self, instance: str) -> list[Any]:
        """Return the booked fills of an instance in order, each with its order's role and type; the type of a stop that
        has followed the closes is 'trailing'."""
        rows: list[Any] = await self.db.sql(
            "SELECT t.time, t.trade_type, t.quantity, t.price, t.fee, t.fee_currency, o.symbol, o.role,"
            " CASE WHEN o.role = 'sl' AND EXISTS (SELECT FROM order_events e WHERE e.client_order_id = o.parent_id"
            "      AND e.event = 'StopMoved') THEN 'trailing' ELSE o.type END AS type"
            " FROM trades t JOIN orders o USING (client_order_id) WHERE t.instance = $1 ORDER BY t.id",
            instance,
        )
        return rows
