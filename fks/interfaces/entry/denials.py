"""Ledger of entries that were not made: for each denial, expiry and refusal of a person what the entry would have
brought."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from fks.model.bar import Bars
from fks.model.errors import InputError, unprocessable
from fks.model.instrument import Instrument
from fks.model.order import OrderType, Side
from fks.model.timeframe import bar_end, iso, to_ns
from fks.research.backtest.counterfactual import Ending, UnmadeEntry, Valued, value
from fks.store.bars import BarStore
from fks.store.db import Database
from fks.store.facts import FactStore
from fks.trading.matching import CostModel
from fks.trading.risk.sizing import entry_quantity

SIGNALS_MAX = 2_000
BARS_MAX = 1_000_000  # of one series: 12 days of seconds, two years of minutes; 48 MB in this process
_PERSON_TIMEFRAME = "1m"  # the bars that a person's order is valued on
_ZERO = Decimal(0)
Row = Mapping[str, Any]


class DenialLedger:
    """Values entries that were not made on the stored bars. Errors: InputError SPAN_TOO_LONG, OutageError."""

    def __init__(self, db: Database, costs: CostModel) -> None:
        self._db, self._costs = db, costs
        self._bars = BarStore(db)

    async def read(self, since: datetime, until: datetime, instance: str | None) -> dict[str, Any]:
        """Return `{"items", "total", "is_cut"}`: one item for each unmade entry, oldest first, and sums by code.

        A positive value is a missed profit, a negative one an avoided loss, in the symbol's quote currency.
        `is_cut`: there were more than SIGNALS_MAX entries, and the later ones are left out.
        """
        rows = await self._db.fetch("denials.unmade", since, until, instance, SIGNALS_MAX + 1)
        listed = {(item.exchange, item.symbol): item for item in await FactStore(self._db).instruments()}
        series: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
        for row in map(dict, rows[:SIGNALS_MAX]):
            series[row["exchange"], row["symbol"], row["timeframe"] or _PERSON_TIMEFRAME].append(row)
        items: list[dict[str, Any]] = []
        for (exchange, symbol, timeframe), members in series.items():
            instrument = listed.get((exchange, symbol))
            first_ns = min(_decided_ns(row) for row in members)
            bars = await self._bars.read(symbol, timeframe, first_ns, None, BARS_MAX + 1, exchange=exchange)
            if len(bars) > BARS_MAX:
                raise unprocessable(
                    "SPAN_TOO_LONG",
                    f"there are more than {BARS_MAX:,} {timeframe} bars of {symbol} since {iso(first_ns)}",
                    "begin later, or choose one instance",
                )
            items += await asyncio.to_thread(_valued, members, bars, instrument, self._costs)
        items.sort(key=lambda item: item["time"])
        return {"items": items, "total": summed(items), "is_cut": len(rows) > SIGNALS_MAX}


def _decided_ns(row: Row) -> int:
    """Return when the entry was decided: the end of its bar, or when the request came."""
    start_ns = to_ns(row["ts_event"])
    return start_ns if row["timeframe"] is None else bar_end(start_ns, row["timeframe"])


def _valued(rows: Sequence[Row], bars: Bars, instrument: Instrument | None, costs: CostModel) -> list[dict[str, Any]]:
    return [_item(row, _valued_or_none(row, bars, instrument, costs), instrument) for row in rows]


def _valued_or_none(
    row: Row, bars: Bars, instrument: Instrument | None, costs: CostModel
) -> tuple[Decimal, Valued] | None:
    try:
        return _value_of(row, bars, instrument, costs)
    except ArithmeticError:  # a denied quantity may be beyond any price
        return None


def _value_of(row: Row, bars: Bars, instrument: Instrument | None, costs: CostModel) -> tuple[Decimal, Valued] | None:
    """Return the quantity and value of an entry; None when it has no size of its own or no instrument any more."""
    if instrument is None:
        return None
    quantity = row["size"]
    if quantity is None:
        reference = row["reference_price"]
        if row["sizing"] is None or reference is None:
            return None
        try:
            quantity = entry_quantity(
                row["sizing"], row["instance_size"], reference, instrument, share=row["size_share"]
            )
        except InputError:
            return None
    left_ns = None
    if row["left_event"] is not None:
        left_ns = bar_end(to_ns(row["left_event"]), row["left_timeframe"])
    entry = UnmadeEntry(
        side=Side(row["side"]),
        quantity=quantity,
        decided_ns=_decided_ns(row),
        type=OrderType(row["type"]),
        limit=row["limit_price"],
        stop=row["stop_price"],
        stop_loss=row["stop_loss"],
        take_profit=row["take_profit"],
        until_ns=left_ns
        if row["timeframe"] is not None
        else None
        if row["valid_until"] is None or row["type"] == "market"
        else to_ns(row["valid_until"]),
        left_ns=left_ns,
    )
    return quantity, value(entry, bars, costs, instrument)


def _item(row: Row, found: tuple[Decimal, Valued] | None, instrument: Instrument | None) -> dict[str, Any]:
    quantity, valued = found or (None, None)
    return {
        "signal_id": row["id"],
        "time": row["created_at"],
        "code": row["code"] or str(row["state"]).upper(),
        "state": row["state"],
        "instance": row["instance"],
        "source": row["source"],
        "symbol": row["symbol"],
        "side": row["side"],
        "quantity": quantity,
        "currency": None if instrument is None else instrument.quote,
        "ending": None if valued is None else valued.ending.value,
        "value": None if valued is None else valued.pnl,
        "fees": None if valued is None else valued.fees,
        "entry_time": None if valued is None or valued.entry_ns is None else iso(valued.entry_ns),
        "entry_price": None if valued is None else valued.entry_price,
        "exit_time": None if valued is None or valued.exit_ns is None else iso(valued.exit_ns),
        "exit_price": None if valued is None else valued.exit_price,
    }


def summed(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each code and currency, the dearest denial first: how many entries, how many of them filled on
    the bars, how many would have won, and the sum of their values."""
    groups: dict[tuple[str, str | None], list[Mapping[str, Any]]] = defaultdict(list)
    for item in items:
        groups[item["code"], item["currency"]].append(item)
    rows = []
    for (code, currency), members in groups.items():
        filled = [item["value"] for item in members if item["entry_price"] is not None]
        rows.append(
            {
                "code": code,
                "currency": currency,
                "entries": len(members),
                "filled": len(filled),
                "won": sum(worth > 0 for worth in filled),
                "open": sum(item["ending"] == Ending.OPEN.value for item in members),
                "value": sum(filled, _ZERO),
            }
        )
    return sorted(rows, key=lambda row: (-row["value"], row["code"]))
