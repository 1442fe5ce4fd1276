"""Instruments in their table. Filters that not every exchange has are in one JSON column: a new one needs no
migration."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from fks.model.instrument import Instrument, Lot, PercentPrice
from fks.model.timeframe import to_ns
from fks.store.base import SqlStore, columns_of, reader
from fks.store.db import Querier, Row

_COLUMNS = (
    "exchange",
    "symbol",
    "base",
    "quote",
    "tick",
    "lot_step",
    "qty_min",
    "qty_max",
    "notional_min",
    "multiplier",
    "is_trading",
)


@reader
def instrument_of(row: Row) -> Instrument:
    """Return a row of the table as an instrument."""
    columns = {name: row[name] for name in _COLUMNS}
    return Instrument(**columns, updated_ns=to_ns(row["updated_at"]), **_from_filters(row["filters"]))


class InstrumentStore(SqlStore[Querier], queries="instruments"):
    """The table `instruments`."""

    async def merge(self, instruments: Sequence[Instrument]) -> None:
        """Store the present list of one exchange; instruments that are no longer listed are marked as not trading."""
        if not instruments:
            return
        columns = columns_of(instruments, *_COLUMNS, "updated_ns")
        await self._db.execute("instruments.merge", *columns, [filters_of(item) for item in instruments])
        await self._db.execute("instruments.retire", instruments[0].exchange, [item.symbol for item in instruments])

    async def all(self, exchange: str | None = None) -> list[Instrument]:
        """Return instruments of all exchanges or one, by exchange and symbol."""

    async def get(self, exchange: str, symbol: str) -> Instrument | None:
        """Return one instrument, or None."""


def filters_of(instrument: Instrument) -> dict[str, Any]:
    """Return the filters that the exchange reported, in the column's form: numbers as text, absent ones left out."""
    lot, band = instrument.market_lot, instrument.percent_price
    found = {
        "market_lot": None if lot is None else [str(lot.least), str(lot.most), str(lot.step)],
        "is_notional_min_for_market": None if instrument.is_notional_min_for_market else False,
        "orders_max": instrument.orders_max,
        "algo_orders_max": instrument.algo_orders_max,
        "percent_price": None
        if band is None
        else [str(band.buy_down), str(band.buy_up), str(band.sell_down), str(band.sell_up)],
        "order_types": sorted(instrument.order_types) or None,
        "has_oco": None if instrument.has_oco else False,
        "has_oto": instrument.has_oto or None,
        "has_opo": instrument.has_opo or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _from_filters(values: dict[str, Any]) -> dict[str, Any]:
    found = dict(values)
    if "market_lot" in found:
        found["market_lot"] = Lot(*(Decimal(value) for value in found["market_lot"]))
    if "percent_price" in found:
        found["percent_price"] = PercentPrice(*(Decimal(value) for value in found["percent_price"]))
    if "order_types" in found:
        found["order_types"] = frozenset(found["order_types"])
    return found
