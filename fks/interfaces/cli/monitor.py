"""`fks monitor`: health of the services, the registry, and the deep checks, through the gateway."""

from __future__ import annotations

from typing import Any

import click

from fks.interfaces.cli.base import table
from fks.interfaces.cli.client import GatewaySession, gateway_result, path_of
from fks.interfaces.cli.shown import at, time_of

_COLOURS = {"healthy": "green", "degraded": "yellow", "down": "red"}
_WINDOWS = ("24h", "7d", "30d")


def _show_health(found: dict[str, Any]) -> None:
    rows = [(row["name"], *_seen(row), "; ".join(row["because"] or row["unhealthy"])) for row in found["services"]]
    table(rows, ("SERVICE", "STATUS", "24 H", "7 D", "30 D", "BECAUSE OF"), empty="no services")
    click.echo()
    rows = [(row["service"], *_seen(row), row["error"] or "") for row in found["checks"]]
    table(
        rows,
        ("CHECK", "STATUS", "24 H", "7 D", "30 D", "FOUND"),
        empty="no deep checks yet: they run every two minutes, or 'fks monitor check'",
    )


@click.group(invoke_without_command=True)
@gateway_result("fks.monitor/1", _show_health)
def monitor(gateway: GatewaySession) -> Any:
    """Show the services with their uptime, and the results of the last deep checks."""
    return gateway.get("/monitor/api/health/")


@monitor.command()
@gateway_result(
    "fks.monitor-check/1",
    {
        "CHECK": "service",
        "STATUS": lambda row: _coloured(row["status"]),
        "RESPONSE": lambda row: _ms(row["response_ms"]),
        "FOUND": "error",
    },
    items="checks",
    failed=lambda found: any(row["status"] == "down" for row in found["checks"]),
)
def check(gateway: GatewaySession) -> Any:
    """Run the deep checks now; exit 1 when one is down."""
    return gateway.post("/monitor/api/check/")


def _show_service(found: dict[str, Any], service: str) -> None:
    click.echo(f"{service} is {_coloured(found['status'])}")
    for need in found.get("depends_on", ()):
        kind = "critical" if need["is_critical"] else "optional"
        click.echo(f"  needs {need['name']} ({kind}): {_coloured(need['status'])}")
    rows = [(time_of(r["at"]), r["status"], r["reported"], _ms(r["response_ms"]), r["error"]) for r in found["history"]]
    table(rows, ("TIME (UTC)", "STATUS", "REPORTED", "RESPONSE", "FOUND"), empty="no checks yet")


@monitor.command()
@click.argument("service")
@gateway_result("fks.monitor-service/1", _show_service)
def show(gateway: GatewaySession, service: str) -> Any:
    """Show one service or check: its dependencies, and its last checks."""
    return gateway.get(path_of("monitor", "api", "health", service, ""))


@monitor.command()
@gateway_result(
    "fks.monitor-registry/1",
    {
        "NAME": "name",
        "KIND": "kind",
        "TYPE": "service_type",
        "PART OF": lambda row: " ".join(row["services"]),
        "WHERE": lambda row: f"{row['host']}:{row['port']}{row['health_endpoint']}" if row["port"] else row["host"],
        "STATUS": lambda row: _coloured(row["status"] or ""),
        "SEEN": at("seen_at", "never"),
    },
    empty="nothing is registered",
)
def registry(gateway: GatewaySession) -> Any:
    """List the registry: services, services of others, nodes and components."""
    return gateway.get("/monitor/api/registry/")["services"]


@monitor.command()
@click.argument("name", required=False)
@click.option("--host", help="Host, one of monitor.hosts in fks.toml.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port.")
@click.option("--type", "service_type", default="", help="Type, e.g. data.")
@click.option("--health-endpoint", default="/health", show_default=True, help="Path that is asked for its health.")
@click.option("--version", default="", help="Its version.")
@gateway_result(
    "fks.monitor-register/1",
    lambda answer, name, **_: f"registered: {name or ', '.join(answer['services']) or 'nothing runs'}",
)
def register(gateway: GatewaySession, **body: Any) -> Any:
    """Register FKS's own services again, or service NAME of another system, which is checked every two minutes."""
    if body["name"] is not None and (body["host"] is None or body["port"] is None):
        raise click.UsageError("give --host and --port")
    return gateway.post("/monitor/api/discover/", body if body["name"] is not None else {})


@monitor.command()
@click.argument("name")
@gateway_result("fks.monitor-removed/1", "{name} is removed")
def remove(gateway: GatewaySession, name: str) -> Any:
    """Remove a service of another system from the registry."""
    return gateway.delete(path_of("monitor", "api", "registry", name, ""))


def _needed(_: object, service: str, depends_on: str, critical: bool, is_removed: bool) -> str:
    how = "does not need" if is_removed else "is down without" if critical else "is degraded without"
    return f"{service} {how} {depends_on}"


@monitor.command()
@click.argument("service")
@click.argument("depends_on")
@click.option("--critical", is_flag=True, help="Without it the service is down, not degraded.")
@click.option("--remove", "is_removed", is_flag=True, help="It is not needed.")
@gateway_result("fks.monitor-dependency/1", _needed)
def depend(gateway: GatewaySession, service: str, depends_on: str, critical: bool, is_removed: bool) -> Any:
    """Say that SERVICE needs DEPENDS_ON, a service or a check, or that it does not."""
    if is_removed:
        return gateway.delete(path_of("monitor", "api", "dependencies", service, depends_on, ""))
    body = {"service": service, "depends_on": depends_on, "is_critical": critical}
    return gateway.post("/monitor/api/dependencies/", body)


def _seen(row: dict[str, Any]) -> tuple[str, ...]:
    status = _coloured(row["status"]) + (" (flapping)" if row["is_flapping"] else "")
    percents = (row["uptime"].get(window) for window in _WINDOWS)
    return (status, *("" if percent is None else f"{percent:.2f} %" for percent in percents))


def _coloured(status: str) -> str:
    return click.style(status, fg=_COLOURS.get(status))


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.0f} ms"
