"""Webhooks: messages of senders without a token, and the rows that allow them."""

from __future__ import annotations

import math
from dataclasses import asdict
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Request
from pydantic import Field

from fks.interfaces.api.auth import asks_inside, count_anonymous
from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.query import Admin, Body, BodyOf, Gate, JsonObject, read_body
from fks.interfaces.api.routes.execution import execution_answer
from fks.interfaces.api.routing import Router, takes
from fks.model.errors import InputError, Problem, not_found, unprocessable
from fks.model.instrument import folded
from fks.model.timeframe import iso
from fks.model.untrusted import Exact, parse
from fks.store.accounts import AccountStore
from fks.store.reading import ReadingStore
from fks.store.signals import signal_json
from fks.store.webhooks import NAME, Webhook, WebhookStore

if TYPE_CHECKING:
    from fks.interfaces.entry.webhooks import Webhooks

router = Router(tags=["webhooks"])
_HIDDEN = ("id", "salt", "key_check", "account_id")


class WebhookBody(Body):
    """A new webhook: what its sender may do."""

    name: str = Field(max_length=64)
    account: str = Field(max_length=200, description="name or number of the account that it trades")
    symbols: tuple[Annotated[str, Field(max_length=64)], ...] = Field(min_length=1, max_length=100)
    sizing: Literal["payload", "quantity", "notional", "risk"] = Field(
        description="payload: the message's quantity, at most size; else each order is size, in base, in quote, or in "
        "quote that is lost at the stop_loss"
    )
    size: Annotated[Exact, Field(gt=0)]
    quota_per_hour: int = Field(60, ge=1, le=100_000)
    confidence_min: Annotated[Exact, Field(ge=0, le=1)] = Decimal("0.6")
    tradingview_only: bool = Field(False, description="take messages from TradingView's four addresses alone")


class WebhookChange(Body):
    """Changes of a sender's permissions; omitted fields stay. The account stays: another one needs another webhook."""

    symbols: tuple[Annotated[str, Field(max_length=64)], ...] | None = Field(None, min_length=1, max_length=100)
    sizing: Literal["payload", "quantity", "notional", "risk"] | None = None
    size: Annotated[Exact, Field(gt=0)] | None = Field(None, description="needed when sizing changes")
    quota_per_hour: int | None = Field(None, ge=1, le=100_000)
    confidence_min: Annotated[Exact, Field(ge=0, le=1)] | None = None
    tradingview_only: bool | None = None


@router.post("/webhook/tradingview", status_code=202, dependencies=[asks_inside("trade")])
async def tradingview(gate: Gate, request: Request) -> ExactJson:
    """Take a signal of an alert: JSON, whatever its content type, with the webhook's secret in it, or signed; no token.

    Committed like POST /orders and answered at most a second after that, as POST /execute/signal answers. A repeat of
    a message is the same signal. Wrong secret 401, a message older than 60 s 422, beyond the quota 429.
    """
    arrived_ns = request.state.arrived_ns
    webhooks, address = gate.webhooks, gate.tokens.address_of(request)
    if (wait_s := webhooks.refused.wait_s(address)) > 0:  # before the body costs anything
        raise _past(wait_s)
    try:
        raw = await read_body(request)
        body = parse(raw)
        if not isinstance(body, dict):
            raise unprocessable("INVALID", "body: is not a JSON object", "send the alert's message as JSON")
        sender = await webhooks.authenticate(raw, body, request.headers.get("x-fks-signature"))
        if sender is None:
            raise webhooks.refusal()
    except (Problem, InputError) as error:  # only a sender's messages have a quota: others count on their address
        if error.status < 500:
            await _count_refused(request, webhooks, address)
        raise
    answer = await webhooks.take(sender, body, address, arrived_ns, trace_id=request.state.trace_id)
    return execution_answer(answer, gate.deps.clock.now_ns())


@router.get("/webhooks")
async def webhooks(gate: Gate, caller: Admin) -> ExactJson:
    """List the webhooks, without their secrets."""
    return ExactJson({"items": [_view(row) for row in await WebhookStore(gate.db).list()], "next": None})


@router.post("/webhooks", status_code=201)
async def add(gate: Gate, caller: Admin, body: BodyOf[WebhookBody]) -> ExactJson:
    """Make a webhook. `secret` is shown here and never again: it is not stored."""
    if not NAME.fullmatch(body.name):
        raise _wrong(f"name {body.name!r} is not usable", "use 1 to 64 letters, digits, dots, dashes or underscores")
    accounts = [a for a in await AccountStore(gate.db).page() if a.is_enabled]
    account = next((a for a in accounts if body.account in (a.name, str(a.id))), None)
    if account is None:
        known = ", ".join(a.name for a in accounts) or "none"
        raise not_found("ACCOUNT_UNKNOWN", f"no such account: {body.account}", f"known: {known}")
    symbols = await _symbols_of(gate, body.symbols)
    salt, key_check = gate.webhooks.new_salt()
    store = WebhookStore(gate.db)
    await store.add(
        body.name,
        salt=salt,
        key_check=key_check,
        account_id=account.id,
        symbols=symbols,
        sizing=body.sizing,
        size=body.size,
        quota_per_hour=body.quota_per_hour,
        confidence_min=body.confidence_min,
        is_tradingview_only=body.tradingview_only,
        by=caller.name,
    )
    gate.deps.log.info("webhook.added", name=body.name, account=account.name, by=caller.name)
    made = await store.get(body.name)
    return ExactJson(_view(made) | _shown_once(gate, made), status_code=201)


@router.post("/webhooks/{name}")
async def change(gate: Gate, caller: Admin, name: str, body: BodyOf[WebhookChange]) -> ExactJson:
    """Change what a webhook's sender may do; its secret stays. The next message meets the change on every replica."""
    store = WebhookStore(gate.db)
    before = await store.get(name)
    changes = body.model_dump(exclude_none=True)
    if not changes:
        raise _wrong("nothing is to be changed", "name a field: symbols, size, quota_per_hour, …")
    if body.sizing not in (None, before.sizing) and body.size is None:
        raise _wrong(f"size {before.size:f} was meant for sizing {before.sizing}", "give size along with sizing")
    await store.change(
        name,
        symbols=None if body.symbols is None else await _symbols_of(gate, body.symbols),
        sizing=body.sizing,
        size=body.size,
        quota_per_hour=body.quota_per_hour,
        confidence_min=body.confidence_min,
        is_tradingview_only=body.tradingview_only,
    )
    gate.deps.log.info("webhook.changed", name=name, by=caller.name, fields=sorted(changes))
    return ExactJson(_view(await store.get(name)))


@router.post("/webhooks/{name}/rotate")
async def rotate(gate: Gate, caller: Admin, name: str) -> ExactJson:
    """Give a webhook another secret, shown once; the old one is refused at once on every replica."""
    store = WebhookStore(gate.db)
    salt, key_check = gate.webhooks.new_salt()
    await store.rotate(name, salt=salt, key_check=key_check)
    gate.deps.log.info("webhook.rotated", name=name, by=caller.name)
    found = await store.get(name)
    return ExactJson(_view(found) | _shown_once(gate, found))


@router.post("/webhooks/{name}/test", openapi_extra=takes(Body))
async def test(gate: Gate, caller: Admin, name: str, request: Request, body: JsonObject) -> ExactJson:
    """Return the signal that a message (default: a sample) would become. Nothing is committed or counted."""
    from fks.interfaces.entry.webhooks import sample

    del request.state.body  # a pasted message may hold the secret: the audit keeps none of it
    webhook = await WebhookStore(gate.db).get(name)
    message = body or sample(webhook, iso(gate.deps.clock.now_ns()))
    signal = await gate.webhooks.rehearse(webhook, message)
    shown = signal_json(signal)
    return ExactJson({"ok": True, "message": message, "signal": {key: shown[key] for key in _SIGNAL}})


@router.delete("/webhooks/{name}")
async def remove(gate: Gate, caller: Admin, name: str) -> ExactJson:
    """Remove a webhook: its secret is refused at once; its signals and orders stay."""
    await WebhookStore(gate.db).remove(name)
    gate.deps.log.info("webhook.removed", name=name, by=caller.name)
    return ExactJson({"name": name, "removed": True})


_SIGNAL = (
    *("account_id", "venue", "exchange", "symbol", "side", "type", "size", "limit_price", "stop_price"),
    *("stop_loss", "take_profit", "time_in_force", "valid_until"),
)


async def _symbols_of(gate: Replica, texts: tuple[str, ...]) -> list[str]:
    """Return the symbols as they are listed, sorted. Errors: InputError for one that is unknown, or named twice."""
    symbols = [(await ReadingStore(gate.db).spelled(symbol, listed=True))[0].symbol for symbol in texts]
    if len({folded(symbol) for symbol in symbols}) < len(symbols):  # in a message they would be the same
        raise _wrong("two of the symbols are one in messages", "name each symbol once, in one spelling")
    return sorted(symbols)


def _view(webhook: Webhook) -> dict[str, Any]:
    return {name: value for name, value in asdict(webhook).items() if name not in _HIDDEN}


def _shown_once(gate: Replica, webhook: Webhook) -> dict[str, Any]:
    """Return the secret and a message to paste into an alert, with TradingView's placeholder for the time."""
    from fks.interfaces.entry.webhooks import sample

    secret = gate.webhooks.secret_of(webhook.salt)
    return {"secret": secret, "message": {"secret": secret, **sample(webhook, "{{timenow}}")}}


async def _count_refused(request: Request, webhooks: Webhooks, address: str) -> None:
    """Count a message without a good secret on its address. Errors: Problem 429 past the limit of the address."""
    try:
        await count_anonymous(request)
    except Problem as problem:
        if problem.status == 429:
            webhooks.refused.note(address, float(problem.headers.get("Retry-After", "0")))
        raise


def _past(wait_s: float) -> Problem:
    wait = str(math.ceil(wait_s))
    return Problem(
        429,
        "RATE_LIMITED",
        "this address sent too many messages without a good secret",
        remedy=f"wait {wait} s, and send the secret of the webhook",
        headers={"Retry-After": wait},
    )


def _wrong(message: str, remedy: str) -> InputError:
    return unprocessable("WEBHOOK_WRONG", message, remedy)
