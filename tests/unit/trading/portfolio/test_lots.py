"""Lots and disposals: identities over random histories, an independent calculator, and cases computed by hand."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from decimal import ROUND_DOWN, Decimal
from fractions import Fraction
from functools import partial
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.model.accounting.lots import (
    TRANSIT_NS,
    FlowKind,
    LotBook,
    LotFlow,
    LotMethod,
    LotTrade,
    match_lots,
    paired_transfers,
    without_busts,
)

D = Decimal
Event = TypeVar("Event", LotTrade, LotFlow)
DAY = 24 * 3600 * 10**9
FIFO, AVERAGE = LotMethod.FIFO, LotMethod.AVERAGE
#: value in USD; every product of these with the quantities and prices below is exact in steps of 1e-8
RATES = {"USDT": D("1.25"), "BNB": D("300.5"), "BTC": D("64000"), "ETH": D("2500")}
PAIRS = (("BTC", "USD"), ("ETH", "USD"), ("ETH", "BTC"), ("BTC", "USDT"), ("USD", "USDT"))
ACCOUNTS = ("a", "b")
SHARED = {"a": "all", "b": "all"}


def rate(asset: str, currency: str, time_ns: int) -> Decimal | None:
    assert currency == "USD"
    return RATES.get(asset)


def no_rate(asset: str, currency: str, time_ns: int) -> Decimal | None:
    return None


def buy(day: int, quantity: object, price: object, **others: object) -> LotTrade:
    return trade(day, True, quantity, price, **others)


def sell(day: int, quantity: object, price: object, **others: object) -> LotTrade:
    return trade(day, False, quantity, price, **others)


def trade(day: int, is_buy: bool, quantity: object, price: object, **others: object) -> LotTrade:
    given_: dict[str, object] = {"account": "a", "base": "BTC", "quote": "USD", "sequence": 0, "id": f"t{day}"} | others
    given_["symbol"] = given_.get("symbol", f"{given_['base']}{given_['quote']}")
    return LotTrade(time_ns=day * DAY, is_buy=is_buy, quantity=D(str(quantity)), price=D(str(price)), **given_)  # type: ignore[arg-type]


def flow(day: int, amount: object, asset: str = "BTC", account: str = "a", **others: object) -> LotFlow:
    value = D(str(amount))
    kind = FlowKind.DEPOSIT if value > 0 else FlowKind.WITHDRAWAL
    given_: dict[str, object] = {"id": f"f{day}{account}", "kind": kind} | others
    return LotFlow(time_ns=day * DAY, account=account, asset=asset, amount=value, **given_)  # type: ignore[arg-type]


def matched(
    *events: LotTrade | LotFlow, method: LotMethod = FIFO, currency: str = "USD", pools: dict[str, str] | None = None
) -> LotBook:
    trades = [event for event in events if isinstance(event, LotTrade)]
    flows = [event for event in events if isinstance(event, LotFlow)]
    return match_lots(trades, flows, currency=currency, method=method, rate=rate, pools=pools)


def pieces(book: LotBook) -> list[tuple[object, ...]]:
    return [(d.kind, d.asset, d.quantity, d.proceeds, d.cost, d.gain) for d in book.disposals()]


def held(book: LotBook) -> list[tuple[object, ...]]:
    return [(lot.asset, lot.kind, lot.quantity, lot.cost) for lot in book.lots()]


# ── published guidance, computed by hand ─────────────────────────────────────────────────────────
def test_sale_without_identification_uses_the_oldest_shares() -> None:
    """IRS Publication 550, "Identification not possible": 100 shares for $10, 200 for $11; 50 of the first are given
    away; 130 are sold. Basis: 50 x $10 = $500, 80 x $11 = $880, in all $1,380."""
    book = matched(
        buy(1, 100, 10, base="XYZ"),
        buy(2, 200, 11, base="XYZ"),
        flow(3, -50, "XYZ"),
        buy(4, 100, 9, base="XYZ"),
        sell(5, 130, 12, base="XYZ"),
    )
    assert pieces(book) == [
        ("withdrawal", "XYZ", D(50), None, D(500), None),
        ("sale", "XYZ", D(50), D(600), D(500), D(100)),
        ("sale", "XYZ", D(80), D(960), D(880), D(80)),
    ]
    assert sum(d.cost for d in book.disposals() if d.kind == "sale" and d.cost) == D(1380)
    # 200 - 80 = 120 shares of $11 are left: 2200 - 880 = 1320; and the 100 for $9
    assert held(book) == [("XYZ", "trade", D(120), D(1320)), ("XYZ", "trade", D(100), D(900))]


def test_sale_from_a_pool_takes_its_share_of_the_cost() -> None:
    """HMRC Cryptoassets Manual, CRYPTO22251 (pooling): 100 tokens for £1,000 and 50 for £125,000 are a pool of 150 that
    cost £126,000; 50 are sold for £300,000. Cost 126,000 x 50 / 150 = £42,000, gain £258,000; left: 100 for £84,000."""
    events = (
        buy(1, 100, 10, base="A", quote="GBP"),
        buy(365, 50, 2500, base="A", quote="GBP"),
        sell(1000, 50, 6000, base="A", quote="GBP"),
    )
    book = matched(*events, method=AVERAGE, currency="GBP")
    assert pieces(book) == [("sale", "A", D(50), D(300_000), D(42_000), D(258_000))]
    assert held(book) == [("A", "pool", D(100), D(84_000))]
    # by FIFO the 50 sold are of the first 100: cost 1,000 x 50 / 100 = 500
    assert pieces(matched(*events, currency="GBP")) == [("sale", "A", D(50), D(300_000), D(500), D(299_500))]


def test_one_asset_paid_with_another_is_a_sale_of_it() -> None:
    """10 BTC for $10,000 each; 1 of them buys 20 ETH (0.05 BTC each) when it is worth $64,000: proceeds 64,000, cost
    10,000, gain 54,000; the 20 ETH cost 64,000."""
    book = matched(buy(1, 10, 10_000), buy(2, 20, "0.05", base="ETH", quote="BTC"))
    assert pieces(book) == [("sale", "BTC", D("1"), D(64_000), D(10_000), D(54_000))]
    assert held(book) == [("BTC", "trade", D(9), D(90_000)), ("ETH", "trade", D(20), D(64_000))]


# ── fees ─────────────────────────────────────────────────────────────────────────────────────────
def test_fee_in_the_currency_raises_cost_and_lowers_proceeds() -> None:
    book = matched(buy(1, 2, 100, fee=D(4), fee_asset="USD"), sell(2, 1, 150, fee=D(3), fee_asset="USD"))
    # cost (200 + 4) / 2 = 102; proceeds 150 - 3 = 147
    assert pieces(book) == [("sale", "BTC", D(1), D(147), D(102), D(45))]


def test_fee_in_the_bought_asset_uses_up_lots() -> None:
    """1 BTC for $100, then 1 BTC for $200 with a fee of 0.1 BTC, worth 0.1 x 200 = 20: the second lot costs 220; the fee
    is a disposal of 0.1 of the oldest lot: proceeds 20, cost 10, gain 10."""
    book = matched(buy(1, 1, 100), buy(2, 1, 200, fee=D("0.1"), fee_asset="BTC"))
    assert pieces(book) == [("fee", "BTC", D("0.1"), D(20), D(10), D(10))]
    assert held(book) == [("BTC", "trade", D("0.9"), D(90)), ("BTC", "trade", D(1), D(220))]
    assert sum(lot.quantity for lot in book.lots()) == D("1.9")


def test_fee_in_a_third_asset_uses_up_its_lots() -> None:
    """0.01 BNB at 300.5 are 3.005: cost of the BTC 103.005; the BNB cost 2 each, 0.02 for the fee: gain 2.985."""
    book = matched(buy(1, 1, 2, base="BNB"), buy(2, 1, 100, fee=D("0.01"), fee_asset="BNB"))
    assert pieces(book) == [("fee", "BNB", D("0.01"), D("3.005"), D("0.02"), D("2.985"))]
    assert held(book) == [("BNB", "trade", D("0.99"), D("1.98")), ("BTC", "trade", D(1), D("103.005"))]


def test_rebate_is_acquired_at_its_value() -> None:
    book = matched(buy(1, 1, 100, fee=D("-0.01"), fee_asset="BNB"))
    assert held(book) == [("BNB", "rebate", D("0.01"), D("3.005")), ("BTC", "trade", D(1), D("96.995"))]


def test_currency_bought_with_an_asset_is_a_sale_of_it() -> None:
    """A trade of USD/USDT in USD: 100 USD for 80 USDT; the value is 100, whatever the rate of USDT."""
    book = matched(
        buy(1, 200, "1.2", base="USDT"), buy(2, 100, "0.8", base="USD", quote="USDT", fee=D(1), fee_asset="USD")
    )
    # proceeds 100 - 1; cost 240 x 80 / 200 = 96
    assert pieces(book) == [("sale", "USDT", D(80), D(99), D(96), D(3))]


# ── what is not known ────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("method", list(LotMethod))
def test_deposit_is_a_lot_of_unknown_cost(method: LotMethod) -> None:
    book = matched(flow(1, 3), sell(2, 1, 100), method=method)
    (sold,) = book.disposals()
    assert (sold.cost, sold.gain, sold.note, sold.proceeds) == (None, None, "cost unknown", D(100))
    (lot,) = book.lots()
    assert (lot.quantity, lot.cost, lot.note, lot.kind) == (D(2), None, "cost unknown", "deposit")


@pytest.mark.parametrize("method", LotMethod)
def test_income_is_a_lot_at_its_value_and_a_paid_one_a_sale(method: LotMethod) -> None:
    paid = LotFlow(3 * DAY, "f3", "a", FlowKind.INCOME, "BTC", D("-0.5"))
    book = matched(
        LotFlow(1 * DAY, "f1", "a", FlowKind.INCOME, "BTC", D(1)), sell(2, "0.25", 80_000), paid, method=method
    )
    (lot,) = book.lots()
    assert (lot.quantity, lot.cost, lot.note) == (D("0.25"), D(16_000), "")
    assert [(row.kind, row.gain, row.note) for row in book.disposals()] == [
        ("sale", D(4_000), ""),
        ("income", D(0), ""),
    ]
    (unvalued,) = matched(LotFlow(1 * DAY, "f1", "a", FlowKind.INCOME, "XYZ", D(1))).lots()
    assert (unvalued.cost, unvalued.note) == (None, "no rate")


def test_pool_of_known_cost_is_used_before_lots_of_unknown_cost() -> None:
    book = matched(flow(1, 3), buy(2, 2, 100), sell(3, 3, 200), method=AVERAGE)
    assert [(d.quantity, d.cost, d.note) for d in book.disposals()] == [
        (D(2), D(200), ""),
        (D(1), None, "cost unknown"),
    ]


def test_trade_without_a_rate_is_unvalued() -> None:
    bought = buy(1, 1, 100, quote="XAU")
    book = match_lots([bought, sell(2, 1, 200)], currency="USD", method=FIFO, rate=no_rate)
    assert [(d.kind, d.asset, d.proceeds, d.cost, d.note) for d in book.disposals()] == [
        ("sale", "BTC", D(200), None, "no rate"),
        ("short", "XAU", None, None, "short"),
    ]
    assert [(lot.asset, lot.quantity, lot.cost, lot.note) for lot in book.lots()] == [("XAU", D(-100), None, "short")]


@pytest.mark.parametrize("method", list(LotMethod))
def test_sale_beyond_the_lots_is_a_short_until_it_is_covered(method: LotMethod) -> None:
    """2 are sold for 100 each and 1 is held: one is short with proceeds 200 x 1 / 2 = 100; it is covered for 80."""
    sold = matched(buy(1, 1, 50), sell(2, 2, 100), method=method)
    assert [(lot.quantity, lot.cost, lot.note) for lot in sold.lots()] == [(D(-1), D(100), "short")]
    assert pieces(sold) == [
        ("sale", "BTC", D(1), D(100), D(50), D(50)),
        ("short", "BTC", D(1), D(100), None, None),
    ]
    book = matched(buy(1, 1, 50), sell(2, 2, 100), buy(3, 3, 80), method=method)
    assert pieces(book) == [
        ("sale", "BTC", D(1), D(100), D(50), D(50)),
        ("cover", "BTC", D(1), D(100), D(80), D(20)),
    ]
    cover = list(book.disposals())[1]
    assert (cover.disposed_ns, cover.acquired_ns, cover.realized_ns) == (2 * DAY, 3 * DAY, 3 * DAY)
    assert [(lot.quantity, lot.cost) for lot in book.lots()] == [(D(2), D(160))]


# ── transfers ────────────────────────────────────────────────────────────────────────────────────
def test_transfer_moves_lots_with_their_cost_and_time() -> None:
    """Of 2 lots, 1.5 leave account a: all of the first (100) and half of the second (200 / 2); the network fee of 0.1,
    worth 6,400, uses 0.1 of the rest of the second (100 x 0.1 / 0.5 = 20)."""
    book = matched(
        buy(1, 1, 100),
        buy(2, 1, 200),
        buy(3, 1, 300, account="b", id="b3"),
        flow(4, "-1.5", fee=D("0.1")),
        flow(5, "1.5", account="b"),
        sell(6, 2, 400, account="b"),
    )
    assert pieces(book) == [
        ("fee", "BTC", D("0.1"), D(6400), D(20), D(6380)),
        ("sale", "BTC", D(1), D(400), D(100), D(300)),
        ("sale", "BTC", D("0.5"), D(200), D(100), D(100)),
        ("sale", "BTC", D("0.5"), D(200), D(150), D(50)),
    ]
    assert [(lot.pool, lot.quantity, lot.cost, lot.acquired_ns) for lot in book.lots()] == [
        ("a", D("0.4"), D(80), 2 * DAY),
        ("b", D("0.5"), D(150), 3 * DAY),
    ]


def test_transfer_within_a_pool_changes_nothing_but_the_fee() -> None:
    events = (buy(1, 1, 100), flow(2, "-0.5"), flow(3, "0.5", account="b"), sell(4, 1, 300, account="b"))
    assert pieces(matched(*events, pools=SHARED)) == [("sale", "BTC", D(1), D(300), D(100), D(200))]
    assert pieces(matched(*events)) == [
        ("sale", "BTC", D("0.5"), D(150), D(50), D(100)),
        ("short", "BTC", D("0.5"), D(150), None, None),
    ]


def test_transfer_of_a_pool_takes_its_share_of_the_cost() -> None:
    book = matched(buy(1, 1, 100), buy(2, 1, 200), flow(3, "-0.5"), flow(4, "0.5", account="b"), method=AVERAGE)
    assert [(lot.pool, lot.quantity, lot.cost) for lot in book.lots()] == [
        ("a", D("1.5"), D(225)),
        ("b", D("0.5"), D(75)),
    ]


def test_transfer_of_more_than_the_lots_arrives_without_a_cost() -> None:
    book = matched(buy(1, 1, 100), flow(2, -3), flow(3, 3, account="b"))
    assert [(lot.pool, lot.quantity, lot.cost) for lot in book.lots()] == [
        ("a", D(-2), None),
        ("b", D(1), D(100)),
        ("b", D(2), None),
    ]


def test_transfers_are_paired_by_reference_then_by_age() -> None:
    flows = [
        flow(1, -1, id="w1", reference="x"),
        flow(2, -1, id="w2", reference="y"),
        flow(3, 1, account="b", id="d1", reference="y"),
        flow(3, 1, account="b", id="d2"),
        flow(3, 1, account="a", id="own account"),
        flow(3, 2, account="b", id="other amount"),
    ]
    assert paired_transfers(flows) == {"w2": "d1", "d1": "w2", "w1": "d2", "d2": "w1"}
    late = LotFlow(DAY + TRANSIT_NS + 1, "d3", "b", FlowKind.DEPOSIT, "BTC", D(1))
    assert paired_transfers([flows[0], late]) == {}


def test_deposit_of_the_same_moment_follows_its_withdrawal() -> None:
    book = matched(buy(1, 1, 100), flow(2, -1, id="z"), flow(2, 1, account="b", id="a"))
    assert [(lot.pool, lot.cost) for lot in book.lots()] == [("b", D(100))]


# ── contracts and busts ──────────────────────────────────────────────────────────────────────────
ES = {"base": "ESH25", "symbol": "ES 03-25", "multiplier": D(50), "is_contract": True}


def test_contract_gives_results_and_no_lots() -> None:
    """2 contracts of 50 $ a point at 5000; 1 closed at 5010: 10 x 50 = 500; then 3 sold at 4990: 1 long closes with
    -10 x 50 = -500, and 2 are short; these are bought at 4980: 2 x 10 x 50 = 1000. Each fee is a result of its own."""
    book = matched(
        buy(1, 2, 5000, **ES, fee=D(4), fee_asset="USD"),
        sell(2, 1, 5010, **ES),
        sell(3, 3, 4990, **ES),
        buy(4, 2, 4980, **ES),
    )
    assert [(d.kind, d.asset, d.quantity, d.proceeds, d.cost, d.gain) for d in book.disposals()] == [
        ("contract_fee", "ES 03-25", D(0), None, None, D(-4)),
        ("contract", "ES 03-25", D(1), None, None, D(500)),
        ("contract", "ES 03-25", D(1), None, None, D(-500)),
        ("contract", "ES 03-25", D(2), None, None, D(1000)),
    ]
    assert book.lots() == []


def test_result_of_a_contract_in_another_currency_is_settled_in_it() -> None:
    """A result of 100 USDT is a lot of 100 USDT at 1.25; a loss of 40 USDT uses up 40 of it: proceeds 50, cost 50."""
    perpetual = {"base": "BTC", "quote": "USDT", "is_contract": True}
    book = matched(
        buy(1, 1, 1000, **perpetual),
        sell(2, 1, 1100, **perpetual),
        sell(3, 1, 1000, **perpetual),
        buy(4, 1, 1040, **perpetual),
    )
    assert pieces(book) == [
        ("contract", "BTCUSDT", D(1), None, None, D(125)),
        ("contract", "BTCUSDT", D(1), None, None, D(-50)),
        ("settlement", "USDT", D(40), D(50), D(50), D(0)),
    ]
    assert held(book) == [("USDT", "settlement", D(60), D(75))]


def test_busted_executions_never_moved_a_lot() -> None:
    trades = [buy(1, 2, 100, fee=D(4), fee_asset="USD"), buy(2, 1, 50)]
    assert without_busts(trades, [("t1", D(2), D(4))]) == trades[1:]
    left = without_busts(trades, [("t1", D("0.5"), D(1)), ("t1", D("0.5"), D(1))])
    assert [(t.quantity, t.fee) for t in left] == [(D(1), D(2)), (D(1), D(0))]


def split(day: int, change: object, account: str = "a") -> LotFlow:
    amount = D(str(change))
    return LotFlow(day * DAY, f"{account}:split:{day}", account, FlowKind.SPLIT, "BTC", amount, reference="BTC")


def test_split_spreads_its_shares_over_the_lots_exactly() -> None:
    """1 for 3 leaves 0.99999999 of 3: a third of it is in each lot, and no part of a share is lost or made up."""
    book = matched(buy(1, 1, 10), buy(2, 1, 20), buy(3, 1, 30), split(4, "-2.00000001"), sell(5, "0.99999999", 100))
    assert sum(d.quantity for d in book.disposals()) == D("0.99999999")
    assert [d.cost for d in book.disposals()] == [D(10), D(20), D(30)]
    assert book.lots() == []


def test_split_that_leaves_nothing_is_a_disposal_without_proceeds() -> None:
    book = matched(buy(1, 1, 10), split(2, -1))
    assert [(d.kind, d.quantity, d.proceeds, d.cost, d.note) for d in book.disposals()] == [
        ("split", D(1), None, D(10), "no sale")
    ]
    assert book.lots() == []


def test_split_of_long_and_short_accounts_is_one_for_their_lots() -> None:
    """Account a holds 10 and b is short of 20; 2 for 1 doubles the short of 10 that they share."""
    events = [buy(1, 10, 10), sell(2, 20, 10, account="b"), split(3, 10), split(3, -20, "b")]
    (lot,) = matched(*events, pools=SHARED).lots()
    assert (lot.quantity, lot.cost, lot.note) == (D(-20), D(100), "short")


def test_shares_of_a_split_without_a_lot_have_no_known_cost() -> None:
    (lot,) = matched(split(1, 5)).lots()
    assert (lot.quantity, lot.cost, lot.note) == (D(5), None, "cost unknown")


# ── random histories ─────────────────────────────────────────────────────────────────────────────
NO_FEE = (D(0), "")
FEE_ASSETS = ("USD", "USDT", "BTC", "ETH", "BNB", "")


def rows_of(make: Callable[[int, bytes], Event], most: int) -> st.SearchStrategy[list[Event]]:
    """Return lists of events, each made of its number and 12 random bytes: one draw for an event is ten times as fast
    as one for each of its fields."""
    drawn = st.lists(st.binary(min_size=12, max_size=12), max_size=most)
    return drawn.map(lambda rows: [make(number, row) for number, row in enumerate(rows)])


def amount_of(row: bytes) -> Decimal:
    """Return 0.01 to 4.00 of two bytes."""
    return D(int.from_bytes(row) % 400 + 1).scaleb(-2)


def id_of(number: int, row: bytes) -> str:
    """Return an id of its own, as in the database, in no order."""
    return f"{row[-1]}-{number}"


def a_trade(number: int, row: bytes, pairs: Sequence[tuple[str, str]] = PAIRS) -> LotTrade:
    base, quote = pairs[row[0] % len(pairs)]
    fee, fee_asset = (D(row[1] // 2 % 12 - 2).scaleb(-2), FEE_ASSETS[row[2] % 6]) if row[1] % 2 else NO_FEE
    return LotTrade(
        row[3] % 10 * DAY,
        row[4] % 4,
        f"t{id_of(number, row)}",
        ACCOUNTS[row[5] % 2],
        base + quote,
        base,
        quote,
        bool(row[6] % 2),
        amount_of(row[7:9]),
        amount_of(row[9:11]),
        fee,
        fee_asset,
    )


def a_flow(number: int, row: bytes) -> LotFlow:
    is_in, is_income = bool(row[0] % 2), row[1] % 3 == 2
    kind = FlowKind.INCOME if is_income else FlowKind.DEPOSIT if is_in else FlowKind.WITHDRAWAL
    amount = D(row[2] % 4 + 1)  # few values, so that many are transfers between the two accounts
    fee = D(0) if is_in or is_income else (D(0), D("0.01"))[row[3] % 2]
    return LotFlow(
        row[4] % 10 * DAY,
        f"f{id_of(number, row)}",
        ACCOUNTS[row[5] % 2],
        FlowKind.ADOPTED if is_in and not is_income and row[6] % 2 else kind,
        ("BTC", "ETH", "USDT")[row[7] % 3],
        amount if is_in else -amount,
        fee,
    )


SPLITS = ((2, 1), (3, 2), (1, 2), (1, 3), (1, 100_000))  # the last one leaves nothing of most holdings


def moved(trades: Sequence[LotTrade], flows: Sequence[LotFlow], until_ns: int) -> dict[tuple[str, str], D]:
    """Return what events before a moment left of each asset, by account: sums alone."""
    found: dict[tuple[str, str], D] = defaultdict(D)
    for t in trades:
        if t.time_ns < until_ns:
            sign = 1 if t.is_buy else -1
            found[t.account, t.base] += sign * t.quantity
            found[t.account, t.quote] -= sign * t.quantity * t.price
            found[t.account, t.fee_asset or t.quote] -= t.fee
    for f in flows:
        if f.time_ns < until_ns:
            found[f.account, f.asset] += f.amount - f.fee
    return found


def with_splits(
    trades: Sequence[LotTrade], flows: Sequence[LotFlow], splits: Sequence[tuple[int, str, tuple[int, int]]]
) -> list[LotFlow]:
    """Return the flows, and for each split (day, asset, ratio) what it brings to the holding of each account; a part of
    1e-8 is dropped, as a broker does."""
    found = list(flows)
    for day, asset, (new, old) in sorted(splits):
        at = day * DAY + DAY // 2
        held = moved(trades, found, at)
        for account in ACCOUNTS:
            before = held[account, asset]
            if change := (before * new / old).quantize(D("1e-8"), ROUND_DOWN) - before:
                id = f"{account}:split:{asset}:{day}"
                found.append(LotFlow(at, id, account, FlowKind.SPLIT, asset, change, reference=asset))
    return found


def busted(trades: Sequence[LotTrade], parts: Sequence[int]) -> tuple[list[LotTrade], list[tuple[str, D, D]]]:
    """Return the trades, and what venues took back: of the nth trade as many quarters as the nth part says."""
    busts = [
        (t.id, quantity, t.fee * part / 4)
        for t, part in zip(trades, parts, strict=False)
        if part and (quantity := t.quantity * part / 4)
    ]
    return list(trades), busts


SPLIT_DAYS = st.lists(st.binary(min_size=3, max_size=3), max_size=3).map(
    lambda rows: [
        (day, asset, SPLITS[ratio % len(SPLITS)])
        for (day, asset), ratio in {(row[0] % 10, ("BTC", "ETH", "USDT")[row[1] % 3]): row[2] for row in rows}.items()
    ]
)
PARTS = st.binary(max_size=25).map(lambda row: [(0, 0, 1, 4)[byte % 4] for byte in row])


@st.composite
def histories(draw: st.DrawFn, pairs: Sequence[tuple[str, str]] = PAIRS) -> tuple[list[LotTrade], list[LotFlow]]:
    """Return what is left of executions, some of them taken back, and flows, transfers and splits among them."""
    executions, busts = busted(draw(rows_of(partial(a_trade, pairs=pairs), 25)), draw(PARTS))
    kept = without_busts(executions, busts)
    return kept, with_splits(kept, draw(rows_of(a_flow, 8)), draw(SPLIT_DAYS))


methods = st.sampled_from(list(LotMethod))
pools_of = st.sampled_from([{}, SHARED])


def holdings(trades: Sequence[LotTrade], flows: Sequence[LotFlow], pools: dict[str, str]) -> dict[tuple[str, str], D]:
    """Return what events left of each asset, by pool: sums alone."""
    found: dict[tuple[str, str], D] = defaultdict(D)
    for (account, asset), amount in moved(trades, flows, 1 << 63).items():
        found[pools.get(account, account), asset] += amount
    return {key: amount for key, amount in found.items() if amount and key[1] != "USD"}


@given(histories(), methods, pools_of)
def test_open_lots_are_the_holdings(
    history: tuple[list[LotTrade], list[LotFlow]], method: LotMethod, pools: dict[str, str]
) -> None:
    book = matched(*history[0], *history[1], method=method, pools=pools)
    found: dict[tuple[str, str], D] = defaultdict(D)
    for lot in book.lots():
        found[lot.pool, lot.asset] += lot.quantity
    assert {key: amount for key, amount in found.items() if amount} == holdings(*history, pools)
    signs = {(lot.pool, lot.asset, lot.quantity > 0) for lot in book.lots()}
    assert len(signs) == len({sign[:2] for sign in signs}), "an asset of a pool is long or short, never both"


def worths(t: LotTrade) -> tuple[D, D]:
    """Return the value of a trade and of its fee in USD, by the rates above: by exact products."""
    quote_rate = D(1) / t.price if t.base == "USD" else D(1) if t.quote == "USD" else RATES[t.quote]
    value = t.quantity if t.base == "USD" else t.quantity * t.price * quote_rate
    asset = t.fee_asset or t.quote
    each = {"USD": D(1), t.base: t.price * quote_rate, t.quote: quote_rate}.get(asset)
    return value, t.fee * (RATES[asset] if each is None else each)


def by_split(
    trades: Sequence[LotTrade], flows: Sequence[LotFlow], pools: dict[str, str], time_ns: int, asset: str
) -> D:
    """Return what a split added to the lots, over all pools: shorts are no lots, and what a split took whole is in the
    disposals."""
    held: dict[str, D] = defaultdict(D)
    for (account, name), amount in moved(trades, flows, time_ns).items():
        held[pools.get(account, account)] += amount if name == asset else 0
    change: dict[str, D] = defaultdict(D)
    for f in flows:
        if (f.kind, f.time_ns, f.asset) == (FlowKind.SPLIT, time_ns, asset):
            change[pools.get(f.account, f.account)] += f.amount
    left = {pool: held[pool] + amount for pool, amount in change.items()}
    return sum((a for pool, a in change.items() if left[pool] > 0 or (left[pool] == 0 and a > 0)), D(0))


@given(histories([pair for pair in PAIRS if pair[0] != "USD"]), methods, pools_of)
def test_disposals_and_open_lots_are_all_acquisitions(
    history: tuple[list[LotTrade], list[LotFlow]], method: LotMethod, pools: dict[str, str]
) -> None:
    """Quantities and known costs of what came in, and known proceeds of what went out, are all in the rows or open."""
    trades, flows = history
    book = matched(*trades, *flows, method=method, pools=pools)
    cost, proceeds = D(0), D(0)
    came: dict[str, D] = defaultdict(D)
    for t in trades:
        value, worth = worths(t)
        asset = t.fee_asset or t.quote
        came[t.base if t.is_buy else t.quote] += t.quantity if t.is_buy else t.quantity * t.price
        if t.is_buy:
            cost += value + worth
            proceeds += value if t.quote != "USD" else 0
        else:
            proceeds += value - worth
            cost += value if t.quote != "USD" else 0
        if asset != "USD" and t.fee > 0:
            proceeds += worth
        elif asset != "USD":
            cost -= worth
            came[asset] -= t.fee
    pairs = paired_transfers(flows)
    for f in flows:
        if f.kind is not FlowKind.SPLIT and f.amount > 0 and f.id not in pairs:
            came[f.asset] += f.amount
        if f.kind is FlowKind.INCOME and f.amount > 0:
            cost += f.amount * RATES[f.asset]
        elif f.kind is FlowKind.INCOME:
            proceeds -= f.amount * RATES[f.asset]
        proceeds += f.fee * RATES[f.asset]
    disposals, lots = list(book.disposals()), book.lots()
    assert cost == sum(d.cost or 0 for d in disposals) + sum(lot.cost or 0 for lot in lots if lot.quantity > 0)
    assert proceeds == sum(d.proceeds or 0 for d in disposals)
    for time_ns, asset in {(f.time_ns, f.asset) for f in flows if f.kind is FlowKind.SPLIT}:
        came[asset] += by_split(trades, flows, pools, time_ns, asset)
    if not pairs:
        used: dict[str, D] = defaultdict(D)
        for d in disposals:
            used[d.asset] += d.quantity if d.kind != "short" else 0
        for lot in lots:
            used[lot.asset] += max(lot.quantity, D(0))
        came.pop("USD", None)
        assert {a: q for a, q in used.items() if q} == {a: q for a, q in came.items() if q}


@given(histories(), methods, pools_of, st.integers(0, 2**32))
def test_order_of_arrival_changes_nothing(
    history: tuple[list[LotTrade], list[LotFlow]], method: LotMethod, pools: dict[str, str], seed: int
) -> None:
    events = [*history[0], *history[1]]
    one = matched(*events, method=method, pools=pools)
    random.Random(seed).shuffle(events)
    other = matched(*events, method=method, pools=pools)
    assert (list(one.disposals()), one.lots()) == (list(other.disposals()), other.lots())


def some_contracts(number: int, row: bytes) -> LotTrade:
    """Return an execution of 1 to 5 contracts with a fee in USD."""
    units, fee, id = row[0] % 5 + 1, D(row[1] % 10).scaleb(-2), f"t{id_of(number, row)}"
    return trade(row[2] % 10, bool(row[3] % 2), units, amount_of(row[4:6]), id=id, fee=fee, fee_asset="USD", **ES)


@given(rows_of(some_contracts, 25), methods)
def test_results_of_closed_contracts_are_the_money_they_moved(executions: list[LotTrade], method: LotMethod) -> None:
    """Whatever the rule: once flat, results are the sum of all amounts received less paid, and fees stand beside them."""
    net = sum(t.quantity if t.is_buy else -t.quantity for t in executions)
    if net:
        executions = [*executions, trade(10, net < 0, abs(net), 3, **ES)]
    found = list(matched(*executions, method=method).disposals())
    moved = sum(t.quantity * t.price * t.multiplier * (-1 if t.is_buy else 1) for t in executions)
    assert sum(d.gain or 0 for d in found if d.kind == "contract") == moved
    assert sum(d.gain or 0 for d in found if d.kind == "contract_fee") == -sum(t.fee for t in executions)
    assert {d.kind for d in found} <= {"contract", "contract_fee"}


def one_by_one(trades: Sequence[LotTrade]) -> list[tuple[str, str, int, Fraction, Fraction]]:
    """Return the disposals of whole units of BTC/USD by FIFO: each unit is bought and sold by itself, in fractions."""
    bought: list[tuple[str, Fraction]] = []
    sold: list[tuple[str, Fraction]] = []
    pairs: list[tuple[str, str, Fraction, Fraction]] = []
    for t in sorted(trades, key=lambda t: (t.time_ns, t.sequence, t.id)):
        units = int(t.quantity)
        amount = Fraction(t.quantity * t.price + (t.fee if t.is_buy else -t.fee)) / units
        for _ in range(units):
            (bought if t.is_buy else sold).append((t.id, amount))
        while bought and sold:
            (lot, cost), (sale, proceeds) = bought.pop(0), sold.pop(0)
            pairs.append((lot, sale, proceeds, cost))
    found: list[tuple[str, str, int, Fraction, Fraction]] = []
    for lot, sale, proceeds, cost in pairs:
        if found and found[-1][:2] == (lot, sale):
            units, before, spent = found[-1][2:]
            found[-1] = lot, sale, units + 1, before + proceeds, spent + cost
        else:
            found.append((lot, sale, 1, proceeds, cost))
    return found


def whole_units(number: int, row: bytes) -> LotTrade:
    """Return a trade of 1 to 5 BTC/USD with a fee in USD."""
    fee, id = D(row[0] % 12 - 2).scaleb(-2), f"t{id_of(number, row)}"
    return trade(
        row[1] % 10, bool(row[2] % 2), row[3] % 5 + 1, amount_of(row[4:6]), sequence=row[6] % 4, id=id, fee=fee,
        fee_asset="USD",
    )  # fmt: skip


@given(rows_of(whole_units, 30))
def test_fifo_agrees_with_a_calculator_that_takes_unit_by_unit(trades: list[LotTrade]) -> None:
    found = [
        (d.lot_id, d.disposal_id, int(d.quantity), d.proceeds, d.cost)
        for d in matched(*trades).disposals()
        if d.kind != "short"
    ]
    wanted = one_by_one(trades)
    assert [row[:3] for row in found] == [row[:3] for row in wanted]
    rounding = Fraction(len(trades) + 1, 10**8)  # of each share of a lot or sale at most half a step
    for (*_, proceeds, cost), (*_, exact_proceeds, exact_cost) in zip(found, wanted, strict=True):
        assert proceeds is not None
        assert cost is not None
        assert abs(Fraction(proceeds) - exact_proceeds) <= rounding
        assert abs(Fraction(cost) - exact_cost) <= rounding
