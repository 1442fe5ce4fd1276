"""Instances that commands and jobs name, and the change of their parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fks.model.errors import InputError
from fks.store.challengers import ChallengerStore
from fks.store.db import Database, Querier, Transaction
from fks.store.reading import ReadingStore
from fks.store.strategies import Instance, StrategyStore


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
) -> int:
    """Give an instance, which the transaction holds (`held_instance`), parameters as its next version; return that.

    Errors: InputError `code` while an order that enters is open or a signal to enter waits: its prices are those of the
    old parameters, and the new ones know nothing of it. So is a position that may have several entries: the new
    parameters would add to it as if its entries and protections were theirs.
    """
    standing = await ChallengerStore(tx).standing(instance.id)
    if standing.entries:
        raise InputError(
            f"{standing.entries} order(s) that enter for instance {instance.id} are open",
            code=code,
            status=409,
            remedy="wait until they end, or cancel them: 'fks orders cancel ID'",
        )
    if standing.entering:
        raise InputError(
            f"{standing.entering} signal(s) to enter for instance {instance.id} are not ordered yet",
            code=code,
            status=409,
            remedy="wait until they are decided, or reject them: 'fks signals reject ID'",
        )
    if instance.pyramiding > 1 and standing.held is not None:
        raise InputError(
            f"instance {instance.id} holds {standing.held}, and its positions may have several entries",
            code=code,
            status=409,
            remedy="wait until the position is closed, or disable the instance and close it",
        )
    version = await StrategyStore(tx).set_params(instance.id, params, by=by, provenance=provenance)
    assert version is not None, "the row is held"
    return version


def unknown_instance(instance_id: str) -> InputError:
    return InputError(
        f"there is no instance {instance_id!r}",
        code="INSTANCE_UNKNOWN",
        status=404,
        remedy="see 'fks strategies instances'",
    )
