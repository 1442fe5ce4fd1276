"""Deterministic ids: the same decision always has the same id, so a replay inserts nothing."""

from __future__ import annotations

import uuid

NAMESPACE = uuid.UUID("6f0c1d0e-5a1b-5f6e-9d0a-0c5f6b5a9f11")


def _uuid5(kind: str, *parts: object) -> uuid.UUID:
    """Return UUIDv5 over `kind` and `parts`, joined by a separator that no part may contain."""
    texts = [str(part) for part in parts]
    assert all("\x1f" not in text for text in texts)
    return uuid.uuid5(NAMESPACE, "\x1f".join([kind, *texts]))


def signal_id(instance: str, symbol: str, timeframe: str, bar_time_ns: int, ordinal: int) -> uuid.UUID:
    """Return the id of a strategy's signal."""
    return _uuid5("signal", instance, symbol, timeframe, bar_time_ns, ordinal)


def entry_group_id(account_id: int, venue: str, name: str, timeframe: str, bar_time_ns: int) -> uuid.UUID:
    """Return the id of a decision that enters several symbols at once, on one account."""
    return _uuid5("entry-group", account_id, venue, name, timeframe, bar_time_ns)


def group_exit_id(signal: uuid.UUID) -> uuid.UUID:
    """Return the id of the exit that closes the entry of `signal` because another leg of its group failed."""
    return _uuid5("group-exit", signal)


def request_signal_id(principal: str, idempotency_key: str) -> uuid.UUID:
    """Return the id of a signal that was submitted (HTTP, CLI, webhook) with an idempotency key."""
    return _uuid5("request", principal, idempotency_key)


def intent_id(signal: uuid.UUID) -> uuid.UUID:
    """Return the id of the intent that a signal leads to: one signal, at most one intent."""
    return _uuid5("intent", signal)


def portfolio_run_id(portfolio_id: int, plan_hash: str) -> uuid.UUID:
    """Return the id of the rebalancing that a plan of a portfolio becomes."""
    return _uuid5("portfolio-run", portfolio_id, plan_hash)


def payment_reference(account_id: int, kind: str, asset: str, amount: str, time_ns: int, symbol: str) -> uuid.UUID:
    """Return the reference of an account's income that a person recorded without one."""
    return _uuid5("payment", account_id, kind, asset, amount, time_ns, symbol)


def split_id(account_id: int, venue: str, symbol: str, day: object) -> uuid.UUID:
    """Return the id of a split's effect on what an account holds of a symbol at a venue."""
    return _uuid5("split", account_id, venue, symbol, day)


def journal_entry_id(account_id: int, venue: str, symbol: str, instance: str, entry_fill: uuid.UUID) -> uuid.UUID:
    """Return the id of the closed trade of a position that began with the execution `entry_fill`."""
    return _uuid5("journal", account_id, venue, symbol, instance, entry_fill)


def report_id(portfolio_id: int | None, period: str, start: str) -> uuid.UUID:
    """Return the id of the report of a period, of a portfolio or of all accounts."""
    return _uuid5("report", portfolio_id or 0, period, start)


def copy_signal_id(intent: uuid.UUID, account_id: int) -> uuid.UUID:
    """Return the id of the signal by which another account repeats the one that `intent` came from."""
    return _uuid5("copy", intent, account_id)


def client_order_id(intent: uuid.UUID, role: str, attempt: int = 0) -> str:
    """Return 32 lower-case hex characters: fits every venue's field and never contains the epoch."""
    return _uuid5("order", intent, role, attempt).hex


def is_ours(client_order_id: str | None) -> bool:
    """Return whether an id has the form of ours: the 32 hex characters of a UUIDv5 (docs/architecture.md, Ids)."""
    text = client_order_id or ""
    return len(text) == 32 and text[12] == "5" and text[16] in "89ab" and all(c in "0123456789abcdef" for c in text)


def leg_id(parent: str, name: str) -> str:
    """Return the client order id of a leg that the venue placed for the order `parent`; `name` is its name there."""
    return _uuid5("leg", parent, name).hex


def fill_id(venue: str, account: str, symbol: str, venue_trade_id: str) -> uuid.UUID:
    """Return the id of an execution, version 1: executions booked before version 2, paper fills, and those that persons
    book."""
    return _uuid5("fill", venue, account, symbol, venue_trade_id)


def person_fill_id(client_order_id: str, filled: object) -> uuid.UUID:
    """Return the id of an execution that a person reports without a venue trade id; `filled` is the order's sum after
    it."""
    return _uuid5("person-fill", client_order_id, filled)


def bust_id(fill: uuid.UUID, cause: object) -> uuid.UUID:
    """Return the id of the entry that reverses (part of) an execution."""
    return _uuid5("bust", fill, cause)


def fill_id_v2(uid: str, environment: str, network_epoch: str, symbol: str, venue_trade_id: str) -> uuid.UUID:
    """Return the id of an execution at a venue, version 2: from the venue's own account id, so that the local exchange,
    a test network and the real exchange, which all count trades from one, never share an id."""
    return _uuid5("fill/2", uid, environment, network_epoch, symbol, venue_trade_id)


def kill_id(kill_seq: str, symbol: str) -> uuid.UUID:
    """Return the intent id of a flattening order of the kill switch, from the kill's own id."""
    return _uuid5("kill", kill_seq, symbol)


def flatten_id(kill: str, *, venue: str, account_id: int, symbol: str, instance: str) -> uuid.UUID:
    """Return the intent id of one position's flattening: a restarted guardian computes the same."""
    return kill_id(kill, f"{venue}:{account_id}:{symbol}:{instance}")


def trace_id(symbol: str, timeframe: str, bar_time_ns: int) -> str:
    """Return the trace id of everything caused by one bar: 16 hex characters, carried by signal, order and fill
    logs."""
    return _uuid5("trace", symbol, timeframe, bar_time_ns).hex[:16]
