"""Exchanges that pay: where FKS runs, whoever asks one, or dials a market data socket, spends from the purse that
everybody shares.

Dials have one of their own, of what the exchange lets one address dial; the local exchange lets us dial at will.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fks.clock import Clock
from fks.config.endpoints import Node
from fks.config.settings import Settings
from fks.exchanges.registry import EXCHANGES, KEYS, HasSim, endpoint_of, make_exchange
from fks.model.ports import Budget, Exchange, Log
from fks.rate_limits.budgets import DIALS_LOCAL, RedisBudget, budget_of, in_background
from fks.store.bus import Bus


def budget_for(bus: Bus, clock: Clock, settings: Settings, node: HasSim | None, name: str) -> RedisBudget:
    """Return what requests to the exchange `name`, one of EXCHANGES, and dials spend from. Errors: those of
    `endpoint_of`."""
    address = endpoint_of(settings, node, name).rest
    is_local = bool(node and node.sim and address == node.sim["rest"])
    secret = getattr(settings.data, KEYS[name]) if name in KEYS else None
    return budget_of(
        bus,
        clock,
        name,
        address,
        secret.get_secret_value() if secret else "",
        per_minute=settings.data.requests_per_minute.get(name),
        dials=DIALS_LOCAL if is_local else None,
    )


@asynccontextmanager
async def shared_purse(name: str, settings: Settings, node: Node | None, clock: Clock) -> AsyncIterator[Budget | None]:
    """Give the budget of an exchange for history, which lets live feeds go first; None where FKS does not run.

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
    name: str, settings: Settings, node: Node | None, log: Log, clock: Clock
) -> AsyncIterator[Exchange]:
    """Give an exchange for history, opened; it pays as `shared_purse` says. Errors: those of `make_exchange`."""
    async with shared_purse(name, settings, node, clock) as budget:
        exchange = make_exchange(name, settings=settings, node=node, clock=clock, log=log, budget=budget)
        await exchange.open()
        try:
            yield exchange
        finally:
            await exchange.close()
