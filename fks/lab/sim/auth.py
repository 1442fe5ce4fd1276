"""Signatures and timestamps: the bytes that a client signs, and the window in which a timestamp is valid."""

from __future__ import annotations

from urllib.parse import quote

from fks.lab.sim.errors import missing, refusal
from fks.lab.sim.params import Params

_WINDOW_MS = 5_000
_WINDOW_MAX_MS = 60_000
_AHEAD_MAX_MS = 1_000


def check_time(params: Params, now_ms: int) -> None:
    """Refuse a timestamp outside its window. Errors: −1102, −1100, −1131, −1021."""
    params.text("timestamp")
    stamp = params.number("timestamp") or 0
    if stamp > 100_000_000_000_000:  # microseconds
        stamp //= 1000
    window = _window_ms(params.maybe("recvWindow"))
    if stamp >= now_ms + _AHEAD_MAX_MS:
        raise refusal("ahead")
    if now_ms - stamp > window:
        raise refusal("skewed")


def _window_ms(text: str) -> float:
    try:
        window = float(text) if text else _WINDOW_MS
    except ValueError:
        raise missing("recvWindow") from None
    if not 0 <= window <= _WINDOW_MAX_MS:
        raise refusal("bad_recv_window")
    return window


def rest_payload(query: bytes, body: bytes) -> bytes:
    """Return the bytes that REST signs: query and body as sent, without the signature, nothing between them."""
    return b"".join(
        b"&".join(part for part in half.split(b"&") if part and not part.startswith(b"signature="))
        for half in (query, body)
    )


def socket_payloads(params: Params) -> list[bytes]:
    """Return the payloads that the WebSocket API may sign: parameters sorted by name, plain, and percent-encoded as of
    2026."""
    pairs = sorted((name, value) for name, value in params.items() if name != "signature")
    plain = "&".join(f"{name}={value}" for name, value in pairs)
    encoded = "&".join(f"{name}={quote(value, safe='-_.~')}" for name, value in pairs)
    return [plain.encode(), encoded.encode()] if plain != encoded else [plain.encode()]
