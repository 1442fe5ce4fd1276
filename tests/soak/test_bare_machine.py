"""FKS on bare machines: the image by the steps of its Dockerfile, the systemd units under a systemd of their own, and a restore
and `fks deploy` with open positions, timed. `make soak`, or `-m soak -s tests/soak/test_bare_machine.py` as root; 15 minutes,
15 GB. Needs Debian's mirror, the package index and npm's registry.

A machine is namespaces of this one, with Debian's own files: its kernel is this one's.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import pytest

from fks.interfaces.web.assets import VENDOR
from tests.support.bare_machine import (
    INIT,
    PYTHON,
    SYSTEMD,
    BareMachine,
    Image,
    build_image,
    debian,
    package_settings,
    require_bare_machines,
)
from tests.support.invariants import assert_once
from tests.support.local_exchange import LocalExchange, wait_for_price
from tests.support.waiting import wait_until
from tests.support.wheel import ROOT, build_wheel

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]
FKS, HOME, UNIT = "/opt/fks/venv/bin/fks", "/var/lib/fks", "fks-head.service"
READY_S = 900.0  # of a start where others want the cores, too
HELD = "ETHUSDT"
NET = Decimal("0.999")  # of what is bought, without its fee
STOPPED = Decimal("0.5") * NET
UP = ("ready", "degraded")  # on a busy machine a feed lags, and what needs it is degraded
PARTS = {"postgres", "redis", "gcs", "raylet", "supervisor", "guardian", "orders", "gateway:0"}


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    require_bare_machines()
    found = Path(tempfile.mkdtemp(prefix="fks-bare-", dir="/var/tmp"))
    found.chmod(0o755)
    yield found
    shutil.rmtree(found, ignore_errors=True)


@dataclass
class Times:
    """Seconds of steps, printed at once."""

    begun_s: float = field(default_factory=time.monotonic)

    def note(self, step: str) -> None:
        """Print the seconds since the step before."""
        now = time.monotonic()
        print(f"{step:<68}{now - self.begun_s:8.1f} s   load {os.getloadavg()[0]:.0f}", flush=True)
        self.begun_s = time.monotonic()


def install(machine: BareMachine, wheel: Path) -> None:
    """Install FKS as docs/install.md says, for what trades; make its account."""
    settings, _ = package_settings()
    machine.run(["useradd", "--home-dir", HOME, "--create-home", "--shell", "/usr/sbin/nologin", "fks"])
    machine.run(["python3", "-m", "venv", "/opt/fks/venv"])
    hashes = ("--quiet", "--require-hashes", "--only-binary", ":all:", "-r", "/srv/hashes.txt")
    machine.run(["/opt/fks/venv/bin/pip", "install", *hashes], timeout_s=1800.0, **settings)
    install_wheel(machine, wheel)


def install_wheel(machine: BareMachine, wheel: Path) -> None:
    shutil.copy(wheel, machine.files / "tmp")
    command = ["/opt/fks/venv/bin/pip", "install", "--quiet", "--no-deps", "--force-reinstall", f"/tmp/{wheel.name}"]
    machine.run(command)


@pytest.fixture(scope="module")
def installed(place: Path) -> str:
    """The files of a machine on which FKS was installed and never ran."""
    times = Times()
    base = debian(place / "debian", "bookworm", (*PYTHON, *SYSTEMD))
    wheel = build_wheel(place / "wheel")
    times.note("Debian's files and the wheel")
    given = package_settings()[1] | {ROOT / "deploy" / "hashes" / "fks.txt": "/srv/hashes.txt"}
    machine = BareMachine("new", place / "new", str(base), is_apart=False, given=given).start()
    try:
        install(machine, wheel)
    finally:
        machine.cut_power()
    times.note("FKS and its packages installed")
    return f"{place / 'new' / 'files'}:{base}"


def fks(machine: BareMachine, command: str, *, check: bool = True, **env: str) -> Any:
    """Run `fks …` by the account `fks` and return its JSON; {} where it has none."""
    known = {"FKS_HOME": HOME, "TMPDIR": "/run/fks" if machine.init == INIT else "/tmp"}  # the units' place for sockets
    done = machine.run([FKS, *command.split(), "--json"], user="fks", check=check, timeout_s=READY_S, **known, **env)
    return json.loads(done.stdout) if done.stdout.startswith("{") else {}


def up(machine: BareMachine) -> None:
    """Start FKS and wait until it serves; on a busy machine the command itself gives up before."""
    machine.run([FKS, "up", "--detach"], user="fks", check=False, timeout_s=READY_S, FKS_HOME=HOME)
    wait_until(lambda: serves(machine), deadline_s=READY_S, every_s=1.0)


def parts(machine: BareMachine) -> dict[str, int]:
    """Return the pids of the parts without which nothing trades, as far as they are up."""
    rows = fks(machine, "status", check=False).get("components", [])
    return {row["name"]: row["pid"] for row in rows if row["name"] in PARTS and row["state"] in UP}


def serves(machine: BareMachine) -> bool:
    return set(parts(machine)) == PARTS


def processes(machine: BareMachine) -> list[str]:
    """Return the command lines of the account's processes."""
    done = machine.run(["ps", "-u", "fks", "-o", "args="], check=False)
    return done.stdout.splitlines()


# ── the image ────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture
def image(place: Path) -> Iterator[Image]:
    times = Times()
    # Python 3.13: what makes the guide wants a newer 3.11 than bookworm has
    base = debian(place / "slim", "trixie", PYTHON)
    times.note("Debian's files")
    found = build_image(place / "stages", str(base))
    found.machine.cut_power()
    times.note("the steps of deploy/Dockerfile")
    found.machine.is_apart, found.machine.given = True, {}
    found.machine.start()
    yield found
    found.machine.cut_power()


def test_image_carries_its_files_and_serves_as_its_user(image: Image) -> None:
    assert image.run(["fks", "--version"]).stdout.startswith("fks, version ")
    site = image.run(
        ["python", "-c", "import fks.interfaces.web; print(fks.interfaces.web.__path__[0])"]
    ).stdout.strip()
    pages = {path.name for path in (image.machine.files / site[1:] / "vendor").iterdir() if path.stat().st_size > 0}
    assert set(VENDOR) <= pages
    assert (image.machine.files / site[1:] / "guide" / "index.html").is_file()
    image.run(["fks", "ninja", "package"])
    with zipfile.ZipFile(image.machine.files / image.cwd[1:] / "fks-nt8.zip") as found:
        assert "Info.xml" in found.namelist()
    assert image.run(["id", "-un"]).stdout.strip() == "fks"
    assert image.run(["touch", "/opt/fks/venv/x"], check=False).returncode == 1, "its own files are not writable"

    times = Times()
    argv = [*image.list_of("ENTRYPOINT"), *image.list_of("CMD")]
    with subprocess.Popen(image.machine.command(argv, user=image.user, cwd=image.cwd, **image.env)) as started:
        try:
            healthy = image.list_of("HEALTHCHECK")
            wait_until(lambda: image.run(healthy, check=False).returncode == 0, deadline_s=READY_S, every_s=1.0)
            times.note("its command answers the health check")
            (first,) = psutil.Process(started.pid).children()
            first.send_signal(getattr(signal, image.settings["STOPSIGNAL"]))
            assert started.wait(60.0) == 0  # stop_grace_period of compose.yaml
            times.note("stopped by its signal")
        finally:
            started.kill()
    assert processes(image.machine) == []


# ── systemd ──────────────────────────────────────────────────────────────────────────────────────
def systemctl(machine: BareMachine, *args: str, check: bool = True) -> str:
    return machine.run(["systemctl", *args], check=check).stdout.strip()


def shown(machine: BareMachine, unit: str = UNIT) -> dict[str, str]:
    """Return what systemd knows of a unit."""
    names = "ActiveState,SubState,Result,ExecMainStatus,NRestarts,MainPID"
    lines = systemctl(machine, "show", unit, f"--property={names}").splitlines()
    return dict(line.split("=", 1) for line in lines)


@pytest.fixture
def booted(place: Path, installed: str) -> Iterator[BareMachine]:
    machine = BareMachine("booted", place / "booted", installed, INIT)
    boot(machine)
    yield machine
    machine.cut_power()


def boot(machine: BareMachine) -> None:
    machine.start()
    wait_until(lambda: "running" in systemctl(machine, "is-system-running", check=False))


def test_units_run_under_systemd(booted: BareMachine) -> None:
    """Units and paths as they are: verified, a wrong setting, a start, kill -9 of the keeper, a stop, a reboot."""
    for role in ("head", "worker"):
        shutil.copy(ROOT / "deploy" / f"fks-{role}.service", booted.files / "etc/systemd/system")
        verified = booted.run(["systemd-analyze", "verify", "--man=no", f"fks-{role}.service"])
        assert verified.stderr == ""
    booted.run(["install", "-d", "-o", "fks", "-m", "700", "/etc/fks"])

    def settings(*lines: str) -> None:
        (booted.files / "etc/fks/fks.env").write_text("\n".join(lines) + "\n")
        booted.run(["chown", "fks:", "/etc/fks/fks.env"])
        booted.run(["chmod", "600", "/etc/fks/fks.env"])

    settings("FKS_NODE_ADDRESS=127.0.0.1", "FKS_HTTP_PORT=none")
    systemctl(booted, "daemon-reload")
    for unit in (UNIT, "fks-worker.service"):
        systemctl(booted, "start", unit)
        wait_until(lambda: shown(booted, unit)["ActiveState"] == "failed", deadline_s=READY_S)  # noqa: B023
        end = shown(booted, unit)
        assert (end["Result"], end["ExecMainStatus"], end["NRestarts"]) == ("exit-code", "2", "0")
        systemctl(booted, "reset-failed", unit)

    times = Times()
    settings("FKS_NODE_ADDRESS=127.0.0.1", "FKS_SIM_ENABLED=true", "RAY_AUTH_MODE=token")
    systemctl(booted, "enable", "--now", UNIT)
    wait_until(lambda: serves(booted), deadline_s=READY_S, every_s=1.0)
    times.note("systemctl enable --now fks-head: it serves")
    pids, before = parts(booted), shown(booted)["MainPID"]
    systemctl(booted, "kill", "--kill-who=main", "--signal=KILL", UNIT)
    wait_until(lambda: shown(booted)["NRestarts"] == "1", deadline_s=30.0)
    wait_until(lambda: parts(booted) == pids, deadline_s=READY_S, every_s=1.0)  # its successor took over what ran
    assert shown(booted)["MainPID"] != before
    times.note("the keeper killed, and its successor serves; no part was restarted")
    systemctl(booted, "stop", UNIT)
    assert (shown(booted)["ActiveState"], shown(booted)["Result"]) == ("inactive", "success")
    assert processes(booted) == []
    times.note("systemctl stop: no process is left")
    systemctl(booted, "start", UNIT)
    wait_until(lambda: serves(booted), deadline_s=READY_S, every_s=1.0)
    booted.cut_power()
    times.note("started again; power cut")
    boot(booted)
    wait_until(lambda: serves(booted), deadline_s=READY_S, every_s=1.0)
    assert shown(booted)["NRestarts"] == "0"
    times.note("switched on: systemd started it, it serves")


# ── a machine that is lost, and an upgrade ───────────────────────────────────────────────────────
@dataclass
class Outside:
    """An exchange that outlives the machines, and the settings with which FKS reaches it."""

    exchange: LocalExchange

    def settings(self) -> str:
        info = self.exchange.info
        lines = [f"FKS_{part}_{name.upper()}_URL={info[name]}" for part in ("DATA", "VENUE") for name in ("rest", "ws")]
        lines += [f"FKS_VENUE_{name.upper()}={info[name]}" for name in ("api_key", "api_secret")]
        lines += [f"FKS_VENUE_WS_API_URL={info['ws_api']}", "FKS_SIM_ENABLED=false"]
        return "\n".join([*lines, "FKS_HTTP_PORT=0", "FKS_RAY_DASHBOARD_PORT=0"]) + "\n"

    def stops(self) -> list[Decimal]:
        """Return the quantities of the stops that protect the position."""
        rows = self.exchange.ask("GET", "/sim/state")["open_orders"]
        return [Decimal(row["origQty"]) for row in rows if row["symbol"] == HELD and "STOP" in row["type"]]

    def bought(self, symbol: str) -> Decimal:
        """Return the quantity that was bought, as the exchange has it."""
        fills = self.exchange.ask("GET", "/sim/state")["fills"]
        return sum((Decimal(fill["qty"]) for fill in fills if fill["symbol"] == symbol), Decimal())

    def buy(self, machine: BareMachine, quantity: str, symbol: str, key: str) -> None:
        """Buy with a stop; the exchange has filled the order when this returns. One that is refused as too old is wanted
        again: on a database that the machine does not know, entries of the first 30 s wait for the exchange's word that
        they were not sent before."""
        wait_until(lambda: can_enter(machine, symbol), deadline_s=READY_S, every_s=1.0)  # a denial would be for good
        before = self.bought(symbol)
        stop = round(float(wait_for_price(self.exchange, symbol)) * 0.8)
        for number in range(5):
            known = states(machine, symbol)
            order = f"orders place buy {quantity} {symbol} --account ccxt --stop-loss {stop} --key {key}-{number}"
            wait_until(lambda order=order: fks(machine, order, check=False), deadline_s=READY_S, every_s=2.0)
            ended = wait_until(
                lambda known=known: (
                    len(found := states(machine, symbol)) > len(known)
                    and found[0] in ("FILLED", "REJECTED")
                    and found[0]
                ),
                deadline_s=READY_S,
                every_s=0.5,
            )
            if ended == "FILLED":
                break
        assert self.bought(symbol) == before + Decimal(quantity)

    @contextmanager
    def watched(self) -> Iterator[list[str]]:
        """Look at the exchange four times a second, and yield a list of the moments without the stop of what is held."""
        bare: list[str] = []
        is_over = threading.Event()

        def look() -> None:
            while not is_over.wait(0.25):
                if (found := self.stops()) != [STOPPED]:
                    bare.append(f"{time.time():.1f}: {found}")

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield bare
        finally:
            is_over.set()
            thread.join()


@pytest.fixture
def outside(place: Path) -> Iterator[Outside]:
    exchange = LocalExchange(place / "exchange", ["--rate-limits", "off"])
    exchange.start()
    yield Outside(exchange)
    exchange.stop()


def can_enter(machine: BareMachine, symbol: str) -> bool:
    """Return whether an entry in a symbol has its venue and its feed."""
    found = fks(machine, "status", check=False)
    states = {row["name"]: row["state"] for row in found.get("venues", [])}
    return states.get("ccxt") == "READY" and (symbol, "LIVE") in {(f["symbol"], f["state"]) for f in found["feeds"]}


def states(machine: BareMachine, symbol: str) -> list[str]:
    """Return the states of the entries in a symbol, the newest first."""
    rows = fks(machine, "orders list", check=False).get("items", [])
    return [row["state"] for row in rows if (row["symbol"], row["role"]) == (symbol, "order")]


def held(machine: BareMachine, symbol: str) -> Decimal:
    """Return the quantity of a symbol that FKS has booked."""
    rows = fks(machine, "positions", check=False).get("items", [])
    return sum((Decimal(row["quantity"]) for row in rows if row["symbol"] == symbol), Decimal())


def incidents(machine: BareMachine) -> list[dict[str, Any]]:
    return list(fks(machine, "incidents list", check=False).get("items", []))


def test_a_lost_machine_is_restored_on_a_bare_one_and_upgraded(place: Path, installed: str, outside: Outside) -> None:
    lost = BareMachine("lost", place / "lost", installed, is_apart=False).start()
    bare = BareMachine("bare", place / "bare", installed, is_apart=False)
    kept = place / "kept"  # what is on another machine: the key and the backups
    try:
        (lost.files / "root/env").write_text(outside.settings())
        lost.run(["install", "-o", "fks", "-g", "fks", "-m", "600", "/root/env", f"{HOME}/.env"])
        lost.run(["install", "-d", "-o", "fks", "-g", "fks", "-m", "700", "/srv/kept"])
        public = fks(lost, "db backup-key /srv/kept/key")["recipient"]
        with (lost.files / HOME[1:] / ".env").open("a") as file:
            file.write(f"FKS_BACKUP_RECIPIENT={public}\nFKS_BACKUP_FOLDER=/srv/kept\n")
        up(lost)
        fks(lost, "accounts create ccxt --venue ccxt --initial-balance 100000")
        outside.buy(lost, "0.5", HELD, "before")
        wait_until(lambda: outside.stops() == [STOPPED], deadline_s=READY_S)
        times = Times()
        assert fks(lost, "db backup")["is_verified"]
        times.note("fks db backup, restored into a scratch database and compared")
        outside.buy(lost, "0.01", "BTCUSDT", "after-the-backup")
        shutil.copytree(lost.files / "srv/kept", kept)
        lost.cut_power()
        shutil.rmtree(lost.place)

        times = Times()
        bare.start()
        shutil.copytree(kept, bare.files / "srv/kept")
        bare.run(["chown", "-R", "fks:", "/srv/kept"])
        (backup,) = (path.name for path in kept.iterdir() if path.suffix == ".age")
        with outside.watched() as unprotected:
            fks(bare, f"db restore /srv/kept/{backup} --key /srv/kept/key --yes")
            times.note("fks db restore, with a PostgreSQL of its own that is made")
            up(bare)
            times.note("fks up, until it serves")
            wait_until(lambda: len(incidents(bare)) == 2, deadline_s=READY_S, every_s=1.0)
            times.note("what was bought after the backup and its stop are incidents")
            for row in incidents(bare):
                assert (row["kind"], "BTCUSDT" in row["detail"]) == ("order", True), row
                fks(bare, f"incidents close {row['id']} --as adopted --reason ours")
            wait_until(lambda: held(bare, "BTCUSDT") == Decimal("0.01") * NET, deadline_s=READY_S, every_s=0.5)
            times.note("both are adopted")
            outside.buy(bare, "0.02", "BTCUSDT", "on-the-new-machine")
            times.note("an order of the new machine is filled")
        assert unprotected == []
        upgrade(bare, outside, place)
    finally:
        for machine in (lost, bare):
            machine.cut_power()


def upgrade(machine: BareMachine, outside: Outside, place: Path) -> None:
    """`fks deploy` of another build while the positions are held; each order was sent once."""
    before = {row["version"] for row in fks(machine, "status")["components"] if row["kind"] == "actor"}
    wheel = build_wheel(place / "changed", appended="#: another build of the same version\n")
    times = Times()
    with outside.watched() as unprotected:
        install_wheel(machine, wheel)
        times.note("pip install of another wheel")
        fks(machine, "deploy")
        times.note("fks deploy")
        outside.buy(machine, "0.03", "BTCUSDT", "after-the-upgrade")
        times.note("an order is filled")
    assert unprotected == []
    rows = [row for row in fks(machine, "status")["components"] if row["kind"] == "actor"]
    (after,) = {row["version"] for row in rows}
    assert before != {after}
    for symbol in (HELD, "BTCUSDT"):
        booked = outside.bought(symbol) * NET
        wait_until(lambda: held(machine, symbol) == booked, deadline_s=READY_S, every_s=0.5)  # noqa: B023
    sent = [row["clientOrderId"] for row in outside.exchange.account()["orders"]]
    assert_once(sent)
