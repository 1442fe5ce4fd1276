"""`fks db`, `fks shell` and `fks reset`, as a user runs them: with the system down, and beside a running server."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from decimal import Decimal

import click
import pytest

from fks.config.endpoints import NodeEndpoints, clear_node, save_node
from fks.config.load import environ_of
from fks.config.paths import Paths
from fks.config.secrets import load_secrets
from fks.interfaces.cli import cli
from fks.interfaces.cli.base import FAILED, OK, USAGE, run, settings_of
from fks.model.errors import ConfigError
from fks.store import migrate
from fks.system.node.lock import keeper_lock
from fks.system.servers.embedded import PostgresServer, start_and_wait
from tests.support import servers

Capture = pytest.CaptureFixture[str]
NOBODY = 65534


@pytest.fixture(scope="module")
def module_home() -> Iterator[Paths]:
    with servers.home() as paths:
        yield paths
        pid = PostgresServer(paths, load_secrets(paths)).adopt()
        if pid is not None:
            PostgresServer(paths, load_secrets(paths)).stop(pid)


@pytest.fixture
def home(module_home: Paths, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv("FKS_HOME", str(module_home.home))
    return module_home


def _is_up(paths: Paths) -> bool:
    return PostgresServer(paths, load_secrets(paths)).adopt() is not None


def _json(capfd: Capture) -> dict[str, object]:
    answer: dict[str, object] = json.loads(capfd.readouterr().out)
    return answer


def test_upgrade_makes_the_database_and_leaves_no_server_behind(home: Paths, capfd: Capture) -> None:
    assert run(cli, ["db", "upgrade", "--json"]) == OK
    assert _json(capfd)["to"] == migrate.head()
    assert not _is_up(home)
    assert run(cli, ["db", "upgrade"]) == OK
    assert "already" in capfd.readouterr().out


def test_status_while_down_and_beside_a_running_server(home: Paths, capfd: Capture) -> None:
    assert run(cli, ["db", "status", "--json"]) == OK
    answer = _json(capfd)
    assert answer["is_current"] is True
    assert answer["server"] == "embedded"
    server = PostgresServer(home, load_secrets(home))
    process = start_and_wait(server)
    try:
        assert run(cli, ["db", "status"]) == OK
        assert "up to date" in capfd.readouterr().out
        assert run(cli, ["reset", "--yes-delete", home.home.name]) == USAGE  # data is not cleared under a server
        assert _is_up(home)
    finally:
        server.stop(process)


def test_history_and_an_unknown_revision(home: Paths, capfd: Capture) -> None:
    assert run(cli, ["db", "history", "--json"]) == OK
    assert '"0048"' in capfd.readouterr().out
    assert run(cli, ["db", "upgrade", "nonsense"]) == USAGE
    assert "fks db history" in capfd.readouterr().err


def test_psql_opens_without_asking_for_a_password(home: Paths, capfd: Capture) -> None:
    assert run(cli, ["db", "shell", "-tAc", "SELECT count(*) FROM alembic_version"]) == OK
    assert capfd.readouterr().out.strip() == "1"


def test_python_shell_writes_only_with_the_option(home: Paths, capfd: Capture) -> None:
    assert run(cli, ["shell", "-c", "print((await q('SELECT 41 + $1::int AS n', 1))[0]['n'])"]) == OK
    assert capfd.readouterr().out.strip() == "42"
    insert = "await q(\"INSERT INTO leases (name) VALUES ('by hand')\")"
    assert run(cli, ["shell", "-c", insert]) == FAILED
    output = capfd.readouterr().err
    assert "read-only" in output
    assert "Traceback" not in output
    assert run(cli, ["shell", "--write", "-c", insert]) == OK
    assert run(cli, ["shell", "-c", "print(await q('SELECT name FROM leases'))"]) == OK
    assert "by hand" in capfd.readouterr().out


def test_backup_and_restore(home: Paths, capfd: Capture) -> None:
    machine = "INSERT INTO nodes (name, role, state, beat_at) VALUES ($$lost$$, $$single$$, $$ready$$, now())"
    assert run(cli, ["shell", "--write", "-c", f"await q('{machine}')"]) == OK
    capfd.readouterr()
    assert run(cli, ["db", "backup", "--json"]) == OK
    file = str(_json(capfd)["file"])
    assert run(cli, ["shell", "--write", "-c", "await q('DELETE FROM leases')"]) == OK
    assert run(cli, ["db", "restore", file, "--yes"]) == OK
    capfd.readouterr()
    assert run(cli, ["shell", "-c", "print(await q('SELECT name FROM leases'))"]) == OK
    assert "by hand" in capfd.readouterr().out
    assert run(cli, ["shell", "-c", "print(await q('SELECT name FROM nodes'))"]) == OK
    assert capfd.readouterr().out.strip() == "[]", "the machine of then is not missed"


def test_reset_wants_the_name_and_a_stopped_system(home: Paths, capfd: Capture) -> None:
    assert run(cli, ["reset", "--yes-delete", "something"]) == USAGE
    assert home.pgdata.exists()
    home.run.mkdir(exist_ok=True)
    with (home.run / "keeper.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run(cli, ["reset", "--yes-delete", home.home.name]) == USAGE
        assert "fks down" in capfd.readouterr().err
    assert home.pgdata.exists()


def test_reset_backs_up_then_clears_data_and_keeps_what_is_not_data(home: Paths, capfd: Capture) -> None:
    home.kill_file.write_text('{"engaged": true}\n')
    held = home.kill_file.with_name("kill-positions.json")
    held.write_text("{}")
    before = home.secrets_file.read_text()
    assert run(cli, ["reset", "--yes-delete", home.home.name, "--json"]) == OK
    answer = _json(capfd)
    assert str(answer["backup"]).endswith("before-reset.dump")
    assert not home.pgdata.exists()
    assert home.kill_file.exists()
    assert not held.exists()
    assert home.secrets_file.read_text() == before
    assert run(cli, ["db", "upgrade"]) == OK
    capfd.readouterr()
    assert run(cli, ["shell", "-c", "print(await q('SELECT name FROM leases'))"]) == OK
    assert capfd.readouterr().out.strip() == "[]"


def test_missing_secrets_error_names_the_remedy(tmp_path_factory: pytest.TempPathFactory, capfd: Capture) -> None:
    empty = tmp_path_factory.mktemp("empty")
    assert run(cli, ["--home", str(empty), "db", "status"]) == USAGE
    assert "security-setup" in capfd.readouterr().err


def test_command_has_the_settings_that_a_running_node_was_given(
    home: Paths, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    with servers.home() as elsewhere, servers.running_postgres(elsewhere) as server:
        file = home.home / "fks.env"
        file.write_text(f"FKS_DATABASE_URL={server.url()}\nFKS_VENUE_API_KEY=key\nFKS_VENUE_API_SECRET=secret\n")
        file.chmod(0o600)
        monkeypatch.setenv("FKS_HTTP_PORT", "4711")
        given = environ_of({"FKS_VENUE_API_KEY": "key", "FKS_ENV_FILE": str(file), "FKS_SIM_ENABLED": "false"})
        assert given == {"FKS_ENV_FILE": str(file), "FKS_SIM_ENABLED": "false"}, "no secret leaves its file"
        save_node(home, NodeEndpoints(server.url(), "", "", {}, environ={**given, "FKS_HTTP_PORT": "1"}))
        try:
            # left by a node that was killed, or copied with the home of one that runs: its database is not ours
            assert run(cli, ["db", "upgrade", "--json"]) == OK
            assert _json(capfd)["to"] == migrate.head()
            assert settings_of(click.Context(cli, obj={"home": str(home.home)})).venue.api_key is None
            with keeper_lock(home.run / "keeper.lock"):
                assert run(cli, ["db", "upgrade", "--json"]) == OK
                assert (_json(capfd)["from"], _is_up(home)) == (None, False)
                assert run(cli, ["db", "status", "--json"]) == OK
                assert _json(capfd)["server"] == "external"
                settings = settings_of(click.Context(cli, obj={"home": str(home.home)}))
            assert settings.venue.api_key is not None
            assert (settings.sim.enabled, settings.http.port) == (False, 4711), "this shell's own variable wins"
        finally:
            clear_node(home)


def test_settings_are_those_of_the_file_where_the_node_is_another_users() -> None:
    with servers.home() as paths, keeper_lock(paths.run / "keeper.lock"):
        save_node(paths, NodeEndpoints("", "", "", {}, environ={"FKS_HTTP_PORT": "4713"}))
        paths.config_file.write_text("[http]\nport = 4712\n")
        paths.config_file.chmod(0o644)
        context, us = click.Context(cli, obj={"home": str(paths.home)}), os.geteuid()
        assert settings_of(context).http.port == 4713
        if us == 0:
            os.seteuid(NOBODY)
        else:
            paths.run.chmod(0)
        try:
            assert settings_of(context).http.port == 4712
        finally:
            os.seteuid(us)
            paths.run.chmod(0o700)


def test_commands_beside_a_node_whose_environment_has_its_keys_need_none(monkeypatch: pytest.MonkeyPatch) -> None:
    node = {"FKS_VENUE_LIVE": "true", "FKS_SIM_ENABLED": "false", "FKS_COSTS_FEE_RATE": "0.002"}
    given = environ_of({**node, "FKS_VENUE_API_KEY": "key", "FKS_VENUE_API_SECRET": "secret"})
    with servers.home() as paths, keeper_lock(paths.run / "keeper.lock"):
        save_node(paths, NodeEndpoints("", "", "", {}, environ=given))
        context = click.Context(cli, obj={"home": str(paths.home)})
        settings = settings_of(context)
        assert (settings.sim.enabled, settings.costs.fee_rate) == (False, Decimal("0.002"))
        monkeypatch.setenv("FKS_COSTS_FEE_RATE", "dear")
        with pytest.raises(ConfigError, match="fee_rate"):
            settings_of(context)
