"""Machines on this one: each in network, pid, mount and UTS namespaces, with an address of its own at a bridge, and
PostgreSQL and Redis over TLS beside them. Those for `ray up` also have an sshd, a /tmp, an account without root, and a
folder of wheels in place of a package index; a bare one shares the files and has neither."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from fks.config.secrets import load_secrets
from tests.support import servers
from tests.support.namespaces import BOOT, UNSHARE, require_namespaces
from tests.support.programs import leave_out, require
from tests.support.waiting import wait_until

PROGRAMS = ("ssh", "ssh-keygen", "sshd", "rsync")
SSHD, PYTHON = "/usr/sbin/sshd", "/usr/bin/python3"  # the distribution's own
PARTS = ("tmp", "home")
ACCOUNT, UID = "fks", 6000
SSL_REQUEST = bytes.fromhex("0000000804d2162f")
#: The order matters: /tmp last, as everything else is found there.
_BOOT = """
set -e
hostname {name}
mount --bind {place}/boot_id {boot}
mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd
mount -t tmpfs -o size=1g tmpfs /dev/shm
if [ -d /var/spool/cron/crontabs ]; then mount -t tmpfs tmpfs /var/spool/cron/crontabs; fi
for file in passwd shadow hosts; do mount --bind {place}/$file /etc/$file; done
mount --bind {place}/home /mnt
mount -t tmpfs -o mode=700 tmpfs /root
mkdir -p {place}/tmp/wheels {place}/tmp/keys
mount --bind {wheels} {place}/tmp/wheels
cp {place}/sshd/* {place}/tmp/keys/
mount --rbind {place}/tmp /tmp
ip link set lo up
until ip link show eth0 >/dev/null 2>&1; do sleep 0.1; done
ip addr add {address}/24 dev eth0 && ip link set eth0 up && ip route add default via {gateway}
exec {sshd} -D -f /tmp/keys/sshd_config -E /tmp/sshd.log
"""
_BARE = """
set -e
hostname {name}
mount --bind {place}/boot_id {boot}
mount --bind {place}/hosts /etc/hosts
mount -t tmpfs -o size=1g tmpfs /dev/shm
{mounts}
ip link set lo up
until ip link show eth0 >/dev/null 2>&1; do sleep 0.1; done
ip addr add {address}/24 dev eth0 && ip link set eth0 up && ip route add default via {gateway}
exec {python} -c '{lead}' 127.0.0.1 {gateway} {port}
"""
#: LISTENS LEADS PORT: leads a port of one address to that of another; FKS takes an exchange elsewhere than on loopback
#: for real. It reaps, as the first process of a bare machine, what others leave.
_LEAD = """
import asyncio, signal, sys
async def copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()
async def lead(reader, writer):
    try:
        there = await asyncio.open_connection(sys.argv[2], int(sys.argv[3]))
    except OSError:
        return writer.close()
    await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))
async def main():
    async with await asyncio.start_server(lead, sys.argv[1], int(sys.argv[3])) as server:
        await server.serve_forever()
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
asyncio.run(main())
"""
_SSHD = """\
ListenAddress {address}
HostKey /tmp/keys/host
AuthorizedKeysFile /tmp/keys/authorized
PermitRootLogin no
UsePAM no
StrictModes no
PidFile none
SetEnv PIP_NO_INDEX=1 PIP_FIND_LINKS=/tmp/wheels
"""


def require_network() -> None:
    """Skip the test where bare machines cannot be made; it says what was left out."""
    require_namespaces()
    require("ip", "nsenter", "openssl")
    tried = subprocess.run(["ip", "link", "add", "fks-probe", "type", "bridge"], capture_output=True, text=True)
    if tried.returncode:
        leave_out(f"no network bridge ({tried.stderr.strip()}), machines with a network of their own were left out")
    subprocess.run(["ip", "link", "del", "fks-probe"], check=True)


def require_machines() -> None:
    """Skip the test where machines cannot be made; it says what was left out."""
    require_network()
    require(*PROGRAMS)
    if subprocess.run([PYTHON, "-c", "import ensurepip, sys; sys.exit(sys.version_info < (3, 11))"]).returncode:
        leave_out(f"{PYTHON} is no Python 3.11 with venv, `ray up` over ssh was left out")


@dataclass
class Machine:
    """One machine: its address, its files as this one sees them, and its first process."""

    name: str
    address: str
    place: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Return the pid, here, of the machine's first process: the child of `unshare`."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0]) if children else 0

    @property
    def inside(self) -> list[str]:
        """Return the beginning of a command that runs in the machine."""
        return ["nsenter", "-t", str(self.pid), "--net", "--pid", "--mount", "--uts"]

    def run(self, command: str, *, timeout_s: float = 60.0, check: bool = True) -> str:
        """Run a command in the machine as its account would, and return what it prints."""
        inside = [*self.inside, f"-S{UID}", f"-G{UID}", "bash", "-c"]
        script = f"export HOME=/mnt; cd /mnt; {command}"
        done = subprocess.run([*inside, script], capture_output=True, text=True, timeout=timeout_s)
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done.stdout


@dataclass
class Network:
    """A bridge `name` with the first address of 10.N.N.0/24 here, and the machines at it."""

    place: Path
    number: int
    machines: list[Machine] = field(default_factory=list)
    tunnels: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def bridge(self) -> str:
        return f"fks{self.number}"

    def address(self, host: int) -> str:
        """Return an address of the network."""
        return f"10.{self.number}.{self.number}.{host}"

    def open(self) -> None:
        """Make the bridge."""
        _ip("link", "add", self.bridge, "type", "bridge")
        _ip("addr", "add", f"{self.address(1)}/24", "dev", self.bridge)
        _ip("link", "set", self.bridge, "up")

    def add(self, name: str, key: Path, wheels: Path) -> Machine:
        """Start a machine; it answers ssh when this returns."""
        machine = Machine(name, self.address(11 + len(self.machines)), self.place / name)
        self._write(machine, key)
        script = _BOOT.format(
            name=name,
            place=machine.place,
            boot=BOOT,
            wheels=wheels,
            address=machine.address,
            gateway=self.address(1),
            sshd=SSHD,
        )
        self.machines.append(machine)
        self._boot(machine, script)
        try:
            wait_until(lambda: self.ssh(machine, key, "true").returncode == 0, deadline_s=30.0, every_s=0.5)
        except AssertionError:
            log_text = (machine.place / "log").read_text()
            raise AssertionError(f"{name} does not answer ssh: {log_text}") from None
        return machine

    def serve(self, port: int) -> None:
        """Have this port of loopback here be reached at the bridge, too."""
        command = [sys.executable, "-c", _LEAD, self.address(1), "127.0.0.1", str(port)]
        self.tunnels.append(subprocess.Popen(command))

    def add_bare(self, name: str, port: int, mounts: str) -> Machine:
        """Start a machine with these mounts besides, whose `port` of loopback leads to that of the bridge; or a machine
        of that name again, as after a reboot. Commands run in it when this returns."""
        machine = next((found for found in self.machines if found.name == name), None)
        if machine is None:
            machine = Machine(name, self.address(11 + len(self.machines)), self.place / name)
            machine.place.mkdir(exist_ok=True)
            (machine.place / "hosts").write_text(f"127.0.0.1 localhost\n{machine.address} {name}\n")
            self.machines.append(machine)
        (machine.place / "boot_id").write_text(f"{uuid.uuid4()}\n")
        script = _BARE.format(
            name=name,
            place=machine.place,
            boot=BOOT,
            mounts=mounts,
            address=machine.address,
            gateway=self.address(1),
            python=sys.executable,
            lead=_LEAD,
            port=port,
        )
        self._boot(machine, script)
        probe = [*machine.inside, "bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}"]
        wait_until(lambda: subprocess.run(probe, capture_output=True).returncode == 0, deadline_s=30.0, every_s=0.2)
        return machine

    def _boot(self, machine: Machine, script: str) -> None:
        with (machine.place / "log").open("wb") as log:
            machine.process = subprocess.Popen([*UNSHARE, "bash", "-c", script], stdout=log, stderr=log)
        wait_until(lambda: machine.pid, deadline_s=10.0)
        link = self._link(machine)
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(machine.pid))
        _ip("link", "set", link, "master", self.bridge, "up")

    def _link(self, machine: Machine) -> str:
        return f"{self.bridge}-{self.machines.index(machine) + 1}"

    def switch_off(self, machine: Machine) -> None:
        """Kill a machine's first process, and with it all others."""
        assert machine.process is not None
        machine.process.send_signal(signal.SIGKILL)
        machine.process.wait()
        # the kernel may keep the namespace, and its end of the link, for minutes
        subprocess.run(["ip", "link", "del", self._link(machine)], capture_output=True)

    def cut_off(self, machine: Machine) -> None:
        """Have every packet from and to a machine vanish: it runs on, and learns of nothing."""
        _ip("link", "set", self._link(machine), "nomaster")

    def reconnect(self, machine: Machine) -> None:
        """End what `cut_off` began."""
        _ip("link", "set", self._link(machine), "master", self.bridge)

    def ssh(self, machine: Machine, key: Path, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command over ssh."""
        return subprocess.run([*self._ssh(machine, key), command], capture_output=True, text=True)

    def lead_here(self, machine: Machine, key: Path, port: int) -> None:
        """Have a port of the machine's loopback lead to the same port here: FKS takes an exchange elsewhere for real."""
        way = f"127.0.0.1:{port}:127.0.0.1:{port}"
        self.tunnels.append(subprocess.Popen([*self._ssh(machine, key), "-N", "-R", way], stdin=subprocess.DEVNULL))

    def _ssh(self, machine: Machine, key: Path) -> list[str]:
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        return ["ssh", *options, "-i", str(key), f"{ACCOUNT}@{machine.address}"]

    def _write(self, machine: Machine, key: Path) -> None:
        place = machine.place
        for part in (*PARTS, "sshd"):
            (place / part).mkdir(parents=True)
        (place / "tmp").chmod(0o1777)
        (place / "boot_id").write_text(f"{uuid.uuid4()}\n")
        for file, line in (("passwd", f"{UID}:{UID}::/mnt:/bin/bash"), ("shadow", "19000:0:99999:7:::")):
            own = f"{ACCOUNT}:{'x' if file == 'passwd' else '*'}:{line}\n"
            (place / file).write_text(Path("/etc", file).read_text() + own)
        (place / "shadow").chmod(0o600)
        (place / "hosts").write_text(f"127.0.0.1 localhost\n{machine.address} {machine.name}\n")
        (place / "home" / ".bashrc").write_text('[ -z "$PS1" ] && return\n')
        (place / "home" / ".profile").write_text(". ~/.bashrc\n")
        for entry in (place / "home", *(place / "home").iterdir()):
            os.chown(entry, UID, UID)
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / "sshd" / "host"))
        shutil.copy(key.with_suffix(".pub"), place / "sshd" / "authorized")
        (place / "sshd" / "sshd_config").write_text(_SSHD.format(address=machine.address))

    def close(self) -> None:
        """End the machines and remove the bridge."""
        for tunnel in self.tunnels:
            tunnel.kill()
            tunnel.wait()
        for machine in self.machines:
            self.switch_off(machine)
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True)


@contextlib.contextmanager
def stores(place: Path, address: str, root: str = "/mnt/.fks/ca.crt") -> Iterator[tuple[str, str, Path]]:
    """Give the URLs of a PostgreSQL and a Redis at `address`, and the root certificate both are proven by. The URLs
    name the certificate as the machines have it, `root`."""
    certificate = _certificate(place, address)
    with (
        servers.home(is_on_disk=True) as paths,
        servers.running_redis(paths),
        servers.running_postgres(paths),
        _tls_in_front(paths.sockets / "redis.sock", address, 6380, certificate),
        _tls_in_front(paths.sockets / "pg" / ".s.PGSQL.5432", address, 5432, certificate, is_postgres=True),
    ):
        secrets = load_secrets(paths)
        secret = quote(secrets.postgres_password.get_secret_value(), safe="")
        password = quote(secrets.redis_password.get_secret_value(), safe="")
        yield (
            f"postgresql://fks:{secret}@{address}:5432/fks?sslmode=verify-full&sslrootcert={root}",
            f"rediss://:{password}@{address}:6380/0?ssl_ca_certs={root}",
            certificate,
        )


@contextlib.contextmanager
def _tls_in_front(
    socket: Path, host: str, port: int, certificate: Path, *, is_postgres: bool = False
) -> Iterator[None]:
    """Serve a unix socket over TLS: the embedded servers have none. A client of PostgreSQL asks for it first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if is_postgres:
                assert await reader.readexactly(8) == SSL_REQUEST
                writer.write(b"S")
                await writer.start_tls(context)
            there = await asyncio.open_unix_connection(str(socket))
        except (OSError, asyncio.IncompleteReadError):
            writer.close()
            return
        await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))

    loop = asyncio.new_event_loop()
    tls = None if is_postgres else context
    server = loop.run_until_complete(asyncio.start_server(serve, host, port, ssl=tls))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5.0)


def _certificate(place: Path, address: str) -> Path:
    """Return a certificate of this address that is its own root; its key is key.pem beside it."""
    place.chmod(0o755)
    file, key = place / "ca.crt", place / "key.pem"
    options = ("-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=fks-stores")
    _run("openssl", "req", *options, "-addext", f"subjectAltName=IP:{address}", "-keyout", str(key), "-out", str(file))
    file.chmod(0o644)
    return file


def _ip(*args: str) -> None:
    _run("ip", *args)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr}"
