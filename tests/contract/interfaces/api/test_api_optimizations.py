"""Searches over HTTP: durable jobs that are done once, checked before they are queued."""

from __future__ import annotations

import uuid

import pytest

from fks.store.db import Database
from fks.store.jobs import JobStore
from fks.store.trials import TrialRow, TrialStore
from tests.support.gateway import Running

SEARCH = {
    "strategy": "sma_cross",
    "symbol": "BTC/USDT",
    "timeframe": "1m",
    "space": {"fast": "2:6", "slow": {"low": 8, "high": 20, "step": 4}},
    "params": {"sl_pct": 1.5},
    "plan": {"method": "tpe", "trials": 20},
}


async def test_a_search_is_a_durable_job_with_its_progress(gateway: Running, seeded: Database) -> None:
    async with gateway.client("signal") as client:
        made = await client.post("/optimizations?priority=3", json=SEARCH)
        assert made.status_code == 202, made.text
        body = made.json()
        id = body["id"]
        assert (made.headers["location"], body["state"]) == (f"/optimizations/{id}", "queued")
        assert (body["is_stored"], body["priority"]) == (False, 3)
        assert body["spec"]["space"] == SEARCH["space"]
        assert body["spec"]["params"] == {"sl_pct": 1.5}
        assert [job["id"] for job in (await client.get("/optimizations")).json()["items"]] == [id]
        assert (await client.get("/backtests")).json()["items"] == [], "a search is no backtest"
        job = await JobStore(seeded).claim(["optimization"])
        assert job is not None
        store = TrialStore(seeded, job.id)
        await store.add([TrialRow(0, number, {"fast": number}) for number in range(5)])
        rows = await store.claim(job.id, 1, 2)
        result = {"values": [1.5], "metrics": {"trades": 3.0}, "steps": [], "sums": [[1.0]], "error": ""}
        await store.finish(job.id, 1, [TrialRow(r.fold, r.number, r.params, state="done", result=result) for r in rows])
        await JobStore(seeded).beat(job, 0.1)
        found = (await client.get(f"/optimizations/{id}")).json()["trials"]
        assert {name: found[name] for name in ("queued", "running", "done")} == {"queued": 3, "running": 0, "done": 2}
        assert found["per_s"] > 0
        assert found["left_s"] > 0
        page = (await client.get(f"/optimizations/{id}/trials?limit=2")).json()
        assert [(t["number"], t["state"], t["values"]) for t in page["items"]] == [
            (0, "done", [1.5]),
            (1, "done", [1.5]),
        ]
        rest = (await client.get(f"/optimizations/{id}/trials", params=page["next"])).json()
        assert ([t["number"] for t in rest["items"]], rest["next"]) == ([2, 3, 4], None)
        assert (await client.delete(f"/optimizations/{id}")).json()["is_cancel_requested"]
        assert found["are_kept"]
        await JobStore(seeded).finish(job, "done", result={"trials": {"done": 4, "pruned": 1, "failed": 0}})
        await seeded.sql("DELETE FROM trials")  # with age
        found = (await client.get(f"/optimizations/{id}")).json()["trials"]
        assert (found["are_kept"], found["done"], found["pruned"], found["failed"]) == (False, 4, 1, 0)


@pytest.mark.parametrize("path", ["/backtests", "/optimizations"])
async def test_the_same_work_on_the_same_data_is_done_once(gateway: Running, seeded: Database, path: str) -> None:
    spec = SEARCH if path == "/optimizations" else {"strategy": "rsi", "symbol": "BTCUSDT", "timeframe": "1m"}
    async with gateway.client("signal") as client:
        first = (await client.post(path, json=spec)).json()
        same = (await client.post(path, json={**spec, "symbol": "BTC-USDT"})).json()
        assert (same["id"], same["is_stored"]) == (first["id"], True)
        again = (await client.post(f"{path}?again=true", json=spec)).json()
        assert again["id"] != first["id"]
        other = (await client.post(path, json={**spec, "size": "500"})).json()
        assert other["fingerprint"] != first["fingerprint"]
        for id in (again["id"], first["id"]):
            await client.delete(f"{path}/{id}")
        new = (await client.post(path, json=spec)).json()
        assert new["id"] not in (first["id"], again["id"]), "a cancelled one has no result to return"
        claimed = await JobStore(seeded).claim(["optimization", "backtest"])
        assert claimed is not None


UNFIT: list[tuple[dict[str, object], str]] = [
    ({"strategy": "nope"}, "STRATEGY_UNKNOWN"),
    ({"space": {"fsat": "1:5"}}, "SPACE_WRONG"),
    ({"space": {}}, "SPACE_WRONG"),
    ({"space": {"fast": "0:5"}}, "SPACE_WRONG"),
    ({"plan": {"method": "random"}}, "SPEC_WRONG"),
    ({"plan": {"method": "nsga2", "trials": 5}}, "PLAN_WRONG"),
    ({"objectives": "luck"}, "OBJECTIVE_UNKNOWN"),
    ({"validation": {"kind": "hope"}}, "SPEC_WRONG"),
    ({"symbol": "NOPE"}, "SYMBOL_UNKNOWN"),
    ({"workers": 0}, "SPEC_WRONG"),
]


async def test_a_search_that_cannot_run_is_refused_at_once(gateway: Running) -> None:
    async with gateway.client("signal") as client:
        for change, code in UNFIT:
            answer = await client.post("/optimizations", json={**SEARCH, **change})
            assert answer.status_code in (400, 404, 422), change
            assert answer.json()["code"] == code, change
            assert answer.json()["remedy"]
        unknown = uuid.uuid4()
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/trials")):
            answer = await client.request(method, f"/optimizations/{unknown}{path}")
            assert (answer.status_code, answer.json()["code"]) == (404, "OPTIMIZATION_UNKNOWN")
