"""Language models in the running system: placed, isolated, killed while they answer, and failed without the others."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from fks.config.paths import Paths
from fks.config.secrets import load_secrets
from fks.store.documents import shipped_pages
from tests.support.gguf_model import write_model
from tests.support.onnx_model import write_encoder
from tests.support.process_memory import NO_GPU, held_in_memory
from tests.support.system import System, waiting_without_credentials
from tests.support.waiting import wait_until

#: short: to a model whose tokens are bytes a chunk of FKS's pages has thousands
PAGE = {"name": "zebra.markdown", "text": "# Feeding\nZebras eat hay at noon.\n"}
QUESTION = {"question": "When do zebras eat hay?", "collection": "user"}
DEADLINE_S = 20.0  # FKS_AI_ANSWER_TIMEOUT_S of the shared system
SLACK_S = 5.0  # of a busy machine: search, and the way to and from the gateway
START_S = 60.0  # a new process on a machine that trades


def models(system: System) -> dict[str, Any]:
    """Return the deployments. They are polled: a command for each look would take the processor from the models."""
    with system.client() as client:
        found = client.get("/ai/deployments").raise_for_status().json()["items"]
    return {row["name"]: row for row in found}


def wait_ready(system: System, name: str, count: int) -> None:
    wait_until(lambda: len(models(system)[name]["ready"]) == count, deadline_s=START_S, every_s=0.5)


@pytest.fixture
def served(system: System, tmp_path: Path) -> Iterator[System]:
    """Return the system with a model on two processes; afterwards there is none."""
    file = write_model(tmp_path / "noise.gguf", width=64)
    with system.client() as client:
        id = client.post("/documents", json=PAGE).raise_for_status().json()["id"]
    system.fks("ai", "deploy", "noise", "--file", str(file), "--replicas", "2")
    wait_ready(system, "noise", 2)
    try:
        yield system
    finally:
        with system.client() as client:
            client.delete(f"/documents/{id}")
            for name in models(system):
                client.delete(f"/ai/deployments/{name}").raise_for_status()
        wait_until(lambda: not [name for name in system.components() if name.startswith("inference:")], deadline_s=30.0)


def test_processes_of_models_are_isolated_supervised_and_killed(served: System, tmp_path: Path) -> None:
    children = {f"inference:noise:{number}" for number in range(2)}
    rows = {name: served.components()[name] for name in children}

    # no credential in its memory, which holds its environment, and no connection to PostgreSQL, Redis or a venue
    node, secrets = served.node, load_secrets(Paths.of(served.home))
    hidden = [served.env["FKS_AI_OPENAI_API_KEY"], node["database_url"], node["redis_url"]]
    hidden += [getattr(secrets, name).get_secret_value() for name in ("postgres_password", "cli_token", "session_key")]
    ports = {urlsplit(node["database_url"]).port, urlsplit(node["redis_url"]).port}
    monitor = served.components()["monitor"]["pid"]
    gateway = next(row["pid"] for name, row in served.components().items() if name.startswith("gateway"))
    assert held_in_memory(monitor, [NO_GPU]) == [NO_GPU]
    assert held_in_memory(gateway, [NO_GPU]) == [NO_GPU], "Ray hides the GPUs from a replica of Serve"
    assert held_in_memory(monitor, hidden), "the search finds what another process holds"
    for row in rows.values():
        assert held_in_memory(row["pid"], hidden) == []
        assert held_in_memory(row["pid"], [NO_GPU]) == [NO_GPU]
        process = psutil.Process(row["pid"])
        assert not {one.raddr.port for one in process.net_connections("inet") if one.raddr} & ports
        listening = [one.laddr.ip for one in process.net_connections("inet") if one.status == "LISTEN"]
        assert "127.0.0.1" in listening

    # they begin here, and end while the other model answers: a file that does not load, and a GPU that is not there
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\0" * 1000)
    served.fks("ai", "deploy", "broken", "--file", str(broken))
    served.fks("ai", "deploy", "fast", "--file", str(tmp_path / "noise.gguf"), "--gpu")

    # kill -9 of a replica while answers are written: each ends in time, and there is an answer of a model again
    ended: list[tuple[int, float]] = []

    def ask(number: int) -> str:
        begun = time.monotonic()
        with served.client() as client:
            answer = client.post("/answer", json=QUESTION, timeout=httpx.Timeout(DEADLINE_S + SLACK_S))
        ended.append((answer.status_code, time.monotonic() - begun))
        if number == 1:
            os.kill(rows["inference:noise:0"]["pid"], signal.SIGKILL)
        return str(answer.json().get("mode"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(8)))
    assert len(ended) == 8
    assert {status for status, _ in ended} <= {200, 503}
    assert max(seconds for _, seconds in ended) < DEADLINE_S + SLACK_S
    served.back_after("inference:noise:0", rows["inference:noise:0"]["pid"], deadline_s=START_S)
    wait_ready(served, "noise", 2)
    wait_until(lambda: ask(8) == "model", deadline_s=3 * DEADLINE_S)

    # its figures and its death are listed, and its tokens are a metric
    def figures() -> tuple[Any, ...]:
        first, second = models(served)["noise"]["processes"]
        is_counted = min(first["memory_mb"] or 0, second["memory_mb"] or 0, second["answered"] or 0) > 0
        return is_counted, (first["waiting"], second["waiting"]), "SIGKILL" in (first["death"] or ""), second["death"]

    wait_until(lambda: figures() == (True, (0, 0), True, None), deadline_s=30.0, every_s=0.5)
    counted = re.compile(r'^fks_model_tokens_total\{component="inference:noise:1",model="noise"\} [1-9]', re.MULTILINE)
    with served.client() as client:
        wait_until(lambda: counted.search(client.get("/metrics").text) is not None, deadline_s=30.0, every_s=0.5)

    # a file that does not load ends its process twice: it is failed, and not loaded again; the others go on
    wait_until(lambda: models(served)["broken"]["state"] == "failed", deadline_s=2 * START_S, every_s=0.5)
    assert "llama.cpp cannot load" in models(served)["broken"]["reason"]
    raised = "SELECT message FROM alerts WHERE event = 'ai.failed' AND resolved_at IS NULL"
    wait_until(lambda: "llama.cpp cannot load" in str(served.sql(raised)), deadline_s=15.0)
    wait_until(lambda: "inference:broken:0" not in served.components(), deadline_s=30.0)
    starts = "SELECT time, payload FROM actor_events WHERE child = 'inference:broken:0' AND event = 'exited'"
    assert len(ends := served.sql(starts)) <= 3, ends

    # a GPU that is not there is waited for, and the CPU does not take its place
    wait_until(lambda: models(served)["fast"]["state"] == "unschedulable", deadline_s=15.0)
    assert models(served)["fast"]["reason"].startswith("it asks for 1 GPU")
    assert "inference:fast:0" not in served.components()
    assert {row["name"]: row["state"] for row in served.json("ai", "models")["items"]}["noise"] == "serving"
    assert "3 deployments" in served.fks("ai", "doctor").stdout
    shown = served.fks("ai", "ask", "When do zebras eat hay?", "--collection", "user").stdout
    assert "[1] " in shown


def test_answers_are_streamed_and_an_encoder_is_served(served: System, tmp_path: Path) -> None:
    with served.client() as client:
        asked = client.stream(
            "POST", "/answer", json=QUESTION, headers={"Accept": "text/event-stream"}, timeout=DEADLINE_S + SLACK_S
        )
        with asked as answer:
            names = [line.removeprefix("event: ") for line in answer.iter_lines() if line.startswith("event: ")]
    assert (names[0], names[-1], {*names[1:-1]} <= {"token"}) == ("passages", "answer", True)

    words = sorted({word for text in shipped_pages().values() for word in re.findall(r"[a-z]{3,}", text.lower())})
    served.fks("ai", "deploy", "words", "--embed", "--file", str(write_encoder(tmp_path / "words", words)))
    wait_ready(served, "words", 1)

    # its successor begins in a process that waited for it, and that was given no credential either; a job may take that
    # one at the moment of the kill
    is_taken_over = False
    for _ in range(3):
        pid = served.components()["inference:words:0"]["pid"]
        wait_until(lambda pid=pid: waiting_without_credentials(pid) != [], deadline_s=START_S, every_s=0.5)
        waiting = waiting_without_credentials(pid)
        os.kill(pid, signal.SIGKILL)
        served.back_after("inference:words:0", pid, deadline_s=START_S)
        successor = served.components()["inference:words:0"]["pid"]
        if is_taken_over := successor in waiting:
            break
    assert is_taken_over
    assert held_in_memory(successor, [served.env["FKS_AI_OPENAI_API_KEY"], served.node["database_url"]]) == []
    wait_ready(served, "words", 1)
