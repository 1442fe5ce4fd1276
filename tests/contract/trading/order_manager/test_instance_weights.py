"""Weights of strategy instances: they change the size of entries by a version of the parameters, and trade nothing."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from fks.model.errors import InputError
from fks.research.jobs.promotion import version_before
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.portfolio_runs import PortfolioRunStore
from fks.store.portfolios import PortfolioChanges
from fks.store.strategies import StrategyStore
from fks.trading.portfolio.rebalance import TriggerPolicy
from tests.support.rebalancing import Dying, RebalancedPortfolio, rebalanced
from tests.support.scripted_venue import ScriptedVenue
from tests.support.waiting import until

D = Decimal


@pytest.fixture
async def main(database: Database, bus: Bus, venue: ScriptedVenue) -> AsyncIterator[RebalancedPortfolio]:
    async for portfolio in rebalanced(database, bus, venue):
        await database.sql("UPDATE strategy_instances SET pyramiding = 1")
        yield portfolio


async def _aim(main: RebalancedPortfolio, version: int = 0, **changed: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"account": None, "targets": [], "rules": {"cash_min": D("0.02")}, "by": "ann"}
    return await main.persons.set_targets("main", version=version, **given | changed)


async def _instance(main: RebalancedPortfolio, id: str = "one") -> tuple[Decimal, int, int]:
    """Return the size, the version of the parameters, and how many versions are kept."""
    (row,) = await main.rig.db.sql(
        "SELECT size, params_version, (SELECT count(*) FROM strategy_parameters p WHERE p.instance_id = i.id) AS kept"
        " FROM strategy_instances i WHERE id = $1",
        id,
    )
    return row["size"], row["params_version"], row["kept"]


async def _traded(main: RebalancedPortfolio) -> list[Any]:
    """Return everything of positions, signals and orders."""
    tables = ("positions", "signals", "orders", "trades")
    return [[tuple(row) for row in await main.rig.db.sql(f"SELECT * FROM {name} ORDER BY 1")] for name in tables]


async def _settled(main: RebalancedPortfolio) -> list[Any]:
    """Return `_traded` once the entry of `one` has filled and its position is a row."""

    async def is_booked() -> bool:
        return bool(
            await main.rig.db.sql(
                "SELECT FROM positions p JOIN orders o USING (instance)"
                " WHERE instance = 'one' AND p.quantity > 0 AND o.state = 'FILLED'"
            )
        )

    await until(is_booked)
    return await _traded(main)


async def _enter(main: RebalancedPortfolio, instance: str = "one") -> Decimal:
    """Have an instance enter through the order manager, and return the quantity of the entry."""
    id = await main.rig.signal(id=uuid.uuid4(), instance=instance)
    assert await main.rig.outcome(id) == ("ordered", None)
    (row,) = await main.rig.db.sql("SELECT quantity FROM orders WHERE signal_id = $1 AND role = 'entry'", id)
    quantity: Decimal = row["quantity"]
    return quantity


async def test_a_weight_sizes_the_next_entry_and_trades_no_position(main: RebalancedPortfolio) -> None:
    assert await _enter(main) == 10, "1000 USDT at 100"
    before = await _settled(main)
    found = await _aim(main, instances={"one": D("0.3")})
    assert [(row["instance"], row["weight"], row["size"]) for row in found["instances"]] == [("one", D("0.3"), None)]
    assert await _instance(main) == (D(1000), 1, 0), "the weight waits for the scheduler"
    assert (await main.persons.drift("main"))["instances"][0]["size_weight"] is None
    assert await _traded(main) == before
    await main.trigger().look()
    (row,) = (await main.persons.targets("main"))["instances"]
    equity = (await main.rig.db.sql("SELECT sum(free + locked) AS cash FROM balances WHERE currency = 'USDT'"))[0]
    assert row["params_version"] == 2
    assert row["size"] == pytest.approx(D("0.3") * D(10_000), rel=D("0.01")), equity
    assert await _instance(main) == (row["size"], 2, 1)
    assert await _traded(main) == before, "the position stays as it is"
    (drift,) = (await main.persons.drift("main"))["instances"]
    assert (drift["instance"], drift["target"], drift["reason"]) == ("one", D("0.3"), None)
    assert drift["size_weight"] == pytest.approx(D("0.3"), abs=D("0.001"))
    assert drift["weight"] == pytest.approx(D("0.1"), abs=D("0.001")), "what it holds, 10 at 100 of 10000"
    for _ in range(2):
        await main.trigger().look()
    assert await _instance(main) == (row["size"], 2, 1), "once"


async def test_a_pending_weight_sizes_no_position_and_the_next_signal_alone(main: RebalancedPortfolio) -> None:
    await _aim(main, instances={"one": D("0.3"), "two": D("0.2")})
    assert await _enter(main) == 10, "1000 USDT at 100: the weight is pending"
    before = await _settled(main)
    assert await _instance(main) == (D(1000), 1, 0), "an entry under a pending weight applies nothing"
    await main.trigger().look()
    assert (await _instance(main))[1:] == (2, 1)
    assert (await _instance(main, "two"))[1:] == (2, 1)
    await main.rig.service.refresh()
    assert await _traded(main) == before, "no position was traded to its weight"
    assert await _enter(main, "two") == pytest.approx(D(20), rel=D("0.01")), "0.2 of 10000 at 100"


async def test_a_weight_waits_while_an_entry_is_open(main: RebalancedPortfolio) -> None:
    db = main.rig.db
    await db.sql(
        "INSERT INTO orders (client_order_id, intent_id, account_id, venue, symbol, instance, role, side, type, quantity,"
        " state) VALUES ('e', gen_random_uuid(), 1, 'paper', 'BTCUSDT', 'one', 'entry', 'buy', 'limit', 1, 'WORKING')"
    )
    await _aim(main, instances={"one": D("0.3")})
    before = await _traded(main)
    for _ in range(2):
        await main.trigger().look()
    (row,) = (await main.persons.targets("main"))["instances"]
    assert row["reason"].startswith("ENTRIES_OPEN"), row
    assert await _instance(main) == (D(1000), 1, 0)
    assert await _traded(main) == before
    await db.sql("UPDATE orders SET state = 'CANCELLED' WHERE client_order_id = 'e'")
    await main.trigger().look()
    (row,) = (await main.persons.targets("main"))["instances"]
    assert (row["size"], row["params_version"], row["reason"]) == (D(3000), 2, None)


@pytest.mark.parametrize("after", [False, True])
async def test_a_scheduler_killed_at_every_statement_sizes_once(main: RebalancedPortfolio, after: bool) -> None:
    died = 0
    for at in range(1, 60):
        await _aim(main, version=at - 1, instances={"one": D(at) / 100})
        try:
            await main.trigger(Dying(main.rig.db, at, after=after)).look()
        except asyncio.CancelledError:
            died += 1
        await main.trigger().look()  # of the process that comes after it
        (row,) = (await main.persons.targets("main"))["instances"]
        size, version, kept = await _instance(main)
        assert (row["size"], row["params_version"]) == (size, version) == (D(at) * 100, at + 1)
        assert kept == at
        if died < at:
            break
    assert died > 5, "it was killed at each of its statements"


async def test_weights_of_former_targets_are_not_applied(main: RebalancedPortfolio) -> None:
    await _aim(main, instances={"one": D("0.3"), "two": D("0.1")})
    kept = await _aim(main, version=1, targets=[("ETHUSDT", D("0.2"), None, None)])
    assert [row["instance"] for row in kept["instances"]] == ["one", "two"], "they stay if none is named"
    await _aim(main, version=2, instances={"one": D("0.2")})
    await main.trigger().look()
    assert (await _instance(main))[0] == D(2000)
    assert await _instance(main, "two") == (D(1000), 1, 0)


async def test_an_allocation_sizes_within_the_largest_change_alone(main: RebalancedPortfolio) -> None:
    assert await _enter(main) == 10, "1000 USDT at 100"
    await _aim(main, instances={"one": D("0.1")})
    await main.trigger().look()
    before, runs = await _settled(main), PortfolioRunStore(main.rig.db)
    for weight, change_max, state in (("0.3", "0.1", "refused"), ("0.2", "0.1", "applied")):
        await main.persons.set_trigger("main", replace(TriggerPolicy(), change_max=D(change_max)), "ann")
        row = {"exchange": "binance", "symbol": "BTCUSDT", "instance": "one", "weight": weight, "before": "0.1"}
        id = uuid.uuid4()
        await runs.add_allocation(id, 1, "equal", 0, "h", [row], {}, 1, "waiting", "schedule")
        await main.trigger().look()
        assert (await main.persons.allocation("main", id))["state"] == state
    await main.trigger().look()
    size, version, kept = await _instance(main)
    assert (size, version, kept) == (pytest.approx(D(2000), rel=D("0.01")), 3, 2)
    assert await _traded(main) == before, "the position stays as it is"


async def test_an_allocation_of_no_size_changes_no_target(main: RebalancedPortfolio) -> None:
    await _aim(main, instances={"one": D("0.1"), "two": D("0.2")})
    row = {"exchange": "binance", "symbol": "BTCUSDT", "instance": "one", "weight": "0", "before": "0.1"}
    id = uuid.uuid4()
    await PortfolioRunStore(main.rig.db).add_allocation(id, 1, "equal", 0, "h", [row], {}, 1, "ready", "ann")
    with pytest.raises(InputError) as error:
        await main.persons.apply("main", id, "ann")
    assert (error.value.code, "disable it" in error.value.remedy) == ("TARGETS_WRONG", True)
    assert (await main.persons.targets("main"))["version"] == 1


async def test_schedulers_at_once_make_one_version(main: RebalancedPortfolio) -> None:
    await _aim(main, instances={"one": D("0.3"), "two": D("0.1")})
    await asyncio.gather(*(main.trigger().look() for _ in range(4)))
    assert await _instance(main) == (D(3000), 2, 1)
    assert await _instance(main, "two") == (D(1000), 2, 1)


async def test_a_roll_back_goes_past_a_version_of_the_size_alone(main: RebalancedPortfolio) -> None:
    db = main.rig.db
    await db.sql(
        "INSERT INTO strategy_parameters (instance_id, version, strategy, params) VALUES ('one', 1, 's', '{}')"
    )
    async with db.transaction() as tx:
        await StrategyStore(tx).set_params("one", {"fast": 3}, by="ann")
    await _aim(main, instances={"one": D("0.3")})
    await main.trigger().look()
    versions = await StrategyStore(db).versions("one")
    assert [(one.version, one.params, one.size) for one in versions[:2]] == [
        (3, {"fast": 3}, D(3000)),
        (2, {"fast": 3}, D(1000)),
    ]
    assert version_before(versions).version == 1
    assert (versions[0].provenance or {})["sized_by"]["portfolio"] == "main"


@pytest.mark.parametrize(
    ("changed", "status", "code"),
    [
        ({"instances": {"one": D("0.3")}, "targets": [("BTC/USDT", D("0.2"), None, None)]}, 422, "TARGETS_MIXED"),
        ({"instances": {"one": D("0.6"), "two": D("0.5")}}, 422, "TARGETS_WRONG"),
        ({"instances": {"one": D("0.6")}, "targets": [("ETHUSDT", D("0.5"), None, None)]}, 422, "TARGETS_WRONG"),
        ({"instances": {"one": D(0)}}, 422, "TARGETS_WRONG"),
        ({"instances": {"none": D("0.3")}}, 404, "INSTANCE_UNKNOWN"),
        ({"instances": {"far": D("0.3")}}, 422, "TARGETS_WRONG"),
        ({"instances": {"percent": D("0.3")}}, 422, "TARGETS_WRONG"),
    ],
)
async def test_a_wrong_weight_is_refused_with_a_code(
    main: RebalancedPortfolio, changed: dict[str, Any], status: int, code: str
) -> None:
    for id, account, sizing in (("far", 2, "notional"), ("percent", 1, "equity_pct")):
        await main.rig.db.sql(
            "INSERT INTO strategy_instances (id, strategy, symbol, timeframe, account_id, venue, sizing) VALUES"
            " ($1, 's', 'SOLUSDT', '1m', $2, 'ccxt', $3)",
            *(id, account, sizing),
        )
    with pytest.raises(InputError) as error:
        await _aim(main, **changed)
    assert (error.value.status, error.value.code) == (status, code)
    assert (await main.persons.targets("main"))["version"] == 0


async def test_a_symbol_has_a_weight_on_one_account_and_an_instance_of_it_on_another(
    main: RebalancedPortfolio,
) -> None:
    await main.rig.db.sql(
        "INSERT INTO strategy_instances (id, strategy, symbol, timeframe, account_id, venue) VALUES"
        " ('sheet', 's', 'BTCUSDT', '1m', 2, 'paper')"
    )
    portfolio = await PortfolioChanges(main.rig.db).change("main", version=1, instances=["sheet"])
    assert portfolio.instances == ["sheet"]
    found = await _aim(main, instances={"sheet": D("0.3")}, targets=[("BTC/USDT", D("0.2"), None, None)])
    assert (len(found["items"]), len(found["instances"])) == (1, 1)
