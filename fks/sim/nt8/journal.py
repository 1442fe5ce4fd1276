"""The bridge's journal: one line per record, `crc32 SP json LF`.

The intent of an entry is synced before its Submit. What closes or protects a position is done first and recorded at the
end of the turn. What the disk refuses stays in memory, in its order, and is written when the disk takes it again.

Records (key `r`): `epoch`, `intent`, `submitted`, `nack`, `leg`, `recovered`, `event`, `exec_seen`, `halt`, `highest`,
`acked`; in a compacted file also `state`, the newest state of a signal, and `event_kept`. A bad last line is cut off at the
start. A bad line elsewhere means that the memory of known ids has a hole: the file is kept, and a new epoch begins.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any

from fks.sim.nt8.disk import Disk

Record = dict[str, Any]
EVENTS_MAX = 100_000  # events kept for a client that never acknowledges
_SIZE_MAX = 64 << 20
_RETRY_MS_MIN, _RETRY_MS_MAX = 500, 8_000  # between two attempts to write after a failure


class CorruptJournalError(Exception):
    """A line before the last is damaged."""


class JournalWriteError(Exception):
    """The journal cannot be opened: the bridge does not start."""


class Journal:
    """Appends records of one epoch. `error` says why the last write failed; it is empty while the disk takes writes."""

    def __init__(self, disk: Disk, new_epoch: Callable[[], str]) -> None:
        """Load the newest journal of `disk`, or begin an epoch. Errors: JournalWriteError."""
        self._disk = disk
        self.epoch = ""
        self.is_new = False
        self.records: list[Record] = []
        self.error = ""
        self._pending: list[bytes] = []  # lines that are not synced
        self._size = 0  # of what is synced
        self._retry_ms, self._retry_at_ms = _RETRY_MS_MIN, 0
        try:
            self._load()
            if not self.epoch:
                self._begin(new_epoch())
        except OSError as error:
            raise JournalWriteError(f"journal not writable: {error}") from error

    @property
    def name(self) -> str:
        return f"journal-{self.epoch}.log"

    @property
    def is_large(self) -> bool:
        """Return whether the file has reached its cap: the owner writes it anew with `compact`."""
        return self._size > _SIZE_MAX

    def append(self, record: Record) -> None:
        """Add a record; it survives a crash after `sync`."""
        line = encode_line(record)
        self._pending.append(line)
        if not self.error:
            try:
                self._disk.append(self.name, line)
            except OSError as error:
                self._fail(error, 0)

    def sync(self, now_ms: int) -> bool:
        """Return whether every record is on the disk. After a failure a later call tries again, after a longer wait."""
        if self.error and self._retry_at_ms - _RETRY_MS_MAX <= now_ms < self._retry_at_ms:
            return False
        try:
            if self.error:
                self._disk.cut(self.name, self._size)
                for line in self._pending:
                    self._disk.append(self.name, line)
            if self._pending:
                self._disk.sync(self.name)
        except OSError as error:
            self._fail(error, now_ms)
            return False
        self._size += sum(map(len, self._pending))
        self._pending.clear()
        self.error, self._retry_ms = "", _RETRY_MS_MIN
        return True

    def commit(self, record: Record, now_ms: int) -> bool:
        """Add a record and sync; one that the disk refuses is forgotten, and False returned."""
        self.append(record)
        if self.sync(now_ms):
            return True
        self._pending.pop()
        return False

    def compact(self, records: Iterable[Record]) -> None:
        """Replace the file's content with `records`, which hold everything that still matters. Errors: OSError."""
        data = b"".join([encode_line({"r": "epoch", "epoch": self.epoch}), *map(encode_line, records)])
        self._disk.replace(self.name, data)
        self._size = len(data)
        self._pending.clear()

    def _fail(self, error: OSError, now_ms: int) -> None:
        self.error = f"journal not writable: {error}"
        self._retry_at_ms = now_ms + self._retry_ms
        self._retry_ms = min(2 * self._retry_ms, _RETRY_MS_MAX)

    def _load(self) -> None:
        names = [name for name in self._disk.names() if name.startswith("journal-") and name.endswith(".log")]
        for name in names:
            data = self._disk.read(name)
            try:
                records, kept = decode_lines(data)
            except CorruptJournalError:
                self._disk.replace(f"{name}.corrupt", data)
                self._disk.replace(name, b"")  # empty: no epoch; the damaged copy is kept beside it
                continue
            if not records or records[0].get("r") != "epoch":
                continue
            if kept < len(data):
                self._disk.replace(name, data[:kept])
            self.epoch, self.records, self._size = str(records[0]["epoch"]), records[1:], kept

    def _begin(self, epoch: str) -> None:
        self.epoch = epoch
        self.is_new = True
        line = encode_line({"r": "epoch", "epoch": epoch})
        self._disk.append(self.name, line)
        self._disk.sync(self.name)
        self._size = len(line)


def encode_line(record: Record) -> bytes:
    """Return the line of a record. Decimals are kept exactly, as `{"$": "4500.25"}`."""
    text = json.dumps(record, separators=(",", ":"), ensure_ascii=True, default=_encode_decimal).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def decode_lines(data: bytes) -> tuple[list[Record], int]:
    """Return the records of `data` and how many bytes they take; a bad last line is left out.

    Errors: CorruptJournalError when a line before the last is damaged.
    """
    records: list[Record] = []
    position = 0
    while position < len(data):
        end = data.find(b"\n", position)
        record = _decode_line(data[position:end]) if end >= 0 else None
        if record is None:
            if 0 <= end < len(data) - 1:
                raise CorruptJournalError(f"line at byte {position} is damaged")
            break
        records.append(record)
        position = end + 1
    return records, position


def _decode_line(line: bytes) -> Record | None:
    crc, _, text = line.partition(b" ")
    try:
        if len(crc) != 8 or int(crc, 16) != zlib.crc32(text):
            return None
        record = json.loads(text, object_hook=_decode_decimal)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _encode_decimal(value: object) -> dict[str, str]:
    if isinstance(value, Decimal):
        return {"$": str(value)}
    raise TypeError(f"{value!r} is no journal value")


def _decode_decimal(found: dict[str, Any]) -> Any:
    return Decimal(found["$"]) if found.keys() == {"$"} else found
