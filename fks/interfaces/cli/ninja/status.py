"""`fks ninja status` and `fks ninja send`: the links to NinjaTrader as the gateway reports them, and one signal to it
in the form of the replaced service."""

from __future__ import annotations

from typing import Any

import click

from fks.interfaces.cli.base import Columns, table
from fks.interfaces.cli.client import GatewaySession, gateway_result, new_key
from fks.interfaces.cli.shown import time_of
from fks.interfaces.entry.execution import ACTIONS
from fks.model.ninja import FRESH_S


def _rule(of: dict[str, Any]) -> str:
    if of["mode"] == "off":
        return "off"
    return f"{of['size']}{'x' if of['is_ratio'] else ' contracts'} {of['mode']}"


def _differs(of: dict[str, Any], copies: dict[str, Any]) -> str:
    found = [
        f"{at['symbol']}: holds {at['held']}, should hold {at['expected']}"
        for at in copies["positions"]
        if at["name"] == of["name"] and float(at["difference"])
    ]
    return ", ".join(found) or "–"


def _outcome(order: dict[str, Any]) -> tuple[str, ...]:
    filled = f"{order['filled'] or 0} of {order['quantity'] or '–'}"
    shown = (order["average_price"], order["price_difference"], order["code"])
    return (order["account"], order["state"], filled, *("–" if value is None else str(value) for value in shown))


def link_state(item: dict[str, Any]) -> str:
    if not item["enabled"]:
        return f"{item['state']} (not enabled)"
    age_ms = item["heartbeat_age_ms"]
    if age_ms is None or not (item["connected"] or age_ms <= FRESH_S * 1000):
        return "no actor" if age_ms is None else f"no actor for {age_ms / 1000:.0f} s"
    return f"{item['state']}{' (required)' if item['required'] else ''}"


def _accounts(item: dict[str, Any]) -> str:
    shown = [f"{of['name']} {of['mode']}{'' if of['connected'] else ' (offline)'}" for of in item["accounts"]]
    return ", ".join(shown) or "–"


def _waiting(item: dict[str, Any]) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in item["waiting"].items())
    return f"{counts} ({item['oldest_wait_s']:.0f} s)" if counts else "–"


def _last(item: dict[str, Any]) -> str:
    last = item["last_event"]
    return "–" if last is None else f"{last['seq']} {last['kind']} {time_of(last['received_at'])}"


_LINK: Columns = {
    "GROUP": "group",
    "STATE": link_state,
    "CAN TRADE": lambda i: "yes" if i["can_trade"] else "no",
    "KILL LATCH": lambda i: "SET" if i["halted"] else "–",
    "ACCOUNTS": _accounts,
    "WAITING": _waiting,
    "LAST EVENT": _last,
    "ALARM": "alarm",
}


def _show(answer: dict[str, Any]) -> None:
    table(answer["items"], _LINK, empty="no links: set ninja.enabled, or write [ninja.groups.NAME]")
    copies = answer["copies"]
    if not copies["followers"]:
        return
    followers: Columns = {
        "FOLLOWER": "name",
        "ACCOUNT": lambda of: of["account"] or "none",
        "AT NINJATRADER": lambda of: f"{of['group']}/{of['platform_account']}",
        "RULE": _rule,
        "DIFFERS FROM ITS RULE": lambda of: _differs(of, copies),
    }
    click.echo()
    table(copies["followers"], followers)
    rows = [
        (time_of(signal["created_at"]), signal["symbol"], f"{signal['kind']} {signal['side']}", *_outcome(order))
        for signal in copies["signals"]
        for order in signal["orders"]
    ]
    click.echo()
    headers = ("SIGNAL", "SYMBOL", "WHAT", "ACCOUNT", "STATE", "FILLED", "PRICE", "FROM LEADER", "CODE")
    table(rows, headers, empty="no signal of the venue ninja yet")


@click.command()
@gateway_result("fks.ninja.status/1", _show)
def status(gateway: GatewaySession) -> Any:
    """Show the links to NinjaTrader: connection, ability to trade, kill latch, accounts, what waits, the last event.

    Where accounts repeat signals (ninja.copies), also each one's rule, the positions that differ from it, and the
    newest signals with the state, code and price on every account.

    `fks ninja test` checks a connection without a running system.
    """
    return {**gateway.get("/ninja/links"), "copies": gateway.get("/ninja/copies", limit=10)}


def _sent(answer: dict[str, Any], **_: Any) -> None:
    click.echo(f"signal {answer['signal_id']}: {answer['message']}")
    if answer.get("order_id"):
        click.echo(f"order {answer['order_id']}; see 'fks why {answer['signal_id']}'")


@click.command()
@click.argument("action", type=click.Choice(sorted(ACTIONS), case_sensitive=False))
@click.argument("instrument", metavar="INSTRUMENT")
@click.option("--price", required=True, help="Limit price.")
@click.option("--tp-points", help="Target so many points from the price; 10 on ES are 40 ticks.")
@click.option("--sl-points", help="Stop so many points from the price.")
@click.option("--quantity", help="Contracts (default: 1).")
@click.option("--account", help="Account name (default: the one of the venue ninja).")
@click.option("--valid-until", metavar="TIME", help="ISO 8601 time after which it is given up (default: in 30 s).")
@click.option("--key", help="Idempotency key; the same key again is the same signal.")
@gateway_result("fks.ninja.signal/1", _sent)
def send(gateway: GatewaySession, key: str | None, **body: Any) -> Any:
    """Send a signal: fks ninja send buy "ES 03-27" --price 6050.25 --tp-points 20 --sl-points 10.

    It goes the way of every order: rows first, risk and the firm's rules, then the bridge. Exit code 4 when it is
    denied, with the code and what to do.
    """
    return gateway.post("/signals/send", body, key=key or new_key())
