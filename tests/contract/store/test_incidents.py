"""Incidents are open once per account, kind and subject; adopting a drift moves what is expected."""

from __future__ import annotations

import time
from dataclasses import replace
from decimal import Decimal

import pytest

from fks.model.account import Environment, Payment, PaymentKind, Transfer, TransferKind, VenueIdentity
from fks.model.errors import InputError
from fks.store.accounts import AccountStore
from fks.store.db import Database
from fks.store.holdings import HoldingStore
from fks.store.incidents import IncidentKind, IncidentStore, Resolution
from fks.store.lots import LotStore

D = Decimal
T0 = 1_767_225_600_000_000_000


async def account(database: Database) -> int:
    return (await AccountStore(database).create("main", venue="ccxt")).id


async def test_an_incident_is_open_once_and_kept_up_to_date(database: Database) -> None:
    store, owner = IncidentStore(database), await account(database)
    first = await store.open(owner, IncidentKind.DRIFT, "BTC", detail="1 more", now_ns=T0, payload={"difference": "1"})
    second = await store.open(
        owner, IncidentKind.DRIFT, "BTC", detail="2 more", now_ns=T0 + 1000, payload={"difference": "2"}
    )
    assert first is not None
    assert second is not None
    assert (first[1], second[1], second[0].id) == (True, False, first[0].id)
    again = await store.open(owner, IncidentKind.DRIFT, "BTC", detail="1 more", now_ns=T0)
    assert again is not None
    assert again[1], "the call that opened it, repeated: its answer was lost"
    await store.open(owner, IncidentKind.DRIFT, "ETH", detail="1 less", now_ns=T0)
    assert [i.subject for i in await store.page(is_open=True)] == ["ETH", "BTC"]
    assert await store.end(owner, IncidentKind.DRIFT, "ETH", now_ns=T0 + 2000, resolution="gone")
    assert not await store.end(owner, IncidentKind.DRIFT, "ETH", now_ns=T0 + 2000, resolution="gone")
    assert [i.subject for i in await store.page(account_id=owner, is_open=True)] == ["BTC"]


async def test_a_drift_that_is_adopted_moves_what_is_expected(database: Database) -> None:
    store, holdings, owner = IncidentStore(database), HoldingStore(database), await account(database)
    await holdings.set_opening(owner, {"BTC": D("0.5"), "USDT": D(100)})
    await holdings.set_opening(owner, {"BTC": D(9)})
    found = await store.open(owner, IncidentKind.DRIFT, "BTC", detail="x", now_ns=T0, payload={"difference": "0.25"})
    assert found is not None
    with pytest.raises(InputError):
        await store.close(found[0].id, by="ann", resolution=Resolution.ADOPTED, reason=" ", now_ns=T0)
    closed = await store.close(found[0].id, by="ann", resolution=Resolution.ADOPTED, reason="mine", now_ns=T0 + 1000)
    assert closed is not None
    assert (closed.closed_by, closed.resolution, closed.is_open) == ("ann", "adopted: mine", False)
    assert await holdings.known(owner) == {"BTC": D("0.75"), "USDT": D(100)}
    assert await store.close(found[0].id, by="bob", resolution=Resolution.ADOPTED, reason="too", now_ns=T0) is None
    booked = await store.open(owner, IncidentKind.DRIFT, "BTC", detail="x", now_ns=T0, payload={"difference": "3"})
    assert booked is not None
    await store.close(booked[0].id, by="ann", resolution=Resolution.BOOKED, reason="a deposit", now_ns=T0)
    assert (await holdings.known(owner))["BTC"] == D("0.75")


async def test_a_transfer_counts_once_and_only_after_the_opening(database: Database) -> None:
    holdings, owner = HoldingStore(database), await account(database)
    old = Transfer(TransferKind.DEPOSIT, "d1", "BTC", D(5), T0)
    assert await holdings.add_transfers(owner, [old]) == [old]
    await holdings.set_opening(owner, {"BTC": D(5)})
    new = Transfer(TransferKind.WITHDRAWAL, "w1", "BTC", D(1), T0 + 1000, fee=D("0.001"))
    assert await holdings.add_transfers(owner, [old, new]) == [new]
    assert await holdings.transferred(owner) == {"BTC": D("-1.001")}


@pytest.mark.parametrize("person", ["ann", "venue"])  # a token may have this name
async def test_income_counts_once_and_only_from_after_the_opening(database: Database, person: str) -> None:
    holdings, owner = HoldingStore(database), await account(database)
    await holdings.set_opening(owner, {"USD": D(5)})
    now_ns = time.time_ns() // 1000 * 1000
    old = Payment(PaymentKind.INTEREST, "i1", "USD", D(1), T0, "", person)
    swap = Payment(PaymentKind.SWAP, "s1", "USD", D("-0.75"), now_ns, "NQ", person)
    assert [await holdings.record(owner, item) for item in (old, swap, swap)] == [True, True, False]
    assert await holdings.transferred(owner) == {"USD": D("-0.75")}
    assert await holdings.payments(owner) == [swap, old]
    assert await holdings.last_transfer_ns(owner) is None, "the venue's own list begins where the venue left it"
    with pytest.raises(InputError) as refused:
        await holdings.record(owner, replace(swap, amount=D(1)))
    assert (refused.value.code, await holdings.payments(owner)) == ("PAYMENT_CHANGED", [swap, old])


async def drift(database: Database, owner: int, amount: str, opened_ns: int) -> int:
    found = await IncidentStore(database).open(
        owner, IncidentKind.DRIFT, "USD", detail="x", now_ns=opened_ns, payload={"difference": amount}
    )
    assert found is not None
    return found[0].id


async def expected(database: Database, owner: int) -> Decimal:
    holdings = HoldingStore(database)
    return (await holdings.known(owner)).get("USD", D(0)) + (await holdings.transferred(owner)).get("USD", D(0))


@pytest.mark.parametrize(("way", "amount", "days", "counted"), [
    (Resolution.ADOPTED, "12.50", 0, "12.5"),
    (Resolution.EXPLAINED, "12.50", 2, "12.5"),
    (Resolution.EXPLAINED, "12.50", 4, "25"),  # another payment of the same amount
    (Resolution.ADOPTED, "12.51", 0, "25.01"),
    (Resolution.BOOKED, "12.50", 0, "12.5"),
])  # fmt: skip
async def test_a_payment_that_was_adopted_before_counts_once(
    database: Database, way: Resolution, amount: str, days: int, counted: str
) -> None:
    """The difference was adopted first; its payment is recorded then, twice. Its dividend counts in lots, too."""
    store, owner = IncidentStore(database), await account(database)
    await HoldingStore(database).set_opening(owner, {"USD": D(0)})
    paid_ns = time.time_ns() // 1000 * 1000
    incident = await drift(database, owner, amount, paid_ns + days * 86_400 * 10**9)
    await store.close(incident, by="ann", resolution=way, reason="mine", now_ns=paid_ns + 5 * 86_400 * 10**9)
    payment = Payment(PaymentKind.DIVIDEND, "d1", "USD", D("12.5"), paid_ns, "AAPL", "ann")
    assert [await HoldingStore(database).record(owner, payment) for _ in range(2)] == [True, False]
    assert await expected(database, owner) == D(counted)
    flows = (await LotStore(database, "binance").history(None)).flows
    assert sum(flow.amount for flow in flows) == D(counted)
    closed = await store.get(incident)
    is_linked = closed is not None and closed.resolution == f"booked: dividend d1, first {way.value}: mine"
    assert is_linked == (counted == "12.5" and way is not Resolution.BOOKED)
    weekly = replace(payment, reference="d2", time_ns=paid_ns + 1000)
    assert await HoldingStore(database).record(owner, weekly)
    assert await expected(database, owner) == D(counted) + D("12.5"), "a difference is of one payment"


async def test_a_recorded_payment_is_not_adopted_as_well(database: Database) -> None:
    """An open difference is adopted after its payment was recorded, and before the next comparison ends it."""
    store, owner = IncidentStore(database), await account(database)
    await HoldingStore(database).set_opening(owner, {"USD": D(0)})
    now_ns = time.time_ns() // 1000 * 1000
    incident = await drift(database, owner, "12.50", now_ns)
    await HoldingStore(database).record(owner, Payment(PaymentKind.SWAP, "s1", "USD", D("12.5"), now_ns, "NQ", "ann"))
    for way in (Resolution.ADOPTED, Resolution.EXPLAINED):
        with pytest.raises(InputError) as refused:
            await store.close(incident, by="ann", resolution=way, reason="mine", now_ns=now_ns)
        assert (refused.value.code, refused.value.status) == ("INCIDENT_RECORDED", 409)
        assert "swap s1" in str(refused.value)
    assert await expected(database, owner) == D("12.5")
    later_ns = time.time_ns() // 1000 * 1000 + 1000
    await drift(database, owner, "12.50", later_ns)  # measured with the payment counted: another amount is missing
    assert await store.close(incident, by="ann", resolution=Resolution.ADOPTED, reason="mine", now_ns=later_ns)
    assert await expected(database, owner) == D(25)


async def test_an_identity_is_fixed_once(database: Database) -> None:
    store, owner = AccountStore(database), await account(database)
    first = VenueIdentity(Environment.SIM, "7", "one")
    assert await store.fix_identity(owner, first) == first
    assert await store.fix_identity(owner, VenueIdentity(Environment.LIVE, "8")) == first
    assert [item.identity for item in await store.page()] == [first]
