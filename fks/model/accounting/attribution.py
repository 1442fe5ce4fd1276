"""Attribution: the change of a portfolio's equity between two moments, split by its causes. Pure, Decimal.

With R0 and R1 the rates of both moments, equity changes by `amount0 * (R1 - R0)` of each holding of the first moment,
and by `moved * R1` of each amount that moved meanwhile. The journal has the moves: executions, fees, splits, deposits
and withdrawals. A change of an amount that no move explains is the rest, by account and asset.
Source of the split: Bacon, Practical Portfolio Performance Measurement and Attribution (2008), chapter 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from typing import Any, NamedTuple

from fks.model.accounting.valuation import HeldPosition, PortfolioHolding, holding_of

#: The causes of a change of equity, in the portfolio's currency.
PARTS = ("price", "slippage", "fees", "funding", "dividends", "currency", "flows")
#: A rest, in the portfolio's currency, that is more than roundings.
TOLERANCE = Decimal("0.01")
_ZERO, _MONEY = Decimal(0), Decimal("1e-8")
_EXACT = Context(prec=80)


class PositionName(NamedTuple):
    """The name of a position, and of its line in an attribution. `instrument`: a symbol, or an asset without one."""

    account: str
    venue: str
    instance: str
    instrument: str


@dataclass(frozen=True, slots=True)
class PortfolioState:
    """A portfolio at a moment: its `equity`, the `balances` of member accounts by (account, asset), the positions, and
    the `rates` of assets into its currency. Only a complete equity is a state: each holding has a rate.

    `cash`: the balances that are in their account's own currency. `venues`: by account.
    """

    time_ns: int
    equity: Decimal
    balances: Mapping[tuple[str, str], Decimal]
    cash: frozenset[tuple[str, str]]
    venues: Mapping[str, str]
    positions: tuple[HeldPosition, ...]
    rates: Mapping[str, Decimal]


def state_json(holdings: Iterable[PortfolioHolding], positions: Iterable[HeldPosition]) -> dict[str, Any]:
    """Return holdings and positions of a moment as JSON-able values, for `state_of`."""
    return {
        "balances": [
            [h.account, h.venue, h.asset, f"{h.amount:f}", h.is_cash]
            for h in holdings if not h.symbol and h.amount is not None
        ],
        "positions": [
            [
                p.account, p.venue, p.instance, p.symbol, p.base, p.quote, f"{p.quantity:f}", f"{p.average_price:f}",
                f"{p.multiplier:f}", None if p.price is None else f"{p.price:f}", p.is_contract, p.is_member,
            ]
            for p in positions if p.quantity
        ],
    }  # fmt: skip


def state_of(time_ns: int, equity: Decimal, stored: Mapping[str, Any], rates: Mapping[str, Decimal]) -> PortfolioState:
    """Return the state that `state_json` made, with the rates of its moment."""
    return PortfolioState(
        time_ns,
        equity,
        {(account, asset): Decimal(amount) for account, _, asset, amount, _ in stored["balances"]},
        frozenset((account, asset) for account, _, asset, _, is_cash in stored["balances"] if is_cash),
        {account: venue for account, venue, *_ in stored["balances"]},
        tuple(
            HeldPosition(
                account=account, venue=venue, instance=instance, symbol=symbol, base=base, quote=quote,
                quantity=Decimal(quantity), average_price=Decimal(average), realized_pnl=_ZERO, fees=_ZERO,
                multiplier=Decimal(multiplier), price=None if price is None else Decimal(price),
                is_contract=is_contract, is_member=is_member,
            )
            for (
                account, venue, instance, symbol, base, quote, quantity, average, multiplier, price, is_contract,
                is_member,
            ) in stored["positions"]
        ),
        rates,
    )  # fmt: skip


def holdings_of(state: PortfolioState) -> list[PortfolioHolding]:
    """Return the holdings that a state was valued from: balances, contracts, and positions of member instances."""
    found = [
        PortfolioHolding(account, asset, amount, is_cash=(account, asset) in state.cash, venue=state.venues[account])
        for (account, asset), amount in state.balances.items()
    ]
    counted = (position for position in state.positions if position.is_member or position.is_contract)
    return found + [holding_of(position, is_member=position.is_member) for position in counted]


@dataclass(frozen=True, slots=True)
class AttributedFill:
    """An execution between the two moments. `quantity` is signed, in base or contracts.

    `decided`: the price that the decision was made at, None if it is not known. `fee_quote`: the fee at its own time,
    None without a rate. `realized`: the profit (quote, before fees) that it realised of its position. `is_member`: its
    strategy is a member without its account, so that its cash comes from outside.
    """

    id: str
    time_ns: int
    name: PositionName
    base: str
    quote: str
    multiplier: Decimal
    quantity: Decimal
    price: Decimal
    decided: Decimal | None
    fee: Decimal
    fee_currency: str
    fee_quote: Decimal | None
    realized: Decimal
    is_contract: bool
    is_member: bool


@dataclass(frozen=True, slots=True)
class InstanceFill:
    """An execution of a strategy instance. `quantity` is signed, of contracts times their multiplier; `fee` is in
    quote, None without a rate; `size`: that of the instance's entries at the time, in quote."""

    time_ns: int
    quantity: Decimal
    price: Decimal
    fee: Decimal | None
    size: Decimal


@dataclass(frozen=True, slots=True)
class AttributedPayment:
    """An amount that an account received (negative: paid) between the two moments. `part`: one of PARTS. `symbol`: the
    instrument that it was paid for, "" for none."""

    id: str
    time_ns: int
    account: str
    venue: str
    asset: str
    amount: Decimal
    part: str
    symbol: str = ""


@dataclass(frozen=True, slots=True)
class AttributedSplit:
    """A split of shares that were held between the two moments: `new` for each `old` one. `change`: what the account's
    positions in the symbol gained or lost. `is_member`: of its strategies that are members without their account."""

    id: str
    time_ns: int
    account: str
    venue: str
    symbol: str
    base: str
    change: Decimal
    new: int
    old: int
    is_member: bool


@dataclass(frozen=True, slots=True)
class AttributionEntry:
    """The effect of one holding of the first moment, one execution, split or payment, in the portfolio's currency."""

    kind: str  # holding, fill, split or payment
    id: str
    time_ns: int | None
    name: PositionName
    parts: Mapping[str, Decimal]

    @property
    def total(self) -> Decimal:
        """Return the sum of the parts."""
        return sum(self.parts.values(), _ZERO)


@dataclass(frozen=True, slots=True)
class Unexplained:
    """An amount of an asset that changed without a move in the journal, and its value."""

    account: str
    asset: str
    amount: Decimal
    value: Decimal


@dataclass(frozen=True, slots=True)
class Attribution:
    """The change of equity between two moments. Guarantees: `change` = the sum of all entries + `rest`, exactly.

    Parts have 8 decimal places. The difference that one is rounded by is carried into the next, and those of the
    equities into the first: so the sum of any number of parts is exact. `rest` is the value of `unexplained`: 0 if
    there is none. `undecided`: executions without the price of a decision; their slippage is in `price`.
    """

    change: Decimal
    entries: tuple[AttributionEntry, ...]
    rest: Decimal
    unexplained: tuple[Unexplained, ...]
    undecided: int

    def totals(self) -> dict[str, Decimal]:
        """Return the sum of each part."""
        return _sums(self.entries)

    def lines(self) -> list[tuple[PositionName, dict[str, Decimal]]]:
        """Return the parts by account, venue, instance and instrument, by these names."""
        found: dict[PositionName, list[AttributionEntry]] = {}
        for entry in self.entries:
            found.setdefault(entry.name, []).append(entry)
        return [(name, _sums(entries)) for name, entries in sorted(found.items())]


def _sums(entries: Iterable[AttributionEntry]) -> dict[str, Decimal]:
    totals = dict.fromkeys(PARTS, _ZERO)
    for entry in entries:
        for part, amount in entry.parts.items():
            totals[part] += amount
    return totals


@dataclass(slots=True)
class _Moves:
    """Amounts that the journal moved, by (account, asset) of accounts, and by position of members."""

    balances: dict[tuple[str, str], Decimal] = field(default_factory=dict)
    positions: dict[PositionName, Decimal] = field(default_factory=dict)

    def add(self, account: str, asset: str, amount: Decimal) -> None:
        self.balances[account, asset] = self.balances.get((account, asset), _ZERO) + amount


def attribute(
    first: PortfolioState,
    last: PortfolioState,
    fills: Sequence[AttributedFill],
    payments: Sequence[AttributedPayment] = (),
    splits: Sequence[AttributedSplit] = (),
) -> Attribution:
    """Return the change of equity from `first` to `last` by its causes, of the moves between the two moments.

    The order in which moves are given is of no consequence. Flows, and fees without a rate of their own time, count at
    the rates of `last`. Members must be the same at both.
    """
    fills = sorted(fills, key=lambda fill: (fill.time_ns, fill.id))
    with localcontext(_EXACT):
        rates = _rates_at_end(first, last, fills)
        moves = _Moves()
        entries = [*_contracts(first, last, rates, fills), *_opening(first, rates)]
        waiting = sorted(splits, key=lambda split: (split.time_ns, split.id, split.is_member))
        for fill in fills:
            while waiting and waiting[0].time_ns <= fill.time_ns:
                entries += _of_split(waiting.pop(0), first, rates, moves)
            entries.append(_of_fill(fill, rates, moves))
        for split in waiting:
            entries += _of_split(split, first, rates, moves)
        for payment in sorted(payments, key=lambda payment: (payment.time_ns, payment.id, payment.part)):
            moves.add(payment.account, payment.asset, payment.amount)
            amount = payment.amount * rates.get(payment.asset, _ZERO)
            name = PositionName(payment.account, payment.venue, "", payment.symbol or payment.asset)
            entries.append(AttributionEntry("payment", payment.id, payment.time_ns, name, {payment.part: amount}))
        unexplained = _unexplained(first, last, rates, moves)
        change = last.equity - first.equity
        whole = sum((entry.total for entry in entries), _ZERO) + sum((row.value for row in unexplained), _ZERO)
        kept = _rounded(entries, _of_equities(change - whole, first, last))
        unexplained = tuple(replace(row, value=row.value.quantize(_MONEY, ROUND_HALF_EVEN)) for row in unexplained)
        rest = change - sum((entry.total for entry in kept), _ZERO)
    return Attribution(change, kept, rest, unexplained, sum(fill.decided is None for fill in fills))


def _of_equities(left: Decimal, first: PortfolioState, last: PortfolioState) -> Decimal:
    """Return `left`, a change of equity that no exact value explains, if it is no more than the roundings of the values
    of all holdings, else 0: then it is a rest."""
    most = _MONEY / 2 * (len(holdings_of(first)) + len(holdings_of(last)))
    return left if abs(left) <= most else _ZERO


def _rounded(entries: Iterable[AttributionEntry], carried: Decimal) -> tuple[AttributionEntry, ...]:
    """Return entries with their parts rounded to 1e-8, and the remainder of each carried into the next that is not
    0. Their sum is that of the exact parts and `carried`, rounded once. Holdings without an effect are left out."""
    found = []
    for entry in entries:
        parts = dict.fromkeys(entry.parts, _ZERO)
        for part, value in entry.parts.items():
            if value:
                value += carried
                parts[part] = value.quantize(_MONEY, ROUND_HALF_EVEN) + 0
                carried = value - parts[part]
        if entry.kind != "holding" or any(parts.values()):
            found.append(replace(entry, parts=parts))
    return tuple(found)


def _rates_at_end(first: PortfolioState, last: PortfolioState, fills: Sequence[AttributedFill]) -> dict[str, Decimal]:
    """Return the rates of the last moment. An asset that was not held then has the price of its last execution, or the
    first moment's rate: its amount at the end is zero, so that the whole does not depend on it."""
    rates, count = dict(last.rates), -1
    while count < (count := len(rates)):  # a rate may be that of the coin which another was bought with
        for fill in reversed(fills):
            if fill.quote not in rates and fill.quote in first.rates:
                rates[fill.quote] = first.rates[fill.quote]
            quote = rates.get(fill.quote)
            if quote is not None:
                rates.setdefault(fill.base, fill.price * quote)
                if fill.fee and fill.fee_quote is not None and fill.fee_currency not in first.rates:
                    rates.setdefault(fill.fee_currency, fill.fee_quote / fill.fee * quote)
    return {**first.rates, **rates}


def _name_of(position: HeldPosition) -> PositionName:
    return PositionName(position.account, position.venue, position.instance, position.symbol)


def _opening(first: PortfolioState, rates: Mapping[str, Decimal]) -> list[AttributionEntry]:
    """Return the effect of the first holdings: of coins by instance, and of the rest of each balance."""
    entries = []
    left = dict(first.balances)
    for position in first.positions:
        if position.is_contract:
            continue
        if not position.is_member:
            key = (position.account, position.base)
            left[key] = left.get(key, _ZERO) - position.quantity
        before, after = first.rates.get(position.base, _ZERO), rates.get(position.base, _ZERO)
        whole = position.quantity * (after - before)
        quote_before = first.rates.get(position.quote, _ZERO)
        currency = _ZERO
        if quote_before:
            currency = position.quantity * before * (rates[position.quote] / quote_before - 1)
        name = _name_of(position)
        entries.append(
            AttributionEntry("holding", position.symbol, None, name, {"price": whole - currency, "currency": currency})
        )
    for (account, asset), amount in sorted(left.items()):
        whole = amount * (rates.get(asset, _ZERO) - first.rates.get(asset, _ZERO))
        name = PositionName(account, first.venues.get(account, ""), "", asset)
        part = "currency" if (account, asset) in first.cash else "price"
        entries.append(AttributionEntry("holding", asset, None, name, {part: whole}))
    return entries


def _contracts(
    first: PortfolioState, last: PortfolioState, rates: Mapping[str, Decimal], fills: Sequence[AttributedFill]
) -> list[AttributionEntry]:
    """Return the profit of each contract: its open profit at the end less that at the start, plus the realised one.

    The slippage of its executions is in their own entries.
    """
    open_profit: dict[PositionName, list[Decimal]] = {}
    quotes: dict[PositionName, str] = {}
    for at, state in enumerate((first, last)):
        for position in state.positions:
            if position.is_contract:
                price = position.average_price if position.price is None else position.price
                profit = (price - position.average_price) * position.quantity * position.multiplier
                open_profit.setdefault(_name_of(position), [_ZERO, _ZERO])[at] = profit
                quotes[_name_of(position)] = position.quote
    realized: dict[PositionName, Decimal] = {}
    slipped: dict[PositionName, Decimal] = {}
    for fill in fills:
        if fill.is_contract:
            realized[fill.name] = realized.get(fill.name, _ZERO) + fill.realized
            slipped[fill.name] = slipped.get(fill.name, _ZERO) + slippage_of(fill)
            quotes[fill.name] = fill.quote
    entries = []
    for name in sorted(quotes):
        before, after = open_profit.get(name, [_ZERO, _ZERO])
        rate, rate_before = (
            rates.get(quotes[name], _ZERO),
            first.rates.get(quotes[name], rates.get(quotes[name], _ZERO)),
        )
        price = (after + realized.get(name, _ZERO) - before - slipped.get(name, _ZERO)) * rate
        parts = {"price": price, "currency": before * (rate - rate_before)}
        entries.append(AttributionEntry("holding", name.instrument, None, name, parts))
    return entries


def slippage_of(fill: AttributedFill) -> Decimal:
    """Return the profit (quote) of the execution's price against that of the decision; negative if it was worse."""
    return _ZERO if fill.decided is None else fill.quantity * (fill.decided - fill.price) * fill.multiplier


def _of_fill(fill: AttributedFill, rates: Mapping[str, Decimal], moves: _Moves) -> AttributionEntry:
    """Return the effect of an execution, and count the amounts that it moved."""
    quote = rates.get(fill.quote, _ZERO)
    paid = fill.realized if fill.is_contract else -fill.quantity * fill.price * fill.multiplier
    slippage = slippage_of(fill) * quote
    parts = {"slippage": slippage, "price": _ZERO, "fees": _ZERO, "currency": _ZERO, "flows": _ZERO}
    if not fill.is_contract:
        parts["price"] = fill.quantity * rates.get(fill.base, _ZERO) + paid * quote - slippage
    fee = -fill.fee * rates.get(fill.fee_currency, _ZERO)
    parts["fees"] = fee if fill.fee_quote is None else -fill.fee_quote * quote
    parts["currency"] = fee - parts["fees"]
    is_fee_in_base = fill.fee_currency == fill.base and not fill.is_contract
    if fill.is_member:
        parts["flows"] = -paid * quote - (_ZERO if is_fee_in_base else fee)
        if not fill.is_contract:
            moved = fill.quantity - (fill.fee if is_fee_in_base else _ZERO)
            moves.positions[fill.name] = moves.positions.get(fill.name, _ZERO) + moved
    else:
        account = fill.name.account
        if not fill.is_contract:
            moves.add(account, fill.base, fill.quantity)
        moves.add(account, fill.quote, paid)
        moves.add(account, fill.fee_currency, -fill.fee)
    return AttributionEntry("fill", fill.id, fill.time_ns, fill.name, parts)


def _of_split(
    split: AttributedSplit, first: PortfolioState, rates: Mapping[str, Decimal], moves: _Moves
) -> list[AttributionEntry]:
    """Return the effect of a split, which the fall of the price takes back, and count the shares that it moved: of the
    account, or of each position of a member."""
    rate = rates.get(split.base, _ZERO)
    if not split.is_member:
        moves.add(split.account, split.base, split.change)
        name = PositionName(split.account, split.venue, "", split.symbol)
        return [AttributionEntry("split", split.id, split.time_ns, name, {"price": split.change * rate})]
    held = {
        _name_of(position): position.quantity
        for position in first.positions
        if position.is_member and not position.is_contract
    }
    entries = []
    for name in sorted({*held, *moves.positions}):
        if (name.account, name.venue, name.instrument) == (split.account, split.venue, split.symbol):
            moved = moves.positions.get(name, _ZERO)
            change = (held.get(name, _ZERO) + moved) * (split.new - split.old) / split.old
            moves.positions[name] = moved + change
            entries.append(AttributionEntry("split", split.id, split.time_ns, name, {"price": change * rate}))
    return entries


def _unexplained(
    first: PortfolioState, last: PortfolioState, rates: Mapping[str, Decimal], moves: _Moves
) -> tuple[Unexplained, ...]:
    found = []
    for account, asset in sorted({*first.balances, *last.balances, *moves.balances}):
        key = (account, asset)
        amount = last.balances.get(key, _ZERO) - first.balances.get(key, _ZERO) - moves.balances.get(key, _ZERO)
        if amount:
            found.append((account, asset, amount))
    held = [
        {_name_of(p): (p.quantity, p.base) for p in state.positions if p.is_member and not p.is_contract}
        for state in (first, last)
    ]
    for name in sorted({*held[0], *held[1], *moves.positions}):
        (before, base), (after, last_base) = (side.get(name, (_ZERO, "")) for side in held)
        if amount := after - before - moves.positions.get(name, _ZERO):
            found.append((name.account, base or last_base, amount))
    return tuple(
        Unexplained(account, asset, amount, amount * rates.get(asset, _ZERO)) for account, asset, amount in found
    )
