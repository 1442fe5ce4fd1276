"""The demo: accounts and strategy instances that a fresh system starts with on the local exchange."""

from __future__ import annotations

from fks.config.settings import Settings
from fks.store.db import Database
from fks.store.facts import FactStore

_FAST = {"fast": 3, "slow": 8}
#: id, strategy, params, symbol, timeframe, account, size in quote; fast enough that one trade is seen in a minute.
#: Each entry is protected, by a stop near enough to be reached now and then; one of the stops follows the price
INSTANCES: tuple[tuple[str, str, dict[str, object], str, str, str, str], ...] = (
    ("sma-btc-1s", "sma_cross", {**_FAST, "sl_pct": 0.1, "tp_pct": 0.2}, "BTCUSDT", "1s", "demo", "500"),
    ("ema-eth-5s", "ema_cross", {**_FAST, "sl_pct": 0.2, "trail_pct": 0.2}, "ETHUSDT", "5s", "demo", "500"),
    ("sma-btc-paper", "sma_cross", {**_FAST, "sl_pct": 0.2, "tp_pct": 0.4}, "BTCUSDT", "5s", "paper", "500"),
)


async def seed(db: Database, settings: Settings) -> bool:
    """Create the demo's accounts, assets and instances when the database has no account yet; return whether it did.

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
