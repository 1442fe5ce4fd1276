"""Alerting: evaluates the rules, routes alerts to channels, and delivers the messages.

What must be sent is a row before it is sent, and a message is claimed, fenced by the lease's epoch and the attempt's
number, before its first byte. An attempt without an outcome (the process died) is made once more, marked "(repeated)":
HTTP and SMTP give no way to ask a receiver what it has.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import random
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

from fks.clock import Clock
from fks.clock.waiting import retry
from fks.config.settings import Settings
from fks.model.backoff import Backoff
from fks.model.errors import OutageError
from fks.model.ports import Lease, Log, Meter
from fks.model.timeframe import NS, to_datetime
from fks.store.alerting import AlertingStore, Delivery
from fks.store.bus import Bus
from fks.store.db import Database
from fks.system.alerts import texts
from fks.system.alerts.channels import AlertChannel, DeliveryResult, Sealer, Text, send
from fks.system.alerts.directory import Directory
from fks.system.alerts.engine import AlertEngine, Raise
from fks.system.alerts.observing import Observer
from fks.system.alerts.routing import Alert, has_recipient, route
from fks.system.alerts.rules import AlertRule, Silence
from fks.system.monitor.guard import Guard

EVERY_S = 2.0
#: Attempts that are made at once; each channel has at most one.
SENDERS_MAX = 16
#: An attempt that has not ended by its own timeouts is given up, and its thread left to itself.
SEND_MAX_S = 60.0
#: An attempt of this process that is not under way any more is lost after so long.
LOST_AFTER_S = 120.0
#: A message that cannot be delivered for so long is given up.
GIVE_UP_S = 86400.0
RETRY = Backoff(2.0, 300.0, jitter=0.3)
#: Each of these may arrive as another copy, so that they are rarer.
RETRY_UNCLEAR = Backoff(30.0, 900.0, jitter=0.3)
_WRITE = Backoff(0.5, 5.0)
_PRUNE_EVERY_S = 3600.0
Sender = Callable[[AlertChannel, Text, str], DeliveryResult]


class AlertService:
    """One per cluster. Hard state: none besides rows. Soft state: the engine's, and the attempts under way.

    Threads of its own send: receivers that do not answer must not take those of the process, nor these the others'.
    """

    def __init__(
        self,
        db: Database,
        bus: Bus,
        clock: Clock,
        log: Log,
        meter: Meter,
        settings: Settings,
        sealer: Sealer,
        *,
        lease: Lease | None = None,
        sender: Sender | None = None,
        send_max_s: float = SEND_MAX_S,
    ) -> None:
        self._clock = clock
        self._log = log
        self._meter = meter
        self._guard = Guard("alerts", log, meter)
        self._store = AlertingStore(db, lease)
        self._directory = Directory(self._store, settings.alerts, sealer)
        self._observer = Observer(db, bus, clock)
        self._engine = AlertEngine()
        self._epoch = lease.epoch if lease is not None else 0
        self._sender = sender or partial(send, allowed=settings.alerts.hosts)
        self._send_max_s = send_max_s
        self._senders = concurrent.futures.ThreadPoolExecutor(SENDERS_MAX, thread_name_prefix="alert")
        self._sending: dict[str, asyncio.Task[None]] = {}
        # by channel: an attempt that was given up
        self._stuck: dict[str, concurrent.futures.Future[DeliveryResult]] = {}
        self._under_way: set[int] = set()
        self._pruned_s: float | None = None
        self.turned_s = clock.monotonic()  # the last turn of `run`

    async def run(self) -> None:
        """Evaluate, route and deliver until cancelled. An outage of PostgreSQL is waited out."""
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    self.turned_s = self._clock.monotonic()
                    with contextlib.suppress(OutageError):
                        await self.tick(tasks)
                    await self._clock.sleep(EVERY_S)
        finally:
            self._senders.shutdown(wait=False, cancel_futures=True)

    async def tick(self, tasks: asyncio.TaskGroup) -> None:
        """Do what is due now; the attempts to send go on in `tasks`. A part that fails is reported, and the others are
        done. Errors: OutageError."""
        guard = self._guard
        await guard.call("recover", self._recover)
        channels = await guard.call("channels", self._directory.channels)
        rules = await guard.call("rules", self._directory.rules)
        if channels is None:
            return
        if rules is not None:
            await guard.call("evaluate", partial(self._evaluate, rules, channels))
            await guard.call("route", partial(self._route, rules, channels))
        for channel in channels:
            task = self._sending.get(channel.name)
            if channel.is_enabled and (task is None or task.done()) and not self._is_stuck(channel.name):
                self._sending[channel.name] = tasks.create_task(self._deliver_or_wait(channel))
        now_s = self._clock.monotonic()
        if self._pruned_s is None or now_s - self._pruned_s >= _PRUNE_EVERY_S:
            self._pruned_s = now_s
            await guard.call("prune", self._store.prune)

    def _is_stuck(self, channel: str) -> bool:
        """Return whether a thread still sends to a channel although its attempt was given up: it gets no other one."""
        if channel in self._stuck and self._stuck[channel].done():
            del self._stuck[channel]
        return channel in self._stuck

    async def _recover(self) -> None:
        under_way = sorted(self._under_way)
        for row in await self._store.recover(epoch=self._epoch, after_s=LOST_AFTER_S, under_way=under_way):
            self._log.warning("alert.delivery_lost", delivery=row["id"], channel=row["channel"], state=row["state"])

    # ── rules ────────────────────────────────────────────────────────────────────────────────────
    async def _evaluate(self, rules: tuple[AlertRule, ...], channels: tuple[AlertChannel, ...]) -> None:
        """Raise and settle the alerts of rules. A notice that no channel would take is not even kept."""
        used = [rule for rule in rules if not rule.is_notice or has_recipient(rule, channels)]
        observed = await self._observer.look(used)
        for step in self._engine.step(used, observed, await self._store.open_keys()):
            if isinstance(step, Raise):
                await self._raise(step)
            else:
                row = await self._store.settle(step.key, step.message)
                if row is not None:
                    self._log.info("alert.settled", alert=row["event"], of=row["component"], message=row["message"])

    async def _raise(self, step: Raise) -> None:
        is_new = await self._store.raise_alert(
            at=to_datetime(round(step.at_s * NS)),
            severity=step.severity,
            event=step.event,
            message=step.message,
            component=step.labels.get("service") or step.labels.get("component") or "alerts",
            payload=dict(step.labels),
            rule=step.rule,
            key=step.key,
            ref=step.ref,
        )
        if is_new and step.ref is None:
            self._log.warning(
                "alert.raised", alert=step.event, rule=step.rule, severity=step.severity, message=step.message
            )

    # ── routing ──────────────────────────────────────────────────────────────────────────────────
    async def _route(self, rules: tuple[AlertRule, ...], channels: tuple[AlertChannel, ...]) -> None:
        rows = await self._store.unrouted()
        if not rows:
            return
        alerts = [Alert(**{**row, "raised_to": tuple(row["raised_to"])}) for row in rows]
        silences = [
            Silence(event=row["event"], component=row["component"], until=row["until"])
            for row in await self._store.silences()
        ]
        now = to_datetime(self._clock.now_ns())
        plan = route(alerts, rules, silences, channels, now)
        if plan.routed or plan.resolve_routed or plan.escalated:
            await self._store.route(
                [(item.alert_id, item.channel, item.about, item.rule, item.group_s) for item in plan.wanted],
                routed=plan.routed,
                resolve_routed=plan.resolve_routed,
                escalated=plan.escalated,
            )

    # ── delivery ─────────────────────────────────────────────────────────────────────────────────
    async def _deliver_or_wait(self, channel: AlertChannel) -> None:
        with contextlib.suppress(OutageError):
            await self._guard.call("deliver", partial(self._deliver, channel))

    async def _deliver(self, channel: AlertChannel) -> None:
        """Send what is due to one channel, one message after the other, until one fails. Errors: OutageError."""
        while (delivery := await self._store.claim(channel.name)) is not None:
            self._under_way.add(delivery.id)
            try:
                outcome = await self._attempt(channel, delivery)
                await self._finish(delivery, outcome)
            finally:
                self._under_way.discard(delivery.id)
            if outcome.result not in ("sent", "refused"):
                return

    async def _attempt(self, channel: AlertChannel, delivery: Delivery) -> DeliveryResult:
        """Send a message and return the outcome, after `send_max_s` at the latest. Errors: OutageError."""
        try:
            text = await self._text(delivery, is_mail=channel.kind == "email")
        except OutageError:
            raise
        except Exception as error:  # rows that no text can be made of: another attempt would fail as well
            return DeliveryResult("refused", f"no text: {type(error).__name__}: {error}"[:200])
        sending = self._senders.submit(self._sender, channel, text, f"fks-{delivery.id}")
        try:
            async with asyncio.timeout(self._send_max_s):
                return await asyncio.wrap_future(sending)
        except TimeoutError:
            if sending.cancel():
                return DeliveryResult("later", "all senders are busy")
            self._stuck[channel.name] = sending
            return DeliveryResult("unclear", f"no end within {self._send_max_s:g} s")

    async def _text(self, delivery: Delivery, *, is_mail: bool) -> Text:
        if delivery.about == "test":
            body = f"Messages from FKS reach this channel ({delivery.channel})."
            return Text("FKS test", f"{body}\n{texts.REPEATED}" if delivery.is_repeat else body)
        rows = await self._store.alerts_of(delivery.id)
        alerts = [Alert(**row) for row in rows]
        about: Any = delivery.about
        return texts.compose(alerts, about, delivery.at, is_repeat=delivery.is_repeat, is_mail=is_mail)

    async def _finish(self, delivery: Delivery, outcome: DeliveryResult) -> None:
        """Write the outcome, however long PostgreSQL is away: a sent message must not be sent again."""
        draw = random.random()  # noqa: S311  jitter only
        is_unclear = outcome.result == "unclear"
        backoff = RETRY_UNCLEAR if is_unclear else RETRY
        wait_s = max(backoff.wait_s(delivery.attempt, draw=draw), outcome.retry_after_s or 0.0)
        state = {"sent": "sent", "refused": "failed"}.get(outcome.result, "queued")
        if state == "queued" and delivery.at + timedelta(seconds=wait_s) - delivery.created_at > timedelta(
            seconds=GIVE_UP_S
        ):
            state = "unknown" if is_unclear else "failed"
        error = outcome.error or None
        is_ours = await retry(
            lambda: self._store.finish(delivery, state, wait_s=wait_s, error=error, is_unclear=is_unclear),
            self._clock,
            _WRITE,
            errors=OutageError,
        )
        self._meter.count("fks_alert_deliveries_total", channel=delivery.channel, state=outcome.result)
        if not is_ours:
            self._log.warning("alert.delivery_taken", delivery=delivery.id, channel=delivery.channel)
        elif state != "sent":
            write = self._log.warning if state == "queued" else self._log.error
            event = "alert.delivery_waits" if state == "queued" else "alert.delivery_failed"
            write(event, delivery=delivery.id, channel=delivery.channel, error=error, attempt=delivery.attempt)
