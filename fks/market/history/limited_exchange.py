"""Exchanges with rate limits: requests and connects of all processes share one cluster-wide budget where FKS runs.

Connects have a budget of their own, by address.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from fks.clock import Clock
from fks.config.endpoints import NodeEndpoints
from fks.config.settings import Settings
from fks.market.exchanges.registry import EXCHANGES, endpoint_of, key_of, make_exchange, rate_limits_of
from fks.model.market import Allowance
from fks.model.ports import Budget, Exchange, Log
from fks.store.bus import Bus
from fks.system.rate_limits.budgets import RedisBudget, budget_of, in_background

CONNECTS_LOCAL = Allowance(6000, 60)  # the local exchange counts no connects


def budget_for(bus: Bus, clock: Clock, settings: Settings, node: NodeEndpoints | None, name: str) -> RedisBudget:
    """Return the budget of requests and connects of `name`, one of EXCHANGES. Errors: those of `endpoint_of`."""
    address = endpoint_of(settings, node, name).rest
    is_local = bool(node and node.sim and address == node.sim["rest"])
    limits, key = rate_limits_of(settings, name), key_of(settings, name)
    if is_local:
        limits = replace(limits, connects=CONNECTS_LOCAL)
    return budget_of(bus, clock, name, address, key.get_secret_value() if key else "", limits=limits)


@asynccontextmanager
async def shared_budget(
    name: str, settings: Settings, node: NodeEndpoints | None, clock: Clock
) -> AsyncIterator[Budget | None]:
    """Yield the budget of an exchange for history, which yields to live feeds; None where FKS does not run.

    Errors: those of `endpoint_of`.
    """
    if node is None or name not in EXCHANGES:
        yield None
        return
    bus = await Bus.connect(node.redis_url)
    try:
        in_background.set(True)
        yield budget_for(bus, clock, settings, node, name)
    finally:
        await bus.close()


@asynccontextmanager
async def opened_exchange(
    name: str, settings: Settings, node: NodeEndpoints | None, log: Log, clock: Clock
) -> AsyncIterator[Exchange]:
    """Yield an opened exchange for history, with the budget of `shared_budget`. Errors: those of `make_exchange`."""
    async with shared_budget(name, settings, node, clock) as budget:
        exchange = make_exchange(name, settings=settings, node=node, clock=clock, log=log, budget=budget)
        await exchange.open()
        try:
            yield exchange
        finally:
            await exchange.close()
