"""Webhooks: signals of TradingView and others that cannot send a token, checked and handed to order entry.

A sender shows a secret in the body, or signs the raw body with it (HMAC-SHA256, hex, header X-FKS-Signature). The
secret is derived from the row's salt by the node's session key, so the database holds none, and it is shown once.

TradingView sends the alert's text as JSON or text/plain, gives up after 3 s and repeats after an error of the server.
The key of a signal is the hash of its message without the secret: a repeat is the same signal, at any replica. Its time
is needed, because without it two equal alerts of two days would be one signal, too.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from fks.clock import Clock
from fks.interfaces.entry.execution import (
    ExecutionEntry,
    ExecutionRequest,
    canonical_hash,
    close_of,
    is_close,
    request_of,
    wrong,
)
from fks.interfaces.entry.order_entry import Draft, EntryAnswer, OrderEntry, positive
from fks.model.errors import InputError, Problem
from fks.model.instrument import folded
from fks.model.signal import Signal
from fks.model.timeframe import NS, to_ns
from fks.model.untrusted import shown, whole_of
from fks.store.webhooks import Webhook, WebhookStore

#: Oldest accepted message, and how far its clock may be ahead of ours, seconds.
AGE_MAX_S, AHEAD_MAX_S = 60.0, 10.0
#: How long an answer waits for the order after the commit: TradingView gives up after 3 s.
WAIT_S = 0.5
#: The addresses from which TradingView sends (its help page on webhooks, 2026).
TRADINGVIEW = frozenset({"52.89.214.238", "34.212.75.30", "54.218.53.128", "52.32.178.7"})
#: Seconds for which messages of an address past its limit are refused unread, and of how many addresses.
REFUSED_S = 60.0
_REFUSED_MAX = 4096
SIGNATURE = "X-FKS-Signature"
_SECRETS = ("secret", "passphrase")
_TIMES = ("timenow", "timestamp")
#: What an alert may say besides; kept in the key of the signal, used for nothing.
_INFORMATION = frozenset({"alert_id", "id", "message", "comment", "interval", "close", "time", "strategy"})
_ORDER = frozenset(
    {"symbol", "action", "order_type", "quantity", "price", "stop_price", "stop_loss", "take_profit", "exchange",
     "time_in_force", "valid_until", "reduce_only"}
)  # fmt: skip
_ALIASES = {"ticker": "symbol", "side": "action", "sl": "stop_loss", "tp": "take_profit"}


class RefusedAddresses:
    """Addresses that are past their limit, until they may send again. Bounded; the oldest is forgotten first.

    TradingView's are never among them: all of its users send from them, and one could stop the alerts of another.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: OrderedDict[str, float] = OrderedDict()

    def note(self, address: str, wait_s: float) -> None:
        """Refuse `address` for `wait_s` seconds, at most REFUSED_S: a corrected sender is accepted soon."""
        if address in TRADINGVIEW:
            return
        self._until.pop(address, None)
        self._until[address] = self._clock.monotonic() + min(wait_s, REFUSED_S)
        while len(self._until) > _REFUSED_MAX:
            self._until.popitem(last=False)

    def wait_s(self, address: str) -> float:
        """Return for how many seconds `address` is still refused; 0 when it is not."""
        left = self._until.get(address, 0.0) - self._clock.monotonic()
        if left <= 0:
            self._until.pop(address, None)
        return max(left, 0.0)


class Webhooks:
    """Takes messages of webhooks. Holds the node's key and the addresses that are refused; many may exist."""

    def __init__(
        self, store: WebhookStore, entry: OrderEntry, execution: ExecutionEntry, clock: Clock, session_key: str
    ) -> None:
        self._store = store
        self._entry = entry
        self._execution = execution
        self._clock = clock
        self._key = session_key.encode()
        self.refused = RefusedAddresses(clock)

    # ── secrets ──────────────────────────────────────────────────────────────────────────────────
    def new_salt(self) -> tuple[str, str]:
        """Return a new salt and the fingerprint of the key that derives its secret."""
        return secrets.token_urlsafe(24), self._key_check

    def secret_of(self, salt: str) -> str:
        """Return the secret of a salt: 256 bits that only this key derives."""
        digest = hmac.new(self._key, b"fks webhook secret\0" + salt.encode(), hashlib.sha256).digest()
        return "whs_" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    @property
    def _key_check(self) -> str:
        return hmac.new(self._key, b"fks webhook key", hashlib.sha256).hexdigest()[:16]

    async def authenticate(self, raw: bytes, body: Mapping[str, object], signature: str | None) -> Webhook | None:
        """Return the sender, None when no webhook has this secret or signature. Every secret is compared, each in
        constant time; the body is hashed only when it is signed. Errors: Problem 503 when no webhook was made with this
        node's key."""
        given = next((str(body[name]) for name in _SECRETS if isinstance(body.get(name), str)), "")
        signed = (signature or "").strip().lower().removeprefix("sha256=")
        if not given and not signed:
            return None
        webhooks = await self._store.list()
        found: Webhook | None = None
        for webhook in webhooks:
            secret = self.secret_of(webhook.salt)
            is_sender = hmac.compare_digest(secret.encode(), given.encode())
            if signed:
                made = hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest()
                is_sender |= hmac.compare_digest(made.encode(), signed.encode())
            if is_sender:
                found = webhook
        if found is None and webhooks and all(webhook.key_check != self._key_check for webhook in webhooks):
            raise Problem(
                503,
                "WEBHOOK_KEY",
                "the webhooks were made with another session key than this gateway's",
                remedy="give every gateway the same session_key in secrets.toml, or run 'fks webhooks rotate'",
            )
        return found

    @staticmethod
    def refusal() -> Problem:
        """Return the 401 for a message without a good secret."""
        return Problem(
            401,
            "WEBHOOK_UNAUTHORIZED",
            "no webhook has this secret or signature",
            remedy=f'send the secret of "fks webhooks add" as "secret", or {SIGNATURE}: HMAC-SHA256 of the body',
        )

    # ── messages ─────────────────────────────────────────────────────────────────────────────────
    async def take(
        self, webhook: Webhook, body: Mapping[str, object], address: str, arrived_ns: int, *, trace_id: str = ""
    ) -> EntryAnswer:
        """Commit the signal of a message and return its order, as order entry does, at most WAIT_S after the commit.

        A message that fails counts against the quota like a signal. Errors: those of `check`; Problem 429 beyond the
        quota; those of `OrderEntry.submit`.
        """
        is_counted = False

        async def make(principal: str, key: str, at_ns: int) -> Signal:
            nonlocal is_counted
            signal = await self._execution.signal_of(request, principal, key, at_ns, instance=webhook.principal)
            is_counted = True
            if await self._store.use(webhook):
                return signal
            return await self._reducing(webhook, signal, key, at_ns)

        try:
            request = self.check(webhook, body, address)
            draft = Draft(webhook.principal, request.body_hash, arrived_ns, make, trace_id)
            return await self._entry.enter(draft, f"message-{request.body_hash}", wait_s=WAIT_S)
        except (InputError, Problem) as error:
            if error.status < 500 and not is_counted and not await self._store.use(webhook):
                raise await self._over(webhook) from None
            raise

    async def _reducing(self, webhook: Webhook, signal: Signal, key: str, at_ns: int) -> Signal:
        """Return a signal beyond the quota that only reduces a position: a sender's way out is never used up. Errors:
        Problem 429 for any other, and when the webhook was removed or got another secret."""

        async def sized(*_: object) -> Signal:
            return signal

        try:
            if (await self._store.get(webhook.name)).salt == webhook.salt:
                return await self._entry.reducing(sized)(webhook.principal, key, at_ns)
        except InputError:
            pass
        raise await self._over(webhook)

    async def _over(self, webhook: Webhook) -> Problem:
        return Problem(
            429,
            "WEBHOOK_QUOTA",
            f"webhook {webhook.name} has used its {webhook.quota_per_hour} messages of this hour, or was changed",
            remedy="wait, or make it again with a larger --quota",
            headers={"Retry-After": str(max(math.ceil(await self._store.wait_s(webhook)), 1))},
        )

    async def rehearse(self, webhook: Webhook, body: Mapping[str, object]) -> Signal:
        """Return the signal that a message would become. Nothing is committed, nothing is counted. Errors: those of
        `take` but the quota."""
        request = self.check(webhook, body, None)
        caller, now_ns = webhook.principal, self._clock.now_ns()
        signal = await self._execution.signal_of(request, caller, "rehearsal", now_ns, instance=caller)
        await self._entry.check_contract(signal, now_ns)
        return signal

    def check(self, webhook: Webhook, body: Mapping[str, object], address: str | None) -> ExecutionRequest:
        """Return the request in a message. `address` None is not checked.

        Errors: Problem 403 for another sender's address; InputError 422 for everything else that the row does not
        allow.
        """
        if address is not None and webhook.is_tradingview_only and address not in TRADINGVIEW:
            raise Problem(
                403, "WEBHOOK_SENDER", f"{address} is none of TradingView's addresses",
                remedy="send from TradingView, or make the webhook without --tradingview-only",
            )  # fmt: skip
        message = {name: value for name, value in body.items() if name not in _SECRETS}
        self._check_time(message)
        named: dict[str, object] = {}
        for name, value in message.items():
            own = _ALIASES.get(name, name)
            if own in named:
                raise wrong(f"{own} is given twice", "give it once", "FIELD_UNKNOWN")
            if own not in _ORDER | _INFORMATION | {"confidence", *_TIMES}:
                raise wrong(f"unknown field {shown(name)}", f"use {', '.join(sorted(_ORDER))}", "FIELD_UNKNOWN")
            named[own] = value
        symbol = str(named.get("symbol") or "")
        if folded(symbol.rpartition(":")[2]) not in map(folded, webhook.symbols):
            raise wrong(
                f"webhook {webhook.name} may not trade {shown(symbol)}",
                f"it may trade {', '.join(webhook.symbols)}",
                "WEBHOOK_SYMBOL",
            )
        _check_confidence(webhook, named.get("confidence"))
        if is_close(named.get("action")):
            return close_of(named | {"account": webhook.account_id}, canonical_hash(message))
        sizing, amount = _size(webhook, named)
        fields = {name: value for name, value in named.items() if name in _ORDER and name != "quantity"}
        fields["account"] = webhook.account_id
        fields.setdefault("order_type", "market")  # alerts carry {{close}} as price: that alone is no limit
        return request_of(fields, sizing, amount, canonical_hash(message), trusts_price=False)

    def _check_time(self, message: Mapping[str, object]) -> None:
        name = next((name for name in _TIMES if message.get(name) is not None), None)
        at_ns = None if name is None else _time_of(message[name])
        if at_ns is None:
            raise wrong(
                "the message has no usable time" if name is None else f"{name} {shown(message[name])} is no time",
                'add "timenow": "{{timenow}}" to the alert (or timestamp, milliseconds)',
                "WEBHOOK_TIME",
            )
        age_s = (self._clock.now_ns() - at_ns) / NS
        if not -AHEAD_MAX_S <= age_s <= AGE_MAX_S:
            what = f"{age_s:.0f} s old" if age_s > 0 else f"{-age_s:.0f} s ahead of this clock"
            raise wrong(f"the message is {what}", f"it may be {AGE_MAX_S:.0f} s old", "WEBHOOK_TIME")


def _time_of(value: object) -> int | None:
    try:
        if isinstance(value, str) and not value.strip().isdigit():
            moment = datetime.fromisoformat(value.strip())
            return None if moment.tzinfo is None else to_ns(moment.astimezone(UTC))
        return whole_of(value) * 1_000_000  # milliseconds
    except (ValueError, OverflowError):
        return None


def _check_confidence(webhook: Webhook, value: object) -> None:
    if value is None:
        return
    confidence = positive("confidence", value)
    assert confidence is not None
    if not webhook.confidence_min <= confidence <= 1:
        raise wrong(
            f"confidence {confidence} is not between {webhook.confidence_min} and 1",
            "send surer signals, or make the webhook with a lower --confidence-min",
            "WEBHOOK_CONFIDENCE",
        )


def _size(webhook: Webhook, named: Mapping[str, object]) -> tuple[str, Decimal]:
    """Return how a signal is sized. The row decides; a quantity in the message counts only for sizing `payload`."""
    if webhook.sizing != "payload":
        return webhook.sizing, webhook.size
    quantity = positive("quantity", named.get("quantity"))
    if quantity is None or quantity > webhook.size:
        raise wrong(
            "quantity is missing" if quantity is None else f"quantity {quantity} is more than {webhook.size}",
            f"send a quantity of at most {webhook.size}",
            "WEBHOOK_SIZE",
        )
    return "quantity", quantity


def sample(webhook: Webhook, now: str) -> dict[str, Any]:
    """Return a message that the webhook accepts, without its secret, as an example and for a rehearsal."""
    message: dict[str, Any] = {"symbol": webhook.symbols[0], "action": "buy", "timenow": now}
    if webhook.sizing == "payload":
        message["quantity"] = format(webhook.size, "f")
    return message
