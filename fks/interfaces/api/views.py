"""Response models of reads, by which OpenAPI and GraphQL describe the answers.

A route names its model with `response_model`. It still answers what it reads (`ExactJson`): the model is never used to
copy or to filter an answer. tests/contract/interfaces/api compares every model with real answers, name by name.
Decimal is a JSON string of plain digits, float a JSON number; times are ISO 8601 with Z. Any member may be null in
GraphQL.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from datetime import datetime
from decimal import Decimal
from enum import Enum
from types import NoneType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict

from fks.model.account import Account, Balance, Payment, PortfolioLimit, Position
from fks.model.accounting.attribution import PositionName, Unexplained
from fks.model.accounting.lots import LotDisposal, OpenLot
from fks.model.codes import Denial
from fks.model.order import Fill
from fks.model.parent import BreakEven
from fks.research.backtest.metrics import BenchmarkMetrics, EquityMetrics
from fks.store.audit import AuditEntry
from fks.store.challengers import Challenger
from fks.store.incidents import Incident
from fks.store.jobs import JobRow
from fks.store.operations import Operation
from fks.store.portfolio_runs import AllocationRow, InstanceTarget, PortfolioRun, PortfolioRunStep, TriggerRow
from fks.store.portfolios import Portfolio
from fks.store.runtime_config import ConfigVersion
from fks.store.strategies import ParameterVersion
from fks.store.tokens import TokenRecord
from fks.trading.portfolio.income import ExpectedPayment
from fks.trading.portfolio.rebalance import RebalanceRules
from fks.trading.portfolio.risk import AccountMargin, ExposureShare, LossComponent, TailLoss
from fks.trading.prop_rules.evaluation import Distance

T = TypeVar("T")


if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)  # has no public name


class ViewType(ModelMetaclass):
    """Makes views. `class JobView(View, of=JobRow, without=("kind",))` has the fields of that record, or of
    several, but `kind`, as `json_fields` writes them, before its own, which replace those of the same name."""

    def __new__(
        cls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        of: type | tuple[type, ...] = (),
        without: Collection[str] = (),
        **more: Any,
    ) -> type:
        """Return the view."""
        records = of if isinstance(of, tuple) else (of,)
        hints = [item for record in records for item in get_type_hints(record).items() if item[0] not in without]
        if hints:
            shown = dict(_shown(*item) for item in hints)
            namespace["__annotations__"] = shown | namespace.get("__annotations__", {})
        view: type = super().__new__(cls, name, bases, namespace, **more)
        return view


def _shown(name: str, hint: Any) -> tuple[str, Any]:
    """Return name and type of a record's field in JSON; a mapping may have any members."""
    is_optional = NoneType in get_args(hint)
    kind = get_args(hint)[0] if is_optional else hint
    if name.endswith("_ns"):
        name, kind = f"{name[:-3]}_at", datetime
    elif get_origin(kind) in (dict, Mapping):
        return name, Any
    elif isinstance(kind, type) and issubclass(kind, Enum):
        kind = str
    return name, kind | None if is_optional else kind


class View(BaseModel, metaclass=ViewType):
    """Members of an answer, all of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Page(View, Generic[T]):
    """Rows, newest first unless the route says otherwise; `next` is the `before` of the following page."""

    items: list[T]
    next: int | None = None


# ── orders and positions ─────────────────────────────────────────────────────────────────────────
class ProfitTargetView(View):
    """A price at which a share of a parent is closed."""

    price: Decimal
    share: Decimal


class BreakEvenView(View, of=BreakEven):
    """The rule by which a parent's stop moves to break-even."""


class PlanView(View):
    """The plan of a parent order. `stop_loss` is the first one: risk is measured from it."""

    stop_loss: Decimal
    targets: list[ProfitTargetView]
    break_even: BreakEvenView | None


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
    plan: PlanView | None = None


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


class FillView(View, of=Fill, without=("account_id", "time_ns")):
    """One execution."""

    fill_id: str
    seq: int
    venue_trade_id: str | None
    account: str
    instance: str
    fee: Decimal | None
    fee_currency: str | None
    fee_quote: Decimal | None
    realized_pnl: Decimal | None
    is_maker: bool | None
    is_late: bool
    time: datetime


class PositionView(View, of=Position, without=("account_id", "entries")):
    """The position of one strategy instance in one symbol."""

    account: str
    average_price: Decimal | None
    fees_unvalued: int
    mark_price: Decimal | None
    unrealized_pnl: Decimal | None


class SymbolPosition(View):
    """The position in one symbol, and its parts by instance."""

    symbol: str
    name: str
    quantity: Decimal
    realized_pnl: Decimal
    fees: Decimal
    fees_unvalued: int
    items: list[PositionView]


class BalanceView(View, of=Balance):
    """A balance as the venue reports it."""


class AccountView(View, of=Account, without=("identity",)):
    """An account with its balances."""

    broker: str | None
    created_at: datetime
    environment: str | None
    uid: str | None
    network_epoch: int | None
    balances: list[BalanceView]


class PaymentView(View, of=Payment, without=("time_ns",)):
    """Income of an account; `amount` is negative if it paid. `source`: the person that recorded it."""

    account: str
    kind: Literal["dividend", "funding", "interest", "swap"]
    time: datetime


class CertificateView(View):
    """The last certificate of a venue's exchange: the cases that passed there (`environment`: `test`, `live`; `sim`: at
    a local exchange), when, and by which release of FKS."""

    at: datetime
    release: str
    environment: str
    cases: list[str]


class TradingVenueView(View):
    """A venue: its session's account and state, and the rules of its entries. `skew_ms`: the venue's clock less ours.

    `enabled_by`: `settings` (`venues.enabled`), or `row` after a person's decision. `version` 0: no decision yet.
    `plugin`: the installed package that it comes from, null for one of FKS; `stage` is then `sim` until its cases have
    passed at this version, `live` afterwards. `certificate` is null where none was made.
    """

    name: str
    exchange: str | None
    plugin: str | None
    plugin_version: str | None
    stage: str | None
    state: str
    detail: str
    skew_ms: float | None
    state_at: datetime
    account: str | None
    mode: str | None
    environment: str | None
    is_enabled: bool
    enabled_by: str
    is_default: bool
    priority: int
    version: int
    updated_by: str | None
    updated_at: datetime | None
    certificate: CertificateView | None


class VenueRouteView(View):
    """The venues of the instruments that match a pattern, the best first."""

    pattern: str
    venues: list[str]
    version: int
    updated_by: str
    updated_at: datetime


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


class JournalEntryView(View):
    """A closed trade of a position, from flat to flat, with the tags and the note of persons at `version`.

    `realized` (before fees), `fees`, `profit` (after them) and `slippage` are in the account's `currency`, null without
    a rate. `mae_pct` and `mfe_pct`: how far the price went against and for the average entry while it was held, in
    percent, by executions and `bars` whole bars. `undecided`: executions without the price of a decision, not in
    `slippage`. `is_complete` false: a rate is missing, or bars may still come. `is_void`: it is no closed trade any
    more, and is kept for its note.
    """

    id: uuid.UUID
    seq: int
    account: str
    currency: str
    venue: str
    symbol: str
    instance: str
    side: str
    quote: str
    entry_time: datetime
    exit_time: datetime
    entry_price: Decimal
    exit_price: Decimal
    quantity: Decimal
    executions: int
    realized: Decimal | None
    fees: Decimal | None
    profit: Decimal | None
    slippage: Decimal | None
    rate: Decimal | None
    fees_unvalued: int
    undecided: int
    mae_pct: Decimal
    mfe_pct: Decimal
    bars: int
    hold_s: float
    entry_reason: str
    exit_reason: str
    is_complete: bool
    is_void: bool
    tags: list[str]
    note: str
    version: int
    noted_by: str
    noted_at: datetime | None


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


class ReportEquity(View):
    """Equity of a portfolio over the period, in its currency. `profit` is without `transfers`, its flows."""

    currency: str
    equity_start: Decimal
    equity_end: Decimal
    transfers: Decimal
    profit: Decimal
    is_complete: bool
    curve: list[ReportPoint]


class ReportClosed(View):
    """Closed trades of an account in the period, and their profit after fees, without those that have no rate."""

    account: str
    currency: str
    count: int
    won: int
    lost: int
    profit: Decimal
    unvalued: int


class ReportRealized(View):
    """Profit of all closed trades of an account to the end of the period, after fees, and that of its year."""

    account: str
    currency: str
    profit: Decimal
    year_profit: Decimal
    unvalued: int


class ReportDrift(View):
    """Weight of an instrument beside its target, as it was when the report was made."""

    symbol: str
    target: Decimal
    weight: Decimal | None
    is_outside: bool | None


class ReportRisk(View):
    """A limit of a portfolio with its newest measurement; null: not known."""

    kind: str
    value: Decimal
    observed: Decimal | None


class ReportDelivery(View):
    """The message of a report to one channel. `is_late`: sent more than an hour after it was due."""

    channel: str
    state: str
    attempts: int
    error: str | None
    finished_at: datetime | None
    is_late: bool


class StoredReportView(View):
    """A stored report and its messages. `portfolio` null: of all accounts; `is_late`: made more than an hour after its
    period ended."""

    id: uuid.UUID
    seq: int
    portfolio: str | None
    period: str
    start: datetime
    end: datetime
    created_at: datetime
    is_late: bool
    deliveries: list[ReportDelivery]


class ReportView(View):
    """Report from `start` up to, without, `end`. `is_over` false: of a period that runs. `stored`: of a stored one."""

    title: str
    text: str
    stored: StoredReportView | None = None
    portfolio: str | None
    period: str
    start: datetime
    end: datetime
    is_over: bool
    equity: ReportEquity | None
    accounts: list[ReportAccount]
    trades: list[ReportTrades]
    closed: list[ReportClosed]
    realized: list[ReportRealized]
    drift: list[ReportDrift]
    risk: list[ReportRisk]
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


class PropRuleView(View, of=Distance):
    """A rule of a prop firm: the firm's figure, FKS's own inside it, the amounts used and left; null: not known."""


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


class PortfolioView(View, of=Portfolio):
    """A portfolio with its members and its newest equity; of an archived one the last members."""


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


class PortfolioPerformance(View, of=(EquityMetrics, BenchmarkMetrics)):
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
    money_weighted_pct: float | None
    invested_pct: float | None
    turnover: float | None
    executions: int
    won: int
    lost: int
    hit_rate_pct: float | None
    payoff: float | None
    benchmark: str | None


class ExposureShareView(View, of=ExposureShare):
    """The exposure of one asset, currency, venue or strategy, in the portfolio's currency."""


class TailLossView(View, of=TailLoss):
    """A value at risk and an expected shortfall: losses are positive, null where not defined."""


class LossComponentView(View, of=LossComponent):
    """The part of a factor in the parametric VaR and the historical expected shortfall at 95 %, 1 day."""


class StressView(View):
    """The profit (negative: loss) of a scenario; assets of `unmoved` are held and have no move in it."""

    name: str
    source: str
    moves: dict[str, Decimal]
    profit: Decimal
    unmoved: list[str]


class PortfolioLimitView(View, of=PortfolioLimit, without=("portfolio", "currency")):
    """A limit of entries, with its last measurement; `observed` null is not known, and entries are denied."""

    set_by: str
    updated_at: datetime


class AccountMarginView(View, of=AccountMargin):
    """Contracts of an account against its equity, and the price at which that is gone."""


class PortfolioRiskView(View):
    """The risk of the holdings of a portfolio. Figures are those of the rest if something is `missing`."""

    portfolio: str
    currency: str
    time: datetime
    days: int
    returns: int
    equity: Decimal
    gross: Decimal
    net: Decimal
    herfindahl: float | None
    largest: str | None
    largest_share: float | None
    exposures: list[ExposureShareView]
    tails: list[TailLossView]
    components: list[LossComponentView]
    factors: list[str]
    correlations: list[list[float | None]]
    benchmark: str | None
    beta: float | None
    stress: list[StressView]
    margins: list[AccountMarginView]
    limits: list[PortfolioLimitView]
    is_complete: bool
    missing: list[str]


class AttributionParts(View):
    """Causes of a change of equity, in the portfolio's currency."""

    price: Decimal
    slippage: Decimal
    fees: Decimal
    funding: Decimal
    dividends: Decimal
    currency: Decimal
    flows: Decimal


class AttributionLine(AttributionParts, of=PositionName):
    """The change of equity by one instance in one instrument; an asset that no instance bought has the instance ""."""

    total: Decimal


class AttributionRow(AttributionLine):
    """The effect of the holdings of the start, of one execution, split or payment."""

    kind: str
    id: str
    time: datetime | None


class UnexplainedView(View, of=Unexplained):
    """An amount that changed without a row that explains it. `incident`: the drift incident of the account and asset
    that was open then or within the hour after, null without one."""

    incident: int | None


class PortfolioAttribution(View):
    """The change of a portfolio's equity between two moments by its causes: `change` = `parts` + `rest`."""

    portfolio: str
    currency: str
    first_at: datetime
    last_at: datetime
    equity_at_start: Decimal
    equity: Decimal
    change: Decimal
    parts: AttributionParts
    rest: Decimal
    is_explained: bool
    undecided: int
    items: list[AttributionLine]
    unexplained: list[UnexplainedView]
    rows: list[AttributionRow]


class IncomeLine(View):
    """The expected and the booked amount of a kind of event on an account. `expected` and `difference` (booked less
    expected) are null while `unknown` events are not known, and of interest and swaps; `known` is the sum of the
    others."""

    account: str
    kind: Literal["dividend", "split", "funding", "interest", "swap"]
    currency: str
    expected: Decimal | None
    known: Decimal
    unknown: int
    booked: Decimal
    difference: Decimal | None


class ExpectedPaymentView(View, of=ExpectedPayment, without=("time_ns",)):
    """The amount that one event should have brought (negative: cost): the quantity held then, times its rate.

    `expected` null: not known, `note` says why. Of a split: shares, in its symbol."""

    kind: Literal["dividend", "split", "funding"]
    time: datetime


class PortfolioIncome(View):
    """Dividends, splits and funding of a portfolio's positions over a period: expected, and booked.

    The kinds `not_expected` are booked alone: no table has rates of them."""

    portfolio: str
    first_at: datetime
    last_at: datetime
    items: list[IncomeLine]
    not_expected: list[str]
    rows: list[ExpectedPaymentView]


class PortfolioTargetView(View):
    """The share of a portfolio's capital that an instrument is to have; `min` and `max` are its band, null for that of
    the rules."""

    exchange: str
    symbol: str
    weight: Decimal
    min: Decimal | None
    max: Decimal | None


class InstanceTargetView(View, of=InstanceTarget, without=("instance_id",)):
    """The share of a portfolio's equity that sizes the entries of a strategy instance. `size` and `params_version` are
    those that it got by it; null while it waits, because of `reason`."""

    instance: str


class RebalanceRulesView(View, of=RebalanceRules):
    """Limits of a rebalancing: fractions of the capital, `trade_min` in the portfolio's currency."""


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
    instances: list[InstanceTargetView]


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


class InstanceDriftView(View):
    """The target weight of a strategy instance, and the shares of the portfolio's equity that its positions (`weight`)
    and the size of its entries (`size_weight`) are now; null without a rate, or while the size waits."""

    instance: str
    target: Decimal
    weight: Decimal | None
    size_weight: Decimal | None
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
    instances: list[InstanceDriftView]


class RunDenialView(View, of=Denial):
    """A denial that an order would get now: the code, the limit, the value, and what would pass."""


class PlannedLotView(View):
    """The part of a planned sell that one lot covers. `gain` is after the fee; null with the reason in `note` (a short:
    the account has no lots for it; its cost is not known)."""

    lot_id: str
    acquired_at: datetime | None
    quantity: Decimal
    cost: Decimal | None
    gain: Decimal | None
    note: str


class RebalanceTradeView(View):
    """An order of a plan at its price, with its expected costs; all but `quantity` is in quote. `limit_price`: the
    worst price at which it may fill, null for a market order. Of a sell, if lots were asked for: `lots` that it would
    use up and the `gain` over them, null if it is not known."""

    step: int
    exchange: str
    symbol: str
    side: str
    quantity: Decimal
    price: Decimal
    limit_price: Decimal | None
    value: Decimal
    fee: Decimal
    slippage: Decimal
    denial: RunDenialView | None
    gain: Decimal | None
    lots: list[PlannedLotView]


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


class PortfolioRunView(
    View,
    of=PortfolioRun,
    without=("portfolio_id", "base_currency", "account_id", "cash_free", "rules", "drift", "trigger_key"),
):
    """A rebalancing: running, cancelling, done, partial or cancelled; planned while it waits for a person. `reason`:
    why it waits, or is not done. `trigger`: schedule or drift, null for one that a person planned."""

    currency: str


class PortfolioRunStepView(View, of=PortfolioRunStep):
    """An order of a run, and what became of it. `limit_price`: null for a market order. `ordered_quantity` is less than
    `quantity` where cash was missing."""


class PortfolioRunDetail(PortfolioRunView):
    """A rebalancing with its steps. `items`: the drift of the plan; once it has ended, the drift that is left."""

    steps: list[PortfolioRunStepView]
    items: list[WeightDriftView]


class PortfolioTriggerView(View, of=TriggerRow, without=("portfolio_id", "requested_id")):
    """Conditions of rebalancings without a person, and the last decision of the trigger. `band`: null for that of
    the rules and targets; `requested_at`: of a schedule's request that waits; `decided_bar`: close of the last bar
    decided on."""

    portfolio: str
    updated_by: str | None
    updated_at: datetime | None


class AllocationWeightView(View):
    """A weight that a method found, and the target before; null for none. `instance`: the strategy instance that it is
    of, which trades the symbol; null for the weight of an instrument."""

    exchange: str
    symbol: str
    instance: str | None
    weight: Decimal
    before: Decimal | None


class AllocationView(View, of=AllocationRow, without=("portfolio_id",)):
    """Weights that a method found. `state`: ready, waiting (to be applied without a person), applied or refused;
    `targets_version`: of the targets when it was calculated; `diagnostics` are floats."""

    weights: list[AllocationWeightView]
    diagnostics: dict[str, Any]


class AllocationJobView(View):
    """The job of an allocation, and once it is done the allocation. `error`: why there is none."""

    id: uuid.UUID
    state: str
    progress: float
    error: str | None
    allocation: AllocationView | None


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


class ParametersVersion(View, of=ParameterVersion, without=("changed_by",)):
    """One version of an instance's parameters. `size`: of its entries with them; null: it was not kept then."""

    by: str


class ChallengerView(View, of=Challenger, without=("instance_id", "last_target", "begun_ns", "cursor_ns")):
    """A challenger of an instance."""

    instance: str
    target: Any
    begun: datetime | None
    cursor: datetime | None


class IncidentView(View, of=Incident, without=("account_id",)):
    """A difference that a person explains."""

    account: str
    is_open: bool


class LotView(View, of=OpenLot, without=("id",)):
    """A quantity that is still held; below zero a short, whose `cost` is what its sale brought in. `cost` null: not
    known. `acquired_at` null and `lot_id` "": the pool of the average method."""

    seq: int
    lot_id: str
    note: str


class LotDisposalView(View, of=LotDisposal, without=("number",)):
    """The part of a disposal that one lot covers. Of a short, `disposed_at` is before `acquired_at`; of contracts only
    `gain` is given. Amounts are null where they are not known."""

    seq: int
    realized_at: datetime


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
class JobView(View, of=JobRow, without=("kind",)):
    """A durable job: a backtest or a search."""


class SearchView(JobView):
    """A search of parameters with the counts of its trials."""

    trials: Any


# ── the system ───────────────────────────────────────────────────────────────────────────────────
class OperationView(View, of=Operation):
    """A request of a person to the running system."""

    progress: Any


class ConfigVersionView(View, of=ConfigVersion):
    """One version of the settings that change while the system runs."""


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
    mt5_connected: bool | None = None
    mt5_can_trade: bool | None = None


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


class Mt5LinkView(NinjaLinkView):
    """The link to the MetaTrader 5 agent. `agent`: its version; `server_offset_s`: the trade server's clock minus UTC;
    `positions`: those of the terminal, in lots; `last_error`: the platform's. Null: not reported."""

    agent: str | None
    server_offset_s: int | None
    positions: Any
    last_error: str | None


class Mt5LinksView(View):
    """The links to MetaTrader 5."""

    items: list[Mt5LinkView]


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
    scopes: list[str] | None = None
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


class TokenView(View, of=TokenRecord):
    """A token without its secret part."""


class AuditView(View, of=AuditEntry):
    """A row of the audit."""

    seq: int
    at: datetime
