"""Outages of one symbol: one at a time for each channel, written in order, whatever the store takes."""

from __future__ import annotations

from fks.market.feed.queues import Outages
from fks.model.feed import TRADES, ChannelOutage

US = 1_000


def test_an_open_outage_goes_on() -> None:
    outages = Outages("BTCUSDT")
    outages.begin("disconnected", 5 * US)
    outages.begin("silent", 9 * US)
    assert outages.open == (ChannelOutage("BTCUSDT", TRADES, 5 * US, "disconnected"),)
    assert len(outages.take()) == 1


def test_an_outage_never_ends_before_it_began() -> None:
    outages = Outages("BTCUSDT")
    outages.begin("gap", 5 * US)
    outages.end(3 * US)
    assert outages.open == ()
    assert [outage.ended_ns for outage in outages.take()] == [None, 5 * US]
    outages.end(9 * US)
    assert outages.take() == []


def test_outages_that_the_store_did_not_take_keep_their_order() -> None:
    outages = Outages("BTCUSDT")
    outages.begin("gap", 1 * US)
    outages.end(2 * US)
    taken = outages.take()
    outages.begin("silent", 3 * US, "quotes")
    outages.put_back(taken)
    found = outages.take()
    assert [(outage.began_ns, outage.ended_ns) for outage in found] == [
        (1 * US, None),
        (1 * US, 2 * US),
        (3 * US, None),
    ]


def test_a_symbol_that_is_not_collected_has_no_outage() -> None:
    outages = Outages("BTCUSDT")
    outages.begin("gap", 1 * US)
    outages.begin("silent", 2 * US, "quotes")
    outages.end_all(4 * US)
    assert outages.open == ()
    assert [outage.ended_ns for outage in outages.take()] == [None, None, 4 * US, 4 * US]
