"""Strategies: the catalogue and the running instances; instances switched on and off, and their parameters."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.jobs import plain
from fks.interfaces.api.query import Body, BodyOf, Gate, Reader, Trader
from fks.interfaces.api.routing import Router
from fks.interfaces.api.views import StrategiesView
from fks.model.errors import not_found
from fks.store.strategies import StrategyStore

router = Router(tags=["strategies"])
_SHOWN = ("name", "origin", "summary", "error", "params")


class ParametersBody(Body):
    """All parameters of an instance; those that are left out have their defaults."""

    params: dict[str, Any] = Field(default_factory=dict)
    base_version: int = Field(ge=0, lt=2**31, description="the `params_version` that the change was made against")


@router.get("/strategies", response_model=StrategiesView)
async def strategies(gate: Gate, caller: Reader) -> ExactJson:
    """Return the catalogue (name, parameters, origin) and every running instance. A new file of yours is read in a
    process of its own; one that hangs or ends its process is listed with that error."""
    catalogue = [{name: one[name] for name in _SHOWN} for one in await gate.catalogue.read()]
    instances = [dict(row) for row in await gate.db.fetch("gateway.instances")]
    return ExactJson({"catalogue": catalogue, "instances": instances})


@router.post("/strategies/{id}/enable")
async def enable(gate: Gate, caller: Trader, id: str) -> ExactJson:
    """Switch an instance on; a crashed one starts again, an isolated one returns to its shard. Idempotent."""
    return await _switched(gate, id, True, by=caller.name)


@router.post("/strategies/{id}/disable")
async def disable(gate: Gate, caller: Trader, id: str) -> ExactJson:
    """Switch an instance off. It sends no more signals; its position stays, and what protects it. Idempotent."""
    return await _switched(gate, id, False, by=caller.name)


async def _switched(gate: Replica, id: str, is_enabled: bool, *, by: str) -> ExactJson:
    if not await StrategyStore(gate.db).set_enabled(id, is_enabled):
        raise not_found("INSTANCE_UNKNOWN", f"there is no instance {id!r}", "see GET /strategies")
    gate.deps.log.info("strategy.switched", instance=id, is_enabled=is_enabled, by=by)
    return ExactJson({"id": id, "is_enabled": is_enabled})


@router.post("/strategies/{id}/params")
async def change_params(gate: Gate, caller: Trader, id: str, body: BodyOf[ParametersBody]) -> ExactJson:
    """Give an instance parameters as its next version, from the next bar on. The strategy is checked with them first;
    they are refused while an order that enters is open or a signal to enter waits."""
    params = plain(body.params)
    found = await gate.user_code.run(
        "change_params", instance=id, params=params, base_version=body.base_version, by=caller.name
    )
    gate.deps.log.info("strategy.params_changed", instance=id, version=found["version"], by=caller.name)
    return ExactJson(found)
