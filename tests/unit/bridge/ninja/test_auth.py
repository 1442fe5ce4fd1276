"""Mutual authentication: the test vector of the protocol, and what a secret file may hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.bridge.ninja.auth import (
    MAC_BYTES,
    ForgedLineError,
    LineMac,
    bridge_mac,
    client_mac,
    is_equal,
    line_macs,
    marked,
    parse_secret,
)
from fks.model.errors import ConfigError

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


def macs(secret: bytes = SECRET, **changes: str) -> tuple[LineMac, LineMac]:
    names = {
        "bridge_nonce": marked(CHALLENGE), "client_nonce": marked(HELLO), "instance": INSTANCE, "group": "sim",
        "role": "control",
    }  # fmt: skip
    return line_macs(secret, **(names | changes))


def test_line_macs_equal_the_test_vector() -> None:
    line = b'{"t":"ping","n":1,"t_ms":0}\n'
    client, bridge = macs()
    assert client.sealed(line) == b"557ab85fe74b25635764f786cf117ae8402c44ba53d39847f9789c53b3c0c5f8 " + line
    assert client.sealed(line) == b"ca5d29ff9ee068c550b78e80f2b1c2b5fd1833b911a353f586ed54ad48642124 " + line
    assert bridge.sealed(line) == b"ba4cfe7d4f838d2937caa9cb062cfa3332bfb77bf7318eb0ec39880ade880af2 " + line


BODIES = st.lists(st.binary(max_size=60).map(lambda body: body.replace(b"\n", b"")), min_size=1, max_size=6)


@given(BODIES)
def test_lines_in_order_open_as_they_were(bodies: list[bytes]) -> None:
    (sending, _), (reading, _) = macs(), macs()
    lines = [sending.sealed(body + b"\n").removesuffix(b"\n") for body in bodies]
    assert [reading.opened(line) for line in lines] == bodies


@given(BODIES, st.data())
def test_a_changed_repeated_missing_or_moved_line_does_not_open(bodies: list[bytes], data: st.DataObject) -> None:
    (sending, _), (reading, _) = macs(), macs()
    lines = [sending.sealed(body + b"\n").removesuffix(b"\n") for body in bodies]
    at = data.draw(st.integers(0, len(lines) - 1))
    what = data.draw(st.sampled_from(("change", "cut", "repeat", "drop", "swap", "plain")))
    if what == "change":
        byte, by = data.draw(st.integers(0, len(lines[at]) - 1)), data.draw(st.integers(1, 255))
        lines[at] = lines[at][:byte] + bytes([lines[at][byte] ^ by]) + lines[at][byte + 1 :]
    elif what == "cut":
        lines[at] = lines[at][: data.draw(st.integers(0, len(lines[at]) - 1))]
    elif what == "repeat":
        lines.insert(at, lines[at])
        at += 1
    elif what == "drop":
        lines = [*lines[:at], *lines[at + 1 :], sending.sealed(b"{}\n").removesuffix(b"\n")]
    elif what == "swap":
        lines.append(sending.sealed(b"{}\n").removesuffix(b"\n"))
        lines[at], lines[at + 1] = lines[at + 1], lines[at]
    else:
        lines[at] = bodies[at]
    for line in lines[:at]:
        reading.opened(line)
    with pytest.raises(ForgedLineError):
        reading.opened(lines[at])


@pytest.mark.parametrize(
    "other",
    [
        {"secret": SECRET + b"x"}, {"bridge_nonce": marked(HELLO)}, {"client_nonce": marked(CHALLENGE)},
        {"instance": "0" * 32}, {"group": "live"}, {"role": "observe"},
    ],
    ids=lambda other: next(iter(other)),
)  # fmt: skip
def test_a_line_of_another_session_does_not_open(other: dict[str, object]) -> None:
    sending, reading = macs()[0], macs(**other)[0]  # type: ignore[arg-type]
    with pytest.raises(ForgedLineError):
        reading.opened(sending.sealed(b"{}\n").removesuffix(b"\n"))


def test_a_line_of_ones_own_comes_back_unopened() -> None:
    client, bridge = macs()
    with pytest.raises(ForgedLineError):
        bridge.opened(client.sealed(b"{}\n").removesuffix(b"\n"))


def test_a_mac_costs_a_line_its_digits_and_a_space() -> None:
    assert len(macs()[0].sealed(b"{}\n")) == len(b"{}\n") + MAC_BYTES


def test_white_space_in_a_secret_file_does_not_count() -> None:
    assert parse_secret(" correct-horse-\nbattery-staple-0001\r\n", source="x") == SECRET


@pytest.mark.parametrize(("text", "is_remote"), [("", False), ("x" * 15, False), ("  " + "x" * 31, True)])
def test_a_short_secret_is_refused_and_not_shown(text: str, is_remote: bool) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_secret(text, source="fks/secret.key", is_remote=is_remote)
    assert "fks/secret.key" in str(raised.value)
    assert "xxx" not in str(raised.value)
