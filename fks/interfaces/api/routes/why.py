"""The history of one decision."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.query import Exchange, Gate, Name, Reader, moment
from fks.interfaces.api.routing import Router
from fks.model.errors import unprocessable

router = Router(tags=["why"])


@router.get("/why")
async def why(
    gate: Gate,
    caller: Reader,
    what: Annotated[
        str, Query(min_length=1, max_length=64, description="an order, a signal, or a symbol (with `time`)")
    ],
    time: Annotated[str | None, Query(max_length=40, description="of a symbol: a moment in the bar, ISO 8601")] = None,
    instance: Name = None,
    exchange: Exchange = None,
) -> ExactJson:
    """Return a decision's whole history: bar, strategy values, signal, checks, order events, fills.

    Of a symbol at a time: one history for each strategy instance there. Where an instance gave no signal, it has the
    target
    and the columns computed at that bar.
    """
    at = moment(time, "time")
    if at is None:
        if instance is not None or exchange is not None:
            raise unprocessable("TIME_INVALID", "instance and exchange belong to a symbol at a time", "give a time")
        found = await gate.why.of_id(what)
    else:
        found = await gate.why.of_symbol(what, exchange, at, instance)
    return ExactJson({"items": found, "next": None})
