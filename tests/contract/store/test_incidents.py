"""Incidents are open once per account, kind and subject; adopting a drift moves what is expected."""

from __future__ import annotations

from decimal import Decimal

import pytest

from fks.model.account import Environment, Transfer, TransferKind, VenueIdentity
from fks.model.errors import InputError
from fks.store.accounts import AccountStore
from fks.store.db import Database
from fks.store.holdings import HoldingStore
from fks.store.incidents import IncidentKind, IncidentStore, Resolution

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
    assert [item.reference for item in await holdings.transfers(owner)] == ["w1", "d1"]


async def test_an_identity_is_fixed_once(database: Database) -> None:
    store, owner = AccountStore(database), await account(database)
    first = VenueIdentity(Environment.SIM, "7", "one")
    assert await store.fix_identity(owner, first) == first
    assert await store.fix_identity(owner, VenueIdentity(Environment.LIVE, "8")) == first
    assert [item.identity for item in await store.page()] == [first]
