"""Settings that change while the system runs: versions with author and reason, rolled out and rolled back."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import Field

from fks.config.load import load_settings
from fks.config.runtime import CHANGEABLE, changed, checked, difference, overlay, plain
from fks.config.settings import Settings
from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.query import Admin, Body, BodyOf, Gate, Limit, Reader
from fks.interfaces.api.routes.operations import view as operation_view
from fks.interfaces.api.routing import Router
from fks.interfaces.api.views import ConfigVersionView, Page
from fks.model.errors import not_found, unprocessable
from fks.model.json_fields import json_fields
from fks.store.operations import CHANNEL
from fks.store.runtime_config import ConfigVersion, RuntimeConfigStore, propose

router = Router(tags=["config"])


class ConfigChangeBody(Body):
    """A change: values to set and keys to unset, or a version to go back to; always with its reason.

    `base_version` is the version the change was made against: when the settings have changed since, the answer is 409.
    """

    set: dict[str, Any] = Field(default_factory=dict, description='key -> value: {"risk.notional_max_order": "5000"}')
    unset: list[str] = Field(default_factory=list, description="keys that are to be as fks.toml says again")
    rollback_to: int | None = Field(
        None, ge=0, lt=2**31, description="take the values of this version; 0 = the files alone"
    )
    reason: str = Field(min_length=1, max_length=500)
    base_version: int = Field(ge=0, lt=2**31, description="the `version` that GET /config told")


@router.get("/config")
async def config(gate: Gate, caller: Reader) -> ExactJson:
    """Return the version in force and every setting that can change while running: its value, the file's, the affected
    processes."""
    newest = await RuntimeConfigStore(gate.db).wanted()
    values = dict(newest.values) if newest else {}
    files = await _files(gate)
    now = overlay(files, values, "runtime")
    rows = [
        {"key": key, "value": plain(now, key), "file": plain(files, key), "is_runtime": key in values, "parts": parts}
        for key, parts in CHANGEABLE.items()
    ]
    return ExactJson(
        {
            "version": newest.version if newest else 0,
            "state": newest.state if newest else "active",
            "values": values,
            "settings": rows,
        }
    )


@router.get("/config/versions", response_model=Page[ConfigVersionView])
async def versions(gate: Gate, caller: Reader, limit: Limit = 50) -> ExactJson:
    """List the versions of the settings, newest first: changes, author, reason, outcome."""
    found = await RuntimeConfigStore(gate.db).history(limit)
    return ExactJson({"items": [view(version) for version in found], "next": None})


@router.get("/config/versions/{version}", response_model=ConfigVersionView)
async def version(gate: Gate, caller: Reader, version: int) -> ExactJson:
    """Return one version."""
    return ExactJson(view(await _known(gate, version)))


@router.post("/config/versions", status_code=202)
async def change(gate: Gate, caller: Admin, body: BodyOf[ConfigChangeBody]) -> ExactJson:
    """Change settings: a new version that is rolled out at once, one part at a time, and rolled back if it does not
    take."""
    before = await RuntimeConfigStore(gate.db).wanted()
    base = dict(before.values) if before else {}
    if body.rollback_to is not None:
        if body.set or body.unset:
            raise unprocessable("INVALID", "rollback_to goes without set and unset", "send one or the other")
        target = {} if body.rollback_to == 0 else dict((await _known(gate, body.rollback_to)).values)
        wanted, keys = target, [key for key in target if key in CHANGEABLE]
    else:
        wanted, keys = changed(base, body.set, body.unset), list(body.set)
    kept = checked(await _files(gate), wanted, keys)
    changes = difference(base, kept)
    if not changes:
        raise unprocessable("CONFIG_SAME", "these values are in force already", "see 'fks config history'")
    made, operation = await propose(
        gate.db,
        kept,
        changes,
        base_version=body.base_version,
        changed_by=caller.name,
        reason=body.reason,
        kind="set" if body.rollback_to is None else "rollback",
        rolls_back_to=body.rollback_to,
    )
    await gate.bus.publish(CHANNEL, {"id": str(operation.id)})
    answer = {**view(made), "operation": operation_view(operation)}
    return ExactJson(answer, status_code=202, headers={"Location": f"/config/versions/{made.version}"})


async def _known(gate: Replica, version: int) -> ConfigVersion:
    found = await RuntimeConfigStore(gate.db).get(version) if 0 < version < 2**63 else None
    if found is None:
        raise not_found(
            "CONFIG_VERSION_UNKNOWN", f"there is no version {version} of the settings", "see GET /config/versions"
        )
    return found


async def _files(gate: Replica) -> Settings:
    """Return the settings of this node's files and environment, without the runtime version over them."""
    return await asyncio.to_thread(load_settings, gate.deps.paths.home)


def view(version: ConfigVersion) -> dict[str, Any]:
    """Return a version as the API shows it."""
    return json_fields(version)
