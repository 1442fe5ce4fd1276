"""`fks signals`, `orders`, `fills`, `positions` and `denials`: signals and their approval, orders, executions,
holdings, and the value of the entries that were denied."""

from __future__ import annotations

from typing import Any

import click

from fks.interfaces.cli.base import Columns, as_json, emit, named, options, table
from fks.interfaces.cli.client import GatewaySession, gateway_of, gateway_result, new_key, path_of
from fks.interfaces.cli.shown import at, brief, money_of, price_of

ORDER_STATES = (
    "DENIED",
    "INTENDED",
    "ABANDONED",
    "SENDING",
    "UNKNOWN",
    "ACCEPTED",
    "WORKING",
    "PARTIAL",
    "FILLED",
    "CANCELLED",
    "EXPIRED",
    "REJECTED",
    "ABSENT",
)
SIGNAL_STATES = ("pending", "ready", "ordered", "denied", "expired", "declined", "nothing")
_symbol = options(
    click.option("--symbol", help="Only this symbol, in any spelling."),
    click.option("--exchange", help="Only this exchange."),
    click.option("--instance", help="Only this strategy instance."),
)
_limit = click.option("-n", "--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)


# ── signals ──────────────────────────────────────────────────────────────────────────────────────
@click.group()
def signals() -> None:
    """List signals; approve or reject them."""


@signals.command("list")
@click.option("--state", type=click.Choice(SIGNAL_STATES), help="Only those in this state.")
@_symbol
@_limit
@gateway_result(
    "fks.signals/1",
    {
        "TIME": at("created_at"),
        "ID": "id",
        "FROM": lambda i: i["instance"] or i["source"],
        "SYMBOL": "symbol",
        "WANTS": lambda i: f"{i['kind']} {i['side']}",
        "SIZE": "size",
        "STATE": "state",
        "BECAUSE": lambda i: brief(i["code"] or i["detail"] or i["reason"]),
    },
    empty="no signals yet",
)
def list_signals(gateway: GatewaySession, **query: Any) -> Any:
    """List signals, newest first."""
    return gateway.pages("/signals", **query)


@signals.command()
@click.argument("id", type=click.UUID)
@gateway_result("fks.signal/1", "signal {id}: {0[state]}")
def approve(gateway: GatewaySession, id: object) -> Any:
    """Approve a pending signal: the order manager takes it from here."""
    return gateway.post(f"/signals/{id}/approve")


@signals.command()
@click.argument("id", type=click.UUID)
@gateway_result("fks.signal/1", "signal {id}: {0[state]}")
def reject(gateway: GatewaySession, id: object) -> Any:
    """Decline a pending signal."""
    return gateway.post(f"/signals/{id}/reject")


# ── orders ───────────────────────────────────────────────────────────────────────────────────────
@click.group()
def orders() -> None:
    """List, show, place, cancel and settle orders."""


@orders.command("list")
@click.option("--open", is_flag=True, help="Only those that may still fill.")
@click.option("--state", type=click.Choice(ORDER_STATES, case_sensitive=False), help="Only those in this state.")
@_symbol
@_limit
@gateway_result(
    "fks.orders/1",
    {
        "TIME": at("created_at"),
        **named("client_order_id", "symbol", "role", "side", "type", "quantity", "filled"),
        "PRICE": lambda i: i["average_price"] or i["price"] or i["stop_price"],
        "STATE": "state",
        "WHY": lambda i: brief(i["code"] or i["detail"]),
    },
    empty="no orders yet",
)
def list_orders(gateway: GatewaySession, **query: Any) -> Any:
    """List orders, newest first, protections included."""
    return gateway.pages("/orders", **query)


def _show_order(item: dict[str, Any], **_: Any) -> None:
    table([(name, value) for name, value in item.items() if value not in (None, "", False)], ("FIELD", "VALUE"))
    if item.get("expires_by") == "order_manager":
        click.echo("the order manager ends it at valid_until: FKS must be running then, the venue would not end it")


@orders.command()
@click.argument("id")
@gateway_result("fks.order/1", _show_order)
def show(gateway: GatewaySession, id: str) -> Any:
    """Show one order, by its client order id or the id that placing it answered."""
    return gateway.get(path_of("orders", id))


@orders.command()
@click.argument("id")
@gateway_result(
    "fks.order-events/1",
    {"TIME": at("recv_time"), "EVENT": "event", "FROM": "from_state", "TO": "to_state", "SOURCE": "source"},
    empty="no events",
)
def events(gateway: GatewaySession, id: str) -> Any:
    """Show every step of one order."""
    return gateway.get(path_of("orders", id, "events"))["items"]


class _Place(click.Command):
    """Refuses `buy -1 …` with a clear message; it would otherwise be an unknown option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" not in args and (wrong := next((a for a in args if a[:1] == "-" and a[1:2].isdigit()), None)):
            raise click.UsageError(f"{wrong} is negative; give a positive number, and sell to go the other way")
        return super().parse_args(ctx, args)


@orders.command(cls=_Place)
@click.argument("side", type=click.Choice(["buy", "sell"]))
@click.argument("quantity")
@click.argument("symbol")
@click.option(
    "--type", type=click.Choice(["market", "limit", "stop", "stop_limit"]), default="market", show_default=True
)
@click.option("--price", help="Limit price.")
@click.option("--stop-price", help="Trigger price.")
@click.option("--take-profit", help="Take-profit price.")
@click.option("--stop-loss", help="Stop-loss price.")
@click.option("--time-in-force", type=click.Choice(["gtc", "ioc", "fok"]), default="gtc", show_default=True)
@click.option("--valid-until", help="ISO 8601 time after which it is given up.")
@click.option("--account", help="Account name.")
@click.option("--venue", help="Venue name.")
@click.option("--exchange", help="Whose symbol is meant (default: the account's; on paper the one that is collected).")
@click.option("--reduce-only", is_flag=True, help="Deny it unless it only brings the position nearer to zero.")
@click.option("--allow-fallback", is_flag=True, help="Let an entry go to another venue that takes entries now.")
@click.option("--key", help="Idempotency key; the same key again is the same order.")
@gateway_result(
    "fks.order/1",
    lambda order, **_: f"order {order['client_order_id']}: {order.get('state') or 'accepted, see fks orders show'}",
)
def place(gateway: GatewaySession, reduce_only: bool, allow_fallback: bool, key: str | None, **body: Any) -> Any:
    """Place an order: fks orders place buy 0.01 BTC/USDT --type limit --price 60000."""
    flags = {"reduce_only": reduce_only or None, "allow_fallback": allow_fallback or None}
    return gateway.post("/orders", body | flags, key=key or new_key())


def _targets(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> list[dict[str, str]] | None:
    """Return the targets that are given as PRICE:SHARE."""
    found = []
    for value in values:
        price, colon, share = value.partition(":")
        if not (price and colon and share):
            raise click.BadParameter(f"{value} is not PRICE:SHARE", ctx, param)
        found.append({"price": price, "share": share})
    return found or None


_bracket = options(
    click.option(
        "--target",
        "targets",
        metavar="PRICE:SHARE",
        multiple=True,
        callback=_targets,
        help="One of up to five, nearest first.",
    ),
    click.option("--break-even-after", type=int, help="Move the stop to break-even after this target, from 1."),
    click.option("--break-even-at", help="Or at so many times the distance from entry to stop."),
    click.option("--break-even-offset", type=int, default=0, show_default=True, help="Ticks beyond the average price."),
)


def _break_even(after: int | None, at: str | None, offset: int) -> dict[str, Any] | None:
    if after is None and at is None:
        return None
    return {"after_target": after, "at_risk": at, "offset_ticks": offset}


@orders.command(cls=_Place)
@click.argument("side", type=click.Choice(["buy", "sell"]))
@click.argument("quantity")
@click.argument("symbol")
@click.option("--stop-loss", required=True, help="Stop of the whole position.")
@_bracket
@click.option("--type", type=click.Choice(["market", "limit"]), default="market", show_default=True)
@click.option("--price", help="Limit price.")
@click.option("--account", help="Account name.")
@click.option("--venue", help="Venue name.")
@click.option("--exchange", help="Whose symbol is meant (default: the account's; on paper the one that is collected).")
@click.option("--key", help="Idempotency key; the same key again is the same order.")
@gateway_result(
    "fks.order/1",
    lambda order, **_: f"order {order['client_order_id']}: {order.get('state') or 'accepted, see fks orders show'}",
)
def bracket(
    gateway: GatewaySession,
    break_even_after: int | None,
    break_even_at: str | None,
    break_even_offset: int,
    key: str | None,
    **body: Any,
) -> Any:
    """Enter with a stop and several targets: fks orders bracket buy 0.1 BTC/USDT --stop-loss 58000 --target 62000:0.5
    --target 65000:0.5 --break-even-after 1."""
    rule = _break_even(break_even_after, break_even_at, break_even_offset)
    return gateway.post("/orders", {**body, "kind": "bracket", "break_even": rule}, key=key or new_key())


def _amended(answer: dict[str, Any], id: str, **_: Any) -> str:
    done = answer["amendment"]
    text = f"order {id}: amendment {done['state']}" + (f", {done['detail']}" if done["detail"] else "")
    return text + (f"; its successor is {done['successor']}" if done["successor"] else "")


@orders.command()
@click.argument("id")
@click.option("--price", help="New limit price of a resting order.")
@click.option("--quantity", help="New quantity of a resting order, with what has filled.")
@click.option("--stop-loss", help="Nearer stop of a parent.")
@_bracket
@gateway_result("fks.amendment/1", _amended)
def amend(
    gateway: GatewaySession,
    id: str,
    break_even_after: int | None,
    break_even_at: str | None,
    break_even_offset: int,
    **body: Any,
) -> Any:
    """Change price or quantity of a resting order, or stop and targets of a parent."""
    rule = _break_even(break_even_after, break_even_at, break_even_offset)
    return gateway.patch(path_of("orders", id), {**body, "break_even": rule})


@orders.command("cancel-all")
@click.argument("symbol")
@click.option("--exchange", help="Only orders at this exchange.")
@click.option("--protection", is_flag=True, help="End stops and targets too: what is held is then unprotected.")
@gateway_result(
    "fks.cancelled-orders/1",
    lambda found, **_: (
        f"cancel requested of {len(found['cancelled'])} orders; {len(found['unprotected'])} lose their exits"
    ),
)
def cancel_all(gateway: GatewaySession, symbol: str, exchange: str | None, protection: bool) -> Any:
    """Request the cancel of all entries and orders of a symbol; protection stays unless --protection."""
    return gateway.delete("/orders", symbol=symbol, exchange=exchange, protection=protection or None)


def _cancelled(answer: dict[str, Any], id: str) -> str:
    end = answer.get("exit_end")
    if end is None:
        return f"order {id}: cancel requested (it is {answer.get('state') or 'asked'}); see fks orders show"
    if end["state"] == "accepted":
        return f"the exit of signal {end['signal_id']} ends; what is held stays, with its protection"
    return f"the end of the exit of signal {end['signal_id']} is {end['state']}; see fks why {id}"


@orders.command()
@click.argument("id")
@gateway_result("fks.order/1", _cancelled)
def cancel(gateway: GatewaySession, id: str) -> Any:
    """Request the cancel of an order.

    Any order of an exit, or the id of its signal, ends the exit, also while it waits between two attempts. The position
    stays, and its protection is placed again.
    """
    return gateway.delete(path_of("orders", id))


@orders.command()
@click.argument("id")
@click.option(
    "--as", "outcome", type=click.Choice(["filled", "absent", "cancelled", "busted"]), help="What became of it."
)
@click.option("--reason", help="Why you know; kept with the order.")
@click.option("--quantity", help="Executed and not booked yet (default: all that is left).")
@click.option("--price", help="Price of the execution.")
@click.option("--fee", help="Fee of the execution; 0 too must be said.")
@click.option("--fee-currency", help="What the fee was taken in.")
@click.option(
    "--trade-id", "trade_ids", multiple=True, help="The venue's number of an execution, instead of its figures."
)
@click.option("--confirm", metavar="CODE", help="Do what the first call showed.")
@as_json
@click.pass_context
def settle(
    ctx: click.Context, /, id: str, confirm: str | None, trade_ids: tuple[str, ...], as_json: bool, **more: str | None
) -> None:
    """End an order of unknown outcome: shows the effects, and carries them out when called again with --confirm CODE.

    filled and cancelled book executions, by --trade-id as the venue reports it, or by --price and --fee. absent
    books nothing. busted reverses executions that the venue took back. Look at the exchange first: your report moves
    the position. When the exchange reports an execution later, its figures replace yours.
    """
    if confirm is None and (more["outcome"] is None or more["reason"] is None):
        raise click.UsageError("give --as and --reason, or --confirm CODE")
    with gateway_of(ctx) as gateway:
        body = {"confirm": confirm, "trade_ids": trade_ids or None, **more}
        answer = gateway.post(path_of("orders", id, "settle"), body)
    emit(answer, as_json=as_json, schema="fks.settlement/1" if confirm is None else "fks.order/1")
    if as_json:
        return
    if confirm is None:
        click.echo(f"this will {answer['will']}")
        click.echo(
            f"to do it, until {answer['expires_at'][11:19]} UTC: fks orders settle {id} --confirm {answer['confirm']}"
        )
        return
    click.echo(f"order {id}: {answer['settlement']}; it is {answer['state']}, filled {answer['filled']}")


# ── fills ────────────────────────────────────────────────────────────────────────────────────────
@click.command()
@_symbol
@click.option("--order", help="Only this client order id.")
@_limit
@gateway_result(
    "fks.fills/1",
    {
        "TIME": at("time"),
        **named("symbol", "side", "quantity", "price"),
        "FEE": lambda i: f"{i['fee']} {i['fee_currency']}",
        "PNL": "realized_pnl",
        "FROM": lambda i: "by hand" if i["source"] == "manual" else i["instance"],
        "CLIENT ORDER ID": "client_order_id",
    },
    empty="no fills yet",
)
def fills(gateway: GatewaySession, **query: Any) -> Any:
    """List fills, newest first.

    Those that a person booked (FROM: by hand) are part of no position.
    """
    return gateway.pages("/fills", **query)


# ── positions ────────────────────────────────────────────────────────────────────────────────────
_POSITION: Columns = {
    "ACCOUNT": "account",
    "SYMBOL": "symbol",
    "FROM": lambda i: i["instance"] or "-",
    "QUANTITY": "quantity",
    "AVERAGE": lambda i: price_of(i["average_price"]),
    "MARK": lambda i: price_of(i["mark_price"]),
    "OPEN PNL": lambda i: "unknown" if i["average_price"] is None else money_of(i["unrealized_pnl"]),
    "REALISED": lambda i: money_of(i["realized_pnl"]),
    "FEES": lambda i: money_of(i["fees"]) + (f" +{i['fees_unvalued']} unvalued" if i["fees_unvalued"] else ""),
    "UPDATED": at("updated_at"),
}


@click.command()
@click.argument("symbol", required=False)
@click.option("--exchange", help="What is held of SYMBOL there alone, where several exchanges have it.")
@click.option("--all", "every", is_flag=True, help="Also flat ones, for their realised profit.")
@gateway_result("fks.positions/1", _POSITION, empty="no positions")
def positions(gateway: GatewaySession, symbol: str | None, exchange: str | None, every: bool) -> Any:
    """Show positions per strategy instance, valued at the newest price; SYMBOL shows one with its sum."""
    if symbol is not None:
        return gateway.get(path_of("positions", symbol), exchange=exchange)
    if exchange:
        raise click.UsageError("--exchange says which SYMBOL is meant: name one")
    return gateway.get("/positions", all=every)["items"]


# ── denials ──────────────────────────────────────────────────────────────────────────────────────
@click.group()
def denials() -> None:
    """Value the entries that were denied, expired or declined."""


_ENTRY: Columns = {
    "TIME": at("time"),
    "SIGNAL": "signal_id",
    "FROM": lambda i: i["instance"] or i["source"],
    "SYMBOL": "symbol",
    "WANTED": lambda i: f"{i['side']} {i['quantity'] or ''}".strip(),
    "CODE": "code",
    "END": lambda i: i["ending"] or "no size",
    "WOULD HAVE MADE": lambda i: "" if i["value"] is None else f"{i['value']} {i['currency']}",
}
_SUM: Columns = {
    **named("code", "entries", "filled", "won"),
    "STILL OPEN": "open",
    "WOULD HAVE MADE": lambda row: f"{row['value']} {row['currency'] or ''}".strip(),
    "": lambda row: "it cost that" if float(row["value"]) > 0 else "it saved that" if float(row["value"]) < 0 else "",
}


def _show_cost(found: dict[str, Any], each: bool, **_: Any) -> None:
    if each:
        table(found["items"], _ENTRY, empty="no entry was denied")
        click.echo()
    table(found["total"], _SUM, empty="no entry was denied")
    if found["is_cut"]:
        click.echo("note: these are the oldest of more entries; choose a shorter span", err=True)


@denials.command()
@click.option("--since", default="7d", show_default=True, metavar="TIME", help="From when on: 2h, 7d, or an ISO time.")
@click.option("--until", metavar="TIME", help="Until when, not included (default: now).")
@click.option("--instance", help="Only this strategy instance.")
@click.option("--each", is_flag=True, help="Show each entry, not only the sums.")
@gateway_result("fks.denials_cost/1", _show_cost)
def cost(gateway: GatewaySession, since: str, until: str | None, instance: str | None, each: bool) -> Any:
    """Show by code what the denied entries would have made on the stored bars.

    A positive value is a profit that was missed, a negative one a loss that was avoided. Each entry is valued alone: by
    the fill rule and the fees of a backtest, until its stop loss, take profit, or the strategy's next exit.
    """
    from fks.interfaces.cli.events import moment

    return gateway.get("/denials/cost", since=moment(since), until=moment(until), instance=instance)
