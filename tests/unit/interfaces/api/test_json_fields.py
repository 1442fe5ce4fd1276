"""Records as members of JSON documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from fks.model.json_fields import json_fields


class Colour(StrEnum):
    """An enum in a record."""

    RED = "red"


@dataclass(frozen=True, slots=True)
class Record:
    """One field of each sort."""

    id: int
    colour: Colour
    amount: Decimal
    parts: tuple[str, ...]
    spec: Mapping[str, int]
    created_ns: int
    ended_ns: int | None = None


RECORD = Record(7, Colour.RED, Decimal("1.50"), ("a", "b"), {"x": 1}, 1_700_000_000_000_000_000)


def test_all_fields_are_members_and_times_are_iso() -> None:
    found = json_fields(RECORD, without=("amount",), note="new")
    assert found == {
        "id": 7,
        "colour": "red",
        "parts": ["a", "b"],
        "spec": {"x": 1},
        "created_at": "2023-11-14T22:13:20Z",
        "ended_at": None,
        "note": "new",
    }
    assert type(found["colour"]) is str


def test_named_fields_alone_in_their_order() -> None:
    assert list(json_fields(RECORD, "amount", "id").items()) == [("amount", Decimal("1.50")), ("id", 7)]
