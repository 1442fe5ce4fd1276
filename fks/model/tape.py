"""The packed form of a bar tape (`*.fksbars`): one JSON header line, then xz over zig-zag deltas, byte planes apart.

Prices are whole ticks (10^-price_places), volumes whole 10^-volume_places, so unpacking returns the exact values.
The columns: open minus the previous close, high minus max(open, close), min(open, close) minus low, close minus
open, volume, and the step in bars since the row before (1 where nothing is missing). A month of minutes: ~0.3 MB.
"""

from __future__ import annotations

import json
import lzma
from dataclasses import dataclass

import numpy as np

from fks.model.bar import Bars, Ints
from fks.model.errors import invalid
from fks.model.timeframe import NS, TIMEFRAMES

MAGIC = "fksbars/1"


@dataclass(frozen=True, slots=True)
class Tape:
    """Bars in exact integers: `open`…`close` in ticks of 10^-price_places, `volume` in 10^-volume_places."""

    exchange: str
    symbol: str
    timeframe: str
    price_places: int
    volume_places: int
    source: str
    licence: str
    time_ns: Ints
    open: Ints
    high: Ints
    low: Ints
    close: Ints
    volume: Ints

    def __len__(self) -> int:
        return int(self.time_ns.shape[0])

    def bars(self) -> Bars:
        """Return float64 columns holding the shortest decimal of each value (integer / power of ten is exact so)."""
        price, volume = 10.0**self.price_places, 10.0**self.volume_places
        return Bars(
            self.symbol,
            self.timeframe,
            self.time_ns,
            self.open / price,
            self.high / price,
            self.low / price,
            self.close / price,
            self.volume / volume,
            exchange=self.exchange,
        )


def _unplane(raw: bytes, count: int) -> Ints:
    grid = np.frombuffer(raw, dtype=np.uint8).reshape(8, count).T
    zigzag = np.ascontiguousarray(grid).view("<u8").reshape(count)
    return ((zigzag >> np.uint64(1)) ^ (np.uint64(0) - (zigzag & np.uint64(1)))).astype(np.int64)


def unpack_tape(data: bytes) -> Tape:
    """Return the tape packed in `data`. Errors: InputError TAPE_BROKEN when it is not one."""
    try:
        head, _, body = data.partition(b"\n")
        header = json.loads(head)
        assert header["form"] == MAGIC
        count = int(header["rows"])
        raw = lzma.decompress(body)
        assert len(raw) == count * 8 * 6
    except (ValueError, KeyError, AssertionError, lzma.LZMAError) as error:
        raise invalid("TAPE_BROKEN", "the tape is not an fksbars/1 file or is damaged", "pack it again") from error
    planes = [_unplane(raw[i * count * 8 : (i + 1) * count * 8], count) for i in range(6)]
    gap, over, under, body_move, volume, steps = planes
    close = np.cumsum(gap + body_move)
    open_ = close - body_move
    time_ns = header["first_ns"] + (np.cumsum(steps) - steps[0]) * TIMEFRAMES[header["timeframe"]] * NS
    return Tape(
        header["exchange"],
        header["symbol"],
        header["timeframe"],
        header["price_places"],
        header["volume_places"],
        header["source"],
        header["licence"],
        time_ns,
        open_,
        np.maximum(open_, close) + over,
        np.minimum(open_, close) - under,
        close,
        volume,
    )
