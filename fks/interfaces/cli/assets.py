"""`fks assets`: the collected symbols."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

from fks.interfaces.cli.base import named, options, result, settings_of
from fks.model.json_fields import json_fields
from fks.model.timeframe import iso, to_ns

if TYPE_CHECKING:
    from fks.market.history.assets import AssetSelection, Choice
    from fks.store.db import Database


@click.group()
def assets() -> None:
    """List, enable, disable and add collected symbols."""


_exchange = click.option("--exchange", "-e", help="Which exchange (default: data.exchange, or the one that lists it).")
_choosing = options(
    click.argument("symbols", nargs=-1, required=True),
    _exchange,
    click.option(
        "--timeframe",
        "-t",
        "timeframes",
        multiple=True,
        help="Bars to build (default: data.timeframes); may be repeated.",
    ),
    click.option(
        "--history",
        type=click.IntRange(0, 7300),
        metavar="DAYS",
        help="Days to fetch (default: data.history_days).",
    ),
    click.option("--channel", "channels", multiple=True, help="trades, quotes, book; may be repeated."),
)
_assets = result(
    "fks.assets/2",
    {
        **named("exchange", "symbol", "name"),
        "COLLECTED": lambda row: "yes" if row["is_enabled"] else "no",
        "STATUS": "status",
        "TIMEFRAMES": lambda row: " ".join(row.get("timeframes") or ()) or "as set",
        "TRADING": lambda row: "yes" if row["is_trading"] else "no",
    },
    empty="none yet: 'fks assets enable BTCUSDT'",
)


@assets.command("list")
@click.option("--all", "is_all", is_flag=True, help="Show what the exchange lists, not only what was chosen.")
@_assets
def list_(ctx: click.Context, is_all: bool) -> Any:
    """List assets, whether they are collected, and their state."""
    from fks.interfaces.cli.data.store import with_store
    from fks.store.assets import AssetStore
    from fks.store.instruments import InstrumentStore

    async def work(db: Database) -> list[dict[str, Any]]:
        rows = [_plain(row) for row in await AssetStore(db).all()]
        known = {(row["exchange"], row["symbol"]) for row in rows}
        return rows + [
            {
                **json_fields(item, "exchange", "symbol", "name"),
                "is_enabled": False,
                "is_trading": item.is_trading,
                "status": "off",
                "updated_at": iso(item.updated_ns),
            }
            for item in (await InstrumentStore(db).all() if is_all else ())
            if (item.exchange, item.symbol) not in known
        ]

    return with_store(ctx, work)


@assets.command()
@_choosing
@_assets
def enable(ctx: click.Context, /, **how: Any) -> Any:
    """Collect SYMBOLS and fetch their history. A running system begins within seconds. Safe to repeat."""
    return _decide(ctx, lambda selection, choice: selection.enable(choice), **how)


@assets.command()
@click.argument("symbols", nargs=-1, required=True)
@_exchange
@_assets
def disable(ctx: click.Context, /, **how: Any) -> Any:
    """Stop collecting SYMBOLS. Stored data stays."""
    return _decide(ctx, lambda selection, choice: selection.disable(choice), **how)


@assets.command()
@_choosing
@_assets
def add(ctx: click.Context, /, **how: Any) -> Any:
    """Add SYMBOLS to the list without collecting them yet; existing entries stay."""
    return _decide(ctx, lambda selection, choice: selection.add(choice), **how)


def _decide(
    ctx: click.Context,
    change: Callable[[AssetSelection, Choice], Awaitable[list[dict[str, Any]]]],
    *,
    symbols: tuple[str, ...],
    exchange: str | None,
    timeframes: tuple[str, ...] = (),
    history: int | None = None,
    channels: tuple[str, ...] = (),
) -> list[dict[str, Any]]:
    from fks.interfaces.cli.data.store import with_store
    from fks.market.exchanges.registry import EXCHANGES
    from fks.market.history.assets import AssetSelection, Choice

    data = settings_of(ctx).data
    choice = Choice(symbols, exchange, timeframes or None, history, channels or None)

    async def work(db: Database) -> list[dict[str, Any]]:
        return [_plain(row) for row in await change(AssetSelection(db, data, EXCHANGES), choice)]

    return with_store(ctx, work)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Return an asset as JSON shows it."""
    price = row["last_price"]
    return {
        **row,
        "last_price": None if price is None else format(price, "f"),
        "updated_at": iso(to_ns(row["updated_at"])),
    }
