"""The GraphQL schema, built by strawberry from the reads and their response models, and the execution of a query.

Answers keep the JSON form of REST: scalars pass values on as the route wrote them. Every member may be null, so that a
part that is away empties its own field and no other. There are no mutations.
"""

from __future__ import annotations

import enum
import types
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, NewType, Union, get_args, get_origin

import strawberry
from graphql import GraphQLError
from pydantic import BaseModel
from strawberry.annotation import StrawberryAnnotation
from strawberry.schema.config import StrawberryConfig
from strawberry.tools import create_type
from strawberry.types.arguments import StrawberryArgument
from strawberry.types.field import StrawberryField

from fks.interfaces.api.graphql.calls import RouteReply, call
from fks.interfaces.api.graphql.limits import checked
from fks.interfaces.api.graphql.reads import Read
from fks.interfaces.api.problems import document
from fks.model.errors import FksError, InputError

if TYPE_CHECKING:
    from starlette.types import Scope

    from fks.model.ports import Log

Long = NewType("Long", int)
Exact = NewType("Exact", str)
Time = NewType("Time", str)
Uuid = NewType("Uuid", str)
Json = NewType("Json", object)
_INT_MAX: Final = 2**63


def _long(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= _INT_MAX:
        raise GraphQLError("is no 64-bit integer")
    return value


_SCALARS: Final[dict[object, Any]] = {
    Long: strawberry.scalar(name="Long", description="An integer of 64 bits.", parse_value=_long),
    Exact: strawberry.scalar(name="Decimal", description="An exact decimal number, as text: plain digits."),
    Time: strawberry.scalar(name="DateTime", description="ISO 8601 with Z."),
    Uuid: strawberry.scalar(name="UUID", description="A UUID, as text."),
    Json: strawberry.scalar(name="JSON", description="A JSON value, as the route writes it."),
}
_PLAIN: Final[dict[object, Any]] = {
    bool: bool, str: str, float: float, int: Long, Decimal: Exact, datetime: Time, uuid.UUID: Uuid,
}  # fmt: skip
#: Members of a problem that the error itself has.
_OWN: Final = frozenset({"detail", "instance"})


class _Schema(strawberry.Schema):
    """A schema whose errors are in the answer, and in our own log, and not in strawberry's with their stack."""

    def process_errors(self, errors: list[GraphQLError], execution_context: Any = None) -> None:
        """Leave the errors to `GraphQL.answer`."""


class _ReadField(StrawberryField):
    """A field of the query, which calls its route."""

    @property
    def is_basic_field(self) -> bool:
        """Return False: the field needs the request."""
        return False

    async def get_result(self, source: Any, info: Any, args: list[Any], kwargs: Any) -> Any:
        """Return the route's JSON value. Errors: GraphQLError with the members of its problem."""
        caller: QueryCaller = info.context
        return await caller.read(self.metadata["read"], kwargs)


class _Member(StrawberryField):
    """A member of an answer."""

    def get_result(self, source: Any, info: Any, args: list[Any], kwargs: Any) -> Any:
        """Return the member, or None where the answer has none."""
        return source.get(self.metadata["key"])


@dataclass(frozen=True, slots=True)
class QueryCaller:
    """The request that a query belongs to."""

    scope: Scope
    log: Log

    async def read(self, read: Read, arguments: Mapping[str, Any]) -> Any:
        """Return the JSON value of a route. Errors: GraphQLError with the members of its problem."""
        if any(isinstance(value, str) and "\0" in value for value in arguments.values()):
            raise _error(document(422, "INVALID", "an argument holds the character NUL", remedy="leave it out"))
        try:
            reply = await call(self.scope, read, arguments)
        except Exception as error:  # a defect of a route: the caller gets the problem, the log the error
            name = "gateway.graphql_failed"
            self.log.error(name, field=read.name, request_id=self._id, error=f"{type(error).__name__}: {error}")
            raise _error(_internal()) from None
        if reply.status >= 400 and _is_problem(reply):
            raise _error(reply.value, retry_after=reply.headers.get("retry-after"))
        return reply.value

    @property
    def _id(self) -> str:
        return str((self.scope.get("state") or {}).get("request_id", ""))


class GraphQL:
    """The schema of an app's reads. Immutable once built."""

    def __init__(self, reads: list[Read], log: Log) -> None:
        self._log = log
        self._costs = {read.name: read.cost for read in reads}
        kinds: dict[type[BaseModel], Any] = {}
        query = create_type("Query", [_field(read, kinds) for read in reads], description="The reads of the REST API.")
        config = StrawberryConfig(
            auto_camel_case=False, scalar_map=_SCALARS, disable_field_suggestions=True, sort_schema=False
        )
        self._schema = _Schema(query=query, config=config)

    @property
    def text(self) -> str:
        """Return the schema in GraphQL's own language."""
        return self._schema.as_str()

    async def answer(
        self, scope: Scope, query: str, variables: Mapping[str, Any], operation: str | None, *, may_introspect: bool
    ) -> dict[str, Any]:
        """Return the result of a query: `data`, and `errors` with a problem's members as `extensions`."""
        try:
            measure = checked(query, variables, self._costs)
            if measure.is_introspection and not may_introspect:
                raise InputError(
                    "the schema is described to callers with a token",
                    code="GRAPHQL_INTROSPECTION",
                    status=403,
                    remedy="send 'Authorization: Bearer <token>'",
                )
            result = await self._schema.execute(
                query,
                variable_values=dict(variables),
                context_value=QueryCaller(scope, self._log),
                operation_name=operation,
            )
        except InputError as error:
            return {"data": None, "errors": [_shown(_of_error(error))]}
        except (FksError, RecursionError, ValueError) as error:
            self._log.error("gateway.graphql_failed", error=f"{type(error).__name__}: {error}")
            return {"data": None, "errors": [_shown(_error(_internal()))]}
        errors = [self._known(error) for error in result.errors or ()]
        return {"data": result.data, **({"errors": errors} if errors else {})}

    def _known(self, error: GraphQLError) -> dict[str, Any]:
        """Return an error for the answer: ours as it is, graphql's own as GRAPHQL_INVALID, all others without words."""
        if error.extensions:
            return _shown(error)
        cause = error.original_error
        if cause is None or isinstance(cause, GraphQLError):
            problem = document(400, "GRAPHQL_INVALID", error.message[:500], remedy="see docs/api.md for an example")
        else:
            self._log.error("gateway.graphql_failed", error=f"{type(cause).__name__}: {cause}")
            problem = _internal()
        return _shown(_error(problem), path=error.path, locations=error.locations)


def _shown(error: GraphQLError, *, path: Any = None, locations: Any = None) -> dict[str, Any]:
    places = error.locations or locations or ()
    return {
        "message": error.message,
        "locations": [{"line": place.line, "column": place.column} for place in places],
        "path": error.path or path,
        "extensions": error.extensions,
    }


def _error(problem: Mapping[str, Any], *, retry_after: str | None = None) -> GraphQLError:
    members = {name: value for name, value in problem.items() if name not in _OWN}
    if retry_after is not None:
        members["retry_after"] = retry_after
    return GraphQLError(str(problem["detail"]), extensions=members)


def _of_error(error: InputError) -> GraphQLError:
    return _error(document(error.status, error.code, error.message, remedy=error.remedy))


def _internal() -> dict[str, Any]:
    remedy = "find the X-Request-ID of this answer in 'fks logs gateway'"
    return document(500, "INTERNAL", "the gateway failed", remedy=remedy)


def _is_problem(reply: RouteReply) -> bool:
    """Return whether an answer is a refusal; a health document of a system that is down is none."""
    return reply.headers.get("content-type", "").startswith("application/problem+json")


# ── types ────────────────────────────────────────────────────────────────────────────────────────
def _field(read: Read, kinds: dict[type[BaseModel], Any]) -> StrawberryField:
    kind = Json if read.model is None else _kind(read.model, kinds)
    made = _ReadField(
        python_name=read.name,
        graphql_name=read.name,
        type_annotation=StrawberryAnnotation(kind | None),
        description=f"{read.summary} (GET {read.path}, scope {read.scope})",
        metadata={"read": read},
    )
    made.arguments = [
        StrawberryArgument(
            python_name=argument.name,
            graphql_name=argument.name,
            type_annotation=StrawberryAnnotation(
                _PLAIN[argument.kind] if argument.is_needed else _PLAIN[argument.kind] | None
            ),
            description=argument.description or None,
        )
        for argument in read.arguments
    ]
    return made


def _kind(annotation: Any, kinds: dict[type[BaseModel], Any]) -> Any:
    """Return the GraphQL type of a model's member: objects and lists as such, all that has no fixed form as JSON."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        found = [arg for arg in inner if arg is not type(None)]
        return _kind(found[0], kinds) if len(found) == 1 else Json
    if origin in (list, tuple):
        return list[_kind(inner[0], kinds) | None]  # type: ignore[misc]
    if origin is Literal or (isinstance(annotation, type) and issubclass(annotation, enum.Enum)):
        return str
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if annotation not in kinds:
            kinds[annotation] = _object(annotation, kinds)
        return kinds[annotation]
    return _PLAIN.get(annotation, Json)


def _object(model: type[BaseModel], kinds: dict[type[BaseModel], Any]) -> Any:
    members: list[StrawberryField] = [
        _Member(
            python_name=name,
            graphql_name=info.alias or name,
            type_annotation=StrawberryAnnotation(_kind(info.annotation, kinds) | None),
            description=info.description,
            metadata={"key": info.alias or name},
        )
        for name, info in model.model_fields.items()
    ]
    return create_type(type_name(model), members, description=(model.__doc__ or "").strip() or None)


def type_name(model: type[BaseModel]) -> str:
    """Return a model's name in GraphQL: `OrderView` is Order, `Page[FillView]` is FillPage."""
    name = model.__name__
    if name.endswith("]"):
        outer, _, inner = name[:-1].partition("[")
        return inner.removesuffix("View") + outer
    return name.removesuffix("View")
