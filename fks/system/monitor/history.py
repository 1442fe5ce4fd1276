"""History of the tree for people: rows of `actor_events` described in plain text.

Rows are written by the supervisor (`fks.store.supervision.TreeJournal`) with the facts of an exit in `payload`
(`fks.system.supervision.exits.Exit`). An unknown event is shown with its own name and reason.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fks.store.db import Querier

_DUMP = "most recent call first"  # of faulthandler, which writes frames the other way round
_OURS = frozenset({"normal", "hung", "unwell", "killed"})

GOOD, PLAIN, WARN, BAD = "good", "plain", "warn", "bad"

#: event -> (its description, its tone)
_EVENTS: dict[str, tuple[str, str]] = {
    "started": ("started", GOOD),
    "adopted": ("taken over alive", PLAIN),
    "exited": ("died", BAD),
    "restarted": ("being restarted", WARN),
    "stopped": ("stopped", PLAIN),
    "asked": ("asked for", PLAIN),
    "stopping": ("being stopped", PLAIN),
    "draining": ("draining", PLAIN),
    "replaced": ("replaced", WARN),
    "removed": ("taken out of the tree", PLAIN),
    "added": ("put into the tree", PLAIN),
    "changed": ("changed", PLAIN),
    "start_failed": ("did not start", BAD),
    "not_adopted": ("could not be taken over", WARN),
    "given_up": ("given up", BAD),
    "retried": ("started again", WARN),
    "cleared": ("escalation ended", GOOD),
    "done": ("done", PLAIN),
    "escalated": ("escalated", BAD),
    "placed": ("placed", PLAIN),
    "isolated": ("set apart", WARN),
    "disabled": ("switched off", BAD),
}
_EXITS: dict[str, tuple[str, str]] = {
    "normal": ("ended in order", PLAIN),
    "crash": ("died", BAD),
    "hung": ("hung, killed", BAD),
    "unwell": ("unwell, ended", WARN),
    "node lost": ("lost with its node", BAD),
    "killed": ("did not end in time, killed", WARN),
    "failed start": ("did not start", BAD),
}


@dataclass(frozen=True, slots=True)
class Description:
    """One event described: `what` happened, `why`, and a tone (good, plain, warn, bad)."""

    what: str
    why: str
    tone: str


def describe(row: Mapping[str, Any]) -> Description:
    """Return a row of `actor_events` described in plain text. Never raises: unknown events keep their own text."""
    event, reason = str(row.get("event", "")), _reason(str(row.get("reason") or ""))
    reason = re.sub(rf"^{re.escape(str(row.get('child')))} \(pid \d+\) died(, )?", "", reason)
    reason = re.sub(r"\bsignal (\d+)$", lambda found: f"{found[0]} ({_signal_name(int(found[1]))})", reason)
    payload = row.get("payload")
    facts: Mapping[str, Any] = payload if isinstance(payload, Mapping) else {}
    if event == "restarted" and row.get("child") == "supervisor":
        return Description("died", "started anew by Ray", WARN)  # no supervisor ran that could note its end
    if event == "exited":
        what, tone = _EXITS.get(str(facts.get("how", "")), _EVENTS["exited"])
        if not facts and reason == "normal":
            return Description("ended in order", "asked", PLAIN)
        return Description(what, why_ended(facts, reason), tone)
    if event == "started" and reason.startswith("epoch "):
        reason = ""  # the epoch has a column of its own
    what, tone = _EVENTS.get(event, (event.replace("_", " "), PLAIN))
    if event in ("restarted", "start_failed") and facts.get("how"):
        return Description(what, why_ended(facts, reason), tone)
    return Description(what, reason, tone)


def why_ended(facts: Mapping[str, Any], reason: str) -> str:
    """Return why a process ended: the signal by its name, the exit code, and the error of its last traceback.

    For a process that we ended the reason is shown instead of the signal.
    """
    parts = [] if facts.get("how") in _OURS else _how(facts)
    text = _reason(reason)
    trail = str(facts.get("traceback") or "")
    error = last_error(trail)
    if error:
        parts.append(error)
    elif text and not (parts and _adds_nothing(text, facts)):
        parts.append(text)
    if place := stuck_in(trail):
        parts.append(f"in {place}")
    return ", ".join(parts)


def _how(facts: Mapping[str, Any]) -> list[str]:
    number, code = facts.get("signal"), facts.get("exit_code")
    if isinstance(number, int):
        seems = ", it seems" if facts.get("is_inferred") else ""
        return [f"signal {number} ({_signal_name(number)}{seems})"]
    return [f"exit code {code}"] if isinstance(code, int) else []


def last_error(traceback: str) -> str:
    """Return the line of a traceback, or of a dump of all threads, that names the error; a dump may have none."""
    lines = [line.strip() for line in traceback.splitlines() if line.strip() and not line.startswith((" ", "\t"))]
    if _DUMP in traceback:
        return next((line for line in lines if line.startswith("Fatal Python error")), "")
    return lines[-1][:200] if lines else ""


def stuck_in(dump: str) -> str:
    """Return where our own code was when all threads were dumped: function, file and line; "" when it is unknown."""
    frames = re.findall(r'File "[^"]*?((?:fks|actors)/[^"]+)", line (\d+) in (\S+)', dump) if _DUMP in dump else []
    if not frames:
        return ""
    file, line, function = frames[0]
    return f"{function} ({file}:{line})"


def _reason(reason: str) -> str:
    """Return a reason without what the column before it shows already."""
    text = reason.strip().removeprefix("died: ").removeprefix("hung: ").removeprefix("unwell: ").strip()
    if "Worker exit type: SYSTEM_ERROR" in text or "connection error code 2" in text:
        return "its process ended without a word (kill -9, out of memory, a crash in native code)"
    if "killed by `ray.kill`" in text or "ray.kill()" in text:
        return "killed through Ray"
    return "" if text == "died" else text


def _adds_nothing(reason: str, facts: Mapping[str, Any]) -> bool:
    """Return whether a reason only repeats the signal or the code, in Ray's words or ours."""
    low = reason.lower()
    if isinstance(facts.get("signal"), int) and _signal_name(facts["signal"]).lower() in low:
        return True
    number, code = facts.get("signal"), facts.get("exit_code")
    known = [f"signal {number}", f"sig {number}"] if isinstance(number, int) else [f"code {code}", f"exit {code}"]
    return any(part in low for part in known) or "worker exit" in low or "without a word" in low or "end of file" in low


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "?"


def event_view(row: Mapping[str, Any], *, is_full: bool = True) -> dict[str, Any]:
    """Return a row for JSON, with its description; without `is_full` the log lines and the traceback are left out."""
    description = describe(row)
    view = {key: row[key] for key in ("id", "time", "child", "event", "reason", "pid", "epoch", "node")}
    payload = dict(row.get("payload") or {})
    if not is_full:
        payload = {key: value for key, value in payload.items() if key not in ("last_lines", "traceback")}
    return {**view, "payload": payload, "what": description.what, "why": description.why, "tone": description.tone}


async def events(
    db: Querier,
    *,
    child: str | None = None,
    since: datetime | None = None,
    after: int | None = None,
    limit: int = 100,
    is_full: bool = False,
) -> list[dict[str, Any]]:
    """Return the newest `limit` events as they were written, in the order in which they happened, oldest first. `child`
    also means those it names: strategy means strategy:0; `after`: only ids above it. Errors: OutageError."""
    rows: Sequence[Any] = await db.fetch("monitor.events", child, since, after, limit)
    return sorted((event_view(dict(row), is_full=is_full) for row in rows), key=lambda row: (row["time"], row["id"]))
