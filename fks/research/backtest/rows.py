"""Inputs of a backtest besides bars and strategy, and the rows of its result, with exact decimals."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field, replace
from decimal import Decimal

from fks.config.risk import Risk
from fks.model.cash_flows import InstrumentEvents
from fks.model.decimals import plain
from fks.model.instrument import Instrument, money
from fks.model.margin import Margin
from fks.model.order import Role, Side
from fks.model.timeframe import iso
from fks.trading.matching import Borrow, CostModel

_ZERO = Decimal(0)
#: the most cash, and the largest size of an entry: their sums at 1e-8 have to fit the 28 digits of a Decimal
AMOUNT_MAX = Decimal(10) ** 15


@dataclass(frozen=True, slots=True)
class Setup:
    """Inputs of a backtest besides bars and strategy. `size` is quote per entry (`notional`) or base per entry
    (`quantity`)."""

    instrument: Instrument
    costs: CostModel = field(default_factory=CostModel)
    sizing: str = "notional"
    size: Decimal = Decimal(1000)
    cash: Decimal = Decimal(10_000)
    can_short: bool = False
    allow_gaps: bool = False
    limits: Risk = field(default_factory=Risk)  # ours, in quote; fks.research.backtest.limits.UNLIMITED for none
    _: KW_ONLY
    pyramiding: int | None = None  # most entries of one position; None = as many as the strategy makes
    start_ns: int | None = None  # decisions from here on; bars before are warm-up. None = as soon as it is warm
    #: of entries whose exits the venue holds (rule 9 of fks.trading.matching); None = no collar
    collar_pct: Decimal | None = None
    margin: Margin | None = None  # None = positions are paid in full
    borrow: Borrow = field(default_factory=Borrow)  # of short positions and of cash below 0
    #: dividends, funding and delisting of the instrument
    events: InstrumentEvents = field(default_factory=InstrumentEvents)
    is_closed_at_end: bool = False  # what is held after the last bar is closed at its close, with its costs

    def __post_init__(self) -> None:
        if self.margin is not None and self.margin.fee_rate:  # a fee of the value that is closed is quote
            object.__setattr__(self, "costs", replace(self.costs, fee_in="quote"))

    @property
    def margin_kept(self) -> Margin | None:
        """Return the margin that entries need and positions keep; None where each buy is paid for and only what is held
        is sold, so that the account cannot lose more than it has."""
        return self.margin or (Margin() if self.can_short or self.instrument.is_contract else None)

    def liquidation_fee(self, quantity: Decimal, price: Decimal) -> Decimal:
        """Return the fee (quote, 1e-8 half-even) of a quantity that is closed by force, beside that of its fill."""
        rate = _ZERO if self.margin is None else self.margin.fee_rate
        return money(quantity * price * self.instrument.multiplier * rate)


@dataclass(frozen=True, slots=True)
class FillRow:
    """One fill, exact. `time_ns` is the open time of the bar it happened in; these fields are what G6 compares."""

    time_ns: int
    side: Side
    quantity: Decimal
    price: Decimal
    fee: Decimal
    fee_currency: str
    role: Role = Role.ENTRY

    def as_dict(self) -> dict[str, str]:
        return {
            "time": iso(self.time_ns),
            "side": self.side.value,
            "quantity": plain(self.quantity),
            "price": plain(self.price),
            "fee": plain(self.fee),
            "fee_currency": self.fee_currency,
            "role": self.role.value,
        }


@dataclass(frozen=True, slots=True)
class TradeRow:
    """A round trip. `pnl` is realised in quote against the average cost of the holding; fees, dividends, funding and
    what was borrowed are included."""

    side: Side
    entry_ns: int
    exit_ns: int
    quantity: Decimal
    entry_price: Decimal
    exit_price: Decimal
    pnl: Decimal
    reason: Role  # exit | sl | tp

    def as_dict(self) -> dict[str, str]:
        return {
            "side": self.side.value,
            "entry_time": iso(self.entry_ns),
            "exit_time": iso(self.exit_ns),
            "quantity": plain(self.quantity),
            "entry_price": plain(self.entry_price),
            "exit_price": plain(self.exit_price),
            "pnl": plain(self.pnl),
            "reason": self.reason.value,
        }


@dataclass(frozen=True, slots=True)
class CashFlowRow:
    """A dividend, the funding or borrow of a position, or interest on cash below 0, exact. `time_ns` is the open time
    of the bar that booked it, `event_ns` its own time (of a dividend the ex-day's begin, of borrow and interest the end
    of the day before); `quantity` is the position then (signed), `amount` the quote that it brought in, negative =
    paid. `rate`: cash a share, the funding rate, or the yearly rate."""

    kind: str  # dividend | funding | borrow | interest
    time_ns: int
    event_ns: int
    quantity: Decimal
    rate: Decimal
    amount: Decimal

    def as_dict(self) -> dict[str, str]:
        return {
            "kind": self.kind,
            "time": iso(self.time_ns),
            "event_time": iso(self.event_ns),
            "quantity": plain(self.quantity),
            "rate": plain(self.rate),
            "amount": plain(self.amount),
        }


@dataclass(frozen=True, slots=True)
class DeniedEntry:
    """An entry that our own rules denied, with the same code as in live trading."""

    time_ns: int
    side: Side
    code: str
    detail: str

    def as_dict(self) -> dict[str, str]:
        return {"time": iso(self.time_ns), "side": self.side.value, "code": self.code, "detail": self.detail}
