"""Reports of portfolios: made when they are asked for, and issued when a day, week or month of theirs ends."""

from __future__ import annotations

from typing import Any

from fks.clock import Clock
from fks.config.settings import Settings
from fks.interfaces.entry.rebalancing import drift_json, read_allocation
from fks.model.accounting.period import LATE_S, PERIODS, ReportPeriod, last_ended
from fks.model.errors import InputError, OutageError
from fks.model.ids import report_id
from fks.model.ports import Log
from fks.model.timeframe import NS, iso, to_ns
from fks.research.jobs.reports import issue_report
from fks.research.jobs.valuation import note_portfolio_equity
from fks.store.db import Database
from fks.store.portfolios import Portfolio, PortfolioStore
from fks.store.reports import ReportStore

_MINUTE_NS = 60 * NS
_DRIFT = ("symbol", "target", "weight", "is_outside")


class PortfolioReports:
    """Makes and issues reports. Soft state: the minute that was looked at last. One scheduler calls `look`."""

    def __init__(self, db: Database, clock: Clock, settings: Settings, log: Log) -> None:
        self._db = db
        self._store = ReportStore(db)
        self._clock = clock
        self._settings = settings
        self._log = log
        self._looked_min = -1

    async def document(self, period: ReportPeriod, portfolio: Portfolio) -> dict[str, Any]:
        """Return the report of a period, with the drift of now. Errors: OutageError."""
        try:
            found = await read_allocation(self._db, self._clock, self._settings, str(portfolio.id))
            rows = [drift_json(row) for row in found.plan.drift]
        except InputError:  # it has no targets, or one of an instrument that is not listed any more
            rows = []
        drift = [{name: row[name] for name in _DRIFT} for row in rows]
        now_ns = self._clock.now_ns()
        return await self._store.report(
            period, None, home=self._settings.venue.exchange, now_ns=now_ns, portfolio=portfolio, drift=drift
        )

    async def look(self) -> int:
        """Issue, once a minute, the reports of periods that have ended, and return how many. Errors: OutageError.

        Before it, portfolios whose day has ended, or that had a deposit or withdrawal, get a row of their equity.
        A report is issued once, however many schedulers look. One of a period that ended while the system was down is
        late, and marked; of several such periods the newest alone is reported.
        """
        now_ns, issued = self._clock.now_ns(), 0
        if now_ns // _MINUTE_NS == self._looked_min:
            return 0
        try:
            await note_portfolio_equity(self._db, self._settings, is_due_only=True)
        except OutageError:
            raise
        except Exception as error:  # the next hour's row has the flow, too
            self._log.error("portfolio.equity_failed", error=f"{type(error).__name__}: {error}")
        wanted = {}
        for portfolio in await PortfolioStore(self._db).all():
            for name in PERIODS:
                period = last_ended(name, now_ns, portfolio.day_end_min)
                if period.end_ns > to_ns(portfolio.created_at):
                    wanted[report_id(portfolio.id, name, iso(period.start_ns))] = portfolio, period
        known = await self._store.known([*wanted])
        for id, (portfolio, period) in wanted.items():
            if id not in known:
                issued += await self._issue(portfolio, period, now_ns)
        self._looked_min = now_ns // _MINUTE_NS
        return issued

    async def _issue(self, portfolio: Portfolio, period: ReportPeriod, now_ns: int) -> bool:
        is_late = now_ns - period.end_ns > LATE_S * NS
        try:
            document = await self.document(period, portfolio)
            _, is_new = await issue_report(
                self._store, period, document, now_ns=now_ns, portfolio_id=portfolio.id, is_late=is_late
            )
        except OutageError:
            raise
        except Exception as error:  # one report that raises must end neither the others nor the scheduler
            self._log.error(
                "report.failed", portfolio=portfolio.name, period=period.name, error=f"{type(error).__name__}: {error}"
            )
            return False
        return is_new
