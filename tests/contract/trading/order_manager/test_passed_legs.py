"""A leg that the venue refused because the market has passed its price is closed at the market once, in its own role."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal

import pytest

from fks.clock import RealClock
from fks.model.margin import Margin
from fks.model.order import Answer, Order, OrderType, Refusal, Side, State
from fks.model.signal import Kind
from fks.store.bus import Bus
from fks.store.db import Database
from fks.trading.matching.costs import CostModel
from fks.trading.orders.crash_points import nowhere
from fks.trading.venues.binance.config import SessionConfig
from fks.trading.venues.binance.session import BinanceVenue
from fks.trading.venues.paper import PaperVenue
from tests.support.crash_points import CrashPoints
from tests.support.invariants import assert_once
from tests.support.local_exchange import LocalExchange
from tests.support.order_rig import Rig, seed
from tests.support.ports import CollectingLog
from tests.support.scripted_venue import ScriptedVenue
from tests.support.sim_process import SAMPLE
from tests.support.waiting import until

D = Decimal


async def legs(rig: Rig) -> list[tuple[str, str, str]]:
    """Return role, type and state of all legs, oldest first."""
    rows = await rig.db.sql(
        "SELECT role, type, state FROM orders WHERE parent_id IS NOT NULL ORDER BY created_at, attempt, role"
    )
    return [(row["role"], row["type"], row["state"]) for row in rows]


async def closed(rig: Rig, deadline_s: float = 5.0) -> list[tuple[str, str]]:
    """Wait until a leg has executed; return role and type of all that did."""

    async def found() -> list[tuple[str, str]]:
        return [(role, type_) for role, type_, state in await legs(rig) if state == "FILLED"]

    return await until(found, deadline_s=deadline_s)  # type: ignore[return-value]


# ── a venue in memory whose price is back at 100 ─────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("exits", "refusal", "role"),
    [
        ({"stop_loss": D(90)}, "would_trigger", "sl"),
        ({"stop_loss": D(90), "take_profit": D(120)}, "would_trigger", "sl"),
        ({"stop_loss": D(90), "take_profit": D(102)}, "would_trigger", "tp"),
        ({"stop_loss": D(90), "take_profit": D(120)}, "would_match", "tp"),
        ({"take_profit": D(120)}, "would_match", "tp"),
    ],
)
async def test_a_passed_leg_is_closed_although_the_price_came_back(
    rig: Rig, audited: None, exits: dict[str, Decimal], refusal: str, role: str
) -> None:
    """Of a pair that was refused as a whole it is the leg nearer to the price."""
    rig.venue.script.extend(["ok", f"refuse:-2010:{refusal}"])
    await rig.outcome(await rig.signal(**exits))
    assert await closed(rig) == [(role, "market")]
    await until(lambda: rig.venue.totals["BTC"] == 0)
    assert rig.venue.live() == []
    assert_once(rig.venue.received)


async def test_a_venue_that_gives_no_price_does_not_hold_up_the_close(rig: Rig, audited: None) -> None:
    """Its price gives the close of a pair its role; the close is due within a second."""

    async def silent(symbol: str) -> Decimal | None:
        return await asyncio.get_running_loop().create_future()

    rig.venue.last_price = silent  # type: ignore[method-assign]
    rig.venue.script.extend(["ok", "refuse:-2010:would_trigger"])
    await rig.outcome(await rig.signal(stop_loss=D(90), take_profit=D(120)))
    assert await closed(rig, 1.0 + 5.0) == [("sl", "market")]


async def test_a_triggered_stop_that_expired_is_closed_at_a_better_price_too(rig: Rig, audited: None) -> None:
    await rig.outcome(await rig.signal(stop_loss=D(90)))
    await until(lambda: len(rig.venue.live()) == 1)
    rig.venue.end(rig.venue.live()[0], State.EXPIRED, ("EXECUTION_RULE_PRICE_RANGE_EXCEEDED", Refusal.PRICE))
    await until(lambda: rig.position_is(D(0)))
    assert await legs(rig) == [("sl", "stop", "EXPIRED"), ("sl", "market", "FILLED")]


@pytest.mark.parametrize("answer", ["refuse:-1003", "expire", "lost", "unheard"])
async def test_a_close_that_did_not_execute_is_followed_by_another(rig: Rig, audited: None, answer: str) -> None:
    rig.venue.script.extend(["ok", "refuse:-2010:would_trigger", answer])
    await rig.outcome(await rig.signal(stop_loss=D(90)))
    assert await closed(rig) == [("sl", "market")]
    await until(lambda: rig.venue.totals["BTC"] == 0)
    assert [held.order.type for held in rig.venue.by_role("sl")] == [OrderType.MARKET] * (1 + (answer == "expire"))
    assert_once(rig.venue.received)


@pytest.mark.parametrize("refused", [0, 1])
async def test_a_close_is_split_at_the_market_lot(rig: Rig, audited: None, refused: int) -> None:
    """A venue that refuses one part, since it got too many requests, gets no other until the wait is over."""
    await rig.outcome(await rig.signal(stop_loss=D(90)))
    await until(lambda: len(rig.venue.live()) == 1)
    await rig.db.sql("UPDATE instruments SET filters = $1 WHERE symbol = 'BTCUSDT'", {"market_lot": ["0", "4", "0"]})
    await rig.read_slow()
    rig.venue.script.extend(["refuse:-1003"] * refused)
    rig.venue.end(rig.venue.live()[0], State.EXPIRED, ("EXECUTION_RULE_PRICE_RANGE_EXCEEDED", Refusal.PRICE))
    await until(lambda: rig.position_is(D(0)))
    assert [held.order.quantity for held in rig.venue.by_role("sl")][1:] == [D("3.33")] * 3
    closes = [("sl", "market", "REJECTED")] * refused + [("sl", "market", "FILLED")] * 3
    assert await legs(rig) == [("sl", "stop", "EXPIRED"), *closes]
    assert_once(rig.venue.received)


@pytest.mark.parametrize(
    ("label", "count"),
    [
        ("ack.after", 2),
        ("place.before", 3),
        ("place.after", 3),
        ("send.before", 3),
        ("send.after", 3),
        ("ack.before", 3),
    ],
)
async def test_a_kill_between_refusal_and_close_ends_in_one_close(
    idle: Rig, audited: None, label: str, count: int
) -> None:
    """The second order is the stop, whose refusal is in the journal; the third one closes."""
    died = asyncio.Event()

    def die() -> None:
        assert idle.task is not None
        idle.task.cancel()
        died.set()

    idle.at = CrashPoints(label, count, die)
    idle.venue.script.extend(["ok", "refuse:-2010:would_trigger"])
    rig = await idle.start()
    await rig.signal(stop_loss=D(90))
    await asyncio.wait_for(died.wait(), 10)
    await rig.restart(at=nowhere)
    assert await closed(rig) == [("sl", "market")]
    await until(lambda: rig.position_is(D(0)))
    assert [held.order.type for held in rig.venue.by_role("sl")] == [OrderType.MARKET]
    assert_once(rig.venue.received)


@pytest.mark.parametrize(
    "step",
    [
        "refuse:-2010:insufficient_balance",
        "refuse:-2010:would_match",
        "refuse:-1013:price",
        "refuse:-1013:halted",
        "refuse:-1003:rate_limited",
        "refuse:-2010:other",
        "refuse:VENUE_DOWN",
        "lost",
        "exists",
    ],
)
async def test_a_refusal_for_another_reason_closes_nothing(rig: Rig, audited: None, step: str) -> None:
    rig.venue.script.extend(["ok", step])
    await rig.outcome(await rig.signal(stop_loss=D(90)))
    await until(lambda: len(rig.venue.live()) == 1, deadline_s=15)
    assert {type_ for _, type_, _ in await legs(rig)} == {"stop"}
    assert await rig.position_is(D("9.99"))
    assert_once(rig.venue.received)


@pytest.mark.parametrize("kind", ["exit", "kill"])
async def test_an_exit_or_kill_beside_a_close_sells_nothing_twice(idle: Rig, audited: None, kind: str) -> None:
    """The close has executed, and nothing shows it until the other one has begun."""
    idle.venue.locks_base = True
    idle.venue.script.extend(["ok", "refuse:-2010:would_trigger", "unheard"])
    rig = await idle.start()
    rig.venue.streams_fills, rig.venue.history_hidden, rig.venue.outages["query"] = False, True, 1_000_000
    await rig.outcome(await rig.signal(stop_loss=D(90)))
    (close,) = await until(lambda: rig.venue.by_role("sl"))
    await rig.becomes(close.order.client_order_id, State.UNKNOWN)
    if kind == "exit":
        await rig.signal(Kind.EXIT)
        await until(lambda: rig.db.sql("SELECT 1 FROM orders WHERE role = 'sl' AND request = 'cancel_wanted'"))
    else:
        rig.killed = True
        await rig.bus.publish("fks.kill", {"type": "kill"})
        await until(lambda: rig.service.cache.is_killed)
    assert await rig.state(close.order.client_order_id) is State.UNKNOWN
    rig.venue.history_hidden, rig.venue.outages["query"] = False, 0
    await until(lambda: rig.position_is(D(0)), deadline_s=10)
    sold = [trade.quantity for trade in rig.venue.trades if trade.side is Side.SELL]
    assert sum(sold) == D("9.99")
    assert_once(rig.venue.received)
    assert len(rig.venue.received) == 3, "the venue would have refused a second sale"


async def test_a_passed_stop_of_one_entry_leaves_the_other_entry_its_stop(rig: Rig, audited: None) -> None:
    """The price is back: no more than the refused stop was for is closed, and what is left is the other entry's."""
    rig.venue.fee_rate = D(0)
    values = {"source": "principal:me", "instance": "", "timeframe": None, "side": Side.BUY}
    await rig.outcome(await rig.signal(Kind.ORDER, size=D(5), stop_loss=D(90), **values))
    await until(lambda: len(rig.venue.live()) == 1)
    rig.venue.script.extend(["ok", "refuse:-2010:would_trigger"])
    await rig.outcome(await rig.signal(Kind.ORDER, size=D(3), stop_loss=D(95), **values))
    assert await closed(rig) == [("sl", "market")]
    await until(lambda: rig.position_is(D(5), instance=""))
    await rig.outcome(await rig.signal(Kind.ORDER, size=D(1), stop_loss=D(80), **values))
    await until(lambda: len(rig.venue.live()) == 2)
    stops = {(held.order.stop_price, held.order.quantity) for held in rig.venue.live()}
    assert stops == {(D(90), D(5)), (D(80), D(1))}
    assert rig.venue.totals["BTC"] == D(6)
    assert_once(rig.venue.received)


async def test_a_backup_of_before_the_close_sells_nothing_twice(rig: Rig) -> None:
    """The next id of the entry's legs is the close's: the venue is asked about it first."""
    rig.venue.script.extend(["ok", "refuse:-2010:would_trigger"])
    await rig.outcome(await rig.signal(stop_loss=D(90)))
    assert await closed(rig) == [("sl", "market")]  # before its entry is booked the position is 0 as well
    assert await rig.position_is(D(0))
    await rig.crash()
    ids = [held.order.client_order_id for held in rig.venue.by_role("sl")]
    assert len(ids) == 1
    rig.venue.queried.clear()
    for table in ("order_events", "trades", "orders"):
        await rig.db.sql(f"DELETE FROM {table} WHERE client_order_id = ANY($1::text[])", ids)
    await rig.db.sql("UPDATE positions SET quantity = 9.99, average_price = 100")
    assert await rig.position_is(D("9.99"))
    await rig.restart(ask_before_ns=RealClock().now_ns())
    await until(lambda: rig.position_is(D(0)), deadline_s=10)
    assert ids[0] in rig.venue.queried
    assert rig.venue.totals["BTC"] == 0
    assert_once(rig.venue.received)
    assert await legs(rig) == [("sl", "stop", "REJECTED"), ("sl", "market", "FILLED")]


# ── paper on quotes ──────────────────────────────────────────────────────────────────────────────
class GappingPaper(PaperVenue):
    """Paper whose market is at `quote` as soon as an entry has filled."""

    quote: tuple[str, str] | None = None

    async def submit(self, order: Order) -> Answer:
        answer = await super().submit(order)
        if self.quote is not None and order.parent_id is None:
            bid, ask = map(D, self.quote)
            self.on_quote(order.symbol, bid, ask, at_ns=RealClock().now_ns())
        return answer


@pytest.fixture
async def paper(database: Database, bus: Bus) -> AsyncIterator[tuple[Rig, GappingPaper]]:
    """A rig on paper that meets quotes, on margin; the price is 100."""
    await seed(database, instances=())
    venue = GappingPaper(
        (),
        CostModel(D("0.001"), "quote"),
        {},
        RealClock(),
        mode="last",
        price_age_max_s=15.0,
        margin=Margin.parse("0.1/0.05"),
        can_short=True,
    )
    rig = await Rig(database, bus, ScriptedVenue(), venues={"paper": venue}).start()
    yield rig, venue
    await rig.stop()


@pytest.mark.parametrize(
    ("side", "exits", "quote", "role", "price"),
    [
        (Side.BUY, {"stop_loss": D(95)}, ("94.8", "95.4"), "sl", "94.8"),
        (Side.BUY, {"stop_loss": D(95), "take_profit": D(105)}, ("94.8", "95.4"), "sl", "94.8"),
        (Side.BUY, {"stop_loss": D(95), "take_profit": D(105)}, ("106", "106.2"), "tp", "106"),
        (Side.SELL, {"stop_loss": D(105)}, ("104.6", "105.2"), "sl", "105.2"),
        (Side.SELL, {"stop_loss": D(105), "take_profit": D(95)}, ("104.6", "105.2"), "sl", "105.2"),
        (Side.SELL, {"stop_loss": D(105), "take_profit": D(95)}, ("93.8", "94"), "tp", "94"),
    ],
)
async def test_a_leg_that_a_quote_has_passed_is_closed_on_paper(
    paper: tuple[Rig, GappingPaper],
    side: Side,
    exits: dict[str, Decimal],
    quote: tuple[str, str],
    role: str,
    price: str,
) -> None:
    """The middle of the quote has not passed the stop."""
    rig, venue = paper
    venue.quote = quote
    values = {"account_id": 2, "venue": "paper", "source": "principal:me", "instance": "", "timeframe": None}
    await rig.outcome(await rig.signal(Kind.ORDER, side=side, size=D(2), **values, **exits))
    assert await closed(rig) == [(role, "market")]
    await until(lambda: rig.position_is(D(0), ""))
    rows = await rig.db.sql("SELECT price FROM trades ORDER BY id")
    assert [row["price"] for row in rows] == [D(100), D(price)]


# ── the local exchange over real sockets ─────────────────────────────────────────────────────────
@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalExchange]:
    """An exchange whose market stands still."""
    flags = ("--rate-limits", "off", "--balance", "USDT=1000000", "--tape", str(SAMPLE), "--hold")
    found = LocalExchange(tmp_path_factory.mktemp("exchange"), flags).start()
    yield found
    found.stop()


@pytest.mark.parametrize("is_listed", [False, True])
@pytest.mark.parametrize(
    ("mark", "exits", "role"),
    [
        ("1.02", {"stop_loss": "1.01"}, "sl"),
        ("1.02", {"stop_loss": "1.01", "take_profit": "1.04"}, "sl"),
        ("0.997", {"stop_loss": "0.95", "take_profit": "0.998"}, "tp"),
        ("0.997", {"take_profit": "0.998"}, "tp"),
    ],
)
async def test_a_leg_that_the_entry_has_passed_is_closed_over_real_sockets(
    database: Database,
    bus: Bus,
    exchange: LocalExchange,
    is_listed: bool,
    mark: str,
    exits: dict[str, str],
    role: str,
) -> None:
    """The market has moved away from the price at which the entry was decided: `mark` and exits as parts of it."""
    await seed(database)
    info = exchange.info
    addresses = {"rest_url": info["rest"], "ws_url": info["ws"], "ws_api_url": info["ws_api"]}
    config = SessionConfig(info["api_key"], info["api_secret"], order_timeout_s=1.0, read_timeout_s=3.0, **addresses)
    venue = BinanceVenue(config, RealClock(), CollectingLog())
    price = await venue.last_price("BTCUSDT")
    assert price is not None
    await database.sql(
        "UPDATE instruments SET lot_step = 0.00001, qty_min = 0.00001, filters = $1 WHERE symbol = 'BTCUSDT'",
        {"has_oto": is_listed, "has_opo": is_listed},
    )
    await database.sql("UPDATE feeds SET last_price = $1 WHERE symbol = 'BTCUSDT'", price * D(mark))
    rig = await Rig(database, bus, ScriptedVenue(), venues={"ccxt": venue}).start()
    try:
        at = {name: (price * D(part)).quantize(D("0.01")) for name, part in exits.items()}
        signal = await rig.signal(reference_price=price * D(mark), size=D("0.02"), **at)
        assert await rig.outcome(signal) == ("ordered", None)
        assert [found for found, _ in await closed(rig, 10.0)] == [role]
        sold = [row for row in exchange.account()["orders"] if row["side"] == "SELL" and D(row["executedQty"])]
        assert_once(row["clientOrderId"] for row in sold)
        held = await rig.position()
        assert held < D("0.00001")
    finally:
        await rig.stop()
        await venue.close()
