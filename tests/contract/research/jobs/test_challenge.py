"""Champions and challengers: proposed by a test, swapped when flat in one transaction, demoted by drift."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from fks.clock import FakeClock
from fks.config.settings import Settings, Strategies
from fks.model.bar import Bars
from fks.model.errors import InputError
from fks.model.timeframe import NS, to_datetime
from fks.research.jobs.challenge import add_challenger, complete_swaps, demote, run_challenge, swap_in
from fks.research.jobs.drift import run_drift
from fks.research.jobs.promotion import promote
from fks.research.jobs.runner import run_one
from fks.research.jobs.schedule import Schedules
from fks.store.bars import BarStore
from fks.store.challengers import ChallengerStore
from fks.store.db import Database
from fks.store.jobs import JobStore
from fks.store.strategies import StrategyStore
from fks.strategies.base import Decisions, Strategy, evaluate
from fks.strategies.check import synthetic
from fks.strategies.registry import Catalogue, CatalogueEntry, load_catalogue
from tests.support.searches import search_of
from tests.support.strategies import GATE, add_account, add_instance

CATALOGUE = load_catalogue()
BAD, GOOD = {"fast": 2, "slow": 4}, {"fast": 20, "slow": 60}
LENIENT = Settings(strategies=Strategies(challenger_bars_min=100, challenger_trades_min=2, challenger_confidence=0.5))
ON_PAPER = LENIENT.model_copy(update={"strategies": LENIENT.strategies.model_copy(update={"challenger_swap": "paper"})})
COUNT = 12_000


class Limits(Strategy):
    """Enters every other hour, with `is_limit` by a limit order."""

    name: ClassVar[str] = "limits"
    is_limit: bool = False
    minutes: int = 60

    def warmup(self) -> int:
        return 1

    def decide(self, bars: Bars) -> Decisions:
        target = (bars.time_ns // (self.minutes * 60 * NS) % 2).astype(np.float64)
        return Decisions(target, entry_limit=bars.close * 0.99 if self.is_limit else None)


class Held(Strategy):
    """Decides once `go` is set; `begun` is set when it was asked to."""

    name: ClassVar[str] = "held"
    number: int = 1

    def warmup(self) -> int:
        return 1

    def decide(self, bars: Bars) -> Decisions:
        GATE.begun.set()
        assert GATE.go.wait(60)
        return Decisions(np.zeros(len(bars)))


OWN = Catalogue(iter(CatalogueEntry(kind.name, "file", "own.py", kind) for kind in (Limits, Held)))


def waves() -> Bars:
    """Return slow waves with noise: a fast cross loses its fees, a slow one earns."""
    dice = np.random.default_rng(5)
    close = np.round(1_000 + 100 * np.sin(np.arange(COUNT) / 400) + dice.normal(0, 0.5, COUNT), 2)
    bars = replace(synthetic(COUNT), symbol="BTCUSDT")
    open_ = np.concatenate([close[:1], close[:-1]])
    high, low = np.maximum(open_, close) + 0.01, np.minimum(open_, close) - 0.01
    return Bars(bars.symbol, bars.timeframe, bars.time_ns, open_, high, low, close, np.full(COUNT, 1.2345))


async def contest(db: Database, *, params: dict[str, Any] = GOOD, count: int = COUNT) -> str:
    """Store bars, an instance that has decided on all of them, and a challenger with its recorded decisions."""
    bars = waves()[:count]
    await BarStore(db).merge(bars, source="test")
    await add_account(db)
    await add_instance(db, "a", "sma_cross", BAD)
    await db.sql("UPDATE strategy_parameters SET created_at = '2020-01-01'")
    challenger = (await add_challenger(db, "a", params, CATALOGUE, by="test")).id
    begun = 100
    target = evaluate(CATALOGUE.make("sma_cross", params), bars).target[begun + 1 :]
    for place in np.flatnonzero(target != np.concatenate([[0.0], target[:-1]])):
        index = begun + 1 + int(place)
        await db.sql(
            "INSERT INTO challenger_decisions (challenger_id, ts_event, target, reference_price) VALUES ($1, $2, $3, $4)",
            challenger,
            to_datetime(int(bars.time_ns[index])),
            float(target[place]),
            Decimal(repr(float(bars.close[index]))),
        )
    first, last = to_datetime(int(bars.time_ns[begun])), to_datetime(int(bars.time_ns[-1]))
    await db.sql("UPDATE strategy_instances SET anchor_time = $1, cursor_time = $2, state = 'RUNNING'", first, last)
    await db.sql("UPDATE challengers SET begun_time = $1, cursor_time = $2, state = 'RUNNING'", first, last)
    return challenger


async def instance(db: Database) -> Any:
    return (await db.sql("SELECT * FROM strategy_instances WHERE id = 'a'"))[0]


async def stage(db: Database, challenger: str) -> str:
    found = await ChallengerStore(db).get(challenger)
    assert found is not None
    return found.stage


async def hold(db: Database, quantity: str = "0.5") -> None:
    await db.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity)"
        " SELECT id, venue, 'BTCUSDT', 'a', $1 FROM accounts ON CONFLICT (account_id, venue, symbol, instance)"
        " DO UPDATE SET quantity = excluded.quantity",
        Decimal(quantity),
    )


# ── tests of challengers ─────────────────────────────────────────────────────────────────────────
async def test_a_better_challenger_is_proposed_once_by_the_schedule(
    database: Database, as_jobs: Database, clock: FakeClock
) -> None:
    challenger = await contest(database)
    assert dict(await Schedules(database, clock, LENIENT).run_due())["challengers"] == "1 instances"
    job = await JobStore(database).claim()
    assert job is not None
    assert job.kind == "challenge"
    await run_one(as_jobs, job.id, Path("/nonexistent"), settings=LENIENT)
    done = await JobStore(database).get(job.id)
    assert done is not None
    assert (done.state, done.error) == ("done", None)
    (tested,) = done.result["tested"]  # type: ignore[index]
    assert (tested["challenger"], tested["stage"], tested["is_new"], tested["swap"]) == (
        challenger,
        "proposed",
        True,
        None,
    )
    evaluation = tested["evaluation"]
    assert (evaluation["bars"], evaluation["findings"]) == (COUNT - 101, [])
    assert evaluation["profit"] > 0 > evaluation["champion_profit"]
    row = await ChallengerStore(database).get(challenger)
    assert row is not None
    assert (row.stage, row.looks) == ("proposed", 1)
    (alert,) = await database.sql("SELECT severity, event, message FROM alerts")
    assert (alert["severity"], alert["event"]) == ("warning", "strategy.challenger_proposed")
    assert f"fks strategies challengers swap {challenger}" in alert["message"]
    again = await run_challenge({"instance": "a", "challenger": challenger}, as_jobs, LENIENT, CATALOGUE, now_ns=0)
    assert not again["tested"][0]["is_new"]
    assert again["tested"][0]["evaluation"]["trials"] == 2, "each look is a chance more"
    assert len(await database.sql("SELECT id FROM alerts")) == 1
    assert (await instance(database))["params_version"] == 1, "a proposal changes nothing"


async def test_a_challenger_without_enough_bars_or_skill_is_not_proposed(database: Database, as_jobs: Database) -> None:
    challenger = await contest(database, params={"fast": 3, "slow": 4}, count=900)
    strict = Settings(strategies=Strategies(challenger_bars_min=5_000))
    due = await run_challenge({"instance": "a"}, as_jobs, strict, CATALOGUE, now_ns=0)
    assert due["tested"] == [], "it is tested after bars_min bars"
    asked = await run_challenge({"instance": "a", "challenger": challenger}, as_jobs, strict, CATALOGUE, now_ns=0)
    findings = asked["tested"][0]["evaluation"]["findings"]
    assert findings[0] == "799 bars were decided on, and 5000 are needed"
    assert await stage(database, challenger) == "shadow"
    with pytest.raises(InputError, match="is not proposed: 799 bars") as refused:
        await swap_in(database, challenger, CATALOGUE, by="me")
    assert (refused.value.code, refused.value.status) == ("CHALLENGER_NOT_PROPOSED", 409)
    with pytest.raises(InputError, match="parameters of a itself"):
        await add_challenger(database, "a", BAD, CATALOGUE, by="me")
    assert (await add_challenger(database, "a", {"fast": 3, "slow": 4}, CATALOGUE, by="me")).id == challenger


async def test_on_paper_a_setting_swaps_and_on_a_live_account_it_does_not(
    database: Database, as_jobs: Database
) -> None:
    challenger = await contest(database)
    await database.sql("UPDATE accounts SET mode = 'live'")
    done = await run_challenge({"instance": "a"}, as_jobs, ON_PAPER, CATALOGUE, now_ns=0)
    assert (done["tested"][0]["evaluation"]["findings"], done["tested"][0]["swap"]) == ([], None)
    await database.sql("UPDATE accounts SET mode = 'paper'")
    done = await run_challenge({"instance": "a", "challenger": challenger}, as_jobs, ON_PAPER, CATALOGUE, now_ns=0)
    assert done["tested"][0]["swap"]["version"] == 2
    assert (await instance(database))["params"]["slow"] == 60


@pytest.mark.parametrize(("champion", "challenger"), [(True, True), (False, True), (True, False)])
async def test_a_challenger_beside_entry_orders_is_refused(
    database: Database, champion: bool, challenger: bool
) -> None:
    await add_account(database)
    await add_instance(database, "a", "limits", {"is_limit": champion})
    with pytest.raises(InputError, match="limit or stop orders") as refused:
        await add_challenger(database, "a", {"is_limit": challenger, "minutes": 30}, OWN, by="me")
    assert (refused.value.code, refused.value.status) == ("CHALLENGER_ENTRY_ORDERS", 422)
    assert await ChallengerStore(database).list("a") == []
    await database.sql("UPDATE strategy_instances SET params = $1", {"is_limit": False, "minutes": 60})
    assert (await add_challenger(database, "a", {"minutes": 30}, OWN, by="me")).stage == "shadow"


async def test_a_challenger_that_moves_its_stops_is_refused(database: Database) -> None:
    await add_account(database)
    await add_instance(database, "a", "scale_out", {"entry": 3, "step_pct": 0.1})
    with pytest.raises(InputError, match="that trail or are moved") as refused:
        await add_challenger(database, "a", {"entry": 4, "step_pct": 0.1}, CATALOGUE, by="me")
    assert refused.value.code == "CHALLENGER_ENTRY_ORDERS"
    assert await ChallengerStore(database).list("a") == []


@pytest.mark.parametrize(("champion", "challenger"), [(False, True), (True, False)])
async def test_entry_orders_are_not_valued_and_not_swapped_in(
    database: Database, as_jobs: Database, champion: bool, challenger: bool
) -> None:
    """As of a challenger whose entries on the check's bars were all at the market."""
    id = await contest(database, count=900)
    await database.sql("UPDATE strategy_instances SET strategy = 'limits', params = $1", {"is_limit": champion})
    await database.sql("UPDATE challengers SET params = $1", {"is_limit": challenger, "minutes": 30})
    with pytest.raises(InputError, match="limit or stop orders") as refused:
        await run_challenge({"instance": "a", "challenger": id}, as_jobs, ON_PAPER, OWN, now_ns=0)
    assert refused.value.code == "CHALLENGER_ENTRY_ORDERS"
    assert (await instance(database))["params_version"] == 1


async def test_a_challenger_that_cannot_be_tested_leaves_the_others_to_be_tested(
    database: Database, as_jobs: Database
) -> None:
    refused = await contest(database, count=900)
    await database.sql("UPDATE strategy_instances SET strategy = 'limits', params = $1", {"is_limit": False})
    other = (await add_challenger(database, "a", {"minutes": 20}, OWN, by="me")).id
    await database.sql(
        "UPDATE challengers c SET begun_time = o.begun_time, cursor_time = o.cursor_time FROM challengers o"
        " WHERE o.id = $1 AND c.id <> o.id",
        refused,
    )
    await database.sql("UPDATE challengers SET params = $2 WHERE id = $1", refused, {"is_limit": True, "minutes": 30})
    document = await run_challenge({"instance": "a"}, as_jobs, ON_PAPER, OWN, now_ns=0)
    first, second = document["tested"]
    assert (first["challenger"], first["refused"]["code"]) == (refused, "CHALLENGER_ENTRY_ORDERS")
    assert "limit or stop orders" in first["refused"]["detail"]
    assert (first["evaluation"], first["stage"], first["swap"]) == (None, "shadow", None)
    assert (second["challenger"], second["refused"]) == (other, None)
    assert second["evaluation"]["bars"] > 100


# ── checks of a person's code ────────────────────────────────────────────────────────────────────
async def begun_of(call: asyncio.Task[Any]) -> None:
    """Return when the strategy of a call decides; its loop goes on meanwhile."""
    assert await asyncio.to_thread(GATE.begun.wait, 30)
    assert not call.done()


async def test_code_is_checked_before_the_hold_and_what_changed_meanwhile_is_refused(
    database: Database,
) -> None:
    await add_account(database)
    await add_instance(database, "a", "held", {"number": 1})
    GATE.close()
    adding = asyncio.create_task(add_challenger(database, "a", {"number": 2}, OWN, by="me"))
    await begun_of(adding)
    await database.sql("SELECT 1 FROM strategy_instances FOR UPDATE NOWAIT")
    await database.sql("UPDATE strategy_instances SET params_version = 2")
    GATE.go.set()
    with pytest.raises(InputError, match="changed while") as refused:
        await adding
    assert (refused.value.code, refused.value.status) == ("INSTANCE_CHANGED", 409)
    await database.sql("UPDATE strategy_instances SET params_version = 1")
    challenger = (await add_challenger(database, "a", {"number": 2}, OWN, by="me")).id
    GATE.close()
    swapping = asyncio.create_task(swap_in(database, challenger, OWN, by="me", despite_findings=True))
    await begun_of(swapping)
    await database.sql("SELECT 1 FROM strategy_instances FOR UPDATE NOWAIT")
    await database.sql("UPDATE strategy_instances SET params_version = 2")
    GATE.go.set()
    with pytest.raises(InputError, match="changed while"):
        await swapping
    assert await stage(database, challenger) == "shadow"


async def test_code_of_a_promotion_is_checked_before_the_instance_is_held(database: Database) -> None:
    await add_account(database)
    await add_instance(database, "a", "held", {"number": 1})
    (row,) = await database.sql("SELECT timeframe FROM strategy_instances")
    search = await search_of(database, strategy="held", timeframe=row["timeframe"], best={"number": 2})
    GATE.close()
    promoting = asyncio.create_task(promote(database, OWN, search, "a", by="me"))
    await begun_of(promoting)
    await database.sql("SELECT 1 FROM strategy_instances FOR UPDATE NOWAIT")
    GATE.go.set()
    assert (await promoting)["params"] == {"number": 2}
    GATE.go.clear()
    with pytest.raises(InputError, match=r"held took longer than 0\.05 s"):
        await promote(database, OWN, search, "a", by="me", check_s=0.05)
    GATE.go.set()


async def test_code_that_takes_too_long_is_refused(database: Database) -> None:
    await add_account(database)
    await add_instance(database, "a", "held", {"number": 1})
    GATE.go.clear()
    with pytest.raises(InputError, match=r"held took longer than 0\.05 s") as refused:
        await add_challenger(database, "a", {"number": 2}, OWN, by="me", check_s=0.05)
    GATE.go.set()
    assert (refused.value.code, refused.value.status) == ("STRATEGY_SLOW", 422)


# ── swaps ────────────────────────────────────────────────────────────────────────────────────────
async def test_a_flat_instance_has_the_challengers_parameters_at_once(database: Database) -> None:
    challenger = await contest(database, count=900)
    await database.sql("UPDATE strategy_instances SET last_target = 1")  # its stop was hit: it wants, and holds nothing
    swap = await swap_in(database, challenger, CATALOGUE, by="me", despite_findings=True)
    assert (swap.stage, swap.version, swap.waits_for) == ("swapped", 2, None)
    row = await instance(database)
    assert (row["params"]["fast"], row["params_version"], row["last_target"], row["state"]) == (20, 2, 0.0, "NEW")
    version = (await StrategyStore(database).versions("a"))[0]
    assert (version.changed_by, version.provenance) == (
        "me",
        {"challenger": challenger, "replaced": 1, "evaluation": None},
    )
    assert await stage(database, challenger) == "swapped"
    again = await swap_in(database, challenger, CATALOGUE, by="me")
    assert again.stage == "swapped"
    assert (await instance(database))["params_version"] == 2, "asked again, nothing happens"


async def test_an_instance_that_holds_something_is_left_first(database: Database) -> None:
    challenger = await contest(database, count=900)
    await hold(database)
    with pytest.raises(InputError, match=r"not flat: it holds 0\.5 BTCUSDT") as refused:
        await swap_in(database, challenger, CATALOGUE, by="me", despite_findings=True, may_wait=False)
    assert refused.value.code == "CHALLENGER_NOT_FLAT"
    swap = await swap_in(database, challenger, CATALOGUE, by="me", despite_findings=True)
    assert (swap.stage, swap.version, swap.waits_for) == ("waiting", None, "it holds 0.5 BTCUSDT")
    assert await complete_swaps(database) == []
    other = (await add_challenger(database, "a", {"fast": 3}, CATALOGUE, by="test")).id
    with pytest.raises(InputError, match=f"{challenger} waits to be swapped in already"):
        await swap_in(database, other, CATALOGUE, by="me", despite_findings=True)
    # flat, but an exit is still open, then a signal waits
    await hold(database, "0")
    await database.sql(
        "INSERT INTO orders (client_order_id, intent_id, account_id, venue, symbol, instance, role, side, type, quantity,"
        " state, epoch) SELECT repeat('a', 32), gen_random_uuid(), id, venue, 'BTCUSDT', 'a', 'exit', 'sell', 'market',"
        " 1, 'WORKING', 1 FROM accounts"
    )
    assert await complete_swaps(database) == []
    await database.sql("UPDATE orders SET state = 'FILLED'")
    await database.sql(
        "INSERT INTO signals (id, source, instance, account_id, venue, symbol, ts_event, kind, side)"
        " SELECT gen_random_uuid(), 'strategy:a', 'a', id, venue, 'BTCUSDT', now(), 'exit', 'sell' FROM accounts"
    )
    assert await complete_swaps(database) == []
    assert (await instance(database))["params_version"] == 1
    await database.sql("UPDATE signals SET state = 'nothing'")
    assert [(one.challenger, one.version) for one in await complete_swaps(database)] == [(challenger, 2)]
    assert await complete_swaps(database) == []
    assert await stage(database, challenger) == "swapped"


async def test_an_ended_entry_with_an_unbooked_fill_keeps_the_instance_from_flat(
    database: Database,
) -> None:
    challenger = await contest(database, count=900)
    await database.sql(
        "INSERT INTO orders (client_order_id, intent_id, account_id, venue, symbol, instance, role, side, type, quantity,"
        " state, epoch, reported_cum_qty) SELECT repeat('a', 32), gen_random_uuid(), id, venue, 'BTCUSDT', 'a', 'entry',"
        " 'buy', 'limit', 1, 'CANCELLED', 1, 0.4 FROM accounts"
    )
    swap = await swap_in(database, challenger, CATALOGUE, by="me", despite_findings=True)
    assert (swap.stage, swap.waits_for) == ("waiting", "1 order(s) of it are open or have fills that are not booked")
    assert await complete_swaps(database) == []
    await database.sql("UPDATE orders SET filled = 0.4")
    assert [one.challenger for one in await complete_swaps(database)] == [challenger]


async def test_kill_9_in_a_swap_leaves_champion_or_challenger(database: Database, database_url: str) -> None:
    """The process is stopped within its transaction, after the new version is written, and killed there."""
    challenger = await contest(database, count=900)
    await database.sql(
        "CREATE FUNCTION pause() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_advisory_xact_lock(77); RETURN NEW; END $$"
    )
    await database.sql(
        "CREATE TRIGGER pause BEFORE UPDATE ON challengers FOR EACH ROW WHEN (NEW.stage = 'swapped')"
        " EXECUTE FUNCTION pause()"
    )
    code = (
        "import asyncio, sys\n"
        "from fks.research.jobs.challenge import swap_in\n"
        "from fks.store.db import Database\n"
        "from fks.strategies.registry import load_catalogue\n"
        "async def main():\n"
        "    db = await Database.connect(sys.argv[1])\n"
        "    await swap_in(db, sys.argv[2], load_catalogue(), by='me', despite_findings=True)\n"
        "asyncio.run(main())\n"
    )
    async with database.transaction() as tx:
        await tx.connection.execute("SELECT pg_advisory_xact_lock(77)")
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, database_url, challenger)
        async with asyncio.timeout(30):
            while not await database.sql("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
                await asyncio.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        row = await instance(database)
        assert (row["params_version"], row["params"]["fast"]) == (1, 2)
        await database.sql("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    row = await instance(database)
    assert (row["params_version"], await stage(database, challenger)) == (1, "shadow")
    assert len(await StrategyStore(database).versions("a")) == 1
    await swap_in(database, challenger, CATALOGUE, by="me", despite_findings=True)
    row = await instance(database)
    assert (row["params_version"], row["params"]["fast"], await stage(database, challenger)) == (2, 20, "swapped")


# ── demotion ─────────────────────────────────────────────────────────────────────────────────────
async def test_a_demoted_challenger_gives_the_parameters_back(database: Database) -> None:
    challenger = await contest(database, count=900)
    with pytest.raises(InputError, match="did not come from a challenger"):
        await demote(database, "a", CATALOGUE, by="me", reason="test")
    await swap_in(database, challenger, CATALOGUE, by="me", despite_findings=True)
    await hold(database)
    swap = await demote(database, "a", CATALOGUE, by="drift", reason="slippage")
    assert (swap.stage, swap.waits_for) == ("waiting", "it holds 0.5 BTCUSDT")
    assert (await demote(database, "a", CATALOGUE, by="drift", reason="slippage")).challenger == swap.challenger
    await hold(database, "0")
    assert [one.version for one in await complete_swaps(database)] == [3]
    row = await instance(database)
    assert (row["params"]["fast"], row["params_version"]) == (2, 3)
    provenance = (await StrategyStore(database).versions("a"))[0].provenance
    assert provenance is not None
    assert (provenance["rolled_back_to"], provenance["from"], provenance["reason"]) == (1, 2, "slippage")
    with pytest.raises(InputError, match="did not come from a challenger"):
        await demote(database, "a", CATALOGUE, by="me", reason="test")


@pytest.mark.parametrize(("mode", "is_demoted"), [("paper", True), ("live", False)])
async def test_drift_demotes_a_challenger_on_paper_and_names_the_way_on_live(
    database: Database, as_jobs: Database, mode: str, is_demoted: bool
) -> None:
    challenger = await contest(database, count=900)
    await swap_in(database, challenger, CATALOGUE, by="me", despite_findings=True)
    await database.sql("UPDATE strategy_parameters SET created_at = '2020-01-01'")
    await database.sql("UPDATE accounts SET mode = $1", mode)
    limits = Strategies(challenger_swap="paper", drift_mismatch_max=0.1)
    settings = Settings(strategies=limits)
    spec = {"instance": "a", "is_watched": True}
    document = await run_drift(spec, as_jobs, settings, CATALOGUE, now_ns=0)  # it made no fill of all it decided
    assert document["excess"] == ["100.0% of the steps differ, limit 10.0%"]
    assert document["is_demoted"] is is_demoted
    assert (await instance(database))["params"]["fast"] == (2 if is_demoted else 20)
    (alert,) = await database.sql("SELECT event, message FROM alerts")
    way = "are swapped in again once it is flat" if is_demoted else "fks strategies challengers demote a"
    assert alert["event"] == "strategy.drift"
    assert way in alert["message"]
