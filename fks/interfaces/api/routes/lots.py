"""Lots and disposals of the accounts, computed from executions and transfers when they are read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Any, TypeVar

from fastapi import Query

from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.query import Before, Gate, Name, Reader
from fks.interfaces.api.routing import Router
from fks.interfaces.api.views import LotDisposalView, LotView, Statement
from fks.model.accounting.lots import LotBook, LotDisposal, LotMethod, OpenLot
from fks.model.errors import not_found, unprocessable
from fks.model.json_fields import json_fields
from fks.model.timeframe import iso, to_ns
from fks.store.lots import LotHistory, LotStore

T = TypeVar("T")
router = Router(tags=["accounts"])
NOTICE = "computed from the executions and transfers that FKS recorded; this is no tax advice"
Method = Annotated[LotMethod, Query(description="the rule by which a disposal uses up lots")]
Account = Annotated[Name, Query(description="its own lots; without it, accounts share theirs")]
Currency = Annotated[
    str | None, Query(pattern="^[A-Z0-9]{2,12}$", description="of costs and proceeds; default: the accounts' own")
]
#: a page is large, as each one matches the whole history
Rows = Annotated[int, Query(ge=1, le=10_000, description="most rows to return")]


@router.get("/lots", response_model=Statement[LotView])
async def lots(
    gate: Gate,
    caller: Reader,
    account: Account = None,
    method: Method = LotMethod.FIFO,
    currency: Currency = None,
    before: Before = None,
    limit: Rows = 100,
) -> ExactJson:
    """List the lots that are held, with the time and cost of their acquisition.

    Without `account` all accounts share their lots, those of paper money among themselves.
    """
    found = await _read(gate, caller.account_list, account, method, currency)

    def rows() -> list[dict[str, Any]]:
        numbered = [(number, lot) for number, lot in enumerate(found.book.lots(), 1) if found.shows(lot.pool)]
        return [_lot(number, lot) for number, lot in _newest(numbered, before, limit)]

    return _answer(found, await asyncio.to_thread(rows), limit)


@router.get("/lots/disposals", response_model=Statement[LotDisposalView])
async def disposals(
    gate: Gate,
    caller: Reader,
    account: Account = None,
    method: Method = LotMethod.FIFO,
    currency: Currency = None,
    year: Annotated[int | None, Query(ge=1970, le=9998, description="in which the gain was realised, UTC")] = None,
    before: Before = None,
    limit: Rows = 100,
) -> ExactJson:
    """List disposals with proceeds, cost and gain: a row for each part that one lot covers.

    Without `account` all accounts share their lots, those of paper money among themselves.
    """
    found = await _read(gate, caller.account_list, account, method, currency)
    start, end = (0, 1 << 63) if year is None else (_new_year_ns(year), _new_year_ns(year + 1))

    def rows() -> list[dict[str, Any]]:
        numbered = [
            (item.number, item)
            for item in found.book.disposals()
            if found.shows(item.pool) and start <= item.realized_ns < end
        ]
        return [_disposal(item) for _, item in _newest(numbered, before, limit)]

    return _answer(found, await asyncio.to_thread(rows), limit)


@dataclass(frozen=True, slots=True)
class _Found:
    """A book with what its answer says of it. `pool`: the only one that is shown; None: all."""

    book: LotBook
    method: LotMethod
    currency: str
    unknown_symbols: list[str]
    pool: str | None

    def shows(self, pool: str) -> bool:
        """Return whether rows of a pool are part of the answer."""
        return self.pool in (None, pool)


async def _read(
    gate: Gate, account_ids: list[int] | None, account: str | None, method: LotMethod, currency: str | None
) -> _Found:
    """Match the history of the caller's accounts. Errors: InputError ACCOUNT_UNKNOWN, INVALID without one currency."""
    store = LotStore(gate.db, gate.deps.settings.venue.exchange)
    history = await store.history(account_ids)
    into = _currency(history, account, currency)
    book = await store.book(history, into, method, is_shared=not account)
    return _Found(book, method, into, history.unknown_symbols, account)


def _currency(history: LotHistory, account: str | None, currency: str | None) -> str:
    chosen = [item for item in history.accounts if account in (None, item.name)]
    if account is not None and not chosen:
        raise not_found("ACCOUNT_UNKNOWN", f"there is no account {account!r}", "see GET /accounts")
    if currency is not None:
        return currency
    found = sorted({item.currency for item in chosen})
    if len(found) == 1:
        return found[0]
    text = f"the accounts are in {', '.join(found)}" if found else "there are no accounts"
    raise unprocessable("INVALID", f"currency: {text}", "name one currency, or one account")


def _newest(numbered: Sequence[tuple[int, T]], before: int | None, limit: int) -> list[tuple[int, T]]:
    """Return the newest rows with a number below `before`, and one more where there is one."""
    kept = (row for row in reversed(numbered) if before is None or row[0] < before)
    return list(islice(kept, limit + 1))


def _answer(found: _Found, rows: Sequence[dict[str, Any]], limit: int) -> ExactJson:
    """Return a page of `rows`, of which one more than `limit` was read if there is a following page."""
    return ExactJson(
        {
            "items": rows[:limit],
            "next": rows[limit - 1]["seq"] if len(rows) > limit else None,
            "method": found.method,
            "currency": found.currency,
            "unknown_symbols": found.unknown_symbols,
            "notice": NOTICE,
        }
    )


def _lot(number: int, lot: OpenLot) -> dict[str, Any]:
    names = ("pool", "asset", "kind", "acquired_ns", "quantity", "cost", "note")
    return json_fields(lot, *names, seq=number, lot_id=lot.id)


def _disposal(item: LotDisposal) -> dict[str, Any]:
    return json_fields(item, without=("number",), seq=item.number, realized_at=iso(item.realized_ns))


def _new_year_ns(year: int) -> int:
    return to_ns(datetime(year, 1, 1, tzinfo=UTC))
