"""A language model on a GPU: tokens a second, the first token and the free video memory of `POST /answer`, against
llama.cpp alone.

    python benchmarks/ai_gpu.py MODEL.gguf [--rounds 12]

It was never run: no machine of ours had a GPU. Without one, or without a build of llama.cpp that knows it, it prints
"no GPU here" with the reason, and exits 2. A whole demo system in a temporary FKS_HOME serves the file with `gpus: 1`;
llama.cpp in this process loads it on the same GPU and gets the same prompts, question by question, both in turns. So the
video memory must hold the file twice. The texts are compared first. Limit: 0.95 of llama.cpp alone; exits 1 below it,
and where texts differ.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._results import run, same
from benchmarks.ai import LIMIT, QUESTIONS, ready, texts_of
from benchmarks.faults.rig import Rig
from fks.ai.answers import chat_of, checked_answer
from fks.ai.engines.llama import LlamaCppEngine
from fks.ai.machine import gpu_rows, has_gpu_build
from tests.support.gguf_model import deployed


def missing() -> str:
    """Return why no model can run on a GPU of this machine, or nothing."""
    failed = [f"{row['name']}: {row['detail']}" for row in gpu_rows() if row["state"] == "fail"]
    if not failed and not has_gpu_build():
        failed = ["engine: llama.cpp is not installed in a build that knows a GPU"]
    return "; ".join(failed)


def show_memory(when: str) -> None:
    for row in gpu_rows():
        if row["name"] == "video memory":
            print(f"{when:<16}{row['detail']}")


async def measure(file: Path, rounds: int) -> bool:
    with tempfile.TemporaryDirectory(prefix="fks-ai-gpu-") as made:
        os.chmod(made, 0o755)  # the database's own user must come through
        bare = LlamaCppEngine(deployed(file, gpus=1.0))
        rig = Rig.at(Path(made) / "home", FKS_AI_ANSWER_TIMEOUT_S="300")
        try:
            show_memory("before")
            await asyncio.to_thread(rig.system.up)
            await rig.healthy()
            async with rig.client() as client:
                client.timeout = httpx.Timeout(400.0)
                body = {"name": "gpu", "model": str(file), "engine": "llama_cpp", "gpus": 1.0}
                row = await client.post("/ai/deployments", json=body)
                assert row.status_code == 201, row.text
                await ready(client)
                show_memory("served")
                await bare.load()
                show_memory("loaded twice")
                return await compare(rig, client, bare, rounds)
        finally:
            await bare.close()
            await rig.close()
            await asyncio.to_thread(rig.system.down)


async def compare(rig: Rig, client: httpx.AsyncClient, bare: LlamaCppEngine, rounds: int) -> bool:
    seconds: dict[str, list[float]] = {"POST /answer": [], "llama.cpp alone": []}
    first: dict[str, list[float]] = {name: [] for name in seconds}
    tokens: list[int] = []
    for number in range(rounds + len(QUESTIONS)):  # the first of each warms up
        question = {"question": QUESTIONS[number % len(QUESTIONS)], "collection": "fks"}
        answer, starts = dict[str, Any](), [0.0, 0.0]
        begun = time.perf_counter()
        async with client.stream("POST", "/answer", json=question, headers={"Accept": "text/event-stream"}) as response:
            event = ""
            async for line in response.aiter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    event = value
                elif name == "data" and event == "answer":
                    answer = json.loads(value)
                elif name == "data" and event == "token":
                    starts[0] = starts[0] or time.perf_counter() - begun
        asked_s = time.perf_counter() - begun
        texts = await texts_of(rig, answer)
        prompt = chat_of(question["question"], texts, 300.0)
        begun = time.perf_counter()

        def take(_: str, since: float = begun, starts: list[float] = starts) -> None:
            starts[1] = starts[1] or time.perf_counter() - since

        done = await bare.complete(prompt, take)
        bare_s = time.perf_counter() - begun
        checked = checked_answer(done.text, texts)
        same("the text of the model", answer.get("answer"), checked and checked.text)
        if number >= len(QUESTIONS):
            tokens.append(done.tokens)
            for name, total, start in zip(seconds, (asked_s, bare_s), starts, strict=True):
                seconds[name].append(total)
                first[name].append(start)
    for name, found in seconds.items():
        start_ms = 1000 * statistics.median(first[name])
        print(f"{name:<16}{sum(tokens) / sum(found):8.1f} tokens/s, first token after {start_ms:.0f} ms (p50)")
    ours, theirs = seconds.values()
    ratio = statistics.median(bare_s / mine for bare_s, mine in zip(theirs, ours, strict=True))
    print(f"ratio           {ratio:8.3f}  (median of the rounds; at least {LIMIT})")
    return ratio < LIMIT


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--rounds", type=int, default=12)
    given = parser.parse_args()
    if reason := missing():
        print(f"no GPU here: {reason}")
        sys.exit(2)
    run(lambda: asyncio.run(measure(given.file.resolve(), given.rounds)))
