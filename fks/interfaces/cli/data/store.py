"""Shared parts of the data commands: opening the store and an exchange, parsing of series, progress display."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fks.interfaces.cli.base import emit, named, paths_of, settings_of, table
from fks.model.errors import OutageError, invalid
from fks.model.instrument import folded

if TYPE_CHECKING:
    from pathlib import Path

    from fks.config.endpoints import NodeEndpoints
    from fks.config.settings import Settings
    from fks.model.ports import Exchange
    from fks.store.db import Database

T = TypeVar("T")
Report = Callable[[int, int], None]
STATEMENT_S = 300.0  # a request for everything may take longer than a statement of a live process
LINE_S = 10.0  # between two lines of progress without a terminal
PACE_S = 30.0  # of the average rate


def with_store(ctx: click.Context, work: Callable[[Database], Awaitable[T]], *, create: bool = False) -> T:
    """Run `work` on the store: the running one, or the embedded one, started for this call; `create` makes and migrates
    it."""
    from fks.interfaces.cli.store import on_database, opened_store
    from fks.store import migrate

    async def run(url: str, settings: Any) -> T:
        if create:
            await migrate.upgrade(url)
        elif await migrate.usable(url) is None:
            raise invalid("NO_DATA", "the store is empty", "run 'fks data sample', or 'fks up' once")
        return await on_database(url, work, settings, application="data")

    with opened_store(ctx, create=create) as (url, settings, _):
        return asyncio.run(run(url, settings.database.model_copy(update={"statement_timeout_s": STATEMENT_S})))


def csv_rows(
    file: Path, columns: Sequence[str] | Callable[[Sequence[str]], Sequence[str]], others: Sequence[str]
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (place in words, cells by name) of each row of a csv file with a header that has `columns`, and may have
    `others`. Columns that depend on the header are a function of it. Errors: InputError FILE_WRONG."""
    import csv

    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            names = [name.strip().lower() for name in reader.fieldnames or ()]
            columns = columns(names) if callable(columns) else columns
            missing = [name for name in columns if name not in names]
            if missing:
                raise invalid(
                    "FILE_WRONG",
                    f"{file.name} row 1: there is no column {', '.join(missing)}",
                    f"write a header with {', '.join(columns)}, and if you like {', '.join(others)}",
                )
            reader.fieldnames = names
            for row in reader:
                cells = {name: (row.get(name) or "").strip() for name in (*columns, *others)}
                yield f"{file.name} row {reader.line_num}", cells
    except (UnicodeDecodeError, csv.Error) as error:
        raise invalid("FILE_WRONG", f"{file.name} is no csv file in UTF-8: {error}", "save it as csv, UTF-8") from error


def node_of(ctx: click.Context) -> NodeEndpoints | None:
    """Return the endpoints of the running node; None when FKS does not run: history of a real exchange needs none."""
    from fks.config.endpoints import load_node

    try:
        return load_node(paths_of(ctx))
    except OutageError:
        return None


@contextlib.asynccontextmanager
async def exchange_of(ctx: click.Context, name: str) -> AsyncIterator[Exchange]:
    """Yield the exchange `name` (empty: the one of the settings), opened."""
    from fks.clock import RealClock
    from fks.market.history.limited_exchange import opened_exchange
    from fks.market.history.sync import QuietLog

    settings = settings_of(ctx)
    async with opened_exchange(
        name or settings.data.exchange, settings, node_of(ctx), QuietLog(), RealClock()
    ) as exchange:
        yield exchange


def parse_series(arguments: Sequence[str], settings: Settings) -> tuple[list[str], list[str]]:
    """Return (symbols, timeframes) of arguments in any order; MAINS and ALTS are the lists of the settings.

    Errors: InputError when an argument looks like a timeframe and is none.
    """
    from fks.model.timeframe import TIMEFRAMES, check_timeframe

    symbols: list[str] = []
    timeframes: list[str] = []
    for text in arguments:
        if text in TIMEFRAMES or (text[:1].isdigit() and len(text) <= 4):
            timeframes.append(check_timeframe(text))
        elif text.upper() in ("MAINS", "ALTS"):
            symbols += settings.data.mains if text.upper() == "MAINS" else settings.data.alts
        else:
            symbols.append(text)
    return list(dict.fromkeys(symbols)), list(dict.fromkeys(timeframes))


def is_symbol(text: str | None, stored: str, exchange: str) -> bool:
    """Return whether `text` names a stored symbol of an exchange (None: any; `kraken:BTC/USD`: only of kraken)."""
    at, _, symbol = (text or "").rpartition(":")
    return text is None or (folded(symbol) == folded(stored) and at.lower() in ("", exchange))


def ensure_some(found: Sequence[object], *named: str | None) -> None:
    """Refuse names without stored series: "nothing is missing" would be wrong for a misspelt symbol. Errors:
    InputError."""
    given = " ".join(name for name in named if name)
    if given and not found:
        raise invalid("NO_DATA", f"nothing is stored of {given}", "see 'fks data status'")


def show(rows: Sequence[dict[str, Any]], as_json: bool, schema: str, empty: str) -> None:
    """Print mappings as JSON, or as a table whose headers are their keys."""
    emit(list(rows), as_json=as_json, schema=schema)
    if not as_json:
        table(rows, named(*rows[0]) if rows else {}, empty=empty)


@contextlib.contextmanager
def progress(label: str, *, is_shown: bool, what: str = "bars") -> Iterator[Report]:
    """Yield a function (done, all) that shows progress, rate and time left on stderr: a bar, or lines without a
    terminal."""
    if not is_shown:
        yield lambda done, total: None
    elif sys.stderr.isatty():
        yield from _drawn(label, what)
    else:
        yield _Lines(label, what)


def _drawn(label: str, what: str) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
    )
    pace = Pace(time.monotonic())
    with Progress(*columns, console=Console(stderr=True), transient=True) as drawn:
        task = drawn.add_task(label, total=None, rate="")

        def report(done: int, total: int) -> None:
            drawn.update(task, completed=done, total=total, rate=f"{pace.rate(done, time.monotonic()):,.0f} {what}/s")

        yield report


class _Lines:
    """Progress as lines, one each LINE_S seconds."""

    def __init__(self, label: str, what: str) -> None:
        self._label, self._what = label, what
        self._printed_s = time.monotonic()
        self._pace = Pace(self._printed_s)

    def __call__(self, done: int, total: int) -> None:
        now_s = time.monotonic()
        rate = self._pace.rate(done, now_s)
        if now_s - self._printed_s < LINE_S:
            return
        self._printed_s = now_s
        share = 100 * done // max(total, 1)
        left = lasting((total - done) / rate) if rate else "nobody knows how long"
        click.echo(f"{self._label}: {share} %, {rate:,.0f} {self._what}/s, {left} left", err=True)


class Pace:
    """Average rate over the last PACE_S seconds, which predict the rest better than the beginning does."""

    def __init__(self, now_s: float) -> None:
        self._seen = deque([(now_s, 0)])

    def rate(self, done: int, now_s: float) -> float:
        """Record that `done` are done now; return the rate per second."""
        self._seen.append((now_s, done))
        while len(self._seen) > 2 and self._seen[1][0] <= now_s - PACE_S:
            self._seen.popleft()
        then_s, before = self._seen[0]
        return (done - before) / max(now_s - then_s, 1e-3)


def lasting(seconds: float) -> str:
    """Return a length of time as short text: 45 s, 12 min, 3 h 20 min, 9 d 4 h."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"
