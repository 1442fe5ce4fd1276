"""Backfill: however often and wherever a feed is interrupted, the store holds one complete series of bars."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.config.settings import Data
from fks.market.bars.aggregate import by_length
from fks.market.collector import gap_filler as module
from fks.market.collector.gap_filler import Backfill
from fks.market.exchanges.polygon.exchange import PolygonExchange
from fks.market.feed import machine as m
from fks.market.feed.feed import SymbolFeed
from fks.market.feed.machine import FeedState, Gap, Recovery
from fks.model.bar import Bar, PublicTrade
from fks.model.errors import OutageError, PeerError
from fks.model.feed import SealedPosition
from fks.model.market import TradeIds, TradesFrom
from fks.model.timeframe import NS, TIMEFRAMES, bar_end, bar_start
from tests.support.feeds import claimed, made_live, recovered, sealed_through
from tests.support.paper_market import ForgetfulMarket, PaperMarket

START = 1_709_251_140 * NS  # 2024-02-29 23:59:00


def market(steps: list[tuple[int, int, int]]) -> PaperMarket:
    now, trades = START, []
    for number, (step, price, lots) in enumerate(steps):
        now += step
        trades.append(
            PublicTrade(
                "binance", "BTCUSDT", 500 + number, now, Decimal(price).scaleb(-2), Decimal(lots).scaleb(-5), False
            )
        )
    return PaperMarket(trades)


markets = st.lists(
    st.tuples(
        st.sampled_from([0, 1_000_000, 300_000_000, NS, 3 * NS, 31 * NS, 61 * NS]),
        st.integers(1, 10**7),
        st.integers(1, 10**6),
    ),
    min_size=15,
    max_size=50,
).map(market)
FRAMES = [
    ("1s", "5s", "1m"),
    ("1s", "5s", "15s", "1m", "5m", "1h", "1d", "1w", "1M"),
    ("1m", "5m"),
    ("5s", "1m"),
    ("15s",),
]


def adopt(feed: SymbolFeed, made: Recovery, now_ns: int) -> Gap | None:
    return recovered(feed, made, now_ns, 1.0)


@given(
    markets,
    st.sampled_from(FRAMES),
    st.lists(st.tuples(st.integers(1, 20), st.integers(0, 5), st.booleans()), min_size=2, max_size=5),
)
def test_store_holds_every_bar_once_wherever_it_is_interrupted(
    venue: PaperMarket, frames: tuple[str, ...], stops: list[tuple[int, int, bool]]
) -> None:
    """Each stop: how far the market goes on (in twentieths), how many sealed bars a crash loses, whether the hole
    counts as large."""
    stored: dict[str, list[Bar]] = {frame: [] for frame in frames}
    positions: dict[str, SealedPosition] = {}
    whole = Backfill(venue, frames, 3)
    for share, lost, by_bars in stops:
        venue.now_ns = max(venue.now_ns, START + share * (venue.trades[-1].time_ns - START) // 20)
        feed = claimed("BTCUSDT", dict(positions), now_ns=venue.now_ns)
        made = asyncio.run(whole.recover("BTCUSDT", positions, by_bars=by_bars))
        assert adopt(feed, made, venue.now_ns) is None
        made_live(feed, venue.now_ns, 1.0)
        live = [trade for trade in venue.trades if venue.now_ns < trade.time_ns <= venue.now_ns + 20 * NS]
        if live:
            venue.now_ns = live[-1].time_ns
            feed.handle(m.Received(venue.now_ns, 1.0, list(live)))
            assert feed.state is FeedState.LIVE
        kept = list(feed.unstored.sealed)[: len(feed.unstored.sealed) - lost] if lost else list(feed.unstored.sealed)
        for item in kept:
            stored[item.bar.timeframe].append(item.bar)
            positions[item.bar.timeframe] = SealedPosition(item.bar.time_ns, item.last_trade_id)
    for frame, bars in stored.items():
        known = {bar.time_ns: bar for bar in venue.bars(frame)}
        for before, bar in itertools.pairwise(bars):
            assert bar.time_ns == bar_end(before.time_ns, frame), "a bar is missing or twice"
        first_ns = bar_start(venue.trades[0].time_ns, frame)
        assert [bar for bar in bars if bar.time_ns > first_ns] == [
            known[bar.time_ns] for bar in bars if bar.time_ns > first_ns
        ]


@given(
    markets,
    st.sampled_from([("1m", "5m"), ("1s", "1m", "5m"), ("5s", "1m", "1h")]),
    st.sampled_from(list(TradeIds)),
    st.lists(st.tuples(st.integers(1, 20), st.integers(0, 5), st.booleans()), min_size=2, max_size=5),
)
def test_bars_are_the_same_where_trades_are_fetched_by_time(
    paper: PaperMarket, frames: tuple[str, ...], ids: TradeIds, stops: list[tuple[int, int, bool]]
) -> None:
    """The exchange has no seconds: those are made of trades or missing, never wrong; everything from minutes on is
    whole."""
    venue = ForgetfulMarket(paper.trades, ids, TradesFrom.TIME)
    stored: dict[str, list[Bar]] = {frame: [] for frame in frames}
    positions: dict[str, SealedPosition] = {}
    whole = Backfill(venue, frames, 3)
    for share, lost, by_bars in stops:
        venue.now_ns = max(venue.now_ns, START + share * (venue.trades[-1].time_ns - START) // 20)
        feed = claimed("BTCUSDT", dict(positions), ids=ids, now_ns=venue.now_ns)
        made = asyncio.run(whole.recover("BTCUSDT", positions, by_bars=by_bars))
        assert adopt(feed, made, venue.now_ns) is None
        made_live(feed, venue.now_ns, 1.0)
        live = [trade for trade in venue.trades if venue.now_ns - 20 * NS < trade.time_ns <= venue.now_ns + 20 * NS]
        if live:  # what REST had already comes again over the socket
            venue.now_ns = max(venue.now_ns, live[-1].time_ns)
            since = [trade for trade in live if trade.time_ns >= made.start.start_ns]
            feed.handle(m.Received(venue.now_ns, 1.0, [*since]))
            assert feed.state is FeedState.LIVE
        for item in (
            list(feed.unstored.sealed)[: len(feed.unstored.sealed) - lost] if lost else list(feed.unstored.sealed)
        ):
            stored[item.bar.timeframe].append(item.bar)
            positions[item.bar.timeframe] = SealedPosition(item.bar.time_ns, item.last_trade_id)
    for frame, bars in stored.items():
        known = {bar.time_ns: bar for bar in paper.bars(frame)}
        for before, bar in itertools.pairwise(bars):
            assert bar.time_ns > before.time_ns
            assert bar.time_ns == bar_end(before.time_ns, frame) or frame in ("1s", "5s"), "a bar is missing or twice"
        first_ns = bar_start(venue.trades[0].time_ns, frame)
        assert [bar for bar in bars if bar.time_ns > first_ns] == [
            known[bar.time_ns] for bar in bars if bar.time_ns > first_ns
        ]


async def test_newest_trades_are_enough_while_they_reach_back() -> None:
    paper = market([(NS, 100 + n, 1) for n in range(90)])
    venue = ForgetfulMarket(paper.trades, TradeIds.OPAQUE, TradesFrom.NEWEST)
    venue.now_ns = venue.trades[-1].time_ns
    back = Backfill(venue, ("1m",), 1)
    last = venue.trades[70]
    after = await back.trades_after("BTCUSDT", last.trade_id, last.time_ns)
    assert venue.trades[71:] == [trade for trade in after if trade.time_ns > last.time_ns]
    begun = await back.recover("BTCUSDT", {})
    assert [trade.time_ns for trade in begun.trades] == [
        t.time_ns for t in venue.trades if t.time_ns >= begun.start.start_ns
    ]


async def test_newest_trades_that_do_not_reach_back_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 5)
    paper = market([(NS, 100 + n, 1) for n in range(90)])
    venue = ForgetfulMarket(paper.trades, TradeIds.RISING, TradesFrom.NEWEST)
    venue.now_ns = venue.trades[-1].time_ns
    back = Backfill(venue, ("1m",), 1)
    with pytest.raises(PeerError, match="do not reach back"):
        await back.trades_after("BTCUSDT", venue.trades[3].trade_id, venue.trades[3].time_ns)
    with pytest.raises(OutageError, match="present bar"):
        await back.recover("BTCUSDT", {})


class SixtyNewest(ForgetfulMarket):
    """As Bybit: opaque ids, and only the newest sixty trades, however many are requested."""

    def __init__(self, trades: list[PublicTrade]) -> None:
        super().__init__(trades, TradeIds.OPAQUE, TradesFrom.NEWEST)
        self.capabilities = replace(self.capabilities, newest_max=60)

    async def fetch_trades(
        self, symbol: str, *, from_id: int | None, since_ns: int | None, limit: int
    ) -> list[PublicTrade]:
        return await super().fetch_trades(
            symbol, from_id=from_id, since_ns=since_ns, limit=min(limit, self.capabilities.newest_max)
        )

    def at(self, minute: int, second: float) -> int:
        """Let the present be so far after midnight."""
        self.now_ns = START + 60 * NS + minute * 60 * NS + int(second * NS)
        return self.now_ns


def busy(per_minute: int = 600) -> SixtyNewest:
    """Return a market of as many trades a minute, from a minute before midnight to five after it."""
    step = 60 * NS // per_minute
    return SixtyNewest(market([(step, 100 + n % 7, 1 + n % 5) for n in range(6 * per_minute)]).trades)


async def test_first_minute_that_trades_do_not_cover_is_the_exchanges_bar() -> None:
    venue = busy()
    back = Backfill(venue, ("1m", "5m"), 2)
    venue.at(0, 30)  # three hundred trades in this minute, of which sixty are shown
    with pytest.raises(OutageError, match="present bar"):
        await back.recover("BTCUSDT", {})
    venue.at(1, 5)  # the next look: that minute is over, and of this one all is shown
    feed = claimed("BTCUSDT", {}, ids=venue.capabilities.trade_ids, now_ns=venue.now_ns)
    made = await back.recover("BTCUSDT", {})
    assert adopt(feed, made, venue.now_ns) is None
    made_live(feed, venue.now_ns, 1.0)
    rest = [trade for trade in venue.trades if venue.now_ns < trade.time_ns]
    sealed_through(feed, venue.at(5, 0), rest)
    for frame in ("1m", "5m"):
        known = {bar.time_ns: bar for bar in venue.bars(frame)}
        sealed = [item.bar for item in feed.unstored.sealed if item.bar.timeframe == frame]
        assert sealed == [known[bar.time_ns] for bar in sealed], "a bar is short"
        assert START + 60 * NS in [bar.time_ns for bar in sealed], "the minute of the start is missing"
        assert all(later.time_ns == bar_end(bar.time_ns, frame) for bar, later in itertools.pairwise(sealed))


async def test_overlapping_answers_reach_beyond_the_newest_sixty_trades() -> None:
    venue = busy()
    back = Backfill(venue, ("1m", "5m"), 2)
    venue.at(0, 30)
    for _ in range(6):  # every five seconds, of which sixty trades show six
        with pytest.raises(OutageError, match="present bar"):
            await back.recover("BTCUSDT", {})
        venue.now_ns += 5 * NS
    for second in (4.5, 9, 14, 19):
        venue.at(1, second)
        made = await back.recover("BTCUSDT", {})
        assert made.start.start_ns == START + 2 * 60 * NS
        assert made.trades == [t for t in venue.trades if made.start.start_ns <= t.time_ns <= venue.now_ns]
    venue.at(1, 26)  # seven seconds later: the trades between are not known
    with pytest.raises(OutageError, match="present bar"):
        await back.recover("BTCUSDT", {})


async def test_burst_before_a_silence_is_the_exchanges_bar_once_it_is_over() -> None:
    venue = SixtyNewest(market([(NS // 10, 100 + n % 7, 1) for n in range(300)]).trades)  # all in one minute, then none
    back = Backfill(venue, ("1m",), 1)
    venue.at(-1, 31)
    with pytest.raises(OutageError, match="present bar"):
        await back.recover("BTCUSDT", {})
    venue.at(2, 0)
    made = await back.recover("BTCUSDT", {})
    assert (made.start.start_ns, made.trades) == (START + 60 * NS, [])
    assert [item.bar for item in made.sealed] == [bar for bar in venue.bars("1m") if bar.time_ns == START]


async def test_fewer_trades_than_the_maximum_are_all_there_are() -> None:
    venue = SixtyNewest(market([(NS // 10, 100, 1) for _ in range(59)]).trades)  # listed within this minute
    venue.now_ns = venue.trades[-1].time_ns
    made = await Backfill(venue, ("1m",), 1).recover("BTCUSDT", {})
    assert (made.start.start_ns, made.trades) == (START, venue.trades)


@pytest.mark.parametrize("frames", [("1m",), ("1s", "1m")], ids="-".join)
async def test_gap_beyond_the_newest_trades_is_filled_with_bars(
    frames: tuple[str, ...],
) -> None:
    venue = busy(per_minute=70)
    for number in range(290, 350):  # whatever the ids happen to be: they are opaque
        last = venue.trades[number]
        venue.now_ns = venue.trades[number + 59].time_ns
        back = Backfill(venue, frames, 1)
        assert await back.trades_after("BTCUSDT", last.trade_id, last.time_ns) == venue.trades[number : number + 60]
        venue.now_ns = venue.trades[number + 60].time_ns
        with pytest.raises(PeerError, match="do not reach back"):
            await Backfill(venue, frames, 1).trades_after("BTCUSDT", last.trade_id, last.time_ns)
    venue.at(3, 20)
    back = Backfill(venue, frames, 1)
    sealed_ns = START + 60 * NS
    base_ns = bar_end(sealed_ns, "1m") - (NS if frames[0] == "1s" else 60 * NS)
    positions = {frame: SealedPosition(sealed_ns, 1) for frame in frames} | {frames[0]: SealedPosition(base_ns, 1)}
    made = await back.recover("BTCUSDT", positions)
    assert made.start.start_ns == START + 4 * 60 * NS
    bars = [item.bar for item in made.sealed if item.bar.timeframe == "1m"]
    assert bars == [bar for bar in venue.bars("1m") if sealed_ns < bar.time_ns < made.start.start_ns]
    assert len(bars) == 2


async def test_more_trades_of_one_time_than_a_page_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 5)
    paper = market([(0, 100 + n, 1) for n in range(15)])
    venue = ForgetfulMarket(paper.trades, TradeIds.OPAQUE, TradesFrom.TIME)
    venue.now_ns = venue.trades[-1].time_ns
    with pytest.raises(PeerError, match="no way past"):
        await Backfill(venue, ("1m",), 1).trades_after("BTCUSDT", 0, START)


def quiet_market() -> PaperMarket:
    venue = market([(NS, 100, 1), (NS, 101, 1), (NS, 102, 1)])
    venue.now_ns = venue.trades[-1].time_ns
    return venue


async def test_market_older_than_the_store_is_refused_with_a_remedy() -> None:
    venue = quiet_market()
    positions = {"1s": SealedPosition(bar_start(venue.now_ns, "1s") + 3600 * NS, 9_000)}
    with pytest.raises(PeerError, match="another FKS_HOME"):
        await Backfill(venue, ("1s",), 5).recover("BTCUSDT", positions)


async def test_sealed_silence_is_not_taken_for_another_market() -> None:
    venue = quiet_market()
    sealed_ns = bar_start(venue.now_ns, "1s") + 30 * NS
    for by_bars in (False, True):
        made = await Backfill(venue, ("1s",), 5).recover(
            "BTCUSDT", {"1s": SealedPosition(sealed_ns, 502)}, by_bars=by_bars
        )
        assert (made.start.start_ns, made.last_id, made.trades) == (sealed_ns + NS, 502, [])


async def test_market_without_trades_begins_with_its_bars() -> None:
    venue = quiet_market()
    venue.trades = []
    venue.now_ns += 600 * NS
    made = await Backfill(venue, ("1m",), 5).recover("BTCUSDT", {})
    assert made.last_id is None
    empty = quiet_market()
    empty.trades, empty.now_ns = [], 0
    with pytest.raises(OutageError, match="neither trades nor bars"):
        await Backfill(empty, ("1m",), 5).recover("BTCUSDT", {})


async def test_gap_older_than_the_pages_reach_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BARS_MAX", 10)
    venue = quiet_market()
    last_ns = bar_start(venue.now_ns, "1s")
    made = await Backfill(venue, ("1s",), 5).recover(
        "BTCUSDT", {"1s": SealedPosition(last_ns - 40 * NS, 1)}, by_bars=True
    )
    assert made.missing == {"1s": 30}


async def test_page_size_is_that_of_the_exchange() -> None:
    """The first start of one stock: 148 questions of a thousand minutes were most of an hour at five a minute."""
    now_ns = START + 400 * 86400 * NS
    asked: list[tuple[str, int]] = []

    class Stocks(PaperMarket):
        capabilities = PolygonExchange.capabilities

        async def fetch_bars(
            self, symbol: str, timeframe: str, since_ns: int | None, limit: int, *, until_ns: int | None = None
        ) -> list[Bar]:
            asked.append((timeframe, limit))
            assert since_ns is not None
            length_ns = TIMEFRAMES[timeframe] * NS
            first_ns, end_ns = -(-since_ns // length_ns) * length_ns, min(now_ns, until_ns or now_ns)
            times = range(first_ns, end_ns - length_ns + 1, length_ns)[:limit]
            return [Bar("polygon", symbol, timeframe, time_ns, 1.0, 1.0, 1.0, 1.0, 1.0, 1) for time_ns in times]

    trade = PublicTrade("polygon", "AAPL", 10**12, now_ns - NS, Decimal(1), Decimal(1), False)
    made = await Backfill(Stocks([trade]), Data().timeframes, 500).recover("AAPL", {})
    assert {limit for _, limit in asked} == {50_000}
    assert len(asked) <= 20
    assert made.sealed


async def test_native_timeframes_are_the_largest_that_fit() -> None:
    whole = Backfill(quiet_market(), ("1s",), 5)
    assert [whole.native(frame) for frame in by_length(("5s", "15s", "1m", "1M"))] == ["1s", "1s", "1m", "1M"]


async def test_trades_that_the_exchange_no_longer_has_are_a_peer_error() -> None:
    venue = quiet_market()
    venue.trades = venue.trades[1:]
    with pytest.raises(PeerError, match="asked for trades from 500, got 501"):
        await Backfill(venue, ("1s",), 5).trades_from("BTCUSDT", 500)
