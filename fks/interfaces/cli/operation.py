"""Progress of an operation of the running system until its end: steps, durations, outcome."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import click

from fks.interfaces.cli.base import NotRunning
from fks.model.errors import FksError

if TYPE_CHECKING:
    from fks.interfaces.cli.client import GatewaySession

EVERY_S = 0.2
AWAY_S = 30.0  # the gateway may be replaced, or PostgreSQL restarted, meanwhile
QUEUED_S = 10.0
ABANDONED_S = 90.0  # queued for so long behind nothing: a dead supervisor would have been replaced by now
_pause = threading.Event().wait


class _Abandoned(NotRunning):
    """No supervisor performs operations."""


def follow(gateway: GatewaySession, operation: dict[str, Any], *, is_quiet: bool) -> dict[str, Any]:
    """Return an operation that is done, printing each step as it ends.

    Errors: FksError with the operation's own message when it failed; NotRunning when the gateway does not answer for
    AWAY_S, or no supervisor claims it. Ctrl-C ends the watching, not the operation.
    """
    printed: set[tuple[str, str]] = set()
    begun = answered = time.monotonic()
    has_warned = False
    while True:
        if not is_quiet:
            _print_steps(operation, printed)
        if operation["state"] == "done":
            return operation
        if operation["state"] == "failed":
            raise FksError(
                str(operation["error"]),
                remedy=f"'fks events' and 'fks logs supervisor' have more; operation {operation['id']}",
            )
        if operation["state"] == "queued" and not has_warned and time.monotonic() - begun > QUEUED_S:
            click.echo("no supervisor has claimed it yet: see whether the supervisor runs with 'fks status'", err=True)
            has_warned = True
        _pause(EVERY_S)
        try:
            if operation["state"] != "queued" or gateway.get("/operations", state="running", limit=1)["items"]:
                begun = time.monotonic()  # behind another one it waits its turn
            elif time.monotonic() - begun > ABANDONED_S:
                raise _Abandoned(
                    f"no supervisor claimed operation {operation['id']} within {ABANDONED_S:g} s",
                    remedy="see 'fks status'; it is done when the supervisor is back, unless that takes 10 minutes",
                )
            operation = gateway.get(f"/operations/{operation['id']}")
            answered = time.monotonic()
        except _Abandoned:
            raise
        except NotRunning as error:
            if time.monotonic() - answered > AWAY_S:
                raise NotRunning(
                    f"the progress of operation {operation['id']} is unknown: {error.message}",
                    remedy="it goes on without being watched; see 'fks status'",
                ) from None


def _print_steps(operation: dict[str, Any], printed: set[tuple[str, str]]) -> None:
    """Print each step that ended since the last call."""
    for name, result in (("steps", "back"), ("rolled_back", "back as it was")):
        for step in operation["result"].get(name, []):
            key = (name, f"{step['part']} {step['state']}")
            if step["state"] == "running" or key in printed:
                continue
            printed.add(key)
            if step["state"] == "done":
                version = f", {step['version']}" if step.get("version") and operation["kind"] == "deploy" else ""
                pids = (
                    f", pid {step['pid_before']} → {step['pid']}" if step.get("pid") and step.get("pid_before") else ""
                )
                click.echo(f"{step['part']} is {result} after {step['took_s']:g} s{pids}{version}")
            else:
                click.echo(f"{step['part']} did not come back")
