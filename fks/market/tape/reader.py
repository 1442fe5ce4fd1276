"""Reading of tape files: every block and the whole file is checked, gaps are reported, damage is refused."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from fks.market.tape.records import BLOCK, END, ENDING, HEAD, HEAD_CRC, MAGIC, RECORD, Header, RecordKind, TapeRecord
from fks.market.tape.writer import lock_shared
from fks.model.errors import InputError, invalid

_END_SIZE = len(END) + 32 + 8
_HEAD_SIZE = HEAD.size + HEAD_CRC.size
_HEADER_MAX = 64 << 10
_BLOCK_MAX = 256 << 20  # unpacked; a recorder's blocks are a thousandth of it
_ZEROS_MIN = 9  # a power loss leaves at least so many zeros in place of data; the end itself may close with eight

NO_BEGINNING = "has no beginning, so no records"
NO_END = "has no end: it was cut off or is still being written"
ZEROS = "has zeros in the place of its end: the power was lost"


@dataclass(frozen=True, slots=True)
class TapeFile:
    """Summary of one file. `is_whole`: it has its end, and its checksum is correct; else `cut` is the reason."""

    path: Path
    header: Header | None
    records: int
    frames: int
    lost: int
    first_ns: int
    last_ns: int
    size: int
    cut: str

    @property
    def is_whole(self) -> bool:
        return not self.cut


def tape_files(path: Path) -> list[Path]:
    """Return the files of a tape in order: `path` itself, or those in a folder. Errors: InputError TAPE_MISSING."""
    found = sorted(path.glob(f"*{ENDING}")) if path.is_dir() else [path] if path.is_file() else []
    if not found:
        raise invalid("TAPE_MISSING", f"there is no tape at {path}", f"a {ENDING} file, or a folder of them")
    return found


def read_header(path: Path) -> Header | None:
    """Return the first line of a file; None when it was not completely written. Errors: InputError TAPE_BROKEN."""
    with path.open("rb") as file:
        return _Reader(path, file).header


def header_of(paths: Sequence[Path]) -> Header:
    """Return the first header of the files.

    Errors: InputError TAPE_BROKEN, TAPE_EMPTY when none has one, TAPE_MIXED when the files are of several exchanges.
    """
    headers = [header for header in map(read_header, paths) if header is not None]
    names = sorted({header.exchange for header in headers})
    if len(names) > 1:
        raise invalid("TAPE_MIXED", f"these are tapes of {' and '.join(names)}", "play one exchange at a time")
    if not headers:
        raise invalid("TAPE_EMPTY", f"tape {paths[0].name} {NO_BEGINNING}", "take another tape")
    return headers[0]


def read_records(paths: Sequence[Path]) -> Iterator[TapeRecord]:
    """Yield the records of files in order, and a HOLE at every gap of the tape.

    Gaps are: a missing file, an incomplete one (valid up to there), one older than the file before it, and the
    beginning of another recording. Errors: InputError TAPE_BROKEN at a damaged block or a wrong checksum.
    """
    before: Header | None = None
    last_ns = 0
    for path in paths:
        try:
            file = path.open("rb")
        except FileNotFoundError:
            yield _hole(last_ns, "missing", f"{path.name} was removed meanwhile")
            continue
        with file:
            lock_shared(file)
            reader = _Reader(path, file)
            if reader.header is not None:
                for kind, text in _between(before, reader.header, path.name):
                    yield _hole(last_ns, kind, text)
                before = reader.header
            for record in reader.records():
                last_ns = record.received_ns
                yield record
            if reader.cut:
                yield _hole(last_ns, "not_whole", f"{path.name} {reader.cut}")


def check_file(path: Path) -> TapeFile:
    """Read a whole file and return its summary. Errors: InputError TAPE_BROKEN when a block or the checksum is
    wrong."""
    with path.open("rb") as file:
        reader = _Reader(path, file)
        records = frames = lost = first_ns = last_ns = 0
        for record in reader.records():
            records += 1
            frames += record.kind is RecordKind.FRAME
            if record.kind is RecordKind.LOST:
                lost += int(msgspec.json.decode(record.data)["frames"])
            first_ns, last_ns = first_ns or record.received_ns, record.received_ns
        return TapeFile(path, reader.header, records, frames, lost, first_ns, last_ns, path.stat().st_size, reader.cut)


def _between(before: Header | None, now: Header, name: str) -> Iterator[tuple[str, str]]:
    """Yield the gaps between two consecutive files: (kind, text)."""
    if before is None:
        return
    if before.run != now.run:
        yield "run", f"{name} begins another recording: what came between is not on the tape"
    elif now.number <= before.number:
        yield "order", f"{name}, number {now.number} of its recording, comes after number {before.number}"
    elif now.number > before.number + 1:
        gone = range(before.number + 1, now.number)
        yield (
            "missing",
            f"missing file{'s' if len(gone) > 1 else ''} {gone[0]}{f' to {gone[-1]}' if len(gone) > 1 else ''} before "
            f"{name}",
        )


def _hole(at_ns: int, kind: str, text: str) -> TapeRecord:
    return TapeRecord(RecordKind.HOLE, 0, at_ns, msgspec.json.encode({"kind": kind, "text": text}))


class _Form(msgspec.Struct):
    form: str


class _Reader:
    """One file from its beginning. After the last record, `cut` is the reason why it is incomplete, "" if it is not.
    Errors: InputError TAPE_BROKEN."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self.cut = ""
        self._blocks = self._count = 0
        line = file.readline(_HEADER_MAX)
        self._digest = hashlib.sha256(line)
        self._line_crc = zlib.crc32(line)
        self.header = self._header(line)
        if self.header is None:
            self.cut = NO_BEGINNING

    def _header(self, line: bytes) -> Header | None:
        written = line.rstrip(b"\0")
        is_partial = not written or (written.startswith(b"{") and not written.endswith(b"\n"))
        if is_partial and len(written) < _HEADER_MAX and not self._file.read().strip(b"\0"):
            return None
        try:
            form = msgspec.json.decode(line, type=_Form).form
            if form != MAGIC:
                raise invalid(
                    "TAPE_BROKEN",
                    f"tape {self._path.name}: is of the form {form}, which this version does not read",
                    "play it with the version that recorded it",
                )
            return msgspec.json.decode(line, type=Header)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._broken("does not begin as one") from error

    def records(self) -> Iterator[TapeRecord]:
        """Yield the records up to the end, or to where the file was cut."""
        while self.header is not None and (found := self._block()) is not None:
            block, count = found
            self._count += count
            at = 0
            for _ in range(count):
                try:
                    kind, connection, received_ns, length = RECORD.unpack_from(block, at)
                    record = TapeRecord(
                        RecordKind(kind), connection, received_ns, block[at + RECORD.size : at + RECORD.size + length]
                    )
                except (ValueError, struct.error) as error:
                    raise self._broken("a record is damaged") from error
                at += RECORD.size + length
                yield record
            if at != len(block):
                raise self._broken("a record is damaged")

    def _block(self) -> tuple[bytes, int] | None:
        """Return the next block and its number of records; None at the end, and where the file was cut."""
        begin = self._file.tell()
        mark = self._file.read(len(BLOCK))
        if mark == END:
            self._end(begin)
            return None
        head = mark + self._file.read(_HEAD_SIZE - len(BLOCK))
        if len(head) < _HEAD_SIZE and (BLOCK.startswith(mark) or END.startswith(mark)):
            self.cut = NO_END
            return None
        checked = head[: HEAD.size]
        is_whole = head[HEAD.size :] == HEAD_CRC.pack(zlib.crc32(checked, self._line_crc))
        if not is_whole or mark != BLOCK:
            self._damaged(begin, len(head))
            return None
        _, number, stored, length, count, crc, _, _ = HEAD.unpack(checked)
        if number != self._blocks + 1:
            raise self._broken(f"block {self._blocks + 1} is not at byte {begin}, block {number} is")
        packed = self._file.read(stored)
        if len(packed) < stored and packed[-_END_SIZE:].startswith(END):
            raise self._broken(f"block {number} at byte {begin} is damaged")  # it was closed, and lost bytes later
        if len(packed) < stored:
            self.cut = NO_END
            return None
        if zlib.crc32(packed) != crc:
            self._damaged(begin, len(head) + stored)
            return None
        self._blocks = number
        self._digest.update(head + packed)
        try:
            block = zlib.decompressobj().decompress(packed, min(length, _BLOCK_MAX) + 1)
        except zlib.error as error:
            raise self._broken(f"block {number} at byte {begin} is damaged") from error
        if len(block) != length:
            raise self._broken(f"block {number} at byte {begin} is damaged")
        return block, count

    def _end(self, begin: int) -> None:
        written = self._file.read(_END_SIZE - len(END))
        if len(written) < _END_SIZE - len(END):
            self.cut = NO_END
        elif self._file.read(1):
            raise self._broken("goes on after its end")
        elif written != self._digest.digest() + self._count.to_bytes(8, "little"):
            if not self._is_zeroed(begin, _END_SIZE):
                raise self._broken("its checksum does not agree with its content")
            self.cut = ZEROS

    def _damaged(self, begin: int, size: int) -> None:
        """Record a power loss, or raise."""
        if not self._is_zeroed(begin, size):
            raise self._broken(f"block {self._blocks + 1} at byte {begin} is damaged")
        self.cut = ZEROS

    def _is_zeroed(self, begin: int, size: int) -> bool:
        """Return whether the file has nothing but zeros from somewhere within `size` bytes after `begin` on."""
        self._file.seek(begin)
        rest = self._file.read()
        written = len(rest.rstrip(b"\0"))
        return written < size and len(rest) - written >= _ZEROS_MIN

    def _broken(self, what: str) -> InputError:
        return invalid("TAPE_BROKEN", f"tape {self._path.name}: {what}", "take another copy of it")
