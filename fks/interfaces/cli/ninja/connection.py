"""`fks ninja test` and `fks ninja tail`: the connection to the bridge in NinjaTrader, and its events."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

import click
import orjson

from fks.interfaces.cli.base import as_json, emit, paths_of, settings_of, table
from fks.model.errors import ConfigError

if TYPE_CHECKING:
    from fks.bridge.ninja import outputs as o
    from fks.bridge.ninja.session import Identity
    from fks.bridge.ninja_link.check import Address, Checked
    from fks.config.settings import Ninja, NinjaGroup


@click.command()
@click.option("--pings", type=click.IntRange(1, 1_000), default=20, show_default=True, help="Round trips to measure.")
@click.option("--group", help="Account group. Default: that of [ninja], or the only one of [ninja.groups].")
@as_json
@click.pass_context
def test(ctx: click.Context, pings: int, group: str | None, as_json: bool) -> None:
    """Check the connection to NinjaTrader: secret, status, round trips, clocks.

    Uses [ninja] host, port, group and secret_file. It only looks on, and does not disturb the session that trades.
    Needs no running system.
    """
    show_connection(*identity_of(ctx), pings, "fks.ninja.test/1" if as_json else None)


def show_connection(identity: Identity, address: Address, pings: int, schema: str | None) -> None:
    """Check a connection and print the findings; as JSON with a `schema`. Errors: OutageError, ConfigError."""
    from fks.bridge.ninja_link.check import check_connection
    from fks.clock import RealClock

    checked = asyncio.run(check_connection(identity, address, RealClock(), pings=pings))
    if schema is not None:
        emit(_document(checked, address), as_json=True, schema=schema)
        return
    welcome = checked.welcome
    ms = [f"{checked.share_s(share) * 1000:.2f} ms" for share in (0.5, 0.99, 1.0)]
    click.echo(f"connected to {address.host}:{checked.port}, group {welcome.group}, {welcome.platform}")
    click.echo(f"journal {welcome.epoch}, last event {welcome.last_seq}, oldest kept {welcome.oldest_seq}")
    click.echo(f"ready {_yes(welcome.ready)}, halted {_yes(welcome.halted)}")
    click.echo(f"round trip p50 {ms[0]}, p99 {ms[1]}, max {ms[2]} of {len(checked.round_trips_s)}")
    click.echo(f"the {identity.platform.peer}'s clock is {checked.offset_ms:+d} ms from this machine's")
    found = {account.name: account for account in checked.status.accounts}
    rows = []
    for account in welcome.accounts:
        status = found.get(account.name)
        shown = (status.status, len(status.positions), len(status.orders)) if status else ("–", "–", "–")
        rows.append((account.name, "simulation" if account.sim else "live", account.mode, *shown))
    table(rows, ("account", "kind", "mode", "connection", "positions", "orders"), empty="no accounts")


@click.command()
@click.option("--count", type=click.IntRange(1), help="End after so many events. Default: until Ctrl-C.")
@click.option("--replay", "is_replay", is_flag=True, help="Also show the events that the bridge still keeps.")
@click.option("--group", help="Account group. Default: that of [ninja], or the only one of [ninja.groups].")
@as_json
@click.pass_context
def tail(ctx: click.Context, count: int | None, is_replay: bool, group: str | None, as_json: bool) -> None:
    """Show the events of the bridge as they come: orders, fills, positions, connections, alarms.

    With --json one JSON object a line. Connects again by itself. Needs no running system.
    """
    from fks.bridge.ninja import outputs as o
    from fks.bridge.ninja.strict_json import dumps
    from fks.bridge.ninja_link.check import follow
    from fks.clock import RealClock

    identity, address = identity_of(ctx)
    shown = 0

    def publish(event: o.Event) -> bool:
        nonlocal shown
        if isinstance(event, o.Logged) and (is_replay or not event.event.replay):
            line = dumps(event.event.fields).decode().rstrip("\n")
            click.echo(line if as_json else _shown(event))
            shown += 1
        elif not isinstance(event, o.Logged):
            text = _note(event)
            if text:
                click.echo(text, err=True)
        return count is None or shown < count

    asyncio.run(follow(identity, address, RealClock(), publish))


def identity_of(ctx: click.Context) -> tuple[Identity, Address]:
    """Return the identity that connects, in role `observe`, and the address, for a command with the option --group.
    Errors: ConfigError."""
    from fks.bridge.ninja.session import Identity
    from fks.bridge.ninja_link.check import Address
    from fks.bridge.ninja_link.secret_file import load_secret

    ninja = settings_of(ctx).ninja
    name, group = group_of(ninja, ctx.params["group"])
    secret = load_secret(group.secret_file, paths_of(ctx).home, group.host)
    identity = Identity(name, "observe", uuid.uuid4().hex, secret, "fks cli", line_mac=group.line_mac)
    return identity, Address(group.host, group.port, group.timeout_s)


def group_of(ninja: Ninja, name: str | None) -> tuple[str, NinjaGroup]:
    """Return a group and its bridge: the named one, else the section's own, else the only one of the tables.

    Errors: ConfigError when there is none of this name, or several and no name.
    """
    known = {**ninja.groups, ninja.group: ninja.groups.get(ninja.group) or ninja.single()}
    if name is None:
        names = list(ninja.groups) if ninja.groups and not ninja.enabled else [ninja.group]
        if len(names) > 1:
            raise ConfigError(f"there are the groups {', '.join(names)}", remedy="name one with --group")
        name = names[0]
    if name not in known:
        raise ConfigError(f"no group {name!r}; there are {', '.join(known)}", remedy="write [ninja.groups.NAME]")
    return name, known[name]


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _document(checked: Checked, address: Address) -> dict[str, Any]:
    from fks.bridge.ninja.fields import written

    welcome = {key: value for key, value in written(checked.welcome).items() if key != "mac"}
    return {
        "host": address.host,
        "port": checked.port,
        "round_trip_ms": {
            "p50": checked.share_s(0.5) * 1000, "p99": checked.share_s(0.99) * 1000, "max": checked.share_s(1.0) * 1000,
            "count": len(checked.round_trips_s),
        },
        "offset_ms": checked.offset_ms,
        "welcome": welcome,
        "status": written(checked.status),
    }  # fmt: skip


def _shown(event: o.Logged) -> str:
    from datetime import UTC, datetime

    from fks.bridge.ninja.strict_json import dumps

    at = datetime.fromtimestamp(event.event.at_ms / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]
    hidden = ("t", "seq", "epoch", "at_ms", "kind", "replay")
    rest = {key: value for key, value in event.event.fields.items() if key not in hidden and value is not None}
    values = orjson.loads(dumps(rest))
    text = " ".join(f"{key}={value}" for key, value in values.items())
    return f"{at} {event.event.seq:>6} {event.event.kind:<8} {text}"


def _note(event: o.Event) -> str:
    from fks.bridge.ninja import outputs as o

    match event:
        case o.Welcomed():
            return f"connected to port {event.port}"
        case o.LinkLost():
            return f"disconnected: {event.reason}"
        case o.Waiting():
            return f"no connection ({event.reason}); next attempt in {event.wait_s:.1f} s"
        case o.LogLost():
            return f"events {event.first} to {event.last} are gone"
        case o.Alarm():
            return f"alarm {event.code.value}: {event.detail}"
        case _:
            return ""
