"""Drift: an account's balance is its opening, executions and transfers, or entries in that asset are denied."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fks.clock import RealClock
from fks.interfaces.cli.portfolio import show_attribution
from fks.model.account import Transfer, TransferKind
from fks.model.errors import OutageError
from fks.model.order import State
from fks.model.signal import Kind
from fks.research.jobs.valuation import note_portfolio_equity
from fks.store.accounts import AccountStore
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.holdings import HoldingStore
from fks.store.incidents import Incident, IncidentStore, Resolution
from fks.store.portfolios import PortfolioChanges
from tests.support.gateway import running
from tests.support.order_rig import FAST, Rig, seed
from tests.support.scripted_venue import D, ScriptedVenue
from tests.support.waiting import until

SETTINGS = FAST.model_copy(
    update={
        "risk": FAST.risk.model_copy(update={"drift_confirm_s": 0.15}),
        "venue": FAST.venue.model_copy(update={"sweep_s": 0.1, "transfers_s": 0.1}),
    }
)


@pytest.fixture
async def rig(database: Database, bus: Bus) -> Rig:
    """A running service whose venue held 2 BTC and 100,000 USDT before FKS, and the opening is noted."""
    await seed(database)
    rig = await Rig(database, bus, ScriptedVenue(totals={"BTC": D(2), "USDT": D(100000)}), SETTINGS).start()
    await until(lambda: opening(rig))
    return rig


async def opening(rig: Rig) -> dict[str, Decimal]:
    return await HoldingStore(rig.db).known(1)


async def incidents(rig: Rig) -> list[Incident]:
    return await IncidentStore(rig.db).page(is_open=True)


async def history(rig: Rig) -> list[tuple[str, Decimal, str | None]]:
    rows = await AccountStore(rig.db).history(1)
    return [(row.cause, row.balance, row.reference) for row in reversed(rows)]


def now_ns() -> int:
    return RealClock().now_ns()


async def is_noticed(rig: Rig, asset: str) -> bool:
    return asset in rig.service.cache.venues["ccxt"].drifting


async def entry(rig: Rig, **changes: Any) -> tuple[str, str | None]:
    return await rig.outcome(await rig.signal(Kind.ENTER, **changes))


async def externals(rig: Rig) -> dict[str, Decimal]:
    rows = await rig.db.sql("SELECT symbol, quantity FROM positions WHERE instance = 'external' AND quantity <> 0")
    return {row["symbol"]: row["quantity"] for row in rows}


async def test_coins_without_an_owner_count_once_however_many_symbols_trade_them(rig: Rig) -> None:
    """Counted again in a second symbol, a person could sell them there too: they would be an instance's."""
    await until(lambda: externals(rig))
    assert await externals(rig) == {"BTCUSDT": D(2)}
    await rig.db.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min)"
        " VALUES ('binance', 'BTCEUR', 'BTC', 'EUR', 0.01, 0.001, 0.001, 100000, 5)"
    )
    await rig.db.sql("UPDATE strategy_instances SET symbol = 'BTCEUR' WHERE id = 'two'")
    await rig.restart()
    assert await externals(rig) == {"BTCUSDT": D(2)}
    await rig.crash()
    await rig.db.sql("UPDATE positions SET quantity = 3 WHERE instance = 'external'")  # as an earlier version left it
    await rig.db.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity) VALUES (1, 'ccxt', 'BTCEUR', 'external', 2)"
    )
    await rig.start()
    assert await externals(rig) == {"BTCUSDT": D(2)}


async def test_opening_holdings_are_no_drift_and_orders_explain_themselves(rig: Rig) -> None:
    assert await opening(rig) == {"BTC": D(2), "USDT": D(100000)}
    signal = await rig.signal()
    await rig.becomes((await rig.entry(signal)).client_order_id, State.FILLED) if await rig.outcome(signal) else None
    await rig.restart()
    assert await rig.outcome(await rig.signal(Kind.EXIT)) == ("ordered", None)
    await until(lambda: rig.position_is(D(0)))
    await until(lambda: is_compared_twice(rig))
    assert await incidents(rig) == []
    await rig.stop()


async def test_drift_whose_incident_was_opened_without_an_answer_is_reported(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, lost = IncidentStore.open, list[str]()

    async def open_(self: IncidentStore, *args: Any, **about: Any) -> Any:
        found = await opened(self, *args, **about)
        if not lost:
            lost.append(args[2])
            raise OutageError("the connection was cut after the commit")
        return found

    monkeypatch.setattr(IncidentStore, "open", open_)
    rig.venue.totals["USDT"] += D(500)
    await until(lambda: is_noticed(rig, "USDT"))
    await until(lambda: is_compared_twice(rig))
    assert lost == ["USDT"]
    assert rig.log.events().count("account.drift") == 1
    await rig.stop()


async def is_compared_twice(rig: Rig) -> bool:
    """Return whether two more sweeps and comparisons have passed."""
    before = rig.service.cache.venues["ccxt"].compares_done
    await until(lambda: rig.service.cache.venues["ccxt"].compares_done >= before + 4)
    return True


async def test_coins_that_went_deny_entries_until_a_person_adopts_it(rig: Rig) -> None:
    rig.venue.totals["BTC"] -= D("0.5")
    found = (await until(lambda: incidents(rig)))[0]
    assert (found.kind, found.subject, found.payload["difference"], found.payload["expected"]) == (
        "drift",
        "BTC",
        "-0.5",
        "2",
    )
    await until(lambda: is_noticed(rig, "BTC"))
    assert await entry(rig) == ("denied", "INCIDENT_OPEN")
    assert await entry(rig, symbol="ETHUSDT", size=D(1)) == ("ordered", None)
    assert [
        row["severity"] for row in await rig.db.sql("SELECT severity FROM alerts WHERE event = 'account.drift'")
    ] == ["error"]
    store = IncidentStore(rig.db)
    await store.close(
        found.id, by="ann", resolution=Resolution.ADOPTED, reason="sold over the counter", now_ns=now_ns()
    )
    await until(lambda: not rig.service.cache.venues["ccxt"].drifting)
    assert await entry(rig) == ("ordered", None)
    await until(lambda: is_compared_twice(rig))
    assert await incidents(rig) == []
    await rig.stop()


async def test_cash_that_no_row_explains_is_an_incident_of_its_attribution(
    rig: Rig, database_url: str, redis_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def is_cash(total: int) -> bool:
        rows = await AccountStore(rig.db).balances(1)
        return any(row.balance.currency == "USDT" and row.balance.total == total for row in rows)

    await PortfolioChanges(rig.db).add(
        "own", base_currency="USDT", benchmark=None, accounts=["main"], instances=[], by="ann"
    )
    await until(lambda: is_cash(100_000))
    await note_portfolio_equity(rig.db, SETTINGS)
    rig.venue.totals["USDT"] -= D(40)
    (found,) = await until(lambda: incidents(rig))
    await until(lambda: is_cash(99_960))
    await note_portfolio_equity(rig.db, SETTINGS)
    async with running(rig.db, database_url, redis_url, tmp_path) as gateway, gateway.client("read") as client:
        body = (await client.get("/portfolios/own/attribution")).json()
        listed = (await client.get("/incidents?open=true")).json()["items"]
    assert (body["rest"], body["is_explained"]) == ("-40", False)
    assert body["unexplained"] == [
        {"account": "main", "asset": "USDT", "amount": "-40", "value": "-40", "incident": found.id}
    ]
    assert [(row["id"], row["account"], row["subject"]) for row in listed] == [(found.id, "main", "USDT")]
    assert found.detail == ("ccxt holds 99960 USDT of account main, 40 less than executions and transfers explain")
    show_attribution(body)
    assert (
        f"no row explains -40 USDT of main: -40.00 (incident {found.id}: see 'fks incidents')"
        in capsys.readouterr().err
    )
    await rig.stop()


async def test_an_exit_goes_though_its_asset_drifts(rig: Rig) -> None:
    assert await entry(rig) == ("ordered", None)
    await until(lambda: rig.position_is(D("9.99")))
    rig.venue.totals["BTC"] += D(1)
    await until(lambda: is_noticed(rig, "BTC"))
    assert await rig.outcome(await rig.signal(Kind.EXIT)) == ("ordered", None)
    await until(lambda: rig.position_is(D(0)))
    await rig.stop()


async def test_a_difference_that_goes_ends_its_incident(rig: Rig) -> None:
    rig.venue.totals["BTC"] -= D("0.5")
    await until(lambda: is_noticed(rig, "BTC"))
    rig.venue.totals["BTC"] += D("0.5")
    await until(lambda: not rig.service.cache.venues["ccxt"].drifting)
    (found,) = await IncidentStore(rig.db).page()
    assert (found.closed_by, found.resolution) == ("", "the difference is gone")
    await rig.stop()


async def test_a_deposit_and_a_withdrawal_are_no_drift_and_are_named_in_the_history(rig: Rig) -> None:
    rig.venue.totals["USDT"] += D(500)
    rig.venue.transfers.append(Transfer(TransferKind.DEPOSIT, "d1", "USDT", D(500), now_ns()))
    await until(lambda: has_row(rig, "deposit"))
    rig.venue.totals["USDT"] -= D("101")
    rig.venue.transfers.append(Transfer(TransferKind.WITHDRAWAL, "w1", "USDT", D(100), now_ns(), fee=D(1)))
    await until(lambda: has_row(rig, "withdrawal"))
    rig.venue.totals["BTC"] += D(1)
    rig.venue.transfers.append(Transfer(TransferKind.DEPOSIT, "d2", "BTC", D(1), now_ns()))
    await until(lambda: has_reference(rig, "d2"))
    assert await history(rig) == [
        ("snapshot", D(100000), None),
        ("deposit", D(100500), "d1"),
        ("withdrawal", D(100399), "w1"),
        ("deposit", D(3), "d2"),
    ]
    assert await incidents(rig) == []
    await rig.stop()


async def has_row(rig: Rig, cause: str) -> bool:
    return any(row[0] == cause for row in await history(rig))


async def has_reference(rig: Rig, reference: str) -> bool:
    return any(row[2] == reference for row in await history(rig))


async def test_the_history_tells_fills_from_fees(rig: Rig) -> None:
    assert await entry(rig) == ("ordered", None)
    await until(lambda: has_row(rig, "fill"))
    assert await rig.outcome(await rig.signal(Kind.EXIT)) == ("ordered", None)
    await until(lambda: has_row(rig, "fee"))
    assert await history(rig) == [
        ("snapshot", D(100000), None),
        ("fill", D(99000), None),
        ("fill", D(99999), None),
        ("fee", D("99998.001"), None),
    ]
    await rig.stop()


async def test_an_execution_of_another_program_is_booked_and_is_no_drift(rig: Rig) -> None:
    """Executions of others are booked as external and are not unexplained."""
    assert await entry(rig) == ("ordered", None)
    await until(lambda: rig.position_is(D("9.99")))
    rig.venue.trade_elsewhere("BTCUSDT", D(1))
    await until(lambda: is_external(rig))
    await until(lambda: is_compared_twice(rig))
    assert await incidents(rig) == []
    await rig.stop()


async def is_external(rig: Rig) -> bool:
    return bool(await rig.db.sql("SELECT FROM trades WHERE instance = 'external'"))
