"""API keys of the account: made once, kept in files that only their owner may read; signatures are checked here."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson

from fks.lab.sim.errors import missing, refusal
from fks.lab.sim.options import WireProtocol
from fks.model.errors import ConfigError

_TOKEN_S, _TOKEN_SKEW_S = 120, 30  # a token's life, and how far the client's clock may be ahead


@dataclass(frozen=True, slots=True)
class Keys:
    """A key with its secret: of HMAC, at Coinbase a P-256 key as PEM. The others are "" without their option:
    `guardian_key`, an HMAC key for a second process, and `ed25519_key`, whose private half is `ed25519_file`."""

    api_key: str
    api_secret: str
    ed25519_key: str = ""
    ed25519_file: str = ""
    guardian_key: str = ""
    guardian_secret: str = ""


def load_keys(folder: Path, wire: WireProtocol, *, with_ed25519: bool) -> Keys:
    """Return the keys of a data directory, made when they are missing. Errors: ConfigError for keys of another wire."""
    keys = Keys(**_kept(folder / "api-key.json", new_key(wire)))
    if keys.api_key.startswith("organizations/") != (wire is WireProtocol.COINBASE):
        raise ConfigError(f"{folder} holds keys of another wire than {wire}", remedy="name another --data-dir")
    if wire is WireProtocol.KRAKEN:
        made = _kept(folder / "guardian-api-key.json", new_key(wire))
        keys = replace(keys, guardian_key=made["api_key"], guardian_secret=made["api_secret"])
    if with_ed25519:
        path = folder / "ed25519-key.pem"
        if not path.exists():
            _write(path, _make_ed25519())
        second = _kept(folder / "ed25519-api-key.json", {"api_key": secrets.token_hex(32)})
        keys = replace(keys, ed25519_key=second["api_key"], ed25519_file=str(path))
    return keys


def new_key(wire: WireProtocol) -> dict[str, str]:
    """Return a new key and its secret, as the exchange of that wire hands them out."""
    if wire is WireProtocol.COINBASE:
        return {"api_key": f"organizations/{uuid4()}/apiKeys/{uuid4()}", "api_secret": _make_p256()}
    return {"api_key": secrets.token_hex(32), "api_secret": secrets.token_hex(32)}


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


def _make_p256() -> str:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    private = generate_private_key(SECP256R1())
    return private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()


def token_part(token: str, number: int) -> dict[str, Any]:
    """Return header (0) or claims (1) of a JSON Web Token, not verified; an empty object where there is none."""
    parts = token.split(".")
    try:
        found = orjson.loads(base64.urlsafe_b64decode(parts[number] + "==")) if len(parts) == 3 else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _raw(text: str) -> bytes:
    """Return the bytes of a header, which need not be UTF-8."""
    return text.encode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class KeyRule:
    """Rights of a key."""

    may_withdraw: bool = False
    is_address_bound: bool = True


class Keyring:
    """Checks keys and signatures. `made_s`: the time at which the keys were made, in seconds."""

    def __init__(self, keys: Keys, made_s: float = 0.0, wire: WireProtocol = WireProtocol.BINANCE) -> None:
        self.keys, self.made_s, self._wire = keys, made_s, wire
        self.rights: dict[str, KeyRule] = {}  # of keys that a test has set
        self.uid = int.from_bytes(hashlib.sha256(keys.api_key.encode()).digest()[:4], "big")
        self._secrets = {keys.api_key: keys.api_secret.encode()}
        if keys.guardian_key:
            self._secrets[keys.guardian_key] = keys.guardian_secret.encode()

    def add(self) -> tuple[str, str]:
        """Make a further key of the account, until the process ends; return it with its secret."""
        made = new_key(self._wire)
        self._secrets[made["api_key"]] = made["api_secret"].encode()
        return made["api_key"], made["api_secret"]

    def revoke(self, key: str) -> None:
        """Forget a key: its requests are refused from now on."""
        self._secrets.pop(key, None)

    def check_key(self, key: str) -> None:
        """Refuse a missing or foreign key. Errors: −2014, −2015."""
        if not key or len(key) < 16:
            raise refusal("bad_key_format")
        known = [*self._secrets, *([self.keys.ed25519_key] if self.keys.ed25519_key else [])]
        if not any(hmac.compare_digest(_raw(key), one.encode()) for one in known):
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
        wanted = hmac.new(self._secrets[key], payload, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(wanted.encode(), signature.lower().encode()):
            raise refusal("bad_signature")

    def check_kraken_signature(self, path: str, nonce: str, body: bytes, signature: str, key: str) -> None:
        """Refuse a wrong API-Sign: HMAC-SHA512, with the secret read as base64, of path and SHA-256 of nonce and body.

        Errors: −1022; −2015 for a key without such a secret.
        """
        digest = hashlib.sha256(nonce.encode() + body).digest()
        secret = self._secrets.get(key)
        if secret is None:  # the Ed25519 key signs for Binance's wire alone
            raise refusal("bad_key")
        made = hmac.new(base64.b64decode(secret), path.encode() + digest, hashlib.sha512).digest()
        if not hmac.compare_digest(base64.b64encode(made), _raw(signature)):
            raise refusal("bad_signature")

    def check_token(self, token: str, uri: str, now_s: float) -> None:
        """Refuse a JSON Web Token (ES256) of another request, key or time.

        Errors: −1021, −1022; −2015 for a key without such a secret.
        """
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
        from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        header, claims = token_part(token, 0), token_part(token, 1)
        secret = self._secrets.get(str(claims.get("sub")), b"")
        if not secret.startswith(b"-----BEGIN"):
            raise refusal("bad_key")
        private = load_pem_private_key(secret, None)
        assert isinstance(private, EllipticCurvePrivateKey)
        signed, _, signature = token.rpartition(".")
        try:
            raw = base64.urlsafe_b64decode(signature + "==")
            made = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
            private.public_key().verify(made, signed.encode(), ECDSA(SHA256()))
        except (InvalidSignature, ValueError):
            raise refusal("bad_signature") from None
        is_named = header.get("kid") == claims.get("sub") and header.get("alg") == "ES256" and header.get("nonce")
        if not is_named or claims.get("iss") not in ("cdp", "coinbase-cloud") or claims.get("uri") != uri:
            raise refusal("bad_signature")
        begins, ends = claims.get("nbf"), claims.get("exp")
        if not isinstance(begins, int) or not isinstance(ends, int) or ends - begins > _TOKEN_S:
            raise refusal("bad_signature")
        if not begins - _TOKEN_SKEW_S <= now_s <= ends:
            raise refusal("skewed")

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
