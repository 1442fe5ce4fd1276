"""`fks data features | import-features`: own columns of strategies, each value with the moment it became known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fks.interfaces.cli.base import result
from fks.interfaces.cli.data.store import csv_rows, with_store
from fks.model.errors import InputError, invalid
from fks.model.timeframe import iso, to_ns

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fks.store.db import Database
    from fks.store.feature_values import FeatureValue

_COLUMNS = ("time", "known_at", "value")
_OTHERS = ("feature", "symbol", "source", "knowledge")


@click.command()
@click.argument("name", required=False)
@click.option("--symbol", help="With --remove: only the values of this symbol.")
@click.option("--remove", "is_removed", is_flag=True, help="Delete the column NAME for good.")
@result(
    "fks.data.features/1",
    empty=lambda name, is_removed, **_: f"column {name} is removed" if is_removed else "no column is stored",
)
def features(ctx: click.Context, name: str | None, symbol: str | None, is_removed: bool) -> Any:
    """Show the columns that strategies can read beside bars, all or NAME, with their stored rows.

    docs/write-a-strategy.md shows how a strategy reads one.
    """
    if is_removed and name is None:
        raise InputError("--remove needs the name of a column", remedy="fks data features NAME --remove")

    async def work(db: Database) -> list[Mapping[str, Any]]:
        from fks.store.feature_values import FeatureStore

        store = FeatureStore(db)
        if is_removed and name is not None and not await store.remove(name, symbol):
            raise invalid("FEATURE_UNKNOWN", f"there is no column {name}", "see 'fks data features'")
        return await store.list(name)

    return [
        {
            "feature": row["feature"],
            "symbol": row["symbol"] or None,
            "rows": row["rows"],
            "oldest": iso(to_ns(row["oldest"])),
            "newest": iso(to_ns(row["newest"])),
            "known_at": iso(to_ns(row["known_at"])),
            "source": row["source"],
        }
        for row in with_store(ctx, work)
    ]


@click.command("import-features")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--feature", default="", help="Name of the column, where the file has no column `feature`.")
@click.option("--symbol", default="", help="Of this symbol, where the file does not say it; none: of every symbol.")
@click.option("--knowledge", default="", help="Up to when the language model that made the values knows the world.")
@result("fks.data.import_features/1", lambda done, **_: f"{done['rows']:,} rows read, {done['new']:,} are new")
def import_features(ctx: click.Context, file: Path, feature: str, symbol: str, knowledge: str) -> Any:
    """Import values of own columns from a csv FILE with time, known_at and value: all rows, or none.

    `time` is the time that a value is of, `known_at` the moment from which on it could be read, both ISO 8601, UTC
    without a zone. An empty value takes the one before away. Further columns that are read: feature, symbol, source,
    knowledge (values of a time before it, and backtests that begin before it, are refused). A row that is stored
    already is left; one with another value is refused: a known value is never changed.
    """
    values = list(_values(file, feature, symbol, knowledge))

    async def work(db: Database) -> int:
        from fks.store.feature_values import add_features

        return await add_features(db, values)

    return {"rows": len(values), "new": with_store(ctx, work)}


def _values(file: Path, feature: str, symbol: str, knowledge: str) -> Iterator[FeatureValue]:
    """Yield the values of a file. Errors: InputError naming the row."""
    from fks.data.frames import moment_ns
    from fks.store.feature_values import FeatureValue

    for where, row in csv_rows(file, _COLUMNS, _OTHERS):
        try:
            time_ns, known_ns = (moment_ns(row[name], name) for name in ("time", "known_at"))
            known_to_ns = moment_ns(row["knowledge"] or knowledge or None, "knowledge")
            value = float(row["value"] or "nan")
        except InputError as error:
            raise invalid(error.code, f"{where}: {error.message}", error.remedy) from error
        except ValueError:
            raise invalid("FILE_WRONG", f"{where}: {row['value']!r} is no number") from None
        assert time_ns is not None
        assert known_ns is not None
        name = row["feature"] or feature
        if not name:
            raise InputError(f"{where}: it names no column", remedy="add a column `feature`, or say --feature NAME")
        of, source = row["symbol"] or symbol, row["source"] or file.name
        yield FeatureValue(name, of, time_ns, known_ns, value, source, known_to_ns)
