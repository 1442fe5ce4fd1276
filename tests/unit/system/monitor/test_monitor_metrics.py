"""Counting, merging and writing metrics."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from fks.clock import FakeClock
from fks.model.errors import BugError
from fks.model.metrics import METRICS
from fks.system.monitor import measures
from fks.system.monitor.watcher import check_metrics
from fks.system.process.metrics import (
    SILENT_S,
    Merger,
    PrometheusMeter,
    exposition,
    is_monotonic,
    joined,
    merge,
    parse_snapshot,
    series,
)
from fks.system.process.self_metrics import SelfMetrics


def _meter() -> PrometheusMeter:
    meter = PrometheusMeter("orders")
    meter.count("fks_fills_total", 2, symbol="BTCUSDT")
    meter.gauge("fks_database_up", 1)
    meter.observe("fks_order_send_seconds", 0.004)
    return meter


class LateClock(FakeClock):
    """A clock whose sleeps last two seconds longer, as on a loop that is busy meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.at_s = 0.0

    def monotonic(self) -> float:
        return self.at_s

    async def sleep(self, seconds: float) -> None:
        self.at_s += seconds + 2.0


def test_a_snapshot_is_flat_and_survives_json() -> None:
    snapshot = _meter().snapshot()
    assert json.loads(json.dumps(snapshot)) == snapshot
    assert snapshot['fks_fills_total{symbol="BTCUSDT"}'] == 2
    assert snapshot["fks_order_send_seconds_count"] == 1
    assert snapshot['fks_order_send_seconds_bucket{le="0.005"}'] == 1
    assert snapshot['fks_order_send_seconds_bucket{le="0.0025"}'] == 0


def test_a_name_or_label_that_is_not_in_the_table_is_a_bug() -> None:
    meter = PrometheusMeter("x")
    for name, labels in (("fks_nope_total", {}), ("fks_fills_total", {}), ("fks_fills_total", {"coin": "x"})):
        with pytest.raises(BugError):
            meter.count(name, **labels)
    with pytest.raises(BugError):
        meter.gauge("fks_fills_total", 1, symbol="x")


def test_exposition_has_the_component_on_every_series() -> None:
    families = {
        family.name: family for family in text_string_to_metric_families(merge({"orders": _meter().snapshot()}))
    }
    assert families["fks_fills"].type == "counter"
    assert families["fks_order_send_seconds"].type == "histogram"
    assert families["fks_database_up"].documentation == METRICS["fks_database_up"].help
    for family in families.values():
        assert all(sample.labels["component"] == "orders" for sample in family.samples)


def test_odd_label_values_come_back_whole() -> None:
    value = 'a "quote", a \\ and\na line'
    text = exposition({"c": {series("fks_fills_total", {"symbol": value}): 1.0}})
    [family] = text_string_to_metric_families(text)
    assert family.samples[0].labels["symbol"] == value


def test_counters_go_on_over_a_restart_and_gauges_do_not() -> None:
    merger = Merger()
    merger.take("orders", {'fks_fills_total{symbol="B"}': 5.0, "fks_database_up": 1.0}, 100)
    merger.take("orders", {"fks_database_up": 0.0}, 200)
    assert merger.totals()["orders"] == {'fks_fills_total{symbol="B"}': 5.0, "fks_database_up": 0.0}
    merger.take("orders", {'fks_fills_total{symbol="B"}': 2.0}, 200)
    assert merger.totals()["orders"]['fks_fills_total{symbol="B"}'] == 7
    again = Merger()
    again.restore(json.loads(json.dumps(merger.state())))
    again.take("orders", {'fks_fills_total{symbol="B"}': 1.0}, 300)
    assert again.totals()["orders"]['fks_fills_total{symbol="B"}'] == 8
    again.forget("orders")
    assert again.exposition() == ""


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), min_size=1, max_size=6))
def test_counters_never_fall_however_often_a_component_dies(lives: list[list[int]]) -> None:
    key = 'fks_fills_total{symbol="B"}'
    merger = Merger()
    shown = [0.0]
    for pid, steps in enumerate(lives):
        count = 0.0
        for step in steps:
            count += step
            merger.take("orders", {key: count} if count else {}, pid)
            shown.append(merger.totals()["orders"].get(key, 0.0))
    assert shown == sorted(shown)
    assert shown[-1] == sum(map(sum, lives))


def test_a_meter_goes_on_from_its_base() -> None:
    meter = PrometheusMeter("gateway:0", base=_meter().snapshot())
    assert "fks_database_up" not in meter.snapshot()
    meter.count("fks_fills_total", symbol="BTCUSDT")
    meter.observe("fks_order_send_seconds", 0.004)
    assert meter.snapshot()['fks_fills_total{symbol="BTCUSDT"}'] == 3
    assert meter.snapshot()["fks_order_send_seconds_count"] == 2


def test_which_series_only_grow() -> None:
    assert is_monotonic('fks_order_send_seconds_bucket{le="1.0"}')
    assert is_monotonic("fks_bars_sealed_total{}")
    assert not is_monotonic("fks_kill_engaged")
    assert not is_monotonic("somebody_elses_total")


def test_a_silent_component_ages_and_loses_its_gauges() -> None:
    merger = Merger()
    values = {'fks_feed_age_seconds{symbol="B"}': 0.5, "fks_kill_engaged": 1.0, 'fks_fills_total{symbol="B"}': 3.0}
    merger.take("collector:x", values)
    soon = merger.exposition({"collector:x": SILENT_S})
    assert 'fks_feed_age_seconds{component="collector:x",symbol="B"} 30.5' in soon
    assert 'fks_kill_engaged{component="collector:x"} 1' in soon
    later = merger.exposition({"collector:x": SILENT_S + 1})
    assert 'fks_feed_age_seconds{component="collector:x",symbol="B"} 31.5' in later, "a dead feed does not look fresh"
    assert "fks_kill_engaged{" not in later
    assert 'fks_fills_total{component="collector:x",symbol="B"} 3' in later


def test_joined_texts_have_each_family_once_and_nothing_else() -> None:
    one, other = merge({"a": {"fks_redis_up": 1.0, "fks_database_up": 1.0}}), merge({"b": {"fks_redis_up": 0.0}})
    text = joined(one, "[1]", "x 1\n# TYPE x gauge", other)
    assert text.count("# TYPE fks_redis_up gauge\n") == 1
    assert text.index('fks_redis_up{component="a"} 1') < text.index('fks_redis_up{component="b"} 0')
    assert "x 1" not in text
    assert "[1]" not in text
    assert joined(text) == text


@pytest.mark.parametrize("kept", [None, b"", b"[1]", b"{", b"null", b"\xff", b'{"a": 1, "fks_redis_up": "b"}'])
def test_what_is_no_snapshot_has_no_numbers(kept: bytes | None) -> None:
    assert parse_snapshot(kept) == {}


def test_a_removed_gauge_vanishes_and_again_is_harmless() -> None:
    meter = PrometheusMeter("x")
    meter.remove("fks_feed_age_seconds", symbol="A")
    meter.gauge("fks_feed_age_seconds", 1, symbol="A")
    meter.gauge("fks_feed_age_seconds", 2, symbol="B")
    meter.remove("fks_feed_age_seconds", symbol="A")
    meter.remove("fks_feed_age_seconds", symbol="A")
    assert meter.snapshot() == {'fks_feed_age_seconds{symbol="B"}': 2.0}
    with pytest.raises(BugError):
        meter.remove("fks_feed_age_seconds", coin="A")


def test_what_the_deep_checks_measured_is_a_metric_until_it_is_not_measured() -> None:
    meter = PrometheusMeter("monitor")
    backup = measures.backup(12.0, max_h=48.0, is_own_server=True)
    certificate = measures.certificate(9.5, None, min_days=14, file="x.pem")
    check_metrics(meter, {"backup": backup, "certificate": certificate})
    assert meter.snapshot() == {"fks_backup_age_seconds": 43_200.0, "fks_certificate_days": 9.5}
    check_metrics(meter, {"backup": measures.backup(None, max_h=48.0, is_own_server=True)})
    assert meter.snapshot() == {}


async def test_a_process_reports_its_build_memory_and_loop_lag() -> None:
    clock, meter = LateClock(), PrometheusMeter("x")
    own = SelfMetrics(meter, clock, "1.2")
    own.sample()
    first = meter.snapshot()
    assert first['fks_build_info{version="1.2"}'] == 1
    assert first["fks_process_memory_bytes"] > 1e6
    assert 0 < first["fks_process_files_ratio"] < 1
    assert first["fks_loop_lag_seconds"] == 0
    await own.sleep(1.0)
    own.sample()
    found = meter.snapshot()
    assert found["fks_loop_lag_seconds"] == 2.0
    assert found["fks_snapshots_total"] == 2
    assert found["fks_process_cpu_seconds_total"] >= first["fks_process_cpu_seconds_total"] > 0
    own.sample()
    assert meter.snapshot()["fks_loop_lag_seconds"] == 0, "each sample begins anew"
