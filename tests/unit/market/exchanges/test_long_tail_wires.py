"""The wires of bybit, okx and polygon where the contract test does not reach: holes, refusals, long lists, garbage."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.market.exchanges.base import ConnectionCounters, SubscriptionsAnswered, Wire
from fks.market.exchanges.base.paging import page_end
from fks.market.exchanges.base.rows import number_of
from fks.market.exchanges.bybit.wire import BybitWire
from fks.market.exchanges.okx.wire import OkxWire
from fks.market.exchanges.polygon.wire import PolygonWire
from fks.market.exchanges.polygon.wire import number_of as tape_number
from fks.model.bar import PublicTrade
from fks.model.errors import ConfigError, FksError, InputError, OutageError, PeerError
from fks.model.market import BarSeen, Book, Channel, Discontinuity, Quote, Subscription, Suspect
from fks.model.timeframe import NS, to_ns
from scripts.exchange_template.wire import TemplateWire
from tests.support.exchange_cases import CASES, FRIDAY, MS, NEW_YEAR, levels, subscriptions

BTC = subscriptions("BTCUSDT", *Channel)


def wire_of(name: str, counters: ConnectionCounters | None = None) -> Wire:
    """Return a wire whose subscriptions of its case were sent."""
    made: Wire = {
        "bybit": lambda: BybitWire(counters=counters),
        "okx": lambda: OkxWire(counters=counters),
        "polygon": lambda: PolygonWire("k", counters=counters),
        "template": lambda: TemplateWire(counters=counters),
    }[name]()
    made.subscribe_frames(CASES[name].wanted)
    return made


# ── bybit ────────────────────────────────────────────────────────────────────────────────────────
def book(update: int, bids: list[list[str]], asks: list[list[str]], *, kind: str = "delta") -> bytes:
    data = {"s": "BTCUSDT", "b": bids, "a": asks, "u": update, "seq": update}
    return json.dumps({"topic": "orderbook.50.BTCUSDT", "ts": NEW_YEAR // MS, "type": kind, "data": data}).encode()


WHOLE = book(10, [["5", "1"], ["4", "1"]], [["6", "1"]], kind="snapshot")


def test_bybit_keeps_a_book_while_its_updates_join() -> None:
    wire = wire_of("bybit")
    wire.receive(WHOLE, 1)
    (found,) = wire.receive(book(11, [["5", "0"], ["4.5", "2"]], []), 2)
    assert isinstance(found, Book)
    assert found.bids == levels(("4.5", "2"), ("4", "1"))
    assert (found.sequence, found.received_ns) == (11, 2)


@pytest.mark.parametrize(
    "broken",
    [
        book(13, [], [["7", "1"]]),
        book(10, [], [["7", "1"]]),
        book(11, [["6.5", "1"]], []),
        book(11, [["-1", "1"]], []),
        book(11, [["x", "1"]], []),
        book(11, [["5"]], []),
    ],
    ids=["hole", "again", "crossed", "negative", "no-number", "no-size"],
)
def test_bybit_requests_a_new_snapshot_of_a_broken_book(broken: bytes) -> None:
    wire = wire_of("bybit")
    wire.due_frames(0.0)
    wire.receive(WHOLE, 1)
    *suspects, gone = wire.receive(broken, 2)
    assert isinstance(gone, Discontinuity)
    assert (gone.channel, gone.symbol) == (Channel.BOOK, "BTCUSDT")
    assert all(isinstance(suspect, Suspect) for suspect in suspects)
    asked = [json.loads(frame) for frame in wire.due_frames(1.0)]
    assert [(item["op"], item["args"]) for item in asked] == [
        ("unsubscribe", ["orderbook.50.BTCUSDT"]),
        ("subscribe", ["orderbook.50.BTCUSDT"]),
    ]
    assert list(wire.receive(book(14, [], [["7", "1"]]), 3)) == []
    (found,) = wire.receive(WHOLE, 4)
    assert isinstance(found, Book)
    assert wire.due_frames(2.0) == []


def test_bybit_resets_on_update_one_and_refuses_change_before_snapshot() -> None:
    wire = wire_of("bybit")
    (gone,) = wire.receive(book(5, [], []), 1)
    assert isinstance(gone, Discontinuity)
    wire.receive(WHOLE, 1)
    (found,) = wire.receive(book(1, [["5", "9"]], [["6", "9"]]), 2)
    assert isinstance(found, Book)
    assert found.bids == levels(("5", "9"))


def test_bybit_subscribes_by_tens_and_pings() -> None:
    wire = BybitWire()
    frames = [json.loads(frame) for frame in wire.subscribe_frames(subscriptions("BTCUSDT", *([Channel.TRADES] * 25)))]
    assert [len(frame["args"]) for frame in frames] == [10, 10, 5]
    answers = [json.dumps({"success": True, "op": "subscribe", "req_id": frame["req_id"]}).encode() for frame in frames]
    assert [list(wire.receive(answer, 1)) for answer in answers] == [[], [], [SubscriptionsAnswered()]]
    assert wire.due_frames(100.0) == [b'{"op":"ping"}']
    assert wire.due_frames(119.0) == []
    assert wire.due_frames(120.5) == [b'{"op":"ping"}']


def test_bybit_finds_out_which_of_a_refused_request_it_was() -> None:
    wire = BybitWire()
    wire.due_frames(0.0)
    wire.subscribe_frames([Subscription(Channel.TRADES, symbol) for symbol in ("BTCUSDT", "NOPE")])
    refusal = {"success": False, "ret_msg": "error:handler not found,topic:publicTrade.NOPE", "op": "subscribe"}
    assert list(wire.receive(json.dumps(refusal | {"req_id": "1"}).encode(), 1)) == []
    again = [json.loads(frame) for frame in wire.due_frames(1.0)]
    assert [frame["args"] for frame in again] == [["publicTrade.BTCUSDT"], ["publicTrade.NOPE"]]
    good, bad = (frame["req_id"] for frame in again)
    assert list(wire.receive(json.dumps({"success": True, "op": "subscribe", "req_id": good}).encode(), 1)) == []
    suspect, stands = wire.receive(json.dumps(refusal | {"req_id": bad}).encode(), 1)
    assert isinstance(suspect, Suspect)
    assert (suspect.symbol, stands) == ("NOPE", SubscriptionsAnswered())


def test_an_id_that_is_no_number_becomes_the_same_number_every_time() -> None:
    assert number_of("2290000000912345001") == 2290000000912345001
    uuid = "9dc75fca-4bdd-4773-9f78-6f5d7ab2a110"
    assert number_of(uuid) == number_of(uuid) != number_of(uuid.replace("9", "8"))
    assert 0 <= number_of(uuid) < 2**63
    assert 0 <= number_of("9" * 30) < 2**63
    with pytest.raises(PeerError):
        number_of("")


# ── okx ──────────────────────────────────────────────────────────────────────────────────────────
def test_okx_dials_the_side_that_has_the_channel() -> None:
    wire = OkxWire("wss://h")
    assert (
        wire.url([Subscription(Channel.TRADES, "BTC-USDT"), Subscription(Channel.BARS, "BTC-USDT", "1d")])
        == "wss://h/ws/v5/business"
    )
    assert wire.url([Subscription(Channel.QUOTES, "BTC-USDT")]) == "wss://h/ws/v5/public"
    (frame,) = wire.subscribe_frames([Subscription(Channel.BARS, "BTC-USDT", "1d")])
    assert json.loads(frame)["args"] == [{"channel": "candle1Dutc", "instId": "BTC-USDT"}]  # not Hong Kong's day


def test_okx_refused_subscription_is_reported_and_the_others_stand() -> None:
    wire = OkxWire()
    wire.subscribe_frames([Subscription(Channel.TRADES, symbol) for symbol in ("BTC-USDT", "NOPE-USDT")])
    stands = {"event": "subscribe", "arg": {"channel": "trades-all", "instId": "BTC-USDT"}, "connId": "c"}
    assert list(wire.receive(json.dumps(stands).encode(), 1)) == []
    text = "Wrong URL or channel:trades-all,instId:NOPE-USDT doesn't exist. Please use the correct URL"
    suspect, done = wire.receive(
        json.dumps({"event": "error", "code": "60018", "msg": text, "connId": "c"}).encode(), 1
    )
    assert isinstance(suspect, Suspect)
    assert (suspect.symbol, done) == ("NOPE-USDT", SubscriptionsAnswered())
    with pytest.raises(PeerError, match="60012"):
        wire.receive(b'{"event":"error","code":"60012","msg":"Invalid request","connId":"c"}', 1)
    with pytest.raises(OutageError, match="upgrade"):
        wire.receive(b'{"event":"notice","code":"64008","msg":"closed soon for a service upgrade","connId":"c"}', 1)


def okx_levels(channel: str, sequence: int, time_ms: int) -> bytes:
    row = {"asks": [["6", "1", "0", "1"]], "bids": [["5", "1", "0", "1"]], "ts": str(time_ms), "seqId": sequence}
    return json.dumps({"arg": {"channel": channel, "instId": "BTC-USDT"}, "data": [row]}).encode()


@pytest.mark.parametrize(("channel", "kind"), [("books5", Book), ("bbo-tbt", Quote)])
def test_okx_older_snapshot_is_left_out_by_its_sequence_number(channel: str, kind: type[Book | Quote]) -> None:
    counters = ConnectionCounters()
    wire, now = wire_of("okx", counters), NEW_YEAR // MS

    def seen(sequence: int, time_ms: int) -> list[type[object]]:
        return [type(event) for event in wire.receive(okx_levels(channel, sequence, time_ms), 1)]

    assert seen(7, now) == [kind]
    assert seen(9, now + 1) == [kind]
    assert seen(8, now + 1) == [], "it was sent before the one that is known"
    assert seen(9, now + 2) == [kind], "the same book, sent again"
    assert seen(3, now + 900) == [kind], "a later time: OKX counts from the beginning again"
    assert seen(4, now + 901) == [kind]
    name = "quotes" if kind is Quote else "book"
    assert counters.unknown == {
        f"okx.{name} out of order": 1,
        f"okx.{name} counted again from the beginning": 1,
    }


def test_okx_day_that_begins_in_hong_kong_is_suspect() -> None:
    wire = wire_of("okx")
    row = [str((NEW_YEAR + 16 * 3600 * NS) // MS), "1", "2", "1", "1.5", "3", "4", "4", "1"]
    found = wire.receive(
        json.dumps({"arg": {"channel": "candle1Dutc", "instId": "BTC-USDT"}, "data": [row]}).encode(), 1
    )
    assert [type(event) for event in found] == [Suspect, Discontinuity]


# ── polygon ──────────────────────────────────────────────────────────────────────────────────────
def test_polygon_shows_its_key_first_and_subscribes_when_it_was_taken() -> None:
    wire = PolygonWire("the-key", "wss://h")
    wanted = subscriptions("AAPL", Channel.TRADES, Channel.BARS)
    assert wire.url(wanted) == "wss://h/stocks"
    assert [json.loads(frame) for frame in wire.subscribe_frames(wanted)] == [{"action": "auth", "params": "the-key"}]
    assert wire.due_frames(0.0) == []
    wire.receive(b'[{"ev":"status","status":"auth_success","message":"authenticated"}]', 1)
    assert [json.loads(frame) for frame in wire.due_frames(1.0)] == [
        {"action": "subscribe", "params": "T.AAPL,AM.AAPL"}
    ]
    assert wire.due_frames(2.0) == []
    text = [
        {"ev": "status", "status": "success", "message": f"subscribed to: {topic}"} for topic in ("T.AAPL", "AM.AAPL")
    ]
    assert list(wire.receive(json.dumps(text).encode(), 1)) == [SubscriptionsAnswered()]


@pytest.mark.parametrize(("status", "error"), [("auth_failed", ConfigError), ("max_connections", OutageError)])
def test_polygon_refusal_names_the_party_at_fault(status: str, error: type[FksError]) -> None:
    wire = wire_of("polygon")
    with pytest.raises(error):
        wire.receive(json.dumps([{"ev": "status", "status": status, "message": "no"}]).encode(), 1)


def test_polygon_numbers_rise_within_a_day_and_across_days() -> None:
    from datetime import datetime
    from zoneinfo import ZoneInfo

    york, found = ZoneInfo("America/New_York"), []
    for month, day in ((1, 2), (1, 5), (7, 1), (7, 2), (12, 31)):
        for hour, minute, sequence in ((4, 0, 1), (9, 30, 500), (19, 59, 9_999_999_999)):
            found.append(tape_number(to_ns(datetime(2026, month, day, hour, minute, tzinfo=york)), sequence))
    assert found == sorted(found)
    assert len(set(found)) == len(found)
    assert max(found) < 2**63


def test_polygon_a_crossed_quote_is_a_quote_and_half_a_quote_is_counted() -> None:
    counters = ConnectionCounters()
    wire = wire_of("polygon", counters)

    def quote(**fields: Any) -> bytes:
        return json.dumps(
            [{"ev": "Q", "sym": "AAPL", "bp": 2.01, "bs": 1, "ap": 2.0, "as": 1, "t": FRIDAY // MS, **fields}]
        ).encode()

    (crossed,) = wire.receive(quote(), 1)
    assert isinstance(crossed, Quote)
    assert (crossed.bid, crossed.ask) == (Decimal("2.01"), Decimal("2.0"))
    assert list(wire.receive(quote(ap=0, **{"as": 0}), 1)) == []
    assert counters.unknown["polygon.quote with one side"] == 1
    (suspect,) = wire.receive(quote(bp=-1), 1)
    assert isinstance(suspect, Suspect)


def test_unknown_subscription_is_an_input_error() -> None:
    for wire, wanted in (
        (BybitWire(), Subscription(Channel.BARS, "BTCUSDT", "1s")),
        (OkxWire(), Subscription(Channel.BARS, "BTC-USDT", "5s")),
        (PolygonWire("k"), Subscription(Channel.BARS, "AAPL", "5m")),
        (PolygonWire("k"), Subscription(Channel.BOOK, "AAPL")),
    ):
        with pytest.raises(InputError):
            wire.subscribe_frames([wanted])


def test_a_page_of_bars_ends_where_it_should() -> None:
    assert page_end(NEW_YEAR, "1m", 3) == NEW_YEAR + 180 * NS
    assert page_end(NEW_YEAR + 1, "1m", 3) == NEW_YEAR + 240 * NS
    assert page_end(NEW_YEAR, "1M", 2) == NEW_YEAR + 59 * 86400 * NS
    assert (
        page_end(NEW_YEAR, "1w", 1) == NEW_YEAR + 11 * 86400 * NS
    )  # Thursday; the first week from then on opens on Monday


# ── whatever comes ───────────────────────────────────────────────────────────────────────────────
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["NaN", "-1", "1e99"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, inner in items for place in _places(inner, (*path, key))]


@pytest.mark.parametrize("name", sorted(CASES))
@given(data=st.data())
def test_any_message_gives_valid_events_or_a_classified_error(name: str, data: st.DataObject) -> None:
    frames = [frame for part in CASES[name].tape.frames.values() for frame in part]
    message = json.loads(data.draw(st.sampled_from(frames)))
    place = data.draw(st.sampled_from(_places(message)))
    inside = message
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = data.draw(_VALUES)
    wire = wire_of(name)
    for event in wire.receive(json.dumps(message).encode(), 1):
        if isinstance(event, PublicTrade):
            assert event.price > 0
            assert event.price < 10**30
            assert event.quantity >= 0
            assert 0 < event.time_ns < 2**63
        elif isinstance(event, BarSeen):
            assert event.bar.low <= event.bar.open <= event.bar.high
        elif isinstance(event, Book | Quote):
            assert event.time_ns > 0
        else:
            assert isinstance(event, Suspect | Discontinuity)
