"""fks kill, fks resume: straight to the guardian's socket, past gateway, database and order manager."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import click

from fks.interfaces.cli.base import CommandDenied, NotRunning, as_json, emit, paths_of, result, table
from fks.model.errors import FksError
from fks.model.kill import resume_command
from fks.model.ninja import platform_of_key

_ORDER = ("venue", "symbol", "instance", "side", "quantity", "filled", "outcome")
_REMAINING = ("venue", "symbol", "instance", "quantity", "why")
CONNECT_S = 6.0  # a guardian that was killed is back within five seconds
_ANSWER_S = 30.0
_UNREACHABLE = (
    "see 'fks status' and start the system with 'fks up'; until the guardian is back nothing here can cancel or close: "
    "with a real exchange, do it in the exchange's own app now"
)


def _show(answer: Mapping[str, Any]) -> None:
    of = "" if answer["scope"] == "system" else f" for {answer['scope']}"
    head = f"joined the kill that is engaged{of}" if answer.get("already") else f"the kill switch is engaged{of}"
    end = resume_command(answer["scope"])
    click.echo(f"{click.style(head, fg='red', bold=True)} ({answer['kill_id'][:8]}); entries are denied until '{end}'")
    click.echo(f"orders cancelled: {answer['cancelled']}")
    if answer["orders"]:
        click.echo("positions closed:")
        table(answer["orders"], {name: name for name in _ORDER})
    if answer["remaining"]:
        click.echo("left:")
        table(answer["remaining"], {name: name for name in _REMAINING})
    for venue in answer["venues"]:
        if venue["state"] not in ("flat", "cancelled"):
            click.echo(f"{venue['name']}: {venue['state']} {venue['detail']}")
    if not answer["is_quiet"]:
        click.echo("still at work; 'fks kill' again shows how far it is")
    _show_others(answer)
    if answer["journal"] != "ok":
        click.echo(f"warning: {answer['journal']}", err=True)


def _show_others(answer: Mapping[str, Any]) -> None:
    for kill in answer.get("beside", ()):
        click.echo(
            f"the kill switch is engaged for {kill['scope']}, too: '{resume_command(kill['scope'])}' releases it"
        )


def _scoped(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a scope; the command gets it as `scope`."""

    @wraps(command)
    def run(*args: Any, venue: str | None, account: str | None, strategy: str | None, **options: Any) -> Any:
        named = {"venue": venue, "account": account, "strategy": strategy}
        for kind, name in named.items():
            if name == "":  # of an unset variable in a script, say: never the whole system
                raise click.UsageError(f"--{kind} needs a name")
        scopes = [f"{kind}:{name}" for kind, name in named.items() if name is not None]
        if len(scopes) > 1:
            raise click.UsageError("give one of --venue, --account and --strategy")
        return command(*args, scope=scopes[0] if scopes else "system", **options)

    for option, text in (
        ("--strategy", "Only the instances of this strategy, or this one instance."),
        ("--account", "Only this account, by its name or number."),
        ("--venue", "Only this venue."),
    ):
        run = click.option(option, metavar="NAME", help=text)(run)
    return run


@click.command()
@_scoped
@click.option("--reason", default="", help="Why; kept with the kill.")
@click.option(
    "--no-flatten", is_flag=True, help="Cancel and deny entries, but keep the positions, and what protects them."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@click.pass_context
def kill(ctx: click.Context, scope: str, reason: str, no_flatten: bool, yes: bool, as_json: bool) -> int:
    """Engage the kill switch: cancel every open order, close our positions, deny entries until 'fks resume'.

    Without a scope everywhere; with one only what lies in it, and several scopes may be engaged together.

    Works with the gateway, the database and the order manager down. Safe to repeat: it joins the kill that is engaged.
    Exit code 0: done; 1: still at work, the outcome of an order is unknown, or something is left; 3: the guardian
    cannot
    be reached.
    """
    if not yes and not as_json and sys.stdin.isatty():
        what = (
            "cancel all orders but stop-loss and take-profit"
            if no_flatten
            else "cancel all orders and close all positions"
        )
        of = "" if scope == "system" else f" of {scope}"
        click.confirm(f"{what}{of}, and deny entries until '{resume_command(scope)}'?", abort=True)
    request = {"op": "kill", "scope": scope, "reason": reason, "by": _who(), "flatten": not no_flatten}
    answer = _ask(paths_of(ctx).guardian_socket, request)
    emit(answer, as_json=as_json, schema="fks.kill/1")
    if not as_json:
        _show(answer)
    left = [item for item in answer.get("remaining", ()) if item.get("kind") not in ("dust", "elsewhere")]
    return 0 if answer.get("is_quiet") and not left else 1


def _released(answer: Mapping[str, Any], **_: Any) -> None:
    click.echo(
        "no kill was engaged" if answer.get("already") else "the kill switch is released; entries are allowed again"
    )
    for group in answer.get("still_halted", ()):
        platform = platform_of_key(group)
        name = group.removeprefix(platform.key(""))
        click.echo(f"{platform.title} group {name} is still halted: {platform.resume_remedy}")
    _show_others(answer)


@click.command()
@_scoped
@click.option("--force", is_flag=True, help="Also give up a kill that is still at work.")
@result("fks.resume/1", _released)
def resume(ctx: click.Context, scope: str, force: bool) -> Any:
    """Release the kill switch: entries are allowed again. Safe to repeat.

    Kills of other scopes than the one that is given stay engaged.

    NinjaTrader and MetaTrader 5 keep a latch of their own: it is lifted there, with the button FKS Resume, or at the
    agent.
    """
    return _ask(paths_of(ctx).guardian_socket, {"op": "resume", "scope": scope, "by": _who(), "force": force})


def _ask(path: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the guardian's answer. Errors: NotRunning when it cannot be reached, CommandDenied or FksError when it
    refuses."""
    try:
        with _connect(path) as link:
            link.settimeout(_ANSWER_S)
            link.sendall(json.dumps(request).encode() + b"\n")
            with link.makefile("rb") as file:
                line = file.readline()
    except OSError as error:
        raise NotRunning(f"the guardian did not answer ({error.strerror or error})", remedy=_UNREACHABLE) from error
    if not line:
        raise NotRunning("the guardian hung up before it answered", remedy="ask again: a kill is joined, not repeated")
    answer = json.loads(line)
    if not answer.get("ok"):
        refused = CommandDenied if answer.get("code") == "KILL_WORKING" else FksError
        raise refused(str(answer.get("error")), remedy=str(answer.get("remedy") or ""))
    return dict(answer)


def _connect(path: Path) -> socket.socket:
    """Return a connection, trying for as long as a restart takes. Errors: NotRunning."""
    end = time.monotonic() + (CONNECT_S if path.parent.exists() else 0.0)
    while True:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        link.settimeout(2.0)
        try:
            link.connect(str(path))
            return link
        except OSError as error:
            link.close()
            if time.monotonic() >= end:
                raise NotRunning(f"the guardian cannot be reached at {path}", remedy=_UNREACHABLE) from error
        time.sleep(0.2)


def _who() -> str:
    import getpass

    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):
        return "cli"
