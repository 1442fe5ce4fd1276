"""Recall and cost of the search on the docs of FKS: the section that answers a question among the first results.

    python benchmarks/retrieval.py [--questions FILE] [--rounds 200] [--copies 9]

120 questions of tests/contract/ai/questions.txt, 20 of them without an answer, on a real embedded PostgreSQL with
pgvector. recall@k: share of questions with a chunk of an answering section among the first k. Intervals: bootstrap over
the questions. `--copies`: pages stored so many times more before a search is timed. Exits 1 when results differ, or the goal is missed: hybrid recall@10 >= 0.90, and >= the better of both
rankings - 0.02.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the helpers of the tests, however this is started

from benchmarks._results import run, same
from fks.ai.search import TfidfSvd, spaced
from fks.config.settings import DatabaseSettings
from fks.store import migrate
from fks.store.db import Database
from fks.store.documents import DocumentStore, shipped_pages
from tests.support import servers
from tests.support.questions import FILE, interval, questions, ranks, recall, reciprocal


async def main(file: Path, rounds: int, copies: int, verbose: bool) -> bool:
    with servers.home() as paths, servers.running_postgres(paths) as postgres:
        await servers.administer(postgres, "CREATE DATABASE bench")
        url = postgres.url("bench")
        await migrate.upgrade(url)
        db = await Database.connect(url, DatabaseSettings(), application="bench")
        try:
            return await measured(db, file, rounds, copies, verbose)
        finally:
            await db.close()


async def measured(db: Database, file: Path, rounds: int, copies: int, verbose: bool) -> bool:
    store, asked = DocumentStore(db), questions(file)
    begun = time.perf_counter()
    await store.store_pages(shipped_pages())
    stored = time.perf_counter()
    print(await store.embed(), f"in {time.perf_counter() - stored:.2f} s; pages stored in {stored - begun:.2f} s\n")
    good, none = [q for q in asked if q.sections], [q for q in asked if not q.sections]
    means = {}
    print("| ranking | recall@5 | recall@10 | MRR |\n|---|---|---|---|")
    for mode in ("lexical", "vector", "hybrid"):
        found = await ranks(store, good, mode)
        same(f"{mode}, asked again", found, await ranks(store, good, mode))
        columns = [recall(found, 5), recall(found, 10), reciprocal(found)]
        cells = [
            f"{statistics.fmean(values):.2f} ({low:.2f} to {high:.2f})"
            for values in columns
            for low, high in [interval(values)]
        ]
        print(f"| {mode} | {' | '.join(cells)} |")
        means[mode] = statistics.fmean(columns[1])
        if verbose:
            print([q.text for q, rank in zip(good, found, strict=True) if rank is None])
    answers = {q.text: (await store.passages(q.text, collection="fks")).passages for q in asked}
    refused = [q.text for q in none if not answers[q.text]]
    lost = [q.text for q in good if not answers[q.text]]
    right = [q for q in good if any(q.is_in(p["document"]["name"], p["headings"]) for p in answers[q.text])]
    print(
        f"\nrefused: {len(refused)} of {len(none)} without an answer, {len(lost)} of {len(good)} with one; "
        f"a passage of an answering section: {len(right)} of {len(good)}"
    )
    if verbose:
        print("answered:", [q.text for q in none if q.text not in refused], "\nlost:", lost)
    if copies:
        pages = dict(shipped_pages())
        await store.store_pages(
            pages | {f"{n}-{name}": f"{text}\n" for n in range(copies) for name, text in pages.items()}
        )
        begun = time.perf_counter()
        print("\n" + await store.embed(), f"in {time.perf_counter() - begun:.2f} s")
    await cost(db, store, [q.text for q in good], rounds)
    return means["hybrid"] >= max(0.90, means["lexical"] - 0.02, means["vector"] - 0.02)


async def cost(db: Database, store: DocumentStore, texts: list[str], rounds: int) -> None:
    """Print the time of a search beside its bare statements and the embedding, in turns."""
    row = await db.fetchrow("documents.model", None)
    assert row is not None
    model, pool = TfidfSvd.load(row["model"], row["sha256"]), []
    ours: list[float] = []
    for number in range(rounds):
        text = texts[number % len(texts)]
        at = time.perf_counter()
        found = await store.search(text, collection="fks")
        ours.append(time.perf_counter() - at)
        at = time.perf_counter()
        terms = await db.fetch("documents.terms", spaced(text))
        vector = model.embed({term["lexeme"]: term["times"] for term in terms})
        assert vector is not None
        near = await db.fetch("documents.nearest", row["id"], "fks", vector.tolist(), 50)
        words = [f"'{term.lexeme}'" for term in found.terms]
        weights = [term.weight(found.corpus) for term in found.terms]
        await db.fetch("documents.lexical", words, weights, "fks", 50)
        ids = [hit.row["id"] for hit in found.hits]
        chunks = await db.fetch("documents.chunks", ids, [term["lexeme"] for term in terms])
        pool.append(time.perf_counter() - at)
        same("chunks", {c["id"] for c in chunks}, set(ids))
        same("vectors", len(near), 50)
    mine, bare = statistics.median(ours) * 1e3, statistics.median(pool) * 1e3
    print(f"\nsearch p50 {mine:.1f} ms; bare SQL and embedding {bare:.1f} ms; ratio {mine / bare:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=Path, default=FILE)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--copies", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="print the questions that were missed")
    given = parser.parse_args()
    run(lambda: not asyncio.run(main(given.questions, given.rounds, given.copies, given.verbose)))
