"""The checks of `fks doctor`: each looks at one thing, in a second or two at most, and changes nothing."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from fks.config.check import Sources
from fks.config.endpoints import NodeEndpoints, load_node
from fks.config.load import LoadedSettings, load
from fks.config.paths import Paths, free_mb
from fks.config.secrets import load_secrets, refuse_tracked
from fks.config.settings import Settings
from fks.config.unread import warnings_of
from fks.interfaces.cli.status import find_status, read_database
from fks.model.errors import ConfigError, FksError
from fks.model.health import DEGRADED, DOWN, HEALTHY, Check, checked, level
from fks.system.node import ports, preflight, probe
from fks.system.node.lock import holder_of
from fks.system.servers.directories import FREE_MIN_MB

MEMORY_MIN_MB = 3000
FILES_MIN = 4096


async def examine(paths: Paths) -> list[Check]:
    """Return every check, the machine's first, then the configuration's, then the running system's."""
    found = [*_machine(paths)]
    loaded, check = settings_check(paths)
    settings = None if loaded is None else loaded.settings
    found.append(check)
    found += _secrets(paths)
    if loaded is not None and settings is not None:
        found += plain_keys(settings, loaded.sources)
        found.append(await _clock(settings))
        found += safeguards(settings)
    keeper = holder_of(paths.run / "keeper.lock")
    if keeper is None:
        found += _asleep(paths, settings)
    else:
        found.append(Check("keeper", HEALTHY, f"running, pid {keeper}"))
        found += await _awake(paths)
    return found


def _machine(paths: Paths) -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield _guard("python", f"{version}, {sys.executable}", preflight.check_interpreter)
    findings = {"home": f"{paths.home}, writable", "sockets": str(paths.sockets), "drive": "no Windows drive"}
    for name, check in preflight.PLACE.items():
        yield _guard(name, findings[name], partial(check, paths))
    free = free_mb(paths.home)
    status = level(free >= 4 * FREE_MIN_MB, free >= FREE_MIN_MB)
    remedy = "free some, or set FKS_HOME to another disk"
    yield Check("disk", status, f"{free / 1000:.1f} GB free under {paths.home}", remedy)
    yield _memory()
    yield _shared_memory()
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    remedy = f"run 'ulimit -n {FILES_MIN * 16}' before fks up"
    yield Check("open files", level(soft >= FILES_MIN), f"limit {soft}", remedy)
    yield _confinement()
    yield _guard("programs", "PostgreSQL, Redis and Ray are installed", _programs)


def _confinement() -> Check:
    """Check that code of users can be confined. Without it, it runs with this account's rights."""
    from fks.system.process.confinement import missing

    lacking = missing()
    fault = f"files of users are read with this account's rights: {lacking}" if lacking else ""
    finding = "files of users are read without files, network or processes of this account"
    remedy = "use a kernel that has it; until then, take strategy files of persons whom you trust with your keys"
    return checked("confinement", fault, finding, remedy, DEGRADED)


def _memory() -> Check:
    import psutil

    free_mb = psutil.virtual_memory().available // 1_000_000
    remedy = "the whole tree wants about 2.5 GB; end other programs"
    return Check("memory", level(free_mb >= MEMORY_MIN_MB), f"{free_mb / 1000:.1f} GB available", remedy)


def _shared_memory() -> Check:
    shm = Path("/dev/shm")  # noqa: S108
    if not shm.is_dir():
        return Check("shared memory", HEALTHY, f"no {shm} here")
    size_mb = shutil.disk_usage(shm).total // 1_000_000
    remedy = "give a container --shm-size=256m: Ray uses the disk without"
    return Check("shared memory", level(size_mb >= 128), f"{size_mb} MB in {shm}", remedy)


def _programs() -> None:
    from fks.system.servers import binaries

    binaries.postgres("postgres")
    binaries.redis_server()
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("the package ray is not installed", remedy="run 'make install'")


def settings_check(paths: Paths) -> tuple[LoadedSettings | None, Check]:
    """Return the settings and their check; None where they cannot be loaded."""
    try:
        loaded = load(paths.home)
    except FksError as error:
        first, _, rest = str(error).partition("\n")
        return None, Check("settings", DOWN, first, rest.strip() or "see 'fks config check'")
    source = paths.config_file if paths.config_file.exists() else "defaults and the environment"
    if lines := [*loaded.warnings, *warnings_of(loaded.settings, loaded.sources)]:
        remedy = "remove them, or see 'fks config check'"
        return loaded, Check("settings", DEGRADED, f"{source}; {'; '.join(lines)}", remedy)
    return loaded, Check("settings", HEALTHY, str(source))


def plain_keys(settings: Settings, sources: Sources) -> Iterator[Check]:
    """Warn of keys of venues that a file or the environment holds in plain text."""
    names = ("api_key", "api_secret", "guardian_api_key", "guardian_api_secret")
    held = [name for name in names if getattr(settings.venue, name) is not None]
    if held:
        places = {source.text for name in held if (source := sources.get(("venue", name))) is not None}
        where = ", ".join(sorted(places)) or "the settings"
        remedy = "'fks secrets import ACCOUNT' stores it encrypted; then delete it from there"
        yield Check("venue keys", DEGRADED, f"a key of a venue is in plain text in {where}", remedy)


async def stored_faults(paths: Paths) -> str:
    """Return what is wrong with the stored keys of venues, "" if nothing is. Errors: OutageError."""
    from fks.config.credentials import key_file, load_keys
    from fks.store.credentials import CredentialStore

    rows = await read_database(paths, lambda db: CredentialStore(db).page())
    held = [row for row in rows if row.state in ("waiting", "active")]
    if not held:
        return ""
    file = key_file(load(paths.home).settings, paths)
    try:
        keys = load_keys(file)
    except ConfigError as error:
        return str(error)
    lost = [f"{row.account} ({row.role})" for row in held if row.key_id not in keys]
    if lost:
        return f"{file} lacks the key that encrypts the stored keys of {', '.join(lost)}"
    able = [f"{row.account} ({row.role})" for row in held if row.may_withdraw]
    return f"the venue's key may withdraw: {', '.join(able)}" if able else ""


async def _stored_keys(paths: Paths) -> str:
    fault = await stored_faults(paths)
    return f"!{fault}" if fault else "can be decrypted here, or none are stored"


def safeguards(settings: Settings) -> Iterator[Check]:
    """Check what a system is worth less without: with real money (`venue.live`) a lack of it fails."""
    lack = level(False, is_usable=not settings.venue.live)
    yield from account()
    backup, finding = settings.backup, "backups hold strategies, settings and secrets, encrypted"
    fault = "backups have no recipient key: strategies, settings and secrets are in none of them"
    remedy = "'fks db backup-key FILE', then backup.recipient"
    yield checked("backup key", fault if backup.recipient is None else "", finding, remedy, lack)
    fault = "backups are written to FKS_HOME itself, and lost with its disk" if backup.folder is None else ""
    yield checked("backup folder", fault, str(backup.folder), "set backup.folder to another disk", lack)


def no_channel(settings: Settings) -> Check:
    """Return the check of a system without a channel of alerts: it fails with real money."""
    lack, remedy = level(False, is_usable=not settings.venue.live), "'fks alerts channels add', docs/alerts.md"
    return Check("alert channels", lack, "none: no alert leaves this machine", remedy)


def _channels(paths: Paths) -> Check:
    from fks.interfaces.cli.alerts import blocked_channels

    count, blocked = blocked_channels(paths)
    if count == 0:
        return no_channel(load(paths.home).settings)
    return checked("alert channels", "; ".join(blocked), "none is blocked", "see 'fks alerts channels'", DEGRADED)


def account() -> Iterator[Check]:
    """Warn of root."""
    if os.geteuid() == 0:
        remedy = "run FKS as a system user of its own (docs/install.md)"
        yield Check("account", DEGRADED, "runs as root: a strategy that trades has every right here", remedy)


async def _clock(settings: Settings) -> Check:
    """Compare this machine's clock with NTP. Without an answer it is not known, which stops nothing."""
    from fks.clock import RealClock
    from fks.system.monitor.probes import ntp_offset_ms

    server, limit_ms = settings.monitor.ntp_server, settings.monitor.clock_offset_max_ms
    if server == "none":
        return Check("clock", HEALTHY, "not compared: monitor.ntp_server is none")
    try:
        offset_ms, _ = await ntp_offset_ms(server, RealClock())
    except (OSError, FksError, ValueError) as error:
        remedy = "allow UDP port 123, or name a server of your network in monitor.ntp_server (or none)"
        return Check("clock", DEGRADED, f"not compared: {server} gives no time ({error or 'no answer in 2 s'})", remedy)
    status = level(abs(offset_ms) <= limit_ms, abs(offset_ms) <= 4 * limit_ms)
    remedy = "start a time service (chrony, systemd-timesyncd): venues refuse requests with a wrong time"
    return Check("clock", status, f"{offset_ms:+.0f} ms from {server}", remedy)


def _secrets(paths: Paths) -> Iterator[Check]:
    if not paths.secrets_file.exists():
        yield Check("secrets", DEGRADED, "none yet", "'fks up' makes them, or run 'fks security-setup'")
        return

    def look() -> None:
        refuse_tracked(paths.secrets_file)
        load_secrets(paths)
        for file in (paths.ray_token_file, paths.cli_token_file):
            if file.exists() and file.stat().st_mode & 0o077:
                raise ConfigError(f"others can read {file}", remedy=f"run 'chmod 600 {file}'")

    yield _guard("secrets", f"{paths.secrets_file}, strong and private", look)


def _asleep(paths: Paths, settings: Settings | None) -> Iterator[Check]:
    """Check for obstacles to `fks up`."""
    yield Check("keeper", HEALTHY, "FKS does not run here; start it with 'fks up'")
    from fks.system.node.child_records import ChildRecords
    from fks.system.process.handle import ProcessHandle, find_by_command

    known = ChildRecords(paths.run / "keeper.json").items()
    left = [name for name, entry in known if ProcessHandle.find(entry.pid, entry.mark)]
    left += [f"pid {pid}" for pid in find_by_command(f"{paths.sockets}/")] if not left else []
    fault = f"still running without a keeper: {', '.join(left)}" if left else ""
    yield checked("leftovers", fault, "none", "'fks up' takes them over, 'fks down' ends them", DEGRADED)
    if settings is not None and not left:
        named = {key: pair for key, pair in (ports.ray_ports(settings) | ports.sim_ports(settings)).items() if pair[1]}
        numbers = ", ".join(f"{key} {port}" for key, (_, port) in named.items())
        yield _guard("ports", f"free: {numbers}", lambda: ports.check_free(named))


async def venue_faults(paths: Paths) -> str:
    """Return which venues are DOWN and why, "" if none is. Errors: OutageError."""
    from fks.store.venues import VenueStore

    rows = await read_database(paths, lambda db: VenueStore(db).page())
    return "; ".join(f"{row['name']} is DOWN: {row['detail']}" for row in rows if row["state"] == "DOWN")


async def _venues(paths: Paths) -> str:
    fault = await venue_faults(paths)
    return f"!{fault}" if fault else "none is DOWN"


async def _awake(paths: Paths) -> list[Check]:
    """Query each component of the running system."""
    try:
        node = load_node(paths)
    except FksError as error:
        return [Check("endpoints", DOWN, str(error), "run 'fks down', then 'fks up'")]
    asks: list[tuple[str, Callable[[NodeEndpoints], Awaitable[str]]]] = [
        ("postgres", lambda _: _postgres(paths)),
        ("redis", _redis),
        ("ray", _ray),
        ("gateway", _gateway),
        ("stored keys", lambda _: _stored_keys(paths)),
        ("venues", lambda _: _venues(paths)),
        ("status", lambda _: _status(paths)),
    ]
    if node.sim:
        asks += [("exchange", _exchange)]
    found = await asyncio.gather(*(_reach(name, ask, node) for name, ask in asks))
    return [database_roles(paths), await asyncio.to_thread(_channels, paths), *found]


def database_roles(paths: Paths) -> Check:
    """Check that the processes with few needs have database roles: the last start wrote which it could use."""
    from fks.store.grants import KINDS

    used = json.loads(paths.database_roles.read_text()) if paths.database_roles.exists() else {}
    lacking = ", ".join(kind for kind in KINDS if kind not in used)
    fault = f"{lacking} connect as the owner of the tables" if lacking else ""
    remedy = "have an administrator of the database run the statements of 'fks db roles --sql', then restart FKS"
    return checked("database roles", fault, ", ".join(KINDS), remedy, DEGRADED)


async def _reach(name: str, ask: Callable[[NodeEndpoints], Awaitable[str]], node: NodeEndpoints) -> Check:
    try:
        async with asyncio.timeout(5.0):
            detail = await ask(node)
    except (FksError, OSError) as error:
        remedy = f"see 'fks logs {name}'; the keeper restarts what died"
        return Check(name, DOWN, str(error) or "no answer within 5 s", remedy)
    is_bad = detail.startswith("!")
    return Check(name, level(not is_bad), detail.lstrip("!"), "see 'fks status'" if is_bad else "")


async def _postgres(paths: Paths) -> str:
    return f"answers in {await read_database(paths, lambda db: db.ping()) * 1000:.1f} ms"


async def _redis(node: NodeEndpoints) -> str:
    from fks.store.bus import Bus

    bus = await Bus.connect(node.redis_url)
    try:
        start = time.monotonic()
        await bus.ping()
        return f"answers in {(time.monotonic() - start) * 1000:.1f} ms"
    finally:
        await bus.close()


async def _ray(node: NodeEndpoints) -> str:
    host, _, port = node.ray_address.rpartition(":")
    if not await probe.listens(host, int(port)):
        raise OSError(f"nothing listens on {node.ray_address}")
    return f"GCS listens on {node.ray_address}"


async def _gateway(node: NodeEndpoints) -> str:
    where = urlsplit(node.gateway_url)
    status, _ = await probe.http_get(str(where.hostname), int(node.http["port"]), "/ready", tls=node.tls_context())
    base = node.gateway_url
    return f"{base} is ready" if status == 200 else f"!{base}/ready answers {status}"


async def _exchange(node: NodeEndpoints) -> str:
    import orjson

    assert node.sim is not None
    before = time.time()
    status, body = await probe.http_get(ports.LOOPBACK, int(node.sim["port"]), "/api/v3/time")
    after = time.time()
    if status != 200:
        return f"!answers {status}"
    body = body[body.find(b"{") : body.rfind(b"}") + 1]
    skew_ms = orjson.loads(body)["serverTime"] - (before + after) / 2 * 1000
    return f"{'!' if abs(skew_ms) > 500 else ''}{node.sim['rest']}, clock {skew_ms:+.0f} ms from ours"


async def _status(paths: Paths) -> str:
    document = await asyncio.to_thread(find_status, paths)
    reasons = "; ".join(document.get("reasons", [])[:3])
    return "healthy" if document["state"] == "healthy" else f"!{document['state']}: {reasons}"


def _guard(name: str, detail: str, look: Callable[[], None]) -> Check:
    try:
        look()
    except FksError as error:
        return Check(name, DOWN, error.message, error.remedy)
    except OSError as error:
        return Check(name, DOWN, str(error))
    return Check(name, HEALTHY, detail)
