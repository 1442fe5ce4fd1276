"""Small parts of the venues: the event queue's bound, numbers as text, parsing that refuses, the registry's choices."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.clock import FakeClock
from fks.config.endpoints import NodeEndpoints
from fks.config.settings import Ninja, Paper, Settings, Sim, VenueSettings
from fks.model.account import VenueName
from fks.model.decimals import plain
from fks.model.errors import ConfigError, OutageError, PeerError
from fks.model.order import Outcome, State
from fks.model.ports import SessionBack, SessionLost
from fks.trading.venues.base import EventQueue
from fks.trading.venues.binance import calls
from fks.trading.venues.binance.classify import CallCourse, classify, describe
from fks.trading.venues.binance.config import SessionConfig
from fks.trading.venues.binance.dialect import report_of, report_of_event
from fks.trading.venues.binance.socket_api import SocketApi, VenueError
from fks.trading.venues.ccxt.dialect_venue import DialectVenue
from fks.trading.venues.ccxt.dialects import dialect
from fks.trading.venues.paper import PaperVenue
from fks.trading.venues.registry import MAKERS, Making, make_venue, make_venues
from tests.support.ports import CollectingLog
from tests.support.venue_tapes import wire_of

NODE = NodeEndpoints(
    "",
    "",
    "",
    {},
    sim={
        "rest": "http://127.0.0.1:1",
        "ws": "ws://127.0.0.1:1",
        "ws_api": "ws://127.0.0.1:1/ws-api/v3",
        "api_key": "k" * 64,
        "api_secret": "s" * 64,
        "pid": 1,
        "port": 1,
    },
)


@given(st.decimals(min_value=Decimal("1e-12"), max_value=Decimal("1e12"), allow_nan=False, places=12))
def test_numbers_as_text_are_plain_and_exact(value: Decimal) -> None:
    written = plain(value)
    assert Decimal(written) == value
    assert "e" not in written.lower()
    assert not ("." in written and written.endswith("0"))


async def test_slow_reader_gets_session_lost() -> None:
    queue = EventQueue(limit=3)
    for _ in range(4):
        queue.put(SessionBack())
    found: list[Any] = []

    async def read() -> None:
        async for event in queue.read():
            found.append(event)

    task = asyncio.create_task(read())
    await asyncio.sleep(0)
    task.cancel()
    assert isinstance(found[0], SessionLost)
    assert found[1:] == [SessionBack(), SessionBack()]


@pytest.mark.parametrize(
    "info",
    [
        {},
        {"status": "NEW", "orderId": 1, "symbol": "BTCUSDT"},
        {"status": "SOMETHING", "orderId": 1, "symbol": "B", "clientOrderId": "x", "executedQty": "0"},
        {"status": "NEW", "orderId": 1, "symbol": "B", "clientOrderId": "x", "executedQty": "a lot"},
        {"status": "NEW", "orderId": 1, "symbol": "B", "clientOrderId": "x", "executedQty": "NaN"},
        {"status": "NEW", "orderId": 1, "symbol": "B", "clientOrderId": "x", "executedQty": "1e9999999"},
        {"status": "NEW", "orderId": 1, "symbol": "B", "clientOrderId": "x", "executedQty": "1e-9999999"},
        {"status": "x" * 1_000_000, "orderId": 1, "symbol": "B", "clientOrderId": "x", "executedQty": "0"},
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_answer_that_cannot_be_read_is_the_peers_fault(info: dict[str, Any]) -> None:
    with pytest.raises(PeerError):
        report_of(info, source="rest")


@pytest.mark.parametrize("status", [None, 200, 404, 502])
@pytest.mark.parametrize(
    "body",
    [
        "<html>busy</html>",
        "",
        "NaN",
        '{"code": NaN}',
        '{"code": "-2010"}',
        '{"msg": "' + "x" * 1_000_000 + '"}',
        "[" * 2000,
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_body_of_binance_that_cannot_be_read_is_ambiguous(status: int | None, body: str) -> None:
    wire = wire_of(body)
    wire.status = status
    verdict = classify(wire, None)
    assert (verdict.outcome, verdict.refusal, wire.code) == (Outcome.AMBIGUOUS, None, None)
    assert len(verdict.detail) <= 500


def test_a_cancel_event_speaks_of_our_id() -> None:
    event = {
        "e": "executionReport",
        "s": "BTCUSDT",
        "c": "theirs",
        "C": "ours",
        "S": "BUY",
        "o": "LIMIT",
        "q": "1",
        "p": "2",
        "x": "CANCELED",
        "X": "CANCELED",
        "i": 7,
        "z": "0.5",
        "T": 5,
        "r": "NONE",
    }
    report = report_of_event(event)
    assert (report.client_order_id, report.state, report.filled, report.code) == (
        "ours",
        State.CANCELLED,
        Decimal("0.5"),
        None,
    )


def test_held_back_call_left_nothing_unless_an_earlier_attempt_sent() -> None:
    held, again = CallCourse(is_held_back=True), CallCourse(is_held_back=True, bytes_left=True)
    error = RuntimeError("the lease is not held")
    assert (classify(held, error).outcome, classify(held, error).code) == (Outcome.REFUSED, "NOT_LEADER")
    assert classify(again, error).outcome is Outcome.AMBIGUOUS


def test_secrets_never_show() -> None:
    wire = CallCourse(bytes_left=True, status=500, body="<html>")
    line = describe(wire, RuntimeError("GET http://x/order?symbol=A&signature=abcdef0123&apiKey=zzz failed"))
    assert "abcdef" not in line
    assert "zzz" not in line
    assert "signature=…" in classify(wire, RuntimeError("a signature=beef b")).detail


def test_status_of_a_call_is_shown_once() -> None:
    wire = CallCourse(bytes_left=True, status=401, body='{"code":-2014}')
    assert describe(wire, VenueError("HTTP 401")) == 'VenueError: HTTP 401; {"code":-2014}'
    assert describe(wire, VenueError("no JSON")) == 'VenueError: no JSON; HTTP 401; {"code":-2014}'


TESTNET = "https://testnet.binance.vision"


def settings(**sections: Any) -> Settings:
    return Settings(**sections)


def make(name: str = "ccxt", given: Settings | None = None, node: NodeEndpoints | None = NODE) -> Any:
    return make_venue(name, Making(settings=given or Settings(), node=node, clock=FakeClock(), log=CollectingLog()))


def test_the_registry_fails_closed() -> None:
    with pytest.raises(ConfigError, match="unknown venue"):
        make("nowhere")
    with pytest.raises(OutageError, match="local exchange"):
        make(node=None)
    with pytest.raises(ConfigError, match=r"venue\.live is false"):
        make(given=settings(sim=Sim(enabled=False)))
    with pytest.raises(ConfigError, match=r"venue\.live is false"):
        make(given=settings(venue=VenueSettings(rest_url="https://api.binance.com")))
    with pytest.raises(ConfigError, match="api_key"):
        make(given=settings(venue=VenueSettings(live=True), sim=Sim(enabled=False)))
    with pytest.raises(ConfigError, match=r"local exchange's prices"):
        make(given=settings(venue=VenueSettings(live=True, api_key="k", api_secret="s")))
    with pytest.raises(ConfigError, match="test network"):
        make(given=settings(venue=VenueSettings(live=True, rest_url=TESTNET), sim=Sim(enabled=False)))
    with pytest.raises(ConfigError, match="api_key"):  # a test network needs keys, and no venue.live
        make(given=settings(venue=VenueSettings(rest_url=TESTNET), sim=Sim(enabled=False)))
    with pytest.raises(ConfigError, match="not supported"):
        make(given=settings(venue=VenueSettings(exchange="mtgox")))


KRAKEN = "http://127.0.0.1:9"


def test_an_exchange_by_its_dialect_needs_an_address_of_its_own() -> None:
    with pytest.raises(ConfigError, match="plays binance"):
        make(given=settings(venue=VenueSettings(exchange="kraken", api_key="k", api_secret="s")))
    with pytest.raises(ConfigError, match="api_key"):  # the local exchange's keys are not for it
        make(given=settings(venue=VenueSettings(exchange="kraken", rest_url=KRAKEN)))
    made = make(given=settings(venue=VenueSettings(exchange="kraken", rest_url=KRAKEN, api_key="k", api_secret="s")))
    assert (made.name, made.dialect.name, made.config.rest_url) == ("ccxt", "kraken", KRAKEN)
    live = VenueSettings(exchange="kraken", live=True, api_key="k", api_secret="s")
    assert make(given=settings(venue=live, sim=Sim(enabled=False))).config.is_live


@pytest.mark.parametrize("exchange", ["bybit", "okx"])
def test_an_exchange_of_recorded_bodies_only_is_not_traded(exchange: str) -> None:
    given = VenueSettings(exchange=exchange, rest_url=KRAKEN, api_key="k", api_secret="s")
    with pytest.raises(ConfigError, match="recorded bodies only"):
        make(given=settings(venue=given))
    config = SessionConfig("k", "s", exchange=exchange)
    with pytest.raises(ConfigError, match="recorded bodies only"):
        DialectVenue(dialect(exchange), config, FakeClock(), CollectingLog())


def test_the_guardian_has_a_key_of_its_own_at_kraken() -> None:
    def guardian(**keys: str) -> Any:
        given = VenueSettings(exchange="kraken", rest_url=KRAKEN, api_key="k", api_secret="s", **keys)
        making = Making(settings=settings(venue=given), node=NODE, clock=FakeClock(), log=CollectingLog())
        return make_venues("guardian", making)["ccxt"]

    with pytest.raises(ConfigError, match="a key serves one process"):
        guardian()
    with pytest.raises(ConfigError, match="second key"):
        guardian(guardian_api_key="k", guardian_api_secret="s")
    with pytest.raises(ConfigError, match="without the other"):
        guardian(guardian_api_key="g")
    assert guardian(guardian_api_key="g", guardian_api_secret="t").config.api_key == "g"


def test_the_guardian_may_share_a_key_at_binance() -> None:
    def guardian(**keys: str) -> Any:
        given = VenueSettings(rest_url="http://127.0.0.1:9", api_key="k", api_secret="s", **keys)
        making = Making(settings=settings(venue=given), node=NODE, clock=FakeClock(), log=CollectingLog())
        return make_venues("guardian", making)["ccxt"]

    assert guardian().config.api_key == "k"
    assert guardian(guardian_api_key="g", guardian_api_secret="t").config.api_key == "g"
    with pytest.raises(ConfigError, match="second key"):
        guardian(guardian_api_key="k", guardian_api_secret="s")
    # where wallets sign for an account, its address is the key of each of them
    assert guardian(guardian_api_key="k", guardian_api_secret="t").config.api_secret == "t"


def test_an_account_may_name_each_venue_that_can_be_made() -> None:
    assert set(MAKERS) == set(get_args(VenueName))


def test_each_role_gets_its_venues() -> None:
    parts: dict[str, Any] = {"settings": Settings(), "node": NODE, "clock": FakeClock(), "log": CollectingLog()}
    assert list(make_venues("orders", Making(**parts))) == ["paper", "ccxt"]
    assert list(make_venues("guardian", Making(**parts))) == ["ccxt"]
    alone = {**parts, "settings": settings(sim=Sim(enabled=False))}
    assert list(make_venues("orders", Making(**alone))) == ["paper"]
    assert isinstance(make_venues("orders", Making(**alone))["paper"], PaperVenue)
    wrong = {**parts, "settings": settings(paper=Paper(margin="2"))}
    with pytest.raises(ConfigError, match=r"paper\.margin: .* is out of range"):
        make_venues("orders", Making(**wrong))
    ninja = {**parts, "settings": settings(ninja=Ninja(enabled=True, account="Sim101")), "ninja": object()}
    assert list(make_venues("orders", Making(**ninja))) == ["paper", "ccxt", "ninja"]
    assert list(make_venues("guardian", Making(**ninja))) == ["ccxt"]
    with pytest.raises(ConfigError, match=r"account at NinjaTrader"):
        make("ninja")


def test_no_address_of_the_real_exchange_is_left() -> None:
    session = make(given=settings(venue=VenueSettings(session="ccxt"))).transport.session

    def texts(value: Any) -> list[str]:
        return [value] if isinstance(value, str) else [t for part in value.values() for t in texts(part)]

    assert all("127.0.0.1:1/" in url for url in texts(session.urls["api"]))
    assert session.secret not in repr(make().config)


def test_own_session_uses_the_configured_addresses() -> None:
    real, sim = SessionConfig("k", "s"), SessionConfig("k", "s", rest_url="http://h:1/", ws_url="ws://h:2")
    assert real.own_addresses() == ("https://api.binance.com", "wss://ws-api.binance.com:443/ws-api/v3")
    assert sim.own_addresses() == ("http://h:1", "ws://h:2/ws-api/v3")
    test = SessionConfig("k", "s", rest_url="https://testnet.binance.vision")
    assert test.own_addresses()[1] == "wss://ws-api.testnet.binance.vision/ws-api/v3"


def test_either_session_is_the_venue_named_ccxt() -> None:
    for name in ("binance", "ccxt"):
        assert make(given=settings(venue=VenueSettings(session=name))).name == "ccxt"


def test_the_signature_is_that_of_the_documents() -> None:
    """The example of Binance's WebSocket API documents, "SIGNED request example (HMAC)"."""
    key, secret = (
        "vmPUZE6mv9SD5VNHk4HlWFsOr6aKE2zvsw0MuIgwCIPy6utIco14y7Ju91duEh8A",
        "NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j",
    )
    config = SessionConfig(key, secret, recv_window_ms=100)
    api = SocketApi("ws://x", config, FakeClock(1645423376532 * 10**6), lambda event: None)
    params = {
        "symbol": "BTCUSDT",
        "side": "SELL",
        "type": "LIMIT",
        "timeInForce": "GTC",
        "quantity": "0.01000000",
        "price": "52000.00",
        "newOrderRespType": "ACK",
    }
    assert api.sign(params)["signature"] == "cc15477742bd704c29492d96c7ead9414dfd8e0ec4a00f947bb5bb454ddbd08a"


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (calls.PLACE, "private_post_order"),
        (calls.PLACE_OCO, "private_post_orderlist_oco"),
        (calls.TIME, "public_get_time"),
        (calls.DEPOSITS, "sapi_get_capital_deposit_hisrec"),
        (calls.RIGHTS, "sapi_get_account_apirestrictions"),
    ],
)
def test_calls_have_the_names_of_ccxt(call: calls.VenueCall, name: str) -> None:
    assert call.ccxt == name


@pytest.mark.parametrize(
    ("text", "wait_s"), [("7", 7.0), ("0", 0.0), ("inf", None), ("nan", None), ("-1", None), ("soon", None)]
)
def test_retry_after_is_a_time(text: str, wait_s: float | None) -> None:
    wire = CallCourse()
    wire.note(429, "{}", {"Retry-After": text})
    assert wire.retry_after_s == wait_s
