"""The head of a database: one row, because two trees on one database would take each other's epochs for ever.

The keeper of the head claims it before it starts anything, and renews it each second; so does its supervisor, because a
head lives as long as one of them does. `deployment` grows with each head and with each supervisor that is deployed: a
supervisor of an earlier one can take no epoch any more, however often Ray starts it again.
"""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from fks.config.machine import Machine
from fks.store.base import SqlStore, query
from fks.store.db import Database


@dataclass(frozen=True, slots=True)
class Head:
    """The row. `host`, `home` and `address` are for people; machine and boot decide. `wait_s`: until another may
    follow."""

    deployment: int
    machine: str
    boot: str
    host: str
    home: str
    address: str
    is_released: bool
    age_s: float
    wait_s: float

    @property
    def text(self) -> str:
        """Return a description of the machine."""
        return f"{self.host} ({self.address}, FKS_HOME {self.home}, machine {self.machine[:8]})"


_MACHINE = ("machine.id", "machine.boot")


class HeadStore(SqlStore[Database], queries="heads"):
    """The row of the head. Errors of all: OutageError when PostgreSQL is away."""

    def __init__(self, db: Database, ttl_s: float) -> None:
        super().__init__(db)
        self._ttl_s = ttl_s

    async def claim(self, machine: Machine, *, host: str, home: str, address: str, is_alone: bool) -> int | None:
        """Return the number of our deployment, None when another head lives; 0 when there is no table for it yet.

        `is_alone`: this machine's own server, on which no other head has a claim.
        """
        try:
            found = await self._db.fetchval(
                "heads.claim", machine.id, machine.boot, host, home, address, self._ttl_s, is_alone, retry=False
            )
        except asyncpg.UndefinedTableError:
            return 0
        return None if found is None else int(found)

    @query(binds=_MACHINE, retry=False)
    async def renew(self, machine: Machine) -> bool:
        """Renew the claim; return whether it is ours."""

    @query(binds=_MACHINE)
    async def release(self, machine: Machine) -> None:
        """Release the claim."""

    @query(binds=_MACHINE, retry=False)
    async def deploy(self, machine: Machine) -> int | None:
        """Return the number of a new deployment; None when this machine is not the head."""

    @query(retry=False)
    async def hold(self, deployment: int) -> bool:
        """Renew the claim for a supervisor; return whether its deployment is the newest."""

    @query(binds=("_ttl_s",))
    async def holder(self) -> Head | None:
        """Return the head, None when there never was one."""
