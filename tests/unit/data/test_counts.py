"""What connections count reaches the meter once, and a peer that invents names fills no monitor."""

from __future__ import annotations

from fks.collector.counters import KINDS_MAX, Counts
from fks.model.market import Channel, ConnectionCounters
from tests.support.ports import RecordingMeter


def test_each_difference_is_told_once() -> None:
    counters, meter = ConnectionCounters(), RecordingMeter()
    counts = Counts(counters, meter)
    counts.tell()
    assert meter.values == {}
    counters.overflowed[Channel.TRADES] += 7
    counters.conflated[Channel.QUOTES] += 3
    counters.unknown["binance.trade.X"] += 1
    counts.tell()
    counts.tell()
    counters.overflowed[Channel.TRADES] += 2
    counts.tell()
    assert meter.total("fks_market_dropped_total", channel="trades") == 9
    assert meter.total("fks_market_conflated_total", channel="quotes") == 3
    assert meter.total("fks_market_unknown_total", kind="binance.trade.X") == 1


def test_a_peer_that_invents_names_gets_one_series_for_the_rest() -> None:
    counters, meter = ConnectionCounters(), RecordingMeter()
    counts = Counts(counters, meter)
    for number in range(KINDS_MAX + 20):
        counters.unknown[f"field {number}"] += 1
    for _ in range(2):
        counts.tell()
        for name in counters.unknown:
            counters.unknown[name] += 1
    kinds = {dict(labels)["kind"] for _, labels in meter.values}
    assert len(kinds) == KINDS_MAX + 1
    assert meter.total("fks_market_unknown_total") == 2 * (KINDS_MAX + 20)
