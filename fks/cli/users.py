"""`fks users`: users of the gateway, through the gateway with this node's own token."""

from __future__ import annotations

import sys
from urllib.parse import quote

import click

from fks.cli.base import as_json, emit, table
from fks.cli.client import gateway_of
from fks.cli.shown import time_of
from fks.cli.token import SCOPES


@click.group()
def users() -> None:
    """Add, change, unlock and disable users, and end their sessions."""


@users.command()
@click.argument("name")
@click.option("--scope", required=True, type=click.Choice(SCOPES), help="Each scope includes those before it.")
@click.option("--account", "accounts", multiple=True, metavar="A", help="Bind to this account; may be repeated.")
@click.option("--generate", is_flag=True, help="Make a password and show it, this once.")
@as_json
@click.pass_context
def add(ctx: click.Context, name: str, scope: str, accounts: tuple[str, ...], generate: bool, as_json: bool) -> None:
    """Add a user. The password is asked for, or read from a pipe; scopes trade and admin need a second factor.

    In the demo the first user trades without one.
    """
    password, is_made = _password(generate)
    body = {"name": name, "password": password, "scope": scope, "accounts": list(accounts) or None}
    with gateway_of(ctx) as gateway:
        made = gateway.post("/users", body)
    emit(made | ({"password": password} if is_made else {}), as_json=as_json, schema="fks.user/1")
    if not as_json:
        if is_made:
            click.echo(password)
        click.echo(f"user {made['name']} ({scope}) is added", err=True)


@users.command("list")
@as_json
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List users, their sessions and locks."""
    with gateway_of(ctx) as gateway:
        items = gateway.get("/users")["items"]
    emit(items, as_json=as_json, schema="fks.users/1")
    if not as_json:
        rows = [
            (
                i["name"],
                i["scope"],
                "all" if i["accounts"] is None else ", ".join(map(str, i["accounts"])) or "none",
                "yes" if i["has_totp"] else "no",
                str(i["sessions"]),
                "disabled"
                if i["disabled_at"]
                else f"locked until {time_of(i['locked_until'])}"
                if i["locked_until"]
                else "active",
            )
            for i in items
        ]
        table(rows, ("NAME", "SCOPE", "ACCOUNTS", "2ND FACTOR", "SESSIONS", "STATE"), empty="no users")


@users.command()
@click.argument("name")
@click.option("--generate", is_flag=True, help="Make a password and show it, this once.")
@as_json
@click.pass_context
def password(ctx: click.Context, name: str, generate: bool, as_json: bool) -> None:
    """Give a user a new password; the user's sessions end."""
    text, is_made = _password(generate)
    _change(ctx, name, {"password": text}, f"user {name} has a new password", as_json=as_json)
    if is_made and not as_json:
        click.echo(text)


@users.command()
@click.argument("name")
@click.argument("scope", type=click.Choice(SCOPES))
@as_json
@click.pass_context
def scope(ctx: click.Context, name: str, scope: str, as_json: bool) -> None:
    """Change a user's scope, also for sessions that are open."""
    _change(ctx, name, {"scope": scope}, f"user {name} has scope {scope}", as_json=as_json)


@users.command()
@click.argument("name")
@click.argument("account", nargs=-1)
@as_json
@click.pass_context
def accounts(ctx: click.Context, name: str, account: tuple[str, ...], as_json: bool) -> None:
    """Bind a user to accounts; without any, the user may see and trade all of them."""
    body: dict[str, object] = {"accounts": list(account)} if account else {"all_accounts": True}
    _change(ctx, name, body, f"user {name} is bound to {', '.join(account) or 'no account'}", as_json=as_json)


@users.command()
@click.argument("name")
@as_json
@click.pass_context
def disable(ctx: click.Context, name: str, as_json: bool) -> None:
    """Refuse a user's logins and end the sessions."""
    _change(ctx, name, {"disabled": True}, f"user {name} is disabled", as_json=as_json)


@users.command()
@click.argument("name")
@as_json
@click.pass_context
def enable(ctx: click.Context, name: str, as_json: bool) -> None:
    """Accept a disabled user's logins again."""
    _change(ctx, name, {"disabled": False}, f"user {name} is enabled", as_json=as_json)


@users.command("totp-reset")
@click.argument("name")
@as_json
@click.pass_context
def totp_reset(ctx: click.Context, name: str, as_json: bool) -> None:
    """Forget a user's second factor, when the authenticator is lost; the user's sessions end."""
    _change(ctx, name, {"reset_totp": True}, f"user {name} has no second factor any more", as_json=as_json)


@users.command()
@click.argument("name")
@click.option("--address", metavar="IP", help="Also unlock this address.")
@as_json
@click.pass_context
def unlock(ctx: click.Context, name: str, address: str | None, as_json: bool) -> None:
    """Forget a user's failed logins."""
    path = f"/users/{quote(name, safe='')}/unlock"
    with gateway_of(ctx) as gateway:
        answer = gateway.post(f"{path}?address={quote(address, safe='')}" if address else path)
    emit(answer, as_json=as_json, schema="fks.user-unlocked/1")
    if not as_json:
        click.echo(f"user {name} is unlocked" if answer["unlocked"] else f"user {name} was not locked")


@users.command()
@click.argument("name")
@as_json
@click.pass_context
def logout(ctx: click.Context, name: str, as_json: bool) -> None:
    """End every session of a user."""
    with gateway_of(ctx) as gateway:
        answer = gateway.delete(f"/users/{quote(name, safe='')}/sessions")
    emit(answer, as_json=as_json, schema="fks.user-logout/1")
    if not as_json:
        click.echo(f"{answer['ended']} sessions of {name} are ended")


def _change(ctx: click.Context, name: str, body: dict[str, object], text: str, *, as_json: bool) -> None:
    with gateway_of(ctx) as gateway:
        answer = gateway.post(f"/users/{quote(name, safe='')}", body)
    emit(answer, as_json=as_json, schema="fks.user/1")
    if not as_json:
        click.echo(text, err=True)


def _password(generate: bool) -> tuple[str, bool]:
    """Return a password and whether it was made here. It is never an argument: other users see those."""
    if generate:
        from secrets import token_urlsafe

        return token_urlsafe(18), True
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n"), False
    return str(click.prompt("Password", hide_input=True, confirmation_prompt=True)), False
