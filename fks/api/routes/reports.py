"""Reports of a day, a week or a month."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated

from fastapi import Query

from fks.api.exact import ExactJson
from fks.api.query import Gate, Name, Reader
from fks.api.routing import Router
from fks.api.views import ReportView
from fks.model.errors import Problem
from fks.portfolio.report import ReportName, last_ended, period_of
from fks.store.reports import ReportStore

router = Router(tags=["accounts"])
Day = Annotated[date | None, Query(description="a day of the period; default: the newest period that is over")]
Account = Annotated[Name, Query(description="this account alone")]


@router.get("/reports/{period}", response_model=ReportView)
async def report(gate: Gate, caller: Reader, period: ReportName, day: Day = None, account: Account = None) -> ExactJson:
    """Return the report of a UTC day, of a week from Monday on, or of a month.

    Equity at both ends, profit without deposits and withdrawals, executions by instance, denials, alerts (unless it is
    of some accounts alone), and the holdings of now.
    """
    now_ns = gate.deps.clock.now_ns()
    today = datetime.fromtimestamp(now_ns / 1e9, UTC).date()
    if day is not None and day > today:
        raise Problem(422, "INVALID", f"day: {day} is not over, nor has it begun", remedy=f"take one up to {today}")
    accounts = caller.account_list
    if account is not None:
        rows = await gate.db.fetch("gateway.accounts", accounts)
        accounts = [row["id"] for row in rows if row["name"] == account]
        if not accounts:
            raise Problem(404, "ACCOUNT_UNKNOWN", f"there is no account {account!r}", remedy="see GET /accounts")
    found = last_ended(period, today) if day is None else period_of(period, day)
    home = gate.deps.settings.venue.exchange
    return ExactJson(await ReportStore(gate.db).report(found, accounts, home=home, now_ns=now_ns))
