"""Start of a node at boot, for an account without root: a systemd unit of the user, else an @reboot line of cron."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fks.config.paths import Paths

RUN_S = 30.0
_UNIT = """# Written by `fks node {role} --at-boot`; `fks node stop --all` removes it.
[Unit]
Description=FKS: the {role} of a cluster, {home}
StartLimitIntervalSec=0

[Service]
Type=exec
{environment}ExecStart={command}
# a killed keeper is started again and takes over what runs; one that was stopped in order stays stopped
Restart=on-failure
RestartSec=1
RestartPreventExitStatus=2
KillMode=process
TimeoutStopSec=60
OOMPolicy=continue

[Install]
WantedBy=default.target
"""


@dataclass(frozen=True, slots=True)
class BootEntry:
    """The command that starts this home's node in the foreground, and the variables it needs."""

    paths: Paths
    role: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """Return the name of the unit: one per home."""
        return unit_name(self.paths)


def unit_name(paths: Paths) -> str:
    """Return the name of this home's unit."""
    return f"fks-node-{hashlib.sha256(str(paths.home).encode()).hexdigest()[:8]}.service"


def unit_text(entry: BootEntry) -> str:
    """Return the unit: no shell, every word quoted, `%` and `$` doubled."""
    environment = "".join(f"Environment={_quoted(f'{key}={value}')}\n" for key, value in entry.environment.items())
    command = " ".join(_quoted(part) for part in entry.command)
    return _UNIT.format(role=entry.role, home=entry.paths.home, environment=environment, command=command)


def crontab_with(crontab: str, entry: BootEntry) -> str:
    """Return the crontab with this home's line, in place of an older one."""
    variables = [f"{key}={shlex.quote(value)}" for key, value in entry.environment.items()]
    command = " ".join([*variables, *(shlex.quote(part) for part in entry.command), "--detach"])
    line = command.replace("%", "\\%")  # cron ends a command at a bare one
    return f"{crontab_without(crontab, entry.paths)}@reboot {line} {_mark(entry.paths)}\n"


def crontab_without(crontab: str, paths: Paths) -> str:
    """Return the crontab without this home's line."""
    kept = [line for line in crontab.splitlines() if not line.endswith(_mark(paths))]
    return "".join(f"{line}\n" for line in kept)


def install(entry: BootEntry) -> str:
    """Have the node start at boot; return how, "" when this machine offers no way.

    "systemd": the unit is enabled, and not started yet. "cron": the crontab has the line.
    """
    if _has_systemd():
        file = _unit_file(entry.paths)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(unit_text(entry))
        steps = (["daemon-reload"], ["enable", entry.unit])
        # without lingering the user's systemd starts at the first login, not at boot
        if all(_run(["systemctl", "--user", *step]) for step in steps) and _run(["loginctl", "enable-linger"]):
            _write_crontab(crontab_without(_crontab(), entry.paths))
            return "systemd"
        file.unlink(missing_ok=True)
    return "cron" if _write_crontab(crontab_with(_crontab(), entry), is_needed=True) else ""


def start_unit(paths: Paths) -> bool:
    """Start this home's unit; return whether systemd did."""
    return _run(["systemctl", "--user", "start", unit_name(paths)])


def is_failed(paths: Paths) -> bool:
    """Return whether systemd has given the unit up."""
    return _run(["systemctl", "--user", "--quiet", "is-failed", unit_name(paths)])


def is_running(paths: Paths) -> bool:
    """Return whether systemd runs this home's unit, and so starts a killed keeper again."""
    return _unit_file(paths).exists() and _run(["systemctl", "--user", "--quiet", "is-active", unit_name(paths)])


def remove(paths: Paths) -> None:
    """Have the node no longer start at boot. What runs is left alone."""
    if _unit_file(paths).exists():
        _run(["systemctl", "--user", "disable", unit_name(paths)])
        _unit_file(paths).unlink(missing_ok=True)
    before = _crontab()
    if (after := crontab_without(before, paths)) != before:
        _write_crontab(after, is_needed=True)


def _mark(paths: Paths) -> str:
    return f"# fks node {paths.home}"


def _unit_file(paths: Paths) -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "systemd" / "user" / unit_name(paths)


def _quoted(text: str) -> str:
    plain = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{plain}"'


def _has_systemd() -> bool:
    return _run(["systemctl", "--user", "show-environment"])


def _crontab() -> str:
    try:
        done = subprocess.run(["crontab", "-l"], capture_output=True, text=True, timeout=RUN_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _write_crontab(text: str, *, is_needed: bool = False) -> bool:
    return (is_needed or text != _crontab()) and _run(["crontab", "-"], text=text)


def _run(command: Sequence[str], *, text: str | None = None) -> bool:
    try:
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=RUN_S).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
