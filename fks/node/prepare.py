"""`python -m fks.node.prepare`: brings the store up to date, in a process of its own (Alembic is heavy)."""

from __future__ import annotations

import asyncio
import os
import sys

from fks.config.check import venue_plaintext
from fks.config.endpoints import load_node
from fks.config.load import load_settings
from fks.config.paths import Paths
from fks.config.problems import joined
from fks.config.settings import Settings
from fks.model.errors import ConfigError, FksError
from fks.store.db import Database
from fks.store.facts import FactStore


async def prepare(home: str) -> None:
    """Migrate, create partitions, the local token and the demo's rows, or switch the demo off where money is real.

    Each step is safe to repeat.
    """
    from fks.clock import RealClock
    from fks.model.timeframe import to_datetime
    from fks.node.demo import seed, switch_off
    from fks.store.migrate import upgrade
    from fks.store.partitions import ensure_partitions
    from fks.store.tokens import ensure_local_token

    settings = load_settings(home)
    paths = Paths.of(settings.home)
    url = load_node(paths).database_url
    await upgrade(url)
    db = await Database.connect(url, settings.database, application="prepare")
    try:
        await ensure_partitions(db, to_datetime(RealClock().now_ns()))
        await ensure_local_token(db, paths)
        await refuse_plaintext(db, settings)
        if settings.sim.enabled:
            await seed(db, settings)
        if settings.venue.live:
            await switch_off(db)
        if not settings.web.enabled:
            await db.execute("monitor.forget_silent", "serve", "", "pages:%", 0.0)
    finally:
        await db.close()


async def refuse_plaintext(db: Database, settings: Settings) -> None:
    """Refuse a venue whose keys and orders would cross a network without TLS; with something open there, page instead:
    it must be possible to close it, and entries are denied VENUE_PLAINTEXT. Errors: ConfigError."""
    if not (wrong := venue_plaintext(settings)):
        return
    if not await db.fetchval("keeper.is_open_at", "ccxt"):
        raise ConfigError(joined(wrong))
    text = f"entries are denied and what is open can only be closed: {joined(wrong)}"
    await FactStore(db).note_alert("page", "venue.plaintext", text, "keeper", {})


def main() -> int:
    """Run; one line and exit 1 when it fails."""
    try:
        asyncio.run(prepare(os.environ["FKS_HOME"]))
    except FksError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
