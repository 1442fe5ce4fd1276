"""Answers, documents and a training under kill -9 of each process that works on them."""

from __future__ import annotations

from fks.store.db import Database
from tests.support.ai_chaos import Load, survive_kills

SPEC = {"name": "ar", "symbols": ["BTC/USDT"], "timeframe": "1m", "folds": 2, "trees": 20}


async def test_kills_lose_no_answer_chunk_or_training(database: Database, redis_url: str) -> None:
    """The head, which this leaves alone, and the load of a day are struck in tests/soak/test_ai_soak.py."""
    load = Load(answers=8, chunks=40, spec=SPEC, faults=("runner", "postgres"))
    await survive_kills(load, database, redis_url)
