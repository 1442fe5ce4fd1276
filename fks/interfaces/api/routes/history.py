"""Stored bars: pages of JSON, or whole spans as CSV and Arrow streams."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import Query, Request
from fastapi.responses import Response, StreamingResponse

from fks.interfaces.api import columns
from fks.interfaces.api.conditional import conditional
from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.query import Exchange, Gate, Reader, moment
from fks.interfaces.api.routes.market import identity
from fks.interfaces.api.routing import Router
from fks.interfaces.api.views import BarsView
from fks.model.errors import unprocessable
from fks.model.timeframe import check_timeframe, iso, to_datetime, to_ns
from fks.store.bars import BarStore
from fks.store.reading import ReadingStore, read_columns

router = Router(tags=["market data"])
JSON_MAX = 10_000
PAGE = 50_000
_MICROSECOND = timedelta(microseconds=1)


@router.get("/historical/{symbol:path}", response_model=BarsView)
async def historical(
    gate: Gate,
    caller: Reader,
    request: Request,
    symbol: str,
    exchange: Exchange = None,
    timeframe: Annotated[str, Query(description="1s … 1M")] = "1h",
    from_: Annotated[str | None, Query(alias="from", description="first open time, ISO 8601")] = None,
    to: Annotated[str | None, Query(description="end, exclusive, ISO 8601")] = None,
    limit: Annotated[
        int | None, Query(ge=1, lt=2**31, description="of JSON: default 1000, at most 10000; of files: default all")
    ] = None,
    format: Annotated[
        Literal["json", "csv", "arrow"] | None, Query(description="default: what Accept names, else json")
    ] = None,
) -> Response:
    """Return stored bars, oldest first: the first `limit` from `from` on, or without it the newest `limit`; files: all.

    `next` (and the `Link` header) is the `from` of the following page. Prices and volumes are JSON numbers: the
    shortest decimal of the exchange's. `revision` of the answer changes when a returned bar was corrected. CSV and
    Arrow
    are streamed: one that ends early was cut off by an outage.
    """
    item = await ReadingStore(gate.db).find(symbol, exchange)
    check_timeframe(timeframe)
    start, end = moment(from_, "from"), moment(to, "to")
    if start and end and start >= end:
        raise unprocessable("INVALID", "from: is not before to", "swap them")
    form = format or _accepted(request.headers.get("accept", ""))
    if form == "json" and limit and limit > JSON_MAX:
        raise unprocessable("INVALID", f"limit: is above {JSON_MAX}", "follow `next`, or ask for format=csv or arrow")
    series = (item.exchange, item.symbol, timeframe)
    state = await BarStore(gate.db).series(item.symbol, timeframe, exchange=item.exchange)
    revision = 0 if state is None else state.revision
    if form == "json":
        count = limit or 1000
        first = start or await gate.db.fetchval("reading.nth_newest", *series, end, count)
        rows = [] if first is None else await gate.db.fetch("reading.page", *series, first, end, count + 1)
        more = rows[count]["time"] if start and len(rows) > count else None
        bars = [dict(row) for row in rows[:count]]
        body = {**identity(item), "timeframe": timeframe, "revision": revision, "bars": bars, "next": more}
        return conditional(request, ExactJson(body, headers=_link(timeframe, more, end, count, exchange)))
    oldest = None if state is None or state.oldest_ns is None else to_datetime(state.oldest_ns)
    first = start or (oldest if limit is None else await gate.db.fetchval("reading.nth_newest", *series, end, limit))
    pages = _pages(gate, series, first, end, limit or sys.maxsize)
    named = {"exchange": item.exchange, "symbol": item.symbol, "timeframe": timeframe, "revision": str(revision)}
    stream = columns.csv_of(pages) if form == "csv" else columns.arrow_of(pages, named)
    file = f"{item.exchange}-{item.symbol}-{timeframe}.{form}".replace("/", "-").replace(" ", "_")
    headers = {"Content-Disposition": f'attachment; filename="{file}"', "X-FKS-Revision": str(revision)}
    return StreamingResponse(stream, media_type=columns.MEDIA[form], headers=headers)


async def _pages(
    gate: Replica, series: tuple[str, str, str], first: datetime | None, end: datetime | None, count: int
) -> AsyncIterator[columns.Columns]:
    while first is not None and count > 0:
        page = await read_columns(gate.db, series, first, end, min(PAGE, count))
        rows = len(page["time"])
        if rows:
            yield page
        count -= rows
        first = to_datetime(int(page["time"][-1])) + _MICROSECOND if rows == PAGE else None


def _accepted(accept: str) -> str:
    wanted = accept.lower()
    return next((form for form in ("arrow", "csv") if columns.MEDIA[form].partition(";")[0] in wanted), "json")


def _link(
    timeframe: str, more: datetime | None, end: datetime | None, count: int, exchange: str | None
) -> dict[str, str]:
    if more is None:
        return {}
    query = {"timeframe": timeframe, "from": iso(to_ns(more)), "limit": count, "format": "json"}
    query |= ({"to": iso(to_ns(end))} if end else {}) | ({"exchange": exchange} if exchange else {})
    return {"Link": f'<?{urlencode(query)}>; rel="next"'}
