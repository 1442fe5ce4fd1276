"""Accounts: venues, balances, modes, and income that persons recorded."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal, get_args

from fastapi import Query
from pydantic import Field

from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.query import Admin, Body, BodyOf, Gate, Limit, Reader, Time, page
from fks.interfaces.api.routing import Router
from fks.interfaces.api.views import AccountView, Page, PaymentView
from fks.model.account import VENUE_PATTERN, Account, Payment, PaymentKind, VenueName
from fks.model.copies import is_ninja
from fks.model.decimals import plain
from fks.model.errors import conflict, not_found, unprocessable
from fks.model.ids import payment_reference
from fks.model.json_fields import json_fields
from fks.model.timeframe import iso, to_ns
from fks.model.untrusted import Exact
from fks.store.accounts import AccountStore
from fks.store.holdings import HoldingStore

router = Router(tags=["accounts"])


class AccountBody(Body):
    """A new account. `venue` is the destination of its orders: paper (they stay in this system), ccxt, an exchange of
    venues.exchanges, ninja, ninja:NAME of a table [ninja.accounts.NAME], or mt5."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f]+$")
    account_type: Literal["personal", "prop"] = "personal"
    venue: str = Field("paper", pattern=VENUE_PATTERN)
    broker: str = Field("", max_length=64)
    currency: str = Field("USDT", pattern="^[A-Z0-9]{2,12}$")
    initial_balance: Annotated[Exact, Field(ge=0)] = Decimal(0)
    mode: Literal["paper", "live"] = "paper"


class AccountChange(Body):
    """Changes of an account; omitted fields stay."""

    name: str = Field(min_length=1, max_length=64)
    mode: Literal["paper", "live"] | None = None
    is_enabled: bool | None = None


@router.post("/accounts/change")
async def change(gate: Gate, caller: Admin, body: BodyOf[AccountChange]) -> ExactJson:
    """Change an account's mode before its first session, or switch it on or off. The order manager takes it up at its
    next start."""
    row = await gate.db.fetchrow("gateway.change_account", body.name, body.mode, body.is_enabled)
    if row is None:
        known = {item["name"] for item in await gate.db.fetch("gateway.accounts", None)}
        if body.name not in known:
            raise not_found("ACCOUNT_UNKNOWN", f"there is no account {body.name!r}", "see 'fks accounts list'")
        raise conflict(
            "ACCOUNT_TIED",
            f"account {body.name!r} had its first session: its mode is fixed with its identity",
            "make another account: fks accounts create",
        )
    return ExactJson(dict(row))


class PaymentBody(Body):
    """Income that an account was paid, or paid (negative `amount`). A repeat is the same payment."""

    account: str = Field(min_length=1, max_length=64)
    kind: PaymentKind
    asset: str = Field(pattern="^[A-Z0-9]{1,16}$")
    amount: Exact
    time: Time = Field(description="when the venue booked it")
    symbol: str = Field("", max_length=64, pattern=r"^[^\x00-\x1f]*$", description="what it was paid for")
    reference: str | None = Field(
        None, min_length=1, max_length=128, pattern=r"^[^\x00-\x1f]+$", description="the venue's own id of it"
    )


@router.post("/accounts/payments", status_code=201, response_model=PaymentView)
async def pay(gate: Gate, caller: Admin, body: BodyOf[PaymentBody]) -> ExactJson:
    """Record a dividend, funding, interest or swap that the venue has booked: income, not a flow. Balances stay: they
    follow the venue's reports. 200 when it was recorded before."""
    account, time_ns = await _account(gate, body.account), to_ns(body.time)
    if account.venue == "paper":
        raise unprocessable(
            "PAYMENT_WRONG", f"no venue pays to {account.name}: it is a paper account", "name an account at a venue"
        )
    if not body.amount or time_ns > gate.deps.clock.now_ns():
        raise unprocessable("PAYMENT_WRONG", "the amount is zero, or the time has not come", "give what was booked")
    asked = (body.kind, body.asset, body.amount, time_ns, body.symbol)
    known = body.reference or str(payment_reference(account.id, body.kind, body.asset, plain(body.amount), *asked[3:]))
    payment = Payment(body.kind, known, *asked[1:], caller.name)
    is_new = await HoldingStore(gate.db).record(account.id, payment)
    stored = await HoldingStore(gate.db).payment(account.id, body.kind, known)
    return ExactJson(_payment(stored, account.name), status_code=201 if is_new else 200)


@router.get("/accounts/payments", response_model=Page[PaymentView])
async def payments(
    gate: Gate, caller: Reader, account: Annotated[str, Query(description="its name or number")], limit: Limit = 100
) -> ExactJson:
    """List the income of an account that persons recorded, newest first."""
    found = await _account(gate, account)
    rows = await HoldingStore(gate.db).payments(found.id, limit)
    return ExactJson({"items": [_payment(row, found.name) for row in rows], "next": None})


async def _account(gate: Replica, name: str) -> Account:
    known = sorted(await AccountStore(gate.db).page(), key=lambda account: account.name != name)
    for account in known:  # one may be named as another's number
        if name in (account.name, str(account.id)):
            return account
    raise not_found("ACCOUNT_UNKNOWN", f"there is no account {name!r}", "see 'fks accounts list'")


def _payment(payment: Payment, account: str) -> dict[str, Any]:
    return json_fields(payment, without=("time_ns",), account=account, time=iso(payment.time_ns))


@router.get("/accounts", response_model=Page[AccountView])
async def accounts(gate: Gate, caller: Reader) -> ExactJson:
    """List accounts with the balances their venues report."""
    return ExactJson(page(await gate.db.fetch("gateway.accounts", caller.account_list)))


@router.post("/accounts", status_code=201)
async def create(gate: Gate, caller: Admin, body: BodyOf[AccountBody]) -> ExactJson:
    """Make an account."""
    settings = gate.deps.settings
    venue, known = settings.venue_named(body.venue), [*get_args(VenueName), *settings.venues.names]
    if venue not in known and not is_ninja(venue):
        remedy = f"use {', '.join(known)}, or name the exchange in venues.exchanges"
        raise not_found("VENUE_UNKNOWN", f"there is no venue {venue}", remedy)
    row = await gate.db.fetchrow(
        "gateway.create_account",
        body.name,
        body.account_type,
        venue,
        body.broker,
        body.currency,
        body.initial_balance,
        body.mode,
    )
    if row is None:
        raise conflict("ACCOUNT_EXISTS", f"there is an account named {body.name!r} already", "choose another name")
    return ExactJson(dict(row), status_code=201)
