"""`fks config`: show, check and explain the settings, and change them at run time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from fks.interfaces.cli.base import as_json, emit, home_of, result, table
from fks.interfaces.cli.client import GatewaySession, OwnGateway, gateway_of, gateway_result
from fks.model.errors import ConfigError, FksError, InputError

why = click.option("--why", required=True, metavar="TEXT", help="The reason, kept with the version.")


@click.group()
def config() -> None:
    """Show, check, explain and change the settings."""


@config.command()
@click.argument("prefix", default="")
@click.option("--changed", is_flag=True, help="Only what is not a default.")
@as_json
@click.pass_context
def show(ctx: click.Context, prefix: str, changed: bool, as_json: bool) -> None:
    """Show the effective settings and the source of each; PREFIX narrows (http, data.symbols). Secrets are masked.

    A value that was changed at run time wins: FROM then names the version, and the file's value.
    """
    from fks.config.load import load, sections
    from fks.config.runtime import overlay

    loaded = load(home_of(ctx))
    number, runtime = _version_of(loaded.settings.home)
    effective = overlay(loaded.settings, runtime, f"runtime version {number}")
    rows: list[dict[str, Any]] = []
    for section, model in sections().items():
        for key in model.model_fields:
            source, name = loaded.sources.get((section, key)), f"{section}.{key}"
            if not name.startswith(prefix) or (changed and source is None and name not in runtime):
                continue
            value = _shown(section, key, getattr(getattr(effective, section), key))
            origin = source.text if source else "default"
            if name in runtime:
                origin = (
                    f"runtime version {number} ({origin}: "
                    f"{_text(_shown(section, key, getattr(getattr(loaded.settings, section), key)))})"
                )
            rows.append({"key": name, "value": value, "source": origin})
    if not rows and not changed:
        raise InputError(f"no setting begins with {prefix!r}", remedy="see 'fks config reference'")
    emit(
        {"home": str(loaded.settings.home), "version": number, "settings": rows}, as_json=as_json, schema="fks.config/1"
    )
    if not as_json:
        click.echo(
            f"FKS_HOME {loaded.settings.home}; read: {', '.join(str(file) for file in loaded.files) or 'no file'}"
        )
        table(
            [(row["key"], _text(row["value"]), row["source"]) for row in rows],
            ("KEY", "VALUE", "FROM"),
            empty="every setting is its default",
        )


@config.command()
@as_json
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> None:
    """Check the settings and the secrets; every problem is named with its key, place and remedy, and every setting
    that has no effect."""
    from fks.config.check import venue_plaintext
    from fks.config.load import config_hash, load
    from fks.config.paths import Paths
    from fks.config.problems import joined
    from fks.config.secrets import load_secrets
    from fks.config.unread import warnings_of
    from fks.model.margin import paper_margin

    loaded = load(home_of(ctx))
    settings = loaded.settings
    paper_margin(settings.paper.margin, can_short=settings.paper.can_short)
    names = settings.venues_at_exchanges()
    if wrong := [one for name in names for one in venue_plaintext(settings.at(name), loaded.sources)]:
        raise ConfigError(joined(wrong))
    paths = Paths.of(loaded.settings.home)
    if paths.secrets_file.exists():
        load_secrets(paths)
    answer: dict[str, Any] = {
        "ok": True,
        "home": str(paths.home),
        "hash": config_hash(loaded.settings),
        "files": [str(f) for f in loaded.files],
        "warnings": [*loaded.warnings, *warnings_of(loaded.settings, loaded.sources)],
    }
    emit(answer, as_json=as_json, schema="fks.config.check/1")
    if not as_json:
        for line in answer["warnings"]:
            click.echo(f"{click.style('warning:', fg='yellow')} {line}", err=True)
        click.echo(f"settings are right ({len(loaded.sources)} set, the others default)")


@config.command()
@click.argument("prefix", default="")
@result(
    "fks.config.keys/1",
    {"KEY": "key", "RESTARTS": lambda row: _parts(row["parts"])},
    items="keys",
    empty="no such key",
)
def keys(ctx: click.Context, prefix: str) -> Any:
    """List what can change while the system runs, and which parts are restarted for it, one at a time."""
    from fks.config.runtime import CHANGEABLE

    return {"keys": [{"key": key, "parts": list(of)} for key, of in CHANGEABLE.items() if key.startswith(prefix)]}


@config.command("set")
@click.argument("pairs", nargs=-1, required=True, metavar="KEY VALUE...")
@why
@as_json
@click.pass_context
def set_(ctx: click.Context, pairs: tuple[str, ...], why: str, as_json: bool) -> None:
    """Change settings of the running system: a new version, rolled out at once, rolled back by itself if it does not
    take.

    \b
    fks config set risk.notional_max_order 5000 --why "smaller until Monday"
    fks config set venue.sweep_s 30 venue.order_timeout_s 4 --why "a slow venue"
    """
    if len(pairs) % 2:
        raise InputError(f"{pairs[-1]} has no value", remedy="give KEY VALUE, as often as you like")
    _change(ctx, {"set": dict(zip(pairs[::2], pairs[1::2], strict=True))}, why, as_json=as_json)


@config.command()
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@why
@as_json
@click.pass_context
def unset(ctx: click.Context, keys: tuple[str, ...], why: str, as_json: bool) -> None:
    """Return keys to their values in fks.toml."""
    _change(ctx, {"unset": list(keys)}, why, as_json=as_json)


@config.command()
@click.argument("version", type=click.IntRange(0))
@why
@as_json
@click.pass_context
def rollback(ctx: click.Context, version: int, why: str, as_json: bool) -> None:
    """Go back to the values of VERSION (0: the files alone), as a new version."""
    _change(ctx, {"rollback_to": version}, why, as_json=as_json)


@config.command()
@click.option("--limit", "-n", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many.")
@gateway_result(
    "fks.config.history/1",
    {
        "VERSION": "version",
        "STATE": "state",
        "MADE": lambda item: item["created_at"][:19],
        "BY": "changed_by",
        "CHANGES": lambda item: _summary(item),
        "WHY": "reason",
        "ERROR": "error",
    },
    empty="nothing was changed at run time: the files are in force",
)
def history(gateway: GatewaySession, limit: int) -> Any:
    """List the versions of the settings: what changed, by which person, the reason, the result."""
    return gateway.get("/config/versions", limit=limit)["items"]


def _show_diff(found: dict[str, Any], **_: Any) -> None:
    _print_changes(found["changes"])
    if not found["changes"]:
        click.echo("they are the same")


@config.command()
@click.argument("before", type=click.IntRange(0))
@click.argument("after", type=click.IntRange(0))
@gateway_result("fks.config.diff/1", _show_diff)
def diff(gateway: GatewaySession, before: int, after: int) -> Any:
    """Show the differences between two versions (0: the files alone)."""
    from fks.config.runtime import difference

    changes = difference(_values(gateway, before), _values(gateway, after))
    return {"before": before, "after": after, "changes": changes}


@config.command()
def reference() -> None:
    """Print every setting as Markdown: key, default, range, meaning, environment names."""
    from fks.config.reference import reference as text

    click.echo(text(), nl=False)


def _shown(section: str, key: str, value: Any) -> Any:
    from fks.config.load import is_secret

    if is_secret(section, key):
        return None if value is None else "********"
    return list(value) if isinstance(value, tuple) else value


def _parts(patterns: Sequence[str]) -> str:
    return ", ".join("every child" if pattern == "*" else pattern for pattern in patterns)


def _text(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)


# ── run time ─────────────────────────────────────────────────────────────────────────────────────
def _version_of(home: Path) -> tuple[int, dict[str, Any]]:
    """Return (version, values) of this node: from the gateway when it runs, else from the node's copy."""
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


def _change(ctx: click.Context, wanted: dict[str, Any], why: str, *, as_json: bool) -> None:
    """Make a version and watch it until it is in force. Errors: FksError when it did not take and was undone."""
    from fks.interfaces.cli.operation import follow

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


def _values(gateway: GatewaySession, version: int) -> dict[str, Any]:
    return dict(gateway.get(f"/config/versions/{version}")["values"]) if version else {}


def _print_changes(changes: dict[str, dict[str, Any]]) -> None:
    for key, change in changes.items():
        click.echo(f"{key}: {_run_time_value(change['from'])} → {_run_time_value(change['to'])}")


def _summary(item: dict[str, Any]) -> str:
    back = f"back to {item['rolls_back_to']}: " if item["kind"] == "rollback" else ""
    return back + ", ".join(f"{key} = {_run_time_value(change['to'])}" for key, change in item["changes"].items())


def _run_time_value(value: Any) -> str:
    if value is None:
        return "as in the file"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
