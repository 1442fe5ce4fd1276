"""The records of a tape, and their bytes.

A file is one JSON header line, blocks, and an end. A block holds about a second or a quarter of a megabyte of records
under zlib, behind a head with its number in the file, its lengths, its time span and the CRC32 of both; the end has the
SHA-256 of everything before it. A file without its end was cut off (kill -9, a full disk) or is still being written: it
is good up to its last whole block.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

import msgspec

from fks.model.market import ExchangeCapabilities

MAGIC = "fkstape/2"
ENDING = ".fkstape"
BLOCK, END = b"BLK\n", b"END\n"
#: mark, number in the file from 1, bytes that follow, bytes unpacked, records, CRC32 of what follows, first and last
#: received_ns
HEAD = struct.Struct("<4sIIIIIqq")
#: after the head: its CRC32, which goes on from that of the header line: a length is believed before it is followed
HEAD_CRC = struct.Struct("<I")
#: kind, connection, received_ns, bytes that follow
RECORD = struct.Struct("<BIqI")


class Kind(IntEnum):
    """What a record holds."""

    OPEN = 1  # a connection is dialled: JSON {url, wanted}
    FRAME = 2  # a message as it came
    BARS = 3  # REST told bars: JSON {asked: the port's arguments, told: [Bar, …]}
    TRADES = 4  # the same of public trades
    INSTRUMENTS = 5  # the same of instruments
    LOST = 6  # the recorder was behind: JSON {frames, bytes} that are not on the tape
    STANDING = 7  # at the beginning of a file: a connection that stands since an earlier one; JSON as OPEN
    HOLE = 8  # in no file: who reads found that something is not on the tape here; JSON {kind, text}


@dataclass(frozen=True, slots=True)
class Record:
    """One record. `connection` counts dials of one recorder from 1; 0 where there is none. Times ns UTC, our clock."""

    kind: Kind
    connection: int
    received_ns: int
    data: bytes

    def pack(self) -> bytes:
        """Return its bytes in a block."""
        return RECORD.pack(self.kind, self.connection, self.received_ns, len(self.data)) + self.data


class Header(msgspec.Struct, frozen=True, rename={"capabilities": "traits"}):
    """The first line of a file: the exchange, the recorder (its start, ns), and the file's number in that run.

    `capabilities` are those of the exchange at the time of the recording, so that a replay has the same ones. The key
    in the file is `traits`, its name in the first tapes.
    """

    exchange: str
    run: int
    number: int
    version: str
    capabilities: ExchangeCapabilities
    form: str = MAGIC
