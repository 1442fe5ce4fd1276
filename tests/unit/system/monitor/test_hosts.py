"""Hosts that the monitor may ask: nothing that a caller names reaches an address that the operator did not allow."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.model.errors import InputError
from fks.system.monitor.hosts import addresses_of, check_host, checked_path, is_allowed

NAMES = ("localhost", "status.example.com")


def resolving(*addresses: str):  # type: ignore[no-untyped-def]
    async def resolve(host: str) -> Sequence[str]:
        return addresses

    return resolve


@pytest.mark.parametrize(
    "address",
    [
        *("169.254.169.254", "169.254.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1", "10.0.0.5", "192.168.1.1"),
        *("172.16.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "::", "fe80::1", "fd00:ec2::254", "ff02::1"),
        *("::1", "::ffff:169.254.169.254", "::ffff:10.0.0.5", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::", "fc00::1"),
    ],
)
async def test_a_name_that_resolves_to_a_private_address_is_refused(address: str) -> None:
    allowed = ("status.example.com",)
    with pytest.raises(InputError) as refused:
        await addresses_of("status.example.com", allowed, resolving(address))
    assert (refused.value.code, refused.value.status) == ("HOST_NOT_ALLOWED", 403)
    with pytest.raises(InputError):  # one bad address among good ones is enough
        await addresses_of("status.example.com", allowed, resolving("93.184.215.14", address))
    with pytest.raises(InputError):
        check_host(address, allowed)


@pytest.mark.parametrize("address", ["169.254.169.254", "fe80::1", "0.0.0.0", "224.0.0.1", "::ffff:169.254.169.254"])
def test_link_local_and_metadata_are_refused_even_when_listed(address: str) -> None:
    assert not is_allowed(ipaddress.ip_address(address), (address, "0.0.0.0/0", "::/0", "localhost"))


async def test_listed_names_addresses_and_networks_are_allowed() -> None:
    assert [str(a) for a in await addresses_of("localhost", NAMES, resolving("127.0.0.1", "::1"))] == [
        "127.0.0.1",
        "::1",
    ]
    assert await addresses_of("status.example.com", NAMES, resolving("93.184.215.14"))
    assert await addresses_of("STATUS.example.com.", NAMES, resolving("93.184.215.14"))
    assert await addresses_of("10.1.2.3", ("10.0.0.0/8",))
    assert await addresses_of("fks_data", ("fks_data", "10.0.0.5"), resolving("10.0.0.5"))
    with pytest.raises(InputError):
        await addresses_of("fks_data", ("fks_data", "10.0.0.5"), resolving("10.0.0.6"))


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "localhost.evil.example", "2130706433", "0x7f.1", "127.1", "017700000001", "a b", "a\r\nb"),
        *("localhost/", "user@localhost", "localhost:80", "[::1", "", "x" * 300, "localhost#", "ⓛocalhost", "-a"),
    ],
)
def test_other_hosts_and_spellings_are_refused(host: str) -> None:
    with pytest.raises(InputError):
        check_host(host, NAMES)


@given(st.ip_addresses(v=4))
def test_no_private_address_is_allowed_by_an_empty_list(address: ipaddress.IPv4Address) -> None:
    assert is_allowed(address, ()) <= address.is_global
    mapped = ipaddress.IPv6Address(f"::ffff:{address}")
    assert is_allowed(mapped, ()) == is_allowed(address, ())


@pytest.mark.parametrize(
    "path", ["health", "//evil.example/x", "/a b", "/a\r\nHost: x", "", "http://x/", "/" + "a" * 300]
)
def test_a_health_endpoint_is_a_short_absolute_path(path: str) -> None:
    with pytest.raises(InputError):
        checked_path(path)


def test_paths_with_queries_are_kept() -> None:
    assert checked_path("/health?full=1&x=%20") == "/health?full=1&x=%20"
