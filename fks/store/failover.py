"""Detection of a failed over, restored or replaced PostgreSQL, by a record that the order manager keeps on its node.

The record holds the last (system identifier, timeline, epoch) that this node's order manager saw; it is fsynced before
the first order is sent. Another identifier or timeline, or an epoch that went back, means that committed rows may be
missing: orders that were sent are perhaps not in the journal. The running order manager ends with FailoverError, its
successor reconciles, and looks up at the venue every intent older than the change (`fks.trading.orders.sent_ids`). A
start without a record on this node counts as a change, unless the journal has never held a signal or an order.

Each new connection is checked before it is used. A connection that stays open cannot reach another server.
"""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import asyncpg
import orjson

from fks.clock import Clock
from fks.config.secrets import write_private
from fks.model.errors import ConfigError, FailoverError, OutageError
from fks.model.ports import Lease
from fks.model.timeframe import NS
from fks.store.db import Database, sql

#: distinguishes a repeated start within one process, whose epoch is in the record already, from an epoch that came a
# second time
_PROCESS = uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class Origin:
    """The server that a connection reached. `epoch`: the newest one of our role in its tables, 0 when it has none."""

    system_id: int
    timeline: int
    epoch: int
    has_past: bool
    fsync: str
    synchronous_commit: str


@dataclass(frozen=True, slots=True)
class LastServer:
    """The last server that this node's order manager wrote to, and when it was another one (ns UTC, 0 = never)."""

    system_id: int
    timeline: int
    epoch: int
    ask_before_ns: int
    process: str


@dataclass(frozen=True, slots=True)
class FailoverHistory:
    """Consequence of the journal's past: an intent of before `ask_before_ns` (ns UTC, 0 = none) must be looked up at
    the venue before it is sent. `change`: why this start counts as a change, None when it does not."""

    ask_before_ns: int
    change: str | None


def difference(record: LastServer | None, origin: Origin, *, epoch: int, process: str) -> str | None:
    """Return why the journal may lack committed rows, or None. `epoch` is the one given to this process.

    Epochs only grow, so the same one in a second process means that the first raise was lost.
    """
    if record is None:
        return "this node has no record of an earlier start" if origin.has_past else None
    if origin.system_id != record.system_id:
        return f"the system identifier was {record.system_id} and is {origin.system_id}"
    if origin.timeline != record.timeline:
        return f"the timeline was {record.timeline} and is {origin.timeline}"
    if epoch < record.epoch or (epoch == record.epoch and process != record.process):
        return f"the epoch was {record.epoch} and a later start was given {epoch}"
    return None


def check_durable(origin: Origin) -> None:
    """Refuse a server that confirms commits which a crash can lose. Errors: ConfigError."""
    for name, value in (("fsync", origin.fsync), ("synchronous_commit", origin.synchronous_commit)):
        if value == "off":
            raise ConfigError(
                f"PostgreSQL runs with {name} = off and venue.live is true: an order could be sent twice after a crash",
                remedy=f"set {name} = on in postgresql.conf, and remove it from ALTER ROLE and ALTER DATABASE settings",
            )


async def watch_failover(
    db: Database,
    *,
    file: Path,
    lease: Lease,
    clock: Clock,
    is_live: bool,
    process: str = _PROCESS,
    arrived_s: float | None = None,
) -> FailoverHistory:
    """Compare the database with this node's record, renew the record, and check each further connection of `db`.

    `arrived_s`: given where another machine may run an order manager, the time after which all that one sent has
    arrived. The side journal of one that ran elsewhere cannot be read here: its intents are looked up as well.

    Errors: ConfigError when `is_live` and commits are not durable; OutageError when PostgreSQL does not answer.
    """
    async with db.acquire() as connection:
        origin = await _read(connection, lease)
    if is_live:
        check_durable(origin)
    record = load_record(file)
    reason = difference(record, origin, epoch=lease.epoch, process=process)
    ask_before_ns = record.ask_before_ns if record is not None else 0
    if reason is not None:
        ask_before_ns = clock.now_ns()
    elif arrived_s is not None and record is not None and record.epoch not in (lease.epoch - 1, lease.epoch):
        ask_before_ns = clock.now_ns() - round(arrived_s * NS)
    save_record(file, LastServer(origin.system_id, origin.timeline, lease.epoch, ask_before_ns, process))

    async def check(connection: Any) -> None:
        found = await _read(connection, lease)
        if is_live:
            check_durable(found)
        if (found.system_id, found.timeline) != (origin.system_id, origin.timeline) or found.epoch < lease.epoch:
            raise FailoverError(
                f"PostgreSQL was {origin.system_id}, timeline {origin.timeline}, epoch {lease.epoch}, and is now "
                f"{found.system_id}, timeline {found.timeline}, epoch {found.epoch}: committed rows may be missing",
                remedy="the order manager restarts, reconciles, and looks up older orders at the venue before it sends",
            )

    db.check_connections(check)
    return FailoverHistory(ask_before_ns, reason)


def load_record(file: Path) -> LastServer | None:
    """Return the record of an earlier start; None when it is absent or unreadable."""
    try:
        return LastServer(**orjson.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def save_record(file: Path, record: LastServer) -> None:
    """Write the record with mode 0600; returned, it survives a power failure. Errors: OutageError without space."""
    try:
        write_private(file, orjson.dumps(asdict(record)).decode() + "\n")
    except OSError as error:
        text = f"{file} cannot be written: {error.strerror or error}"
        raise OutageError(text, remedy="free space on that disk; the order manager starts then") from error


async def _read(connection: Any, lease: Lease) -> Origin:
    try:
        row = await connection.fetchrow(sql("store.origin"), lease.name)
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigError(
            f"the order manager may not read which PostgreSQL it is connected to: {error}",
            remedy="GRANT EXECUTE ON FUNCTION pg_control_system(), pg_walfile_name(pg_lsn) to the role of database.url",
        ) from error
    if row["is_standby"]:
        raise OutageError(
            "PostgreSQL is a standby in recovery: it takes no writes", remedy="promote it, or connect to the primary"
        )
    return Origin(
        row["system_id"], row["timeline"], row["epoch"] or 0, row["has_past"], row["fsync"], row["synchronous_commit"]
    )
