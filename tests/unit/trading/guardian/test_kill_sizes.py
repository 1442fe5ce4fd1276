"""The sizes of a kill's sales; the snapshot that it goes by, and the file that it writes."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path

import pytest

from fks.clock import FakeClock
from fks.model import ids
from fks.model.account import Balance, Environment, VenueIdentity
from fks.model.errors import OutageError
from fks.model.instrument import Lot
from fks.model.order import Lookup, OrderType, Presence, Role, Side
from fks.model.timeframe import NS
from fks.trading.guardian.context import GuardianContext
from fks.trading.guardian.flatten import VenueFlatten
from fks.trading.guardian.journal import ENDED, REFUSED, Asked, KillJournal, kill_mode
from fks.trading.guardian.orders_at_venue import OrdersAtVenue
from fks.trading.guardian.positions import DatabaseSnapshot, Holder, Known, PositionsFile, VenueRules
from fks.trading.guardian.timing import Timing
from fks.trading.orders.messages import KillMode
from tests.support.order_values import a_fill, an_order
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.scripted_venue import SIM, ScriptedVenue

D = Decimal
HOLDER = Holder("ccxt", 1, "BTCUSDT", "s")
RULES = VenueRules("binance", "BTC", "USDT", D("0.001"), D("0.001"), D(5))
OTHER = VenueIdentity(Environment.SIM, "2", "first")


@dataclass
class Locking(ScriptedVenue):
    """A venue that holds a part of each balance for open orders, and counts how often its history was read."""

    locked: dict[str, Decimal] = field(default_factory=dict)
    read: int = 0

    async def balances(self) -> dict[str, Balance]:
        return {
            name: Balance(name, total - self.locked.get(name, D(0)), self.locked.get(name, D(0)))
            for name, total in self.totals.items()
        }

    async def fills_since(self, symbol: str, since_ns: int) -> list:  # type: ignore[type-arg]
        self.read += 1
        return await super().fills_since(symbol, since_ns)


@dataclass
class Closing:
    place: Path
    venue: Locking
    may_act: bool = True
    timing: Timing = field(default_factory=Timing)

    def __post_init__(self) -> None:
        self.clock = FakeClock()
        self.journal = KillJournal(self.place / "kill.jsonl")
        self.journal.engage("k", Asked("system", "", "me", True, self.clock.now_ns()))
        self.saves = 0
        context = GuardianContext(self.clock, CollectingLog(), RecordingMeter(), self.timing)
        orders = OrdersAtVenue(self.venue, context)
        self.flatten = VenueFlatten(context, orders, self.journal, save=self.save, why_not=self.why_not)

    async def save(self) -> None:
        self.saves += 1

    def why_not(self) -> str:
        return "" if self.may_act else "another guardian acts"

    def snapshot(self, quantity: str, rules: VenueRules | None = RULES, **more: object) -> DatabaseSnapshot:
        known = {} if rules is None else {"BTCUSDT": rules}
        return replace(DatabaseSnapshot(self.clock.now_ns(), {HOLDER: D(quantity)}, known, {}, frozenset()), **more)  # type: ignore[arg-type]

    def sold(self) -> list[tuple[str, Decimal]]:
        assert self.journal.record is not None
        return [(item.order.side.value, item.order.quantity) for item in self.journal.record.orders]


@pytest.mark.parametrize(
    ("held", "total", "locked", "rules", "sold", "left"),
    [
        ("0.5", "0.5", "0", RULES, "0.5", "pending"),
        ("0.5", "9", "0", RULES, "0.5", "pending"),  # never more than is ours
        ("0.5", "0.2", "0", RULES, "0.2", "pending"),  # never more than is free
        ("0.5", "0.5", "0.3", RULES, "0.2", "pending"),
        ("0.5", "0.5", "0.5", RULES, None, "pending"),  # held by orders that are being cancelled
        ("0.5", "0", "0", RULES, None, "pending"),  # hidden or gone: flat follows from our own books alone
        ("0.0005", "1", "0", RULES, None, "dust"),  # less than a lot
        ("0.049", "1", "0", RULES, None, "dust"),  # 4.90 USDT, less than the smallest order
        ("0.05", "1", "0", RULES, "0.05", "pending"),  # 5 USDT, just enough
        ("0.0016", "1", "0", replace(RULES, notional_min=D(0)), "0.001", "pending"),  # on the grid of the lot
        ("0.004", "1", "0", replace(RULES, notional_min=D(0), qty_min=D("0.005")), None, "dust"),
        ("0.005", "1", "0", replace(RULES, notional_min=D(0), qty_min=D("0.005")), "0.005", "pending"),
        ("0.9", "1", "0", replace(RULES, qty_max=D("0.4")), "0.3", "pending"),  # as few equal parts as allowed
        ("0.9", "1", "0", replace(RULES, market_lot=Lot(D("0.001"), D("0.5"), D("0.001"))), "0.45", "pending"),
        ("0.5", "1", "0", None, None, "pending"),  # the venue's rules are not known: that is neither flat nor dust
        ("-0.5", "1", "0", RULES, None, "stuck"),  # spot has nothing below zero: a kill buys nothing
        ("0", "1", "0", RULES, None, None),
    ],
)
async def test_a_kill_sells_what_is_ours_and_free_on_the_grid(
    tmp_path: Path, held: str, total: str, locked: str, rules: VenueRules | None, sold: str | None, left: str | None
) -> None:
    now = Closing(tmp_path, Locking(totals={"BTC": D(total), "USDT": D(100)}, locked={"BTC": D(locked)}))
    is_done = await now.flatten.step(now.snapshot(held, rules), set())
    assert now.sold() == ([] if sold is None else [("sell", D(sold))])
    assert [line["kind"] for line in now.flatten.remaining] == ([] if left is None else [left])
    assert is_done is (left != "pending")


@pytest.mark.parametrize(
    ("quote", "locked", "bought"), [("1000", "0", "0.5"), ("30", "0", "0.298"), ("30", "10", "0.199"), ("0", "0", None)]
)
async def test_a_short_position_is_bought_back_with_what_is_free(
    tmp_path: Path, quote: str, locked: str, bought: str | None
) -> None:
    venue = Locking(totals={"BTC": D(0), "USDT": D(quote)}, locked={"USDT": D(locked)})
    venue.capabilities = replace(venue.capabilities, can_short=True)
    now = Closing(tmp_path, venue)
    await now.flatten.step(now.snapshot("-0.5"), set())
    assert now.sold() == ([] if bought is None else [("buy", D(bought))])


async def test_two_holders_do_not_sell_the_same_coins(tmp_path: Path) -> None:
    now = Closing(tmp_path, Locking(totals={"BTC": D("0.6"), "USDT": D(0)}, script=deque(["rest", "rest"])))
    other = replace(HOLDER, instance="t")
    await now.flatten.step(now.snapshot("0.5", positions={HOLDER: D("0.5"), other: D("0.5")}), set())
    assert now.sold() == [("sell", D("0.5")), ("sell", D("0.1"))]


async def test_coins_that_the_venue_does_not_show_are_waited_for_ever_longer(tmp_path: Path) -> None:
    venue = Locking(totals={"BTC": D(0), "USDT": D(0)})
    now = Closing(tmp_path, venue, timing=replace(Timing(), retry_s=1.0, retry_max_s=15.0))
    rests = []
    for _ in range(7):
        assert not await now.flatten.step(now.snapshot("0.5"), set())
        rests.append(now.flatten.rest_s)
    assert rests[0] <= 1.0 < rests[3] <= rests[-1] == 15.0
    venue.totals["BTC"] = D("0.5")
    await now.flatten.step(now.snapshot("0.5"), set())
    assert (now.sold(), now.flatten.rest_s) == ([("sell", D("0.5"))], 0.0)


@dataclass
class Delisting(Locking):
    """A venue that answers nothing about a symbol that it does not know any more (Binance: -1121)."""

    asked: str = "fills_since"

    async def fills_since(self, symbol: str, since_ns: int) -> list:  # type: ignore[type-arg]
        if symbol == "OLDUSDT" and self.asked == "fills_since":
            raise OutageError("-1121: Invalid symbol.")
        return await super().fills_since(symbol, since_ns)

    async def last_price(self, symbol: str) -> Decimal | None:
        if symbol == "OLDUSDT" and self.asked == "last_price":
            raise OutageError("-1121: Invalid symbol.")
        return await super().last_price(symbol)

    async def query(self, symbol: str, client_order_id: str, since_ns: int = 0) -> Lookup:
        if symbol == "OLDUSDT" and self.asked == "query":
            return Lookup(Presence.NO_ANSWER, detail="-1121: Invalid symbol.")
        return await super().query(symbol, client_order_id)


async def test_a_symbol_without_a_price_is_closed_all_the_same(tmp_path: Path) -> None:
    now = Closing(tmp_path, Delisting(totals={"OLD": D(1), "USDT": D(0)}, asked="last_price"))
    held = now.snapshot("0", positions={replace(HOLDER, symbol="OLDUSDT"): D("0.5")})
    await now.flatten.step(replace(held, rules={"OLDUSDT": replace(RULES, base="OLD")}), set())
    assert now.sold() == [("sell", D("0.5"))]


@pytest.mark.parametrize("asked", ["fills_since", "query"])
async def test_a_symbol_without_an_answer_holds_up_no_other(tmp_path: Path, asked: str) -> None:
    now = Closing(tmp_path, Delisting(totals={"BTC": D(1), "OLD": D(1), "USDT": D(0)}, asked=asked))
    old = replace(HOLDER, symbol="OLDUSDT")
    rules = {"BTCUSDT": RULES, "OLDUSDT": replace(RULES, base="OLD")}
    held = now.snapshot("0", positions={old: D(1), replace(HOLDER, symbol="BTCUSDT"): D("0.5")})
    for _ in range(2):
        assert not await now.flatten.step(replace(held, rules=rules), set())
    assert now.sold() == [("sell", D("0.5"))]
    assert [(line["symbol"], line["kind"]) for line in now.flatten.remaining][-1] == ("OLDUSDT", "pending")


# ── the stop, while coins or answers are missing ─────────────────────────────────────────────────
@dataclass
class Silent(Locking):
    """A venue that gives no executions and no price while it is silent, and takes stops."""

    is_silent: bool = True

    async def fills_since(self, symbol: str, since_ns: int) -> list:  # type: ignore[type-arg]
        if self.is_silent:
            raise OutageError("no answer")
        return await super().fills_since(symbol, since_ns)

    async def last_price(self, symbol: str) -> Decimal | None:
        if self.is_silent:
            raise OutageError("no answer")
        return await super().last_price(symbol)


def stopped(now: Closing, quantity: str = "0.5") -> None:
    """Note in the kill's file that it ended a stop of the position."""
    fields = {"type": OrderType.STOP, "role": Role.STOP_LOSS, "stop_price": D(90), "parent_id": "p" * 32}
    stop = an_order(client_order_id="b" * 32, instance="s", side=Side.SELL, quantity=D(quantity), **fields)
    now.journal.stop(stop, now_ns=now.clock.now_ns())


def stops(now: Closing) -> list[Decimal]:
    """Return the sizes of the stops that rest at the venue."""
    return [held.order.quantity for held in now.venue.live() if held.order.type is OrderType.STOP]


async def test_a_symbol_without_answers_has_its_stop_and_pages(tmp_path: Path) -> None:
    now = Closing(tmp_path, Silent(totals={"BTC": D(9), "USDT": D(0)}), timing=replace(Timing(), vain_page=5))
    stopped(now)
    stuck_s = []
    for _ in range(40):
        await now.flatten.step(now.snapshot("0.5"), {"BTCUSDT"})
        assert stops(now) == [D("0.5")]
        assert now.flatten.keeps(now.venue.received[-1]), "it rests until the close can go"
        stuck_s += [now.clock.monotonic()] if now.flatten.stuck else []
        await now.clock.advance(0.5)
    assert (stuck_s[0], stuck_s[-1]) == (15.0, 19.5), "as after five orders that closed nothing"
    assert now.flatten.stuck == {"BTCUSDT": "the venue lacks coins or answers that the close needs"}
    now.venue.is_silent = False  # type: ignore[attr-defined]
    await now.flatten.step(now.snapshot("0.5"), {"BTCUSDT"})
    assert (now.flatten.stuck, now.flatten.keeps(now.venue.received[-1])) == ({}, False)


async def test_a_stop_that_is_refused_is_placed_once_in_each_wait(tmp_path: Path) -> None:
    refusals = deque(["refuse:-2010"] * 99)
    now = Closing(tmp_path, Silent(totals={"BTC": D(9), "USDT": D(0)}, script=refusals))
    stopped(now)
    sent_s = []
    while now.clock.monotonic() < 20:
        known = len(now.venue.received)
        await now.flatten.step(now.snapshot("0.5"), {"BTCUSDT"})
        sent_s += [now.clock.monotonic()] if len(now.venue.received) > known else []
        await now.clock.advance(0.5)
    assert sent_s == [0.0, 1.0, 3.0, 7.0, 15.0]


async def test_a_stop_that_covers_more_than_is_held_ends_and_is_placed_again(tmp_path: Path) -> None:
    now = Closing(tmp_path, Silent(totals={"BTC": D(9), "USDT": D(0)}))
    stopped(now)
    await now.flatten.step(now.snapshot("0.5"), {"BTCUSDT"})
    (first,) = now.venue.live()
    await now.flatten.step(now.snapshot("0.2"), {"BTCUSDT"})
    assert not now.flatten.keeps(first.order.client_order_id)
    await now.venue.cancel(first.order)
    await now.flatten.step(now.snapshot("0.2"), {"BTCUSDT"})
    assert stops(now) == [D("0.2")]
    assert now.flatten.keeps(now.venue.received[-1])


async def test_no_stop_is_placed_beside_a_close_whose_end_is_not_known(tmp_path: Path) -> None:
    """The account has coins of its owner's: the close and the stop might both execute."""
    now = Closing(tmp_path, Silent(totals={"BTC": D(9), "USDT": D(0)}, script=deque(["lost"]), is_silent=False))
    stopped(now)
    await now.flatten.step(now.snapshot("0.5"), {"BTCUSDT"})
    assert [item.outcome for item in now.journal.record.orders] == ["unknown"]  # type: ignore[union-attr]
    now.venue.is_silent = True  # type: ignore[attr-defined]
    for _ in range(20):
        await now.clock.advance(1.0)
        await now.flatten.step(now.snapshot("0.5"), {"BTCUSDT"})
        assert stops(now) == []
    await now.clock.advance(now.timing.history_s)  # its executions are read again, and there is no answer
    for _ in range(2):
        await now.flatten.step(now.snapshot("0.5"), {"BTCUSDT"})
    assert stops(now) == [D("0.5")], "the close is proven absent"


async def test_no_stop_is_placed_beside_an_unclear_exit(tmp_path: Path) -> None:
    now = Closing(tmp_path, Silent(totals={"BTC": D(9), "USDT": D(0)}))
    stopped(now)
    leaving = {"e" * 32: Known(HOLDER, "binance", D(0), "exit", "UNKNOWN")}
    await now.flatten.step(now.snapshot("0.5", orders=leaving), {"BTCUSDT"}, ["e" * 32])
    assert (now.venue.received, [line["kind"] for line in now.flatten.remaining]) == ([], ["pending"])
    await now.flatten.step(now.snapshot("0.5", orders=leaving), {"BTCUSDT"})
    assert stops(now) == [D("0.5")]


async def test_the_symbols_of_a_venue_are_read_at_once(tmp_path: Path) -> None:
    """History and price of the second one are read while the first one's have no answer."""

    @dataclass
    class Together(Locking):
        asked: set[str] = field(default_factory=set)
        all_asked: asyncio.Event = field(default_factory=asyncio.Event)

        async def meet(self, what: str) -> None:
            self.asked.add(what)
            if len([item for item in self.asked if item.startswith(what[:5])]) == 2:
                self.all_asked.set()
            async with asyncio.timeout(5):
                await self.all_asked.wait()

        async def fills_since(self, symbol: str, since_ns: int) -> list:  # type: ignore[type-arg]
            await self.meet(f"fills {symbol}")
            self.all_asked.clear()
            return []

        async def last_price(self, symbol: str) -> Decimal | None:
            await self.meet(f"price {symbol}")
            return D(100)

    now = Closing(tmp_path, Together(totals={"BTC": D(1), "OLD": D(1), "USDT": D(0)}))
    old = replace(HOLDER, symbol="OLDUSDT")
    rules = {"BTCUSDT": RULES, "OLDUSDT": replace(RULES, base="OLD")}
    await now.flatten.step(replace(now.snapshot("0", positions={old: D(1), HOLDER: D(1)}), rules=rules), set())
    assert now.sold() == [("sell", D(1)), ("sell", D(1))]


async def test_a_position_at_another_venue_is_left_to_it(tmp_path: Path) -> None:
    now = Closing(tmp_path, Locking(totals={"BTC": D(1), "USDT": D(0)}))
    assert await now.flatten.step(now.snapshot("0", positions={replace(HOLDER, venue="paper"): D("0.5")}), set())
    assert (now.sold(), now.flatten.remaining) == ([], [])


#: outcomes of submits (`ScriptedVenue.script`) that a market, a rate limit or an account makes, and their refusals
PASSING = ["-2010:unavailable", "-1015:rate_limited", "RATE_VENUE:rate_limited", "418:banned", "-2010:other"]


@pytest.mark.parametrize("refusal", PASSING)
@pytest.mark.parametrize("seconds", [30.0, 120.0])
async def test_a_kill_never_gives_up_while_the_venue_refuses(tmp_path: Path, refusal: str, seconds: float) -> None:
    """The next order goes at growing waits, at most `retry_max_s`; the kill is not done before it is flat."""
    venue = Locking(totals={"BTC": D("0.5"), "USDT": D(0)}, script=deque([f"refuse:{refusal}"] * 999))
    now = Closing(tmp_path, venue, timing=replace(Timing(), retry_s=1.0, retry_max_s=15.0, vain_page=5))
    snapshot, sent_s, stuck_s = now.snapshot("0.5"), [], []
    while now.clock.monotonic() < seconds + 15:
        if now.clock.monotonic() == seconds:
            venue.script.clear()
        known = len(venue.received)
        is_done = await now.flatten.step(snapshot, set())
        if len(venue.received) > known:
            sent_s.append(now.clock.monotonic())
        if now.flatten.stuck:
            stuck_s.append(now.clock.monotonic())
        assert is_done is (venue.totals["BTC"] == 0 and len(venue.received) == known)
        await now.clock.advance(0.5)
    assert sent_s[:8] == [0.0, 1.0, 3.0, 7.0, 15.0, 30.0, 45.0, 60.0][: len(sent_s)]
    assert sent_s[-1] >= seconds, "it went when the market was open again"
    assert (stuck_s[0], stuck_s[-1] < sent_s[-1]) == (15.0, True), "a person looks after the fifth, until it succeeds"
    assert (venue.totals["BTC"], now.flatten.remaining, now.flatten.stuck) == (0, [], {})
    assert len(set(venue.received)) == len(venue.received)


async def test_an_order_that_closed_something_begins_the_count_again(tmp_path: Path) -> None:
    venue = Locking(
        totals={"BTC": D("0.5"), "USDT": D(0)}, script=deque(["refuse:-2010"] * 2 + ["ok"] + ["refuse:-2010"] * 99)
    )
    now = Closing(tmp_path, venue, timing=replace(Timing(), retry_s=1.0, retry_max_s=2.0, vain_page=3))
    snapshot = now.snapshot("0.5")
    for _ in range(5):
        await now.flatten.step(snapshot, set())
        await now.clock.advance(1.0)
    assert venue.totals["BTC"] == 0
    venue.trades.append(
        a_fill(
            99,
            client_order_id=ids.client_order_id(uuid.uuid4(), "entry"),
            quantity=D("0.2"),
            time_ns=now.clock.now_ns(),
        )
    )
    venue.totals["BTC"] = D("0.2")
    assert now.journal.record is not None
    while len(now.journal.record.orders) < 6:
        assert now.flatten.stuck == {}
        await now.clock.advance(1.0)
        is_done = await now.flatten.step(snapshot, set())
    assert [item.outcome for item in now.journal.record.orders] == [REFUSED, REFUSED, ENDED, REFUSED, REFUSED, REFUSED]
    assert now.flatten.stuck == {"BTCUSDT": "3 orders in a row closed nothing"}
    assert ([line["kind"] for line in now.flatten.remaining], is_done) == (["refused"], False)


async def test_one_order_at_a_time_closes_a_position(tmp_path: Path) -> None:
    """An order that works may still fill: no second one before its end."""
    venue = Locking(totals={"BTC": D("0.5"), "USDT": D(0)}, script=deque(["rest"]))
    now = Closing(tmp_path, venue)
    snapshot = now.snapshot("0.5")
    for _ in range(60):  # found each time, so never absent
        assert not await now.flatten.step(snapshot, set())
        await now.clock.advance(2.0)
    assert len(now.sold()) == 1
    held = next(iter(venue.orders.values()))
    venue.fill(held.order.client_order_id, D("0.2"))
    await now.flatten.step(snapshot, set())
    assert now.journal.record is not None
    assert now.journal.record.orders[0].filled == D("0.2")
    venue.fill(held.order.client_order_id, D("0.3"))
    while not await now.flatten.step(snapshot, set()):
        await now.clock.advance(1.0)
    assert (len(now.sold()), venue.totals["BTC"], now.flatten.remaining) == (1, 0, [])


async def test_a_working_order_that_the_venue_finds_no_more_is_not_absent(tmp_path: Path) -> None:
    venue = Locking(totals={"BTC": D("0.5"), "USDT": D(0)}, script=deque(["rest"]))
    now = Closing(tmp_path, venue)
    snapshot = now.snapshot("0.5")
    await now.flatten.step(snapshot, set())
    venue.hidden[now.venue.received[0]] = 10**6
    for _ in range(60):
        await now.clock.advance(2.0)
        assert not await now.flatten.step(snapshot, set())
    assert len(now.sold()) == 1


async def test_what_a_kill_sold_is_gone_where_the_snapshot_has_no_such_holder(tmp_path: Path) -> None:
    """The coins that are left are another's: nothing more is sold."""
    now = Closing(tmp_path, Locking(totals={"BTC": D(9), "USDT": D(0)}))
    await now.flatten.step(now.snapshot("0.5"), set())
    await now.clock.advance(1.0)
    await now.flatten.step(now.snapshot("0", positions={}), {"BTCUSDT"})
    assert now.sold() == [("sell", D("0.5"))]
    assert [(line["kind"], line["quantity"]) for line in now.flatten.remaining] == [("stuck", "-0.500")]


async def test_an_order_that_a_predecessor_sent_is_taken_up(tmp_path: Path) -> None:
    """The file of a machine that is gone does not have it, the venue does: it is not sent again."""
    venue = Locking(totals={"BTC": D(1), "USDT": D(0)}, script=deque(["rest"]))
    intent = ids.flatten_id("k", venue="ccxt", account_id=1, symbol="BTCUSDT", instance="s")
    id = ids.client_order_id(intent, "kill", 0)
    await venue.submit(an_order(client_order_id=id, side=Side.SELL, type=OrderType.MARKET, quantity=D("0.5")))
    now = Closing(tmp_path, venue)
    await now.flatten.step(now.snapshot("0.5"), set())
    assert (venue.received, now.sold()) == ([id], [("sell", D("0.5"))])


async def test_a_guardian_that_may_not_act_sends_nothing(tmp_path: Path) -> None:
    now = Closing(tmp_path, Locking(totals={"BTC": D(1), "USDT": D(0)}), may_act=False)
    assert not await now.flatten.step(now.snapshot("0.5"), set())
    assert (now.venue.received, [line["kind"] for line in now.flatten.remaining]) == ([], ["pending"])


async def test_the_history_of_a_quiet_balance_is_read_seldom(tmp_path: Path) -> None:
    """While the balance moves and for settle_s after that each time; then once in history_s."""
    now = Closing(
        tmp_path, Locking(totals={"BTC": D(1), "USDT": D(0)}), timing=replace(Timing(), settle_s=6.0, history_s=60.0)
    )
    snapshot, reads = now.snapshot("0"), []
    for second in range(90):
        await now.flatten.step(snapshot, {"BTCUSDT"})
        reads.append(now.venue.read)
        if second == 40:
            now.venue.totals["BTC"] = D(2)
        await now.clock.advance(1.0)
    assert (reads[6], reads[40], reads[47], reads[89]) == (7, 7, 14, 14)
    await now.clock.advance(30.0)
    await now.flatten.step(snapshot, {"BTCUSDT"})
    assert now.venue.read == 15
    await now.flatten.step(now.snapshot("0", rules=None), {"ETHUSDT"})
    await now.clock.advance(20.0)
    await now.flatten.step(now.snapshot("0", rules=None), {"ETHUSDT"})
    assert now.venue.read >= 17, "without its rules the balance of a symbol is not known"


# ── the snapshot ─────────────────────────────────────────────────────────────────────────────────
def known(holder: Holder = HOLDER, state: str = "WORKING") -> Known:
    return Known(holder, "binance", D(0), "entry", state)


def test_a_snapshot_is_compared_with_the_session_that_reads_it() -> None:
    theirs, paper = replace(HOLDER, account_id=2), replace(HOLDER, venue="paper", account_id=3)
    both = DatabaseSnapshot(
        0,
        {HOLDER: D(1), theirs: D(2)},
        {},
        {"a": known(), "b": known(theirs)},
        frozenset(),
        identities={1: SIM, 2: OTHER},
    )
    assert both.of_session(SIM) == replace(both, positions={HOLDER: D(1)}, orders={"a": known()})
    assert not both.is_foreign("ccxt", SIM)
    foreign = replace(both, positions={theirs: D(2)}, orders={})
    assert (foreign.is_foreign("ccxt", SIM), foreign.is_foreign("ccxt", OTHER)) == (True, False)
    assert not foreign.is_foreign("paper", SIM), "nothing is held there"
    assert not replace(foreign, identities={}).is_foreign("ccxt", SIM), "not known to be another's"
    by_orders = replace(both, positions={paper: D(1)}, orders={"b": known(theirs)})
    assert by_orders.is_foreign("ccxt", SIM), "orders alone say so, too"
    assert not replace(by_orders, orders={"a": known(), "b": known(theirs)}).is_foreign("ccxt", SIM)


def test_what_is_held_and_where() -> None:
    other = replace(HOLDER, instance="t")
    eth = replace(HOLDER, symbol="ETHUSDT")
    snapshot = DatabaseSnapshot(
        0, {HOLDER: D(1), other: D("-0.4"), eth: D(5)}, {}, {"a": known(replace(eth, symbol="XRPUSDT"))}, frozenset()
    )
    assert (snapshot.net("ccxt", "BTCUSDT"), snapshot.net("paper", "BTCUSDT")) == (D("0.6"), 0)
    assert snapshot.symbols("ccxt") == {"BTCUSDT", "ETHUSDT", "XRPUSDT"}
    assert snapshot.symbols("paper") == set()


def test_an_execution_makes_a_position_of_a_holder_without_one() -> None:
    id = ids.client_order_id(uuid.uuid4(), "entry")
    snapshot = DatabaseSnapshot(10**18, {}, {}, {id: known()}, frozenset())
    fills = [
        a_fill(1, client_order_id=id, quantity=D("0.2")),
        a_fill(2, client_order_id=id, side=Side.SELL, quantity=D("0.05")),
    ]
    assert snapshot.with_fills(fills, frozenset()) == {HOLDER: D("0.15")}


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({}, False),
        ({"as_of_ns": 9}, False),
        ({"positions": {HOLDER: D(2)}}, True),
        ({"orders": {"a": known(state="SENDING"), "b": known()}}, True),
        ({"orders": {"a": known(), "c": known()}}, False),  # both work
        ({"orders": {"a": known(state="UNKNOWN")}}, True),
    ],
)
def test_a_snapshot_differs_by_positions_and_unclear_orders(change: dict[str, object], differs: bool) -> None:
    before = DatabaseSnapshot(0, {HOLDER: D(1)}, {}, {"a": known(), "b": known()}, frozenset())
    assert replace(before, **change).differs(before) is differs  # type: ignore[arg-type]


def test_orders_younger_than_the_snapshot_are_taken_from_the_file() -> None:
    at_ns = FakeClock().now_ns()
    young, old, there = (
        an_order(client_order_id=name * 32, created_ns=at_ns - ago_s * NS)
        for name, ago_s in (("y", 59), ("o", 60), ("t", 1))
    )
    snapshot = DatabaseSnapshot(at_ns, {}, {}, {"t" * 32: known()}, frozenset())
    after = snapshot.with_orders([young, old, there])
    assert after.orders.keys() == {"t" * 32, "y" * 32}
    assert after.orders["t" * 32] == known(), "the database knows it better"
    assert after.orders["y" * 32].holder == replace(HOLDER, instance="one")
    assert after.orders["y" * 32].filled == 0
    assert snapshot.with_orders([old]) is snapshot


def test_positions_are_written_when_they_change_and_read_back(tmp_path: Path) -> None:
    file = PositionsFile(tmp_path / "positions.json")
    assert file.load() is None
    row = {
        "as_of_ns": 1,
        "positions": [["ccxt", 1, "BTCUSDT", "s", "0.5"]],
        "instruments": [["binance", "BTCUSDT", "BTC", "USDT", "0.001", "0.001", "5", "9", ["0.001", "4", "0.001"]]],
        "orders": [["a", "ccxt", 1, "binance", "BTCUSDT", "s", "0.1", "entry", "WORKING", 1, 2, True]],
        "booked": [["ccxt", "BTCUSDT", "7"]],
        "booked_from_ns": 5,
        "identities": [[1, "sim", "1", "first"]],
        "protected": [{"client_order_id": "a", "venue": "ccxt"}],
    }
    file.keep(row)
    found = PositionsFile(tmp_path / "positions.json").load()
    assert found is not None
    assert (found.as_of_ns, found.positions, found.booked_from_ns) == (1, {HOLDER: D("0.5")}, 5)
    assert found.rules["BTCUSDT"].instrument("BTCUSDT").lot(is_market=True) == Lot(D("0.001"), D(4), D("0.001"))
    assert found.orders["a"] == Known(HOLDER, "binance", D("0.1"), "entry", "WORKING", 1, 2, True)
    assert (found.booked, found.identities) == (frozenset({("ccxt", "BTCUSDT", "7")}), {1: SIM})
    assert (tmp_path / "positions.json").stat().st_mode & 0o777 == 0o600
    written = (tmp_path / "positions.json").stat().st_mtime_ns
    file.keep({**row, "as_of_ns": 2})
    assert (tmp_path / "positions.json").stat().st_mtime_ns == written, "the time alone changes nothing"
    file.keep({**row, "positions": []})
    again = file.load()
    assert again is not None
    assert again.positions == {}
    (tmp_path / "positions.json").write_text("{")
    assert file.load() is None


# ── the file of the kill ─────────────────────────────────────────────────────────────────────────
def test_one_guardian_alone_holds_the_file(tmp_path: Path) -> None:
    first, second = KillJournal(tmp_path / "deep" / "kill.jsonl"), KillJournal(tmp_path / "deep" / "kill.jsonl")
    assert first.lock()
    assert first.lock(), "it has it"
    assert not second.lock()
    first.engage("k", Asked("system", "", "me", False, 1))
    assert second.record is None
    first.close()
    assert second.lock()
    assert second.record == first.record, "it is read again"
    assert (second.knows("k"), second.knows("x")) == (True, False)
    assert kill_mode(second.path) is KillMode.HELD
    assert (second.path.stat().st_mode | (tmp_path / "deep" / "kill.lock").stat().st_mode) & 0o077 == 0
    second.close()


def test_a_kill_that_began_in_this_process_is_known(tmp_path: Path) -> None:
    journal = KillJournal(tmp_path / "kill.jsonl")
    assert not journal.knows("k")
    journal.engage("k", Asked("system", "", "me", True, 1))
    assert journal.knows("k")
    journal.release(by="me", now_ns=2)
    journal.engage("l", Asked("system", "", "me", True, 3))
    assert (journal.knows("l"), KillJournal(journal.path).knows("k")) == (True, True)
    journal.close()
