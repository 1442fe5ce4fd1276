"""`fks up` and `fks down`."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fks.config.python import module
from fks.interfaces.cli.base import as_json, home_of

if TYPE_CHECKING:
    from fks.config.paths import Paths
    from fks.config.settings import Settings
    from fks.interfaces.cli.screen import Screen
    from fks.system.node.build import NodeSite

ANSWER_S = 15.0  # until a keeper that is being started again answers
UP_S = 180.0  # a detached start may take this long on a slow machine; its keeper gives up long before
DOWN_S = 25.0  # an orderly end takes at most 15 s; then the keeper is killed
WORKERS_S = 40.0  # more, when a head ends its workers first


@click.command()
@click.option("--detach", "-d", is_flag=True, help="Run in the background; return once everything is ready.")
@click.option("--tape", metavar="NAME", help="Play a tape on the local exchange: 'sample' or an .fksbars file.")
@click.option("--speed", type=float, metavar="N", help="Tape speed: 60 plays a minute bar a second.")
@click.option(
    "--fills", type=click.Choice(["book", "tape"]), help="How the local exchange fills: its book, or the written rule."
)
@click.option(
    "--address",
    metavar="HOST:PORT",
    help="Deploy on the Ray cluster that runs there; start none. It needs a node here.",
)
@click.option("--quiet", "-q", is_flag=True, help="No live lines.")
@as_json
@click.pass_context
def up(
    ctx: click.Context,
    detach: bool,
    tape: str | None,
    speed: float | None,
    fills: str | None,
    address: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Start everything and show what happens; Ctrl-C stops it in order.

    Safe to run again: running processes are left alone, those that an earlier keeper left behind are taken over.
    """
    from fks.system.node.preflight import check_interpreter

    check_interpreter()  # before anything that an old Python could not even import
    from fks.system.node.build import check_host

    options = (("FKS_SIM_TAPE", tape), ("FKS_SIM_SPEED", speed), ("FKS_SIM_FILLS", fills), ("FKS_RAY_ADDRESS", address))
    for name, value in options:
        if value is not None:
            os.environ[name] = f"{value:g}" if isinstance(value, float) else value
    paths = check_host(home_of(ctx) or ".fks")
    os.environ["FKS_HOME"] = str(paths.home)
    if address is not None:
        from fks.config.secrets import adopt_delivered_token

        adopt_delivered_token(paths, None)
    if os.geteuid() == 0 and not as_json:
        from fks.interfaces.cli.checkup import account

        for check in account():
            click.echo(f"{click.style('warning:', fg='yellow')} {check.detail}; {check.remedy}", err=True)
    is_new = run_keeper(paths, is_detached=detach, is_quiet=quiet or as_json, is_json=as_json)
    if not is_new and not as_json and any(value is not None for _, value in options):
        click.echo("  --tape, --speed, --fills and --address count when FKS starts: nothing is changed")


def run_keeper(
    paths: Paths,
    *,
    is_detached: bool,
    is_quiet: bool,
    is_json: bool,
    unit: bool = False,
    is_silent: bool = False,
) -> bool:
    """Run this home's keeper, here until it is stopped or in the background; False when one runs already, which is
    printed unless `is_silent`. `unit`: systemd starts it, by the unit of this home.

    Errors: FksError when the start fails.
    """
    from fks.system.node.build import begin_again
    from fks.system.node.head import BeginAgainError
    from fks.system.node.lock import AlreadyRunning

    try:
        _check_free(paths, is_detached=is_detached and not unit)
        if is_detached:
            _detach(paths, is_json=is_json, unit=unit)
        else:
            asyncio.run(_foreground(paths, is_quiet=is_quiet, is_json=is_json))
    except BeginAgainError as error:
        begin_again(paths, error)
    except AlreadyRunning as found:
        if not is_silent:
            print_running(paths, found.pid, is_json=is_json)
        return False
    return True


def _check_free(paths: Paths, *, is_detached: bool) -> None:
    """Raise AlreadyRunning when this home has a keeper, or a parent that is about to start one.

    With `is_detached` a keeper that has lost its parent is given another one first.
    """
    import threading

    from fks.model.errors import OutageError
    from fks.system.node.control_socket import ask
    from fks.system.node.lock import PARENT_LOCK, AlreadyRunning, holder_of
    from fks.system.process.procfs import environment

    end = time.monotonic() + ANSWER_S
    while True:
        keeper, parent = holder_of(paths.run / "keeper.lock"), holder_of(paths.run / PARENT_LOCK)
        if keeper is None and parent is None:
            return
        try:
            has_parent = ask(paths.keeper_socket, "progress").get("has_parent")
        except OutageError:
            if time.monotonic() < end:
                threading.Event().wait(0.1)
                continue
            has_parent = False
        if is_detached and has_parent and parent is None:
            _by_itself(paths, environment(keeper) if keeper else None)  # its next keeper is to be as this one is
        raise AlreadyRunning(keeper or parent or 0)


async def _foreground(paths: Paths, *, is_quiet: bool, is_json: bool) -> None:
    from fks.interfaces.cli.screen import Screen
    from fks.system.node.build import make_keeper, open_site
    from fks.system.node.lock import keeper_lock

    with keeper_lock(paths.run / "keeper.lock"):
        site = open_site(paths)
        screen = Screen(is_quiet=is_json)
        shown = asyncio.Event()

        def on_progress(name: str, state: str, text: str) -> None:
            screen.say(name, state, text)
            if (name, state) == ("fks", "ready"):
                shown.set()

        keeper = make_keeper(site, on_progress=on_progress)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, _stop, keeper, screen, number)
        running = asyncio.create_task(keeper.run())
        watching = asyncio.create_task(_watch(site, screen, shown, is_quiet=is_quiet, is_json=is_json))
        ended = asyncio.create_task(keeper.ending.wait())
        ended.add_done_callback(lambda _: watching.cancel())
        running.add_done_callback(lambda _: watching.cancel())
        try:
            await running
        finally:
            for task in (watching, ended):
                task.cancel()
            await asyncio.gather(watching, ended, return_exceptions=True)
        if not is_json:
            screen.line("everything is stopped")


def _stop(keeper: Any, screen: Screen, number: int) -> None:
    is_first = keeper.phase != "stopping"
    keeper.request_stop()
    text = "stopping in order; Ctrl-C again to hurry" if is_first else "hurrying"
    screen.line(click.style(f"{signal.Signals(number).name}: {text}", fg="yellow"))


async def _watch(site: NodeSite, screen: Screen, ready: asyncio.Event, *, is_quiet: bool, is_json: bool) -> None:
    from fks.config.load import load
    from fks.config.unread import warnings_of
    from fks.interfaces.cli.live import watch
    from fks.interfaces.cli.screen import first_screen

    if not is_json:
        screen.line(click.style(f"FKS starts in {site.paths.home}", bold=True))
        loaded = load(site.paths.home)
        for line in (*loaded.warnings, *warnings_of(loaded.settings, loaded.sources)):
            screen.line(f"{click.style('warning:', fg='yellow')} {line}")
    spinner = asyncio.create_task(screen.spin())
    try:
        await ready.wait()
        if is_json:
            _ready_line(site.paths, screen.elapsed_s)
        elif site.settings.node.role in ("worker", "database"):
            screen.line(_joined(site.paths, site.settings))
        else:
            for line in await asyncio.to_thread(
                first_screen,
                site.paths,
                site.node(),
                site.settings,
                market=_market(site.settings),
                took_s=screen.elapsed_s,
                is_detached=False,
            ):
                screen.line(line)
        if is_quiet:
            await asyncio.Event().wait()
        node = site.node()
        await watch(node.gateway_url, lambda: _token(site.paths), screen.line, trust=node.trust())
    finally:
        spinner.cancel()


def _joined(paths: Paths, settings: Settings) -> str:
    if settings.node.role == "database":
        from fks.system.node.database_node import certificate_files, environment_file

        return (
            f"this machine serves PostgreSQL and Redis at {settings.node.address} with TLS; give the others the lines "
            f"of {environment_file(paths)} and a copy of {certificate_files(paths)[0]}"
        )
    if settings.node.role != "worker":
        return "this machine stands by; see 'fks status', leave with 'fks node stop'"
    from fks.system.node.ray_node import head_address

    head = head_address(paths, settings)
    return f"this machine works for the head at {head}; see 'fks status', leave with 'fks node stop'"


def _market(settings: Settings) -> str:
    sim = settings.sim
    if settings.venue.live:
        return f"{settings.venue.exchange} itself, with REAL MONEY (venue.live); the demo's strategies are switched off"
    if not sim.enabled:
        return f"{settings.venue.exchange} itself"
    if sim.tape:
        return f"the local exchange, tape {sim.tape} at {sim.speed:g} x"
    return f"the local exchange, seed {sim.seed}"


def _token(paths: Paths) -> str | None:
    try:
        return paths.cli_token_file.read_text().strip()
    except OSError:
        return None


def _detach(paths: Paths, *, is_json: bool, unit: bool = False) -> None:
    """Start a keeper in a session of its own, or by systemd, and follow its steps until it is ready. Errors: the
    keeper's own."""
    import threading

    from fks.config.endpoints import load_node
    from fks.config.load import load_settings
    from fks.interfaces.cli.screen import Screen, first_screen
    from fks.model.errors import OutageError
    from fks.system.node.control_socket import ask

    settings = load_settings(paths.home)
    has_failed = _by_unit(paths) if unit else None
    if has_failed is None:
        has_failed = _by_itself(paths)
    screen = Screen(is_quiet=is_json)
    shown = 0
    while screen.elapsed_s < UP_S:
        has_failed()
        try:
            progress = ask(paths.keeper_socket, "progress")
        except OutageError:
            progress = {"phase": "starting", "steps": []}
        for step in progress["steps"][shown:]:
            screen.say(step["name"], step["state"], step["text"])
        shown = max(shown, len(progress["steps"]))
        if progress["phase"] in ("ready", "standby"):
            break
        threading.Event().wait(0.1)
    else:
        raise OutageError(f"not ready within {UP_S:g} s", remedy="see 'fks status' and 'fks logs keeper'")
    if is_json:
        _ready_line(paths, screen.elapsed_s)
        return
    if settings.node.role in ("worker", "database") or progress["phase"] == "standby":
        screen.line(_joined(paths, settings))
        return
    node, market = load_node(paths), _market(settings)
    for line in first_screen(paths, node, settings, market=market, took_s=screen.elapsed_s, is_detached=True):
        screen.line(line)


def _by_itself(paths: Paths, env: Mapping[bytes, bytes] | None = None) -> Callable[[], None]:
    """Start a keeper, under its parent, in a session of its own; return a check that raises why it ended. `env` is its
    environment, ours by default."""
    from fks.model.errors import ConfigError, FksError, OutageError

    output = paths.logs / "keeper.out"
    with open(output, "wb", opener=lambda path, flags: os.open(path, flags | os.O_APPEND, 0o600)) as sink:
        child = subprocess.Popen(
            module("fks.system.node.parent", str(paths.home)),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
            env=None if env is None else dict(env),
        )

    def check() -> None:
        if child.poll() is not None:
            reason = output.read_text(errors="replace").strip() or f"the keeper ended with status {child.returncode}"
            raise {2: ConfigError, 3: OutageError}.get(child.returncode, FksError)(reason)

    return check


def _by_unit(paths: Paths) -> Callable[[], None] | None:
    """Have systemd start the keeper; return a check that raises when it gave up, None when it does not start."""
    from fks.model.errors import FksError
    from fks.system.node.boot import is_failed, start_unit, unit_name

    if not start_unit(paths):
        return None

    def check() -> None:
        if is_failed(paths):
            raise FksError("the keeper ended", remedy=f"see 'journalctl --user -u {unit_name(paths)}'")

    return check


def _ready_line(paths: Paths, took_s: float) -> None:
    """Print one JSON line with all addresses."""
    import orjson

    document = {"schema": "fks.up/1", "state": "ready", "took_s": round(took_s, 1), **_whereabouts(paths)}
    click.echo(orjson.dumps(document).decode())


def _whereabouts(paths: Paths) -> dict[str, object]:
    from fks.config.endpoints import load_node
    from fks.config.load import load_settings
    from fks.interfaces.cli.client import monitor_page

    node = load_node(paths)
    base = node.gateway_url
    return {
        "home": str(paths.home),
        "keeper_pid": node.pids.get("keeper"),
        "gateway": base,
        "docs": f"{base}/docs",
        "monitor": monitor_page(base, load_settings(paths.home)) or None,
        "dashboard": node.dashboard_url,
        "sim": node.sim,
        "logs": str(paths.logs),
    }


def print_running(paths: Paths, pid: int, *, is_json: bool) -> None:
    from fks.model.errors import FksError

    try:
        where = _whereabouts(paths)
    except FksError:
        where = {"home": str(paths.home), "keeper_pid": pid}
    if is_json:
        import orjson

        click.echo(orjson.dumps({"schema": "fks.up/1", "state": "already running", **where}).decode())
        return
    click.echo(f"already running: keeper pid {pid}, home {paths.home}")
    if "gateway" in where:
        page = f"   monitor {where['monitor']}" if where["monitor"] else ""
        click.echo(f"  gateway {where['gateway']}{page}   see 'fks status', stop with 'fks down'")


@click.command()
@as_json
@click.pass_context
def down(ctx: click.Context, as_json: bool) -> None:
    """Stop a system that runs in the background, in order, with the leftovers of a killed keeper."""
    from fks.config.paths import Paths

    stop_home(Paths.of(Path(home_of(ctx) or ".fks")), is_json=as_json)


def stop_home(paths: Paths, *, is_all: bool = False, is_json: bool = False) -> None:
    """Stop everything of this home and print what ran. `is_all`: a head ends its workers first."""
    import orjson

    start = time.monotonic()
    found = _down(paths, is_all=is_all)
    took_s = time.monotonic() - start
    if is_json:
        click.echo(orjson.dumps({"schema": "fks.down/1", "stopped": found, "took_s": round(took_s, 1)}).decode())
    else:
        click.echo(f"stopped {', '.join(found)} in {took_s:.1f} s" if found else "nothing runs")


def _down(paths: Paths, *, is_all: bool) -> list[str]:
    """End everything of this home and return the names of the processes that were running."""
    import threading

    from fks.model.errors import OutageError
    from fks.system.node.control_socket import ask
    from fks.system.node.lock import PARENT_LOCK, holder_of, keeper_lock
    from fks.system.process.handle import kill

    def wait_free(lock: Path, seconds: float) -> None:
        end = time.monotonic() + seconds
        while holder_of(lock) is not None and time.monotonic() < end:
            threading.Event().wait(0.05)

    lock, parent_lock = paths.run / "keeper.lock", paths.run / PARENT_LOCK
    pid, parent = holder_of(lock), holder_of(parent_lock)
    if parent:  # first: it would start the keeper again
        kill([parent], signal.SIGTERM if pid is None else signal.SIGKILL)
        wait_free(parent_lock, DOWN_S)
    stopped: list[str] = []
    if pid is not None:
        try:
            stopped += reversed(ask(paths.keeper_socket, "stop", all=is_all)["services"])
        except OutageError:
            kill([pid] if pid else [], signal.SIGTERM)
        wait_free(lock, DOWN_S + (WORKERS_S if is_all else 0.0))
        if holder_of(lock) is not None:
            kill([pid] if pid else [])
        stopped.append("keeper")
    if not paths.run.is_dir():
        return stopped
    with keeper_lock(lock):
        return stopped + asyncio.run(_sweep(paths))


async def _sweep(paths: Paths) -> list[str]:
    from fks.system.node.keeper import sweep
    from fks.system.node.services import leftovers

    return await sweep(paths, leftovers(paths))
