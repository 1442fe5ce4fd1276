"""Cost of denials: the value of entries that were not made."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import Query

from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.query import Gate, Name, Reader, moment
from fks.interfaces.api.routing import Router
from fks.interfaces.entry.denials import DenialLedger
from fks.model.errors import unprocessable
from fks.model.timeframe import to_datetime
from fks.trading.matching import CostModel

router = Router(tags=["signals"])
_SPAN = timedelta(days=7)
_FIRST = datetime.min.replace(tzinfo=UTC)  # of what Python can hold: nothing is before it


@router.get("/denials/cost")
async def cost(
    gate: Gate,
    caller: Reader,
    since: Annotated[str | None, Query(max_length=40, description="ISO 8601; default: 7 days ago")] = None,
    until: Annotated[str | None, Query(max_length=40, description="ISO 8601, not included; default: now")] = None,
    instance: Name = None,
) -> ExactJson:
    """Value each entry that was denied, expired or declined by its profit or loss on the stored bars.

    A positive value is a profit that was missed, a negative one a loss that was avoided. Each entry is valued alone, by
    the fill rule and the costs of a backtest; `total` has the sums by code.
    """
    now = to_datetime(gate.deps.clock.now_ns())
    to = moment(until, "until") or now
    start = moment(since, "since") or max(to, _FIRST + _SPAN) - _SPAN
    if start >= to:
        raise unprocessable("TIME_INVALID", "since must be before until", "give an earlier `since`")
    costs = gate.deps.settings.costs
    ledger = DenialLedger(gate.db, CostModel.of(costs))
    return ExactJson({**await ledger.read(start, to, instance), "since": start, "until": to})
