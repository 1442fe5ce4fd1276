"""OpenAI in the place of a model: a listener at its address receives what a person gave consent for, and no more."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import math
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from fks.config.settings import Ai
from fks.interfaces.cli.base import OK, USAGE
from fks.research.jobs.documents import run_documents, with_provider
from fks.store.db import Database
from fks.store.deployments import DeploymentStore
from tests.support.api_fixtures import Fks
from tests.support.gateway import Running, hashes_of, running
from tests.support.gguf_model import deployed, write_model
from tests.support.waiting import until

KEY = "sk-planted-0123456789"
MINE = "# Zebra policy\nZebras eat hay at noon, says Quibbler.\n"
PAGE = "# Zebra manual\nZebras eat hay at midnight, says the shipped page.\n"
QUESTION = {"question": "When do zebras eat hay?"}
GIVEN = {"collection": "user", "model": "gpt-x", "daily_budget": "1", "input_price": "0.15", "output_price": "0.6"}
USAGE_OF_CALL = {"prompt_tokens": 1000, "completion_tokens": 500}


def completed(*quotes: str, **changed: Any) -> dict[str, Any]:
    """Return OpenAI's answer with quotes of the first passage."""
    text = json.dumps({"citations": [{"passage": "p1", "quote": quote} for quote in quotes], "answer": "At noon."})
    return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": USAGE_OF_CALL} | changed


@dataclass
class Provider:
    """A listener in the place of OpenAI. `rows`: of ai_external_calls, as each request found them."""

    db: Database
    url: str = ""
    requests: list[tuple[str, bytes, str]] = field(default_factory=list)
    rows: list[list[dict[str, Any]]] = field(default_factory=list)
    open: list[asyncio.Transport] = field(default_factory=list)
    answer: Callable[[], Any] = lambda: completed("Zebras eat hay")
    reply: Callable[[dict[str, Any]], Any] | None = None
    status: int = 200
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        assert request.transport is not None
        self.open.append(request.transport)
        self.requests.append((request.path, body, request.headers.get("Authorization", "")))
        self.rows.append([dict(row) for row in await self.db.sql("SELECT * FROM ai_external_calls ORDER BY id")])
        await self.gate.wait()
        found = self.answer() if self.reply is None else self.reply(json.loads(body))
        return web.json_response(found, status=self.status)

    def users(self) -> list[str]:
        """Return the users' parts of the prompts that were received."""
        return [json.loads(body)["messages"][1]["content"] for _, body, _ in self.requests]


@pytest.fixture
async def provider(seeded: Database) -> AsyncIterator[Provider]:
    found = Provider(seeded)
    found.gate.set()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", found.receive)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    found.gate.set()
    await runner.cleanup()


@contextlib.asynccontextmanager
async def served(db: Database, place: tuple[str, str, Path], url: str, key: str = KEY) -> AsyncIterator[Running]:
    """Serve a gateway with a document of a person and a page of FKS."""
    ai = Ai.model_validate({"openai_api_key": key, "openai_url": url, "answer_timeout_s": 5.0})
    async with running(db, *place, ai=ai) as gateway:
        await gateway.app.state.gateway.documents.store_pages({"manual.txt": PAGE})
        async with gateway.client("trade") as client:
            assert (await client.post("/documents", json={"name": "zebra.markdown", "text": MINE})).status_code == 201
        yield gateway


@pytest.fixture
def place(database_url: str, redis_url: str, tmp_path: Path) -> tuple[str, str, Path]:
    return database_url, redis_url, tmp_path


@pytest.fixture
async def gateway(seeded: Database, place: tuple[str, str, Path], provider: Provider) -> AsyncIterator[Running]:
    async with served(seeded, place, provider.url) as gateway:
        yield gateway


async def give(gateway: Running, **changed: str | None) -> None:
    async with gateway.client("admin") as client:
        made = await client.post("/ai/consents", json=GIVEN | changed)
        assert made.status_code == 201, made.text


async def asked(gateway: Running, **body: Any) -> dict[str, Any]:
    async with gateway.client("read") as client:
        answer = await client.post("/answer", json=QUESTION | body)
        assert answer.status_code == 200
        assert KEY not in answer.text
        found: dict[str, Any] = answer.json()
        return found


async def calls(db: Database) -> list[dict[str, Any]]:
    return [dict(row) for row in await db.sql("SELECT * FROM ai_external_calls ORDER BY id")]


async def test_key_without_a_consent_sends_nothing(gateway: Running, seeded: Database, provider: Provider) -> None:
    answer = await asked(gateway)
    assert (answer["mode"], answer["state"], len(answer["passages"])) == ("extract_only", "answered", 2)
    assert "reason" not in answer
    assert (provider.requests, await calls(seeded)) == ([], [])


async def test_consent_without_a_key_sends_nothing(
    seeded: Database, place: tuple[str, str, Path], provider: Provider
) -> None:
    async with served(seeded, place, provider.url, key="") as gateway:
        await give(gateway)
        assert (await asked(gateway))["mode"] == "extract_only"
        async with gateway.client("read") as client:
            (row,) = (await client.get("/ai/consents")).json()["items"]
        assert row["reason"] == "OPENAI_API_KEY is not set"
    assert (provider.requests, await calls(seeded)) == ([], [])


@pytest.mark.parametrize(
    ("collection", "sent", "kept"), [("user", "Quibbler", "shipped page"), ("fks", "shipped page", "Quibbler")]
)
async def test_passages_of_the_collection_are_sent_and_no_others(
    gateway: Running, seeded: Database, provider: Provider, collection: str, sent: str, kept: str
) -> None:
    await give(gateway, collection=collection)
    answer = await asked(gateway)
    ((path, body, authorization),) = provider.requests
    assert (path, authorization) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert (sent in body.decode(), kept in body.decode()) == (True, False)
    (mine,) = [one for one in answer["passages"] if one["document"]["collection"] == collection]
    (row,) = await seeded.sql("SELECT text FROM ai_chunks WHERE id::text = $1", mine["chunk"])
    assert provider.users() == [f"[p1]\n{row['text']}\n\nQuestion: {QUESTION['question']}"]
    assert (answer["mode"], answer["answer"], answer["flagged"]) == ("model", "At noon.", False)
    assert (answer["provider"], answer["model"], len(answer["passages"])) == ("openai", "gpt-x", 2)
    assert [cited["chunk"] for cited in answer["citations"]] == [mine["chunk"]]
    other = {"user": "fks", "fks": "user"}[collection]
    assert (await asked(gateway, collection=other))["mode"] == "extract_only"
    assert len(provider.requests) == 1


async def test_nothing_of_an_account_is_in_a_request(gateway: Running, seeded: Database, provider: Provider) -> None:
    """The body is the fixed instruction, the passage and the question: each of its texts is accounted for."""
    await give(gateway)
    account = {row[0] for row in await seeded.sql("SELECT name FROM accounts")}
    assert account
    await asked(gateway)
    ((_, body, _),) = provider.requests
    found = json.loads(body)
    assert set(found) == {"model", "messages", "response_format", "max_completion_tokens"}
    form = found["response_format"]["json_schema"]
    assert (form["strict"], '"maxLength"' in json.dumps(form)) == (True, False), "OpenAI refuses lengths"
    assert [message["role"] for message in found["messages"]] == ["system", "user"]
    assert not [name for name in account if name in found["messages"][1]["content"]]
    for secret in (KEY, *gateway.tokens.values()):
        assert secret not in body.decode()


async def test_call_is_recorded_before_it_is_sent_and_priced_after(
    gateway: Running, seeded: Database, provider: Provider
) -> None:
    await give(gateway)
    await asked(gateway)
    ((before,),) = provider.rows
    size = len(provider.requests[0][1])
    assert (before["bytes"], before["outcome"], before["input_tokens"]) == (size, "", None)
    assert before["cost"] == (size * Decimal("0.15") + 5_000 * Decimal("0.6")) / 1_000_000
    (after,) = await calls(seeded)
    assert (after["bytes"], after["outcome"]) == (size, "answered")
    assert (after["input_tokens"], after["output_tokens"], after["cost"]) == (1000, 500, Decimal("0.00045"))
    async with gateway.client("read") as client:
        (row,) = (await client.get("/ai/consents")).json()["items"]
    assert (row["calls_today"], row["bytes_today"], row["spent_today"]) == (1, size, "0.00045")


async def test_revoked_consent_sends_nothing_more(gateway: Running, seeded: Database, provider: Provider) -> None:
    await give(gateway)
    await asked(gateway)
    async with gateway.client("admin") as client:
        assert (await client.delete("/ai/consents/user/answer")).status_code == 200
        again = await client.delete("/ai/consents/user/answer")
        assert (again.status_code, again.json()["code"]) == (404, "AI_CONSENT_UNKNOWN")
    assert (await asked(gateway))["mode"] == "extract_only"
    assert len(provider.requests) == 1
    assert len(await calls(seeded)) == 1, "the record stays"


async def test_budget_is_never_exceeded_by_requests_at_once(
    gateway: Running, seeded: Database, provider: Provider
) -> None:
    """A call costs at most between 0.0027 and 0.004 USD, so that two fit while their tokens are not known."""
    await give(gateway, daily_budget="0.008")
    provider.gate.clear()
    asking = [asyncio.create_task(asked(gateway)) for _ in range(6)]
    await until(lambda: sum(task.done() for task in asking) == 4 and len(provider.requests) == 2)
    refused = [task.result() for task in asking if task.done()]
    assert all(Decimal("0.0027") < row["cost"] < Decimal("0.004") for row in await calls(seeded))
    assert all(answer["mode"] == "extract_only" for answer in refused)
    assert all("the budget of 0.008 USD a day is used up" in answer["reason"] for answer in refused)
    provider.gate.set()
    assert [answer["mode"] for answer in await asyncio.gather(*asking)].count("model") == 2
    assert len(provider.requests) == len(await calls(seeded)) == 2
    await give(gateway, daily_budget="0.0009")  # another consent: what was spent stays spent
    assert "0.0009 are spent" in (await asked(gateway))["reason"]
    await seeded.sql("UPDATE ai_external_calls SET time = time - interval '1 day'")
    await give(gateway, daily_budget="0.0035")
    assert (await asked(gateway))["mode"] == "model", "a day has its own budget"


async def test_model_here_is_never_replaced_by_openai(
    gateway: Running, seeded: Database, provider: Provider, tmp_path: Path
) -> None:
    await give(gateway)
    assert (await asked(gateway, model="small"))["mode"] == "extract_only", "another model was meant"
    await DeploymentStore(seeded).save(deployed(write_model(tmp_path / "a.gguf"), "small"), by="me")
    for state in ("wanted", "unschedulable", "failed"):
        await seeded.sql("UPDATE ai_deployments SET state = $1", state)
        assert (await asked(gateway))["mode"] == "extract_only"
    assert provider.requests == []
    await DeploymentStore(seeded).remove("small")
    assert (await asked(gateway))["mode"] == "model"


async def test_failing_provider_costs_its_text_alone_and_shows_no_key(
    gateway: Running, seeded: Database, provider: Provider
) -> None:
    await give(gateway)
    refusal = {"error": {"message": f"Incorrect API key provided: {KEY}"}}
    echo = completed(usage={"prompt_tokens": 1, "completion_tokens": KEY})
    cases: list[tuple[Any, int, str]] = [
        (refusal, 401, "answered 401"),
        (refusal, 200, "another form"),
        (echo, 200, "another form"),
        ([], 200, "answered 200"),
        (completed(usage={"prompt_tokens": math.inf, "completion_tokens": 1}), 200, "another form"),
        (completed(usage={"prompt_tokens": -9, "completion_tokens": 5}), 200, ""),
        (completed(usage={"prompt_tokens": 9, "completion_tokens": 10**30}), 200, ""),
        (completed(choices=[{"message": {"content": None}, "finish_reason": "stop"}]), 200, "no answer in the form"),
    ]
    for answer, status, reason in cases:
        provider.answer, provider.status = lambda answer=answer: answer, status
        found = await asked(gateway)
        assert (reason in found.get("reason", ""), len(found["passages"])) == (True, 2), (answer, found)
        assert (found["mode"] == "model") == (reason == "")
    rows = await calls(seeded)
    assert [row["outcome"] == "answered" for row in rows] == [False] * 5 + [True, True, False]
    most = [(row["bytes"] * Decimal("0.15") + 3_000) / 1_000_000 for row in rows]
    assert [row["cost"] for row in rows[:7]] == most[:7], "unknown tokens count as the most that they can cost"
    assert rows[7]["cost"] == Decimal("0.00045"), "they are paid"
    kept = json.dumps([rows, gateway.log.lines], default=str)
    assert "ai.unanswered" in kept
    assert KEY not in kept


async def test_client_that_leaves_ends_the_request_and_its_cost_stays(
    gateway: Running, seeded: Database, provider: Provider
) -> None:
    await give(gateway)
    provider.gate.clear()
    asking = asyncio.create_task(asked(gateway))
    await until(lambda: len(provider.requests) == 1)
    asking.cancel()
    await until(lambda: provider.open[0].is_closing())
    (row,) = await calls(seeded)
    assert (row["outcome"], row["ended_at"], row["cost"] > 0) == ("", None, True)


async def test_stream_ends_with_the_checked_answer_of_openai(gateway: Running, provider: Provider) -> None:
    await give(gateway)
    async with gateway.client("read") as client:
        answer = await client.post("/answer", json=QUESTION, headers={"Accept": "text/event-stream"})
    events = [part.split("\n")[0] for part in answer.text.strip().split("\n\n")]
    assert events == ["event: passages", "event: answer"]
    assert '"provider":"openai"' in answer.text.replace(" ", "")


async def test_commands_give_list_and_revoke_and_are_audited(
    gateway: Running, seeded: Database, provider: Provider, fks: Fks
) -> None:
    code, out, _ = await fks("ai", "consent", "list")
    assert (code, "nothing is sent to OpenAI" in out) == (OK, True)
    prices = ("--input-price", "0.15", "--output-price", "0.6")
    code, out, err = await fks("ai", "consent", "give", "user", "--model", "gpt-x", "--budget", "2.5", *prices)
    assert (code, err, "gpt-x, for 2.5 USD a day" in out) == (OK, "", True)
    code, out, _ = await fks("ai", "ask", QUESTION["question"])
    assert (code, "(by the model gpt-x at OpenAI)" in out) == (OK, True)
    code, out, _ = await fks("ai", "consent", "list", "--json")
    (row,) = json.loads(out)["items"]
    assert (row["daily_budget"], row["spent_today"], row["calls_today"], row["reason"]) == ("2.5", "0.00045", 1, "")
    assert (await fks("ai", "consent", "revoke", "user"))[0] == OK
    assert (await fks("ai", "consent", "revoke", "user"))[0] == USAGE
    assert (await fks("ai", "consent", "give", "user", "--model", "m", "--budget", "-1", *prices))[0] == USAGE
    audited = await seeded.sql("SELECT detail::text FROM audit_log WHERE action LIKE '%consents%'")
    assert any("gpt-x" in row[0] and "2.5" in row[0] for row in audited)


async def test_consents_change_nothing_else(gateway: Running, seeded: Database) -> None:
    kept = ("audit_log", "api_tokens")
    before = await hashes_of(seeded, *kept)
    async with gateway.client("admin") as client:
        for wrong in (
            {"collection": "all"},
            {"purpose": "embed"},
            {"output_price": None},
            {"daily_budget": "0"},
            {"input_price": "NaN"},
        ):
            assert (await client.post("/ai/consents", json=GIVEN | wrong)).status_code in (400, 422)
    assert await hashes_of(seeded, *kept) == before


# ── vectors ──────────────────────────────────────────────────────────────────────────────────────
EMBEDDING = {"purpose": "embed", "model": "embed-x", "output_price": None}


def vectors(body: dict[str, Any]) -> dict[str, Any]:
    """Return OpenAI's answer with a vector of the words of each text, the last one first."""
    items = []
    for number, text in enumerate(body["input"]):
        vector = [0.001] * 32
        for word in re.findall(r"[a-z]+", text.lower()):
            vector[hash_of(word) % 32] += 1.0
        items.append({"index": number, "embedding": vector})
    return {"data": items[::-1], "usage": {"prompt_tokens": 10}}


def hash_of(word: str) -> int:
    return int(hashlib.sha256(word.encode()).hexdigest(), 16)


async def embedded(gateway: Running, db: Database) -> str:
    """Run the job that gives chunks their vectors, as its runner does; return what it did."""
    ai = gateway.app.state.gateway.deps.settings.ai
    return str((await run_documents(db, with_provider(db, ai, None), ai.provider))["vectors"])


async def version(db: Database) -> Any:
    rows = await db.sql("SELECT id, deployment, dimensions FROM ai_embedders WHERE state = 'active'")
    return tuple(rows[0]) if rows else None


async def test_vectors_are_made_by_openai_for_collections_with_a_consent_alone(
    gateway: Running, seeded: Database, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fks.research.jobs.documents.shipped_pages", dict)
    provider.reply = vectors
    pages = {f"{n}.txt": f"# Animal {n}\nThe animal of number {n} eats grass number {n * n}.\n" for n in range(10)}
    await gateway.app.state.gateway.documents.store_pages({"manual.txt": PAGE} | pages)
    await give(gateway, **EMBEDDING)
    assert "fitted" in await embedded(gateway, seeded), "no consent for the other collection"
    assert provider.requests == []
    (built_in, _, _) = await version(seeded)

    await give(gateway, collection="fks", **EMBEDDING | {"model": "embed-y"})
    assert "0 chunks embedded" in await embedded(gateway, seeded), "vectors of two models never mix"
    await give(gateway, collection="fks", **EMBEDDING | {"daily_budget": "0.00001"})
    assert "may cost" in await embedded(gateway, seeded)
    assert (provider.requests, await calls(seeded), (await version(seeded))[0]) == ([], [], built_in)

    await give(gateway, collection="fks", **EMBEDDING)
    assert "by openai:embed-x" in await embedded(gateway, seeded)
    id, name, dimensions = await version(seeded)
    assert (id != built_in, name, dimensions) == (True, "openai:embed-x", 32)
    bodies = [
        json.loads(body) for path, body, key in provider.requests if (path, key) == ("/v1/embeddings", f"Bearer {KEY}")
    ]
    assert len(bodies) == len(provider.requests) == len(await calls(seeded))
    assert all(set(body) == {"model", "input", "encoding_format"} for body in bodies)
    mixed = [body for body in bodies if "Quibbler" in str(body) and ("Animal" in str(body) or "manual" in str(body))]
    assert mixed == [], "texts of two collections are in two requests"
    rows = await calls(seeded)
    assert {row["collection"] for row in rows} == {"fks", "user"}
    assert {(row["purpose"], row["outcome"], row["input_tokens"], row["output_tokens"]) for row in rows} == {
        ("embed", "embedded", 10, 0)
    }
    assert all(found[-1]["outcome"] == "" for found in provider.rows), "each was recorded before it was sent"
    assert sum(row["cost"] for row in rows) == len(rows) * Decimal("0.0000015")

    async with gateway.client("read") as client:
        found = (await client.post("/search", json={"query": "quibbler says zebras"})).json()
        made = (await client.post("/embeddings", json={"input": "zebras"})).json()
    assert (found["mode"], found["items"][0]["document"]["name"]) == ("hybrid", "zebra.markdown")
    assert (made["model"], len(made["data"][0]["embedding"])) == ("openai:embed-x", 32)
    sent = len(provider.requests)
    async with gateway.client("read") as client:
        refused = await client.post("/embeddings", json={"input": "zebras", "model": "tfidf-svd"})
    assert (refused.json()["code"], len(provider.requests)) == ("EMBEDDER_OTHER", sent), "asked for the model here"

    # over the budget of the day, away, and revoked: lexical, and then the built-in model again
    sent = len(provider.requests)
    await give(gateway, **EMBEDDING | {"daily_budget": "0.0000001"})
    await give(gateway, collection="fks", **EMBEDDING | {"daily_budget": "0.0000001"})
    async with gateway.client("read") as client:
        assert (await client.post("/search", json={"query": "zebras"})).json()["mode"] == "lexical"
        assert (await client.post("/embeddings", json={"input": "zebras"})).json()["code"] == "EMBEDDER_AWAY"
    async with gateway.client("admin") as client:
        assert (await client.delete("/ai/consents/user/embed")).status_code == 200
    async with gateway.client("read") as client:
        assert (await client.post("/search", json={"query": "zebras"})).json()["mode"] == "lexical"
    assert "fitted" in await embedded(gateway, seeded)
    assert (len(provider.requests), (await version(seeded))[1]) == (sent, "")


async def test_model_that_embeds_here_is_never_replaced_by_openai(
    gateway: Running, seeded: Database, provider: Provider, tmp_path: Path
) -> None:
    for collection in ("fks", "user"):
        await give(gateway, collection=collection, **EMBEDDING)
    await DeploymentStore(seeded).save(deployed(write_model(tmp_path / "a.gguf"), "words", purpose="embed"), by="me")
    for state in ("wanted", "unschedulable", "failed"):
        await seeded.sql("UPDATE ai_deployments SET state = $1", state)
        await embedded(gateway, seeded)
    assert provider.requests == []
