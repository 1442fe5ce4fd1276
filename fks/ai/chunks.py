"""Documents (text, Markdown, HTML) as chunks of at most 400 tokens that follow the headings.

A document is data: nothing in it is run, fetched, or read as an instruction. Bad bytes and sizes beyond the limits are
refused before anything of a document is stored.
"""

from __future__ import annotations

import bisect
import hashlib
import re
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import unescape
from typing import Final, Literal

from fks.model.errors import InputError

Kind = Literal["text", "markdown", "html"]
#: Name ending -> the kind of a document.
KINDS: Final[dict[str, Kind]] = {
    ".txt": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
}
TOKENS_MAX: Final = 400
#: characters of one document; one over HTTP is bounded by the gateway's bodies, too
SOURCE_MAX: Final = 1_000_000
CHUNKS_MAX: Final = 5_000
_HEADING_MAX = 300
_PIECES = re.compile(r"\w+|[^\w\s]")
_ATX = re.compile(r" {0,3}(#{1,6})[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
#: control characters and those that turn the direction of text: a document must not steer a terminal or a page. Each
#: becomes one space, so that offsets stay
_UNSEEN = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
_BLOCK = re.compile(
    r"address|article|aside|blockquote|body|br|caption|d[dlt]|details|div|fieldset|fig(?:caption|ure)|footer"
    r"|form|h[1-6r]|head(?:er)?"
    r"|html|li|main|nav|[ou]l|option|p|pre|section|summary|table|t(?:body|d|foot|h|head|r)"
)
_DROPPED = frozenset({"script", "style", "template", "noscript", "svg", "math", "iframe", "object", "title"})
_TAG = re.compile(r"<(?:(/?)([a-z][a-z0-9]*)|[!?/])")
_LOWER = str.maketrans({chr(letter): chr(letter + 32) for letter in range(ord("A"), ord("Z") + 1)})
_LEVELS = {f"h{level}": level for level in range(1, 7)}


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a document. `start` and `end` are character offsets into its source; of text and Markdown `text` is
    exactly that slice, of HTML it is the slice without its markup. `id` is a function of the document, the headings
    and the text: an unchanged chunk of a new version keeps it."""

    id: uuid.UUID
    ordinal: int
    headings: tuple[str, ...]
    text: str
    start: int
    end: int
    tokens: int


@dataclass(frozen=True, slots=True)
class _Part:
    """A block of text under its headings, with its place in the source. Two sections may have the same headings."""

    headings: tuple[str, ...]
    section: int
    text: str
    start: int
    end: int


def document_id(collection: str, name: str) -> uuid.UUID:
    """Return the id of a document, a function of its collection and name."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"fks:document:{collection}:{name}")


def kind_of_name(name: str) -> Kind:
    """Return the kind that a file name's ending means. Errors: InputError DOCUMENT_FORMAT."""
    ending = "." + name.rpartition(".")[2].lower() if "." in name else ""
    if ending not in KINDS:
        raise InputError(
            f"{name[:80]!r} is no document that FKS reads",
            code="DOCUMENT_FORMAT",
            status=422,
            remedy=f"use text, Markdown or HTML: {' '.join(KINDS)}; or a PDF, over HTTP as application/pdf",
        )
    return KINDS[ending]


def decoded(data: bytes) -> str:
    """Return the text of a file. Errors: InputError DOCUMENT_FORMAT for a PDF or archive, DOCUMENT_TEXT for bytes that
    are not UTF-8 (a truncated file is not), and as `checked_source`."""
    if data.startswith((b"%PDF", b"PK\x03\x04", b"\x1f\x8b", b"\xd0\xcf\x11\xe0")):
        raise InputError(
            "Office and archive files are not read, and a PDF only by the name .pdf",
            code="DOCUMENT_FORMAT",
            status=422,
            remedy="export it as text, Markdown or HTML",
        )
    try:
        text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError as error:
        raise _bad_text(f"byte {error.start} is not UTF-8: another encoding, or a truncated file") from None
    return checked_source(text)


def checked_source(source: str) -> str:
    """Return a document's text without characters that steer a terminal, each replaced by a space.

    Errors: InputError DOCUMENT_TEXT for NUL, half of a surrogate pair or no text at all, DOCUMENT_SIZE beyond
    SOURCE_MAX.
    """
    if len(source) > SOURCE_MAX:
        raise _too_large(f"it has {len(source)} characters, more than {SOURCE_MAX}")
    if "\0" in source:
        raise _bad_text("it holds the character NUL")
    try:
        source.encode()
    except UnicodeEncodeError:
        raise _bad_text("it holds half of a surrogate pair, which is no character") from None
    if source.startswith("%PDF"):
        raise InputError(
            "this is a PDF, not its text", code="DOCUMENT_FORMAT", status=422, remedy="send it as application/pdf"
        )
    if not source.strip():
        raise _bad_text("it is empty")
    return _UNSEEN.sub(" ", source)


def plain(text: str) -> str:
    """Return a text of a program without characters that steer a terminal or are none, each replaced by a space: also a
    carriage return, after which a line would be written over."""
    return _UNSEEN.sub(" ", re.sub("[\0\r]", " ", text).encode(errors="replace").decode())


def chunks_of(document: uuid.UUID, kind: Kind, source: str) -> list[Chunk]:
    """Return the chunks of a text that `checked_source` returned, in the order of the source.

    Errors: InputError DOCUMENT_TEXT when nothing is left without markup, DOCUMENT_SIZE beyond CHUNKS_MAX chunks.
    """
    parts = {"text": _plain_parts, "markdown": _markdown_parts, "html": _html_parts}[kind](source)
    joined = list(_joined(source, kind, parts))
    if not joined:
        raise _bad_text("it holds no text besides headings and markup")
    if len(joined) > CHUNKS_MAX:
        raise _too_large(f"it has {len(joined)} chunks, more than {CHUNKS_MAX}")
    seen: Counter[str] = Counter()
    found = []
    for ordinal, part in enumerate(joined):
        digest = hashlib.sha256("\0".join((*part.headings, part.text)).encode()).hexdigest()
        name = f"{digest}:{seen[digest]}"  # the same text twice in a document is two chunks
        seen[digest] += 1
        chunk_id = uuid.uuid5(document, name)
        found.append(
            Chunk(chunk_id, ordinal, part.headings, part.text, part.start, part.end, tokens_of(part.text)),
        )
    return found


def tokens_of(text: str) -> int:
    """Return the tokens of a text by a rule that needs no vocabulary: a sign is one, a word one for each six letters
    that it begins. Real tokenizers of English give about as many, seldom more."""
    return sum((len(piece) + 5) // 6 for piece in _PIECES.findall(text))


def title_of(chunks: Sequence[Chunk], name: str) -> str:
    """Return the first heading of a document, or its name."""
    return next((chunk.headings[0] for chunk in chunks if chunk.headings), name)


# ── parts ────────────────────────────────────────────────────────────────────────────────────────
def _lines(source: str) -> Iterator[tuple[int, str]]:
    at = 0
    for line in source.split("\n"):
        yield at, line
        at += len(line) + 1


def _plain_parts(source: str) -> Iterator[_Part]:
    """Yield paragraphs: runs of lines that are not blank."""
    yield from _paragraphs(source, 0, len(source), (), 0)


def _markdown_parts(source: str) -> Iterator[_Part]:
    """Yield blocks under the headings above them; a fenced block is one, whatever its lines look like."""
    path: list[tuple[int, str]] = []
    begin, fence, section = 0, "", 0
    for at, line in _lines(source):
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
            continue
        if mark:
            fence = mark[1]
        elif heading := _ATX.match(line):
            yield from _paragraphs(source, begin, at, _texts(path), section)
            section += 1
            level = len(heading[1])
            path = [(known, text) for known, text in path if known < level] + [(level, _shown(heading[2]))]
            begin = at + len(line) + 1
    yield from _paragraphs(source, min(begin, len(source)), len(source), _texts(path), section)


def _texts(path: Sequence[tuple[int, str]]) -> tuple[str, ...]:
    return tuple(text for _, text in path)


def _shown(heading: str) -> str:
    return " ".join(heading.split())[:_HEADING_MAX]


def _paragraphs(source: str, start: int, end: int, headings: tuple[str, ...], section: int) -> Iterator[_Part]:
    begin: int | None = None
    last = start
    for at, line in _lines(source[start:end]):
        if line.strip():
            begin = at if begin is None else begin
            last = at + len(line)
        elif begin is not None:
            yield _Part(headings, section, source[start + begin : start + last], start + begin, start + last)
            begin = None
    if begin is not None:
        yield _Part(headings, section, source[start + begin : start + last], start + begin, start + last)


class _HtmlBlocks:
    """The visible text of a page by blocks, with offsets: scripts, styles and comments are left out.

    html.parser takes minutes for 200 kB of unclosed tags. This reads each character once, whatever the markup.
    """

    def __init__(self, source: str) -> None:
        self.parts: list[_Part] = []
        self._path: list[tuple[int, str]] = []
        self._words: list[str] = []
        self._begin = self._end = 0
        self._level = self._section = 0
        self._read(source)
        self._flush()

    def _read(self, source: str) -> None:
        lower, at = source.lower() if source.isascii() else _lower(source), 0
        while at < len(source):
            mark = source.find("<", at)
            mark = len(source) if mark < 0 else mark
            self._text(source, at, mark)
            at = mark
            tag = _TAG.match(lower, at)
            if tag is None:
                self._text(source, at, at + 1)  # a "<" that begins no tag
                at += 1
                continue
            is_comment = lower.startswith("<!--", at)
            end = lower.find("-->", at + 4) + 2 if is_comment else lower.find(">", tag.end())
            if end < at:  # never closed: browsers show nothing of the rest either
                return
            at = end + 1
            if tag[2]:
                self._tag(tag[2], is_end=bool(tag[1]))
            if tag[2] in _DROPPED and not tag[1] and source[end - 1] != "/":
                at = lower.find(f"</{tag[2]}", at)
                if at < 0:
                    return

    def _tag(self, name: str, *, is_end: bool) -> None:
        if _BLOCK.fullmatch(name):
            self._flush()
            self._level = 0 if is_end else _LEVELS.get(name, self._level)

    def _text(self, source: str, start: int, end: int) -> None:
        words = unescape(source[start:end]).split()
        if words:
            self._begin = self._begin if self._words else start
            self._words += words
            self._end = end

    def _flush(self) -> None:
        text = _UNSEEN.sub(" ", " ".join(self._words).replace("\0", " "))  # a character reference may name any
        text = " ".join(text.encode("utf-8", "replace").decode().split())
        self._words = []
        if not text:
            return
        if self._level:
            kept = [(known, words) for known, words in self._path if known < self._level]
            self._path = [*kept, (self._level, text[:_HEADING_MAX])]
            self._section += 1
        else:
            self.parts.append(_Part(_texts(self._path), self._section, text, self._begin, self._end))


def _lower(source: str) -> str:
    """Return the text with A to Z in lower case: of other letters the lower case may be longer."""
    return source.translate(_LOWER)


def _html_parts(source: str) -> Iterator[_Part]:
    yield from _HtmlBlocks(source).parts


# ── chunks ───────────────────────────────────────────────────────────────────────────────────────
def _joined(source: str, kind: Kind, parts: Iterator[_Part]) -> Iterator[_Part]:
    """Yield neighbouring parts of one section joined, as far as TOKENS_MAX allows, and longer ones cut."""
    held: _Part | None = None
    for part in parts:
        for piece in _cut(part, is_exact=kind != "html"):
            if held is not None and held.section == piece.section:
                text = f"{held.text}\n{piece.text}" if kind == "html" else source[held.start : piece.end]
                if tokens_of(text) <= TOKENS_MAX:
                    held = _Part(held.headings, held.section, text, held.start, piece.end)
                    continue
            if held is not None:
                yield held
            held = piece
    if held is not None:
        yield held


def _cut(part: _Part, *, is_exact: bool) -> Iterator[_Part]:
    """Yield a part in pieces of at most TOKENS_MAX, cut at the end of a line, else of a word, else anywhere."""
    if tokens_of(part.text) <= TOKENS_MAX:
        yield part
        return
    ends: list[int] = []  # after each token, counted as `tokens_of` does: an end and the tokens until there
    counts: list[int] = []
    total = 0
    for piece in _PIECES.finditer(part.text):
        size = (piece.end() - piece.start() + 5) // 6
        for step in range(1, size + 1):
            total += 1
            ends.append(min(piece.start() + 6 * step, piece.end()))
            counts.append(total)
    at = begun = 0
    while at < len(ends):
        last = min(at + TOKENS_MAX, len(ends)) - 1
        end = ends[last]
        if last + 1 < len(ends):
            line, space = part.text.rfind("\n", begun + 1, end), part.text.rfind(" ", begun + 1, end)
            cut = line if line - begun > (end - begun) // 3 else space
            end = cut if cut > begun else end
        text = part.text[begun:end]
        lead = len(text) - len(text.lstrip())
        kept = text.strip()
        if kept:
            start = part.start + begun + lead if is_exact else part.start
            yield _Part(part.headings, part.section, kept, start, start + len(kept) if is_exact else part.end)
        at = max(bisect.bisect_right(ends, end), at + 1)
        begun = end


def _bad_text(fault: str) -> InputError:
    return InputError(
        f"the document cannot be read: {fault}", code="DOCUMENT_TEXT", status=422, remedy="send UTF-8 text"
    )


def _too_large(fault: str) -> InputError:
    return InputError(
        f"the document is too large: {fault}", code="DOCUMENT_SIZE", status=413, remedy="send it in several parts"
    )
