"""Result of a backtest: columns of exact integers, and rows made of them when asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

import fks
from fks.indicators.exact import Exact
from fks.model.bar import Bars, Floats, Ints
from fks.model.cash_flows import Dividend
from fks.model.codes import Code
from fks.model.decimals import plain
from fks.model.order import Role, Side
from fks.research.backtest.cash_flows import Accrual, placed
from fks.research.backtest.fingerprint import fills_hash, inputs_hash
from fks.research.backtest.gaps import GapReport
from fks.research.backtest.rows import CashFlowRow, DeniedEntry, FillRow, Setup, TradeRow
from fks.research.backtest.units import Units, from_units
from fks.strategies.base import Strategy
from fks.strategies.registry import source_hash

__all__ = [
    "ROLES",
    "CashFlowRow",
    "DeniedColumns",
    "DeniedEntry",
    "EngineChoice",
    "EngineResult",
    "FillColumns",
    "FillRow",
    "FlowColumns",
    "Result",
    "Setup",
    "TradeColumns",
    "TradeRow",
    "as_floats",
    "plain",
]

Flags = npt.NDArray[np.bool_]

#: roles of fills, by their number in `FillColumns.role`
ROLES = (Role.ENTRY, Role.EXIT, Role.STOP_LOSS, Role.TAKE_PROFIT, Role.LIQUIDATION)


#: the code of an entry that expired
EXPIRED = Code.SLIPPAGE_GUARD.value
#: changes of a run that let entries pass which were denied or expired, by code
_REMEDIES: dict[str, str] = {
    Code.QTY_MIN: "give a larger size (--size), or a finer lot (--lot)",
    Code.QTY_STEP: "give a finer lot (--lot)",
    Code.QTY_MAX: "give a smaller size (--size), or a larger largest order (--largest)",
    Code.NOTIONAL_MIN: "give a larger size (--size)",
    Code.NOTIONAL_MAX_ORDER: "give a smaller size (--size)",
    Code.BALANCE: "give a smaller size (--size), or more cash (--cash)",
    Code.MARGIN: "give a smaller size (--size), or more cash (--cash)",
    Code.PRICE_TICK: "give a finer tick (--tick)",
    Code.STOP_WRONG_SIDE: "check the distance of the exits, and the tick (--tick)",
    EXPIRED: "give a wider collar (--collar), or a finer tick (--tick)",
}


_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """The engine that walked the tape, `compiled` or `reference`, and the reason. Both give the same result."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class FillColumns:
    """Fills as exact integers, in order. Shapes: all (n,).

    Units: those of `Result.units`; `fee` is in the places of quantities where `is_base_fee`, else of amounts. `bar` is
    an index on `Result.bars`, `side` 1 or -1, `role` an index of `ROLES`. Integers beyond 64 bits are Python's (dtype
    object).
    """

    bar: Ints
    side: Ints
    quantity: Exact
    price: Exact
    fee: Exact
    is_base_fee: Flags
    role: Ints
    decided: Ints | None = None  # index of the bar that decided it, or the entry it protects; None = the bar before

    def __len__(self) -> int:
        return len(self.bar)


@dataclass(frozen=True, slots=True)
class TradeColumns:
    """Round trips. `entry` and `exit` are indices of their fills, `pnl` exact integers in the places of amounts."""

    entry: Ints
    exit: Ints
    pnl: Exact

    def __len__(self) -> int:
        return len(self.entry)


@dataclass(frozen=True, slots=True)
class DeniedColumns:
    """Denied entries, and those that expired: index of the deciding bar, side, index of the code in `codes`."""

    bar: Ints
    side: Ints
    code: Ints
    codes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.bar)


@dataclass(frozen=True, slots=True)
class FlowColumns:
    """Cash flows that were booked: the number of each among the events that the run can book
    (`fks.research.backtest.cash_flows.placed`), and its amount, exact integers in the places of amounts; negative =
    paid."""

    event: Ints
    amount: Exact

    def __len__(self) -> int:
        return len(self.event)


@dataclass(frozen=True, slots=True)
class EngineResult:
    """An engine's result. `equity` is quote at each bar's close: float64, from the first decided bar on. `cash` and
    `position` are those at the end; `detail` gives live's words for a row of `denied`; `unclear` counts the bars that
    did not show in which order prices were reached, where the pessimistic rule decided; `slipped` is how much worse
    than the fill rule's prices the fills were, in all, in the places of amounts."""

    engine: EngineChoice
    units: Units
    fills: FillColumns
    trades: TradeColumns
    denied: DeniedColumns
    detail: Callable[[int], str]
    equity: Floats
    cash: int
    position: int
    unclear: int = 0
    slipped: int = 0
    flows: FlowColumns | None = None  # None = the run has no event


class Untraded(NamedTuple):
    """Reason for which a run has no trade, and a change that may give it some."""

    text: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.text}; {self.remedy}"


def _short(amount: Decimal) -> str:
    """Return an amount in cents, a small one in two digits."""
    return f"{amount:,.2f}" if amount >= 1 else plain(Decimal(f"{amount:.2g}"))


@dataclass(frozen=True)
class Result:
    """A finished backtest.

    Fills, trades and denials are kept as columns of exact integers. Rows, with exact decimals, and both fingerprints
    are made when they are first asked for.
    """

    decided_by: Strategy
    bars: Bars
    first: int  # index of the first bar that was decided on
    setup: Setup
    gaps: GapReport
    outcome: EngineResult
    finer: Bars | None = None  # bars that decided where a bar did not show the order of its prices

    @property
    def engine(self) -> EngineChoice:
        """Return the engine that walked the tape."""
        return self.outcome.engine

    @property
    def units(self) -> Units:
        """Return the grids of the integer columns."""
        return self.outcome.units

    @property
    def fill_columns(self) -> FillColumns:
        """Return the fills as integers."""
        return self.outcome.fills

    @property
    def trade_columns(self) -> TradeColumns:
        """Return the round trips as integers."""
        return self.outcome.trades

    @property
    def unclear(self) -> int:
        """Return in how many bars the order of prices was not known, so that the pessimistic rule decided."""
        return self.outcome.unclear

    @property
    def equity(self) -> Floats:
        """Return quote at each bar's close, (len(bars) - first,) float64."""
        return self.outcome.equity

    @property
    def strategy(self) -> str:
        """Return the strategy's name."""
        return self.decided_by.name

    @cached_property
    def params(self) -> dict[str, object]:
        """Return the strategy's parameters as JSON-able values."""
        return self.decided_by.model_dump(mode="json")

    @property
    def cash(self) -> Decimal:
        """Return the quote at the end."""
        return from_units(self.outcome.cash, self.units.cash)

    @property
    def position(self) -> Decimal:
        """Return the base still held at the end (signed), including dust."""
        return from_units(self.outcome.position, self.units.quantity)

    @cached_property
    def fills(self) -> tuple[FillRow, ...]:
        """Return every fill, exact."""
        columns, units, item = self.fill_columns, self.units, self.setup.instrument
        times = self.bars.time_ns[columns.bar].tolist()
        rows = zip(
            times,
            columns.side.tolist(),
            columns.quantity.tolist(),
            columns.price.tolist(),
            columns.fee.tolist(),
            columns.is_base_fee.tolist(),
            columns.role.tolist(),
            strict=True,
        )
        return tuple(
            FillRow(
                time_ns,
                Side.BUY if side > 0 else Side.SELL,
                from_units(quantity, units.quantity),
                from_units(price, units.price),
                from_units(fee, units.quantity if is_base else units.cash),
                item.base if is_base else item.quote,
                ROLES[role],
            )
            for time_ns, side, quantity, price, fee, is_base, role in rows
        )

    @cached_property
    def trades(self) -> tuple[TradeRow, ...]:
        """Return every round trip, exact; of a position that is closed in parts, one for each part. Of one with several
        entries the prices are the average ones, to 8 places more than the bars have."""
        columns, fills = self.trade_columns, self.fills
        rows = zip(columns.entry.tolist(), columns.exit.tolist(), columns.pnl.tolist(), strict=True)
        found, before = [], (-1, -1)  # entry and exit of the trade before
        for entry, exit_, pnl in rows:
            first_sold = before[1] + 1 if before[0] == entry else entry  # a part was closed before
            sold = [fill for fill in fills[first_sold : exit_ + 1] if fill.role is not Role.ENTRY]
            worth, quantity = sum((f.quantity * f.price for f in sold), _ZERO), sum((f.quantity for f in sold), _ZERO)
            found.append(
                TradeRow(
                    fills[entry].side,
                    fills[entry].time_ns,
                    fills[exit_].time_ns,
                    quantity,
                    self._entry_price(fills[entry : exit_ + 1], first_sold - entry),
                    sold[0].price if len(sold) == 1 else round(worth / quantity, self.units.price + 8),
                    from_units(pnl, self.units.cash),
                    fills[exit_].role,
                )
            )
            before = entry, exit_
        return tuple(found)

    def _entry_price(self, fills: Sequence[FillRow], first_sold: int) -> Decimal:
        """Return the average price of the quantity that a trade closes: of the entries so far, less the parts closed
        before fill `first_sold`."""
        entries = [fill for fill in fills if fill.role is Role.ENTRY]
        if len(entries) == 1:
            return entries[0].price
        held = worth = price = _ZERO
        for number, fill in enumerate(fills):
            if fill.role is Role.ENTRY:
                held, worth = held + fill.quantity, worth + fill.quantity * fill.price
                price = worth / held
            elif number < first_sold:  # a short's fee in base is bought back, too: more than was sold
                held = max(held - fill.quantity, _ZERO)
                worth = held * price
        return round(price, self.units.price + 8)

    @cached_property
    def cash_flows(self) -> tuple[CashFlowRow, ...]:
        """Return every dividend, funding, borrow and interest that was booked, exact, in order."""
        flows, columns, units = self.outcome.flows, self.fill_columns, self.units
        if flows is None:
            return ()
        known = placed(self.bars, self.first, self.setup)
        signed = columns.side * columns.quantity
        moves = signed - np.where(columns.is_base_fee, columns.fee, 0)
        held = [0, *np.cumsum(moves).tolist()]
        rows = []
        for number, amount in zip(flows.event.tolist(), flows.amount.tolist(), strict=True):
            index, event_ns, event = known[number]
            before = int(np.searchsorted(columns.bar, index))  # fills of the bar itself come after it
            is_dividend = isinstance(event, Dividend)
            rows.append(
                CashFlowRow(
                    event.kind if isinstance(event, Accrual) else "dividend" if is_dividend else "funding",
                    int(self.bars.time_ns[index]),
                    event_ns,
                    from_units(held[before], units.quantity),
                    event.amount if isinstance(event, Dividend) else event.rate,
                    from_units(amount, units.cash),
                )
            )
        return tuple(rows)

    @property
    def dividends(self) -> Decimal:
        """Return the dividends received less those paid on short positions, in quote."""
        return self._sum("dividend")

    @property
    def funding(self) -> Decimal:
        """Return the funding received less that paid, in quote."""
        return self._sum("funding")

    @property
    def borrow(self) -> Decimal:
        """Return the cost of borrowing short positions, in quote."""
        return -self._sum("borrow")

    @property
    def interest(self) -> Decimal:
        """Return the interest paid on cash below 0, in quote."""
        return -self._sum("interest")

    def _sum(self, kind: str) -> Decimal:
        return sum((row.amount for row in self.cash_flows if row.kind == kind), _ZERO)

    @cached_property
    def denied(self) -> tuple[DeniedEntry, ...]:
        """Return every denied entry, with live's words."""
        return tuple(row for row in self._not_filled if row.code != EXPIRED)

    @cached_property
    def expired(self) -> tuple[DeniedEntry, ...]:
        """Return every market entry that expired beyond its collar, with its price."""
        return tuple(row for row in self._not_filled if row.code == EXPIRED)

    @cached_property
    def _not_filled(self) -> tuple[DeniedEntry, ...]:
        columns = self.outcome.denied
        rows = zip(self.bars.time_ns[columns.bar].tolist(), columns.side.tolist(), columns.code.tolist(), strict=True)
        return tuple(
            DeniedEntry(time_ns, Side.BUY if side > 0 else Side.SELL, columns.codes[code], self.outcome.detail(number))
            for number, (time_ns, side, code) in enumerate(rows)
        )

    @cached_property
    def denied_count(self) -> dict[str, int]:
        """Return how many entries were denied, by code, in the order in which the codes first appeared."""
        return {code: count for code, count in self._count.items() if code != EXPIRED}

    @property
    def expired_count(self) -> int:
        """Return how many market entries expired beyond their collar."""
        return self._count[EXPIRED]

    @cached_property
    def no_trades(self) -> Untraded | None:
        """Return why a run has no fill although entries were decided: all were denied or expired. None for others."""
        if len(self.fill_columns.bar) or not self._count:
            return None
        item, columns = self.setup.instrument, self.outcome.denied
        code, _ = self._count.most_common(1)[0]
        number = next(at for at, found in enumerate(columns.code.tolist()) if columns.codes[found] == code)
        counts = ", ".join(f"{many} × {name}" for name, many in self._count.items())
        text = (
            f"No trades: every entry was denied or expired ({counts}); the first {code}: {self.outcome.detail(number)}"
        )
        price = Decimal(repr(float(self.bars.close[columns.bar[number]])))
        if code in (Code.QTY_MIN, Code.QTY_STEP):
            worth = item.lot_step * item.multiplier * price
            text += f"; a lot of {plain(item.lot_step)} {item.base} is worth {_short(worth)} {item.quote}"
        elif code in (Code.PRICE_TICK, Code.STOP_WRONG_SIDE, EXPIRED):
            text += f"; the tick is {plain(item.tick)} at a price of {plain(price)}"
        return Untraded(text, _REMEDIES.get(code, "change the setup so that it passes"))

    @property
    def slippage(self) -> Decimal:
        """Return what slippage cost, in quote: it is part of the fills' prices."""
        return from_units(self.outcome.slipped, self.units.cash)

    @property
    def liquidations(self) -> int:
        """Return how often a position was closed by force."""
        return int((self.fill_columns.role == ROLES.index(Role.LIQUIDATION)).sum())

    @property
    def liquidation_fees(self) -> Decimal:
        """Return what closing by force cost in quote beside slippage and the fees of its fills; `fills` have it in
        their fees."""
        forced = (fill for fill in self.fills if fill.role is Role.LIQUIDATION)
        return sum((self.setup.liquidation_fee(fill.quantity, fill.price) for fill in forced), _ZERO)

    @cached_property
    def _count(self) -> Counter[str]:
        return Counter(self.outcome.denied.codes[code] for code in self.outcome.denied.code.tolist())

    @cached_property
    def pnl(self) -> Floats:
        """Return the profit of each trade, in quote, rounded once to float64."""
        return as_floats(self.trade_columns.pnl, self.units.cash)

    @cached_property
    def inputs_hash(self) -> str:
        """Return the fingerprint of everything that went in."""
        return inputs_hash(
            version=fks.__version__,
            strategy=self.strategy,
            source=source_hash(self.decided_by),
            params=self.params,
            bars=self.bars,
            setup=self.setup,
            first=self.first,
            finer=self.finer,
        )

    @cached_property
    def fills_hash(self) -> str:
        """Return the fingerprint of the ordered fills."""
        return fills_hash(self.fills)


def as_floats(values: Exact, places: int) -> Floats:
    """Return integers on the grid of 10^-places as float64, each rounded to float64 and divided once."""
    floats: Floats = values.astype(np.float64) / 10.0**places
    return floats
