"""`fks token`: make, list and revoke API tokens, through the gateway with this node's own token."""

from __future__ import annotations

import click

from fks.cli.base import as_json, emit, table
from fks.cli.client import gateway_of
from fks.cli.shown import time_of

SCOPES = ("read", "signal", "approve", "trade", "admin")


def duration(ctx: click.Context, param: click.Parameter, text: str | None) -> int | None:
    """Return the seconds of a duration such as 12h, 30d or 52w. Errors: a usage error naming the form."""
    if text is None:
        return None
    unit = {"h": 3600, "d": 86400, "w": 7 * 86400}.get(text[-1:])
    if unit is None or not text[:-1].isdigit() or int(text[:-1]) == 0:
        raise click.BadParameter(f"{text!r} is no duration: use 12h, 30d or 52w", ctx, param)
    return int(text[:-1]) * unit


@click.group()
def token() -> None:
    """Create, list and revoke API tokens."""


@token.command()
@click.option("--name", required=True, metavar="N", help="Name of the user, recorded with each action of the token.")
@click.option("--scope", required=True, type=click.Choice(SCOPES), help="Each scope includes those before it.")
@click.option("--account", "accounts", multiple=True, metavar="A", help="Bind it to this account; may be repeated.")
@click.option("--expires", callback=duration, metavar="T", help="End it after so long: 12h, 30d, 52w.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Requests per hour; default auth.limit_per_hour.")
@as_json
@click.pass_context
def create(
    ctx: click.Context,
    name: str,
    scope: str,
    accounts: tuple[str, ...],
    expires: int | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Make a token and show it, this once."""
    body = {
        "name": name,
        "scope": scope,
        "accounts": list(accounts) or None,
        "expires_in_s": expires,
        "limit_per_hour": limit,
    }
    with gateway_of(ctx) as gateway:
        made = gateway.post("/tokens", body)
    emit(made, as_json=as_json, schema="fks.token/1")
    if not as_json:
        click.echo(made["token"])
        click.echo(f"token {name} ({scope}): shown once, keep it safe", err=True)


@token.command("list")
@as_json
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List tokens, revoked ones included; none can be shown again."""
    with gateway_of(ctx) as gateway:
        items = gateway.get("/tokens")["items"]
    emit(items, as_json=as_json, schema="fks.tokens/1")
    if not as_json:
        rows = [
            (
                i["name"],
                i["scope"],
                i["prefix"] + "…",
                "all" if i["accounts"] is None else ", ".join(map(str, i["accounts"])) or "none",
                time_of(i["created_at"]),
                time_of(i["last_used_at"]) or "never",
                time_of(i["expires_at"]) or "never",
                time_of(i["revoked_at"]),
            )
            for i in items
        ]
        table(
            rows,
            ("NAME", "SCOPE", "TOKEN", "ACCOUNTS", "CREATED", "LAST USED", "EXPIRES", "REVOKED"),
            empty="no tokens",
        )


@token.command()
@click.argument("name")
@as_json
@click.pass_context
def revoke(ctx: click.Context, name: str, as_json: bool) -> None:
    """End a token; it is refused everywhere within two seconds."""
    from urllib.parse import quote

    with gateway_of(ctx) as gateway:
        answer = gateway.delete(f"/tokens/{quote(name, safe='')}")
    emit(answer, as_json=as_json, schema="fks.token-revoked/1")
    if not as_json:
        click.echo(f"token {name} is revoked")
