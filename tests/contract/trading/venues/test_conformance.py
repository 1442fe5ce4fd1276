"""The numbered cases of each exchange that is traded, and of the template of a plug-in, against its stand-in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fks.interfaces.cli.venues import run_against_stand_in
from fks.model.errors import ConfigError
from fks.model.order import Outcome
from fks.trading.venues.ccxt.dialect import FaultRow
from fks.trading.venues.conformance import CASES
from fks.trading.venues.listing import VenueListing
from fks.trading.venues.registry import listed_venues
from tests.support.venue_plugin import NAME, installed

# the cases wait for what is late or absent
pytestmark = pytest.mark.usefixtures("fast_waits")
TRADED = {row.exchange for row in listed_venues() if row.name == "ccxt" and row.is_tradable}
#: cases that the capabilities of an exchange leave out
WITHOUT = {"binance": ["V-03"]}


def row_of(exchange: str) -> VenueListing:
    rows = [row for row in listed_venues([NAME]) if row.exchange == exchange]
    return next((row for row in rows if row.stand_in is not None), rows[0])


def test_each_traded_exchange_has_a_stand_in() -> None:
    assert {row.exchange for row in listed_venues() if row.stand_in is not None} == TRADED


@pytest.mark.parametrize("exchange", ["binance", "kraken", "coinbase", NAME])
async def test_every_case_passes(tmp_path: Path, exchange: str) -> None:
    with installed(tmp_path / "site"):
        found = await run_against_stand_in(row_of(exchange), tmp_path)
    others = [(result.case, result.state, result.detail) for result in found if result.state != "passed"]
    stream = "its events come by a stream, not by polls"
    assert others == [(case, "not applicable", stream) for case in WITHOUT.get(exchange, ())]
    assert [result.case for result in found] == [case.number for case in CASES]


async def test_a_dialect_that_takes_an_open_outcome_for_a_no_fails(tmp_path: Path) -> None:
    with installed(tmp_path / "site"):
        row = row_of(NAME)
        assert row.dialect is not None
        wrong = replace(row.dialect, lookups=lambda name, pair: ())  # proof of absence by no read at all
        found = await run_against_stand_in(replace(row, dialect=wrong), tmp_path, ["V-02", "V-10"])
    assert [(result.case, result.state) for result in found] == [("V-02", "failed"), ("V-10", "failed")]
    assert all(result.detail for result in found)


async def test_an_error_table_without_the_reason_fails_its_case(tmp_path: Path) -> None:
    with installed(tmp_path / "site"):
        row = row_of(NAME)
        assert row.dialect is not None
        wrong = replace(row.dialect, errors=(FaultRow("insufficient_funds", Outcome.AMBIGUOUS),))
        found = await run_against_stand_in(replace(row, dialect=wrong), tmp_path, ["V-01", "V-09"])
    states = {result.case: result.state for result in found}
    assert (states["V-01"], states["V-09"]) == ("passed", "failed")


async def test_a_row_without_a_stand_in_has_no_cases(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="okx has no cases"):
        await run_against_stand_in(row_of("okx"), tmp_path)
