"""Start at boot of a node without root: the unit, the crontab, and which of them is installed."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from fks.config.paths import Paths
from fks.system.node import boot
from fks.system.node.boot import BootEntry, crontab_with, crontab_without, install, unit_name, unit_text


@pytest.fixture
def entry(tmp_path: Path) -> BootEntry:
    return BootEntry(
        Paths.of(tmp_path / "home"),
        "worker",
        ("/opt/my venv/bin/fks", "node", "worker", "--address", "10.0.0.1:6379", "--name", "50%$x"),
        {"TMPDIR": "/run/fks"},
    )


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty PATH but for the programs that a test writes there; an account of its own."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return folder


def program(folder: Path, name: str, script: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def systemd(folder: Path, *, lingers: bool = True) -> Path:
    calls = folder / "calls"
    program(folder, "systemctl", f'echo "$*" >> {calls}')
    program(folder, "loginctl", "exit 0" if lingers else "exit 1")
    return calls


def cron(folder: Path) -> Path:
    table = folder / "table"
    cat = "/bin/cat" if os.path.exists("/bin/cat") else "/usr/bin/cat"
    program(folder, "crontab", f'[ "$1" = -l ] && exec {cat} {table}; exec {cat} > {table}')
    return table


def test_unit_restarts_a_killed_keeper_and_not_one_that_was_stopped(entry: BootEntry) -> None:
    text = unit_text(entry)
    assert "Restart=on-failure" in text
    assert "KillMode=process" in text, "a killed keeper takes nothing with it"
    assert '"/opt/my venv/bin/fks" "node" "worker"' in text
    assert '"50%%$$x"' in text
    assert 'Environment="TMPDIR=/run/fks"' in text


def test_crontab_holds_one_line_of_this_home(entry: BootEntry) -> None:
    before = "MAILTO=ops\n5 4 * * * backup\n"
    once = crontab_with(before, entry)
    assert crontab_with(once, entry) == once
    line = once.removeprefix(before)
    assert line.startswith("@reboot TMPDIR=/run/fks '/opt/my venv/bin/fks' node worker")
    assert shlex.split(line.partition(" #")[0].replace("\\%", "%"))[-2:] == ["50%$x", "--detach"]
    assert crontab_without(once, entry.paths) == before


def test_systemd_is_chosen_and_linger_set(entry: BootEntry, programs: Path) -> None:
    calls = systemd(programs)
    assert install(entry) == "systemd"
    assert calls.read_text().splitlines()[-1] == f"--user enable {unit_name(entry.paths)}"
    (file,) = programs.parent.rglob("fks-node-*.service")
    assert file.read_text() == unit_text(entry)
    boot.remove(entry.paths)
    assert not file.exists()
    assert calls.read_text().splitlines()[-1] == f"--user disable {unit_name(entry.paths)}"


def test_cron_is_used_where_systemd_does_not_start_at_boot(entry: BootEntry, programs: Path) -> None:
    systemd(programs, lingers=False)
    table = cron(programs)
    assert install(entry) == "cron"
    assert table.read_text().startswith("@reboot ")
    assert list(programs.parent.rglob("fks-node-*.service")) == []
    boot.remove(entry.paths)
    assert table.read_text() == ""


def test_machine_without_either_is_reported(entry: BootEntry, programs: Path) -> None:
    assert install(entry) == ""
