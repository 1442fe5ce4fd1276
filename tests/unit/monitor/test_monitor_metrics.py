"""Counting, merging and writing metrics."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from fks.model.errors import BugError
from fks.model.metrics import METRICS
from fks.process.metrics import Merger, PrometheusMeter, exposition, is_monotonic, merge, series


def _meter() -> PrometheusMeter:
    meter = PrometheusMeter("orders")
    meter.count("fks_fills_total", 2, symbol="BTCUSDT")
    meter.gauge("fks_database_up", 1)
    meter.observe("fks_order_send_seconds", 0.004)
    return meter


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
@settings(max_examples=60)
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
