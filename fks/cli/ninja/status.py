"""`fks ninja status`: the links to NinjaTrader, as the gateway reports them."""

from __future__ import annotations

from typing import Any

import click

from fks.cli.base import as_json, emit, table
from fks.cli.client import gateway_of
from fks.cli.shown import time_of


@click.command()
@as_json
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Show the links to NinjaTrader: connection, ability to trade, kill latch, accounts, what waits, the last event.

    Where accounts repeat signals (ninja.copies), also each one's rule, the positions that differ from it, and the
    newest signals with the state, code and price on every account.

    `fks ninja test` checks a connection without a running system.
    """
    with gateway_of(ctx) as gateway:
        answer = gateway.get("/ninja/links")
        answer["copies"] = gateway.get("/ninja/copies", limit=10)
    emit(answer, as_json=as_json, schema="fks.ninja.status/1")
    if as_json:
        return
    items = answer["items"]
    rows = [(i["group"], _state(i), *_trading(i), _accounts(i), _waiting(i), _last(i), i["alarm"]) for i in items]
    headers = ("GROUP", "STATE", "CAN TRADE", "KILL LATCH", "ACCOUNTS", "WAITING", "LAST EVENT", "ALARM")
    table(rows, headers, empty="no links: set ninja.enabled, or write [ninja.groups.NAME]")
    if answer["copies"]["followers"]:
        _show_copies(answer["copies"])


def _show_copies(copies: dict[str, Any]) -> None:
    rows = [
        (
            of["name"],
            of["account"] or "none",
            f"{of['group']}/{of['platform_account']}",
            _rule(of),
            _differs(of, copies),
        )
        for of in copies["followers"]
    ]
    click.echo()
    table(rows, ("FOLLOWER", "ACCOUNT", "AT NINJATRADER", "RULE", "DIFFERS FROM ITS RULE"), empty="")
    rows = [
        (time_of(signal["created_at"]), signal["symbol"], f"{signal['kind']} {signal['side']}", *_outcome(order))
        for signal in copies["signals"]
        for order in signal["orders"]
    ]
    click.echo()
    headers = ("SIGNAL", "SYMBOL", "WHAT", "ACCOUNT", "STATE", "FILLED", "PRICE", "FROM LEADER", "CODE")
    table(rows, headers, empty="no signal of the venue ninja yet")


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


def _trading(item: dict[str, Any]) -> tuple[str, str]:
    return "yes" if item["can_trade"] else "no", "SET" if item["halted"] else "–"


def _state(item: dict[str, Any]) -> str:
    if not item["enabled"]:
        return f"{item['state']} (not enabled)"
    age_ms = item["heartbeat_age_ms"]
    if age_ms is None or not (item["connected"] or age_ms <= 5_000):
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
