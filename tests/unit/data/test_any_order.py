"""Whatever comes in whatever order, live, again, late, lost, filled, corrected, with collectors that die: the same
bars.

The parts that decide are the real ones (SymbolFeed, Holes, Backfill, BarBuilder), driven as the collector drives them;
the exchange is a market whose trades are drawn, the store a dictionary that keeps the rules of `feeds.flush`.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from dataclasses import dataclass, field
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from fks.collector.gap_filler import Holes
from fks.feed.feed import SymbolFeed
from fks.feed.findings import FeedState, Gap, Sealed
from fks.feed.rows import SealedPosition
from fks.model.bar import Bar, BarClosed, PublicTrade
from fks.model.errors import PeerError
from fks.model.market import TradeIds, TradesFrom
from fks.model.timeframe import NS, bar_end, bar_start
from tests.support.paper_market import ForgetfulMarket, PaperMarket
from tests.support.ports import CollectingLog

START = 1_709_251_140 * NS  # 2024-02-29 23:59:00
FRAMES = ("1s", "1m", "5m", "1h")
SYMBOL = "BTCUSDT"
TURNS = 300  # more than any repair takes that does not wait for the market


class Clock:
    """The market's present; a sleep yields and takes no time."""

    def __init__(self, market: PaperMarket) -> None:
        self._market = market

    def now_ns(self) -> int:
        return self._market.now_ns

    def monotonic(self) -> float:
        return self._market.now_ns / NS

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


@dataclass
class Store:
    """What outlives a collector: bars by timeframe and time, positions as the newest sealed bar."""

    bars: dict[str, dict[int, Bar]] = field(default_factory=lambda: {frame: {} for frame in FRAMES})
    positions: dict[str, SealedPosition] = field(default_factory=dict)

    async def heard(self, symbols: list[str]) -> dict[str, Any]:
        return {SYMBOL: SimpleNamespace(state="LIVE", message_ns=None, outages=())} if self.positions else {}

    async def claim(self, symbols: list[str], frames: tuple[str, ...]) -> dict[str, dict[str, SealedPosition]]:
        return {SYMBOL: dict(self.positions)}

    def keep(self, items: list[Sealed]) -> None:
        for item in items:
            frame = item.bar.timeframe
            assert item.source == "revised" or item.bar.time_ns not in self.bars[frame], "handed on twice"
            self.bars[frame][item.bar.time_ns] = item.bar
            if item.source != "revised":
                self.positions[frame] = SealedPosition(item.bar.time_ns, item.last_trade_id)


class Run:
    """One collector after another on one symbol, driven as `Collector` does."""

    def __init__(self, market: PaperMarket, group: asyncio.TaskGroup) -> None:
        self.market, self.store, self._group = market, Store(), group
        self.wire: list[PublicTrade] = []
        self._heard: list[PublicTrade] = []
        self._at = self._forged = 0
        self._begin()

    def _begin(self) -> None:
        clock: Any = Clock(self.market)
        self._forged = 0
        self.feed = SymbolFeed(
            SYMBOL,
            clock.monotonic(),
            stale_min_s=10,
            stale_max_s=120,
            frames=FRAMES,
            ids=self.market.capabilities.trade_ids,
        )
        store: Any = self.store
        quarantine: Any = SimpleNamespace()
        self.holes = Holes(
            self.market,
            store,
            quarantine,
            clock,
            CollectingLog(),
            random.Random(1),
            bars_empty=3,
            trades_keep_h=1.0,
            set_state=lambda feed, state, cause: setattr(feed, "state", state),
            is_subscribed=lambda symbol: True,
            advance=self._advance,
        )
        self.holes.run(self._group)
        self.holes.repair(self.feed, None)

    def _advance(self, feed: SymbolFeed) -> None:
        found = feed.advance(self.market.now_ns, self.market.now_ns / NS)
        if isinstance(found, Gap):
            self.holes.repair(feed, found)
        elif found is not None:
            self.holes.ask(feed, found)

    async def rest(self) -> None:
        """Let everything in the background end, as the collector's ticks would; time passes where it waits for the
        present bar."""
        for _ in range(20):
            for _ in range(TURNS):
                if not self.holes._tasks:
                    break
                await asyncio.sleep(0)
            else:
                self.market.now_ns = bar_end(bar_start(self.market.now_ns, "1m"), "1m")
            if self.feed.late_ns:
                self.holes.revise(self.feed)
            self._advance(self.feed)
            if not self.holes._tasks and not self.feed.late_ns:
                return
        raise AssertionError("it never comes to rest")

    # ── what may happen ──────────────────────────────────────────────────────────────────────────
    def go(self, count: int) -> None:
        """The market goes on; its trades are on the wire."""
        new = self.market.trades[self._at : self._at + count]
        self._at += len(new)
        if new:
            self.market.now_ns = max(self.market.now_ns, new[-1].time_ns)
            self.wire += new

    def hear(self, count: int) -> None:
        batch, self.wire = self.wire[:count], self.wire[count:]
        self._heard = (self._heard + batch)[-8:]
        self._receive(list(batch))

    def swap(self, count: int) -> None:
        """The first on the wire comes `count` later."""
        self.wire.insert(count, self.wire.pop(0)) if self.wire else None

    def again(self, count: int) -> None:
        self._receive(self._heard[-count:])

    def lose(self, count: int) -> None:
        """Some never come. Ids tell, or else the wire does."""
        self._flush_overtaken()
        lost, self.wire = self.wire[:count], self.wire[count:]
        if lost and self.market.capabilities.trade_ids is not TradeIds.CONTIGUOUS:
            self.feed.tear()
            self._missing()

    def cut(self, count: int) -> None:
        """The connection ends with what is on it, and is made again."""
        self._flush_overtaken()
        self.wire.clear()
        self.feed.touch(self.market.now_ns / NS)
        self._missing()

    def word(self, count: int) -> None:
        """The exchange says that its last minute is over, and how many trades it had; it may be older by the time it
        comes."""
        over_ns = bar_start(self.market.now_ns, "1m")
        if self._at < len(self.market.trades) and self.market.trades[self._at].time_ns < over_ns:
            return
        start_ns = bar_start(over_ns - 1, "1m")
        trades = sum(start_ns <= trade.time_ns < over_ns for trade in self.market.trades)
        self._receive([BarClosed("binance", SYMBOL, "1m", start_ns, trades)])

    def keep(self, count: int) -> None:
        """The store takes what is sealed and corrected."""
        self.store.keep([*self.feed.sealed, *self.feed.revised])
        self.feed.sealed.clear()
        self.feed.revised.clear()

    def kill(self, count: int) -> None:
        """The collector is gone, with what it held; the next one knows what is stored."""
        self.holes.cancel(SYMBOL)
        self.wire.clear()
        self._begin()

    def forge_time(self, count: int) -> None:
        """A message tells of the next trade with a time to come; that trade comes as well, or is lost with it."""
        if not self.wire or self._forged >= 2:  # three in a row would be a clock that has moved
            return
        forged = self._forged + 1
        self._receive([msgspec.structs.replace(self.wire[0], time_ns=self.market.now_ns + (50 + count) * 60 * NS)])
        self._forged = forged
        if count > 3:
            self.wire.pop(0)

    def forge_id(self, count: int) -> None:
        """A message tells of a trade with an id that is nobody's."""
        if self._heard and self.market.capabilities.trade_ids is TradeIds.CONTIGUOUS:
            self._receive(
                [msgspec.structs.replace(self._heard[-1], trade_id=10**6 + number) for number in range(count)]
            )

    def _flush_overtaken(self) -> None:
        """Where no id proves a hole, a connection must not lose a trade of before one that it has delivered."""
        newest = max((trade.time_ns for trade in self._heard), default=0)
        if self.market.capabilities.trade_ids is not TradeIds.CONTIGUOUS:
            late = [trade for trade in self.wire if trade.time_ns <= newest]
            self.wire = [trade for trade in self.wire if trade.time_ns > newest]
            self._receive(late)

    def _receive(self, events: list[Any]) -> None:
        if events:
            self._forged = 0
            self.feed.receive(events, self.market.now_ns, self.market.now_ns / NS)
            self._advance(self.feed)

    def _missing(self) -> None:
        feed = self.feed
        self.holes.repair(feed, None if feed.builder is None or feed.last_id is None else Gap(feed.last_id + 1, None))


ACTS = (
    "go",
    "go",
    "hear",
    "hear",
    "hear",
    "swap",
    "again",
    "lose",
    "cut",
    "word",
    "keep",
    "kill",
    "forge_time",
    "forge_id",
)
acts = st.lists(
    st.tuples(st.sampled_from(ACTS), st.integers(1, 6), st.sampled_from([None, 0, 1, 2, 3, 5, 8])),
    min_size=5,
    max_size=40,
)
steps = st.lists(
    st.tuples(
        st.sampled_from([0, 1_000_000, 300_000_000, NS, 9 * NS, 31 * NS, 61 * NS]),
        st.integers(1, 10**6),
        st.integers(1, 10**5),
    ),
    min_size=20,
    max_size=60,
)


#: of what exchanges tell: what ids prove, where REST begins, and how many trades it has where that is the newest alone
KINDS = (
    (TradeIds.CONTIGUOUS, TradesFrom.ID, 0),
    (TradeIds.RISING, TradesFrom.TIME, 0),
    (TradeIds.OPAQUE, TradesFrom.TIME, 0),
    (TradeIds.OPAQUE, TradesFrom.NEWEST, 5),
)


def market_of(drawn: list[tuple[int, int, int]], ids: TradeIds, since: TradesFrom, newest_max: int) -> PaperMarket:
    now, trades = START, []
    for number, (step, price, lots) in enumerate(drawn):
        now += step
        trades.append(
            PublicTrade(
                "binance", SYMBOL, 500 + number, now, Decimal(price).scaleb(-2), Decimal(lots).scaleb(-5), False
            )
        )
    return PaperMarket(trades) if ids is TradeIds.CONTIGUOUS else ForgetfulMarket(trades, ids, since, newest_max)


async def played(market: PaperMarket, script: list[tuple[str, int, int | None]]) -> Store:
    async with asyncio.TaskGroup() as group:
        run = Run(market, group)
        run.go(1)
        await run.rest()
        for act, count, turns in script:
            getattr(run, act)(count)
            if turns is None:
                await run.rest()
            for _ in range(turns or 0):  # what is done in the background gets so far
                await asyncio.sleep(0)
        run.go(len(market.trades))
        run.cut(0)
        await run.rest()
        run.keep(0)
        assert run.feed.state is FeedState.LIVE
    return run.store


#: a connection is made again before the repair of a hole of one trade has begun
CUT_BEFORE_BEGUN: tuple[Any, ...] = (
    [(0, 1, 1), (NS, 1, 1), *[(0, 1, 1)] * 17, (NS, 1, 1)],
    KINDS[0],
    [("go", 1, None), ("go", 1, None), ("hear", 1, None), ("swap", 1, None), ("hear", 1, 0)],
)


@example(*CUT_BEFORE_BEGUN)
@given(steps, st.sampled_from(KINDS), acts)
@settings(max_examples=int(os.environ.get("FKS_EXAMPLES", "200")), deadline=None)
def test_any_interleaving_gives_the_bars_of_the_exchange(
    drawn: list[tuple[int, int, int]], kind: tuple[TradeIds, TradesFrom, int], script: list[tuple[str, int, int | None]]
) -> None:
    market = market_of(drawn, *kind)
    store = asyncio.run(played(market, script))
    last_ns = market.trades[-1].time_ns
    for frame in FRAMES:
        if frame == "1s" and market.capabilities.trade_ids is not TradeIds.CONTIGUOUS:
            continue  # this exchange has no seconds of its own: where trades came late or are gone nobody knows better
        known = {bar.time_ns: bar for bar in market.bars(frame)}
        bars = [bar for _, bar in sorted(store.bars[frame].items())]
        for before, bar in itertools.pairwise(bars):
            assert bar.time_ns == bar_end(before.time_ns, frame), "a bar is missing"
        first_ns = bar_start(market.trades[0].time_ns, frame)
        assert [b for b in bars if b.time_ns > first_ns] == [known[b.time_ns] for b in bars if b.time_ns > first_ns], (
            frame
        )
        if bar_start(last_ns, frame) > bar_end(first_ns, frame):
            assert bars[-1].time_ns >= bar_start(bar_start(last_ns, frame) - 1, frame), "the end is missing"
        event(f"{frame}: {min(len(bars), 5)} bars")


async def test_an_exchange_that_refuses_its_bars_is_not_asked_for_them_for_ever() -> None:
    market = market_of([(NS, 100, 1), (70 * NS, 101, 1), (70 * NS, 102, 1)], *KINDS[1])
    async with asyncio.TaskGroup() as group:
        run = Run(market, group)
        run.go(3)
        await run.rest()
        asked: list[str] = []

        async def refused(symbol: str, timeframe: str, *args: Any, **options: Any) -> list[Bar]:
            asked.append(timeframe)
            raise PeerError("no such bars")

        market.fetch_bars = refused  # type: ignore[method-assign]
        await asyncio.wait_for(run.holes._rechecked(run.feed), 2)
        assert 1 <= len(asked) <= len(FRAMES)


async def test_a_doubt_that_the_exchange_refuses_to_settle_holds_up_no_other() -> None:
    market = market_of([(NS, 100, 1), (70 * NS, 101, 1)], *KINDS[0])
    async with asyncio.TaskGroup() as group:
        run = Run(market, group)
        await run.rest()
        held: list[Any] = []

        async def keep(items: list[Any]) -> None:
            held.extend(items)

        async def refused(symbol: str, timeframe: str, *args: Any, **options: Any) -> list[Bar]:
            raise PeerError("no such bars")

        bars = market.bars("1m")[:2]
        market.fetch_bars = refused  # type: ignore[method-assign]
        run.holes._quarantine = SimpleNamespace(add=keep)  # type: ignore[assignment]
        run.feed.doubted.extend((bar, "far off") for bar in bars)
        await asyncio.wait_for(run.holes._confirmed(run.feed), 2)
        assert (len(held), len(run.feed.doubted)) == (len(bars), 0)


class LateMarket(PaperMarket):
    """REST shows what the socket told only after it was asked for it so many times."""

    late = 0

    async def fetch_trades(
        self, symbol: str, *, from_id: int | None, since_ns: int | None, limit: int
    ) -> list[PublicTrade]:
        found = await super().fetch_trades(symbol, from_id=from_id, since_ns=since_ns, limit=limit)
        if from_id is not None and self.late > 0:
            self.late -= 1
            return []
        return found


@pytest.mark.parametrize(("late", "is_refused"), [(0, False), (3, False), (5, False), (8, True), (40, True)])
async def test_a_rest_that_is_late_costs_no_trade(late: int, is_refused: bool) -> None:
    """What was refused because REST was late for too long comes back from it."""
    market = LateMarket(market_of([(NS, 100 + n, 1) for n in range(30)], *KINDS[0]).trades)
    async with asyncio.TaskGroup() as group:
        run = Run(market, group)
        run.go(5)
        await run.rest()
        run.hear(5)
        run.go(3)
        market.late = late
        run.lose(1)
        run.hear(2)
        await run.rest()
        assert bool(run.feed.present.refused) == is_refused
        for _ in range(22):
            run.go(1)
            run.hear(1)
            await run.rest()
        run.keep(0)
    assert run.feed.last_id == market.trades[-1].trade_id
    known = {bar.time_ns: bar for bar in market.bars("1s")}
    assert len(run.store.bars["1s"]) >= 29
    first_ns = bar_start(market.trades[0].time_ns, "1s")
    assert all(bar == known[at_ns] for at_ns, bar in run.store.bars["1s"].items() if at_ns > first_ns)


@pytest.mark.parametrize(("before", "after", "is_refused"), [(2, 0, True), (2, 2, True), (2, 3, False), (0, 3, False)])
async def test_trades_that_follow_one_another_beyond_a_hole_attest_it_though_another_hole_lies_between(
    before: int, after: int, is_refused: bool
) -> None:
    """A socket that is dialled anew while REST is late loses more: the trades around that are as true."""
    market = LateMarket(market_of([(NS, 100 + n, 1) for n in range(30)], *KINDS[0]).trades)
    async with asyncio.TaskGroup() as group:
        run = Run(market, group)
        run.go(5)
        await run.rest()
        run.hear(5)
        run.go(before + after + 2)
        market.late = 8
        for count in (before, after):
            run.lose(1)
            run.hear(count)
        await run.rest()
        assert bool(run.feed.present.refused) == is_refused


async def test_a_newest_trade_of_a_time_to_come_is_nothing_to_begin_with() -> None:
    market = market_of([(NS, 100 + n, 1) for n in range(10)], *KINDS[0])
    async with asyncio.TaskGroup() as group:
        run = Run(market, group)
        run.go(5)
        await run.rest()
        false = msgspec.structs.replace(market.trades[5], time_ns=market.now_ns + 3000 * NS)
        shown, answers = market.fetch_trades, iter([[false], [false]])

        async def newest(symbol: str, *, from_id: int | None, since_ns: int | None, limit: int) -> list[PublicTrade]:
            found = await shown(symbol, from_id=from_id, since_ns=since_ns, limit=limit)
            return next(answers, found) if from_id is since_ns is None else found

        market.fetch_trades = newest  # type: ignore[method-assign]
        run.holes.repair(run.feed, None, by_bars=True)
        await run.rest()
        assert run.feed.builder is not None
        assert run.feed.builder.open_ns <= market.now_ns
        assert run.feed.state is FeedState.LIVE
