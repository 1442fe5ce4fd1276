"""Deep checks as pure functions: measured values in, a status with its reason out.

A value of None was not measured. What must answer and does not is down; what cannot be known (NTP without a network)
is unknown and counts as no failure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fks.model.health import DEGRADED, DOWN, HEALTHY, UNKNOWN, Check, level


def _measured(
    name: str, status: str, fault: str, values: Mapping[str, Any] = {}, *, response_ms: float | None = None
) -> Check:
    """Return a check whose fault is shown only while there is one."""
    return Check(name, status, "" if status == HEALTHY else fault, response_ms=response_ms, values=values)


def answering(service: str, response_ms: float | None, error: str | None, *, degraded_ms: float) -> Check:
    """Return the check of a server that must answer: down without an answer, degraded above `degraded_ms`."""
    if response_ms is None:
        return Check(service, DOWN, error or "does not answer")
    text = f"answers in {response_ms:.0f} ms, more than {degraded_ms:g} ms"
    return _measured(service, level(response_ms <= degraded_ms), text, response_ms=response_ms)


def is_fresh(feed: Mapping[str, Any], stale_ms: int) -> bool:
    """Return whether a feed (state, age_ms) is live, and its last message at most `stale_ms` old."""
    return feed["state"] == "LIVE" and feed["age_ms"] is not None and feed["age_ms"] <= stale_ms


def feeds(rows: Sequence[Mapping[str, Any]], *, stale_ms: int) -> Check:
    """Return the check of the exchanges from their feeds (exchange, symbol, state, age_ms): down when none is live and
    fresh, unknown when nothing is collected."""
    if not rows:
        return Check("exchange", UNKNOWN, "nothing is collected: see 'fks assets'")
    stale = [row for row in rows if not is_fresh(row, stale_ms)]
    ages = [row["age_ms"] for row in rows if row["age_ms"] is not None]
    names = ", ".join(f"{row['exchange']} {row['symbol']}" for row in stale[:5])
    return _measured(
        "exchange",
        level(not stale, len(stale) < len(rows)),
        f"{len(stale)} of {len(rows)} feeds are stale: {names}",
        {"feeds": len(rows), "stale": len(stale)},
        response_ms=float(min(ages)) if ages else None,
    )


def traded(venues: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return the venues that have an account: one without is not traded. All of them while none has one."""
    return [venue for venue in venues if venue.get("account")] or venues


def venues(rows: Sequence[Mapping[str, Any]]) -> Check:
    """Return the check of the venues from their reconciliation (name, state, account): down when none is READY."""
    if not rows:
        return Check("venue", UNKNOWN, "no venue was reconciled yet")
    rows = traded(rows)
    waiting = [row for row in rows if row["state"] != "READY"]
    names = ", ".join(f"{row['name']} {row['state']}" for row in waiting[:5])
    values = {"venues": len(rows), "waiting": len(waiting)}
    return _measured("venue", level(not waiting, len(waiting) < len(rows)), names, values)


def disk(free_mb: float | None, total_mb: float | None, *, free_min_mb: float, place: str) -> Check:
    """Return the check of the disk under FKS_HOME: down below `free_min_mb`, degraded below four times that."""
    if free_mb is None:
        return Check("disk", UNKNOWN, f"the disk of {place} cannot be read")
    values = {"free_mb": round(free_mb), "total_mb": None if total_mb is None else round(total_mb), "place": place}
    status = level(free_mb >= 4 * free_min_mb, free_mb >= free_min_mb)
    return _measured("disk", status, f"{free_mb:.0f} MB are free under {place}; free some", values)


def clock(offset_ms: float | None, error: str | None, *, offset_max_ms: float, response_ms: float | None) -> Check:
    """Return the check of this machine's clock against NTP: degraded beyond `offset_max_ms`, down beyond four times
    that, unknown when no server answers."""
    if offset_ms is None:
        return Check("clock", UNKNOWN, error or "no NTP server answers")
    text = f"the clock is {offset_ms:+.0f} ms off NTP; look at the time service of this machine"
    status = level(abs(offset_ms) <= offset_max_ms, abs(offset_ms) <= 4 * offset_max_ms)
    return _measured("clock", status, text, {"offset_ms": round(offset_ms, 3)}, response_ms=response_ms)


def certificate(days_left: float | None, error: str | None, *, min_days: float, file: str) -> Check:
    """Return the check of the gateway's certificate: down when it has ended or cannot be read."""
    if days_left is None:
        return Check("certificate", DOWN, f"{file}: {error or 'cannot be read'}")
    has_ended = days_left <= 0
    text = f"{file} ended {-days_left:.1f} days ago" if has_ended else f"{file} ends in {days_left:.1f} days"
    values = {"days_left": round(days_left, 1), "file": file}
    return _measured("certificate", level(days_left >= min_days, not has_ended), f"{text}; renew it", values)


def backup(age_h: float | None, unproven: str = "", *, max_h: float, is_own_server: bool) -> Check:
    """Return the check of the newest backup: degraded when there is none, it is older than `max_h`, or its restore was
    not proven (`unproven`: why); unknown for a database server of another operator without backups here."""
    if age_h is None:
        if not is_own_server:
            return Check("backup", UNKNOWN, "the database server is not FKS's own: its operator backs it up")
        return Check("backup", DEGRADED, "there is no backup; run 'fks db backup' or schedule one")
    text = f"the newest backup is {age_h:.0f} h old, more than {max_h:g} h"
    if age_h <= max_h:
        text = f"the newest backup is not verified: {unproven}"
    return _measured("backup", level(age_h <= max_h and not unproven), text, {"age_h": round(age_h, 1)})


def queues(
    jobs: int, jobs_wait_s: float | None, signals: int, signals_wait_s: float | None, *, jobs_max_s: float,
    signals_max_s: float,
) -> Check:  # fmt: skip
    """Return the check of the queues: degraded when the oldest job or ready signal waits longer than its limit, down
    when a signal waits ten times that. `*_wait_s` None: nothing waits."""
    values = {"jobs": jobs, "jobs_wait_s": jobs_wait_s, "signals": signals, "signals_wait_s": signals_wait_s}
    slow = []
    if signals_wait_s is not None and signals_wait_s > signals_max_s:
        slow.append(f"the oldest of {signals} ready signals waits for {signals_wait_s:.0f} s")
    if jobs_wait_s is not None and jobs_wait_s > jobs_max_s:
        slow.append(f"the oldest of {jobs} queued jobs waits for {jobs_wait_s:.0f} s")
    status = level(not slow, signals_wait_s is None or signals_wait_s <= 10 * signals_max_s)
    return _measured("queue", status, "; ".join(slow), values)
