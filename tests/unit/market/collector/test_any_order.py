"""Any order of events gives the same bars: live, repeated, late, lost, filled, corrected, with collectors that die.

The deciding parts are the real ones (SymbolFeed, GapFiller, Backfill, BarBuilder), driven as the collector drives them;
the exchange is a market with drawn trades, the store a dictionary with the rules of `feeds.flush`.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st

from fks.config.settings import Data
from fks.market.collector.gap_filler import GapFiller
from fks.market.feed import machine as m
from fks.market.feed.feed import FeedSpec, SymbolFeed
from fks.market.feed.machine import FeedState
from fks.market.feed.queues import Sealed
from fks.model.bar import Bar, BarClosed, PublicTrade
from fks.model.errors import PeerError
from fks.model.feed import SealedPosition
from fks.model.market import TradeIds, TradesFrom
from fks.model.timeframe import NS, bar_end, bar_start
from tests.support.feeds import sealed_through
from tests.support.paper_market import ForgetfulMarket, PaperMarket
from tests.support.ports import CollectingLog

START = 1_709_251_140 * NS  # 2024-02-29 23:59:00
FRAMES = ("1s", "1m", "5m", "1h")
SYMBOL = "BTCUSDT"
YIELDS = 300  # more than any backfill takes that does not wait for the market


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
    """The rows that outlive a collector: bars by timeframe and time, positions as the newest sealed bar."""

    bars: dict[str, dict[int, Bar]] = field(default_factory=lambda: {frame: {} for frame in FRAMES})
    positions: dict[str, SealedPosition] = field(default_factory=dict)

    async def stored_feeds(self, symbols: list[str]) -> dict[str, Any]:
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
        self._received: list[PublicTrade] = []
        self._at = self._forged = self.refused = 0
        self._begin()

    def _begin(self) -> None:
        clock: Any = Clock(self.market)
        self._forged = 0
        spec = FeedSpec(SYMBOL, 10, 120, FRAMES, ids=self.market.capabilities.trade_ids)
        self.feed = SymbolFeed(spec, clock.monotonic())
        store: Any = self.store
        self.quarantine: Any = SimpleNamespace()
        data = Data(backfill_bars=3, trades_keep_h=1.0)
        self.gap_filler = GapFiller(
            self.market, store, self.quarantine, clock, CollectingLog(), data, handle=self.handle
        )
        self.gap_filler.run(self._group)
        self.handle(self.feed, m.Subscribed(*self.now()))

    def now(self) -> tuple[int, float]:
        return self.market.now_ns, self.market.now_ns / NS

    def handle(self, feed: SymbolFeed, event: m.FeedEvent) -> None:
        for action in feed.handle(event):
            self.refused += len(action.suspects) if isinstance(action, m.Quarantine) else 0
            self.gap_filler.perform(feed, action)

    def tick(self) -> None:
        self.handle(self.feed, m.Ticked(*self.now(), is_measured=False))

    async def rest(self) -> None:
        """Let everything in the background end, as the collector's ticks would; time passes where it waits for the
        present bar."""
        for _ in range(20):
            for _ in range(YIELDS):
                if self.gap_filler.is_idle:
                    break
                await asyncio.sleep(0)
            else:
                self.market.now_ns = bar_end(bar_start(self.market.now_ns, "1m"), "1m")
            self.tick()
            if self.gap_filler.is_idle and not self.feed.late_waiting:
                return
        raise AssertionError("it never comes to rest")

    async def performed(self, action: m.FeedAction) -> None:
        """Perform an action and wait until nothing is being done any more."""
        self.gap_filler.perform(self.feed, action)
        async with asyncio.timeout(2):
            while not self.gap_filler.is_idle:
                await asyncio.sleep(0)

    # ── acts ──────────────────────────────────────────────────────────────────────────
    def go(self, count: int) -> None:
        """The market goes on; its trades are on the wire."""
        new = self.market.trades[self._at : self._at + count]
        self._at += len(new)
        if new:
            self.market.now_ns = max(self.market.now_ns, new[-1].time_ns)
            self.wire += new

    def receive(self, count: int) -> None:
        batch, self.wire = self.wire[:count], self.wire[count:]
        self._received = (self._received + batch)[-8:]
        self._give(list(batch))

    def swap(self, count: int) -> None:
        """The first on the wire comes `count` later."""
        self.wire.insert(count, self.wire.pop(0)) if self.wire else None

    def again(self, count: int) -> None:
        self._give(self._received[-count:])

    def lose(self, count: int) -> None:
        """Some never come. Ids show it, or a Discontinuity does."""
        self._flush_overtaken()
        lost, self.wire = self.wire[:count], self.wire[count:]
        if lost and self.market.capabilities.trade_ids is not TradeIds.CONTIGUOUS:
            self.handle(self.feed, m.Discontinued(*self.now()))

    def cut(self, count: int) -> None:
        """The connection ends with the messages on it, and is made again."""
        self._flush_overtaken()
        self.wire.clear()
        self.handle(self.feed, m.Subscribed(*self.now()))

    def close_bar(self, count: int) -> None:
        """The exchange says that its last minute is over, and how many trades it had; it may be older by the time it
        comes."""
        over_ns = bar_start(self.market.now_ns, "1m")
        if self._at < len(self.market.trades) and self.market.trades[self._at].time_ns < over_ns:
            return
        start_ns = bar_start(over_ns - 1, "1m")
        trades = sum(start_ns <= trade.time_ns < over_ns for trade in self.market.trades)
        self._give([BarClosed("binance", SYMBOL, "1m", start_ns, trades)])

    def lag(self, count: int) -> None:
        """REST lags: it answers that no trade is missing, whatever is on the wire. Where it has only the newest trades,
        those that a connection loses then may never come."""
        if self.market.capabilities.trades_from is TradesFrom.NEWEST:
            return
        check = m.SilenceCheck(0, self.market.now_ns, self.feed.restarts)
        self.handle(self.feed, m.SilenceChecked(*self.now(), check, []))

    def keep(self, count: int) -> None:
        """The store takes what is sealed and corrected."""
        unstored = self.feed.unstored
        self.store.keep([*unstored.sealed, *unstored.revised])
        unstored.sealed.clear()
        unstored.revised.clear()

    def kill(self, count: int) -> None:
        """The collector is gone, with its memory; the next one knows the stored rows."""
        self.gap_filler.cancel(SYMBOL)
        self.wire.clear()
        self._begin()

    def forge_time(self, count: int) -> None:
        """A message has the next trade with a future time; that trade comes as well, or is lost with it."""
        if not self.wire or self._forged >= 2:  # three in a row would be a clock that has moved
            return
        forged = self._forged + 1
        self._give([msgspec.structs.replace(self.wire[0], time_ns=self.market.now_ns + (50 + count) * 60 * NS)])
        self._forged = forged
        if count > 3:
            self.wire.pop(0)

    def forge_id(self, count: int) -> None:
        """A message has a trade with an id that no trade has."""
        if self._received and self.market.capabilities.trade_ids is TradeIds.CONTIGUOUS:
            self._give(
                [msgspec.structs.replace(self._received[-1], trade_id=10**6 + number) for number in range(count)]
            )

    def _flush_overtaken(self) -> None:
        """Without ids that prove a gap, a connection must not lose a trade of before one that it has delivered."""
        newest = max((trade.time_ns for trade in self._received), default=0)
        if self.market.capabilities.trade_ids is not TradeIds.CONTIGUOUS:
            late = [trade for trade in self.wire if trade.time_ns <= newest]
            self.wire = [trade for trade in self.wire if trade.time_ns > newest]
            self._give(late)

    def _give(self, events: list[Any]) -> None:
        if events:
            self._forged = 0
            self.handle(self.feed, m.Received(*self.now(), events))


ACTS = (
    "go",
    "go",
    "receive",
    "receive",
    "receive",
    "swap",
    "again",
    "lose",
    "cut",
    "close_bar",
    "lag",
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


#: kinds of exchanges: their trade ids, where REST begins, and how many trades it has where it has only the newest
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
        for act, count, yields in script:
            getattr(run, act)(count)
            if yields is None:
                await run.rest()
            for _ in range(yields or 0):  # what is done in the background gets so far
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
    [("go", 1, None), ("go", 1, None), ("receive", 1, None), ("swap", 1, None), ("receive", 1, 0)],
)
#: REST knows of no trade where one is on the wire: its second and the no-trade seconds after it are sealed too early
SEALED_TOO_EARLY: tuple[Any, ...] = (
    [(0, 1, 1), (0, 1, 1), (1_000_000, 2, 1), (9 * NS, 1, 1), *[(0, 1, 1)] * 16],
    KINDS[0],
    [("go", 1, None), ("go", 1, None), ("go", 1, 0), ("lag", 1, None), ("go", 1, None)],
)


@example(*CUT_BEFORE_BEGUN)
@example(*SEALED_TOO_EARLY)
@given(steps, st.sampled_from(KINDS), acts)
def test_any_interleaving_gives_the_bars_of_the_exchange(
    drawn: list[tuple[int, int, int]], kind: tuple[TradeIds, TradesFrom, int], script: list[tuple[str, int, int | None]]
) -> None:
    market = market_of(drawn, *kind)
    store = asyncio.run(played(market, script))
    last_ns = market.trades[-1].time_ns
    for frame in FRAMES:
        if frame == "1s" and market.capabilities.trade_ids is not TradeIds.CONTIGUOUS:
            continue  # this exchange has no seconds of its own: late or lost trades have no other source
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


async def test_recheck_of_refused_bars_ends() -> None:
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
        await run.performed(m.RecheckBars())
        assert 1 <= len(asked) <= len(FRAMES)


async def test_suspect_bar_that_cannot_be_confirmed_delays_no_other() -> None:
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
        run.quarantine.add = keep
        steady = [Bar("binance", SYMBOL, "1m", START + n * 60 * NS, 10, 10.01, 9.99, 10, 1) for n in range(40)]
        run.handle(run.feed, m.Stored(*run.now(), [*steady, *bars], None))  # they are far from 10
        assert run.feed.suspect is not None
        await run.performed(m.ConfirmBars())
        assert (len(held), run.feed.suspect) == (len(bars), None)


class LateMarket(PaperMarket):
    """REST shows the trades of the stream only after so many queries."""

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
async def test_late_rest_costs_no_trade(late: int, is_refused: bool) -> None:
    """Trades that were refused because REST was late for too long come back from it."""
    market = LateMarket(market_of([(NS, 100 + n, 1) for n in range(30)], *KINDS[0]).trades)
    async with asyncio.TaskGroup() as group:
        run = Run(market, group)
        run.go(5)
        await run.rest()
        run.receive(5)
        run.go(3)
        market.late = late
        run.lose(1)
        run.receive(2)
        await run.rest()
        assert bool(run.refused) == is_refused
        for _ in range(22):
            run.go(1)
            run.receive(1)
            await run.rest()
        run.keep(0)
    assert run.feed.last_id == market.trades[-1].trade_id
    known = {bar.time_ns: bar for bar in market.bars("1s")}
    assert len(run.store.bars["1s"]) >= 29
    first_ns = bar_start(market.trades[0].time_ns, "1s")
    assert all(bar == known[at_ns] for at_ns, bar in run.store.bars["1s"].items() if at_ns > first_ns)


@pytest.mark.parametrize("yields", [None, 0, 1, 2])
async def test_correction_is_made_at_once_when_the_collector_ends(yields: int | None) -> None:
    """It waits for a tick (None), or was begun and has come so far."""
    market = market_of([(NS, 100 + n, 1) for n in range(10)], *KINDS[0])
    async with asyncio.TaskGroup() as group:
        run = Run(market, group)
        run.go(1)
        await run.rest()
        run.receive(1)
        run.go(4)
        sealed_through(run.feed, run.now()[0], [])  # REST was late
        run.receive(4)
        assert run.feed.late_waiting
        if yields is not None:
            run.tick()
        for _ in range(yields or 0):
            await asyncio.sleep(0)
        run.gap_filler.is_draining = True
        await run.gap_filler.correct_now([run.feed], 1.0)
        assert (run.feed.late_waiting, run.feed.state) == (0, FeedState.LIVE)
        run.keep(0)
    known = {bar.time_ns: bar for bar in market.bars("1s")}
    made = [bar for at_ns, bar in run.store.bars["1s"].items() if at_ns > bar_start(market.trades[0].time_ns, "1s")]
    assert len(made) >= 3
    assert made == [known[bar.time_ns] for bar in made]


@pytest.mark.parametrize(("before", "after", "is_refused"), [(2, 0, True), (2, 2, True), (2, 3, False), (0, 3, False)])
async def test_consecutive_trades_beyond_a_gap_confirm_it_despite_another_gap(
    before: int, after: int, is_refused: bool
) -> None:
    """A socket that is reconnected while REST is late loses more: the trades around that are as true."""
    market = LateMarket(market_of([(NS, 100 + n, 1) for n in range(30)], *KINDS[0]).trades)
    async with asyncio.TaskGroup() as group:
        run = Run(market, group)
        run.go(5)
        await run.rest()
        run.receive(5)
        run.go(before + after + 2)
        market.late = 8
        for count in (before, after):
            run.lose(1)
            run.receive(count)
        await run.rest()
        assert bool(run.refused) == is_refused


async def test_backfill_does_not_start_from_a_newest_trade_of_the_future() -> None:
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
        run.handle(run.feed, m.BarsOutdated(*run.now()))
        await run.rest()
        assert run.feed.builder is not None
        assert run.feed.builder.open_ns <= market.now_ns
        assert run.feed.state is FeedState.LIVE
