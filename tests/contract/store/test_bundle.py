"""Backups of a node, rehearsed: made under writes, proven, encrypted, lost with its machine and restored on another."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fks.clock import RealClock
from fks.config.credentials import make_key_file
from fks.config.paths import Paths
from fks.config.settings import Settings
from fks.interfaces.cli import cli
from fks.interfaces.cli.base import OK, USAGE, run
from fks.model.errors import ConfigError
from fks.store.db import Database
from fks.system.servers import backup, bundle
from tests.support import servers

Capture = pytest.CaptureFixture[str]
STRATEGY = "# a strategy of mine\n"


@pytest.fixture
def homes(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Paths, Paths]]:
    """The home of a machine that will be lost, and an empty one of its successor."""
    with servers.home() as first, servers.home() as second:
        shutil.rmtree(second.home)
        monkeypatch.setenv("FKS_HOME", str(first.home))
        yield first, second


def answer_of(capfd: Capture) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(capfd.readouterr().out)
    return answer


def test_a_lost_machine_is_restored_from_its_backup(
    homes: tuple[Paths, Paths], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    first, second = homes
    key = tmp_path / "backup.key"
    assert run(cli, ["db", "backup-key", str(first.home / "inside.key")]) == USAGE, "a key in FKS_HOME protects nothing"
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("correct horse battery staple\n")
    passphrase.chmod(0o600)
    capfd.readouterr()
    protected = ["--passphrase-file", str(passphrase)]
    assert run(cli, ["db", "backup-key", str(key), *protected, "--json"]) == OK
    assert key.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("FKS_BACKUP_RECIPIENT", str(answer_of(capfd)["recipient"]))
    (first.strategies / "mine.py").write_text(STRATEGY)
    make_key_file(first.credentials_key)
    make_key_file(first.home / "named-otherwise.key")
    secrets = first.secrets_file.read_text()
    assert run(cli, ["db", "upgrade"]) == OK
    assert (
        run(cli, ["shell", "--write", "-c", "await q(\"INSERT INTO leases (name, epoch) VALUES ('kept', 7)\")"]) == OK
    )
    capfd.readouterr()
    assert run(cli, ["db", "backup", "--json"]) == OK
    made = answer_of(capfd)
    assert (made["is_encrypted"], made["is_verified"], made["why"]) == (True, True, "")
    assert {"secrets.toml", "strategies/mine.py"} <= set(made["files"])
    assert not {"machine.id", "cli.token", "ray.token", ".postgres.lock"} & set(made["files"])
    assert not {"credentials.key", "named-otherwise.key"} & set(made["files"]), "it is kept apart from its rows"
    file = Path(made["file"])
    assert file.stat().st_mode & 0o777 == 0o600
    plain = [*re.findall(r'"([\w-]{30,})"', secrets), STRATEGY, "PGDMP"]
    assert len(plain) > 4
    assert [text for text in plain if text.encode() in file.read_bytes()] == []
    assert sorted(path.suffix for path in first.backups.iterdir()) == [".age", ".json"]
    # the machine is gone; its backup and the key are not
    kept = tmp_path / file.name
    shutil.copy(file, kept)
    shutil.rmtree(first.home)
    monkeypatch.setenv("FKS_HOME", str(second.home))
    assert run(cli, ["db", "restore", str(kept), "--yes"]) == USAGE
    assert "--key" in capfd.readouterr().err
    assert run(cli, ["db", "restore", str(kept), "--key", str(key), *protected, "--yes", "--json"]) == OK
    assert {"secrets.toml", "strategies/mine.py"} <= set(answer_of(capfd)["written"])
    assert second.secrets_file.read_text() == secrets
    assert second.secrets_file.stat().st_mode & 0o777 == 0o600
    assert (second.strategies / "mine.py").read_text() == STRATEGY
    assert run(cli, ["shell", "-c", "print((await q('SELECT epoch FROM leases'))[0]['epoch'])"]) == OK
    assert capfd.readouterr().out.strip() == "7"
    # a second time: what differs here stays, unless it is asked for
    (second.strategies / "mine.py").write_text("# changed\n")
    for more, text in (([], "# changed\n"), (["--replace-files"], STRATEGY)):
        assert run(cli, ["db", "restore", str(kept), "--key", str(key), *protected, "--yes", *more]) == OK
        assert (second.strategies / "mine.py").read_text() == text


async def test_rows_are_those_of_one_moment_and_compared(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, settings = Paths.of(tmp_path).ensure(), Settings(home=tmp_path)
    await database.sql("INSERT INTO leases (name) VALUES ('a')")
    dump_to = backup.dump_to

    def later(url: str, paths: Paths, file: Path, snapshot: str) -> None:
        with_rows = "INSERT INTO leases (name) SELECT 'b' || n FROM generate_series(1, 50) AS n"
        assert backup.psql(url, paths.run, ["-qc", with_rows]) == 0, "the system goes on writing"
        dump_to(url, paths, file, snapshot)

    monkeypatch.setattr(backup, "dump_to", later)
    made = await bundle.make(database_url, paths, settings, label="backup", clock=RealClock())
    assert (made.manifest.is_verified, made.manifest.why) == (True, "")
    assert made.manifest.rows["leases"] == 1
    assert made.manifest.files == (), "not encrypted: the database alone"
    left = await database.sql("SELECT datname FROM pg_database WHERE datname LIKE 'fks_check_%'")
    assert left == [], "the scratch database is gone"
    await database.close()
    backup.restore(database_url, paths, made.file)
    again = await Database.connect(database_url)
    assert [row["name"] for row in await again.sql("SELECT name FROM leases")] == ["a"]
    await again.close()


async def test_a_backup_that_does_not_restore_is_not_verified(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, settings = Paths.of(tmp_path).ensure(), Settings(home=tmp_path)
    dump_to = backup.dump_to

    def damaged(url: str, paths: Paths, file: Path, snapshot: str) -> None:
        dump_to(url, paths, file, snapshot)
        file.write_bytes(file.read_bytes()[:-2000])

    monkeypatch.setattr(backup, "dump_to", damaged)
    made = await bundle.make(database_url, paths, settings, label="backup", clock=RealClock())
    assert not made.manifest.is_verified
    assert "restore failed" in made.manifest.why


def test_keys_are_refused_with_their_reason(tmp_path: Path) -> None:
    paths = Paths.of(tmp_path / "home").ensure()
    key, other = tmp_path / "key", tmp_path / "other"
    public = bundle.make_key(key, paths, "secret words")
    with pytest.raises(ConfigError, match="already"):
        bundle.make_key(key, paths)
    bundle.make_key(other, paths)
    with pytest.raises(ConfigError, match="passphrase"):
        bundle.identity_of(key)
    with pytest.raises(ConfigError, match="passphrase is wrong"):
        bundle.identity_of(key, "other words")
    assert bundle.is_protected(key)
    assert not bundle.is_protected(other)
    assert str(bundle.identity_of(key, "secret words").to_public()) == public
    with pytest.raises(ConfigError, match="public key"):
        bundle.recipient_of("age1nothing")


async def test_a_backup_to_another_key_is_refused(database: Database, database_url: str, tmp_path: Path) -> None:
    paths = Paths.of(tmp_path / "home").ensure()
    key, other = tmp_path / "key", tmp_path / "other"
    settings = Settings.model_validate(
        {"home": paths.home, "backup": {"recipient": bundle.make_key(key, paths), "verify": False}}
    )
    bundle.make_key(other, paths)
    made = await bundle.make(database_url, paths, settings, label="backup", clock=RealClock())
    refused = bundle.opened(made.file, paths, bundle.identity_of(other))
    with pytest.raises(ConfigError, match="cannot be decrypted"), refused:
        pass
    with bundle.opened(made.file, paths, bundle.identity_of(key)) as (dump, _):
        assert dump.read_bytes()[:5] == b"PGDMP"
    assert list(paths.run.iterdir()) == []
    cut = tmp_path / "cut.age"
    cut.write_bytes(made.file.read_bytes()[:-1000])
    damaged = bundle.opened(cut, paths, bundle.identity_of(key))
    with pytest.raises(ConfigError, match=r"damaged|decrypted"), damaged:
        pass


def test_no_file_is_written_outside_of_the_home(tmp_path: Path) -> None:
    paths = Paths.of(tmp_path / "home")
    for name in ("../evil", "/etc/evil", "strategies/../../evil"):
        with pytest.raises(ConfigError, match="outside"):
            bundle.put_files({name: b"x"}, paths)
    assert not (tmp_path / "evil").exists()
