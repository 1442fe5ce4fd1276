"""`fks config` and `fks security-setup`, as a user runs them."""

from __future__ import annotations

import fcntl
import json
import subprocess
from pathlib import Path

import pytest

from fks.interfaces.cli import cli
from fks.interfaces.cli.base import OK, USAGE, run


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("FKS_HOME", str(folder))
    return folder


def test_show_prints_effective_settings_and_their_sources(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "fks.toml").write_text(
        '[http]\nport = 8123\n[venue]\napi_key = "topsecretkey"\napi_secret = "topsecretvalue"\n'
    )
    assert run(cli, ["config", "show", "--json"]) == OK
    answer = json.loads(capsys.readouterr().out)
    rows = {row["key"]: row for row in answer["settings"]}
    assert answer["schema"] == "fks.config/1"
    assert rows["http.port"] == {"key": "http.port", "value": 8123, "source": "fks.toml:2"}
    assert rows["http.host"]["source"] == "default"
    assert rows["venue.api_key"]["value"] == "********"
    assert rows["database.url"]["value"] is None
    assert run(cli, ["config", "show"]) == OK
    assert "topsecret" not in capsys.readouterr().out


def test_show_narrows(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["config", "show", "http"]) == OK
    output = capsys.readouterr().out
    assert "http.port" in output
    assert "ray.gcs_port" not in output
    assert run(cli, ["config", "show", "--changed"]) == OK
    assert "every setting is its default" in capsys.readouterr().out


def test_check_names_key_place_and_remedy_without_a_traceback(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "fks.toml").write_text("[http]\nprot = 1\n")
    assert run(cli, ["config", "check"]) == USAGE
    output = capsys.readouterr().err
    assert output.strip() == "error: http.prot (fks.toml:2): no such key; did you mean port?"


def test_check_refuses_a_margin_of_the_paper_account(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No order manager would start with it."""
    (home / "fks.toml").write_text('[paper]\nmargin = "0.1/0.2"\n')
    assert run(cli, ["config", "check"]) == USAGE
    assert "paper.margin: margin '0.1/0.2' is not understood: '0.1/0.2' is out of range" in capsys.readouterr().err


def test_check_refuses_a_venue_over_plain_http(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "fks.toml").write_text('[venue]\nrest_url = "http://gate.example"\napi_key = "k"\napi_secret = "s"\n')
    assert run(cli, ["config", "check"]) == USAGE
    output = capsys.readouterr().err
    assert output.startswith("error: venue.rest_url (fks.toml:2): sends a key to gate.example without TLS")
    assert 'plain_http_hosts = ["gate.example"] to [node]' in output


def test_check_looks_at_the_secrets_too(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["config", "check"]) == OK
    assert run(cli, ["security-setup"]) == OK
    assert run(cli, ["config", "check", "--json"]) == OK
    (home / "secrets.toml").chmod(0o644)
    assert run(cli, ["config", "check"]) == USAGE
    assert "chmod 600" in capsys.readouterr().err


def test_reference_prints_even_when_the_settings_are_wrong(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "fks.toml").write_text("nonsense")
    assert run(cli, ["config", "reference"]) == OK
    assert "### [http]" in capsys.readouterr().out


def test_security_setup_keeps_rotates_and_shows_no_secret(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["security-setup", "--json"]) == OK
    first = json.loads(capsys.readouterr().out)
    content = (home / "secrets.toml").read_text()
    assert run(cli, ["security-setup", "--json"]) == OK
    again = json.loads(capsys.readouterr().out)
    assert again["made"] == []
    assert again["kept"] == first["made"]
    assert (home / "secrets.toml").read_text() == content
    assert run(cli, ["security-setup", "--rotate"]) == OK
    assert (home / "secrets.toml").read_text() != content
    output = capsys.readouterr()
    for line in (home / "secrets.toml").read_text().splitlines():
        if "=" in line:
            assert line.split('"')[1] not in output.out + output.err


def test_rotating_mends_weak_secrets(home: Path) -> None:
    (home / "secrets.toml").touch(mode=0o600)
    (home / "secrets.toml").write_text('postgres_password = "postgres"\n')
    assert run(cli, ["security-setup"]) == USAGE
    assert run(cli, ["security-setup", "--rotate"]) == OK
    assert run(cli, ["config", "check"]) == OK


def test_security_setup_refuses_a_tracked_file(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["security-setup"]) == OK
    for command in (["init", "-q"], ["add", "-f", "secrets.toml"]):
        subprocess.run(["git", "-C", str(home), *command], check=True)
    assert run(cli, ["security-setup"]) == USAGE
    assert "git tracks" in capsys.readouterr().err


def test_security_setup_does_not_rotate_under_a_running_system(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "run").mkdir()
    with (home / "run" / "keeper.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run(cli, ["security-setup", "--rotate"]) == USAGE
    assert "fks down" in capsys.readouterr().err
