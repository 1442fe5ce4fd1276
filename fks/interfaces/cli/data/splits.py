"""`fks data splits | events | import-events | sync-events`: splits, dividends, delistings, funding rates and economic
events."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fks.interfaces.cli.base import result
from fks.interfaces.cli.data.store import csv_rows, exchange_of, with_store
from fks.model.errors import InputError, invalid

if TYPE_CHECKING:
    from fks.model.cash_flows import FetchedEvents
    from fks.store.corporate_actions import ListedEvent
    from fks.store.db import Database


@click.command()
@click.argument("symbol", required=False)
@click.option("--exchange", default="", help="Of this exchange.")
@click.option(
    "--add", "added", multiple=True, metavar="DAY=RATIO", help="Add a split: 2020-08-31=4:1. May be repeated."
)
@click.option("--remove", "removed", multiple=True, metavar="DAY", help="Remove the split of a day. May be repeated.")
@result("fks.data.splits/1", empty="no split is known")
def splits(
    ctx: click.Context, symbol: str | None, exchange: str, added: tuple[str, ...], removed: tuple[str, ...]
) -> Any:
    """Show the known splits of SYMBOL, or of all; add and remove some.

    DAY is the first on which the new shares are traded, RATIO the new ones for each old one; 1:1 says that the price
    moved without a split. Stored bars stay as they are: a backtest reads them in shares of its end.

    \b
    fks data splits AAPL --add 2014-06-09=7:1 --add 2020-08-31=4:1
    """
    from fks.market.bars.splits import split_day

    if (added or removed) and symbol is None:
        raise InputError("--add and --remove need a symbol", remedy="fks data splits SYMBOL --add DAY=RATIO")
    new = [split_day(*text.rpartition("=")[::2]) for text in added]
    try:
        gone = [date.fromisoformat(text) for text in removed]
    except ValueError:
        raise InputError(f"--remove {' '.join(removed)}: a day is written as 2020-08-31") from None

    async def work(db: Database) -> list[ListedEvent]:
        from fks.market.history.events import split_event
        from fks.store.corporate_actions import SPLIT, CorporateActionStore
        from fks.store.reading import ReadingStore

        if symbol is None:
            return await CorporateActionStore(db).events(exchange or None)
        found = await ReadingStore(db).find(symbol, exchange or None)
        place = (found.exchange, found.symbol)
        every = {split.day: split_event(*place, split, "fks data splits") for split in new}
        async with db.transaction() as tx:  # all that was asked for, or nothing
            store = CorporateActionStore(tx)
            for day in gone:
                if not await store.withdraw(*place, SPLIT, day):
                    raise InputError(f"no split of {found.symbol} is known on {day}", remedy="see 'fks data splits'")
            await store.put(list(every.values()))
            return await store.events(*place)

    return [
        {
            "symbol": row.symbol,
            "exchange": row.exchange,
            "day": row.day.isoformat(),
            "ratio": row.split.ratio,
            "source": row.source,
        }
        for row in with_store(ctx, work)
        if row.kind == "split"
    ]


# ── events ───────────────────────────────────────────────────────────────────────────────────────
@click.group()
def events() -> None:
    """Events of shares, funding rates of perpetuals, and economic events."""


@events.command("list")
@click.argument("symbol", required=False)
@click.option("--exchange", default="", help="Of this exchange.")
@click.option("--known-at", metavar="TIME", help="As they were published by then: 2024-01-01 or 90d (ago).")
@result("fks.data.events/1", empty="no event is known")
def list_events(ctx: click.Context, symbol: str | None, exchange: str, known_at: str | None) -> Any:
    """Show the known events of SYMBOL, or of all: each with its source, its revision, and since when it is known.

    Funding rates are one line a symbol. SYMBOL may be a currency (USD): its economic events.
    """
    from fks.interfaces.cli.events import moment
    from fks.market.history import events
    from fks.model.timeframe import to_ns

    at = moment(known_at)
    known_ns = None if at is None else to_ns(at)
    rows, _ = with_store(ctx, lambda db: events.list_events(db, symbol, exchange, known_ns))
    return rows


@click.command("import-events")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--exchange", default="", help="Of this exchange, where the file does not say it.")
@result("fks.data.events/1", empty="the file has no row")
def import_events(ctx: click.Context, file: Path, exchange: str) -> Any:
    """Import events from a csv FILE: all of its rows, or none.

    \b
    symbol,kind,day,ratio,amount,currency,pay_day,new_symbol   split, dividend, delisting, symbol_change
    symbol,time,rate,mark                                      funding rates of perpetuals
    symbol,day,ratio                                           splits alone
    currency,name,time,importance,actual,forecast,previous     economic events: importance none, low, medium or high

    `day` is the ex-day of a dividend, the first day of the new shares or of the new symbol, the first without trading.
    Further columns that are read: exchange, source, type (of several dividends of one day), and published, the time
    from which on it was known. A symbol has to be stored, or its exchange be named. An event that is known already with
    another content gets a further revision.
    """
    from fks.market.history import events

    rows = csv_rows(file, events.needed_columns, events.EVENT_COLUMNS)
    found = events.read_events(rows, exchange, file.name)
    return with_store(ctx, lambda db: events.import_events(db, *found))


@click.command("sync-events")
@click.option("--symbol", "symbols", multiple=True, required=True, help="Symbol of the exchange. May be repeated.")
@click.option("--from", "start", metavar="TIME", default="730d", show_default=True, help="2024-01-01 or 90d (ago).")
@click.option("--exchange", default="", help="binance, bybit (funding) or polygon. Default: data.exchange.")
@result("fks.data.events/1", empty="the exchange has no event of it")
def sync_events(ctx: click.Context, symbols: tuple[str, ...], start: str, exchange: str) -> Any:
    """Fetch events from an exchange: funding of perpetuals (binance, bybit), dividends and splits (polygon).

    Funding is stored under the exchange of the perpetuals, as bars of their archives are: binanceusdm, bybitlinear.
    """
    from fks.interfaces.cli.events import moment
    from fks.market.history import events
    from fks.model.timeframe import to_ns

    began = moment(start)
    assert began is not None
    since_ns = to_ns(began)

    async def work(db: Database) -> list[dict[str, Any]]:
        found: list[tuple[str, str, FetchedEvents]] = []
        async with exchange_of(ctx, exchange) as source:
            fetch = getattr(source, "fetch_events", None)
            if fetch is None:
                raise invalid(
                    "EVENTS_UNSUPPORTED",
                    f"{source.name} has no dividends, splits or funding rates",
                    "use --exchange binance, bybit or polygon, or 'fks data import-events FILE'",
                )
            for symbol in symbols:
                found.append((symbol.upper(), source.name, await fetch(symbol.upper(), since_ns)))
        listed, funding = [], []
        for symbol, name, fetched in found:
            place = fetched.exchange or name
            listed += events.events_of(place, symbol, fetched, name)
            funding += events.funding_of(place, symbol, fetched, name)
        return await events.store_events(db, listed, funding)

    return with_store(ctx, work)
