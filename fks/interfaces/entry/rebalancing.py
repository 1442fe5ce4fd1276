"""Rebalancing of portfolios: targets, drift, previews, and the runs that a person or a trigger starts.

A preview is a plan in the database with a hash. `rebalance` starts it by that hash, and `RebalanceTrigger` starts one
that is due. The scheduler carries it out (`RebalanceDriver`): from rows alone, so that another process goes on where
one was killed. Each step is an order of the portfolio's own instance through order entry, under a key that follows from
the run and the step. It is committed once, and coins of other instances are never sold. The weight of a strategy
instance changes the size of its entries, by a new version of its parameters, and trades nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from decimal import ROUND_FLOOR, Decimal
from typing import Any

from fks.clock import Clock
from fks.config.settings import Settings
from fks.interfaces.entry.order_entry import OrderEntry, OrderRequest
from fks.interfaces.entry.routing import exchange_for
from fks.model.account import Account, Balance
from fks.model.accounting.lots import LotMethod, LotTrade
from fks.model.codes import Code, Denial
from fks.model.copies import is_ninja
from fks.model.decimals import plain
from fks.model.errors import InputError, OutageError
from fks.model.ids import portfolio_run_id, request_signal_id
from fks.model.instrument import Instrument
from fks.model.json_fields import json_fields
from fks.model.kill import KillMode
from fks.model.order import TERMINAL, Order, OrderType, Side, State, TimeInForce
from fks.model.ports import Lease, Log
from fks.model.signal import PORTFOLIO, Kind, Signal, SignalState
from fks.model.timeframe import NS, bar_start, check_timeframe, iso, to_datetime, to_ns
from fks.model.untrusted import decimal_of
from fks.model.venue import is_enabled
from fks.research.jobs.instances import change_params, held_instance, sized_instance
from fks.research.jobs.instances import instance_of as find_instance
from fks.research.jobs.valuation import value_portfolio
from fks.store.accounts import AccountStore
from fks.store.bus import JOBS, Bus
from fks.store.corporate_actions import DELISTING, CorporateActionStore
from fks.store.db import Database, Querier
from fks.store.facts import FactStore, Mark
from fks.store.instruments import InstrumentStore
from fks.store.lots import LotStore
from fks.store.orders import OrderStore
from fks.store.portfolio_runs import (
    RUN_ACTIVE,
    AllocationRow,
    DueTrigger,
    InstanceTarget,
    PortfolioRun,
    PortfolioRunStep,
    PortfolioRunStore,
    TargetRow,
    TargetSet,
    TriggerRow,
    WaitingSize,
    check_idle,
)
from fks.store.portfolios import Portfolio, PortfolioStore
from fks.store.positions import PositionStore
from fks.store.reading import ReadingStore
from fks.store.signals import SignalStore
from fks.store.strategies import ParameterVersion, StrategyStore
from fks.store.valuation import ValuationStore
from fks.trading.matching import Slippage
from fks.trading.portfolio.rebalance import (
    AllocationHoldings,
    DriftReason,
    RebalanceCosts,
    RebalancePlan,
    RebalanceRules,
    RebalanceTrade,
    TargetWeight,
    Trigger,
    TriggerCode,
    TriggerFacts,
    TriggerMarket,
    TriggerPolicy,
    WeightDrift,
    affordable,
    decide,
    has_moved,
    plan,
    run_budget,
    weights_outside,
)
from fks.trading.risk.check import CHECKS, RiskDenied, check
from fks.trading.risk.exits import is_dust, split_at_lot
from fks.trading.risk.intent import intend_order
from fks.trading.risk.view import RiskView, VenueView

#: Seconds for which a preview may be started.
PLAN_VALID_S = 60.0
#: Seconds after a step's commit in which the order manager may still send its order.
ORDER_VALID_S = 60.0
#: Orders that one look sends: there is a look a second, and a venue's rate limit denies what would wait for it.
ORDERS_AT_ONCE = 3
#: Seconds after an execution from which the balances count as read: longer than a venue keeps silent and an order
#: manager is away in most outages. The cash of before the buys counts what they bought twice.
_CASH_READ_S = 60.0
#: Seconds by which the clocks of two machines may differ.
_CLOCKS_S = 10.0
#: Denials that pass by themselves: a step waits while one of them stands.
_HOLDS = frozenset(
    {
        *(Code.KILLED, Code.VENUE_DOWN, Code.VENUE_NOT_RECONCILED, Code.ACCOUNT_UNKNOWN, Code.INSTRUMENT_HALTED),
        *(Code.INSTRUMENT_UNKNOWN, Code.FEED_STALE, Code.PRICE_MISSING, Code.UNKNOWN_ORDER, Code.GUARDIAN_DOWN),
        *(Code.ESCALATED, Code.VENUE_DISABLED),
    }
)
#: Denials that can be asked for without the order manager: from rows alone, for each order by itself.
_ASKED = _HOLDS | {
    *(Code.QTY_STEP, Code.QTY_MIN, Code.QTY_MAX, Code.NOTIONAL_MIN, Code.NOTIONAL_MAX_ORDER, Code.SHORT_FORBIDDEN),
    *(Code.TYPE_UNSUPPORTED, Code.REDUCE_ONLY),
}
_MOVED, _ZERO, _ONE = "PRICE_MOVED", Decimal(0), Decimal(1)
_SIZE_STEP = Decimal("1e-8")
#: Seconds between two attempts to give an instance its size: each values the portfolio.
_SIZE_EVERY_S = 10.0
_BAD_ENDS = frozenset({SignalState.DENIED, SignalState.EXPIRED, SignalState.DECLINED, SignalState.NOTHING})


@dataclass(frozen=True, slots=True)
class _Market:
    """Everything that the checks may know from rows: prices, the venue's state, the kill switch, orders, balances."""

    now_ns: int
    marks: Mapping[tuple[str, str], Mark]
    prices: Mapping[tuple[str, str], Decimal]
    venue_state: str
    takes_entries: bool
    kill: KillMode
    is_guardian_alive: bool
    escalated: tuple[str, str] | None
    orders: tuple[Order, ...]  # of the account, that may still fill
    held: Mapping[tuple[str, str], Decimal]  # by symbol and instance
    balances: Mapping[str, Balance]


@dataclass(frozen=True, slots=True)
class _Allocation:
    """A portfolio with its targets, and the plan that brings its holdings to them."""

    portfolio: Portfolio
    targets: TargetSet
    account: Account
    rules: RebalanceRules
    market: _Market
    plan: RebalancePlan

    @property
    def instance(self) -> str:
        return instance_of(self.portfolio.id)


def instance_of(portfolio_id: int) -> str:
    """Return the instance, and the principal, of a portfolio's orders."""
    return f"{PORTFOLIO}{portfolio_id}"


def rules_of(values: Mapping[str, Any]) -> RebalanceRules:
    """Return the rules that a row or a request names; those that it leaves out have their defaults."""
    found: dict[str, Any] = {}
    for item in fields(RebalanceRules):
        value = values.get(item.name)
        if value is not None:
            found[item.name] = value if item.name == "run_max_age_s" else decimal_of(value)
    return RebalanceRules(**found)


def _facts_of(due: DueTrigger, now_ns: int) -> TriggerFacts:
    """Return the facts of a row for `decide`. A plan that a person did not start in time waits no longer."""
    rules = rules_of(due.rules)
    waits_since_ns = None if due.approval_at is None else to_ns(due.approval_at)
    return TriggerFacts(
        now_ns=now_ns,
        targets_ns=to_ns(due.targets_at),
        run_max_age_s=rules.run_max_age_s,
        requested_ns=None if due.requested_at is None else to_ns(due.requested_at),
        decided_ns=None if due.decided_bar is None else to_ns(due.decided_bar),
        started_ns=None if due.started_at is None else to_ns(due.started_at),
        is_running=due.is_running,
        is_cancelled=due.is_cancelled,
        is_approval_pending=waits_since_ns is not None and now_ns - waits_since_ns <= rules.run_max_age_s * NS,
    )


def policy_of(row: TriggerRow | None) -> TriggerPolicy:
    """Return the policy of a row; without one persons alone start runs."""
    if row is None:
        return TriggerPolicy()
    values = {item.name: getattr(row, item.name) for item in fields(TriggerPolicy)}
    return TriggerPolicy(**values | {"trigger": Trigger(row.trigger)})


def rules_json(rules: RebalanceRules) -> dict[str, Any]:
    """Return rules as a row keeps them: decimals as text."""
    return {name: plain(v) if isinstance(v, Decimal) else v for name, v in asdict(rules).items()}


async def read_allocation(db: Database, clock: Clock, settings: Settings, name: str) -> _Allocation:
    """Return a portfolio's allocation, planned now, from one snapshot of the database.

    Errors: OutageError; InputError 404 PORTFOLIO_UNKNOWN, TARGETS_MISSING.
    """
    now_ns = clock.now_ns()  # before the snapshot: a run that ends after it makes the plan outdated
    async with db.transaction(isolation="repeatable_read", is_readonly=True) as tx:
        return await Allocations(tx, clock, settings).read(name, now_ns)


class Allocations:
    """Reads a portfolio's targets and its own holdings, and the facts for the checks of its orders. Errors:
    OutageError."""

    def __init__(self, db: Querier, clock: Clock, settings: Settings) -> None:
        self._db = db
        self._clock = clock
        self._settings = settings
        self._runs = PortfolioRunStore(db)
        self._facts = FactStore(db)

    async def read(self, name: str, now_ns: int) -> _Allocation:
        """Return a portfolio's allocation, planned at a time. Errors: those of `read_allocation`."""
        portfolio = await PortfolioStore(self._db).get(name)
        known = await self._runs.target_instruments(portfolio.id)
        if known is None:
            raise InputError(
                f"portfolio {portfolio.name} has no targets",
                code="TARGETS_MISSING",
                status=404,
                remedy=f"set them: fks portfolio targets {portfolio.name} --set BTC/USDT=0.5",
            )
        targets, rows = known
        account = targets.account
        market = await self.market(account, [row.symbol for row, _, _ in rows], now_ns)
        weights = [
            TargetWeight(_listed(item, row.exchange, row.symbol), row.weight, row.weight_min, row.weight_max)
            for row, is_target, item in rows
            if is_target or market.held.get((row.symbol, instance_of(portfolio.id)))
        ]
        rules = rules_of(targets.rules)
        symbols = {weight.instrument.symbol: weight.instrument for weight in weights}
        prices = {
            symbol: price
            for symbol, item in symbols.items()
            if (price := market.prices.get((item.exchange, symbol))) is not None
        }
        holdings = await self._holdings(portfolio, market, symbols)
        fee_rate, slippage = self._settings.costs.fee_rate, Slippage.parse(self._settings.costs.slippage)
        costs = {
            symbol: RebalanceCosts.at(prices.get(symbol), fee_rate, slippage, item) for symbol, item in symbols.items()
        }
        found = plan(holdings, weights, prices, rules, costs, split=split_at_lot)
        return _Allocation(portfolio, targets, account, rules, market, found)

    async def account(self, id: int) -> Account:
        """Return an account by its number."""
        return next(account for account in await AccountStore(self._db).page() if account.id == id)

    async def market(self, account: Account, symbols: Sequence[str], now_ns: int | None = None) -> _Market:
        """Return the facts for the checks of an account's orders in some symbols, as the rows are. `now_ns`: default
        the clock's time."""
        now_ns, venue = self._clock.now_ns() if now_ns is None else now_ns, account.venue
        gates = await self._facts.gates(self._settings.risk.guardian_age_max_s, venue, account.id)
        marks = {(mark.exchange, mark.symbol): mark for mark in await self._facts.marks()}
        oldest_ns = now_ns - round(self._settings.portfolio.rate_age_max_s * NS)
        prices = {
            (pair.exchange, pair.symbol): pair.price
            for pair in await ValuationStore(self._db).prices(now_ns, symbols)
            if pair.time_ns >= oldest_ns
        }
        prices |= {key: mark.price for key, mark in marks.items() if mark.price and mark.message_ns}
        positions = await PositionStore(self._db).page(account_id=account.id, venues=[venue])
        orders = await OrderStore(self._db).open([venue])
        balances = await AccountStore(self._db).balances(account.id)
        return _Market(
            now_ns=now_ns,
            marks=marks,
            prices=prices,
            venue_state=gates.venue_state,
            takes_entries=is_enabled(venue, gates.rules, self._settings.enabled_venues),
            kill=gates.kills.over(venue, account.id).mode,
            is_guardian_alive=gates.is_guardian_alive,
            escalated=gates.escalated,
            orders=tuple(order for order in orders if order.account_id == account.id),
            held={(position.symbol, position.instance): position.quantity for position in positions},
            balances={row.balance.currency: row.balance for row in balances},
        )

    async def instrument(self, exchange: str, symbol: str) -> Instrument:
        """Return the rules of an instrument that has a target. Errors: InputError TARGETS_WRONG."""
        return _listed(await InstrumentStore(self._db).get(exchange, symbol), exchange, symbol)

    async def _holdings(
        self, portfolio: Portfolio, market: _Market, symbols: Mapping[str, Instrument]
    ) -> AllocationHoldings:
        """Return the coins of the portfolio's own instance, and the account's cash that no open order may spend."""
        instance = instance_of(portfolio.id)
        buys: dict[str, Decimal] = {}
        sells: dict[str, Decimal] = {}
        for order in market.orders:
            if order.instance == instance:
                side = buys if order.side is Side.BUY else sells
                side[order.symbol] = side.get(order.symbol, _ZERO) + order.remaining
        return AllocationHoldings(
            await self.cash(portfolio.base_currency, market, symbols),
            {symbol: max(market.held.get((symbol, instance), _ZERO), _ZERO) for symbol in symbols},
            buys,
            sells,
            frozenset(order.symbol for order in market.orders if order.state is State.UNKNOWN),
        )

    async def cash(self, currency: str, market: _Market, symbols: Mapping[str, Instrument] | None = None) -> Decimal:
        """Return the account's cash in a currency that no open order may spend. `symbols`: instruments known before."""
        reserved, listed = _ZERO, symbols or {}
        for order in market.orders:
            if order.side is not Side.BUY:
                continue
            known = listed.get(order.symbol) or await InstrumentStore(self._db).get(order.exchange, order.symbol)
            if known is not None and known.quote == currency:
                price = order.price or order.stop_price or market.prices.get((order.exchange, order.symbol)) or _ZERO
                reserved += order.remaining * price
        balance = market.balances.get(currency)
        return _ZERO if balance is None else max(min(balance.free, balance.total - reserved), _ZERO)

    def denial(
        self,
        portfolio_id: int,
        account: Account,
        market: _Market,
        instrument: Instrument,
        side: Side,
        quantity: Decimal,
        limit: Decimal | None,
        *,
        is_asked: bool,
    ) -> Denial | None:
        """Return the denial of an order by itself, as far as rows show it: with `is_asked` any of `_ASKED`, as the
        order manager would check it, else one that passes by itself, also for orders that reduce. `limit`: None for a
        market order."""
        key, instance = (instrument.exchange, instrument.symbol), instance_of(portfolio_id)
        mark = market.marks.get(key)
        age_s = None if mark is None or mark.message_ns is None else (market.now_ns - mark.message_ns) / NS
        mine = {name: held for (symbol, name), held in market.held.items() if symbol == instrument.symbol}
        view = RiskView(
            now_ns=market.now_ns,
            limits=self._settings.risk,
            account=account,
            instrument=instrument,
            venue=VenueView(market.venue_state, is_enabled=market.takes_entries),
            kill=market.kill,
            is_guardian_alive=market.is_guardian_alive,
            escalated=market.escalated,
            mark=market.prices.get(key),
            feed_age_s=age_s,
            position=sum(mine.values(), _ZERO),
            held=sum(mine.values(), _ZERO),
            own=mine.get(instance, _ZERO),
            open_orders=tuple(order for order in market.orders if order.symbol == instrument.symbol),
            balances=market.balances,
            rates={instrument.quote: _ONE},  # limits in another currency are not asked
        )
        id = request_signal_id(instance, f"{side}:{instrument.symbol}")
        intent = intend_order(
            Signal(
                id=id,
                source=f"principal:{instance}",
                instance=instance,
                params_version=0,
                account_id=account.id,
                venue=account.venue,
                exchange=instrument.exchange,
                symbol=instrument.symbol,
                timeframe=None,
                ts_event_ns=market.now_ns,
                ordinal=0,
                kind=Kind.ORDER,
                side=side,
                type=OrderType.MARKET if limit is None else OrderType.LIMIT,
                time_in_force=TimeInForce.GTC if limit is None else TimeInForce.FOK,
                limit_price=limit,
                size=quantity,
                is_reduce_only=side is Side.SELL,
            )
        )
        if is_asked:
            is_valued = account.currency == instrument.quote
            found = check(intent, view, only=_ASKED if is_valued else _ASKED - {Code.NOTIONAL_MAX_ORDER})
            return found.denial if isinstance(found, RiskDenied) else None
        for code, function in CHECKS:
            if code in _HOLDS and isinstance(result := function(intent, view), Denial):
                return result
        return None

    def trades_json(self, found: _Allocation) -> list[dict[str, Any]]:
        """Return the trades of a plan as the values of an answer, each with the denial that rows show."""
        return [self._trade_json(found, trade) for trade in found.plan.trades]

    def _trade_json(self, found: _Allocation, trade: RebalanceTrade) -> dict[str, Any]:
        denial = self.denial(
            found.portfolio.id,
            found.account,
            found.market,
            trade.instrument,
            trade.side,
            trade.quantity,
            trade.limit,
            is_asked=True,
        )
        return {
            "step": trade.number,
            "exchange": trade.instrument.exchange,
            "symbol": trade.instrument.symbol,
            "side": trade.side.value,
            "quantity": trade.quantity,
            "price": trade.price,
            "limit_price": trade.limit,
            "value": trade.value,
            "fee": trade.fee,
            "slippage": trade.slippage,
            "denial": None if denial is None else asdict(denial) | {"code": denial.code.value},
        }


class Rebalancing:
    """Targets, previews and runs for persons. Holds no state; many may exist."""

    def __init__(self, db: Database, bus: Bus, clock: Clock, settings: Settings, log: Log) -> None:
        self._db = db
        self._bus = bus
        self._clock = clock
        self._settings = settings
        self._log = log
        self._runs = PortfolioRunStore(db)
        self._entry = OrderEntry(db, bus, clock, settings)
        self._allocations = Allocations(db, clock, settings)

    # ── targets ──────────────────────────────────────────────────────────────────────────────────
    async def targets(self, name: str) -> dict[str, Any]:
        """Return the newest targets of a portfolio; version 0 before the first. Errors: InputError 404."""
        return await self._targets_of(await PortfolioStore(self._db).get(name))

    async def _targets_of(self, portfolio: Portfolio) -> dict[str, Any]:
        found = await self._runs.target_set(portfolio.id)
        rows = [] if found is None else await self._runs.target_weights(portfolio.id, found.version)
        sized = [] if found is None else await self._runs.instance_targets(portfolio.id, found.version)
        return {
            "portfolio": portfolio.name,
            "version": 0 if found is None else found.version,
            "account": None if found is None else found.account.name,
            "currency": portfolio.base_currency,
            "rules": rules_json(rules_of({} if found is None else found.rules)),
            "created_by": None if found is None else found.created_by,
            "created_at": None if found is None else found.created_at,
            "items": [
                {
                    "exchange": row.exchange,
                    "symbol": row.symbol,
                    "weight": row.weight,
                    "min": row.weight_min,
                    "max": row.weight_max,
                }
                for row in rows
            ],
            "instances": [
                {"instance" if name == "instance_id" else name: value for name, value in asdict(row).items()}
                for row in sized
            ],
        }

    async def set_targets(
        self,
        name: str,
        *,
        version: int,
        account: str | None,
        targets: Sequence[tuple[str, Decimal, Decimal | None, Decimal | None]],
        rules: Mapping[str, Any],
        by: str,
        instances: Mapping[str, Decimal] | None = None,
        allocation: uuid.UUID | None = None,
    ) -> dict[str, Any]:
        """Replace the targets that are at `version` (0 before the first), and return the new ones.

        `targets`: symbol, weight, and bounds of the weight. `account`: a member, default the one of the targets before,
        else the only member. `rules`: those that are left out have their defaults. `instances`: weights by strategy
        instance, None: as before; their sizes follow. `allocation`: they come from.
        Errors: InputError 404 for the portfolio, a symbol or an instance, 409 PORTFOLIO_VERSION, PORTFOLIO_ARCHIVED,
        PORTFOLIO_RUNNING, 422 TARGETS_WRONG, TARGETS_MIXED (an instance trades the symbol of a target on its account).
        """
        portfolio = await PortfolioStore(self._db).get(name)
        before = await self._runs.target_set(portfolio.id)
        if instances is None:
            kept = [] if before is None else await self._runs.instance_targets(portfolio.id, before.version)
            instances = {row.instance_id: row.weight for row in kept}
        if instances and not targets and not portfolio.accounts:  # of instances alone: no account trades for it
            own = await self._allocations.account((await find_instance(self._db, next(iter(instances)))).account_id)
        else:
            own = await self._account(portfolio, account, before)
        if before is not None and before.account.id != own.id:
            await self._check_flat(portfolio, before)
        checked = rules_of(rules)
        rows = [await self._target(portfolio, own, *target) for target in targets]
        if len({row.symbol for row in rows}) < len(rows):
            raise _wrong("a symbol has two targets", "give each symbol once")
        sized = [await self._sized(portfolio, own, id, weight, rows) for id, weight in instances.items()]
        weights = [*(row.weight for row in rows), *(row.weight for row in sized)]
        if (total := sum(weights, checked.cash_min)) > 1:
            raise _wrong(
                f"the weights and the cash buffer of {checked.cash_min:f} add up to {total:f}", "give at most 1"
            )
        async with self._db.transaction() as tx:
            await check_idle(tx, portfolio.id, portfolio.name)
            store = PortfolioRunStore(tx)
            if portfolio.accounts and not await store.is_member(portfolio.id, own.id):
                raise _not_member(portfolio, own.name)
            if (await PortfolioStore(tx).get(str(portfolio.id))).state != "active":
                raise _archived(portfolio)
            now = await store.target_set(portfolio.id)
            at = 0 if now is None else now.version
            if at != version:
                raise InputError(
                    f"the targets of {portfolio.name} are at version {at}, not {version}: they were changed meanwhile",
                    code="PORTFOLIO_VERSION",
                    status=409,
                    remedy="read them again, and send their version with the change",
                )
            await store.add_target_set(portfolio.id, at + 1, own.id, rules_json(checked), by, rows, sized)
            if allocation is not None:
                await store.end_allocation(allocation, "applied", at + 1, None)
        self._log.info("portfolio.targets", portfolio=portfolio.name, by=by, version=version + 1)
        return await self._targets_of(portfolio)

    # ── triggers and allocations ─────────────────────────────────────────────────────────────────
    async def trigger(self, name: str) -> dict[str, Any]:
        """Return when a portfolio is rebalanced without a person, and the last decision about it. Errors: InputError
        404."""
        portfolio = await PortfolioStore(self._db).get(name)
        row = await self._runs.policy(portfolio.id)
        decided = (
            "updated_by",
            "updated_at",
            "requested_at",
            "decided_bar",
            "decision",
            "decision_detail",
            "decided_at",
        )
        return {
            "portfolio": portfolio.name,
            **asdict(policy_of(row)),
            **{name: None if row is None else getattr(row, name) for name in decided},
        }

    async def set_trigger(self, name: str, policy: TriggerPolicy, by: str) -> dict[str, Any]:
        """Set when a portfolio is rebalanced without a person. A schedule's request that waits is dropped.

        Errors: InputError 404, 409 PORTFOLIO_ARCHIVED, TIMEFRAME_UNKNOWN.
        """
        portfolio = await PortfolioStore(self._db).get(name)
        check_timeframe(policy.timeframe)
        if portfolio.state != "active":
            raise _archived(portfolio)
        await self._runs.set_policy(
            portfolio.id,
            policy.trigger.value,
            policy.band,
            policy.timeframe,
            policy.cooldown_s,
            policy.needs_approval,
            policy.change_max,
            by,
        )
        self._log.info("portfolio.trigger_set", portfolio=portfolio.name, by=by, trigger=policy.trigger.value)
        return await self.trigger(str(portfolio.id))

    async def allocations(self, name: str, limit: int = 100) -> list[dict[str, Any]]:
        """Return the allocations of a portfolio, newest first. Errors: InputError 404."""
        portfolio = await PortfolioStore(self._db).get(name)
        return [allocation_json(row) for row in await self._runs.allocations(portfolio.id, limit)]

    async def allocation(self, name: str, id: uuid.UUID) -> dict[str, Any]:
        """Return one allocation of a portfolio. Errors: InputError 404 PORTFOLIO_UNKNOWN, ALLOCATION_UNKNOWN."""
        return allocation_json(await self._allocated(await PortfolioStore(self._db).get(name), id))

    async def _allocated(self, portfolio: Portfolio, id: uuid.UUID) -> AllocationRow:
        row = await self._runs.allocation(portfolio.id, id)
        if row is None:
            raise InputError(
                f"portfolio {portfolio.name} has no allocation {id}",
                code="ALLOCATION_UNKNOWN",
                status=404,
                remedy=f"see 'fks portfolio allocations {portfolio.name}'",
            )
        return row

    async def apply(self, name: str, id: uuid.UUID, by: str) -> dict[str, Any]:
        """Make the weights of an allocation the targets, and return these; the account and the rules stay, and so does
        the band of a target that holds its new weight. So do the targets of instruments if it has none, and those of
        instances that it does not name. Nothing is traded. Applied before: the targets as they are.

        Errors: InputError 404, and those of `set_targets`: 409 PORTFOLIO_VERSION if the targets were changed since it
        was calculated.
        """
        portfolio = await PortfolioStore(self._db).get(name)
        row = await self._allocated(portfolio, id)
        if row.state == "applied":
            return await self._targets_of(portfolio)
        before = await self._runs.target_set(portfolio.id)
        kept = [] if before is None else await self._runs.target_weights(portfolio.id, before.version)
        bounds = {(old.exchange, old.symbol): (old.weight_min, old.weight_max) for old in kept}
        targets, sized = [], dict[str, Decimal]()
        if before is not None:
            sized = {
                old.instance_id: old.weight for old in await self._runs.instance_targets(portfolio.id, before.version)
            }
        for item in row.weights:
            weight = decimal_of(item["weight"])
            if (instance := item.get("instance")) is not None:
                sized[instance] = weight
                continue
            least, most = bounds.get((item["exchange"], item["symbol"]), (None, None))
            is_inside = (least is None or least <= weight) and (most is None or weight <= most)
            band = (least, most) if is_inside else (None, None)
            targets.append((f"{item['exchange']}:{item['symbol']}", weight, *band))
        if not targets:
            targets = [(f"{old.exchange}:{old.symbol}", old.weight, old.weight_min, old.weight_max) for old in kept]
        return await self.set_targets(
            str(portfolio.id),
            version=row.targets_version,
            account=None,
            targets=targets,
            rules={} if before is None else before.rules,
            by=by,
            instances=sized,
            allocation=row.id,
        )

    async def _account(self, portfolio: Portfolio, name: str | None, before: TargetSet | None) -> Account:
        if name is None and before is None and len(portfolio.accounts) != 1:
            raise _wrong(
                f"portfolio {portfolio.name} has {len(portfolio.accounts)} accounts",
                f"name the one that trades as account (--account): {', '.join(portfolio.accounts) or 'add one first'}",
            )
        wanted = name or (portfolio.accounts[0] if before is None else before.account.name)
        known = await AccountStore(self._db).page()
        # an account may be named as another's number
        for account in sorted(known, key=lambda account: account.name != wanted):
            if wanted in (account.name, str(account.id)) and account.name in portfolio.accounts:
                if is_ninja(account.venue):
                    raise _wrong(f"account {account.name} trades contracts, not coins", "name an account of coins")
                return account
        raise _not_member(portfolio, wanted)

    async def _check_flat(self, portfolio: Portfolio, before: TargetSet) -> None:
        """Refuse another account while the instance holds coins on the one before, or an order there may still fill:
        no plan would count them.

        A rest below one lot does not count: no order could sell it.
        """
        account = before.account
        for order in await OrderStore(self._db).open([account.venue]):
            if (order.account_id, order.instance) == (account.id, instance_of(portfolio.id)):
                raise _wrong(
                    f"order {order.client_order_id} in {order.symbol} on account {account.name} may still fill",
                    "wait until its outcome is known, or cancel it",
                )
        found = await self._runs.target_instruments(portfolio.id)
        assert found is not None  # no targets are ever deleted
        places = {row.symbol: (row.exchange, item) for row, _, item in found[1]}
        for position in await PositionStore(self._db).page(account_id=account.id):
            if position.instance != instance_of(portfolio.id) or position.symbol not in places:
                continue
            exchange, item = places[position.symbol]
            instrument = _listed(item, exchange, position.symbol)
            if not is_dust(position.quantity, None, instrument):
                raise _wrong(
                    f"{portfolio.name} holds {position.quantity:f} {position.symbol} on account {account.name}",
                    "set its targets to 0 and rebalance, then name the other account",
                )

    async def _target(
        self,
        portfolio: Portfolio,
        account: Account,
        symbol: str,
        weight: Decimal,
        least: Decimal | None,
        most: Decimal | None,
    ) -> TargetRow:
        at = exchange_for(account, symbol, None, self._settings)
        listed = await ReadingStore(self._db).find(symbol, at, listed=True)
        if listed.quote != portfolio.base_currency or listed.multiplier != 1:
            raise _wrong(
                f"{listed.place} is no pair of coins that is traded for {portfolio.base_currency}",
                f"targets are pairs in the portfolio's currency, {portfolio.base_currency}",
            )
        today = to_datetime(self._clock.now_ns()).date()
        for event in await CorporateActionStore(self._db).events(listed.exchange, listed.symbol):
            if event.kind == DELISTING and event.day <= today:
                raise _wrong(f"{listed.place} was delisted on {event.day}", "leave it out: it cannot be traded")
        if not 0 <= weight <= 1 or not (least or _ZERO) <= weight <= (_ONE if most is None else most) <= 1:
            raise _wrong(
                f"weight {weight:f} of {listed.symbol} is not within its bounds", "0 <= min <= weight <= max <= 1"
            )
        if least is not None and least < 0:
            raise _wrong(f"min {least:f} of {listed.symbol} is negative", "0 <= min <= weight <= max <= 1")
        return TargetRow(listed.exchange, listed.symbol, weight, least, most)

    async def _sized(
        self, portfolio: Portfolio, own: Account, id: str, weight: Decimal, targets: Sequence[TargetRow]
    ) -> InstanceTarget:
        """Return the target of a strategy instance of a member. Errors: InputError 404 INSTANCE_UNKNOWN, 422
        TARGETS_WRONG, TARGETS_MIXED."""
        instance, account = await sized_instance(self._db, portfolio, id)
        if not 0 < weight <= 1:
            raise _wrong(f"weight {weight:f} of instance {id} is no size", "0 < weight <= 1; disable it to stop it")
        if account.id == own.id and any(row.symbol == instance.symbol for row in targets):
            raise InputError(
                f"instance {id} trades {instance.symbol} on account {own.name}, and the instrument has a target there",
                code="TARGETS_MIXED",
                status=422,
                remedy="give the weight to the instance or to the instrument",
            )
        return InstanceTarget(id, weight)

    # ── plans ────────────────────────────────────────────────────────────────────────────────────
    async def drift(self, name: str) -> dict[str, Any]:
        """Return each instrument's weight, target and band, and whether a rebalancing would trade it; and the weight of
        each strategy instance beside the shares of the equity that its positions and its size are. Errors: those of
        `read_allocation`."""
        found = await read_allocation(self._db, self._clock, self._settings, name)
        sized = await self._runs.instance_targets(found.portfolio.id, found.targets.version)
        return self._head(found) | {
            "items": [drift_json(row) for row in found.plan.drift],
            "instances": await self._instance_drift(found.portfolio, sized, found.market.now_ns) if sized else [],
        }

    async def _instance_drift(
        self, portfolio: Portfolio, sized: Sequence[InstanceTarget], now_ns: int
    ) -> list[dict[str, Any]]:
        valued, into = await value_portfolio(self._db, self._settings, portfolio, now_ns), portfolio.base_currency
        equity = valued.valuation.equity if valued.valuation.is_complete and valued.valuation.equity > 0 else None

        def share(amount: Decimal | None, currency: str) -> Decimal | None:
            rate = valued.rates.rate(currency, into)
            known = equity is not None and amount is not None and rate is not None
            return (amount * rate / equity).quantize(_SIZE_STEP) if known else None  # type: ignore[operator]

        found = []
        for row in sized:
            instance = await find_instance(self._db, row.instance_id)
            quote = (await self._allocations.instrument(instance.exchange, instance.symbol)).quote
            held: Decimal | None = _ZERO
            for p in valued.positions:
                if p.instance == row.instance_id:
                    price = p.price if p.is_contract else valued.rates.rate(p.base, p.quote)
                    held = None if price is None or held is None else held + abs(p.quantity) * price * p.multiplier
            found.append(
                {
                    "instance": row.instance_id,
                    "target": row.weight,
                    "weight": share(held, quote),
                    "size_weight": share(row.size, quote),
                    "reason": row.reason,
                }
            )
        return found

    async def preview(self, name: str, by: str, *, with_lots: bool = False) -> dict[str, Any]:
        """Return the trades of a rebalancing now, each with its expected costs and the denial that rows show, the
        drift that they leave, and the hash by which it may be started for PLAN_VALID_S. `with_lots`: each sell with the
        lots of its account that it would use up.

        Without trades there is no hash. Errors: those of `read_allocation`; InputError 409 PORTFOLIO_ARCHIVED,
        PLAN_OUTDATED (a run has ended meanwhile).
        """
        found = await read_allocation(self._db, self._clock, self._settings, name)
        _check_member(found.portfolio, found.account)
        trades = self._allocations.trades_json(found)
        body = self._head(found) | {
            "cash_after": found.plan.cash_after,
            "turnover": found.plan.turnover,
            "fees": sum((trade.fee for trade in found.plan.trades), _ZERO),
            "slippage": sum((trade.slippage for trade in found.plan.trades), _ZERO),
            "trades": trades,
            "items": [drift_json(row) for row in found.plan.drift],
            "plan_hash": None,
            "expires_at": None,
        }
        if found.plan.trades:
            run, steps = as_run(found, trades, by)
            if not await self._runs.add_plan(run, steps):
                raise _plan_gone("PLAN_OUTDATED", f"a run of {found.portfolio.name} has ended meanwhile")
            body |= {
                "plan_hash": run.plan_hash,
                "expires_at": to_datetime(found.market.now_ns + int(PLAN_VALID_S * NS)),
            }
        lots = await self._lots(found) if with_lots else {}
        body["trades"] = [
            trade | {"gain": _gain(lots.get(trade["step"], [])), "lots": lots.get(trade["step"], [])}
            for trade in trades
        ]
        return body

    async def _lots(self, found: _Allocation) -> dict[int, list[dict[str, Any]]]:
        """Return the lots that the sells of a plan would use up, first in first out, by step. All coins of the account
        have lots, whichever instance bought them."""
        sells = {f"plan:{row.number}": row for row in found.plan.trades if row.side is Side.SELL}
        if not sells:
            return {}
        store, account = LotStore(self._db, self._settings.venue.exchange), found.account
        history = await store.history([account.id])
        now_ns = max(found.market.now_ns, max((trade.time_ns for trade in history.trades), default=0) + 1)
        planned = [
            LotTrade(
                *(now_ns, row.number, id, account.name, row.instrument.symbol, row.instrument.base),
                *(row.instrument.quote, False, row.quantity, row.price, row.fee, row.instrument.quote),
            )
            for id, row in sells.items()
        ]
        history = replace(history, trades=[*history.trades, *planned])
        book = await store.book(history, found.portfolio.base_currency, LotMethod.FIFO, is_shared=False)
        lots: dict[int, list[dict[str, Any]]] = {}
        for item in book.disposals():
            if (sold := sells.get(item.disposal_id)) is not None and item.asset == sold.instrument.base:
                lots.setdefault(sold.number, []).append(
                    json_fields(item, "lot_id", "quantity", "cost", "gain", "note")
                    | {"acquired_at": None if item.acquired_ns is None else iso(item.acquired_ns)}
                )
        return lots

    def _head(self, found: _Allocation) -> dict[str, Any]:
        return {
            "portfolio": found.portfolio.name,
            "targets_version": found.targets.version,
            "account": found.account.name,
            "currency": found.portfolio.base_currency,
            "time": to_datetime(found.market.now_ns),
            "capital": found.plan.capital,
            "cash": found.plan.cash,
        }

    # ── runs ─────────────────────────────────────────────────────────────────────────────────────
    async def rebalance(self, name: str, plan_hash: str, by: str) -> dict[str, Any]:
        """Start the plan with this hash, and return its run. The same hash again returns the same run while it is under
        way.

        A plan of a trigger that waits for a person is started in the same way, for as long as a run may last.

        Errors: InputError 404 for the portfolio; 409 PLAN_UNKNOWN, PLAN_USED (its run has ended), PLAN_EXPIRED,
        PLAN_OUTDATED (the targets changed), PRICE_MOVED, PORTFOLIO_RUNNING, PORTFOLIO_ARCHIVED.
        """
        portfolio = await PortfolioStore(self._db).get(name)
        id = await self._runs.planned(portfolio.id, plan_hash)
        run = None if id is None else await self._runs.run(portfolio.id, id)
        if run is None:
            raise _plan_gone("PLAN_UNKNOWN", f"portfolio {portfolio.name} has no plan {plan_hash[:64]!r}")
        if run.state in RUN_ACTIVE:
            return await self._run_json(run)
        if run.state != "planned":
            raise _plan_gone("PLAN_USED", f"the plan was used: run {run.id} of {portfolio.name} is {run.state}")
        now_ns = self._clock.now_ns()
        valid_s = PLAN_VALID_S if run.trigger is None else rules_of(run.rules).run_max_age_s
        if now_ns - to_ns(run.created_at) > valid_s * NS:
            raise _plan_gone("PLAN_EXPIRED", f"the plan is older than {valid_s:g} s")
        await self._check_prices(run)
        async with self._db.transaction() as tx:
            await check_idle(tx, portfolio.id, portfolio.name, besides=run.id)
            store = PortfolioRunStore(tx)
            targets = await store.target_set(portfolio.id)
            if targets is None or targets.version != run.targets_version:
                raise _plan_gone("PLAN_OUTDATED", f"the targets of {portfolio.name} were changed since the plan")
            if not await store.is_member(portfolio.id, run.account_id):
                raise _plan_gone("PLAN_OUTDATED", f"account {run.account} is no member of {portfolio.name} any more")
            is_new = await store.start(run.id, now_ns, by)
        if is_new:
            self._log.info("portfolio.run_started", portfolio=portfolio.name, run=str(run.id), by=by)
            await self._bus.publish(JOBS, {"type": "portfolio", "run": str(run.id)})
        return await self.run(name, run.id)

    async def _check_prices(self, run: PortfolioRun) -> None:
        steps, account = await self._runs.steps(run.id), await self._allocations.account(run.account_id)
        market = await self._allocations.market(account, [step.symbol for step in steps])
        tolerance = rules_of(run.rules).price_tolerance
        for step in steps:
            price = market.prices.get((step.exchange, step.symbol))
            if price is None or has_moved(price, step.price, tolerance):
                now = "unknown" if price is None else f"{price:f}"
                raise _plan_gone(
                    _MOVED,
                    f"the price of {step.symbol} is {now}, and the plan's is {step.price:f}: the tolerance is "
                    f"{tolerance:f} of it",
                )

    async def runs(self, name: str, limit: int = 100) -> list[dict[str, Any]]:
        """Return the runs of a portfolio without their steps, newest first. Errors: InputError 404."""
        portfolio = await PortfolioStore(self._db).get(name)
        return [_run_head(run) for run in await self._runs.runs(portfolio.id, limit)]

    async def run(self, name: str, id: uuid.UUID) -> dict[str, Any]:
        """Return a run with its steps and the drift of its plan, or after its end the drift that it left. Errors:
        InputError 404."""
        return await self._run_json(await self._started(name, id))

    async def cancel(self, name: str, id: uuid.UUID, by: str) -> dict[str, Any]:
        """Have a run send no more orders, and cancel those that are open. What has filled stays. Signals that the
        order manager has not used yet are withdrawn before this returns. A plan that waits for a person never starts.

        Errors: InputError 404, 409 RUN_ENDED.
        """
        run = await self._started(name, id)
        if not await self._runs.request_cancel(run.id, f"cancelled by {by}") and run.state not in RUN_ACTIVE:
            raise InputError(
                f"run {id} has ended: {run.state}",
                code="RUN_ENDED",
                status=409,
                remedy="there is nothing left to cancel",
            )
        for step in await self._runs.steps(run.id):
            if not await withdraw(SignalStore(self._db), self._entry, run, step, self._clock.now_ns()):
                await cancel_order(self._entry, run, step)
        self._log.info("portfolio.run_cancelled", portfolio=run.portfolio, run=str(id), by=by)
        await self._bus.publish(JOBS, {"type": "portfolio", "run": str(id)})
        return await self.run(name, id)

    async def _started(self, name: str, id: uuid.UUID) -> PortfolioRun:
        portfolio = await PortfolioStore(self._db).get(name)
        run = await self._runs.run(portfolio.id, id)
        if run is None or (run.state == "planned" and run.trigger is None):
            raise InputError(
                f"portfolio {portfolio.name} has no run {id}",
                code="RUN_UNKNOWN",
                status=404,
                remedy=f"see 'fks portfolio runs {portfolio.name}'",
            )
        return run

    async def _run_json(self, run: PortfolioRun) -> dict[str, Any]:
        steps = await self._runs.steps(run.id)
        return _run_head(run) | {"steps": [step_json(step) for step in steps], "items": run.drift}


class RebalanceTrigger:
    """Starts runs by schedule and by drift, applies allocations that schedules requested, and gives strategy instances
    the sizes of their weights. Soft state: when each size that waits was tried last. One scheduler calls it.

    Guarantees: of each bar and of each request at most one run starts, whichever process dies when and however many
    look at once: the decision, the plan, its start and the alert about it are one transaction.
    """

    def __init__(
        self, db: Database, bus: Bus, clock: Clock, settings: Settings, log: Log, lease: Lease | None = None
    ) -> None:
        self._db = db
        self._clock = clock
        self._settings = settings
        self._log = log
        self._runs = PortfolioRunStore(db, lease)
        self._allocations = Allocations(db, clock, settings)
        self._persons = Rebalancing(db, bus, clock, settings, log)
        self._sized_s: dict[tuple[int, int, str], float] = {}

    async def look(self) -> int:
        """Decide on each portfolio that a trigger may rebalance now, and return how many runs were started or wait for
        a person. Errors: OutageError."""
        started = 0
        for due in await self._runs.triggers():
            try:
                started += await self._look(due)
            except OutageError:
                raise
            except Exception as error:  # one portfolio that raises must end neither the others nor the scheduler
                await self._note(due, TriggerCode.HELD, _text_of(error))
        for portfolio_id, id in await self._runs.waiting_allocations():
            await self._apply(portfolio_id, id)
        for row in await self._runs.waiting_sizes():
            key, now_s = (row.portfolio_id, row.version, row.instance_id), self._clock.monotonic()
            if now_s - self._sized_s.get(key, -_SIZE_EVERY_S) < _SIZE_EVERY_S:
                continue
            self._sized_s[key] = now_s
            try:
                await self._resize(row)
            except OutageError:
                raise
            except Exception as error:  # its entries are open, a rate is missing: it is tried again at the next look
                if await self._runs.hold_size(row, _text_of(error)):
                    self._log.info(
                        "portfolio.size_waits",
                        portfolio=row.portfolio,
                        instance=row.instance_id,
                        reason=_text_of(error),
                    )
        return started

    async def _look(self, due: DueTrigger) -> bool:
        now_ns, policy = self._clock.now_ns(), policy_of(due)
        facts, detail, found = _facts_of(due, now_ns), None, None
        code = decide(policy, facts, None)
        if code is None:
            try:
                found = await read_allocation(self._db, self._clock, self._settings, str(due.portfolio_id))
                _check_member(found.portfolio, found.account)
                market, detail = await self._market(policy, found, now_ns)
            except OutageError:
                raise
            except Exception as error:  # an instrument that is not listed any more: a request expires
                detail = _text_of(error)
                market = TriggerMarket(bar_start(now_ns, policy.timeframe), detail, (), 0)
            code = decide(policy, facts, market)
            assert code is not None
        if code is TriggerCode.IDLE:
            return False
        if not code.is_final:
            await self._note(due, code, detail)
            return False
        bar_ns = bar_start(now_ns, policy.timeframe) if policy.trigger is Trigger.DRIFT else None
        if code is TriggerCode.START:
            assert found is not None
            return await self._start(due, found, bar_ns, detail)
        await self._settle(due, code, bar_ns, detail)
        return False

    async def _market(self, policy: TriggerPolicy, found: _Allocation, now_ns: int) -> tuple[TriggerMarket, str | None]:
        """Return the facts about the instruments, and the decision's detail."""
        rows = [row for row in found.plan.drift if row.quantity or row.target]
        close_ns, bars_ns, outside = bar_start(now_ns, policy.timeframe), None, tuple[str, ...]()
        if policy.trigger is Trigger.DRIFT:
            places = [row.instrument for row in rows]
            closes = await self._runs.sealed_closes(
                [place.exchange for place in places],
                [place.symbol for place in places],
                policy.timeframe,
                bar_start(close_ns - 1, policy.timeframe),
            )
            missing = [place.symbol for place in places if place.symbol not in closes]
            if missing:
                return TriggerMarket(None, None, (), 0), f"{policy.timeframe} of {' '.join(missing)}"[:500]
            bars_ns = close_ns
            prices = {symbol: decimal_of(close) for symbol, close in closes.items()}
            outside = weights_outside(rows, found.plan.cash, prices, policy.band)
        hold = None
        for row in rows:
            denial = self._allocations.denial(
                found.portfolio.id, found.account, found.market, row.instrument, Side.BUY, _ONE, None, is_asked=False
            )
            if denial is not None:
                hold = f"{denial.code}: {denial.scope}"
                break
        detail = hold or (" ".join(outside)[:500] or None)
        return TriggerMarket(bars_ns, hold, outside, len(found.plan.trades)), detail

    async def _note(self, due: DueTrigger, code: TriggerCode, detail: str | None) -> None:
        if await self._runs.note_decision(due.portfolio_id, code.value, detail):
            self._log.info("portfolio.trigger_waits", portfolio=due.portfolio, reason=code.value, detail=detail or "")

    async def _settle(self, due: DueTrigger, code: TriggerCode, bar_ns: int | None, detail: str | None) -> None:
        """Note a decision that starts nothing. A request that was held for too long raises an alert."""
        was = f"{due.decision}: {due.decision_detail or ''}" if code is TriggerCode.EXPIRED else detail
        async with self._db.transaction() as tx:
            is_new = await PortfolioRunStore(tx).settle_trigger(
                due.portfolio_id, due.updated_at, bar_ns, due.requested_id, code.value, was
            )
            if is_new and code is TriggerCode.EXPIRED:
                await FactStore(tx).note_alert(
                    "warning",
                    "portfolio.trigger_expired",
                    f"the scheduled rebalancing of {due.portfolio} did not start: {was}",
                    component="scheduler",
                    payload={"portfolio": due.portfolio, "reason": was},
                )
        if is_new:
            self._log.info("portfolio.trigger_decided", portfolio=due.portfolio, decision=code.value, detail=was or "")

    async def _start(self, due: DueTrigger, found: _Allocation, bar_ns: int | None, detail: str | None) -> bool:
        """Start the plan, or let it wait for a person; False if another process decided meanwhile, or the targets were
        changed."""
        if self._clock.now_ns() - found.market.now_ns > PLAN_VALID_S * NS:
            return False  # this process stood still: the next look plans again
        key = str(due.requested_id) if bar_ns is None else f"{due.timeframe} {iso(bar_ns)}"
        by = f"trigger:{due.trigger}"
        run, steps = as_run(found, self._allocations.trades_json(found), by, trigger=due.trigger, trigger_key=key)
        payload = {"portfolio": due.portfolio, "run": str(run.id), "trigger": due.trigger, "orders": len(steps)}
        cause = f"outside their bands: {detail}" if bar_ns is not None else "by schedule"
        async with self._db.transaction() as tx:
            await check_idle(tx, due.portfolio_id, due.portfolio)
            store = PortfolioRunStore(tx)
            targets = await store.target_set(due.portfolio_id)
            if targets is None or targets.version != due.targets_version:
                return False
            if not await store.is_member(due.portfolio_id, run.account_id):
                return False
            if not await store.settle_trigger(
                due.portfolio_id, due.updated_at, bar_ns, due.requested_id, TriggerCode.START.value, detail
            ):
                return False
            await store.drop_pending(due.portfolio_id)
            if not await store.add_plan(run, steps):
                # nothing is decided: the next look plans again
                raise _plan_gone("PLAN_OUTDATED", "a run has ended since, or one of this bar was started before")
            if due.needs_approval:
                await FactStore(tx).note_alert(
                    "warning",
                    "portfolio.approval",
                    f"a rebalancing of {due.portfolio} waits for approval ({cause}), {len(steps)} orders: see 'fks "
                    f"portfolio run {due.portfolio} {run.id}', then 'fks portfolio rebalance {due.portfolio} "
                    f"{run.plan_hash}' or 'fks portfolio cancel {due.portfolio} {run.id}'",
                    component="scheduler",
                    payload=payload,
                )
            else:
                await store.start(run.id, self._clock.now_ns(), by)
                await FactStore(tx).note_alert(
                    "info",
                    "portfolio.run_automatic",
                    f"portfolio {due.portfolio} is rebalanced ({cause}), {len(steps)} orders: see 'fks portfolio run "
                    f"{due.portfolio} {run.id}'",
                    component="scheduler",
                    payload=payload,
                )
        if due.needs_approval:
            self._log.info("portfolio.run_proposed", portfolio=due.portfolio, run=str(run.id), trigger=due.trigger)
        else:
            self._log.info("portfolio.run_started", portfolio=due.portfolio, run=str(run.id), by=by)
        return True

    async def _apply(self, portfolio_id: int, id: uuid.UUID) -> None:
        """Make targets of an allocation that a schedule asked for, within the maximum change; else note why not."""
        row = await self._runs.allocation(portfolio_id, id)
        assert row is not None
        policy = policy_of(await self._runs.policy(portfolio_id))
        change = max(
            (abs(decimal_of(item["weight"]) - decimal_of(item["before"] or 0)) for item in row.weights), default=_ZERO
        )
        reason = None
        if change > policy.change_max:
            reason = f"a weight changes by {change:f}, more than {policy.change_max:f} (change_max)"
        else:
            try:
                await self._persons.apply(str(portfolio_id), id, row.created_by)
            except OutageError:
                raise
            except Exception as error:  # it must not end the scheduler
                if isinstance(error, InputError) and error.code == "PORTFOLIO_RUNNING":
                    return  # after its end
                reason = _text_of(error)
        if reason is None:
            return
        async with self._db.transaction() as tx:
            if not await PortfolioRunStore(tx).end_allocation(id, "refused", None, reason):
                return
            await FactStore(tx).note_alert(
                "warning",
                "portfolio.allocation_refused",
                f"the weights of allocation {id} did not become targets of {row.portfolio}: {reason}; apply them with "
                f"'fks portfolio apply {row.portfolio} {id}'",
                component="scheduler",
                payload={"portfolio": row.portfolio, "allocation": str(id), "reason": reason},
            )
        self._log.warning("portfolio.allocation_refused", portfolio=row.portfolio, allocation=str(id), reason=reason)

    async def _resize(self, row: WaitingSize) -> None:
        """Give a strategy instance the size of its weight, by a new version of its parameters, in one transaction with
        the note that it has it.

        Errors: InputError ENTRIES_OPEN while an entry of it is open, EQUITY_MISSING without a rate for a holding.
        """
        now_ns = self._clock.now_ns()
        async with self._db.transaction() as tx:
            portfolio = await PortfolioStore(tx).get(str(row.portfolio_id))
            instance = await held_instance(tx, row.instance_id)
            valued = await value_portfolio(tx, self._settings, portfolio, now_ns)
            instrument = await self._allocations.instrument(instance.exchange, instance.symbol)
            rate = valued.rates.rate(portfolio.base_currency, instrument.quote)
            if not valued.valuation.is_complete or rate is None:
                missing = ", ".join(valued.valuation.missing) or f"{portfolio.base_currency} in {instrument.quote}"
                raise InputError(
                    f"no rate: {missing}"[:500], code="EQUITY_MISSING", status=409, remedy="wait for a bar"
                )
            size = (row.weight * max(valued.valuation.equity, _ZERO) * rate).quantize(_SIZE_STEP, ROUND_FLOOR)
            version = await change_params(
                tx,
                instance,
                instance.params,
                by=instance_of(row.portfolio_id),
                provenance=_origin_of(await StrategyStore(tx).versions(instance.id, limit=1))
                | {
                    "sized_by": {
                        "portfolio": row.portfolio,
                        "targets_version": row.version,
                        "weight": f"{row.weight:f}",
                    }
                },
                size=size,
            )
            if not await PortfolioRunStore(tx).apply_size(row, size, version, now_ns):
                raise InputError("the targets were changed", code="PORTFOLIO_VERSION", status=409, remedy="none")
        self._log.info(
            "portfolio.instance_sized",
            portfolio=row.portfolio,
            instance=row.instance_id,
            size=f"{size:f}",
            params_version=version,
        )


class RebalanceDriver:
    """Carries out the runs that are under way, from their rows. Soft state: none. One scheduler calls it.

    Guarantees: a step's signal is committed at most once, whichever process dies when; a buy is sent only once all
    sells of its run have ended; nothing is sent once the run is cancelled or older than its `run_max_age_s`.
    """

    def __init__(
        self, db: Database, bus: Bus, clock: Clock, settings: Settings, log: Log, lease: Lease | None = None
    ) -> None:
        self._db = db
        self._clock = clock
        self._settings = settings
        self._log = log
        self._runs = PortfolioRunStore(db, lease)
        self._signals = SignalStore(db, lease)
        self._entry = OrderEntry(db, bus, clock, settings)
        self._allocations = Allocations(db, clock, settings)

    async def advance(self) -> int:
        """Take each run that is under way as far as it goes now, and return their number. Errors: OutageError."""
        active = await self._runs.active_runs()
        for portfolio_id, id in active:
            run = await self._runs.run(portfolio_id, id)
            if run is None or run.state not in RUN_ACTIVE:
                continue
            try:
                await self._advance(run)
            except OutageError:
                raise
            except Exception as error:  # one run that raises must end neither the others nor the scheduler
                await self._hold(run, f"{type(error).__name__}: {error}"[:500])
        return len(active)

    async def _advance(self, run: PortfolioRun) -> None:
        now_ns, rules = self._clock.now_ns(), rules_of(run.rules)
        is_old = now_ns > _end_ns(run, rules)
        if run.state == "running" and await self._runs.is_flattened(run.id, instance_of(run.portfolio_id)):
            reason = f"{Code.KILLED}: a kill closed the positions after the start"
            await self._runs.request_cancel(run.id, reason)
            run = replace(run, state="cancelling", reason=reason)
        is_stopping = is_old or run.state == "cancelling"
        for step in await self._runs.steps(run.id):
            await self._settle(run, step, is_stopping=is_stopping)
        steps = await self._runs.steps(run.id)
        if not is_stopping and not all(step.is_over for step in steps):
            await self._send(run, rules, steps)
            return
        if all(step.is_over for step in steps):
            await self._finish(run, steps, is_old=is_old)

    # ── ends of steps ────────────────────────────────────────────────────────────────────────────
    async def _settle(self, run: PortfolioRun, step: PortfolioRunStep, *, is_stopping: bool) -> None:
        """Note the end of a step whose signal or order has one; of a run that stops, cancel what is open."""
        if step.is_over:
            return
        order = None if step.order_state is None else State(step.order_state)
        signal = None if step.signal_state is None else SignalState(step.signal_state)
        if order is not None and order in TERMINAL:
            is_filled = order is State.FILLED
            if order is State.EXPIRED and step.limit_price is not None:  # under its own code at each venue
                code = Code.SLIPPAGE_GUARD.value
                await self._runs.end_step(run.id, step.step, "ended", code, step.detail or step.code)
                return
            await self._end(run, step, "filled" if is_filled else "ended", None if is_filled else order.value)
        elif order is None and signal in _BAD_ENDS:
            assert signal is not None
            await self._end(run, step, "ended", step.code or signal.value.upper())
        elif is_stopping and step.state == "waiting":
            await self._end(run, step, "ended", "NOT_SENT")
        elif is_stopping and order is State.UNKNOWN:
            await self._end(run, step, "ended", State.UNKNOWN.value)
        elif is_stopping and order is not None:
            await cancel_order(self._entry, run, step)
        elif is_stopping and (
            await withdraw(self._signals, self._entry, run, step, self._clock.now_ns()) or self._is_past(step)
        ):
            await self._end(run, step, "ended", "NOT_SENT")

    def _is_past(self, step: PortfolioRunStep) -> bool:
        assert step.sent_at is not None
        return self._clock.now_ns() - to_ns(step.sent_at) > (ORDER_VALID_S + _CLOCKS_S) * NS

    async def _end(
        self, run: PortfolioRun, step: PortfolioRunStep, state: str, code: str | None, detail: str | None = None
    ) -> None:
        await self._runs.end_step(run.id, step.step, state, step.code or code, step.detail or detail)

    # ── orders ───────────────────────────────────────────────────────────────────────────────────
    async def _send(self, run: PortfolioRun, rules: RebalanceRules, steps: Sequence[PortfolioRunStep]) -> None:
        """Commit the signals that may go now: of sells, and of buys once no sell is left. Others wait, and the run says
        why."""
        are_sells_over = all(step.is_over for step in steps if step.side == Side.SELL.value)
        due = [
            step
            for step in steps
            if not step.is_over and step.signal_state is None and (step.side == Side.SELL.value or are_sells_over)
        ]
        if not due:
            return
        if are_sells_over and await self._runs.is_cash_read(run.id, self._before_ns()) is False:
            return  # the balances are those from before the last execution: a look later they are not
        account = await self._allocations.account(run.account_id)
        market = await self._allocations.market(account, [step.symbol for step in due])
        held: str | None = None
        budget, sent = self._budget(run, rules, steps), 0
        if are_sells_over:
            budget = min(budget, await self._spendable(run, rules, steps, market))
        for step in due:
            if sent == ORDERS_AT_ONCE:
                break
            instrument = await self._allocations.instrument(step.exchange, step.symbol)
            side, price = Side(step.side), market.prices.get((step.exchange, step.symbol))
            denial = self._allocations.denial(
                run.portfolio_id, account, market, instrument, side, step.quantity, step.limit_price, is_asked=False
            )
            if denial is not None:
                held = held or f"{denial.code}: {denial.scope}: {denial.observed}"
                continue
            if price is None or has_moved(price, step.price, rules.price_tolerance):
                held = held or f"{_MOVED}: {step.symbol}: {price}, planned at {step.price:f}"
                continue
            claimed = step.ordered_quantity
            quantity = claimed or step.quantity
            if side is Side.BUY:
                is_limit = step.limit_price is not None
                cost = (step.limit_price or price) * (_ONE + step.cost_rate * (_ONE - rules.cash_min))
                quantity = affordable(quantity, cost, budget, instrument, is_limit=is_limit)
                if not quantity or (claimed is not None and quantity < claimed):
                    # a claimed quantity stays: the process that claimed it may still commit it
                    if claimed is None or await withdraw(self._signals, self._entry, run, step, self._clock.now_ns()):
                        text = f"{budget:f} {run.base_currency} are left for it"
                        await self._end(run, step, "ended", DriftReason.CASH, text)
                    continue
                budget -= quantity * cost
            await self._submit(run, step, quantity)
            sent += 1
        await self._hold(run, held)

    async def _hold(self, run: PortfolioRun, reason: str | None) -> None:
        if await self._runs.hold(run.id, reason) and reason is not None:
            self._log.warning("portfolio.run_held", portfolio=run.portfolio, run=str(run.id), reason=reason)

    @staticmethod
    def _budget(run: PortfolioRun, rules: RebalanceRules, steps: Sequence[PortfolioRunStep]) -> Decimal:
        """Return the cash that buys may still spend: that of the plan beyond its buffer, with the proceeds of its
        sells, without its buys."""
        return run_budget(run.cash_free, rules.cash_min, map(_counted, steps))

    async def _spendable(
        self, run: PortfolioRun, rules: RebalanceRules, steps: Sequence[PortfolioRunStep], market: _Market
    ) -> Decimal:
        """Return the cash beyond the buffer as it is now, after what other instances and persons spent since the plan,
        without that for signals that have no order yet."""
        cash = await self._allocations.cash(run.base_currency, market) - rules.cash_min * run.capital
        cash -= await self._runs.unread_spending(run.id, self._before_ns())
        for step in steps:
            if step.side == Side.BUY.value and not step.is_over and step.order_state is None:
                cash -= _ordered(step) * (step.limit_price or step.price) * (_ONE + step.cost_rate)
        return cash

    def _before_ns(self) -> int:
        return self._clock.now_ns() - int(_CASH_READ_S * NS)

    async def _submit(self, run: PortfolioRun, step: PortfolioRunStep, quantity: Decimal) -> None:
        """Claim a step and commit its signal. A process that dies between the two leaves a claim, which is taken again.

        The signal's id follows from the run and the step, so that it is there once."""
        now_ns, instance = self._clock.now_ns(), instance_of(run.portfolio_id)
        claimed = await self._runs.claim_step(run.id, step.step, now_ns, quantity)
        if claimed is None:
            return
        request = request_of(run, step, claimed, now_ns)
        try:
            await self._entry.submit(
                request,
                instance,
                key_of(run.id, step.symbol, step.step),
                arrived_ns=now_ns,
                accounts={run.account_id},
                instance=instance,
                wait_s=0.0,
            )
        except InputError as error:
            if error.code != "IDEMPOTENCY_CONFLICT":  # else a predecessor committed it after this claim
                await self._end(run, step, "ended", error.code, str(error)[:500])

    async def _finish(self, run: PortfolioRun, steps: Sequence[PortfolioRunStep], *, is_old: bool) -> None:
        """End a run: done if all of it was traded, else partial or cancelled. The drift left counts the cash as it is
        after the last execution, for which the end waits a moment."""
        if await self._runs.is_cash_read(run.id, self._before_ns()) is False:
            return
        is_done = all(step.filled >= step.quantity for step in steps)
        reason = run.reason if run.state == "cancelling" else None
        if not is_done and reason is None:
            ends = {step.code for step in steps if step.code}
            # a buy is made smaller for its cash, a sell for what is held
            ends |= {
                DriftReason.CASH if step.side == Side.BUY.value else DriftReason.HELD
                for step in steps
                if step.state == "filled" and step.filled < step.quantity
            }
            reason = "MAX_AGE" if is_old else " ".join(sorted(ends))
        state = "cancelled" if run.state == "cancelling" else "done" if is_done else "partial"
        try:
            found = await read_allocation(self._db, self._clock, self._settings, str(run.portfolio_id))
            drift: list[Any] | None = _plain([drift_json(row) for row in found.plan.drift])
        except InputError:  # an instrument that is not listed any more: the drift of the plan stays
            drift = None
        if await self._runs.finish(run.id, state, None if is_done else reason, drift, self._clock.now_ns()):
            self._log.info(
                "portfolio.run_ended", portfolio=run.portfolio, run=str(run.id), state=state, reason=reason or ""
            )


def as_run(
    found: _Allocation,
    trades: Sequence[Mapping[str, Any]],
    by: str,
    *,
    trigger: str | None = None,
    trigger_key: str | None = None,
) -> tuple[PortfolioRun, list[dict[str, Any]]]:
    """Return a plan with at least one trade as a run that may be started, and its steps."""
    assert found.plan.capital is not None
    now_ns = found.market.now_ns
    hashed = json.dumps([found.portfolio.id, found.targets.version, now_ns, trades], default=str, sort_keys=True)
    plan_hash = hashlib.sha256(hashed.encode()).hexdigest()
    run_id = portfolio_run_id(found.portfolio.id, plan_hash)
    run = PortfolioRun(
        id=run_id,
        portfolio_id=found.portfolio.id,
        portfolio=found.portfolio.name,
        base_currency=found.portfolio.base_currency,
        targets_version=found.targets.version,
        account_id=found.account.id,
        account=found.account.name,
        plan_hash=plan_hash,
        state="planned",
        reason=None,
        capital=found.plan.capital,
        cash_free=found.plan.cash - found.rules.cash_min * found.plan.capital,
        rules=rules_json(found.rules),
        drift=_plain([drift_json(row) for row in found.plan.drift]),
        created_by=by,
        created_at=to_datetime(now_ns),
        started_at=None,
        ended_at=None,
        trigger=trigger,
        trigger_key=trigger_key,
    )
    steps = [
        {
            "step": trade.number,
            "exchange": trade.instrument.exchange,
            "symbol": trade.instrument.symbol,
            "side": trade.side.value,
            "quantity": f"{trade.quantity:f}",
            "price": f"{trade.price:f}",
            "limit_price": None if trade.limit is None else f"{trade.limit:f}",
            "fee": f"{trade.fee:f}",
            "slippage": f"{trade.slippage:f}",
            "signal_id": str(request_signal_id(found.instance, key_of(run_id, trade.instrument.symbol, trade.number))),
        }
        for trade in found.plan.trades
    ]
    return run, steps


def _origin_of(versions: Sequence[ParameterVersion]) -> dict[str, Any]:
    """Return the provenance of the parameters in force, the newest version, for one that changes the size alone: a roll
    back and a demotion go to where they would have gone from that one."""
    if not versions:
        return {}
    found = versions[0].provenance
    kept = {"replaced": versions[0].version - 1} if found is None else dict(found)
    return {name: value for name, value in kept.items() if name != "request"}


def _listed(instrument: Instrument | None, exchange: str, symbol: str) -> Instrument:
    if instrument is None:
        raise _wrong(f"{exchange}:{symbol} is not listed any more", "set other targets")
    return instrument


def _text_of(error: Exception) -> str:
    name = error.code if isinstance(error, InputError) else type(error).__name__
    return f"{name}: {error}"[:500]


def key_of(run_id: uuid.UUID, symbol: str, step: int) -> str:
    """Return the idempotency key of a step: its signal's id is UUIDv5 of the portfolio's principal and this."""
    return f"{run_id}:{symbol}:{step}"


def request_of(run: PortfolioRun, step: PortfolioRunStep, quantity: Decimal, now_ns: int) -> OrderRequest:
    """Return the order of a step. Its time ends at the latest with that of its run; one with a limit fills at once or
    expires."""
    is_limit = step.limit_price is not None
    return OrderRequest(
        symbol=step.symbol,
        side=step.side,
        type=OrderType.LIMIT if is_limit else OrderType.MARKET,
        price=step.limit_price,
        time_in_force=TimeInForce.FOK if is_limit else TimeInForce.GTC,
        quantity=quantity,
        account=str(run.account_id),
        exchange=step.exchange,
        valid_until_ns=min(now_ns + int(ORDER_VALID_S * NS), _end_ns(run, rules_of(run.rules))),
        strategy_id=f"run {run.id} step {step.step}",
        reduce_only=step.side == Side.SELL.value,
    )


async def withdraw(
    signals: SignalStore, entry: OrderEntry, run: PortfolioRun, step: PortfolioRunStep, now_ns: int
) -> bool:
    """Have no order come of a claimed step that has none yet, and return whether that is certain.

    A signal that the order manager has not used expires. Without a signal, an expired one takes its id: a process that
    claimed the step and goes on later finds it there.
    """
    if step.state != "sent" or step.order_state is not None:
        return False
    instance, detail = instance_of(run.portfolio_id), "its run was ended before it was used"
    if step.signal_state is None:
        try:
            request = request_of(run, step, step.ordered_quantity or step.quantity, now_ns).checked()
            signal = await entry.signal_of(
                request,
                instance,
                key_of(run.id, step.symbol, step.step),
                now_ns,
                accounts={run.account_id},
                instance=instance,
            )
        except InputError:  # its account or instrument cannot be traded any more
            return False
        if await signals.insert([replace(signal, state=SignalState.EXPIRED, reason=detail)]):
            return True
    return await signals.finish(step.signal_id, SignalState.EXPIRED, code="NOT_SENT", detail=detail, now_ns=now_ns)


async def cancel_order(entry: OrderEntry, run: PortfolioRun, step: PortfolioRunStep) -> None:
    """Request the cancel of a step's order, if it has one that is open."""
    if step.client_order_id is not None and not step.is_over:
        with contextlib.suppress(InputError):  # it ended meanwhile: the next look sees how
            await entry.cancel(step.client_order_id, instance_of(run.portfolio_id))


def _ordered(step: PortfolioRunStep) -> Decimal:
    """Return the quantity of a step's signal; 0 while none is committed."""
    return _ZERO if step.signal_state is None or step.ordered_quantity is None else step.ordered_quantity


def _counted(step: PortfolioRunStep) -> tuple[Side, Decimal, Decimal, Decimal]:
    """Return a step as `run_budget` takes it."""
    side = Side(step.side)
    if side is Side.BUY and step.limit_price is not None:
        return side, _ordered(step), step.limit_price, step.cost_rate
    quantity = step.filled if step.is_over or side is Side.SELL else _ordered(step)
    return side, quantity, step.average_price or step.price, step.cost_rate


def _end_ns(run: PortfolioRun, rules: RebalanceRules) -> int:
    """Return the time after which a run sends nothing."""
    assert run.started_at is not None
    return to_ns(run.started_at) + round(rules.run_max_age_s * NS)


def allocation_json(row: AllocationRow) -> dict[str, Any]:
    """Return an allocation as the values of an answer."""
    found = {item.name: getattr(row, item.name) for item in fields(row) if item.name != "portfolio_id"}
    return found | {"weights": [{"instance": None, **item} for item in row.weights]}


def _gain(lots: Sequence[Mapping[str, Any]]) -> Decimal | None:
    """Return the gain over lots; None without any, or if that of one is not known."""
    gains = [lot["gain"] for lot in lots]
    return None if not gains or None in gains else sum(gains, _ZERO)


def drift_json(row: WeightDrift) -> dict[str, Any]:
    """Return an instrument's weights as the values of an answer."""
    least, most = row.target - row.band[0], row.target + row.band[1]
    return {
        "exchange": row.instrument.exchange,
        "symbol": row.instrument.symbol,
        "quantity": row.quantity,
        "price": row.price,
        "target": row.target,
        "weight_min": max(least, _ZERO),
        "weight_max": min(most, _ONE),
        "weight": _rounded(row.weight),
        "is_outside": None if row.weight is None else not least <= row.weight <= most,
        "weight_after": _rounded(row.weight_after),
        "drift_after": _rounded(row.left),
        "reason": None if row.reason is None else row.reason.value,
    }


def step_json(step: PortfolioRunStep) -> dict[str, Any]:
    """Return a step as the values of an answer."""
    return {item.name: getattr(step, item.name) for item in fields(step) if item.name != "sent_at"} | {
        "sent_at": step.sent_at
    }


def _run_head(run: PortfolioRun) -> dict[str, Any]:
    names = (
        "id",
        "portfolio",
        "state",
        "reason",
        "account",
        "targets_version",
        "capital",
        "plan_hash",
        "created_by",
        "trigger",
    )
    return {name: getattr(run, name) for name in (*names, "created_at", "started_at", "ended_at")} | {
        "currency": run.base_currency
    }


def _rounded(weight: Decimal | None) -> Decimal | None:
    return None if weight is None else weight.quantize(Decimal("1e-8")).normalize() + _ZERO


def _plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows with decimals as text, as JSON columns keep them."""
    return [{name: plain(v) if isinstance(v, Decimal) else v for name, v in row.items()} for row in rows]


def _check_member(portfolio: Portfolio, account: Account) -> None:
    if portfolio.state != "active":
        raise _archived(portfolio)
    if account.name not in portfolio.accounts:
        raise _not_member(portfolio, account.name)


def _archived(portfolio: Portfolio) -> InputError:
    return InputError(
        f"portfolio {portfolio.name} is archived",
        code="PORTFOLIO_ARCHIVED",
        status=409,
        remedy="make another one: fks portfolio create",
    )


def _not_member(portfolio: Portfolio, account: str) -> InputError:
    members = ", ".join(portfolio.accounts) or "none"
    return _wrong(f"account {account} is no member of portfolio {portfolio.name}", f"its member accounts: {members}")


def _wrong(message: str, remedy: str) -> InputError:
    return InputError(message, code="TARGETS_WRONG", status=422, remedy=remedy)


def _plan_gone(code: str, message: str) -> InputError:
    return InputError(message, code=code, status=409, remedy="preview it again: fks portfolio preview")
