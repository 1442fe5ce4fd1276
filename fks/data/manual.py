"""Manual booking of executions made elsewhere: rows of `trades` with source `manual`.

Nothing is sent, and no position or balance changes: those follow the reports of venues. The rows' venue is `manual`, so
that reconciliation never takes them for a venue's own. Profit is realised by average cost over the manual bookings of
the account and symbol, in order of time, as for fills.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

from fks.model import ids
from fks.model.account import Position
from fks.model.decimals import plain
from fks.model.errors import InputError, conflict, not_found, unprocessable
from fks.model.instrument import Instrument
from fks.model.order import Fill, Side
from fks.model.timeframe import iso, to_datetime, to_ns
from fks.store.db import Database, Row, Transaction
from fks.store.reading import Listed
from fks.trading.portfolio.position import apply_fill

VENUE = SOURCE = "manual"
ORDER_TYPE_LENGTH_MAX, REFERENCE_MAX = 32, 128
_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class ManualTrade:
    """An execution to book. `time_ns` None: now. `reference` distinguishes two equal ones: best is the broker's
    own trade id."""

    account_id: int
    side: Side
    quantity: Decimal
    price: Decimal
    fee: Decimal
    fee_currency: str | None
    order_type: str
    time_ns: int | None = None
    reference: str | None = None

    def name(self, symbol: str) -> str:
        """Return the identity of the trade: its reference alone, or all its values."""
        if self.reference is not None:
            return f"ref {self.reference}"
        parts = (
            self.side,
            plain(self.quantity),
            plain(self.price),
            plain(self.fee),
            self.order_type.strip().upper(),
            self.time_ns,
        )
        return " ".join([symbol, *(str(part) for part in parts)])


def checked(
    trade_type: str, quantity: object, price: object, fee: object, order_type: str
) -> tuple[Side, Decimal, Decimal, Decimal]:
    """Return side and exact numbers of the caller's arguments. Errors: InputError naming the argument and the valid
    values."""
    side = str(trade_type).strip().lower()
    if side not in (Side.BUY, Side.SELL):
        raise _wrong(f"trade_type={trade_type!r} is neither BUY nor SELL", "use 'BUY' or 'SELL'")
    if not 0 < len(str(order_type).strip()) <= ORDER_TYPE_LENGTH_MAX or not str(order_type).isprintable():
        raise _wrong(f"order_type={order_type!r} is no word", "use 'MARKET', 'LIMIT', …")
    exact = {name: exact_of(value, name) for name, value in (("quantity", quantity), ("price", price), ("fee", fee))}
    for name in ("quantity", "price"):
        if exact[name] <= 0:
            raise _wrong(f"{name}={exact[name]} is not above 0", "a sale is trade_type='SELL', not a negative number")
    return Side(side), exact["quantity"], exact["price"], exact["fee"]


def exact_of(value: object, name: str) -> Decimal:
    """Return the exact decimal of a number: of a float its shortest text. Errors: InputError when it is not finite."""
    if isinstance(value, Integral | Real | str | Decimal) and not isinstance(value, bool):  # includes numpy's
        try:
            found = Decimal(value if isinstance(value, Decimal) else str(value))
        except ArithmeticError:
            found = Decimal("NaN")
        if found.is_finite() and len(found.as_tuple().digits) <= 40 and abs(found.adjusted()) <= 25:
            return found
    raise _wrong(f"{name}={value!r} is no number", "use a number, a Decimal or its text")


async def book(db: Database, listed: Listed, trade: ManualTrade) -> tuple[dict[str, Any], bool]:
    """Book `trade` and return (its row, whether it is new). Twice equals once, also with concurrent callers.

    Errors: InputError ACCOUNT_UNKNOWN; OutageError, and then calling again is safe.
    """
    name = trade.name(listed.symbol)
    fill_id = ids.fill_id(VENUE, str(trade.account_id), listed.symbol, name)
    async with db.transaction() as tx:
        account = await tx.fetchrow("manual.lock_account", trade.account_id)
        if account is None:
            raise not_found("ACCOUNT_UNKNOWN", f"there is no account {trade.account_id}", "see get_accounts()")
        currency = trade.fee_currency or listed.quote or account["currency"]
        id = await tx.fetchval(
            "manual.book",
            fill_id,
            trade.reference or "",
            trade.account_id,
            listed.symbol,
            trade.side.upper(),
            trade.quantity,
            trade.price,
            trade.fee,
            currency.upper(),
            trade.order_type.strip().lower(),
            None if trade.time_ns is None else to_datetime(trade.time_ns),
            _fee_in_quote(trade, currency.upper(), listed),
        )
        if id is not None:
            await _restate(tx, listed, trade.account_id)
        rows = await tx.fetch("manual.booked", trade.account_id, listed.symbol)
    row = next(row for row in rows if row["fill_id"] == fill_id)
    if id is None:
        _check_same(row, trade)
    return dict(row), id is not None


def _check_same(row: Row, trade: ManualTrade) -> None:
    """Refuse a reference that belongs to another execution; values that were not given are not compared."""
    there = [row["trade_type"].lower(), row["quantity"], row["price"], row["fee"], row["order_type"]]
    wanted: list[object] = [trade.side.value, trade.quantity, trade.price, trade.fee, trade.order_type.strip().lower()]
    if trade.fee_currency is not None:
        there.append(row["fee_currency"])
        wanted.append(trade.fee_currency.upper())
    if trade.time_ns is not None:
        there.append(iso(to_ns(row["time"])))
        wanted.append(iso(trade.time_ns))
    if there != wanted:
        named = "this trade" if trade.reference is None else f"reference {trade.reference!r}"
        raise conflict(
            "TRADE_DIFFERS",
            f"{named} is booked already as {' '.join(map(str, there))}",
            "give this execution a reference of its own",
        )


async def _restate(tx: Transaction, listed: Listed, account_id: int) -> None:
    rows = await tx.fetch("manual.booked", account_id, listed.symbol)
    realized = realized_by(rows, listed)
    await tx.execute("manual.restate", [row["id"] for row in rows], realized)


def realized_by(rows: Sequence[Row], listed: Listed) -> list[Decimal]:
    """Return the realised profit of each execution (quote, before fees), by average cost; rows are in order of time."""
    one = Decimal(1)
    instrument = Instrument(
        listed.exchange, listed.symbol, listed.base, listed.quote, one, one, one, one, one, multiplier=listed.multiplier
    )
    position = Position(0, VENUE, listed.symbol, "", _ZERO, _ZERO, _ZERO, _ZERO)
    found = []
    for row in rows:
        fill = Fill(
            row["fill_id"],
            None,
            None,
            row["venue_trade_id"],
            row["account_id"],
            VENUE,
            listed.symbol,
            Side(row["trade_type"].lower()),
            row["quantity"],
            row["price"],
            row["fee"],
            row["fee_currency"],
            to_ns(row["time"]),
            source=SOURCE,
        )
        booking = apply_fill(position, fill, instrument)
        position = booking.position
        found.append(booking.realized)
    return found


def _fee_in_quote(trade: ManualTrade, currency: str, listed: Listed) -> Decimal | None:
    """Return the fee in quote; None for one in a third asset, which is valued later (fks.research.jobs.valuation), and
    without a fee. A fee whose currency was not given is one in quote."""
    if not trade.fee:
        return None
    if trade.fee_currency is None or currency == listed.quote:
        return trade.fee
    return trade.fee * trade.price if currency == listed.base else None


def _wrong(message: str, remedy: str) -> InputError:
    return unprocessable("INVALID", message, remedy)
