"""`fks data splits | import-events`: splits of shares, by which stored bars are read."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fks.cli.base import result
from fks.cli.data.store import csv_rows, with_store
from fks.model.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fks.store.corporate_actions import ListedSplit
    from fks.store.db import Database

_COLUMNS = ("symbol", "day", "ratio")
_OTHERS = ("exchange", "source", "kind")


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
    from fks.bars.splits import split_day

    if (added or removed) and symbol is None:
        raise InputError("--add and --remove need a symbol", remedy="fks data splits SYMBOL --add DAY=RATIO")
    new = [split_day(*text.rpartition("=")[::2]) for text in added]
    try:
        gone = [date.fromisoformat(text) for text in removed]
    except ValueError:
        raise InputError(f"--remove {' '.join(removed)}: a day is written as 2020-08-31") from None

    async def work(db: Database) -> list[ListedSplit]:
        from fks.store.corporate_actions import CorporateActionStore, ListedSplit
        from fks.store.reading import ReadingStore

        if symbol is None:
            return await CorporateActionStore(db).listed(exchange or None)
        found = await ReadingStore(db).find(symbol, exchange or None)
        every = {split.day: ListedSplit(found.exchange, found.symbol, split, "fks data splits") for split in new}
        async with db.transaction() as tx:  # all that was asked for, or nothing
            store = CorporateActionStore(tx)
            for day in gone:
                if not await store.remove(found.exchange, found.symbol, day):
                    raise InputError(f"no split of {found.symbol} is known on {day}", remedy="see 'fks data splits'")
            await store.put(list(every.values()))
            return await store.listed(found.exchange, found.symbol)

    return _shown(with_store(ctx, work))


@click.command("import-events")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--exchange", default="", help="Of this exchange, where the file does not say it.")
@result("fks.data.splits/1", empty="no split is known")
def import_events(ctx: click.Context, file: Path, exchange: str) -> Any:
    """Import splits from a csv FILE with the columns symbol, day and ratio: all of them, or none.

    Further columns that are read: exchange, source, and kind, which may be split. A symbol has to be stored, or its
    exchange be named. A split that is known already is replaced.
    """
    rows = list(_rows(file, exchange))

    async def work(db: Database) -> list[ListedSplit]:
        from dataclasses import replace

        from fks.store.corporate_actions import CorporateActionStore
        from fks.store.reading import ReadingStore

        reading = ReadingStore(db)
        found = []
        for row in rows:
            stored = await reading.spelled_at(row.exchange, row.symbol) if row.exchange else []
            if stored or not row.exchange:
                listed = stored[0] if stored else await reading.find(row.symbol)
                row = replace(row, exchange=listed.exchange, symbol=listed.symbol)
            found.append(row)
        every = {(row.exchange, row.symbol, row.split.day): row for row in found}
        await CorporateActionStore(db).put(list(every.values()))
        return list(every.values())

    return _shown(with_store(ctx, work))


def _rows(file: Path, exchange: str) -> Iterator[ListedSplit]:
    """Yield the splits of a file. Errors: InputError naming the row."""
    from fks.bars.splits import split_day
    from fks.store.corporate_actions import ListedSplit

    for where, values in csv_rows(file, _COLUMNS, _OTHERS):
        if values["kind"] not in ("", "split"):
            raise InputError(f"{where}: {values['kind']} is no kind of event that is read; 'split' is")
        if not values["symbol"]:
            raise InputError(f"{where}: it names no symbol")
        try:
            split = split_day(values["day"], values["ratio"])
        except InputError as error:
            raise InputError(f"{where}: {error.message}", code=error.code, remedy=error.remedy) from error
        place = values["exchange"] or exchange
        yield ListedSplit(place.lower(), values["symbol"], split, values["source"] or file.name)


def _shown(rows: list[ListedSplit]) -> list[dict[str, Any]]:
    return [
        {
            "symbol": row.symbol,
            "exchange": row.exchange,
            "day": row.split.day.isoformat(),
            "ratio": row.split.ratio,
            "source": row.source,
        }
        for row in rows
    ]
