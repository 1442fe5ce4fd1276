"""The checks of `fks cluster check`: the file for `ray up`, and the rows of every machine of a running cluster."""

from __future__ import annotations

import asyncio
import contextlib
import glob
import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fks.config import env_file
from fks.config.agreement import differing
from fks.config.endpoints import load_node
from fks.config.load import load
from fks.config.machine_http import lacking
from fks.config.paths import Paths
from fks.config.settings import Settings
from fks.interfaces.cli.checkup import settings_check
from fks.interfaces.cli.cluster_machines import PYTHONS, ask, stores_of
from fks.interfaces.cli.status import read_database
from fks.model.errors import FksError, OutageError
from fks.model.health import DEGRADED, DOWN, HEALTHY, UNKNOWN, Check, checked, level
from fks.store.nodes import NodeRow, NodeStore, living_head

SKEW_MAX_MS = 500.0
VALIDATE_S = 60.0
ROLES = frozenset({"head", "worker"})
RAYS_OWN = frozenset({"CPU", "GPU"})  # found by Ray itself on each machine
#: Ray's own validator prints the document as JSON first.
_VALIDATOR = "import sys; from actors.ray_internals import validate_cluster_file as check; check(sys.argv[1])"


def _listed(names: Iterable[str], fault: str, *, by: str = ", ") -> str:
    """Return `fault` with the names in it; "" without names."""
    text = by.join(names)
    return fault.format(text) if text else ""


async def examine(paths: Paths, file: Path, machines: Sequence[str] = ()) -> list[Check]:
    """Return the checks of the file and its machines (else of `machines`), of this machine's settings, and of every
    node when a system runs."""
    loaded, check = settings_check(paths)
    settings = None if loaded is None else loaded.settings
    found = [check]
    found += await _file(file, paths, settings, machines)
    found += await _running(paths, settings)
    return found


# ── before it runs ────────────────────────────────────────────────────────────────────────────────────────────────────


async def _file(file: Path, paths: Paths, settings: Settings | None, machines: Sequence[str]) -> list[Check]:
    if not await asyncio.to_thread(file.exists):
        check = Check("cluster file", UNKNOWN, f"no {file}", "name it with --file; FKS's own checkout has an example")
        return [check, *(await _asked({}, machines, settings) if machines else ())]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _VALIDATOR, str(file), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(VALIDATE_S):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return [Check("cluster file", DOWN, f"Ray's validator did not end within {VALIDATE_S:g} s", "try again")]
    lines = [line.strip() for line in err.decode(errors="replace").splitlines() if line.strip()]
    try:
        document = json.loads(out.partition(b"\n")[0])  # Ray prints its own lines after it
    except ValueError:
        return [Check("cluster file", DOWN, lines[-1] if lines else "no YAML", f"repair {file}")]
    reason = next((line for line in lines if "Error" in line), lines[-1] if lines else "")
    is_valid = process.returncode == 0
    remedy = "" if is_valid else f"correct {file}: 'ray up' would refuse it, too"
    schema = Check("cluster file", level(is_valid, False), reason or f"{file}: Ray accepts it", remedy)
    if not is_valid:  # its parts may be of any type
        return [schema]
    theirs = _of_the_machines(document, file.parent, paths) or settings
    checks = [schema, *inspect(document, file.parent, theirs)]
    return checks + await _asked(document, machines, theirs)


async def _asked(document: Mapping[str, Any], machines: Sequence[str], settings: Settings | None) -> list[Check]:
    """Return the checks by answers of the machines, before `ray up` changes them."""
    provider = document.get("provider") or {}
    if shutil.which("ssh") is None:
        reason = "ssh is not installed here"
    elif not machines and (provider.get("type") != "local" or not provider.get("head_ip")):
        reason = "a cloud makes them"
    elif not machines and _examples(provider):
        reason = "their addresses are examples"
    else:
        named = re.search(r"\bfor python in (.+?); ?do\b", " ; ".join(document.get("setup_commands", ())))
        key = (document.get("auth") or {}).get("ssh_private_key")
        file = str(_local(str(key), Path())) if key else ""
        return await ask(document, machines, file, named[1] if named else PYTHONS, stores_of(settings))
    return [Check("machines", UNKNOWN, f"not asked: {reason}")]


def _examples(document: Mapping[str, Any]) -> list[str]:
    """Return the addresses that are reserved for examples."""
    return sorted(set(re.findall(r"\b(?:192\.0\.2|198\.51\.100|203\.0\.113)\.\d+\b", json.dumps(document))))


def _of_the_machines(document: Mapping[str, Any], place: Path, paths: Paths) -> Settings | None:
    """Return the settings as the machines will have them: with the environment file that they are given."""
    given: dict[str, str] = {}
    for target, source in (document.get("file_mounts") or {}).items():
        if target.endswith(".env"):
            with contextlib.suppress(FksError):  # reported by the check of that file
                given |= env_file.read(_local(source, place))
    with contextlib.suppress(FksError):
        return load(paths.home, {**os.environ, **given}).settings
    return None


def inspect(document: Mapping[str, Any], place: Path, settings: Settings | None) -> Iterator[Check]:
    """Yield FKS's own checks of a cluster file beyond Ray's schema. Paths in it are relative to `place`."""
    name = str(document.get("cluster_name") or "")
    yield checked("cluster name", "" if name else "none", name, "set cluster_name")
    yield checked("addresses", _listed(_examples(document), "{} are examples"), "none is an example", "put yours there")
    head = " ; ".join(document.get("head_start_ray_commands", ()))
    worker = " ; ".join(document.get("worker_start_ray_commands", ()))
    yield _start("head", head, "start it with 'fks node head --detach'")
    yield _start("worker", worker, "start them with 'fks node worker --address $RAY_HEAD_IP:6379 --detach'")
    yield checked(
        "autoscaler",
        "" if "--autoscaling-config" in head else "without it nobody starts the workers",
        "the head is mentioned its configuration",
        "add --autoscaling-config=~/ray_bootstrap_config.yaml to the head's command",
    )
    asked = re.search(r"--address[ =]\S+:(\d+)", worker)
    given = re.search(r"--port[ =](\d+)", head)
    ports = (asked.group(1) if asked else "", given.group(1) if given else "6379")
    text = f"the head listens on {ports[1]}, workers ask at {ports[0] or 'nowhere'}"
    yield checked("ports", "" if ports[0] == ports[1] else text, text, "make them the same")
    yield from _mounts(document.get("file_mounts") or {}, place)
    yield from _ray_up(document, head, worker, place)
    if settings is not None:
        mentioned = head + worker + json.dumps(document.get("available_node_types", {}))
        offered = (
            ROLES
            | set(re.findall(r"--resource[ =]([A-Za-z_]\w*)=", mentioned))
            | set(re.findall(r'"([A-Za-z]\w*)": ?\d', mentioned))
            | RAYS_OWN
        )
        yield _placement(settings, offered)
        urls = {"database.url": settings.database.url, "redis.url": settings.redis.url}
        yield checked(
            "stores",
            _listed(
                (name for name, url in urls.items() if url is None),
                "{} not set here: the embedded ones are on the head's unix sockets",
            ),
            "both by URL",
            "workers on other machines need both by URL: FKS_DATABASE_URL, FKS_REDIS_URL",
        )


def _start(role: str, commands: str, remedy: str) -> Check:
    """Check that the start commands of a role run FKS's node: Ray alone would start without it."""
    wanted = f"node {role}"
    _, found, rest = commands.partition(wanted)
    text = f"{found}{rest}" if found else commands.partition(" ; ")[0] or "no command"
    is_run = re.search(rf"fks\b.* {wanted}\b", commands) is not None
    return checked(f"{role} start", "" if is_run else text, text, remedy)


def _mounts(mounts: Mapping[str, str], place: Path) -> Iterator[Check]:
    sources = {target: _local(source, place) for target, source in mounts.items()}
    tokens = [path for target, path in sources.items() if "token" in target]
    yield checked(
        "token",
        "" if tokens else "no file_mounts entry delivers one",
        "".join(map(str, tokens[:1])),
        'add "~/.fks/ray.token": "<FKS_HOME>/ray.token": Ray never hands it out itself',
    )
    for path in tokens:
        is_private = path.is_file() and not stat.S_IMODE(path.stat().st_mode) & 0o077
        fault = "readable by others" if path.exists() else f"{path} is not there"
        remedy = "make it with 'fks security-setup', mode 0600"
        yield checked("token file", "" if is_private else fault, "readable by its owner alone", remedy)
    absent = _listed(
        (str(path) for path in sources.values() if not path.exists() and path not in tokens), "{} not there"
    )
    yield checked(
        "file mounts", absent, f"{len(sources)} are there", "make them: 'ray up' copies each to every machine"
    )
    wheels = [found for path in sources.values() for found in _wheels(path)]
    fault = "" if wheels else "no file_mounts entry holds fks-*.whl"
    yield checked("wheel", fault, "".join(wheels[:1]), "build it with 'make wheel', mount dist/")


def _upgrade_fault(setup: str, starts: Mapping[str, str]) -> str:
    """Return why a second `ray up` would change a machine that runs before its build is checked, or not at all."""
    if "/builds/" not in setup:
        return "pip changes the virtualenv that runs, or skips a wheel of the version that is installed"
    live = [name for name, text in starts.items() if "/venv/bin/fks" in text]
    return _listed(live, "the {} starts the build of before (~/fks/venv), not the one to come", by=" and the ")


def _ray_up(document: Mapping[str, Any], head: str, worker: str, place: Path) -> Iterator[Check]:
    """Yield the checks of what `ray up` and `ray down` do on the machines beside starting Ray."""
    yield checked(
        "programs",
        _listed((name for name in ("ssh", "rsync") if shutil.which(name) is None), "{} not installed here"),
        "ssh and rsync are installed here",
        "install them here and on the head: 'ray up' copies files with them",
    )
    provider, auth = document.get("provider") or {}, document.get("auth") or {}
    if provider.get("type") == "local":
        yield _ssh_key(auth, provider)
    setup = " ; ".join([*document.get("setup_commands", ()), *document.get("head_setup_commands", ())])
    starts = {"head": head, "worker": worker}
    sourced = [name for name, text in starts.items() if re.search(r"(?:^|[;&(]\s*)(?:\.|source) ", text)]
    yield checked(
        "environment",
        _listed(sourced, "a shell reads it on the {}", by=" and the "),
        "no shell reads it",
        "use 'fks node … --env-file FILE': a shell expands $, & and # in a password",
    )
    yield checked(
        "upgrade",
        _upgrade_fault(setup, starts),
        "a second 'ray up' installs beside what runs",
        "take setup_commands and the start commands of the cluster.yaml of this release",
    )
    yield checked(
        "ray down",
        "" if re.search(r"fks\b.* node prepare", setup) else "Ray's own stop kills, and the keeper starts again",
        "stops FKS in order",
        "add 'fks --home HOME node prepare' to setup_commands",
    )
    boots = [name for name, text in starts.items() if "--at-boot" not in text]
    yield checked(
        "boot",
        _listed(boots, "the {} would not start at boot", by=" and the "),
        "each node starts at boot",
        "add --at-boot to the start commands, or use deploy/*.service",
    )
    for target, source in (document.get("file_mounts") or {}).items():
        if target.endswith(".env") and _local(source, place).exists():
            yield from _env_file(_local(source, place), list(document["file_mounts"]))


def _ssh_key(auth: Mapping[str, Any], provider: Mapping[str, Any]) -> Check:
    key = auth.get("ssh_private_key")
    file = _local(str(key), Path.cwd()) if key else None
    if not provider.get("worker_ips"):
        return Check("ssh key", HEALTHY, "no workers")
    if file is None:
        text = "auth.ssh_private_key is not set: the head has no key for its workers"
    elif not file.is_file():
        text = f"{key} is not there"
    elif stat.S_IMODE(file.stat().st_mode) & 0o077:
        text = f"{key} is readable by others: ssh refuses it"
    else:
        return Check("ssh key", HEALTHY, f"{key}: 'ray up' copies it to the head")
    return Check("ssh key", DOWN, text, "name a key of its own for this cluster, mode 0600, without a passphrase")


def _env_file(file: Path, mounts: Sequence[str]) -> Iterator[Check]:
    """Yield the checks of the machines' environment file."""
    try:
        found = env_file.read(file)
    except FksError as error:
        yield Check("fks.env", DOWN, error.message, error.remedy)
        return
    own = sorted(set(found) & {"FKS_NODE_ADDRESS", "FKS_NODE_NAME", "FKS_NODE_ROLE", "FKS_HOME"})
    fault = _listed(own, "{} would be the same on every machine")
    yield checked("fks.env", fault, f"{len(found)} variables", "remove them: each machine has its own")
    query = parse_qs(urlsplit(found.get("FKS_DATABASE_URL", "")).query)
    mode = query.get("sslmode", [""])[0]
    root = query.get("sslrootcert", [found.get("PGSSLROOTCERT", "")])[0]
    is_delivered = any(target.endswith(".postgresql/root.crt") for target in mounts)
    if mode.startswith("verify-"):
        text = f"sslmode={mode} with {root or 'no root certificate'}"
        yield checked(
            "certificate",
            "" if root.startswith("/") or (not root and is_delivered) else text,
            text,
            "add &sslrootcert=/etc/ssl/certs/ca-certificates.crt, or your authority's file by its whole path, "
            "or deliver ~/.postgresql/root.crt by file_mounts",
        )


def _wheels(path: Path) -> list[str]:
    if path.suffix == ".whl":
        return [str(path)] if path.exists() else []
    return sorted(glob.glob(str(path / "fks-*.whl")))


def _placement(settings: Settings, offered: frozenset[str] | set[str]) -> Check:
    wanted = set(settings.supervision.placement.values())
    return checked(
        "resources",
        _listed(sorted(wanted - offered), "supervision.placement asks for {}, which no node offers"),
        ", ".join(sorted(offered)),
        "start a node with --resource NAME=1, or change supervision.placement",
    )


def _guardian_node(settings: Settings, alive: Sequence[NodeRow]) -> Check:
    """Check that the guardian's placement names one machine: the one that acts while PostgreSQL is away."""
    wanted = settings.supervision.placement.get("guardian", "head")
    named = sorted(row.name for row in alive if wanted in row.detail.get("resources", {}))
    text = f"'{wanted}' is offered by {', '.join(named) or 'no node'}"
    return checked(
        "guardian",
        "" if len(named) == 1 else text,
        text,
        "name one node: without PostgreSQL only the guardian there acts, and two cut off from it could both flatten",
    )


def _local(source: str, place: Path) -> Path:
    path = Path(os.path.expanduser(source))
    return path if path.is_absolute() else place / path


# ── while it runs ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def _running(paths: Paths, settings: Settings | None) -> list[Check]:
    try:
        load_node(paths)
    except FksError:
        return [Check("nodes", UNKNOWN, "nothing runs here", "run it on a machine of the cluster to check that too")]
    try:
        async with asyncio.timeout(5.0):
            rows = await read_database(paths, lambda db: NodeStore(db).all())
    except (OutageError, TimeoutError) as error:
        return [Check("database", DOWN, str(error) or "no answer in 5 s", "see 'fks doctor'")]
    return list(check_nodes(rows, settings))


def check_nodes(rows: Sequence[NodeRow], settings: Settings | None) -> Iterator[Check]:
    """Yield the checks of the machines by their rows."""
    head = living_head(rows)
    yield checked(
        "head",
        "" if head else "no keeper of a head speaks",
        f"{head.name} at {head.address}" if head else "",
        "start it with 'fks node head'",
    )
    if head is not None and head.role == "head":
        standbys = [f"{row.name} ({row.detail.get('behind_s')} s behind)" for row in rows if _stands_by(row)]
        yield checked(
            "standby",
            "" if standbys else "the head is a single point of failure: no other machine takes over",
            ", ".join(standbys),
            "start another with 'fks node head --standby', PostgreSQL and Redis on machines of their own",
            DEGRADED,
        )
    for row in rows:
        yield from _node(row, head)
    yield from _gateway(rows)
    if settings is not None:
        alive = [row for row in rows if row.is_alive]
        yield _placement(settings, {name for row in alive for name in row.detail.get("resources", {})})
        yield _guardian_node(settings, alive)


def _stands_by(row: NodeRow) -> bool:
    return row.role == "standby" and row.is_alive


def _gateway(rows: Sequence[NodeRow]) -> Iterator[Check]:
    """Yield, where the head's gateway spreads, whether each machine can answer as the head does."""
    alive = [row for row in rows if row.is_alive]
    heads = [row for row in alive if row.role == "head" and (row.detail.get("http") or {}).get("spreads")]
    if not heads:
        return
    finding = f"can answer {'HTTPS' if heads[0].detail['http'].get('tls_cert') else 'HTTP'} as the head does"
    faults = lacking((row.name, row.role, row.detail) for row in alive)
    for row in alive:
        fault, remedy = faults.get(row.name, ("", ""))
        yield checked(f"{row.name} gateway", fault, finding, remedy)


def _node(row: NodeRow, head: NodeRow | None) -> Iterator[Check]:
    name, detail = row.name, row.detail
    text = f"{row.age_s:.1f} s ago, {row.role} at {row.address}"
    remedy = "look at that machine: 'fks status' there; gone for good? its row leaves with 'fks node stop'"
    yield checked(f"{name} speaks", "" if row.is_alive else text, text, remedy)
    if not row.is_alive:
        return
    troubles = ", ".join(detail.get("troubles") or [])
    yield checked(f"{name} services", troubles, "all ready", "see 'fks logs keeper' there")
    fault = "no answer" if detail.get("redis") is False else ""
    yield checked(f"{name} redis", fault, "answers", "let that machine reach FKS_REDIS_URL")
    skew, error = row.clock_skew_ms, float(detail.get("clock_error_ms", 0.0))
    text = "unknown" if skew is None else f"{skew:+.1f} ms against the database (±{error:.1f})"
    is_near = skew is not None and abs(skew) - error < SKEW_MAX_MS
    yield checked(f"{name} clock", "" if is_near else text, text, "set its clock by NTP (chrony)")
    if head is None or head.name == name:
        return
    builds = [(key, detail.get(key), head.detail.get(key)) for key in ("ray", "python")]
    for part, ours, theirs in [("fks", row.version, head.version), *builds]:
        fault = "" if ours == theirs else f"{ours}, the head has {theirs}"
        yield checked(f"{name} {part}", fault, f"{ours}", "install the same wheel on both, then 'fks deploy'")
    fault = _listed(differing(detail.get("agreed", {}), head.detail.get("agreed", {})), "differs from the head in {}")
    remedy = "make fks.toml and the FKS_ environment the same, then restart its node"
    yield checked(f"{name} settings", fault, f"agrees ({row.config_hash})", remedy)
