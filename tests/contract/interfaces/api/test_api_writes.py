"""Writes of persons besides orders: approval of signals, durable backtests."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from fks.store.db import Database
from fks.store.jobs import JobStore
from tests.support.gateway import Running


async def _signal(db: Database, *, state: str = "pending", valid_s: int = 60) -> uuid.UUID:
    id = uuid.uuid4()
    await db.sql(
        "INSERT INTO signals (id, source, instance, account_id, venue, symbol, ts_event, kind, side, state, "
        "valid_until)"
        " VALUES ($1, 'strategy:a', 'a', 1, 'paper', 'BTCUSDT', now(), 'enter', 'buy', $2, now() + make_interval(secs "
        "=> $3))",
        id,
        state,
        valid_s,
    )
    return id


@pytest.mark.parametrize(("verb", "state"), [("approve", "ready"), ("reject", "declined")])
async def test_approval_is_decided_once_and_may_be_repeated(
    gateway: Running, seeded: Database, verb: str, state: str
) -> None:
    id = await _signal(seeded)
    async with gateway.client("approve") as client, gateway.client("trade") as other:
        answer = await client.post(f"/signals/{id}/{verb}")
        assert answer.status_code == 200, answer.text
        assert (answer.json()["state"], answer.json()["decided_by"]) == (state, "t-approve")
        assert (await client.post(f"/signals/{id}/{verb}")).status_code == 200
        contrary = {"approve": "reject", "reject": "approve"}[verb]
        for late in (await client.post(f"/signals/{id}/{contrary}"), await other.post(f"/signals/{id}/{verb}")):
            assert late.status_code == 409
            assert late.json()["code"] == "SIGNAL_NOT_PENDING"


async def test_no_caller_approves_its_own_signal(gateway: Running, seeded: Database) -> None:
    ids = [await _signal(seeded) for _ in range(2)]
    await seeded.sql("UPDATE signals SET source = 'principal:t-trade', instance = ''")
    async with gateway.client("trade") as owner, gateway.client("approve") as other:
        for _ in range(2):
            refused = await owner.post(f"/signals/{ids[0]}/approve")
            assert (refused.status_code, refused.json()["code"]) == (403, "SIGNAL_OWN")
        assert (await other.post(f"/signals/{ids[0]}/approve")).json()["state"] == "ready"
        assert (await owner.post(f"/signals/{ids[1]}/reject")).json()["state"] == "declined", "it may be taken back"


async def test_a_signal_past_its_time_cannot_be_approved(gateway: Running, seeded: Database) -> None:
    id = await _signal(seeded, valid_s=-1)
    async with gateway.client("approve") as client:
        assert (await client.post(f"/signals/{id}/approve")).status_code == 409
        assert (await client.post(f"/signals/{uuid.uuid4()}/approve")).status_code == 404
        assert (await client.post("/signals/nonsense/approve")).status_code == 422


async def test_two_persons_at_once_and_one_decision(gateway: Running, seeded: Database) -> None:
    id = await _signal(seeded)
    async with gateway.client("approve") as one, gateway.client("trade") as two:
        answers = await asyncio.gather(one.post(f"/signals/{id}/approve"), two.post(f"/signals/{id}/reject"))
    assert sorted(answer.status_code for answer in answers) == [200, 409]


async def test_signals_are_listed_newest_first_and_filtered(gateway: Running, seeded: Database) -> None:
    ids = [str(await _signal(seeded, state=state)) for state in ("pending", "ready", "pending")]
    async with gateway.client("read") as client:
        assert [row["id"] for row in (await client.get("/signals")).json()["items"]] == ids[::-1]
        pending = (await client.get("/signals", params={"state": "pending", "symbol": "BTC/USDT", "limit": "1"})).json()
        assert [row["id"] for row in pending["items"]] == [ids[2]]
        rest = (await client.get("/signals", params={"state": "pending", "before": pending["next"]})).json()
        assert [row["id"] for row in rest["items"]] == [ids[0]]
        assert rest["next"] is None
        assert (await client.get("/signals", params={"state": "nope"})).status_code == 422


BACKTEST = {
    "strategy": "sma_cross",
    "symbol": "BTC/USDT",
    "timeframe": "1m",
    "from": "2026-05-01T00:00:00Z",
    "to": "2026-05-02T00:00:00Z",
    "params": {"fast": 5, "slow": 20},
}


async def test_a_backtest_is_a_durable_job(gateway: Running, seeded: Database) -> None:
    async with gateway.client("signal") as client:
        key = {"Idempotency-Key": "one"}
        made = await client.post("/backtests", json=BACKTEST, headers=key)
        assert made.status_code == 202, made.text
        id = made.json()["id"]
        assert made.headers["location"] == f"/backtests/{id}"
        assert (await client.post("/backtests", json=BACKTEST, headers=key)).json()["id"] == id
        assert [job["id"] for job in (await client.get("/backtests")).json()["items"]] == [id]
        job = await JobStore(seeded).claim(["backtest"])
        assert job is not None
        assert (job.spec["symbol"], job.spec["strategy"], job.submitted_by) == ("BTCUSDT", "sma_cross", "t-signal")
        await JobStore(seeded).finish(job, "done", result={"trades": 3})
        found = (await client.get(f"/backtests/{id}")).json()
        assert (found["state"], found["result"]) == ("done", {"trades": 3})
        assert (await client.delete(f"/backtests/{id}")).json()["state"] == "done"


async def test_a_key_stands_for_one_backtest(gateway: Running) -> None:
    other = {**BACKTEST, "to": "2026-05-03T00:00:00Z"}
    async with gateway.client("signal") as client:
        id = (await client.post("/backtests", json=BACKTEST)).json()["id"]
        key = {"Idempotency-Key": "two"}
        # the work is there already: the key has to be kept all the same
        assert (await client.post("/backtests", json=BACKTEST, headers=key)).json()["id"] == id
        for _ in range(2):
            answer = await client.post("/backtests", json=other, headers=key)
            assert (answer.status_code, answer.json().get("code")) == (409, "IDEMPOTENCY_CONFLICT")
        answers = await asyncio.gather(
            *(client.post("/backtests", json=body, headers={"Idempotency-Key": "three"}) for body in (BACKTEST, other))
        )
        assert sorted(answer.status_code for answer in answers) == [202, 409]
        again = await client.post("/backtests", json=BACKTEST, headers=key, params={"again": "true"})
        assert again.json()["id"] == id, "the same key is the same job"
        assert len((await client.get("/backtests")).json()["items"]) <= 2


async def test_a_queued_backtest_is_cancelled_and_an_unknown_one_is_a_404(gateway: Running) -> None:
    async with gateway.client("signal") as client:
        id = (await client.post("/backtests", json=BACKTEST)).json()["id"]
        assert (await client.delete(f"/backtests/{id}")).json()["state"] == "cancelled"
        for method in ("GET", "DELETE"):
            assert (await client.request(method, f"/backtests/{uuid.uuid4()}")).status_code == 404


UNFIT: list[tuple[dict[str, object], str]] = [
    ({"strategy": "nope"}, "STRATEGY_UNKNOWN"),
    ({"params": {"fsat": 5}}, "PARAM_WRONG"),
    ({"symbol": "NOPE"}, "SYMBOL_UNKNOWN"),
    ({"timeframe": "7m"}, "TIMEFRAME_UNKNOWN"),
    ({"from": "2026-06-01"}, "SPEC_WRONG"),
    ({"from": "soon"}, "SPEC_WRONG"),
    ({"size": "-1"}, "SPEC_WRONG"),
    ({"colour": "red"}, "SPEC_WRONG"),
]


async def test_a_backtest_that_cannot_run_is_refused_at_once(gateway: Running) -> None:
    async with gateway.client("signal") as client:
        for change, code in UNFIT:
            answer = await client.post("/backtests", json={**BACKTEST, **change})
            assert answer.status_code in (400, 404, 422), change
            assert answer.json()["code"] == code
            assert answer.json()["remedy"]


async def test_the_catalogue_names_parameters_and_instances(gateway: Running, seeded: Database) -> None:
    await seeded.sql(
        "INSERT INTO strategy_instances (id, strategy, symbol, timeframe, account_id, venue)"
        " VALUES ('a', 'sma_cross', 'BTCUSDT', '1m', 1, 'paper')"
    )
    async with gateway.client("read") as client:
        body = (await client.get("/strategies")).json()
    known = {row["name"]: row for row in body["catalogue"]}
    assert {"fast", "slow"} <= set(known["sma_cross"]["params"])
    assert [(row["id"], row["account"], row["size"]) for row in body["instances"]] == [("a", "demo", "1000")]
