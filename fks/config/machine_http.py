"""HTTP on each machine of a cluster: which address and certificate a machine has for the gateway, and what keeps the
gateway from running there.

Serve has one address and one pair of certificate paths for all machines. The files are each machine's own: its keeper
examines them and reports the result in its row.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import ssl
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fks.config.check import file_fault
from fks.config.settings import Settings
from fks.config.urls import is_on_this_host

Fault = tuple[str, str]  # (what is wrong, remedy)
Machine = tuple[str, str, Mapping[str, Any]]  # name, role and detail of a row


def listens_at(settings: Settings) -> dict[str, Any]:
    """Return where the gateway listens: host and port, and for HTTPS the files tls_cert and tls_key.

    Links stay links: a renewed certificate is another file behind the same link, and each machine has its own.
    """
    http = settings.http
    found: dict[str, Any] = {"host": http.host, "port": http.port}
    if http.tls_cert is not None and http.tls_key is not None:
        found |= {"tls_cert": os.path.abspath(http.tls_cert), "tls_key": os.path.abspath(http.tls_key)}
    return found


def can_spread(settings: Settings) -> bool:
    """Return whether the gateway may run on the workers of this head: on an address that each machine has, and beyond
    loopback with TLS only, whatever proxy stands in front of the head."""
    http = settings.http
    if settings.node.role != "head" or not http.spread:
        return False
    return is_on_this_host(http.host) or (http.tls_cert is not None and _is_every_address(http.host))


def report(settings: Settings, now: datetime) -> dict[str, Any]:
    """Return what a machine's row has about HTTP: `listens_at`, on a head `spreads`, and of its certificate `fault`,
    `remedy` and `ends_s` (s since 1970; absent where it cannot be read). Reads the files."""
    found = listens_at(settings)
    if settings.node.role == "head":
        found["spreads"] = can_spread(settings)
    if "tls_cert" in found:
        fault = certificate_fault(Path(found["tls_cert"]), Path(found["tls_key"]), now)
        with contextlib.suppress(OSError, ValueError):
            found["ends_s"] = certificate_end(Path(found["tls_cert"])).timestamp()
        found |= dict(zip(("fault", "remedy"), fault or ("", ""), strict=True))
    return found


def certificate_end(cert: Path) -> datetime:
    """Return when the first certificate of a PEM file ends, UTC. Errors: OSError, ValueError."""
    from cryptography import x509

    return x509.load_pem_x509_certificate(cert.read_bytes()).not_valid_after_utc


def certificate_fault(cert: Path, key: Path, now: datetime) -> Fault | None:
    """Return what is wrong with a certificate and its key; None when a server can use them."""
    from cryptography import x509

    for name, file in (("http.tls_cert", cert), ("http.tls_key", key)):
        if fault := file_fault(file, is_private=name == "http.tls_key"):
            return f"{name} = {str(file)!r} {fault[0]}", fault[1]
    try:
        # as the server itself loads them; the password of a key that has one would be asked for on a terminal
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=lambda: b"")
        found = x509.load_pem_x509_certificate(cert.read_bytes())
    except (OSError, ValueError) as error:  # SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "no PEM"
        return (
            f"{cert} and {key} cannot be used: {reason}",
            "give the certificate and its own key, without a password, as PEM files",
        )
    if found.not_valid_after_utc <= now:
        return f"{cert} expired at {_time(found.not_valid_after_utc)}", "renew it there"
    if found.not_valid_before_utc > now:
        return f"{cert} is valid from {_time(found.not_valid_before_utc)} on", "set the clock there, or wait"
    return None


def lacking(machines: Iterable[Machine]) -> dict[str, Fault]:
    """Return machine → what keeps the gateway from running there, of machines that send beats. Empty when the head's
    gateway does not spread."""
    rows = list(machines)
    head = next((detail.get("http") for _, role, detail in rows if role == "head"), None)
    if not head or not head.get("spreads"):
        return {}
    found = {}
    for name, role, detail in rows:
        own = detail.get("http") or {}
        fault = differs(head, own) if role == "worker" else None
        if fault is None and own.get("fault"):
            fault = str(own["fault"]), str(own.get("remedy") or "")
        if fault is not None:
            found[name] = fault
    return found


def differs(head: Mapping[str, Any], own: Mapping[str, Any]) -> Fault | None:
    """Return why a worker with these settings cannot answer as the head's gateway does; None when it can."""
    is_tls = head.get("tls_cert") is not None
    if not own:  # of a build before it was reported
        return ("it does not report its certificate", "install the head's build there") if is_tls else None
    for key in ("tls_cert", "tls_key"):
        wanted, given = head.get(key), own.get(key)
        if wanted == given:
            continue
        if wanted is None:
            return (
                f"http.{key} is {given} there, and the head has none",
                f"set http.{key} on the head too, then stop and start the head; or unset it there",
            )
        if given is None:
            return f"http.{key} is not set there", f"set http.{key} = {wanted!r} there, and start its node again"
        return (
            f"http.{key} is {given} there, and {wanted} on the head",
            "put the file at the same path on each machine: Serve knows one path for all",
        )
    if not is_on_this_host(str(head["host"])) and own.get("host") != head["host"]:
        return (
            f"http.host is {own.get('host')} there, and {head['host']} on the head",
            f"set http.host = {head['host']!r} there, and start its node again",
        )
    return None


def machines_of_gateway(machines: int, now: int, *, may_spread: bool, is_ready: bool) -> int:
    """Return on how many machines the gateway is deployed. `now`: on how many it runs. `is_ready`: each machine can
    answer as the head does; until then the gateway stays where it is."""
    if not may_spread:
        return 1
    return max(1, machines if is_ready else min(now, machines))


def is_on_fewer(machines: int, now: int, replicas: int, per_node: int) -> bool:
    """Return whether a gateway that runs on `now` machines with so many replicas could be on more. Two replicas on the
    head alone are as many as one on each of two machines, so that their number shows nothing then."""
    return now < machines or replicas < per_node * machines


def _is_every_address(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return False


def _time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
