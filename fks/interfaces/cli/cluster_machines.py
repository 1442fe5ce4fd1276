"""Answers of a cluster's machines over ssh, reached as `ray up` will reach them, before it changes anything there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from fks.config.settings import Settings
from fks.model.health import DOWN, HEALTHY, UNKNOWN, Check, checked

CONNECT_S, REACH_S, ANSWER_S = 10, 5, 90.0
_AT_ONCE = 5  # sshd of the head, on the way to the workers, refuses some above ten (MaxStartups)
DISK_MIN_MB = 6_000  # a build has 2,200 MB, its packages pass through pip's cache, and the build that runs stays
PYTHONS = "~/fks/venv/bin/python python3 python3.13 python3.12 python3.11"
PORTS = {"database": 5432, "redis": 6379}
#: As Ray's: machines that are made again at an address have another host key. BatchMode: a prompt would wait for ever.
_OPTIONS = (
    *("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "IdentitiesOnly=yes", "LogLevel=ERROR"),
    *("BatchMode=yes", f"ConnectTimeout={CONNECT_S}"),
)
#: Each answer is a line: fks NAME ok|no DETAIL. Other lines come from the account's own start files, which may end
#: without a line end (the title of a terminal).
_SCRIPT = """
[ -r ~/.bashrc ] && . ~/.bashrc
echo
for python in PYTHONS; do
  found=$("$python" -c 'import ensurepip, sys
(3, 11) <= sys.version_info < (3, 14) or sys.exit(1)
print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) && break
done
if [ -n "$found" ]; then echo "fks python ok $found"; else echo "fks python no $(python3 --version 2>&1)"; fi
if found=$(command -v rsync); then echo "fks rsync ok $found"; else echo "fks rsync no"; fi
echo "fks disk ok $(df -Pk ~ | awk 'NR == 2 { print int($4 / 1024) }')"
reach() {
  if found=$(timeout SECONDS bash -c '</dev/tcp/"$0"/"$1"' "$2" "$3" 2>&1); then echo "fks $1 ok"
  else found=${found##*: }; echo "fks $1 no ${found:-no answer in SECONDS s}"; fi
}
"""


def question(pythons: str, stores: Mapping[str, tuple[str, int]]) -> str:
    """Return the commands that a shell of bash on a machine answers. They change nothing and have no secret."""
    script = _SCRIPT.replace("PYTHONS", pythons).replace("SECONDS", str(REACH_S))
    reached = "".join(f"reach {name} {shlex.quote(host)} {port}\n" for name, (host, port) in stores.items())
    return f"{script}{reached}echo 'fks end ok'\n"


def checks_of(machine: str, answer: str, stores: Mapping[str, tuple[str, int]]) -> Iterator[Check]:
    """Yield the checks of a machine by its answer to `question`."""
    found = {name: (state == "ok", "".join(detail)) for name, state, *detail in _lines(answer)}
    if not found.keys() >= {"python", "rsync", "disk", *stores, "end"}:
        text = f"the shell ended before its end: {answer.strip()[-200:] or 'no output'}"
        yield Check(f"{machine} shell", DOWN, text, f"on {machine}: 'bash --login -i' must work; look at ~/.bashrc")
        return
    is_well, detail = found["python"]
    yield checked(
        f"{machine} python",
        "" if is_well else f"no Python 3.11 to 3.13 with venv; python3 is {detail}",
        detail,
        f"on {machine}: 'apt-get install python3-venv', on Ubuntu 22.04 python3.11-venv",
    )
    is_well, detail = found["rsync"]
    yield checked(
        f"{machine} rsync",
        "" if is_well else "rsync is not installed",
        detail,
        f"on {machine}: 'apt-get install rsync'",
    )
    free = found["disk"][1]
    yield checked(
        f"{machine} disk",
        "" if free.isdecimal() and int(free) >= DISK_MIN_MB else f"{free or '?'} MB free in the home folder",
        f"{free} MB free",
        f"on {machine}: have {DISK_MIN_MB} MB free there for the packages",
    )
    for name, (host, port) in stores.items():
        is_well, detail = found[name]
        yield checked(
            f"{machine} {name}",
            "" if is_well else f"{host}:{port} cannot be reached from {machine}: {detail}",
            f"{host}:{port} can be reached",
            f"start it, open its port to {machine}, or correct {name.partition('_')[0]}.url",
        )


def _lines(answer: str) -> Iterator[list[str]]:
    for line in answer.splitlines():
        if len(parts := line.strip().split(" ", 3)) > 2 and parts[0] == "fks":
            yield parts[1:]


def stores_of(settings: Settings | None) -> dict[str, tuple[str, int]]:
    """Return host and port of the database and Redis that are set by URL, of each host where one names several."""
    urls = {} if settings is None else {"database": settings.database.url, "redis": settings.redis.url}
    found: dict[str, tuple[str, int]] = {}
    for name, url in urls.items():
        places = urlsplit(url.get_secret_value() if url else "").netloc.rpartition("@")[2]
        for number, place in enumerate(places.split(","), 1):
            one = urlsplit(f"//{place}")
            if one.hostname:
                found[name if number == 1 else f"{name}_{number}"] = (one.hostname, one.port or PORTS[name])
    return found


async def ask(
    document: Mapping[str, Any],
    named: Sequence[str],
    key_file: str,
    pythons: str,
    stores: Mapping[str, tuple[str, int]],
) -> list[Check]:
    """Return the checks of the machines of a cluster file, or of those that are `named`.

    The workers of a file are reached through its head, as the autoscaler there reaches them.
    """
    auth, provider = document.get("auth") or {}, document.get("provider") or {}
    proxy = ["-o", f"ProxyCommand={auth['ssh_proxy_command']}"] if auth.get("ssh_proxy_command") else []
    key = ["-i", key_file] if key_file else []
    ssh = ["ssh", *key, *(part for option in _OPTIONS for part in ("-o", option))]
    user = f"{auth['ssh_user']}@" if auth.get("ssh_user") else ""
    commands = ["bash", "--login", "-c", "-i", shlex.quote(question(pythons, stores))]

    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(machine: str, *options: str) -> list[Check]:
        async with gate:
            return await one_now(machine, *options)

    async def one_now(machine: str, *options: str) -> list[Check]:
        target = machine if "@" in machine else f"{user}{machine}"
        process = await asyncio.create_subprocess_exec(
            *ssh,
            *options,
            target,
            *commands,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(ANSWER_S):
                out, err = await process.communicate()
        except TimeoutError:
            return [
                Check(f"{machine} ssh", DOWN, f"no answer in {ANSWER_S:g} s", f"try '{shlex.join([*ssh, target])}'")
            ]
        finally:
            with contextlib.suppress(ProcessLookupError):  # its proxy command, too, which would keep the output open
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        if process.returncode == 255 and b"fks " not in out:  # of ssh itself
            reason = (err.decode(errors="replace").strip().splitlines() or ["no reason was given"])[-1]
            remedy = (
                f"'{shlex.join(['ssh', *key, target])}' must work without a password: address, account, the key there"
            )
            return [Check(f"{machine} ssh", DOWN, reason, remedy)]
        return [Check(f"{machine} ssh", HEALTHY, target), *checks_of(machine, out.decode(errors="replace"), stores)]

    if named:
        found = await asyncio.gather(*(one(name, *proxy) for name in named))
        return with_one_python([check for checks in found for check in checks])
    head = str(provider.get("external_head_ip") or provider["head_ip"])
    checks = await one(head, *proxy)
    workers = [str(worker) for worker in provider.get("worker_ips") or ()]
    if checks[0].status == DOWN:
        return [*checks, *(Check(f"{worker} ssh", UNKNOWN, f"not asked: {head} leads to it") for worker in workers)]
    through = proxy or ["-o", f"ProxyCommand={shlex.join([*ssh, '-W', '%h:%p', f'{user}{head}'])}"]
    for answers in await asyncio.gather(*(one(worker, *through) for worker in workers)):
        checks += answers
    return with_one_python(checks)


def with_one_python(checks: list[Check]) -> list[Check]:
    """Add the check that all machines have the same Python: Ray lets no other one join."""
    has = [(*check.name.split(" "), check.detail) for check in checks if check.status == HEALTHY]
    minors = {machine: version.rpartition(".")[0] for machine, name, version in has if name == "python"}
    text = ", ".join(f"{minor} on {machine}" for machine, minor in minors.items())
    remedy = "install the same one on each, and name it first in 'for python in' of cluster.yaml"
    return [*checks, checked("same python", text if len(set(minors.values())) > 1 else "", text, remedy)]
