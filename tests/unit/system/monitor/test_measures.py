"""Deep checks as functions of measured values."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.model.errors import PeerError
from fks.model.health import Check
from fks.system.monitor import measures
from fks.system.monitor.probes import NtpTimes, ntp_request, parse_ntp


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (measures.answering("redis", 3.0, None, degraded_ms=1000), "healthy"),
        (measures.answering("redis", 1500.0, None, degraded_ms=1000), "degraded"),
        (measures.answering("redis", None, "refused", degraded_ms=1000), "down"),
        (measures.disk(10_000, 50_000, free_min_mb=1000, place="/x"), "healthy"),
        (measures.disk(3_000, 50_000, free_min_mb=1000, place="/x"), "degraded"),
        (measures.disk(999, 50_000, free_min_mb=1000, place="/x"), "down"),
        (measures.disk(None, None, free_min_mb=1000, place="/x"), "unknown"),
        (measures.clock(-20.0, None, offset_max_ms=250, response_ms=3), "healthy"),
        (measures.clock(-300.0, None, offset_max_ms=250, response_ms=3), "degraded"),
        (measures.clock(1001.0, None, offset_max_ms=250, response_ms=3), "down"),
        (measures.clock(None, "no route", offset_max_ms=250, response_ms=None), "unknown"),
        (measures.certificate(60, None, min_days=14, file="c"), "healthy"),
        (measures.certificate(13, None, min_days=14, file="c"), "degraded"),
        (measures.certificate(-1, None, min_days=14, file="c"), "down"),
        (measures.certificate(None, "no such file", min_days=14, file="c"), "down"),
        (measures.backup(5, max_h=168, is_own_server=True), "healthy"),
        (measures.backup(200, max_h=168, is_own_server=True), "degraded"),
        (measures.backup(None, max_h=168, is_own_server=True), "degraded"),
        (measures.backup(None, max_h=168, is_own_server=False), "unknown"),
        (measures.queues(0, None, 0, None, jobs_max_s=60, signals_max_s=5), "healthy"),
        (measures.queues(3, 61, 0, None, jobs_max_s=60, signals_max_s=5), "degraded"),
        (measures.queues(0, None, 1, 6, jobs_max_s=60, signals_max_s=5), "degraded"),
        (measures.queues(0, None, 1, 51, jobs_max_s=60, signals_max_s=5), "down"),
    ],
)
def test_a_measured_value_has_its_status_and_a_fault_its_reason(found: Check, status: str) -> None:
    assert found.status == status
    assert (found.detail == "") == (status == "healthy")


def feed(state: str, age_ms: int | None) -> dict[str, Any]:
    return {"exchange": "binance", "symbol": "BTCUSDT", "state": state, "age_ms": age_ms}


def test_feeds_are_down_when_none_is_fresh_and_unknown_when_none_is_wanted() -> None:
    live, stale = feed("LIVE", 20), feed("LIVE", 90_000)
    statuses = [measures.feeds(rows, stale_ms=60_000).status for rows in ([], [live], [live, stale], [stale])]
    assert statuses == ["unknown", "healthy", "degraded", "down"]
    assert measures.feeds([feed("COLD", None)], stale_ms=60_000).status == "down"


def test_venues_are_down_when_none_is_ready() -> None:
    ready, waiting = ({"name": "ccxt", "state": state, "account": "a"} for state in ("READY", "SYNCING"))
    found = [measures.venues(rows).status for rows in ([], [ready], [ready, waiting], [waiting])]
    assert found == ["unknown", "healthy", "degraded", "down"]


# ── NTP ──────────────────────────────────────────────────────────────────────────────────────────
NOW = 1_795_300_000.25


def answer(request: bytes, *, ahead_s: float = 0.0, first: int = 0x24, stratum: int = 2) -> bytes:
    whole, fraction = divmod(NOW - ahead_s + 2_208_988_800, 1)
    stamp = struct.pack("!II", int(whole) % 2**32, int(fraction * 2**32))
    return bytes([first, stratum]) + bytes(22) + request[40:48] + stamp + stamp


@given(st.floats(-1e6, 1e6), st.floats(0, 2))
def test_ntp_offset_is_how_far_our_clock_is_ahead(ahead_s: float, way_s: float) -> None:
    request = ntp_request(NOW)
    sent = NOW - way_s / 2
    times = parse_ntp(answer(request, ahead_s=ahead_s), request, sent, sent + way_s)
    assert times.offset_s == pytest.approx(ahead_s, abs=1e-5)
    assert times.round_trip_s == pytest.approx(way_s, abs=1e-5)


def test_ntp_offset_by_the_times_of_the_rfc() -> None:
    assert NtpTimes(sent=10.0, server_received=7.0, server_sent=7.5, received=11.5).offset_s == pytest.approx(3.5)


def test_ntp_answers_to_others_and_of_servers_without_time_are_refused() -> None:
    request = ntp_request(NOW)
    for bad in (
        b"",
        bytes(48),
        answer(ntp_request(NOW + 1)),
        answer(request, first=0xE4),
        answer(request, stratum=0),
        answer(request, first=0x23),
    ):
        with pytest.raises(PeerError):
            parse_ntp(bad, request, NOW, NOW)


def test_ntp_times_after_2036_are_of_the_next_era() -> None:
    later = 2_100_000_000.5  # 2036 ends the first era
    request = ntp_request(later)
    packet = bytes([0x24, 1]) + bytes(22) + request[40:48] + request[40:48] * 2
    assert parse_ntp(packet, request, later, later).offset_s == pytest.approx(0, abs=1e-6)
