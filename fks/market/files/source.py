"""Reading the bytes of a file, unpacked from zip or gzip, with a check that they are complete."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from fks.market.files.errors import file_error

BYTES_MAX = 2 << 30  # unpacked: twice ten years of minutes, and a limit for zip bombs
_PIECE = 1 << 20
_GZIP = 31  # zlib: with gzip's header and checksum
_PARQUET = b"PAR1"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """The content of a file: `name` is used in messages, `stem` has no endings, `sha256` is of the file on disk."""

    path: Path
    name: str
    stem: str
    data: bytes
    is_parquet: bool
    sha256: str
    notes: tuple[str, ...] = ()
    is_proven_whole: bool = False  # by the checksum inside a zip or gz, or one published beside the file


def open_source(path: Path) -> SourceFile:
    """Return the unpacked bytes of `path`.

    A `.CHECKSUM` file beside it (as Binance publishes them) is compared. Errors: InputError when the file does not
    exist, is empty, incomplete or damaged, or holds more than one table.
    """
    name = path.name
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise file_error(str(path), "there is no such file", code="FILE_MISSING") from None
    except IsADirectoryError:
        raise file_error(str(path), "is a folder", remedy="name the files: folder/*.zip", code="FILE_MISSING") from None
    except OSError as error:
        raise file_error(str(path), error.strerror or str(error), code="FILE_MISSING") from error
    digest = hashlib.sha256(raw).hexdigest()
    notes = _compared(path, digest)
    inner, data = name, raw
    is_packed = False
    if raw.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        (inner, data), is_packed = _unzipped(name, raw), True
    elif name.lower().endswith(".zip"):
        raise file_error(name, "is not a whole zip file", remedy="fetch it again")
    elif raw.startswith(b"\x1f\x8b"):
        inner, data, is_packed = name.removesuffix(".gz"), _gunzipped(name, raw), True
    if not data.strip():
        raise file_error(name, "is empty", remedy="fetch it again")
    is_parquet = data.startswith(_PARQUET)
    if is_parquet and not data.endswith(_PARQUET):
        raise file_error(
            name, "is half-written: a parquet file ends with its index, and this one does not", remedy="write it again"
        )
    if not is_parquet and inner.lower().endswith((".parquet", ".pq")):
        raise file_error(name, "is called parquet and is none", remedy="look what wrote it")
    if not is_parquet and b"\0" in data[:4096] and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise file_error(
            name, "is neither text nor parquet", remedy="csv, txt, parquet, or one of these in a zip or gz"
        )
    if not is_parquet and _is_json(data):
        raise file_error(
            name,
            "is JSON, not a table",
            row=1,
            code="FILE_UNKNOWN",
            remedy="write it as csv with a header: time,open,high,low,close,volume",
        )
    return SourceFile(path, name, _stem(inner), data, is_parquet, digest, notes, is_packed or bool(notes))


def _compared(path: Path, digest: str) -> tuple[str, ...]:
    beside = path.with_name(path.name + ".CHECKSUM")
    if not beside.is_file():
        return ()
    fields = beside.read_text(errors="replace").split()
    if not fields or fields[0].lower() != digest:
        raise file_error(
            path.name, f"is not what {beside.name} says it is", remedy="fetch it again", code="FILE_CHECKSUM"
        )
    return (f"{beside.name} agrees",)


def _unzipped(name: str, raw: bytes) -> tuple[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            members = [
                item for item in archive.infolist() if not item.is_dir() and not item.filename.startswith("__MACOSX")
            ]
            members = [item for item in members if not item.filename.upper().endswith(".CHECKSUM")]
            if len(members) != 1:
                listed = ", ".join(item.filename for item in members[:4]) or "nothing"
                raise file_error(
                    name, f"holds {len(members)} files ({listed}), not one table", remedy="unpack it and name the files"
                )
            if members[0].file_size > BYTES_MAX:
                raise _too_big(name)
            return Path(members[0].filename).name, archive.read(members[0])
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise file_error(name, f"is half-written or damaged ({error})", remedy="fetch it again") from error


def _gunzipped(name: str, raw: bytes) -> bytes:
    """Return the members of a gzip file. Errors: InputError with the row in which the readable part ends."""
    found, left = bytearray(), raw
    try:
        while left.strip(b"\0"):  # padding after the last member
            unpacker = zlib.decompressobj(wbits=_GZIP)
            for start in range(0, len(left), _PIECE):
                piece = left[start : start + _PIECE]
                while piece and not unpacker.eof:
                    found += unpacker.decompress(piece, BYTES_MAX + 1 - len(found))
                    if len(found) > BYTES_MAX:
                        raise _too_big(name)
                    piece = unpacker.unconsumed_tail
                if unpacker.eof:
                    left = unpacker.unused_data + left[start + _PIECE :]
                    break
            else:
                raise EOFError("the end is missing")
    except (EOFError, zlib.error) as error:
        row = found.count(b"\n") + 1
        raise file_error(
            name, "is half-written or damaged: its compressed data ends early", row=row, remedy="fetch it again"
        ) from error
    return bytes(found)


def _is_json(data: bytes) -> bool:
    """Return whether a text begins as JSON does: an object, or an array of objects, arrays or numbers."""
    return re.match(rb"\s*(\{\s*[\"}]|\[\s*[\[{\"\d\]])", data[:4096].removeprefix(b"\xef\xbb\xbf")) is not None


def _too_big(name: str) -> Exception:
    return file_error(name, f"holds more than {BYTES_MAX >> 30} GiB", remedy="split it", code="FILE_TOO_BIG")


def _stem(name: str) -> str:
    for ending in (".parquet", ".csv", ".txt", ".tsv", ".pq"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name
