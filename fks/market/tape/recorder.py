"""Recorder of a collector's frames and answers: it never delays the collector, and writes in its own thread."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fks.clock import Clock
from fks.market.tape.records import RECORD, RecordKind, TapeRecord
from fks.market.tape.writer import TapeWriter
from fks.model.market import Subscription
from fks.model.ports import Log

WAITING_MAX = 64 << 20  # bytes that wait for the disk; beyond it frames are left out, counted and noted on the tape
BLOCK_BYTES = 256 << 10
_STANDING_MAX = 256  # connections named at the beginning of each file
BLOCK_S = 1.0  # at most this much is lost in a kill -9


@dataclass(slots=True)
class Counts:
    """Counts of a recorder. `lost`: frames that are not on the tape because the disk was too slow."""

    frames: int = 0
    bytes: int = 0
    lost: int = 0


class Recorder:
    """Keeps records in memory until its thread has written them. Any thread may record; `close` once.

    Guarantees: recording never waits for the disk and never raises; frames that are not on the tape are counted, logged
    (`tape.behind`, `tape.failed`) and, when the disk was only slow, noted on the tape. After `close` all others are.
    """

    def __init__(self, writer: TapeWriter, clock: Clock, log: Log, *, waiting_max: int = WAITING_MAX) -> None:
        self._writer, self._clock, self._log, self._waiting_max = writer, clock, log, waiting_max
        self.counts = Counts()
        self.error = ""
        self._parts: list[bytes] = []
        self._records = self._size = self._left_out = self._left_out_bytes = 0
        self._first_ns = self._last_ns = 0
        self._connections = itertools.count(1)
        self._standing: dict[int, bytes] = {}
        self._lock, self._write_lock = threading.Lock(), threading.Lock()
        self._wake = threading.Event()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="tape", daemon=True)
        self._thread.start()

    @property
    def files(self) -> list[Path]:
        """Return the existing files of this recorder, including the open one."""
        return [path for path in self._writer.files if path.exists()]

    @property
    def size(self) -> int:
        """Return their bytes on disk."""
        return sum(path.stat().st_size for path in self.files)

    def begin(self) -> None:
        """Create the first file now, and not with the first record. Errors: OSError."""
        with self._write_lock:
            self._writer.begin(self._clock.now_ns())

    def opened(self, url: str, wanted: Sequence[Subscription]) -> int:
        """Record a new connection; return its number."""
        number = next(self._connections)
        data = msgspec.json.encode({"url": url, "wanted": [[s.channel, s.symbol, s.timeframe] for s in wanted]})
        with self._lock:
            # the connection was opened again
            self._standing = {known: text for known, text in self._standing.items() if text != data}
            self._standing[number] = data
            if len(self._standing) > _STANDING_MAX:
                del self._standing[next(iter(self._standing))]
        self._keep(RecordKind.OPEN, number, self._clock.now_ns(), data)
        return number

    def frame(self, connection: int, received_ns: int, data: bytes) -> None:
        """Record a message as received."""
        self.counts.frames += 1
        self.counts.bytes += len(data)
        self._keep(RecordKind.FRAME, connection, received_ns, data)

    def answer(self, kind: RecordKind, asked: Sequence[object], values: Sequence[object]) -> None:
        """Record a REST request and its answer: bars, trades or instruments."""
        self._keep(kind, 0, self._clock.now_ns(), msgspec.json.encode({"asked": asked, "told": values}))

    def close(self) -> None:
        """Write the waiting records and close the file. Returns when it is on disk, or failed."""
        self._is_closed = True
        self._wake.set()
        self._thread.join(timeout=30)

    def _keep(self, kind: RecordKind, connection: int, received_ns: int, data: bytes) -> None:
        if self.error:
            return
        head = RECORD.pack(kind, connection, received_ns, len(data))
        with self._lock:
            if self._size > self._waiting_max:
                self._left_out += 1
                self._left_out_bytes += len(data)
                self.counts.lost += 1
                return
            self._parts.append(head)
            self._parts.append(data)
            self._records += 1
            self._size += len(head) + len(data)
            self._first_ns, self._last_ns = self._first_ns or received_ns, received_ns
            is_full = self._size >= BLOCK_BYTES
        if is_full:
            self._wake.set()

    # ── the thread ───────────────────────────────────────────────────────────────────────────────
    def _run(self) -> None:
        try:
            while not self._is_closed:
                self._wake.wait(BLOCK_S)
                self._wake.clear()
                self.flush()
            self.flush()
            self._writer.close()
        except OSError as error:
            self.error = error.strerror or str(error)
            with self._lock:
                self._parts, self._size = [], 0
            self._log.error("tape.failed", path=str(self._writer.path or ""), error=self.error)

    def flush(self) -> None:
        """Write the waiting records as one block; the recorder's own thread does so every second. Errors: OSError."""
        with self._write_lock:
            self._write()

    def _write(self) -> None:
        with self._lock:
            parts, records, first_ns, last_ns = self._parts, self._records, self._first_ns, self._last_ns
            left_out, left_out_bytes = self._left_out, self._left_out_bytes
            self._parts, self._records, self._size, self._first_ns = [], 0, 0, 0
            self._left_out = self._left_out_bytes = 0
            standing = dict(self._standing)
        now_ns = self._clock.now_ns()
        if left_out:
            data = msgspec.json.encode({"frames": left_out, "bytes": left_out_bytes})
            parts.append(TapeRecord(RecordKind.LOST, 0, last_ns or now_ns, data).pack())
            records += 1
            self._log.warning("tape.behind", frames=left_out, bytes=left_out_bytes)
        if not records:
            return
        if self._writer.is_due(now_ns):
            self._writer.begin(now_ns)
            stand = [
                TapeRecord(RecordKind.STANDING, number, first_ns, data).pack() for number, data in standing.items()
            ]
            parts, records = stand + parts, records + len(stand)
        self._writer.write(parts, records, first_ns, last_ns)
