"""The cost of guessing a password."""

from __future__ import annotations

from argon2.profiles import RFC_9106_LOW_MEMORY

from fks.interfaces.entry import logins


def test_passwords_cost_what_rfc_9106_recommends() -> None:
    recommended = RFC_9106_LOW_MEMORY
    assert {
        name: getattr(recommended, name) for name in ("time_cost", "memory_cost", "parallelism")
    } == logins.HASH_COST
