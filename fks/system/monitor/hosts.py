"""Hosts that callers name: services whose health the monitor asks for, and channels of alerts.

A caller-supplied host is server-side request forgery (OWASP API7). So every address that it resolves to must be public
or be allowed (`monitor.hosts`, where a service's host must stand in any case; `alerts.hosts`), the request goes to
exactly the address that was checked (a name may resolve to another one a moment later), and redirects are not followed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import wraps
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from fks.config.urls import is_in
from fks.model.errors import InputError, unprocessable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str], Awaitable[Sequence[str]]]

_LABEL = "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\.?")
_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]{0,200}")
_ANSWER_MAX = 65_536


def checked_path(path: str) -> str:
    """Return the path of a health endpoint. Errors: InputError 422 for anything but a short absolute path."""
    if not _PATH.fullmatch(path) or path.startswith("//"):
        raise unprocessable("SERVICE_WRONG", f"health_endpoint {path[:80]!r} is no path", "use one like /health")
    return path


def check_host(host: str, allowed: Sequence[str]) -> None:
    """Errors: InputError 422 when `host` is no name and no address, 403 when it is not in `allowed`.

    A name that is allowed may still resolve to an address that is not: see `addresses_of`.
    """
    address = address_of(host)
    if address is None and not _NAME.fullmatch(host):
        raise unprocessable("SERVICE_WRONG", f"host {host[:80]!r} is no name and no address", "give a host name")
    is_listed = any(host.lower().rstrip(".") == entry.lower().rstrip(".") for entry in allowed)
    if not is_listed and not (address is not None and is_in(address, allowed)):
        raise _refused(f"host {host} is not in monitor.hosts")
    if address is not None and not is_allowed(address, allowed):
        raise _refused(f"the address {host} is never asked")


def is_allowed(address: Address, allowed: Sequence[str]) -> bool:
    """Return whether the monitor may connect to an address: a public one, or one that `allowed` has.

    `localhost` in it allows loopback. Link-local (where clouds serve credentials), multicast, unspecified and reserved
    addresses never are allowed; an IPv4 address within IPv6 is judged as IPv4.
    """
    plain = _plain(address)
    if plain.is_link_local or plain.is_multicast or plain.is_unspecified or plain in _METADATA:
        return False
    if plain.is_loopback and "localhost" in (entry.lower() for entry in allowed):
        return True
    if is_in(plain, allowed):
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


@contextmanager
def only_allowed(allowed: Sequence[str]) -> Iterator[None]:
    """Within this block, a name that this thread resolves to connect to it must have no address that is neither public
    nor in `allowed` (`alerts.hosts`): the address that is checked is the one that is connected to. A proxy that the
    environment names is the operator's, and not checked.

    For libraries that make their connections themselves: `socket.getaddrinfo` is replaced by a function that is the
    same outside of such blocks. Errors: InputError 403 from within the library's call.
    """
    if not hasattr(socket.getaddrinfo, "__wrapped__"):
        socket.getaddrinfo = _checked(socket.getaddrinfo)
    proxies = {
        urlsplit(url if "://" in url else f"//{url}").hostname for kind, url in getproxies().items() if kind != "no"
    }
    token = _DESTINATIONS.set((tuple(allowed), frozenset(proxies)))
    try:
        yield
    finally:
        _DESTINATIONS.reset(token)


def check_destination(host: str, allowed: Sequence[str]) -> None:
    """Refuse a host as `only_allowed` would. Blocks while it resolves the name; one that has no address passes, as
    nothing can be sent to it. Errors: InputError 403."""
    with only_allowed(allowed), suppress(OSError, UnicodeError):
        socket.getaddrinfo(host.removeprefix("[").removesuffix("]"), None, type=socket.SOCK_STREAM)


#: what `only_allowed` was given: allowed addresses, and hosts of proxies
_DESTINATIONS: ContextVar[tuple[tuple[str, ...], frozenset[str | None]] | None]
_DESTINATIONS = ContextVar("destinations", default=None)


def _checked(resolve: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(resolve)
    def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        entries = resolve(host, *args, **options)
        if (destinations := _DESTINATIONS.get()) is None or host in destinations[1]:
            return entries
        allowed = destinations[0]
        for text in sorted({str(entry[4][0]) for entry in entries}):
            address = address_of(text.partition("%")[0])
            if address is None or not is_allowed(address, allowed):
                raise _refused(
                    f"{host} is {text}, an address on this host or in a private network",
                    f"an operator writes hosts = {json.dumps([*allowed, text])} into [alerts] of fks.toml; link-local "
                    "and metadata addresses stay refused",
                )
        return entries

    return getaddrinfo


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
#: Where clouds serve credentials outside of the link-local networks.
_METADATA = tuple(ipaddress.ip_address(text) for text in ("fd00:ec2::254", "100.100.100.200", "192.0.0.192"))
_REMEDY = "an operator adds it to monitor.hosts in fks.toml; link-local and metadata addresses stay refused"


def _refused(text: str, remedy: str = _REMEDY) -> InputError:
    return InputError(text, code="HOST_NOT_ALLOWED", status=403, remedy=remedy)
