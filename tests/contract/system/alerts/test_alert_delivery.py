"""Alerts are delivered once and their end once, over real sockets, while receivers and our own process fail."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email import message_from_string, policy
from typing import Any

import pytest
from pydantic import SecretStr

from fks.clock import RealClock
from fks.config.settings import AlertsSettings, Monitor, Settings
from fks.model.accounting.period import last_ended
from fks.research.jobs.reports import issue_report
from fks.store.alerting import AlertingStore
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.facts import FactStore
from fks.store.leases import HeldLease, raise_epoch
from fks.store.metrics import MetricStore
from fks.store.reports import ReportStore
from fks.system.alerts import channels, observing, service
from fks.system.alerts.channels import AlertChannel, DeliveryResult, Sealer, Text, send
from fks.system.alerts.directory import Directory
from fks.system.alerts.report import page_of, text_of
from fks.system.alerts.routing import Alert
from fks.system.alerts.service import AlertService
from fks.system.alerts.texts import compose
from fks.system.runtime import SNAPSHOTS
from tests.support import servers
from tests.support.free_port import free_port
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.receivers import HttpReceiver, http_receiver, smtp_receiver
from tests.support.waiting import until

SEALER = Sealer(SecretStr("s" * 43))
#: Channels may lead to this host by their own list; that of services, which has it by default, does not count.
SETTINGS = Settings(alerts=AlertsSettings(hosts=("localhost",)), monitor=Monitor(hosts=()))
DISCORD = "discord://1234567890/abcdefghijklmnopqrstuvwxyz"
TELEGRAM = "tgram://123456789:abcdefghijklmnopqrstuvwxyzABCDEFGHI/12345?format=text"
SLACK = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#ops"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of a test, instead of those of production."""
    monkeypatch.setattr(service, "RETRY", service.Backoff(0.05, 0.1))
    monkeypatch.setattr(service, "RETRY_UNCLEAR", service.Backoff(0.05, 0.1))


class _Rig:
    """The alerting of one process after the other, on one database."""

    def __init__(self, db: Database, own: Database, bus: Bus, log: CollectingLog) -> None:
        """`own`: the connections of the monitor."""
        self.db, self.own, self.bus, self.log = db, own, bus, log
        self.store = AlertingStore(db)
        self.epoch = 0

    async def add(self, name: str, address: str, base: str | None = None, severity_min: str = "info") -> None:
        await self.store.save_channel(
            name, kind=channels.kind_of(address), address=SEALER.seal(address), base=base, severity_min=severity_min,
            is_enabled=True, by="test",
        )  # fmt: skip

    async def begin(
        self, settings: Settings | None = None, sender: Any = None, send_max_s: float = service.SEND_MAX_S
    ) -> AlertService:
        """Return the service of a new process: its epoch is above that of the one before."""
        self.epoch = await raise_epoch(self.db, "monitor", "test")
        lease = HeldLease(
            self.own, RealClock(), name="monitor", epoch=self.epoch, holder="test", ttl_s=2, renew_s=0.5
        )  # fmt: skip
        return AlertService(
            self.own, self.bus, RealClock(), self.log, RecordingMeter(), settings or SETTINGS, SEALER, lease=lease,
            sender=sender, send_max_s=send_max_s,
        )  # fmt: skip

    @asynccontextmanager
    async def running(self, **kwargs: Any) -> AsyncIterator[AlertService]:
        """Tick ten times a second."""
        made = await self.begin(**kwargs)

        async def tick() -> None:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    await made.tick(tasks)
                    await asyncio.sleep(0.1)

        task = asyncio.create_task(tick())
        try:
            yield made
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def page(self, event: str = "child.escalated", message: str = "it died", severity: str = "page") -> int:
        return await FactStore(self.db).note_alert(severity, event, message, "orders", {})

    async def states(self) -> list[tuple[str, str]]:
        return [(row["about"], row["state"]) for row in reversed(await self.store.deliveries())]


@pytest.fixture
def rig(database: Database, as_monitor: Database, bus: Bus, log: CollectingLog) -> _Rig:
    return _Rig(database, as_monitor, bus, log)


@pytest.fixture
async def receiver() -> AsyncIterator[HttpReceiver]:
    async with http_receiver() as found:
        yield found


async def _ended(rig: _Rig, count: int) -> bool:
    states = await rig.states()
    return len(states) == count and all(state not in ("queued", "sending") for _, state in states)


async def test_alert_and_its_end_reach_every_kind_of_channel_once(rig: _Rig, receiver: HttpReceiver) -> None:
    async with smtp_receiver() as mail:
        await rig.add("d", DISCORD, receiver.url)
        await rig.add("t", TELEGRAM, receiver.url)
        await rig.add("s", SLACK, receiver.url)
        await rig.add("w", f"json://{receiver.host}/hook")
        await rig.add("m", f"mailto://127.0.0.1:{mail.port}?from=fks@example.org&to=me@example.org&mode=insecure")
        async with rig.running():
            id = await rig.page()
            await until(lambda: _ended(rig, 5))
            await rig.db.sql("UPDATE alerts SET resolved_at = now() WHERE id = $1", id)
            await until(lambda: _ended(rig, 10))
            await asyncio.sleep(0.3)
    assert [row for row in await rig.store.deliveries() if row["state"] != "sent"] == []
    paths = sorted(item.path.split("/")[1] for item in receiver.received)
    assert paths == sorted([*(["api", "bot123456789:abcdefghijklmnopqrstuvwxyzABCDEFGHI", "hook", "services"] * 2)])
    assert len(mail.received) == 2
    assert "it died" in mail.received[0]
    keys = [item.headers["Idempotency-Key"] for item in receiver.received if item.path == "/hook"]
    assert len(set(keys)) == 2
    assert all("child.escalated" in str(item.body) and "it died" in str(item.body) for item in receiver.received)


async def test_a_report_reaches_each_channel_once_whatever_fails(rig: _Rig, receiver: HttpReceiver) -> None:
    store = ReportStore(rig.db)
    receiver.answers.extend([(500, {}), (503, {})])
    async with smtp_receiver() as mail:
        await rig.add("d", DISCORD, receiver.url)
        await rig.add("m", f"mailto://127.0.0.1:{mail.port}?from=fks@example.org&to=me@example.org&mode=insecure")
        await rig.add("later", f"json://{receiver.host}/hook", severity_min="page")
        now_ns = RealClock().now_ns()
        period = last_ended("daily", now_ns)
        document = await store.report(period, None, home="binance", now_ns=now_ns)
        for _ in range(2):
            async with rig.running():
                title, _ = await issue_report(store, period, document, now_ns=now_ns)
                await until(lambda: _ended(rig, 2))
        (row,) = await store.rows(None, None, 10)
        row = await store.get(row["id"])
        await store.send(row["id"], "later")
        async with rig.running():
            await until(lambda: _ended(rig, 3))
            await asyncio.sleep(0.3)
    assert [title in str(item.body) for item in receiver.received] == [True, True]
    assert len(mail.received) == 1
    message = message_from_string(mail.received[0], policy=policy.default)
    assert (message["Subject"], message["To"], message.get_content_type()) == (
        title, "me@example.org", "multipart/alternative",
    )  # fmt: skip
    text, page = message.iter_parts()
    assert (text.get_content_type(), page.get_content_type()) == ("text/plain", "text/html")
    assert text.get_content().splitlines() == text_of(row["document"]).splitlines()
    assert page.get_content().splitlines() == page_of(row["document"]).splitlines()
    (row,) = await store.rows(None, None, 10)
    assert [(item["channel"], item["state"], item["is_late"]) for item in row["deliveries"]] == [
        ("d", "sent", False),
        ("later", "sent", False),
        ("m", "sent", False),
    ]


@pytest.mark.parametrize(
    ("more", "replies", "states", "received"),
    [
        ("&to=you@example.org", ["250 accepted", "250 accepted"], ["sent"], 2),
        ("", ["451 later"], ["sent"], 1),
        ("", ["550 no"], ["failed"], 0),
        ("&format=text", [], ["sent"], 1),
    ],
)
async def test_a_report_by_mail_keeps_to_the_rules_of_the_outbox(
    rig: _Rig, more: str, replies: list[str], states: list[str], received: int
) -> None:
    async with smtp_receiver() as mail:
        mail.replies.extend(replies)
        address = f"mailto://127.0.0.1:{mail.port}/me@example.org?from=fks@example.org&mode=insecure{more}"
        await rig.add("m", address)
        now_ns = RealClock().now_ns()
        period = last_ended("daily", now_ns)
        store = ReportStore(rig.db)
        document = await store.report(period, None, home="binance", now_ns=now_ns)
        async with rig.running():
            await issue_report(store, period, document, now_ns=now_ns)
            await until(lambda: _ended(rig, 1))
    assert [state for _, state in await rig.states()] == states
    assert len(mail.received) == received
    is_text = "format=text" in more
    for raw in mail.received:
        parts = [part.get_content_type() for part in message_from_string(raw).walk()]
        assert parts == (["text/plain"] if is_text else ["multipart/alternative", "text/plain", "text/html"])
        assert is_text or "no account has an equity in this period\r\nno executions" in raw


async def test_a_report_without_a_recipient_is_not_sent() -> None:
    async with smtp_receiver() as mail:
        address = f"mailto://127.0.0.1:{mail.port}/m%C3%A9@example.org?from=fks@example.org&mode=insecure"
        channel, text = AlertChannel("m", SecretStr(address)), Text("Daily report", "nothing", "<p>nothing</p>")
        outcome = await asyncio.to_thread(send, channel, text, "k", allowed=("127.0.0.1",))
    assert (outcome.result, outcome.error, mail.received) == ("later", "not accepted", [])


def test_a_report_that_may_have_arrived_before_is_marked() -> None:
    at = datetime(2026, 3, 3, tzinfo=UTC)
    document = {
        "period": "daily", "start": "2026-03-02T00:00:00Z", "end": "2026-03-03T00:00:00Z", "is_over": True,
        **dict.fromkeys(("accounts", "trades", "denials", "alerts", "holdings"), ()),
    }  # fmt: skip
    alert = Alert(1, at, "info", "report", "scheduler", "Daily report, 2026-03-02\nnothing", report=document)
    mail, chat = (compose([alert], "raised", at, is_repeat=True, is_mail=is_mail) for is_mail in (True, False))
    assert (mail.title, chat.title) == ("Daily report, 2026-03-02 (repeated)", "Daily report, 2026-03-02")
    assert [text.body.splitlines()[-1] for text in (mail, chat)] == ["(repeated)"] * 2
    assert (mail.page[:15].lower(), chat.page) == ("<!doctype html>", "")


async def test_service_down_reaches_discord_with_the_owners_text(rig: _Rig, receiver: HttpReceiver) -> None:
    await rig.add("d", DISCORD, receiver.url)
    await rig.store.save_rule(
        "service",
        {"kind": "threshold", "on": "service.down", "severity": "error", "above": 1, "by": ["service"]},
        by="test",
    )
    await rig.db.sql(
        "INSERT INTO component_health (name, kind, state, pid, beat_at, since, detail) VALUES "
        "('collector:binance', 'actor', 'failed', 1, now() - interval '130 s', now() - interval '1 hour', "
        '\'{"reason": "Connection timeout"}\')'
    )
    async with rig.running():
        await until(lambda: _ended(rig, 1))
        await rig.db.sql("UPDATE component_health SET state = 'ready', beat_at = now() + interval '1 hour'")
        await until(lambda: _ended(rig, 2))
    assert receiver.texts[0].splitlines() == [
        "❌ **Service Down Alert**",
        "Service: fks_data",
        "Status: Down",
        "Error: collector:binance: Connection timeout",
        "Last Seen: 2 minutes ago",
    ]
    assert receiver.texts[1].splitlines()[:3] == ["✅ **Service Recovered**", "Service: fks_data", "Status: Up"]


async def test_outages_of_the_receiver_delay_and_lose_nothing(rig: _Rig, receiver: HttpReceiver) -> None:
    await rig.add("w", f"json://{receiver.host}/hook")
    receiver.answers.extend([(500, {}), (503, {}), (429, {"retry_after": 0.3})])
    async with rig.running():
        await rig.page()
        await until(lambda: _ended(rig, 1))
    assert await rig.states() == [("raised", "sent")]
    assert len(receiver.received) == 1
    assert "(repeated)" not in receiver.texts[0], "an answered refusal has not arrived"
    assert (await rig.store.deliveries())[0]["attempts"] == 4


async def test_refused_connection_is_tried_again(rig: _Rig) -> None:
    port = free_port()
    await rig.add("w", f"json://127.0.0.1:{port}/hook")
    async with rig.running():
        await rig.page()
        await until(lambda: _attempted(rig, 2))
        async with http_receiver(port) as back:
            await until(lambda: _ended(rig, 1))
    assert ["(repeated)" in text for text in back.texts] == [False]


async def _attempted(rig: _Rig, count: int) -> bool:
    rows = await rig.store.deliveries()
    return bool(rows) and rows[0]["attempts"] >= count


async def test_message_without_an_answer_is_repeated_with_a_mark(
    rig: _Rig, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "READ_S", 1.0)
    await rig.add("w", f"json://{receiver.host}/hook")
    receiver.answers.append("hang")
    async with rig.running():
        await rig.page()
        await until(lambda: _ended(rig, 1))
    assert ["(repeated)" in text for text in receiver.texts] == [False, True]
    keys = {item.headers["Idempotency-Key"] for item in receiver.received}
    assert len(keys) == 1, "a receiver that knows the header drops the second"


async def test_final_refusal_is_given_up_at_once_and_others_go_on(rig: _Rig, receiver: HttpReceiver) -> None:
    async with smtp_receiver() as mail:
        mail.replies.append("451 later")
        await rig.add("w", f"json://{receiver.host}/hook")
        await rig.add("m", f"mailto://127.0.0.1:{mail.port}?from=fks@example.org&to=me@example.org&mode=insecure")
        receiver.answers.append((404, {}))
        async with rig.running():
            await rig.page()
            await until(lambda: _ended(rig, 2))
    rows = {row["channel"]: row for row in await rig.store.deliveries()}
    assert (rows["w"]["state"], rows["w"]["error"]) == ("failed", "status 404")
    assert (rows["m"]["state"], len(mail.received)) == ("sent", 1)
    assert "alert.delivery_failed" in [event for _, event, _ in rig.log.lines]


class _Died(BaseException):
    """Our process ends between the send and the record of it."""


async def test_death_between_send_and_record_repeats_once_with_a_mark(rig: _Rig, receiver: HttpReceiver) -> None:
    await rig.add("w", f"json://{receiver.host}/hook")

    def dying(channel: AlertChannel, text: Text, key: str) -> DeliveryResult:
        channels.send(channel, text, key, allowed=("localhost",))
        raise _Died

    await rig.page()
    for _ in range(2):
        first = await rig.begin(sender=dying)
        with pytest.raises(BaseExceptionGroup):
            async with asyncio.TaskGroup() as tasks:
                await first.tick(tasks)
    async with rig.running():
        await until(lambda: _ended(rig, 1))
        await asyncio.sleep(0.3)
    assert ["(repeated)" in text for text in receiver.texts] == [False, True], "never a third time"
    assert await rig.states() == [("raised", "unknown")]
    rows = [event for _, event, _ in rig.log.lines if event == "alert.delivery_lost"]
    assert len(rows) == 2


async def test_attempt_that_is_under_way_is_not_taken_back(
    rig: _Rig, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "LOST_AFTER_S", 0.2)
    await rig.add("w", f"json://{receiver.host}/hook")
    may_end = threading.Event()

    def slow(channel: AlertChannel, text: Text, key: str) -> DeliveryResult:
        assert may_end.wait(10)
        return channels.send(channel, text, key, allowed=("localhost",))

    async with rig.running(sender=slow):
        await rig.page()
        await until(lambda: _attempted(rig, 1))
        await asyncio.sleep(0.6)  # three times as long as the attempt of a dead process is waited for
        may_end.set()
        await until(lambda: _ended(rig, 1))
        await asyncio.sleep(0.3)
    assert ["(repeated)" in text for text in receiver.texts] == [False]
    assert "alert.delivery_lost" not in rig.log.events()


async def test_sender_that_never_ends_is_given_up_and_stops_no_other_channel(rig: _Rig, receiver: HttpReceiver) -> None:
    await rig.add("bad", f"json://{receiver.host}/bad")
    await rig.add("good", f"json://{receiver.host}/good")
    may_end, begun = threading.Event(), []

    def hung(channel: AlertChannel, text: Text, key: str) -> DeliveryResult:
        if channel.name == "bad":
            begun.append(key)
            assert may_end.wait(20)
            return DeliveryResult("sent")
        return channels.send(channel, text, key, allowed=("localhost",))

    await rig.store.save_rule("other", {"kind": "route", "on": "*"}, by="test")
    async with rig.running(sender=hung, send_max_s=0.3):
        for number in range(3):
            await rig.page(f"event.{number}")

        async def are_good_ones_sent() -> bool:
            rows = await rig.store.deliveries(channel="good")
            return [row["state"] for row in rows] == ["sent"] * 3

        await until(are_good_ones_sent)
        await until(lambda: "alert.delivery_waits" in rig.log.events())
        await asyncio.sleep(0.5)
        assert len(begun) == 1, "a thread that hangs gets no second one beside it"
        rows = await rig.store.deliveries(channel="bad")
        assert {(row["state"], row["is_repeat"]) for row in rows if row["error"]} == {("queued", True)}
        may_end.set()

        async def are_all_sent() -> bool:
            return {row["state"] for row in await rig.store.deliveries()} == {"sent"}

        await until(are_all_sent)


async def test_fault_in_one_part_is_reported_and_messages_are_delivered(
    rig: _Rig, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ill(*_: object) -> None:
        raise ZeroDivisionError("of a rule")

    monkeypatch.setattr(observing.Observer, "look", ill)
    await rig.add("w", f"json://{receiver.host}/hook")
    async with rig.running():
        await rig.page()
        await until(lambda: _ended(rig, 1))
    assert await rig.states() == [("raised", "sent")]
    faults = [fields for _, event, fields in rig.log.lines if event == "monitor.fault"]
    assert faults == [{"part": "alerts.evaluate", "error": "ZeroDivisionError: of a rule"}]


async def test_message_that_no_text_can_be_made_of_is_given_up(rig: _Rig, receiver: HttpReceiver) -> None:
    await rig.add("w", f"json://{receiver.host}/hook")
    await rig.store.save_rule("other", {"kind": "route", "on": "*"}, by="test")
    async with rig.running():
        await FactStore(rig.db).note_alert("page", "service.down", "m", "orders", {"last_seen": "yesterday"})
        await until(lambda: _ended(rig, 1))
        await rig.page()
        await until(lambda: _ended(rig, 2))
    assert await rig.states() == [("raised", "failed"), ("raised", "sent")]
    assert "no text" in (await rig.store.deliveries())[1]["error"]


async def test_long_text_is_cut_to_what_the_service_takes(rig: _Rig, receiver: HttpReceiver) -> None:
    await rig.add("d", DISCORD, receiver.url)
    await rig.add("t", TELEGRAM, receiver.url)
    receiver.text_max = {"/api/": 2000, "/bot": 4096}
    sent = [
        await asyncio.to_thread(channels.send, channel, Text("title", "x" * 9000), "k", allowed=("localhost",))
        for channel in await Directory(rig.store, AlertsSettings(), SEALER).channels()
    ]
    assert [outcome.result for outcome in sent] == ["sent", "sent"]
    assert len(receiver.received) == 2, "a part of a text is one message"


class _Metrics:
    """One alerting on the rule `hot`, and snapshots that components have published."""

    def __init__(self, rig: _Rig) -> None:
        self._rig = rig

    async def begin(self) -> AlertService:
        await self._rig.store.save_rule(
            "hot", {"kind": "threshold", "on": "fks_feed_age_seconds", "above": 30, "by": ["symbol"]}, by="test"
        )
        await self._rig.db.sql(
            "INSERT INTO component_health (name, kind, state, pid, beat_at, since) VALUES"
            " ('collector', 'actor', 'ready', 1, now() + interval '1 hour', now()),"
            " ('monitor', 'actor', 'ready', 1, now() + interval '1 hour', now())"
        )
        self._made = await self._rig.begin()
        return self._made

    async def publish(self, **ages: float) -> None:
        """Replace every snapshot in Redis."""
        await self._rig.bus.delete(SNAPSHOTS)
        for name, age_s in ages.items():
            body = json.dumps({'fks_feed_age_seconds{symbol="B"}': age_s} if name == "collector" else {"fks_x": age_s})
            await self._rig.bus.put(SNAPSHOTS, name, body.encode(), 60.0)

    async def open(self) -> list[str]:
        """Look once, and return the rules with an open alert."""
        async with asyncio.TaskGroup() as tasks:
            await self._made.tick(tasks)
        rows = await self._rig.db.sql("SELECT rule FROM alerts WHERE resolved_at IS NULL ORDER BY rule")
        return [row["rule"] for row in rows]


async def test_metric_rule_keeps_its_alert_while_redis_is_away_or_was_flushed(rig: _Rig) -> None:
    with servers.home() as home:
        with servers.running_redis(home) as redis:
            rig.bus = await Bus.connect(redis.url())
            metrics = _Metrics(rig)
            await metrics.begin()
            await metrics.publish(collector=99.0, monitor=0.0)
            assert await metrics.open() == ["hot"]
            await metrics.publish()
            assert await metrics.open() == ["hot"], "it was flushed: nobody has published since"
            await metrics.publish(monitor=0.0)
            assert await metrics.open() == ["hot"], "the component that measures it has not published yet"
            await metrics.publish(collector=1.0, monitor=0.0)
            assert await metrics.open() == []
            await metrics.publish(collector=99.0, monitor=0.0)
            assert await metrics.open() == ["hot"]
        assert await metrics.open() == ["hot"], "Redis is away, and nothing is published elsewhere"
        await MetricStore(rig.db).save("monitor", "{}")
        assert await metrics.open() == ["hot"]
        await MetricStore(rig.db).save("collector", json.dumps({'fks_feed_age_seconds{symbol="B"}': 1.0}))
        assert await metrics.open() == [], "it is measured, and fine"
        await rig.bus.close()


async def test_successor_ends_no_metric_alert_on_an_empty_redis(rig: _Rig) -> None:
    metrics = _Metrics(rig)
    await metrics.begin()
    await metrics.publish(collector=99.0, monitor=0.0)
    assert await metrics.open() == ["hot"]
    await rig.db.sql("DELETE FROM component_health")
    await metrics.begin()
    await metrics.publish()
    assert await metrics.open() == ["hot"]


async def test_metric_of_a_component_that_is_gone_is_over(rig: _Rig) -> None:
    metrics = _Metrics(rig)
    await metrics.begin()
    await metrics.publish(collector=99.0, monitor=0.0)
    assert await metrics.open() == ["hot"]
    await rig.db.sql("DELETE FROM component_health WHERE name = 'collector'")
    await metrics.publish(monitor=0.0)
    assert await metrics.open() == []


async def test_replaced_process_neither_claims_nor_routes(rig: _Rig, receiver: HttpReceiver) -> None:
    await rig.add("w", f"json://{receiver.host}/hook")
    old = await rig.begin()
    new = await rig.begin()
    await rig.page()
    async with asyncio.TaskGroup() as tasks:
        await old.tick(tasks)
    assert (await rig.states(), receiver.received) == ([], [])
    async with asyncio.TaskGroup() as tasks:
        await new.tick(tasks)
    assert await rig.states() == [("raised", "sent")]


async def test_two_processes_deliver_each_message_once(rig: _Rig, receiver: HttpReceiver) -> None:
    await rig.add("w", f"json://{receiver.host}/hook")
    await rig.store.save_rule("other", {"kind": "route", "on": "*"}, by="test")
    for number in range(12):
        await rig.page(f"event.{number}")
    async with rig.running(), rig.running():
        await until(lambda: _ended(rig, 12))
    assert sorted(item.body["title"].rpartition(".")[2] for item in receiver.received) == sorted(map(str, range(12)))


async def test_group_is_one_message(rig: _Rig, receiver: HttpReceiver) -> None:
    await rig.add("w", f"json://{receiver.host}/hook")
    await rig.store.save_rule("other", {"kind": "route", "on": "*", "group_s": 1}, by="test")
    async with rig.running():
        await rig.page("event.first")
        await until(lambda: _ended(rig, 1))
        for number in range(5):
            await rig.page(f"event.{number}")
        await until(lambda: _ended(rig, 2))
    assert [len(row["alerts"]) for row in reversed(await rig.store.deliveries())] == [1, 5]
    assert receiver.received[1].body["title"] == "🚨 PAGE: 5 alerts"


async def test_silence_holds_back_and_acknowledgement_stops_the_escalation(rig: _Rig, receiver: HttpReceiver) -> None:
    await rig.add("w", f"json://{receiver.host}/first")
    await rig.add("boss", f"json://{receiver.host}/boss")
    spec = {"kind": "route", "on": "*", "channels": ["w"], "escalate_after_s": 0.5, "escalate_to": ["boss"]}
    await rig.store.save_rule("other", spec, by="test")
    silence = await rig.store.add_silence(event="quiet.*", component="*", lasts_s=600, reason="known", by="me")
    async with rig.running():
        seen, unseen, _ = await rig.page("event.a"), await rig.page("event.b"), await rig.page("quiet.c")
        acknowledged = await rig.store.acknowledge(seen, "user:ann")
        again = await rig.store.acknowledge(seen, "user:bob")
        await until(lambda: _ended(rig, 3))
        await rig.store.end_silence(silence["id"])
        await until(lambda: _ended(rig, 5))
    assert acknowledged is not None
    assert again is not None
    assert again["acknowledged_by"] == "user:ann", "the first one counts"
    titles = [(item.path, item.body["title"].split(": ")[1]) for item in receiver.received]
    assert sorted(titles) == [
        ("/boss", "event.b"), ("/boss", "quiet.c"), ("/first", "event.a"), ("/first", "event.b"), ("/first", "quiet.c")
    ]  # fmt: skip
    assert unseen


async def test_trading_events_become_messages(rig: _Rig, receiver: HttpReceiver) -> None:
    await rig.add("w", f"json://{receiver.host}/hook")
    await rig.db.sql("INSERT INTO accounts (name, venue) VALUES ('demo','paper')")
    await rig.db.sql(
        "INSERT INTO trades (fill_id, account_id, venue, symbol, trade_type, quantity, price, time) "
        "VALUES (gen_random_uuid(), 1, 'paper', 'BTCUSDT', 'BUY', 0.5, 45000, now())"
    )
    for state, code in (("denied", "STALE_DECISION"), ("pending", None)):
        await rig.db.sql(
            "INSERT INTO signals (id, source, account_id, venue, symbol, ts_event, kind, side, size, state, code, decided_at,"
            " valid_until) VALUES (gen_random_uuid(), 'x', 1, 'paper', 'BTCUSDT', now(), 'order', 'buy', 1, $1, $2, now(),"
            " now() + interval '1 hour')",
            state,
            code,
        )
    await rig.db.sql("INSERT INTO kill_switch (kill_id, reason, engaged_by) VALUES ('k', 'enough', 'user:ann')")
    for equity in (1000, 850):
        await rig.db.sql("INSERT INTO balance_history (account_id, balance, equity) VALUES (1, $1, $1)", equity)
    async with rig.running():
        await until(lambda: _ended(rig, 5))
        await rig.db.sql("UPDATE signals SET state = 'ready' WHERE state = 'pending'")
        await rig.db.sql("UPDATE kill_switch SET is_engaged = false")
        await until(lambda: _ended(rig, 7))
        await asyncio.sleep(0.3)
    async with rig.running():  # a restart reads the same rows again
        await asyncio.sleep(0.5)
    found = {item.body["title"]: item.body["message"].splitlines()[0] for item in receiver.received}
    assert len(receiver.received) == 7
    assert found["ℹ️ INFO: trade.fill"] == "demo: buy 0.5 BTCUSDT at 45000"
    assert found["⚠️ WARNING: signal.denied"] == "demo: buy BTCUSDT was denied: STALE_DECISION"
    assert found["⚠️ WARNING: signal.pending"].startswith("approve or decline: order buy 1 BTCUSDT on demo, until")
    assert found["✅ RESOLVED: signal.pending"].startswith("signal.pending") or found["✅ RESOLVED: signal.pending"]
    assert found["🚨 PAGE: kill.switch"] == "the kill switch is engaged by user:ann: enough"
    assert "✅ RESOLVED: kill.switch" in found
    assert found["❌ ERROR: account.drawdown_percent"] == "account demo is 15% below its highest equity of 30 days"


async def test_owners_setting_is_a_channel(rig: _Rig) -> None:
    url = "https://discord.com/api/webhooks/1234567890/abcdefghijklmnopqrstuvwxyz"
    sent: list[tuple[AlertChannel, Text]] = []

    def keep(channel: AlertChannel, text: Text, key: str) -> DeliveryResult:
        sent.append((channel, text))
        return DeliveryResult("sent")

    async with rig.running(
        settings=Settings(alerts=AlertsSettings(discord_webhook_url=SecretStr(url), hosts=("localhost",))), sender=keep
    ):
        await rig.page()
        await until(lambda: _ended(rig, 1))
    assert (sent[0][0].name, sent[0][0].kind) == ("discord", "discord")


async def test_no_address_is_in_a_row_or_a_log_line(rig: _Rig, receiver: HttpReceiver) -> None:
    await rig.add("d", DISCORD, receiver.url)
    receiver.answers.extend([(500, {}), (404, {})])
    async with rig.running():
        await rig.page()
        await until(lambda: _ended(rig, 1))
    kept = json.dumps([str(row) for row in await rig.store.channels()]) + str(rig.log.lines)
    kept += str(await rig.store.deliveries())
    assert "abcdefghijklmnop" not in kept


async def test_part_that_serve_replaces_three_times_in_ten_minutes_is_an_alert(
    rig: _Rig, receiver: HttpReceiver
) -> None:
    await rig.add("w", f"json://{receiver.host}/hook")
    for name, pids in (("gateway:0", (1, 2, 3)), ("pages:0", (1, 2, 3, 4))):
        for pid in pids:
            await rig.db.execute("monitor.beat", name, "serve", "ready", pid, "here", 0, {}, "v", 0)
    async with rig.running():
        await until(lambda: receiver.received)
        await rig.db.execute("monitor.beat", "gateway:0", "serve", "ready", 4, "here", 0, {}, "v", 0)
        await until(lambda: len(receiver.received) == 2)
    texts = [text.partition(" was replaced")[0].rpartition(" ")[2] for text in receiver.texts]
    assert [name.strip() for name in texts] == ["pages:0", "gateway:0"], receiver.texts
