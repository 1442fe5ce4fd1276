"""`fks users`, `fks token` and `fks audit`: users and API tokens, and the append-only record of changes, through the
gateway with this node's own token."""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import quote

import click

from fks.interfaces.cli.base import Columns, Command, named
from fks.interfaces.cli.client import GatewaySession, gateway_result, path_of
from fks.interfaces.cli.shown import at, time_of

SCOPES = ("read", "signal", "approve", "trade", "admin")
_scope = click.option("--scope", required=True, type=click.Choice(SCOPES), help="Each scope includes those before it.")
_generate = click.option("--generate", is_flag=True, help="Make a password and show it, this once.")


def _accounts_of(item: dict[str, Any]) -> str:
    return "all" if item["accounts"] is None else ", ".join(map(str, item["accounts"])) or "none"


# ── users ────────────────────────────────────────────────────────────────────────────────────────
@click.group()
def users() -> None:
    """Add, change, unlock and disable users, and end their sessions."""


def _with_password(text: str) -> Command:
    """Return the printing of a user whose password was made here: the password, and `text`."""

    def show(made: dict[str, Any], **options: Any) -> None:
        if "password" in made:
            click.echo(made["password"])
        click.echo(text.format(made, **options), err=True)

    return show


@users.command()
@click.argument("name")
@_scope
@click.option("--account", "accounts", multiple=True, metavar="A", help="Bind to this account; may be repeated.")
@_generate
@gateway_result("fks.user/1", _with_password("user {0[name]} ({scope}) is added"))
def add(gateway: GatewaySession, name: str, scope: str, accounts: tuple[str, ...], generate: bool) -> Any:
    """Add a user. The password is asked for, or read from a pipe; scopes trade and admin need a second factor.

    In the demo the first user trades without one.
    """
    password = _password(generate)
    made = gateway.post("/users", {"name": name, "password": password, "scope": scope, "accounts": accounts or None})
    return made | ({"password": password} if generate else {})


_STATE: Columns = {
    "NAME": "name",
    "SCOPE": "scope",
    "ACCOUNTS": _accounts_of,
    "2ND FACTOR": lambda i: "yes" if i["has_totp"] else "no",
    "SESSIONS": "sessions",
    "STATE": lambda i: (
        "disabled"
        if i["disabled_at"]
        else f"locked until {time_of(i['locked_until'])}"
        if i["locked_until"]
        else "active"
    ),
}


@users.command("list")
@gateway_result("fks.users/1", _STATE, empty="no users")
def list_(gateway: GatewaySession) -> Any:
    """List users, their sessions and locks."""
    return gateway.get("/users")["items"]


def _change(gateway: GatewaySession, name: str, **body: object) -> Any:
    return gateway.post(path_of("users", name), body)


@users.command()
@click.argument("name")
@_generate
@gateway_result("fks.user/1", _with_password("user {name} has a new password"))
def password(gateway: GatewaySession, name: str, generate: bool) -> Any:
    """Give a user a new password; the user's sessions end."""
    password = _password(generate)
    return _change(gateway, name, password=password) | ({"password": password} if generate else {})


@users.command()
@click.argument("name")
@click.argument("scope", type=click.Choice(SCOPES))
@gateway_result("fks.user/1", "user {name} has scope {scope}", err=True)
def scope(gateway: GatewaySession, name: str, scope: str) -> Any:
    """Change a user's scope, also for sessions that are open."""
    return _change(gateway, name, scope=scope)


@users.command()
@click.argument("name")
@click.argument("account", nargs=-1)
@gateway_result(
    "fks.user/1", lambda _, name, account: f"user {name} is bound to {', '.join(account) or 'no account'}", err=True
)
def accounts(gateway: GatewaySession, name: str, account: tuple[str, ...]) -> Any:
    """Bind a user to accounts; without any, the user may see and trade all of them."""
    return _change(gateway, name, accounts=account) if account else _change(gateway, name, all_accounts=True)


@users.command()
@click.argument("name")
@gateway_result("fks.user/1", "user {name} is disabled", err=True)
def disable(gateway: GatewaySession, name: str) -> Any:
    """Refuse a user's logins and end the sessions."""
    return _change(gateway, name, disabled=True)


@users.command()
@click.argument("name")
@gateway_result("fks.user/1", "user {name} is enabled", err=True)
def enable(gateway: GatewaySession, name: str) -> Any:
    """Accept a disabled user's logins again."""
    return _change(gateway, name, disabled=False)


@users.command("totp-reset")
@click.argument("name")
@gateway_result("fks.user/1", "user {name} has no second factor any more", err=True)
def totp_reset(gateway: GatewaySession, name: str) -> Any:
    """Forget a user's second factor, when the authenticator is lost; the user's sessions end."""
    return _change(gateway, name, reset_totp=True)


@users.command()
@click.argument("name")
@click.option("--address", metavar="IP", help="Also unlock this address.")
@gateway_result(
    "fks.user-unlocked/1",
    lambda done, name, **_: f"user {name} is unlocked" if done["unlocked"] else f"user {name} was not locked",
)
def unlock(gateway: GatewaySession, name: str, address: str | None) -> Any:
    """Forget a user's failed logins."""
    return gateway.post(path_of("users", name, "unlock") + (f"?address={quote(address, safe='')}" if address else ""))


@users.command()
@click.argument("name")
@gateway_result("fks.user-logout/1", "{0[ended]} sessions of {name} are ended")
def logout(gateway: GatewaySession, name: str) -> Any:
    """End every session of a user."""
    return gateway.delete(path_of("users", name, "sessions"))


def _password(generate: bool) -> str:
    """Return a password. It is never an argument: other users see those."""
    if generate:
        from secrets import token_urlsafe

        return token_urlsafe(18)
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    return str(click.prompt("Password", hide_input=True, confirmation_prompt=True))


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────
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


def _created(made: dict[str, Any], name: str, scope: str, **_: Any) -> None:
    click.echo(made["token"])
    click.echo(f"token {name} ({scope}): shown once, keep it safe", err=True)


@token.command()
@click.option("--name", required=True, metavar="N", help="Name of the user, recorded with each action of the token.")
@_scope
@click.option("--account", "accounts", multiple=True, metavar="A", help="Bind it to this account; may be repeated.")
@click.option("--expires", "expires_in_s", callback=duration, metavar="T", help="End it after so long: 12h, 30d, 52w.")
@click.option(
    "--limit",
    "limit_per_hour",
    type=click.IntRange(1),
    metavar="N",
    help="Requests per hour; default auth.limit_per_hour.",
)
@gateway_result("fks.token/1", _created)
def create(gateway: GatewaySession, accounts: tuple[str, ...], **body: Any) -> Any:
    """Make a token and show it, this once."""
    return gateway.post("/tokens", {**body, "accounts": accounts or None})


@token.command("list")
@gateway_result(
    "fks.tokens/1",
    {
        "NAME": "name",
        "SCOPE": "scope",
        "TOKEN": lambda i: i["prefix"] + "…",
        "ACCOUNTS": _accounts_of,
        "CREATED": at("created_at"),
        "LAST USED": at("last_used_at", "never"),
        "EXPIRES": at("expires_at", "never"),
        "REVOKED": at("revoked_at"),
    },
    empty="no tokens",
)
def list_tokens(gateway: GatewaySession) -> Any:
    """List tokens, revoked ones included; none can be shown again."""
    return gateway.get("/tokens")["items"]


@token.command()
@click.argument("name")
@gateway_result("fks.token-revoked/1", "token {name} is revoked")
def revoke(gateway: GatewaySession, name: str) -> Any:
    """End a token; it is refused everywhere within two seconds."""
    return gateway.delete(path_of("tokens", name))


# ── audit ────────────────────────────────────────────────────────────────────────────────────────
@click.group()
def audit() -> None:
    """Show changes: author, action, address."""


@audit.command("list")
@click.option("--actor", metavar="A", help="Of this token's name, or user:NAME.")
@click.option("--action", metavar="TEXT", help="Whose action has this text: /tokens, login.")
@click.option("--since", metavar="TIME", help="From this time on, ISO 8601.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many rows.")
@gateway_result(
    "fks.audit/1",
    {
        "AT": at("at"),
        **named("actor", "phase", "action", "object", "status", "address"),
    },
    empty="nothing was changed",
)
def list_audit(gateway: GatewaySession, **query: Any) -> Any:
    """List the audit, newest first: `requested` before a change, `answered` with its status, `noted` for logins."""
    return gateway.pages("/audit", **query)
