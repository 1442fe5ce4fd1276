"""Kraken's private channels, `executions` and `balances`: tokens, snapshots and the account's events."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import orjson

from fks.lab.sim.atoms import parse
from fks.lab.sim.exchange import LocalExchange
from fks.lab.sim.faults import Target
from fks.lab.sim.journal import Event, OrderEvent
from fks.lab.sim.kraken.orders import execution_rows, fill_row, ledger_txid, number, trade_txid, whole_row
from fks.lab.sim.kraken.pairs import Pair, iso_us, pair_of
from fks.lab.sim.sockets import Socket

PRIVATE_PATH = "/auth/v2"
CHANNELS = ("executions", "balances")
TOKEN_S = 900
_RATE_COUNT_MAX = 60  # of the Starter tier
_SNAPSHOT_FILLS = 50
_OPEN_AND_CLOSE = ("new", "filled", "canceled", "expired")


@dataclass(slots=True)
class _Subscription:
    """One channel of one connection: `sequence` numbers its messages from 1, `is_whole` is false for open and close."""

    sequence: int = 0
    is_whole: bool = True


class KrakenUserStream:
    """The private subscriptions of all connections.

    `balances` has one update for each asset that a change of the account moves.
    """

    def __init__(self, exchange: LocalExchange) -> None:
        self._exchange = exchange
        self._pairs: dict[str, Pair] = {name: pair_of(state) for name, state in exchange.states.items()}
        self._tokens: dict[str, float] = {}  # -> monotonic time of its end
        self._subscriptions: dict[Socket, dict[str, _Subscription]] = {}
        self._totals = self._balances()
        self._entry = 0
        self._ledger: dict[str, tuple[int, str, str]] = {}  # asset -> commission, reference and kind of what changed it

    # ── connections ──────────────────────────────────────────────────────────────────────────────
    def new_token(self) -> tuple[str, int]:
        """Return a token, and the seconds within which it must be used first."""
        token = secrets.token_urlsafe(32)
        self._tokens[token] = self._exchange.clock.monotonic() + TOKEN_S
        return token, TOKEN_S

    def gone(self, socket: Socket) -> None:
        """Forget a connection."""
        self._subscriptions.pop(socket, None)

    def sockets(self) -> set[Socket]:
        """Return every connection with a subscription."""
        return {socket for socket, channels in self._subscriptions.items() if channels}

    def change(self, socket: Socket, method: str, params: dict[str, Any]) -> dict[str, object]:
        """Subscribe or unsubscribe a connection; return the answer. `send_snapshot` follows a subscription."""
        channel = str(params["channel"])
        held = self._subscriptions.setdefault(socket, {})
        if not self._is_valid(params.get("token")):
            return {"channel": channel, **_no(method, "ESession:Invalid session"), "status": "error"}
        if (channel in held) == (method == "subscribe"):
            return _no(method, "Already subscribed" if channel in held else "Subscription Not Found")
        result: dict[str, object] = {"channel": channel}
        if method == "unsubscribe":
            del held[channel]
            return {"method": method, "success": True, "result": result}
        held[channel] = _Subscription(is_whole=params.get("order_status", True) is not False)
        result["snapshot"] = params.get("snapshot", True) is not False
        if channel == "executions":
            result |= {
                "maxratecount": _RATE_COUNT_MAX,
                "snap_orders": params.get("snap_orders", True) is not False,
                "snap_trades": params.get("snap_trades", False) is True,
            }
        return {"method": method, "success": True, "result": result}

    def _is_valid(self, token: object) -> bool:
        """Return whether a token may be used; its first use makes it valid for good."""
        if not isinstance(token, str) or self._tokens.get(token, 0.0) <= self._exchange.clock.monotonic():
            return False
        self._tokens[token] = float("inf")
        return True

    def send_snapshot(self, socket: Socket, result: dict[str, Any]) -> None:
        """Send what a subscription that was just made begins with."""
        if not result["snapshot"]:
            return
        if result["channel"] == "balances":
            found: list[dict[str, object]] = [
                {
                    "asset": asset,
                    "asset_class": "currency",
                    "balance": number(total),
                    "wallets": [{"type": "spot", "id": "main", "balance": number(total)}],
                }
                for asset, total in self._balances().items()
                if total
            ]
        else:
            found = self._orders() if result["snap_orders"] else []
            found += self._fills() if result["snap_trades"] else []
        self._send(socket, str(result["channel"]), "snapshot", found)

    def _orders(self) -> list[dict[str, object]]:
        orders = [order for state in self._exchange.states.values() for order in state.orders.values()]
        rows = []
        for order in orders:
            kind = "pending_new" if order.is_pending else "new"
            row = whole_row(order, self._pairs[order.symbol], kind, order.time_ms)
            rows.append(row | {"cum_qty": number(order.executed), "amended": bool(order.amends)})
        return rows

    def _fills(self) -> list[dict[str, object]]:
        store, rows = self._exchange.store, list[dict[str, object]]()
        for fill in store.fills(limit=_SNAPSHOT_FILLS, last=True, by_time=True)[::-1]:
            order = store.orders("order_id = ?", (fill.order_id,))[0]
            row = fill_row(order, fill, self._pairs[fill.symbol])
            for name in ("cum_qty", "cum_cost", "avg_price"):  # of a fill in a snapshot they are not known
                del row[name]
            rows.append(row | {"order_status": "filled" if order.status == "FILLED" else "partially_filled"})
        return rows

    def _balances(self) -> dict[str, int]:
        rows = self._exchange.engine.ledger.rows()
        return {row["asset"]: parse(row["free"]) + parse(row["locked"]) for row in rows}

    # ── events ───────────────────────────────────────────────────────────────────────────────────
    def emit(self, event: Event) -> None:
        """Send an event of the account to the channels that it belongs to."""
        if isinstance(event, OrderEvent):
            for row in execution_rows(event, self._pairs[event.order.symbol]):
                self._publish("executions", row, event.order.symbol)
            if event.fill is not None:
                self._note(event)
        elif event["e"] == "balanceUpdate":
            kind = "withdrawal" if str(event["d"]).startswith("-") else "deposit"
            self._ledger[str(event["a"])] = (0, "", kind)
        elif event["e"] == "outboundAccountPosition":
            self._on_balances(event)

    def _note(self, event: OrderEvent) -> None:
        fill = event.fill
        assert fill is not None
        reference = trade_txid(fill.symbol, fill.trade_id)
        listing = self._pairs[fill.symbol].listing
        for asset in (listing.base, listing.quote):
            fee = self._ledger.get(asset, (0, "", ""))[0]
            self._ledger[asset] = (fee + (fill.commission if asset == fill.commission_asset else 0), reference, "trade")

    def _on_balances(self, event: Event) -> None:
        changed, changes = event["B"], self._ledger
        self._ledger = {}
        assert isinstance(changed, list)
        for item in changed:
            asset, total = str(item["a"]), parse(item["f"]) + parse(item["l"])
            moved = total - self._totals.get(asset, 0)
            if not moved:
                continue
            self._totals[asset] = total
            fee, reference, kind = changes.get(asset, (0, "", "adjustment"))
            row: dict[str, object] = {
                "ledger_id": ledger_txid(self._next_entry()),
                "ref_id": reference,
                "timestamp": iso_us(self._exchange.wall_ms()),
                "type": kind,
                "asset": asset,
                "asset_class": "currency",
                "category": kind,
                "wallet_type": "spot",
                "wallet_id": "main",
                "amount": number(moved + fee),
                "fee": number(fee),
                "balance": number(total),
            }
            self._publish("balances", row, "")

    def _next_entry(self) -> int:
        """Return a number that no entry had before, also over a restart."""
        self._entry = max(self._entry + 1, self._exchange.wall_ms() * 1000)
        return self._entry

    def _publish(self, channel: str, row: dict[str, object], symbol: str) -> None:
        at = Target(path=PRIVATE_PATH, symbol=symbol or None, event=channel)
        if not self._subscriptions or self._exchange.faults.holds(
            "freeze_stream", self._exchange.clock.monotonic(), at
        ):
            return
        for socket, held in self._subscriptions.items():
            wanted = held.get(channel)
            if wanted is None or not (
                wanted.is_whole or channel != "executions" or row["exec_type"] in _OPEN_AND_CLOSE
            ):
                continue
            self._send(socket, channel, "update", [row])

    def _send(self, socket: Socket, channel: str, kind: str, rows: list[dict[str, object]]) -> None:
        wanted = self._subscriptions[socket][channel]
        wanted.sequence += 1
        socket.send(orjson.dumps({"channel": channel, "type": kind, "data": rows, "sequence": wanted.sequence}))

    def terminate(self) -> None:
        """End every subscription without a word: no message for it is documented."""
        for held in self._subscriptions.values():
            held.clear()


def _no(method: str, why: str) -> dict[str, object]:
    return {"method": method, "success": False, "error": why}
