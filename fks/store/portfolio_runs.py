"""Targets of portfolios and their rebalancings in the database.

A run begins as a plan, which a person may start. The steps of a run are rows; what became of a step is read from its
signal and its order, so that a run goes on from its rows in any process.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from fks.model.account import Account
from fks.model.accounting.attribution import InstanceFill
from fks.model.errors import conflict
from fks.model.instrument import Instrument
from fks.store.base import FencedStore, dataclass_reader, query, reads
from fks.store.db import Querier
from fks.store.instruments import instrument_of

#: Seconds for which a person's plan that was never started is kept.
PLAN_KEPT_S = 120.0
#: Of a step: it is over.
STEP_ENDED = frozenset({"filled", "ended"})
#: Of a run: it may still trade, or waits for its last orders.
RUN_ACTIVE = frozenset({"running", "cancelling"})


@dataclass(frozen=True, slots=True)
class TargetRow:
    """The target weight of an instrument, and its bounds in place of the rules' band."""

    exchange: str
    symbol: str
    weight: Decimal
    weight_min: Decimal | None = None
    weight_max: Decimal | None = None


@dataclass(frozen=True, slots=True)
class InstanceTarget:
    """The target weight of a strategy instance: a share of the equity. `size` and `params_version` are those
    that it got by it, None while it waits, because of `reason`."""

    instance_id: str
    weight: Decimal
    size: Decimal | None = None
    params_version: int | None = None
    applied_at: datetime | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class WaitingSize:
    """The weight of a strategy instance, of the newest targets, that it does not have yet."""

    portfolio_id: int
    portfolio: str
    version: int
    instance_id: str
    weight: Decimal


@dataclass(frozen=True, slots=True)
class TargetSet:
    """The newest targets of a portfolio without their weights. `rules`: as `RebalanceRules` names them."""

    portfolio_id: int
    version: int
    account: Account
    rules: dict[str, Any]
    created_by: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class PortfolioRun:
    """A plan or a run. `reason`: what holds it, or why it ended; `drift`: of the plan, after its end the drift left.

    `cash_free` is what its buys may spend beside the proceeds of its sells, in `base_currency`."""

    id: uuid.UUID
    portfolio_id: int
    portfolio: str
    base_currency: str
    targets_version: int
    account_id: int
    account: str
    plan_hash: str
    state: str
    reason: str | None
    capital: Decimal
    cash_free: Decimal
    rules: dict[str, Any]
    drift: list[Any]
    created_by: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    trigger: str | None = None
    trigger_key: str | None = None


@dataclass(frozen=True, slots=True)
class TriggerRow:
    """The `TriggerPolicy` of a portfolio, and the last decision of its trigger.
    `requested_id`: a schedule's run that is not decided yet; `decided_bar`: close of the last bar decided on."""

    portfolio_id: int
    trigger: str
    band: Decimal | None
    timeframe: str
    cooldown_s: float
    needs_approval: bool
    change_max: Decimal
    updated_by: str
    updated_at: datetime
    requested_id: uuid.UUID | None
    requested_at: datetime | None
    decided_bar: datetime | None
    decision: str | None
    decision_detail: str | None
    decided_at: datetime | None


@dataclass(frozen=True, slots=True)
class DueTrigger(TriggerRow):
    """The policy of a portfolio that a trigger may rebalance now. `approval_at`: time of the automatic plan that waits
    for a person. `is_cancelled`: the newest run was one by drift and was cancelled after the policy was set."""

    portfolio: str
    targets_version: int
    targets_at: datetime
    rules: dict[str, Any]
    started_at: datetime | None
    is_running: bool
    is_cancelled: bool
    approval_at: datetime | None


@dataclass(frozen=True, slots=True)
class AllocationRow:
    """Weights that a method found. `weights`: exchange, symbol, weight, and the target before, null for none.
    `targets_version`: of the targets when it was calculated; `state`: ready, waiting, applied or refused."""

    id: uuid.UUID
    portfolio_id: int
    portfolio: str
    method: str
    as_of: datetime
    inputs_hash: str
    weights: list[Any]
    diagnostics: dict[str, Any]
    targets_version: int
    state: str
    reason: str | None
    applied_version: int | None
    created_by: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class PortfolioRunStep:
    """One order of a run, and what became of it. `price`, `fee` and `slippage` are those of the plan, in quote;
    `limit_price` is None for a market order."""

    step: int
    exchange: str
    symbol: str
    side: str
    quantity: Decimal
    price: Decimal
    limit_price: Decimal | None
    fee: Decimal
    slippage: Decimal
    signal_id: uuid.UUID
    state: str
    ordered_quantity: Decimal | None
    code: str | None
    detail: str | None
    sent_at: datetime | None
    signal_state: str | None
    client_order_id: str | None
    order_state: str | None
    filled: Decimal
    average_price: Decimal | None

    @property
    def is_over(self) -> bool:
        """Return whether nothing more comes of it."""
        return self.state in STEP_ENDED

    @property
    def cost_rate(self) -> Decimal:
        """Return the expected costs, a fraction of the value."""
        return (self.fee + self.slippage) / (self.quantity * self.price)


for _class in (
    InstanceTarget,
    WaitingSize,
    TargetRow,
    PortfolioRun,
    PortfolioRunStep,
    TriggerRow,
    DueTrigger,
    AllocationRow,
):
    reads(_class)
reads(InstanceFill, time_ns="time")
_target, _target_set = dataclass_reader(TargetRow), reads(TargetSet)


class PortfolioRunStore(FencedStore[Querier], queries="portfolio_runs"):
    """Targets, plans and runs. The scheduler's writes are fenced by `lease`. Takes a database or a transaction."""

    async def target_set(self, portfolio_id: int) -> TargetSet | None:
        """Return the newest targets, None before the first."""

    async def target_weights(self, portfolio_id: int, version: int) -> list[TargetRow]:
        """Return the weights of a version, largest first."""

    async def target_instruments(
        self, portfolio_id: int
    ) -> tuple[TargetSet, list[tuple[TargetRow, bool, Instrument | None]]] | None:
        """Return the newest targets, None before the first, with each symbol that the portfolio has ever had a target
        of and its rules (None: it is listed no more).

        Those that have a target now come first, largest first, and are marked; the others have the weight 0.
        """
        rows = await self._db.fetch("portfolio_runs.target_instruments", portfolio_id)
        if not rows:
            return None
        return _target_set(rows[0]), [
            (_target(row), row["is_target"], None if row["tick"] is None else instrument_of(row))
            for row in rows
            if row["symbol"] is not None
        ]

    async def is_member(self, portfolio_id: int, account_id: int) -> bool:
        """Return whether the account is a member of the portfolio, and that is active."""

    async def add_target_set(
        self,
        portfolio_id: int,
        version: int,
        account_id: int,
        rules: Mapping[str, Any],
        by: str,
        targets: Sequence[TargetRow],
        instances: Sequence[InstanceTarget] = (),
    ) -> None:
        """Write the next version of the targets."""
        rows = [
            {
                "exchange": row.exchange,
                "symbol": row.symbol,
                "weight": f"{row.weight:f}",
                "weight_min": None if row.weight_min is None else f"{row.weight_min:f}",
                "weight_max": None if row.weight_max is None else f"{row.weight_max:f}",
            }
            for row in targets
        ]
        sized = [{"instance_id": row.instance_id, "weight": f"{row.weight:f}"} for row in instances]
        await self._db.execute(
            "portfolio_runs.add_target_set", portfolio_id, version, account_id, {**rules}, by, rows, sized
        )

    # ── sizes of strategy instances ──────────────────────────────────────────────────────────────
    async def instance_targets(self, portfolio_id: int, version: int) -> list[InstanceTarget]:
        """Return the weights of strategy instances of a version, largest first."""

    async def waiting_sizes(self) -> list[WaitingSize]:
        """Return the weights that instances do not have yet."""

    @query(binds=("row.portfolio_id", "row.version", "row.instance_id", "size", "params_version", "at_ns"))
    async def apply_size(self, row: WaitingSize, size: Decimal, params_version: int, at_ns: int) -> bool:
        """Note that an instance has its size; False: another process did, or the targets were changed."""

    @query(binds=("row.portfolio_id", "row.version", "row.instance_id", "reason"))
    async def hold_size(self, row: WaitingSize, reason: str) -> bool:
        """Note why an instance does not have its size yet; False: it is noted."""

    # ── plans and runs ───────────────────────────────────────────────────────────────────────────
    async def active(self, portfolio_id: int) -> uuid.UUID | None:
        """Return the run of the portfolio that is under way, or None."""

    @query(
        binds=(
            *("run.id", "run.portfolio_id", "run.targets_version", "run.account_id", "run.plan_hash", "run.capital"),
            *("run.cash_free", "run.rules", "run.drift", "run.created_by", "run.created_at", "steps"),
            *("run.trigger", "run.trigger_key", "kept_s"),
        )
    )
    async def add_plan(
        self, run: PortfolioRun, steps: Sequence[Mapping[str, Any]], kept_s: float = PLAN_KEPT_S
    ) -> bool:
        """Write a plan and its steps, once; False if it, or one of the same cause, is there, or a run has ended since
        the plan was made. `steps`: the columns of a step, numbers as text. Plans of persons that were made `kept_s`
        before and never started are deleted."""

    async def run(self, portfolio_id: int, id: uuid.UUID) -> PortfolioRun | None:
        """Return one plan or run of a portfolio, or None."""

    async def planned(self, portfolio_id: int, plan_hash: str) -> uuid.UUID | None:
        """Return the id of the plan with this hash, whatever it became; None if it is unknown."""

    async def runs(self, portfolio_id: int, limit: int) -> list[PortfolioRun]:
        """Return the runs that were started, automatic plans that a person declined, and the one that waits for a
        person; newest first."""

    async def active_runs(self) -> list[tuple[int, uuid.UUID]]:
        """Return portfolio and id of the runs that are under way, oldest first."""

    async def steps(self, run_id: uuid.UUID) -> list[PortfolioRunStep]:
        """Return the steps of a run in their order, with what became of them."""

    async def start(self, run_id: uuid.UUID, now_ns: int, by: str) -> bool:
        """Start a plan; False if it was started before."""

    async def request_cancel(self, run_id: uuid.UUID, reason: str) -> bool:
        """Have a run send no more orders, or an automatic plan never start; False if it is neither."""

    async def is_cash_read(self, run_id: uuid.UUID, before_ns: int) -> bool | None:
        """Return whether the account's cash was read after the last execution of the run, or that was before a time;
        None if nothing of it was executed."""

    async def unread_spending(self, run_id: uuid.UUID, after_ns: int) -> Decimal:
        """Return the value of the account's buys, of whichever instance, that were booked after a time and after its
        cash was last read; in the portfolio's currency."""

    async def is_flattened(self, run_id: uuid.UUID, instance: str) -> bool:
        """Return whether a kill that closes positions of the run was engaged since its start, released or not.
        `instance`: of its orders."""

    # ── triggers ─────────────────────────────────────────────────────────────────────────────────
    async def policy(self, portfolio_id: int) -> TriggerRow | None:
        """Return when a portfolio is rebalanced without a person; None: never."""

    async def set_policy(
        self,
        portfolio_id: int,
        trigger: str,
        band: Decimal | None,
        timeframe: str,
        cooldown_s: float,
        needs_approval: bool,
        change_max: Decimal,
        by: str,
    ) -> None:
        """Write when a portfolio is rebalanced without a person. A request that waits is dropped."""

    async def request_run(self, portfolio_id: int, id: uuid.UUID, now_ns: int) -> bool:
        """Have a portfolio rebalanced for a schedule's run; False if schedules do not rebalance it, or it has no
        targets. The same id starts one run."""

    async def triggers(self) -> list[DueTrigger]:
        """Return the portfolios that a trigger may rebalance: by drift, or for a request that waits."""

    async def sealed_closes(
        self, exchanges: Sequence[str], symbols: Sequence[str], timeframe: str, open_ns: int
    ) -> dict[str, float]:
        """Return the closes, by symbol, of bars that opened at a time, as far as they are sealed."""

    async def settle_trigger(
        self,
        portfolio_id: int,
        updated_at: datetime,
        bar_ns: int | None,
        request: uuid.UUID | None,
        decision: str,
        detail: str | None,
    ) -> bool:
        """Decide on a bar, by its close, or on a request; False if that was done before, or the policy was changed."""

    async def drop_pending(self, portfolio_id: int) -> None:
        """Delete the automatic plan that waits for a person."""

    # ── allocations ──────────────────────────────────────────────────────────────────────────────
    async def add_allocation(
        self,
        id: uuid.UUID,
        portfolio_id: int,
        method: str,
        as_of_ns: int,
        inputs_hash: str,
        weights: Sequence[Mapping[str, Any]],
        diagnostics: Mapping[str, Any],
        targets_version: int,
        state: str,
        by: str,
    ) -> None:
        """Write the weights that a method found, once."""

    async def instance_fills(self, instance_id: str) -> list[InstanceFill]:
        """Return all executions of a strategy instance, oldest first."""

    async def instance_since(self, instance_id: str) -> int:
        """Return when a strategy instance was added."""

    async def allocation(self, portfolio_id: int, id: uuid.UUID) -> AllocationRow | None:
        """Return one allocation of a portfolio, or None."""

    async def allocations(self, portfolio_id: int, limit: int) -> list[AllocationRow]:
        """Return the allocations of a portfolio, newest first."""

    async def waiting_allocations(self) -> list[tuple[int, uuid.UUID]]:
        """Return portfolio and id of the allocations that are to be applied without a person."""

    async def end_allocation(self, id: uuid.UUID, state: str, version: int | None, reason: str | None) -> bool:
        """Note that an allocation became targets, or why not; False if it had become targets before."""

    # ── the scheduler ────────────────────────────────────────────────────────────────────────────
    @query(is_fenced=True)
    async def claim_step(self, run_id: uuid.UUID, step: int, now_ns: int, quantity: Decimal) -> Decimal | None:
        """Take the right to commit the step's signal, and return the quantity to order: that of the first claim. None
        if the run is not running, a newer epoch owns the lease, or the signal is there."""

    @query(is_fenced=True)
    async def end_step(
        self, run_id: uuid.UUID, step: int, state: str, code: str | None = None, detail: str | None = None
    ) -> None:
        """Note the end of a step, once."""

    @query(is_fenced=True)
    async def hold(self, run_id: uuid.UUID, reason: str | None) -> bool:
        """Note what holds a running run, None for nothing. Returns whether that is new."""

    @query(is_fenced=True)
    async def note_decision(self, portfolio_id: int, decision: str, detail: str | None) -> bool:
        """Note why a trigger starts nothing yet. Returns whether that is new."""

    @query(is_fenced=True)
    async def finish(
        self, run_id: uuid.UUID, state: str, reason: str | None, drift: list[Any] | None, now_ns: int
    ) -> bool:
        """End a run, and delete the portfolio's plans from before its end. Returns whether it had not ended."""


async def check_idle(db: Querier, portfolio_id: int, name: str, *, besides: uuid.UUID | None = None) -> None:
    """Lock a portfolio in the open transaction, and refuse while it is rebalanced by another run than `besides`.

    Errors: InputError 409 PORTFOLIO_RUNNING.
    """
    await db.fetchrow("portfolios.lock", portfolio_id)
    if (running := await PortfolioRunStore(db).active(portfolio_id)) not in (None, besides):
        raise conflict(
            "PORTFOLIO_RUNNING",
            f"portfolio {name} is being rebalanced by run {running}",
            f"wait until it has ended, or cancel it: fks portfolio cancel {name} {running}",
        )
