"""Exchanges that pay: where FKS runs, whoever asks one, or dials a market data socket, spends from the purse that
everybody shares.

Dials have one of their own, of what the exchange lets one address dial; the local exchange lets us dial at will.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from fks.clock import Clock
from fks.config.endpoints import Node
from fks.config.settings import Settings
from fks.exchanges.registry import EXCHANGES, HasSim, endpoint_of, key_of, make_exchange, rate_limits_of
from fks.model.market import Allowance
from fks.model.ports import Budget, Exchange, Log
from fks.rate_limits.budgets import RedisBudget, budget_of, in_background
from fks.store.bus import Bus

CONNECTS_LOCAL = Allowance(6000, 60)  # the local exchange counts no connects


def budget_for(bus: Bus, clock: Clock, settings: Settings, node: HasSim | None, name: str) -> RedisBudget:
    """Return what requests to the exchange `name`, one of EXCHANGES, and dials spend from. Errors: those of
    `endpoint_of`."""
    address = endpoint_of(settings, node, name).rest
    is_local = bool(node and node.sim and address == node.sim["rest"])
    limits, key = rate_limits_of(settings, name), key_of(settings, name)
    if is_local:
        limits = replace(limits, connects=CONNECTS_LOCAL)
    return budget_of(bus, clock, name, address, key.get_secret_value() if key else "", limits=limits)


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
