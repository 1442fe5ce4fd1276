"""Instances that commands and jobs name."""

from __future__ import annotations

from fks.model.errors import InputError
from fks.store.db import Database
from fks.store.strategies import Instance, StrategyStore


async def instance_of(db: Database, instance_id: str) -> Instance:
    """Return an instance. Errors: InputError INSTANCE_UNKNOWN."""
    found = await StrategyStore(db).get(instance_id)
    if found is None:
        raise unknown_instance(instance_id)
    return found


def unknown_instance(instance_id: str) -> InputError:
    return InputError(
        f"there is no instance {instance_id!r}",
        code="INSTANCE_UNKNOWN",
        status=404,
        remedy="see 'fks strategies instances'",
    )
