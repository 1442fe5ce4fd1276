"""`fks status`: components and their states, from the gateway, else from the keeper, else from the database itself."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fks.interfaces.cli.base import NOT_RUNNING, OK, as_json, emit, paths_of

if TYPE_CHECKING:
    from fks.config.paths import Paths
    from fks.store.db import Database

T = TypeVar("T")
COLOURS = {
    "healthy": "green",
    "ready": "green",
    "running": "green",
    "LIVE": "green",
    "READY": "green",
    "done": "green",
    "starting": "cyan",
    "waiting": "cyan",
    "BACKFILL": "cyan",
    "SYNCING": "cyan",
    "DOWN": "red",
    "restarting": "yellow",
    "degraded": "yellow",
    "draining": "yellow",
    "stopping": "yellow",
    "STALE": "yellow",
    "silent": "red",
    "down": "red",
    "failed": "red",
    "stopped": "red",
    "queued": "cyan",
    "RUNNING": "green",
    "DISABLED": "red",
    "CRASHED": "red",
}
DOWN: dict[str, Any] = {
    "state": "down",
    "reasons": ["nothing runs"],
    "components": [],
    "feeds": [],
    "venues": [],
    "kill": {"engaged": None},
    "sim": None,
}


@click.command()
@as_json
@click.option("--watch", "-w", is_flag=True, help="Show it again every second until Ctrl-C.")
@click.option("--wide", is_flag=True, help="Node, version and configuration version even where all are the same.")
@click.pass_context
def status(ctx: click.Context, as_json: bool, watch: bool, wide: bool) -> int:
    """Show components, feeds, venues and the kill switch. Exit 3 when nothing runs."""
    paths = paths_of(ctx)
    if watch and not as_json:
        from fks.interfaces.cli.redraw import watch as redraw

        redraw(lambda width: _lines(find_status(paths), paths, wide), every_s=1.0)
        return OK
    while True:
        document = find_status(paths)
        if as_json:
            emit(document, as_json=True, schema="fks.status/1")
        else:
            for line in _lines(document, paths, wide):
                click.echo(line)
        if not watch:
            return NOT_RUNNING if document["state"] == "down" and not document["components"] else OK
        _pause(1.0)


def find_status(paths: Paths) -> dict[str, Any]:
    """Return the status document of the first source that answers; DOWN when none does. Never raises for a part that
    does not run."""
    from fks.model.errors import FksError

    for ask in (_from_gateway, _from_keeper, _from_database):
        try:
            return ask(paths)
        except (FksError, OSError, KeyError):
            continue
    return {**DOWN, "kill": _kill_from_file(paths)}


def _kill_from_file(paths: Paths) -> dict[str, Any]:
    """Return the kill state in the guardian's own journal: it holds whether or not anything runs."""
    from fks.trading.guardian.journal import read_kills

    records = read_kills(paths.kill_file)
    if not records:
        return {"engaged": False}
    newest, scopes = records[0], [record.scope for record in records]
    return {"engaged": True, "scope": newest.scope, "reason": newest.reason, "by": newest.by, "scopes": scopes}


def _from_gateway(paths: Paths) -> dict[str, Any]:
    import httpx

    from fks.config.endpoints import load_node
    from fks.model.errors import OutageError

    node = load_node(paths)
    token = paths.cli_token_file.read_text().strip()
    try:
        answer = httpx.get(
            f"{node.gateway_url}/api/status",
            headers={"Authorization": f"Bearer {token}"},
            timeout=3.0,
            trust_env=False,
            verify=node.tls_context() or True,
        )
        answer.raise_for_status()
        # the node file is newer than what a gateway read when it started: the exchange may have another pid by now
        return {**_document(answer.json()), "sim": node.sim, "source": "gateway"}
    except (httpx.HTTPError, ValueError) as error:
        raise OutageError("the gateway does not answer") from error


def _from_keeper(paths: Paths) -> dict[str, Any]:
    from fks.system.node.control_socket import ask

    return _document(ask(paths.keeper_socket, "status")["status"])


def _from_database(paths: Paths) -> dict[str, Any]:
    """Query PostgreSQL itself: both the gateway and the keeper are dead, the journal may live."""
    from fks.config.endpoints import load_node
    from fks.system.monitor.status import assemble

    node = load_node(paths)
    return {**_document(ask_database(paths, lambda db: assemble(db, node))), "source": "database"}


async def read_database(paths: Paths, read: Callable[[Database], Awaitable[T]]) -> T:
    """Return the result of `read` on this node's database, without anything else running. Errors: OutageError."""
    from fks.config.endpoints import load_node
    from fks.config.settings import DatabaseSettings as Settings
    from fks.interfaces.cli.store import on_database

    url = load_node(paths).database_url
    return await on_database(url, read, Settings(pool_max=1), application="fks-cli", retry_s=0.0)


def ask_database(paths: Paths, read: Callable[[Database], Awaitable[T]]) -> T:
    """Return the result of `read_database`, outside of an event loop. Errors: OutageError."""
    import asyncio

    return asyncio.run(read_database(paths, read))


def _document(found: Any) -> dict[str, Any]:
    """Return `found` when it is a status document. Errors: KeyError."""
    if not isinstance(found, dict):
        raise KeyError("state")
    return {**found, **{name: found[name] for name in ("state", "components", "feeds", "venues", "kill")}}


def _lines(document: dict[str, Any], paths: Paths, is_wide: bool) -> list[str]:
    """Return the whole page as lines, with colours."""
    state = str(document["state"])
    origin = f"  (from the {document['source']})" if document.get("source") not in (None, "gateway") else ""
    lines = [f"{paint(state, bold=True)}  {paths.home}{origin}"]
    lines += [f"  {click.style('·', fg='yellow')} {reason}" for reason in document.get("reasons", [])[:8]]
    if state == "down" and not document["components"]:
        return [*lines, "start it with 'fks up'"]
    for part in (
        _nodes(document, is_wide),
        _components(document["components"], is_wide),
        _feeds(document),
        _venues(document),
        _strategies(document),
        _operations(document),
    ):
        lines += ["", *part] if part else []
    lines += ["", _kill(document["kill"]), *_alerts(document.get("alerts", []))]
    if document.get("sim"):
        lines.append(f"exchange: local, {document['sim'].get('rest')}")
    if base := _gateway_url(paths):
        page = _monitor_page(paths, base)
        lines.append(f"gateway: {base}" + (f", monitor page: {page}" if page else ""))
    return lines


def _table(headers: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str = "") -> list[str]:
    from fks.interfaces.cli.redraw import columns

    if not rows:
        return [empty] if empty else []
    head = [click.style(name, bold=True) if name else "" for name in headers]
    return columns(head, [["" if cell is None else str(cell) for cell in row] for row in rows])


def _components(rows: Sequence[Mapping[str, Any]], is_wide: bool) -> list[str]:
    """Return the components; node, version and configuration version only where they differ."""
    extra = [key for key in ("node", "version", "config_version") if is_wide or differ(rows, key)]
    titles = [key.replace("_version", "") for key in extra]
    return _table(
        ("component", "kind", "state", "pid", "restarts", "up", "beat", *titles, ""),
        [
            (
                c["name"],
                c["kind"],
                paint(c["state"]),
                c["pid"],
                c["restarts"],
                age(c.get("since")),
                beat(c["heartbeat_age_ms"]),
                *(_extra(c, key) for key in extra),
                click.style(c.get("problem") or "", fg="yellow"),
            )
            for c in rows
        ],
    )


def _extra(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if key == "config_version":  # version of the runtime settings; without one the file counts
        return str(value or "file") if row["kind"] in ("actor", "serve") else ""
    return str(value or "")


def differ(rows: Sequence[Mapping[str, Any]], key: str) -> bool:
    """Return whether the components disagree in `key`; one without it (a program that is not ours) does not count."""
    if key == "config_version":
        return len({row.get(key) or 0 for row in rows if row["kind"] in ("actor", "serve")}) > 1
    return len({row[key] for row in rows if row.get(key)}) > 1


def _nodes(document: Mapping[str, Any], is_wide: bool) -> list[str]:
    nodes = document.get("nodes") or []
    if len(nodes) < 2 and not is_wide:
        return []
    return _table(
        ("node", "role", "state", "address", "beat", "clock", "version"),
        [
            (
                n["name"],
                n["role"] if n["role"] != "standby" else f"standby, {n['detail'].get('behind_s')} s behind",
                paint(n["state"]),
                n["address"],
                beat(n["beat_age_ms"]),
                "" if n.get("clock_skew_ms") is None else f"{n['clock_skew_ms']:+.0f} ms",
                n.get("version"),
            )
            for n in nodes
        ],
    )


def _feeds(document: Mapping[str, Any]) -> list[str]:
    rows = [(f["exchange"], f["symbol"], paint(f.get("state", "")), beat(f["age_ms"])) for f in document["feeds"]]
    return _table(("exchange", "symbol", "feed", "last message"), rows, empty="no feeds yet")


def _venues(document: Mapping[str, Any]) -> list[str]:
    rows = [(v["name"], paint(v["state"]), v.get("account", ""), v.get("detail") or "") for v in document["venues"]]
    return _table(("venue", "state", "account", ""), rows, empty="no venues yet")


def _strategies(document: Mapping[str, Any]) -> list[str]:
    """Return the strategy instances in trouble: isolated in a process of their own, switched off, or held by an
    error."""
    rows = []
    for s in document.get("strategies") or []:
        marks = [] if s["is_enabled"] else [click.style("switched off", fg="red")]
        marks += [click.style("set apart", fg="yellow")] if s["is_isolated"] else []
        why = str(s["error"] or "").strip().splitlines()
        rows.append(
            (s["id"], s["symbol"], paint(s["state"]), " ".join(marks), s["crashes"], why[-1][:120] if why else "")
        )
    return _table(("strategy", "symbol", "state", "", "crashes", "last error"), rows)


def _operations(document: Mapping[str, Any]) -> list[str]:
    rows = [
        (
            o["kind"],
            o["target"],
            paint(o["state"]),
            o["error"] or o["progress"],
            o["requested_by"],
            age(o["created_at"]) + " ago",
        )
        for o in document.get("operations") or []
    ]
    return _table(("operation", "of", "state", "", "by", "asked"), rows)


def _alerts(alerts: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for alert in alerts[:5]:
        at = str(alert.get("time", ""))[5:19].replace("T", " ")
        lines.append(
            f"{click.style('alert', fg='red', bold=True)} {at} {alert.get('component', '')}: {alert.get('message', '')}"
            f"{click.style('  #' + str(alert['id']), fg='bright_black') if alert.get('id') else ''}"
        )
    if len(alerts) > 5:
        lines.append(
            f"      and {len(alerts) - 5} more: 'fks alerts'; settle what you have seen to with 'fks alerts settle'"
        )
    return lines


def _gateway_url(paths: Paths) -> str:
    from fks.interfaces.cli.client import base_url_of
    from fks.model.errors import FksError

    try:
        return base_url_of(paths)
    except FksError:
        return ""


def _monitor_page(paths: Paths, base: str) -> str:
    from fks.config.load import load_settings
    from fks.interfaces.cli.client import monitor_page
    from fks.model.errors import FksError

    try:
        return monitor_page(base, load_settings(paths.home))
    except FksError:  # a file that was broken after the start: what runs is shown all the same
        return ""


def _kill(kill: Mapping[str, Any]) -> str:
    from fks.model.kill import resume_command

    if kill.get("engaged"):
        why = f"{kill.get('scope', '')} by {kill.get('by', '')}: {kill.get('reason', '')}"
        scopes = kill.get("scopes") or [kill.get("scope") or "system"]
        end = ", ".join(f"'{resume_command(scope)}'" for scope in scopes)
        return click.style(f"kill switch ENGAGED, {why}; release it with {end}", fg="red", bold=True)
    return "kill switch: " + ("not engaged" if kill.get("engaged") is False else "unknown")


def paint(state: str, *, bold: bool = False) -> str:
    """Return a state in its colour."""
    return click.style(state, fg=COLOURS.get(state, "white"), bold=bold)


def beat(age_ms: int | None) -> str:
    """Return an age in milliseconds as people read it."""
    if age_ms is None:
        return "never"
    return f"{age_ms} ms" if age_ms < 1000 else duration(age_ms / 1000)


def age(since: object) -> str:
    """Return how long ago an ISO time was."""
    from datetime import datetime

    try:
        moment = datetime.fromisoformat(str(since))
    except ValueError:
        return ""
    return duration(time.time() - moment.timestamp())


def duration(seconds: float) -> str:
    """Return seconds as 42 s, 3 m 10 s, 2 h 5 m or 4 d 2 h."""
    whole = max(0, int(seconds))
    for size, unit, lower, lower_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // lower} {lower_unit}"
    return f"{whole} s"


def _pause(seconds: float) -> None:
    import threading

    threading.Event().wait(seconds)
