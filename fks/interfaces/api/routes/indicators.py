"""Indicators: their parameters, and their values over stored bars."""

from __future__ import annotations

import asyncio
import math
from typing import Annotated, Any

import numpy as np
from fastapi import Query

from fks.indicators import INDICATORS, Indicator, compute
from fks.indicators.registry import indicator
from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.query import Exchange, Gate, Reader, moment, page
from fks.interfaces.api.routes.market import identity
from fks.interfaces.api.routing import Router
from fks.interfaces.api.views import IndicatorValues, IndicatorView, Page
from fks.model.bar import Bars
from fks.model.errors import unprocessable
from fks.model.timeframe import check_timeframe, to_datetime
from fks.model.untrusted import decimal_of, number_of
from fks.store.reading import ReadingStore, read_columns

router = Router(tags=["market data"])
#: Bars before the first value that are read so that a recursive indicator has settled.
WARMUP_MAX = 5_000


@router.get("/indicators", response_model=Page[IndicatorView])
async def indicators(caller: Reader) -> ExactJson:
    """List the indicators with their inputs, their parameters with limits, and their outputs."""
    return ExactJson(page([_described(row) for row in sorted(INDICATORS.values(), key=lambda row: row.name)]))


@router.get("/indicators/{name}", response_model=IndicatorValues)
async def values(
    gate: Gate,
    caller: Reader,
    name: str,
    symbol: Annotated[str, Query(max_length=64, description="in any spelling")],
    exchange: Exchange = None,
    timeframe: Annotated[str, Query(description="1s … 1M")] = "1h",
    params: Annotated[str, Query(max_length=200, description="period:14,deviations:2; default: the defaults")] = "",
    from_: Annotated[str | None, Query(alias="from", description="first open time, ISO 8601; default: newest")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="most bars")] = 300,
) -> ExactJson:
    """Return an indicator over stored bars, oldest first: `items` have a time and a value for each of `outputs`, null
    where there is none yet. Up to 5,000 bars before the first one are read, so that recursive ones have settled."""
    row = indicator(name)
    given = _params(row, params)
    item = await ReadingStore(gate.db).find(symbol, exchange)
    series, start = (item.exchange, item.symbol, check_timeframe(timeframe)), moment(from_, "from")
    compute(name, _bars({}, series), other=_bars({}, series), **given)  # refuses wrong parameters, also without bars
    if any(column.startswith("other.") for column in row.columns):
        raise unprocessable("INDICATOR_INPUT", f"{name} reads a second series", "choose another one")
    used = {key: given.get(key, param.default) for key, param in row.params.items()}
    more = min(row.settled(used), WARMUP_MAX)
    count = more + (limit if start is None else 0)
    first = (await gate.db.fetchval("reading.nth_newest", *series, start, count) if count else None) or start
    found: dict[str, Any] = {}
    if first is not None:
        found = await read_columns(gate.db, series, first, None, more + limit)
    items = await asyncio.to_thread(_values, name, given, _bars(found, series))
    kept = items[-limit:] if start is None else [one for one in items if one["time"] >= start][:limit]
    body = {**identity(item), "timeframe": timeframe, "indicator": name, "group": row.group, "params": used}
    return ExactJson({**body, "outputs": list(row.outputs), "items": kept})


def _params(row: Indicator, text: str) -> dict[str, Any]:
    """Return parameters written as `period:14,deviations:2`. Errors: InputError INDICATOR_PARAM."""
    found: dict[str, Any] = {}
    for part in filter(None, (one.strip() for one in text.split(","))):
        name, _, value = part.partition(":")
        try:
            number = number_of(decimal_of(value).normalize())
        except ValueError:
            number = None
        if number is None or name.strip() not in row.params:
            raise unprocessable(
                "INDICATOR_PARAM",
                f"params: {part!r} is no parameter of {row.name} with a number",
                f"write NAME:NUMBER; it has: {' '.join(row.params) or 'none'}",
            )
        found[name.strip()] = number
    return found


def _bars(found: dict[str, Any], series: tuple[str, str, str]) -> Bars:
    """Return stored columns as bars, without those that have no price."""
    names = ("open", "high", "low", "close", "volume")
    if not found:
        return Bars(series[1], series[2], np.zeros(0, np.int64), *(np.zeros(0) for _ in names))
    kept = ~np.isnan(found["close"])
    return Bars(series[1], series[2], found["time"][kept], *(found[name][kept] for name in names))


def _values(name: str, params: dict[str, Any], bars: Bars) -> list[dict[str, Any]]:
    columns = compute(name, bars, **params) if len(bars) else {}
    rows = zip(*columns.values(), strict=True) if columns else ()
    return [
        {
            "time": to_datetime(int(time_ns)),
            "values": [float(value) if math.isfinite(value) else None for value in row],
        }
        for time_ns, row in zip(bars.time_ns, rows, strict=True)
    ]


def _described(row: Indicator) -> dict[str, Any]:
    return {
        "name": row.name,
        "group": row.group,
        "summary": row.summary,
        "columns": list(row.columns),
        "outputs": list(row.outputs),
        "params": {
            name: {"default": param.default, "least": param.least, "most": param.most}
            for name, param in row.params.items()
        },
    }
