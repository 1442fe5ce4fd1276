"""Secrets: strong, private, kept, and refused when they are not."""

from __future__ import annotations

import secrets as dice
import stat
import subprocess
from pathlib import Path

import pytest

from fks.config.paths import Paths
from fks.config.secrets import (
    NAMES,
    adopt_keys,
    adopt_ray_token,
    ensure_secrets,
    load_secrets,
    sealed_keys,
    write_private,
)
from fks.model.errors import ConfigError


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths.of(tmp_path / "home")


def _mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def test_setup_makes_strong_private_secrets(paths: Paths) -> None:
    setup = ensure_secrets(paths)
    secrets = load_secrets(paths)
    assert setup.made == NAMES
    assert len(set(secrets.values())) == len(NAMES)
    assert all(len(value) >= 32 for value in secrets.values())
    for file in (paths.secrets_file, paths.ray_token_file, paths.cli_token_file):
        assert _mode(file) == 0o600
    assert paths.ray_token_file.read_text() == secrets.ray_token.get_secret_value()
    assert not any(value in repr(secrets) for value in secrets.values())


def test_setup_again_keeps_them_and_rotate_makes_new_ones(paths: Paths) -> None:
    ensure_secrets(paths)
    before = load_secrets(paths)
    assert ensure_secrets(paths).made == ()
    assert load_secrets(paths) == before
    assert ensure_secrets(paths, rotate=True).kept == ()
    assert set(load_secrets(paths).values()).isdisjoint(before.values())
    assert paths.cli_token_file.read_text() == load_secrets(paths).cli_token.get_secret_value()


def test_a_missing_secret_is_added_and_the_others_stay(paths: Paths) -> None:
    ensure_secrets(paths)
    before = load_secrets(paths)
    lines = paths.secrets_file.read_text().splitlines()
    paths.secrets_file.write_text("\n".join(line for line in lines if not line.startswith("redis_password")) + "\n")
    with pytest.raises(ConfigError, match="redis_password"):
        load_secrets(paths)
    assert ensure_secrets(paths).made == ("redis_password",)
    assert load_secrets(paths).postgres_password == before.postgres_password


def test_without_a_file_nothing_starts(paths: Paths) -> None:
    with pytest.raises(ConfigError, match="security-setup"):
        load_secrets(paths)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_file_others_may_read_is_refused(paths: Paths, mode: int) -> None:
    ensure_secrets(paths)
    paths.secrets_file.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_secrets(paths)
    with pytest.raises(ConfigError, match="chmod 600"):
        ensure_secrets(paths)


@pytest.mark.parametrize("value", ["", "short", "password" * 5, "a" * 40, "change_me_change_me_change_me_change_me"])
def test_a_weak_secret_is_refused_and_not_shown(paths: Paths, value: str) -> None:
    ensure_secrets(paths)
    lines = [
        f'postgres_password = "{value}"' if line.startswith("postgres") else line
        for line in paths.secrets_file.read_text().splitlines()
    ]
    paths.secrets_file.write_text("\n".join(lines))
    for act in (load_secrets, ensure_secrets):
        with pytest.raises(ConfigError) as caught:
            act(paths)
        assert "postgres_password" in str(caught.value)
        assert not value or value not in str(caught.value)


def test_damaged_toml_is_refused_without_showing_it(paths: Paths) -> None:
    ensure_secrets(paths)
    secret = load_secrets(paths).postgres_password.get_secret_value()
    paths.secrets_file.write_text(f"postgres_password = {secret}\n")
    with pytest.raises(ConfigError) as caught:
        load_secrets(paths)
    assert secret not in str(caught.value)


def test_a_file_that_git_tracks_is_refused(paths: Paths) -> None:
    ensure_secrets(paths)
    git = ["git", "-C", str(paths.home)]
    subprocess.run([*git, "init", "-q"], check=True)
    ensure_secrets(paths)  # there is a repository, but it does not track the file
    subprocess.run([*git, "add", "-f", "secrets.toml"], check=True)
    with pytest.raises(ConfigError, match="git rm --cached"):
        ensure_secrets(paths)


def test_a_password_of_ones_own_survives_a_rewrite_of_the_file(tmp_path: Path) -> None:
    paths = Paths.of(tmp_path).ensure()
    ensure_secrets(paths)
    own = 'it"s \\ mine ü𝄞 and long enough 1234567890'
    lines = [line for line in paths.secrets_file.read_text().splitlines() if not line.startswith("postgres_password")]
    paths.secrets_file.write_text("\n".join([*lines, f"postgres_password = '{own}'"]) + "\n")
    token = tmp_path / "delivered"
    write_private(token, "k9x1q7w3" * 5)
    adopt_ray_token(paths, token)
    assert load_secrets(paths).postgres_password.get_secret_value() == own


def test_a_draw_that_begins_like_a_default_is_drawn_again(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    unlucky, made = ["FkS" + "a1b2c3d4e5" * 4], dice.token_urlsafe
    monkeypatch.setattr(dice, "token_urlsafe", lambda size: unlucky.pop() if unlucky else made(size))
    ensure_secrets(paths)
    assert not unlucky
    load_secrets(paths)


def test_keys_of_the_head_are_sealed_and_adopted_by_a_machine_with_its_token(tmp_path: Path) -> None:
    head, worker, stranger = (Paths.of(tmp_path / name).ensure() for name in ("head", "worker", "stranger"))
    for paths in (head, worker, stranger):
        ensure_secrets(paths)
    adopt_ray_token(worker, head.ray_token_file)
    theirs = load_secrets(head)
    sealed = sealed_keys(theirs)
    assert not any(value in sealed for value in theirs.values())
    assert load_secrets(worker).session_key != theirs.session_key
    own_password = load_secrets(worker).postgres_password
    assert adopt_keys(worker, sealed)
    assert load_secrets(worker).session_key == theirs.session_key
    assert load_secrets(worker).postgres_password == own_password
    assert not adopt_keys(worker, sealed), "nothing is left to do"
    before = load_secrets(stranger)
    with pytest.raises(ConfigError, match="another token"):
        adopt_keys(stranger, sealed)
    assert load_secrets(stranger) == before
