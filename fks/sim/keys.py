"""API keys of the account: made once, kept in files that only their owner may read; signatures are checked here."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from fks.sim.errors import missing, refusal


@dataclass(frozen=True, slots=True)
class Keys:
    """An HMAC key with its secret; `ed25519_key` "" without the second key, whose private half is `ed25519_file`."""

    api_key: str
    api_secret: str
    ed25519_key: str = ""
    ed25519_file: str = ""


def load_keys(folder: Path, *, with_ed25519: bool) -> Keys:
    """Return the keys of a data directory, made when they are missing."""
    found = _kept(folder / "api-key.json", {"api_key": secrets.token_hex(32), "api_secret": secrets.token_hex(32)})
    if not with_ed25519:
        return Keys(found["api_key"], found["api_secret"])
    path = folder / "ed25519-key.pem"
    if not path.exists():
        _write(path, _make_ed25519())
    second = _kept(folder / "ed25519-api-key.json", {"api_key": secrets.token_hex(32)})
    return Keys(found["api_key"], found["api_secret"], second["api_key"], str(path))


def _kept(path: Path, default: dict[str, str]) -> dict[str, str]:
    if not path.exists():
        _write(path, json.dumps(default).encode())
    kept: dict[str, str] = json.loads(path.read_text())
    return kept


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, for its owner only."""
    draft = path.with_suffix(".new")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    draft.replace(path)


def _make_ed25519() -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class Keyring:
    """Checks keys and signatures."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.uid = int.from_bytes(hashlib.sha256(keys.api_key.encode()).digest()[:4], "big")
        self._secret = keys.api_secret.encode()

    def check_key(self, key: str) -> None:
        """Refuse a missing or foreign key. Errors: −2014, −2015."""
        if not key or len(key) < 16:
            raise refusal("bad_key_format")
        known = [self.keys.api_key, *([self.keys.ed25519_key] if self.keys.ed25519_key else [])]
        if not any(hmac.compare_digest(key.encode(), one.encode()) for one in known):
            raise refusal("bad_key")

    def is_ed25519(self, key: str) -> bool:
        """Return whether it is the second key, the only kind that may log a session on."""
        return bool(key) and key == self.keys.ed25519_key

    def check_signature(self, payload: bytes, signature: str, key: str) -> None:
        """Refuse a wrong signature. Errors: −1102 without one, −1022."""
        if not signature:
            raise missing("signature")
        if self.is_ed25519(key):
            self._check_ed25519(payload, signature)
            return
        wanted = hmac.new(self._secret, payload, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(wanted.encode(), signature.lower().encode()):
            raise refusal("bad_signature")

    def _check_ed25519(self, payload: bytes, signature: str) -> None:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        private = load_pem_private_key(Path(self.keys.ed25519_file).read_bytes(), None)
        assert isinstance(private, Ed25519PrivateKey)
        try:
            private.public_key().verify(base64.b64decode(signature), payload)
        except (InvalidSignature, binascii.Error):
            raise refusal("bad_signature") from None
