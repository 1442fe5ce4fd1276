"""Decisions that are replayed on the local exchange over its REST API, bar by bar: one unit an entry, one position a
symbol.

The exchange plays tapes with `--fills tape --hold`. A market entry gets its protection while its bar is open; an entry
by a limit brings its own, as one list. Entries by stops are left out: no list of Binance waits for a stop.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Any

import numpy as np

from fks.model.bar import Bars
from fks.model.order import Role, Side
from fks.model.tape import Tape
from fks.research.backtest import FillRow, Setup
from fks.strategies.base import Decisions
from fks.trading.matching import collar
from tests.support.packed_tapes import pack_tape
from tests.support.sim_process import Sim

_PRICE_PLACES, _LOT_PLACES = 2, 5


def tape_flags(folder: Path, tapes: dict[str, Bars]) -> list[str]:
    """Write the bars of each symbol as a tape, and return the flags of an exchange that plays them on request."""
    flags = ["--fills", "tape", "--hold", "--rate-limits", "off", "--balance", "USDT=1000000"]
    flags += ["--start", "2000-01-01T00:00:00Z"]
    for symbol, bars in tapes.items():
        prices = [np.rint(c * 10**_PRICE_PLACES).astype(np.int64) for c in (bars.open, bars.high, bars.low, bars.close)]
        places, volume = (_PRICE_PLACES, _LOT_PLACES), np.full(len(bars), 10**_LOT_PLACES, np.int64)
        tape = Tape("binance", symbol, bars.timeframe, *places, "made", "none", bars.time_ns, *prices, volume)
        file = folder / f"{symbol}.fksbars"
        file.write_bytes(pack_tape(tape))
        flags += ["--tape", str(file)]
    return flags


@dataclass(eq=False)
class ExchangeReplay:
    """One symbol at the exchange, and what a client does there by its decisions. `refused`: open times of the bars
    whose entry expired."""

    sim: Sim
    symbol: str
    bars: Bars
    setup: Setup
    decisions: Decisions
    at: int = -1  # the newest complete bar
    held: Decimal = Decimal(0)
    roles: dict[int, Role] = field(default_factory=dict)
    fills: list[FillRow] = field(default_factory=list)
    refused: set[int] = field(default_factory=set)
    levels: tuple[Decimal | None, Decimal | None] = (None, None)
    is_resting: bool = False  # something rests that a bar may fill

    def complete(self, time_ns: int) -> None:
        """Take over what the bar from `time_ns` on did to the orders that rested."""
        self.at += 1
        assert self.bars.time_ns[self.at] == time_ns
        if self.is_resting and self._fetch():
            self.is_resting = self._rests()

    def act(self) -> None:
        """Carry out the decision of the newest complete bar, while the next one is open."""
        target = self.decisions.target
        before = target[self.at - 1] if self.at else 0.0
        if target[self.at] == before:
            return
        if before:
            if self.is_resting:
                self._send("DELETE", "openOrders")
                self.is_resting = False
            if self.held:
                self._market(Role.EXIT)
        if target[self.at]:
            self._enter()

    def _level(self, name: str) -> Decimal | None:
        column = getattr(self.decisions, name)
        return None if column is None or not np.isfinite(column[self.at]) else Decimal(repr(float(column[self.at])))

    def _enter(self) -> None:
        stop, target, limit = (self._level(name) for name in ("stop_loss", "take_profit", "entry_limit"))
        self.levels = stop, target
        terms: dict[str, Any] = {"type": "MARKET"}
        if limit is not None:
            terms = {"type": "LIMIT", "price": limit, "timeInForce": "GTC"}
        elif self.setup.collar_pct is not None and (stop, target) != (None, None):
            close, tick = Decimal(repr(float(self.bars.close[self.at]))), self.setup.instrument.tick
            worst = collar(close, self.setup.collar_pct, Decimal(100), 1, tick)
            terms = {"type": "LIMIT", "price": worst, "timeInForce": "FOK"}
        entry = {"side": "BUY", "quantity": 1, **terms}
        legs = {} if limit is None else self._legs("pending")
        if legs:
            entry = {f"working{name[0].upper()}{name[1:]}": value for name, value in entry.items()}
            path = "orderList/opoco" if None not in self.levels else "orderList/opo"
            answer = self._send("POST", path, **entry, pendingSide="SELL", **legs)["orderReports"]
        else:
            answer = [self._send("POST", "order", **entry)]
        self.roles[answer[0]["orderId"]] = Role.ENTRY
        for report, role in zip(answer[1:], self._leg_roles(), strict=bool(legs)):
            self.roles[report["orderId"]] = role
        if answer[0]["status"] == "EXPIRED":
            self.refused.add(int(self.bars.time_ns[self.at]))
            return
        self.is_resting = answer[0]["status"] != "FILLED"
        if not self.is_resting:
            self._fetch()
            if self.levels != (None, None):
                self._protect(has_list=bool(legs))

    def _leg_roles(self) -> list[Role]:
        stop, target = self.levels
        return [*([] if target is None else [Role.TAKE_PROFIT]), *([] if stop is None else [Role.STOP_LOSS])]

    def _legs(self, before: str = "") -> dict[str, Any]:
        """Return the parameters of the legs, each behind `before` and, of two, its place."""
        stop, target = self.levels
        places = ("Above", "Below") if None not in self.levels else ("", "")
        made: dict[str, Any] = {}
        if target is not None:
            made |= {f"{before}{places[0]}Type": "LIMIT_MAKER", f"{before}{places[0]}Price": target}
        if stop is not None:
            made |= {f"{before}{places[1]}Type": "STOP_LOSS", f"{before}{places[1]}StopPrice": stop}
        return {name[0].lower() + name[1:]: value for name, value in made.items()}

    def _protect(self, *, has_list: bool) -> None:
        """Place the protection of an entry that has filled in the open bar; a leg that is passed closes at market."""
        if has_list:
            self.is_resting = self._rests()
        else:
            path = "orderList/oco" if None not in self.levels else "order"
            answer = self._send("POST", path, side="SELL", quantity=self._lots, is_refusable=True, **self._legs())
            self.is_resting = answer is not None
            reports = [] if answer is None else answer.get("orderReports", [answer])
            for report, role in zip(reports, self._leg_roles(), strict=answer is not None):
                self.roles[report["orderId"]] = role
        stop, target = self.levels
        paid = self.fills[-1].price
        is_stopped, is_taken = stop is not None and paid <= stop, target is not None and paid >= target
        assert self.is_resting != (is_stopped or is_taken), (paid, self.levels)
        if not self.is_resting:
            self._market(Role.STOP_LOSS if is_stopped else Role.TAKE_PROFIT)

    @property
    def _lots(self) -> Decimal:
        return self.held.quantize(self.setup.instrument.lot_step, ROUND_FLOOR)

    def _market(self, role: Role) -> None:
        self.roles[self._send("POST", "order", side="SELL", type="MARKET", quantity=self._lots)["orderId"]] = role
        self._fetch()

    def _rests(self) -> bool:
        return bool(self._send("GET", "openOrders"))

    def _fetch(self) -> bool:
        """Take over the fills that are new; return whether there are some."""
        found = self._send("GET", "myTrades")[len(self.fills) :]
        for row in found:
            side = Side.BUY if row["isBuyer"] else Side.SELL
            quantity, price, fee = (Decimal(row[name]) for name in ("qty", "price", "commission"))
            item, role = self.setup.instrument, self.roles[row["orderId"]]
            in_base = row["commissionAsset"] != item.quote
            self.held += side.sign * quantity - (fee if in_base else 0)
            unit = item.base if in_base else item.quote
            self.fills.append(FillRow(row["time"] * 10**6, side, quantity, price, fee, unit, role))
        return bool(found)

    def _send(self, method: str, path: str, *, is_refusable: bool = False, **params: Any) -> Any:
        status, body = self.sim.signed(method, f"/api/v3/{path}", symbol=self.symbol, **params)
        if is_refusable and status == 400 and body["code"] == -2010:
            return None
        assert status == 200, (path, params, body)
        return body


def play(sim: Sim, replays: list[ExchangeReplay]) -> None:
    """Play all bars to the clients: each acts on a bar of its own while the next one of its tape is open."""
    for one in replays:
        status, body = sim.call("POST", "/sim/filters", {"symbol": one.symbol, "notional_min": "0.1"})
        assert status == 200, body
    deciding: list[ExchangeReplay] = []
    for time_ns in np.unique(np.concatenate([one.bars.time_ns for one in replays])).tolist():
        assert sim.get("/sim/tape")["time"] * 10**6 == time_ns
        trading = [one for one in replays if time_ns in one.bars.time_ns]
        for one in (one for one in deciding if one in trading):
            one.act()
        deciding = [one for one in deciding if one not in trading]
        sim.advance()
        for one in trading:
            one.complete(time_ns)
            deciding.append(one)
