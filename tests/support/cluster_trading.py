"""Trading on a cluster whose machines are upgraded or lost: a strategy that trades each few seconds, a position that is
held with its stop, and the proof by the exchange's own log that nothing was lost."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from decimal import Decimal
from typing import Any

from tests.support.invariants import assert_once
from tests.support.local_exchange import LocalExchange, wait_for_price
from tests.support.waiting import wait_until

TRADING_S = 300.0
HELD = "ETHUSDT"
FAST = "--symbol BTCUSDT --timeframe 1s --account ccxt --size 500 --set fast=3 --set slow=8 --set sl_pct=0.5"


class ClusterTrading:
    """`fks` runs a command of FKS on the head and returns its document, {} where that fails; `note` adds a line to the
    transcript."""

    def __init__(
        self, exchange: LocalExchange, fks: Callable[[str], dict[str, Any]], note: Callable[[str], None]
    ) -> None:
        self._exchange, self._fks, self._note = exchange, fks, note

    def fills(self) -> list[dict[str, Any]]:
        """Return the executions at the exchange, with the id of their order."""
        return list(self._exchange.ask("GET", "/sim/state")["fills"])

    def ordered(self) -> Counter[str]:
        """Return how often the exchange has received each order."""
        return Counter(row["clientOrderId"] for row in self._exchange.account()["orders"])

    def stops(self) -> list[str]:
        """Return the quantities of the stops of the position that is held."""
        rows = self._exchange.ask("GET", "/sim/state")["open_orders"]
        return [row["origQty"] for row in rows if row["symbol"] == HELD and "STOP" in row["type"]]

    def begin(self) -> None:
        """Make the accounts, the strategy, and the position that is held."""
        wait_until(lambda: self._fks("status").get("source") == "gateway", deadline_s=TRADING_S, every_s=1.0)
        for venue in ("ccxt", "paper"):
            assert self._fks(f"accounts create {venue} --venue {venue} --initial-balance 100000")
        assert self._fks(f"strategies add fast sma_cross {FAST}")
        wait_until(
            self.fills, deadline_s=TRADING_S, every_s=1.0
        )  # an order before its venue is ready is denied for good
        self._note("the first fill of the strategy")
        stop = round(float(wait_for_price(self._exchange, HELD)) * 0.8)
        order = f"orders place buy 0.5 {HELD} --account ccxt --stop-loss {stop} --key held"
        wait_until(lambda: self._fks(order), deadline_s=TRADING_S, every_s=2.0)
        wait_until(self.stops, deadline_s=TRADING_S, every_s=0.5)
        self._note(f"0.5 {HELD} bought, its stop is at the exchange")

    @contextmanager
    def watched(self) -> Iterator[list[str]]:
        """Look at the exchange four times a second, and yield a list of the moments without the stop of what is held."""
        bare: list[str] = []
        is_over = threading.Event()

        def look() -> None:
            while not is_over.wait(0.25):
                with suppress(OSError):  # no answer in time, on a machine with no processor to spare
                    if not self.stops():
                        bare.append(time.strftime("%H:%M:%S"))

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield bare
        finally:
            is_over.set()
            thread.join()

    def check_nothing_is_lost(self) -> None:
        """Compare the journal with the exchange: each execution is booked once, each order was sent once, and nothing
        waits for a person."""
        ordered = self.ordered()
        assert ordered
        assert_once(ordered.elements())
        at_exchange = _amounts((fill["clientOrderId"], fill["qty"]) for fill in self.fills())

        def booked() -> dict[str, Decimal]:
            rows = self._fks("fills -n 100000").get("items", [])
            return _amounts((row["client_order_id"], row["quantity"]) for row in rows)

        wait_until(lambda: booked() == at_exchange, deadline_s=60.0, every_s=2.0)
        assert self._fks("incidents list")["items"] == []
        counts = f"{len(self.fills())} executions of {len(ordered)} orders"
        self._note(f"{counts}: each is booked once, no order was sent twice")


def _amounts(rows: Iterable[tuple[str, str]]) -> dict[str, Decimal]:
    found: dict[str, Decimal] = {}
    for order, quantity in rows:
        found[order] = found.get(order, Decimal()) + Decimal(quantity)
    return found
