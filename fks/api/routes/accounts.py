"""Accounts: venues, balances and modes."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from fastapi import Depends
from pydantic import Field

from fks.api.exact import ExactJson
from fks.api.query import Admin, Body, Gate, Reader, body_of, page, takes
from fks.api.routing import Router
from fks.api.views import AccountView, Page
from fks.model.account import VENUE_PATTERN
from fks.model.errors import Problem
from fks.model.untrusted import Exact

router = Router(tags=["accounts"])


class AccountBody(Body):
    """A new account. `venue` is the destination of its orders: paper (they stay in this system), ccxt, ninja, or
    ninja:NAME of a table [ninja.accounts.NAME]."""

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


@router.post("/accounts/change", openapi_extra=takes(AccountChange))
async def change(
    gate: Gate, caller: Admin, body: Annotated[AccountChange, Depends(body_of(AccountChange))]
) -> ExactJson:
    """Change an account's mode before its first session, or switch it on or off. The order manager takes it up at its
    next start."""
    row = await gate.db.fetchrow("gateway.change_account", body.name, body.mode, body.is_enabled)
    if row is None:
        known = {item["name"] for item in await gate.db.fetch("gateway.accounts", None)}
        if body.name not in known:
            raise Problem(
                404, "ACCOUNT_UNKNOWN", f"there is no account {body.name!r}", remedy="see 'fks accounts list'"
            )
        raise Problem(
            409,
            "ACCOUNT_TIED",
            f"account {body.name!r} had its first session: its mode is fixed with its identity",
            remedy="make another account: fks accounts create",
        )
    return ExactJson(dict(row))


@router.get("/accounts", response_model=Page[AccountView])
async def accounts(gate: Gate, caller: Reader) -> ExactJson:
    """List accounts with the balances their venues report."""
    return ExactJson(page(await gate.db.fetch("gateway.accounts", caller.account_list)))


@router.post("/accounts", status_code=201, openapi_extra=takes(AccountBody))
async def create(gate: Gate, caller: Admin, body: Annotated[AccountBody, Depends(body_of(AccountBody))]) -> ExactJson:
    """Make an account."""
    row = await gate.db.fetchrow(
        "gateway.create_account",
        body.name,
        body.account_type,
        body.venue,
        body.broker,
        body.currency,
        body.initial_balance,
        body.mode,
    )
    if row is None:
        raise Problem(
            409, "ACCOUNT_EXISTS", f"there is an account named {body.name!r} already", remedy="choose another name"
        )
    return ExactJson(dict(row), status_code=201)
