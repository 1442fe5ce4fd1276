"""Contract of every exchange package, over real sockets, against a small server that plays its tape.

Numbered like the adapters' cards: X-1x the module, X-2x REST, X-3x live, X-4x trouble. A new module gets a tape and a
case in tests/support/exchange_cases.py; the name of each test says whether the tape is *recorded* or *documented*.
"""

from __future__ import annotations

import asyncio
import contextlib
import pkgutil
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

import fks.market.exchanges
from fks.clock import RealClock
from fks.config.settings import Data, Settings
from fks.market.exchanges.base import socket
from fks.market.exchanges.registry import BY_SETTINGS, EXCHANGES, capabilities_of, endpoint_of, make_exchange
from fks.market.history.assets import subscriptions
from fks.model.bar import PublicTrade
from fks.model.errors import ConfigError, InputError, OutageError, PeerError
from fks.model.market import (
    BarSeen,
    Book,
    Channel,
    Discontinuity,
    MarketEvent,
    Quote,
    Subscription,
    Suspect,
)
from fks.model.ports import Exchange
from fks.model.timeframe import NS, TIMEFRAMES
from fks.store.assets import Asset
from scripts.exchange_template.exchange import TemplateExchange
from tests.support.exchange_cases import KEY, TAPES, Case, of_kind
from tests.support.exchange_cases_hot import ALL
from tests.support.exchange_peer import CountingBudget, Peer, TapeClock, playing
from tests.support.ports import CollectingLog

KINDS = {"trade": PublicTrade, "bar": BarSeen, "quote": Quote, "book": Book}


def named(value: object) -> str:
    """Return the name of a case in the names of tests."""
    return f"{value.name}-{value.tape.header['origin']}" if isinstance(value, Case) else str(value)


@pytest.fixture(params=ALL.values(), ids=named)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
async def peer(case: Case) -> AsyncIterator[Peer]:
    async with playing(case) as running:
        yield running


@pytest.fixture
def budget() -> CountingBudget:
    return CountingBudget()


@contextlib.asynccontextmanager
async def opened(
    case: Case, url: str, log: CollectingLog, budget: CountingBudget | None = None, **data: Any
) -> AsyncIterator[Exchange]:
    settings = Settings(data=Data(endpoints=(f"{case.name} http://{url} ws://{url}",), **{**case.settings, **data}))
    clock = TapeClock(case.present_ns - RealClock().now_ns())
    exchange: Exchange
    if case.name == "template":
        exchange = TemplateExchange(endpoint_of(settings, None, case.name), clock, log, budget)
    else:
        exchange = make_exchange(case.name, settings=settings, node=None, clock=clock, log=log, budget=budget)
    await exchange.open()
    try:
        yield exchange
    finally:
        async with asyncio.timeout(10):
            await exchange.close()


@pytest.fixture
async def exchange(case: Case, peer: Peer, log: CollectingLog, budget: CountingBudget) -> AsyncIterator[Exchange]:
    async with opened(case, peer.url, log, budget) as made:
        yield made


def timeless(event: MarketEvent) -> MarketEvent:
    """Return a live event without the time of receipt, which it must have."""
    if not hasattr(event, "received_ns"):
        return event
    assert event.received_ns > 0
    if isinstance(event, msgspec.Struct):
        return msgspec.structs.replace(event, received_ns=0)
    if isinstance(event, Quote | Book) and event.time_ns == event.received_ns:  # the exchange sends none
        return replace(event, received_ns=0, time_ns=0)
    return replace(event, received_ns=0)


class Listener:
    """One open `watch`: its events so far, without the time of receipt."""

    def __init__(self, stream: AsyncGenerator[list[MarketEvent], None]) -> None:
        self._stream = stream
        self.events: list[MarketEvent] = []

    async def until(self, *kinds: type[Any], count: int = 1) -> None:
        """Read until `count` events of one of these kinds came."""
        async with asyncio.timeout(8):
            while sum(isinstance(event, kinds) for event in self.events) < count:
                for event in await anext(self._stream):
                    self.events.append(timeless(event))


@contextlib.asynccontextmanager
async def listening(exchange: Exchange, wanted: tuple[Subscription, ...]) -> AsyncIterator[Listener]:
    """A `watch` whose subscriptions stand."""
    stream = exchange.watch(wanted)
    async with asyncio.timeout(8), contextlib.aclosing(stream):  # type: ignore[type-var]
        assert await anext(stream) == []  # nothing was sent yet: the subscriptions stand
        yield Listener(stream)  # type: ignore[arg-type]


def of(case: Case, channel: Channel) -> tuple[Subscription, ...]:
    return tuple(item for item in case.wanted if item.channel is channel)


def test_x10_folder_registry_tapes_and_cases_agree() -> None:
    modules = {
        module.name for module in pkgutil.iter_modules(fks.market.exchanges.__path__) if not module.name.startswith("_")
    }
    assert modules - {"base", "registry"} == set(EXCHANGES)
    assert set(EXCHANGES) - BY_SETTINGS == set(ALL) - {"template"}
    assert all((Path(__file__).parent / f"test_{name}.py").exists() for name in BY_SETTINGS)  # no websocket, no tape
    tapes = {folder.name for folder in TAPES.iterdir() if folder.is_dir()}
    assert set(ALL) == tapes
    assert all((TAPES / name / "README.md").exists() for name in ALL)


@pytest.mark.parametrize("name", sorted(EXCHANGES))
async def test_x11_it_has_capabilities_and_connects_only_when_used(name: str, log: CollectingLog) -> None:
    data = Data(endpoints=(f"{name} http://127.0.0.1:9 ws://127.0.0.1:9",), polygon_api_key=KEY)  # type: ignore[arg-type]
    made = make_exchange(name, settings=Settings(data=data), node=None, clock=RealClock(), log=log)
    await made.open()
    await made.close()
    assert made.name == name
    assert made.capabilities is capabilities_of(name)
    assert made.capabilities.timeframes
    assert made.capabilities.streamed_bars <= made.capabilities.timeframes <= set(TIMEFRAMES)
    assert Channel.TRADES in made.capabilities.channels
    assert made.capabilities.streams_max >= 1
    if made.capabilities.calendar != "24/7":
        import exchange_calendars

        assert made.capabilities.calendar in exchange_calendars.get_calendar_names()


async def test_x20_the_listing_is_exact_and_a_broken_row_is_left_out(
    case: Case, exchange: Exchange, log: CollectingLog
) -> None:
    found = {item.symbol: item for item in await exchange.instruments()}
    symbol, name, tick, step, smallest = case.instrument
    assert (found[symbol].name, found[symbol].tick, found[symbol].lot_step, found[symbol].qty_min) == (
        name,
        Decimal(tick),
        Decimal(step),
        Decimal(smallest),
    )
    assert found[symbol].is_trading
    assert [item.symbol for item in found.values() if not item.is_trading] == [
        next(s for s in found if s.startswith("OLD"))
    ]
    assert len(found) == 2
    assert log.events("warning") == ["instrument.broken"]


async def test_x20_any_broken_row_of_a_listing_affects_no_other(
    case: Case, exchange: Exchange, log: CollectingLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = [None, "x", 7, [], {}, [[]]]
    listed = await exchange.listing()  # type: ignore[attr-defined]

    async def listing() -> list[Any]:
        return [*odd, *listed]

    monkeypatch.setattr(exchange, "listing", listing)
    assert len(await exchange.instruments()) == 2
    assert log.events("warning") == ["instrument.broken"] * (1 + len(odd))


async def test_x21_bars_are_exact_closed_oldest_first_and_within_what_was_asked(
    case: Case, exchange: Exchange, peer: Peer
) -> None:
    start_ns = case.bars[0].time_ns
    assert await exchange.fetch_bars(case.symbol, "1m", None, 10) == list(case.bars)
    last = await exchange.fetch_bars(case.symbol, "1m", None, 2)  # one of two may be the one that is not over
    assert 1 <= len(last) <= 2
    assert last == list(case.bars[-len(last) :])
    until = case.bars[-1].time_ns + 59 * NS  # the last one is not over at this moment
    assert await exchange.fetch_bars(case.symbol, "1m", None, 10, until_ns=until) == list(case.bars[:-1])
    for timeframe in ("5s", "7m", ""):  # one of ours that it has not, and what is none
        with pytest.raises(InputError) as refused:
            await exchange.fetch_bars(case.symbol, timeframe, start_ns, 10)
        assert refused.value.code == "TIMEFRAME_UNKNOWN"


async def test_x22_trades_by_rest_are_exact_and_oldest_first(case: Case, exchange: Exchange) -> None:
    assert await exchange.fetch_trades(case.symbol, from_id=None, since_ns=None, limit=100) == list(case.trades)


async def test_x23_every_request_is_paid_for(
    case: Case, exchange: Exchange, peer: Peer, budget: CountingBudget
) -> None:
    await exchange.instruments()
    await exchange.fetch_bars(case.symbol, "1m", None, 2)
    await exchange.fetch_trades(case.symbol, from_id=None, since_ns=None, limit=2)
    assert budget.taken >= len(peer.asked) >= 3
    assert budget.pauses == []


async def test_x26_connects_take_from_the_budget(
    case: Case, exchange: Exchange, peer: Peer, budget: CountingBudget
) -> None:
    await exchange.connect_permit()
    assert (budget.connects, budget.taken, exchange.counters.connects, peer.connects) == (1, 0, 0, [])
    async with listening(exchange, of(case, Channel.TRADES)):
        assert (budget.connects, exchange.counters.connects, len(peer.connects)) == (1, 1, 1)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda r: web.Response(text="<html>busy</html>", content_type="text/html"), (PeerError, OutageError)),
        (lambda r: web.Response(status=502, text="<html>bad gateway</html>"), OutageError),
        (lambda r: web.json_response(["not", "an", "object"]), PeerError),
        (
            lambda r: web.json_response(
                {"result": {"list": [{}]}, "data": [{}], "results": [{}], "code": "0", "retCode": 0}
            ),
            (PeerError, InputError),
        ),
    ],
    ids=["html", "502", "wrong-shape", "empty-row"],
)
async def test_x24_rest_answer_names_the_party_at_fault(
    exchange: Exchange, case: Case, peer: Peer, budget: CountingBudget, answer: Any, error: type[Exception]
) -> None:
    peer.rest = answer
    with pytest.raises(error):
        await exchange.fetch_trades(case.symbol, from_id=None, since_ns=None, limit=10)
    assert budget.pauses == []


@pytest.mark.parametrize(
    ("case", "status"),
    [(case, status) for case in ALL.values() for status in (418, 429, 200) if status != 200 or case.too_much],
    ids=named,
    indirect=["case"],
)
@pytest.mark.parametrize(("retry_after", "pause_s"), [("7", 7.0), ("nan", None)])
async def test_x25_refusal_for_too_many_requests_pauses_the_budget(
    exchange: Exchange,
    case: Case,
    peer: Peer,
    budget: CountingBudget,
    status: int,
    retry_after: str,
    pause_s: float | None,
) -> None:
    """By the status, or by the exchange's own text under status 200; as long as it says, else for a while of ours."""
    text = case.too_much or "{}"
    headers = {"Retry-After": retry_after}
    peer.rest = lambda request: web.Response(status=status, text=text, headers=headers, content_type="application/json")
    with pytest.raises(OutageError):
        await exchange.fetch_trades(case.symbol, from_id=None, since_ns=None, limit=10)
    assert len(peer.asked) == 1
    (paused_s,) = budget.pauses
    assert paused_s == pause_s if pause_s is not None else 30 <= paused_s <= 60


def received(listener: Listener, what: str) -> list[MarketEvent]:
    """Return the values of one kind, without the number of a book in its connection, which is not predictable."""
    found = of_kind(listener.events, KINDS[what])
    return [replace(book, sequence=0) for book in found] if what == "book" else found


@pytest.mark.parametrize(
    ("case", "what"),
    [(case, what) for case in ALL.values() for what in sorted(KINDS) if what in case.live],
    ids=named,
    indirect=["case"],
)
async def test_x30_live_values_are_exact_and_in_order(case: Case, exchange: Exchange, peer: Peer, what: str) -> None:
    async with listening(exchange, case.wanted) as listener:
        await peer.say(what)
        wanted = [replace(e, sequence=0) if isinstance(e, Book) else e for e in case.live[what]]
        while received(listener, what)[-len(wanted) :] != wanted:
            await listener.until(KINDS[what], count=len(received(listener, what)) + 1)
        assert not of_kind(listener.events, Suspect)
        assert not of_kind(listener.events, Discontinuity)


async def test_x31_unknown_messages_and_fields_are_counted(case: Case, exchange: Exchange, peer: Peer) -> None:
    async with listening(exchange, of(case, Channel.TRADES)) as listener:
        await peer.say_raw(case.tape.frames["unknown kind"][0])
        await peer.say("unknown field")
        await listener.until(PublicTrade, count=case.survivors["unknown field"])
        await peer.say("trade")
        await listener.until(PublicTrade, count=case.survivors["unknown field"] + len(case.live["trade"]))
    assert not of_kind(listener.events, Suspect)
    unknown = exchange.counters.unknown  # type: ignore[attr-defined]
    assert sum(unknown.values()) >= 2
    assert any("brandNew" in name for name in unknown)


async def test_x32_impossible_message_is_suspect_and_a_discontinuity(
    case: Case, exchange: Exchange, peer: Peer
) -> None:
    async with listening(exchange, of(case, Channel.TRADES)) as listener:
        await peer.say("malformed")
        await listener.until(Discontinuity)
        await peer.say_raw("{this is no json")
        await listener.until(Suspect, count=2)
        await peer.say("trade")
        await listener.until(PublicTrade, count=case.survivors["malformed"] + len(case.live["trade"]))
    suspects = of_kind(listener.events, Suspect)
    assert suspects[0].symbol == case.symbol
    assert suspects[0].reason
    assert suspects[0].text
    assert (
        Discontinuity(Channel.TRADES, case.symbol, of_kind(listener.events, Discontinuity)[0].reason) in listener.events
    )
    assert exchange.counters.suspects == len(suspects)  # type: ignore[attr-defined]


async def test_x33_unknown_channel_is_refused_before_connecting(case: Case, exchange: Exchange, peer: Peer) -> None:
    with pytest.raises(InputError):
        await anext(exchange.watch([case.not_streamed]))
    assert peer.connects == []


@pytest.mark.parametrize(
    "frames", [("1s", "1m", "5m", "1h"), ("1m", "1d"), ("5m", "15m"), ("1h",), ("1d",)], ids="-".join
)
async def test_x35_it_streams_the_subscriptions_of_a_collector(
    case: Case, exchange: Exchange, frames: tuple[str, ...]
) -> None:
    """Whatever timeframes an asset is collected in, also where the exchange streams fewer than its REST has."""
    asset = Asset(case.name, case.symbol, frames, channels=("trades", "quotes", "book"))
    exchange.wire().subscribe_frames(subscriptions(asset, frames, exchange))  # type: ignore[attr-defined]


async def test_x34_leaving_drops_the_socket_and_several_may_be_open(case: Case, exchange: Exchange, peer: Peer) -> None:
    trades = of(case, Channel.TRADES)
    async with listening(exchange, trades), listening(exchange, trades):
        assert len(peer.sockets) == 2
    async with asyncio.timeout(5):
        while peer.sockets:
            await asyncio.sleep(0)
    async with listening(exchange, trades) as listener:  # and it can be called again
        await peer.say("trade")
        await listener.until(PublicTrade, count=len(case.live["trade"]))


async def test_x36_one_symbol_is_unsubscribed_and_the_others_stand(case: Case, exchange: Exchange, peer: Peer) -> None:
    left = tuple(
        replace(item, symbol=case.symbol.replace("BTC", "ETH").replace("AAPL", "MSFT")) for item in case.wanted
    )
    async with listening(exchange, (*case.wanted, *left)) as listener:
        before, connects = len(peer.received), len(peer.connects)
        exchange.unsubscribe([*left, Subscription(Channel.TRADES, "NOBODY-HAS-IT")])
        exchange.unsubscribe(left)  # they have left already
        async with asyncio.timeout(8):
            while sum(_name(item) in text for text in _byes(peer, before) for item in left) < len(left):
                await asyncio.sleep(0.01)
        await peer.say("trade")
        await listener.until(PublicTrade, count=len(case.live["trade"]))
        byes = _byes(peer, before)
        assert [text for text in byes if any(_name(item) in text for item in case.wanted)] == []
        assert len(set(byes)) == len(byes)
        assert len(peer.connects) == connects
    assert of_kind(listener.events, Suspect | Discontinuity) == []
    assert not exchange.counters.unknown
    assert exchange.counters.suspects == 0


def _name(item: Subscription) -> str:
    """Return a symbol as it stands in whatever an exchange is sent."""
    return item.symbol.lower()


def _byes(peer: Peer, since: int) -> list[str]:
    return [text.lower() for text in peer.received[since:] if "unsub" in text.lower()]


@pytest.mark.parametrize("how", ["closed", "aborted"])
async def test_x40_a_lost_connection_is_an_outage_and_the_next_call_dials_again(
    case: Case, exchange: Exchange, peer: Peer, how: str
) -> None:
    async with listening(exchange, case.wanted) as listener:
        await peer.say("trade")
        await listener.until(PublicTrade, count=len(case.live["trade"]))
        await peer.cut(how)
        with pytest.raises(OutageError):
            await listener.until(PublicTrade, count=999)
    async with listening(exchange, case.wanted) as listener:
        await peer.say("trade")
        await listener.until(PublicTrade, count=len(case.live["trade"]))


async def test_x41_refused_connection_is_an_outage(case: Case, log: CollectingLog) -> None:
    async with opened(case, "127.0.0.1:9", log) as exchange:
        with pytest.raises(OutageError):
            await anext(exchange.watch(case.wanted))
        with pytest.raises(OutageError):
            await exchange.fetch_trades(case.symbol, from_id=None, since_ns=None, limit=1)


@pytest.mark.parametrize("what", ["dials", "words"])
async def test_x43_missing_answer_is_an_outage(
    case: Case, exchange: Exchange, peer: Peer, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the dial nor the subscriptions are waited for without end: a collector has no watch of its own for
    that."""
    peer.deaf_to = what
    monkeypatch.setattr(socket, "CONNECT_S", 0.3)
    async with asyncio.timeout(20):
        with pytest.raises(OutageError):
            await anext(exchange.watch(case.wanted))


KEYS = {name: key for name in EXCHANGES if (key := capabilities_of(name).key_setting) is not None}


@pytest.mark.parametrize("name", sorted(KEYS))
async def test_x42_a_key_is_in_no_address_log_or_error(name: str, log: CollectingLog) -> None:
    case = ALL[name]
    async with playing(case) as peer:
        async with opened(case, peer.url, log) as exchange, listening(exchange, case.wanted) as listener:
            await exchange.fetch_bars(case.symbol, "1m", None, 2)
            await peer.say("malformed")
            await listener.until(Suspect)
            peer.rest = lambda request: web.Response(status=401, text='{"status":"ERROR"}')
            with pytest.raises(ConfigError) as refused:
                await exchange.fetch_bars(case.symbol, "1m", None, 2)
        assert any(KEY in text for text in peer.received)  # it was shown, in a message
        addresses = [asked.address for asked in peer.asked] + peer.connects
        assert KEY not in " ".join(
            [*addresses, str(refused.value), repr(exchange), repr(log.lines), repr(listener.events)]
        )
        with pytest.raises(ConfigError):
            async with opened(case, peer.url, log, **{KEYS[name]: None}):
                pass  # pragma: no cover
        async with opened(case, peer.url, log, **{KEYS[name]: "a-wrong-key"}) as exchange:
            with pytest.raises(ConfigError, match="refused the key"):
                await anext(exchange.watch(case.wanted))
