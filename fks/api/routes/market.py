"""Market data out: the latest price, stored bars."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from fks.api.exact import ExactJson
from fks.api.problems import Problem
from fks.api.query import Gate, Reader, moment
from fks.model.instrument import Instrument
from fks.model.timeframe import check_timeframe

router = APIRouter(tags=["market data"])


@router.get("/market-data/{symbol:path}")
async def latest(gate: Gate, who: Reader, symbol: str) -> ExactJson:
    """Return the latest price of a symbol, its age, and the newest sealed bar of each timeframe."""
    item = await gate.instrument(symbol)
    feed = await gate.db.fetchrow("gateway.feed", item.exchange, item.symbol)
    if feed is None:
        raise Problem(
            404, "NO_DATA", f"no market data of {item.name} yet", remedy="POST /assets/enable has it collected"
        )  # fmt: skip
    bars = await gate.db.fetch("gateway.latest_bars", item.exchange, item.symbol)
    return ExactJson(
        {
            **_identity(item),
            "price": feed["last_price"],
            "time": feed["last_message_at"],
            "age_ms": feed["age_ms"],
            "state": feed["state"],
            "bars": {row["timeframe"]: {k: v for k, v in dict(row).items() if k != "timeframe"} for row in bars},
        }
    )


@router.get("/historical/{symbol:path}")
async def historical(
    gate: Gate,
    who: Reader,
    symbol: str,
    timeframe: Annotated[str, Query(description="1s … 1M")] = "1h",
    from_: Annotated[str | None, Query(alias="from", description="first open time, ISO 8601")] = None,
    to: Annotated[str | None, Query(description="end, exclusive, ISO 8601")] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> ExactJson:
    """Return stored bars, oldest first: the first `limit` from `from` on, or without it the newest `limit`.

    `next` is the `from` of the following page. Prices and volumes are JSON numbers: the shortest decimal of the venue's.
    """
    item = await gate.instrument(symbol)
    check_timeframe(timeframe)
    start, end = moment(from_, "from"), moment(to, "to")
    if start and end and start >= end:
        raise Problem(422, "INVALID", "from: is not before to", remedy="swap them")
    query = "gateway.history_from" if start else "gateway.history"
    rows = await gate.db.fetch(query, item.exchange, item.symbol, timeframe, start, end, limit + 1)
    more = rows[limit]["time"] if start and len(rows) > limit else None
    kept = rows[:limit] if start else rows[-limit:]
    return ExactJson({**_identity(item), "timeframe": timeframe, "bars": [dict(row) for row in kept], "next": more})


def _identity(item: Instrument) -> dict[str, str]:
    return {"symbol": item.symbol, "name": item.name, "exchange": item.exchange}
