"""Deep checks as pure functions: measured values in, a status with its reason out.

A value of None was not measured. What must answer and does not is down; what cannot be known (NTP without a network)
is unknown and counts as no failure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fks.monitor.statuses import DEGRADED, DOWN, HEALTHY, UNKNOWN


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one look. `error` says what is wrong and what to do; None while nothing is."""

    service: str
    status: str
    response_ms: float | None = None
    error: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


def answering(service: str, response_ms: float | None, error: str | None, *, degraded_ms: float) -> Check:
    """Return the check of a server that must answer: down without an answer, degraded above `degraded_ms`."""
    if response_ms is None:
        return Check(service, DOWN, None, error or "does not answer")
    if response_ms > degraded_ms:
        return Check(service, DEGRADED, response_ms, f"answers in {response_ms:.0f} ms, more than {degraded_ms:g} ms")
    return Check(service, HEALTHY, response_ms)


def feeds(rows: Sequence[Mapping[str, Any]], *, stale_ms: int) -> Check:
    """Return the check of the exchanges from their feeds (exchange, symbol, state, age_ms): down when none is live and
    fresh, unknown when nothing is collected."""
    if not rows:
        return Check("exchange", UNKNOWN, error="nothing is collected: see 'fks assets'")
    stale = [row for row in rows if row["state"] != "LIVE" or row["age_ms"] is None or row["age_ms"] > stale_ms]
    ages = [row["age_ms"] for row in rows if row["age_ms"] is not None]
    detail = {"feeds": len(rows), "stale": len(stale)}
    newest_ms = float(min(ages)) if ages else None
    if not stale:
        return Check("exchange", HEALTHY, newest_ms, detail=detail)
    names = ", ".join(f"{row['exchange']} {row['symbol']}" for row in stale[:5])
    status = DOWN if len(stale) == len(rows) else DEGRADED
    return Check("exchange", status, newest_ms, f"{len(stale)} of {len(rows)} feeds are stale: {names}", detail)


def venues(rows: Sequence[Mapping[str, Any]]) -> Check:
    """Return the check of the venues from their reconciliation (name, state, account): down when none is READY."""
    if not rows:
        return Check("venue", UNKNOWN, error="no venue was reconciled yet")
    waiting = [row for row in rows if row["state"] != "READY"]
    detail = {"venues": len(rows), "waiting": len(waiting)}
    if not waiting:
        return Check("venue", HEALTHY, detail=detail)
    names = ", ".join(f"{row['name']} {row['state']}" for row in waiting[:5])
    return Check("venue", DOWN if len(waiting) == len(rows) else DEGRADED, None, names, detail)


def disk(free_mb: float | None, total_mb: float | None, *, free_min_mb: float, place: str) -> Check:
    """Return the check of the disk under FKS_HOME: down below `free_min_mb`, degraded below four times that."""
    if free_mb is None:
        return Check("disk", UNKNOWN, error=f"the disk of {place} cannot be read")
    detail = {"free_mb": round(free_mb), "total_mb": None if total_mb is None else round(total_mb), "place": place}
    if free_mb >= 4 * free_min_mb:
        return Check("disk", HEALTHY, detail=detail)
    text = f"{free_mb:.0f} MB are free under {place}; free some"
    return Check("disk", DOWN if free_mb < free_min_mb else DEGRADED, None, text, detail)


def clock(offset_ms: float | None, error: str | None, *, offset_max_ms: float, response_ms: float | None) -> Check:
    """Return the check of this machine's clock against NTP: degraded beyond `offset_max_ms`, down beyond four times
    that, unknown when no server answers."""
    if offset_ms is None:
        return Check("clock", UNKNOWN, None, error or "no NTP server answers")
    detail = {"offset_ms": round(offset_ms, 3)}
    if abs(offset_ms) <= offset_max_ms:
        return Check("clock", HEALTHY, response_ms, detail=detail)
    text = f"the clock is {offset_ms:+.0f} ms off NTP; look at the time service of this machine"
    return Check("clock", DOWN if abs(offset_ms) > 4 * offset_max_ms else DEGRADED, response_ms, text, detail)


def certificate(days_left: float | None, error: str | None, *, min_days: float, file: str) -> Check:
    """Return the check of the gateway's certificate: down when it has ended or cannot be read."""
    if days_left is None:
        return Check("certificate", DOWN, None, f"{file}: {error or 'cannot be read'}")
    detail = {"days_left": round(days_left, 1), "file": file}
    if days_left >= min_days:
        return Check("certificate", HEALTHY, detail=detail)
    if days_left <= 0:
        return Check("certificate", DOWN, None, f"{file} ended {-days_left:.1f} days ago; renew it", detail)
    return Check("certificate", DEGRADED, None, f"{file} ends in {days_left:.1f} days; renew it", detail)


def backup(age_h: float | None, unproven: str = "", *, max_h: float, is_own_server: bool) -> Check:
    """Return the check of the newest backup: degraded when there is none, it is older than `max_h`, or its restore was
    not proven (`unproven`: why); unknown for a database server of another operator without backups here."""
    if age_h is None:
        if not is_own_server:
            return Check("backup", UNKNOWN, error="the database server is not FKS's own: its operator backs it up")
        return Check("backup", DEGRADED, error="there is no backup; run 'fks db backup' or schedule one")
    detail = {"age_h": round(age_h, 1)}
    if age_h <= max_h and unproven:
        return Check("backup", DEGRADED, None, f"the newest backup is not verified: {unproven}", detail)
    if age_h <= max_h:
        return Check("backup", HEALTHY, detail=detail)
    return Check("backup", DEGRADED, None, f"the newest backup is {age_h:.0f} h old, more than {max_h:g} h", detail)


def queues(
    jobs: int, jobs_wait_s: float | None, signals: int, signals_wait_s: float | None, *, jobs_max_s: float,
    signals_max_s: float,
) -> Check:  # fmt: skip
    """Return the check of the queues: degraded when the oldest job or ready signal waits longer than its limit, down
    when a signal waits ten times that. `*_wait_s` None: nothing waits."""
    detail = {"jobs": jobs, "jobs_wait_s": jobs_wait_s, "signals": signals, "signals_wait_s": signals_wait_s}
    slow = []
    if signals_wait_s is not None and signals_wait_s > signals_max_s:
        slow.append(f"the oldest of {signals} ready signals waits for {signals_wait_s:.0f} s")
    if jobs_wait_s is not None and jobs_wait_s > jobs_max_s:
        slow.append(f"the oldest of {jobs} queued jobs waits for {jobs_wait_s:.0f} s")
    if not slow:
        return Check("queue", HEALTHY, detail=detail)
    is_down = signals_wait_s is not None and signals_wait_s > 10 * signals_max_s
    return Check("queue", DOWN if is_down else DEGRADED, None, "; ".join(slow), detail)
