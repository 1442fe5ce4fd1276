"""Encryption of venue keys: bound to its row, under a key in a private file that can be replaced."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from fks.config.credentials import (
    Binding,
    VenueKey,
    add_key,
    drop_old_keys,
    load_keys,
    make_key_file,
    with_stored_keys,
    without_venue_keys,
)
from fks.config.load import load
from fks.config.settings import Settings, VenueSettings
from fks.model.errors import ConfigError

BINDING = Binding(1, "ccxt", "binance", "orders", 1)
KEY = VenueKey(SecretStr("k" * 32), SecretStr("s" * 32))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    make_key_file(tmp_path / "credentials.key")
    return tmp_path / "credentials.key"


def test_a_sealed_key_is_read_back_and_shows_nothing(file: Path) -> None:
    keys = load_keys(file)
    sealed = keys.seal(BINDING, KEY)
    assert keys.unseal(BINDING, keys.id, sealed) == KEY
    assert b"kkkk" not in sealed
    assert b"ssss" not in sealed
    assert sealed != keys.seal(BINDING, KEY), "a nonce is used once"
    assert "kkkk" not in repr(KEY) + str(KEY) + KEY.fingerprint


@pytest.mark.parametrize(
    "change", [{"account_id": 2}, {"venue": "x"}, {"exchange": "kraken"}, {"role": "guardian"}, {"version": 2}]
)
def test_a_ciphertext_is_bound_to_its_row(file: Path, change: dict[str, object]) -> None:
    keys = load_keys(file)
    sealed = keys.seal(BINDING, KEY)
    with pytest.raises(ConfigError, match="cannot be decrypted"):
        keys.unseal(replace(BINDING, **change), keys.id, sealed)  # type: ignore[arg-type]


def test_a_changed_ciphertext_is_refused(file: Path) -> None:
    keys = load_keys(file)
    sealed = bytearray(keys.seal(BINDING, KEY))
    sealed[-1] ^= 1
    with pytest.raises(ConfigError, match="cannot be decrypted") as raised:
        keys.unseal(BINDING, keys.id, bytes(sealed))
    assert raised.value.__cause__ is None
    assert "kkkk" not in str(raised.value)


def test_the_key_file_is_private_and_not_written_twice(file: Path) -> None:
    assert file.stat().st_mode & 0o777 == 0o600
    before = file.read_text()
    make_key_file(file)
    assert file.read_text() == before
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="others can read it"):
        load_keys(file)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "not base64 !\n", "c2hvcnQ=\n"])
def test_a_damaged_key_file_is_named(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"credentials\.key"):
        load_keys(file)


def test_a_lost_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read") as raised:
        load_keys(tmp_path / "credentials.key")
    assert "restore" in raised.value.remedy


def test_another_key_file_says_which_key_is_missing(file: Path, tmp_path: Path) -> None:
    old = load_keys(file)
    sealed = old.seal(BINDING, KEY)
    make_key_file(tmp_path / "other.key")
    other = load_keys(tmp_path / "other.key")
    with pytest.raises(ConfigError) as raised:
        other.unseal(BINDING, old.id, sealed)
    assert old.id in raised.value.message
    assert other.id in raised.value.message


def test_both_encryption_keys_decrypt_until_the_old_one_is_dropped(file: Path) -> None:
    old = load_keys(file)
    sealed = old.seal(BINDING, KEY)
    both = add_key(file)
    assert both.id != old.id
    assert both.unseal(BINDING, old.id, sealed) == KEY
    drop_old_keys(file)
    newest = load_keys(file)
    assert newest.id == both.id
    with pytest.raises(ConfigError):
        newest.unseal(BINDING, old.id, sealed)


def test_real_money_starts_with_stored_keys_alone(tmp_path: Path, file: Path) -> None:
    environ = {"FKS_VENUE_LIVE": "true", "FKS_SIM_ENABLED": "false"}
    assert load(tmp_path, environ).settings.venue.api_key is None
    file.unlink()
    with pytest.raises(ConfigError, match="has no keys"):
        load(tmp_path, environ)


def test_settings_of_other_processes_hold_no_venue_key() -> None:
    names = ("api_key", "api_secret", "guardian_api_key", "guardian_api_secret")
    full = Settings(venue=VenueSettings(**{name: SecretStr("plain-" + name) for name in names}))  # type: ignore[arg-type]
    bare = without_venue_keys(full)
    assert [getattr(bare.venue, name) for name in names] == [None] * 4
    assert bare.venue.exchange == full.venue.exchange
    stored = with_stored_keys(full, KEY, None).venue
    assert (stored.api_key, stored.guardian_api_key) == (KEY.api_key, full.venue.guardian_api_key)


PEM = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("secret", "is_sendable"),
    [
        ("s" * 32, True),
        (PEM, True),
        (PEM.replace("\n", "\\n"), True),
        ("s" * 7, False),
        ("s" * 1025, False),
        ("with a space in it", False),
        ("unprintable\u0007key", False),
        (PEM.replace("MHc", "M\u0007c"), False),
        ("line\nline" * 4, False),
        ("ümlaut-is-no-key", False),
    ],
)
def test_a_key_is_one_word_or_a_private_key(secret: str, is_sendable: bool) -> None:
    assert VenueKey(SecretStr("k" * 32), SecretStr(secret)).is_sendable is is_sendable
