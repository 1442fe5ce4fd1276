"""Counters of connections reach the meter once; a peer that invents names adds no metric series without end."""

from __future__ import annotations

from fks.market.collector.connections import KINDS_MAX, CounterMetrics
from fks.model.market import Channel, ConnectionCounters
from tests.support.ports import RecordingMeter


def test_each_increase_is_exported_once() -> None:
    counters, meter = ConnectionCounters(), RecordingMeter()
    metrics = CounterMetrics(counters, meter)
    metrics.export()
    assert meter.values == {}
    counters.overflowed[Channel.TRADES] += 7
    counters.conflated[Channel.QUOTES] += 3
    counters.unknown["binance.trade.X"] += 1
    metrics.export()
    metrics.export()
    counters.overflowed[Channel.TRADES] += 2
    metrics.export()
    assert meter.total("fks_market_dropped_total", channel="trades") == 9
    assert meter.total("fks_market_conflated_total", channel="quotes") == 3
    assert meter.total("fks_market_unknown_total", kind="binance.trade.X") == 1


def test_names_beyond_the_maximum_share_one_series() -> None:
    counters, meter = ConnectionCounters(), RecordingMeter()
    metrics = CounterMetrics(counters, meter)
    for number in range(KINDS_MAX + 20):
        counters.unknown[f"field {number}"] += 1
    for _ in range(2):
        metrics.export()
        for name in counters.unknown:
            counters.unknown[name] += 1
    kinds = {dict(labels)["kind"] for _, labels in meter.values}
    assert len(kinds) == KINDS_MAX + 1
    assert meter.total("fks_market_unknown_total") == 2 * (KINDS_MAX + 20)
