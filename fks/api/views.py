"""Response models of reads, by which OpenAPI and GraphQL describe the answers.

A route names its model with `response_model`. It still answers what it reads (`ExactJson`): the model is never used to
copy or to filter an answer. tests/contract/api compares every model with real answers, name by name.
Decimal is a JSON string of plain digits, float a JSON number; times are ISO 8601 with Z. Any member may be null in
GraphQL.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from decimal import Decimal
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

T = TypeVar("T")


class View(BaseModel):
    """Members of an answer, all of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Page(View, Generic[T]):
    """Rows, newest first unless the route says otherwise; `next` is the `before` of the following page."""

    items: list[T]
    next: int | None = None


# ── orders and positions ─────────────────────────────────────────────────────────────────────────
class OrderView(View):
    """An order, or a request that has not become one yet: then `state` is null and `signal_state` is set."""

    client_order_id: str | None = None
    id: uuid.UUID | None = None
    account: str | None = None
    venue: str | None = None
    exchange: str | None = None
    symbol: str | None = None
    instance: str | None = None
    role: str | None = None
    side: str | None = None
    type: str | None = None
    time_in_force: str | None = None
    quantity: Decimal | None = None
    price: Decimal | None = None
    stop_price: Decimal | None = None
    stop_loss: Decimal | None = None
    take_profit: Decimal | None = None
    state: str | None = None
    request: str | None = None
    filled: Decimal | None = None
    average_price: Decimal | None = None
    venue_order_id: str | None = None
    parent_id: str | None = None
    group_id: str | None = None
    code: str | None = None
    detail: str | None = None
    is_reduce_only: bool | None = None
    is_late: bool | None = None
    trace_id: str | None = None
    valid_until: datetime | None = None
    expires_by: Literal["venue", "order_manager"] | None = None
    created_at: datetime | None = None
    sent_at: datetime | None = None
    updated_at: datetime | None = None
    signal_state: str | None = None
    kind: str | None = None


class OrderPage(View):
    """Orders; `next` is a client_order_id."""

    items: list[OrderView]
    next: str | None = None


class OrderEventView(View):
    """One step of an order."""

    seq: int
    event: str
    from_state: str | None
    to_state: str | None
    source: str
    venue_time: datetime | None
    recv_time: datetime | None
    epoch: int | None
    payload: Any


class FillView(View):
    """One execution."""

    fill_id: str
    seq: int
    client_order_id: str | None
    venue_order_id: str | None
    venue_trade_id: str | None
    account: str
    venue: str
    symbol: str
    instance: str
    side: str
    quantity: Decimal
    price: Decimal
    fee: Decimal | None
    fee_currency: str | None
    fee_quote: Decimal | None
    realized_pnl: Decimal | None
    is_maker: bool | None
    is_late: bool
    source: str
    time: datetime


class PositionView(View):
    """The position of one strategy instance in one symbol."""

    account: str
    venue: str
    symbol: str
    instance: str
    quantity: Decimal
    average_price: Decimal | None
    realized_pnl: Decimal
    fees: Decimal
    fees_unvalued: int
    mark_price: Decimal | None
    unrealized_pnl: Decimal | None
    updated_at: datetime


class SymbolPosition(View):
    """The position in one symbol, and its parts by instance."""

    symbol: str
    name: str
    quantity: Decimal
    realized_pnl: Decimal
    fees: Decimal
    fees_unvalued: int
    items: list[PositionView]


class BalanceView(View):
    """A balance as the venue reports it."""

    currency: str
    free: Decimal
    locked: Decimal


class AccountView(View):
    """An account with its balances."""

    id: int
    name: str
    account_type: str
    venue: str
    broker: str | None
    currency: str
    initial_balance: Decimal
    mode: str
    is_enabled: bool
    created_at: datetime
    environment: str | None
    uid: str | None
    network_epoch: int | None
    balances: list[BalanceView]


class EquityView(View):
    """Equity of an account in its currency. `pnl_today` counts from `day_start`, without deposits and withdrawals."""

    account_id: int
    account: str
    venue: str
    currency: str
    mode: str
    equity: Decimal
    time: datetime
    equity_at_start: Decimal
    transfers_today: Decimal
    pnl_today: Decimal
    day_start: datetime


class ReportPoint(View):
    """The last equity of a span."""

    time: datetime
    equity: Decimal


class ReportAccount(View):
    """An account over the period, in its currency. `profit` is without `transfers`: deposits less withdrawals."""

    account: str
    venue: str
    mode: str
    currency: str
    equity_start: Decimal
    equity_end: Decimal
    transfers: Decimal
    profit: Decimal
    curve: list[ReportPoint]


class ReportTrades(View):
    """Executions of an instance in a symbol, in its quote currency. Those that closed some of a position are `won` or
    `lost`; `realized` is before fees. `fees_unvalued`: fees without a rate, which are not in `fees`."""

    account: str
    instance: str
    symbol: str
    executions: int
    won: int
    lost: int
    realized: Decimal
    best: Decimal | None
    worst: Decimal | None
    fees: Decimal
    fees_unvalued: int


class ReportHolding(View):
    """A holding of now. Null: not known."""

    account: str
    symbol: str
    instance: str
    quantity: Decimal
    average_price: Decimal | None
    mark_price: Decimal | None
    unrealized_pnl: Decimal | None


class ReportDenials(View):
    """The number of signals that a code denied."""

    code: str
    count: int


class ReportAlerts(View):
    """Alerts of one severity; `open`: neither ended nor acknowledged."""

    severity: str
    count: int
    open: int


class ReportView(View):
    """Report from `start` up to, without, `end`. `is_over` false: of a period that runs."""

    period: str
    start: datetime
    end: datetime
    is_over: bool
    accounts: list[ReportAccount]
    trades: list[ReportTrades]
    denials: list[ReportDenials]
    alerts: list[ReportAlerts]
    holdings: list[ReportHolding]


class LimitView(View):
    """One limit: the denial code that it gives, its setting, and the amounts used and left; null: not known, or each
    order has it for itself."""

    code: str
    setting: str
    text: str
    limit: Decimal
    used: Decimal | None
    left: Decimal | None
    unit: str


class FeesView(View):
    """Fees that an account paid in one currency: since 00:00 UTC, and in 30 days."""

    currency: str
    today: Decimal
    days_30: Decimal


class PropRuleView(View):
    """A rule of a prop firm: the firm's figure, FKS's own inside it, the amounts used and left; null: not known."""

    rule: str
    limit: Decimal | None
    own_limit: Decimal | None
    used: Decimal | None
    left: Decimal | None
    text: str
    unit: str


class PropView(View):
    """Rules of the account's prop firm. `is_known`: the account's values are there and young enough."""

    group: str
    is_known: bool
    mode: str
    reasons: list[str]
    required_action: str | None
    rules: list[PropRuleView]


class LimitsView(View):
    """Limits of an account, its fees, and the rules of its prop firm, if it has one."""

    account_id: int
    account: str
    venue: str
    currency: str
    mode: str
    is_enabled: bool
    limits: list[LimitView]
    fees: list[FeesView]
    prop: PropView | None


class IndicatorParam(View):
    """A parameter of an indicator: its default and its limits, inclusive."""

    default: float
    least: float
    most: float


class IndicatorView(View):
    """An indicator: the columns of bars that it reads (`other.close`: of a second series) and the names of its
    outputs."""

    name: str
    group: str
    summary: str
    columns: list[str]
    outputs: list[str]
    params: dict[str, IndicatorParam]


class IndicatorValue(View):
    """Values of one bar, in the order of `outputs`."""

    time: datetime
    values: list[float | None]


class IndicatorValues(View):
    """An indicator over stored bars, oldest first."""

    symbol: str
    name: str
    exchange: str
    timeframe: str
    indicator: str
    group: str
    params: dict[str, float]
    outputs: list[str]
    items: list[IndicatorValue]


class MachineState(View):
    """A state of a machine; a final one has no way on but late events."""

    name: str
    is_final: bool


class TransitionView(View):
    """One row of a machine's table. `before` null: there was no order yet. `states`: what `to` may be; none: the
    same."""

    number: int
    before: list[str] | None
    event: str
    when: str
    to: str
    states: list[str]
    follows: list[str]
    note: str


class MachineView(View):
    """A state machine: its states and all of its transitions, in the order of their numbers."""

    name: str
    title: str
    states: list[MachineState]
    transitions: list[TransitionView]


class LogLine(View):
    """One line of a log. Lines of other programs have the event `log` and their text in `fields`."""

    time: str
    level: str
    component: str
    event: str
    fields: dict[str, Any]


class LogView(View):
    """The last lines of a component on one machine."""

    component: str
    node: str
    items: list[LogLine]


class EquityPoint(View):
    """Equity and balance of an account at one time, and what changed the balance."""

    time: datetime
    equity: Decimal
    balance: Decimal
    currency: str
    cause: str


class PortfolioView(View):
    """A portfolio with its members and its newest equity; of an archived one the last members."""

    id: int
    name: str
    base_currency: str
    benchmark: str | None
    state: str
    version: int
    created_by: str
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None
    accounts: list[str]
    instances: list[str]
    equity_time: datetime | None
    equity: Decimal | None
    is_complete: bool | None


class PortfolioHoldingView(View):
    """A holding of a portfolio and its value in the portfolio's currency, null without a rate."""

    account: str
    instance: str
    asset: str
    symbol: str
    quantity: Decimal | None
    is_cash: bool
    value: Decimal | None
    rate: Decimal | None
    rate_time: datetime | None
    rate_from: list[str]
    missing: str | None


class HoldingsView(View):
    """The holdings of a portfolio with their values, and its equity."""

    portfolio: str
    currency: str
    time: datetime
    equity: Decimal
    cash: Decimal
    is_complete: bool
    missing: list[str]
    items: list[PortfolioHoldingView]


class PortfolioEquityPoint(View):
    """Equity of a portfolio at one time, and the money that flowed since the row before."""

    time: datetime
    equity: Decimal
    cash: Decimal
    net_flow: Decimal
    is_complete: bool


class PortfolioPerformance(View):
    """Profit, return and risk of a portfolio between two complete hours. Percent and ratios are floats."""

    portfolio: str
    currency: str
    first_at: datetime | None
    last_at: datetime | None
    hours: int
    hours_incomplete: int
    equity_at_start: Decimal | None
    equity: Decimal | None
    net_flow: Decimal
    profit: Decimal | None
    days: int
    return_pct: float
    cagr_pct: float | None
    volatility_pct: float | None
    sharpe: float | None
    sortino: float | None
    calmar: float | None
    max_drawdown_pct: float


class PortfolioTargetView(View):
    """The share of a portfolio's capital that an instrument is to have; `min` and `max` are its band, null for that of
    the rules."""

    exchange: str
    symbol: str
    weight: Decimal
    min: Decimal | None
    max: Decimal | None


class RebalanceRulesView(View):
    """Limits of a rebalancing: fractions of the capital, `trade_min` in the portfolio's currency."""

    band: Decimal
    band_relative: Decimal | None
    trade_min: Decimal
    cash_min: Decimal
    turnover_max: Decimal | None
    price_tolerance: Decimal
    run_max_age_s: float


class PortfolioTargetsView(View):
    """The newest targets of a portfolio, the account that trades for it, and its rules; version 0 before the first."""

    portfolio: str
    version: int
    account: str | None
    currency: str
    rules: RebalanceRulesView
    created_by: str | None
    created_at: datetime | None
    items: list[PortfolioTargetView]


class WeightDriftView(View):
    """An instrument's weight now, its target, the band in which it is not traded, and the weight after a rebalancing;
    null without a price. `is_outside`: the weight now is outside its band. `reason`: why a distance is left."""

    exchange: str
    symbol: str
    quantity: Decimal
    price: Decimal | None
    target: Decimal
    weight_min: Decimal
    weight_max: Decimal
    weight: Decimal | None
    is_outside: bool | None
    weight_after: Decimal | None
    drift_after: Decimal | None
    reason: str | None


class PortfolioDriftView(View):
    """The weights of a portfolio beside its targets. `capital` is `cash` and the coins of its own instance; null
    without a price of each."""

    portfolio: str
    targets_version: int
    account: str
    currency: str
    time: datetime
    capital: Decimal | None
    cash: Decimal
    items: list[WeightDriftView]


class RunDenialView(View):
    """A denial that an order would get now: the code, the limit, the value, and what would pass."""

    code: str
    limit: str
    observed: str
    scope: str
    remedy: str


class RebalanceTradeView(View):
    """An order of a plan at its price, with its expected costs; all but `quantity` is in quote."""

    step: int
    exchange: str
    symbol: str
    side: str
    quantity: Decimal
    price: Decimal
    value: Decimal
    fee: Decimal
    slippage: Decimal
    denial: RunDenialView | None


class RebalancePreview(PortfolioDriftView):
    """The orders of a rebalancing now, the drift that they leave, and the hash by which it may be started until
    `expires_at`; null when there is nothing to trade."""

    cash_after: Decimal
    turnover: Decimal
    fees: Decimal
    slippage: Decimal
    trades: list[RebalanceTradeView]
    plan_hash: str | None
    expires_at: datetime | None


class PortfolioRunView(View):
    """A rebalancing: running, cancelling, done, partial or cancelled. `reason`: why it waits, or is not done."""

    id: uuid.UUID
    portfolio: str
    state: str
    reason: str | None
    account: str
    targets_version: int
    currency: str
    capital: Decimal
    plan_hash: str
    created_by: str
    created_at: datetime
    started_at: datetime
    ended_at: datetime | None


class PortfolioRunStepView(View):
    """An order of a run, and what became of it. `ordered_quantity` is less than `quantity` where cash was missing."""

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


class PortfolioRunDetail(PortfolioRunView):
    """A rebalancing with its steps. `items`: the drift of the plan; once it has ended, the drift that is left."""

    steps: list[PortfolioRunStepView]
    items: list[WeightDriftView]


# ── decisions ────────────────────────────────────────────────────────────────────────────────────
class HandExecutionView(View):
    """An execution at NinjaTrader that no signal of FKS led to."""

    exec_id: str
    side: str
    quantity: Decimal
    price: Decimal
    at: datetime


class RelayView(View):
    """A signal that was shown to a person (code RELAYED), and the trades then made by hand in the same account and
    contract: until the next signal was shown there, a day at most."""

    group: str
    account: str
    symbol: str
    shown_at: datetime
    shown_until: datetime | None
    executions: list[HandExecutionView]


class SignalView(View):
    """A signal and its outcome."""

    id: uuid.UUID
    seq: int
    source: str
    instance: str
    account: str
    venue: str
    exchange: str | None
    symbol: str
    timeframe: str | None
    ts_event: datetime
    kind: str
    side: str
    type: str
    size: Decimal | None
    limit_price: Decimal | None
    stop_price: Decimal | None
    stop_loss: Decimal | None
    take_profit: Decimal | None
    time_in_force: str
    reference_price: Decimal | None
    valid_until: datetime | None
    reason: str | None
    state: str
    code: str | None
    detail: str | None
    client_order_id: str | None
    decided_by: str | None
    decided_at: datetime | None
    trace_id: str
    created_at: datetime
    relay: RelayView | None = None


class InstanceView(View):
    """A strategy instance."""

    id: str
    strategy: str
    params: Any
    params_version: int
    exchange: str
    symbol: str
    timeframe: str
    account: str
    venue: str
    sizing: str
    size: Decimal
    approval: str
    valid_for_s: float | None
    is_enabled: bool
    shard: int | None
    state: str
    error: str | None
    anchor_time: datetime | None
    cursor_time: datetime | None
    last_target: Any
    updated_at: datetime


class StrategyView(View):
    """A strategy of the catalogue; `params` is a JSON schema."""

    name: str
    origin: str
    summary: str
    error: str | None
    params: Any


class StrategiesView(View):
    """The catalogue and the instances."""

    catalogue: list[StrategyView]
    instances: list[InstanceView]


class ParametersVersion(View):
    """One version of an instance's parameters."""

    version: int
    created_at: datetime
    by: str
    params: Any
    provenance: Any


class ChallengerView(View):
    """A challenger of an instance."""

    id: str
    instance: str
    number: int
    params: Any
    provenance: Any
    added_by: str
    stage: str
    state: str
    error: str | None
    target: Any
    crashes: int
    decisions: int
    begun: datetime | None
    cursor: datetime | None
    evaluation: Any
    evaluated_at: datetime | None
    looks: int
    swap_requested_by: str | None
    swap_requested_at: datetime | None
    ended_by: str | None
    ended_at: datetime | None
    created_at: datetime


class IncidentView(View):
    """A difference that a person explains."""

    id: int
    account: str
    kind: str
    subject: str
    detail: str
    payload: Any
    opened_at: datetime
    updated_at: datetime
    is_open: bool
    closed_by: str | None
    closed_at: datetime | None
    resolution: str | None


class LotView(View):
    """A quantity that is still held; below zero a short, whose `cost` is what its sale brought in. `cost` null: not
    known. `acquired_at` null and `lot_id` "": the pool of the average method."""

    seq: int
    pool: str
    asset: str
    kind: str
    acquired_at: datetime | None
    lot_id: str
    quantity: Decimal
    cost: Decimal | None
    note: str


class LotDisposalView(View):
    """The part of a disposal that one lot covers. Of a short, `disposed_at` is before `acquired_at`; of contracts only
    `gain` is given. Amounts are null where they are not known."""

    seq: int
    pool: str
    asset: str
    kind: str
    acquired_at: datetime | None
    disposed_at: datetime
    realized_at: datetime
    quantity: Decimal
    proceeds: Decimal | None
    cost: Decimal | None
    gain: Decimal | None
    note: str
    disposal_id: str
    lot_id: str


class Statement(View, Generic[T]):
    """Rows of lots, newest first, with the rule and the currency that they are in; `next` is the `before` of the
    following page. `unknown_symbols`: traded ones that are left out, as no instrument names their assets."""

    items: list[T]
    next: int | None = None
    method: str
    currency: str
    unknown_symbols: list[str]
    notice: str


# ── market data ──────────────────────────────────────────────────────────────────────────────────
class AssetView(View):
    """A symbol that is collected, or was."""

    exchange: str
    symbol: str
    name: str
    is_enabled: bool
    is_trading: bool
    tick: Decimal | None
    lot_step: Decimal | None
    status: str
    timeframes: list[str] | None
    history_days: int | None
    channels: list[str] | None
    source: str | None
    state: str | None
    last_price: Decimal | None
    age_ms: int | None
    updated_at: datetime


class BarView(View):
    """One bar; prices and volume are JSON numbers."""

    time: datetime
    open: float
    high: float
    low: float
    close: float
    volume: float
    trades: int | None
    is_complete: bool
    is_empty: bool
    revision: int


class BarsView(View):
    """Stored bars of one series, oldest first; `next` is the `from` of the following page."""

    symbol: str
    name: str
    exchange: str
    timeframe: str
    revision: int
    bars: list[BarView]
    next: datetime | None


class LatestView(View):
    """The latest of a symbol; `quote`, `book` and `bars` are JSON as the route gives them."""

    symbol: str
    name: str
    exchange: str
    price: Decimal | None
    time: datetime | None
    age_ms: int | None
    source: str
    state: str | None
    quote: Any
    book: Any
    bars: Any


# ── jobs ─────────────────────────────────────────────────────────────────────────────────────────
class JobView(View):
    """A durable job: a backtest or a search."""

    id: uuid.UUID
    state: str
    progress: float
    spec: Any
    result: Any
    error: str | None
    submitted_by: str
    attempts: int
    priority: int
    fingerprint: str | None
    is_cancel_requested: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class SearchView(JobView):
    """A search of parameters with the counts of its trials."""

    trials: Any


# ── the system ───────────────────────────────────────────────────────────────────────────────────
class OperationView(View):
    """A request of a person to the running system."""

    id: uuid.UUID
    kind: str
    target: str
    args: Any
    reason: str
    requested_by: str
    state: str
    progress: Any
    error: str | None
    result: Any
    attempt: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class WheelView(View):
    """The wheel of the newest deployment, and the one for a rollback."""

    wheel: str | None
    previous_wheel: str | None


class ConfigVersionView(View):
    """One version of the settings that change while the system runs."""

    version: int
    state: str
    kind: str
    rolls_back_to: int | None
    values: Any
    changes: Any
    changed_by: str
    reason: str
    error: str | None
    created_at: datetime
    finished_at: datetime | None


class HealthView(View):
    """The health document."""

    status: str
    service: str
    version: str
    timestamp: datetime
    dependencies: Any
    metadata: Any


class ReadyView(View):
    """Whether a part can serve."""

    status: str
    dependencies: Any
    ninja_connected: bool | None = None
    ninja_can_trade: bool | None = None


class NinjaLinkView(View):
    """The link of one NinjaTrader group. `waiting`: requests without a final answer, by state."""

    group: str
    enabled: bool
    required: bool
    host: str | None
    port: int | None
    state: str
    connected: bool
    can_trade: bool
    halted: bool
    accounts: Any
    heartbeat_age_ms: int | None
    offset_ms: int
    alarm: str
    bridge_epoch: str | None
    stored_seq: int
    snapshot_at: datetime | None
    last_event: Any
    waiting: Any
    oldest_wait_s: float


class NinjaLinksView(View):
    """The links of all groups."""

    items: list[NinjaLinkView]


class CopyPlaceView(View):
    """An account at NinjaTrader: its venue, its name here, the group of its bridge and its name at the platform."""

    venue: str
    account: str | None
    group: str | None
    platform_account: str | None


class FollowerView(CopyPlaceView):
    """An account that repeats signals. `size`: a factor of the signal's contracts if `is_ratio`, else contracts."""

    name: str
    size: Decimal | None
    is_ratio: bool
    mode: str


class CopyPositionView(View):
    """A follower's position and the one expected by its rule, signed contracts. `difference`: held minus expected."""

    name: str
    symbol: str
    leader: Decimal
    expected: Decimal
    held: Decimal
    difference: Decimal


class CopyOrderView(View):
    """The outcome of a signal on one account. `state`: of the order, of the signal while it has none."""

    signal_id: uuid.UUID
    venue: str
    account: str
    state: str
    code: str | None
    detail: str | None
    client_order_id: str | None
    quantity: Decimal | None
    filled: Decimal | None
    average_price: Decimal | None
    price_difference: Decimal | None


class CopiedSignalView(View):
    """A signal of the leader, and what became of it on each account, the leader's first."""

    id: uuid.UUID
    symbol: str
    kind: str
    side: str
    created_at: datetime
    orders: list[CopyOrderView]


class NinjaCopiesView(View):
    """The trade copier: leader, followers, positions, and the newest signals."""

    leader: CopyPlaceView
    followers: list[FollowerView]
    positions: list[CopyPositionView]
    signals: list[CopiedSignalView]


class ConnectionView(View):
    """Whether a NinjaTrader group is connected, and where its bridge is."""

    connected: bool
    host: str
    port: int
    group: str
    can_trade: bool
    error: str | None = None


class KillView(View):
    """The kill switch: the newest of its rows, all of them, and the guardian's own file."""

    engaged: bool
    scope: str | None = None
    reason: str | None = None
    by: str | None = None
    since: datetime | None = None
    count: int | None = None
    kills: Any
    guardian: Any


class CallerView(View):
    """The caller itself."""

    name: str
    kind: str
    scope: str
    granted_scope: str
    accounts: list[int] | None
    csrf_token: str | None


class TokenView(View):
    """A token without its secret part."""

    name: str
    scope: str
    prefix: str
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None
    accounts: list[int] | None
    expires_at: datetime | None
    limit_per_hour: int | None
    created_by: str


class AuditView(View):
    """A row of the audit."""

    seq: int
    at: datetime
    request_id: str
    phase: str
    actor: str
    kind: str
    action: str
    object: str
    status: int | None
    address: str
    detail: Any
