"""The local exchange as a service: `fks sim exchange` with its market, its ready line and its endpoints."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import orjson

from fks.config.environment import passed_on
from fks.config.paths import Paths
from fks.config.python import module
from fks.config.settings import Settings
from fks.model.errors import ConfigError
from fks.system.node import probe
from fks.system.node.ports import LOOPBACK, sim_ports, wait_free
from fks.system.node.spec import ServiceSpec
from fks.system.process.handle import Launch, ProcessHandle, find_by_command

SAMPLE = "BTCUSDT-1m.fksbars"


@dataclass(frozen=True, slots=True)
class SimFiles:
    """Files of the local exchange: its own data, its ready line, the name of its market."""

    data: Path
    ready: Path
    market: Path

    @staticmethod
    def of(paths: Paths) -> SimFiles:
        """Return the files of a node."""
        return SimFiles(paths.sim_dir, paths.run / "sim.json", paths.sim_dir / "market")

    def endpoints(self) -> dict[str, object] | None:
        """Return what the exchange printed when it was ready, or None while it has not."""
        try:
            document = orjson.loads(self.ready.read_bytes())
        except (OSError, ValueError):
            return None
        return document if isinstance(document, dict) else None


def tape_path(tape: str) -> Path:
    """Return the file of a tape; 'sample' is the one that comes with FKS. Errors: ConfigError when there is none."""
    path = (
        Path(str(resources.files("fks.market.files") / "sample_data" / SAMPLE))
        if tape == "sample"
        else Path(tape).expanduser()
    )
    if not path.is_file():
        raise ConfigError(f"sim.tape {tape!r}: no such file", remedy="name an .fksbars file, or 'sample'")
    return path.absolute()


def tape_symbol(tape: str) -> str:
    """Return the symbol whose bars a tape holds, from its first line alone. Errors: ConfigError when it is no tape."""
    path = tape_path(tape)
    try:
        with path.open("rb") as file:
            return str(orjson.loads(file.readline(65536))["symbol"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"sim.tape {tape!r} is no .fksbars file", remedy="name another, or 'sample'") from error


def check_market(files: SimFiles, settings: Settings) -> None:
    """Refuse to mix markets in one home: prices, bars and positions of one make no sense on the other.

    Errors: ConfigError. The first market of a home is recorded.
    """
    wanted = f"tape {tape_path(settings.sim.tape).name}" if settings.sim.tape else "generator"
    known = files.market.read_text().strip() if files.market.exists() else ""
    if known and known != wanted:
        raise ConfigError(
            f"this FKS_HOME trades on the {known}, not on the {wanted}: their prices do not mix",
            remedy="use another home (fks --home DIR up …), or clear this one with 'fks reset'",
        )
    if not known:
        files.market.parent.mkdir(parents=True, exist_ok=True)
        files.market.write_text(wanted + "\n")


def sim_command(files: SimFiles, settings: Settings) -> list[str]:
    """Return the command line of the exchange (no secret in it)."""
    sim = settings.sim
    command = [
        *module("fks.interfaces.cli", "sim", "exchange"),
        "--json",
        "--port",
        str(sim.port),
        "--data-dir",
        str(files.data),
        "--seed",
        str(sim.seed),
    ]
    if sim.tape:
        command += ["--tape", str(tape_path(sim.tape)), "--speed", f"{sim.speed:g}"]
    if sim.fills == "tape":
        command += ["--fills", "tape"]
    return command


def sim_service(paths: Paths, settings: Settings) -> ServiceSpec:
    """Return the service that is the local exchange."""
    files = SimFiles.of(paths)

    def launch() -> Launch:
        wait_free(sim_ports(settings))
        env = {**passed_on(os.environ), "FKS_HOME": str(paths.home), "MALLOC_ARENA_MAX": "2"}
        return Launch(sim_command(files, settings), env, err=paths.logs / "sim.log", out=files.ready)

    async def is_ready(process: ProcessHandle) -> bool:
        if files.endpoints() is None:
            return False
        status, _ = await probe.http_get(LOOPBACK, settings.sim.port, "/api/v3/ping")
        return status == 200

    def find() -> int | None:
        return next(iter(find_by_command(f"--data-dir\0{files.data}\0")), None)

    return ServiceSpec(
        name="sim",
        launch=launch,
        is_ready=is_ready,
        find=find,
        log=paths.logs / "sim.log",
        ports=sim_ports(settings),
        stop=((signal.SIGTERM, 3.0),),
        wave=1,
        start_s=30.0,
        hang_s=30.0,
    )
