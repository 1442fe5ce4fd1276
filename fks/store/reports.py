"""Rows of a report of a day, a week or a month, and the stored reports with their delivery."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from fks.model.accounting.period import LATE_S, ReportPeriod
from fks.model.errors import conflict, not_found
from fks.model.timeframe import iso, to_datetime, to_ns
from fks.store.base import SqlStore
from fks.store.db import Database
from fks.store.portfolios import Portfolio

CURVE_POINTS_MAX = 200
_HOLDING = ("account", "symbol", "instance", "quantity", "average_price", "mark_price", "unrealized_pnl")
_RISK = ("kind", "value", "observed")


class ReportStore(SqlStore[Database], queries="reports"):
    """Reads of the rows that a report shows; `of`: the accounts, None: all, and `instances`, which count besides them.
    Stored reports. Errors of all methods: OutageError."""

    async def accounts(self, start: datetime, end: datetime, of: list[int] | None) -> list[dict[str, Any]]:
        """Return the equity of each account at both ends, its transfers and its profit."""

    async def curves(self, start: datetime, end: datetime, of: list[int] | None, span_s: float) -> list[dict[str, Any]]:
        """Return the last equity of each account in each span."""

    async def trades(
        self, start: datetime, end: datetime, of: list[int] | None, instances: list[str]
    ) -> list[dict[str, Any]]:
        """Return executions by account, instance and symbol."""

    async def closed(
        self, start: datetime, end: datetime, of: list[int] | None, instances: list[str]
    ) -> list[dict[str, Any]]:
        """Return the closed trades of the journal by account."""

    async def realized(
        self, year: datetime, end: datetime, of: list[int] | None, instances: list[str]
    ) -> list[dict[str, Any]]:
        """Return the profit of all closed trades before `end` by account, and of those since `year`."""

    async def denials(
        self, start: datetime, end: datetime, of: list[int] | None, instances: list[str]
    ) -> list[dict[str, Any]]:
        """Return the number of signals that each code denied."""

    async def alerts(self, start: datetime, end: datetime) -> list[dict[str, Any]]:
        """Return how many alerts of each severity were raised, and how many of them are open."""

    async def report(
        self,
        period: ReportPeriod,
        accounts: list[int] | None,
        *,
        home: str,
        now_ns: int,
        portfolio: Portfolio | None = None,
        drift: Sequence[Mapping[str, Any]] = (),
    ) -> dict[str, Any]:
        """Return the document of a period, of `accounts` (None: of all) or of a portfolio, as
        `fks.system.alerts.report` renders it.

        Alerts belong to no account, so only a report of all has them. Holdings, risk and `drift` are those of now.
        `home`: the exchange of the venue, whose prices come first.
        """
        start, end = to_datetime(period.start_ns), to_datetime(period.end_ns)
        span_s = (period.end_ns - period.start_ns) / 1e9 / CURVE_POINTS_MAX
        instances: list[str] = []
        if portfolio is not None:
            members = await self._db.fetchrow("reports.members", portfolio.id)
            assert members is not None, "an aggregate"
            accounts, instances = members["accounts"], members["instances"]
        curves: dict[str, list[dict[str, Any]]] = {}
        for row in await self.curves(start, end, accounts, span_s):
            curves.setdefault(row["account"], []).append({"time": iso(to_ns(row["time"])), "equity": row["equity"]})
        held = await self._db.fetch("gateway.positions", None, False, home, None if instances else accounts)
        names = {row["name"] for row in await self._db.fetch("gateway.accounts", accounts)}
        holdings = [row for row in held if row["account"] in names or row["instance"] in instances]
        of = accounts, instances
        year = datetime(end.year, 1, 1, tzinfo=end.tzinfo)
        return {
            "portfolio": None if portfolio is None else portfolio.name,
            "period": period.name,
            "start": iso(period.start_ns),
            "end": iso(period.end_ns),
            "is_over": period.end_ns <= now_ns,
            "equity": None if portfolio is None else await self._equity(portfolio, start, end),
            "accounts": [
                row | {"curve": curves.get(row["account"], [])} for row in await self.accounts(start, end, accounts)
            ],
            "trades": await self.trades(start, end, *of),
            "closed": await self.closed(start, end, *of),
            "realized": await self.realized(year, end, *of),
            "denials": await self.denials(start, end, *of),
            "alerts": await self.alerts(start, end) if accounts is None else [],
            "drift": [dict(row) for row in drift],
            "risk": []
            if portfolio is None
            else [
                {name: row[name] for name in _RISK} for row in await self._db.fetch("portfolios.limits", portfolio.id)
            ],
            "holdings": [{name: row[name] for name in _HOLDING} for row in holdings],
        }

    async def _equity(self, portfolio: Portfolio, start: datetime, end: datetime) -> dict[str, Any] | None:
        """Return the equity of a portfolio at both ends, its flows and its profit; None without two hours."""
        rows = await self._db.fetch("reports.equity", portfolio.id, start, end)
        if len(rows) < 2:
            return None
        first, last = rows[0], rows[-1]
        flows = sum((row["net_flow"] for row in rows[1:]), Decimal(0))
        each = -(-len(rows) // CURVE_POINTS_MAX)
        return {
            "currency": portfolio.base_currency,
            "equity_start": first["equity"],
            "equity_end": last["equity"],
            "transfers": flows,
            "profit": last["equity"] - first["equity"] - flows,
            "is_complete": first["is_complete"] and last["is_complete"],
            "curve": [{"time": iso(to_ns(row["time"])), "equity": row["equity"]} for row in rows[::each]],
        }

    # ── stored reports ───────────────────────────────────────────────────────────────────────────
    async def known(self, ids: list[uuid.UUID]) -> set[uuid.UUID]:
        """Return those that are stored."""

    async def issue(
        self,
        id: uuid.UUID,
        portfolio_id: int | None,
        period: ReportPeriod,
        document: Mapping[str, Any],
        message: str,
        *,
        now_ns: int,
        is_late: bool,
    ) -> bool:
        """Store a report and the notice that alert channels deliver, in one statement; False: it was there before."""
        start = to_datetime(period.start_ns)
        ref = f"report|{'' if portfolio_id is None else f'{portfolio_id}:'}{period.name}:{iso(period.start_ns)}"
        row = await self._db.fetchrow(
            "reports.issue",
            *(id, portfolio_id, period.name, start, to_datetime(period.end_ns), dict(document), message),
            *(to_datetime(now_ns), ref, is_late),
        )
        return row is not None

    async def rows(self, before: int | None, portfolio: str | None, limit: int) -> list[dict[str, Any]]:
        """Return stored reports without their documents, newest first, each with its messages."""
        return [dict(row) for row in await self._db.fetch("reports.stored", before, None, LATE_S, portfolio, limit)]

    async def get(self, id: uuid.UUID) -> dict[str, Any]:
        """Return a stored report with its document. Errors: InputError 404 REPORT_UNKNOWN."""
        row = await self._db.fetchrow("reports.stored", None, id, LATE_S, None, 1)
        if row is None:
            raise not_found("REPORT_UNKNOWN", f"there is no report {id}", "see 'fks report list'")
        return dict(row)

    async def send(self, id: uuid.UUID, channel: str) -> None:
        """Have a stored report delivered to a channel: once; one that was given up is tried again.

        Errors: InputError 404 REPORT_UNKNOWN, 409 REPORT_SENT (it was sent, or waits), REPORT_OLD (its notice is
        deleted).
        """
        found = await self.get(id)
        if found["alert_id"] is None:
            raise conflict(
                "REPORT_OLD",
                f"the notice of report {id} is deleted already",
                "write it to a file: fks report show ID --html FILE",
            )
        async with self._db.transaction() as tx:
            await tx.fetchrow("reports.lock_notice", found["alert_id"])
            if await tx.fetchrow("reports.deliver", found["alert_id"], channel) is None:
                raise conflict(
                    "REPORT_SENT",
                    f"report {id} was sent to channel {channel}, or waits for it",
                    "see 'fks report list'",
                )
