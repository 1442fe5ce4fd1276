"""Changes of the running system's settings by `fks config`: a new version, watched until it is in force or undone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fks.cli.base import emit, table
from fks.model.errors import ConfigError, FksError

if TYPE_CHECKING:
    from fks.cli.client import Gateway


def version_of(home: Path) -> tuple[int, dict[str, Any]]:
    """Return (version, values) of this node: from the gateway when it runs, else from the node's copy."""
    from fks.cli.client import OwnGateway
    from fks.config.paths import Paths
    from fks.store.runtime_config import read_copy

    paths = Paths.of(home)
    try:
        with OwnGateway(paths) as gateway:
            found = gateway.get("/config")
        return int(found["version"]), dict(found["values"])
    except (FksError, OSError):
        pass
    try:
        return read_copy(paths)
    except ConfigError:
        return 0, {}


def change(ctx: click.Context, wanted: dict[str, Any], why: str, *, as_json: bool) -> None:
    """Make a version and watch it until it is in force. Errors: FksError when it did not take and was undone."""
    from fks.cli.client import gateway_of
    from fks.cli.operation import follow

    with gateway_of(ctx) as gateway:
        base = gateway.get("/config")["version"]
        made = gateway.post("/config/versions", {**wanted, "reason": why, "base_version": base})
        if not as_json:
            _print_changes(made["changes"])
        follow(gateway, made["operation"], is_quiet=as_json)
        found = gateway.get(f"/config/versions/{made['version']}")
    emit(found, as_json=as_json, schema="fks.config.version/1")
    if not as_json:
        click.echo(f"version {found['version']} is in force")


def history(ctx: click.Context, limit: int, *, as_json: bool) -> None:
    """Show the newest versions."""
    from fks.cli.client import gateway_of

    with gateway_of(ctx) as gateway:
        items = gateway.get("/config/versions", limit=limit)["items"]
    emit(items, as_json=as_json, schema="fks.config.history/1")
    if as_json:
        return
    rows = [
        (
            item["version"],
            item["state"],
            item["created_at"][:19],
            item["changed_by"],
            _summary(item),
            item["reason"],
            item["error"] or "",
        )
        for item in items
    ]
    headers = ("VERSION", "STATE", "MADE", "BY", "CHANGES", "WHY", "ERROR")
    table(rows, headers, empty="nothing was changed at run time: the files are in force")


def diff(ctx: click.Context, before: int, after: int, *, as_json: bool) -> None:
    """Show what differs between two versions."""
    from fks.cli.client import gateway_of
    from fks.config.runtime import difference

    with gateway_of(ctx) as gateway:
        found = difference(_values(gateway, before), _values(gateway, after))
    emit({"before": before, "after": after, "changes": found}, as_json=as_json, schema="fks.config.diff/1")
    if not as_json:
        _print_changes(found)
        if not found:
            click.echo("they are the same")


def _values(gateway: Gateway, version: int) -> dict[str, Any]:
    return dict(gateway.get(f"/config/versions/{version}")["values"]) if version else {}


def _print_changes(changes: dict[str, dict[str, Any]]) -> None:
    for key, change in changes.items():
        click.echo(f"{key}: {_value(change['from'])} → {_value(change['to'])}")


def _summary(item: dict[str, Any]) -> str:
    back = f"back to {item['rolls_back_to']}: " if item["kind"] == "rollback" else ""
    return back + ", ".join(f"{key} = {_value(change['to'])}" for key, change in item["changes"].items())


def _value(value: Any) -> str:
    if value is None:
        return "as in the file"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
