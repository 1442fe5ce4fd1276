"""`fks alerts`: list, acknowledge and settle alerts; their rules, channels, silences and deliveries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fks.cli.base import as_json, emit, paths_of, table

if TYPE_CHECKING:
    from fks.config.paths import Paths

RESOLVE_S = 2.0
_COLOURS = {"page": "red", "error": "red", "warning": "yellow"}


@click.group(invoke_without_command=True)
@click.option("--all", "is_all", is_flag=True, help="Settled ones too, newest first.")
@click.option("--limit", "-n", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many.")
@as_json
@click.pass_context
def alerts(ctx: click.Context, is_all: bool, limit: int, as_json: bool) -> None:
    """List open alerts. One whose cause is over settles itself."""
    if ctx.invoked_subcommand is not None:
        return
    found = find_alerts(paths_of(ctx), is_all=is_all, limit=limit)
    if as_json:
        emit(found, as_json=True, schema="fks.alerts/1")
        return
    table(
        [
            (
                row["id"],
                str(row["time"])[:19].replace("T", " "),
                click.style(row["severity"], fg=_COLOURS.get(row["severity"])),
                row["component"],
                row["event"],
                row["message"],
                _settled(row),
            )
            for row in found
        ],
        ("id", "time (UTC)", "severity", "from", "event", "message", "settled" if is_all else ""),
        empty="no alerts" if is_all else "no open alerts ('fks alerts --all' shows the settled ones)",
    )


@alerts.command()
@click.argument("ids", nargs=-1, type=click.IntRange(1))
@click.option("--all", "is_all", is_flag=True, help="Every open one.")
@as_json
@click.pass_context
def settle(ctx: click.Context, ids: tuple[int, ...], is_all: bool, as_json: bool) -> None:
    """Settle alerts by their id: you have seen to them."""
    from fks.cli.client import gateway_of
    from fks.model.errors import InputError

    if bool(ids) == is_all:
        raise InputError("name the alerts, or --all", remedy="see 'fks alerts'")
    with gateway_of(ctx) as gateway:
        wanted = ids or [row["id"] for row in gateway.get("/alerts", limit=1000)["items"]]
        done = [gateway.post(f"/alerts/{number}/settle") for number in wanted]
    if as_json:
        emit(done, as_json=True, schema="fks.alerts.settle/1")
    else:
        click.echo(f"{sum(row['is_changed'] for row in done)} settled")


@alerts.command()
@click.argument("ids", nargs=-1, required=True, type=click.IntRange(1))
@as_json
@click.pass_context
def ack(ctx: click.Context, ids: tuple[int, ...], as_json: bool) -> None:
    """Acknowledge alerts: you have seen them, and they are not escalated any more."""
    from fks.cli.client import gateway_of

    with gateway_of(ctx) as gateway:
        done = [gateway.post(f"/alerts/{number}/acknowledge") for number in ids]
    if as_json:
        emit(done, as_json=True, schema="fks.alerts.ack/1")
    else:
        for row in done:
            click.echo(f"{row['id']} acknowledged by {row['acknowledged_by']} at {_time(row['acknowledged_at'])}")


# ── rules ────────────────────────────────────────────────────────────────────────────────────────
@alerts.group(invoke_without_command=True)
@as_json
@click.pass_context
def rules(ctx: click.Context, as_json: bool) -> None:
    """List the rules of alerts; set, switch off and remove them."""
    if ctx.invoked_subcommand is not None:
        return
    from fks.cli.client import gateway_of

    with gateway_of(ctx) as gateway:
        items = gateway.get("/alerts/rules")["items"]
    if as_json:
        emit(items, as_json=True, schema="fks.alerts.rules/1")
        return
    rows = [
        (
            i["name"],
            i["kind"],
            i["on"],
            i["severity"],
            "on" if i["is_enabled"] else "off",
            ", ".join(i["channels"]) or "all",
            f"{i['escalate_after_s']:g} s: {', '.join(i['escalate_to'])}" if i["escalate_to"] else "",
            i["changed_by"] or "fks",
        )
        for i in items
        if not i.get("is_removed")
    ]
    table(rows, ("rule", "kind", "on", "severity", "", "channels", "escalation", "by"), empty="no rules")


@rules.command("set")
@click.argument("name")
@click.argument("fields", nargs=-1, required=True, metavar="FIELD=VALUE...")
@as_json
@click.pass_context
def set_rule(ctx: click.Context, name: str, fields: tuple[str, ...], as_json: bool) -> None:
    """Make a rule, or change FIELDs of one: `set margin kind=threshold on=account.drawdown_percent above=20`.

    A value is JSON, or else text; a list is values with commas between them. Fields: docs/alerts.md.
    """
    from fks.cli.client import gateway_of
    from fks.model.errors import InputError

    change = dict(_field(text) for text in fields)
    with gateway_of(ctx) as gateway:
        known = {row["name"] for row in gateway.get("/alerts/rules")["items"] if not row.get("is_removed")}
        if name not in known and not {"kind", "on"} <= set(change):
            raise InputError(f"there is no rule named {name!r}", remedy="give kind=… and on=… to make it")
        if name in known:
            made = gateway.post(f"/alerts/rules/{name}", change)
        else:
            made = gateway.post("/alerts/rules", {"name": name, **change})
    emit(made, as_json=as_json, schema="fks.alerts.rule/1")
    if not as_json:
        click.echo(f"rule {made['name']} is set", err=True)


@rules.command("remove")
@click.argument("name")
@click.option("--restore", is_flag=True, help="Put the rule that comes with FKS in its place.")
@as_json
@click.pass_context
def remove_rule(ctx: click.Context, name: str, restore: bool, as_json: bool) -> None:
    """Remove a rule; its open alerts are settled."""
    _delete(ctx, f"/alerts/rules/{name}{'?restore=true' if restore else ''}", as_json=as_json)


# ── silences ─────────────────────────────────────────────────────────────────────────────────────
@alerts.command()
@click.option("--event", help="Pattern of the event: child.*")
@click.option("--component", help="Pattern of the part it comes from: collector:*")
@click.option("--minutes", type=float, help="How long.")
@click.option("--reason", default="", help="Why.")
@click.option("--end", "end", type=click.IntRange(1), help="End the silence of this number.")
@as_json
@click.pass_context
def silence(
    ctx: click.Context,
    event: str | None,
    component: str | None,
    minutes: float | None,
    reason: str,
    end: int | None,
    as_json: bool,
) -> None:
    """Hold alerts back for some minutes; without options, list what is held back."""
    from fks.cli.client import gateway_of

    if end is not None:
        _delete(ctx, f"/alerts/silences/{end}", as_json=as_json)
        return
    with gateway_of(ctx) as gateway:
        if minutes is not None:
            body = {"event": event or "*", "component": component or "*", "minutes": minutes, "reason": reason}
            made = gateway.post("/alerts/silences", body)
            emit(made, as_json=as_json, schema="fks.alerts.silence/1")
            if not as_json:
                click.echo(f"silence {made['id']}: {made['event']} of {made['component']} until {_time(made['until'])}")
            return
        if event is not None or component is not None:
            raise click.UsageError("say how long: --minutes")
        items = gateway.get("/alerts/silences")["items"]
    emit(items, as_json=as_json, schema="fks.alerts.silences/1")
    if not as_json:
        rows = [(i["id"], i["event"], i["component"], _time(i["until"]), i["reason"], i["created_by"]) for i in items]
        table(rows, ("id", "event", "from", "until (UTC)", "reason", "by"), empty="nothing is held back")


# ── channels ─────────────────────────────────────────────────────────────────────────────────────
@alerts.group(invoke_without_command=True)
@as_json
@click.pass_context
def channels(ctx: click.Context, as_json: bool) -> None:
    """List where alerts are sent to; add, change, test and remove channels."""
    if ctx.invoked_subcommand is not None:
        return
    from fks.cli.client import gateway_of

    with gateway_of(ctx) as gateway:
        items = gateway.get("/alerts/channels")["items"]
    if as_json:
        emit(items, as_json=True, schema="fks.alerts.channels/1")
        return
    rows = [
        (
            i["name"],
            i["kind"],
            i["severity_min"],
            "on" if i["is_enabled"] else "off" if i["is_readable"] else "sealed by another session key",
            i["sent"],
            i["waiting"],
            i["failed"] + i["unknown"],
            _time(i["last_sent_at"]) if i["last_sent_at"] else "",
            i["last_error"] or "",
        )
        for i in items
    ]
    headers = ("channel", "kind", "from severity", "", "sent", "waiting", "failed", "last (UTC)", "last error")
    table(rows, headers, empty="no channels: alerts are sent to nobody ('fks alerts channels add')")
    for reason in blocked_channels(paths_of(ctx))[1]:
        click.echo(f"{click.style('warning:', fg='yellow')} {reason}", err=True)


def blocked_channels(paths: Paths) -> tuple[int | None, list[str]]:
    """Return how many channels there are (None: the database does not answer), and why some of them send nothing, each
    with the line to add, as far as names are resolved within RESOLVE_S."""
    import threading
    import time

    from fks.alerts.channels import Channel, Sealer, obstacle
    from fks.alerts.directory import Directory
    from fks.cli.status import ask_database
    from fks.config.load import load_settings
    from fks.config.secrets import load_secrets
    from fks.model.errors import FksError
    from fks.store.alerting import AlertingStore

    try:
        alerts, sealer = load_settings(paths.home).alerts, Sealer(load_secrets(paths).session_key)
        found = ask_database(paths, lambda db: Directory(AlertingStore(db), alerts, sealer).channels())
    except FksError:
        return None, []
    reasons: list[str] = []

    def look(channel: Channel) -> None:
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
@as_json
@click.pass_context
def add(ctx: click.Context, name: str, url: str | None, severity_min: str, base: str | None, as_json: bool) -> None:
    """Make a channel, or replace the one of this NAME. Its address is asked for, or read from a pipe.

    Addresses: discord://WEBHOOK_ID/TOKEN, slack://A/B/C, tgram://BOT_TOKEN/CHAT_ID,
    mailtos://USER:PASSWORD@HOST?from=A&to=B, jsons://HOST/PATH (docs/alerts.md).
    """
    import sys

    from fks.cli.client import gateway_of

    if url is None:
        url = click.prompt("address", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    body = {"name": name, "url": str(url).strip(), "severity_min": severity_min, "base": base}
    with gateway_of(ctx) as gateway:
        made = gateway.post("/alerts/channels", body)
    emit(made, as_json=as_json, schema="fks.alerts.channel/1")
    if not as_json:
        click.echo(f"channel {made['name']} ({made['kind']}) is made; try it: fks alerts test {made['name']}", err=True)


@channels.command("change")
@click.argument("name")
@click.option("--severity-min", help="Lowest severity: info, warning, error or page.")
@click.option("--on/--off", "is_on", default=None, help="Switch it on or off.")
@as_json
@click.pass_context
def change_channel(ctx: click.Context, name: str, severity_min: str | None, is_on: bool | None, as_json: bool) -> None:
    """Change the lowest severity of a channel, or switch it on or off."""
    from fks.cli.client import gateway_of

    with gateway_of(ctx) as gateway:
        made = gateway.post(f"/alerts/channels/{name}", {"severity_min": severity_min, "enabled": is_on})
    emit(made, as_json=as_json, schema="fks.alerts.channel/1")
    if not as_json:
        click.echo(f"channel {name} is {'on' if made['is_enabled'] else 'off'}, from {made['severity_min']}", err=True)


@channels.command("remove")
@click.argument("name")
@as_json
@click.pass_context
def remove_channel(ctx: click.Context, name: str, as_json: bool) -> None:
    """Remove a channel, and give up what waits for it."""
    _delete(ctx, f"/alerts/channels/{name}", as_json=as_json)


@alerts.command()
@click.argument("channel")
@as_json
@click.pass_context
def test(ctx: click.Context, channel: str, as_json: bool) -> int:
    """Send a message to a channel, the same way as an alert. Exits with 1 when it was not accepted."""
    from fks.cli.client import gateway_of

    with gateway_of(ctx) as gateway:
        row = gateway.post(f"/alerts/channels/{channel}/test")
    emit(row, as_json=as_json, schema="fks.alerts.delivery/1")
    if not as_json:
        click.echo(f"{row['state']}{': ' + row['error'] if row['error'] else ''}")
    return 0 if row["state"] == "sent" else 1


@alerts.command()
@click.option("--channel", help="Of one channel.")
@click.option("--state", type=click.Choice(["queued", "sending", "sent", "failed", "unknown"]), help="In one state.")
@click.option("--limit", "-n", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many.")
@as_json
@click.pass_context
def deliveries(ctx: click.Context, channel: str | None, state: str | None, limit: int, as_json: bool) -> None:
    """List the messages to channels, newest first."""
    from fks.cli.client import gateway_of

    with gateway_of(ctx) as gateway:
        items = gateway.pages("/alerts/deliveries", limit, channel=channel, state=state)
    emit(items, as_json=as_json, schema="fks.alerts.deliveries/1")
    if not as_json:
        rows = [
            (
                i["id"],
                _time(i["created_at"]),
                i["channel"],
                i["about"],
                ", ".join(map(str, i["alerts"])),
                i["state"] + (", repeated" if i["is_repeat"] else ""),
                i["attempts"],
                i["error"] or "",
            )
            for i in items
        ]
        headers = ("id", "made (UTC)", "channel", "about", "alerts", "state", "attempts", "error")
        table(rows, headers, empty="no messages")


def _delete(ctx: click.Context, path: str, *, as_json: bool) -> None:
    from fks.cli.client import gateway_of

    with gateway_of(ctx) as gateway:
        done = gateway.delete(path)
    emit(done, as_json=as_json, schema="fks.alerts.change/1")
    if not as_json:
        click.echo("done", err=True)


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


def _time(text: object) -> str:
    return str(text)[:19].replace("T", " ")


def find_alerts(paths: Paths, *, is_all: bool, limit: int) -> list[dict[str, Any]]:
    """Return alerts, newest first, from the gateway, else from the database itself. Errors: OutageError, NotRunning."""
    from fks.cli.base import NotRunning
    from fks.cli.client import own_gateway
    from fks.cli.status import ask_database
    from fks.model.errors import OutageError
    from fks.monitor.alerts import listed

    try:
        with own_gateway(paths) as gateway:
            return list(gateway.get("/alerts", all=is_all, limit=limit)["items"])
    except (NotRunning, OutageError):
        return ask_database(paths, lambda db: listed(db, is_all=is_all, limit=limit))


def _settled(row: dict[str, Any]) -> str:
    if not row.get("resolved_at"):
        return ""
    by = (row.get("payload") or {}).get("resolved_by", "")
    return f"{str(row['resolved_at'])[5:19].replace('T', ' ')}{f', {by}' if by else ''}"
