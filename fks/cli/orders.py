"""`fks orders`: list, show, place, cancel and settle orders."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from fks.cli.base import as_json, emit, table
from fks.cli.client import gateway_of, new_key
from fks.cli.shown import brief, time_of

STATES = (
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


@click.group()
def orders() -> None:
    """List, show, place, cancel and settle orders."""


@orders.command("list")
@click.option("--open", "is_open", is_flag=True, help="Only those that may still fill.")
@click.option("--state", type=click.Choice(STATES, case_sensitive=False), help="Only those in this state.")
@click.option("--symbol", help="Only this symbol, in any spelling.")
@click.option("--exchange", help="Only this exchange.")
@click.option("--instance", help="Only this strategy instance.")
@click.option("-n", "--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@as_json
@click.pass_context
def list_(
    ctx: click.Context,
    is_open: bool,
    state: str | None,
    symbol: str | None,
    exchange: str | None,
    instance: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List orders, newest first, protections included."""
    with gateway_of(ctx) as gateway:
        items = gateway.pages(
            "/orders", limit, open=is_open, state=state, symbol=symbol, exchange=exchange, instance=instance
        )
    emit(items, as_json=as_json, schema="fks.orders/1")
    if not as_json:
        headers = (
            "TIME",
            "CLIENT ORDER ID",
            "SYMBOL",
            "ROLE",
            "SIDE",
            "TYPE",
            "QUANTITY",
            "FILLED",
            "PRICE",
            "STATE",
            "WHY",
        )
        table([_row(item) for item in items], headers, empty="no orders yet")


def _row(item: dict[str, Any]) -> tuple[object, ...]:
    price = item["average_price"] or item["price"] or item["stop_price"]
    return (
        time_of(item["created_at"]),
        item["client_order_id"],
        item["symbol"],
        item["role"],
        item["side"],
        item["type"],
        item["quantity"],
        item["filled"],
        price,
        item["state"],
        brief(item["code"] or item["detail"]),
    )


@orders.command()
@click.argument("id")
@as_json
@click.pass_context
def show(ctx: click.Context, id: str, as_json: bool) -> None:
    """Show one order, by its client order id or the id that placing it answered."""
    with gateway_of(ctx) as gateway:
        item = gateway.get(f"/orders/{quote(id, safe='')}")
    emit(item, as_json=as_json, schema="fks.order/1")
    if not as_json:
        table([(name, value) for name, value in item.items() if value not in (None, "", False)], ("FIELD", "VALUE"))
        if item.get("expires_by") == "order_manager":
            click.echo("the order manager ends it at valid_until: FKS must be running then, the venue would not end it")


@orders.command()
@click.argument("id")
@as_json
@click.pass_context
def events(ctx: click.Context, id: str, as_json: bool) -> None:
    """Show every step of one order."""
    with gateway_of(ctx) as gateway:
        items = gateway.get(f"/orders/{quote(id, safe='')}/events")["items"]
    emit(items, as_json=as_json, schema="fks.order-events/1")
    if not as_json:
        rows = [(time_of(i["recv_time"]), i["event"], i["from_state"], i["to_state"], i["source"]) for i in items]
        table(rows, ("TIME", "EVENT", "FROM", "TO", "SOURCE"), empty="no events")


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
    "--type", "kind", type=click.Choice(["market", "limit", "stop", "stop_limit"]), default="market", show_default=True
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
@click.option("--key", help="Idempotency key; the same key again is the same order.")
@as_json
@click.pass_context
def place(
    ctx: click.Context,
    /,
    side: str,
    quantity: str,
    symbol: str,
    kind: str,
    reduce_only: bool,
    key: str | None,
    as_json: bool,
    **more: str | None,
) -> None:
    """Place an order: fks orders place buy 0.01 BTC/USDT --type limit --price 60000."""
    body: dict[str, Any] = {"side": side, "quantity": quantity, "symbol": symbol, "type": kind, **more}
    if reduce_only:
        body["reduce_only"] = True
    with gateway_of(ctx) as gateway:
        answer = gateway.post("/orders", body, key=key or new_key())
    emit(answer, as_json=as_json, schema="fks.order/1")
    if not as_json:
        click.echo(f"order {answer['client_order_id']}: {answer.get('state') or 'accepted, see fks orders show'}")


@orders.command()
@click.argument("id")
@as_json
@click.pass_context
def cancel(ctx: click.Context, id: str, as_json: bool) -> None:
    """Request the cancel of an order.

    Any order of an exit, or the id of its signal, ends the exit, also while it waits between two attempts. The position
    stays, and its protection is placed again.
    """
    with gateway_of(ctx) as gateway:
        answer = gateway.delete(f"/orders/{quote(id, safe='')}")
    emit(answer, as_json=as_json, schema="fks.order/1")
    if not as_json:
        end = answer.get("exit_end")
        if end is None:
            click.echo(f"order {id}: cancel requested (it is {answer.get('state') or 'asked'}); see fks orders show")
        elif end["state"] == "accepted":
            click.echo(f"the exit of signal {end['signal_id']} ends; what is held stays, with its protection")
        else:
            click.echo(f"the end of the exit of signal {end['signal_id']} is {end['state']}; see fks why {id}")


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
    ctx: click.Context,
    /,
    id: str,
    outcome: str | None,
    trade_ids: tuple[str, ...],
    confirm: str | None,
    as_json: bool,
    **more: str | None,
) -> None:
    """End an order of unknown outcome: shows the effects, and carries them out when called again with --confirm CODE.

    filled and cancelled book executions, by --trade-id as the venue reports it, or by --price and --fee. absent
    books nothing. busted reverses executions that the venue took back. Look at the exchange first: your report moves
    the position. When the exchange reports an execution later, its figures replace yours.
    """
    if confirm is None and (outcome is None or more["reason"] is None):
        raise click.UsageError("give --as and --reason, or --confirm CODE")
    body: dict[str, object] = {"outcome": outcome, "confirm": confirm, **more}
    if trade_ids:
        body["trade_ids"] = list(trade_ids)
    with gateway_of(ctx) as gateway:
        answer = gateway.post(f"/orders/{quote(id, safe='')}/settle", body)
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
