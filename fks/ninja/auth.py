"""The two MACs of fks1. Each end proves that it has the secret; the two role words stop reflection.

Both nonces are in both MACs, so that neither can be replayed.
"""

from __future__ import annotations

import hashlib
import hmac

from fks.model.errors import ConfigError

ALGORITHM = "hmac-sha256"
SECRET_MIN = 16  # bytes, on one machine
SECRET_MIN_REMOTE = 32  # bytes, where the port is reached from another machine


def parse_secret(text: str, *, source: str, is_remote: bool = False) -> bytes:
    """Return the secret in the content of a secret file: the text without any white space.

    Errors: ConfigError naming `source` when it is too short; the text itself is never shown.
    """
    secret = "".join(text.split()).encode()
    least = SECRET_MIN_REMOTE if is_remote else SECRET_MIN
    if len(secret) < least:
        raise ConfigError(
            f"the NinjaTrader secret in {source} has {len(secret)} bytes, at least {least} are needed",
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


def _mac(secret: bytes, *parts: str) -> str:
    return hmac.new(secret, "\n".join(parts).encode(), hashlib.sha256).hexdigest()
