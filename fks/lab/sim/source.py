"""Source of a market's minutes: rows of bars in ticks and lots, numbered, with the trade count before each."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

import numpy as np

from fks.lab.sim.symbols import Listing
from fks.model.bar import Ints


@dataclass(frozen=True, slots=True)
class Rows:
    """Columns of consecutive rows. `time_ms` is the open time; prices in ticks, `volume` in lots.

    `count` is the number of trades in the row, `first` the number of the market's trades before it.
    """

    time_ms: Ints
    open: Ints
    high: Ints
    low: Ints
    close: Ints
    volume: Ints
    count: Ints
    first: Ints

    def __len__(self) -> int:
        return int(self.time_ms.shape[0])

    def part(self, start: int, stop: int) -> Rows:
        """Return some rows as views."""
        cut = slice(start, stop)
        return Rows(
            self.time_ms[cut],
            self.open[cut],
            self.high[cut],
            self.low[cut],
            self.close[cut],
            self.volume[cut],
            self.count[cut],
            self.first[cut],
        )


def join_rows(parts: list[Rows]) -> Rows:
    """Return the rows of several parts after one another."""
    if len(parts) == 1:
        return parts[0]
    return Rows(*(np.concatenate([getattr(p, name) for p in parts]) for name in Rows.__dataclass_fields__))


class Source(Protocol):
    """Rows numbered from `row_first` (the first that history shows) to `row_end` (exclusive; None: never ends)."""

    @property
    def listing(self) -> Listing: ...
    @property
    def unit_ms(self) -> int: ...
    @property
    def row_first(self) -> int: ...
    @property
    def row_end(self) -> int | None: ...
    def rows(self, start: int, stop: int) -> Rows: ...
    def row_at(self, time_ms: int) -> int:
        """Return the last row that opens at or before `time_ms` (may be below `row_first`)."""
        ...

    def row_of(self, trade: int) -> int:
        """Return the row that holds the market's trade number `trade`."""
        ...


def dice(seed: int, symbol: str, purpose: str, number: int) -> np.random.Generator:
    """Return random numbers that depend on these four only: the same in every process, in any order of calls."""
    digest = blake2b(f"{seed}:{symbol}:{purpose}".encode(), digest_size=8).digest()
    key = np.array([int.from_bytes(digest, "little"), number & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))
