"""Reports of a day, a week or a month: made when they are asked for, and those that were stored and delivered."""

from __future__ import annotations

import uuid
from datetime import date
from typing import Annotated, Any

from fastapi import Query
from pydantic import Field

from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.query import Before, Body, BodyOf, Gate, Limit, Name, Reader, Trader, page
from fks.interfaces.api.routes.alerting import directory_of
from fks.interfaces.api.routing import Router
from fks.interfaces.api.views import Page, ReportView, StoredReportView
from fks.model.accounting.period import ReportName, day_at, last_ended, period_of
from fks.model.errors import not_found, unprocessable
from fks.store.portfolios import PortfolioStore
from fks.store.reports import ReportStore
from fks.store.tokens import Principal
from fks.system.alerts.report import text_of, title_of

router = Router(tags=["accounts"])
Day = Annotated[date | None, Query(description="a day of the period; default: the newest period that is over")]
Account = Annotated[Name, Query(description="this account alone")]
Portfolio = Annotated[Name, Query(description="of this portfolio, whose days end when it says")]


class ReportSend(Body):
    """The channel that a report is sent to."""

    channel: str = Field(min_length=1, max_length=128)


@router.get("/reports", response_model=Page[StoredReportView])
async def reports(
    gate: Gate, caller: Reader, portfolio: Name = None, before: Before = None, limit: Limit = 100
) -> ExactJson:
    """List the stored reports, newest first, each with what became of its messages."""
    return ExactJson(page(await ReportStore(gate.db).rows(before, portfolio, limit), limit))


@router.post("/reports/{id}/send", status_code=202, response_model=ReportView)
async def send(gate: Gate, caller: Trader, id: uuid.UUID, body: BodyOf[ReportSend]) -> ExactJson:
    """Have a stored report delivered to a channel of alerts: once to each. One that was given up is tried again."""
    await directory_of(gate).channel(body.channel)
    await ReportStore(gate.db).send(id, body.channel)
    gate.deps.log.info("report.send_requested", report=str(id), channel=body.channel, by=caller.name)
    return ExactJson(await _stored(gate, caller, id), status_code=202)


@router.get("/reports/{id}", response_model=ReportView)
async def report(
    gate: Gate,
    caller: Reader,
    id: ReportName | uuid.UUID,
    day: Day = None,
    account: Account = None,
    portfolio: Portfolio = None,
) -> ExactJson:
    """Return the report of a day, of a week from Monday on, or of a month; UTC, unless it is of a portfolio.

    Equity at both ends, profit without deposits and withdrawals, executions by instance, closed trades, realised profit
    to date, denials, alerts (unless it is of some accounts alone), the holdings of now, and of a portfolio its drift
    and its limits now. By the id of a stored report: that, as it was made.
    """
    if isinstance(id, uuid.UUID):
        return ExactJson(await _stored(gate, caller, id))
    now_ns, end_min, of = gate.deps.clock.now_ns(), 0, None
    accounts = caller.account_list
    if portfolio is not None:
        if accounts is not None or account is not None:
            raise unprocessable(
                "INVALID", "portfolio: is not for some accounts alone", "leave portfolio or account out"
            )
        of = await PortfolioStore(gate.db).get(portfolio)
        end_min = of.day_end_min
    today = day_at(now_ns, end_min)
    if day is not None and day > today:
        raise unprocessable("INVALID", f"day: {day} is not over, nor has it begun", f"take one up to {today}")
    if account is not None:
        rows = await gate.db.fetch("gateway.accounts", accounts)
        accounts = [row["id"] for row in rows if row["name"] == account]
        if not accounts:
            raise not_found("ACCOUNT_UNKNOWN", f"there is no account {account!r}", "see GET /accounts")
    span = last_ended(id, now_ns, end_min) if day is None else period_of(id, day, end_min)
    if of is not None:
        from fks.interfaces.entry.reporting import PortfolioReports  # not needed before

        made = PortfolioReports(gate.db, gate.deps.clock, gate.deps.settings, gate.deps.log)
        return ExactJson(_with_text(await made.document(span, of)))
    home = gate.deps.settings.venue.exchange
    return ExactJson(_with_text(await ReportStore(gate.db).report(span, accounts, home=home, now_ns=now_ns)))


async def _stored(gate: Replica, caller: Principal, id: uuid.UUID) -> dict[str, Any]:
    """Return a stored report. A caller that is bound to accounts sees none. Errors: InputError REPORT_UNKNOWN."""
    found = await ReportStore(gate.db).get(id if caller.accounts is None else uuid.UUID(int=0))
    return _with_text(found.pop("document")) | {"stored": found}


def _with_text(document: dict[str, Any]) -> dict[str, Any]:
    return document | {"title": title_of(document), "text": text_of(document)}
