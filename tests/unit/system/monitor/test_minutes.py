"""Metrics by the minute from counters and the usage of processes."""

from __future__ import annotations

import os

from fks.system.monitor.minutes import Minute, minute_of, process_usage

BEFORE = {
    'fks_http_requests_total{route="/a",status="200"}': 10.0,
    'fks_http_requests_total{route="/a",status="503"}': 1.0,
    'fks_http_request_seconds_sum{route="/a"}': 1.0,
    'fks_http_request_seconds_count{route="/a"}': 11.0,
}


def test_a_minute_is_what_grew() -> None:
    now = {
        'fks_http_requests_total{route="/a",status="200"}': 16.0,
        'fks_http_requests_total{route="/a",status="503"}': 2.0,
        'fks_http_requests_total{route="/b",status="500"}': 1.0,
        'fks_http_request_seconds_sum{route="/a"}': 1.4,
        'fks_http_request_seconds_count{route="/a"}': 19.0,
    }
    found = minute_of("gateway:0", BEFORE, now, (10.0, 200.0), (13.0, 210.0), 60.0)
    assert found == Minute("gateway:0", 5.0, 210.0, 8, 2, 50.0)


def test_counters_of_a_new_process_count_from_zero() -> None:
    now = {'fks_http_requests_total{route="/a",status="200"}': 3.0}
    assert minute_of("gateway:0", BEFORE, now, (10.0, 200.0), (1.0, 90.0), 60.0) == Minute(
        "gateway:0", None, 90.0, 3, 0, None
    )


def test_what_serves_no_requests_has_none() -> None:
    assert minute_of("orders", {}, {"fks_fills_total": 3.0}, None, None, 60.0) == Minute(
        "orders", None, None, None, None, None
    )


def test_usage_of_a_process_and_of_none() -> None:
    found = process_usage(os.getpid())
    assert found is not None
    assert found[0] > 0
    assert found[1] > 1
    assert process_usage(2**22 + 1) is None
