"""Documents of persons, parsed in a confined process with limits of memory and time: text, Markdown, HTML, and PDF
files, which pypdf reads.

The parser gets the document on standard input and sends its chunks. It reads no file but Python's, opens no connection,
and may end in any way without an effect on its caller. All text of a PDF counts as text, hidden text too (render mode
3, white).
"""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import json
import resource
import sys
import uuid
from dataclasses import astuple
from io import BytesIO
from typing import Any, Final

from fks.ai.chunks import SOURCE_MAX, Chunk, Kind, checked_source, chunks_of
from fks.ai.engines.deployment import INSTALL
from fks.model.errors import InputError, unprocessable
from fks.system.process.isolated import answers, end_of, started

PDF_MAX: Final = 8 * 2**20
#: Limits of one file: memory of its process, seconds of CPU and in all, pages, and bytes of one expanded stream.
MEMORY_MAX, CPU_S, LIMIT_S, PAGES_MAX, STREAM_MAX = 768 * 2**20, 10, 20.0, 2_000, 16 * 2**20
_AT_ONCE: Final = 2


class DocumentParser:
    """Parses documents for one process, two at a time."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def parsed(self, document: uuid.UUID, kind: Kind, given: str | bytes) -> tuple[str, list[Chunk]]:
        """Return the text and the chunks of a document: of a text that `checked_source` returned, or of the bytes of a
        PDF, which become Markdown with a heading for each page.

        Errors: InputError as `chunks_of`; of a PDF DOCUMENT_FORMAT for an encrypted file or none, DOCUMENT_TEXT for a
        truncated or unreadable one, or text as `checked_source` refuses it; DOCUMENT_SIZE beyond a limit; 501
        AI_NOT_INSTALLED without pypdf.
        """
        is_pdf = isinstance(given, bytes)
        if is_pdf and importlib.util.find_spec("pypdf") is None:
            raise InputError("pypdf is not installed", code="AI_NOT_INSTALLED", status=501, remedy=INSTALL)
        asked = {"document": str(document), "kind": kind}
        asked |= {"data": base64.b64encode(given).decode()} if isinstance(given, bytes) else {"text": given}
        request = json.dumps(asked).encode()
        async with self._slots, started(__name__, request, readable=()) as process:
            try:
                answer = await process.line(LIMIT_S)
            except TimeoutError:
                raise _too_large(f"reading it takes longer than {LIMIT_S:g} s") from None
        if isinstance(answer, dict) and "chunks" in answer:
            source = given if isinstance(given, str) else checked_source(answer["text"])
            return source, [_chunk(source, *row) for row in answer["chunks"]]
        if isinstance(answer, dict) and "code" in answer:
            message, code, remedy = (str(answer[name]) for name in ("message", "code", "remedy"))
            raise InputError(message, code=code, status=int(answer["status"]), remedy=remedy)
        if process.end == end_of(None):
            raise _too_large("its chunks and their headings are more than 16 MB")
        if "by signal" in process.end or "by SIG" in process.end:
            raise _too_large(f"its reader {process.end}: it needs more than {MEMORY_MAX >> 20} MB or {CPU_S} s")
        raise _wrong(f"its reader {process.end}")


def _chunk(source: str, id: str, ordinal: int, headings: list[str], text: str | None, *place: int) -> Chunk:
    return Chunk(uuid.UUID(id), ordinal, tuple(headings), source[slice(*place[:2])] if text is None else text, *place)


def _too_large(text: str) -> InputError:
    return InputError(f"the document is too large: {text}", code="DOCUMENT_SIZE", status=413, remedy="split it")


def _wrong(text: str, code: str = "DOCUMENT_TEXT") -> InputError:
    return unprocessable(code, f"the document cannot be read: {text}", "send its text")


# ── in a process of its own ──────────────────────────────────────────────────────────────────────
def markdown_of(data: bytes) -> str:
    """Return the text of a PDF, a heading for each page with text. Errors: those of `DocumentParser.parsed`."""
    from pypdf import PdfReader, overwrite_configuration
    from pypdf.errors import LimitReachedError

    if not data.startswith(b"%PDF-"):
        raise _wrong("it does not begin as a PDF", "DOCUMENT_FORMAT")
    if b"%%EOF" not in data[-1024:]:
        raise _wrong("its end is missing")
    streams = ("maximum_declared_stream", "array_based_stream_maximum_output", "lzw_maximum_output")
    more = ("run_length_maximum_output", "zlib_maximum_output", "brotli_maximum_output")
    limits: dict[str, Any] = dict.fromkeys((f"{name}_length" for name in (*streams, *more)), STREAM_MAX)
    overwrite_configuration(jbig2dec_binary=None, disable_legacy_handling=True, **limits)
    try:
        reader = PdfReader(BytesIO(data))
        if reader.is_encrypted:
            raise _wrong("it is encrypted", "DOCUMENT_FORMAT")
        if (pages := len(reader.pages)) > PAGES_MAX:
            raise _too_large(f"it has {pages} pages, more than {PAGES_MAX}")
        parts, size = [], 0

        def count(text: str, *_: object) -> None:
            nonlocal size
            size += len(text)
            if size > SOURCE_MAX:
                raise _too_large(f"its text has more than {SOURCE_MAX} characters")

        for number, page in enumerate(reader.pages, 1):
            if text := page.extract_text(visitor_text=count).strip():
                parts.append(f"# Page {number}\n\n{text}\n")
    except InputError:
        raise
    except (LimitReachedError, MemoryError, RecursionError) as error:
        raise _too_large(f"{type(error).__name__} as it was expanded") from None
    except Exception as error:  # a wrong file may raise anything
        raise _wrong(f"{type(error).__name__}: {str(error)[:200]}") from None
    if not parts:
        raise _wrong("it holds no text; images are not read")
    return checked_source("\n".join(parts))


def prepare() -> None:
    """Limit this process, before it is confined."""
    for kind, most in ((resource.RLIMIT_AS, MEMORY_MAX), (resource.RLIMIT_CPU, CPU_S)):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def main() -> None:
    """Send the chunks of the document on standard input, or the error."""
    send = answers()
    try:
        send(_answer(json.loads(sys.stdin.buffer.readline())))
    except (InputError, MemoryError) as caught:
        error = caught if isinstance(caught, InputError) else _too_large(f"it needs more than {MEMORY_MAX >> 20} MB")
        send({"message": error.message, "code": error.code, "status": error.status, "remedy": error.remedy})


def _answer(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the chunks, of a PDF with its text. A chunk's text is None where it is a slice of the source."""
    source = markdown_of(base64.b64decode(asked["data"])) if "data" in asked else asked["text"]
    chunks = [list(astuple(chunk)) for chunk in chunks_of(uuid.UUID(asked["document"]), asked["kind"], source)]
    if asked["kind"] != "html":
        chunks = [[*row[:3], None, *row[4:]] for row in chunks]
    return {"chunks": chunks, "text": source if "data" in asked else None}
