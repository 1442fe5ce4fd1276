"""Rules, silences, channels and deliveries of alerts, and their acknowledgement by persons."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import Query
from pydantic import Field, ValidationError

from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.problems import of_model
from fks.interfaces.api.query import Admin, Before, Body, BodyOf, Gate, JsonObject, Limit, Name, Reader, Trader, page
from fks.interfaces.api.routing import Router
from fks.model.errors import InputError, conflict, not_found, unprocessable
from fks.store.alerting import AlertingStore
from fks.store.users import UserStore
from fks.system.alerts.channels import AlertChannel, Sealer, checked, kind_of
from fks.system.alerts.directory import Directory, unknown_channel
from fks.system.alerts.rules import DEFAULTS, NAME, SEVERITIES, AlertRule

router = Router(tags=["alerts"])
TEST_WAIT_S = 8.0
TEST_POLL_S = 0.2
_DEFAULTS = {rule.name: rule for rule in DEFAULTS}


class SilenceBody(Body):
    """A silence: the alerts that are held back, and for how long."""

    event: str = Field("*", min_length=1, max_length=128, description="pattern of the alert's event")
    component: str = Field("*", min_length=1, max_length=128, description="pattern of the part it comes from")
    minutes: float = Field(gt=0, le=60 * 24 * 31, description="minutes from now")
    reason: str = Field("", max_length=500)


class ChannelBody(Body):
    """A destination of alerts. The address holds a token: it is stored encrypted and never shown."""

    name: str = Field(pattern=f"^{NAME}$")
    url: str = Field(min_length=1, max_length=2000, description="apprise address: discord://, mailto://, tgram://, …")
    severity_min: str = Field("warning", description="lowest severity: info, warning, error or page")
    base: str | None = Field(None, max_length=500, description="address of the service's API, if not the public one")
    enabled: bool = True
    user: str | None = Field(
        None, max_length=64, description="user whom it belongs to: not paged for a kill that this user engaged"
    )


class ChannelChange(Body):
    """Changes of a channel; omitted fields stay."""

    severity_min: str | None = None
    enabled: bool | None = None


def directory_of(gate: Replica) -> Directory:
    """Return the rules and channels in force."""
    return Directory(AlertingStore(gate.db), gate.deps.settings.alerts, Sealer(gate.deps.session_key))


# ── rules ────────────────────────────────────────────────────────────────────────────────────────
@router.get("/alerts/rules")
async def rules(gate: Gate, caller: Reader) -> ExactJson:
    """List the rules in force, and those that were removed; `origin` is fks or person."""
    rows = {row["name"]: row for row in await AlertingStore(gate.db).rules()}
    in_force = {rule.name: rule for rule in await directory_of(gate).rules()}
    items = []
    for name in sorted({*rows, *in_force}):
        row, rule = rows.get(name), in_force.get(name)
        items.append(
            {
                **(rule.model_dump(mode="json") if rule is not None else {"name": name, "is_removed": True}),
                "origin": "fks" if row is None else "person",
                "revision": 0 if row is None else row["revision"],
                "changed_by": "" if row is None else row["changed_by"],
                "changed_at": None if row is None else row["changed_at"],
            }
        )
    return ExactJson({"items": items, "next": None})


@router.post("/alerts/rules")
async def save_rule(
    gate: Gate,
    caller: Admin,
    rule: BodyOf[AlertRule],
    revision: Annotated[int | None, Query(ge=0, lt=2**31, description="refuse when another one is stored")] = None,
) -> ExactJson:
    """Make a rule, or replace the one of this name, also one that comes with FKS."""
    await _check_channels(gate, (*rule.channels, *rule.escalate_to))
    saved = await AlertingStore(gate.db).save_rule(
        rule.name, rule.model_dump(mode="json"), by=caller.name, revision=revision
    )
    gate.deps.log.info("alert.rule_changed", rule=rule.name, by=caller.name)
    return ExactJson({**rule.model_dump(mode="json"), "revision": saved})


@router.post("/alerts/rules/{name}")
async def change_rule(gate: Gate, caller: Admin, name: str, change: JsonObject) -> ExactJson:
    """Change fields of a rule; omitted ones stay. 409 when another change of it was made meanwhile."""
    known = await directory_of(gate).rule(name)
    if known is None:
        raise _no_rule(name)
    rule, revision = known
    try:
        changed = AlertRule.model_validate({**rule.model_dump(), **change, "name": name})
    except ValidationError as error:
        raise of_model(error, f"/alerts/rules/{name}") from None
    await _check_channels(gate, (*changed.channels, *changed.escalate_to))
    spec = changed.model_dump(mode="json")
    saved = await AlertingStore(gate.db).save_rule(name, spec, by=caller.name, revision=revision)
    gate.deps.log.info("alert.rule_changed", rule=name, by=caller.name)
    return ExactJson({**spec, "revision": saved})


@router.delete("/alerts/rules/{name}")
async def remove_rule(gate: Gate, caller: Admin, name: str, restore: bool = False) -> ExactJson:
    """Remove a rule; its open alerts are settled. With `restore` the one that comes with FKS takes its place again."""
    known = {rule.name for rule in await directory_of(gate).rules()} | set(_DEFAULTS)
    if name not in known or (restore and name not in _DEFAULTS):
        raise _no_rule(name)
    spec = _DEFAULTS[name].model_dump(mode="json") if restore else {}
    await AlertingStore(gate.db).save_rule(name, spec, by=caller.name, is_removed=not restore)
    gate.deps.log.info("alert.rule_changed", rule=name, by=caller.name)
    return ExactJson({"name": name, "removed": not restore})


def _no_rule(name: str) -> InputError:
    return not_found("ALERT_RULE_UNKNOWN", f"there is no rule named {name!r}", "see fks alerts rules")


async def _check_channels(gate: Replica, names: tuple[str, ...]) -> None:
    known = {channel.name for channel in await directory_of(gate).channels()}
    for name in names:
        if name not in known:
            raise unknown_channel(name)


# ── silences ─────────────────────────────────────────────────────────────────────────────────────
@router.get("/alerts/silences")
async def silences(gate: Gate, caller: Reader, all: bool = False) -> ExactJson:
    """List the silences that hold; with `all` those of the last 30 days."""
    return ExactJson({"items": await AlertingStore(gate.db).silences(is_all=all), "next": None})


@router.post("/alerts/silences", status_code=201)
async def silence(gate: Gate, caller: Admin, body: BodyOf[SilenceBody]) -> ExactJson:
    """Hold matching alerts back. Those that are still open at the end are sent then."""
    made = await AlertingStore(gate.db).add_silence(
        event=body.event, component=body.component, lasts_s=body.minutes * 60.0, reason=body.reason, by=caller.name
    )
    gate.deps.log.info("alert.silenced", alert=body.event, of=body.component, minutes=body.minutes, by=caller.name)
    return ExactJson(made, status_code=201)


@router.delete("/alerts/silences/{id}")
async def end_silence(gate: Gate, caller: Admin, id: int) -> ExactJson:
    """End a silence now."""
    if not 0 < id < 2**31 or not await AlertingStore(gate.db).end_silence(id):
        raise not_found("SILENCE_UNKNOWN", f"no silence {id} holds", "see GET /alerts/silences")
    return ExactJson({"id": id, "ended": True})


# ── channels ─────────────────────────────────────────────────────────────────────────────────────
@router.get("/alerts/channels")
async def channels(gate: Gate, caller: Reader) -> ExactJson:
    """List the channels, without their addresses, and how their deliveries of the last 7 days went."""
    store = AlertingStore(gate.db)
    states = await store.channel_states()
    found = await directory_of(gate).channels()
    return ExactJson({"items": [_view(item, states.get(item.name, {})) for item in found], "next": None})


@router.post("/alerts/channels", status_code=201)
async def save_channel(gate: Gate, caller: Admin, body: BodyOf[ChannelBody]) -> ExactJson:
    """Make a channel, or replace the one of this name. It takes alerts from now on."""
    _check_severity(body.severity_min)
    if body.user and await UserStore(gate.db).find(body.user.lower()) is None:
        raise not_found("USER_UNKNOWN", f"there is no user {body.user}", "see fks users list")
    allowed = gate.deps.settings.alerts.hosts
    address = await asyncio.to_thread(checked, body.url, body.base, allowed=allowed)  # the first call loads apprise
    await AlertingStore(gate.db).save_channel(
        body.name,
        kind=kind_of(address),
        address=Sealer(gate.deps.session_key).seal(address),
        base=body.base,
        severity_min=body.severity_min,
        is_enabled=body.enabled,
        by=caller.name,
        user=body.user.lower() if body.user else None,
    )
    gate.deps.log.info("alert.channel_changed", channel=body.name, by=caller.name)
    return ExactJson(_view(await directory_of(gate).channel(body.name), {}), status_code=201)


@router.post("/alerts/channels/{name}")
async def change_channel(gate: Gate, caller: Admin, name: str, body: BodyOf[ChannelChange]) -> ExactJson:
    """Change the lowest severity of a channel, or switch it off or on. What waits for it stays."""
    _check_severity(body.severity_min)
    store = AlertingStore(gate.db)
    if not await store.change_channel(name, severity_min=body.severity_min, is_enabled=body.enabled):
        raise unknown_channel(name)
    gate.deps.log.info("alert.channel_changed", channel=name, by=caller.name)
    return ExactJson(_view(await directory_of(gate).channel(name), {}))


@router.delete("/alerts/channels/{name}")
async def remove_channel(gate: Gate, caller: Admin, name: str) -> ExactJson:
    """Remove a channel, and give up what waits for it."""
    if not await AlertingStore(gate.db).remove_channel(name):
        raise unknown_channel(name)
    gate.deps.log.info("alert.channel_changed", channel=name, by=caller.name)
    return ExactJson({"name": name, "removed": True})


@router.post("/alerts/channels/{name}/test")
async def test_channel(gate: Gate, caller: Admin, name: str) -> ExactJson:
    """Send a message to a channel, the same way as an alert, and return what became of it within some seconds."""
    channel = await directory_of(gate).channel(name)
    if not channel.is_enabled:
        raise conflict("ALERT_CHANNEL_OFF", f"channel {name} is switched off", "switch it on, or make it anew")
    store, clock = AlertingStore(gate.db), gate.deps.clock
    id = await store.enqueue_test(name)
    deadline_s = clock.monotonic() + TEST_WAIT_S
    while (row := await store.delivery(id)) is not None:
        if row["state"] not in ("queued", "sending") or clock.monotonic() > deadline_s or row["error"]:
            break
        await clock.sleep(TEST_POLL_S)
    return ExactJson(row or {"id": id})


@router.get("/alerts/deliveries")
async def deliveries(
    gate: Gate,
    caller: Reader,
    channel: Name = None,
    state: Annotated[str | None, Query(max_length=16, description="queued, sending, sent, failed or unknown")] = None,
    before: Before = None,
    limit: Limit = 100,
) -> ExactJson:
    """List the messages to channels, newest first, with the alerts that each is about."""
    rows = await AlertingStore(gate.db).deliveries(channel=channel, state=state, before=before, limit=limit)
    return ExactJson(page(rows, limit, "id"))


# ── acknowledgement ──────────────────────────────────────────────────────────────────────────────
@router.post("/alerts/{id}/acknowledge")
async def acknowledge(gate: Gate, caller: Trader, id: int) -> ExactJson:
    """Record in a person's name that an alert was seen: it is not escalated any more. The first one counts."""
    row = await AlertingStore(gate.db).acknowledge(id, caller.name) if 0 < id < 2**63 else None
    if row is None:
        raise not_found("ALERT_UNKNOWN", f"no alert {id}", "see GET /alerts?all=true")
    return ExactJson(row)


def _check_severity(severity: str | None) -> None:
    if severity is not None and severity not in SEVERITIES:
        raise unprocessable("INVALID", f"severity_min {severity!r} is none", f"use {', '.join(SEVERITIES)}")


def _view(channel: AlertChannel, state: dict[str, Any]) -> dict[str, Any]:
    counts = {name: state.get(name, 0) for name in ("sent", "waiting", "failed", "unknown")}
    return {
        "name": channel.name,
        "kind": channel.kind,
        "severity_min": channel.severity_min,
        "is_enabled": channel.is_enabled,
        "is_readable": bool(channel.address.get_secret_value()),
        "base": channel.base,
        "user": channel.user,
        "origin": "settings" if channel.is_from_settings else "person",
        **counts,
        "last_sent_at": state.get("last_sent_at"),
        "last_error": state.get("last_error"),
    }
