"""Reports of periods that are over: stored once, and announced to the channels of alerts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from fks.model.accounting.period import ReportPeriod
from fks.model.decimals import plain
from fks.model.ids import report_id
from fks.model.timeframe import iso
from fks.store.reports import ReportStore
from fks.system.alerts.report import text_of, title_of


async def issue_report(
    store: ReportStore,
    period: ReportPeriod,
    document: Mapping[str, Any],
    *,
    now_ns: int,
    portfolio_id: int | None = None,
    is_late: bool = False,
) -> tuple[str, bool]:
    """Store the report of a period and its notice, once; return its title and whether it is new. Errors: OutageError;
    then nothing was stored."""
    stored = json.loads(json.dumps(document, default=_plain))
    title = title_of(stored)
    id = report_id(portfolio_id, period.name, iso(period.start_ns))
    text = f"{title}\n{text_of(stored)}"
    return title, await store.issue(id, portfolio_id, period, stored, text, now_ns=now_ns, is_late=is_late)


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return plain(value)
    raise TypeError(type(value).__name__)
