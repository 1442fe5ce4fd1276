"""fks kill, fks resume: straight to the guardian's socket, past gateway, database and order manager."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from fks.cli.base import CommandDenied, NotRunning, as_json, emit, paths_of, result, table
from fks.model.errors import FksError

_ORDER = ("venue", "symbol", "instance", "side", "quantity", "filled", "outcome")
_REMAINING = ("venue", "symbol", "instance", "quantity", "why")
CONNECT_S = 6.0  # a guardian that was killed is back within five seconds
_ANSWER_S = 30.0
_UNREACHABLE = (
    "see 'fks status' and start the system with 'fks up'; until the guardian is back nothing here can cancel or close: "
    "with a real exchange, do it in the exchange's own app now"
)


def _show(answer: Mapping[str, Any]) -> None:
    head = "joined the kill that is engaged" if answer.get("already") else "the kill switch is engaged"
    click.echo(
        f"{click.style(head, fg='red', bold=True)} ({answer['kill_id'][:8]}); entries are denied until 'fks resume'"
    )
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
    if answer["journal"] != "ok":
        click.echo(f"warning: {answer['journal']}", err=True)


@click.command()
@click.option("--reason", default="", help="Why; kept with the kill.")
@click.option(
    "--no-flatten", is_flag=True, help="Cancel and deny entries, but keep the positions, and what protects them."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@click.pass_context
def kill(ctx: click.Context, reason: str, no_flatten: bool, yes: bool, as_json: bool) -> int:
    """Engage the kill switch: cancel every open order, close our positions, deny entries until 'fks resume'.

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
        click.confirm(f"{what}, and deny entries until 'fks resume'?", abort=True)
    answer = _ask(
        paths_of(ctx).guardian_socket, {"op": "kill", "reason": reason, "by": _who(), "flatten": not no_flatten}
    )
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
        click.echo(f"NinjaTrader group {group} is still halted: press FKS Resume on its status indicator")


@click.command()
@click.option("--force", is_flag=True, help="Also give up a kill that is still at work.")
@result("fks.resume/1", _released)
def resume(ctx: click.Context, force: bool) -> Any:
    """Release the kill switch: entries are allowed again. Safe to repeat.

    NinjaTrader keeps a latch of its own: it is lifted there, with the button FKS Resume.
    """
    return _ask(paths_of(ctx).guardian_socket, {"op": "resume", "by": _who(), "force": force})


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
