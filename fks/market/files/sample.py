"""The shipped sample: three real months of minute bars and the larger bars built from them, loaded into the store."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources

from fks.config.settings import Data
from fks.market.bars.aggregate import aggregate_bars, length_of
from fks.model.bar import Bars
from fks.model.tape import Tape, unpack_tape
from fks.model.timeframe import TIMEFRAMES, to_datetime
from fks.store.bars import BarStore
from fks.store.db import Database
from fks.store.partitions import ensure_partitions

SAMPLE = "BTCUSDT-1m.fksbars"
_PIECE = 20_000  # rows of one transaction: small enough to show progress, large enough to be fast

Progress = Callable[[int, int], None]


def sample_tape() -> Tape:
    """Return the shipped tape, with its source and licence."""
    return unpack_tape((resources.files("fks.market.files") / "sample_data" / SAMPLE).read_bytes())


def larger(timeframe: str) -> list[str]:
    """Return the timeframes of a fresh system that can be built from `timeframe`, smallest first; a backtest makes the
    others."""
    step = TIMEFRAMES[timeframe]
    return [name for name in Data().timeframes if length_of(name) > step and length_of(name) % step == 0]


async def load_tape(db: Database, tape: Tape, progress: Progress | None = None) -> dict[str, tuple[int, int]]:
    """Store a tape's bars and all complete larger bars; return timeframe -> (rows, of them new or changed).

    Guarantees: twice equals once. `progress` is called with (rows done, rows in all).
    """
    base = tape.bars()
    series = [base, *(aggregate_bars(base, name) for name in larger(tape.timeframe))]
    total, done = sum(len(bars) for bars in series), 0
    last = to_datetime(int(base.time_ns[-1]))
    await ensure_partitions(db, last, since=to_datetime(int(base.time_ns[0])))
    store, loaded = BarStore(db), {}
    for bars in series:
        changed = 0
        for piece in _pieces(bars):
            changed += (await store.merge(piece, exchange=tape.exchange, source="sample")).written
            done += len(piece)
            if progress is not None:
                progress(done, total)
        loaded[bars.timeframe] = (len(bars), changed)
    return loaded


def _pieces(bars: Bars) -> list[Bars]:
    return [bars[start : start + _PIECE] for start in range(0, len(bars), _PIECE)]
