"""Facts of one trading day that limits need after a restart: executions, prices at its start, the greatest loss
seen."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from fks.model.order import Side
from fks.model.timeframe import to_datetime
from fks.store.base import SqlStore, reads
from fks.store.db import Querier


@dataclass(frozen=True, slots=True)
class DayTurnover:
    """Executions of one account in one symbol and on one side, with the fees of one currency."""

    account_id: int
    symbol: str
    side: Side
    fee_currency: str
    quantity: Decimal
    value: Decimal
    fee: Decimal
    fill_ids: Sequence[uuid.UUID]


reads(DayTurnover, side=lambda row: Side(row["trade_type"].lower()))


class RiskStore(SqlStore[Querier], queries="risk"):
    """The tables day_start_prices and day_losses, and the day's rows of trades. Every write may be repeated."""

    async def turnover(self, since_ns: int) -> list[DayTurnover]:
        """Return what accounts executed through FKS since then."""

    async def start_prices(self, day_ns: int) -> dict[tuple[str, str], Decimal]:
        """Return the stored prices at a day's start by (exchange, symbol)."""
        rows = await self._db.fetch("risk.start_prices", to_datetime(day_ns))
        return {(row["exchange"], row["symbol"]): row["price"] for row in rows}

    async def save_start_price(self, day_ns: int, exchange: str, symbol: str, price: Decimal) -> None:
        """Store a price at a day's start; the first one stays."""

    async def close_before(self, exchange: str, symbol: str, time_ns: int) -> Decimal | None:
        """Return the close of the last minute that ended by then, None when none of the day before is stored."""
        close = await self._db.fetchval("risk.close_before", exchange, symbol, to_datetime(time_ns))
        return None if close is None else Decimal(repr(float(close)))

    async def losses(self, day_ns: int) -> dict[int, Decimal]:
        """Return the greatest loss of a day by account, in its currency."""

    async def save_loss(self, account_id: int, day_ns: int, loss: Decimal) -> None:
        """Raise the greatest loss of an account's day."""
