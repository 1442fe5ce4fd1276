"""The machine against a model of OTP from its manual: same trees, same exits, same restarts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from fks.system.supervision import (
    ChildSpec,
    How,
    Intensity,
    ProcessExit,
    RestartBackoff,
    SupervisorSpec,
    TreeState,
    decide,
)
from fks.system.supervision.state import Begin, Event, Exited, Find, Note, NotFound, Phase, Start, Started, Stop
from tests.support.otp import Otp, Thing

NO_WAIT = RestartBackoff(first_s=0.0)
CRASH, ASKED = ProcessExit(How.CRASH, "died"), ProcessExit(How.NORMAL, "asked")


@st.composite
def trees(draw: st.DrawFn) -> Thing:
    """A top with up to three branches, each a worker or a supervisor up to three levels deep."""
    count = iter(range(1000))

    def thing(depth: int) -> Thing:
        if depth == 0 or draw(st.integers(0, 2)) == 0:
            return Thing(f"w{next(count)}")
        children = [thing(depth - 1) for _ in range(draw(st.integers(1, 3)))]
        return Thing(
            f"s{next(count)}",
            draw(st.integers(0, 3)),
            draw(st.sampled_from([3.0, 8.0])),
            children,
        )

    return Thing(
        "top",
        intensity=draw(st.integers(0, 2)),
        period=20.0,
        children=[thing(2) for _ in range(draw(st.integers(1, 3)))],
    )


def spec_of(thing: Thing) -> ChildSpec | SupervisorSpec:
    if not thing.is_supervisor:
        return ChildSpec(thing.id, "r", 1.0)
    children = tuple(spec_of(child) for child in thing.children)
    limit = Intensity(thing.intensity, thing.period)
    return SupervisorSpec(thing.id, children, limit, backoff=NO_WAIT)


class Driver:
    """A world that answers at once, in the order it was asked; `log` is what OTP's log is."""

    def __init__(self, top: Thing) -> None:
        spec = spec_of(top)
        assert isinstance(spec, SupervisorSpec)
        self.state = TreeState.of(spec)
        self.now = 0.0
        self.log: list[tuple[str, str]] = []
        self.ends: dict[str, Iterator[str]] = {}  # whether the next starts of a worker succeed, as OTP's did
        self.running: dict[str, int] = {}
        self.escalated: list[str] = []

    def post(self, event: Event) -> None:
        events = deque([event])
        while events:
            self.state, commands = decide(self.state, events.popleft(), self.now)
            for command in commands:
                match command:
                    case Find(id):
                        events.append(NotFound(id))
                    case Start(id, run):
                        assert id not in self.running, f"{id} runs twice"
                        step = next(self.ends.get(id, iter(())), "start")
                        self.log.append((step, id))
                        if step == "start":
                            self.running[id] = run
                            events.append(Started(id, run))
                        else:
                            events.append(Exited(id, run, ProcessExit(How.FAILED_START, "no")))
                    case Stop(id, run):
                        assert self.running.pop(id) == run
                        self.log.append(("stop", id))
                        events.append(Exited(id, run, ASKED))
                    case Note(id, "escalated"):
                        self.escalated.append(id)


exits = st.lists(
    st.tuples(st.sampled_from([0.0, 0.5, 2.0, 5.0]), st.integers(0, 20), st.booleans(), st.integers(0, 2)), max_size=14
)


@given(trees(), exits)
def test_machine_restarts_the_children_otp_restarts(top: Thing, exits: list[tuple[float, int, bool, int]]) -> None:
    otp, driver = Otp(top), Driver(top)
    driver.post(Begin())
    assert sorted(driver.log) == sorted(otp.log)
    for after_s, index, is_normal, failures in exits:
        alive = sorted(otp.running())
        assert alive == sorted(driver.running)
        if not alive:
            break
        victim = alive[index % len(alive)]
        otp.now = driver.now = otp.now + after_s
        otp.log.clear(), driver.log.clear()
        otp.fails = {victim: failures}
        otp.die(victim)
        for id in {id for _, id in otp.log}:
            driver.ends[id] = iter([step for step, other in otp.log if other == id and step != "stop"])
        driver.post(Exited(victim, driver.running.pop(victim), ASKED if is_normal else CRASH))
        assert sorted(driver.log) == sorted(otp.log)
    assert sorted(otp.running()) == sorted(driver.running)
    contained = {id for id, node in driver.state.nodes.items() if node.phase is Phase.CONTAINED}
    assert contained == {
        thing.id for thing in top.children if len(otp.branches.get(thing.id, ())) > top.intensity and not thing.is_alive
    }
