"""`fks data quarantine`: values that failed validation, and their confirmation or refusal by a person."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fks.interfaces.cli.base import as_json, emit
from fks.interfaces.cli.data.store import is_symbol, show, with_store
from fks.model.errors import InputError
from fks.model.json_fields import json_fields
from fks.model.timeframe import iso

if TYPE_CHECKING:
    from fks.store.db import Database
    from fks.store.quarantine import HeldRow, SettledAs

TEXT_SHOWN = 60
_LOOKED_AT = 10_000  # rows of all symbols in which one symbol's are searched


@click.command()
@click.argument("symbol", required=False)
@click.option("--exchange", default="", help="Only of this exchange.")
@click.option("--all", "is_all", is_flag=True, help="Also what is settled.")
@click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(1, _LOOKED_AT), help="Rows to show, the newest."
)
@click.option(
    "--confirm", "confirmed", multiple=True, type=int, metavar="ID", help="It is true: let it in. May be repeated."
)
@click.option(
    "--refuse", "refused", multiple=True, type=int, metavar="ID", help="It is wrong: it stays out. May be repeated."
)
@as_json
@click.pass_context
def quarantine(
    ctx: click.Context,
    symbol: str | None,
    exchange: str,
    is_all: bool,
    limit: int,
    confirmed: tuple[int, ...],
    refused: tuple[int, ...],
    as_json: bool,
) -> None:
    """Show what is in quarantine and why, newest first; settle it.

    \b
    fks data quarantine BTCUSDT
    fks data quarantine --confirm 17 --confirm 18
    """
    if both := set(confirmed) & set(refused):
        raise InputError(f"{min(both)} cannot be both confirmed and refused")
    if confirmed or refused:
        _settle(ctx, confirmed, refused, as_json=as_json)
        return
    rows = [
        row
        for row in with_store(ctx, lambda db: _rows(db, exchange, is_all=is_all, limit=_LOOKED_AT if symbol else limit))
        if is_symbol(symbol, row.held.symbol, row.held.exchange)
    ]
    show(
        [_shown(row, is_whole=as_json) for row in rows[:limit]],
        as_json,
        "fks.data.quarantine/1",
        "the quarantine is empty",
    )


async def _rows(db: Database, exchange: str, *, is_all: bool, limit: int) -> list[HeldRow]:
    from fks.store.quarantine import QuarantineStore

    return await QuarantineStore(db).rows(exchange or None, with_settled=is_all, limit=limit)


def _settle(ctx: click.Context, confirmed: tuple[int, ...], refused: tuple[int, ...], *, as_json: bool) -> None:
    async def work(db: Database) -> list[int]:
        from fks.store.quarantine import QuarantineStore, SettledAs

        store = QuarantineStore(db)
        verdicts: list[tuple[tuple[int, ...], SettledAs]] = [
            (confirmed, SettledAs.CONFIRMED),
            (refused, SettledAs.REFUSED),
        ]
        return [await store.settle(list(ids), verdict) for ids, verdict in verdicts]

    in_, out = with_store(ctx, work)
    asked = len(set(confirmed)) + len(set(refused))
    emit(
        {"confirmed": in_, "refused": out, "unchanged": asked - in_ - out},
        as_json=as_json,
        schema="fks.data.quarantine.settled/1",
    )
    if as_json:
        return
    click.echo(
        f"{in_} confirmed, {out} refused"
        + (f", {asked - in_ - out} not there or settled before" if asked > in_ + out else "")
    )
    if in_:
        click.echo(
            "bars are stored by a sync that asks for them: fks data sync SYMBOL TIMEFRAME --from … --to … --again"
        )


def _shown(row: HeldRow, *, is_whole: bool) -> dict[str, Any]:
    held = row.held
    what = held.payload if is_whole else str(held.payload.get("detail") or held.payload.get("text", ""))
    if isinstance(what, str) and len(what) > TEXT_SHOWN:
        what = what[:TEXT_SHOWN] + "…"
    return {
        "id": row.id,
        "received_at": iso(row.received_ns),
        **json_fields(held, "exchange", "symbol", "channel", "timeframe"),
        "time": None if held.time_ns is None else iso(held.time_ns),
        "reason": held.reason,
        "source": held.source,
        "verdict": None if row.verdict is None else row.verdict.value,
        "what": what,
    }
