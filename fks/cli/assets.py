"""`fks assets`: what is collected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fks.cli.base import as_json, emit, settings_of, table
from fks.model.errors import InputError
from fks.model.timeframe import iso, to_ns

if TYPE_CHECKING:
    from fks.store.db import Database


@click.group()
def assets() -> None:
    """List, enable and disable what is collected."""


@assets.command("list")
@click.option("--all", "is_all", is_flag=True, help="Show what the exchange lists, not only what was chosen.")
@as_json
@click.pass_context
def list_(ctx: click.Context, is_all: bool, as_json: bool) -> None:
    """List assets and whether they are collected."""
    from fks.cli.data import with_store
    from fks.store.instruments import InstrumentStore

    async def work(db: Database) -> list[dict[str, Any]]:
        store = InstrumentStore(db)
        rows = [{**row, "updated_at": iso(to_ns(row["updated_at"]))} for row in await store.assets()]
        if is_all:
            known = {(row["exchange"], row["symbol"]) for row in rows}
            rows += [
                {
                    "exchange": item.exchange,
                    "symbol": item.symbol,
                    "name": item.name,
                    "is_enabled": False,
                    "is_trading": item.is_trading,
                    "updated_at": iso(item.updated_ns),
                }
                for item in await store.all()
                if (item.exchange, item.symbol) not in known
            ]
        return rows

    rows = with_store(ctx, work)
    emit(rows, as_json=as_json, schema="fks.assets/1")
    if not as_json:
        table(
            (
                (r["exchange"], r["symbol"], r["name"], "yes" if r["is_enabled"] else "no", "yes" if r["is_trading"] else "no")
                for r in rows
            ),
            ("EXCHANGE", "SYMBOL", "NAME", "COLLECTED", "TRADING"),
            empty="none yet: 'fks assets enable BTCUSDT'",
        )


@assets.command()
@click.argument("symbols", nargs=-1, required=True)
@as_json
@click.pass_context
def enable(ctx: click.Context, symbols: tuple[str, ...], as_json: bool) -> None:
    """Collect SYMBOLS. A running collector follows within seconds."""
    _switch(ctx, symbols, as_json, is_enabled=True)


@assets.command()
@click.argument("symbols", nargs=-1, required=True)
@as_json
@click.pass_context
def disable(ctx: click.Context, symbols: tuple[str, ...], as_json: bool) -> None:
    """Stop collecting SYMBOLS. What is stored stays."""
    _switch(ctx, symbols, as_json, is_enabled=False)


def _switch(ctx: click.Context, symbols: tuple[str, ...], as_json: bool, *, is_enabled: bool) -> None:
    from fks.cli.data import with_store
    from fks.model.instrument import find_instrument
    from fks.store.instruments import InstrumentStore

    default = settings_of(ctx).data.exchange

    async def work(db: Database) -> list[dict[str, Any]]:
        store = InstrumentStore(db)
        listed = await store.all()
        if not listed:
            raise InputError(
                "no instruments are known yet", code="SYMBOL_UNKNOWN", remedy="start once with 'fks up': the collector lists them"
            )
        own = [item for item in listed if item.exchange == default]
        found = [find_instrument(symbol, listed if ":" in symbol else own or listed) for symbol in symbols]
        for item in found:
            await store.set_asset(item.exchange, item.symbol, is_enabled=is_enabled)
        return [{"exchange": item.exchange, "symbol": item.symbol, "is_enabled": is_enabled} for item in found]

    rows = with_store(ctx, work)
    emit(rows, as_json=as_json, schema="fks.assets/1")
    if not as_json:
        for row in rows:
            click.echo(f"{row['exchange']} {row['symbol']}: {'collected' if is_enabled else 'not collected'} from now on")
