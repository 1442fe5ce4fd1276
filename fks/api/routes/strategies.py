"""Strategies: the catalogue and the running instances."""

from __future__ import annotations

from fks.api.exact import ExactJson
from fks.api.query import Gate, Reader
from fks.api.routing import Router
from fks.api.views import StrategiesView

router = Router(tags=["strategies"])
_SHOWN = ("name", "origin", "summary", "error", "params")


@router.get("/strategies", response_model=StrategiesView)
async def strategies(gate: Gate, who: Reader) -> ExactJson:
    """Return the catalogue (name, parameters, origin) and every running instance. A new file of yours is read in a
    process of its own; one that hangs or ends its process is listed with that error."""
    catalogue = [{name: one[name] for name in _SHOWN} for one in await gate.catalogue.read()]
    instances = [dict(row) for row in await gate.db.fetch("gateway.instances")]
    return ExactJson({"catalogue": catalogue, "instances": instances})
