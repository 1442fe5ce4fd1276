"""Rules, silences, channels and acknowledgements of alerts over HTTP and the command line."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from fks.clock import RealClock
from fks.config.endpoints import load_node, save_node
from fks.config.settings import Settings, VenueSettings
from fks.interfaces.cli.screen import first_screen
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.facts import FactStore
from fks.system.alerts.channels import Sealer
from fks.system.alerts.service import AlertService
from fks.system.node.lock import keeper_lock
from tests.support.api_fixtures import Fks
from tests.support.gateway import Running, running
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.receivers import http_receiver

DISCORD = "discord://1234567890/abcdefghijklmnopqrstuvwxyz"


async def _call(gateway: Running, method: str, path: str, body: Any = None, scope: str = "admin") -> tuple[int, Any]:
    async with gateway.client(scope) as client:
        answer = await client.request(method, path, json=body)
        return answer.status_code, answer.json()


async def test_channel_is_made_changed_and_removed_and_its_address_never_shown(
    gateway: Running, seeded: Database
) -> None:
    status, made = await _call(gateway, "POST", "/alerts/channels", {"name": "ops", "url": DISCORD})
    assert (status, made["kind"], made["severity_min"]) == (201, "discord", "warning")
    status, changed = await _call(gateway, "POST", "/alerts/channels/ops", {"severity_min": "page", "enabled": False})
    assert (status, changed["severity_min"], changed["is_enabled"]) == (200, "page", False)
    shown = json.dumps((await _call(gateway, "GET", "/alerts/channels"))[1])
    kept = await seeded.sql("SELECT row_to_json(c)::text AS row FROM alert_channels c")
    audit = await seeded.sql("SELECT row_to_json(a)::text AS row FROM audit_log a")
    everything = shown + str(kept) + str(audit) + str(gateway.log.lines) + json.dumps(made)
    assert "abcdefghijkl" not in everything
    assert "1234567890/" not in everything
    assert "POST /alerts/channels" in str(audit)
    assert (await _call(gateway, "DELETE", "/alerts/channels/ops"))[0] == 200
    status, problem = await _call(gateway, "DELETE", "/alerts/channels/ops")
    assert (status, problem["code"]) == (404, "ALERT_CHANNEL_UNKNOWN")


async def test_wrong_channels_are_refused(gateway: Running) -> None:
    for body in (
        {"name": "x", "url": "file:///etc/passwd"},
        {"name": "x", "url": DISCORD, "base": "file:///etc"},
        {"name": "x", "url": DISCORD, "severity_min": "loud"},
        {"name": "X y", "url": DISCORD},
    ):
        assert (await _call(gateway, "POST", "/alerts/channels", body))[0] == 422
    assert (await _call(gateway, "GET", "/alerts/channels"))[1]["items"] == []


async def test_channel_may_lead_where_its_own_list_says_and_no_service_s(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    lists: dict[str, Any] = {"alerts": {"hosts": ["10.1.0.0/16"]}, "monitor": {"hosts": ["localhost", "10.2.0.0/16"]}}
    async with running(seeded, database_url, redis_url, tmp_path, **lists) as gateway:
        for host, status in (("10.1.0.7", 201), ("10.2.0.7", 403), ("127.0.0.1", 403)):
            body = {"name": "x", "url": f"json://{host}/hook"}
            assert (await _call(gateway, "POST", "/alerts/channels", body))[0] == status, host


async def test_rule_is_made_changed_removed_and_restored(gateway: Running) -> None:
    rule = {"name": "deep", "kind": "threshold", "on": "account.drawdown_percent", "above": 20, "severity": "page"}
    status, made = await _call(gateway, "POST", "/alerts/rules", rule)
    assert (status, made["above"], made["revision"]) == (200, 20, 1)
    status, changed = await _call(gateway, "POST", "/alerts/rules/deep", {"above": 25})
    assert (status, changed["above"], changed["severity"], changed["revision"]) == (200, 25, "page", 2)
    status, problem = await _call(gateway, "POST", "/alerts/rules?revision=1", rule)
    assert (status, problem["code"]) == (409, "ALERT_RULE_CHANGED")
    assert (await _call(gateway, "POST", "/alerts/rules/deep", {"below": 3}))[0] == 422
    assert (await _call(gateway, "POST", "/alerts/rules/deep", {"channels": ["nobody"]}))[0] == 404
    assert (await _call(gateway, "POST", "/alerts/rules/none", {"above": 3}))[0] == 404

    async def in_force() -> dict[str, Any]:
        items = (await _call(gateway, "GET", "/alerts/rules", scope="read"))[1]["items"]
        return {item["name"]: item for item in items if not item.get("is_removed")}

    assert (await in_force())["deep"]["origin"] == "person"
    for name in ("deep", "fill"):
        assert (await _call(gateway, "DELETE", f"/alerts/rules/{name}"))[0] == 200
        assert name not in await in_force()
    assert (await _call(gateway, "DELETE", "/alerts/rules/fill?restore=true"))[0] == 200
    assert "fill" in await in_force()
    assert (await _call(gateway, "DELETE", "/alerts/rules/deep?restore=true"))[0] == 404


async def test_changes_of_a_rule_at_once_lose_none(gateway: Running) -> None:
    """Each that was answered 200 is in force; the others were answered that the rule was changed meanwhile."""
    rule = {"name": "deep", "kind": "threshold", "on": "account.drawdown_percent", "above": 20}
    changes = ({"above": 25}, {"severity": "page"}, {"message": "m"}, {"resolve_message": "r"}, {"group_s": 5})
    for name in ("deep", "fill"):  # one of a person, and one that comes with FKS and has no row yet
        if name == "deep":
            assert (await _call(gateway, "POST", "/alerts/rules", rule))[0] == 200
        wanted = changes if name == "deep" else changes[1:]
        answers = await asyncio.gather(*[_call(gateway, "POST", f"/alerts/rules/{name}", body) for body in wanted])
        items = (await _call(gateway, "GET", "/alerts/rules"))[1]["items"]
        found = next(item for item in items if item["name"] == name)
        assert {status for status, _ in answers} <= {200, 409}
        assert {body["code"] for status, body in answers if status == 409} <= {"ALERT_RULE_CHANGED"}
        for change, (status, _) in zip(wanted, answers, strict=True):
            (field, value), *_ = change.items()
            assert status == 409 or found[field] == value, f"{name}: {change} was confirmed and is gone"


async def test_rule_that_is_not_there_has_no_revision(gateway: Running) -> None:
    rule = {"name": "deep", "kind": "threshold", "on": "account.drawdown_percent", "above": 20}
    status, problem = await _call(gateway, "POST", "/alerts/rules?revision=3", rule)
    assert (status, problem["code"]) == (409, "ALERT_RULE_CHANGED")
    assert (await _call(gateway, "POST", "/alerts/rules?revision=0", rule))[0] == 200
    assert (await _call(gateway, "POST", "/alerts/rules?revision=0", rule))[0] == 409


async def test_an_alert_is_acknowledged_once(gateway: Running, seeded: Database) -> None:
    id = await FactStore(seeded).note_alert("page", "order.lost", "x", "orders", {})
    status, seen = await _call(gateway, "POST", f"/alerts/{id}/acknowledge", scope="trade")
    assert (status, seen["id"]) == (200, id)
    by = seen["acknowledged_by"]
    assert (await _call(gateway, "POST", f"/alerts/{id}/acknowledge"))[1]["acknowledged_by"] == by, "the first counts"
    shown = (await _call(gateway, "GET", "/alerts"))[1]["items"][0]
    assert (shown["acknowledged_by"], shown["acknowledged_at"]) == (by, seen["acknowledged_at"])
    assert (await _call(gateway, "POST", "/alerts/999/acknowledge"))[0] == 404
    assert (await _call(gateway, "POST", f"/alerts/{2**70}/acknowledge"))[0] == 404


async def test_a_channel_belongs_to_a_user_that_exists(gateway: Running) -> None:
    body = {"name": "ann", "url": DISCORD, "severity_min": "page", "user": "Ann"}
    async with gateway.client("admin") as client:
        refused = await client.post("/alerts/channels", json=body)
        assert (refused.status_code, refused.json()["code"]) == (404, "USER_UNKNOWN")
        made = await client.post("/users", json={"name": "ann", "password": "correct horse battery", "scope": "read"})
        assert made.status_code == 201, made.text
        assert (await client.post("/alerts/channels", json=body)).json()["user"] == "ann"
        listed = (await client.get("/alerts/channels")).json()["items"]
        assert {row["name"]: row["user"] for row in listed}["ann"] == "ann"


async def test_the_commands(gateway: Running, fks: Fks, seeded: Database, bus: Bus) -> None:
    key = gateway.app.state.gateway.deps.session_key
    made = AlertService(
        seeded,
        bus,
        RealClock(),
        CollectingLog(),
        RecordingMeter(),
        gateway.app.state.gateway.deps.settings,
        Sealer(key),
        lease=None,
    )

    async def deliver() -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                await made.tick(tasks)
                await asyncio.sleep(0.1)

    async with http_receiver() as receiver:
        code, _, error = await fks("alerts", "channels", "add", "ops", "--url", DISCORD, "--base", receiver.url)
        assert code == 0, error
        task = asyncio.create_task(deliver())
        try:
            code, out, error = await fks("alerts", "test", "ops", "--json")
            assert (code, json.loads(out)["state"]) == (0, "sent"), error
            code, _, error = await fks("alerts", "channels")  # the node's own settings let none lead to this host
            line = 'hosts = ["127.0.0.1"] into [alerts]'
            assert (code, line in error) == (0, True), error
            paths = gateway.app.state.gateway.deps.paths
            save_node(paths, replace(load_node(paths), ray_address="127.0.0.1:1"))
            with keeper_lock(paths.run / "keeper.lock"):  # the system runs
                checks = json.loads((await fks("doctor", "--json"))[1])["checks"]
            assert [line in check["detail"] for check in checks if check["name"] == "alert channels"] == [True], checks
            shown = await asyncio.to_thread(
                first_screen, paths, load_node(paths), Settings(), market="paper", took_s=1.0, is_detached=True
            )
            assert line in shown[-1], "fks up"
            assert "backup key, backup folder" in next(row for row in shown if "not set" in row)
            live = Settings().model_copy(update={"venue": VenueSettings.model_construct(live=True)})
            shown = await asyncio.to_thread(
                first_screen, paths, load_node(paths), live, market="paper", took_s=1.0, is_detached=True
            )
            reds = " ".join(row for row in shown if "real money:" in row)
            assert "no recipient key" in reds
            assert "lost with its disk" in reds
            receiver.answers.append((404, {}))
            code, out, _ = await fks("alerts", "test", "ops")
            assert (code, out.strip()) == (1, "failed: status 404")
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert "Messages from FKS reach this channel (ops)." in receiver.texts[0]
    code, out, _ = await fks("alerts", "deliveries", "--json")
    assert [row["state"] for row in json.loads(out)["items"]] == ["failed", "sent"]
    code, out, _ = await fks("alerts", "channels")
    assert (code, "status 404" in out, "abcdefghij" in out) == (0, True, False)
    assert (await fks("alerts", "channels", "change", "ops", "--off"))[0] == 0
    assert (await fks("alerts", "test", "ops"))[0] != 0, "it is switched off"

    code, out, _ = await fks(
        *("alerts", "rules", "set", "storm", "kind=rate", "on=signal.denied", "count=20", "window_s=60"),
        *("by=instance,symbol", "channels=ops", "--json"),
    )
    rule = json.loads(out)
    assert (code, rule["count"], rule["by"], rule["channels"]) == (0, 20, ["instance", "symbol"], ["ops"])
    assert (await fks("alerts", "rules", "set", "storm", "severity=page"))[0] == 0
    code, out, _ = await fks("alerts", "rules")
    assert "page" in next(line for line in out.splitlines() if line.startswith("storm"))
    assert (await fks("alerts", "rules", "set", "none", "severity=page"))[0] == 2
    assert (await fks("alerts", "rules", "set", "storm", "count"))[0] == 2
    assert (await fks("alerts", "rules", "remove", "storm"))[0] == 0

    assert (await fks("alerts", "silence", "--event", "child.*"))[0] == 2
    code, out, _ = await fks("alerts", "silence", "--event", "child.*", "--minutes", "5", "--reason", "known", "--json")
    number = json.loads(out)["id"]
    assert "child.*" in (await fks("alerts", "silence"))[1]
    assert (await fks("alerts", "silence", "--end", str(number)))[0] == 0
    assert "nothing is held back" in (await fks("alerts", "silence"))[1]

    id = await FactStore(seeded).note_alert("page", "order.lost", "x", "orders", {})
    code, out, _ = await fks("alerts", "ack", str(id))
    assert (code, "acknowledged by" in out) == (0, True)
