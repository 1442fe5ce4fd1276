"""Webhooks in the database: what each sender may do. No secret is stored: the node's key derives it from a salt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from fks.model.errors import InputError, conflict, not_found
from fks.store.base import SqlStore, query
from fks.store.db import Database

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Webhook:
    """One sender. `size`: with sizing `payload` the largest quantity (base) of a message; else what each order is."""

    id: int
    name: str
    salt: str
    key_check: str
    account_id: int
    account: str
    symbols: list[str]
    sizing: str
    size: Decimal
    quota_per_hour: int
    confidence_min: Decimal
    is_tradingview_only: bool
    used: int
    window_at: datetime | None
    created_by: str
    created_at: datetime
    rotated_at: datetime | None
    last_used_at: datetime | None

    @property
    def principal(self) -> str:
        """Return the name under which its signals are committed."""
        return f"webhook:{self.name}"


def _unknown(name: str) -> InputError:
    return not_found("WEBHOOK_UNKNOWN", f"there is no webhook named {name!r}", "see fks webhooks list")


def _taken(name: str) -> InputError:
    return conflict(
        "WEBHOOK_EXISTS", f"there is a webhook named {name!r} already", "choose another name, or remove it first"
    )


class WebhookStore(SqlStore[Database], queries="webhooks"):
    """Reads and writes of the webhooks table."""

    async def list(self) -> list[Webhook]:
        """Return every webhook, by name."""

    async def get(self, name: str) -> Webhook:
        """Return one webhook. Errors: InputError 404."""
        found = next((webhook for webhook in await self.list() if webhook.name == name), None)
        if found is None:
            raise _unknown(name)
        return found

    @query(missing=_taken)
    async def add(
        self,
        name: str,
        *,
        salt: str,
        key_check: str,
        account_id: int,
        symbols: Sequence[str],
        sizing: str,
        size: Decimal,
        quota_per_hour: int,
        confidence_min: Decimal,
        is_tradingview_only: bool,
        by: str,
    ) -> None:
        """Make a webhook. Errors: InputError 409 when the name is taken."""

    @query(missing=_unknown)
    async def change(
        self,
        name: str,
        *,
        symbols: Sequence[str] | None = None,
        sizing: str | None = None,
        size: Decimal | None = None,
        quota_per_hour: int | None = None,
        confidence_min: Decimal | None = None,
        is_tradingview_only: bool | None = None,
    ) -> None:
        """Change what the sender may do; None stays. The next message meets it, on every replica. Errors: InputError
        404."""

    @query(missing=_unknown)
    async def rotate(self, name: str, *, salt: str, key_check: str) -> None:
        """Replace the salt, and so the secret. Errors: InputError 404."""

    @query(missing=_unknown)
    async def remove(self, name: str) -> None:
        """Remove a webhook. Errors: InputError 404."""

    @query(binds=("webhook.id", "webhook.salt"), retry=False)
    async def use(self, webhook: Webhook) -> bool:
        """Count one message of the webhook. False: its quota is used up, or it was removed or rotated meanwhile."""

    async def wait_s(self, webhook: Webhook) -> float:
        """Return the seconds until the hour of its quota ends; 0 when that has ended, or it was removed."""
        return await self._db.fetchval("webhooks.wait_s", webhook.id) or 0.0
