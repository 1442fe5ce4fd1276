"""Golden values of everything that is hashed into an id or stored as text.

Python names may change; these may not. A row written by an older version must be read, and a replayed decision must
compute the id under which it was journaled. The only versioned id is the fill id (see `test_golden_fill_ids`).
"""

from __future__ import annotations

import uuid
from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis.strategies import integers, sampled_from, text, uuids

from fks.model import ids
from fks.model.codes import Code
from fks.model.order import OrderType, Outcome, Presence, Request, Role, Side, State, TimeInForce
from fks.model.signal import Kind, SignalState
from fks.trading.orders import events

SIGNAL = uuid.UUID("3d96ab80-0ed0-5a05-a33f-27f24a5466a6")


def test_golden_namespace() -> None:
    assert str(ids.NAMESPACE) == "6f0c1d0e-5a1b-5f6e-9d0a-0c5f6b5a9f11"


def test_golden_signal_ids() -> None:
    assert (
        str(ids.signal_id("demo-sma", "BTCUSDT", "1m", 1_767_225_600_000_000_000, 0))
        == "8b0eb97b-10a1-5d59-a50d-5523dd9892fe"
    )
    assert str(ids.request_signal_id("ann", "key-1")) == "cfbe1887-000d-5932-8485-f043d81ef23c"


def test_golden_intent_and_order_ids() -> None:
    intent = ids.intent_id(SIGNAL)
    assert str(intent) == "91cb7522-3b1b-50df-a906-d0a9f53f898c"
    golden = {
        ("entry", 0): "e9ebdc8e3ad051c98205e0dc04abf493",
        ("exit", 0): "a78e88805bfe5eba87b4f4ef156db787",
        ("exit", 3): "054a7f27bf4e5d709a79c40aeeb0c546",
        ("sl", 0): "4aabb80689785e9bbdcefe4ab037bd73",
        ("sl", 1): "da67457419c6517f997353add00773d5",
        ("tp", 0): "11da0617e0b9578da5b9ac6768646058",
        ("order", 0): "9567092c70de5ebaa79a2c058266b922",
        ("kill", 2): "3f7fcca3d28c557f8c68f2b06d19e9f1",
        ("oco", 0): "69a64c0c20795502aa435f6e1786ef62",
    }
    assert {key: ids.client_order_id(intent, *key) for key in golden} == golden


def test_golden_portfolio_run_ids() -> None:
    """Of a portfolio and the hash of its plan: the ids of a run's signals follow from it."""
    assert str(ids.portfolio_run_id(7, "ab" * 32)) == "4e83b497-9918-5aca-aa4c-aa95ecc4f49c"


def test_golden_copy_ids() -> None:
    copied = ids.copy_signal_id(uuid.UUID("91cb7522-3b1b-50df-a906-d0a9f53f898c"), 7)
    assert str(copied) == "65665264-f922-5380-90a1-420366f057be"


def test_golden_leg_ids() -> None:
    """Of legs that a venue placed which keeps brackets itself, by the entry's id and the leg's name there."""
    golden = {
        "S": "d7786332f5bf576ca07182177f3b4661",
        "T": "27d301f49ecc5c7db8275c4b92d2424a",
        "S2": "95d8d3c5493056678b6bd12de51c95ca",
    }
    assert {name: ids.leg_id("e9ebdc8e3ad051c98205e0dc04abf493", name) for name in golden} == golden


def test_golden_fill_ids() -> None:
    """Version 1: what every fill booked before the upgrade carries."""
    assert str(ids.fill_id("ccxt", "1", "BTCUSDT", "4711")) == "4da6a83a-77cb-5072-be20-3e49197f8fb1"


def test_golden_fill_ids_version_2() -> None:
    """The id of every fill at a venue booked after the upgrade: of its account, its venue, and the last reset."""
    assert str(ids.fill_id_v2("4711", "live", "", "BTCUSDT", "28457")) == "933188ec-0f2e-5272-8f41-7c3438a3d7ec"
    assert str(ids.fill_id_v2("4711", "sim", "0badcafe", "BTCUSDT", "28457")) == "a84c385d-1f3f-5a03-95a7-bf323c40d511"


def test_golden_kill_ids() -> None:
    assert str(ids.kill_id("a" * 32, "ccxt:1:BTCUSDT:demo-sma")) == "7a34b3f5-95c1-525c-863d-52db3e78edd3"


def test_golden_trace_id() -> None:
    assert ids.trace_id("BTCUSDT", "1m", 1_767_225_600_000_000_000) == "94252069f004540e"


@pytest.mark.parametrize(
    ("enum", "values"),
    [
        (Side, "buy sell"),
        (OrderType, "market limit stop stop_limit take_profit"),
        (TimeInForce, "gtc ioc fok"),
        (Role, "entry exit sl tp order kill"),
        (Request, "none cancel cancel_unknown cancel_wanted replace replace_unknown"),
        (Outcome, "ack refused ambiguous exists"),
        (Presence, "found not_found no_answer"),
        (Kind, "enter exit order"),
        (SignalState, "pending ready ordered denied expired declined nothing"),
        (
            State,
            "DENIED INTENDED ABANDONED SENDING UNKNOWN ACCEPTED WORKING PARTIAL FILLED CANCELLED EXPIRED REJECTED "
            "ABSENT",
        ),
        (
            Code,
            "KILLED NOT_LEADER JOURNAL_DOWN CLOCK_SKEW VENUE_DOWN VENUE_NOT_RECONCILED ACCOUNT_UNKNOWN "
            "INSTRUMENT_UNKNOWN INSTRUMENT_HALTED SESSION_CLOSED FEED_STALE PRICE_MISSING UNKNOWN_ORDER "
            "SIGNAL_EXPIRED SIGNAL_UNAPPROVED DUPLICATE_INTENT TYPE_UNSUPPORTED PRICE_TICK PRICE_BAND "
            "STOP_WRONG_SIDE QTY_STEP QTY_MIN QTY_MAX NOTIONAL_MIN NOTIONAL_MAX_ORDER BALANCE MARGIN "
            "LEVERAGE EXPOSURE_INSTRUMENT EXPOSURE_STRATEGY EXPOSURE_ACCOUNT EXPOSURE_CORRELATED "
            "POSITION_COUNT ORDER_COUNT NO_PROTECTION RISK_PER_TRADE LOSS_DAY LOSS_WEEK DRAWDOWN "
            "PROP_DAILY PROP_TRAILING PROP_CONSISTENCY PROP_SIZE PROP_NEWS PROP_HOURS LOSS_STREAK "
            "COOLDOWN RATE_STRATEGY RATE_ACCOUNT RATE_VENUE SELF_TRADE BORROW SHORT_FORBIDDEN "
            "STRATEGY_DISABLED STRATEGY_CRASHED SLIPPAGE_GUARD MANUAL_HOLD CLIENT_VALIDATION STALE_DECISION "
            "GUARDIAN_DOWN "
            "PYRAMIDING ESCALATED INCIDENT_OPEN REDUCE_ONLY NO_POSITION PROP_OFF RELAYED DISK_FULL",
        ),
    ],
)
def test_golden_stored_values(enum: type[StrEnum], values: str) -> None:
    """Stored values keep their place and spelling; new ones may only be appended."""
    assert [item.value for item in enum][: len(values.split())] == values.split()


def test_golden_event_names() -> None:
    """`order_events.event` holds the class name."""
    assert sorted(kind.__name__ for kind in events.EVENTS) == [
        "Abandoned",
        "Acked",
        "Ambiguous",
        "Busted",
        "CancelAcked",
        "CancelRefused",
        "CancelRequested",
        "CancelWithdrawn",
        "Denied",
        "DuplicateId",
        "FillSeen",
        "FoundAbsent",
        "Intended",
        "IntendedAndSent",
        "LegChanged",
        "LegReported",
        "NotListed",
        "ProtectionDropped",
        "Refused",
        "ReplaceAcked",
        "ReplaceRefused",
        "ReplaceRequested",
        "Replayed",
        "Reported",
        "RequestAmbiguous",
        "Sent",
        "SessionBroke",
        "Settled",
        "SharesSplit",
        "StopMoved",
        "TargetMoved",
    ]


@given(intent=uuids(), role=sampled_from(Role), attempt=integers(0, 99), leg=text(max_size=8))
def test_client_order_ids_are_recognised(intent: uuid.UUID, role: Role, attempt: int, leg: str) -> None:
    name = ids.client_order_id(intent, role, attempt)
    assert ids.is_ours(name)
    assert ids.is_ours(ids.leg_id(name, leg.replace("\x1f", "")))


@given(uuids(version=4) | uuids(version=1) | uuids(version=3), text(max_size=40))
def test_ids_of_other_programs_are_not_ours(other: uuid.UUID, name: str) -> None:
    """Random and timed UUIDs, hyphens, capitals, prefixes and cut ids. A UUIDv5 of another namespace looks like ours."""
    ours = ids.client_order_id(other, Role.ENTRY)
    assert not any(map(ids.is_ours, (other.hex, str(other), f"x-{other.hex}"[:36], "", None)))
    changed = (str(uuid.UUID(ours)), f"web_{ours}", ours[:28], ours[1:], f"{ours}0", f"{ours[:12]}4{ours[13:]}")
    assert not any(map(ids.is_ours, changed))
    assert ids.is_ours(ours.upper()) is (ours.upper() == ours)
    assert not ids.is_ours(name) or len(name) == 32
