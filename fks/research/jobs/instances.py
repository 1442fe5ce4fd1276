"""Instances that commands and jobs name, and the change of their parameters."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from fks.model.account import Account
from fks.model.errors import InputError, conflict, not_found, unprocessable
from fks.research.backtest.run import fitted_at_end
from fks.research.jobs.backtest import BarsRequest
from fks.research.jobs.bars import load_stored_joined
from fks.store.accounts import AccountStore
from fks.store.challengers import ChallengerStore
from fks.store.db import Database, Querier, Transaction
from fks.store.portfolios import Portfolio
from fks.store.reading import ReadingStore
from fks.store.strategies import Instance, StrategyStore
from fks.strategies.base import Strategy, is_unfitted


async def instance_of(db: Database, instance_id: str) -> Instance:
    """Return an instance. Errors: InputError INSTANCE_UNKNOWN."""
    found = await StrategyStore(db).get(instance_id)
    if found is None:
        raise unknown_instance(instance_id)
    return found


async def held_instance(tx: Transaction, instance_id: str) -> Instance:
    """Return an instance and hold its row until the transaction ends: its worker commits no signal meanwhile. Errors:
    InputError INSTANCE_UNKNOWN."""
    found = await ChallengerStore(tx).lock_instance(instance_id)
    if found is None:
        raise unknown_instance(instance_id)
    return found


async def sized_instance(db: Database, portfolio: Portfolio, instance_id: str) -> tuple[Instance, Account]:
    """Return an instance of a member that a weight can size, and its account. Errors: InputError INSTANCE_UNKNOWN,
    TARGETS_WRONG."""
    instance = await instance_of(db, instance_id)
    account = next(account for account in await AccountStore(db).page() if account.id == instance.account_id)
    if instance_id not in portfolio.instances and account.name not in portfolio.accounts:
        raise unprocessable(
            "TARGETS_WRONG",
            f"instance {instance_id} is of no member of portfolio {portfolio.name}",
            "name an instance of a member",
        )
    if instance.sizing != "notional":
        raise unprocessable(
            "TARGETS_WRONG",
            f"instance {instance_id} is sized by {instance.sizing}, not by notional",
            "weights are sizes in quote; one in percent of the equity follows it already",
        )
    return instance, account


async def fitted_now(db: Database, strategy: Strategy, exchange: str, symbol: str, timeframe: str) -> Strategy:
    """Return the strategy fitted on the newest stored bars, as a backtest that begins with the next bar fits it; as it
    is when it has its state, or nothing to fit. Errors: InputError NO_DATA; of the strategy."""
    if not is_unfitted(strategy):
        return strategy
    request = BarsRequest(symbol, exchange, timeframe, None, None, 0, features=strategy.features())
    bars = (await load_stored_joined(db, request, strategy.inputs())).bars
    return await asyncio.to_thread(fitted_at_end, strategy, bars)


async def ensure_collected(db: Querier, inputs: Iterable[str], exchange: str) -> None:
    """Refuse further symbols of a strategy (`Strategy.inputs`) whose bars are not collected at its exchange: it would
    never decide. Errors: InputError INPUT_MISSING, SYMBOL_UNKNOWN."""
    for name in inputs:
        await ReadingStore(db).find_collected(name, exchange)


async def change_params(
    tx: Transaction,
    instance: Instance,
    params: Mapping[str, Any],
    *,
    by: str,
    provenance: Mapping[str, Any] | None = None,
    code: str = "ENTRIES_OPEN",
    size: Decimal | None = None,
) -> int:
    """Give an instance, which the transaction holds (`held_instance`), parameters as its next version; return that.
    `size`: of its entries from now on, None: as before.

    Errors: InputError `code` while an order that enters is open or a signal to enter waits: its prices are those of the
    old parameters, and the new ones know nothing of it. So is a position that may have several entries: the new
    parameters would add to it as if its entries and protections were theirs.
    """
    standing = await ChallengerStore(tx).standing(instance.id)
    if standing.entries:
        raise conflict(
            code,
            f"{standing.entries} order(s) that enter for instance {instance.id} are open",
            "wait until they end, or cancel them: 'fks orders cancel ID'",
        )
    if standing.entering:
        raise conflict(
            code,
            f"{standing.entering} signal(s) to enter for instance {instance.id} are not ordered yet",
            "wait until they are decided, or reject them: 'fks signals reject ID'",
        )
    if instance.pyramiding > 1 and standing.held is not None:
        raise conflict(
            code,
            f"instance {instance.id} holds {standing.held}, and its positions may have several entries",
            "wait until the position is closed, or disable the instance and close it",
        )
    version = await StrategyStore(tx).set_params(instance.id, params, by=by, provenance=provenance, size=size)
    assert version is not None, "the row is held"
    return version


def unknown_instance(instance_id: str) -> InputError:
    return not_found("INSTANCE_UNKNOWN", f"there is no instance {instance_id!r}", "see 'fks strategies instances'")
