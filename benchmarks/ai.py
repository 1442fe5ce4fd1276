"""Tokens a second of POST /answer with a language model, against the bare loop of the engine; and with `--forecasts`
the time from a sealed bar to the committed row of its forecast; with `--recovery` the time from the death of a model's
process to the next answer; with `--chat` tokens a second and the first token of POST /v1/chat/completions.

    python benchmarks/ai.py [--rounds 12] [--width 768]
    python benchmarks/ai.py --chat [--rounds 6] [--width 768]
    python benchmarks/ai.py --forecasts [--rounds 300]
    python benchmarks/ai.py --recovery [--rounds 10]

A whole demo system in a temporary FKS_HOME serves a model with random weights (at least 5 ms a token); the bare loop
runs llama.cpp in this process on the same prompts, with the same threads and priority. Both take turns, question by
question. The texts are compared first. Limit: 0.95 of the bare loop. Exits 1 when texts differ or the limit is missed.

`--chat`: the same system and bare loop with streamed chats of 200 tokens, one at a time and eight at once, of which the
process works on two. Both take turns, round by round. The texts of each chat are compared first, one at a time: two at
once share a batch, whose sums differ in the last bit. Limits: 0.95 of the bare loop's tokens a second, and 15 ms more
than it until the first token (medians, one at a time).

`--forecasts`: one model of one symbol with its default features, on PostgreSQL that syncs each commit to disk. Ours: the
scheduler's `Forecaster`, from the moment at which the bar is committed. Bare: the features of the same bars in memory,
the prediction, and the insert of the row. Both take turns, bar by bar; the values are compared first. Limits: 1.5 times
the bare way (median), and 50 ms in 99 of 100 bars.

`--recovery`: kill -9 of the process of a model, in a whole demo system. Two replicas ask a listener that withholds its
answer; the one that works on a question is killed. Timed: from its death until the other one asks; the question must be
answered. One replica of a GGUF file is killed; a question is asked again and again until the model answers. Before each
kill the same file is loaded in this process, which is the bare load, and a question is answered undisturbed; the time
of that answer is taken off. A kill waits until a process waits for the next child. Limits: 1 s with two replicas; 2 s and the bare load with one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
from aiohttp import web

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._results import run, same
from benchmarks.faults.rig import Rig
from fks.ai.answers import chat_of, checked_answer
from fks.ai.engines.llama import LlamaCppEngine
from fks.ai.engines.port import Completion
from fks.ai.forecast import LEVELS, features
from fks.config.settings import DatabaseSettings
from fks.research.jobs.forecast import Forecaster, load_model, run_forecast
from fks.store import migrate
from fks.store.db import Database
from fks.store.forecasts import ForecastStore
from tests.support import servers
from tests.support.forecasts import autoregression
from tests.support.gguf_model import deployed, write_model
from tests.support.ports import CollectingLog
from tests.support.strategies import seal
from tests.support.system import waiting_without_credentials

LIMIT, TOKEN_MS_MIN = 0.95, 5.0
ROW_LIMIT, LATE_MS, WARM = 1.5, 50.0, 20
READY_S = 300.0
MOVED_S, SERVING_S = 1.0, 2.0  # after a death: another replica answers, and the only one serves again
PAGE = {"name": "zebra.markdown", "text": "# Feeding\nZebras eat hay at noon.\n"}
SHORT = {"question": "When do zebras eat hay?", "collection": "user"}
QUESTIONS = (
    "how do I stop trading?",
    "which rate limits are shared?",
    "how is a backtest compared with paper trading?",
)


async def texts_of(rig: Rig, answer: dict[str, Any]) -> list[str]:
    """Return the chunks from which the passages of an answer are quoted."""
    rows = await rig.rows("SELECT id::text AS id, text FROM ai_chunks")
    texts = {row["id"]: row["text"] for row in rows}
    return [texts[passage["chunk"]] for passage in answer["passages"]]


Compare = Callable[[Rig, httpx.AsyncClient, LlamaCppEngine, int], Awaitable[bool]]


async def measure(rounds: int, width: int, compare: Compare) -> bool:
    with tempfile.TemporaryDirectory(prefix="fks-ai-") as made:
        os.chmod(made, 0o755)  # the database's own user must come through
        file = write_model(Path(made) / "noise.gguf", width=width, layers=4)
        bare = LlamaCppEngine(deployed(file))
        rig = Rig.at(Path(made) / "home", FKS_AI_ANSWER_TIMEOUT_S="300")
        try:
            await asyncio.to_thread(rig.system.up)
            await rig.healthy()
            await bare.load()
            async with rig.client() as client:
                client.timeout = httpx.Timeout(400.0)
                body = {"name": "noise", "model": str(file), "engine": "llama_cpp"}
                made_row = await client.post("/ai/deployments", json=body)
                assert made_row.status_code == 201, made_row.text
                await ready(client)
                return await compare(rig, client, bare, rounds)
        finally:
            await rig.close()
            await asyncio.to_thread(rig.system.down)


async def ready(client: httpx.AsyncClient, replicas: int = 1) -> None:
    end = time.monotonic() + READY_S
    while len((await client.get("/ai/deployments")).json()["items"][0]["ready"]) != replicas:
        assert time.monotonic() < end, "the model does not serve"
        await asyncio.sleep(0.5)


async def compare_answers(rig: Rig, client: httpx.AsyncClient, bare: LlamaCppEngine, rounds: int) -> bool:
    ours: list[float] = []
    theirs: list[float] = []
    tokens: list[int] = []
    for number in range(rounds + len(QUESTIONS)):  # the first of each warms up and is compared alone
        question = {"question": QUESTIONS[number % len(QUESTIONS)], "collection": "fks"}
        begun = time.perf_counter()
        answer = (await client.post("/answer", json=question)).json()
        asked_s = time.perf_counter() - begun
        texts = await texts_of(rig, answer)
        prompt = chat_of(question["question"], texts, 300.0)
        begun = time.perf_counter()
        done = await bare.complete(prompt)
        bare_s = time.perf_counter() - begun
        checked = checked_answer(done.text, texts)
        same("the text of the model", answer.get("answer"), checked and checked.text)
        if number >= len(QUESTIONS):
            ours, theirs, tokens = [*ours, asked_s], [*theirs, bare_s], [*tokens, done.tokens]
    token_ms = 1000 * sum(theirs) / sum(tokens)
    ratio = statistics.median(bare / mine for bare, mine in zip(theirs, ours, strict=True))
    print(f"{len(tokens)} answers of {statistics.mean(tokens):.0f} tokens, {token_ms:.1f} ms a token in the bare loop")
    print(f"POST /answer   {sum(tokens) / sum(ours):6.1f} tokens/s")
    print(f"bare loop      {sum(tokens) / sum(theirs):6.1f} tokens/s")
    print(f"ratio          {ratio:6.3f}  (median of the rounds; at least {LIMIT})")
    return ratio < LIMIT or token_ms < TOKEN_MS_MIN


CHAT_TOKENS, CHAT_STREAMS, FIRST_MS = 200, 8, 15.0
NUMBERS = {"type": "array", "items": {"type": "integer"}, "minItems": CHAT_TOKENS}  # the text ends at its limit


def chat_about(number: int) -> Completion:
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": f"Count {number} zebras."}]
    return Completion(messages, 300.0, tokens_max=CHAT_TOKENS, schema=NUMBERS, temperature=0.0)


async def chatted(client: httpx.AsyncClient, asked: Completion) -> tuple[str, float]:
    """Return the text of a streamed chat, and the seconds until its first token."""
    form = {"type": "json_schema", "json_schema": {"name": "numbers", "schema": asked.schema}}
    body = {"model": "noise", "messages": list(asked.messages), "max_tokens": CHAT_TOKENS, "temperature": 0}
    text, first, begun = "", 0.0, time.perf_counter()
    sent = client.stream("POST", "/v1/chat/completions", json={**body, "response_format": form, "stream": True})
    async with sent as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line[6:])
                part = chunk["choices"][0]["delta"].get("content") or ""
                first = first or (time.perf_counter() - begun if part else 0.0)
                text += part
    return text, first


async def looped(bare: LlamaCppEngine, asked: Completion) -> tuple[str, float]:
    """Return the same of the bare loop."""
    first: list[float] = []
    begun = time.perf_counter()
    done = await bare.complete(asked, lambda _: first.append(time.perf_counter() - begun))
    same("tokens of a chat", done.tokens, CHAT_TOKENS)
    return done.text, first[0]


async def compare_chats(rig: Rig, client: httpx.AsyncClient, bare: LlamaCppEngine, rounds: int) -> bool:
    missed = False
    for streams in (1, CHAT_STREAMS):
        seconds: dict[str, list[float]] = {"gateway": [], "bare loop": []}
        firsts: dict[str, list[float]] = {"gateway": [], "bare loop": []}
        for turn in range(rounds + 1):  # the first of each warms up
            asked = [chat_about(turn * streams + number) for number in range(streams)]
            texts: list[list[str]] = []
            for name in seconds:
                begun = time.perf_counter()
                ways = [chatted(client, one) if name == "gateway" else looped(bare, one) for one in asked]
                found = await asyncio.gather(*ways)
                if turn:
                    seconds[name].append(time.perf_counter() - begun)
                    firsts[name] += [first for _, first in found]
                texts.append([text for text, _ in found])
            if streams == 1:
                same("the text of a chat", texts[0], texts[1])
        ratio = statistics.median(b / mine for mine, b in zip(*seconds.values(), strict=True))
        print(f"{streams} at once, {rounds} rounds of {CHAT_TOKENS} tokens each", flush=True)
        for name, taken in seconds.items():
            rate = rounds * streams * CHAT_TOKENS / sum(taken)
            first_ms = 1000 * statistics.median(firsts[name])
            print(f"{name:<12} {rate:6.1f} tokens/s   first token p50 {first_ms:8.1f} ms", flush=True)
        print(f"ratio        {ratio:6.3f}  (median of the rounds; at least {LIMIT})", flush=True)
        missed = missed or ratio < LIMIT
        if streams == 1:
            late_ms = 1000 * (statistics.median(firsts["gateway"]) - statistics.median(firsts["bare loop"]))
            print(f"first token  {late_ms:6.1f} ms after the bare loop's (at most {FIRST_MS:g})", flush=True)
            missed = missed or late_ms > FIRST_MS
    return missed


async def recovery(rounds: int) -> bool:
    with tempfile.TemporaryDirectory(prefix="fks-ai-") as made:
        os.chmod(made, 0o755)  # the database's own user must come through
        file = write_model(Path(made) / "noise.gguf", is_terse=True)  # the way to the model is timed, not the writing
        rig = Rig.at(Path(made) / "home")
        try:
            await asyncio.to_thread(rig.system.up)
            async with rig.client() as client:
                client.timeout = httpx.Timeout(60.0)
                await begun(client)
                await client.post("/documents", json=PAGE)
                missed = await moved(rig, client, rounds)
                return await served_again(rig, client, file, rounds) or missed
        finally:
            await rig.close()
            await asyncio.to_thread(rig.system.down)


async def begun(client: httpx.AsyncClient) -> None:
    """Wait until the gateway answers. Feeds, which are late on a busy machine, play no part."""
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        with contextlib.suppress(httpx.TransportError):
            if (await client.get("/ai/deployments")).status_code == 200:
                return
        await asyncio.sleep(0.5)
    raise AssertionError("the gateway does not answer")


async def deploy(client: httpx.AsyncClient, name: str, replicas: int, **body: str) -> None:
    made = await client.post("/ai/deployments", json={"name": name, "replicas": replicas, **body})
    assert made.status_code == 201, made.text
    await ready(client, replicas)


async def moved(rig: Rig, client: httpx.AsyncClient, rounds: int) -> bool:
    """Kill the replica that works on a question; print when the other one had it, and return whether that was late."""
    asked: asyncio.Queue[tuple[float, int]] = asyncio.Queue()  # when, and from which port
    go_on = asyncio.Event()

    async def receive(request: web.Request) -> web.Response:
        if request.method == "GET":
            return web.json_response({"data": [{"id": "noise"}]})
        assert request.transport is not None
        asked.put_nowait((time.time(), request.transport.get_extra_info("peername")[1]))
        await go_on.wait()
        text = '{"citations":[{"passage":"p1","quote":"Zebras eat hay"}],"answer":"At noon."}'
        choice = {"message": {"content": text}, "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "usage": {"completion_tokens": 9}})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receive)
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    taken: list[float] = []
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        await deploy(client, "listener", 2, model="noise", engine="openai_compatible", url=url)
        for _ in range(rounds):
            go_on.clear()
            asking = asyncio.ensure_future(mode(client))
            _, port = await asked.get()
            pids = await rig.pids()
            (pid,) = [pid for name, pid in pids.items() if name.startswith("inference:") and port in ports_of(pid)]
            at = rig.end(pid)
            arrived, _ = await asked.get()
            taken.append(arrived - at)
            go_on.set()
            same("the mode of the answer", await asking, "model")
            while pid in (await rig.pids()).values():
                await asyncio.sleep(0.1)
            await ready(client, 2)
    finally:
        go_on.set()
        await client.delete("/ai/deployments/listener")
        await runner.cleanup()
    show("death of a replica to the other one", taken)
    return max(taken) > MOVED_S


def ports_of(pid: int) -> set[int]:
    """Return the local ports of a process."""
    return {one.laddr.port for one in psutil.Process(pid).net_connections("tcp")}


async def served_again(rig: Rig, client: httpx.AsyncClient, file: Path, rounds: int) -> bool:
    """Kill the only replica; print when it answers again, and return whether that was late."""
    back: list[float] = []
    loads: list[float] = []
    undisturbed: list[float] = []
    await deploy(client, "noise", 1, model=str(file), engine="llama_cpp")
    for _ in range(rounds):
        loads.append(await load_s(file))
        begun = time.time()
        same("the mode of an answer", await mode(client), "model")
        undisturbed.append(time.time() - begun)
        pid = (await rig.pids())["inference:noise:0"]
        while not waiting_without_credentials(pid):
            await asyncio.sleep(0.5)
        at = rig.end(pid)
        while await mode(client) != "model":
            await asyncio.sleep(0.02)
        back.append(time.time() - at - undisturbed[-1])
        while (await rig.pids()).get("inference:noise:0") == pid:
            await asyncio.sleep(0.1)
        await ready(client)
    show("bare load", loads)
    show("undisturbed answer", undisturbed)
    show("death of the only replica to an answer, without writing it", back)
    return max(taken - load for taken, load in zip(back, loads, strict=True)) > SERVING_S


def show(name: str, seconds: list[float]) -> None:
    print(f"{name:<60} p50 {statistics.median(seconds):6.3f} s   max {max(seconds):6.3f} s", flush=True)


async def load_s(file: Path) -> float:
    """Return how long the engine takes to load a file in this process."""
    engine = LlamaCppEngine(deployed(file))
    begun = time.perf_counter()
    await engine.load()
    taken = time.perf_counter() - begun
    await engine.close()
    return taken


async def mode(client: httpx.AsyncClient) -> str:
    """Return the mode of an answer to the short question."""
    found = (await client.post("/answer", json=SHORT)).json()
    return str(found.get("mode") or found)


async def forecasts(rounds: int) -> bool:
    with servers.home(is_on_disk=True) as paths, servers.running_postgres(paths, is_durable=True) as postgres:
        await servers.administer(postgres, "CREATE DATABASE bench")
        await migrate.upgrade(postgres.url("bench"))
        db = await Database.connect(postgres.url("bench"), DatabaseSettings(), application="bench")
        try:
            await db.sql(
                "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max,"
                " notional_min) VALUES"
                " ('binance', 'BTCUSDT', 'BTC', 'USDT', 0.01, 0.00001, 0.00001, 9000, 5)"
            )
            return await predict(db, paths.models, rounds)
        finally:
            await db.close()


async def predict(db: Database, models: Path, rounds: int) -> bool:
    bars = autoregression(2000 + rounds + WARM, 0.5, 1, timeframe_s=60)
    await seal(db, bars[:2000])
    made = await run_forecast({"name": "ar", "symbols": ["BTCUSDT"], "timeframe": "1m"}, db, models, by="benchmark")
    await db.sql("UPDATE ai_model_versions SET stage = 'live'")
    version = await ForecastStore(db).find("ar", made["version"])
    model = load_model(models, version, len(version.folds) - 1)
    store, forecaster = ForecastStore(db), Forecaster(db, models, CollectingLog())
    ours: list[float] = []
    theirs: list[float] = []
    for number in range(2000, len(bars)):
        await seal(db, bars[number : number + 1])
        begun = time.perf_counter()
        added = await forecaster.advance()
        ours.append(time.perf_counter() - begun)
        same("rows of a bar", added, 1)
        window = bars[number + 1 - model.spec.bars : number + 1]
        begun = time.perf_counter()
        found = model.predict(features(window, model.spec)[-1:])
        await store.add(
            version,
            "forecast:bare",
            "BTCUSDT",
            end_ns=window.time_ns[-1:] + model.spec.bar_ns,
            value=found.value,
            interval=found.intervals[LEVELS[0]],
            label_end_ns=version.label_end_ns,
            origin="live",
            artifact_hash=version.artifact_hash,
            inputs=[None],
        )
        theirs.append(time.perf_counter() - begun)
    rows = await db.sql("SELECT feature, value, lower, upper FROM feature_values ORDER BY time")
    bare, mine = ([tuple(row)[1:] for row in rows if row["feature"] == f"forecast:{name}"] for name in ("bare", "ar"))
    same("forecasts", mine, bare)
    ours, theirs = ours[WARM:], theirs[WARM:]
    ratio = statistics.median(ours) / statistics.median(theirs)
    late_ms = 1000 * statistics.quantiles(ours, n=100)[98]
    print(f"{len(ours)} bars of one minute, {len(model.spec.features)} features from {model.spec.bars} bars")
    print(f"sealed bar to committed row   p50 {1000 * statistics.median(ours):6.2f} ms   p99 {late_ms:6.2f} ms")
    print(f"features, predict, insert     p50 {1000 * statistics.median(theirs):6.2f} ms")
    print(f"ratio                         {ratio:6.2f}  (at most {ROW_LIMIT}; p99 at most {LATE_MS:g} ms)")
    return ratio > ROW_LIMIT or late_ms > LATE_MS


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--forecasts", action="store_true")
    parser.add_argument("--recovery", action="store_true")
    parser.add_argument("--chat", action="store_true")
    parser.add_argument("--width", type=int, default=768)
    given = parser.parse_args()
    if given.forecasts:
        run(lambda: asyncio.run(forecasts(given.rounds or 300)))
    if given.recovery:
        run(lambda: asyncio.run(recovery(given.rounds or 10)))
    if given.chat:
        run(lambda: asyncio.run(measure(given.rounds or 6, given.width, compare_chats)))
    run(lambda: asyncio.run(measure(given.rounds or 12, given.width, compare_answers)))
