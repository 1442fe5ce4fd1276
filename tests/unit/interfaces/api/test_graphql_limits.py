"""Limits of one GraphQL query: each is refused by name, and the introspection of usual clients passes."""

from __future__ import annotations

import pytest
from graphql import get_introspection_query

from fks.interfaces.api.graphql import limits
from fks.interfaces.api.graphql.limits import checked
from fks.model.errors import InputError

COSTS = {"health": 1, "orders": 1, "historical_by_symbol": 2}

DEEP = "{orders{items" + "{items" * 6 + "{id}" + "}" * 6 + "}}"
BOMB = (
    "{...a} "
    + " ".join(f"fragment {a} on Query {{{f'...{b} ' * 40}}}" for a, b in ("ab", "bc", "cd"))
    + " fragment d on Query {health{status}}"
)
TOO_MUCH = {
    "depth": DEEP,
    "reads": "{" + " ".join(f"a{n}:health{{status}}" for n in range(limits.READS_MAX + 1)) + "}",
    "aliases": "{health{" + " ".join(f"a{n}:status" for n in range(limits.ALIASES_MAX + 1)) + "}}",
    "fields": "{health{" + "status " * (limits.FIELDS_MAX + 1) + "}}",
    "cost": '{historical_by_symbol(symbol:"BTCUSDT",limit:10000){revision} health{status}}',
    "length": "{health{status}}" + " " * limits.QUERY_MAX,
    "tokens": "{health{" + "a " * (limits.TOKENS_MAX + 1) + "}}",
    "fragments": BOMB,
    "cycle": "{...a} fragment a on Query {...b} fragment b on Query {...a}",
    "nesting": "{health" + "{a" * 1300 + "}" * 1301,
    "list": "{health(a:" + "[" * 1900 + "]" * 1900 + "){status}}",
    "introspection": "{__schema{types{fields{type{fields{type{fields{name}}}}}}}}",
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_query_past_a_limit_is_refused(name: str) -> None:
    with pytest.raises(InputError) as caught:
        checked(TOO_MUCH[name], {}, COSTS)
    assert (caught.value.code, caught.value.status) == ("GRAPHQL_LIMIT", 422)


def test_rows_of_a_variable_count_too() -> None:
    query = 'query($n:Long=10){historical_by_symbol(symbol:"BTCUSDT",limit:$n){revision} health{status}}'
    assert checked(query, {}, COSTS).cost == 3
    assert checked(query, {"n": 9000}, COSTS).cost == 181
    with pytest.raises(InputError, match="costs more"):
        checked(query, {"n": 10_000}, COSTS)
    with pytest.raises(InputError, match="costs more"):
        checked(query.replace("=10", "=10000"), {}, COSTS)


def test_fields_of_a_fragment_count_where_it_is_spread() -> None:
    measure = checked(
        "{...a ...a b:health{...c}} fragment a on Query{health{status}} fragment c on Health{status}", {}, COSTS
    )
    assert (measure.reads, measure.aliases, measure.is_introspection) == (3, 1, False)


def test_introspection_of_common_clients_is_within_the_limits() -> None:
    assert checked(get_introspection_query(input_value_deprecation=True), {}, COSTS).is_introspection
    assert checked('{__type(name:"Order"){name}}', {}, COSTS).is_introspection
    assert not checked("{__typename health{__typename}}", {}, COSTS).is_introspection


def test_text_that_is_no_query_is_named_as_such() -> None:
    for text in ("", "{", "query", "{a", "\ud800", "{a(b:)}"):
        with pytest.raises(InputError) as caught:
            checked(text, {}, COSTS)
        assert caught.value.code == "GRAPHQL_INVALID"
