"""Prices for valuation as the tables have them at a moment, and fees that wait for a rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from fks.model.accounting.valuation import PricedPair
from fks.model.bar import Floats
from fks.model.timeframe import TIMEFRAMES, to_datetime, to_ns
from fks.store.base import SqlStore, reads
from fks.store.db import Querier

#: Timeframes whose bars price a pair: from a minute to a day.
_SPANS = {name: float(seconds) for name, seconds in TIMEFRAMES.items() if 60 <= seconds <= 86_400}


@dataclass(frozen=True, slots=True)
class UnvaluedFee:
    """A fee without a value in quote. `base` and `quote` are None where the instrument is not listed any more."""

    id: int
    exchange: str
    symbol: str
    base: str | None
    quote: str | None
    price: Decimal
    fee: Decimal
    fee_currency: str
    time_ns: int


reads(UnvaluedFee, time_ns="time")


class ValuationStore(SqlStore[Querier], queries="valuation"):
    """Reads prices of pairs, and writes the value of fees."""

    async def pairs(self) -> list[PricedPair]:
        """Return every spot pair of which there are bars, at the price 1: the graph of rates that may exist."""
        rows = await self._db.fetch("valuation.pairs")
        return [PricedPair(r["exchange"], r["symbol"], r["base"], r["quote"], Decimal(1), 0) for r in rows]

    async def prices(self, at_ns: int, symbols: Sequence[str] | None = None) -> list[PricedPair]:
        """Return the last price that each pair had at a moment: the close of the last bar that had ended, or the newest
        price of its feed. `symbols`: of these alone."""
        rows = await self._db.fetch(
            "valuation.closes",
            to_datetime(at_ns),
            [*_SPANS],
            [*_SPANS.values()],
            None if symbols is None else [*symbols],
        )
        return [PricedPair(r["exchange"], r["symbol"], r["base"], r["quote"], r["price"], to_ns(r["at"])) for r in rows]

    async def closes_at(
        self, places: Sequence[tuple[str, str]], times_ns: Sequence[int], age_max_s: float
    ) -> dict[tuple[str, str], Floats]:
        """Return the closes of (exchange, symbol) at moments: of the last bar that had ended, if that was at most
        `age_max_s` before. Shape: (moments,), NaN where there is none; a place without any bar is absent."""
        import numpy as np  # not needed for the prices of a moment

        rows = await self._db.fetch(
            "valuation.closes_at",
            [exchange for exchange, _ in places],
            [symbol for _, symbol in places],
            [to_datetime(at_ns) for at_ns in times_ns],
            [*_SPANS],
            [*_SPANS.values()],
            age_max_s,
        )
        found: dict[tuple[str, str], Floats] = {}
        for row in rows:
            key = (row["exchange"], row["symbol"])
            if key not in found:
                found[key] = np.full(len(times_ns), np.nan)
            found[key][row["place"] - 1] = row["close"]
        return found

    async def unvalued_fees(self, before: int | None, limit: int) -> list[UnvaluedFee]:
        """Return fees without a value, newest first, those before an id."""

    async def value_fees(self, values: Sequence[tuple[int, Decimal, Decimal | None]]) -> None:
        """Write (id, value in quote, rate or None) of fees; one that has a value by now keeps it."""
        if values:
            ids, amounts, rates = zip(*values, strict=True)
            await self._db.execute("valuation.value_fees", [*ids], [*amounts], [*rates])
