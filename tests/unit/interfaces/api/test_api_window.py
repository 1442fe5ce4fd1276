"""Flow control of a client: checks, a full window, and lateness."""

from __future__ import annotations

import asyncio

import pytest

from fks.interfaces.api.client import SocketClient
from fks.interfaces.api.topics import Topic
from fks.interfaces.api.window import (
    CHECK_BYTES,
    CHECK_MESSAGES,
    CHECK_S,
    CHECKS_MAX,
    SILENT_BYTES,
    SILENT_BYTES_S,
    ClientWindow,
)

LATE_S = 10.0


class Time:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def window(time: Time) -> ClientWindow:
    return ClientWindow(time)


def test_a_check_is_due_after_so_many_messages_or_bytes_or_so_long(window: ClientWindow, time: Time) -> None:
    for _ in range(CHECK_MESSAGES - 1):
        window.note_sent(1)
    assert not window.is_due
    window.note_sent(1)
    assert window.is_due
    assert window.check() == 1
    assert not window.is_due
    window.note_sent(CHECK_BYTES)
    assert window.is_due
    assert window.check() == 2
    time.now_s += CHECK_S
    assert window.is_due, "also when nothing was sent: is it still there?"
    assert window.check() == 3


def test_client_that_never_answers_is_neither_held_nor_late(window: ClientWindow, time: Time) -> None:
    for _ in range(100):
        window.check()
    time.now_s += 1000
    assert (window.takes_part, window.is_full, window.is_late(LATE_S)) == (False, False, False)


def test_client_that_never_answers_is_rate_limited(window: ClientWindow, time: Time) -> None:
    sent, began_s = 0, time.now_s
    while time.now_s < began_s + 60:
        while not window.is_full:
            window.note_sent(CHECK_BYTES)
            sent += CHECK_BYTES
            if window.is_due:
                window.check()
        wait_s = window.wait_s(LATE_S)
        assert 0 < wait_s < 1.0
        time.now_s += wait_s
    assert SILENT_BYTES + 59 * SILENT_BYTES_S <= sent <= SILENT_BYTES + 61 * SILENT_BYTES_S + CHECK_BYTES
    time.now_s += 3600  # what it did not use it may use at once, but no more than at first
    assert window.wait_s(LATE_S) > 0
    window.note_sent(SILENT_BYTES - 1)
    assert not window.is_full
    window.note_sent(1)
    assert window.is_full
    window.answer(window.check())
    assert not window.is_full, "who answers is measured by that alone"


def test_answering_client_is_never_more_than_a_window_behind(window: ClientWindow) -> None:
    window.answer(window.check())
    for _ in range(CHECKS_MAX):
        assert not window.is_full
        last = window.check()
    assert window.is_full
    window.note_sent(CHECK_BYTES)
    assert not window.is_due, "a full window sends nothing, checks neither"
    window.answer(last - 1)  # and with it those before
    assert not window.is_full
    assert window.is_due
    window.answer(last)
    window.answer(1)  # an old one again: nothing
    window.answer(last)


def test_an_answer_to_what_was_not_sent_is_a_mistake(window: ClientWindow) -> None:
    window.check()
    for wrong in (0, -1, 2):
        with pytest.raises(ValueError, match="no check"):
            window.answer(wrong)
    assert not window.takes_part


def test_client_is_late_when_a_check_stays_unanswered(window: ClientWindow, time: Time) -> None:
    window.answer(window.check())
    time.now_s += 1000
    assert not window.is_late(LATE_S), "it has answered everything"
    window.check()
    time.now_s += LATE_S / 2
    second = window.check()
    time.now_s += LATE_S / 2 - 0.1
    assert not window.is_late(LATE_S)
    assert window.wait_s(LATE_S) == pytest.approx(0.1)
    time.now_s += 0.1
    assert window.is_late(LATE_S)
    window.is_deaf = True  # we are busy with what it said before: its answer may lie behind that
    assert not window.is_late(LATE_S)
    window.is_deaf = False
    window.answer(second)
    assert not window.is_late(LATE_S)


def test_its_time_begins_when_it_takes_part(window: ClientWindow, time: Time) -> None:
    for _ in range(50):
        window.check()
        time.now_s += CHECK_S
    window.answer(1)
    assert window.is_full
    assert not window.is_late(LATE_S)
    time.now_s += LATE_S
    assert window.is_late(LATE_S)


def test_wait_time_is_the_next_possible_change(window: ClientWindow, time: Time) -> None:
    assert window.wait_s(LATE_S) == CHECK_S
    time.now_s += 1
    assert window.wait_s(LATE_S) == CHECK_S - 1
    time.now_s += 100
    assert 0 < window.wait_s(LATE_S) < 1, "never at once: who waits for nothing takes the loop from all"
    window.answer(window.check())
    for _ in range(CHECKS_MAX):
        window.check()
    assert window.wait_s(LATE_S) == LATE_S


async def test_a_full_window_leaves_what_waits_in_the_queue(window: ClientWindow) -> None:
    client = SocketClient([Topic("quotes"), Topic("orders")], window)
    window.answer(window.check())
    for _ in range(CHECKS_MAX):
        last = window.check()
    client.put("quotes", {"symbol": "A", "n": 1})
    client.put("orders", {"n": 2})
    assert await client.take(0.01) == []
    client.put("quotes", {"symbol": "A", "n": 3})
    taking = asyncio.create_task(client.take(20, most=1))
    await asyncio.sleep(0)
    client.note_checked(last)
    assert [received.message for received in await taking] == [{"symbol": "A", "n": 3}], (
        "the newest, in the place of the one before"
    )
    assert [received.message for received in await client.take(20, most=1)] == [{"n": 2}]


async def test_a_full_window_does_not_keep_a_client_from_being_closed(window: ClientWindow) -> None:
    client = SocketClient([Topic("orders")], window)
    window.answer(window.check())
    for _ in range(CHECKS_MAX):
        window.check()
    client.put("orders", {"n": 1})
    client.close()
    async with asyncio.timeout(20):
        assert await client.take(60) == []
