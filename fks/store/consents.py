"""Consents to send passages to OpenAI, and the calls that were made under them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from fks.ai.consent import Consent, ConsentPurpose
from fks.store.base import SqlStore, query, reads
from fks.store.db import Querier

reads(Consent)


class ConsentStore(SqlStore[Querier], queries="consents"):
    """Reads and writes of ai_consents and ai_external_calls. Takes a database or an open transaction."""

    async def all(self) -> list[dict[str, Any]]:
        """Return the consents, with today's calls, bytes and cost."""

    @query(
        binds=(
            *("one.collection", "one.purpose", "one.model", "one.daily_budget", "one.input_price", "one.output_price"),
            "by",
        )
    )
    async def give(self, one: Consent, *, by: str) -> None:
        """Give a consent, or replace the one of its collection and purpose."""

    async def revoke(self, collection: str, purpose: str) -> bool:
        """Take a consent back; return whether there was one."""

    async def usable(self, collections: list[str], purpose: ConsentPurpose) -> list[Consent]:
        """Return the consents for collections, locked; none while a model is deployed here for the purpose."""

    @query(binds=("one.collection", "one.purpose"))
    async def spent_today(self, one: Consent) -> Decimal:
        """Return what a consent's calls cost today at most, USD."""

    @query(binds=("one.collection", "one.purpose", "one.model", "size", "cost"))
    async def begin_call(self, one: Consent, size: int, cost: Decimal) -> int:
        """Record a call before it is sent; return its id. `cost`: the most that it can cost."""

    async def end_call(
        self, id: int, outcome: str, input_tokens: int | None, output_tokens: int | None, cost: Decimal | None
    ) -> None:
        """Record how a call ended. Without tokens the cost stays the most that it can have been."""
