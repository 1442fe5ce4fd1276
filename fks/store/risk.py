"""Facts of one trading day that limits need after a restart: executions, prices at its start, the greatest loss
seen."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from fks.model.order import Side
from fks.model.timeframe import to_datetime
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


class RiskStore:
    """The tables day_start_prices and day_losses, and the day's rows of trades. Every write may be repeated."""

    def __init__(self, querier: Querier) -> None:
        self._db = querier

    async def turnover(self, since_ns: int) -> list[DayTurnover]:
        """Return what accounts executed through FKS since then."""
        return [
            DayTurnover(
                row["account_id"],
                row["symbol"],
                Side(row["trade_type"].lower()),
                row["fee_currency"],
                row["quantity"],
                row["value"],
                row["fee"],
                row["fill_ids"],
            )
            for row in await self._db.fetch("risk.turnover", to_datetime(since_ns))
        ]

    async def start_prices(self, day_ns: int) -> dict[tuple[str, str], Decimal]:
        """Return the stored prices at a day's start by (exchange, symbol)."""
        rows = await self._db.fetch("risk.start_prices", to_datetime(day_ns))
        return {(row["exchange"], row["symbol"]): row["price"] for row in rows}

    async def save_start_price(self, day_ns: int, exchange: str, symbol: str, price: Decimal) -> None:
        """Store a price at a day's start; the first one stays."""
        await self._db.execute("risk.save_start_price", to_datetime(day_ns), exchange, symbol, price)

    async def close_before(self, exchange: str, symbol: str, time_ns: int) -> Decimal | None:
        """Return the close of the last minute that ended by then, None when none of the day before is stored."""
        close = await self._db.fetchval("risk.close_before", exchange, symbol, to_datetime(time_ns))
        return None if close is None else Decimal(repr(float(close)))

    async def losses(self, day_ns: int) -> dict[int, Decimal]:
        """Return the greatest loss of a day by account, in its currency."""
        return {row["account_id"]: row["loss"] for row in await self._db.fetch("risk.losses", to_datetime(day_ns))}

    async def save_loss(self, account_id: int, day_ns: int, loss: Decimal) -> None:
        """Raise the greatest loss of an account's day."""
        await self._db.execute("risk.save_loss", account_id, to_datetime(day_ns), loss)
