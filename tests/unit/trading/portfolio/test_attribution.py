"""Attribution of a change of equity: over random histories its parts and its rest add up, and the rest is what the
journal does not explain."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from fks.model.account import Position
from fks.model.accounting.attribution import (
    PARTS,
    AttributedFill,
    AttributedPayment,
    AttributedSplit,
    Attribution,
    PortfolioState,
    PositionName,
    attribute,
    state_json,
    state_of,
)
from fks.model.accounting.valuation import HeldPosition, PortfolioHolding, PricedPair, Rates, holding_of, value_holdings
from fks.model.order import Side
from fks.trading.portfolio.position import apply_fill
from tests.support.order_values import a_fill, an_instrument

D = Decimal
DAY = 86_400 * 10**9
COINS = ("BTC", "ETH")
CASH = ("USDT", "EUR", "GBP")


class Ledger:
    """Three accounts in three currencies with spot strategies, a member strategy without its account, and a contract.

    An independent second bookkeeping: balances change by the amounts that move, and positions by average cost.
    """

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.balances = {("us", "USDT"): D(10_000), ("us", "BNB"): D(3), ("us", "BTC"): D("0.5"), ("eu", "EUR"): D(900)}
        self.balances["uk", "GBP"] = D(700)
        self.fills: list[AttributedFill] = []
        self.positions: dict[tuple[str, str, str], Position] = {}
        self.prices = {
            "BTC": D(50_000),
            "ETH": D(2_000),
            "BNB": D(300),
            "EUR": D("1.1"),
            "GBP": D("1.3"),
            "NQ": D(20_000),
        }
        self.invested = D(0)  # base currency at the rates of the end: only USDT strategies are members

    def move_prices(self) -> None:
        for name, price in self.prices.items():
            self.prices[name] = (price * D(self.draw.randint(900, 1100)) / 1000).quantize(D("0.01"))

    def change(self, account: str, asset: str, amount: Decimal) -> None:
        self.balances[account, asset] = self.balances.get((account, asset), D(0)) + amount

    def trade(self, at: int) -> AttributedFill:
        account, quote = self.draw.choice([("us", "USDT"), ("us", "USDT"), ("eu", "EUR"), ("uk", "GBP")])
        instance = "solo" if account == "us" and self.draw.random() < 0.3 else self.draw.choice(["trend", "mean"])
        is_contract = account == "us" and instance != "solo" and self.draw.random() < 0.2
        base = "NQ" if is_contract else self.draw.choice(COINS)
        symbol, is_member = ("NQ" if is_contract else base + quote), instance == "solo"
        side, quantity = self.draw.choice([Side.BUY, Side.SELL]), D(self.draw.randint(1, 400)) / 1000
        rate = self.prices.get(quote, D(1))
        price = (self.prices[base] / rate * D(self.draw.randint(980, 1020)) / 1000).quantize(D("0.01"))
        fee_in = self.draw.choice([quote, "BNB"] if is_contract else [quote, "BNB", base])
        fee = (quantity * D("0.001")).quantize(D("1e-8"))
        fee_quote = fee if fee_in == quote else fee * (price if fee_in == base else self.prices["BNB"] / rate)
        multiplier = D(20) if is_contract else D(1)
        fill = a_fill(side=side, quantity=quantity, price=price, fee=fee, fee_currency=fee_in)
        item = an_instrument(symbol=symbol, base=base, quote=quote, multiplier=multiplier)
        key = (account, instance, symbol)
        before = self.positions.get(key) or Position(1, "paper", symbol, instance, D(0), D(0), D(0), D(0))
        booked = apply_fill(before, fill, item)
        self.positions[key] = booked.position
        signed = quantity * side.sign
        paid = booked.realized if is_contract else -signed * price
        self.book(account, base, quote, fee_in, signed, paid, fee, is_member=is_member, is_contract=is_contract)
        decided = price * D(self.draw.randint(995, 1005)) / 1000 if self.draw.random() < 0.8 else None
        done = AttributedFill(
            str(at), at, PositionName(account, "paper", instance, symbol), base, quote, multiplier, signed, price,
            decided, fee, fee_in, fee_quote, booked.realized, is_contract, is_member,
        )  # fmt: skip
        self.fills.append(done)
        return done

    def book(
        self, account: str, base: str, quote: str, fee_in: str, signed: Decimal, paid: Decimal, fee: Decimal, *,
        is_member: bool, is_contract: bool,
    ) -> None:  # fmt: skip
        if not is_member:
            if not is_contract:
                self.change(account, base, signed)
            self.change(account, quote, paid)
            self.change(account, fee_in, -fee)

    def bust(self, at: int) -> AttributedFill:
        """Take an earlier execution back: one the other way round at its price, and its fee is returned."""
        old = self.draw.choice(self.fills)
        self.fills.remove(old)
        account, _, instance, symbol = old.name
        side = Side.SELL if old.quantity > 0 else Side.BUY
        fill = a_fill(
            side=side, quantity=abs(old.quantity), price=old.price, fee=-old.fee, fee_currency=old.fee_currency
        )
        item = an_instrument(symbol=symbol, base=old.base, quote=old.quote, multiplier=old.multiplier)
        booked = apply_fill(self.positions[account, instance, symbol], fill, item)
        self.positions[account, instance, symbol] = booked.position
        paid = booked.realized if old.is_contract else old.quantity * old.price
        self.book(
            account, old.base, old.quote, old.fee_currency, -old.quantity, paid, -old.fee, is_member=old.is_member,
            is_contract=old.is_contract,
        )  # fmt: skip
        fee_quote = None if old.fee_quote is None else -old.fee_quote
        return replace(
            old, id=f"bust {old.id}", time_ns=at, quantity=-old.quantity, decided=None, fee=-old.fee,
            fee_quote=fee_quote, realized=booked.realized,
        )  # fmt: skip

    def split(self, at: int) -> list[AttributedSplit]:
        """Split a coin's shares in all positions: the price falls by as much."""
        base, (new, old) = self.draw.choice(COINS), self.draw.choice([(2, 1), (5, 1), (1, 2)])
        self.prices[base] = self.prices[base] * old / new
        changes: dict[tuple[str, str, bool], Decimal] = {}
        for (account, instance, symbol), position in self.positions.items():
            if symbol.startswith(base):
                quantity = position.quantity * new / old
                key, change = (account, symbol, instance == "solo"), quantity - position.quantity
                changes[key] = changes.get(key, D(0)) + change
                if instance != "solo":
                    self.change(account, base, change)
                self.positions[account, instance, symbol] = replace(
                    position, quantity=quantity, average_price=position.average_price * old / new
                )
        return [
            AttributedSplit(f"{at} {symbol}", at, account, "paper", symbol, base, change, new, old, is_member)
            for (account, symbol, is_member), change in changes.items()
        ]

    def pay(self, at: int) -> AttributedPayment:
        account, asset = self.draw.choice([*self.balances])
        amount = D(self.draw.randint(-500, 500)) / 100
        self.change(account, asset, amount)
        part = self.draw.choice(["flows", "flows", "fees", "funding", "dividends"])
        symbol = self.draw.choice(["", "BTCUSDT", "NQ"]) if part in ("funding", "dividends") else ""
        return AttributedPayment(str(at), at, account, "paper", asset, amount, part, symbol)

    def state(self, time_ns: int) -> PortfolioState:
        pairs = [PricedPair("x", f"{n}USDT", n, "USDT", p, time_ns) for n, p in self.prices.items() if n != "NQ"]
        rates = Rates.of(pairs, now_ns=time_ns, age_max_s=60)
        held = [
            HeldPosition(
                account=account, instance=instance, symbol=symbol, base="NQ" if symbol == "NQ" else symbol[:3],
                quote="USDT" if symbol == "NQ" else symbol[3:], quantity=p.quantity, average_price=p.average_price,
                realized_pnl=p.realized_pnl, fees=p.fees, multiplier=D(20) if symbol == "NQ" else D(1),
                price=self.prices["NQ"] if symbol == "NQ" else None, is_contract=symbol == "NQ", venue="paper",
                is_member=instance == "solo",
            )
            for (account, instance, symbol), p in self.positions.items()
        ]  # fmt: skip
        holdings = [
            PortfolioHolding(account, asset, amount, is_cash=asset in CASH, venue="paper")
            for (account, asset), amount in self.balances.items()
        ]
        holdings += [holding_of(p, is_member=p.is_member) for p in held if p.is_member or p.is_contract]
        valuation = value_holdings(holdings, rates, "USDT")
        assert valuation.is_complete
        found = {name: rate for name in (*CASH, "BNB", *COINS) if (rate := rates.rate(name, "USDT"))}
        return state_of(time_ns, valuation.equity, state_json(holdings, held), found)


def history(seed: int, moves: int) -> tuple[Ledger, Attribution]:
    draw = random.Random(seed)
    ledger = Ledger(draw)
    for at in range(draw.randint(0, 10)):
        ledger.trade(at)
    first = ledger.state(DAY)
    fills: list[AttributedFill] = []
    payments: list[AttributedPayment] = []
    splits: list[AttributedSplit] = []
    for at in range(DAY + 1, DAY + 1 + moves):
        ledger.move_prices()
        kind = draw.random()
        if kind < 0.65 or (kind < 0.75 and not ledger.fills):
            fills.append(ledger.trade(at))
        elif kind < 0.75:
            fills.append(ledger.bust(at))
        elif kind < 0.8:
            splits += ledger.split(at)
        else:
            payments.append(ledger.pay(at))
    ledger.move_prices()
    last = ledger.state(2 * DAY)
    found = attribute(first, last, fills, payments, splits)
    draw.shuffle(fills)
    draw.shuffle(payments)
    draw.shuffle(splits)
    assert attribute(first, last, fills, payments, splits) == found, "in another order"
    return ledger, found


@given(st.integers(0, 2**32), st.integers(0, 25))
def test_parts_add_up_and_nothing_is_left(seed: int, moves: int) -> None:
    _, found = history(seed, moves)
    assert found.change == sum(found.totals().values()) + found.rest, "exactly"
    assert found.unexplained == ()
    assert found.rest == 0, "exactly, however many rows there are"
    assert all(amount == amount.quantize(D("1e-8")) for entry in found.entries for amount in entry.parts.values())
    assert found.totals() == {part: sum((parts[part] for _, parts in found.lines()), D(0)) for part in PARTS}, (
        "the lines add up to the totals"
    )


def state(equity: str, balances: Mapping[str, str], rates: Mapping[str, str], *held: HeldPosition) -> PortfolioState:
    return PortfolioState(
        0, D(equity), {("a", name): D(amount) for name, amount in balances.items()}, frozenset({("a", "USDT")}),
        {"a": "paper"}, tuple(held), {name: D(rate) for name, rate in rates.items()},
    )  # fmt: skip


def a_buy(**changes: object) -> AttributedFill:
    fill: dict[str, object] = {
        "id": "1", "time_ns": 1, "name": PositionName("a", "paper", "trend", "BTCUSDT"), "base": "BTC",
        "quote": "USDT", "multiplier": D(1), "quantity": D(1), "price": D(101), "decided": D(100), "fee": D("0.5"),
        "fee_currency": "USDT", "fee_quote": D("0.5"), "realized": D(0), "is_contract": False, "is_member": False,
    }  # fmt: skip
    return AttributedFill(**(fill | changes))  # type: ignore[arg-type]


def test_a_buy_and_a_deposit_by_hand() -> None:
    first = state("1000", {"USDT": "1000"}, {"USDT": "1", "BTC": "100"})
    last = state("1057.5", {"USDT": "948.5", "BTC": "1"}, {"USDT": "1", "BTC": "109"})
    deposit = AttributedPayment("d", 2, "a", "paper", "USDT", D(50), "flows")
    found = attribute(first, last, [a_buy()], [deposit])
    shown = {part: amount for part, amount in found.totals().items() if amount}
    assert shown == {"price": D(9), "slippage": D(-1), "fees": D("-0.5"), "flows": D(50)}
    assert (found.change, found.rest, found.undecided) == (D("57.5"), D(0), 0)
    assert [name.instrument for name, _ in found.lines()] == ["USDT", "BTCUSDT"]


def test_an_amount_without_a_move_is_the_rest_by_asset() -> None:
    first = state("1000", {"USDT": "900", "BTC": "1"}, {"USDT": "1", "BTC": "100"})
    last = state("1120", {"USDT": "900", "BTC": "2"}, {"USDT": "1", "BTC": "110"})
    found = attribute(first, last, [])
    assert found.totals()["price"] == D(10)
    assert found.rest == D(110)
    assert [(row.account, row.asset, row.amount, row.value) for row in found.unexplained] == [
        ("a", "BTC", D(1), D(110))
    ]


def test_an_execution_without_a_decision_has_its_slippage_in_price() -> None:
    first = state("1000", {"USDT": "1000"}, {"USDT": "1"})
    last = state("1007.5", {"USDT": "898.5", "BTC": "1"}, {"USDT": "1", "BTC": "109"})
    found = attribute(first, last, [a_buy(decided=None)])
    assert (found.totals()["price"], found.totals()["slippage"], found.undecided, found.rest) == (D(8), D(0), 1, D(0))


def test_a_coin_bought_and_sold_between_has_the_profit_that_it_made() -> None:
    first = state("1000", {"USDT": "1000"}, {"USDT": "1"})
    last = state("1003", {"USDT": "1003", "BTC": "0"}, {"USDT": "1"})
    sale = a_buy(id="2", quantity=D(-1), price=D(105), decided=D(105), realized=D(4))
    found = attribute(first, last, [a_buy(), sale])
    assert {part: amount for part, amount in found.totals().items() if amount} == {
        "price": D(5), "slippage": D(-1), "fees": D(-1),
    }  # fmt: skip
    assert found.rest == D(0)


def test_a_coin_bought_with_another_and_withdrawn_is_a_flow() -> None:
    """Neither coin is held at an end: each has the price of its own execution."""
    first, last = (state(worth, {"USDT": worth}, {"USDT": "1"}) for worth in ("1000", "900"))
    coin = a_buy(decided=D(100), price=D(100), fee=D(0), fee_quote=D(0))
    name = PositionName("a", "paper", "one", "ETHBTC")
    other = a_buy(
        id="2", time_ns=2, name=name, base="ETH", quote="BTC", quantity=D(10), price=D("0.1"), decided=D("0.1"),
        fee=D(0), fee_quote=D(0),
    )  # fmt: skip
    sent = AttributedPayment("w", 3, "a", "paper", "ETH", D(-10), "flows")
    found = attribute(first, last, [coin, other], [sent])
    assert {part: amount for part, amount in found.totals().items() if amount} == {"flows": D(-100)}
    assert (found.rest, found.unexplained) == (D(0), ())


def test_a_coin_that_is_gone_has_the_price_of_its_last_execution() -> None:
    first = state("1000", {"USDT": "1000"}, {"USDT": "1"})
    last = state("1004", {"USDT": "1004", "BTC": "0"}, {"USDT": "1"})
    free = {"fee": D(0), "fee_quote": D(0), "decided": None}
    sale = a_buy(id="2", time_ns=2, quantity=D(-1), price=D(105), realized=D(4), **free)
    one, other = (attribute(first, last, fills) for fills in ([a_buy(**free), sale], [sale, a_buy(**free)]))
    assert one == other
    assert [entry.parts["price"] for entry in one.entries] == [D(4), D(0)]


def test_a_split_is_no_profit_and_nothing_is_left() -> None:
    """1 BTC for 100 is 2 for 50: what the price fell by is what the new shares are worth; then 1 is sold for 55."""
    first = state("1100", {"USDT": "1000", "BTC": "1"}, {"USDT": "1", "BTC": "100"})
    last = state("1115", {"USDT": "1055", "BTC": "1"}, {"USDT": "1", "BTC": "60"})
    sale = a_buy(time_ns=3, quantity=D(-1), price=D(55), decided=None, fee=D(0), fee_quote=D(0), realized=D(5))
    split = AttributedSplit("s", 2, "a", "paper", "BTCUSDT", "BTC", D(1), 2, 1, is_member=False)
    found = attribute(first, last, [sale], splits=[split])
    assert {part: amount for part, amount in found.totals().items() if amount} == {"price": D(15)}
    assert [(entry.kind, entry.total) for entry in found.entries] == [
        ("holding", D(-40)), ("split", D(60)), ("fill", D(-5)),
    ]  # fmt: skip
    assert (found.rest, found.unexplained) == (D(0), ())
