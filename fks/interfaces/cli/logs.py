"""`fks logs`: the lines of all or some components, of every machine of a cluster, merged by time, followed across
rotation and restarts."""

from __future__ import annotations

import contextlib
import queue
import subprocess
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from fks.interfaces.cli.base import as_json, paths_of
from fks.system.monitor.logs import BYTES_MAX, BYTES_RECENT, LEVELS, FolderReader, Line, LogFilter, component_of, is_of

if TYPE_CHECKING:
    from fks.config.paths import Paths

_COLOURS = {"DEBUG": "bright_black", "INFO": "white", "WARNING": "yellow", "ERROR": "red"}
_NAMES = ("cyan", "magenta", "blue", "green", "bright_cyan", "bright_magenta", "bright_blue", "yellow")
POLL_S = 0.2
FIRST_S = 20.0  # in which the helper joins the cluster and reads the newest lines


@click.command()
@click.argument("component", nargs=-1)
@click.option("--follow", "-f", is_flag=True, help="Go on with new lines until Ctrl-C.")
@click.option(
    "--lines", "-n", type=click.IntRange(0), default=50, show_default=True, help="How many of the last lines."
)
@click.option(
    "--level", type=click.Choice(list(LEVELS), case_sensitive=False), default="DEBUG", help="This level and worse."
)
@click.option("--trace", metavar="ID", help="Only lines with this trace id (or client order id).")
@as_json
@click.pass_context
def logs(
    ctx: click.Context,
    component: tuple[str, ...],
    follow: bool,
    lines: int,
    level: str,
    trace: str | None,
    as_json: bool,
) -> None:
    """Show logs of all or one component (orders, collector, strategy:0, postgres, ray, …), across its restarts.

    A restart of a named component is marked by a line with the reason. In a cluster the lines of a named component
    come from every machine, with the machine's name: strategy:0@w1.
    """
    paths = paths_of(ctx)
    wanted = LogFilter(component, level.upper(), trace)
    others = OtherNodes(paths, component, lines=lines, is_following=follow)
    if not others.is_open:
        _check_names(paths, component)
    show = _json_line if as_json else _Painter()
    ends = Restarts() if component and not as_json else None
    is_search = trace is not None or wanted.level != "DEBUG" or lines > 1000
    reader = FolderReader(paths.logs, BYTES_MAX if is_search else BYTES_RECENT)
    try:
        recent = seamed(reader.drain() + others.first(), wanted, ends)
        for seam, line in recent[max(0, len(recent) - lines) :]:
            _print(seam, line, show)
        while follow:
            for seam, line in seamed(reader.drain() + others.drain(), wanted, ends):
                _print(seam, line, show)
            threading.Event().wait(POLL_S)
    finally:
        others.close()


def seamed(lines: list[Line], wanted: LogFilter, ends: Restarts | None = None) -> list[tuple[str, Line | None]]:
    """Return the wanted lines in the order of time, each with the restart line before it, if any."""
    found: list[tuple[str, Line | None]] = []
    for line in sorted(lines, key=lambda line: line.time):
        seam = ends.note(line, wanted.components) if ends is not None else ""
        if wanted.takes(line):
            found.append((seam, line))
        elif seam:  # of a program that writes no line of ours: its keeper's log has the restart
            found.append((seam, None))
    return found


def _print(seam: str, line: Line | None, show: Callable[[Line], str]) -> None:
    if seam:
        click.echo(click.style(seam, fg="bright_black"))
    if line is not None:
        click.echo(show(line))


class Restarts:
    """Detects restarts in the lines: a component's new pid, and the end of its old process with the reason; and moves:
    the supervisor recorded its start on another node, whose own logs have its lines from then on.

    Soft state: each component's pid and node, and its last end as the supervisor or the keeper recorded it.
    """

    def __init__(self) -> None:
        self._pids: dict[str, int] = {}
        self._nodes: dict[str, str] = {}
        self._over: set[tuple[str, int]] = set()
        self._why: dict[str, str] = {}

    def note(self, line: Line, wanted: tuple[str, ...]) -> str:
        """Take a line of any component; return the restart line to print before it, "" for none."""
        fields = line.fields
        if line.event in ("child.started", "child.adopted"):
            if moved := self._move(str(fields.get("child")), str(fields.get("node") or ""), wanted):
                return moved
        elif line.event == "child.exited":
            self._why[str(fields.get("child"))] = _why(fields.get("child"), fields)
        elif line.event in ("actor.stopped", "keeper.stopped"):
            self._why[line.component] = "after an orderly stop"
        elif line.event == "service.started" and isinstance(fields.get("service_pid"), int):
            return self._turn(str(fields.get("service")), fields["service_pid"], wanted)
        return self._turn(line.component, line.pid, wanted) if line.pid else ""

    def _move(self, component: str, node: str, wanted: tuple[str, ...]) -> str:
        old = self._nodes.get(component, "")
        self._nodes[component] = node or old
        if not old or not node or node == old or not any(is_of(component, name) for name in wanted):
            return ""
        self._pids.pop(component, None)  # its next process here is no restart of the one before it moved
        return f"── {component} moved: {old} → {node}, where 'fks logs -f {component}' shows its lines ──"

    def _turn(self, component: str, pid: int, wanted: tuple[str, ...]) -> str:
        old = self._pids.get(component)
        if old == pid or (component, pid) in self._over:  # an old process that still writes is no restart
            return ""
        self._pids[component] = pid
        if old is None:
            return ""
        self._over.add((component, old))
        why = self._why.pop(component, "")
        if not any(is_of(component, name) for name in wanted):
            return ""
        return f"── {component} restarted: pid {old} → {pid}{f', {why}' if why else ''} ──"


def _why(child: object, fields: dict[str, Any]) -> str:
    """Return why a child ended, as `fks events` prints it."""
    from fks.system.monitor.history import describe

    return describe({"child": child, "event": "exited", "reason": fields.get("reason"), "payload": fields}).why


def _check_names(paths: Paths, names: tuple[str, ...]) -> None:
    """Errors: InputError for a component that never wrote anything, naming those that did."""
    from fks.model.errors import OutageError, invalid

    known = sorted({name for path in paths.logs.glob("*") if (name := component_of(path))})
    if not known:
        raise OutageError(f"there are no logs in {paths.logs}", remedy="start FKS with 'fks up'")
    for name in names:
        if not any(is_of(found, name) for found in known) and not name.startswith("gateway"):
            import difflib

            close = difflib.get_close_matches(name.replace(":", "-"), known, n=1)
            raise invalid(
                "COMPONENT_UNKNOWN",
                f"no component {name!r} has a log",
                f"did you mean {close[0]!r}?" if close else f"use one of {', '.join(known)}",
            )


def _json_line(line: Line) -> str:
    import orjson

    fields = line.fields if not line.raw else {"message": line.raw}
    head = {"ts": line.time, "level": line.level, "component": line.component, "event": line.event or "log"}
    return orjson.dumps(head | fields).decode()


class _Painter:
    """Makes a line readable; colours vanish by themselves where the output is no terminal."""

    def __init__(self) -> None:
        self._colour: Callable[[str], str] = lambda name: _NAMES[sum(name.encode()) % len(_NAMES)]

    def __call__(self, line: Line) -> str:
        time = line.time.partition("T")[2][:12] or " " * 12
        name = click.style(f"{line.component:<18}", fg=self._colour(line.component))
        colour = _COLOURS.get(line.level, "white")
        level = click.style(f"{line.level:<7}", fg=colour)
        if line.raw:
            return f"{click.style(time, fg='bright_black')} {name} {level} {line.raw}"
        fields = dict(line.fields)
        trail = fields.pop("traceback", None)
        pairs = "  ".join(f"{click.style(key + '=', fg='bright_black')}{_text(value)}" for key, value in fields.items())
        event = click.style(line.event, fg=colour, bold=line.level in ("WARNING", "ERROR"))
        end = f"\n{click.style(str(trail).rstrip(), fg='red')}" if trail else ""
        return f"{click.style(time, fg='bright_black')} {name} {level} {event}  {pairs}{end}"


def _text(value: object) -> str:
    if isinstance(value, str):
        return value if value and " " not in value else repr(value)
    if isinstance(value, dict | list):
        import orjson

        return orjson.dumps(value).decode()
    return str(value)


# ── other machines ───────────────────────────────────────────────────────────────────────────────
class OtherNodes:
    """Lines of `names` from all other machines, read by a helper process that joins Ray: `first` once, then `drain`;
    `close` ends the helper.

    Without a cluster, or while Ray is away, there are none: the lines of this machine go on.
    """

    def __init__(self, paths: Paths, names: tuple[str, ...], *, lines: int, is_following: bool) -> None:
        self._lines: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        if names and is_cluster(paths):
            self._process = _helper(paths, [*(("--follow",) if is_following else ()), f"--lines={lines}", *names])
            threading.Thread(target=self._read, args=(self._process,), daemon=True).start()

    @property
    def is_open(self) -> bool:
        """Return whether there are other machines to read from."""
        return self._process is not None

    def first(self) -> list[Line]:
        """Return the newest lines of each machine. Waits FIRST_S at most."""
        found: list[Line] = []
        with contextlib.suppress(queue.Empty):
            while self._process is not None and (line := self._lines.get(timeout=FIRST_S)) is not None:
                found.append(line)
        return found

    def drain(self) -> list[Line]:
        """Return the lines that have come since."""
        found: list[Line] = []
        with contextlib.suppress(queue.Empty):
            while True:
                if (line := self._lines.get_nowait()) is not None:
                    found.append(line)
        return found

    def close(self) -> None:
        """End the helper."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for text in process.stdout:
            self._lines.put(line_of(text))
        self._lines.put(None)


def line_of(text: bytes) -> Line | None:
    """Return a line that the helper printed, its component with the name of its machine; None for the mark after the
    newest lines, and for text that is no line."""
    import orjson

    try:
        found = orjson.loads(text)
        node = found.pop("node")
        line = Line(**found)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return None
    return Line(line.time, f"{line.component}@{node}", line.level, line.event, line.fields, line.raw, line.pid)


def is_cluster(paths: Paths) -> bool:
    """Return whether this machine is one of a cluster: Ray has another address than loopback's first then."""
    from fks.config.endpoints import load_node
    from fks.model.errors import FksError

    try:
        return load_node(paths).ray_address.rpartition(":")[0] not in ("127.0.0.1", "")
    except FksError:
        return False


def _helper(paths: Paths, arguments: list[str]) -> subprocess.Popen[bytes]:
    from fks.config.load import load_settings
    from fks.config.python import module
    from fks.system.node.ray_node import ray_env

    env = ray_env(paths, load_settings(paths.home))
    env["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "1"  # the role of this machine is known to its keeper alone
    command = module("actors.commands", "logs", *arguments)
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
