"""Settings that the machines of a cluster must agree in, and the faults reported of each machine."""

from __future__ import annotations

import json

from fks.config.agreement import agreed, agreement_hash, differing
from fks.config.settings import LogSettings, NodeSettings, Ray, Risk, Settings, Sim, Supervision, VenueSettings
from fks.interfaces.cli import cli
from fks.interfaces.cli.base import run
from fks.interfaces.cli.cluster_check import check_nodes
from fks.store.nodes import NodeRow

TOKEN = "t" * 43


def test_settings_of_money_and_placement_must_agree():
    base = agreed(Settings(), TOKEN)
    own = Settings(
        home="/else",
        ray=Ray(gcs_port=7),
        node=NodeSettings(name="x", role="worker"),
        log=LogSettings(level="DEBUG"),
        sim=Sim(port=9),
    )
    assert differing(base, agreed(own, TOKEN)) == []
    other = Settings(
        risk=Risk(notional_max_order=1),
        supervision=Supervision(placement={"orders": "head"}),
        venue=VenueSettings(api_key="a" * 9, api_secret="b" * 9),
    )
    assert differing(base, agreed(other, TOKEN)) == [
        "risk.notional_max_order",
        "supervision.placement",
        "venue.api_key",
        "venue.api_secret",
    ]
    assert agreement_hash(base) != agreement_hash(agreed(other, TOKEN))


def test_hash_reveals_nothing_without_the_token():
    one, two = (
        agreed(Settings(venue=VenueSettings(api_key="guess", api_secret="x")), token) for token in (TOKEN, "u" * 43)
    )
    assert one["venue.api_key"] != two["venue.api_key"]
    assert "guess" not in str(one)


def row(name, role="worker", **changes):
    detail = {
        "agreed": {"a": "1"},
        "ray": "2.60.0",
        "python": "3.11.7",
        "redis": True,
        "resources": {role: 1000.0},
        "troubles": [],
    }
    return NodeRow(
        name, role, "ready", version="1", clock_skew_ms=1.0, detail=detail | changes.pop("detail", {}), **changes
    )


def bad(rows, settings=None):
    return {check.name for check in check_nodes(rows, settings) if check.status == "down"}


def test_machines_that_agree_pass():
    assert bad([row("h", "head"), row("w")], Settings()) == set()


def test_a_head_without_a_standby_is_a_single_point_of_failure(tmp_path, monkeypatch, capsys):
    head, standby = row("h", "head"), row("s", "standby", detail={"behind_s": 0.4, "resources": {}})

    def shown(*rows):
        async def examine(*_):
            return list(check_nodes(rows, None))

        monkeypatch.setattr("fks.interfaces.cli.cluster_check.examine", examine)
        status = run(cli, ["--home", str(tmp_path), "cluster", "check", "--json"])
        checks = {found["name"]: found for found in json.loads(capsys.readouterr().out)["checks"]}
        return status, checks["standby"]["state"], checks["standby"]["detail"]

    assert shown(head) == (0, "warn", "the head is a single point of failure: no other machine takes over")
    assert shown(head, standby) == (0, "ok", "s (0.4 s behind)")
    assert "standby" not in {found.name for found in check_nodes([row("one", "single")], None)}


def test_each_fault_of_a_machine_is_reported():
    assert bad([row("w")]) == {"head"}
    head = row("h", "head")
    assert bad([head, row("w", age_s=9.0)]) == {"w speaks"}
    odd = {"ray": "2.61.0", "redis": False, "agreed": {"a": "2"}, "troubles": ["raylet is down"]}
    assert bad([head, row("w", detail=odd)]) == {"w ray", "w redis", "w settings", "w services"}
    slow = NodeRow(
        **{
            **{name: getattr(head, name) for name in NodeRow.__slots__},
            "name": "s",
            "role": "worker",
            "clock_skew_ms": -600.0,
        }
    )
    assert bad([head, slow]) == {"s clock"}
    assert bad([head], Settings(supervision=Supervision(placement={"x": "ninja"}))) == {"resources"}
