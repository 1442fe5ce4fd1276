"""`fks monitor`: health of the services, the registry, and the deep checks, through the gateway."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from fks.cli.base import as_json, emit, table
from fks.cli.client import gateway_of
from fks.cli.shown import time_of

_COLOURS = {"healthy": "green", "degraded": "yellow", "down": "red"}
_WINDOWS = ("24h", "7d", "30d")


@click.group(invoke_without_command=True)
@as_json
@click.pass_context
def monitor(ctx: click.Context, as_json: bool) -> None:
    """Show the services with their uptime, and the results of the last deep checks."""
    if ctx.invoked_subcommand is not None:
        return
    with gateway_of(ctx) as gateway:
        found = gateway.get("/monitor/api/health/")
    emit(found, as_json=as_json, schema="fks.monitor/1")
    if as_json:
        return
    rows = [(row["name"], *_seen(row), "; ".join(row["because"] or row["unhealthy"])) for row in found["services"]]
    table(rows, ("SERVICE", "STATUS", "24 H", "7 D", "30 D", "BECAUSE OF"), empty="no services")
    click.echo()
    rows = [(row["service"], *_seen(row), row["error"] or "") for row in found["checks"]]
    table(
        rows,
        ("CHECK", "STATUS", "24 H", "7 D", "30 D", "FOUND"),
        empty="no deep checks yet: they run every two minutes, or 'fks monitor check'",
    )


@monitor.command()
@as_json
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> None:
    """Run the deep checks now; exit 1 when one is down."""
    with gateway_of(ctx) as gateway:
        found = gateway.post("/monitor/api/check/")
    emit(found, as_json=as_json, schema="fks.monitor-check/1")
    if not as_json:
        rows = [
            (r["service"], _coloured(r["status"]), _ms(r["response_ms"]), r["error"] or "") for r in found["checks"]
        ]
        table(rows, ("CHECK", "STATUS", "RESPONSE", "FOUND"))
    if any(row["status"] == "down" for row in found["checks"]):
        raise click.exceptions.Exit(1)


@monitor.command()
@click.argument("service")
@as_json
@click.pass_context
def show(ctx: click.Context, service: str, as_json: bool) -> None:
    """Show one service or check: its dependencies, and its last checks."""
    with gateway_of(ctx) as gateway:
        found = gateway.get(f"/monitor/api/health/{quote(service, safe='')}/")
    emit(found, as_json=as_json, schema="fks.monitor-service/1")
    if as_json:
        return
    click.echo(f"{service} is {_coloured(found['status'])}")
    for need in found.get("depends_on", ()):
        kind = "critical" if need["is_critical"] else "optional"
        click.echo(f"  needs {need['name']} ({kind}): {_coloured(need['status'])}")
    rows = [(time_of(r["at"]), r["status"], r["reported"], _ms(r["response_ms"]), r["error"]) for r in found["history"]]
    table(rows, ("TIME (UTC)", "STATUS", "REPORTED", "RESPONSE", "FOUND"), empty="no checks yet")


@monitor.command()
@as_json
@click.pass_context
def registry(ctx: click.Context, as_json: bool) -> None:
    """List the registry: services, services of others, nodes and components."""
    with gateway_of(ctx) as gateway:
        items = gateway.get("/monitor/api/registry/")["services"]
    emit(items, as_json=as_json, schema="fks.monitor-registry/1")
    if not as_json:
        rows = [
            (
                row["name"],
                row["kind"],
                row["service_type"],
                " ".join(row["services"]),
                f"{row['host']}:{row['port']}{row['health_endpoint']}" if row["port"] else row["host"],
                _coloured(row["status"] or ""),
                time_of(row["seen_at"]) or "never",
            )
            for row in items
        ]
        table(rows, ("NAME", "KIND", "TYPE", "PART OF", "WHERE", "STATUS", "SEEN"), empty="nothing is registered")


@monitor.command()
@click.argument("name", required=False)
@click.option("--host", help="Host, one of monitor.hosts in fks.toml.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port.")
@click.option("--type", "service_type", default="", help="Type, e.g. data.")
@click.option("--health-endpoint", default="/health", show_default=True, help="Path that is asked for its health.")
@click.option("--version", default="", help="Its version.")
@as_json
@click.pass_context
def register(
    ctx: click.Context,
    /,
    name: str | None,
    host: str | None,
    port: int | None,
    service_type: str,
    health_endpoint: str,
    version: str,
    as_json: bool,
) -> None:
    """Register FKS's own services again, or service NAME of another system, which is checked every two minutes."""
    body: dict[str, object] = {}
    if name is not None:
        if host is None or port is None:
            raise click.UsageError("give --host and --port")
        body = {
            "name": name,
            "service_type": service_type,
            "host": host,
            "port": port,
            "health_endpoint": health_endpoint,
            "version": version,
        }
    with gateway_of(ctx) as gateway:
        answer = gateway.post("/monitor/api/discover/", body)
    emit(answer, as_json=as_json, schema="fks.monitor-register/1")
    if not as_json:
        names = [name] if name is not None else answer["services"]
        click.echo(f"registered: {', '.join(names) or 'nothing runs'}")


@monitor.command()
@click.argument("name")
@as_json
@click.pass_context
def remove(ctx: click.Context, name: str, as_json: bool) -> None:
    """Remove a service of another system from the registry."""
    with gateway_of(ctx) as gateway:
        answer = gateway.delete(f"/monitor/api/registry/{quote(name, safe='')}/")
    emit(answer, as_json=as_json, schema="fks.monitor-removed/1")
    if not as_json:
        click.echo(f"{name} is removed")


@monitor.command()
@click.argument("service")
@click.argument("depends_on")
@click.option("--critical", is_flag=True, help="Without it the service is down, not degraded.")
@click.option("--remove", "is_removed", is_flag=True, help="It is not needed.")
@as_json
@click.pass_context
def depend(ctx: click.Context, service: str, depends_on: str, critical: bool, is_removed: bool, as_json: bool) -> None:
    """Say that SERVICE needs DEPENDS_ON, a service or a check, or that it does not."""
    with gateway_of(ctx) as gateway:
        if is_removed:
            path = f"/monitor/api/dependencies/{quote(service, safe='')}/{quote(depends_on, safe='')}/"
            answer = gateway.delete(path)
        else:
            body = {"service": service, "depends_on": depends_on, "is_critical": critical}
            answer = gateway.post("/monitor/api/dependencies/", body)
    emit(answer, as_json=as_json, schema="fks.monitor-dependency/1")
    if not as_json:
        how = "does not need" if is_removed else "is down without" if critical else "is degraded without"
        click.echo(f"{service} {how} {depends_on}")


def _seen(row: dict[str, Any]) -> tuple[str, ...]:
    status = _coloured(row["status"]) + (" (flapping)" if row["is_flapping"] else "")
    percents = (row["uptime"].get(window) for window in _WINDOWS)
    return (status, *("" if percent is None else f"{percent:.2f} %" for percent in percents))


def _coloured(status: str) -> str:
    return click.style(status, fg=_COLOURS.get(status))


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.0f} ms"
