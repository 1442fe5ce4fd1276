"""Records of a tape and their binary format.

A file is one JSON header line, blocks, and an end. A block holds about a second or a quarter of a megabyte of records
under zlib, behind a head with its number in the file, its lengths, its time span and the CRC32 of both; the end has the
SHA-256 of everything before it. A file without its end was cut off (kill -9, a full disk) or is still being written: it
is valid up to its last complete block.

The format stays our own: Arrow's streams have no checksums and no numbers of blocks, so both would lie in messages of
ours again, and zstd's frames lack the rest too. Old tapes would need the present reader beside a new one.
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
#: after the head: its CRC32, which goes on from that of the header line: a length is used before the data that it
#: describes is checked
HEAD_CRC = struct.Struct("<I")
#: kind, connection, received_ns, bytes that follow
RECORD = struct.Struct("<BIqI")


class RecordKind(IntEnum):
    """Kinds of records."""

    OPEN = 1  # a new connection: JSON {url, wanted}
    FRAME = 2  # a message as it was received
    BARS = 3  # a REST answer with bars: JSON {asked: the port's arguments, told: [Bar, …]}
    TRADES = 4  # the same with public trades
    INSTRUMENTS = 5  # the same with instruments
    LOST = 6  # the recorder was too slow: JSON {frames, bytes} of the messages that are not on the tape
    STANDING = 7  # at the beginning of a file: a connection opened before it; JSON as OPEN
    HOLE = 8  # in no file: the reader found a gap of the tape here; JSON {kind, text}


@dataclass(frozen=True, slots=True)
class TapeRecord:
    """One record. `connection` counts connections of one recorder from 1; 0: none. Times are ns UTC of our clock."""

    kind: RecordKind
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
