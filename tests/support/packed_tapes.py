"""Writer of packed tapes of bars, the form that `fks.model.tape.unpack_tape` reads."""

from __future__ import annotations

import json
import lzma

import numpy as np

from fks.model.bar import Ints
from fks.model.tape import MAGIC, Tape
from fks.model.timeframe import NS, TIMEFRAMES


def _plane(values: Ints) -> bytes:
    zigzag = ((values << 1) ^ (values >> 63)).astype("<u8")
    return zigzag.view(np.uint8).reshape(-1, 8).T.tobytes()


def pack_tape(tape: Tape) -> bytes:
    """Return the packed bytes of a tape."""
    before = np.concatenate([np.zeros(1, np.int64), tape.close[:-1]])
    step_ns = TIMEFRAMES[tape.timeframe] * NS
    steps = np.diff(tape.time_ns, prepend=tape.time_ns[:1] - step_ns) // step_ns
    columns = (
        tape.open - before,
        tape.high - np.maximum(tape.open, tape.close),
        np.minimum(tape.open, tape.close) - tape.low,
        tape.close - tape.open,
        tape.volume,
        steps,
    )
    header = {
        "form": MAGIC,
        "exchange": tape.exchange,
        "symbol": tape.symbol,
        "timeframe": tape.timeframe,
        "price_places": tape.price_places,
        "volume_places": tape.volume_places,
        "rows": len(tape),
        "first_ns": int(tape.time_ns[0]),
        "source": tape.source,
        "licence": tape.licence,
    }
    body = lzma.compress(b"".join(_plane(column) for column in columns), preset=9)
    return json.dumps(header).encode() + b"\n" + body
