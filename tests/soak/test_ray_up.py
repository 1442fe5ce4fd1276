"""`ray up` for real: a head and two workers, each a machine in namespaces of its own with an account without root, from
a checkout to trading, an upgrade by a second `ray up` with a position open, kill -9 of the head's raylet, `ray down`.
The exchange is on none of the machines, so collectors run on workers. `make soak`; about 15 minutes and 6 GB.

FKS_WHEELHOUSE: a folder with the wheels of all packages; without it they are made from the package index first.
The transcript is printed; docs/run-a-cluster.md has one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster_trading import TRADING_S, ClusterTrading
from tests.support.local_exchange import LocalExchange
from tests.support.ray_up_machines import ACCOUNT, Machine, Network, require_machines, stores
from tests.support.waiting import wait_until

REPOSITORY = Path(__file__).parents[2]
UP_S, UPGRADE_S, DOWN_S = 1800.0, 1800.0, 180.0
#: Ray itself gives a raylet 30 s to start, and where the cores are shared three tries were seen to need them.
RAYLET_S = 240.0
WORKERS = ("cpu-1", "cpu-2")
FKS = "~/fks/venv/bin/fks --home ~/.fks"

pytestmark = [pytest.mark.soak, pytest.mark.timeout(5400)]


@dataclass
class Lab:
    """A checkout here and the machines it is brought up on."""

    place: Path
    network: Network
    checkout: Path
    begun_s: float
    exchange: LocalExchange

    @property
    def head(self) -> Machine:
        return self.network.machines[0]

    @property
    def trading(self) -> ClusterTrading:
        return ClusterTrading(self.exchange, self.fks, self.note)

    def note(self, text: str) -> None:
        """Add a line to the transcript."""
        print(f"[{time.monotonic() - self.begun_s:6.1f} s] {text}", flush=True)

    def here(self, *command: str, timeout_s: float = 300.0) -> str:
        """Run a command in the checkout, as its owner would, and return what it prints."""
        self.note("$ " + " ".join(Path(command[0]).name if index == 0 else part for index, part in enumerate(command)))
        env = {key: value for key, value in os.environ.items() if not key.startswith(("FKS_", "RAY_"))}
        env |= {"TMPDIR": str(self.place / "here"), "PYTHONPATH": str(self.checkout), "COLUMNS": "200"}
        done = subprocess.run(
            command,
            cwd=self.checkout,
            env=env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )
        (self.place / "last.log").write_text(done.stdout + done.stderr)
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        return done.stdout + done.stderr

    def program(self, name: str, *args: str, timeout_s: float = 300.0) -> str:
        """Run a program of this virtual environment."""
        return self.here(str(Path(sys.executable).with_name(name)), *args, timeout_s=timeout_s)

    def wheel(self) -> None:
        """Build the wheel, as `make wheel` does."""
        for old in (self.checkout / "dist").glob("fks-*.whl"):
            old.unlink()
        options = ("--quiet", "--no-deps", "--no-build-isolation", "-w", "dist", ".")
        self.here(sys.executable, "-m", "pip", "wheel", *options)
        shutil.rmtree(self.checkout / "build", ignore_errors=True)

    def fks(self, command: str) -> dict[str, Any]:
        """Run a command of FKS on the head, and return its document, {} where it fails."""
        out = self.head.run(f"{FKS} {command} --json", timeout_s=300.0, check=False)
        return dict(json.loads(out)) if out.startswith("{") else {}

    def status(self) -> dict[str, Any]:
        """Return the head's status document."""
        return self.fks("status")

    def components(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in self.status().get("components", [])}

    def up(self) -> str:
        return self.program("ray", "up", "-y", "--no-config-cache", "cluster.yaml", timeout_s=UP_S)


@pytest.fixture
def lab() -> Iterator[Lab]:
    require_machines()
    place = Path(tempfile.mkdtemp(prefix="fks-up-"))
    place.chmod(0o755)
    (place / "here").mkdir()
    network = Network(place, 60 + os.getpid() % 180)
    exchange = LocalExchange(place / "exchange", ["--rate-limits", "off"])
    found = Lab(place, network, place / "checkout", time.monotonic(), exchange)
    try:
        network.open()
        exchange.start()
        yield found
    finally:
        if keep := os.environ.get("FKS_KEEP"):
            print(f"kept until {keep} is gone: {place}", flush=True)
            while os.path.exists(keep):
                time.sleep(1.0)
        exchange.stop()
        network.close()
        shutil.rmtree(place, ignore_errors=True)


def check_out(lab: Lab) -> None:
    """Copy the files of the repository, as a fresh clone has them."""
    done = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=REPOSITORY, capture_output=True, check=True
    )
    for name in done.stdout.decode().split("\0"):
        if name and (REPOSITORY / name).is_file():
            (lab.checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, lab.checkout / name)


def wheelhouse(lab: Lab) -> Path:
    """Return a folder with the wheels of all packages but FKS's own."""
    folder = Path(os.environ.get("FKS_WHEELHOUSE") or lab.place / "wheels")
    if not folder.is_dir():
        options = ("--quiet", "--only-binary", ":all:", "--require-hashes", "-r", "deploy/hashes/fks.txt")
        lab.here(sys.executable, "-m", "pip", "download", *options, "-d", str(folder), timeout_s=1200.0)
    return folder


def configure(lab: Lab, key: Path, urls: tuple[str, str], certificate: Path) -> None:
    """Fill in what cluster.yaml marks HERE, and the environment of the machines."""
    file = lab.checkout / "cluster.yaml"
    text = file.read_text()
    head, *workers = (machine.address for machine in lab.network.machines)
    text = text.replace("192.0.2.10 ", f"{head} ").replace(
        "[192.0.2.11, 192.0.2.12, 192.0.2.13]", f"[{', '.join(workers)}]"
    )
    text = text.replace("192.0.2.12", workers[1]).replace("192.0.2.13", "10.255.255.1")
    text = text.replace("192.0.2.x", "these").replace("ssh_user: fks ", f"ssh_user: {ACCOUNT} ")
    text = text.replace("~/.ssh/fks_ed25519", str(key)).replace("min_workers: 3", "min_workers: 2")
    text = text.replace("max_workers: 3", "max_workers: 2")
    text = text.replace("file_mounts:\n", f'file_mounts:\n  "~/.fks/ca.crt": "{certificate}"\n')
    file.write_text(text)
    env = lab.checkout / "deploy" / "fks.env"
    info = lab.exchange.info
    lines = (
        f"FKS_DATABASE_URL={urls[0]}",
        f"FKS_REDIS_URL={urls[1]}",
        "RAY_AUTH_MODE=token",
        *(f"FKS_{part}_{name.upper()}_URL={info[name]}" for part in ("DATA", "VENUE") for name in ("rest", "ws")),
        f"FKS_VENUE_WS_API_URL={info['ws_api']}",
        f"FKS_VENUE_API_KEY={info['api_key']}",
        f"FKS_VENUE_API_SECRET={info['api_secret']}",
    )
    env.write_text("\n".join(lines) + "\n")
    env.chmod(0o600)


def versions(lab: Lab) -> set[str]:
    """Return the builds that the machines and the children of the tree run."""
    document = lab.status()
    rows = [row for row in document.get("components", []) if row["kind"] == "actor"]
    return {str(row.get("version")) for row in (*document.get("nodes", []), *rows)}


def test_from_a_checkout_to_trading_and_an_upgrade(lab: Lab) -> None:
    check_out(lab)
    lab.wheel()
    wheels = wheelhouse(lab)
    key = lab.place / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    for name in ("head", *WORKERS):
        machine = lab.network.add(name, key, wheels)
        lab.network.lead_here(machine, key, int(lab.exchange.info["rest"].rpartition(":")[2]))
        lab.note(f"{name}: {machine.address}, sshd answers; boot {(machine.place / 'boot_id').read_text()[:8]}")
    stored = lab.place / "stores"
    stored.mkdir()
    with stores(stored, lab.network.address(1)) as (database, redis, certificate):
        lab.note("PostgreSQL and Redis: TLS, sslmode=verify-full")
        lab.program("fks", "--home", ".fks", "security-setup")
        configure(lab, key, (database, redis), certificate)
        run_all(lab)


def gateways(lab: Lab) -> set[str]:
    """Return the machines whose gateway is ready: while it is put on workers, some requests get no answer."""
    rows = lab.components().items()
    return {row["node"] for name, row in rows if name.startswith("gateway:") and row["state"] == "ready"}


def run_all(lab: Lab) -> None:
    """Bring it up, use it, upgrade it, hurt it, take it down."""
    lab.note(
        re.sub(r"(?m)^", "    ", lab.program("fks", "--home", ".fks", "cluster", "check", "--file", "cluster.yaml"))
    )
    lab.up()
    lab.note("`ray up` returned")
    names = {"keeper", "raylet", *(f"keeper@{name}" for name in WORKERS), *(f"raylet@{name}" for name in WORKERS)}
    wait_until(lambda: names <= set(lab.components()), deadline_s=UP_S, every_s=5.0)
    lab.note("both workers are there")
    wait_until(lambda: gateways(lab) == {"head", *WORKERS}, deadline_s=TRADING_S, every_s=2.0)
    lab.note("the gateway is on each machine")
    trading = lab.trading
    trading.begin()
    spread = {"strategy:0", "strategy:1", "collector:binance"}
    wait_until(
        lambda: (
            {row["node"] for name, row in lab.components().items() if name in spread} == set(WORKERS)
            and lab.status().get("state") == "healthy"
        ),
        deadline_s=UP_S,
        every_s=2.0,
    )
    lab.note("healthy: " + ", ".join(f"{row['name']} on {row['node']}" for row in lab.components().values()))

    (old,) = versions(lab)
    with (lab.checkout / "fks" / "__init__.py").open("a") as file:
        file.write("#: another build of the same version\n")
    lab.wheel()
    fills = len(trading.fills())
    with trading.watched() as bare:
        out = lab.up()
    for line in out.splitlines():
        if re.search(r"upgrading|waiting for|is back after|everything runs", line):
            lab.note(f"    {line.strip()}")
    (new,) = versions(lab)
    assert new != old
    assert new.partition("+")[0] == old.partition("+")[0], "the same version, another build"
    assert bare == [], "the position that is held was without its stop"
    during = len(trading.fills()) - fills
    wait_until(lambda: len(trading.fills()) > fills + during, deadline_s=TRADING_S, every_s=1.0)
    lab.note(f"upgraded from {old} to {new}, and trading: {during} fills meanwhile, the stop was there all the time")
    for machine in lab.network.machines:
        builds = machine.run("ls ~/fks/builds; readlink ~/fks/venv ~/fks/next").split()
        assert len(set(builds[:2])) == 2, "the build of before is the way back"
        assert builds[2] == builds[3], "the link leads to the build to come"

    before = lab.components()
    pid = before["raylet"]["pid"]
    lab.head.run(f"kill -9 {pid}")
    start = time.monotonic()
    lab.note(f"kill -9 of the head's raylet, pid {pid}")
    wait_until(
        lambda: (row := lab.components().get("raylet")) and row["pid"] != pid and row["state"] == "ready",
        deadline_s=RAYLET_S,
        every_s=1.0,
    )
    wait_until(lambda: lab.status().get("state") == "healthy", deadline_s=TRADING_S, every_s=1.0)
    lab.note(f"healthy again after {time.monotonic() - start:.1f} s")
    assert lab.fks("strategies disable fast")
    trading.check_nothing_is_lost()

    lab.program("ray", "down", "-y", "cluster.yaml", timeout_s=DOWN_S)
    time_left = time.monotonic() + DOWN_S
    for machine in lab.network.machines:
        left = "pgrep -fa 'fks[. ](system[.])?node|gcs_server|raylet|ray::' | grep -v pgrep || true"
        wait_until(lambda: not machine.run(left).strip(), deadline_s=time_left - time.monotonic(), every_s=1.0)  # noqa: B023
        assert "@reboot" not in machine.run("crontab -l 2>/dev/null || true")
    lab.note("`ray down`: no process of FKS or Ray is left on any machine, and none starts at boot")
