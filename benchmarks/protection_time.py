"""Time without a stop: the real order manager at a venue that is 100 ms away, over fills in parts, adds and shrinking.

    python benchmarks/protection_time.py [seconds] [--replace | --kill | --trail [--cancel]]
    python benchmarks/protection_time.py [seconds] --trail --pair [--replace]

Eight positions are held for at least a minute: a limit entry fills in parts, entries are added (at once, and in parts),
and a person sells a part. The venue locks what orders may sell, and its log says what was executed and which stops
rested, at its own time; `fks.lab.chaos.protection_time` integrates it. Positions are compared with the venue's holdings and
the stops with the positions before a figure is printed. Exits 1 beyond the limits. `--replace`: at a venue that cannot
amend. `--trail`: strategies hold the positions with a stop alone, which follows sealed bars every MOVE_S seconds;
`--cancel`: at a venue where no request ends a stop and places its successor; `--pair`: one entry with a take profit.
`--kill`: PostgreSQL is killed with signal 9 after the first part of each entry, and started again once the last one has
executed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import sys
import time
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the rigs of the tests, however this is started

from benchmarks._results import run, same
from benchmarks.order_burst import seed_instruments
from fks.config.settings import DatabaseSettings, Risk, Settings, VenueSettings
from fks.lab.chaos.protection_time import LogLineKind as Line
from fks.lab.chaos.protection_time import PositionLogLine, protection_time
from fks.model.order import Answer, Fill, Order, OrderType, Role, Side
from fks.model.ports import VenueEvent
from fks.model.signal import Kind
from fks.model.timeframe import bar_end
from fks.store import migrate
from fks.store.bus import BARS, Bus
from fks.store.db import Database
from tests.support import servers
from tests.support.order_rig import Rig
from tests.support.outage_rig import OutageRig
from tests.support.scripted_venue import OPEN, Held, ScriptedVenue
from tests.support.strategies import bars_of, seal
from tests.support.waiting import until

D = Decimal
LATENCY_S, SHARE_MAX, GAP_MAX_S = 0.1, 0.005, 2.0
POSITIONS, SEED, MOVE_S = 8, 27, 6.0
STOPS = {"stop_loss": D(90), "take_profit": D(120)}
TRAILED = {"stop_loss": D(90), "take_profit": None, "trail": D(10)}
PAIRS = TRAILED | {"take_profit": D(1000)}
SETTINGS = Settings(
    venue=VenueSettings(), risk=Risk(feed_age_max_s=36000, orders_per_minute=10**6, orders_open_max=10**4)
)


class DistantVenue(ScriptedVenue):
    """A venue that each request and each event needs LATENCY_S to or from; it keeps the log."""

    def __init__(self, symbols: list[str], *, can_amend: bool, can_replace: bool) -> None:
        super().__init__(prices=dict.fromkeys(symbols, D(100)), can_amend=can_amend, can_replace=can_replace)
        self.log: list[PositionLogLine] = []
        self.totals["USDT"] = D(10**6)
        self._resting: dict[str, Decimal] = {}

    def note(self) -> None:
        """Add what changed since the last line: all of it at one time."""
        now_s = time.monotonic()
        for name, held in self.orders.items():
            if held.order.role is Role.STOP_LOSS:
                left = held.order.quantity - held.filled if held.state in OPEN else D(0)
                if left != self._resting.get(name, D(0)):
                    self._resting[name] = left
                    self.log.append(PositionLogLine(now_s, held.order.symbol, Line.STOP, left, name))

    async def submit(self, order: Order) -> Answer:
        await asyncio.sleep(LATENCY_S)
        self._check(order)
        return await self._answer(await super().submit(order))

    async def submit_oco(self, stop: Order, limit: Order) -> tuple[Answer, Answer]:
        await asyncio.sleep(LATENCY_S)
        self._check(stop)
        answers = await super().submit_oco(stop, limit)
        await self._answer(answers[0])
        return answers

    async def replace(self, old: Order, new: Order) -> tuple[Answer, Answer]:
        await asyncio.sleep(LATENCY_S)
        self._check(new, without=old)
        answers = await super().replace(old, new)
        await self._answer(answers[0])
        return answers

    def _check(self, order: Order, *, without: Order | None = None) -> None:
        closing = [held.order for held in self.live() if self._closes(held, order.symbol)]
        kept = [o for o in closing if without is None or o.client_order_id != without.client_order_id]
        locked = sum((o.quantity for o in kept), D(0))
        free = self.totals.get(order.symbol.removesuffix("USDT"), D(0)) - locked
        assert order.side is Side.BUY or order.quantity <= free, "more than is held"

    @staticmethod
    def _closes(held: Held, symbol: str) -> bool:
        return held.order.symbol == symbol and held.order.side is Side.SELL and held.order.role is not Role.TAKE_PROFIT

    async def cancel(self, order: Order) -> Answer:
        await asyncio.sleep(LATENCY_S)
        return await self._answer(await super().cancel(order))

    async def amend(self, order: Order, quantity: Decimal) -> Answer:
        await asyncio.sleep(LATENCY_S)
        return await self._answer(await super().amend(order, quantity))

    async def _answer(self, answer: Answer) -> Answer:
        self.note()
        await asyncio.sleep(LATENCY_S)
        return answer

    def push(self, event: VenueEvent) -> None:
        asyncio.get_running_loop().call_later(LATENCY_S, super().push, event)

    def _execute(self, held: Held, quantity: Decimal, price: Decimal) -> Fill:
        fill = super()._execute(held, quantity, price)
        net = quantity - fill.fee if fill.side is Side.BUY else -quantity
        self.log.append(PositionLogLine(time.monotonic(), fill.symbol, Line.EXECUTION, net))
        self.note()
        return fill


async def trail(rig: Rig, symbol: str, seconds: float, dice: random.Random) -> None:
    """Seal a bar with a higher close every MOVE_S seconds."""
    start_ns, closes = bar_end(rig.clock.now_ns(), "1m"), list[float]()
    for _ in range(int(seconds / MOVE_S)):
        await asyncio.sleep(MOVE_S * dice.uniform(0.8, 1.2))
        closes.append(round(100 + 0.3 * (len(closes) + 1), 2))
        await seal(rig.db, bars_of(closes, symbol=symbol, start_ns=start_ns))
        await rig.bus.publish(BARS, {"type": "bar", "symbol": symbol, "timeframe": "1m"})


@dataclass
class Kill:
    """One death of PostgreSQL, once every position has come as far; it is back once every position has."""

    postgres: servers.MortalPostgres
    rig: Rig
    away_s: float = 0.0
    _barrier: asyncio.Barrier = field(default_factory=lambda: asyncio.Barrier(POSITIONS))

    async def begin(self) -> None:
        if await self._barrier.wait() == 0:
            self.away_s -= time.monotonic()
            self.postgres.kill()

    async def end(self) -> None:
        if await self._barrier.wait() == 0:
            await asyncio.to_thread(self.postgres.start)
            self.away_s += time.monotonic()
        await self._barrier.wait()
        await until(lambda: self.rig.service.cache.is_journal_up, deadline_s=20)


async def trade(
    rig: Rig,
    venue: DistantVenue,
    symbol: str,
    seconds: float,
    dice: random.Random,
    *,
    stops: dict[str, Any],
    kill: Kill | None = None,
) -> None:
    """Hold one position for `seconds`."""
    start_s, trails = time.monotonic(), "trail" in stops
    moving = asyncio.create_task(trail(rig, symbol, seconds - 2, dice)) if trails else None

    async def order(size: str, **changes: Any) -> str:
        values = {"symbol": symbol, "size": D(size), "instance": "", "source": "principal:ann", "timeframe": None}
        if trails:
            values |= {"instance": symbol, "source": f"strategy:{symbol}", "timeframe": "1m"}
        id = await rig.signal(Kind.ENTER if trails else Kind.ORDER, **(values | changes))
        same("the outcome of an order", await rig.outcome(id, deadline_s=20), ("ordered", None))
        return (await rig.entry(id)).client_order_id

    async def in_parts(size: int, kill: Kill | None = None) -> None:
        name = await order(str(size), type=OrderType.LIMIT, limit_price=D(100), **stops)
        await until(lambda: name in venue.orders)
        left, parts = size * 1000, dice.randint(3, 7)
        for number in range(parts, 0, -1):
            part = left if number == 1 else dice.randint(left // (3 * number) + 1, left // number)
            venue.fill(name, D(part) / 1000, D(100))
            left -= part
            await asyncio.sleep(dice.uniform(0.05, 1.5))
            if kill is not None and number == parts:
                await kill.begin()
                await asyncio.sleep(dice.uniform(0.05, 1.5))
        if kill is not None:
            await kill.end()

    if stops is PAIRS:
        await order("10", **stops)
    else:
        await in_parts(10, kill)
        await asyncio.sleep(dice.uniform(4, 8))
        await order("2", **stops)
        await asyncio.sleep(dice.uniform(4, 8))
        await in_parts(4)
        await asyncio.sleep(dice.uniform(4, 8))
    if moving is None:
        await order(str(dice.randint(1, 6)), side=Side.SELL)
    await asyncio.sleep(max(start_s + seconds - time.monotonic(), 0))
    if moving is not None:
        await moving


async def main(seconds: float, stops: dict[str, Any], *, can_amend: bool, can_replace: bool, kills: bool) -> bool:
    with servers.home() as paths, servers.mortal_postgres() as postgres, servers.running_redis(paths) as redis:
        await migrate.upgrade(postgres.url)
        db = await Database.connect(postgres.url, DatabaseSettings(), application="bench")
        symbols = (await seed_instruments(db))[:POSITIONS]
        venue = DistantVenue(symbols, can_amend=can_amend, can_replace=can_replace)
        if "trail" in stops:
            await db.sql("UPDATE strategy_instances SET account_id = 1, venue = 'ccxt'")
        bus, side = await Bus.connect(redis.url()), paths.home / "orders.jsonl" if kills else None
        rig = await OutageRig(db, bus, venue, settings=SETTINGS, side=side, ttl_s=5.0).start()
        kill = Kill(postgres, rig) if kills else None
        dice = {s: random.Random(f"{SEED}{s}") for s in symbols}
        await asyncio.gather(*(trade(rig, venue, s, seconds, dice[s], stops=stops, kill=kill) for s in symbols))
        end_s = time.monotonic()
        rows = await db.sql("SELECT symbol, quantity FROM positions WHERE quantity <> 0")
        held = {row["symbol"]: row["quantity"] for row in rows}
        same("the positions", held, {symbol: venue.totals[symbol.removesuffix("USDT")] for symbol in symbols})

        def lacking() -> dict[str, Decimal]:
            stops = {symbol: D(0) for symbol in symbols}
            for one in venue.by_role("sl"):
                stops[one.order.symbol] += one.order.quantity if one in venue.live() else 0
            return {
                symbol: held[symbol] - stops[symbol] for symbol in symbols if held[symbol] - stops[symbol] >= D("0.001")
            }

        with contextlib.suppress(AssertionError):  # a move may be on its way
            await until(lambda: not lacking(), deadline_s=5)
        same("what the stops lack", lacking(), {})
        same("what was sent twice", len(venue.received), len(set(venue.received)))
        found = protection_time(
            venue.log,
            latency_s=LATENCY_S,
            until_s=end_s,
            least=D("0.056"),
            step=D("0.001"),
            held_min_s=min(60.0, seconds - 1),
        )
        same("the positions that count", found.positions, len(symbols))
        moves = await db.sql("SELECT count(*) FROM order_events WHERE event = 'StopMoved'")
        if kill is not None:
            print(f"PostgreSQL was away for {kill.away_s:.1f} s, while the entries filled")
        print(f"{moves[0][0]} moves of a stop, {len(venue.replaced)} stops replaced by one request")
        print(
            f"{found.positions} positions, {found.executions} executions "
            f"with an allowance of {2 * LATENCY_S + 0.1:g} s each, "
            f"{LATENCY_S * 1000:g} ms to the venue, which {'amends' if can_amend else 'cannot amend'}"
        )
        print(f"{'':32}{'ours':>10}{'limit':>10}")
        print(f"{'unprotected quantity x time, %':32}{100 * found.share:10.3f}{100 * SHARE_MAX:10.3f}")
        print(f"{'longest without a stop, s':32}{found.gap_max_s:10.2f}{GAP_MAX_S:10.2f}")
        print(f"{'longest with no stop at all, s':32}{found.no_stop_max_s:10.2f}")
        print(f"{'stops down before a successor':32}{found.taken_down:10}")
        await rig.stop()
        await db.close()
        return found.share >= SHARE_MAX or found.gap_max_s > GAP_MAX_S


if __name__ == "__main__":
    logging.getLogger("asyncpg").setLevel(logging.ERROR)  # it warns of each connection that a killed server refuses
    numbers = [float(argument) for argument in sys.argv[1:] if argument.isdigit()]
    trails = "--trail" in sys.argv
    run(
        lambda: asyncio.run(
            main(
                numbers[0] if numbers else 75.0,
                (PAIRS if "--pair" in sys.argv else TRAILED) if trails else STOPS,
                can_amend="--replace" not in sys.argv,
                can_replace=trails and "--cancel" not in sys.argv,
                kills="--kill" in sys.argv,
            )
        )
    )
