"""Actions that a schedule of a person may run: a fixed list, each with the parameters that it checks."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from fks.jobs.spec import checked_spec
from fks.model.errors import InputError, OutageError
from fks.model.timeframe import to_datetime
from fks.portfolio.report import ReportName
from fks.store.jobs import JobStore

if TYPE_CHECKING:
    from fks.runtime import Component

_LABEL = "schedule"


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


Run = Callable[["Component", Any, uuid.UUID], Awaitable[str]]


async def _deep_check(c: Component, params: Any, id: uuid.UUID) -> str:
    from fks.monitor.deep import DeepChecks

    look = await DeepChecks(c.db, c.bus, c.clock, c.settings, c.paths).run()
    bad = sorted(name for name, check in look.checks.items() if check.status in ("down", "degraded"))
    return f"{len(look.checks)} checks, not healthy: {', '.join(bad) or 'none'}"


async def _backup(c: Component, params: BackupParams, id: uuid.UUID) -> str:
    """Write a backup, checked by a scratch restore. Errors: OutageError when it failed, or the check did."""
    from fks.servers import bundle

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
    from fks.jobs.drift import KIND

    spec = {"instance": params.instance, "is_watched": True}
    await JobStore(c.db).submit(KIND, spec, submitted_by=_LABEL, job_id=id)
    return f"job {id}"


async def _report(c: Component, params: ReportParams, id: uuid.UUID) -> str:
    """Raise the report as a notice, which alert channels deliver: once for each period, however often this runs."""
    from fks.portfolio.report import last_ended, text_of, title_of
    from fks.store.alerting import AlertingStore
    from fks.store.reports import ReportStore

    now_ns = c.clock.now_ns()
    period = last_ended(params.period, to_datetime(now_ns).date())
    found = await ReportStore(c.db).report(period, None, home=c.settings.venue.exchange, now_ns=now_ns)
    title = title_of(found)
    is_new = await AlertingStore(c.db).raise_alert(
        at=to_datetime(now_ns),
        severity="info",
        event="report",
        message=f"{title}\n{text_of(found)}",
        component="scheduler",
        payload={},
        rule="report",
        key="",
        ref=f"{period.name}:{found['start']}",
    )
    return title if is_new else f"{title}: was reported before"


async def _retention(c: Component, params: Any, id: uuid.UUID) -> str:
    from fks.jobs.schedule import TASKS, TaskServices
    from fks.jobs.sync import Continuous

    context = TaskServices(c.db, c.clock, c.settings, Continuous(c.db, c.clock, c.settings))
    return "; ".join([await run(context) for name, (_, run) in TASKS.items() if name.startswith("old-")])


async def _backtest(c: Component, params: Any, id: uuid.UUID) -> str:
    from fks.jobs.backtest import KIND

    return await _submitted(c, KIND, params, id)


async def _optimize(c: Component, params: Any, id: uuid.UUID) -> str:
    from fks.jobs.optimization import KIND

    return await _submitted(c, KIND, params, id)


async def _submitted(c: Component, kind: str, params: Any, id: uuid.UUID) -> str:
    """Submit a job on stored bars, with the costs of the settings. The same id again is the same job."""
    from fks.jobs.backtest import with_costs
    from fks.store.reading import ReadingStore

    given = params.model_dump(by_alias=True, exclude_unset=True)
    spec = type(params).model_validate(with_costs(given, c.settings.costs, c.settings.collar_pct))
    item = await ReadingStore(c.db).find(spec.symbol, spec.exchange)
    found = {**spec.model_dump(mode="json", by_alias=True), "symbol": item.symbol, "exchange": item.exchange}
    await JobStore(c.db).submit(kind, found, submitted_by=_LABEL, job_id=id)
    return f"job {id}"


#: action -> (its parameters; None: `_parsed` reads them, its function). A run has an id of its own, by which
#: work that it submits is submitted once, however often the run is begun
ACTIONS: dict[str, tuple[type[BaseModel] | None, Run]] = {
    "deep-check": (NoParams, _deep_check),
    "backup": (BackupParams, _backup),
    "sync": (SyncParams, _sync),
    "drift-check": (DriftParams, _drift),
    "report": (ReportParams, _report),
    "retention": (NoParams, _retention),
    "backtest": (None, _backtest),
    "optimize": (None, _optimize),
}


def checked_params(action: str, params: Mapping[str, Any]) -> BaseModel:
    """Return the parameters of an action. Errors: InputError ACTION_UNKNOWN, SPEC_WRONG naming the field."""
    if action not in ACTIONS:
        raise InputError(
            f"there is no action {action[:80]!r}", code="ACTION_UNKNOWN", status=422, remedy=f"use {', '.join(ACTIONS)}"
        )
    model = ACTIONS[action][0]
    if model is None:
        return _parsed(action, params)
    return checked_spec(model, params, action, remedy="see 'fks schedule add --help'")


def _parsed(action: str, params: Mapping[str, Any]) -> BaseModel:
    if action == "optimize":
        from fks.jobs.optimization import parse_optimization

        return parse_optimization(params)
    from fks.jobs.backtest import parse_spec

    return parse_spec(params)
