"""Order requests sent throughout a run, each repeated under one Idempotency-Key until it is answered.

A request that the gateway accepted (202) or denied with a code (422) was promised an outcome: the auditor compares
every such answer with the journal. Half of the requests are repeated after their answer: a repeat may return another
state, never another order.

The requests follow the filters of the symbols that the account trades, buy and sell, at the market and with a limit. In
a symbol with a protected position only further protected orders are requested, as many as its stops allow, and in one
without only unprotected ones until everything is sold: what persons' orders hold is a position of its own, and is not
mixed. The rest of a limit order is cancelled over HTTP. Some orders meet a thin book, so that they fill in parts. After
a denial the next order in that symbol is asked for later, each time twice as late: an exchange that is away for a
minute is asked for a few orders, not for thirty.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from fks.lab.chaos.auditor import RequestEvidence
from fks.lab.chaos.outside import Outside
from fks.model.errors import FksError, OutageError

EVERY_S = 2.0
PAUSE_S = 0.5  # between two attempts of one request
DENIED_S = (2.0, 16.0)  # how long no order is asked for after a denial: the first one, and at most
PATIENCE_S = 90.0  # then a request stays unanswered: nothing was promised
STOPS_MAX = 3  # of persons' orders in a symbol: the exchange takes five, and the strategies' instances need theirs
HELD_MAX = Decimal(20)  # smallest orders (notional) that are held without stops in a symbol before they are sold
CROSSING = 0.0005  # how far through the last price a limit lies that is meant to fill
RESTING = 0.01  # and how far from it one that is meant to rest until it is cancelled
_ANSWERS = frozenset({202, 422})
_ENDED = frozenset({"DENIED", "ABANDONED", "FILLED", "CANCELLED", "EXPIRED", "REJECTED", "ABSENT"})
_MARKETS = """
WITH traded AS (SELECT DISTINCT a.id, a.name, i.exchange, i.symbol
  FROM accounts a JOIN strategy_instances i ON i.account_id = a.id
 WHERE a.id = (SELECT a.id FROM accounts a JOIN strategy_instances i ON i.account_id = a.id
                WHERE a.is_enabled AND a.venue = 'ccxt' ORDER BY i.id LIMIT 1))
SELECT t.name AS account, n.symbol, n.tick, n.lot_step AS step, n.notional_min, coalesce(p.quantity, 0) AS held,
       (SELECT count(*) FROM orders o WHERE (o.account_id, o.symbol, o.instance, o.role) = (t.id, t.symbol, '', 'sl')
           AND o.state IN ('INTENDED', 'SENDING', 'UNKNOWN', 'ACCEPTED', 'WORKING', 'PARTIAL')) AS stops
  FROM traded t JOIN instruments n USING (exchange, symbol)
  LEFT JOIN positions p
    ON (p.account_id, p.venue, p.symbol, p.instance) = (t.id, 'ccxt', t.symbol, '') ORDER BY t.symbol"""


@dataclass(frozen=True, slots=True)
class SymbolMarket:
    """A symbol: its filters, its last price, and what persons' orders hold there, with how many stops."""

    account: str
    symbol: str
    tick: Decimal
    step: Decimal
    notional_min: Decimal
    price: Decimal
    held: Decimal
    stops: int


@dataclass(frozen=True, slots=True)
class RequestedOrder:
    """An order to request. `is_thin`: it meets a thin book; `cancel_after_s`: when the rest of a limit is cancelled."""

    body: Mapping[str, str]
    is_thin: bool = False
    cancel_after_s: float = 4.0

    @property
    def is_protected(self) -> bool:
        """Return whether it has a stop."""
        return "stop_loss" in self.body


def choose(
    dice: random.Random,
    markets: Sequence[SymbolMarket],
    open_orders: Sequence[RequestedOrder],
    denied: Collection[str] = (),
) -> RequestedOrder | None:
    """Return the next order to request; None when every symbol is `denied` or has as many stops as it may.

    `open_orders` have no end yet.
    """
    options: list[tuple[SymbolMarket, str, float]] = []  # the order in words, and its weight
    protected = {m.symbol for m in markets if m.stops} | {
        order.body["symbol"] for order in open_orders if order.is_protected
    }
    free = [market for market in markets if market.symbol not in denied]
    for market in free:
        mine = [order for order in open_orders if order.body["symbol"] == market.symbol]
        if market.symbol in protected:
            if market.stops + sum(order.is_protected for order in mine) < STOPS_MAX:
                options.append((market, "protected", 3.0))
            continue
        options.append((market, "rest", 0.2))
        if market.held * market.price < HELD_MAX * market.notional_min:
            options.append((market, "buy", 1.0))
        if market.held < market.step and not mine and (len(protected) < len(markets) - 1 or len(markets) == 1):
            options.append((market, "protected", 4.0))
        if _is_sellable(market) and not any(order.body["side"] == "sell" for order in mine):
            options.append((market, "sell", 3.0))
    if not options:
        return None
    market, what, _ = dice.choices(options, weights=[weight for *_, weight in options])[0]
    return _drawn(dice, market, what, is_protected=what == "protected" or market.symbol in protected)


def _is_sellable(market: SymbolMarket) -> bool:
    whole = _on_grid(market.held, market.step, ROUND_FLOOR)
    return whole * market.price > market.notional_min * Decimal("1.05")


def _drawn(dice: random.Random, market: SymbolMarket, what: str, *, is_protected: bool) -> RequestedOrder:
    side = "sell" if what == "sell" else "buy"
    away = -RESTING if what == "rest" else CROSSING if side == "buy" else -CROSSING
    is_limit = what == "rest" or dice.random() < 0.5
    notional = market.notional_min * Decimal(dice.uniform(5, 10))
    quantity = market.held if side == "sell" else notional / market.price
    rounding = ROUND_FLOOR if side == "sell" else ROUND_CEILING
    body = {
        "account": market.account,
        "symbol": market.symbol,
        "side": side,
        "type": "limit" if is_limit else "market",
        "quantity": f"{_on_grid(quantity, market.step, rounding):f}",
    }

    def price(share: float) -> str:
        return f"{_on_grid(market.price * Decimal(1 + share), market.tick, ROUND_CEILING):f}"

    if is_limit:
        body["price"] = price(away)
    if is_protected:
        entry = away if is_limit else 0.0
        body["stop_loss"] = price(min(entry, 0.0) - dice.uniform(0.0004, 0.0008))
        body["take_profit"] = price(max(entry, 0.0) + dice.uniform(0.0004, 0.0008))
    # a sale that rests would keep the instances from buying (SELF_TRADE)
    is_thin = what != "rest" and not (is_limit and side == "sell") and dice.random() < 0.5
    return RequestedOrder(body, is_thin, dice.uniform(2.0, 6.0))


def _on_grid(value: Decimal, step: Decimal, rounding: str) -> Decimal:
    return (value / step).to_integral_value(rounding) * step


class OrderRequester:
    """Sends a request every EVERY_S with the local command line's token; dice from `seed`."""

    def __init__(self, outside: Outside, seed: int) -> None:
        self._outside = outside
        self._dice = random.Random(f"{seed} requests")  # noqa: S311 (dice, not secrets)
        self._is_over = False
        self._markets: list[SymbolMarket] = []
        self._open: dict[str, RequestedOrder] = {}
        self._denied: dict[str, tuple[float, float]] = {}  # by symbol: the wait after a denial, and until when
        self.requests: dict[str, RequestEvidence] = {}

    def end(self) -> None:
        """Start no new request; `run` returns when the last one has ended or is given up."""
        self._is_over = True

    async def run(self) -> None:
        """Send requests until `end`; none when no account can trade."""
        async with asyncio.TaskGroup() as group:
            for number in itertools.count():
                if self._is_over:
                    break
                with contextlib.suppress(FksError):  # while something is away, by what was known before
                    self._markets = await self._look()
                now_s = self._outside.clock.monotonic()
                denied = {symbol for symbol, (_, until_s) in self._denied.items() if now_s < until_s}
                order = choose(self._dice, self._markets, list(self._open.values()), denied)
                if order is not None:
                    key = f"chaos-{uuid.uuid4()}"
                    self.requests[key], self._open[key] = RequestEvidence(key), order
                    group.create_task(self._follow(key, order, times=1 + number // 2 % 2))
                await self._outside.clock.sleep(EVERY_S)

    async def _look(self) -> list[SymbolMarket]:
        now_ms = round(self._outside.now_s() * 1000)
        prices = (await self._outside.exchange("GET", f"/sim/state?since={now_ms}"))["prices"]
        rows = await self._outside.sql(_MARKETS)
        return [SymbolMarket(**row, price=Decimal(prices[row["symbol"]])) for row in rows]

    async def _follow(self, key: str, order: RequestedOrder, *, times: int) -> None:
        """Send a request until it is answered `times` times, and follow its order to its end."""
        thin = await self._thin_book(order) if order.is_thin else None
        try:
            id = await self._send(key, order.body, times=times)
            if id is not None:
                await self._see_end(id, order)
        finally:
            del self._open[key]
            if thin is not None:
                with contextlib.suppress(FksError):
                    await self._outside.exchange("DELETE", f"/sim/faults?id={thin}")

    async def _thin_book(self, order: RequestedOrder) -> int | None:
        with contextlib.suppress(FksError):
            body = {"kind": "thin_book", "symbol": order.body["symbol"]}
            return int((await self._outside.exchange("POST", "/sim/faults", body))["id"])
        return None

    async def _send(self, key: str, body: Mapping[str, str], *, times: int) -> str | None:
        """Return the id that the last answer promised; None when there is none or the request was denied."""
        clock = self._outside.clock
        end_s, id = clock.monotonic() + PATIENCE_S, None
        while times and clock.monotonic() < end_s:
            try:
                status, answer = await self._outside.gateway("POST", "/orders", body, key=key)
            except OutageError:
                status, answer = 0, {}  # the outcome is unknown: the key makes the repeat safe
            request = self.requests[key]
            if status in _ANSWERS and "id" in answer:
                times -= 1
                self._note_denial(body["symbol"], is_denied=status == 422)
                id = str(answer["id"]) if status == 202 else None
                self.requests[key] = replace(request, promised=tuple({*request.promised, str(answer["id"])}))
            elif 400 <= status < 500 and status != 429:
                self.requests[key] = replace(request, refused=f"{status} {answer.get('code', '')}")
                return None
            else:
                await clock.sleep(PAUSE_S)
        return id

    def _note_denial(self, symbol: str, *, is_denied: bool) -> None:
        """Keep until when no order is asked for in a symbol; an order that is taken ends that."""
        now_s = self._outside.clock.monotonic()
        wait_s, until_s = self._denied.get(symbol, (0.0, 0.0))
        if not is_denied:
            self._denied.pop(symbol, None)
        elif now_s >= until_s:
            wait_s = min(max(DENIED_S[0], 2 * wait_s), DENIED_S[1])
            self._denied[symbol] = (wait_s, now_s + wait_s)

    async def _see_end(self, id: str, order: RequestedOrder) -> None:
        """Wait for the end of an order, and request its cancel when it rests for too long."""
        clock = self._outside.clock
        begun_s = clock.monotonic()
        while clock.monotonic() < begun_s + PATIENCE_S:
            with contextlib.suppress(OutageError):
                _, found = await self._outside.gateway("GET", f"/orders/{id}")
                if found.get("state") in _ENDED or found.get("signal_state") in ("denied", "expired"):
                    return
                if order.body["type"] == "limit" and clock.monotonic() > begun_s + order.cancel_after_s:
                    await self._outside.gateway("DELETE", f"/orders/{id}")
            await clock.sleep(PAUSE_S)
