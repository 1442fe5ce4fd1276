"""From `submit` to the first byte on the connection, through our own session and through ccxt, at the local exchange.

    python benchmarks/order_wire.py [count]

No journal and no checks: the cost of the way to the exchange by itself, with the shared rate limit (Redis) as in
production. The sessions take turns, so that both see the same machine. The answer's round trip is shown beside it.
Before anything is timed, the orders that the exchange received through both are compared; exits 1 when they differ."""

from __future__ import annotations

import asyncio
import asyncio.selector_events
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the support of the tests, however this is started

from benchmarks._results import run, same
from fks.clock import RealClock
from fks.model.market import Allowance, RateLimits
from fks.model.order import Outcome
from fks.model.ports import Priority
from fks.store.bus import Bus
from fks.system.rate_limits.venue_budgets import RedisVenueBudget, venue_budget
from fks.trading.venues.binance.config import SessionConfig
from fks.trading.venues.binance.session import BinanceVenue
from fks.trading.venues.binance.venue import SpotVenue
from fks.trading.venues.ccxt import CcxtVenue
from tests.support import servers
from tests.support.local_exchange import LocalExchange
from tests.support.ports import CollectingLog
from tests.support.venue_orders import order

WARM = 20
_written_s = 0.0


def note_writes() -> None:
    """Note when the first byte after a reset was handed to a socket."""
    kind: Any = asyncio.selector_events._SelectorSocketTransport  # type: ignore[attr-defined]
    write = kind.write

    def noted(self: Any, data: Any) -> None:
        global _written_s
        write(self, data)
        _written_s = _written_s or time.perf_counter()

    kind.write = noted
    kind.writelines = lambda self, parts: noted(self, b"".join(parts))


def shown(name: str, seconds: list[float]) -> str:
    """Return one line: median and 99th percentile in µs."""
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"{name:<44} p50 {statistics.median(ordered) * 1e6:8.0f} µs   p99 {p99 * 1e6:8.0f} µs   n {len(ordered)}"


async def one(venue: SpotVenue, first: list[float], answered: list[float]) -> None:
    """Place one order and note both times."""
    global _written_s
    wanted = order("0.001")
    await asyncio.sleep(0.001)
    _written_s, start = 0.0, time.perf_counter()
    answer = await venue.submit(wanted)
    first.append(_written_s - start)
    answered.append(time.perf_counter() - start)
    assert answer.outcome is Outcome.ACK, answer


def compare_received(exchange: LocalExchange) -> None:
    """Compare the orders that the exchange received through the first session with those through the second."""
    rows = exchange.received(path="/api/v3/order", method="POST")
    same("the orders received", len({row["params"]["newClientOrderId"] for row in rows}), 2 * WARM)
    names = ("symbol", "side", "type", "timeInForce", "quantity", "price")
    ours, theirs = (
        [{name: str(row["params"].get(name, "")) for name in names} for row in part]
        for part in (rows[:WARM], rows[WARM:])
    )
    same("the orders of our own session, against ccxt's", ours, theirs)


def budget_of(bus: Bus, exchange: LocalExchange) -> RedisVenueBudget:
    """Return a budget that is never used up."""
    info = exchange.info
    limits = RateLimits(requests=Allowance(10**7, 60), orders=Allowance(10**6, 10))
    return venue_budget(bus, RealClock(), "binance", info["rest"], info["api_key"], limits=limits)


async def cost_of_the_budget(budget: RedisVenueBudget, count: int) -> list[float]:
    """Time the question and the take of an entry while tokens are here."""
    times = []
    for _ in range(count):
        await asyncio.sleep(0)
        start = time.perf_counter()
        budget.wait_s(1, Priority.ENTRY, 1)
        await budget.take(1, Priority.ENTRY, 1, wait_max_s=0.25)
        times.append(time.perf_counter() - start)
    return times


async def main(count: int) -> None:
    note_writes()
    with servers.home() as paths, servers.running_redis(paths) as redis, tempfile.TemporaryDirectory() as folder:
        exchange = LocalExchange(Path(folder), ["--rate-limits", "off", "--balance", "USDT=100000000"]).start()
        info = exchange.info
        config = SessionConfig(
            info["api_key"], info["api_secret"], rest_url=info["rest"], ws_url=info["ws"], ws_api_url=info["ws_api"]
        )
        bus = await Bus.connect(redis.url())
        kinds: dict[str, Any] = {"our own session": BinanceVenue, "ccxt": CcxtVenue}
        venues = {
            name: kind(config, RealClock(), CollectingLog(), None, budget_of(bus, exchange))
            for name, kind in kinds.items()
        }
        times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in venues}
        try:
            for venue in venues.values():
                await venue.open()
            for venue in venues.values():
                for _ in range(WARM):
                    await one(venue, [], [])
            compare_received(exchange)
            for _ in range(count):
                for name, venue in venues.items():
                    await one(venue, *times[name])
            for name, (first, answered) in times.items():
                print(shown(f"{name}: submit to first byte", first))
                print(shown(f"{name}: submit to answer", answered))
            budget = budget_of(bus, exchange)
            await budget.start()
            print(shown("of these, the shared rate limit", await cost_of_the_budget(budget, count)))
            await budget.stop()
        finally:
            for venue in venues.values():
                await venue.close()
            await bus.close()
            exchange.stop()


if __name__ == "__main__":
    run(lambda: asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)))
