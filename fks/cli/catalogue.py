"""Strategies of this node, their parameters as options, and its database, for the commands about strategies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fks.cli.base import paths_of

if TYPE_CHECKING:
    from fks.process.confined_strategies import ConfinedCatalogue
    from fks.store.db import Database

T = TypeVar("T")


def catalogue_of(ctx: click.Context, files: Sequence[Path] = ()) -> ConfinedCatalogue:
    """Return the strategies of this node: built-in, installed, the files in its strategies folder, and `files`."""
    from fks.process.confined_strategies import ConfinedCatalogue

    return ConfinedCatalogue(paths_of(ctx).strategies, files)


def params_of(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Return `--set name=value` pairs as parameters; an empty value means none. Errors: click.BadParameter."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise click.BadParameter(f"{pair!r} is not name=value", param_hint="--set")
        found[name.strip()] = value.strip() or None
    return found


def in_database(ctx: click.Context, work: Callable[[Database], Awaitable[T]]) -> T:
    """Run `work` on this node's database, whether FKS runs or not. Errors: OutageError, ConfigError."""
    from fks.cli.store import opened_store
    from fks.store.db import Database

    async def go(url: str, settings: Any) -> T:
        db = await Database.connect(url, settings.database, application="strategies")
        try:
            return await work(db)
        finally:
            await db.close()

    with opened_store(ctx) as (url, settings, _):
        return asyncio.run(go(url, settings))
