"""Engines of language models: the same rules for llama.cpp in the process, Ollama, and OpenAI's API."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from aiohttp import web

from fks.ai.answers import ANSWER_MAX, QUOTED_MAX, chat_of, checked_answer, schema_of
from fks.ai.engines import engine_of
from fks.ai.engines.deployment import Deployment, check_deployment
from fks.ai.engines.llama import LlamaCppEngine
from fks.ai.engines.port import Completed, Completion, Embedding, TextTaker, unmarked
from fks.ai.engines.queue import InferenceQueue
from fks.ai.machine import gpu_rows
from fks.model.errors import InputError, OutageError, PeerError
from tests.support.gguf_model import deployed, write_model
from tests.support.model_processes import listening
from tests.support.soak_cases import soaked

PASSAGES = ["Zebras eat hay at noon.", "Lions sleep until dusk.", 'Ünïcode 斑马 \\ "quoted"\nsecond line']


def asked(**fields: Any) -> Completion:
    return replace(chat_of("When?", PASSAGES, 30.0), **fields)


def of_user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize("seed", soaked(range(5), 1))
async def test_text_has_the_form_of_the_schema_whatever_the_weights(tmp_path: Path, seed: int) -> None:
    engine = engine_of(deployed(write_model(tmp_path / "a.gguf", seed=seed)))
    await engine.load()
    try:
        first = await engine.complete(asked())
        found = json.loads(first.text)
        assert first.is_whole
        assert first.tokens > 20
        assert 1 <= len(found["citations"]) <= 3
        assert {one["passage"] for one in found["citations"]} <= {"p1", "p2", "p3"}
        assert all(len(one["quote"]) <= QUOTED_MAX for one in found["citations"])
        assert len(found["answer"]) <= ANSWER_MAX
        assert set(found) == {"answer", "citations"}
        checked = checked_answer(first.text, PASSAGES)
        assert checked is None or checked.removed > 0, "noise quotes nothing"
        assert (await engine.complete(asked())).text == first.text, "the same prompt gives the same text"
    finally:
        await engine.close()


async def test_listener_of_llama_is_closed_to_all_but_the_process_itself(tmp_path: Path) -> None:
    engine = LlamaCppEngine(deployed(write_model(tmp_path / "a.gguf")))
    await engine.load()
    ports = [one.laddr for one in psutil.Process().net_connections("tcp") if one.status == "LISTEN"]
    found = []
    async with httpx.AsyncClient(trust_env=False, headers={"Origin": "http://evil.example"}) as http:
        for ip, port in ports:
            with contextlib.suppress(httpx.HTTPError):
                answer = await http.post(f"http://{ip}:{port}/completion", json={"prompt": "a", "n_predict": 1})
                if answer.headers.get("server") == "llama.cpp":
                    found.append((ip, answer.status_code, answer.headers.get("access-control-allow-origin")))
                    assert (await http.get(f"http://{ip}:{port}/")).status_code == 404
    await engine.close()
    assert found == [("127.0.0.1", 401, "")]


async def test_another_file_than_the_deployed_one_is_not_loaded(tmp_path: Path) -> None:
    file = write_model(tmp_path / "a.gguf")
    wanted = deployed(file)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(PeerError, match="another SHA-256"):
        await engine_of(wanted).load()
    file.write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(PeerError, match="cannot load"):
        await engine_of(deployed(file)).load()
    file.unlink()
    with pytest.raises(PeerError, match="cannot be read"):
        await engine_of(wanted).load()


async def test_model_that_asks_for_a_gpu_is_never_loaded_on_the_cpu(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="knows none"):
        await engine_of(deployed(write_model(tmp_path / "a.gguf"), gpus=1.0)).load()


async def test_prompt_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    engine = engine_of(deployed(write_model(tmp_path / "a.gguf"), context_size=2048))
    await engine.load()
    with pytest.raises(InputError, match="exceeds the available context"):
        await engine.complete(asked(messages=of_user("x" * 9000)))
    cut = await engine.complete(asked(tokens_max=3))
    assert (cut.is_whole, checked_answer(cut.text, PASSAGES)) == (False, None)
    await engine.close()


async def test_word_as_long_as_a_request_does_not_end_the_process(tmp_path: Path) -> None:
    """Some of llama.cpp's rules for words go one call deeper with each letter."""
    engine = engine_of(deployed(write_model(tmp_path / "a.gguf", words_by="tekken"), context_size=2048))
    await engine.load()
    with pytest.raises(InputError, match="exceeds the available context"):
        await engine.complete(asked(messages=of_user("a" * 2**18)))
    await engine.close()


async def test_cancelled_request_frees_its_slot_within_a_second(tmp_path: Path) -> None:
    engine = engine_of(deployed(write_model(tmp_path / "a.gguf", width=256, layers=4)))
    await engine.load()
    queue = InferenceQueue(engine)
    running = [asyncio.create_task(queue.call(asdict(asked()))) for _ in range(2)]
    await asyncio.sleep(0.3)
    assert queue.open == 2
    begun = time.monotonic()
    for task in running:
        task.cancel()
    await asyncio.wait(running)
    assert time.monotonic() - begun < 1.0
    assert (queue.open, queue.counts["cancelled"]) == (0, 2)
    late = await queue.call(asdict(asked(timeout_s=0.05)))
    assert late == {"refused": "deadline"}
    done = await queue.call(asdict(asked(tokens_max=5)))
    assert done["tokens"] == 5
    await engine.close()


class Slow:
    """An engine that answers when it is told to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def load(self) -> None: ...

    async def complete(self, asked: Completion, take: TextTaker | None = None) -> Completed:
        await self.go.wait()
        if asked.messages == of_user("fail"):
            raise PeerError("no")
        return Completed("{}", 1, True)

    async def embed(self, asked: Embedding) -> list[list[float]]:
        return []

    async def close(self) -> None: ...


async def test_queue_is_bounded_and_failures_are_answers() -> None:
    engine = Slow()
    queue = InferenceQueue(engine, waiting_max=3)
    tasks = [
        asyncio.create_task(queue.call(asdict(asked(messages=of_user("fail" if n == 4 else ""))))) for n in range(7)
    ]
    await asyncio.sleep(0.01)
    engine.go.set()
    answers = await asyncio.gather(*tasks)
    assert [answer.get("refused") for answer in answers] == [None] * 5 + ["busy"] * 2
    assert answers[4] == {"error": "no"}
    assert queue.counts == {"answered": 4, "tokens": 4, "busy": 2, "late": 0, "failed": 1, "cancelled": 0}
    assert queue.open == 0


def test_checks_of_gpus_name_what_is_missing() -> None:
    def nvidia(version: str, *gpus: str) -> Callable[[Sequence[str]], str]:
        return lambda given: "\n".join(gpus) if given else f"| NVIDIA-SMI 550.1  CUDA Version: {version}   |"

    def unreadable() -> list[int]:
        raise PeerError("NVML: Driver Not Loaded")

    gpus = nvidia("12.4", "NVIDIA A, 24576, 20480", "NVIDIA B, 4096, 1024")
    good = gpu_rows(gpus, lambda: [20 * 10**9, 10**9])
    assert [(row["name"], row["state"]) for row in good] == [
        ("driver", "ok"),
        ("cuda", "ok"),
        ("video memory", "ok"),
        ("video memory", "fail"),
        ("placement", "ok"),
    ]
    assert good[4]["detail"] == "NVML reports 20.0, 1.0 GB free"
    blind = gpu_rows(gpus, unreadable)[4]
    assert (blind["state"], blind["detail"]) == ("fail", "free video memory cannot be read: NVML: Driver Not Loaded")
    assert good[2]["detail"] == "NVIDIA A: 24.0 GB, 20.0 GB free"
    assert gpu_rows(nvidia("12.1", "NVIDIA A, 24576, 1"))[1]["state"] == "fail"
    (absent,) = gpu_rows(lambda given: None)
    assert (absent["name"], absent["state"], "nvidia-smi" in absent["detail"]) == ("driver", "fail", True)


# ── servers behind a URL ─────────────────────────────────────────────────────────────────────────
@contextlib.asynccontextmanager
async def served(**routes: Callable[[dict[str, Any]], Any]) -> AsyncIterator[str]:
    """Serve JSON answers; a name is a path with _ for /."""

    async def answer(request: web.Request) -> web.Response:
        name = request.path.strip("/").replace("/", "_")
        if name not in routes:
            return web.json_response({"error": "none"}, status=404)
        return web.json_response(routes[name](await request.json() if request.can_read_body else {}))

    async with listening(answer) as url:
        yield url


async def test_ollama_is_given_its_context_and_no_prompt_that_it_would_cut() -> None:
    bodies: list[dict[str, Any]] = []

    def chat(body: dict[str, Any]) -> Any:
        bodies.append(body)
        return {"message": {"content": "{}"}, "eval_count": 2, "done_reason": "stop"} if len(bodies) < 2 else {"x": 1}

    async with served(api_tags=lambda _: {"models": [{"name": "llama3.2:3b"}]}, api_chat=chat) as url:
        wanted = Deployment("m", "ollama", "llama3.2:3b", url, context_size=4096)
        engine = engine_of(wanted)
        await engine.load()
        assert await engine.complete(asked()) == Completed("{}", 2, True)
        assert bodies[0]["format"] == schema_of(3)
        limits = bodies[0]["options"]
        prompt = sum(len(message["content"].encode()) for message in bodies[0]["messages"])
        assert (limits["num_ctx"], limits["temperature"]) == (4096, 0)
        assert limits["num_predict"] == 4096 - prompt
        with pytest.raises(PeerError, match="another form"):
            await engine.complete(asked())
        with pytest.raises(InputError, match="may not fit into 4096 tokens"):
            await engine.complete(asked(messages=of_user("é" * 3000)))
        assert len(bodies) == 2, "it never saw the long prompt"
        with pytest.raises(PeerError, match="has no model"):
            await engine_of(replace(wanted, model="other")).load()
        await engine.close()
    with pytest.raises(OutageError, match="does not answer"):
        await engine_of(wanted).load()


async def test_server_with_openais_api_is_asked_for_the_schema() -> None:
    def chat(body: dict[str, Any]) -> Any:
        assert body["response_format"]["json_schema"]["schema"] == schema_of(3)
        return {
            "choices": [{"message": {"content": "{}"}, "finish_reason": "length"}],
            "usage": {"completion_tokens": body["max_tokens"]},
        }

    async with served(v1_models=lambda _: {"data": [{"id": "m"}]}, v1_chat_completions=chat) as url:
        engine = engine_of(Deployment("m", "openai_compatible", "m", url, context_size=4096))
        await engine.load()
        assert await engine.complete(asked()) == Completed("{}", 2048, False)
        await engine.close()


async def test_answer_without_an_end_is_read_up_to_a_limit() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        found = web.StreamResponse()
        await found.prepare(request)
        with contextlib.suppress(ConnectionError):  # the engine leaves
            for _ in range(1000):
                await found.write(b" " * 2**20)
        return found

    async with listening(endless) as url:
        for name in ("ollama", "openai_compatible"):
            engine = engine_of(Deployment("m", name, "m", url))  # type: ignore[arg-type]
            for work in (engine.load(), engine.complete(asked())):
                with pytest.raises(PeerError, match="answered more than 8388608 bytes"):
                    await work
            await engine.close()


# ── deployments ──────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://models.example",
        "https://8.8.8.8:1",
        "ftp://127.0.0.1",
        "http://0.0.0.0:1",
        "http://169.254.169.254",
        "http://api.openai.com",
    ],
)
def test_no_document_goes_to_a_public_address(url: str) -> None:
    with pytest.raises(InputError, match="documents would leave it"):
        check_deployment(Deployment("m", "openai_compatible", "m", url))


def test_deployments_that_no_engine_can_serve_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("http://127.0.0.1:1", "http://localhost:1", "http://10.0.0.7:1", "http://[::1]:1"):
        check_deployment(Deployment("m", "ollama", "m", url))
    text = tmp_path / "a.gguf"
    text.write_text("no model")
    for wanted in (
        Deployment("m", "llama_cpp", str(text)),
        Deployment("m", "llama_cpp", "a.gguf"),
        Deployment("m:1", "llama_cpp", str(write_model(tmp_path / "b.gguf"))),
        Deployment("m", "ollama", "m", "http://127.0.0.1:1", gpus=1.0),
        Deployment("m", "llama_cpp", str(write_model(tmp_path / "c.gguf")), gpus=1.5),
    ):
        with pytest.raises(InputError) as refused:
            check_deployment(wanted)
        assert refused.value.status == 422
    monkeypatch.setattr("fks.ai.engines.deployment.has_llama", lambda: False)
    with pytest.raises(InputError, match="not installed") as refused:
        check_deployment(Deployment("m", "llama_cpp", str(text)))
    assert (refused.value.status, "pip install 'fks[ai]'" in refused.value.remedy) == (501, True)


@pytest.mark.parametrize(
    "mark",
    [
        "<|im_start|>",
        "<|eot_id|>",
        "[INST]",
        "</s>",
        "<start_of_turn>",
        "<end_of_turn>",
        "<｜User｜>",
        "<｜end▁of▁sentence｜>",
    ],
)
def test_marks_of_turns_are_removed_from_texts(mark: str) -> None:
    assert unmarked(f"a{mark}b < c | d > e") == "a b < c | d > e"
