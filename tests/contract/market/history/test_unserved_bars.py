"""Bars that an exchange no longer serves: built from its trades or from smaller bars, or known to be unavailable."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fks.clock import FakeClock
from fks.market.history.gaps import DAY_NS, Gaps
from fks.market.history.quality import QualityReport
from fks.market.history.sync import Sync
from fks.model.bar import Bar
from fks.model.market import TradesFrom
from fks.model.timeframe import NS, bar_start
from fks.store.bars import BarStore
from fks.store.db import Database
from fks.store.gaps import GapStore, TimeRange
from tests.support.history_exchange import HistoryExchange
from tests.support.ports import CollectingLog
from tests.support.traded_exchange import TradedExchange, trades_between, with_silence

HOUR = 3600 * NS
SYMBOL = "BTC/USD"


@pytest.fixture
def traded(clock: FakeClock) -> TradedExchange:
    """A market that was listed five days ago, with 14 hours of silence in it, and 720 bars to be had."""
    now = clock.now_ns()
    listed = bar_start(now, "1d") - 5 * DAY_NS + 7 * HOUR + 11
    trades = trades_between(listed, now, seed=7, per_hour=120)
    return TradedExchange(clock, trades=with_silence(trades, bar_start(now, "1d") - 3 * DAY_NS, 14))


async def stored(database: Database, timeframe: str) -> list[Bar]:
    bars = await BarStore(database).read(SYMBOL, timeframe, exchange="kraken")
    return [bars.bar(row, "kraken") for row in range(len(bars))]


def values(bars: list[Bar]) -> list[tuple[object, ...]]:
    return [(bar.time_ns, bar.open, bar.high, bar.low, bar.close, bar.volume) for bar in bars]


async def test_bars_beyond_the_newest_are_built_from_trades(
    database: Database, traded: TradedExchange, clock: FakeClock, log: CollectingLog
) -> None:
    done = await Sync(traded, database, clock, log).sync(SYMBOL, "1m", clock.now_ns() - 30 * DAY_NS)
    exact = traded.made("1m")
    assert values(await stored(database, "1m")) == values(exact)
    assert done.candles == len(exact) > 6000
    counts = await database.sql("SELECT source, count(*), sum(trades) FROM ohlcv_data GROUP BY 1 ORDER BY 1")
    assert [row[0] for row in counts] == ["sync", "trades"]
    assert sum(row[2] for row in counts) == sum(bar.trades for bar in exact)
    known = await GapStore(database).known("kraken", SYMBOL, "1m")
    assert [gap.cause for gap in known] == ["unlisted"], "the time before the first trade"
    assert known[0].span.end_ns == exact[0].time_ns
    (series,) = await QualityReport(database, clock, days=30).series()
    quality = await QualityReport(database, clock, days=30).of(series)
    assert (quality.coverage, quality.unavailable, quality.missing) == (1.0, 0, 0)
    assert traded.pages < len(traded.trades) / 1000 + 60


async def test_larger_bars_are_made_of_stored_smaller_ones(
    database: Database, traded: TradedExchange, clock: FakeClock, log: CollectingLog
) -> None:
    sync = Sync(traded, database, clock, log)
    await sync.sync(SYMBOL, "1m", clock.now_ns() - 4 * DAY_NS)
    pages = traded.pages
    traded.newest = 24
    traded.capabilities = replace(traded.capabilities, bars_newest_max=24)
    await sync.sync(SYMBOL, "1h", clock.now_ns() - 4 * DAY_NS)
    assert values(await stored(database, "1h")) == values(traded.made("1h"))[-len(await stored(database, "1h")) :]
    assert len(await stored(database, "1h")) == 96
    assert traded.pages - pages <= 1, "only the time of the first trade was requested"


async def test_bars_that_no_request_gives_lower_the_coverage(
    database: Database, traded: TradedExchange, clock: FakeClock, log: CollectingLog
) -> None:
    traded.capabilities = replace(traded.capabilities, trades_from=TradesFrom.NEWEST)
    start = bar_start(clock.now_ns(), "1d") - 2 * DAY_NS
    sync = Sync(traded, database, clock, log)
    done = await sync.sync(SYMBOL, "1m", start)
    assert done.candles < 720
    (gap,) = await GapStore(database).known("kraken", SYMBOL, "1m")
    assert (gap.cause, gap.span.start_ns) == ("unavailable", start)
    report = QualityReport(database, clock, days=30)
    (series,) = await report.series()
    quality = await report.of(series)
    assert quality.unavailable == 2880 - done.candles == done.absent
    assert quality.coverage == int(10_000 * done.candles / 2880) / 10_000
    assert not quality.is_good
    assert [state for _, state in await report.missing(series)] == ["unavailable"]
    asked = len(traded.asked)
    await sync.sync(SYMBOL, "1m", start)
    assert len(traded.asked) == asked, "not again at once"
    await clock.advance(86400)
    missing = await Gaps(database, clock).missing("kraken", SYMBOL, "1m", start, start + DAY_NS)
    assert [item.span for item in missing] == [TimeRange(start, start + DAY_NS)], "and again after a day"
    traded.capabilities = replace(traded.capabilities, trades_from=TradesFrom.TIME)
    await sync.fill(missing)
    assert (await report.of(series)).unavailable == quality.unavailable - 1440


async def test_old_bars_that_are_served_no_more_are_no_outage(
    database: Database, exchange: HistoryExchange, sync: Sync, clock: FakeClock
) -> None:
    """Its days show that the market traded where it returns no minutes."""
    now = bar_start(clock.now_ns(), "1d")
    exchange.missing = [(0, now - 720 * 60 * NS)]
    await sync.init("BTCUSDT", "1m", days=365)
    assert {gap.cause for gap in await GapStore(database).known("binance", "BTCUSDT", "1m")} >= {"unavailable"}
    report = QualityReport(database, clock, days=30)
    (series,) = await report.series()
    assert (await report.of(series)).coverage < 0.01
