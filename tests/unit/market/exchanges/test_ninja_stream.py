"""Runs of NinjaTrader's trades: ids, lost trades, the state of the price feed, and which history requests are made."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.bridge.ninja import messages as m
from fks.market.exchanges.ninja.exchange import DAY_NS, WINDOWS_MAX, contracts_at, windows
from fks.market.exchanges.ninja.stream import (
    MARGIN_NS,
    SETTLE_NS,
    SILENT_S,
    TRADES_KEPT,
    InstrumentStream,
    history_bar,
    quote_of,
)
from fks.model.bar import PublicTrade
from fks.model.errors import InputError, OutageError, PeerError
from fks.model.futures import check_entry
from fks.model.market import ConnectionCounters, Discontinuity, Quote, Suspect
from fks.model.timeframe import NS

SYMBOL = "ES 03-25"
START_NS = 1_738_594_800 * NS


def trade(n: int, *, at_ns: int = START_NS, price: str = "4500.25", side: str | None = None) -> m.TradeMessage:
    return m.TradeMessage(instrument=SYMBOL, n=n, at_ms=at_ns // 1_000_000, price=Decimal(price), qty=1, side=side)  # type: ignore[arg-type]


def connected() -> InstrumentStream:
    stream = InstrumentStream(SYMBOL, START_NS, 0.0)
    stream.set_status("Connected", START_NS, 0.0)
    return stream


def take(stream: InstrumentStream, numbers: Sequence[int], at_ns: int = START_NS) -> list[PublicTrade]:
    events = [event for n in numbers for event in stream.trade(trade(n, at_ns=at_ns), 1, at_ns, 0.0)]
    return [event for event in events if isinstance(event, PublicTrade)]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=60), st.integers(1, 10**9))
def test_ids_rise_as_the_bridges_count_does(steps: list[int], first: int) -> None:
    numbers = [first]
    for step in steps:
        numbers.append(numbers[-1] + step)
    taken = take(connected(), numbers)
    assert [later.trade_id - taken[0].trade_id for later in taken] == [n - first for n in numbers]


@given(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=10), min_size=2, max_size=6))
def test_every_later_run_has_larger_ids_with_a_gap_between(runs: list[list[int]]) -> None:
    """Also when the bridge's clock stands still or goes back."""
    stream, ids = connected(), []
    for number, steps in enumerate(runs):
        stream.set_status("ConnectionLost", START_NS, 0.0)
        stream.set_status("Connected", START_NS - number * NS, 0.0)
        n, taken = 7, []
        for step in steps:
            n += step
            taken += take(stream, [n])
        ids.append([one.trade_id for one in taken])
    for before, after in itertools.pairwise(ids):
        assert after[0] > before[-1] + 1


@given(st.lists(st.integers(1, 3), min_size=1, max_size=40), st.data())
def test_trades_after_an_id_are_all_there_are_or_refused(steps: list[int], data: st.DataObject) -> None:
    stream, n, taken = connected(), 0, []
    for step in steps:
        n += step
        taken += take(stream, [n])
    ids = [one.trade_id for one in taken]
    wanted = data.draw(st.integers(ids[0] - 2, ids[-1] + 3))
    complete = range(wanted, ids[-1] + 1)
    if wanted <= ids[-1] + 1 and set(complete) <= set(ids):
        assert [one.trade_id for one in stream.after(wanted, 1000)] == list(complete)
        assert [one.trade_id for one in stream.after(wanted, 2)] == list(complete)[:2]
    else:
        with pytest.raises(PeerError):
            stream.after(wanted, 1000)


def test_a_count_that_begins_again_is_another_run() -> None:
    stream = connected()
    before = take(stream, [5, 6])
    after = take(stream, [1, 2], START_NS + NS)
    assert after[0].trade_id > before[-1].trade_id + 1
    assert after[1].trade_id == after[0].trade_id + 1


def test_a_run_forgets_its_oldest_trades() -> None:
    stream = connected()
    taken = take(stream, range(1, TRADES_KEPT + 3))
    assert len(stream.after(taken[2].trade_id, 10**6)) == TRADES_KEPT
    with pytest.raises(PeerError):
        stream.after(taken[1].trade_id, 10)
    later = take(stream, range(TRADES_KEPT + 3, 2 * TRADES_KEPT + 4), START_NS + 60 * NS)
    with pytest.raises(PeerError, match="over"):
        stream.since(later[0].time_ns, later[0].time_ns + 60 * NS, 10)


def test_a_minute_is_whole_when_it_begins_well_after_the_run() -> None:
    stream = connected()
    minute_ns = START_NS + 60 * NS
    taken = take(stream, [1]) + take(stream, [2, 3], minute_ns + NS)
    assert stream.since(minute_ns, minute_ns + SETTLE_NS, 10) == taken[1:]
    assert stream.since(minute_ns, minute_ns + SETTLE_NS, 1) == taken[1:2]
    for since_ns, present_ns in ((START_NS + MARGIN_NS - 1, minute_ns), (minute_ns, minute_ns + SETTLE_NS - 1)):
        with pytest.raises(OutageError):
            stream.since(since_ns, present_ns, 10)


def test_after_a_lost_trade_bars_begin_with_the_next_minute() -> None:
    stream = connected()
    take(stream, [1])
    minute_ns = START_NS + 60 * NS
    take(stream, [3], minute_ns + 10 * NS)
    with pytest.raises(OutageError):
        stream.since(minute_ns, minute_ns + 20 * NS, 10)
    assert stream.since(minute_ns + 60 * NS, minute_ns + 70 * NS, 10) == []


def test_a_quiet_market_answers_and_a_silent_or_lost_feed_does_not() -> None:
    stream = InstrumentStream(SYMBOL, START_NS, 0.0)
    with pytest.raises(OutageError, match="not known"):
        stream.check(0.0)
    assert stream.set_status("Connected", START_NS, 10.0) == []
    stream.check(10.0 + SILENT_S)
    with pytest.raises(OutageError, match="nothing about ES 03-25 for 7 s"):
        stream.check(11.0 + SILENT_S)
    take(stream, [1])
    assert [type(event) for event in stream.set_status("ConnectionLost", START_NS, 20.0)] == [Discontinuity] * 2
    assert stream.set_status("Disconnected", START_NS, 20.0) == []
    with pytest.raises(OutageError, match="Disconnected"):
        stream.check(20.0)


def test_the_state_of_the_feed_before_any_is_lost_too() -> None:
    stream = InstrumentStream(SYMBOL, START_NS, 0.0)
    assert len(stream.set_status("ConnectionLost", START_NS, 0.0)) == 2


def test_a_quote_of_one_side_is_counted_and_one_that_crosses_is_suspect() -> None:
    counters = ConnectionCounters()

    def quote(bid: str | None, ask: str | None) -> list[object]:
        message = m.QuoteMessage(
            instrument=SYMBOL, at_ms=START_NS // 1_000_000, bid=None if bid is None else Decimal(bid), bid_qty=3,
            ask=None if ask is None else Decimal(ask), ask_qty=None,
        )  # fmt: skip
        return list(quote_of(message, 1, counters))

    assert quote(None, "1") == quote("1", None) == []
    assert counters.unknown == {"ninja.quote of one side": 2}
    (made,) = quote("4500.25", "4500.50")
    assert isinstance(made, Quote)
    assert (made.bid_size, made.ask_size) == (Decimal(3), Decimal(0))
    assert isinstance(quote("4501", "4500")[0], Suspect)


def test_a_bar_that_begins_between_two_minutes_is_refused() -> None:
    def bar(at_ms: int) -> m.HistoryBar:
        one = Decimal("1.1")
        return m.HistoryBar(rid="r", instrument=SYMBOL, at_ms=at_ms, o=one, h=one, l=one, c=one, v=0)

    assert history_bar(bar(START_NS // 1_000_000), "1m").is_empty
    with pytest.raises(PeerError):
        history_bar(bar(START_NS // 1_000_000 + 1), "1m")


@given(st.integers(0, 400 * DAY_NS), st.integers(0, 400 * DAY_NS), st.integers(60 * NS, 60 * DAY_NS))
def test_history_requests_cover_a_range_in_order_without_overlap(since_ns: int, length_ns: int, step_ns: int) -> None:
    found = windows(since_ns, since_ns + length_ns, step_ns)
    assert len(found) <= WINDOWS_MAX
    assert all(0 < end - begin <= min(step_ns, 31 * DAY_NS) for begin, end in found)
    assert [begin for begin, _ in found[1:]] == [end for _, end in found[:-1]]
    if found:
        assert found[0][0] == since_ns
        assert found[-1][1] == since_ns + length_ns or len(found) == WINDOWS_MAX
    else:
        assert length_ns == 0


def test_a_contract_that_takes_entries_trades() -> None:
    listed = {contract.name: is_trading for contract, is_trading in contracts_at(START_NS)}
    assert listed["ES 12-24"] is False
    for contract, is_trading in contracts_at(START_NS):
        try:
            check_entry(contract, START_NS)
        except InputError:
            continue
        assert is_trading
