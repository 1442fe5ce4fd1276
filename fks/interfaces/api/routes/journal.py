"""The journal of closed trades, and the notes of persons in it."""

from __future__ import annotations

import uuid
from typing import Annotated, Any, Literal

from fastapi import Header, Query
from pydantic import Field, StringConstraints

from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.query import (
    Before,
    Body,
    BodyOf,
    Gate,
    Limit,
    Name,
    Reader,
    Symbol,
    Trader,
    moment,
    page,
    version_of,
)
from fks.interfaces.api.routing import Router
from fks.interfaces.api.views import JournalEntryView, Page
from fks.model.errors import Problem
from fks.store.trade_journal import TradeJournalStore

router = Router(tags=["accounts"])
TAG = r"^[a-z0-9][a-z0-9 _.:-]{0,39}$"
Tag = Annotated[str, StringConstraints(pattern=TAG)]
When = Annotated[str | None, Query(max_length=40)]


class JournalNotes(Body):
    """Tags and note of an entry; an omitted field stays. The tags replace those before."""

    version: int | None = Field(None, ge=1, lt=2**31, description="the version that was read, or send it as If-Match")
    tags: tuple[Tag, ...] | None = Field(None, max_length=20, description="in lower case")
    note: str | None = Field(None, max_length=10_000)


@router.get("/journal", response_model=Page[JournalEntryView])
async def entries(
    gate: Gate,
    caller: Reader,
    account: Name = None,
    symbol: Symbol = None,
    instance: Annotated[Name, Query(description='a strategy instance; "" for orders of persons')] = None,
    tag: Annotated[str | None, Query(pattern=TAG)] = None,
    text: Annotated[str | None, Query(max_length=200, description="part of note, tags or reasons")] = None,
    result: Annotated[Literal["won", "lost", "even"] | None, Query(description="after fees")] = None,
    since: Annotated[When, Query(description="closed at or after, ISO 8601")] = None,
    until: Annotated[When, Query(description="closed before, ISO 8601")] = None,
    before: Before = None,
    limit: Limit = 100,
) -> ExactJson:
    """List the closed trades of positions, from flat to flat, newest first. They are written within a minute of the
    exit."""
    symbols, _ = await gate.narrowed(symbol, None)
    rows = await TradeJournalStore(gate.db).entries(
        caller.account_list,
        before=before,
        account=account,
        symbols=symbols,
        instance=instance,
        tag=tag,
        text=text,
        result=result,
        since=moment(since, "since"),
        until=moment(until, "until"),
        limit=limit,
    )
    return ExactJson(page(rows, limit))


@router.get("/journal/{id}", response_model=JournalEntryView)
async def entry(gate: Gate, caller: Reader, id: uuid.UUID) -> ExactJson:
    """Return one closed trade; its ETag is the version of its notes."""
    return _versioned(await TradeJournalStore(gate.db).entry(caller.account_list, id))


@router.patch("/journal/{id}", response_model=JournalEntryView)
async def note(
    gate: Gate,
    caller: Trader,
    id: uuid.UUID,
    body: BodyOf[JournalNotes],
    if_match: Annotated[str | None, Header(max_length=40)] = None,
) -> ExactJson:
    """Change the tags or the note of a closed trade that is still at the version that was read, sent as `version` or as
    `If-Match`."""
    if body.tags is None and body.note is None:
        raise Problem(422, "JOURNAL_WRONG", "nothing is to be changed", remedy="give tags or note")
    store = TradeJournalStore(gate.db)
    found = await store.entry(caller.account_list, id)
    version = version_of(body.version, if_match, "JOURNAL_WRONG")
    tags = None if body.tags is None else sorted({*body.tags})
    await store.change(found, version, tags=tags, note=body.note, by=caller.name)
    return _versioned(await store.entry(caller.account_list, id))


def _versioned(found: dict[str, Any]) -> ExactJson:
    return ExactJson(found, headers={"ETag": f'"{found["version"]}"'})
