"""What the data commands share: the store for a moment, an exchange, the words that name series, and a progress bar."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fks.cli.base import emit, paths_of, settings_of, table
from fks.model.errors import InputError, OutageError
from fks.model.instrument import folded

if TYPE_CHECKING:
    from fks.config.endpoints import Node
    from fks.config.settings import Settings
    from fks.model.ports import Exchange
    from fks.store.db import Database

T = TypeVar("T")
Told = Callable[[int, int], None]
STATEMENT_S = 300.0  # somebody who asks for all there is waits longer than a live part may
LINE_S = 10.0  # between two lines of progress where there is no terminal
PACE_S = 30.0  # how far back the rate looks


def with_store(ctx: click.Context, work: Callable[[Database], Awaitable[T]], *, create: bool = False) -> T:
    """Run `work` on the store: the running one, or the embedded one for a moment; `create` makes and migrates it."""
    from fks.cli.store import opened_store
    from fks.store import migrate
    from fks.store.db import Database

    async def run(url: str, settings: Any) -> T:
        if create:
            await migrate.upgrade(url)
        elif await migrate.current(url) is None:
            raise InputError("the store is empty", code="NO_DATA", remedy="run 'fks data sample', or 'fks up' once")
        db = await Database.connect(url, settings, application="data")
        try:
            return await work(db)
        finally:
            await db.close()

    with opened_store(ctx, create=create) as (url, settings, _):
        return asyncio.run(run(url, settings.database.model_copy(update={"statement_timeout_s": STATEMENT_S})))


def node_of(ctx: click.Context) -> Node | None:
    """Return the endpoints of the running node; None when FKS does not run: history of a real exchange needs none."""
    from fks.config.endpoints import load_node

    try:
        return load_node(paths_of(ctx))
    except OutageError:
        return None


@contextlib.asynccontextmanager
async def exchange_of(ctx: click.Context, name: str) -> AsyncIterator[Exchange]:
    """Give the exchange `name` (empty: the one of the settings), opened."""
    from fks.clock import RealClock
    from fks.history.limited_exchange import opened_exchange
    from fks.history.sync import QuietLog

    settings = settings_of(ctx)
    async with opened_exchange(
        name or settings.data.exchange, settings, node_of(ctx), QuietLog(), RealClock()
    ) as exchange:
        yield exchange


def read_words(words: Sequence[str], settings: Settings) -> tuple[list[str], list[str]]:
    """Return (symbols, timeframes) of words in any order; MAINS and ALTS stand for the lists of the settings.

    Errors: InputError when a word looks like a timeframe and is none.
    """
    from fks.model.timeframe import TIMEFRAMES, check_timeframe

    symbols: list[str] = []
    timeframes: list[str] = []
    for word in words:
        if word in TIMEFRAMES or (word[:1].isdigit() and len(word) <= 4):
            timeframes.append(check_timeframe(word))
        elif word.upper() in ("MAINS", "ALTS"):
            symbols += settings.data.mains if word.upper() == "MAINS" else settings.data.alts
        else:
            symbols.append(word)
    return list(dict.fromkeys(symbols)), list(dict.fromkeys(timeframes))


def is_symbol(text: str | None, stored: str, exchange: str) -> bool:
    """Return whether `text` (None: anything; `kraken:BTC/USD` there alone) means what is stored of an exchange."""
    at, _, symbol = (text or "").rpartition(":")
    return text is None or (folded(symbol) == folded(stored) and at.lower() in ("", exchange))


def ensure_some(found: Sequence[object], *named: str | None) -> None:
    """Refuse names of which nothing is stored: "nothing is missing" of a symbol misspelt would be a lie. Errors:
    InputError."""
    words = " ".join(name for name in named if name)
    if words and not found:
        raise InputError(f"nothing is stored of {words}", code="NO_DATA", remedy="see 'fks data status'")


def show(rows: Sequence[dict[str, Any]], as_json: bool, schema: str, empty: str) -> None:
    """Print mappings as JSON, or as a table whose headers are their keys."""
    emit(list(rows), as_json=as_json, schema=schema)
    if not as_json:
        headers = [name.upper().replace("_", " ") for name in rows[0]] if rows else []
        table((list(row.values()) for row in rows), headers, empty=empty)


@contextlib.contextmanager
def progress(label: str, *, is_shown: bool, what: str = "bars") -> Iterator[Told]:
    """Give a function (done, all) that shows progress, rate and time left on stderr: a bar, or lines without a
    terminal."""
    if not is_shown:
        yield lambda done, total: None
    elif sys.stderr.isatty():
        yield from _drawn(label, what)
    else:
        yield _Lines(label, what)


def _drawn(label: str, what: str) -> Iterator[Told]:
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

        def told(done: int, total: int) -> None:
            drawn.update(task, completed=done, total=total, rate=f"{pace.rate(done, time.monotonic()):,.0f} {what}/s")

        yield told


class _Lines:
    """Progress as lines, one each LINE_S seconds."""

    def __init__(self, label: str, what: str) -> None:
        self._label, self._what = label, what
        self._said_s = time.monotonic()
        self._pace = Pace(self._said_s)

    def __call__(self, done: int, total: int) -> None:
        now_s = time.monotonic()
        rate = self._pace.rate(done, now_s)
        if now_s - self._said_s < LINE_S:
            return
        self._said_s = now_s
        share = 100 * done // max(total, 1)
        left = lasting((total - done) / rate) if rate else "nobody knows how long"
        click.echo(f"{self._label}: {share} %, {rate:,.0f} {self._what}/s, {left} left", err=True)


class Pace:
    """How fast something goes: over the last PACE_S seconds, as what lies ahead is more like them than like the
    beginning."""

    def __init__(self, now_s: float) -> None:
        self._seen = deque([(now_s, 0)])

    def rate(self, done: int, now_s: float) -> float:
        """Note that `done` are done now; return how many that is a second."""
        self._seen.append((now_s, done))
        while len(self._seen) > 2 and self._seen[1][0] <= now_s - PACE_S:
            self._seen.popleft()
        then_s, before = self._seen[0]
        return (done - before) / max(now_s - then_s, 1e-3)


def lasting(seconds: float) -> str:
    """Return a length of time in words a person reads at a glance: 45 s, 12 min, 3 h 20 min, 9 d 4 h."""
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
