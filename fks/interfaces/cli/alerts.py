"""`fks alerts`: list, acknowledge and settle alerts; their rules, channels, silences and deliveries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fks.interfaces.cli.base import Columns, as_json, emit, paths_of, result, table
from fks.interfaces.cli.client import GatewaySession, OwnGateway, gateway_of, gateway_result
from fks.model.errors import InputError

if TYPE_CHECKING:
    from fks.config.paths import Paths

RESOLVE_S = 2.0
_COLOURS = {"page": "red", "error": "red", "warning": "yellow"}
_limit = click.option("--limit", "-n", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many.")


def _time(text: object) -> str:
    return str(text)[:19].replace("T", " ")


def _settled(row: dict[str, Any]) -> str:
    if not row.get("resolved_at"):
        return ""
    by = (row.get("payload") or {}).get("resolved_by", "")
    return f"{str(row['resolved_at'])[5:19].replace('T', ' ')}{f', {by}' if by else ''}"


def _show_alerts(found: list[dict[str, Any]], is_all: bool, **_: Any) -> None:
    columns: Columns = {
        "id": "id",
        "time (UTC)": lambda row: _time(row["time"]),
        "severity": lambda row: click.style(row["severity"], fg=_COLOURS.get(row["severity"])),
        "from": "component",
        "event": "event",
        "message": "message",
        "settled" if is_all else "": _settled,
    }
    table(found, columns, empty="no alerts" if is_all else "no open alerts ('fks alerts --all' shows the settled ones)")


@click.group(invoke_without_command=True)
@click.option("--all", "is_all", is_flag=True, help="Settled ones too, newest first.")
@_limit
@result("fks.alerts/1", _show_alerts)
def alerts(ctx: click.Context, is_all: bool, limit: int) -> Any:
    """List open alerts. One whose cause is over settles itself."""
    return find_alerts(paths_of(ctx), is_all=is_all, limit=limit)


@alerts.command()
@click.argument("ids", nargs=-1, type=click.IntRange(1))
@click.option("--all", "is_all", is_flag=True, help="Every open one.")
@gateway_result("fks.alerts.settle/1", lambda done, **_: f"{sum(row['is_changed'] for row in done)} settled")
def settle(gateway: GatewaySession, ids: tuple[int, ...], is_all: bool) -> Any:
    """Settle alerts by their id: you have seen to them."""
    if bool(ids) == is_all:
        raise InputError("name the alerts, or --all", remedy="see 'fks alerts'")
    wanted = ids or [row["id"] for row in gateway.get("/alerts", limit=1000)["items"]]
    return [gateway.post(f"/alerts/{number}/settle") for number in wanted]


def _show_acknowledged(done: list[dict[str, Any]], **_: Any) -> None:
    for row in done:
        click.echo(f"{row['id']} acknowledged by {row['acknowledged_by']} at {_time(row['acknowledged_at'])}")


@alerts.command()
@click.argument("ids", nargs=-1, required=True, type=click.IntRange(1))
@gateway_result("fks.alerts.ack/1", _show_acknowledged)
def ack(gateway: GatewaySession, ids: tuple[int, ...]) -> Any:
    """Acknowledge alerts: you have seen them, and they are not escalated any more."""
    return [gateway.post(f"/alerts/{number}/acknowledge") for number in ids]


# ── rules ────────────────────────────────────────────────────────────────────────────────────────
def _escalation(rule: dict[str, Any]) -> str:
    return f"{rule['escalate_after_s']:g} s: {', '.join(rule['escalate_to'])}" if rule["escalate_to"] else ""


_RULE: Columns = {
    "rule": "name",
    "kind": "kind",
    "on": "on",
    "severity": "severity",
    "": lambda i: "on" if i["is_enabled"] else "off",
    "channels": lambda i: ", ".join(i["channels"]) or "all",
    "escalation": _escalation,
    "by": lambda i: i["changed_by"] or "fks",
}


def _show_rules(items: list[dict[str, Any]]) -> None:
    table((i for i in items if not i.get("is_removed")), _RULE, empty="no rules")


@alerts.group(invoke_without_command=True)
@gateway_result("fks.alerts.rules/1", _show_rules)
def rules(gateway: GatewaySession) -> Any:
    """List the rules of alerts; set, switch off and remove them."""
    return gateway.get("/alerts/rules")["items"]


def _field(text: str) -> tuple[str, object]:
    """Return the name and value of FIELD=VALUE."""
    import json

    name, sign, value = text.partition("=")
    if not sign:
        raise click.UsageError(f"{text!r} is not FIELD=VALUE")
    if name in ("by", "channels", "escalate_to"):
        return name, [item.strip() for item in value.split(",") if item.strip()]
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


@rules.command("set")
@click.argument("name")
@click.argument("fields", nargs=-1, required=True, metavar="FIELD=VALUE...")
@gateway_result("fks.alerts.rule/1", "rule {0[name]} is set", err=True)
def set_rule(gateway: GatewaySession, name: str, fields: tuple[str, ...]) -> Any:
    """Make a rule, or change FIELDs of one: `set margin kind=threshold on=account.drawdown_percent above=20`.

    A value is JSON, or else text; a list is values with commas between them. Fields: docs/alerts.md.
    """
    change = dict(_field(text) for text in fields)
    known = {row["name"] for row in gateway.get("/alerts/rules")["items"] if not row.get("is_removed")}
    if name in known:
        return gateway.post(f"/alerts/rules/{name}", change)
    if not {"kind", "on"} <= set(change):
        raise InputError(f"there is no rule named {name!r}", remedy="give kind=… and on=… to make it")
    return gateway.post("/alerts/rules", {"name": name, **change})


@rules.command("remove")
@click.argument("name")
@click.option("--restore", is_flag=True, help="Put the rule that comes with FKS in its place.")
@gateway_result("fks.alerts.change/1", "done", err=True)
def remove_rule(gateway: GatewaySession, name: str, restore: bool) -> Any:
    """Remove a rule; its open alerts are settled."""
    return gateway.delete(f"/alerts/rules/{name}{'?restore=true' if restore else ''}")


# ── silences ─────────────────────────────────────────────────────────────────────────────────────
_SILENCE: Columns = {
    "id": "id",
    "event": "event",
    "from": "component",
    "until (UTC)": lambda i: _time(i["until"]),
    "reason": "reason",
    "by": "created_by",
}


@alerts.command()
@click.option("--event", help="Pattern of the event: child.*")
@click.option("--component", help="Pattern of the part it comes from: collector:*")
@click.option("--minutes", type=float, help="How long.")
@click.option("--reason", default="", help="Why.")
@click.option("--end", "end", type=click.IntRange(1), help="End the silence of this number.")
@as_json
@click.pass_context
def silence(ctx: click.Context, /, minutes: float | None, end: int | None, as_json: bool, **given: str | None) -> None:
    """Hold alerts back for some minutes; without options, list what is held back."""
    event, component = given["event"], given["component"]
    with gateway_of(ctx) as gateway:
        if end is not None:
            done, schema = gateway.delete(f"/alerts/silences/{end}"), "fks.alerts.change/1"
        elif minutes is not None:
            body = {**given, "event": event or "*", "component": component or "*", "minutes": minutes}
            done, schema = gateway.post("/alerts/silences", body), "fks.alerts.silence/1"
        elif event is not None or component is not None:
            raise click.UsageError("say how long: --minutes")
        else:
            done, schema = gateway.get("/alerts/silences")["items"], "fks.alerts.silences/1"
    emit(done, as_json=as_json, schema=schema)
    if as_json:
        return
    if end is not None:
        click.echo("done", err=True)
    elif minutes is not None:
        click.echo(f"silence {done['id']}: {done['event']} of {done['component']} until {_time(done['until'])}")
    else:
        table(done, _SILENCE, empty="nothing is held back")


# ── channels ─────────────────────────────────────────────────────────────────────────────────────
_CHANNEL: Columns = {
    "channel": "name",
    "kind": "kind",
    "from severity": "severity_min",
    "": lambda i: "on" if i["is_enabled"] else "off" if i["is_readable"] else "sealed by another session key",
    "sent": "sent",
    "waiting": "waiting",
    "failed": lambda i: i["failed"] + i["unknown"],
    "last (UTC)": lambda i: _time(i["last_sent_at"]) if i["last_sent_at"] else "",
    "last error": "last_error",
}


def _show_channels(items: list[dict[str, Any]]) -> None:
    table(items, _CHANNEL, empty="no channels: alerts are sent to nobody ('fks alerts channels add')")
    for reason in blocked_channels(paths_of(click.get_current_context()))[1]:
        click.echo(f"{click.style('warning:', fg='yellow')} {reason}", err=True)


@alerts.group(invoke_without_command=True)
@gateway_result("fks.alerts.channels/1", _show_channels)
def channels(gateway: GatewaySession) -> Any:
    """List where alerts are sent to; add, change, test and remove channels."""
    return gateway.get("/alerts/channels")["items"]


def blocked_channels(paths: Paths) -> tuple[int | None, list[str]]:
    """Return how many channels there are (None: the database does not answer), and why some of them send nothing, each
    with the line to add, as far as names are resolved within RESOLVE_S."""
    import threading
    import time

    from fks.config.load import load_settings
    from fks.config.secrets import load_secrets
    from fks.interfaces.cli.status import ask_database
    from fks.model.errors import FksError
    from fks.store.alerting import AlertingStore
    from fks.system.alerts.channels import AlertChannel, Sealer, obstacle
    from fks.system.alerts.directory import Directory

    try:
        alerts, sealer = load_settings(paths.home).alerts, Sealer(load_secrets(paths).session_key)
        found = ask_database(paths, lambda db: Directory(AlertingStore(db), alerts, sealer).channels())
    except FksError:
        return None, []
    reasons: list[str] = []

    def look(channel: AlertChannel) -> None:
        if reason := obstacle(channel, alerts.hosts):
            reasons.append(reason)

    looks = [threading.Thread(target=look, args=(channel,), daemon=True) for channel in found]
    end = time.monotonic() + RESOLVE_S
    for each in looks:
        each.start()
    for each in looks:
        each.join(max(end - time.monotonic(), 0.0))
    return len(found), sorted(reasons)


@channels.command()
@click.argument("name")
@click.option("--url", help="Address; better piped or typed when asked, as it holds a token.")
@click.option(
    "--severity-min", default="warning", show_default=True, help="Lowest severity: info, warning, error, page."
)
@click.option("--base", help="Address of the service's API, where it is not the public one.")
@click.option("--user", help="User whom it belongs to: not paged for a kill that this user engaged.")
@gateway_result(
    "fks.alerts.channel/1", "channel {0[name]} ({0[kind]}) is made; try it: fks alerts test {0[name]}", err=True
)
def add(gateway: GatewaySession, url: str | None, **body: Any) -> Any:
    """Make a channel, or replace the one of this NAME. Its address is asked for, or read from a pipe.

    Addresses: discord://WEBHOOK_ID/TOKEN, slack://A/B/C, tgram://BOT_TOKEN/CHAT_ID,
    mailtos://USER:PASSWORD@HOST?from=A&to=B, jsons://HOST/PATH (docs/alerts.md).
    """
    import sys

    if url is None:
        url = click.prompt("address", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    return gateway.post("/alerts/channels", {**body, "url": str(url).strip()})


@channels.command("change")
@click.argument("name")
@click.option("--severity-min", help="Lowest severity: info, warning, error or page.")
@click.option("--on/--off", "enabled", default=None, help="Switch it on or off.")
@gateway_result(
    "fks.alerts.channel/1",
    lambda made, name, **_: f"channel {name} is {'on' if made['is_enabled'] else 'off'}, from {made['severity_min']}",
    err=True,
)
def change_channel(gateway: GatewaySession, name: str, **body: Any) -> Any:
    """Change the lowest severity of a channel, or switch it on or off."""
    return gateway.post(f"/alerts/channels/{name}", body)


@channels.command("remove")
@click.argument("name")
@gateway_result("fks.alerts.change/1", "done", err=True)
def remove_channel(gateway: GatewaySession, name: str) -> Any:
    """Remove a channel, and give up what waits for it."""
    return gateway.delete(f"/alerts/channels/{name}")


@alerts.command()
@click.argument("channel")
@gateway_result(
    "fks.alerts.delivery/1",
    lambda row, **_: f"{row['state']}{': ' + row['error'] if row['error'] else ''}",
    failed=lambda row: row["state"] != "sent",
)
def test(gateway: GatewaySession, channel: str) -> Any:
    """Send a message to a channel, the same way as an alert. Exits with 1 when it was not accepted."""
    return gateway.post(f"/alerts/channels/{channel}/test")


_DELIVERY: Columns = {
    "id": "id",
    "made (UTC)": lambda i: _time(i["created_at"]),
    "channel": "channel",
    "about": "about",
    "alerts": lambda i: ", ".join(map(str, i["alerts"])),
    "state": lambda i: i["state"] + (", repeated" if i["is_repeat"] else ""),
    "attempts": "attempts",
    "error": "error",
}


@alerts.command()
@click.option("--channel", help="Of one channel.")
@click.option("--state", type=click.Choice(["queued", "sending", "sent", "failed", "unknown"]), help="In one state.")
@_limit
@gateway_result("fks.alerts.deliveries/1", _DELIVERY, empty="no messages")
def deliveries(gateway: GatewaySession, **query: Any) -> Any:
    """List the messages to channels, newest first."""
    return gateway.pages("/alerts/deliveries", **query)


def find_alerts(paths: Paths, *, is_all: bool, limit: int) -> list[dict[str, Any]]:
    """Return alerts, newest first, from the gateway, else from the database itself. Errors: OutageError, NotRunning."""
    from fks.interfaces.cli.base import NotRunning
    from fks.interfaces.cli.status import ask_database
    from fks.model.errors import OutageError
    from fks.system.monitor.alerts import listed

    try:
        with OwnGateway(paths) as gateway:
            return list(gateway.get("/alerts", all=is_all, limit=limit)["items"])
    except (NotRunning, OutageError):
        return ask_database(paths, lambda db: listed(db, is_all=is_all, limit=limit))
