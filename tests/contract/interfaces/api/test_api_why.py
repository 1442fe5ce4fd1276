"""`fks why`: of an order, a signal, and a bar that led to no order, the whole story."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fks.clock import RealClock
from fks.config.endpoints import NodeEndpoints, save_node
from fks.config.paths import Paths
from fks.interfaces.cli import cli
from fks.interfaces.cli.base import OK, USAGE, run
from fks.model.codes import Code
from fks.model.order import State
from fks.model.signal import Kind
from fks.model.timeframe import NS, iso, to_datetime
from fks.store.bars import BarStore
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.tokens import ensure_local_token
from fks.trading.risk.explain import rules
from tests.support.api_fixtures import Fks
from tests.support.gateway import Running, running
from tests.support.order_rig import FAST, Rig, seed
from tests.support.scripted_venue import ScriptedVenue
from tests.support.strategies import bars_of

DAY_NS = 86400 * NS
HOUR_NS = 3600 * NS
#: Yesterday's, whose decision is fresh for a day; in the last hour of a day its own, so that the tests may run past it.
BAR_NS = ((RealClock().now_ns() + HOUR_NS) // DAY_NS - 1) * DAY_NS
FIRST_NS = BAR_NS - 59 * DAY_NS
CLOSES = [100.0 - index * 0.5 for index in range(59)] + [130.0, 131.0, 131.0]


@pytest.fixture
async def rig(database: Database, bus: Bus) -> AsyncIterator[Rig]:
    """An order manager, and an instance of sma_cross with bars on which it goes long at BAR_NS."""
    await seed(database, instances=("one",))
    await database.sql(
        "UPDATE strategy_instances SET timeframe = '1d', params = '{\"fast\": 2, \"slow\": 5}', created_at = $1, "
        "anchor_time = $1",
        bars_start(),
    )
    await BarStore(database).merge(
        bars_of(CLOSES, start_ns=FIRST_NS, timeframe="1d"), exchange="binance", source="rest"
    )
    risk = FAST.risk.model_copy(update={"decision_age_max_s": 1e6})
    rig = Rig(database, bus, ScriptedVenue(), settings=FAST.model_copy(update={"risk": risk}))
    yield await rig.start()
    await rig.stop()


def bars_start() -> datetime:
    return to_datetime(FIRST_NS)


@pytest.fixture
async def gateway(rig: Rig, database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Running]:
    async with running(rig.db, database_url, redis_url, tmp_path) as gateway:
        yield gateway


@pytest.fixture
async def fks(
    gateway: Running, rig: Rig, database_url: str, redis_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Fks:
    paths = Paths.of(tmp_path)
    await ensure_local_token(rig.db, paths)
    save_node(
        paths,
        NodeEndpoints(database_url, redis_url, "", {"host": "127.0.0.1", "port": int(gateway.url.rpartition(":")[2])}),
    )

    async def call(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = await asyncio.to_thread(run, cli, ["--home", str(tmp_path), *argv])
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


async def received(fks: Fks, *argv: str) -> dict[str, Any]:
    code, out, err = await fks("why", *argv, "--json")
    assert (code, err) == (OK, "")
    document = json.loads(out)
    assert document["schema"] == "fks.why/1"
    [story] = document["items"]
    return dict(story)


async def test_history_of_an_order_goes_from_its_bar_to_its_fill(fks: Fks, rig: Rig) -> None:
    signal = await rig.signal(ts_event_ns=BAR_NS, timeframe="1d")
    await rig.outcome(signal)
    order = await rig.becomes((await rig.entry(signal)).client_order_id, State.FILLED)
    await rig.db.sql("UPDATE signals SET ts_event = $1", to_datetime(BAR_NS))
    story = await received(fks, order.client_order_id)
    figures = {check["code"]: (check["outcome"], check["observed"]) for check in story["checks"]}
    assert figures["NOTIONAL_MAX_ORDER"] == ("passed", "1000")
    assert story == await received(fks, str(signal))
    assert story["verdict"] == "one wanted enter buy BTCUSDT; the order is FILLED, filled 10 of 10"
    assert (story["bar"]["close"], story["bar"]["is_complete"]) == (130.0, True)
    decision = story["decision"]
    assert (decision["strategy"], decision["target_before"], decision["target"], decision["bars"]) == (
        "sma_cross",
        0.0,
        1.0,
        60,
    )
    columns = {(value["name"], value["params"].get("period")): value for value in decision["values"]}
    assert columns["sma", 2.0]["now"] == 100.5
    assert columns["cross_side", None]["now"] == 1.0
    assert story["signal"]["state"] == "ordered"
    checks = {check["code"]: check for check in story["checks"]}
    assert {check["outcome"] for check in checks.values()} == {"passed"}
    assert (checks["NOTIONAL_MAX_ORDER"]["observed"], checks["NOTIONAL_MAX_ORDER"]["rule"]) == (
        "1000",
        rules()[Code.NOTIONAL_MAX_ORDER],
    )
    [order_lines] = story["orders"]
    assert order_lines["events"][0]["event"] == "IntendedAndSent"
    acked = next(event for event in order_lines["events"] if event["event"] == "Acked")
    assert acked["payload"]["says"] == "FILLED"
    assert [(fill["trade_type"], fill["venue_trade_id"]) for fill in order_lines["fills"]] == [
        ("BUY", rig.venue.trades[0].venue_trade_id)
    ]
    code, out, _ = await fks("why", order.client_order_id)
    assert code == OK
    for texts in (
        "the order is FILLED",
        "bar 1d",
        "close 130",
        "sma(period 2)",
        "target +0 → +1",
        "IntendedAndSent",
        "fill ",
    ):
        assert texts in out, texts


async def test_a_denied_signal_names_the_check_its_limit_and_the_value(fks: Fks, rig: Rig) -> None:
    signal = await rig.signal(size=Decimal(900), ts_event_ns=BAR_NS, timeframe="1d")
    assert await rig.outcome(signal) == ("denied", "NOTIONAL_MAX_ORDER")
    story = await received(fks, str(signal))
    assert story["verdict"].startswith(
        "one wanted enter buy BTCUSDT; denied NOTIONAL_MAX_ORDER: price times quantity is above"
    )
    failed = [check for check in story["checks"] if check["outcome"] == "failed"]
    assert "passed" in {check["outcome"] for check in story["checks"]}
    limit = rig.settings.risk.notional_max_order
    assert (failed[0]["code"], failed[0]["observed"].split()[0]) == ("NOTIONAL_MAX_ORDER", "90000")
    assert str(limit) in failed[0]["limit"]
    at_bar = await received(fks, "BTC/USDT", iso(BAR_NS + 30 * NS))
    assert at_bar["verdict"] == story["verdict"]


async def test_a_bar_without_a_signal_shows_what_the_strategy_saw(fks: Fks, rig: Rig) -> None:
    story = await received(fks, "BTCUSDT", iso(BAR_NS - 30 * NS))
    assert story["verdict"] == "one gave no signal: it wanted to be flat before and at this bar"
    assert (story["signal"], story["orders"], story["decision"]["target"]) == (None, [], 0.0)
    assert {value["name"] for value in story["decision"]["values"]} >= {"sma", "cross_side", "side"}
    early = await received(fks, "BTCUSDT", iso(FIRST_NS + 30 * NS), "--instance", "one")
    assert early["verdict"] == "one gave no signal: it was warming up (1 of 5 bars)"
    lost = await received(fks, "BTCUSDT", iso(BAR_NS + NS))
    assert lost["verdict"].startswith(
        "one gave no signal though its target went from flat to long: it did not run then"
    )
    document = {"instance": "one", "from": iso(BAR_NS), "to": iso(BAR_NS), "bars": 1, "dropped": 1}
    await rig.db.sql(
        "INSERT INTO actor_events (child, event, payload) VALUES ('strategy:0', 'strategy.missed', $1::jsonb)", document
    )
    missed = await received(fks, "BTCUSDT", iso(BAR_NS + NS))
    assert "it was away, and decided on this bar too late" in missed["verdict"]
    nothing = await received(fks, "BTCUSDT", "2020-01-01T00:00:00Z")
    assert nothing["verdict"].startswith("there is no 1d bar of BTCUSDT at 2020-01-01T00:00:00Z")
    assert (await fks("why", "BTCUSDT", iso(BAR_NS)))[0] == OK


async def test_a_strategy_of_several_symbols_is_evaluated_with_their_bars(fks: Fks, rig: Rig) -> None:
    params = {"other": "ETH/USDT", "leg": "first", "period": 20}  # its bars are stored, and collected no more
    await rig.db.sql("UPDATE strategy_instances SET strategy = 'pairs', params = $1::jsonb", params)
    other = bars_of([close / 10 for close in CLOSES[:59]] + [8.5] * 3, start_ns=FIRST_NS, timeframe="1d")
    await BarStore(rig.db).merge(replace(other, symbol="ETHUSDT"), exchange="binance", source="rest")
    story = await received(fks, "BTCUSDT", iso(BAR_NS))
    decision = story["decision"]
    assert (decision["bars"], decision["warmup"], decision["target_before"], decision["target"]) == (60, 20, 0.0, -1.0)
    assert {value["name"] for value in decision["values"]} >= {"score", "slope"}


async def test_history_of_an_exit_has_its_protection_and_signal(fks: Fks, rig: Rig) -> None:
    await rig.outcome(await rig.signal(stop_loss=Decimal(90), ts_event_ns=BAR_NS, timeframe="1d"))
    out = await rig.signal(Kind.EXIT, ts_event_ns=BAR_NS + DAY_NS, timeframe="1d")
    await rig.outcome(out)
    story = await received(fks, str(out))
    assert story["orders"][0]["role"] == "exit"
    protection = (await rig.db.sql("SELECT client_order_id FROM orders WHERE role = 'sl'"))[0]["client_order_id"]
    assert "sl" in [order["role"] for order in (await received(fks, protection))["orders"]]


async def test_history_is_complete_when_strategy_code_fails(
    fks: Fks, rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "strategies").mkdir(exist_ok=True)
    source = (
        "import time\nfrom fks.strategies.base import Strategy\n\n\nclass Slow(Strategy):\n    name = 'slow'\n\n"
        "    def warmup(self):\n        return 1\n\n    def decide(self, bars):\n        {what}\n"
    )
    file = tmp_path / "strategies" / "slow.py"
    file.write_text(source.format(what="raise OSError('no disk')"))
    await rig.db.sql("UPDATE strategy_instances SET strategy = 'slow', params = '{}'")
    story = await received(fks, "BTCUSDT", iso(BAR_NS))
    why = "one gave no signal; the strategy could not be evaluated: strategy slow: decide() with 60 bars raised "
    assert story["verdict"] == f"{why}OSError: no disk; correct slow.py line 12: `raise OSError('no disk')`"
    monkeypatch.setattr("fks.interfaces.entry.why.TRACE_S", 4.0)
    file.write_text(source.format(what="time.sleep(600)"))
    assert "no answer within 4 s" in (await received(fks, "BTCUSDT", iso(BAR_NS)))["verdict"]


async def test_unknown_decision_is_reported(fks: Fks) -> None:
    for argv in (
        ("0" * 32,),
        ("nonsense",),
        ("NOPEUSDT", "10m"),
        ("ETHUSDT", "10m"),
        ("BTCUSDT", "soon"),
        ("BTCUSDT", "10m", "--instance", "x"),
    ):
        code, _, err = await fks("why", *argv)
        assert (code, err.startswith("error:")) == (USAGE, True), argv
