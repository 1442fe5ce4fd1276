"""A collector in a process of its own under a seeded stream of faults, and the question afterwards: is everything
there?"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

from fks.config.settings import DatabaseSettings, Risk
from fks.market.collector.collector import TICK_S
from fks.model.errors import OutageError
from fks.model.timeframe import to_ns
from fks.store.db import Database
from fks.store.facts import FactStore
from fks.store.leases import raise_epoch
from fks.trading.risk.figures import Passed
from fks.trading.risk.market import feed_stale
from tests.support import servers
from tests.support.children import Child
from tests.support.collecting import check_stored, collect
from tests.support.feed_histories import folder_asked_for
from tests.support.local_exchange import LocalExchange
from tests.support.waiting import until

DATA: dict[str, Any] = {
    "timeframes": ("1s", "5s", "15s", "1m"),
    "backfill_bars": 20,
    "stale_min_s": 1.5,
    "stale_max_s": 2.0,
}
FROZEN_S = 5.0  # longer than a feed that was filled from REST in the middle of it may be called live, by far
SEEN_S = 1.0  # from the last message of a feed: its limit, and then so long until every reader sees that it is stale
ANSWER_S = 0.1  # of REST, and of our loop
#: faults after which a collector subscribes again: one that does so in a stall has all trades from REST, and is live
#: until its own limit
RECONNECTS = ("kill collector", "cut_stream", "server_shutdown", "half_open", "throttle")


@dataclass(frozen=True, slots=True)
class Exercised:
    """Counts of a run: injected faults, collectors killed by it, stored trades, rows of outages, and answers to the
    question whether an entry is let in. `own_ends`: exit statuses of collectors that the run did not kill."""

    faults: int
    kills: int
    trades: int
    outages: int
    let_in: int
    refused: int
    own_ends: tuple[int, ...] = ()

    def lacking(self, least_an_hour: Exercised, seconds: float) -> list[str]:
        """Return what keeps a run of so many seconds from being a proof, as text."""
        found = [f"a collector ended by itself with status {status}" for status in self.own_ends]
        for name in ("faults", "kills", "trades", "outages", "let_in", "refused"):
            least, had = int(getattr(least_an_hour, name) * seconds / 3600), getattr(self, name)
            if had < least:
                found.append(f"{name}: {had}, at least {least} are needed")
        return found


@dataclass(frozen=True, slots=True)
class Wire:
    """One exchange's protocol: its symbols, its stream of trades, and the REST paths that are disturbed."""

    exchange: str
    symbols: tuple[str, str]
    trades: str
    paths: tuple[str, str]
    flags: tuple[str, ...] = ()
    pause_s: tuple[float, float] = (0.1, 1.2)  # between faults
    short_s: float = 22.0  # of faults in the short run
    least: Exercised = Exercised(1200, 100, 12_000, 600, 6000, 20_000)  # in an hour: half of what one has, or less


WIRES = {
    "binance": Wire("binance", ("BTCUSDT", "ETHUSDT"), "aggTrade", ("/api/v3/aggTrades", "/api/v3/klines")),
    "kraken": Wire(
        "kraken",
        ("BTC/USDT", "ETH/USDT"),
        "trade",
        ("/0/public/Trades", "/0/public/OHLC"),
        ("--wire", "kraken"),
        (2.0, 14.0),  # a request a second and 15 connects a minute: a feed needs longer until it is live again
        60.0,
        Exercised(200, 12, 12_000, 100, 6000, 20_000),
    ),
}


@dataclass(frozen=True, slots=True)
class Injected:
    """One fault and when it struck: ns by the machine's clock."""

    kind: str
    at_ns: int


@dataclass(frozen=True, slots=True)
class Asked:
    """Whether an entry in a symbol would have been let in at a moment, as the order manager decides it."""

    symbol: str
    at_ns: int
    is_let_in: bool


@dataclass
class Lull:
    """A time in which an outage was over before it went on: REST had all trades, and it was not known yet that no more would
    come."""

    symbol: str
    began_ns: int  # the outage's
    since_ns: int
    until_ns: int | None = None


@dataclass
class FaultRun:
    """The exchange, a PostgreSQL of its own and a collector that is started again whenever it is dead."""

    exchange: LocalExchange
    redis_url: str
    seed: int
    wire: Wire = WIRES["binance"]
    done: list[Injected] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    lulls: list[Lull] = field(default_factory=list)
    started: list[int] = field(default_factory=list)
    kills: int = 0
    own_ends: list[int] = field(default_factory=list)
    epoch: int = 0

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  what the collectors printed; it goes with the run
        self._process: Child | None = None
        self._is_ending = False

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[FaultRun]:
        """Start PostgreSQL and the collector; end both."""
        with servers.mortal_postgres() as self._postgres:
            self.db = await Database.connect(self._postgres.url, DatabaseSettings(retry_s=30.0))
            try:
                async with asyncio.TaskGroup() as group:  # one that falls ends the run
                    group.create_task(self._keep())
                    group.create_task(self._ask())
                    try:
                        yield self
                    finally:
                        self._is_ending = True
            finally:
                self._kill_collector()
                await self.db.close()

    async def _keep(self) -> None:
        """Do the supervisor's part: a collector that is dead has a successor with a higher epoch."""
        while not self._is_ending:
            if self._process is None or self._process.poll() is not None:
                self._record_own_end()
                with contextlib.suppress(OutageError):  # no lease, no start: again when the database is back
                    await self._start()
            await asyncio.sleep(0.1)

    async def _start(self) -> None:
        self.epoch = await raise_epoch(self.db, f"collector:{self.wire.exchange}", "test")
        spec = {
            "database": self._postgres.url,
            "redis": self.redis_url,
            "info": self.exchange.info,
            "data": DATA | {"exchange": self.wire.exchange, "symbols": self.wire.symbols},
            "epoch": self.epoch,
            "histories": folder_asked_for(),
        }
        self.started.append(time.time_ns())
        self._process = Child(collect, spec, stderr=self._output)

    async def _ask(self) -> None:
        """Ask ten times a second what the order manager asks before an entry: its row of risk.market, on its own
        read."""
        facts, limits = FactStore(self.db), Risk()
        while not self._is_ending:
            try:
                async with asyncio.timeout(1.0):
                    marks = await facts.marks()
            except (OutageError, TimeoutError):
                marks = []  # it cannot read its journal then, and lets nothing in
            now_ns = time.time_ns()
            for mark in marks:
                age_s = None if mark.message_ns is None else (now_ns - mark.message_ns) / 1e9
                view: Any = SimpleNamespace(limits=limits, feed_age_s=age_s)
                intent: Any = SimpleNamespace(symbol=mark.symbol)
                self.asked.append(Asked(mark.symbol, now_ns, isinstance(feed_stale(intent, view), Passed)))
            if marks:
                with contextlib.suppress(OutageError, TimeoutError):
                    async with asyncio.timeout(1.0):
                        await self._look_for_lulls()
            await asyncio.sleep(0.1)

    async def _look_for_lulls(self) -> None:
        rows = await self.db.sql(
            "SELECT DISTINCT ON (symbol) symbol, began_at, ended_at FROM feed_outages WHERE channel = 'trades'"
            " ORDER BY symbol, began_at DESC"
        )
        open_ = {lull.symbol: lull for lull in self.lulls if lull.until_ns is None}
        for row in rows:
            lull, began_ns = open_.get(row["symbol"]), to_ns(row["began_at"])
            ended_ns = None if row["ended_at"] is None else to_ns(row["ended_at"])
            if lull is not None and (began_ns, ended_ns) != (lull.began_ns, lull.since_ns):
                lull.until_ns, lull = time.time_ns(), None
            if lull is None and ended_ns is not None:
                self.lulls.append(Lull(row["symbol"], began_ns, ended_ns))

    def _record_own_end(self) -> None:
        """Record the exit status of a collector that ended before it was killed."""
        if self._process is not None and (status := self._process.poll()) is not None:
            self.own_ends.append(status)
            self._process = None

    def _kill_collector(self) -> None:
        self._record_own_end()
        if self._process is not None:
            self._process.kill()
            status, self._process = self._process.wait(), None
            if status == -signal.SIGKILL:
                self.kills += 1
            else:
                self.own_ends.append(status)

    # ── faults ───────────────────────────────────────────────────────────────────────────────────
    async def torment(self, seconds: float) -> None:
        """Once every feed is live, inject faults for so long, in an order that the seed decides."""
        await self._live(time.time_ns())
        faults: dict[str, tuple[float, Callable[[], Awaitable[None]]]] = {
            "freeze": (3, self._freeze),
            "freeze one": (2, self._freeze_one),
            "kill collector": (2, self._kill),
            "kill postgres": (1, self._kill_postgres),
            "throttle": (2, self._throttle),
            "skew": (1, self._skew),
            **{
                kind: (1.5, lambda kind=kind: self._once(kind))
                for kind in ("cut_stream", "server_shutdown", "trade_gap", "duplicate_trades", "reorder_trades")
            },
            "rest": (2, self._rest),
            "half_open": (1, self._half_open),
        }
        end = time.monotonic() + seconds
        bag: list[str] = []
        while time.monotonic() < end:
            if not bag:  # every kind comes, the heavy ones more often
                bag = [kind for kind, (weight, _) in faults.items() for _ in range(max(1, round(weight)))]
                self._dice.shuffle(bag)
            kind = bag.pop()
            self.done.append(Injected(kind, time.time_ns()))
            await faults[kind][1]()
            await asyncio.sleep(self._dice.uniform(*self.wire.pause_s))

    async def _freeze(self) -> None:
        self.exchange.fault("freeze_stream", seconds=FROZEN_S)
        await asyncio.sleep(FROZEN_S)

    async def _freeze_one(self) -> None:
        self.exchange.fault(
            "freeze_stream",
            symbol=listed(self._dice.choice(self.wire.symbols)),
            event=self.wire.trades,
            seconds=FROZEN_S,
        )

    async def _kill(self) -> None:
        self._kill_collector()

    async def _kill_postgres(self) -> None:
        self._postgres.kill()
        await asyncio.sleep(self._dice.uniform(0.0, 3.0))
        await asyncio.to_thread(self._postgres.start)

    async def _throttle(self) -> None:
        for path in self.wire.paths:
            self.exchange.fault("429", path=path, count=self._dice.randint(1, 4), seconds=1)
        self.exchange.fault("cut_stream")

    async def _rest(self) -> None:
        kind = self._dice.choice(("http_500", "html_200", "drop", "truncate", "latency", "html_502"))
        self.exchange.fault(kind, path=self._dice.choice(self.wire.paths), count=3, seconds=0.5)
        self.exchange.fault("trade_gap", count=3)

    async def _skew(self) -> None:
        jump = self.exchange.fault("clock_jump", seconds=self._dice.choice((-30, -5, 5, 30)))
        await asyncio.sleep(self._dice.uniform(0.5, 2.0))
        self.exchange.clear(jump)

    async def _half_open(self) -> None:
        self.exchange.fault("half_open", seconds=3)

    async def _once(self, kind: str) -> None:
        self.exchange.fault(kind, count=self._dice.randint(1, 5))

    async def _live(self, since_ns: int) -> None:
        async def is_live() -> bool:
            rows = await self.db.sql("SELECT state, last_message_at FROM feeds WHERE timeframe = 'trades'")
            return len(rows) == len(self.wire.symbols) and all(
                r["state"] == "LIVE" and to_ns(r["last_message_at"]) > since_ns for r in rows
            )

        await until(is_live, deadline_s=40)

    # ── afterwards ───────────────────────────────────────────────────────────────────────────────
    async def settled(self) -> None:
        """End all faults, wait until every feed is live and whole, and end the collector: the stored rows stand
        still."""
        self.exchange.clear()
        await self._live(time.time_ns())
        lacking: list[dict[str, Any]] = []

        async def is_whole() -> bool:
            rows = await self.db.sql(
                "SELECT max(trade_id) - min(trade_id) + 1 - count(*) AS lacks, symbol FROM market_trades GROUP BY "
                "symbol"
            )
            open_ = await self.db.sql("SELECT * FROM feed_outages WHERE ended_at IS NULL")
            lacking[:] = [*(dict(row) for row in (*rows, *open_) if row.get("lacks") != 0)]
            return not lacking

        try:
            await until(is_whole, deadline_s=40)
        except AssertionError:
            raise AssertionError(f"not whole: {lacking}; after {self.done}") from None
        self._is_ending = True
        self._kill_collector()
        await self.db.sql(
            "UPDATE feed_outages SET ended_at = clock_timestamp() WHERE ended_at IS NULL"
        )  # it lasts until now

    async def check(self) -> Exercised:
        """Compare what is stored with the exchange, and each outage and entry with the faults; return the counts."""
        trades = await self.check_trades()
        await check_stored(self.db, self.exchange, symbols=self.wire.symbols)
        outages, (let_in, refused) = await self.check_outages(), await self.check_entries()
        return Exercised(len(self.done), self.kills, trades, outages, let_in, refused, tuple(self.own_ends))

    async def check_trades(self) -> int:
        """Compare every stored public trade with the exchange's own, field by field; return how many.

        Binance's wire is asked, which every local exchange speaks.
        """
        count = 0
        for symbol in self.wire.symbols:
            rows = await self.db.sql("SELECT * FROM market_trades WHERE symbol = $1 ORDER BY trade_id", symbol)
            cursor, theirs = rows[0]["trade_id"], []
            while cursor <= rows[-1]["trade_id"]:
                page = self.exchange.ask("GET", "/api/v3/aggTrades", symbol=listed(symbol), fromId=cursor, limit=1000)
                theirs += page
                cursor = page[-1]["a"] + 1
            wanted = [
                (t["a"], t["T"] * 1_000_000, Decimal(t["p"]), Decimal(t["q"]), t["m"], t["l"] - t["f"] + 1)
                for t in theirs
            ][: len(rows)]
            assert wanted == [
                (r["trade_id"], to_ns(r["time"]), r["price"], r["quantity"], r["is_buyer_maker"], r["count"])
                for r in rows
            ]
            count += len(rows)
        return count

    async def check_outages(self) -> int:
        """Every fault that silenced a feed shows, from where it began to after it was over; return how many rows there
        are.

        A silence shorter than the limit is no outage (C7): where a collector subscribed again in the middle of a stall,
        what is left of it may be one.
        """
        rows = await self.db.sql("SELECT * FROM feed_outages WHERE channel = 'trades' ORDER BY symbol, began_at")
        for symbol in self.wire.symbols:
            spans = merged([(to_ns(r["began_at"]), to_ns(r["ended_at"])) for r in rows if r["symbol"] == symbol])
            for fault in self.done:
                if fault.kind not in ("freeze", "kill collector"):
                    continue
                over_ns = fault.at_ns + (round(FROZEN_S * 1e9) if fault.kind == "freeze" else 0)
                shown_ns = max((s[1] for s in spans if s[0] < fault.at_ns + 1.5e9), default=0)
                assert shown_ns > over_ns - round(await self._unheard_s(fault, symbol, shown_ns) * 1e9), (
                    f"{symbol}: {fault.kind} at {shown(fault.at_ns)} does not show in"
                    " "
                    f"{[(r['cause'], shown(to_ns(r['began_at'])), shown(to_ns(r['ended_at']))) for r in rows if r['symbol'] == symbol]};"
                    f" {self._output_around(fault.at_ns)};"
                    f" faults {[(f.kind, shown(f.at_ns)) for f in self.done]}; collectors since "
                    f"{[shown(at_ns) for at_ns in self.started]}"
                )
        return len(rows)

    def _output_around(self, at_ns: int) -> str:
        """Return what the collectors printed around a moment."""
        self._output.seek(0)
        lines = [line.decode(errors="replace").split(" ", 1) for line in self._output if line[:19].isdigit()]
        return "\n".join(f"{shown(int(at))} {line}" for at, line in lines if abs(int(at) - at_ns) < 8 * 10**9)

    async def _unheard_s(self, stall: Injected, symbol: str, live_ns: int) -> float:
        """Return for how long at the end of a stall a feed may rightly be called live.

        One that was subscribed again and filled from REST in the middle of it is whole from then (`live_ns`) until the
        exchange's next trade: REST says so when it is asked. From there its limit counts, and silence is looked at
        every TICK_S.
        """
        if stall.kind != "freeze":
            return 0.0
        before = stall.at_ns - round(4e9)  # a collector that starts takes seconds to subscribe
        is_reconnected = any(
            f.kind in RECONNECTS and before < f.at_ns < stall.at_ns + round(FROZEN_S * 1e9) for f in self.done
        )
        if not is_reconnected:
            return 1.0
        whole_s = (await self._missed_ns(symbol, live_ns) - live_ns) / 1e9
        return whole_s + float(DATA["stale_max_s"]) + TICK_S + ANSWER_S

    async def _missed_ns(self, symbol: str, since_ns: int) -> int:
        """Return from when a feed without messages since a moment misses something: the exchange's next trade, at
        most a second later."""
        rows = await self.db.sql(
            "SELECT min(time) AS next FROM market_trades WHERE symbol = $1 AND time > to_timestamp($2::float8)",
            symbol,
            since_ns / 1e9,
        )
        return since_ns if rows[0]["next"] is None else min(to_ns(rows[0]["next"]), since_ns + 10**9)

    async def check_entries(self) -> tuple[int, int]:
        """No entry was let in while its feed was not live; return how often one was, and how often not.

        An outage begins with the last message, and shows once the feed's limit is over and its row is written; the
        limit counts from the first trade that was missed, for until then REST says truthfully that there is none. Where
        a collector subscribed again in the middle of it and filled the gap from REST, that counts from there once more.
        """
        rows = await self.db.sql("SELECT * FROM feed_outages WHERE channel = 'trades'")
        unseen_ns = round((float(DATA["stale_max_s"]) + SEEN_S) * 1e9)
        spans = {
            symbol: [
                (await self._missed_ns(symbol, to_ns(r["began_at"])) + unseen_ns, to_ns(r["ended_at"]))
                for r in rows
                if r["symbol"] == symbol
            ]
            for symbol in self.wire.symbols
        }
        whole = [
            (lull.symbol, lull.since_ns, await self._missed_ns(lull.symbol, lull.since_ns) + unseen_ns)
            for lull in self.lulls
        ]
        wrong = [
            a
            for a in self.asked
            if a.is_let_in
            and any(since < a.at_ns < until for since, until in spans[a.symbol])
            and not any(symbol == a.symbol and since < a.at_ns < until for symbol, since, until in whole)
        ]
        assert not wrong, self._around_entries(wrong[:10], [dict(row) for row in rows])
        let_in = sum(asked.is_let_in for asked in self.asked)
        return let_in, len(self.asked) - let_in

    def _around_entries(self, wrong: list[Asked], rows: list[dict[str, Any]]) -> str:
        """Return each wrong entry with what happened around it."""
        lines = []
        for asked in wrong:
            near = (asked.at_ns - 10 * 10**9, asked.at_ns + 5 * 10**9)
            spans = [
                (row["cause"], shown(to_ns(row["began_at"])), shown(to_ns(row["ended_at"])))
                for row in rows
                if row["symbol"] == asked.symbol
                and to_ns(row["began_at"]) < near[1]
                and to_ns(row["ended_at"]) > near[0]
            ]
            faults = [(f.kind, shown(f.at_ns)) for f in self.done if near[0] < f.at_ns < near[1]]
            lulls = [
                (shown(x.since_ns), x.until_ns and shown(x.until_ns))
                for x in self.lulls
                if x.symbol == asked.symbol and near[0] < x.since_ns < near[1]
            ]
            started = [shown(at_ns) for at_ns in self.started if near[0] < at_ns < near[1]]
            lines.append(
                f"{asked.symbol} at {shown(asked.at_ns)}: outages {spans}, faults {faults}, collectors {started}, over "
                f"{lulls}"
            )
        return "\n".join(lines)


def listed(symbol: str) -> str:
    """Return the local exchange's own name of a symbol."""
    return symbol.replace("/", "")


def shown(at_ns: int) -> str:
    """Return a moment as seconds of its hour."""
    return f"{at_ns / 1e9 % 3600:.2f}"


def merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return spans in order, those with less than a second between them as one: a feed filled by REST in a stall is
    live."""
    found: list[tuple[int, int]] = []
    for began, ended in spans:
        assert began <= ended
        if found and began <= found[-1][1] + 10**9:
            found[-1] = (found[-1][0], max(ended, found[-1][1]))
        else:
            found.append((began, ended))
    return found
