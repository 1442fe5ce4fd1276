"""Long runs of local AI: 200 answers, an ingest of 500 chunks and a training under kills; and a model that is named."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from fks.ai.answers import chat_of, checked_answer
from fks.ai.engines import engine_of
from fks.ai.engines.queue import InferenceQueue
from fks.store.db import Database
from fks.system.servers.embedded import PostgresServer
from tests.support.ai_chaos import Load, survive_kills
from tests.support.forecast_replay import replay_forecasts, same_trades
from tests.support.gguf_model import deployed, write_model
from tests.support.invariants import assert_same

SPEC = {"name": "ar", "symbols": ["BTC/USDT"], "timeframe": "1m", "folds": 6, "trees": 200}


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_two_hundred_answers_and_500_chunks_survive_kill_9(database: Database, redis_url: str) -> None:
    await survive_kills(Load(answers=200, chunks=500, spec=SPEC, rounds=2), database, redis_url)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_inference_that_is_killed_and_delayed_changes_no_trade(
    postgres: PostgresServer, redis_url: str, tmp_path: Path
) -> None:
    """G6: paper, live replay and a backtest over the rows trade alike; bars without a prediction in time are
    `missing` in all three."""
    found = await replay_forecasts(postgres, redis_url, tmp_path, 60)
    fills = {venue: len(rows) for venue, rows in found.fills.items()}
    print(f"{dict(found.faults)}, rows {dict(found.states)}, fills {fills}")
    assert_same(same_trades(found), "", "trades differ")
    assert min(map(len, found.wanted.values())) >= 8
    assert (found.states["ok"] >= 15, found.states["missing"] >= 10) == (True, True)
    assert min(found.faults.values()) >= 5


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_gguf_file_of_the_environment_answers_in_form(tmp_path: Path) -> None:
    """FKS_AI_TEST_MODEL names the file. Without it the file has random weights, which the printed line says."""
    named, texts = os.environ.get("FKS_AI_TEST_MODEL"), ["Zebras eat hay at noon."]
    file = Path(named) if named else write_model(tmp_path / "noise.gguf", width=16, layers=1)
    engine, begun_s = engine_of(deployed(file)), time.monotonic()
    await engine.load()
    loaded_s = time.monotonic() - begun_s
    asked = chat_of("When do zebras eat hay?", texts, 1500.0)
    answer = await InferenceQueue(engine).call(asdict(asked))
    await engine.close()
    assert answer.get("is_whole"), answer
    written = checked_answer(answer["text"], texts)
    assert written is not None, answer["text"]
    which = "named by FKS_AI_TEST_MODEL" if named else "random weights: FKS_AI_TEST_MODEL names no file"
    print(
        f"{file.name} ({which}) loaded in {loaded_s:.2f} s, wrote {answer['tokens']} tokens in "
        f"{time.monotonic() - begun_s - loaded_s:.2f} s: {written.text[:80]!r}, {len(written.citations)} literal quotes"
    )
