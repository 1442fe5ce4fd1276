"""A kill, and the prop firm's rules, at a NinjaTrader group: the requests to its bridge, from its status alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fks.bridge.ninja import messages as m
from fks.clock import FakeClock
from fks.model.errors import OutageError
from fks.trading.guardian.context import GuardianContext
from fks.trading.guardian.journal import Asked, KillJournal
from fks.trading.guardian.ninja_kill import NinjaKill
from fks.trading.guardian.ninja_session import GroupBridge, RuleWatch
from fks.trading.guardian.timing import Timing
from fks.trading.prop_rules import RuleGroup, shipped_group
from tests.support.ports import CollectingLog, RecordingMeter

D = Decimal


def order(name: str, state: str = "Working", *, ours: bool = True, type: str = "Limit") -> m.OrderStatus:
    return m.OrderStatus(name=name, order_id="1", state=state, side="Buy", type=type, qty=1, filled=0, ours=ours)


def account(
    name: str = "Sim101", *, held: int = 0, orders: tuple[m.OrderStatus, ...] = (), status: str = "Connected"
) -> m.AccountStatus:
    position = m.PositionStatus(instrument="ES 03-25", side="long", qty=held, avg=D(4500))
    values = {
        "CashValue": D(50_000),
        "NetLiquidation": D(50_000),
        "RealizedProfitLoss": D(0),
        "UnrealizedProfitLoss": D(0),
    }
    positions = (position,) if held else ()
    return m.AccountStatus(
        name=name, status=status, price_status=status, values=values, positions=positions, orders=orders
    )


def status(*accounts: m.AccountStatus, halted: bool = False, signals: tuple[m.OpenSignal, ...] = ()) -> m.Status:
    return m.Status(rid=None, at_ms=0, ready=True, halted=halted, accounts=accounts, signals_open=signals)


def signal(id: str, action: str | None) -> m.OpenSignal:
    return m.OpenSignal(id=id, action=action, state="working", filled=0, protected=False)


@dataclass
class Bridge:
    """A session whose bridge answers `status` with the newest state, and other requests by `answer`."""

    state: m.Status
    modes: dict[str, str] = field(default_factory=lambda: {"Sim101": "auto"})
    rules: RuleGroup | None = None
    account_rules: dict[str, RuleGroup | None] = field(default_factory=dict)
    is_open: bool = True
    asked: list[m.LinkRequest] = field(default_factory=list)
    answer: Callable[[Bridge, m.LinkRequest], m.Message] = lambda bridge, request: m.ResultMessage(
        rid="1", ok=True, flat=True
    )
    name: str = "ninja:sim"
    is_away: bool = False

    @property
    def address(self) -> GroupBridge:
        return GroupBridge("sim", "127.0.0.1", 1, b"", rules=self.rules, account_rules=self.account_rules)

    @property
    def welcome(self) -> Any:
        infos = tuple(m.AccountInfo(name=n, sim=True, mode=mode, connected=True) for n, mode in self.modes.items())
        return _Welcome(infos)

    async def ask(self, make: Callable[[str], m.LinkRequest]) -> m.Message:
        request = make("rid")
        if isinstance(request, m.GetStatus):
            return self.state
        self.asked.append(request)
        if self.is_away:
            raise OutageError("no answer")
        return self.answer(self, request)


@dataclass(frozen=True)
class _Welcome:
    accounts: tuple[m.AccountInfo, ...]


def flattens(bridge: Bridge, request: m.LinkRequest) -> m.Message:
    """Do what a kill asks for."""
    accounts = tuple(replace(one, positions=(), orders=()) for one in bridge.state.accounts)
    bridge.state = replace(bridge.state, halted=True, accounts=accounts)
    return m.ResultMessage(rid="1", ok=True)


def cancels(bridge: Bridge, request: m.LinkRequest) -> m.Message:
    """End the orders of the signal that is cancelled."""
    assert isinstance(request, m.Cancel)
    accounts = tuple(
        replace(one, orders=tuple(o for o in one.orders if o.name.split(":")[1:2] != [request.id]))
        for one in bridge.state.accounts
    )
    bridge.state = replace(bridge.state, accounts=accounts)
    return m.ResultMessage(rid="1", ok=True)


@dataclass
class Killing:
    """A kill at that bridge."""

    place: Path
    bridge: Bridge
    flatten: bool = True
    why_not: str = ""

    def __post_init__(self) -> None:
        self.clock = FakeClock()
        self.journal = KillJournal(self.place / "kill.jsonl")
        self.journal.engage("k", Asked("system", "a test", "me", self.flatten, self.clock.now_ns()))
        context = GuardianContext(self.clock, CollectingLog(), RecordingMeter(), Timing())
        self.kill = NinjaKill(context, self.bridge, self.journal, why_not=lambda: self.why_not)  # type: ignore[arg-type]

    async def passed(self, seconds: float) -> None:
        task = asyncio.create_task(self.kill.run())
        for _ in range(round(seconds * 4)):
            await self.clock.advance(0.25)
        task.cancel()

    def acts(self) -> list[str]:
        lines = [json.loads(line) for line in (self.place / "kill.jsonl").read_text().splitlines()[1:]]
        return [" ".join(str(line.get(key)) for key in ("act", "kind", "outcome") if line.get(key)) for line in lines]


async def test_a_kill_asks_for_the_latch_until_all_is_flat(tmp_path: Path) -> None:
    bridge = Bridge(status(account(held=2, orders=(order("FKS:a:S"),))), answer=flattens)
    now = Killing(tmp_path, bridge)
    await now.passed(1)
    assert [type(request) for request in bridge.asked] == [m.Kill]
    assert (now.kill.state, now.kill.quiet.is_set(), now.kill.remaining) == ("flat", True, [])
    assert now.acts() == ["asked kill", "answered kill ok"]


@pytest.mark.parametrize(
    ("state", "modes", "left"),
    [
        (status(account(), halted=True), {"Sim101": "auto"}, []),
        (status(account(), halted=False), {"Sim101": "auto"}, []),  # flat, and the latch is not on
        (status(account(held=1), halted=True), {"Sim101": "auto"}, ["pending"]),
        (status(account(held=1), halted=True), {"Sim101": "relay"}, ["elsewhere"]),
        (status(account(held=1), halted=True), {}, ["pending"]),
        (status(account(orders=(order("FKS:a:S"),)), halted=True), {"Sim101": "auto"}, ["pending"]),
        (status(account(orders=(order("x", ours=False),)), halted=True), {"Sim101": "auto"}, []),
        (status(account(orders=(order("FKS:a:E", "Unknown"),)), halted=True), {"Sim101": "auto"}, ["pending"]),
        *[
            (status(account(orders=(order("FKS:a:E", ended),)), halted=True), {"Sim101": "auto"}, [])
            for ended in ("Filled", "Cancelled", "Rejected")
        ],
        (status(account(status="ConnectionLost"), halted=True), {"Sim101": "auto"}, ["pending"]),
        (status(account(status="ConnectionLost"), halted=True), {"Sim101": "off"}, []),
        (status(halted=True), {"Sim101": "auto"}, ["pending"]),  # the status lacks an account that is traded
        (status(replace(account(held=1), sim=True, mode="auto"), halted=True), {"Sim101": "off"}, ["pending"]),
        (status(replace(account(held=1), sim=True, mode="relay"), halted=True), {"Sim101": "auto"}, ["elsewhere"]),
        (
            status(account(held=1), account("Other", held=1), halted=True),
            {"Sim101": "auto", "Other": "off"},
            ["elsewhere", "pending"],
        ),
    ],
)
async def test_a_kill_is_quiet_when_the_latch_is_on_and_nothing_is_left(
    tmp_path: Path, state: m.Status, modes: dict[str, str], left: list[str]
) -> None:
    now = Killing(tmp_path, Bridge(state, modes))
    await now.passed(0.5)
    is_flat = state.halted and "pending" not in left
    assert [line["kind"] for line in now.kill.remaining] == left
    assert (now.kill.state, now.kill.quiet.is_set()) == ("flat" if is_flat else "working", is_flat)
    assert all(isinstance(request, m.Kill) for request in now.bridge.asked)
    assert bool(now.bridge.asked) is not is_flat, "it is asked for again as long as something is left"


async def test_a_refused_kill_and_one_without_an_answer_are_noted(tmp_path: Path) -> None:
    refuses = Bridge(
        status(account(held=1)), answer=lambda bridge, request: m.ResultMessage(rid="1", ok=False, code="not_ready")
    )
    now = Killing(tmp_path, refuses)
    await now.passed(0.25)
    assert (now.acts()[:2], now.kill.detail) == (["asked kill", "answered kill refused"], "not_ready")
    refuses.is_away = True
    await now.passed(0.25)
    assert (now.acts()[-2:], now.kill.state) == (["asked kill", "answered kill unknown"], "unreachable")


async def test_a_guardian_that_may_not_act_asks_for_nothing(tmp_path: Path) -> None:
    for flatten in (True, False):
        folder = tmp_path / str(flatten)
        now = Killing(folder, Bridge(status(account(held=1, orders=(order("FKS:a:E"),)))), flatten, "another acts")
        await now.passed(1)
        assert (now.kill.state, now.kill.detail, now.bridge.asked) == ("looks_on", "another acts", [])


async def test_a_held_kill_cancels_entries_and_nothing_that_reduces(tmp_path: Path) -> None:
    """An exit bears an entry's name; where the AddOn does not say what a signal is, a market order is an exit."""
    orders = (
        order("FKS:a:E"),
        order("FKS:a:E2"),
        order("FKS:b:S"),
        order("FKS:c:T"),
        order("FKS:d:E"),  # of an exit
        order("FKS:f:E", type="Market"),  # of an unknown signal
        order("FKS:g:E", type="Market"),  # of a buy
        order("FKS:h:E"),  # of an unknown signal
        order("FKS:i:E", "Filled"),
        order("FKS:j:E", ours=False),
        order("FKS:k"),
    )
    signals = (signal("a", "buy"), signal("d", "exit"), signal("f", None), signal("g", "buy"), signal("h", None))
    bridge = Bridge(status(account(held=2, orders=orders), signals=signals), answer=cancels)
    now = Killing(tmp_path, bridge, flatten=False)
    await now.passed(1)
    assert [request.id for request in bridge.asked if isinstance(request, m.Cancel)] == ["a", "g", "h"]
    assert (len(bridge.asked), now.kill.state, now.kill.quiet.is_set()) == (3, "cancelled", True)
    assert bridge.state.accounts[0].positions[0].qty == 2


# ── the rules ────────────────────────────────────────────────────────────────────────────────────
def rules(**changes: Any) -> RuleGroup:
    """A firm's rules without a time of day."""
    data = shipped_group("topstep-50k").model_dump(exclude_none=True)
    data["rules"] |= {"flat_by": {"value": "none"}, "max_loss": {"value": "none", "trailing": "eod"}, **changes}
    for rule in data["rules"].values():
        rule |= {"source": "test", "verified_on": date(2026, 11, 1), "verified_by": "a person"}
    return RuleGroup.model_validate(data)


#: 50,000 in the account: a group that began at 60,000 has lost 10,000 of 2,000
LOST = rules(max_loss={"value": 2000, "trailing": "static"}).model_copy(update={"starting_balance": 60_000})


@dataclass
class Watching:
    bridge: Bridge
    may_act: bool = True

    def __post_init__(self) -> None:
        self.clock, self.pages = FakeClock(), list[str]()
        context = GuardianContext(self.clock, CollectingLog(), RecordingMeter(), Timing())
        session: Any = self.bridge
        self.watch = RuleWatch(
            context, session, may_act=lambda: self.may_act, page=lambda event, message: self.pages.append(event)
        )

    def asked(self) -> list[str]:
        return [request.account for request in self.bridge.asked if isinstance(request, m.FlattenRequest)]


@pytest.mark.parametrize(
    ("bridge", "may_act", "asked"),
    [
        (Bridge(status(account(held=1)), rules=LOST), True, ["Sim101"]),
        (Bridge(status(account(held=1)), rules=LOST), False, []),
        (Bridge(status(account(held=1)), rules=LOST, is_open=False), True, []),
        (Bridge(status(account(held=1)), rules=rules()), True, []),
        (Bridge(status(account(held=1))), True, []),
        (Bridge(status(account()), rules=LOST), True, []),  # nothing to close
        (Bridge(status(account(orders=(order("FKS:a:E"),))), rules=LOST), True, ["Sim101"]),  # an entry that works
        (Bridge(status(account(orders=(order("FKS:a:E", "Filled"),))), rules=LOST), True, []),
        (Bridge(status(account(orders=(order("FKS:a:E", ours=False),))), rules=LOST), True, []),
        (Bridge(status(account(orders=(order("FKS:a:S"),))), rules=LOST), True, []),
        (Bridge(status(account(held=1)), {"Sim101": "relay"}, rules=LOST), True, []),
        (Bridge(status(replace(account(held=1), sim=True, mode="auto")), {}, rules=LOST), True, ["Sim101"]),
        (Bridge(status(replace(account(held=1), sim=True, mode="off")), rules=LOST), True, []),
        (Bridge(status(account(held=1)), account_rules={"Sim101": LOST}), True, ["Sim101"]),
        (Bridge(status(account(held=1)), account_rules={"Sim101": None}, rules=LOST), True, []),
        (
            Bridge(status(account(held=1), account("Two", held=1)), {"Sim101": "auto", "Two": "auto"}, rules=LOST),
            True,
            ["Sim101", "Two"],
        ),
    ],
)
async def test_an_account_whose_rules_demand_it_is_flattened(bridge: Bridge, may_act: bool, asked: list[str]) -> None:
    bridge.asked.clear()
    now = Watching(bridge, may_act)
    await now.watch.look()
    assert now.asked() == asked
    assert now.pages == ["prop.flatten"] * len(asked)


@pytest.mark.parametrize("flat", [False, None])
async def test_an_account_that_is_not_flat_pages_and_is_asked_for_again_later(flat: bool | None) -> None:
    answer = m.ResultMessage(rid="1", ok=True, flat=flat)
    now = Watching(Bridge(status(account(held=1)), rules=LOST, answer=lambda bridge, request: answer))
    for _ in range(30):
        await now.watch.look()
        await now.clock.advance(2.0)
    assert now.asked() == ["Sim101"], "the bridge has a minute for it"
    await now.watch.look()
    assert now.asked() == ["Sim101", "Sim101"]
    assert now.pages == ["prop.flatten", "prop.not_flat"] * 2
