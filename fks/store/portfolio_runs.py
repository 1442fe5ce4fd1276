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

from fks.model.errors import InputError
from fks.store.base import FencedStore, query, reads
from fks.store.db import Querier

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
class TargetSet:
    """The newest targets of a portfolio without their weights. `rules`: as `RebalanceRules` names them."""

    portfolio_id: int
    version: int
    account_id: int
    account: str
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


@dataclass(frozen=True, slots=True)
class PortfolioRunStep:
    """One order of a run, and what became of it. `price`, `fee` and `slippage` are those of the plan, in quote."""

    step: int
    exchange: str
    symbol: str
    side: str
    quantity: Decimal
    price: Decimal
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


for _class in (TargetRow, TargetSet, PortfolioRun, PortfolioRunStep):
    reads(_class)


class PortfolioRunStore(FencedStore[Querier], queries="portfolio_runs"):
    """Targets, plans and runs. The scheduler's writes are fenced by `lease`. Takes a database or a transaction."""

    async def target_set(self, portfolio_id: int) -> TargetSet | None:
        """Return the newest targets, None before the first."""

    async def target_weights(self, portfolio_id: int, version: int) -> list[TargetRow]:
        """Return the weights of a version, largest first."""

    async def target_places(self, portfolio_id: int) -> dict[str, str]:
        """Return the exchange of each symbol that the portfolio has ever had a target of, by symbol."""

    async def is_member(self, portfolio_id: int, account_id: int) -> bool:
        """Return whether the account is a member of the portfolio, and that is active."""

    async def venue_state(self, venue: str, account_id: int) -> str | None:
        """Return the state of a venue's session of an account, as the order manager last wrote it; None before."""

    async def add_target_set(
        self,
        portfolio_id: int,
        version: int,
        account_id: int,
        rules: Mapping[str, Any],
        by: str,
        targets: Sequence[TargetRow],
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
        await self._db.execute("portfolio_runs.add_target_set", portfolio_id, version, account_id, {**rules}, by, rows)

    # ── plans and runs ───────────────────────────────────────────────────────────────────────────
    async def active(self, portfolio_id: int) -> uuid.UUID | None:
        """Return the run of the portfolio that is under way, or None."""

    async def forget_plans(self, portfolio_id: int, before_ns: int) -> None:
        """Delete plans that were made before a time and never started."""

    async def add_plan(self, run: PortfolioRun, steps: Sequence[Mapping[str, Any]]) -> None:
        """Write a plan and its steps, once. `steps`: the columns of a step, numbers as text."""
        await self._db.execute(
            "portfolio_runs.add_plan",
            run.id,
            run.portfolio_id,
            run.targets_version,
            run.account_id,
            run.plan_hash,
            run.capital,
            run.cash_free,
            run.rules,
            run.drift,
            run.created_by,
            run.created_at,
            [dict(step) for step in steps],
        )

    async def run(self, portfolio_id: int, id: uuid.UUID) -> PortfolioRun | None:
        """Return one plan or run of a portfolio, or None."""

    async def planned(self, portfolio_id: int, plan_hash: str) -> uuid.UUID | None:
        """Return the id of the plan with this hash, whatever it became; None if it is unknown."""

    async def runs(self, portfolio_id: int, limit: int) -> list[PortfolioRun]:
        """Return the runs that were started, newest first."""

    async def active_runs(self) -> list[tuple[int, uuid.UUID]]:
        """Return portfolio and id of the runs that are under way, oldest first."""

    async def steps(self, run_id: uuid.UUID) -> list[PortfolioRunStep]:
        """Return the steps of a run in their order, with what became of them."""

    async def start(self, run_id: uuid.UUID, now_ns: int, by: str) -> bool:
        """Start a plan; False if it was started before."""

    async def request_cancel(self, run_id: uuid.UUID, reason: str) -> bool:
        """Have a run send no more orders; False if it is not running."""

    async def is_cash_read(self, run_id: uuid.UUID, before_ns: int) -> bool | None:
        """Return whether the account's cash was read after the last execution of the run, or that was before a time;
        None if nothing of it was executed."""

    async def unread_spending(self, run_id: uuid.UUID, after_ns: int) -> Decimal:
        """Return the value of the account's buys, of whichever instance, that were booked after a time and after its
        cash was last read; in the portfolio's currency."""

    async def is_flattened(self, run_id: uuid.UUID) -> bool:
        """Return whether a kill that closes positions was engaged since the start of the run, released or not."""

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
        raise InputError(
            f"portfolio {name} is being rebalanced by run {running}",
            code="PORTFOLIO_RUNNING",
            status=409,
            remedy=f"wait until it has ended, or cancel it: fks portfolio cancel {name} {running}",
        )
