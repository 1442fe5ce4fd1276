"""Deterministic identities: the same decision always has the same name, so a replay inserts nothing."""

from __future__ import annotations

import uuid

NAMESPACE = uuid.UUID("6f0c1d0e-5a1b-5f6e-9d0a-0c5f6b5a9f11")


def _uuid5(kind: str, *parts: object) -> uuid.UUID:
    """Return UUIDv5 over `kind` and `parts`, separated by a character no part may hold."""
    texts = [str(part) for part in parts]
    assert all("\x1f" not in text for text in texts)
    return uuid.uuid5(NAMESPACE, "\x1f".join([kind, *texts]))


def signal_id(instance: str, symbol: str, timeframe: str, bar_time_ns: int, ordinal: int) -> uuid.UUID:
    """Return the id of a strategy's signal (design.md §5)."""
    return _uuid5("signal", instance, symbol, timeframe, bar_time_ns, ordinal)


def request_signal_id(principal: str, idempotency_key: str) -> uuid.UUID:
    """Return the id of a signal that came through a door (HTTP, CLI, webhook) with an idempotency key."""
    return _uuid5("request", principal, idempotency_key)


def intent_id(signal: uuid.UUID) -> uuid.UUID:
    """Return the id of the intent that a signal leads to: one signal, at most one intent."""
    return _uuid5("intent", signal)


def client_order_id(intent: uuid.UUID, role: str, generation: int = 0) -> str:
    """Return 32 lower-case hex characters: fits every venue's field (peers.md §6.2) and never holds the epoch."""
    return _uuid5("order", intent, role, generation).hex


def fill_id(venue: str, account: str, symbol: str, venue_trade_id: str) -> uuid.UUID:
    """Return the one id of an execution, whichever of stream, REST history or reconciliation shows it first."""
    return _uuid5("fill", venue, account, symbol, venue_trade_id)


def kill_id(kill_seq: str, symbol: str) -> uuid.UUID:
    """Return the intent id of a flattening order of the kill switch, from the kill's own id."""
    return _uuid5("kill", kill_seq, symbol)


def trace_id(symbol: str, timeframe: str, bar_time_ns: int) -> str:
    """Return the trace id of all that follows from one bar: 16 hex characters, carried by signal, order and fill logs."""
    return _uuid5("trace", symbol, timeframe, bar_time_ns).hex[:16]
