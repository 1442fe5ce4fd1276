"""Settings that change while the system runs: versions with author, reason and changes, rolled out and rolled back.

rolling → active → superseded, or rolling → failed. The newest version that did not fail is what every process starts
with. Each node keeps a copy (0600), so that a part which has to start while the database is away starts with it too.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from fks.config.paths import Paths
from fks.config.runtime import overlay
from fks.config.secrets import check_private, write_private
from fks.config.settings import Settings
from fks.model.errors import ConfigError, FksError, conflict
from fks.store.base import SqlStore, reads
from fks.store.db import Database, Querier, Transaction
from fks.store.operations import Operation, OperationStore

#: Seconds that a starting process waits for the newest version before it takes the node's copy.
ASK_S = 2.0


@dataclass(frozen=True, slots=True)
class ConfigVersion:
    """One version. `values`: every runtime setting of it, by key; `changes`: key -> {"from", "to"} against the version
    before; `error`: why it failed."""

    version: int
    values: Mapping[str, Any]
    changes: Mapping[str, Any]
    kind: str
    rolls_back_to: int | None
    state: str
    changed_by: str
    reason: str
    error: str | None
    created_ns: int
    finished_ns: int | None


@dataclass(frozen=True, slots=True)
class Overlaid:
    """Settings in force, their version (0: the file alone), and where that version was found."""

    settings: Settings
    version: int
    source: str  # database | copy | file
    keys: tuple[str, ...] = ()
    is_current: bool = False  # the database confirmed it just now


def copy_file(paths: Paths) -> Path:
    """Return the path of a node's copy of the newest version it has seen."""
    return paths.run / "runtime.json"


_version = reads(ConfigVersion)


class RuntimeConfigStore(SqlStore[Querier], queries="runtime_config"):
    """Reads and writes of versions. Errors: OutageError."""

    async def wanted(self) -> ConfigVersion | None:
        """Return the newest version that did not fail; None when nothing was ever changed."""

    async def get(self, version: int) -> ConfigVersion | None:
        """Return one version, or None."""

    async def before(self, version: int) -> ConfigVersion | None:
        """Return the version that was in force before this one; None for the file alone."""

    async def history(self, limit: int = 50) -> list[ConfigVersion]:
        """Return the newest versions first."""

    async def activate(self, version: int) -> None:
        """Mark a version as rolled out. Idempotent."""

    async def fail(self, version: int, error: str) -> None:
        """Mark a version as failed. Idempotent."""


async def propose(
    db: Database,
    values: Mapping[str, Any],
    changes: Mapping[str, Any],
    *,
    base_version: int,
    changed_by: str,
    reason: str,
    kind: str = "set",
    rolls_back_to: int | None = None,
) -> tuple[ConfigVersion, Operation]:
    """Add a version and request its rollout, both or neither.

    Errors: InputError 409 when the settings have changed since `base_version`, or a rollout is under way.
    """
    async with db.transaction() as tx:
        await tx.execute("runtime_config.lock")
        await _check_base(tx, base_version)
        row = await tx.fetchrow(
            "runtime_config.add", dict(values), dict(changes), kind, rolls_back_to, changed_by, reason
        )
        assert row is not None
        version = _version(row)
        operation = await OperationStore(tx).request(
            "config",
            target=f"version {version.version}",
            args={"version": version.version},
            reason=reason,
            requested_by=changed_by,
        )
    return version, operation


async def _check_base(tx: Transaction, base_version: int) -> None:
    newest = await RuntimeConfigStore(tx).wanted()
    if newest is not None and newest.state == "rolling":
        raise conflict(
            "CONFIG_ROLLING",
            f"version {newest.version} of {newest.changed_by} is still being rolled out",
            "see 'fks config history' and try again when it has ended",
        )
    current = newest.version if newest else 0
    if current != base_version:
        who = f" by {newest.changed_by}" if newest else ""
        raise conflict(
            "CONFIG_CHANGED",
            f"the settings are at version {current}{who}, not {base_version}",
            f"look at it with 'fks config diff {base_version} {current}' and try again",
        )
    if await tx.fetchval("runtime_config.is_going_back"):  # a part that starts then would take the new one
        raise conflict(
            "CONFIG_ROLLING",
            "a change that failed is still being rolled back",
            "see 'fks config history' and try again when it has ended",
        )


async def overlaid(settings: Settings, paths: Paths, db: Database | None, *, ask_s: float = ASK_S) -> Overlaid:
    """Return a node's settings with the newest version over them: the database's, or the node's copy when that is away.

    Errors: ConfigError when the version does not fit this node's own settings.
    """
    found = await _asked(db, ask_s) if db is not None else None
    if found is not None:
        number, values = found
        _keep(paths, number, values)
        source = "database"
    else:
        source = "copy"
        try:
            number, values = read_copy(paths)
        except ConfigError:  # the guardian must come up; a process that writes orders waits for the database anyway
            number, values = 0, {}
    if number == 0:
        return Overlaid(settings, 0, "file", is_current=found is not None)
    try:
        overlaid = overlay(settings, values, f"runtime version {number}")
        return Overlaid(overlaid, number, source, tuple(sorted(values)), is_current=found is not None)
    except ConfigError as error:
        raise ConfigError(
            f"runtime version {number} does not fit this node's settings: {error.message}",
            remedy="mend fks.toml, or change the version with 'fks config set|unset|rollback' from a node that runs",
        ) from error


async def _asked(db: Database, ask_s: float) -> tuple[int, dict[str, Any]] | None:
    """Return (version, values) as the database has it; None when it does not answer, or has no such table yet."""
    try:
        async with asyncio.timeout(ask_s):
            await db.ping()  # fails at once where a statement would be retried for a while
            found = await RuntimeConfigStore(db).wanted()
    except (FksError, TimeoutError, asyncpg.PostgresError):
        return None
    return (0, {}) if found is None else (found.version, dict(found.values))


def read_copy(paths: Paths) -> tuple[int, dict[str, Any]]:
    """Return (version, values) of the node's copy; (0, {}) when it has none. Errors: ConfigError when it is damaged."""
    file = copy_file(paths)
    try:
        check_private(file)
        content = json.loads(file.read_text())
        return int(content["version"]), dict(content["values"])
    except FileNotFoundError:
        return 0, {}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} is damaged", remedy="remove it: it is a copy of what the database has") from error


def _keep(paths: Paths, version: int, values: Mapping[str, Any]) -> None:
    """Write the copy where it differs. A full or broken disk costs the copy, not the start."""
    try:
        if read_copy(paths) == (version, dict(values)):
            return
    except (ConfigError, OSError):
        pass
    try:
        copy_file(paths).parent.mkdir(parents=True, exist_ok=True)
        write_private(copy_file(paths), json.dumps({"version": version, "values": dict(values)}, indent=1) + "\n")
    except OSError:
        return
