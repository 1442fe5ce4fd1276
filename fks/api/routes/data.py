"""Stored market data: coverage of the series, their gaps, and the quarantine."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Depends, Query
from pydantic import Field

from fks.api.exact import ExactJson
from fks.api.gateway import Replica
from fks.api.query import Body, Exchange, Gate, Limit, Reader, Symbol, Trader, body_of, takes
from fks.api.routing import Router
from fks.history.coverage import CoverageReport
from fks.history.quality import QualityReport
from fks.model.errors import Problem
from fks.model.instrument import folded
from fks.model.timeframe import check_timeframe, iso
from fks.store.gaps import GapStore, Series
from fks.store.quarantine import HeldRow, QuarantineStore, SettledAs

router = Router(tags=["market data"])
SERIES_MAX = 100
GAPS_MAX = 500

Days = Annotated[int, Query(ge=1, le=3660, description="how far back, days")]
Cells = Annotated[int, Query(ge=1, le=120, description="parts of that time")]


class VerdictBody(Body):
    """A person's decision about a suspect value."""

    verdict: Literal["confirmed", "refused"] = Field(description="confirmed: it is true; refused: it stays out")


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
                "exchange": one.exchange,
                "symbol": one.symbol,
                "timeframe": one.timeframe,
                "candles": one.candles,
                "oldest": None if one.oldest_ns is None else iso(one.oldest_ns),
                "newest": None if one.newest_ns is None else iso(one.newest_ns),
                "from": iso(found.span.start_ns),
                "to": iso(found.span.end_ns),
                "cells": list(found.cells),
                "missing": found.missing,
                "is_collected": one.is_collected,
                "sync_status": one.sync_status,
                "error": one.error,
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
        raise Problem(404, "NO_DATA", f"no bars of {symbol} in {timeframe} are stored", remedy="see GET /data/coverage")
    one = found[0]
    missing = await report.missing(one)
    known = await GapStore(gate.db).known(one.exchange, one.symbol, one.timeframe)
    return ExactJson(
        {
            "exchange": one.exchange,
            "symbol": one.symbol,
            "timeframe": one.timeframe,
            "missing": [
                {"from": iso(gap.span.start_ns), "to": iso(gap.span.end_ns), "bars": gap.bars}
                for gap, _ in missing[:GAPS_MAX]
            ],
            "known": [
                {
                    "from": iso(gap.span.start_ns),
                    "to": iso(gap.span.end_ns),
                    "cause": gap.cause,
                    "asked_at": iso(gap.asked_ns),
                }
                for gap in known[::-1][:GAPS_MAX]
            ],
        }
    )


@router.get("/data/quarantine")
async def quarantine(
    gate: Gate, caller: Reader, symbol: Symbol = None, exchange: Exchange = None, all: bool = False, limit: Limit = 100
) -> ExactJson:
    """List suspect values that were not let in, newest first; with `all` also those that are settled."""
    rows = await QuarantineStore(gate.db).rows(exchange, symbol, with_settled=all, limit=limit)
    return ExactJson({"items": [_held(row) for row in rows], "next": None})


@router.post("/data/quarantine/{id}/settle", openapi_extra=takes(VerdictBody))
async def settle(
    gate: Gate, caller: Trader, id: int, body: Annotated[VerdictBody, Depends(body_of(VerdictBody))]
) -> ExactJson:
    """Confirm or refuse a suspect value, once: the first verdict stands. A confirmed bar is stored by the next sync
    that asks for it."""
    changed = await QuarantineStore(gate.db).settle([id], SettledAs(body.verdict)) if 0 < id < 2**63 else 0
    if not changed:
        raise Problem(
            404, "QUARANTINE_UNKNOWN", f"no suspect value {id} waits for a verdict", remedy="see GET /data/quarantine"
        )
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
        "id": row.id,
        "received_at": iso(row.received_ns),
        "exchange": held.exchange,
        "symbol": held.symbol,
        "channel": held.channel,
        "timeframe": held.timeframe,
        "time": None if held.time_ns is None else iso(held.time_ns),
        "reason": held.reason,
        "payload": held.payload,
        "source": held.source,
        "verdict": None if row.verdict is None else row.verdict.value,
        "settled_at": None if row.settled_ns is None else iso(row.settled_ns),
    }
