"""Tape files read again: every block checked, a cut tail said, damage refused."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from fks.data.tape.records import BLOCK, END, ENDING, HEAD, MAGIC, RECORD, Header, Kind, Record
from fks.model.errors import InputError

_END_SIZE = len(END) + 32 + 8
_HEADER_MAX = 64 << 10
_BLOCK_MAX = 256 << 20  # unpacked; a recorder's blocks are a thousandth of it


@dataclass(frozen=True, slots=True)
class TapeFile:
    """What one file holds. `is_whole`: it has its end, and the checksum over all of it agrees."""

    path: Path
    header: Header
    records: int
    frames: int
    lost: int
    first_ns: int
    last_ns: int
    size: int
    is_whole: bool


def tape_files(path: Path) -> list[Path]:
    """Return the files of a tape in order: `path` itself, or those in a folder. Errors: InputError TAPE_MISSING."""
    found = sorted(path.glob(f"*{ENDING}")) if path.is_dir() else [path] if path.is_file() else []
    if not found:
        raise InputError(f"there is no tape at {path}", code="TAPE_MISSING", remedy=f"a {ENDING} file, or a folder of them")
    return found


def read_header(path: Path) -> Header:
    """Return the first line of a file. Errors: InputError TAPE_BROKEN."""
    with path.open("rb") as file:
        return _header(path, file)[0]


def header_of(paths: Sequence[Path]) -> Header:
    """Return the first file's header. Errors: InputError TAPE_BROKEN, TAPE_MIXED when the files are of several exchanges."""
    headers = [read_header(path) for path in paths]
    names = sorted({header.exchange for header in headers})
    if len(names) > 1:
        raise InputError(f"these are tapes of {' and '.join(names)}", code="TAPE_MIXED", remedy="play one exchange at a time")
    return headers[0]


def read_records(paths: Sequence[Path]) -> Iterator[Record]:
    """Yield the records of files in order. Errors: InputError TAPE_BROKEN at a damaged block; a cut tail just ends a file."""
    for path in paths:
        with path.open("rb") as file:
            _header(path, file)
            for block, count in _blocks(path, file):
                yield from _records(path, block, count)


def check_file(path: Path) -> TapeFile:
    """Read a whole file and return what is in it. Errors: InputError TAPE_BROKEN when a block or the checksum is wrong."""
    with path.open("rb") as file:
        header, first_line = _header(path, file)
        digest = hashlib.sha256(first_line)
        records = frames = lost = first_ns = last_ns = 0
        for block, count in _blocks(path, file, digest):
            for record in _records(path, block, count):
                records += 1
                frames += record.kind is Kind.FRAME
                if record.kind is Kind.LOST:
                    lost += int(msgspec.json.decode(record.data)["frames"])
                first_ns, last_ns = first_ns or record.received_ns, record.received_ns
        end = file.read(_END_SIZE)
        is_whole = end[:4] == END and len(end) == _END_SIZE
        if is_whole and (end[4:36] != digest.digest() or int.from_bytes(end[36:], "little") != records):
            raise _broken(path, "its checksum does not agree with its content")
        return TapeFile(path, header, records, frames, lost, first_ns, last_ns, path.stat().st_size, is_whole)


def _header(path: Path, file: BinaryIO) -> tuple[Header, bytes]:
    line = file.readline(_HEADER_MAX)
    try:
        header = msgspec.json.decode(line, type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _broken(path, "does not begin as one") from error
    if header.form != MAGIC:
        raise _broken(path, f"is of the form {header.form}, which this version does not read")
    return header, line


def _blocks(path: Path, file: BinaryIO, digest: hashlib._Hash | None = None) -> Iterator[tuple[bytes, int]]:
    """Yield (unpacked block, records); the file then stands at its end, or at a block that was cut off."""
    number = 0
    while True:
        begin = file.tell()
        head = file.read(HEAD.size)
        if len(head) < HEAD.size or head[:4] == END:
            file.seek(begin)
            return
        mark, stored, length, count, crc, _, _ = HEAD.unpack(head)
        number += 1
        if mark != BLOCK or length > _BLOCK_MAX:
            raise _broken(path, f"block {number} at byte {begin} is damaged")
        packed = file.read(stored)
        if len(packed) < stored:
            file.seek(begin)
            return
        if zlib.crc32(packed) != crc:
            raise _broken(path, f"block {number} at byte {begin} is damaged")
        if digest is not None:
            digest.update(head + packed)
        try:
            block = zlib.decompressobj().decompress(packed, length + 1)
        except zlib.error as error:
            raise _broken(path, f"block {number} at byte {begin} is damaged") from error
        if len(block) != length:
            raise _broken(path, f"block {number} at byte {begin} is damaged")
        yield block, count


def _records(path: Path, block: bytes, count: int) -> Iterator[Record]:
    at = 0
    for _ in range(count):
        try:
            kind, connection, received_ns, length = RECORD.unpack_from(block, at)
            record = Record(Kind(kind), connection, received_ns, block[at + RECORD.size : at + RECORD.size + length])
        except (ValueError, struct.error) as error:
            raise _broken(path, "a record is damaged") from error
        at += RECORD.size + length
        yield record


def _broken(path: Path, what: str) -> InputError:
    return InputError(f"tape {path.name}: {what}", code="TAPE_BROKEN", remedy="take another copy of it")
