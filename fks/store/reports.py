"""Rows of a report of a day, a week or a month: equity, executions, denials, alerts, holdings."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fks.model.timeframe import iso, to_datetime, to_ns
from fks.portfolio.report import ReportPeriod
from fks.store.base import SqlStore
from fks.store.db import Database

CURVE_POINTS_MAX = 200
_HOLDING = ("account", "symbol", "instance", "quantity", "average_price", "mark_price", "unrealized_pnl")


class ReportStore(SqlStore[Database], queries="reports"):
    """Reads of the rows that a report shows; `of`: the accounts, None: all. Errors of all methods: OutageError."""

    async def accounts(self, start: datetime, end: datetime, of: list[int] | None) -> list[dict[str, Any]]:
        """Return the equity of each account at both ends, its transfers and its profit."""

    async def curves(self, start: datetime, end: datetime, of: list[int] | None, span_s: float) -> list[dict[str, Any]]:
        """Return the last equity of each account in each span."""

    async def trades(self, start: datetime, end: datetime, of: list[int] | None) -> list[dict[str, Any]]:
        """Return executions by account, instance and symbol."""

    async def denials(self, start: datetime, end: datetime, of: list[int] | None) -> list[dict[str, Any]]:
        """Return the number of signals that each code denied."""

    async def alerts(self, start: datetime, end: datetime) -> list[dict[str, Any]]:
        """Return how many alerts of each severity were raised, and how many of them are open."""

    async def report(
        self, period: ReportPeriod, accounts: list[int] | None, *, home: str, now_ns: int
    ) -> dict[str, Any]:
        """Return the document of a period, of `accounts` (None: of all), as `fks.portfolio.report` renders it.

        Alerts belong to no account, so only a report of all has them. Holdings are those of now. `home`: the exchange
        of the venue, whose prices come first.
        """
        start, end = to_datetime(period.start_ns), to_datetime(period.end_ns)
        span_s = (period.end_ns - period.start_ns) / 1e9 / CURVE_POINTS_MAX
        curves: dict[str, list[dict[str, Any]]] = {}
        for row in await self.curves(start, end, accounts, span_s):
            curves.setdefault(row["account"], []).append({"time": iso(to_ns(row["time"])), "equity": row["equity"]})
        holdings = await self._db.fetch("gateway.positions", None, False, home, accounts)
        return {
            "period": period.name,
            "start": iso(period.start_ns),
            "end": iso(period.end_ns),
            "is_over": period.end_ns <= now_ns,
            "accounts": [
                row | {"curve": curves.get(row["account"], [])} for row in await self.accounts(start, end, accounts)
            ],
            "trades": await self.trades(start, end, accounts),
            "denials": await self.denials(start, end, accounts),
            "alerts": await self.alerts(start, end) if accounts is None else [],
            "holdings": [{name: row[name] for name in _HOLDING} for row in holdings],
        }
