"""Probes of the deep checks: each measures one thing within a timeout and leaves the judging to `measures`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from fks.clock import Clock
from fks.model.errors import PeerError

NTP_PORT = 123
_NTP_EPOCH = 2_208_988_800  # seconds from 1900, where NTP's era begins, to 1970
_SECONDS = 1 << 32


@dataclass(frozen=True, slots=True)
class NtpTimes:
    """The four times of an exchange with a server, seconds since 1970: sent and received here, and by it."""

    sent: float
    server_received: float
    server_sent: float
    received: float

    @property
    def offset_s(self) -> float:
        """Return how far our clock is ahead of the server's.

        Source: RFC 5905, section 8 (theta, here with the sign of our clock).
        """
        return -((self.server_received - self.sent) + (self.server_sent - self.received)) / 2

    @property
    def round_trip_s(self) -> float:
        """Return the time on the network."""
        return (self.received - self.sent) - (self.server_sent - self.server_received)


def ntp_request(now_s: float) -> bytes:
    """Return a client's packet (version 4) with the time at which it is sent."""
    return struct.pack("!B39x", 0x23) + _stamp(now_s)


def parse_ntp(packet: bytes, request: bytes, sent_s: float, received_s: float) -> NtpTimes:
    """Return the times of an answer. Errors: PeerError when it is none to `request`, or its server has no time."""
    if len(packet) < 48:
        raise PeerError(f"the NTP answer has {len(packet)} bytes, not 48")
    first, stratum = packet[0], packet[1]
    if first & 0x07 != 4 or packet[24:32] != request[40:48]:
        raise PeerError("the NTP packet is no answer to our request")
    if first >> 6 == 3 or not 1 <= stratum <= 15:
        raise PeerError(f"the NTP server is not synchronised (stratum {stratum})")
    server_received, server_sent = (_seconds(packet[at : at + 8], received_s) for at in (32, 40))
    return NtpTimes(sent_s, server_received, server_sent, received_s)


def _stamp(now_s: float) -> bytes:
    whole = int(now_s // 1)
    return struct.pack("!II", (whole + _NTP_EPOCH) % _SECONDS, int((now_s - whole) * _SECONDS) % _SECONDS)


def _seconds(stamp: bytes, near_s: float) -> float:
    """Return a timestamp in seconds since 1970, in the era that is nearest to `near_s` (eras are 136 years)."""
    whole, fraction = struct.unpack("!II", stamp)
    found = whole - _NTP_EPOCH + fraction / _SECONDS
    return float(found + round((near_s - found) / _SECONDS) * _SECONDS)


async def ntp_offset_ms(server: str, clock: Clock, *, timeout_s: float = 2.0) -> tuple[float, float]:
    """Return how far our clock is ahead of an NTP server's, and the round trip, in ms.

    Errors: OSError when it does not answer in time; PeerError when it answers nonsense.
    """
    host, _, port = server.rpartition(":") if server.count(":") == 1 else (server, "", "")
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[tuple[bytes, float]] = loop.create_future()

    class NtpClient(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: object) -> None:
            if not answer.done():
                answer.set_result((data, clock.now_ns() / 1e9))

        def error_received(self, error: Exception) -> None:
            if not answer.done():
                answer.set_exception(error)

    async with asyncio.timeout(timeout_s):
        transport, _ = await loop.create_datagram_endpoint(NtpClient, remote_addr=(host, int(port or NTP_PORT)))
        try:
            sent_s = clock.now_ns() / 1e9
            request = ntp_request(sent_s)
            transport.sendto(request)
            packet, received_s = await answer
        finally:
            transport.close()
    times = parse_ntp(packet, request, sent_s, received_s)
    return times.offset_s * 1e3, times.round_trip_s * 1e3


async def answer_ms(call: Callable[[], Awaitable[object]], *, timeout_s: float = 3.0) -> float:
    """Return how long a call took, in ms. Errors: those of the call; OSError after `timeout_s`."""
    start = time.monotonic()
    async with asyncio.timeout(timeout_s):
        await call()
    return (time.monotonic() - start) * 1e3


def disk_mb(place: Path) -> tuple[float, float] | None:
    """Return free and total space of the disk of `place`, in MB; None when it cannot be read."""
    with contextlib.suppress(OSError):
        usage = shutil.disk_usage(next(p for p in (place, *place.parents) if p.exists()))
        return usage.free / 1e6, usage.total / 1e6
    return None


def newest_backup(folder: Path, now_s: float) -> tuple[float, str] | None:
    """Return the age in hours of the newest complete backup in a folder, and why its restore was not proven ("" when it
    was, or nothing is known about that); None without one."""
    found = []
    for file in (*folder.glob("*.dump"), *folder.glob("*.age")):
        with contextlib.suppress(OSError):
            found.append((file.stat().st_mtime, file))
    if not found:
        return None
    at_s, file = max(found)
    why = ""
    with contextlib.suppress(OSError, ValueError):
        manifest = json.loads(file.with_name(f"{file.name}.json").read_text())
        why = "" if manifest.get("is_verified", True) else str(manifest.get("why") or "unknown")
    return max(0.0, (now_s - at_s) / 3600), why
