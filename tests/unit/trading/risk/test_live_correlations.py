"""The order manager's correlations: read once an interval, from complete bars, unknown when they are old or missing."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

from fks.config.risk import Risk
from fks.model.bar import Bars
from fks.model.timeframe import NS, TIMEFRAMES
from fks.store.bars import BarStore
from fks.trading.order_manager.correlations import Correlations
from tests.support.strategies import START_NS, bars_of

HOUR = 3600 * NS
LIMITS = Risk(exposure_max_correlated=Decimal(1000), correlation_returns=10)
BTC, ETH, SOL = (("binance", symbol) for symbol in ("BTCUSDT", "ETHUSDT", "SOLUSDT"))
DICE = np.random.default_rng(2)
PATH = 100 * np.exp(np.cumsum(DICE.standard_normal(60) * 0.01))


class Stored(BarStore):
    """Bars in memory, read as the bar store reads them. `reads` are the series asked for."""

    def __init__(self, *bars: Bars) -> None:
        self.bars = {(one.symbol, one.timeframe): one for one in bars}
        self.reads: list[tuple[str, str]] = []

    async def read(
        self,
        symbol: str,
        timeframe: str,
        from_ns: int = 0,
        to_ns: int | None = None,
        limit: int | None = None,
        *,
        exchange: str = "binance",
        is_newest: bool = False,
    ) -> Bars:
        assert to_ns is not None
        self.reads.append((symbol, timeframe))
        found = self.bars.get((symbol, timeframe), bars_of([], symbol=symbol, timeframe=timeframe))
        return found[slice(*np.searchsorted(found.time_ns, (from_ns, to_ns)))]


def hours(symbol: str, path: np.ndarray[tuple[int], np.dtype[np.float64]], timeframe: str = "1h") -> Bars:
    return bars_of(list(path), symbol=symbol, timeframe=timeframe)


async def test_correlations_are_those_of_the_newest_complete_bars() -> None:
    stored = Stored(hours("BTCUSDT", PATH), hours("ETHUSDT", PATH**2), hours("SOLUSDT", 1 / PATH))
    found, now_ns = Correlations(stored), START_NS + 30 * HOUR + 5 * NS
    await found.refresh([BTC, ETH, SOL], LIMITS, now_ns)
    known = found.of(BTC, [ETH, SOL], LIMITS, now_ns)
    assert known == {"ETHUSDT": pytest.approx(1.0), "SOLUSDT": pytest.approx(-1.0)}
    assert found.of(BTC, [("binance", "XRPUSDT")], LIMITS, now_ns) == {"XRPUSDT": None}
    assert found.of(BTC, [ETH], LIMITS, now_ns + 3 * HOUR) == {"ETHUSDT": None}  # they are old
    assert found.of(BTC, [ETH], Risk(), now_ns) == {}


async def test_bars_are_read_once_an_interval_and_again_while_the_newest_is_missing() -> None:
    late = hours("ETHUSDT", PATH)[:30]
    stored = Stored(hours("BTCUSDT", PATH), late)
    found, now_ns = Correlations(stored), START_NS + 31 * HOUR
    for after_s in (0, 5, 10):
        await found.refresh([BTC, ETH], LIMITS, now_ns + after_s * NS)
    assert [name for name, _ in stored.reads].count("BTCUSDT") == 1  # it is current
    assert [name for name, timeframe in stored.reads if timeframe == "1h"].count("ETHUSDT") == 2  # again after 10 s
    stored.bars["ETHUSDT", "1h"] = hours("ETHUSDT", PATH)
    await found.refresh([BTC, ETH], LIMITS, now_ns + 20 * NS)
    count = len(stored.reads)
    await found.refresh([BTC, ETH], LIMITS, now_ns + 60 * NS)
    assert len(stored.reads) == count
    await found.refresh([BTC, ETH], LIMITS, now_ns + HOUR)
    assert len(stored.reads) == count + 2


async def test_minutes_stand_in_for_hours_that_are_not_stored() -> None:
    minutes = np.repeat(PATH[:12], TIMEFRAMES["1h"] // 60)
    stored = Stored(hours("BTCUSDT", PATH), hours("ETHUSDT", minutes, "1m"))
    found, now_ns = Correlations(stored), START_NS + 12 * HOUR
    await found.refresh([BTC, ETH], LIMITS, now_ns)
    assert found.of(ETH, [BTC], LIMITS, now_ns) == {"BTCUSDT": pytest.approx(1.0)}


async def test_nothing_is_read_without_the_limit() -> None:
    stored = Stored(hours("BTCUSDT", PATH))
    await Correlations(stored).refresh([BTC], Risk(), START_NS + 30 * HOUR)
    assert stored.reads == []


async def test_an_ended_series_is_read_a_few_times_then_once_an_interval() -> None:
    stored = Stored(hours("BTCUSDT", PATH), hours("ETHUSDT", PATH)[:30])
    found, start_ns = Correlations(stored), START_NS + 31 * HOUR

    async def reads_of_an_hour(number: int) -> int:
        before = len([name for name, timeframe in stored.reads if (name, timeframe) == ("ETHUSDT", "1h")])
        for after_s in range(0, 3600, 10):
            await found.refresh([BTC, ETH], LIMITS, start_ns + number * HOUR + after_s * NS)
        return len([name for name, timeframe in stored.reads if (name, timeframe) == ("ETHUSDT", "1h")]) - before

    assert await reads_of_an_hour(0) == 12
    assert [await reads_of_an_hour(number) for number in (1, 2, 3)] == [1, 1, 1]
    assert [name for name, _ in stored.reads].count("BTCUSDT") == 4  # once an interval
    stored.bars["ETHUSDT", "1h"] = hours("ETHUSDT", PATH)[:34]  # it goes on, one hour late
    assert await reads_of_an_hour(4) > 1, "its newest bar is waited for again"


async def test_a_series_that_is_new_or_asked_for_in_another_length_is_read_at_once() -> None:
    stored = Stored(hours("BTCUSDT", PATH), hours("ETHUSDT", PATH**2))
    found, now_ns = Correlations(stored), START_NS + 31 * HOUR
    await found.refresh([BTC], LIMITS, now_ns)
    await found.refresh([BTC, ETH], LIMITS, now_ns + 10 * NS)
    assert stored.reads == [("BTCUSDT", "1h"), ("ETHUSDT", "1h")]
    longer = Risk(exposure_max_correlated=Decimal(1000), correlation_returns=12)
    await found.refresh([BTC, ETH], longer, now_ns + 11 * NS)
    assert len(stored.reads) == 4
    assert found.of(BTC, [ETH], longer, now_ns + 11 * NS) == {"ETHUSDT": pytest.approx(1.0)}
