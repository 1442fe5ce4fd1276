"""Answers of a cluster's machines over ssh: by a real sshd on this one, and read as they may come."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from fks.config.settings import DatabaseSettings, Redis, Settings
from fks.interfaces.cli import cli, cluster_machines
from fks.interfaces.cli.base import run
from fks.interfaces.cli.cluster_machines import PYTHONS, ask, checks_of, question, stores_of, with_one_python
from tests.support.free_port import free_port
from tests.support.programs import PATH, require
from tests.support.waiting import wait_until

HEAD, WORKER = "127.0.0.1", "127.0.0.2"
STORES = {"database": ("10.9.9.1", 5432)}
WELL = {"python": "ok 3.11.2", "rsync": "ok /usr/bin/rsync", "disk": "ok 90000", "database": "ok", "end": "ok"}


def bad(checks) -> dict[str, str]:
    return {check.name: check.detail for check in checks if check.status == "down" and check.remedy}


def test_each_fault_names_the_machine_and_its_remedy() -> None:
    def found(**answers: str) -> dict[str, str]:
        lines = [f"fks {name} {answer}" for name, answer in (WELL | answers).items()]
        return bad(checks_of("10.0.0.1", "\r\n".join(["Welcome!", *lines]), STORES))

    assert found() == {}
    assert found(python="no Python 3.10.12") == {
        "10.0.0.1 python": "no Python 3.11 to 3.13 with venv; python3 is Python 3.10.12"
    }
    assert found(rsync="no") == {"10.0.0.1 rsync": "rsync is not installed"}
    assert found(disk="ok 512") == {"10.0.0.1 disk": "512 MB free in the home folder"}
    assert found(disk="ok") == {"10.0.0.1 disk": "? MB free in the home folder"}
    assert found(database="no Connection refused") == {
        "10.0.0.1 database": "10.9.9.1:5432 cannot be reached from 10.0.0.1: Connection refused"
    }
    assert bad(checks_of("10.0.0.1", "exec: zsh: not found\n", STORES)).keys() == {"10.0.0.1 shell"}


@pytest.mark.parametrize("left_out", WELL)
def test_an_answer_without_one_of_its_lines_is_a_fault_of_the_shell(left_out: str) -> None:
    """A start file may print text without a line end, or leave a shell in which a command ends it."""
    lines = [f"fks {name} {answer}" for name, answer in WELL.items() if name != left_out]
    assert bad(checks_of("10.0.0.1", "\n".join(lines), STORES)).keys() == {"10.0.0.1 shell"}


def test_machines_with_different_pythons_are_named() -> None:
    def found(version: str) -> dict[str, str]:
        answers = {"a": "3.11.2", "b": version}
        texts = {
            name: f"fks python ok {python}\nfks rsync ok\nfks disk ok 9000\nfks end ok"
            for name, python in answers.items()
        }
        return bad(with_one_python([check for name, text in texts.items() for check in checks_of(name, text, {})]))

    assert found("3.11.9") == {}
    assert found("3.12.1") == {"same python": "3.11 on a, 3.12 on b"}


def test_each_host_of_a_database_is_reached() -> None:
    """PostgreSQL takes several: the standby is one of them."""
    database = DatabaseSettings(url="postgresql://u:p@h1:1,[::1],h3/d")
    found = {"database": ("h1", 1), "database_2": ("::1", 5432), "database_3": ("h3", 5432)}
    assert stores_of(Settings(database=database, redis=Redis(url="redis://:p@h4/0"))) == found | {"redis": ("h4", 6379)}
    lines = [f"fks {name} {answer}" for name, answer in (WELL | dict.fromkeys(found, "no")).items()]
    (wrong, *_) = (one for one in checks_of("a", "\n".join(lines), found) if one.name == "a database_3")
    assert wrong.remedy.endswith("or correct database.url")


@pytest.fixture
def sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A daemon on two addresses of this machine; yields the private key that it lets in. `ssh` finds its port."""
    require("ssh", "sshd", "ssh-keygen", "rsync")
    port = free_port(HEAD)
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    config = (f"Port {port}", f"ListenAddress {HEAD}", f"ListenAddress {WORKER}", f"HostKey {tmp_path}/host",
              f"AuthorizedKeysFile {tmp_path}/key.pub", "UsePAM no", "StrictModes no", "PidFile none",
              "PermitRootLogin prohibit-password", "MaxStartups 6:100:6")  # fmt: skip
    (tmp_path / "sshd_config").write_text("\n".join(config) + "\n")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    (tmp_path / "log").touch()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -p {port} "$@"\n')
    (tmp_path / "bin/ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{PATH}")
    command = [str(shutil.which("sshd", path=PATH)), "-D", "-f", f"{tmp_path}/sshd_config", "-E", f"{tmp_path}/log"]
    daemon = subprocess.Popen(command)
    try:
        wait_until(lambda: f"{WORKER} port" in (tmp_path / "log").read_text(), deadline_s=20.0)
        yield tmp_path / "key"
    finally:
        daemon.terminate()
        daemon.wait()


def test_start_file_that_sets_the_title_of_a_terminal_spoils_no_answer() -> None:
    """Many accounts print a title in ~/.bashrc, without a line end."""
    script = question(PYTHONS, {}).replace("[ -r ~/.bashrc ] && . ~/.bashrc", "printf '\\033]0;me@here\\007'")
    answer = subprocess.run(["bash"], input=script, check=True, capture_output=True, text=True).stdout
    assert answer.startswith("\033]0;me@here\007")
    assert f"{HEAD} shell" not in {check.name for check in checks_of(HEAD, answer, {})}


def test_machine_that_never_answers_is_named_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program of ssh is killed with those it started: one that goes on would keep its output open."""
    (tmp_path / "ssh").write_text("#!/bin/sh\nsleep 600 &\nwait\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{PATH}")
    monkeypatch.setattr(cluster_machines, "ANSWER_S", 2.0)
    document = {"provider": {"type": "local", "head_ip": HEAD, "worker_ips": [WORKER]}}
    checks = asyncio.run(asyncio.wait_for(ask(document, (), "", PYTHONS, {}), 60.0))
    assert [(check.name, check.status) for check in checks] == [(f"{HEAD} ssh", "down"), (f"{WORKER} ssh", "unknown")]


def cluster_of(key: Path, **members: object) -> dict[str, object]:
    auth = {"ssh_user": getpass.getuser(), "ssh_private_key": str(key)}
    return {"auth": auth, "provider": {"type": "local", "head_ip": HEAD, "worker_ips": [WORKER]}} | members


def test_machines_answer_over_ssh_and_workers_through_the_head(sshd: Path) -> None:
    port = free_port(HEAD)  # of no server
    checks = asyncio.run(ask(cluster_of(sshd), (), str(sshd), PYTHONS, {"redis": (HEAD, port)}))
    assert [f"{machine} ssh" for machine in (HEAD, WORKER)] == [c.name for c in checks if c.name.endswith(" ssh")]
    assert bad(checks) == {
        f"{machine} redis": f"{HEAD}:{port} cannot be reached from {machine}: Connection refused"
        for machine in (HEAD, WORKER)
    }
    accepted = (sshd.parent / "log").read_text().count("Accepted publickey")
    assert accepted == 3, "the head, the head again on the way to the worker, the worker"
    checks = asyncio.run(ask(cluster_of(sshd), (), str(sshd), "no-such-python", {}))
    assert bad(checks).keys() == {f"{HEAD} python", f"{WORKER} python"}


def test_the_daemon_of_the_head_is_not_asked_for_many_workers_at_once(sshd: Path) -> None:
    """By default sshd refuses some of more than ten connections that are not let in yet."""
    document = cluster_of(sshd, provider={"type": "local", "head_ip": HEAD, "worker_ips": [WORKER] * 12})
    assert bad(asyncio.run(ask(document, (), str(sshd), PYTHONS, {}))) == {}


def test_machine_that_lets_no_one_in_is_named_and_the_command_fails(
    sshd: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(sshd.parent)
    (sshd.parent / "cluster.yaml").write_text(yaml.safe_dump(cluster_of(sshd)))
    command = ["--home", str(sshd.parent / "home"), "cluster", "check", "--json"]

    def answers(*machines: str) -> dict[str, str]:
        assert run(cli, [*command, *machines]) == 1, "cluster.yaml here has no start commands"
        checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
        return {name: check["state"] for name, check in checks.items() if name.startswith("127.") and "ssh" in name}

    assert answers() == {f"{HEAD} ssh": "ok", f"{WORKER} ssh": "ok"}
    assert answers(WORKER) == {f"{WORKER} ssh": "ok"}
    (sshd.parent / "key.pub").write_text("")
    assert answers() == {f"{HEAD} ssh": "bad", f"{WORKER} ssh": "skipped"}
    checks = asyncio.run(ask(cluster_of(sshd), (), str(sshd), PYTHONS, {}))
    assert "Permission denied" in checks[0].detail
    assert f"-i {sshd} {getpass.getuser()}@{HEAD}" in checks[0].remedy
