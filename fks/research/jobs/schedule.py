"""Schedules: cron rows that run a named task when due. A missed tick runs once, late."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from croniter import croniter

from fks.clock import Clock
from fks.config.settings import Settings
from fks.model.accounting.journal import JournalTrade, closed_trades
from fks.model.errors import OutageError
from fks.model.ids import journal_entry_id
from fks.model.timeframe import iso, to_datetime
from fks.research.jobs.drift import KIND as DRIFT
from fks.research.jobs.drift import job_id_of
from fks.research.jobs.sync import NOTHING, Continuous
from fks.research.jobs.valuation import note_portfolio_equity, rates_of, value_fees
from fks.store.challengers import ChallengerStore
from fks.store.db import Database, Querier
from fks.store.jobs import JobStore
from fks.store.lots import LotStore
from fks.store.partitions import drop_old_bars, drop_old_trades, ensure_partitions
from fks.store.performance import refresh
from fks.store.quarantine import QuarantineStore
from fks.store.retention import RetentionStore
from fks.store.trade_journal import JournalPosition, TradeJournalStore
from fks.store.trials import delete_old_trials
from fks.store.valuation import ValuationStore

DAY_NS = 86_400 * 10**9

__all__ = ["NOTHING", "TASKS", "Schedules", "TaskServices", "is_due"]


_ONE, _MINUTE_NS = Decimal(1), 60 * 10**9


@dataclass(frozen=True, slots=True)
class TaskServices:
    """Services that a task may use."""

    db: Database
    clock: Clock
    settings: Settings
    continuous: Continuous


async def _partitions(c: TaskServices) -> str:
    made = await ensure_partitions(c.db, to_datetime(c.clock.now_ns()))
    return f"{len(made)} partitions made"


async def _old_trades(c: TaskServices) -> str:
    dropped = await drop_old_trades(c.db, to_datetime(c.clock.now_ns()), keep_h=c.settings.data.trades_keep_h)
    return f"{len(dropped)} partitions dropped"


async def _old_bars(c: TaskServices) -> str:
    keep_days = {str(timeframe): days for timeframe, days in c.settings.data.bars_keep_days.items()}
    return f"{await drop_old_bars(c.db, to_datetime(c.clock.now_ns()), keep_days)} bars deleted"


async def _old_quarantine(c: TaskServices) -> str:
    before_ns = c.clock.now_ns() - round(c.settings.data.quarantine_keep_days * DAY_NS)
    return f"{await QuarantineStore(c.db).forget(before_ns)} rows of the quarantine deleted"


async def _old_trials(c: TaskServices) -> str:
    before_ns = c.clock.now_ns() - round(c.settings.research.trials_keep_days * DAY_NS)
    searches, trials = await delete_old_trials(c.db, before_ns)
    return f"{trials} trials of {searches} searches deleted"


async def _old_checks(c: TaskServices) -> str:
    monitor, now_ns = c.settings.monitor, c.clock.now_ns()
    first_check, first_minute = (
        to_datetime(now_ns - days * DAY_NS) for days in (monitor.checks_keep_days, monitor.metrics_keep_days)
    )
    checks = await c.db.execute("registry.delete_old_checks", first_check)
    minutes = await c.db.execute("registry.delete_old_metrics", first_minute)
    await c.db.execute("schedules.delete_old_runs", first_check)
    return f"{checks.rpartition(' ')[2]} checks and {minutes.rpartition(' ')[2]} minutes of metrics deleted"


async def _old_rows(c: TaskServices) -> str:
    """Delete what is kept for people and is old. Orders, fills and signals stay."""
    now_ns, settings, store = c.clock.now_ns(), c.settings, RetentionStore(c.db)

    def before(days: float) -> datetime:
        return to_datetime(now_ns - round(days * DAY_NS))

    events = await store.events(before(settings.monitor.events_keep_days))
    alerts = await store.alerts(before(settings.alerts.keep_days))
    jobs = await store.jobs(before(settings.research.results_keep_days))
    return f"{events} events, {alerts} alerts and {jobs} results deleted"


async def _performance(c: TaskServices) -> str:
    fees = await value_fees(c.db, c.settings)
    return f"{await refresh(c.db)}, {fees}"


async def _balances(c: TaskServices) -> str:
    return await c.db.execute("schedules.snapshot_balances")


async def _portfolios(c: TaskServices) -> str:
    return await note_portfolio_equity(c.db, c.settings)


async def _journal(c: TaskServices) -> str:
    return await write_journal(c.db, c.settings, c.clock.now_ns())


async def _lots(c: TaskServices) -> str:
    return await LotStore(c.db, c.settings.venue.exchange).rebuild()


async def _portfolio_risk(c: TaskServices) -> str:
    from fks.research.jobs.portfolio_risk import measure_limits  # numpy is not needed before

    return await measure_limits(c.db, c.settings, c.clock.now_ns())


async def _drift(c: TaskServices) -> str:
    """Submit the watch of each running instance, once a day; nothing without a limit to hold them to."""
    limits = c.settings.strategies
    if limits.drift_slippage_max_bps is None and limits.drift_mismatch_max is None:
        return "no drift limit is set"
    day_ns = c.clock.now_ns() - DAY_NS
    ids = [row["id"] for row in await c.db.fetch("drift.running")]
    for id in ids:
        spec = {"instance": id, "since": iso(day_ns), "is_watched": True}
        job_id = job_id_of(id, iso(c.clock.now_ns())[:10])
        await JobStore(c.db).submit(DRIFT, spec, submitted_by="schedule:drift", job_id=job_id)
    return f"{len(ids)} instances"


async def _forecast_drift(c: TaskServices) -> str:
    from fks.research.jobs.forecast import measure_drift  # numpy is not needed before

    return await measure_drift(c.db)


async def _challengers(c: TaskServices) -> str:
    """Submit the tests of each instance with a challenger, once an hour; those that are not due are left out there."""
    ids = await ChallengerStore(c.db).contested()
    if ids:
        from fks.research.jobs.challenge import KIND, job_id_of_tests  # not needed before

        hour = iso(c.clock.now_ns())[:13]
        for id in ids:
            spec, job_id = {"instance": id}, job_id_of_tests(id, hour)
            await JobStore(c.db).submit(KIND, spec, submitted_by="schedule:challengers", job_id=job_id)
    return f"{len(ids)} instances"


async def _documents(c: TaskServices) -> str:
    """Store the pages of this build where they are not, and submit the job of documents when chunks have no vectors."""
    from fks.research.jobs.documents import store_shipped, submit_pending  # not needed before

    changed, job = await store_shipped(c.db), await submit_pending(c.db, c.clock.now_ns(), c.settings.ai.provider)
    return f"{changed} pages changed, job {job}" if changed or job else NOTHING


async def _continuous(c: TaskServices) -> str:
    return await c.continuous.look()


#: task name -> (default cron in UTC, function). The rows of `schedules` may change the cron or disable a task
TASKS: dict[str, tuple[str, Callable[[TaskServices], Awaitable[str]]]] = {
    "partitions": ("0 * * * *", _partitions),
    "old-trades": ("15 * * * *", _old_trades),
    "old-bars": ("25 0 * * *", _old_bars),
    "old-doubts": ("35 0 * * *", _old_quarantine),
    "old-trials": ("40 0 * * *", _old_trials),
    "old-checks": ("30 0 * * *", _old_checks),
    "old-rows": ("55 0 * * *", _old_rows),
    "daily-performance": ("5 * * * *", _performance),
    "balance-snapshot": ("*/5 * * * *", _balances),
    "portfolio-equity": ("0 * * * *", _portfolios),
    "journal": ("* * * * *", _journal),
    "lots": ("10 * * * *", _lots),
    "portfolio-risk": ("*/5 * * * *", _portfolio_risk),
    "drift": ("45 0 * * *", _drift),
    "challengers": ("50 * * * *", _challengers),
    "forecast-drift": ("20 * * * *", _forecast_drift),
    "documents": ("*/5 * * * *", _documents),
    "continuous": ("* * * * *", _continuous),
}


def is_due(cron: str, last_run: datetime | None, now: datetime) -> bool:
    """Return whether a tick of `cron` lies in (last_run, now]; without a last run it is due at once."""
    if last_run is None:
        return True
    following: datetime = croniter(cron, last_run).get_next(datetime)
    return following <= now


class Schedules:
    """The cron rows of this system. Guarantees: an error of a task is stored in its row and does not stop the
    others."""

    def __init__(self, db: Database, clock: Clock, settings: Settings) -> None:
        self._context = TaskServices(db, clock, settings, Continuous(db, clock, settings))
        self._is_seeded = False
        self._failing: dict[str, str] = {}

    async def start_waiting(self) -> bool:
        """Start the syncs that were requested in `sync_status`. Errors: OutageError."""
        return await self._context.continuous.start_waiting()

    def missing_bars(self) -> dict[str, int]:
        """Return how many bars each exchange's series lacked at the last check."""
        return self._context.continuous.missing_bars()

    @property
    def failing(self) -> Mapping[str, str]:
        """The schedules whose last run failed, and why."""
        return self._failing

    async def run_due(self) -> list[tuple[str, str]]:
        """Run what is due; return (schedule, result) pairs. Errors: OutageError when the database is away."""
        db = self._context.db
        if not self._is_seeded:
            for name, (cron, _) in TASKS.items():
                await db.execute("schedules.seed", name, cron, name, retry=True)
            self._is_seeded = True
        now = to_datetime(self._context.clock.now_ns())
        ran: list[tuple[str, str]] = []
        for row in await db.fetch("schedules.list"):
            if not row["is_enabled"] or row["task"] not in TASKS or row["cron"] is None:
                self._failing.pop(row["name"], None)
                continue
            try:
                if not is_due(row["cron"], row["last_run_at"], now):
                    continue
                result = await TASKS[row["task"]][1](self._context)
                self._failing.pop(row["name"], None)
            except OutageError:
                raise
            except Exception as error:  # an invalid cron, a refused statement: the others still run
                result = f"failed: {type(error).__name__}: {error}"[:500]
                self._failing[row["name"]] = result
                if result == row["last_result"]:
                    continue  # recorded already; the next try is in a second
            await db.execute("schedules.note_run", row["name"], now, result, retry=True)
            ran.append((row["name"], result))
        return ran


async def write_journal(db: Database, settings: Settings, now_ns: int) -> str:
    """Write the entries of trades that have closed since the last run, and return a line about them.

    An entry is a function of executions, rates and bars: written again it is the same row. One whose trade is none any
    more (a late or a busted execution) is removed; its tags and note go to the trade that has its first execution, and
    without one it stays, void. Errors: OutageError; positions written before stay.
    """
    written = positions = 0
    while due := await TradeJournalStore(db).due(now_ns):
        for position in due:
            async with db.transaction() as tx:
                written += await _write_trades(tx, settings, position)
        positions += len(due)
        if len(due) < 500:
            break
    return f"{written} trades of {positions} positions written"


async def _write_trades(tx: Querier, settings: Settings, position: JournalPosition) -> int:
    store = TradeJournalStore(tx)
    base = await store.base(position)
    source = await store.source(position, None if base is None else base[1])
    after = None if base is None else (base[0], base[2])
    trades = closed_trades(source.fills, source.busts, after=after)
    ids = {journal_entry_id(*position.key, trade.entry_fill): trade for trade in trades}
    replaced, removed, void = {}, [], []
    for stored in await store.stored(position, None if base is None else base[1]):
        if stored.id in ids:
            continue
        heir = next((id for id, trade in ids.items() if stored.entry_fill in trade.fills), None)
        if stored.has_notes and heir is None:
            void.append(stored.id)
            continue
        removed.append(stored.id)
        if stored.has_notes:
            replaced[heir] = stored.id
    entries = []
    for id, trade in ids.items():
        entry = await _entry(tx, settings, position, source.exchange, trade)
        entries.append(entry | {"id": str(id), "replaces": None if id not in replaced else str(replaced[id])})
    await store.write(position, entries, removed=removed, void=void)
    return len(entries)


async def _entry(
    tx: Querier, settings: Settings, position: JournalPosition, exchange: str, trade: JournalTrade
) -> dict[str, Any]:
    """Return the values of an entry."""
    start, end = to_datetime(trade.entry_ns), to_datetime(trade.exit_ns)
    low, high, bars, is_missing = await TradeJournalStore(tx).range(exchange, position.symbol, start, end)
    adverse, favourable = trade.excursions(low, high)
    rate: Decimal | None = _ONE
    if trade.quote != position.currency:
        at_ns = trade.exit_ns // _MINUTE_NS * _MINUTE_NS
        rate = rates_of(await ValuationStore(tx).prices(at_ns), settings, at_ns).rate(trade.quote, position.currency)
    return {
        "side": "long" if trade.is_long else "short",
        "quote": trade.quote,
        "entry_fill": str(trade.entry_fill),
        "exit_fill": str(trade.exit_fill),
        "rest": None if trade.rest is None else f"{trade.rest:f}",
        "entry_time": start.isoformat(),
        "exit_time": end.isoformat(),
        "entry_price": f"{trade.entry_price:f}",
        "exit_price": f"{trade.exit_price:f}",
        "quantity": f"{trade.quantity:f}",
        "realized": f"{trade.realized:f}",
        "fees": f"{trade.fees:f}",
        "fees_unvalued": trade.fees_unvalued,
        "slippage": f"{trade.slippage:f}",
        "undecided": trade.undecided,
        "executions": len(trade.fills),
        "rate": None if rate is None else f"{rate:f}",
        "entry_reason": trade.entry_reason,
        "exit_reason": trade.exit_reason,
        "mae_pct": f"{adverse:f}",
        "mfe_pct": f"{favourable:f}",
        "bars": bars,
        "is_complete": rate is not None and not trade.fees_unvalued and not is_missing,
    }
