"""MetaTrader 5 behind the bridge's port: requests to the package, and its lists as orders, executions and positions.

The package pushes no events: orders and positions are read every `POLL_MS`, the history too when they changed, at least
every `HISTORY_MS`. An order is ours by its magic number, a hash of the signal's id: brokers rewrite comments. Stop and
target are fields of the position. Times of the package are the trade server's: they are converted with the offset that
was measured from fresh ticks, and without it no account counts as connected.

Every call blocks until the terminal answers; the bridge waits meanwhile.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any

from fks.bridge.peer.platform import (
    CONNECTED,
    LOST,
    ConnectionUpdate,
    Event,
    LastTrade,
    PlatformAccount,
    PlatformBar,
    PlatformContract,
    PlatformError,
    PlatformExecution,
    PlatformOrder,
    PlatformPosition,
    PlatformQuote,
    Quantity,
    RefusedError,
)
from fks.bridge.peer.signals import ORDER_NAME

POLL_MS = 250
HISTORY_MS = 1_000
CONNECT_AGAIN_MS = 5_000
LOOKBACK_MS = 3 * 86_400_000  # of the history: an older order is known from the journal alone
COMMENT_MAX = 28  # of 31: brokers add to comments
ABSENT_MS = 30_000  # after an ambiguous request, before its order counts as absent
_ASK_AGAIN_MS = 1_000  # between two equal changes of a position's stop or target
_DISABLED_MS = 60_000  # after 10026 or 10027, where the terminal itself shows no reason
_OFFSET_STEP_S = 900  # time zones are multiples of it
_OFFSET_OFF_S = 60  # a fresh tick is at most so far from a multiple
_TICKS_MAX = 1_000
_DEVIATION = 20  # points of slippage that an order of instant execution accepts
_VALUES_MAX = 500  # instruments of one answer

_DEAL, _PENDING, _SLTP, _REMOVE = 1, 5, 6, 8  # actions of a request
_BUYS = frozenset({0, 2, 4, 6})  # order types
_KINDS = ("Market", "Limit", "StopMarket", "StopLimit")  # of the pairs of order types
_FIRST_TYPE = {kind: 2 * number for number, kind in enumerate(_KINDS)}
_LIVE = {0: "Submitted", 1: "Working", 3: "PartFilled"}  # order states; the requests 7 to 9 are live too
_OVER = {2: "Cancelled", 4: "Filled", 5: "Rejected", 6: "Cancelled"}
_FOK, _IOC, _RETURN = 0, 1, 2  # filling modes of a request; of the symbol's mask FOK is 1 and IOC 2
_EXIT_ROLES = {4: "S", 5: "T", 6: "S"}  # reason of an order or deal: stop loss, take profit, stop out
_CANCELED = {13: 0, 14: 1}  # deal types: the broker took the deal back


class SendOutcome(StrEnum):
    """The outcome of one order_send. Only REFUSED, DISABLED and UNCHANGED prove that the broker has no order."""

    DONE = "done"
    AMBIGUOUS = "ambiguous"
    REFUSED = "refused"
    DISABLED = "disabled"  # no program may trade now
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class SendVerdict:
    """An outcome with the code of the wire and the text of MetaTrader's documentation."""

    outcome: SendOutcome
    code: str
    text: str


# Source: "Trade Server Return Codes" and `order_send`, `last_error` of the package's documentation (mql5.com, 2026-11).
_D, _A, _R, _X = SendOutcome.DONE, SendOutcome.AMBIGUOUS, SendOutcome.REFUSED, SendOutcome.DISABLED
RETCODES: dict[int, SendVerdict] = {
    code: SendVerdict(outcome, wire, text)
    for code, outcome, wire, text in (
        (10004, _R, "requote", "requote"),
        (10006, _R, "rejected", "request rejected"),
        (10007, _R, "rejected", "request cancelled by the trader"),
        (10008, _D, "", "order placed"),
        (10009, _D, "", "request completed"),
        (10010, _D, "", "request completed in part"),
        (10011, _A, "", "error while the request was processed"),
        (10012, _A, "", "request cancelled by timeout"),
        (10013, _R, "bad_request", "invalid request"),
        (10014, _R, "qty_limit", "invalid volume"),
        (10015, _R, "bad_price", "invalid price"),
        (10016, _R, "bad_bracket", "invalid stops"),
        (10017, _R, "symbol_disabled", "trading is disabled"),
        (10018, _R, "market_closed", "the market is closed"),
        (10019, _R, "not_enough_money", "not enough money"),
        (10020, _R, "requote", "prices changed"),
        (10021, _R, "no_quote", "no quotes to process the request"),
        (10022, _R, "bad_request", "invalid expiration"),
        (10023, _R, "rejected", "the order's state changed"),
        (10024, _R, "rate_limited", "too many requests"),
        (10025, SendOutcome.UNCHANGED, "", "no changes in the request"),
        (10026, _X, "trading_disabled", "autotrading is disabled by the server"),
        (10027, _X, "trading_disabled", "autotrading is disabled by the terminal"),
        (10028, _R, "rejected", "the request is locked for processing"),
        (10029, _R, "frozen", "order or position is frozen"),
        (10030, _R, "bad_filling", "unsupported filling mode"),
        (10031, _A, "", "no connection with the trade server"),
        (10032, _R, "rejected", "allowed for live accounts only"),
        (10033, _R, "position_limit", "the limit of pending orders is reached"),
        (10034, _R, "position_limit", "the limit of volume of this symbol is reached"),
        (10035, _R, "bad_request", "incorrect or prohibited order type"),
        (10036, _R, "position_closed", "the position is closed already"),
        (10038, _R, "qty_limit", "the volume to close exceeds the position"),
        (10039, _R, "rejected", "a close order of this position exists"),
        (10040, _R, "position_limit", "the limit of open positions is reached"),
        (10041, _R, "rejected", "the activation was rejected and the order cancelled"),
        (10042, _R, "symbol_disabled", "only long positions are allowed"),
        (10043, _R, "symbol_disabled", "only short positions are allowed"),
        (10044, _R, "symbol_disabled", "only closing is allowed"),
        (10045, _R, "rejected", "closing only by the FIFO rule"),
        (10046, _R, "opposite_position", "opposite positions of one symbol are disabled"),
    )
}
#: errors of the package that come before the request leaves: all others may come after it
NOT_SENT: dict[int, SendVerdict] = {
    -2: SendVerdict(_R, "bad_request", "invalid arguments"),
    -8: SendVerdict(_X, "trading_disabled", "autotrading is disabled"),
}


def classify_send(retcode: int | None, error: int) -> SendVerdict:
    """Return the outcome of an order_send that returned `retcode`, or None with `error` of last_error.

    Guarantees: a code that no row names is ambiguous.
    """
    if retcode is None:
        return NOT_SENT.get(error) or SendVerdict(_A, "", f"no result, error {error}")
    return RETCODES.get(retcode) or SendVerdict(_A, "", f"unknown return code {retcode}")


@dataclass(frozen=True, slots=True)
class Mt5Login:
    """The terminal and the account. Without a path the package finds it; without a number its account stays."""

    terminal_path: str | None = None
    account_number: int | None = None
    password: str | None = field(default=None, repr=False)
    server: str | None = None


def magic_of(signal_id: str) -> int:
    """Return the magic number of a signal's orders: 63 bits of the SHA-256 of its id, never 0."""
    return int.from_bytes(hashlib.sha256(signal_id.encode()).digest()[:8], "big") >> 1 or 1


def exact(value: float) -> Decimal:
    """Return the decimal that a float of the package stands for: it has at most eight decimals."""
    return Decimal(f"{value:.8f}").normalize()


class ServerOffset:
    """The trade server's clock minus UTC, by date, in a file. `seconds` is None until it is known for today."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._by_date: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
        self._seen: int | None = None
        self.seconds: int | None = None

    def recall(self, now_ms: int) -> None:
        """Take the offset that was measured earlier this day, where none is known."""
        if self.seconds is None:
            self.seconds = self._by_date.get(_date(now_ms))

    def measure(self, tick_ms: int, now_ms: int) -> None:
        """Take the server's time of a tick that has just come. Two equal measurements make the offset known."""
        off_s = (tick_ms - now_ms) / 1000
        found = round(off_s / _OFFSET_STEP_S) * _OFFSET_STEP_S
        if abs(off_s - found) > _OFFSET_OFF_S or abs(found) > 86_400:
            return
        if found == self._seen and self._by_date.get(_date(now_ms)) != found:
            self._by_date[_date(now_ms)] = found
            made = self._path.with_suffix(".new")  # a kill never leaves half a file
            made.write_text(json.dumps(self._by_date))
            made.replace(self._path)
        if found == self._seen:
            self.seconds = found
        self._seen = found

    def utc_ms(self, server_ms: int) -> int:
        """Return the UTC time of a time of the server. Errors: PlatformError while the offset is unknown."""
        if self.seconds is None:
            raise PlatformError("the offset of the server's time is unknown")
        near_ms = server_ms - self.seconds * 1000
        return server_ms - self._by_date.get(_date(near_ms), self.seconds) * 1000

    def server_s(self, utc_ms: int) -> int:
        """Return the server's time in seconds. Errors: PlatformError while the offset is unknown."""
        if self.seconds is None:
            raise PlatformError("the offset of the server's time is unknown")
        return utc_ms // 1000 + self._by_date.get(_date(utc_ms), self.seconds)


class Mt5Platform:
    """One terminal with its account. `module` is the package MetaTrader5 or a stand-in of it."""

    has_lots = True
    holds_exits = True
    zone: tzinfo = UTC  # no time zone database: Windows has none

    def __init__(
        self, module: Any, login: Mt5Login, folder: Path, now_ms: Callable[[], int], *, version: str = "0"
    ) -> None:
        self.bridge_version = f"fks-mt5/{version}"
        self.offset = ServerOffset(folder / "offsets.json")
        self.last_error: str | None = None
        self._module = module
        self._login = login
        self._now_ms = now_ms
        self._accounts: dict[str, PlatformAccount] = {}
        if login.account_number is not None:
            name = str(login.account_number)
            self._accounts[name] = PlatformAccount(name, False, LOST, LOST)
        self._was_connected = False
        self._handlers: list[Callable[[Event], None]] = []
        self._ids: dict[int, str] = {}  # by magic number
        self._info: Any = None  # of the account
        self._rows: dict[str, tuple[Any, ...]] = {"orders": (), "positions": (), "history": (), "deals": ()}
        self._orders: dict[str, PlatformOrder] = {}
        self._foreign: list[PlatformOrder] = []
        self._by_position: dict[int, list[Any]] = {}  # deals
        self._executions: dict[str, PlatformExecution] = {}
        self._net: dict[str, PlatformPosition] = {}
        self._contracts: dict[str, PlatformContract] = {}  # of the instruments whose ticks are read
        self._trades: dict[str, LastTrade] = {}
        self._tick_ms: dict[str, int] = {}  # the server's time of the newest tick
        self._changes: dict[int, tuple[float, float, int]] = {}  # by position: stop and target asked for, and when
        self._closing: dict[int, int] = {}  # by position: until when an ambiguous close may still be done
        self._disabled = (0, 0)  # return code, and until when
        self._polled_ms = self._read_ms = self._tried_ms = -CONNECT_AGAIN_MS
        self._is_dirty = True  # the history may have changed
        self._is_stale = True  # the lists differ from what was translated

    # ── the port: state ───────────────────────────────────────────────────────────────────────────

    @property
    def label(self) -> str:
        company = getattr(self._info, "company", "") or "terminal"
        return f"mt5 {company}"[:64]

    @property
    def now_ms(self) -> int:
        return self._now_ms()

    @property
    def accounts(self) -> dict[str, PlatformAccount]:
        return self._accounts

    def subscribe(self, handler: Callable[[Event], None]) -> Callable[[], None]:
        self._handlers.append(handler)
        return lambda: self._handlers.remove(handler) if handler in self._handlers else None

    def introduce(self, signal_id: str) -> None:
        magic = magic_of(signal_id)
        if magic not in self._ids:
            self._ids[magic] = signal_id
            if any(one.magic == magic for name in ("orders", "history") for one in self._rows[name]):
                self._translate()

    def trading_disabled(self) -> str:
        code = self._trading_code()
        return "" if code is None else f"{code}: {RETCODES[code].text}"

    def refresh(self, account: str) -> bool:
        self._is_dirty = True
        self.poll()
        found = self._accounts.get(account)
        return found is not None and found.status == CONNECTED

    def orders(self, account: str) -> list[PlatformOrder]:
        return [*self._orders.values(), *self._foreign] if account in self._accounts else []

    def executions(self, account: str) -> list[PlatformExecution]:
        return list(self._executions.values()) if account in self._accounts else []

    def positions(self, account: str) -> list[PlatformPosition]:
        return [one for one in self._net.values() if one.qty] if account in self._accounts else []

    def held(self, account: str, instrument: str, *, is_buy: bool) -> Quantity:
        rows = [one for one in self._rows["positions"] if one.symbol == instrument and (one.type == 0) == is_buy]
        ours = [one for one in rows if not self._is_hedging or one.magic in self._ids]
        return exact(sum(one.volume for one in ours))

    def values(self, account: str) -> dict[str, Decimal | None]:
        info = self._info
        names = {"CashValue": "balance", "NetLiquidation": "equity", "UnrealizedProfitLoss": "profit"}
        found = {name: exact(getattr(info, field)) if info else None for name, field in names.items()}
        return {**found, "RealizedProfitLoss": None, "BuyingPower": exact(info.margin_free) if info else None}

    def status_fields(self) -> dict[str, object]:
        return {
            "agent": self.bridge_version,
            "server_offset_s": self.offset.seconds,
            "last_error": self.last_error,
        }

    def account_fields(self, account: str) -> dict[str, object]:
        info = self._info
        if info is None:
            return {}
        mode = "hedging" if self._is_hedging else "netting"
        return {"currency": info.currency, "margin_mode": mode, "trading_code": self._trading_code()}

    def price_status(self) -> str:
        return next((one.price_status for one in self._accounts.values()), LOST)

    def last_trade(self, instrument: str) -> LastTrade | None:
        return self._trades.get(instrument)

    def contract(self, name: str) -> PlatformContract | None:
        """Return an instrument, and read its ticks from now on."""
        if name not in self._contracts:
            if not self._module.symbol_select(name, True) or (info := self._module.symbol_info(name)) is None:
                return None
            self._contracts[name] = PlatformContract(name, exact(info.trade_tick_size or info.point), None)
            with suppress(PlatformError):
                self._read_ticks(name)
        return self._contracts[name]

    def instruments(self) -> list[dict[str, object]]:
        found = self._module.symbols_get() or ()
        names = {
            "tick_size": "trade_tick_size", "volume_min": "volume_min", "volume_max": "volume_max",
            "volume_step": "volume_step", "contract_size": "trade_contract_size",
        }  # fmt: skip
        return [
            {
                "instrument": one.name,
                **{key: f"{exact(getattr(one, field)):f}" for key, field in names.items()},
                "currency_profit": one.currency_profit,
                "trading": one.trade_mode == 4,
            }
            for one in [one for one in found if one.visible and len(one.name) <= 32][:_VALUES_MAX]
        ]

    def bars(self, instrument: str, period: str, begin_ms: int, end_ms: int) -> list[PlatformBar]:
        code, length = (1, timedelta(minutes=1)) if period == "1m" else (16_408, timedelta(days=1))
        begin, end = self.offset.server_s(begin_ms), self.offset.server_s(end_ms)
        if (rows := self._module.copy_rates_range(instrument, code, begin, end)) is None:
            raise PlatformError(f"the bars of {instrument} cannot be read: {self._module.last_error()}")
        found: list[PlatformBar] = []
        for row in rows:
            opened_ms = self.offset.utc_ms(int(row["time"]) * 1000)
            close = datetime.fromtimestamp(opened_ms / 1000, UTC).replace(tzinfo=None) + length
            prices = [exact(float(row[name])) for name in ("open", "high", "low", "close")]
            found.append(PlatformBar(close, prices[0], prices[1], prices[2], prices[3], int(row["tick_volume"])))
        return found

    # ── the port: orders ──────────────────────────────────────────────────────────────────────────

    def refusal(self, order: PlatformOrder) -> tuple[str, str] | None:
        """Return why volume, distance, filling or money do not allow an entry now, or None."""
        info = self._module.symbol_info(order.instrument)
        if info is None:
            return "no_quote", f"no data of {order.instrument}"
        volume, step = Decimal(order.qty), exact(info.volume_step)
        least, most = exact(info.volume_min), exact(info.volume_max)
        if volume % step or not least <= volume <= most:
            return "qty_limit", f"{volume} lots: {least} to {most} in steps of {step}"
        allowed = {0: False, 1: order.is_buy, 2: not order.is_buy, 3: False}
        if not allowed.get(info.trade_mode, True):
            return "symbol_disabled", f"trade mode {info.trade_mode} of {order.instrument}"
        if order.tif == "Ioc" and order.type != "Market":
            return "bad_field", "tif: ioc is for orders at market"
        if (near := self._near(order, info)) is not None:
            return near
        try:
            request = self._entry_request(order, info)
        except RefusedError as error:
            return error.code, error.detail
        checked = self._module.order_check(request)
        if checked is not None and checked.retcode:
            verdict = classify_send(checked.retcode, 0)
            if verdict.outcome in (SendOutcome.REFUSED, SendOutcome.DISABLED):
                return verdict.code, f"{checked.retcode}: {verdict.text}"
        return None

    def _near(self, order: PlatformOrder, info: Any) -> tuple[str, str] | None:
        """Return the refusal of prices that are nearer to the market, or to the entry, than the stops level."""
        level, sign = exact(info.trade_stops_level * info.point), 1 if order.is_buy else -1
        market = exact(info.ask if order.is_buy else info.bid)
        price = order.stop if order.stop is not None else order.limit
        if price is not None and order.type != "Market" and abs(price - market) < level:
            return "bad_price", f"{price} is nearer than {level} to {market}"
        anchor = price if price is not None else exact(info.bid if order.is_buy else info.ask)
        for leg, side in zip(order.attached, (-1, 1), strict=True):
            if leg is not None and (leg - anchor) * sign * side < level:
                return "bad_bracket", f"{leg} is nearer than {level} to {anchor}"
        return None

    def create(self, order: PlatformOrder) -> bool:
        return bool(self._accounts)

    def submit(self, order: PlatformOrder) -> None:
        found = ORDER_NAME.fullmatch(order.name)
        assert found is not None, order.name
        if found[2] != "E":
            self._set_exit(found[1], order.instrument, found[2], order.stop if found[2] == "S" else order.limit)
        elif order.action in ("Sell", "BuyToCover"):
            self._submit_exit(found[1], order)
        else:
            info = self._module.symbol_info(order.instrument)
            if info is None:
                raise RefusedError("no_quote", f"no data of {order.instrument}")
            self._send(self._entry_request(order, info))

    def change(self, order: PlatformOrder, *, qty: Quantity, limit: Decimal | None, stop: Decimal | None) -> None:
        found = ORDER_NAME.fullmatch(order.name)
        assert found is not None, order.name
        try:
            self._set_exit(found[1], order.instrument, found[2], stop if found[2] == "S" else limit)
        except PlatformError as error:
            self._raise(replace(order, error="UnableToChangeOrder", comment=str(error)))

    def cancel(self, order: PlatformOrder) -> None:
        try:
            self._send({"action": _REMOVE, "order": int(order.order_id)})
        except PlatformError as error:
            self._raise(replace(order, error="UnableToCancelOrder", comment=str(error)))

    def flatten(self, account: str, instruments: Sequence[str]) -> None:
        """Remove the orders and close the positions; on a netting account not one whose close has no result yet."""
        for row in [one for one in self._rows["orders"] if one.symbol in instruments]:
            with suppress(PlatformError):
                self._send({"action": _REMOVE, "order": row.ticket})
        for row in [one for one in self._rows["positions"] if one.symbol in instruments]:
            if self._closing.get(row.ticket, 0) > self.now_ms:
                continue
            with suppress(PlatformError):  # asked again by the bridge
                self._close(row, exact(row.volume), 0, "")

    # ── requests ──────────────────────────────────────────────────────────────────────────────────

    def _entry_request(self, order: PlatformOrder, info: Any) -> dict[str, Any]:
        found = ORDER_NAME.fullmatch(order.name)
        assert found is not None, order.name
        stop, target = order.attached
        request: dict[str, Any] = {
            "action": _DEAL if order.type == "Market" else _PENDING,
            "symbol": order.instrument,
            "volume": float(order.qty),
            "type": _FIRST_TYPE[order.type] + (0 if order.is_buy else 1),
            "sl": float(stop or 0),
            "tp": float(target or 0),
            "deviation": _DEVIATION,
            "magic": magic_of(found[1]),
            "comment": found[1][:COMMENT_MAX],
            "type_time": 1 if order.tif == "Day" else 0,
            "type_filling": _RETURN,
        }
        if order.type == "Market":
            filling = filling_of(info.filling_mode, info.trade_exemode, wants_ioc=order.tif == "Ioc")
            return request | {"price": info.ask if order.is_buy else info.bid, "type_time": 0, "type_filling": filling}
        price = order.limit if order.type == "Limit" else order.stop
        assert price is not None
        request["price"] = float(price)
        if order.type == "StopLimit":
            assert order.limit is not None
            request["stoplimit"] = float(order.limit)
        return request

    def _submit_exit(self, signal_id: str, order: PlatformOrder) -> None:
        """Close what an exit names: hedging accounts by ticket, netting accounts their one position."""
        rows = [one for one in self._rows["positions"] if one.symbol == order.instrument]
        if self._is_hedging:
            shares = [(row, qty) for one, qty in order.closes for row in rows if row.magic == magic_of(one)]
        else:
            shares = [(row, order.qty) for row in rows]
        left, is_sent = Decimal(order.qty), False
        for row, share in shares:
            volume = min(left, Decimal(share), exact(row.volume))
            if volume > 0:
                try:
                    self._close(row, volume, magic_of(signal_id), signal_id[:COMMENT_MAX])
                except RefusedError:
                    if not is_sent:
                        raise
                    break  # the exit ends with what it has closed
                left, is_sent = left - volume, True
        if not is_sent:
            raise RefusedError("position_closed", f"no position of {order.instrument} is open")

    def _close(self, row: Any, volume: Decimal, magic: int, comment: str) -> None:
        info = self._module.symbol_info(row.symbol)
        if info is None:
            raise RefusedError("no_quote", f"no data of {row.symbol}")
        filling = filling_of(info.filling_mode, info.trade_exemode, wants_ioc=False)
        request = {
            "action": _DEAL, "symbol": row.symbol, "volume": float(volume), "type": 1 if row.type == 0 else 0,
            "position": row.ticket, "price": info.bid if row.type == 0 else info.ask, "deviation": _DEVIATION,
            "magic": magic, "comment": comment, "type_time": 0, "type_filling": filling,
        }  # fmt: skip
        try:
            self._send(request)
        except RefusedError:
            raise
        except PlatformError:
            if not self._is_hedging:  # there a second close of a ticket is refused; here it opens a reverse position
                self._closing[row.ticket] = self.now_ms + ABSENT_MS
            raise

    def _set_exit(self, signal_id: str, instrument: str, role: str, price: Decimal | None) -> None:
        """Set stop or target of a signal's positions. Errors: RefusedError for a price that the market has passed."""
        rows = self._positions_of(signal_id, instrument)
        if not rows or (info := self._module.symbol_info(instrument)) is None:
            raise PlatformError(f"no position of {instrument} is known yet")
        level, freeze = (exact(one * info.point) for one in (info.trade_stops_level, info.trade_freeze_level))
        for row in rows:
            market = exact(info.bid if row.type == 0 else info.ask)
            away = (Decimal(price or 0) - market) * (1 if row.type == 0 else -1) * (1 if role == "T" else -1)
            sl, tp = (float(price or 0), row.tp) if role == "S" else (row.sl, float(price or 0))
            asked = self._changes.get(row.ticket)
            if (sl, tp) == (row.sl, row.tp):
                continue
            if asked is not None and asked[:2] == (sl, tp) and self.now_ms - asked[2] < _ASK_AGAIN_MS:
                raise PlatformError("asked a moment ago")
            self._changes[row.ticket] = (sl, tp, self.now_ms)
            if price is not None and away < level:
                raise RefusedError("bad_bracket", f"{price} is nearer than {level} to {market}")
            if any(old and abs(exact(old) - market) < freeze for old in (row.sl, row.tp)):
                raise PlatformError(f"the position is frozen: an exit is nearer than {freeze} to {market}")
            self._send({"action": _SLTP, "symbol": instrument, "position": row.ticket, "sl": sl, "tp": tp})

    def _send(self, request: dict[str, Any]) -> None:
        """Send one request, once. Errors: RefusedError; PlatformError for an ambiguous outcome."""
        result = self._module.order_send(request)
        code = None if result is None else int(result.retcode)
        error = self._module.last_error() if result is None else (1, "")
        verdict = classify_send(code, int(error[0]))
        self._is_dirty = True
        if verdict.outcome not in (SendOutcome.DONE, SendOutcome.UNCHANGED):
            text = verdict.text if result is None else f"{code} {verdict.text}: {result.comment}"
            self.last_error = f"{text} {error[1]}".strip()[:200]
        if verdict.outcome is SendOutcome.AMBIGUOUS:
            raise PlatformError(self.last_error)
        if verdict.outcome is SendOutcome.DISABLED:
            self._disabled = (code or 10027, self.now_ms + _DISABLED_MS)
            raise RefusedError(verdict.code, str(self.last_error))
        if verdict.outcome is SendOutcome.REFUSED:
            raise RefusedError(verdict.code, str(self.last_error))
        self.poll()

    # ── polling ───────────────────────────────────────────────────────────────────────────────────

    def advance(self) -> None:
        """Read the terminal's state when it is due."""
        if self.now_ms - self._polled_ms >= POLL_MS:
            self.poll()

    def poll(self) -> None:
        """Read the terminal's lists and raise what has changed. A list that cannot be read: the account is lost."""
        self._polled_ms = self.now_ms
        terminal, info = self._module.terminal_info(), self._module.account_info()
        if terminal is None or info is None:
            self._connect()
            return
        if self._login.account_number not in (None, info.login):
            self.last_error = f"the terminal is logged in to {info.login}, not {self._login.account_number}"
            self._connect()
            return
        self._info = info
        self.offset.recall(self.now_ms)
        self._notice_disabled(terminal, info)
        name = str(info.login)
        self._accounts.setdefault(name, PlatformAccount(name, False, LOST, LOST)).is_sim = info.trade_mode != 2
        self._read_all_ticks()
        is_whole = self.offset.seconds is not None and terminal.connected and self._read_lists()
        self._set_status(CONNECTED if is_whole else LOST)
        if is_whole and self._is_stale:
            self._translate()

    def _connect(self) -> None:
        self._set_status(LOST)
        if self.now_ms - self._tried_ms < CONNECT_AGAIN_MS:
            return
        self._tried_ms = self.now_ms
        login = self._login
        account = {"login": login.account_number, "password": login.password, "server": login.server}
        paths = (login.terminal_path,) if login.terminal_path else ()
        if not self._module.initialize(*paths, **{key: value for key, value in account.items() if value is not None}):
            self.last_error = f"initialize failed: {self._module.last_error()}"[:200]

    def _notice_disabled(self, terminal: Any, info: Any) -> None:
        if not terminal.trade_allowed:
            self._disabled = (10027, self.now_ms + POLL_MS * 4)
        elif not (info.trade_allowed and info.trade_expert):
            self._disabled = (10026, self.now_ms + POLL_MS * 4)

    def _read_lists(self) -> bool:
        """Read orders, positions and, when it is due, the history; return whether all of them were readable."""
        module, now_ms = self._module, self.now_ms
        orders, positions = module.orders_get(), module.positions_get()
        if orders is None or positions is None:
            return False
        self._is_stale |= _shape(orders, positions) != _shape(self._rows["orders"], self._rows["positions"])
        if self._is_stale or self._is_dirty or now_ms - self._read_ms >= HISTORY_MS:
            # a position's deals are read as long as it is open: they name its signals
            begin = min([self.offset.server_s(now_ms - LOOKBACK_MS), *(one.time for one in positions)])
            end = self.offset.server_s(now_ms + 86_400_000)
            deals, history = module.history_deals_get(begin, end), module.history_orders_get(begin, end)
            if deals is None or history is None:
                return False
            found = {"deals": tuple(deals), "history": tuple(history)}
            self._is_stale |= any(self._rows[name] != rows for name, rows in found.items())
            self._rows |= found
            self._read_ms, self._is_dirty = now_ms, False
        self._rows |= {"orders": tuple(orders), "positions": tuple(positions)}
        return True

    def _read_all_ticks(self) -> None:
        if self.offset.seconds is None and not self._contracts:
            visible = [one.name for one in self._module.symbols_get() or () if one.visible]
            for name in visible[:3]:  # any instrument shows the server's time
                self.contract(name)
        for name in self._contracts:
            with suppress(PlatformError):
                self._read_ticks(name)

    def _read_ticks(self, name: str) -> None:
        """Publish the ticks since the last ones; one that has just come measures the offset of the server's time."""
        newest = self._module.symbol_info_tick(name)
        before = self._tick_ms.get(name)
        if newest is None or newest.time_msc == before:
            return
        self._tick_ms[name] = newest.time_msc
        if before is not None:
            self.offset.measure(newest.time_msc, self.now_ms)
        rows: list[Any] = []
        if before is not None:
            found = self._module.copy_ticks_from(name, before // 1000, _TICKS_MAX, -1)
            rows = [one for one in (found if found is not None else ()) if before < int(one["time_msc"])]
        names = ("time_msc", "bid", "ask", "last")
        for values in [[row[one] for one in names] for row in rows] or [[getattr(newest, one) for one in names]]:
            at_ms, bid, ask, last = self.offset.utc_ms(int(values[0])), *(exact(float(one)) for one in values[1:])
            # the chart of a symbol is made of its last prices, or of bids: bars made of these trades equal its M1 bars
            self._trades[name] = LastTrade(name, at_ms, last or bid, 1)
            self._raise(PlatformQuote(name, at_ms, bid, None, ask, None))
            self._raise(self._trades[name])

    # ── translation ───────────────────────────────────────────────────────────────────────────────

    @property
    def _is_hedging(self) -> bool:
        return self._info is not None and self._info.margin_mode == 2

    def _account(self) -> PlatformAccount | None:
        return next(iter(self._accounts.values()), None)

    def _trading_code(self) -> int | None:
        code, until_ms = self._disabled
        return code if self.now_ms < until_ms else None

    def _positions_of(self, signal_id: str, instrument: str) -> list[Any]:
        rows = [one for one in self._rows["positions"] if one.symbol == instrument]
        return [one for one in rows if not self._is_hedging or one.magic == magic_of(signal_id)]

    def _set_status(self, status: str) -> None:
        for account in self._accounts.values():
            if account.status != status:
                before, account.status, account.price_status = account.status, status, status
                account.connected_ms = self.now_ms if status == CONNECTED else account.connected_ms
                native = "" if status == CONNECTED else str(self.last_error or "")
                if self._was_connected:
                    self._raise(ConnectionUpdate(account.name, status, status, before, native))
                self._was_connected = True  # the first time is no event

    def _id_of(self, row: Any) -> str:
        """Return the signal of an order, deal or position; empty where it is not ours, or not known to be."""
        if row.magic and row.comment and magic_of(row.comment) == row.magic:
            self._ids.setdefault(row.magic, row.comment)
        return self._ids.get(row.magic, "")

    def _translate(self) -> None:
        """Make orders, executions and positions of the lists; raise what differs from before."""
        account = self._account()
        assert account is not None
        self._is_stale = False
        deals = [one for one in self._rows["deals"] if one.type in (0, 1) or one.type in _CANCELED]
        by_order: dict[int, list[Any]] = {}
        self._by_position.clear()
        for deal in deals:
            by_order.setdefault(deal.order, []).append(deal)
            self._by_position.setdefault(deal.position_id, []).append(deal)
        orders, self._foreign = self._entries(account.name, by_order)
        orders |= self._exits(account.name)
        for name, order in orders.items():
            if self._orders.get(name) != order:
                self._raise(replace(order))
        for name, order in self._orders.items():
            if name not in orders and order.oco and order.is_live:
                self._raise(self._ended(order))
        self._orders = orders
        for deal in deals:
            self._book(account.name, deal)
        self._move_positions(account.name)

    def _ended(self, order: PlatformOrder) -> PlatformOrder:
        """Return stop or target of a position as it ended: filled, or cancelled with the position."""
        role = order.name.rpartition(":")[2]
        done = (_EXIT_ROLES.get(one.reason) for one in self._by_position.get(int(order.oco), ()))
        return replace(order, filled=order.qty, state="Filled") if role in done else replace(order, state="Cancelled")

    def _entries(
        self, account: str, by_order: dict[int, list[Any]]
    ) -> tuple[dict[str, PlatformOrder], list[PlatformOrder]]:
        """Return our orders by name, and the live ones of others. Orders of one magic number are one exit in parts."""
        ours: dict[str, PlatformOrder] = {}
        others: list[PlatformOrder] = []
        live = {one.ticket for one in self._rows["orders"]}
        rows = [*(one for one in self._rows["history"] if one.ticket not in live), *self._rows["orders"]]
        for row in sorted(rows, key=lambda one: int(one.ticket)):
            if row.reason in _EXIT_ROLES:
                continue
            signal_id = self._id_of(row)
            order = self._order(account, row, f"FKS:{signal_id}:E" if signal_id else "", by_order.get(row.ticket, []))
            if not signal_id:
                others += [order] if order.is_live else []
            elif (first := ours.get(order.name)) is None:
                ours[order.name] = order
            else:
                filled = first.filled + order.filled
                paid = first.avg_price * first.filled + order.avg_price * order.filled
                average = exact(float(paid / filled)) if filled else Decimal(0)
                kept = order if order.is_live else first if first.is_live else order
                ours[order.name] = replace(
                    kept, qty=first.qty + order.qty, filled=filled, avg_price=average, order_id=first.order_id
                )
        return ours, others

    def _order(self, account: str, row: Any, name: str, done: list[Any]) -> PlatformOrder:
        filled = exact(sum(one.volume for one in done))
        paid = sum(one.volume * one.price for one in done)
        kind = _KINDS[row.type // 2] if row.type < 8 else "Market"
        limit = {"Limit": row.price_open, "StopLimit": row.price_stoplimit}.get(kind)
        is_buy, is_close = row.type in _BUYS, bool(row.position_id) and row.position_id != row.ticket
        action = ("BuyToCover" if is_close else "Buy") if is_buy else ("Sell" if is_close else "SellShort")
        state = _LIVE.get(row.state, "Working") if not row.time_done else _OVER.get(row.state, "Unknown")
        if state in ("Cancelled", "Filled") and filled:
            state = "Filled" if filled >= exact(row.volume_initial) else "Cancelled"
        return PlatformOrder(
            name, account, row.symbol, action, kind, "Day" if row.type_time else "Gtc", exact(row.volume_initial),
            exact(limit) if limit else None, exact(row.price_open) if kind.startswith("Stop") else None,
            order_id=str(row.ticket), state=state, filled=filled,
            avg_price=exact(paid / float(filled)) if filled else Decimal(0),
            created_ms=self.offset.utc_ms(row.time_setup_msc), automated=bool(name), comment=str(row.comment),
        )  # fmt: skip

    def _exits(self, account: str) -> dict[str, PlatformOrder]:
        """Return stop and target of our positions as orders; `oco` holds the position's identifier."""
        found: dict[str, PlatformOrder] = {}
        for row in self._rows["positions"]:
            filled: dict[str, float] = {}
            for deal in self._by_position.get(row.identifier, ()):
                if deal.entry == 0 and deal.type in (0, 1):
                    filled[self._id_of(deal)] = filled.get(self._id_of(deal), 0.0) + deal.volume
            for signal_id, volume in filled.items():
                for role, price in (("S", row.sl), ("T", row.tp)):
                    if signal_id and price:
                        name = f"FKS:{signal_id}:{role}"
                        kind, limit, stop = ("StopMarket", None, price) if role == "S" else ("Limit", price, None)
                        found[name] = PlatformOrder(
                            name, account, row.symbol, "Sell" if row.type == 0 else "BuyToCover", kind, "Gtc",
                            exact(min(volume, row.volume)), exact(limit) if limit else None,
                            exact(stop) if stop else None, oco=str(row.identifier), order_id=str(row.ticket),
                            state="Working",
                        )  # fmt: skip
        return found

    def _book(self, account: str, deal: Any) -> None:
        """Report a deal, once, and its cancellation by the broker."""
        exec_id, op = str(deal.ticket), "remove" if deal.type in _CANCELED else "add"
        known = self._executions.get(exec_id)
        name = self._name_of_deal(deal)
        if known is not None and (known.op, known.name) == (op, name):
            return
        execution = PlatformExecution(
            account, deal.symbol, exec_id, name, str(deal.order), _CANCELED.get(deal.type, deal.type) == 0,
            exact(deal.volume), exact(deal.price), self.offset.utc_ms(deal.time_msc), op,
            commission=exact(-deal.commission), fee=exact(-deal.fee),
        )  # fmt: skip
        self._executions[exec_id] = execution
        if known is None and op == "remove":
            self._raise(replace(execution, op="add"))
        self._raise(execution)

    def _name_of_deal(self, deal: Any) -> str:
        role = _EXIT_ROLES.get(deal.reason)
        if role is None:
            signal_id = self._id_of(deal)
            return f"FKS:{signal_id}:E" if signal_id else ""
        opened = (one for one in self._by_position.get(deal.position_id, ()) if one.entry == 0)
        signal_id = next(filter(None, map(self._id_of, opened)), "")
        return f"FKS:{signal_id}:{role}" if signal_id else ""

    def _move_positions(self, account: str) -> None:
        net: dict[str, PlatformPosition] = {}
        for row in self._rows["positions"]:
            before = net.get(row.symbol)
            signed = exact(row.volume) * (1 if row.type == 0 else -1)
            qty = signed + (before.qty if before else 0)
            paid = exact(row.price_open) * signed + (before.avg_price * before.qty if before else 0)
            net[row.symbol] = PlatformPosition(
                account, row.symbol, qty, exact(float(paid / qty)) if qty else Decimal(0)
            )
        for symbol in sorted(net.keys() | self._net.keys()):
            now = net.get(symbol) or PlatformPosition(account, symbol, Decimal(0), Decimal(0))
            before = self._net.get(symbol)
            if now != before:
                self._net[symbol] = now
                self._raise(now)

    def _raise(self, event: Event) -> None:
        for handler in list(self._handlers):
            handler(event)


def filling_of(mask: int, execution: int, *, wants_ioc: bool) -> int:
    """Return the filling mode of an order at market. `mask`: 1 FOK, 2 IOC; `execution`: 2 is Market, 3 Exchange.

    A part is better than nothing, so IOC comes before FOK. RETURN has no flag, and is illegal under Market execution.
    Errors: RefusedError when no mode is left.
    """
    if mask & 2:
        return _IOC
    if mask & 1 and not wants_ioc:
        return _FOK
    if execution == 3 and not wants_ioc:
        return _RETURN
    if execution in (0, 1) and not wants_ioc:
        return _FOK  # always allowed there
    raise RefusedError("bad_filling", f"no filling mode in the mask {mask} of execution {execution}")


def _date(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat()


def _shape(orders: Any, positions: Any) -> list[tuple[Any, ...]]:
    """Return what changes when an order or a position does, without prices and profit."""
    return [
        *((one.ticket, one.state, one.volume_current, one.price_open) for one in orders),
        *((one.ticket, one.volume, one.sl, one.tp) for one in positions),
    ]
