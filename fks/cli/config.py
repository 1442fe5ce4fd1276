"""`fks config`: what the settings are, where each came from, whether they are right, what there is to set."""

from __future__ import annotations

from typing import Any

import click

from fks.cli.base import as_json, emit, home_of, table
from fks.model.errors import InputError


@click.group()
def config() -> None:
    """Show, check and explain the settings."""


@config.command()
@click.argument("prefix", default="")
@click.option("--changed", is_flag=True, help="Only what is not a default.")
@as_json
@click.pass_context
def show(ctx: click.Context, prefix: str, changed: bool, as_json: bool) -> None:
    """Show the effective settings and where each came from; PREFIX narrows (http, data.symbols). Secrets are masked."""
    from fks.config.load import load, sections

    loaded = load(home_of(ctx))
    rows: list[dict[str, Any]] = []
    for section, model in sections().items():
        values = getattr(loaded.settings, section)
        for key in model.model_fields:
            source = loaded.sources.get((section, key))
            if not f"{section}.{key}".startswith(prefix) or (changed and source is None):
                continue
            value = _shown(section, key, getattr(values, key))
            rows.append({"key": f"{section}.{key}", "value": value, "source": source.text if source else "default"})
    if not rows and not changed:
        raise InputError(f"no setting begins with {prefix!r}", remedy="see 'fks config reference'")
    emit({"home": str(loaded.settings.home), "settings": rows}, as_json=as_json, schema="fks.config/1")
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
    """Check the settings and the secrets; every problem is named with its key, place and remedy."""
    from fks.config.load import config_hash, load
    from fks.config.paths import Paths
    from fks.config.secrets import load_secrets

    loaded = load(home_of(ctx))
    paths = Paths.of(loaded.settings.home)
    if paths.secrets_file.exists():
        load_secrets(paths)
    answer = {
        "ok": True,
        "home": str(paths.home),
        "hash": config_hash(loaded.settings),
        "files": [str(f) for f in loaded.files],
    }
    emit(answer, as_json=as_json, schema="fks.config.check/1")
    if not as_json:
        click.echo(f"settings are right ({len(loaded.sources)} set, the others default)")


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


def _text(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)
