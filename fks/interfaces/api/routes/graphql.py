"""POST /graphql: several reads in one request, with the members that the caller chooses."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Request
from pydantic import Field

from fks.interfaces.api.auth import asks_inside, authenticate, count_anonymous
from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.parameters import check_parameters
from fks.interfaces.api.query import Body, BodyOf, Gate
from fks.interfaces.api.routing import Router
from fks.system.process.callers import is_own

if TYPE_CHECKING:
    from fks.interfaces.api.graphql.schema import GraphQL

router = Router(tags=["graphql"])


class GraphQLBody(Body):
    """A query. One per request; several reads are several fields of one query."""

    query: str = Field(max_length=256 * 1024)
    variables: dict[str, Any] | None = None
    operationName: str | None = Field(None, max_length=200)
    extensions: dict[str, Any] | None = Field(None, description="ignored")


async def may_introspect(request: Request) -> bool:
    """Authenticate a caller that shows credentials, count one that shows none; return whether it sees the schema.

    Without credentials only open reads are answered, and the schema is described on this host alone. Errors: Problem
    401, 403, 429.
    """
    check_parameters(request)
    cookie = request.app.state.tokens.cookie_name
    if "authorization" in request.headers or "x-api-key" in request.headers or cookie in request.cookies:
        await authenticate(request, "read")
        return True
    await count_anonymous(request)
    return is_own(request, request.app.state.tokens.http)


@router.post("/graphql", dependencies=[asks_inside("read")])
async def graphql(
    request: Request,
    gate: Gate,
    is_known: Annotated[bool, Depends(may_introspect)],
    body: BodyOf[GraphQLBody],
) -> ExactJson:
    """Answer a GraphQL query: every JSON read is a field, with the scope, limit and problems of its route.

    Errors are in `errors`, with the members of a problem document as `extensions`; the status is 200. Queries only.
    """
    state = request.app.state
    if getattr(state, "graphql", None) is None:
        state.graphql = await asyncio.to_thread(_built, request.app, gate.deps.log)
    schema: GraphQL = state.graphql
    found = await schema.answer(
        request.scope, body.query, body.variables or {}, body.operationName, may_introspect=is_known
    )
    return ExactJson(found)


def _built(app: Any, log: Any) -> GraphQL:
    """Return the schema, built at the first query: a gateway that gets none does not import strawberry."""
    from fks.interfaces.api.graphql.reads import reads_of
    from fks.interfaces.api.graphql.schema import GraphQL

    return GraphQL(reads_of(app), log)
