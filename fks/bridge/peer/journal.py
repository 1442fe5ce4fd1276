"""The journal of the bridge: one file of JSON lines, so that a killed process goes on with the same epoch.

The first record names the epoch; `intent` is a signal before its Submit; any other record holds what one turn changed.
A line that a kill cut off is dropped at the next start.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class EpochJournal:
    """The records of one epoch. Guarantees: after `append` a record survives a kill of the process. Errors: OSError."""

    def __init__(self, folder: Path, new_epoch: Callable[[], str]) -> None:
        """Load `folder`/journal.log, or begin an epoch."""
        self._path = folder / "journal.log"
        data = self._path.read_bytes() if self._path.exists() else b""
        *lines, rest = data.split(b"\n")
        if rest:
            os.truncate(self._path, len(data) - len(rest))
        self.records: list[Record] = [json.loads(line, object_hook=_decode_decimal) for line in lines]
        if not self.records:
            self.records.append({"epoch": new_epoch()})
            self.append(self.records[0])
        self.epoch = str(self.records.pop(0)["epoch"])

    def append(self, record: Record) -> None:
        with self._path.open("ab") as file:
            file.write(json.dumps(record, separators=(",", ":"), default=_encode_decimal).encode() + b"\n")


def _encode_decimal(value: object) -> dict[str, str]:
    if isinstance(value, Decimal):
        return {"$": str(value)}
    raise TypeError(f"{value!r} is no journal value")


def _decode_decimal(found: dict[str, Any]) -> Any:
    return Decimal(found["$"]) if found.keys() == {"$"} else found
