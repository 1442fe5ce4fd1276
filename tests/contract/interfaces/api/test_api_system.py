"""The tree, its history and the alerts, through the gateway and through the command line, with and without a
gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from fks.config.endpoints import NodeEndpoints, save_node
from fks.config.paths import Paths
from fks.interfaces.cli import cli
from fks.interfaces.cli.base import NOT_RUNNING, OK, USAGE, run
from fks.store.db import Database
from fks.store.supervision import HealthRow, TreeJournal
from fks.store.tokens import ensure_local_token
from fks.system.supervision.exits import How, ProcessExit
from tests.support.gateway import Running
from tests.support.waiting import until

Fks = Callable[..., Awaitable[tuple[int, str, str]]]
NOW_NS = 1_767_225_600_000_000_000
SHAPE = {
    "id": "root",
    "strategy": "one_for_one",
    "limit": {"restarts_max": 20, "period_s": 60.0},
    "used": 3,
    "state": "ready",
    "children": [
        {"id": "orders"},
        {
            "id": "strategies",
            "strategy": "one_for_one",
            "limit": {"restarts_max": 5, "period_s": 60.0},
            "used": 4,
            "state": "ready",
            "children": [{"id": "strategy:0"}, {"id": "strategy:1", "state": "waiting"}],
        },
    ],
}


def _row(name: str, pid: int, kind: str = "actor", **extra: Any) -> HealthRow:
    return HealthRow(name, kind, extra.pop("state", "ready"), pid, extra.pop("node", "a"), 2, NOW_NS, None, **extra)


@pytest.fixture
async def story(gateway: Running, seeded: Database) -> Database:
    """A tree with a crash in its past. The gateway's start, which its first beat records, comes before it."""
    await until(lambda: seeded.sql("SELECT FROM actor_events WHERE child = 'gateway:0'"))
    journal = TreeJournal(seeded)
    await journal.write_health(
        [
            _row("keeper", 10, "keeper"),
            _row("postgres", 11, "service"),
            _row("supervisor", 12, detail={"tree": SHAPE}),
            _row("orders", 34, version="0.1.0+aa", node="b", epoch=4),
            _row(
                "strategy:0",
                14,
                version="0.1.0+bb",
                state="degraded",
                detail={"problems": [{"kind": "queue", "text": "bars wait for 12 s", "since_s": 12.0}]},
            ),
            _row("scheduler", 15),
        ]
    )
    await seeded.sql("UPDATE component_health SET beat_at = now() + interval '1 minute', since = now()")
    end = ProcessExit(
        How.CRASH, "died: worker exit: end of file", True, None, 9, last_lines=('{"event":"order.answered"}',)
    )
    await journal.note("orders", "exited", end.reason, pid=12, epoch=3, node="b", payload=end.payload())
    await journal.note("orders", "restarted", end.reason, pid=12, epoch=3, payload=end.payload())
    await journal.note("orders", "started", "epoch 4", pid=34, epoch=4, node="b")
    broken = ProcessExit(
        How.CRASH, "died", True, 1, traceback="Traceback (most recent call last):\n  File x\nKeyError: 'BTC'\n"
    )
    await journal.note("strategy:0", "exited", broken.reason, pid=13, epoch=7, payload=broken.payload())
    return seeded


@pytest.fixture
async def fks(
    gateway: Running,
    story: Database,
    database_url: str,
    redis_url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Fks:
    """Run a command against the gateway; with FKS_TEST_PORT=… against whatever listens there."""
    paths = Paths.of(tmp_path)
    await ensure_local_token(story, paths)
    port = int(gateway.url.rpartition(":")[2])

    async def call(*argv: str, is_gateway_up: bool = True) -> tuple[int, str, str]:
        save_node(
            paths,
            NodeEndpoints(database_url, redis_url, "", {"host": "127.0.0.1", "port": port if is_gateway_up else 1}),
        )
        capsys.readouterr()
        code = await asyncio.to_thread(run, cli, ["--home", str(tmp_path), *argv])
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


async def test_tree_has_the_structure_of_the_supervisor(gateway: Running, story: Database) -> None:
    async with gateway.client("read") as client:
        found = (await client.get("/system/tree")).json()
    roots = {node["id"]: node for node in found["tree"]}
    assert list(roots) == ["keeper", "supervisor", "gateway"]
    assert [child["id"] for child in roots["keeper"]["children"]] == ["postgres"]
    root = roots["supervisor"]
    assert (root["strategy"], root["limit"]["restarts_max"], root["used"]) == ("one_for_one", 20, 3)
    assert [child["id"] for child in root["children"]] == ["orders", "strategies", "scheduler"], "none is hidden"
    strategies = root["children"][1]
    assert [(child["id"], child["state"]) for child in strategies["children"]] == [
        ("strategy:0", "degraded"),
        ("strategy:1", "waiting"),
    ]
    assert strategies["children"][0]["component"]["problem"] == "bars wait for 12 s"
    assert "strategy:0 is degraded: bars wait for 12 s" in found["reasons"]


async def test_events_show_the_signal_and_are_followed_by_id(gateway: Running, story: Database) -> None:
    async with gateway.client("read") as client:
        items = (await client.get("/system/events", params={"child": "orders"})).json()["items"]
        assert (items[0]["what"], items[0]["why"]) == ("died", "signal 9 (SIGKILL)")
        assert "last_lines" not in items[0]["payload"]
        later = (await client.get("/system/events", params={"after": items[-1]["id"], "full": True})).json()["items"]
        assert [(row["child"], row["why"]) for row in later] == [("strategy:0", "exit code 1, KeyError: 'BTC'")]
        assert later[0]["payload"]["traceback"].endswith("'BTC'\n")
        kin = (await client.get("/system/events", params={"child": "strategy"})).json()["items"]
        assert len(kin) == 1
        assert (await client.get("/system/events", params={"since": "2100-01-01T00:00:00Z"})).json()["items"] == []
        assert (await client.get("/system/events", params={"since": "soon"})).status_code == 422


@pytest.mark.parametrize("is_gateway_up", [True, False])
async def test_fks_tree_draws_it_from_every_source(fks: Fks, is_gateway_up: bool) -> None:
    code, out, err = await fks("tree", is_gateway_up=is_gateway_up)
    assert (code, err) == (OK, "")
    lines = out[out.index("restarts") :].splitlines()
    at = {
        name: next(i for i, line in enumerate(lines) if name in line.split())
        for name in ("supervisor", "strategies", "strategy:0")
    }
    assert at["supervisor"] < at["strategies"] < at["strategy:0"]
    assert "│  ├─ strategy:0" in out
    assert "4 of 5 restarts in 60 s" in lines[at["strategies"]]
    assert "bars wait for 12 s" in lines[at["strategy:0"]]
    assert "0.1.0+aa" in out, "versions differ, so they are shown"
    assert "signal 9 (SIGKILL)" in out
    assert "being restarted" not in out, "the end and the start say it"
    code, out, _ = await fks("tree", "--json", is_gateway_up=is_gateway_up)
    document = json.loads(out)
    assert document["schema"] == "fks.tree/1"
    assert document["tree"][1]["children"][1]["id"] == "strategies"


@pytest.mark.parametrize("is_gateway_up", [True, False])
async def test_fks_events_reads_from_every_source(fks: Fks, is_gateway_up: bool) -> None:
    code, out, _ = await fks("events", "orders", "--since", "1h", is_gateway_up=is_gateway_up)
    assert code == OK
    died, started = out.splitlines()
    assert "orders        died             signal 9 (SIGKILL)  pid 12, epoch 3" in died
    assert "started" in started
    code, out, _ = await fks("events", "--full", is_gateway_up=is_gateway_up)
    assert "order.answered" in out
    assert "KeyError: 'BTC'" in out
    code, out, _ = await fks("events", "nobody", is_gateway_up=is_gateway_up)
    assert (code, out.strip()) == (OK, "nothing has happened to nobody yet")
    assert (await fks("events", "--since", "whenever"))[0] == USAGE
    assert json.loads((await fks("events", "--json"))[1])["schema"] == "fks.events/1"


async def test_status_shows_differing_versions_and_problem_texts(fks: Fks) -> None:
    code, out, _ = await fks("status")
    assert code == OK
    assert "bars wait for 12 s" in out
    assert "0.1.0+bb" in out
    assert "config" not in out.splitlines()[4]
    code, out, _ = await fks("status", "--wide")
    assert "config" in out


async def test_alerts_are_listed_settled_and_kept(fks: Fks, gateway: Running, story: Database) -> None:
    await TreeJournal(story).page("child.escalated", "orders died 6 times", "orders")
    await story.sql(
        "INSERT INTO alerts (severity, event, message, component) VALUES ('warning', 'fill.external', 'odd', 'orders')"
    )
    code, out, _ = await fks("alerts")
    assert (code, "orders died 6 times" in out, "odd" in out) == (OK, True, True)
    number = json.loads((await fks("alerts", "--json"))[1])["items"][0]["id"]
    assert "orders died" in (await fks("status"))[1]
    assert (await fks("alerts", "settle"))[0] == USAGE
    assert (await fks("alerts", "settle", str(number)))[1].strip() == "1 settled"
    assert (await fks("alerts", "settle", str(number)))[1].strip() == "0 settled"
    assert (await fks("alerts", "settle", "99999"))[0] == USAGE
    code, out, _ = await fks("alerts")
    assert ("odd" in out, "orders died" in out) == (False, True)
    assert (await fks("alerts", "settle", "--all"))[1].strip() == "1 settled"
    assert "no open alerts" in (await fks("alerts"))[1]
    code, out, _ = await fks("alerts", "--all", is_gateway_up=False)
    assert "orders died 6 times" in out
    assert "cli" in out, "who settled it"


async def test_home_without_a_running_system_is_reported_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ["--home", str(tmp_path / "none")]
    assert await asyncio.to_thread(run, cli, [*home, "tree"]) == NOT_RUNNING
    assert "fks up" in capsys.readouterr().out
    assert await asyncio.to_thread(run, cli, [*home, "events"]) == NOT_RUNNING
    assert await asyncio.to_thread(run, cli, [*home, "alerts"]) == NOT_RUNNING
    assert "fks up" in capsys.readouterr().err
