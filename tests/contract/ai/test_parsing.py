"""Documents are parsed in a confined process; a wrong one is a coded problem and leaves nothing behind."""

from __future__ import annotations

import time
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from fks.ai.chunks import Kind, chunks_of, document_id
from fks.interfaces.cli.base import OK
from fks.model.errors import InputError
from fks.research.jobs import parsing as reading
from fks.store.db import Database
from tests.support.api_fixtures import Fks
from tests.support.gateway import Running
from tests.support.pdf import bomb_of, encrypted, mapped_to, pdf_of, shown
from tests.support.soak_cases import soaked

GOOD = pdf_of(shown("Stripes are counted by Quibbler."), shown("Zebras eat hay at noon."))
PDF = {"Content-Type": "application/pdf"}


async def test_a_pdf_is_answered_from_with_its_page(gateway: Running, fks: Fks, tmp_path: Path) -> None:
    file = tmp_path / "zebra.pdf"
    file.write_bytes(GOOD)
    code, out, err = await fks("ai", "documents", "add", str(file))
    assert (code, out.startswith("zebra.pdf: version 1, 2 chunks")) == (OK, True), err
    async with gateway.client("trade") as client:
        again = await client.post("/documents?pdf=zebra.pdf", content=GOOD, headers=PDF)
        assert (again.status_code, again.json()["kind"]) == (200, "markdown")
        question = {"question": "When do zebras eat hay?", "collection": "user"}
        (passage,) = (await client.post("/answer", json=question)).json()["passages"]
        assert (passage["quote"], passage["headings"]) == ("Zebras eat hay at noon.", ["Page 2"])
        hidden = pdf_of(shown("Visible quokka."), shown("Hidden wombat.", mode=3), shown("White numbat.", white=True))
        await client.post("/documents?pdf=hidden.pdf", content=hidden, headers=PDF)
        for word in ("quokka", "wombat", "numbat"):
            found = (await client.post("/search", json={"query": word, "collection": "user"})).json()
            assert found["items"][0]["document"]["name"] == "hidden.pdf", "hidden text is text"


def many(pages: int) -> bytes:
    data = pdf_of(shown("One page."))
    return data.replace(b"/Kids [5 0 R] /Count 1", b"/Kids [" + b"5 0 R " * pages + b"] /Count %d" % pages)


WORST = ("encrypted", "truncated", "NUL", "half of a pair", "expanding")
WRONG: dict[str, tuple[Callable[[], bytes], str]] = {
    "no PDF": (lambda: b"hello", "DOCUMENT_FORMAT"),
    "empty": (lambda: b"", "DOCUMENT_FORMAT"),
    "encrypted": (lambda: encrypted(GOOD), "DOCUMENT_FORMAT"),
    "truncated": (lambda: GOOD[: len(GOOD) // 2], "DOCUMENT_TEXT"),
    "without objects": (lambda: b"%PDF-1.4\n%%EOF\n", "DOCUMENT_TEXT"),
    "without text": (lambda: pdf_of(b""), "DOCUMENT_TEXT"),
    "NUL": (lambda: pdf_of(shown("A A"), to_unicode=mapped_to("0000")), "DOCUMENT_TEXT"),
    "half of a pair": (lambda: pdf_of(shown("A A"), to_unicode=mapped_to("D800")), "DOCUMENT_TEXT"),
    "expanding": (lambda: bomb_of(2**28), "DOCUMENT_SIZE"),
    "expanding to text": (
        lambda: pdf_of(zlib.compress(shown(*["x" * 200] * 60_000)), filters=(b"FlateDecode",)),
        "DOCUMENT_SIZE",
    ),
    "pages": (lambda: many(reading.PAGES_MAX + 1), "DOCUMENT_SIZE"),
    "in a circle": (lambda: GOOD.replace(b"/Kids [5 0 R 7 0 R]", b"/Kids [5 0 R 2 0 R]"), "DOCUMENT_TEXT"),
    "garbage inside": (lambda: GOOD.replace(b"BT /F1", b"\xff\x00(("), "DOCUMENT_TEXT"),
}


@pytest.mark.parametrize("name", soaked(sorted(WRONG, key=lambda name: name not in WORST), len(WORST)))
async def test_a_wrong_pdf_is_a_coded_problem_and_leaves_nothing(gateway: Running, seeded: Database, name: str) -> None:
    make, code = WRONG[name]
    async with gateway.client("trade") as client:
        began = time.monotonic()
        answer = await client.post("/documents?pdf=a.pdf", content=make(), headers=PDF, timeout=60)
        assert time.monotonic() - began <= reading.LIMIT_S + 2
        assert (answer.status_code, answer.json()["code"]) == (413 if code == "DOCUMENT_SIZE" else 422, code), (
            answer.text
        )
        assert (await client.get("/documents")).status_code == 200
    assert [row[0] for row in await seeded.sql("SELECT count(*) FROM ai_documents")] == [0]


async def test_a_pdf_of_more_than_8_mib_or_without_a_name_is_refused(gateway: Running) -> None:
    async with gateway.client("trade") as client:
        large = await client.post("/documents?pdf=a.pdf", content=b"%PDF-" + b"x" * reading.PDF_MAX, headers=PDF)
        assert (large.status_code, large.json()["code"]) == (413, "BODY_TOO_LARGE")
        nameless = await client.post("/documents", content=GOOD, headers=PDF)
        assert (nameless.status_code, nameless.json()["code"]) == (422, "DOCUMENT_NAME")


@pytest.mark.parametrize("kind", ["text", "markdown", "html"])
async def test_a_text_is_parsed_in_the_confined_process_alone(
    gateway: Running, seeded: Database, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    source = "# <b>Zebras</b>\n\nThey eat hay \N{EM DASH} at noon.\n" * 3
    wanted = chunks_of(document_id("user", "a"), kind, source)
    monkeypatch.setattr("fks.ai.chunks.tokens_of", lambda text: 1 / 0)  # of this process
    document = {"name": "a", "kind": kind, "text": source}
    async with gateway.client("trade") as client:
        made = await client.post("/documents", json=document, timeout=60)
        assert made.status_code == 201, made.text
        parts = (await client.get(f"/documents/{made.json()['id']}")).json()["parts"]
        shown = [(tuple(part["headings"]), part["text"], part["start_at"], part["end_at"]) for part in parts]
        assert shown == [(chunk.headings, chunk.text, chunk.start, chunk.end) for chunk in wanted]
        monkeypatch.setattr(reading, "LIMIT_S", 0.001)
        slow = await client.post("/documents", json={**document, "text": "other"}, timeout=60)
        assert (slow.status_code, slow.json()["code"]) == (413, "DOCUMENT_SIZE")
    assert [row[0] for row in await seeded.sql("SELECT version FROM ai_documents")] == [1]


async def test_a_reader_that_takes_too_long_or_too_much_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = pdf_of(zlib.compress(b"BT " + b"q Q " * 3_000_000 + b"ET"), filters=(b"FlateDecode",))
    monkeypatch.setattr(reading, "LIMIT_S", 0.8)
    began = time.monotonic()
    with pytest.raises(InputError) as caught:
        await reading.DocumentParser().parsed(uuid.uuid4(), "markdown", slow)
    assert (caught.value.code, caught.value.status) == ("DOCUMENT_SIZE", 413)
    assert time.monotonic() - began < 5
