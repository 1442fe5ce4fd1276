"""Following an operation of the running system to its end: what it does, how long each part took, how it ended."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import click

from fks.cli.base import NotRunning
from fks.model.errors import FksError

if TYPE_CHECKING:
    from fks.cli.client import Gateway

EVERY_S = 0.2
AWAY_S = 30.0  # the gateway may be replaced, or PostgreSQL restarted, while we look on
QUEUED_S = 10.0
ABANDONED_S = 90.0  # queued for so long behind nothing: a dead supervisor would have been replaced by now
_pause = threading.Event().wait


class _Abandoned(NotRunning):
    """There is nobody who performs operations."""


def follow(gateway: Gateway, operation: dict[str, Any], *, is_quiet: bool) -> dict[str, Any]:
    """Return an operation that is done, saying each step as it ends.

    Errors: FksError with the operation's own words when it failed; NotRunning when nobody can tell for AWAY_S, or
    nobody takes it up. Ctrl-C ends the looking on, not the operation.
    """
    told: set[tuple[str, str]] = set()
    begun = answered = time.monotonic()
    has_warned = False
    while True:
        if not is_quiet:
            _tell(operation, told)
        if operation["state"] == "done":
            return operation
        if operation["state"] == "failed":
            raise FksError(
                str(operation["error"]),
                remedy=f"'fks events' and 'fks logs supervisor' say more; operation {operation['id']}",
            )
        if operation["state"] == "queued" and not has_warned and time.monotonic() - begun > QUEUED_S:
            click.echo("nobody has taken it up yet: see whether the supervisor runs with 'fks status'", err=True)
            has_warned = True
        _pause(EVERY_S)
        try:
            if operation["state"] != "queued" or gateway.get("/operations", state="running", limit=1)["items"]:
                begun = time.monotonic()  # behind another one it waits its turn
            elif time.monotonic() - begun > ABANDONED_S:
                raise _Abandoned(
                    f"nobody took operation {operation['id']} up within {ABANDONED_S:g} s",
                    remedy="see 'fks status'; it is done when the supervisor is back, unless that takes 10 minutes",
                )
            operation = gateway.get(f"/operations/{operation['id']}")
            answered = time.monotonic()
        except _Abandoned:
            raise
        except NotRunning as error:
            if time.monotonic() - answered > AWAY_S:
                raise NotRunning(
                    f"nobody can tell how operation {operation['id']} goes: {error.message}",
                    remedy="it goes on without being watched; see 'fks status'",
                ) from None


def _tell(operation: dict[str, Any], told: set[tuple[str, str]]) -> None:
    """Say each step that ended since the last look."""
    for name, word in (("steps", "back"), ("rolled_back", "back as it was")):
        for step in operation["result"].get(name, []):
            key = (name, f"{step['part']} {step['state']}")
            if step["state"] == "running" or key in told:
                continue
            told.add(key)
            if step["state"] == "done":
                version = f", {step['version']}" if step.get("version") and operation["kind"] == "deploy" else ""
                pids = (
                    f", pid {step['pid_before']} → {step['pid']}" if step.get("pid") and step.get("pid_before") else ""
                )
                click.echo(f"{step['part']} is {word} after {step['took_s']:g} s{pids}{version}")
            else:
                click.echo(f"{step['part']} did not come back")
