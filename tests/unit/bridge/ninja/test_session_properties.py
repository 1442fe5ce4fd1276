"""Properties of the session that hold for every chunking of the bytes and every interleaving of what happens."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fks.bridge.ninja import outputs as o
from fks.bridge.ninja import strict_json
from fks.bridge.ninja.machine import LinkState
from fks.bridge.ninja.session import Prepared
from fks.bridge.ninja.signals import ENDED, LinkSignalState
from tests.support.ninja import EPOCH, OTHER_EPOCH, Wire, ack, challenge, log_event, nack, signal, status, welcome

IDS = ("a1", "a2")


def after_auth(wire: Wire) -> list[dict[str, Any]]:
    """Return lines of a bridge: an opening with a replay, live events, a hole at the end."""
    return [
        welcome(wire.opening, wire.clock, last_seq=2),
        log_event(1, replay=True),
        log_event(2, replay=True),
        {"t": "replay_end", "last_seq": 2, "count": 2},
        status(),
        {"t": "ping", "n": 1, "t_ms": 5},
        log_event(3, kind="signal", id="a1", state="open"),
        log_event(3),
        {"t": "hug", "text": "\u00e4\U0001f600"},
        status("r1", part=1, parts=2),
        status("r1", part=2, parts=2),
        log_event(5),
        log_event(6),
    ]


@given(st.lists(st.integers(0, 4_000), max_size=40), st.sampled_from([b"\n", b"\r\n", b"\n\n"]))
def test_any_chunking_gives_the_same_events(cuts: list[int], end: bytes) -> None:
    def run(cuts: list[int]) -> tuple[list[o.Event], list[bytes], LinkState]:
        wire = Wire.of()
        wire.session.start()
        wire.open()
        wire.give(challenge())
        data = b"".join(strict_json.dumps(line).rstrip(b"\n") + end for line in after_auth(wire))
        edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
        for a, b in itertools.pairwise(edges):
            wire.give_bytes(data[a:b])
        return wire.events, wire.raw, wire.session.state

    whole = run([])
    assert run(cuts) == whole
    assert whole[2] is LinkState.BACKOFF
    assert [event.event.seq for event in whole[0] if isinstance(event, o.Logged)] == [1, 2, 3]


# few ids and short waits: the paths that matter are long, and chance has to find them
HAPPENINGS = st.sampled_from([
    *((what, id_) for what in ("send", "send", "ack", "retry", "adopt", "indeterminate") for id_ in IDS),
    *(("nack", id_, final) for id_ in IDS for final in (True, False, False)),
    *(("sigstate", state) for state in ("unknown_id",) * 4 + ("working", "nacked", "indeterminate", "strange")),
    *(("event", id_, state) for id_ in IDS for state in ("submitted", "not_submitted", "ambiguous")),
    *(("reconnect", epoch) for epoch in (EPOCH, EPOCH, OTHER_EPOCH, OTHER_EPOCH, "1" * 32)),
    ("lose",), ("back", EPOCH), ("back", OTHER_EPOCH), ("alive",), ("alive",),
    ("wait", 100), ("wait", 1_900), ("wait", 4_000), ("wait", 20_000),
])  # fmt: skip


class Play:
    """One session under a list of happenings; records in which epoch each line of a signal was written."""

    def __init__(self) -> None:
        self.wire = Wire.of()
        self.prepared: dict[str, Prepared] = {}
        self.written: dict[str, list[tuple[bytes, str | None]]] = defaultdict(list)
        self.seen = 0
        self.seq: dict[str, int] = defaultdict(int)
        self.queries: list[dict[str, Any]] = []

    def do(self, step: tuple[Any, ...]) -> None:
        session, wire = self.wire.session, self.wire
        match step:
            case ("send", id_) | ("adopt", id_):
                if id_ not in self.prepared:
                    found = session.prepare(signal(id_, wire.clock.now_ms))
                    if isinstance(found, Prepared):
                        self.prepared[id_] = found
                if id_ in self.prepared:
                    (session.send if step[0] == "send" else session.adopt)(self.prepared[id_])
            case ("retry", id_):
                session.retry(id_)
            case ("wait", ms):
                wire.advance(ms, 500)
            case ("reconnect", epoch):
                self.do(("lose",))
                self.do(("back", epoch))
            case ("lose",):
                if wire.is_open:
                    wire.lose()
            case ("back", epoch):
                if session.state in (LinkState.IDLE, LinkState.BACKOFF):
                    self.queries.clear()
                    wire.to_ready(epoch=epoch, last_seq=self.seq[epoch], oldest_seq=self.seq[epoch] + 1)
            case _:
                if wire.is_open and session.state in (LinkState.READY, LinkState.SUSPECT):
                    wire.give(self.line(step))
        wire.pull()
        self.note()

    def line(self, step: tuple[Any, ...]) -> dict[str, Any]:
        match step:
            case ("ack", id_):
                return ack(id_)
            case ("nack", id_, final):
                return nack(id_, "rate_limited", final=final)
            case ("indeterminate", id_):
                return {"t": "indeterminate", "id": id_, "since_ms": 1, "detail": "x"}
            case ("event", id_, state):
                epoch = self.wire.session.epoch or EPOCH
                self.seq[epoch] += 1
                return log_event(self.seq[epoch], epoch=epoch, kind="signal", id=id_, state=state)
            case ("sigstate", state) if self.queries:
                query = self.queries.pop()
                return {
                    "t": "sigstate",
                    "rid": query["rid"],
                    "id": query["id"],
                    "state": state,
                    "filled": 0,
                    "avg_price": None,
                }
        return {"t": "hug"}

    def note(self) -> None:
        for raw in self.wire.raw[self.seen :]:
            found = strict_json.loads(raw.strip())
            if found["t"] == "signal":
                self.written[str(found["id"])].append((raw, self.wire.session.epoch))
                assert int(found["valid_until"]) > self.wire.clock.now_ms  # type: ignore[arg-type]
            elif found["t"] == "query":
                self.queries.append(found)
        self.seen = len(self.wire.raw)


@given(st.lists(HAPPENINGS, min_size=25, max_size=60))
def test_no_interleaving_sends_a_second_line_or_repeats_one_in_another_epoch(steps: list[tuple[Any, ...]]) -> None:
    play = Play()
    play.do(("back", EPOCH))
    for step in steps:
        play.do(step)
    for id_, written in play.written.items():
        assert {line for line, _ in written} == {play.prepared[id_].line}
        assert {epoch for _, epoch in written} == {play.prepared[id_].epoch}


@given(st.lists(HAPPENINGS, min_size=25, max_size=60))
def test_an_ended_signal_stays_ended_and_is_never_written_again(steps: list[tuple[Any, ...]]) -> None:
    play = Play()
    play.do(("back", EPOCH))
    ended: dict[str, int] = {}
    for step in steps:
        play.do(step)
        for id_, count in ended.items():
            assert len(play.written[id_]) == count
        for change in play.wire.seen(o.SignalChanged):
            if change.state in ENDED:
                ended.setdefault(change.id, len(play.written[change.id]))
    for id_ in IDS:
        states = [change.state for change in play.wire.seen(o.SignalChanged) if change.id == id_]
        assert len([state for state in states if state in ENDED]) <= 1
        assert LinkSignalState.ACKED not in states[:-1]


@given(st.lists(HAPPENINGS, min_size=25, max_size=60))
def test_every_connected_signal_without_answer_is_asked_for(steps: list[tuple[Any, ...]]) -> None:
    play = Play()
    play.do(("back", EPOCH))
    for step in steps:
        play.do(step)
    if play.wire.session.state is LinkState.READY:
        assert LinkSignalState.UNANSWERED not in play.wire.session.signals_open().values()
