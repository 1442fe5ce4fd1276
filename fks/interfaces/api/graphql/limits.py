"""Limits of one GraphQL query, measured before it is validated: length, depth, fields, aliases, reads and cost.

Fragments count where they are spread, so that a short text cannot stand for a large query. The cost is that of the
reads: each costs as much as its route in the rate limit, times its rows (`limit`) by hundreds. Strawberry's limiters of
depth, aliases and tokens are not used: they know neither cost nor the number of reads, so this walk would stay beside
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from graphql import GraphQLError, parse
from graphql.language import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    IntValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    VariableNode,
)

from fks.model.errors import InputError, invalid, unprocessable
from fks.model.untrusted import whole_of

QUERY_MAX: Final = 32 * 1024
TOKENS_MAX: Final = 4000
DEPTH_MAX: Final = 6
#: The introspection query of usual clients follows nine `ofType`.
INTROSPECTION_DEPTH_MAX: Final = 20
FIELDS_MAX: Final = 1000
ALIASES_MAX: Final = 50
READS_MAX: Final = 20
COST_MAX: Final = 200
ROWS_PER_COST: Final = 100
_INTROSPECTION_COST: Final = 5
#: Lists of an introspection that lead to types again: nested, a short query would describe the schema many times.
_LISTS: Final = frozenset({"fields", "inputFields", "interfaces", "possibleTypes"})


@dataclass(slots=True)
class QuerySize:
    """The size of a query so far."""

    fields: int = 0
    aliases: int = 0
    reads: int = 0
    cost: int = 0
    is_introspection: bool = False


def checked(text: str, variables: Mapping[str, Any], costs: Mapping[str, int]) -> QuerySize:
    """Return the size of a query that is within the limits. `costs`: what one call of each read costs.

    Errors: InputError 400 GRAPHQL_INVALID for a text that is no query, 422 GRAPHQL_LIMIT naming the limit.
    """
    if len(text) > QUERY_MAX:
        raise _beyond(f"the query is longer than {QUERY_MAX} characters")
    try:
        document = parse(text, no_location=False, max_tokens=TOKENS_MAX)
    except GraphQLError as error:
        if "token" in error.message and str(TOKENS_MAX) in error.message:
            raise _beyond(f"the query has more than {TOKENS_MAX} tokens") from None
        if "nested too deeply" in error.message:
            raise _beyond("the query is nested too deeply") from None
        raise invalid(
            "GRAPHQL_INVALID", f"the query cannot be read: {error.message}", "see docs/api.md for an example"
        ) from None
    except RecursionError:
        raise _beyond("the query is nested too deeply") from None
    walker = _Walker(variables, costs)
    try:
        walker.walk(document)
    except RecursionError:
        raise _beyond("the query is nested too deeply") from None
    return walker.measure


@dataclass(slots=True)
class _Walker:
    variables: Mapping[str, Any]
    costs: Mapping[str, int]
    measure: QuerySize = field(default_factory=QuerySize)
    fragments: dict[str, FragmentDefinitionNode] = field(default_factory=dict)
    defaults: dict[str, int] = field(default_factory=dict)

    def walk(self, document: DocumentNode) -> None:
        definitions = document.definitions
        self.fragments = {node.name.value: node for node in definitions if isinstance(node, FragmentDefinitionNode)}
        for node in definitions:
            if isinstance(node, OperationDefinitionNode):
                for variable in node.variable_definitions or ():
                    if isinstance(variable.default_value, IntValueNode):
                        self.defaults[variable.variable.name.value] = _whole(variable.default_value)
                self._selections(node.selection_set, 1, frozenset(), frozenset())

    def _selections(
        self, selected: SelectionSetNode | None, depth: int, spread: frozenset[str], lists: frozenset[str]
    ) -> None:
        for node in selected.selections if selected is not None else ():
            self.measure.fields += 1
            if self.measure.fields > FIELDS_MAX:
                raise _beyond(f"the query has more than {FIELDS_MAX} fields")
            if isinstance(node, FieldNode):
                self._field(node, depth, spread, lists)
            elif isinstance(node, InlineFragmentNode):
                self._selections(node.selection_set, depth, spread, lists)
            elif isinstance(node, FragmentSpreadNode):
                name = node.name.value
                if name in spread:
                    raise _beyond(f"the fragment {name} contains itself")
                if name in self.fragments:
                    self._selections(self.fragments[name].selection_set, depth, spread | {name}, lists)

    def _field(self, node: FieldNode, depth: int, spread: frozenset[str], lists: frozenset[str]) -> None:
        name = node.name.value
        is_inside = bool(lists) or name in ("__schema", "__type")
        limit = INTROSPECTION_DEPTH_MAX if is_inside else DEPTH_MAX
        if depth > limit:
            raise _beyond(f"the query is deeper than {limit} levels")
        if node.alias is not None:
            self.measure.aliases += 1
            if self.measure.aliases > ALIASES_MAX:
                raise _beyond(f"the query has more than {ALIASES_MAX} aliases")
        if is_inside:
            self.measure.is_introspection = True
            if name in lists:
                raise _beyond("the introspection is nested too deeply")
            lists = lists | {"__schema", *(_LISTS if name in _LISTS else ())}
        if depth == 1 and name != "__typename":
            self._count(node)
        self._selections(node.selection_set, depth + 1, spread, lists)

    def _count(self, node: FieldNode) -> None:
        self.measure.reads += 1
        if self.measure.reads > READS_MAX:
            raise _beyond(f"the query has more than {READS_MAX} reads")
        rows = next((self._rows(one.value) for one in node.arguments or () if one.name.value == "limit"), 1)
        each = self.costs.get(node.name.value, _INTROSPECTION_COST)
        self.measure.cost += each * max(1, -(-rows // ROWS_PER_COST))
        if self.measure.cost > COST_MAX:
            raise _beyond(f"the query costs more than {COST_MAX}")

    def _rows(self, node: object) -> int:
        """Return the value of a `limit`; 1 for a value that the route will refuse, or set itself."""
        if isinstance(node, IntValueNode):
            return _whole(node)
        if not isinstance(node, VariableNode):
            return 1
        found = self.variables.get(node.name.value, self.defaults.get(node.name.value, 1))
        return found if isinstance(found, int) else 1


def _whole(node: IntValueNode) -> int:
    try:
        return whole_of(node.value)
    except ValueError as error:
        raise _beyond(f"the query has a number that {error}") from None


def _beyond(what: str) -> InputError:
    return unprocessable("GRAPHQL_LIMIT", what, "ask for less, or in several queries")
