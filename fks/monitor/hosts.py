"""Hosts that the monitor may ask for a service's health: an address that a caller names must not reach elsewhere.

A caller-supplied host is server-side request forgery (OWASP API7). So a host must be in `monitor.hosts`, every address
that it resolves to must be public or be allowed there, the request goes to exactly the address that was checked
(a name may resolve to another one a moment later), and redirects are not followed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence

from fks.model.errors import InputError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str], Awaitable[Sequence[str]]]

_LABEL = "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\.?")
_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]{0,200}")
_ANSWER_MAX = 65_536


def checked_path(path: str) -> str:
    """Return the path of a health endpoint. Errors: InputError 422 for anything but a short absolute path."""
    if not _PATH.fullmatch(path) or path.startswith("//"):
        raise InputError(
            f"health_endpoint {path[:80]!r} is no path", code="SERVICE_WRONG", status=422, remedy="use one like /health"
        )
    return path


def check_host(host: str, allowed: Sequence[str]) -> None:
    """Errors: InputError 422 when `host` is no name and no address, 403 when it is not in `allowed`.

    A name that is allowed may still resolve to an address that is not: see `addresses_of`.
    """
    address = address_of(host)
    if address is None and not _NAME.fullmatch(host):
        raise InputError(
            f"host {host[:80]!r} is no name and no address", code="SERVICE_WRONG", status=422, remedy="give a host name"
        )
    is_listed = any(host.lower().rstrip(".") == entry.lower().rstrip(".") for entry in allowed)
    if not is_listed and not (address is not None and _is_in(address, allowed)):
        raise _refused(f"host {host} is not in monitor.hosts")
    if address is not None and not is_allowed(address, allowed):
        raise _refused(f"the address {host} is never asked")


def is_allowed(address: Address, allowed: Sequence[str]) -> bool:
    """Return whether the monitor may connect to an address: a public one, or one that `allowed` has.

    `localhost` in it allows loopback. Link-local (where clouds serve credentials), multicast, unspecified and reserved
    addresses never are allowed; an IPv4 address within IPv6 is judged as IPv4.
    """
    plain = _plain(address)
    if plain.is_link_local or plain.is_multicast or plain.is_unspecified or _is_metadata(plain):
        return False
    if plain.is_loopback and "localhost" in (entry.lower() for entry in allowed):
        return True
    if _is_in(plain, allowed):
        return True
    return plain.is_global and not plain.is_reserved


def address_of(text: str) -> Address | None:
    """Return the address that `text` is, or None. Forms such as 0x7f.1 or 2130706433 are no addresses here."""
    try:
        return ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


async def addresses_of(host: str, allowed: Sequence[str], resolve: Resolve | None = None) -> list[Address]:
    """Return the addresses of a host, all of them allowed. Errors: InputError 403 when one is not; OSError when the
    host has none."""
    check_host(host, allowed)
    texts = [host] if address_of(host) is not None else await (resolve or _resolve)(host)
    found = [address for text in texts if (address := address_of(text.partition("%")[0])) is not None]
    if not found:
        raise OSError(f"{host} has no address")
    for address in found:
        if not is_allowed(address, allowed):
            raise _refused(f"{host} is {address}, an address that is not allowed")
    return found


def check_destination(host: str, allowed: Sequence[str]) -> None:
    """Refuse a host with an address that is neither public nor in `allowed`; its name need not be listed. Blocks while
    it resolves the name; one that has no address passes, as nothing can be sent to it.

    Errors: InputError 403.
    """
    try:
        entries = socket.getaddrinfo(host.removeprefix("[").removesuffix("]"), None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return
    for text in {str(entry[4][0]) for entry in entries}:
        address = address_of(text.partition("%")[0])
        if address is None or not is_allowed(address, allowed):
            raise _refused(f"{host} is {text}, an address that is not allowed")


async def get_status(
    host: str,
    port: int,
    path: str,
    allowed: Sequence[str],
    *,
    timeout_s: float = 3.0,
    resolve: Resolve | None = None,
    tls: ssl.SSLContext | None = None,
) -> int:
    """Return the HTTP status of a GET at an allowed host; the request goes to the address that was checked.

    Errors: InputError 403 for a host or address that is not allowed; OSError when there is no answer in HTTP.
    """
    async with asyncio.timeout(timeout_s):
        address = (await addresses_of(host, allowed, resolve))[0]
        reader, writer = await asyncio.open_connection(
            str(address), port, ssl=tls, server_hostname=host if tls else None, limit=_ANSWER_MAX
        )
        try:
            shown = f"[{host}]" if ":" in host else host
            request = (
                f"GET {path} HTTP/1.1\r\nHost: {shown}:{port}\r\nUser-Agent: fks-monitor\r\n"
                "Accept: application/json\r\nConnection: close\r\n\r\n"
            )
            writer.write(request.encode("ascii"))
            await writer.drain()
            line = await reader.readline()
        except ValueError:  # a line without an end
            raise OSError(f"{host}:{port} does not answer in HTTP") from None
        finally:
            writer.close()
    parts = line.split(b" ", 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/") or len(parts[1]) != 3 or not parts[1].isdigit():
        raise OSError(f"{host}:{port} does not answer in HTTP")
    return int(parts[1])


async def _resolve(host: str) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def _plain(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address holds: mapped, 6to4, NAT64 or Teredo; else the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is None and address.teredo is not None:
            inner = address.teredo[1]
        if inner is not None:
            return inner
    return address


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_METADATA = tuple(ipaddress.ip_address(text) for text in ("fd00:ec2::254", "100.100.100.200", "192.0.0.192"))


def _is_metadata(address: Address) -> bool:
    """Return whether clouds serve credentials there, outside of the link-local networks."""
    return address in _METADATA


def _is_in(address: Address, allowed: Sequence[str]) -> bool:
    for entry in allowed:
        try:
            network = ipaddress.ip_network(entry, strict=False)
        except ValueError:
            continue  # a name
        if network.version == address.version and address in network:
            return True
    return False


def _refused(text: str) -> InputError:
    return InputError(
        text,
        code="HOST_NOT_ALLOWED",
        status=403,
        remedy="an operator adds it to monitor.hosts in fks.toml; link-local and metadata addresses stay refused",
    )
