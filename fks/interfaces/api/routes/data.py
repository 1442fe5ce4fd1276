"""Stored market data: coverage of the series, their gaps, events of instruments, and the quarantine."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import Field

from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.query import Body, BodyOf, Exchange, Gate, Limit, Reader, Symbol, Trader, moment
from fks.interfaces.api.routing import Router
from fks.market.history.coverage import CoverageReport
from fks.market.history.events import import_events, list_events, read_events
from fks.market.history.quality import QualityReport
from fks.model.errors import not_found
from fks.model.instrument import folded
from fks.model.json_fields import json_fields
from fks.model.timeframe import check_timeframe, iso, to_ns
from fks.store.gaps import GapStore, Series
from fks.store.quarantine import HeldRow, QuarantineStore, SettledAs

router = Router(tags=["market data"])
SERIES_MAX = 100
GAPS_MAX = 500
EVENTS_MAX = 5_000

Days = Annotated[int, Query(ge=1, le=3660, description="how far back, days")]
Cells = Annotated[int, Query(ge=1, le=120, description="parts of that time")]


class VerdictBody(Body):
    """A person's decision about a suspect value."""

    verdict: Literal["confirmed", "refused"] = Field(description="confirmed: it is true; refused: it stays out")


class EventBody(Body):
    """An event of an instrument, as a row of a file of `fks data import-events`: texts, and "" for none."""

    symbol: str = Field("", max_length=100, description="needed but of an economic event")
    kind: Literal["split", "dividend", "delisting", "symbol_change", "funding", "economic"]
    exchange: str = Field("", max_length=100, description="needed where the symbol is not stored")
    day: str = Field("", max_length=40, description="of a split, dividend (ex-day), delisting or symbol change")
    ratio: str = Field("", max_length=40, description="of a split: 4:1")
    amount: str = Field("", max_length=60, description="of a dividend, for each share")
    currency: str = Field("", max_length=20)
    pay_day: str = Field("", max_length=40)
    type: str = Field("", max_length=100, description="keeps several dividends of one day apart")
    new_symbol: str = Field("", max_length=100)
    time: str = Field("", max_length=40, description="of a funding rate or an economic event, ISO 8601")
    rate: str = Field("", max_length=60)
    mark: str = Field("", max_length=60)
    name: str = Field("", max_length=200, description="of an economic event")
    importance: str = Field("", max_length=10, description="of an economic event: none, low, medium or high")
    actual: str = Field("", max_length=60)
    forecast: str = Field("", max_length=60)
    previous: str = Field("", max_length=60)
    published: str = Field("", max_length=40, description="from when on it was known, ISO 8601")
    source: str = Field("", max_length=200)

    def cells(self) -> dict[str, str]:
        """Return the cells of the row, by column."""
        return {name: str(value).strip() for name, value in self}


class EventsBody(Body):
    """Events to import."""

    items: list[EventBody] = Field(min_length=1, max_length=EVENTS_MAX)


@router.get("/data/coverage")
async def coverage(
    gate: Gate, caller: Reader, symbol: Symbol = None, exchange: Exchange = None, days: Days = 30, cells: Cells = 30
) -> ExactJson:
    """List the stored series with the share of bars that each part of the last days has; the newest 200,000 bars of a
    series at most. `missing` bars are expected by its calendar and not stored."""
    report = _report(gate)
    looks = CoverageReport(gate.db, gate.deps.clock, report)
    wanted = await report.series(lambda one: _is_wanted(one, symbol, exchange))
    items: list[dict[str, Any]] = []
    for one in wanted[:SERIES_MAX]:
        found = await looks.of(one, days=days, cells=cells)
        items.append(
            {
                **json_fields(one, "exchange", "symbol", "timeframe", "candles"),
                **json_fields(one, "is_collected", "sync_status", "error"),
                "oldest": None if one.oldest_ns is None else iso(one.oldest_ns),
                "newest": None if one.newest_ns is None else iso(one.newest_ns),
                "from": iso(found.span.start_ns),
                "to": iso(found.span.end_ns),
                "cells": list(found.cells),
                "missing": found.missing,
            }
        )
    return ExactJson({"items": items, "next": None, "is_whole": len(wanted) <= SERIES_MAX})


@router.get("/data/gaps")
async def gaps(gate: Gate, caller: Reader, symbol: str, timeframe: str, exchange: Exchange = None) -> ExactJson:
    """Return the gaps of one series: `missing` ones may still be filled, `known` ones were asked for and are not there
    at the exchange. At most 500 of each, newest first."""
    check_timeframe(timeframe)
    report = _report(gate)
    found = await report.series(lambda one: one.timeframe == timeframe and _is_wanted(one, symbol, exchange))
    if not found:
        raise not_found("NO_DATA", f"no bars of {symbol} in {timeframe} are stored", "see GET /data/coverage")
    one = found[0]
    missing = await report.missing(one)
    known = await GapStore(gate.db).known(one.exchange, one.symbol, one.timeframe)
    return ExactJson(
        {
            **json_fields(one, "exchange", "symbol", "timeframe"),
            "missing": [
                {"from": iso(gap.span.start_ns), "to": iso(gap.span.end_ns), "bars": gap.bars}
                for gap, _ in missing[:GAPS_MAX]
            ],
            "known": [
                {
                    "from": iso(gap.span.start_ns),
                    "to": iso(gap.span.end_ns),
                    **json_fields(gap, "cause", "asked_ns"),
                }
                for gap in known[::-1][:GAPS_MAX]
            ],
        }
    )


@router.get("/data/events")
async def events(
    gate: Gate,
    caller: Reader,
    symbol: Symbol = None,
    exchange: Exchange = None,
    known_at: Annotated[str | None, Query(description="as they were published by then, ISO 8601")] = None,
    after: Annotated[
        str | None, Query(pattern="^[0-2]-[0-9]{1,9}$", description="the `next` of the page before")
    ] = None,
    limit: Limit = 1000,
) -> ExactJson:
    """List the splits, dividends, delistings and symbol changes of a symbol, or of all, each with its source, its
    revision and since when it is known; funding rates are one row a symbol. Economic events have their currency as
    symbol."""
    at = moment(known_at, "known_at")
    known_ns = None if at is None else to_ns(at)
    items, following = await list_events(gate.db, symbol, exchange, known_ns, after=after, limit=limit)
    return ExactJson({"items": items, "next": following})


@router.post("/data/events")
async def add_events(gate: Gate, caller: Trader, body: BodyOf[EventsBody]) -> ExactJson:
    """Import events, all or none. One that is known already with another content gets a further revision; the same one
    again changes nothing."""
    rows = ((f"item {n}", one.cells()) for n, one in enumerate(body.items, 1))
    listed, funding, economic = read_events(rows, "", f"api:{caller.name}")
    items = await import_events(gate.db, listed, funding, economic)
    events = len(listed) + len(economic)
    gate.deps.log.info("events.imported", events=events, funding=len(funding), by=caller.name)
    return ExactJson({"items": items})


@router.get("/data/quarantine")
async def quarantine(
    gate: Gate, caller: Reader, symbol: Symbol = None, exchange: Exchange = None, all: bool = False, limit: Limit = 100
) -> ExactJson:
    """List suspect values that were not let in, newest first; with `all` also those that are settled."""
    rows = await QuarantineStore(gate.db).rows(exchange, symbol, with_settled=all, limit=limit)
    return ExactJson({"items": [_held(row) for row in rows], "next": None})


@router.post("/data/quarantine/{id}/settle")
async def settle(gate: Gate, caller: Trader, id: int, body: BodyOf[VerdictBody]) -> ExactJson:
    """Confirm or refuse a suspect value, once: the first verdict stands. A confirmed bar is stored by the next sync
    that asks for it."""
    changed = await QuarantineStore(gate.db).settle([id], SettledAs(body.verdict)) if 0 < id < 2**63 else 0
    if not changed:
        raise not_found("QUARANTINE_UNKNOWN", f"no suspect value {id} waits for a verdict", "see GET /data/quarantine")
    gate.deps.log.info("quarantine.settled", held=id, verdict=body.verdict, by=caller.name)
    return ExactJson({"id": id, "verdict": body.verdict})


def _report(gate: Replica) -> QualityReport:
    data = gate.deps.settings.data
    return QualityReport(gate.db, gate.deps.clock, days=data.gaps_days, frames=data.timeframes)


def _is_wanted(one: Series, symbol: str | None, exchange: str | None) -> bool:
    is_symbol = symbol is None or folded(symbol) == folded(one.symbol)
    return is_symbol and (exchange is None or exchange == one.exchange)


def _held(row: HeldRow) -> dict[str, Any]:
    held = row.held
    return {
        **json_fields(row, "id", "received_ns", "verdict", "settled_ns"),
        **json_fields(held, without=("time_ns",), time=None if held.time_ns is None else iso(held.time_ns)),
    }
