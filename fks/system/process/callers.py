"""Callers as the connection shows them: their address, whether they are on this host, their Origin and Host.

A header that a client sends about itself counts only where the settings name the proxy that wrote it.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable

from starlette.requests import HTTPConnection

from fks.config.settings import Http
from fks.config.urls import is_on_this_host

#: A client's address as the pages (`fks.interfaces.web`) saw it, with the proof that they wrote it.
CLIENT_HEADER = "x-fks-client"
_FORWARDED = ("x-forwarded-", "forwarded", "x-real-ip", "via", CLIENT_HEADER)  # names of proxies' headers begin so


def peer_of(connection: HTTPConnection) -> str:
    """Return the address of the socket's other end; "unknown" for a unix socket."""
    return connection.client.host if connection.client else "unknown"


def is_trusted_proxy(address: str, trusted: Iterable[str]) -> bool:
    """Return whether `address` is one of the proxies that the settings name; without any, whether it is this host."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    named = tuple(trusted)
    if not named:
        return found.is_loopback
    return any(found in ipaddress.ip_network(text, strict=False) for text in named)


def network_of(address: str) -> str:
    """Return what failures and requests of an address are counted by: an IPv4 address itself, of an IPv6 address its
    /64, which one customer has whole (RFC 6177)."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False))


def address_of(connection: HTTPConnection, behind_proxy: bool, trusted: Iterable[str] | None = None) -> str:
    """Return the caller's address: the last hop a trusted proxy saw, or the socket's peer.

    `trusted` names the proxies; None trusts the peer, whatever it is.
    """
    peer = peer_of(connection)
    # several header lines are one list (RFC 9110, 5.3): the proxy may have added a line after those of the client
    hops = ",".join(connection.headers.getlist("x-forwarded-for"))
    if behind_proxy and hops and (trusted is None or is_trusted_proxy(peer, trusted)):
        return hops.rpartition(",")[2].strip()
    return peer


def client_header(address: str, key: bytes) -> str:
    """Return the value of CLIENT_HEADER for a request that is forwarded for the client at `address`."""
    return f"{address} {_proof(address, key)}"


def client_of(connection: HTTPConnection, key: bytes) -> str | None:
    """Return the address in CLIENT_HEADER; None without one, or when another program than the pages wrote it."""
    address, _, proof = connection.headers.get(CLIENT_HEADER, "").rpartition(" ")
    return address if address and hmac.compare_digest(proof.encode(), _proof(address, key).encode()) else None


def _proof(address: str, key: bytes) -> str:
    return hmac.new(key, address.encode(), hashlib.sha256).hexdigest()


def is_own(connection: HTTPConnection, http: Http) -> bool:
    """Return whether the caller is certainly this host itself. Behind a proxy that the settings trust it is not known:
    a proxy may forward requests without a header about it, to a name of this host."""
    is_proxied = http.behind_proxy and is_trusted_proxy(peer_of(connection), http.trusted_proxies)
    return not is_proxied and is_local(connection, http.host)


def is_local(connection: HTTPConnection, host: str = "") -> bool:
    """Return whether the caller is this host itself, or a client of a proxy on it that names no client (`is_own`
    admits none). `host`: the address that the gateway binds; a peer that has this address is this host, too."""
    if any(name.startswith(_FORWARDED) for name in connection.headers):
        return False
    # a foreign page whose name resolves to 127.0.0.1 (DNS rebinding) still sends its own name here
    asked = connection.url.hostname or ""
    is_asked = is_on_loopback(asked) or is_same_address(asked, host)
    return connection.client is not None and is_this_host(connection.client.host, host) and is_asked


def is_loopback(host: str) -> bool:
    """Return whether `host` is a loopback address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_same_address(one: str, other: str) -> bool:
    """Return whether both are one IP address, which names are not."""
    try:
        return ipaddress.ip_address(one) == ipaddress.ip_address(other.strip("[]"))
    except ValueError:
        return False


def is_this_host(peer: str, host: str) -> bool:
    """Return whether a peer is this host: loopback, or the address that the gateway binds."""
    return is_loopback(peer) or is_same_address(peer, host)


def is_on_loopback(host: str) -> bool:
    """Return whether `host` is localhost or a loopback address."""
    return host == "localhost" or is_loopback(host)


def is_own_origin(connection: HTTPConnection, allowed: tuple[str, ...]) -> bool:
    """Return whether a browser's Origin is this gateway itself or one the settings allow. No Origin: not a browser."""
    origin = connection.headers.get("origin")
    if origin is None or origin in allowed:
        return True
    return origin.partition("://")[2] == connection.headers.get("host")


def is_own_host(header: str, http: Http) -> bool:
    """Return whether a Host header names this gateway: localhost, an address, `http.host` or one of
    `http.allowed_hosts`.

    An address is always good: only a name can be made to resolve to this host by another page (DNS rebinding). Behind
    a proxy without a list, the proxy has checked the name.
    """
    host = _hostname(header)
    if host is None:
        return False
    if host in {"localhost", http.host.lower(), *(name.lower() for name in http.allowed_hosts)}:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return http.behind_proxy and not http.allowed_hosts
    return True


def _hostname(header: str) -> str | None:
    """Return the name or address in a Host header, lower case, or None when it is not one (RFC 9110, 7.2)."""
    if header.startswith("["):
        host, bracket, port = header[1:].partition("]")
        if not bracket or (port and not (port.startswith(":") and port[1:].isdigit())):
            return None
        return host.lower()
    host, colon, port = header.partition(":")
    if not host or (colon and not port.isdigit()) or any(letter in host for letter in " /\\@?#,\t"):
        return None
    return host.lower().rstrip(".")


def admits_peer(peer: str, http: Http) -> bool:
    """Return whether this peer may connect: off loopback and without TLS of our own, only the trusted proxy and this
    host may."""
    if is_on_this_host(http.host) or http.tls_cert is not None:
        return True
    return is_this_host(peer, http.host) or is_trusted_proxy(peer, http.trusted_proxies)
