"""`python -m fks.system.node.prepare`: brings the store up to date, in a process of its own (Alembic is heavy)."""

from __future__ import annotations

import asyncio
import os
import sys

from fks.config.check import venue_plaintext
from fks.config.endpoints import load_node
from fks.config.load import load_settings
from fks.config.paths import Paths
from fks.config.problems import joined
from fks.config.secrets import load_secrets
from fks.config.settings import Settings
from fks.model.errors import ConfigError, FksError
from fks.store.db import Database
from fks.store.facts import FactStore
from fks.store.portfolios import add_portfolio

_FAST = {"fast": 3, "slow": 8}
#: id, strategy, params, symbol, timeframe, account, size in quote; fast enough that one trade is seen in a minute.
#: Each entry is protected, by a stop near enough to be reached now and then; one of the stops follows the price
INSTANCES: tuple[tuple[str, str, dict[str, object], str, str, str, str], ...] = (
    ("sma-btc-1s", "sma_cross", {**_FAST, "sl_pct": 0.1, "tp_pct": 0.2}, "BTCUSDT", "1s", "demo", "500"),
    ("ema-eth-5s", "ema_cross", {**_FAST, "sl_pct": 0.2, "trail_pct": 0.2}, "ETHUSDT", "5s", "demo", "500"),
    ("sma-btc-paper", "sma_cross", {**_FAST, "sl_pct": 0.2, "tp_pct": 0.4}, "BTCUSDT", "5s", "paper", "500"),
)


async def prepare(home: str) -> None:
    """Migrate, create partitions, the database roles, the local token and the demo's rows, or switch the demo off where
    money is real.

    Each step is safe to repeat.
    """
    from fks.clock import RealClock
    from fks.model.timeframe import to_datetime
    from fks.store.grants import ensure_roles
    from fks.store.migrate import upgrade_unless_ahead
    from fks.store.partitions import ensure_partitions
    from fks.store.tokens import ensure_local_token

    settings = load_settings(home)
    paths = Paths.of(settings.home)
    url = load_node(paths).database_url
    await upgrade_unless_ahead(url)
    db = await Database.connect(url, settings.database, application="prepare")
    try:
        await ensure_partitions(db, to_datetime(RealClock().now_ns()))
        await ensure_roles(db, url, load_secrets(paths).session_key, paths)
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


async def seed(db: Database, settings: Settings) -> bool:
    """Create the demo's accounts, assets, instances and portfolio when the database has no account yet; return whether
    it did.

    Guarantees: one transaction; a second call changes nothing.
    """
    async with db.transaction() as tx:
        if await tx.fetchval("demo.count_accounts"):
            return False
        ids = {
            "demo": await tx.fetchval("demo.add_account", "demo", "ccxt", settings.venue.exchange, "100000"),
            "paper": await tx.fetchval("demo.add_account", "paper", "paper", "fks paper", "100000"),
        }
        for symbol in settings.data.symbols:
            await tx.execute("demo.add_asset", settings.data.exchange, symbol)
        for shard, (id, strategy, params, symbol, timeframe, account, size) in enumerate(INSTANCES):
            if symbol not in settings.data.symbols or timeframe not in settings.data.timeframes:
                continue
            venue = "paper" if account == "paper" else "ccxt"
            worker = shard % settings.strategies.workers
            await tx.execute(
                "demo.add_instance",
                id,
                strategy,
                params,
                settings.data.exchange,
                symbol,
                timeframe,
                ids[account],
                venue,
                size,
                worker,
            )
            await tx.execute("demo.add_parameters", id, strategy, params)
        await add_portfolio(tx, "main", "USDT", None, tuple(ids), (), "demo")
    return True


async def switch_off(db: Database) -> list[str]:
    """Disable the demo's strategy instances and raise an alert that names them; return their ids.

    They are demonstrations: none may trade where `venue.live` says that money is real. Instances that are off already
    are left alone, and when none is switched off nothing is reported.
    """
    async with db.transaction() as tx:
        rows = await tx.fetch("demo.switch_off", [id for id, *_ in INSTANCES])
        ids = sorted(row["id"] for row in rows)
        if ids:
            await FactStore(tx).note_alert(
                "warning",
                "demo.switched_off",
                f"venue.live is true: the demo's strategies {', '.join(ids)} are switched off; add your own with 'fks "
                "strategies add'",
                "keeper",
                {"instances": ",".join(ids)},
            )
    return ids


async def refuse_plaintext(db: Database, settings: Settings) -> None:
    """Refuse a venue whose keys and orders would cross a network without TLS; with something open there, page instead:
    it must be possible to close it, and entries are denied VENUE_PLAINTEXT. Errors: ConfigError."""
    for name in settings.venues_at_exchanges():
        if not (wrong := venue_plaintext(settings.at(name))):
            continue
        if not await db.fetchval("keeper.is_open_at", name):
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
