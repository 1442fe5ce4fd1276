"""Mutual authentication: the test vector of the protocol, and what a secret file may hold."""

from __future__ import annotations

import pytest

from fks.model.errors import ConfigError
from fks.ninja.auth import bridge_mac, client_mac, is_equal, parse_secret

SECRET = b"correct-horse-battery-staple-0001"
CHALLENGE = "00112233445566778899aabbccddeeff" * 2
HELLO = "ffeeddccbbaa99887766554433221100" * 2
INSTANCE = "3f0c9c9e5f0b4c3fa0a1d2e3f4a5b6c7"
EPOCH = "0b9d8c7e6f5a4b3c2d1e0f9a8b7c6d5e"


def test_macs_equal_the_test_vector() -> None:
    client = client_mac(SECRET, bridge_nonce=CHALLENGE, client_nonce=HELLO, instance=INSTANCE, group="sim")
    bridge = bridge_mac(SECRET, bridge_nonce=CHALLENGE, client_nonce=HELLO, epoch=EPOCH, group="sim")
    assert client == "6dff759fe14e8a81712b1a6008c2aeb2f48dabdd542b578d997fd4e39010cbb9"
    assert bridge == "e08a49b74f0d5cf5721976e00a94440c378eb31088c99c8df7c83edb5134b274"
    assert is_equal(client, client)
    assert not is_equal(client, bridge)


def test_white_space_in_a_secret_file_does_not_count() -> None:
    assert parse_secret(" correct-horse-\nbattery-staple-0001\r\n", source="x") == SECRET


@pytest.mark.parametrize(("text", "is_remote"), [("", False), ("x" * 15, False), ("  " + "x" * 31, True)])
def test_a_short_secret_is_refused_and_not_shown(text: str, is_remote: bool) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_secret(text, source="fks/secret.key", is_remote=is_remote)
    assert "fks/secret.key" in str(raised.value)
    assert "xxx" not in str(raised.value)
