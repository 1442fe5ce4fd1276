"""Texts of diagrams: every transition that changes the state is drawn, and no name breaks out of its label."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from fks.interfaces.api.machines import feed_machine, order_machine
from fks.interfaces.web import diagrams
from scripts import feeds_page as feeds
from scripts import orders_page as orders

NASTY = 'x"]; click n0 "javascript:alert(1)" %%{init}%% <b>&'


def test_every_state_of_an_order_is_drawn_and_final_ones_end() -> None:
    document = order_machine()
    text = diagrams.machine(document)
    for state in document["states"]:
        assert f" {state['name']}" in text, state
    assert "    [*] --> SENDING: intended and sent" in text
    assert "    UNKNOWN --> ABSENT: found absent" in text
    assert "    CANCELLED --> [*]" in text
    assert "WORKING --> [*]" not in text


def test_every_row_of_a_machine_is_in_its_document() -> None:
    numbers = [row["number"] for row in order_machine()["transitions"]]
    assert numbers == sorted(numbers)
    assert {1, 42, 44} <= set(numbers)
    feed = feed_machine()
    assert {state["name"] for state in feed["states"]} == {"COLD", "BACKFILL", "LIVE", "STALE", "OFF"}
    assert "    BACKFILL --> LIVE" in diagrams.machine(feed)


@pytest.mark.parametrize(("text", "machine"), [(orders.PICTURE, order_machine), (feeds.PICTURE, feed_machine)])
def test_arrows_of_the_docs_are_transitions(text: str, machine: Callable[[], dict[str, Any]]) -> None:
    known = {
        (before, after)
        for row in machine()["transitions"]
        for before in row["before"] or ["[*]"]
        for after in row["states"]
    }
    drawn = set(re.findall(r"(\S+) --> (\w+)", text)) - {("[*]", "COLD")}  # a feed begins without an event
    assert len(drawn) >= 6
    assert drawn <= known


def test_names_of_others_stay_in_their_labels() -> None:
    node = {"id": NASTY, "state": NASTY, "strategy": NASTY, "children": [{"id": "orders", "state": "ready"}]}
    for text in (diagrams.tree([node]), diagrams.flow([(NASTY, "orders", NASTY)])):
        for line in text.splitlines()[1:]:
            assert line.count('"') in (0, 2), line
            assert not set("%<>&;") & set(line.replace("<br/>", "").replace("-->", "")), line


def test_flow_goes_from_the_exchange_to_the_venue() -> None:
    asset = {"exchange": "binance", "symbol": "BTCUSDT", "is_enabled": True}
    instance = {"id": "sma", "exchange": "binance", "symbol": "BTCUSDT", "timeframe": "1m", "is_enabled": True}
    rows = diagrams.flow_rows([asset, asset | {"is_enabled": False}], [instance], [{"name": "paper"}])
    assert [(before, after) for before, after, _ in rows] == [
        ("binance", "collector:binance"),
        ("collector:binance", "binance BTCUSDT"),
        ("binance BTCUSDT", "sma"),
        ("sma", "orders"),
        ("orders", "venue paper"),
        ("venue paper", "orders"),
    ]
