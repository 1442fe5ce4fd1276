"""Schedules of persons: a fixed list of actions, each with the parameters that it checks, and their runs."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from fks.model.accounting.period import ReportName
from fks.model.errors import ConfigError, FksError, OutageError, conflict, unprocessable
from fks.model.timeframe import to_datetime
from fks.research.jobs.rhythm import Rhythm, cause_of
from fks.research.jobs.spec import checked_spec
from fks.store.jobs import JobStore
from fks.store.leases import fence_of

if TYPE_CHECKING:
    from fks.system.runtime import Component

_LABEL = "schedule"


AT_ONCE = 4
#: Name, cron (UTC) and action of the schedule that a system with its own database has from the start.
BACKUP = ("backup", "30 2 * * *", "backup")
_NAMESPACE = uuid.UUID("0b0b8f2e-7d0c-5f43-9a57-3f1f5f1c6a52")


class NoParams(BaseModel):
    """Takes none."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BackupParams(NoParams):
    """`keep`: so many backups of schedules stay, the newest."""

    keep: int = Field(7, ge=1, le=1000)


class SyncParams(NoParams):
    """Of which symbol, and which timeframes (default: those that are collected)."""

    symbol: str = Field(min_length=1, max_length=64)
    exchange: str | None = Field(None, max_length=64)
    timeframes: tuple[str, ...] | None = Field(None, max_length=20)


class DriftParams(NoParams):
    """Of which strategy instance."""

    instance: str = Field(min_length=1, max_length=128)


class ReportParams(NoParams):
    """`period`: the newest day, week or month that is over."""

    period: ReportName = "daily"


class RebalanceParams(NoParams):
    """Of which portfolio, whose trigger is `schedule`. With a `calendar`, only while its market is open."""

    portfolio: str = Field(min_length=1, max_length=64)
    calendar: str | None = Field(None, max_length=32)

    @field_validator("calendar")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        from fks.model.calendars import calendar_of

        try:
            if name is not None:
                calendar_of(name)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return name


Run = Callable[["Component", Any, uuid.UUID], Awaitable[str]]


async def _deep_check(c: Component, params: Any, id: uuid.UUID) -> str:
    from fks.system.monitor.deep import DeepChecks

    look = await DeepChecks(c.db, c.bus, c.clock, c.settings, c.paths).run()
    bad = sorted(name for name, check in look.checks.items() if check.status in ("down", "degraded"))
    return f"{len(look.checks)} checks, not healthy: {', '.join(bad) or 'none'}"


async def _backup(c: Component, params: BackupParams, id: uuid.UUID) -> str:
    """Write a backup, checked by a scratch restore. Errors: OutageError when it failed, or the check did."""
    from fks.system.servers import bundle

    made = await bundle.make(c.node.database_url, c.paths, c.settings, label=_LABEL, clock=c.clock)
    size_mb = made.file.stat().st_size / 1e6
    if not made.manifest.is_verified and c.settings.backup.verify:
        # older ones stay: they may be the last good ones
        raise OutageError(f"{made.file.name}, {size_mb:.1f} MB, is not verified: {made.manifest.why}")
    bundle.prune(made.file.parent, label=_LABEL, keep=params.keep)
    return f"{made.file.name}, {size_mb:.1f} MB" + (", verified" if made.manifest.is_verified else "")


async def _sync(c: Component, params: SyncParams, id: uuid.UUID) -> str:
    from fks.store.reading import ReadingStore
    from fks.store.sync import SyncStore

    item = await ReadingStore(c.db).find(params.symbol, params.exchange)
    timeframes = params.timeframes or c.settings.data.timeframes
    await SyncStore(c.db).want(item.exchange, item.symbol, list(timeframes))
    return f"sync of {item.symbol} {' '.join(timeframes)} requested"


async def _drift(c: Component, params: DriftParams, id: uuid.UUID) -> str:
    from fks.research.jobs.drift import KIND

    spec = {"instance": params.instance, "is_watched": True}
    await JobStore(c.db).submit(KIND, spec, submitted_by=_LABEL, job_id=id)
    return f"job {id}"


async def _report(c: Component, params: ReportParams, id: uuid.UUID) -> str:
    """Report all accounts, once for each period, however often this runs."""
    from fks.model.accounting.period import last_ended
    from fks.research.jobs.reports import issue_report
    from fks.store.reports import ReportStore

    store, now_ns = ReportStore(c.db), c.clock.now_ns()
    period = last_ended(params.period, now_ns)
    document = await store.report(period, None, home=c.settings.venue.exchange, now_ns=now_ns)
    title, is_new = await issue_report(store, period, document, now_ns=now_ns)
    return title if is_new else f"{title}: was reported before"


async def _retention(c: Component, params: Any, id: uuid.UUID) -> str:
    from fks.research.jobs.schedule import TASKS, TaskServices
    from fks.research.jobs.sync import Continuous

    context = TaskServices(c.db, c.clock, c.settings, Continuous(c.db, c.clock, c.settings))
    return "; ".join([await run(context) for name, (_, run) in TASKS.items() if name.startswith("old-")])


async def _rebalance(c: Component, params: RebalanceParams, id: uuid.UUID) -> str:
    """Request a rebalancing, which starts as soon as nothing holds it: once for each run of a schedule."""
    from fks.model.calendars import calendar_of, is_open_at
    from fks.store.portfolio_runs import PortfolioRunStore
    from fks.store.portfolios import PortfolioStore

    portfolio, now_ns = await PortfolioStore(c.db).get(params.portfolio), c.clock.now_ns()
    if params.calendar is not None and not is_open_at(calendar_of(params.calendar), now_ns):
        return f"the market of {params.calendar} is closed"
    if await PortfolioRunStore(c.db).request_run(portfolio.id, id, now_ns):
        return f"rebalancing of {portfolio.name} requested"
    raise conflict(
        "TRIGGER_WRONG",
        f"schedules do not rebalance {portfolio.name}, or it has no targets",
        f"fks portfolio trigger {portfolio.name} --by schedule",
    )


async def _allocate(c: Component, params: Any, id: uuid.UUID) -> str:
    from fks.research.jobs.allocation import KIND

    await JobStore(c.db).submit(KIND, params.model_dump(mode="json"), submitted_by=_LABEL, job_id=id)
    return f"job {id}"


async def _backtest(c: Component, params: Any, id: uuid.UUID) -> str:
    from fks.research.jobs.backtest import KIND

    return await _submitted(c, KIND, params, id)


async def _optimize(c: Component, params: Any, id: uuid.UUID) -> str:
    from fks.research.jobs.optimization import KIND

    return await _submitted(c, KIND, params, id)


async def _forecast(c: Component, params: Any, id: uuid.UUID) -> str:
    """Submit a training, whose model is a candidate."""
    from fks.research.jobs.forecast import KIND, find_market

    spec = await find_market(c.db, params)
    await JobStore(c.db).submit(KIND, spec.as_json(), submitted_by=_LABEL, job_id=id)
    return f"job {id}"


async def _submitted(c: Component, kind: str, params: Any, id: uuid.UUID) -> str:
    """Submit a job on stored bars, with the costs of the settings. The same id again is the same job."""
    from fks.research.jobs.backtest import with_costs
    from fks.store.reading import ReadingStore

    given = params.model_dump(by_alias=True, exclude_unset=True)
    spec = type(params).model_validate(with_costs(given, c.settings.costs, c.settings.collar_pct))
    item = await ReadingStore(c.db).find(spec.symbol, spec.exchange)
    found = {**spec.model_dump(mode="json", by_alias=True), "symbol": item.symbol, "exchange": item.exchange}
    await JobStore(c.db).submit(kind, found, submitted_by=_LABEL, job_id=id)
    return f"job {id}"


#: action of SCHEDULE_ACTIONS -> (its parameters; None: `_parsed` reads them, its function). A run has an id of its own,
#: by which work that it submits is submitted once, however often the run is begun
ACTIONS: dict[str, tuple[type[BaseModel] | None, Run]] = {
    "deep-check": (NoParams, _deep_check),
    "backup": (BackupParams, _backup),
    "sync": (SyncParams, _sync),
    "drift-check": (DriftParams, _drift),
    "report": (ReportParams, _report),
    "rebalance": (RebalanceParams, _rebalance),
    "allocate": (None, _allocate),
    "retention": (NoParams, _retention),
    "backtest": (None, _backtest),
    "optimize": (None, _optimize),
    "forecast": (None, _forecast),
}


def checked_params(action: str, params: Mapping[str, Any]) -> BaseModel:
    """Return the parameters of an action. Errors: InputError ACTION_UNKNOWN, SPEC_WRONG naming the field."""
    if action not in ACTIONS:
        raise unprocessable("ACTION_UNKNOWN", f"there is no action {action[:80]!r}", f"use {', '.join(ACTIONS)}")
    model = ACTIONS[action][0]
    if model is None:
        return _parsed(action, params)
    return checked_spec(model, params, action, remedy="see 'fks schedule add --help'")


def _parsed(action: str, params: Mapping[str, Any]) -> BaseModel:
    if action == "allocate":
        from fks.research.jobs import allocation

        return allocation.parse_spec(params)
    if action == "optimize":
        from fks.research.jobs.optimization import parse_optimization

        return parse_optimization(params)
    if action == "forecast":
        from fks.research.jobs.forecast import parse_forecast

        return parse_forecast(params)
    from fks.research.jobs.backtest import parse_spec

    return parse_spec(params)


class PersonalSchedules:
    """Runs the schedules of persons: due runs are begun once per cluster, recorded, and made again once when lost.

    A run is a row that is inserted before it begins, in one statement that checks the scheduler's epoch: a replaced
    scheduler begins none. A run whose scheduler died is marked lost by its successor and made again once. One that
    dies again waits for its next due time, so that a run that kills its process cannot do so for ever. Work that a
    run submits has an id that follows from schedule and due time, and is submitted once.

    Soft state: the runs under way, and ends that could not be written yet.
    """

    def __init__(self, component: Component) -> None:
        self._c = component
        self._running: dict[int, asyncio.Task[None]] = {}
        self._ended: dict[int, tuple[str, str]] = {}
        self._is_seeded = False

    async def run_due(self) -> list[str]:
        """Begin what is due and return the names of those schedules. Errors: OutageError."""
        db, now = self._c.db, to_datetime(self._c.clock.now_ns())
        await self._write_ends()
        if not self._is_seeded:
            if self._c.settings.database.url is None:  # else its operator backs it up
                await db.execute("schedules.seed", *BACKUP, retry=True)
            self._is_seeded = True
        rows = [dict(row) for row in await db.fetch("schedules.list") if row["task"] in ACTIONS]
        if not rows:
            return []
        name, epoch = fence_of(self._c.lease)
        for lost in await db.fetch("schedules.lose_runs", list(self._running), name, epoch):
            self._c.log.warning("schedule.lost", schedule=lost["schedule"], run=lost["id"])
        again = {row["schedule"]: row["due_at"] for row in await db.fetch("schedules.lost_runs")}
        begun = []
        for row in rows:
            if len(self._running) >= AT_ONCE:
                break
            try:
                wanted = _run_to_begin(row, again.get(row["name"]), now)
            except ValueError as error:  # a rhythm of an earlier version must not end the scheduler
                self._c.log.warning("schedule.failed", schedule=row["name"], result=str(error)[:500])
                continue
            if wanted is None:
                continue
            due_at, attempt, cause = wanted
            id = await db.fetchval("schedules.claim_run", row["name"], due_at, attempt, cause, name, epoch)
            if id is not None:
                self._begin(int(id), row, due_at)
                begun.append(str(row["name"]))
        return begun

    def _begin(self, id: int, row: Mapping[str, Any], due_at: datetime) -> None:
        async def work() -> None:
            try:
                params = checked_params(row["task"], row["spec"])
                run_id = uuid.uuid5(_NAMESPACE, f"{row['name']}|{due_at.isoformat()}")
                state, result = "done", await ACTIONS[row["task"]][1](self._c, params, run_id)
            except FksError as error:
                state, result = "failed", str(error)
            except Exception as error:  # one action that raises must not end the others
                state, result = "failed", f"{type(error).__name__}: {error}"
            self._ended[id] = (state, result[:500])
            if state == "failed":
                self._c.log.warning("schedule.failed", schedule=row["name"], result=result[:500])
            else:
                self._c.log.info("schedule.ran", schedule=row["name"], result=result[:500])

        self._running[id] = asyncio.create_task(work())

    async def _write_ends(self) -> None:
        for id, (state, result) in tuple(self._ended.items()):
            await self._c.db.execute("schedules.finish_run", id, state, result)
            self._ended.pop(id)
            self._running.pop(id, None)

    def stop(self) -> None:
        """End the runs under way: the next scheduler makes them again."""
        for task in self._running.values():
            task.cancel()


def _run_to_begin(row: Mapping[str, Any], lost_at: datetime | None, now: datetime) -> tuple[datetime, int, str] | None:
    """Return due time, attempt and cause of the run to begin, or None. A person's request comes first."""
    if row["requested_at"] is not None:
        return row["requested_at"], 1, "person"
    if not row["is_enabled"]:
        return None
    if lost_at is not None:
        return lost_at, 2, "again"
    due_at = Rhythm(row["cron"], row["every_s"]).due(row["last_run_at"] or row["created_at"], now)
    return None if due_at is None else (due_at, 1, cause_of(due_at, now))
