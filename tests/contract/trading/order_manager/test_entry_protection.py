"""`venue.entry_protection = "venue"`: the venue holds SL and TP from the entry on. The order service on the local
exchange over real sockets; the exchange is the witness."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Any

import pytest

from fks.clock import RealClock
from fks.model.order import OrderType, State, TimeInForce
from fks.model.signal import Kind
from fks.store.bus import Bus
from fks.store.db import Database
from fks.trading.venues.binance.config import SessionConfig
from fks.trading.venues.binance.session import BinanceVenue
from tests.support.local_exchange import LocalExchange
from tests.support.order_rig import FAST, Rig, seed
from tests.support.ports import CollectingLog
from tests.support.scripted_venue import ScriptedVenue
from tests.support.sim_process import SAMPLE
from tests.support.waiting import until

D = Decimal
SETTINGS = FAST.model_copy(update={"venue": FAST.venue.model_copy(update={"entry_protection": "venue"})})
LISTS = ("/api/v3/orderList/oto", "/api/v3/orderList/otoco", "/api/v3/orderList/opo", "/api/v3/orderList/opoco")
ALLOWED = {"oto_allowed": True, "opo_allowed": True, "oco_allowed": True, "status": "TRADING", "notional_min": "5"}


@pytest.fixture
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalExchange]:
    found = LocalExchange(tmp_path_factory.mktemp("exchange"), ("--rate-limits", "off", "--seed", "3")).start()
    yield found
    found.stop()


def session(exchange: LocalExchange) -> BinanceVenue:
    info = exchange.info
    addresses = {"rest_url": info["rest"], "ws_url": info["ws"], "ws_api_url": info["ws_api"]}
    config = SessionConfig(info["api_key"], info["api_secret"], order_timeout_s=1.0, read_timeout_s=3.0, **addresses)
    return BinanceVenue(config, RealClock(), CollectingLog())


@pytest.fixture
def taped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalExchange]:
    """An exchange whose market stands still until it is told to go on, with coins that no order of the tests bought."""
    flags = ("--rate-limits", "off", "--balance", "USDT=1000000", "--tape", str(SAMPLE), "--hold")
    found = LocalExchange(tmp_path_factory.mktemp("exchange"), flags).start()
    found.ask("POST", "/sim/transfers", {"kind": "deposit", "asset": "BTC", "amount": "1"})
    yield found
    found.stop()


@pytest.fixture
async def wire(database: Database, bus: Bus, exchange: LocalExchange) -> AsyncIterator[Rig]:
    """A running rig whose venue takes lists."""
    async for rig in running(database, bus, exchange):
        yield rig


@pytest.fixture
async def at_rest(database: Database, bus: Bus, taped: LocalExchange) -> AsyncIterator[Rig]:
    """A running rig at the exchange whose market stands still."""
    async for rig in running(database, bus, taped):
        yield rig


async def running(database: Database, bus: Bus, exchange: LocalExchange) -> AsyncIterator[Rig]:
    await seed(database)
    venue = session(exchange)
    price = await venue.last_price("BTCUSDT")
    await database.sql(
        "UPDATE instruments SET lot_step = 0.00001, qty_min = 0.00001, filters = $1 WHERE symbol = 'BTCUSDT'",
        {"has_oto": True, "has_opo": True},
    )
    await database.sql("UPDATE feeds SET last_price = $1 WHERE symbol = 'BTCUSDT'", price)
    rig = Rig(database, bus, ScriptedVenue(), settings=SETTINGS, venues={"ccxt": venue})
    await rig.start()
    yield rig
    await rig.stop()


async def price_of(rig: Rig) -> Decimal:
    price = await rig.venues["ccxt"].last_price("BTCUSDT")  # type: ignore[index]
    assert price is not None
    return price


async def enter(rig: Rig, **changes: Any) -> str:
    """Send an entry with SL and TP 10 % away and return its id once it is ordered."""
    price = await price_of(rig)
    at = {"reference_price": price, "stop_loss": price * D("0.9"), "take_profit": price * D("1.1")}
    signal = await rig.signal(**at | changes)
    assert (await rig.outcome(signal)) == ("ordered", None)
    return (await rig.entry(signal)).client_order_id


def posts(exchange: LocalExchange) -> list[str]:
    """Return the requests for orders, in their order."""
    rows = exchange.received()
    return [row["path"].rsplit("/", 1)[1] for row in rows if row["method"] == "POST" and "order" in row["path"]]


async def legs(rig: Rig, entry: str) -> dict[tuple[str, int], tuple[str, str | None, Decimal]]:
    """Return the entry's legs by role and attempt: state, code, quantity."""
    rows = await rig.db.sql("SELECT role, attempt, state, code, quantity FROM orders WHERE parent_id = $1", entry)
    return {(row["role"], row["attempt"]): (row["state"], row["code"], row["quantity"]) for row in rows}


async def rest(rig: Rig, entry: str, attempt: int = 0) -> Decimal:
    """Wait until both legs of an attempt rest at the venue and return their quantity."""

    async def found() -> Decimal | None:
        seen = await legs(rig, entry)
        stop, limit = seen.get(("sl", attempt)), seen.get(("tp", attempt))
        if stop is None or limit is None or (stop[:2], limit[:2]) != (("ACCEPTED", None), ("WORKING", None)):
            return None
        return stop[2] if stop[2] == limit[2] else None

    return await until(found, deadline_s=10)  # type: ignore[return-value]


def stops(exchange: LocalExchange) -> Decimal:
    """Return what live stops at the exchange cover."""
    open_orders = exchange.account()["open_orders"]
    return sum(
        (D(row["origQty"]) for row in open_orders if row["type"] == "STOP_LOSS" and row["status"] == "NEW"), D(0)
    )


async def test_a_market_entry_and_its_exits_are_one_request(wire: Rig, exchange: LocalExchange) -> None:
    entry = await enter(wire)
    order = await wire.becomes(entry, State.FILLED)
    assert (order.type, order.time_in_force) == (OrderType.LIMIT, TimeInForce.FOK)
    assert "0.5 % beyond the decision's" in (order.detail or "")
    covered = await rest(wire, entry)
    held = await wire.position()
    assert covered == held.quantize(D("0.00001"), rounding="ROUND_DOWN") == stops(exchange)
    assert posts(exchange) == ["opoco"]
    out = await wire.signal(Kind.EXIT)
    assert await wire.outcome(out) == ("ordered", None)
    await wire.becomes((await wire.entry(out)).client_order_id, State.FILLED)
    assert exchange.account()["open_orders"] == []


@pytest.mark.parametrize("alone", ["stop_loss", "take_profit"])
async def test_a_single_exit_goes_with_its_entry(wire: Rig, exchange: LocalExchange, alone: str) -> None:
    other = {"stop_loss": "take_profit", "take_profit": "stop_loss"}[alone]
    entry = await enter(wire, **{other: None})
    await wire.becomes(entry, State.FILLED)

    async def is_there() -> bool:
        found = await legs(wire, entry)
        return [leg[:2] for leg in found.values()] in ([("ACCEPTED", None)], [("WORKING", None)])

    await until(is_there)
    assert posts(exchange) == ["opo"]


async def test_a_symbol_without_opo_gets_exits_of_a_fixed_size(wire: Rig, exchange: LocalExchange) -> None:
    await wire.db.sql("UPDATE instruments SET filters = $1 WHERE symbol = 'BTCUSDT'", {"has_oto": True})
    await wire.read_slow()
    entry = await enter(wire)
    await wire.becomes(entry, State.FILLED)
    held = await wire.position()
    assert await rest(wire, entry) == held.quantize(D("0.00001"), rounding="ROUND_DOWN")
    assert posts(exchange) == ["otoco"]


async def test_exits_have_a_fixed_size_where_the_account_can_pay_the_fee(wire: Rig, exchange: LocalExchange) -> None:
    """The exchange takes the commission from the free balance there: exits that sell what was received would sell more
    than the position, at the cost of what others hold."""
    exchange.ask("POST", "/sim/transfers", {"kind": "deposit", "asset": "BTC", "amount": "1"})
    await until(lambda: "BTC" in wire.service.cache.balances["ccxt"])
    entry = await enter(wire)
    await wire.becomes(entry, State.FILLED)
    held = await wire.position()
    assert await rest(wire, entry) == held.quantize(D("0.00001"), rounding="ROUND_DOWN") == stops(exchange)
    assert posts(exchange) == ["otoco"]
    assert exchange.received(path="/api/v3/order/amend/keepPriority") == []


async def test_an_entry_beyond_its_collar_expires_and_says_so(wire: Rig, exchange: LocalExchange) -> None:
    price = await price_of(wire)
    entry = await enter(wire, reference_price=price * D("0.95"))
    order = await wire.becomes(entry, State.EXPIRED)
    assert order.code == "UNFILLED_FOK_ORDER_EXPIRED"
    assert "a market entry that may cost" in (order.detail or "")

    async def ended() -> bool:
        return {leg[0] for leg in (await legs(wire, entry)).values()} == {"EXPIRED"}

    await until(ended)
    assert await wire.position() == 0
    assert posts(exchange) == ["opoco"]
    assert await wire.db.sql("SELECT 1 FROM alerts WHERE severity = 'page'") == []


async def test_a_market_entry_without_protection_stays_one(wire: Rig, exchange: LocalExchange) -> None:
    entry = await enter(wire, stop_loss=None, take_profit=None)
    assert (await wire.becomes(entry, State.FILLED)).type is OrderType.MARKET
    assert posts(exchange) == ["order"]


async def test_parts_of_a_resting_entry_are_covered_until_the_last_one(wire: Rig, exchange: LocalExchange) -> None:
    """The first half fills, then the other: the parts are protected locally, since the venue's exits wait."""
    price = (await price_of(wire)).quantize(D("0.01"))
    exchange.fault("thin_book", symbol="BTCUSDT", count=1)
    limit = {"type": OrderType.LIMIT, "limit_price": price * D("1.002"), "size": D("0.02")}
    entry = await enter(wire, **limit)
    await wire.becomes(entry, State.FILLED)
    assert posts(exchange)[0] == "otoco"

    async def is_covered() -> bool:
        held = (await wire.position()).quantize(D("0.00001"), rounding="ROUND_DOWN")
        return held - D("0.00001") <= stops(exchange) <= held

    await until(is_covered, deadline_s=10)
    exits = [o for o in exchange.account()["orders"] if o["side"] == "SELL" and D(o["executedQty"])]
    assert exits == []


async def enter_half(rig: Rig, exchange: LocalExchange, **changes: Any) -> str:
    """Send an entry of which a half fills; the rest waits in the book."""
    price = (await price_of(rig)).quantize(D("0.01"))
    exchange.fault("thin_book", symbol="BTCUSDT", count=1)
    limit = {"type": OrderType.LIMIT, "limit_price": price * D("1.002"), "time_in_force": TimeInForce.GTC}
    entry = await enter(rig, **limit | {"size": D("0.02")} | changes)
    assert posts(exchange)[0] in ("otoco", "oto")
    return entry


def bought(exchange: LocalExchange) -> Decimal:
    """Return what the entry brought, net of its fee."""
    return D(exchange.free("BTC")) + locked(exchange) - 1


def locked(exchange: LocalExchange) -> Decimal:
    """Return what all orders at the exchange would sell."""
    return sum((D(row["locked"]) for row in exchange.account()["balances"] if row["asset"] == "BTC"), D(0))


@pytest.mark.parametrize("alone", [None, "stop_loss", "take_profit"])
async def test_an_entry_that_fills_while_all_is_dead_sells_no_other_coins(
    at_rest: Rig, taped: LocalExchange, alone: str | None
) -> None:
    """A part was covered locally; then the rest fills and the exchange puts the waiting exits on the book."""
    other = {"stop_loss": "take_profit", "take_profit": "stop_loss"}.get(alone or "")
    entry = await enter_half(at_rest, taped, **({} if other is None else {other: None}))
    await until(lambda: locked(taped) == bought(taped) == D("0.00999"))
    await at_rest.stop()
    taped.ask("POST", "/sim/tape/advance", {"bars": 1})
    (order,) = [row for row in taped.account()["orders"] if row["clientOrderId"] == entry]
    assert order["status"] == "FILLED"
    assert bought(taped) == D("0.01998")
    assert locked(taped) == D("0.01998")
    await at_rest.restart(venues={"ccxt": session(taped)})
    await at_rest.becomes(entry, State.FILLED)
    assert locked(taped) == D("0.01998")


async def test_no_close_leaves_while_waiting_exits_would_sell_other_coins(at_rest: Rig, taped: LocalExchange) -> None:
    """Neither the amendment of the waiting exits nor the cancel of their entry arrives; then all is dead, and the rest
    of the entry fills."""
    taped.fault("drop", path="/api/v3/order/amend/keepPriority", method="PUT", count=1000)
    taped.fault("drop", path="/api/v3/order", method="DELETE", count=1000)
    entry = await enter_half(at_rest, taped)
    await at_rest.becomes(entry, State.PARTIAL)
    out = await at_rest.signal(Kind.EXIT)
    await until(lambda: len(taped.received(path="/api/v3/order", method="DELETE")) >= 2, deadline_s=10)
    await at_rest.stop()
    taped.clear()
    taped.ask("POST", "/sim/tape/advance", {"bars": 1})
    (order,) = [row for row in taped.account()["orders"] if row["clientOrderId"] == entry]
    assert order["status"] == "FILLED"
    assert locked(taped) == bought(taped) == D("0.01998")
    await at_rest.restart(venues={"ccxt": session(taped)})
    assert await at_rest.outcome(out) == ("ordered", None)
    await until(lambda: at_rest.position_is(D(0)), deadline_s=15)
    assert locked(taped) == bought(taped) == 0


async def test_a_list_whose_exits_cannot_be_reduced_ends_with_its_first_part(
    at_rest: Rig, taped: LocalExchange
) -> None:
    taped.ask("POST", "/sim/filters", {"symbol": "BTCUSDT", "amend_allowed": False})
    entry = await enter_half(at_rest, taped)
    order = await at_rest.becomes(entry, State.CANCELLED)
    assert order.filled == D("0.01")
    await until(lambda: locked(taped) == bought(taped) == D("0.00999"))


@pytest.mark.parametrize("kind", ["accept_then_cut", "drop"])
async def test_a_list_without_an_answer_is_queried_and_never_sent_again(
    wire: Rig, exchange: LocalExchange, kind: str
) -> None:
    exchange.fault(kind, path="/api/v3/orderList/opoco", method="POST", count=1)
    entry = await enter(wire)
    order = await wire.becomes(entry, State.FILLED, State.ABSENT)
    ids = [entry, *(row["client_order_id"] for row in await wire.db.sql(
        "SELECT client_order_id FROM orders WHERE parent_id = $1", entry))]  # fmt: skip
    assert len(ids) == 3
    if order.state is State.FILLED:
        await rest(wire, entry)
    else:
        for name in ids[1:]:
            await wire.becomes(name, State.ABSENT)
    assert posts(exchange) == ["opoco"]
    assert len(await legs(wire, entry)) == 2
    asked = {row["params"].get("origClientOrderId") for row in exchange.received(path="/api/v3/order", method="GET")}
    assert set(ids) <= asked


async def test_the_exits_are_known_again_after_a_crash(wire: Rig, exchange: LocalExchange) -> None:
    entry = await enter(wire)
    await wire.becomes(entry, State.FILLED)
    await rest(wire, entry)
    await wire.restart(venues={"ccxt": session(exchange)})
    await rest(wire, entry)
    assert len(await legs(wire, entry)) == 2
    assert posts(exchange) == ["opoco"]


async def test_exits_refused_after_the_fill_are_placed_locally(wire: Rig, exchange: LocalExchange) -> None:
    """Filters of exits that sell what was received are looked at after the fill: here a least notional that the entry
    reaches at its limit, and the stop at the market's average does not, however far both move meanwhile."""
    price, size = await price_of(wire), D("0.02")
    least = price * size * D("1.04")
    exchange.ask("POST", "/sim/filters", {"symbol": "BTCUSDT", "notional_min": f"{least:.2f}"})
    limit = {"type": OrderType.LIMIT, "limit_price": (price * D("1.05")).quantize(D("0.01"))}
    entry = await enter(wire, size=size, time_in_force=TimeInForce.FOK, **limit)
    await wire.becomes(entry, State.FILLED)

    async def tried_again() -> bool:
        return (await legs(wire, entry)).get(("sl", 1), ("", None, D(0)))[0] == "REJECTED"

    await until(tried_again)
    seen = await legs(wire, entry)
    assert {seen["sl", 0][0], seen["tp", 0][0]} == {"EXPIRED"}
    assert "REJECTED" in {seen["sl", 0][1], seen["tp", 0][1]}
    exchange.ask("POST", "/sim/filters", {"symbol": "BTCUSDT", "notional_min": "5"})
    net = (await wire.position()).quantize(D("0.00001"), rounding="ROUND_DOWN")
    await until(lambda: stops(exchange) == net)
    assert posts(exchange).count("opoco") == 1


async def test_an_exit_ends_a_resting_entry_and_what_waits_for_it(wire: Rig, exchange: LocalExchange) -> None:
    price = (await price_of(wire)).quantize(D("0.01"))
    entry = await enter(wire, type=OrderType.LIMIT, limit_price=price * D("0.95"), size=D("0.02"))
    await wire.becomes(entry, State.WORKING)

    async def waits() -> bool:
        return {leg[:2] for leg in (await legs(wire, entry)).values()} == {("ACCEPTED", "PENDING")}

    await until(waits)
    assert await wire.outcome(await wire.signal(Kind.EXIT)) == ("nothing", None)
    await wire.becomes(entry, State.CANCELLED)

    async def ended() -> bool:
        return {leg[0] for leg in (await legs(wire, entry)).values()} == {"CANCELLED"}

    await until(ended)
    assert exchange.account()["open_orders"] == []
