"""`fks data gaps | quality | prune`: checking stored data, and deleting old bars."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from fks.interfaces.cli.base import FAILED, OK, Columns, as_json, emit, named, settings_of, table
from fks.interfaces.cli.data.store import ensure_some, exchange_of, is_symbol, lasting, progress, show, with_store
from fks.model.errors import InputError
from fks.model.json_fields import json_fields
from fks.model.timeframe import check_timeframe, iso, to_ns

if TYPE_CHECKING:
    from fks.market.history.gaps import MissingBars
    from fks.market.history.quality import FeedOutage, Quality, QualityReport
    from fks.store.db import Database
    from fks.store.gaps import Series

OUTAGES_SHOWN = 20
LACKING = ("missing", "unavailable")  # states of gaps whose bars exist


def chosen(symbol: str | None, timeframe: str | None, exchange: str) -> Callable[[Series], bool]:
    """Return a filter for the series that the arguments name. Errors: InputError for an unknown timeframe."""
    if timeframe is not None:
        check_timeframe(timeframe)
    return lambda one: (
        is_symbol(symbol, one.symbol, one.exchange)
        and timeframe in (None, one.timeframe)
        and exchange in ("", one.exchange)
    )


def _report(ctx: click.Context, db: Database) -> QualityReport:
    from fks.clock import RealClock
    from fks.market.history.quality import QualityReport

    data = settings_of(ctx).data
    return QualityReport(db, RealClock(), days=data.gaps_days, frames=data.timeframes)


# ── gaps ─────────────────────────────────────────────────────────────────────────────────────────
@click.command()
@click.argument("symbol", required=False)
@click.argument("timeframe", required=False)
@click.option("--exchange", default="", help="Only of this exchange.")
@click.option("--all", "is_all", is_flag=True, help="Also what is known to be missing at the exchange, and why.")
@click.option("--fill", is_flag=True, help="Fetch what is missing now. A running system does so by itself.")
@click.option("--ask-again", is_flag=True, help="Forget what is known to be missing, so that it is asked for again.")
@click.option("--limit", default=200, show_default=True, type=click.IntRange(1), help="Gaps to show, the newest.")
@as_json
@click.pass_context
def gaps(
    ctx: click.Context,
    /,
    symbol: str | None,
    timeframe: str | None,
    exchange: str,
    limit: int,
    as_json: bool,
    **how: bool,
) -> None:
    """Show which bars are missing, by the calendar of the exchange: newest first.

    Exit code 1 when bars are missing.
    """
    wanted = chosen(symbol, timeframe, exchange)

    async def work(db: Database) -> list[tuple[MissingBars, str]]:
        from fks.store.gaps import GapStore

        report = _report(ctx, db)
        listed = await report.series(wanted)
        ensure_some(listed, symbol, timeframe, exchange)
        if how["ask_again"]:
            for one in listed:
                await GapStore(db).forget_known(one.exchange, one.symbol, one.timeframe)
        found = [item for one in listed for item in await report.missing(one, is_all=how["is_all"])]
        if how["fill"] and found:
            await _fill(ctx, db, [gap for gap, state in found if state in LACKING], is_shown=not as_json)
            found = [item for one in listed for item in await report.missing(one, is_all=how["is_all"])]
        return sorted(found, key=lambda item: item[0].span.end_ns, reverse=True)

    found = with_store(ctx, work)
    rows = [
        {
            **json_fields(gap, "symbol", "timeframe", "exchange"),
            "from": iso(gap.span.start_ns),
            "to": iso(gap.span.end_ns),
            "bars": gap.bars,
            "lasts": lasting((gap.span.end_ns - gap.span.start_ns) / 1e9),
            "state": state,
        }
        for gap, state in found[:limit]
    ]
    show(rows, as_json, "fks.data.gaps/1", "nothing is missing")
    if len(found) > limit and not as_json:
        click.echo(f"… and {len(found) - limit} more: --limit {len(found)}")
    if any(state in LACKING for _, state in found):
        ctx.exit(1)


async def _fill(ctx: click.Context, db: Database, missing: list[MissingBars], *, is_shown: bool) -> None:
    from fks.clock import RealClock
    from fks.market.history.sync import QuietLog, Sync

    ordered = sorted(missing, key=lambda gap: gap.span.end_ns, reverse=True)
    done, total = 0, sum(gap.bars for gap in ordered)
    with progress("gaps", is_shown=is_shown) as report_progress:
        for name in sorted({gap.exchange for gap in ordered}):
            async with exchange_of(ctx, name) as source:
                sync = Sync(source, db, RealClock(), QuietLog())
                for gap in [one for one in ordered if one.exchange == name]:
                    await sync.fill([gap])
                    done += gap.bars
                    report_progress(done, total)


# ── quality ──────────────────────────────────────────────────────────────────────────────────────
_QUALITY: Columns = {
    **named("symbol", "timeframe", "exchange"),
    "COVERAGE": lambda one: click.style(_percent(one["coverage"]), fg="green" if one["is_good"] else "red"),
    "BARS": "candles",
    "MISSING": "missing",
    "NOT THERE": "absent",
    "REFUSED": "refused",
    "UNAVAILABLE": "unavailable",
    "LONGEST GAP": lambda one: _gap(one["longest_gap"]),
    "NULLS": "nulls",
    "DUPLICATES": "duplicates",
    "WRONG": lambda one: one["incomplete"] + one["inconsistent"],
    "CORRECTED": "corrected",
    "LAST REVISION": lambda one: "" if one["last_revision_at"] is None else one["last_revision_at"][:19] + "Z",
    "QUARANTINED": "quarantined",
    "OUTAGES": lambda one: f"{one['outages']}, {lasting(one['outage_seconds'])}" if one["outages"] else "",
}
_OUTAGE: Columns = {
    **named("symbol", "exchange", "channel"),
    "FROM": "began_at",
    "TO": lambda one: one["ended_at"] or "still",
    "CAUSE": "cause",
}


def _print_quality(found: dict[str, Any]) -> None:
    table(found["items"], _QUALITY, empty="nothing stored yet: 'fks data sample' loads three real months")
    if outages := found["outages"]:
        click.echo("\noutages of feeds, newest first:")
        table(outages[:OUTAGES_SHOWN], _OUTAGE)
        if len(outages) > OUTAGES_SHOWN:
            click.echo(f"… and {len(outages) - OUTAGES_SHOWN} more: --json has them all")


@click.command()
@click.argument("symbol", required=False)
@click.argument("timeframe", required=False)
@click.option("--exchange", default="", help="Only of this exchange.")
@as_json
@click.pass_context
def quality(ctx: click.Context, symbol: str | None, timeframe: str | None, exchange: str, as_json: bool) -> int:
    """Show how far stored bars can be trusted: coverage, gaps, nulls, duplicates, corrections, outages of the feed.

    Coverage counts the bars that the exchange has. Exit code 1 when something is missing or wrong.
    """
    wanted = chosen(symbol, timeframe, exchange)

    async def work(db: Database) -> tuple[list[Quality], list[FeedOutage]]:
        from fks.market.bars.aggregate import length_of

        report = _report(ctx, db)
        listed = sorted(
            await report.series(wanted), key=lambda one: (one.symbol, length_of(one.timeframe), one.exchange)
        )
        ensure_some(listed, symbol, timeframe, exchange)
        with progress("quality", is_shown=not as_json, what="series") as report_progress:
            found = []
            for number, one in enumerate(listed, 1):
                found.append(await report.of(one))
                report_progress(number, len(listed))
        keys = {(one.exchange, one.symbol) for one in listed}
        return found, [outage for outage in await report.outages() if (outage.exchange, outage.symbol) in keys]

    found, outages = with_store(ctx, work)
    document = {"items": [_quality(one) for one in found], "outages": [_outage(one) for one in outages]}
    emit(document, as_json=as_json, schema="fks.data.quality/1")
    if not as_json:
        _print_quality(document)
    return OK if all(one.is_good for one in found) else FAILED


def _percent(share: float) -> str:
    return "100 %" if share == 1 else f"{100 * share:.2f} %"


def _gap(gap: dict[str, Any] | None) -> str:
    return "" if gap is None else f"{gap['bars']} {'bar' if gap['bars'] == 1 else 'bars'} from {gap['from']}"


def _quality(one: Quality) -> dict[str, Any]:
    longest = None
    if one.longest is not None:
        span = one.longest.span
        longest = {"from": iso(span.start_ns), "to": iso(span.end_ns), "bars": one.longest.bars}
    return {
        **json_fields(one, "symbol", "timeframe", "exchange"),
        "from": iso(one.from_ns),
        "to": iso(one.to_ns),
        **json_fields(one, "coverage", "expected", "candles", "missing", "absent", "refused", "unavailable", "gaps"),
        "longest_gap": longest,
        **json_fields(one, "nulls", "duplicates", "incomplete", "inconsistent", "silent", "corrected"),
        "last_revision_at": None if one.corrected_ns is None else iso(one.corrected_ns),
        **json_fields(one, "revision", "quarantined", "outages"),
        "outage_seconds": round(one.outage_ns / 1e9, 3),
        "is_good": one.is_good,
    }


def _outage(one: FeedOutage) -> dict[str, Any]:
    return {
        **json_fields(one, "symbol", "exchange", "channel"),
        "began_at": iso(one.began_ns),
        "ended_at": None if one.ended_ns is None else iso(one.ended_ns),
        "cause": one.cause,
    }


# ── prune ────────────────────────────────────────────────────────────────────────────────────────
@click.command()
@click.option(
    "--older-than", "limit", required=True, metavar="TIME", help="90d (ago), or a date: what opens before goes."
)
@click.option("--symbol", help="Only of this symbol.")
@click.option("--timeframe", "timeframes", multiple=True, help="Only of these; may be repeated.")
@click.option("--exchange", default="", help="Only of this exchange.")
@click.option("--disabled", is_flag=True, help="Only of symbols that are not collected.")
@click.option("--dry-run", is_flag=True, help="Count; delete nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@click.pass_context
def prune(
    ctx: click.Context,
    /,
    limit: str,
    symbol: str | None,
    timeframes: tuple[str, ...],
    exchange: str,
    as_json: bool,
    **how: bool,
) -> None:
    """Delete old bars for good. They are not fetched again, unless a sync asks for them."""
    from fks.clock import RealClock
    from fks.interfaces.cli.events import moment

    before = moment(limit)
    assert before is not None
    before_ns = to_ns(before)
    if before_ns > RealClock().now_ns():
        raise InputError(
            f"{limit} lies ahead: everything would go", remedy="give a time in the past; 'fks reset' clears everything"
        )
    for name in timeframes:
        check_timeframe(name)

    def is_named(one: Series) -> bool:
        if timeframes and one.timeframe not in timeframes:
            return False
        return is_symbol(symbol, one.symbol, one.exchange) and exchange in ("", one.exchange)

    def wanted(one: Series) -> bool:
        return is_named(one) and not (how["disabled"] and one.is_collected)

    async def work(db: Database, *, is_dry: bool) -> list[Any]:
        from fks.market.history.prune import prune as pruned

        ensure_some(await _report(ctx, db).series(is_named), symbol, *timeframes, exchange)
        return await pruned(db, before_ns, wanted, is_dry=is_dry)

    found = with_store(ctx, lambda db: work(db, is_dry=True))
    count = sum(one.bars for one in found)
    if not how["dry_run"] and count:
        if not how["yes"]:
            if as_json:
                raise InputError(
                    "--json asks nothing, and this deletes", remedy="add --yes, or --dry-run to look first"
                )
            click.confirm(f"delete {count:,} bars of {len(found)} series before {iso(before_ns)}?", abort=True)
        found = with_store(ctx, lambda db: work(db, is_dry=False))
    rows = [json_fields(one, "symbol", "timeframe", "exchange", "bars", "kept") for one in found]
    document = {"before": iso(before_ns), "is_dry_run": how["dry_run"], "items": rows}
    emit(document, as_json=as_json, schema="fks.data.prune/1")
    if not as_json:
        gone = "WOULD GO" if how["dry_run"] else "DELETED"
        columns = {**named("symbol", "timeframe", "exchange"), gone: "bars", "KEPT": "kept"}
        table(rows, columns, empty=f"nothing is older than {iso(before_ns)}")
