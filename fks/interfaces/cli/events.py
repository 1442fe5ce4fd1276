"""`fks events`: the history of the tree."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from fks.interfaces.cli.base import as_json, emit, paths_of

if TYPE_CHECKING:
    from fks.config.paths import Paths

POLL_S = 0.5
_TONES = {"good": "green", "plain": "white", "warn": "yellow", "bad": "red"}
_ECHOES = frozenset({"restarted", "stopping"})
_ECHOED = frozenset({"exited", "escalated", "asked"})
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.command()
@click.argument("child", required=False)
@click.option("--follow", "-f", is_flag=True, help="Go on with new events until Ctrl-C.")
@click.option("--since", metavar="WHEN", help="Only from then on: 10m, 2h, 1d, or an ISO time (UTC).")
@click.option(
    "--limit", "-n", type=click.IntRange(1, 1000), default=40, show_default=True, help="How many of the last."
)
@click.option("--full", is_flag=True, help="Every row, with the last log lines and the traceback of each end.")
@as_json
@click.pass_context
def events(
    ctx: click.Context, child: str | None, follow: bool, since: str | None, limit: int, full: bool, as_json: bool
) -> None:
    """Show the events of all components: starts, ends with signal or exit code, restarts, escalations (UTC)."""
    paths = paths_of(ctx)
    start = moment(since)
    found = find_events(paths, child=child, since=start, limit=limit, full=full)
    if as_json and not follow:
        emit(found, as_json=True, schema="fks.events/1")
        return
    if not found and not follow:
        click.echo(f"nothing has happened{f' to {child}' if child else ''}{' since then' if since else ' yet'}")
    seen = _print(found, 0, full, as_json)
    while follow:
        threading.Event().wait(POLL_S)
        seen = _print(_later(paths, child, seen, full), seen, full, as_json)


def _print(found: Sequence[dict[str, Any]], seen: int, full: bool, as_json: bool) -> int:
    """Print events; return the highest id seen."""
    import orjson

    if as_json:
        for row in found:
            click.echo(orjson.dumps(row, default=str).decode())
    else:
        for line in lines_of(found if full else fold(found), is_full=full):
            click.echo(line)
    return max([seen, *(int(row["id"]) for row in found)])


def _later(paths: Paths, child: str | None, seen: int, full: bool) -> list[dict[str, Any]]:
    """Return new events; none while neither gateway nor database answers: `--follow` waits."""
    from fks.model.errors import FksError

    try:
        return find_events(paths, child=child, after=seen, limit=1000, full=full)
    except FksError:
        return []


def find_events(
    paths: Paths,
    *,
    child: str | None = None,
    since: datetime | None = None,
    after: int | None = None,
    limit: int = 40,
    full: bool = False,
) -> list[dict[str, Any]]:
    """Return events, oldest first, from the gateway, else from the database itself. Errors: OutageError, NotRunning."""
    from fks.interfaces.cli.base import NotRunning
    from fks.interfaces.cli.client import OwnGateway
    from fks.model.errors import OutageError

    try:
        with OwnGateway(paths) as gateway:
            answer = gateway.get(
                "/system/events",
                child=child,
                since=since.isoformat() if since else None,
                after=after,
                limit=limit,
                full=full,
            )
            return list(answer["items"])
    except (NotRunning, OutageError):
        return _from_database(paths, child, since, after, limit, full)


def _from_database(
    paths: Paths, child: str | None, since: datetime | None, after: int | None, limit: int, full: bool
) -> list[dict[str, Any]]:
    from fks.interfaces.cli.status import ask_database
    from fks.system.monitor.history import events as history

    return ask_database(paths, lambda db: history(db, child=child, since=since, after=after, limit=limit, is_full=full))


def fold(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows without those that only repeat the line before: a restart after an end, a stop after its request,
    for the same reason."""
    kept: list[dict[str, Any]] = []
    last: dict[str, dict[str, Any]] = {}
    for row in rows:
        before = last.get(str(row["child"]), {})
        is_same = before.get("event") == "exited" or before.get("reason") == row["reason"]
        if not (row["event"] in _ECHOES and before.get("event") in _ECHOED and is_same):
            kept.append(row)
        last[str(row["child"])] = row
    return kept


def lines_of(rows: Sequence[Mapping[str, Any]], *, is_full: bool = False) -> list[str]:
    """Return events as lines: time, child, event, reason, and in small print pid, epoch and node."""
    nodes = {row["node"] for row in rows if row.get("node")}
    width = max([12, *(len(str(row["child"])) for row in rows)])
    today = _now().date().isoformat()
    lines = []
    for row in rows:
        at = str(row["time"]).replace(" ", "T")
        when = at[11:19] if at.startswith(today) else f"{at[5:10]} {at[11:19]}"
        tone = _TONES.get(str(row["tone"]), "white")
        small = [f"pid {row['pid']}"] if row["pid"] else []
        small += [f"epoch {row['epoch']}"] if row["epoch"] else []
        small += [f"on {row['node']}"] if row.get("node") and len(nodes) > 1 else []
        parts = [
            click.style(when, fg="bright_black"),
            f"{row['child']!s:<{width}}",
            click.style(f"{row['what']!s:<15}", fg=tone),
            str(row["why"]),
            click.style(", ".join(small), fg="bright_black"),
        ]
        lines.append("  ".join(part for part in parts if part).rstrip())
        if is_full:
            lines += _whole(row)
    return lines


def _whole(row: Mapping[str, Any]) -> list[str]:
    """Return the details below the line: the last log lines and the traceback."""
    payload = row.get("payload") or {}
    found = [f"    {line}" for line in payload.get("last_lines") or []]
    trail = str(payload.get("traceback") or "").rstrip()
    return found + [click.style(f"    {line}", fg="red") for line in trail.splitlines()]


def moment(text: str | None) -> datetime | None:
    """Return the time that "10m", "2h", "1d" (ago) or an ISO time means. Errors: InputError."""
    from fks.model.errors import InputError

    if text is None:
        return None
    try:
        if text[:-1].isdecimal() and text[-1] in _UNITS:
            return _now() - timedelta(seconds=int(text[:-1]) * _UNITS[text[-1]])
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):  # no time; a time before the year 1
        raise InputError(f"{text!r} is no time", remedy="use 10m, 2h, 1d or 2026-05-01T12:00:00Z") from None


def _now() -> datetime:
    from fks.clock import RealClock
    from fks.model.timeframe import to_datetime

    return to_datetime(RealClock().now_ns())
