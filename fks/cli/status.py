"""`fks status`: what runs and how it is, from the gateway, else from the keeper, else from the database itself."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from fks.cli.base import NOT_RUNNING, OK, as_json, emit, paths_of, table

if TYPE_CHECKING:
    from fks.config.paths import Paths

COLOURS = {
    "healthy": "green", "ready": "green", "running": "green", "LIVE": "green", "READY": "green", "done": "green",
    "starting": "cyan", "waiting": "cyan", "BACKFILL": "cyan", "SYNCING": "cyan", "restarting": "yellow",
    "degraded": "yellow", "STALE": "yellow", "silent": "red", "down": "red", "failed": "red", "stopped": "red",
}  # fmt: skip
DOWN: dict[str, Any] = {
    "state": "down", "reasons": ["nothing runs"], "components": [], "feeds": [], "venues": [],
    "kill": {"engaged": None}, "sim": None,
}  # fmt: skip


@click.command()
@as_json
@click.option("--watch", "-w", is_flag=True, help="Show it again every two seconds until Ctrl-C.")
@click.pass_context
def status(ctx: click.Context, as_json: bool, watch: bool) -> int:
    """Show components, feeds, venues and the kill switch. Exit 3 when nothing runs."""
    paths = paths_of(ctx)
    while True:
        document = find_status(paths)
        if as_json:
            emit(document, as_json=True, schema="fks.status/1")
        else:
            if watch:
                click.clear()
            _show(document, paths)
        if not watch:
            return NOT_RUNNING if document["state"] == "down" and not document["components"] else OK
        _pause(2.0)


def find_status(paths: Paths) -> dict[str, Any]:
    """Return the status document from whoever can tell it; DOWN when nobody can. Never raises for what is not running."""
    from fks.model.errors import FksError

    for ask in (_from_gateway, _from_keeper, _from_database):
        try:
            return ask(paths)
        except (FksError, OSError, KeyError):
            continue
    return {**DOWN, "kill": _kill_from_file(paths)}


def _kill_from_file(paths: Paths) -> dict[str, Any]:
    """Return what the guardian's own journal says: it holds whether or not anything runs."""
    from fks.execution.guardian import read_kill

    record = read_kill(paths.kill_file)
    if record is None or not record.is_engaged:
        return {"engaged": False}
    return {"engaged": True, "scope": record.scope, "reason": record.reason, "by": record.by}


def _from_gateway(paths: Paths) -> dict[str, Any]:
    import httpx

    from fks.config.endpoints import load_node
    from fks.model.errors import OutageError

    node = load_node(paths)
    token = paths.cli_token_file.read_text().strip()
    try:
        answer = httpx.get(
            f"http://{node.http['host']}:{node.http['port']}/api/status",
            headers={"Authorization": f"Bearer {token}"}, timeout=3.0, trust_env=False,
        )  # fmt: skip
        answer.raise_for_status()
        # the node file is newer than what a gateway read when it started: the exchange may have another pid by now
        return {**_document(answer.json()), "sim": node.sim, "source": "gateway"}
    except (httpx.HTTPError, ValueError) as error:
        raise OutageError("the gateway does not answer") from error


def _from_keeper(paths: Paths) -> dict[str, Any]:
    from fks.cli.keeper.door import ask

    return _document(ask(paths.keeper_socket, "status")["status"])


def _from_database(paths: Paths) -> dict[str, Any]:
    """Ask PostgreSQL itself: both the gateway and the keeper are dead, the journal may live."""
    import asyncio

    from fks.config.endpoints import load_node
    from fks.config.settings import Database as Settings
    from fks.monitor.status import assemble
    from fks.store.db import Database

    node = load_node(paths)

    async def read() -> dict[str, Any]:
        db = await Database.connect(node.database_url, Settings(pool_max=1), application="status", retry_s=0.0)
        try:
            return await assemble(db, node)
        finally:
            await db.close()

    return {**_document(asyncio.run(read())), "source": "database"}


def _document(found: Any) -> dict[str, Any]:
    """Return `found` when it is a status document. Errors: KeyError."""
    if not isinstance(found, dict):
        raise KeyError("state")
    return {**found, **{name: found[name] for name in ("state", "components", "feeds", "venues", "kill")}}


def _show(document: dict[str, Any], paths: Paths) -> None:
    state = str(document["state"])
    told_by = f"  (told by the {document['source']})" if document.get("source") not in (None, "gateway") else ""
    click.echo(f"{_paint(state, bold=True)}  {paths.home}{told_by}")
    for reason in document.get("reasons", [])[:8]:
        click.echo(f"  {click.style('·', fg='yellow')} {reason}")
    if state == "down" and not document["components"]:
        click.echo("start it with 'fks up'")
        return
    click.echo()
    table(
        [
            (
                c["name"],
                c["kind"],
                _paint(c["state"]),
                c["pid"],
                c["restarts"],
                age(c.get("since")),
                beat(c["heartbeat_age_ms"]),
            )
            for c in document["components"]
        ],
        ("component", "kind", "state", "pid", "restarts", "up", "beat"),
    )
    click.echo()
    table([(f["exchange"], f["symbol"], _paint(f.get("state", "")), beat(f["age_ms"])) for f in document["feeds"]],
          ("exchange", "symbol", "feed", "last message"), empty="no feeds yet")  # fmt: skip
    click.echo()
    table([(v["name"], _paint(v["state"]), v.get("account", ""), v.get("detail") or "") for v in document["venues"]],
          ("venue", "state", "account", ""), empty="no venues yet")  # fmt: skip
    click.echo()
    _show_kill(document["kill"])
    for alert in document.get("alerts", [])[:5]:
        at = str(alert.get("time", ""))[5:19].replace("T", " ")
        click.echo(f"{click.style('alert', fg='red', bold=True)} {at} {alert.get('component', '')}: {alert.get('message', '')}")
    if document.get("sim"):
        click.echo(f"exchange: local, {document['sim'].get('rest')}")
    if base := _gateway_url(paths):
        click.echo(f"gateway: {base}, monitor page: {base}/monitor/")


def _gateway_url(paths: Paths) -> str:
    from fks.cli.client import base_url_of
    from fks.model.errors import FksError

    try:
        return base_url_of(paths)
    except FksError:
        return ""


def _show_kill(kill: dict[str, Any]) -> None:
    if kill.get("engaged"):
        why = f"{kill.get('scope', '')} by {kill.get('by', '')}: {kill.get('reason', '')}"
        click.echo(click.style(f"kill switch ENGAGED, {why}; release it with 'fks resume'", fg="red", bold=True))
    else:
        click.echo("kill switch: " + ("not engaged" if kill.get("engaged") is False else "unknown"))


def _paint(word: str, *, bold: bool = False) -> str:
    return click.style(word, fg=COLOURS.get(word, "white"), bold=bold)


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
