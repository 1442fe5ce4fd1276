"""Lines of the fks1 protocol: a splitter with a length limit, independent of how the bytes arrive in chunks."""

from __future__ import annotations

from fks.model.errors import PeerError

LINE_MAX = 65_536  # bytes with the LF
LINE_MAX_UNAUTHENTICATED = 4_096  # what the bridge accepts before authentication


class LineTooLongError(PeerError):
    """A line is longer than the limit. Nothing after it can be read."""


class LineReader:
    """Split a byte stream into lines.

    `feed` takes bytes, `next_line` returns the lines one by one, so that a change of `limit` applies from the next line
    on. One trailing CR is stripped; empty lines are skipped. A last line without LF is never returned (`rest` has it).
    """

    def __init__(self, limit: int = LINE_MAX) -> None:
        self.limit = limit
        self._buffer = bytearray()
        self._scanned = 0

    def feed(self, data: bytes) -> None:
        """Append received bytes."""
        self._buffer += data

    def next_line(self) -> bytes | None:
        """Return the next complete line without its end, or None until more bytes arrive.

        Errors: LineTooLongError when the next line, its LF included, exceeds `limit`; again on every later call.
        """
        while True:
            end = self._buffer.find(b"\n", self._scanned)
            if end < 0:
                self._scanned = len(self._buffer)
                if self._scanned >= self.limit:
                    raise LineTooLongError(f"a line has over {self.limit} bytes")
                return None
            if end >= self.limit:
                raise LineTooLongError(f"a line has over {self.limit} bytes")
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            self._scanned = 0
            line = line.removesuffix(b"\r")
            if line:
                return line

    @property
    def rest(self) -> bytes:
        """Bytes of the line that has no end yet."""
        return bytes(self._buffer)
