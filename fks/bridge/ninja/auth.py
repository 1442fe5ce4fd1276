"""The MACs of fks1: of the opening, in which each end proves that it has the secret, and of the lines after it.

Both nonces are in both MACs of the opening, so that neither can be replayed; the role words stop reflection. A client
that can put a MAC on each line begins its nonce with a mark, and a bridge that can do it then marks its own; no program
in between can take a mark out or put one in. With both marks `auth` and everything after it are `<MAC> <JSON>`: the MAC
of a line and its number, with a key for each direction of this one session. So a line that was changed, repeated, left
out or moved is noticed.
"""

from __future__ import annotations

import hashlib
import hmac

from fks.model.errors import ConfigError, PeerError

ALGORITHM = "hmac-sha256"
MARK = "666b7331"  # first digits of the nonce of an end that can put a MAC on each line
MAC_BYTES = 65  # of a line that has one: 64 hex digits and a space
SECRET_MIN = 16  # bytes, on one machine
SECRET_MIN_REMOTE = 32  # bytes, where the port is reached from another machine


def parse_secret(text: str, *, source: str, is_remote: bool = False, title: str = "NinjaTrader") -> bytes:
    """Return the secret in the content of a secret file: the text without any white space.

    Errors: ConfigError naming `source` when it is too short; the text itself is never shown.
    """
    secret = "".join(text.split()).encode()
    least = SECRET_MIN_REMOTE if is_remote else SECRET_MIN
    if len(secret) < least:
        raise ConfigError(
            f"the {title} secret in {source} has {len(secret)} bytes, at least {least} are needed",
            remedy="make one with `openssl rand -hex 32` and copy the same file to both machines",
        )
    return secret


def client_mac(secret: bytes, *, bridge_nonce: str, client_nonce: str, instance: str, group: str) -> str:
    """Return `auth.mac`, 64 lower case hex digits: the proof of the client."""
    return _mac(secret, "fks1", "client", bridge_nonce, client_nonce, instance, group)


def bridge_mac(secret: bytes, *, bridge_nonce: str, client_nonce: str, epoch: str, group: str) -> str:
    """Return `welcome.mac`, 64 lower case hex digits: the proof of the bridge."""
    return _mac(secret, "fks1", "bridge", client_nonce, bridge_nonce, epoch, group)


def is_equal(given: str, expected: str) -> bool:
    """Compare two MACs in constant time."""
    return hmac.compare_digest(given.encode(), expected.encode())


def marked(nonce: str) -> str:
    """Return a nonce that says: this end can put a MAC on each line."""
    return MARK + nonce[len(MARK) :]


def is_marked(nonce: str) -> bool:
    """Whether the end that made this nonce can put a MAC on each line."""
    return nonce.startswith(MARK)


class ForgedLineError(PeerError):
    """A line does not have its MAC. Nothing after it can be trusted."""


class LineMac:
    """The lines of one direction of one session: `sealed` at the one end, `opened` at the other, each in order."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._number = 0

    def sealed(self, line: bytes) -> bytes:
        """Return the next line with its MAC. `line` has its LF."""
        return self._next(line.removesuffix(b"\n")) + b" " + line

    def opened(self, line: bytes) -> bytes:
        """Return the next line, which has no LF any more, without its MAC.

        Errors: ForgedLineError when the line was changed, comes again, or when one before it is missing.
        """
        body = line[MAC_BYTES:]
        if not hmac.compare_digest(line[:MAC_BYTES], self._next(body) + b" "):
            raise ForgedLineError(f"line {self._number} does not have its MAC: lines were changed on the way")
        return body

    def _next(self, body: bytes) -> bytes:
        self._number += 1
        return hmac.digest(self._key, self._number.to_bytes(8, "big") + body, "sha256").hex().encode()


def line_macs(
    secret: bytes, *, bridge_nonce: str, client_nonce: str, instance: str, group: str, role: str
) -> tuple[LineMac, LineMac]:
    """Return the MACs of the client's lines and of the bridge's. The key of each is of this session and direction."""
    ends = (
        _mac(secret, "fks1", "lines", end, bridge_nonce, client_nonce, instance, group, role)
        for end in ("client", "bridge")
    )
    client, bridge = (LineMac(bytes.fromhex(key)) for key in ends)
    return client, bridge


def _mac(secret: bytes, *parts: str) -> str:
    return hmac.new(secret, "\n".join(parts).encode(), hashlib.sha256).hexdigest()
