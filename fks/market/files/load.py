"""Storing a file's bars: compared with the stored ones, then all of them in one transaction, or none."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fks.market.bars.aggregate import aggregate_bars
from fks.market.files.bars import FileBars
from fks.market.files.errors import file_error
from fks.market.files.sample import larger
from fks.model.bar import Bars, Ints
from fks.model.errors import OutageError, unprocessable
from fks.model.instrument import NO_RULES
from fks.model.timeframe import NS, TIMEFRAMES, bar_end, iso, to_datetime
from fks.store.bars import BarStore
from fks.store.db import Database
from fks.store.merging import Merged
from fks.store.partitions import ensure_months
from fks.store.quarantine import QuarantinedRow, QuarantineStore
from fks.store.reading import ReadingStore, ambiguous

HELD_MAX = 1000  # of one file; more suspect bars mean another market, or the wrong calendar
_ATTEMPTS = 3  # of an import that met another writer of its bars
_PRICES = ("open", "high", "low", "close", "volume")


@dataclass(frozen=True, slots=True)
class Imported:
    """Result of an import, or with `is_dry` its plan, per timeframe: the file's own first, then the larger ones.

    `differing` describes the first bar that differs from the stored one; "" when none does.
    """

    file: FileBars
    merged: dict[str, Merged]
    differing: str
    is_dry: bool


async def import_file(
    db: Database | None, file: FileBars, *, is_dry: bool = False, replaces: bool = False, with_larger: bool = False
) -> Imported:
    """Store a file's bars; `with_larger` also the larger bars, where no smaller one is missing.

    Guarantees: all or nothing, whatever dies meanwhile; twice equals once; stored bars that differ are only replaced
    when `replaces` says so, also when they come while it is stored; a calendar that a person gave, or that the bars
    show, is kept with the series. Without `db` there is nothing to compare with, and it is dry.
    Errors: InputError BARS_DIFFER, VOLUME_BARS, RULE_WRONG for rules of a listed symbol; OutageError.
    """
    if file.bars.end_ns is not None:
        raise unprocessable(
            "VOLUME_BARS",
            f"{file.bars.timeframe} bars are made of trades where they are used, and not stored",
            f"fks backtest run STRATEGY --tape {file.path.name} --timeframe {file.bars.timeframe}",
        )
    file = file if db is None else await _with_stored_symbol(db, file)
    series = [file.bars]
    if with_larger and TIMEFRAMES[file.bars.timeframe]:
        series += [_whole(file.bars, name) for name in larger(file.bars.timeframe)]
    if db is None:
        return Imported(file, {bars.timeframe: Merged(len(bars), 0, 0) for bars in series}, "", True)
    for _ in range(_ATTEMPTS):
        done = await _attempt(db, file, series, is_dry=is_dry, replaces=replaces)
        if done is not None:
            return done
    raise OutageError(f"import of {file.path.name}: other writers were faster {_ATTEMPTS} times")


async def _with_stored_symbol(db: Database, file: FileBars) -> FileBars:
    """Return `file` with the symbol that its exchange lists, or that its stored bars have, and a note about it."""
    symbol = file.bars.symbol
    found = await ReadingStore(db).spelled_at(file.exchange, symbol)
    listed = [row.symbol for row in found if row.is_listed]
    known = listed or [row.symbol for row in found]
    if listed and file.rules != NO_RULES:
        raise unprocessable(
            "RULE_WRONG",
            f"{file.exchange} lists {listed[0]} with rules of its own",
            "give --lot, --tick and --largest to a run",
        )
    if symbol in known or not known:
        return file
    if len(known) > 1:
        raise ambiguous(symbol, [f"{file.exchange}:{name}" for name in known])
    return replace(
        file,
        bars=replace(file.bars, symbol=known[0]),
        notes=(*file.notes, f"{symbol} is {known[0]} at {file.exchange}"),
    )


class _MetError(Exception):
    """Another writer changed bars of the file's range between comparison and merge: roll back and compare again."""


async def _attempt(
    db: Database, file: FileBars, series: list[Bars], *, is_dry: bool, replaces: bool
) -> Imported | None:
    """Compare, then store; None, with nothing stored, when the compared bars have changed."""
    store = BarStore(db)
    # first, so that later changes are detected
    stood = [await store.stand(bars, exchange=file.exchange) for bars in series]
    planned: dict[str, Merged] = {}
    differing = ""
    for bars in series:
        planned[bars.timeframe], difference = await _compared(store, bars, file.exchange)
        differing = differing or difference
    if is_dry:
        return Imported(file, planned, differing, True)
    if differing and not replaces:
        count = sum(merged.changed for merged in planned.values())
        raise file_error(
            file.path.name,
            f"{count} bar{'s' if count > 1 else ''} differ{'' if count > 1 else 's'} from what is stored: {differing}",
            remedy="nothing was stored; --replace takes the file's",
            code="BARS_DIFFER",
        )
    await ensure_months(db, to_datetime(int(file.bars.time_ns[0])), to_datetime(int(file.bars.time_ns[-1])))
    done: dict[str, Merged] = {}
    with contextlib.suppress(_MetError):
        async with db.transaction() as tx:
            for bars, (count, changes) in zip(series, stood, strict=True):
                trades = file.trades if bars is file.bars else None
                merged = done[bars.timeframe] = await store.merge(
                    bars, exchange=file.exchange, source="import", trades=trades, is_empty=_empty(bars, trades), tx=tx
                )
                after = (count + merged.inserted, changes + merged.changed)
                if not replaces and await store.stand(bars, exchange=file.exchange, tx=tx) != after:
                    raise _MetError
                if file.is_calendar_kept:
                    await store.keep_calendar(bars, file.calendar, exchange=file.exchange, tx=tx)
                await store.keep_rules(bars, file.rules, exchange=file.exchange, tx=tx)
            await QuarantineStore(tx).add(_held(file))
        return Imported(file, done, differing, False)
    return None


def _held(file: FileBars) -> list[QuarantinedRow]:
    """Return the suspect bars of a file for the quarantine: they are stored, and a person may check them."""
    return [
        QuarantinedRow.bar(file.bars.bar(fault.row, file.exchange), fault.reason.value, fault.detail, source="import")
        for fault in file.suspects[:HELD_MAX]
    ]


def _empty(bars: Bars, trades: Ints | None) -> npt.NDArray[np.bool_]:
    """Return the no-trade bars, as far as the file shows them: one without any volume does not."""
    is_known: npt.NDArray[np.bool_] = trades == 0 if trades is not None else np.full(len(bars), bool(bars.volume.any()))
    found: npt.NDArray[np.bool_] = is_known & (bars.high == bars.low) & (bars.volume == 0)
    return found


def _whole(bars: Bars, timeframe: str) -> Bars:
    """Return the larger bars of which no smaller one is missing: a bar built over a gap would not show it."""
    made = aggregate_bars(bars, timeframe)
    ends = np.array([bar_end(int(start), timeframe) for start in made.time_ns], np.int64)
    held = np.searchsorted(bars.time_ns, ends) - np.searchsorted(bars.time_ns, made.time_ns)
    keep = held * (TIMEFRAMES[bars.timeframe] * NS) == ends - made.time_ns
    columns = (made.open, made.high, made.low, made.close, made.volume)
    return Bars(made.symbol, timeframe, made.time_ns[keep], *(column[keep] for column in columns))


async def _compared(store: BarStore, bars: Bars, exchange: str) -> tuple[Merged, str]:
    """Return the effect of storing `bars`, and a description of the first stored bar that differs."""
    if not len(bars):
        return Merged(0, 0, 0), ""
    end_ns = bar_end(int(bars.time_ns[-1]), bars.timeframe)
    stored = await store.read(bars.symbol, bars.timeframe, int(bars.time_ns[0]), end_ns, exchange=exchange)
    _, mine, theirs = np.intersect1d(bars.time_ns, stored.time_ns, assume_unique=True, return_indices=True)
    differs = np.zeros(len(mine), np.bool_)
    for name in _PRICES:
        differs |= getattr(bars, name)[mine] != getattr(stored, name)[theirs]
    changed = int(differs.sum())
    merged = Merged(len(bars) - len(mine), changed, len(mine) - changed)
    if not changed:
        return merged, ""
    where = int(np.flatnonzero(differs)[0])
    new, old = bars.bar(int(mine[where])), stored.bar(int(theirs[where]))
    name = next(name for name in _PRICES if getattr(new, name) != getattr(old, name))
    text = f"{bars.timeframe} {iso(new.time_ns)} {name} is {getattr(new, name)!r} here and {getattr(old, name)!r} there"
    return merged, text
