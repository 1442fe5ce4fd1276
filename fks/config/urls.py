"""URLs of external servers: where they point and whether the way there is safe."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

_WELL_KNOWN = {
    "postgres",
    "password",
    "fks",
    "admin",
    "redis",
    "secret",
    "changeme",
    "change_me",
    "example",
    "test",
    "root",
    "123456",
}
#: schemes whose bytes anyone on the way can read
_PLAIN = frozenset({"http", "ws"})
_TLS_MODES = ("require", "verify-ca", "verify-full")


#: networks of Binance where money is not real
TEST_HOSTS = frozenset({"testnet.binance.vision", "api1.testnet.binance.vision", "demo-api.binance.com"})


def is_loopback(url: str) -> bool:
    """Return whether an address names this host."""
    return bool(host := urlsplit(url).hostname or "") and is_on_this_host(host)


def is_test_host(url: str | None, further: frozenset[str] = frozenset()) -> bool:
    """Return whether an address is a test network of an exchange; `further` hosts are such networks, too."""
    return url is not None and (urlsplit(url).hostname or "") in TEST_HOSTS | further


def is_on_this_host(host: str) -> bool:
    """Return whether `host` is loopback or a unix socket; a name is not resolved, only `localhost` counts."""
    if not host or host.startswith("/") or host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_network(text: str) -> bool:
    """Return whether this is an IP address or a network of them (10.0.0.0/24)."""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def is_in(address: ipaddress.IPv4Address | ipaddress.IPv6Address, entries: Iterable[str]) -> bool:
    """Return whether an address is one of `entries`, or in a network of them; names among them do not count."""
    for entry in entries:
        try:
            network = ipaddress.ip_network(entry, strict=False)
        except ValueError:
            continue  # a name
        if network.version == address.version and address in network:
            return True
    return False


def plaintext_host(url: str | None, allowed: Collection[str]) -> str:
    """Return the host of an address without TLS that is neither on this host nor in `allowed`; else ""."""
    if not url:
        return ""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme.lower() not in _PLAIN or is_on_this_host(host) or host in map(str.lower, allowed):
        return ""
    try:
        return "" if is_in(ipaddress.ip_address(host), allowed) else host
    except ValueError:
        return host


def database_faults(url: str) -> list[tuple[str, str]]:
    """Return (what is wrong, remedy) of a PostgreSQL URL; the URL itself is never in the text."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        return [(f"no URL: {error}", "postgresql://USER:PASSWORD@HOST:5432/NAME?sslmode=verify-full")]
    if parts.scheme not in {"postgresql", "postgres"}:
        return [(f"scheme {parts.scheme or 'none'!r} is not PostgreSQL", "postgresql://USER:PASSWORD@HOST:5432/NAME")]
    query = parse_qs(parts.query)
    hosts = [_host_only(part) for part in (parts.hostname or ",".join(query.get("host", [""]))).split(",")]
    mode = query.get("sslmode", query.get("ssl", ["prefer"]))[0]
    faults = []
    if not all(is_on_this_host(host) for host in hosts) and mode not in _TLS_MODES:
        faults.append(
            (
                f"server {','.join(hosts)} is off this host and sslmode is {mode}",
                "add ?sslmode=verify-full (or require): TLS is required",
            )
        )
    if len(parts.path) < 2:
        faults.append(("it names no database", "end it with /NAME"))
    return faults + _password_faults(parts.password, is_needed=bool(hosts[0]) and not hosts[0].startswith("/"))


def certificate_fault(url: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """Return (what is wrong, remedy) when this machine lacks the root certificate that the URL's sslmode needs."""
    try:
        query = parse_qs(urlsplit(url).query)
    except ValueError:
        return None  # `database_faults` reports it
    mode = query.get("sslmode", [environ.get("PGSSLMODE", "")])[0]
    named = query.get("sslrootcert", [environ.get("PGSSLROOTCERT", "")])[0]
    if mode not in _TLS_MODES or (mode == "require" and not named):
        return None
    root = Path(named) if named else Path(environ.get("HOME", "/"), ".postgresql", "root.crt")
    if root.is_file():
        return None
    return (
        f"sslmode={mode} needs a root certificate, and {root} is not there",
        "add &sslrootcert=FILE to database.url: the file of your own authority, or the system's "
        "(/etc/ssl/certs/ca-certificates.crt on Debian)",
    )


def redis_faults(url: str) -> list[tuple[str, str]]:
    """Return (what is wrong, remedy) of a Redis URL; the URL itself is never in the text."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        return [(f"no URL: {error}", "rediss://:PASSWORD@HOST:6379/0")]
    if parts.scheme not in {"redis", "rediss", "unix"}:
        return [(f"scheme {parts.scheme or 'none'!r} is not Redis", "rediss://:PASSWORD@HOST:6379/0")]
    faults = []
    if parts.scheme == "redis" and not is_on_this_host(parts.hostname or ""):
        faults.append((f"server {parts.hostname} is off this host without TLS", "use rediss://"))
    if parse_qs(parts.query).get("ssl_cert_reqs", ["required"])[0].lower() in {"none", "false", "0"}:
        faults.append(("ssl_cert_reqs=none does not check who answers", "remove it"))
    return faults + _password_faults(parts.password, is_needed=True)


def _host_only(text: str) -> str:
    return text if text.startswith("/") else text.rsplit(":", 1)[0] if text.count(":") == 1 else text


def _password_faults(password: str | None, *, is_needed: bool) -> list[tuple[str, str]]:
    plain = unquote(password or "")
    if not plain:
        return [("it has no password", "nothing starts on an empty secret")] if is_needed else []
    if plain.lower() in _WELL_KNOWN:
        return [("its password is a default", "nothing starts on a default secret: change it on the server")]
    return []
