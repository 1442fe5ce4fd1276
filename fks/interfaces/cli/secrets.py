"""`fks secrets`: keys of venues, stored encrypted.

A key is asked for, or read from a pipe or a file. It is no argument: other users of the machine see those.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from fks.interfaces.cli.base import Command, paths_of, result
from fks.interfaces.cli.client import GatewaySession, OwnGateway, gateway_result, path_of
from fks.interfaces.cli.shown import at

WAIT_S = 10.0  # for the process that carries the account
_NEWS = {
    "active": "in use",
    "refused": "not used, the one before stays: {reason}",
    "waiting": "stored; no process has taken it yet (see 'fks secrets list')",
}
_role = click.option(
    "--role",
    type=click.Choice(["orders", "guardian"]),
    default="orders",
    show_default=True,
    help="guardian: a key of its own, where a key serves one process (kraken).",
)
_file = click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read API key and secret from the first two lines of this file (mode 0600).",
)


@click.group()
def secrets() -> None:
    """Store the keys of venues encrypted; list, rotate, import and remove them."""


def _show(done: dict[str, Any], **_: Any) -> None:
    for warning in done.get("warnings", ()):
        click.echo(f"warning: {warning}", err=True)
    news = _NEWS[done["state"]].format(reason=done["reason"])
    click.echo(f"account {done['account']}, {done['role']}, version {done['version']} ({done['fingerprint']}): {news}")


def _key_of(file: Path | None) -> tuple[str, str]:
    """Return API key and secret: two lines, or one and those of a PEM. Errors: UsageError for an empty one,
    ConfigError for a file that others can read."""
    further: Iterator[str] = iter(())
    if file is not None:
        from fks.config.secrets import check_private

        check_private(file)
        lines = [*file.read_text().splitlines(), "", ""]
        further = iter(lines[2:])
    elif sys.stdin.isatty():
        lines = [click.prompt(text, hide_input=True) for text in ("API key", "API secret")]
    else:
        lines = [sys.stdin.readline(), sys.stdin.readline()]
        further = iter(sys.stdin.readline, "")
    key, secret = lines[0].strip(), lines[1].strip()
    while secret.startswith("-----BEGIN ") and "-----END " not in secret and (line := next(further, "").strip()):
        secret += f"\n{line}"
    if not key or not secret:
        raise click.UsageError("give the API key in the first line and the secret in the second")
    return key, secret


def _stored(gateway: GatewaySession, *path: str, key: tuple[str, str], role: str) -> dict[str, Any]:
    """Store a key and wait until the process that carries the account has taken or refused it."""
    body = {"role": role, "api_key": key[0], "api_secret": key[1]}
    done: dict[str, Any] = gateway.post(path_of("credentials", *path), body)
    until_s = time.monotonic() + WAIT_S
    while done["state"] == "waiting" and time.monotonic() < until_s:
        time.sleep(0.3)
        rows = gateway.get("/credentials")["items"]
        done |= next((row for row in rows if row["id"] == done["id"]), {})
    return done


def _asking(function: Command) -> Command:
    """Add what a command that stores a key has in common."""
    is_refused: Callable[[Any], bool] = lambda done: done["state"] == "refused"  # noqa: E731
    return click.argument("account")(
        _role(_file(gateway_result("fks.credential/1", _show, failed=is_refused)(function)))
    )


@secrets.command("set")
@_asking
def set_(gateway: GatewaySession, account: str, role: str, file: Path | None) -> Any:
    """Store an account's first key. The venue is asked: one that may withdraw is refused."""
    return _stored(gateway, account, key=_key_of(file), role=role)


@secrets.command()
@click.argument("account", required=False)
@_role
@_file
@click.option("--key", "is_encryption", is_flag=True, help="The key that encrypts all stored keys, instead.")
@result(
    "fks.credential/1",
    lambda done, **_: (
        click.echo(f"stored keys encrypted anew: {done['count']}, with {done['key_id']} in {done['file']}")
        if "count" in done
        else _show(done)
    ),
    failed=lambda done: done.get("state") == "refused",
)
def rotate(ctx: click.Context, account: str | None, role: str, file: Path | None, is_encryption: bool) -> Any:
    """Store an account's next key, used without a restart; or encrypt all stored keys again (--key)."""
    if is_encryption == (account is not None):
        raise click.UsageError("name an account, or give --key")
    if is_encryption:
        return _renewed(ctx)
    assert account is not None
    with OwnGateway(paths_of(ctx)) as gateway:
        return _stored(gateway, account, "rotate", key=_key_of(file), role=role)


def _renewed(ctx: click.Context) -> dict[str, Any]:
    """Encrypt all stored keys again, here: no other process of the gateway's kind decrypts one."""
    import asyncio
    import getpass
    import uuid

    from fks.config.credentials import key_file
    from fks.interfaces.cli.store import on_database, opened_store
    from fks.store.audit import AuditEntry, AuditStore
    from fks.store.db import Database
    from fks.trading.credentials.carrier import renew_encryption_key

    with opened_store(ctx) as (url, settings, paths):
        file = key_file(settings, paths)

        async def work(db: Database) -> dict[str, Any]:
            key_id, count = await renew_encryption_key(db, file)
            detail = {"fingerprint": key_id, "count": count}
            actor, action = f"host:{getpass.getuser()}", "secrets rotate --key"
            await AuditStore(db).add(AuditEntry(uuid.uuid4().hex, actor, "host", action, detail=detail))
            return {"key_id": key_id, "count": count, "file": str(file)}

        return asyncio.run(on_database(url, work))


@secrets.command("list")
@result(
    "fks.credentials/1",
    {
        "ACCOUNT": "account",
        "ROLE": "role",
        "SOURCE": "source",
        "VERSION": lambda i: i["version"] or "",
        "STATE": "state",
        "KEY": "fingerprint",
        "WITHDRAWS": lambda i: {True: "yes", False: "no", None: "not known"}[i["may_withdraw"]],
        "ADDRESSES": lambda i: {True: "bound", False: "any", None: "not known"}[i["is_address_bound"]],
        "STORED": at("created_at", ""),
        "REASON": "reason",
    },
    empty="no keys; store one: fks secrets set ACCOUNT",
)
def list_(ctx: click.Context) -> Any:
    """List keys of venues with their source, state and fingerprint. A stored key wins over one of a file or of the
    environment."""
    with OwnGateway(paths_of(ctx)) as gateway:
        rows = [row | {"source": "database"} for row in gateway.get("/credentials")["items"]]
    kept = {row["role"] for row in rows if row["state"] in ("waiting", "active")}
    blank = dict.fromkeys(("may_withdraw", "is_address_bound", "created_at", "version"))
    for role, key, source in _plain_keys(ctx):
        state = "not used: a stored one wins" if role in kept else "plain text"
        rows.append(blank | {"account": "", "role": role, "source": source, "state": state, "reason": ""} | key)
    return {"items": rows}


def _plain_keys(ctx: click.Context) -> list[tuple[str, dict[str, Any], str]]:
    """Return the keys of files and the environment: role, fingerprint and source."""
    from fks.config.credentials import VenueKey
    from fks.config.load import load

    loaded = load(paths_of(ctx).home)
    venue, found = loaded.settings.venue, []
    for role, prefix in (("orders", ""), ("guardian", "guardian_")):
        key, secret = (getattr(venue, f"{prefix}api_{name}") for name in ("key", "secret"))
        if key is not None and secret is not None:
            source = loaded.sources.get(("venue", f"{prefix}api_key"))
            found.append((role, {"fingerprint": VenueKey(key, secret).fingerprint}, source.text if source else ""))
    return found


def _show_imported(found: dict[str, Any], **_: Any) -> None:
    for row in found["items"]:
        _show(row)
        click.echo(f"  now delete it from {row['source']}", err=True)


@secrets.command("import")
@click.argument("account")
@gateway_result("fks.credentials/1", _show_imported)
def import_(gateway: GatewaySession, account: str) -> Any:
    """Store the keys that files or the environment hold in plain text; name the places from which to delete them."""
    from fks.config.load import load
    from fks.model.account import AT_EXCHANGE
    from fks.model.errors import ConfigError

    ctx, rows = click.get_current_context(), []
    venue = load(paths_of(ctx).home).settings.venue
    named = [row["venue"] for row in gateway.get("/accounts")["items"] if account in (row["name"], str(row["id"]))]
    if at := [one for one in named if one != AT_EXCHANGE]:
        raise ConfigError(
            f"account {account} trades at {at[0]}, and the keys of [venue] are those of the venue {AT_EXCHANGE}",
            remedy=f"store its own: fks secrets set {account}",
        )
    for role, _, source in _plain_keys(ctx):
        prefix = "guardian_" if role == "guardian" else ""
        pair = [getattr(venue, f"{prefix}api_{name}").get_secret_value() for name in ("key", "secret")]
        rows.append(_stored(gateway, account, key=(pair[0], pair[1]), role=role) | {"source": source})
    if not rows:
        raise ConfigError("no file and no variable holds a key of a venue", remedy="store one with 'fks secrets set'")
    return {"items": rows}


@secrets.command()
@click.argument("account")
@_role
@gateway_result("fks.credential-removed/1", "removed; the process that uses it keeps it until its next start", err=True)
def remove(gateway: GatewaySession, account: str, role: str) -> Any:
    """Remove an account's stored keys of a role, all versions."""
    return gateway.delete(path_of("credentials", account) + f"?role={role}")
