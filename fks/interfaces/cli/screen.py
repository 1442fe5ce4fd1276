"""Output of `fks up`: the steps of the start with their times, then the running services and their addresses.

rich.live is not used: lines scroll here, and one spinner line is cleared by one escape sequence. Its loop and the lines
would stay.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import click

from fks.clock import RealClock
from fks.config.endpoints import NodeEndpoints
from fks.config.paths import Paths
from fks.config.settings import Settings
from fks.system.node.services import TITLES

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_NAMES = TITLES | {"schema": "database schema", "actors": "actors and gateway"}
_MARKS = {
    "done": ("✓", "green"),
    "ready": ("✓", "green"),
    "failed": ("✗", "red"),
    "restarting": ("↻", "yellow"),
    "draining": ("↻", "yellow"),
    "degraded": ("!", "yellow"),
    "down": ("✗", "red"),
}


class Screen:
    """Prints steps as they end; on a terminal a spinner names those under way. `say` fits the keeper's."""

    def __init__(
        self, *, is_quiet: bool = False, write: Callable[[str], object] | None = None, is_terminal: bool | None = None
    ) -> None:
        self._is_quiet = is_quiet
        self._is_terminal = sys.stdout.isatty() if is_terminal is None else is_terminal
        self._write = write or _to_stdout
        self._started: dict[str, float] = {}
        self._start = time.monotonic()
        self._frame = 0

    @property
    def elapsed_s(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._start

    def say(self, name: str, state: str, text: str = "") -> None:
        """Show a step: running, done, failed, or a later change of a service."""
        title, is_stop = _NAMES.get(name.removesuffix(" stop"), name), name.endswith(" stop")
        if state == "running":
            self._started.setdefault(name, time.monotonic())
            return
        took = time.monotonic() - self._started.pop(name, time.monotonic())
        if self._is_quiet or name == "fks":
            return
        mark, colour = _MARKS.get(state, ("·", "white"))
        if is_stop:
            mark, colour, title = "■", "bright_black", f"{title} stopped"
        time_text = f"{took:5.1f} s" if state in ("done", "failed") else state
        first, _, rest = text.partition("\n")
        self.line(
            f"  {click.style(mark, fg=colour)} {title:<{27 if is_stop else 22}} "
            f"{time_text}{'  ' + first if first else ''}"
        )
        if rest and state != "failed":
            self.line(rest)

    def line(self, text: str) -> None:
        """Print one line above the spinner; colours only on a terminal."""
        clear = "\r\x1b[K" if self._is_terminal else ""
        self._write(f"{clear}{text if self._is_terminal else click.unstyle(text)}\n")

    async def spin(self) -> None:
        """Show the running steps until cancelled. Does nothing where the output is no terminal."""
        if not self._is_terminal or self._is_quiet:
            return
        try:
            while True:
                names = ", ".join(_NAMES.get(name.removesuffix(" stop"), name) for name in self._started)
                self._frame = (self._frame + 1) % len(_FRAMES)
                if names:
                    self._write(
                        f"\r\x1b[K  {click.style(_FRAMES[self._frame], fg='cyan')} {names}  {self.elapsed_s:.0f} s"
                    )
                await RealClock().sleep(0.1)
        finally:
            self._write("\r\x1b[K")


def first_screen(
    paths: Paths, node: NodeEndpoints, settings: Settings, *, market: str, took_s: float, is_detached: bool
) -> list[str]:
    """Return the lines of a started system: its addresses, and missing settings, with real money in red."""
    from fks.interfaces.cli.alerts import blocked_channels
    from fks.interfaces.cli.checkup import no_channel, safeguards
    from fks.interfaces.cli.client import monitor_page
    from fks.model.health import HEALTHY

    count, blocked = blocked_channels(paths)
    lacks = [check for check in safeguards(settings) if check.status != HEALTHY]
    lacks += [no_channel(settings)] if count == 0 else []
    is_live = settings.venue.live
    unset = "" if is_live else ", ".join(check.name for check in lacks if check.name != "account")
    base = node.gateway_url
    home = _short(paths)
    hint = "needs a token: fks token create --name me --scope read"
    if settings.reads_on_loopback:
        hint = "reads on this host need no token; to write: fks token create --name me --scope trade"
    rows = [
        ("gateway", base, hint),
        ("pages", f"{base}/app/" if settings.web.enabled else "", "log in as a user: fks users add me --scope trade"),
        ("API docs", f"{base}/docs", ""),
        ("monitor", monitor_page(base, settings), "the tree and what happened, live"),
        ("Ray dashboard", node.dashboard_url, f"its token is in {home}/ray.token"),
        ("exchange", str(node.sim["rest"]) if node.sim else "", market),
        ("logs", f"{home}/logs", "fks logs -f"),
        ("look", "fks status", "fks orders list · fks fills · fks positions · fks doctor"),
        ("not set", unset, "'fks doctor' says what for"),
        ("stop", "fks down" if is_detached else "Ctrl-C", "everything stops in order; 'fks up' goes on where it was"),
    ]
    title = click.style("FKS is up", fg="green", bold=True)
    lines = ["", f"{title} after {took_s:.1f} s, paper money on {market}"]
    for name, value, note in rows:
        if value:
            lines.append(
                f"  {name:<14}{click.style(f'{value:<38}', fg='cyan')} {click.style(note, fg='bright_black')}".rstrip()
            )
    lines += ["", *(f"{click.style('warning:', fg='yellow')} {reason}" for reason in blocked)]
    real = click.style("real money:", fg="red")
    return lines + [f"{real} {check.detail}; {check.remedy}" for check in lacks if is_live]


def _short(paths: Paths) -> str:
    import os

    relative = os.path.relpath(paths.home)
    return relative if len(relative) < len(str(paths.home)) and not relative.startswith("..") else str(paths.home)


def _to_stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
