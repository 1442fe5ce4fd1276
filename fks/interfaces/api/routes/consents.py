"""Consents to send passages of a collection to OpenAI."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fks.ai.consent import Consent, ConsentPurpose, may_call
from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.query import Admin, Body, BodyOf, Gate, Reader
from fks.interfaces.api.routing import Router
from fks.model.errors import not_found
from fks.model.untrusted import Exact
from fks.store.consents import ConsentStore

router = Router(tags=["language models"])

Amount = Annotated[Exact, Field(gt=0, le=1_000_000)]


class ConsentBody(Body):
    """A consent to send texts of a collection to OpenAI: passages with the questions that they answer, or all chunks
    and the questions of searches, of which it makes vectors."""

    collection: Literal["fks", "user"]
    purpose: ConsentPurpose = "answer"
    model: str = Field(min_length=1, max_length=100, description="OpenAI's name of it")
    daily_budget: Amount = Field(description="USD a day (UTC)")
    input_price: Amount = Field(description="USD for a million tokens of requests")
    output_price: Amount | None = Field(None, description="USD for a million tokens of answers; of those alone")

    @model_validator(mode="after")
    def _prices(self) -> Self:
        if (self.purpose == "answer") == (self.output_price is None):
            raise ValueError("give output_price with the purpose answer, and with no other one")
        return self


@router.get("/ai/consents")
async def consents(gate: Gate, caller: Reader) -> ExactJson:
    """List the consents to send passages to OpenAI, with today's calls, bytes and cost (USD; of a call whose tokens
    are not known the most it can be). `reason`: why nothing is sent at present."""
    return ExactJson({"items": await _shown(gate)})


@router.post("/ai/consents", status_code=201)
async def consent(gate: Gate, caller: Admin, body: BodyOf[ConsentBody]) -> ExactJson:
    """Give a consent, in place of the one for this collection and purpose. While no model is deployed that writes
    answers, `POST /answer` then sends questions with the passages of this collection to OpenAI, within the budget. With
    the purpose `embed` for each collection OpenAI makes the vectors of the search while no embedder is deployed."""
    one = Consent(**body.model_dump() | {"output_price": body.output_price or Decimal(0)})
    await ConsentStore(gate.db).give(one, by=caller.name)
    rows, key = await _shown(gate), (one.collection, one.purpose)
    return ExactJson(next(row for row in rows if (row["collection"], row["purpose"]) == key), status_code=201)


@router.delete("/ai/consents/{collection}/{purpose}")
async def revoke(gate: Gate, caller: Admin, collection: str, purpose: str) -> ExactJson:
    """Take a consent back: no later request is sent. The records of its calls stay."""
    if not await ConsentStore(gate.db).revoke(collection, purpose):
        raise not_found("AI_CONSENT_UNKNOWN", f"there is no consent for {collection}", "see 'fks ai consent list'")
    return ExactJson({"collection": collection, "purpose": purpose, "revoked": True})


async def _shown(gate: Replica) -> list[dict[str, object]]:
    rows, key = await ConsentStore(gate.db).all(), gate.deps.settings.ai.openai_api_key
    shown = []
    for row in rows:
        one = Consent(**{name: row[name] for name in Consent.__dataclass_fields__})
        reason = may_call(key.get_secret_value() if key else "", one, row["spent_today"], Decimal(0))
        shown.append({**row, "reason": reason})
    return shown
