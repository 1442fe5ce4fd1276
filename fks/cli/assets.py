"""`fks assets`: the collected symbols."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fks.cli.base import as_json, emit, settings_of, table
from fks.model.timeframe import iso, to_ns

if TYPE_CHECKING:
    from fks.history.assets import AssetSelection, Choice
    from fks.store.db import Database

C = TypeVar("C", bound=Callable[..., Any])


@click.group()
def assets() -> None:
    """List, enable, disable and add collected symbols."""


def _choosing(command: C) -> C:
    """Add the arguments for symbols and their collection to a command."""
    for add in (
        as_json,
        click.option("--channel", "channels", multiple=True, help="trades, quotes, book; may be repeated."),
        click.option(
            "--history",
            type=click.IntRange(0, 7300),
            metavar="DAYS",
            help="Days to fetch (default: data.history_days).",
        ),
        click.option(
            "--timeframe",
            "-t",
            "timeframes",
            multiple=True,
            help="Bars to build (default: data.timeframes); may be repeated.",
        ),
        click.option("--exchange", "-e", help="Which exchange (default: data.exchange, or the one that lists it)."),
        click.argument("symbols", nargs=-1, required=True),
    ):
        command = add(command)
    return command


@assets.command("list")
@click.option("--all", "is_all", is_flag=True, help="Show what the exchange lists, not only what was chosen.")
@as_json
@click.pass_context
def list_(ctx: click.Context, is_all: bool, as_json: bool) -> None:
    """List assets, whether they are collected, and their state."""
    from fks.cli.data.store import with_store
    from fks.store.assets import AssetStore
    from fks.store.instruments import InstrumentStore

    async def work(db: Database) -> list[dict[str, Any]]:
        rows = [_plain(row) for row in await AssetStore(db).all()]
        known = {(row["exchange"], row["symbol"]) for row in rows}
        return rows + [
            {
                "exchange": item.exchange,
                "symbol": item.symbol,
                "name": item.name,
                "is_enabled": False,
                "is_trading": item.is_trading,
                "status": "off",
                "updated_at": iso(item.updated_ns),
            }
            for item in (await InstrumentStore(db).all() if is_all else ())
            if (item.exchange, item.symbol) not in known
        ]

    _show(with_store(ctx, work), as_json)


@assets.command()
@_choosing
@click.pass_context
def enable(ctx: click.Context, /, as_json: bool, symbols: tuple[str, ...], **how: Any) -> None:
    """Collect SYMBOLS and fetch their history. A running system begins within seconds. Safe to repeat."""
    _decide(ctx, as_json, _choice(symbols, **how), lambda selection, choice: selection.enable(choice))


@assets.command()
@click.argument("symbols", nargs=-1, required=True)
@click.option("--exchange", "-e", help="Which exchange (default: data.exchange, or the one that lists it).")
@as_json
@click.pass_context
def disable(ctx: click.Context, symbols: tuple[str, ...], exchange: str | None, as_json: bool) -> None:
    """Stop collecting SYMBOLS. Stored data stays."""
    _decide(ctx, as_json, _choice(symbols, exchange), lambda selection, choice: selection.disable(choice))


@assets.command()
@_choosing
@click.pass_context
def add(ctx: click.Context, /, as_json: bool, symbols: tuple[str, ...], **how: Any) -> None:
    """Add SYMBOLS to the list without collecting them yet; existing entries stay."""
    _decide(ctx, as_json, _choice(symbols, **how), lambda selection, choice: selection.add(choice))


def _choice(
    symbols: Sequence[str],
    exchange: str | None = None,
    timeframes: Sequence[str] = (),
    history: int | None = None,
    channels: Sequence[str] = (),
) -> Choice:
    from fks.history.assets import Choice

    return Choice(tuple(symbols), exchange, tuple(timeframes) or None, history, tuple(channels) or None)


def _decide(
    ctx: click.Context,
    as_json: bool,
    choice: Choice,
    one: Callable[[AssetSelection, Choice], Awaitable[list[dict[str, Any]]]],
) -> None:
    from fks.cli.data.store import with_store
    from fks.exchanges.registry import EXCHANGES
    from fks.history.assets import AssetSelection

    data = settings_of(ctx).data

    async def work(db: Database) -> list[dict[str, Any]]:
        return [_plain(row) for row in await one(AssetSelection(db, data, EXCHANGES), choice)]

    _show(with_store(ctx, work), as_json)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Return an asset as JSON shows it."""
    price = row["last_price"]
    return {
        **row,
        "last_price": None if price is None else format(price, "f"),
        "updated_at": iso(to_ns(row["updated_at"])),
    }


def _show(rows: list[dict[str, Any]], as_json: bool) -> None:
    emit(rows, as_json=as_json, schema="fks.assets/2")
    if as_json:
        return
    table(
        (
            (
                row["exchange"],
                row["symbol"],
                row["name"],
                "yes" if row["is_enabled"] else "no",
                row["status"],
                " ".join(row.get("timeframes") or ()) or "as set",
                "yes" if row["is_trading"] else "no",
            )
            for row in rows
        ),
        ("EXCHANGE", "SYMBOL", "NAME", "COLLECTED", "STATUS", "TIMEFRAMES", "TRADING"),
        empty="none yet: 'fks assets enable BTCUSDT'",
    )
