"""Reading a file as columns: text split at its delimiter with every cell as written, or typed parquet columns."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fks.market.files.errors import file_error
from fks.market.files.source import SourceFile
from fks.model.errors import InputError

_SAMPLE = 64 << 10  # bytes from which delimiter and header are detected
_LINES = 50
COLUMNS_MIN = 3  # of a file of trades; bars have five or more
_PREAMBLE_MAX = 10  # lines before the header, as some sites write them
_NUMBERS = re.compile(r"[-+]?[\d.,: /TZ+-]*\d[\d.,: /TZ+-]*(?:[eE][-+]?\d+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of one length. `names` are "" where the file has none; `columns` are Arrow arrays, text ones as written.

    `first_row` is the line of the first row of data.
    """

    name: str
    names: tuple[str, ...]
    has_header: bool
    columns: tuple[Any, ...]
    first_row: int
    delimiter: str = ""
    metadata: str = ""
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.columns[0]) if self.columns else 0

    def row(self, index: int) -> int:
        """Return the line in the file of row `index`."""
        return self.first_row + index

    def column(self, position: int) -> str:
        """Return the name of a column for messages: its own, else its number from 1."""
        return self.names[position] or str(position + 1)

    def cell(self, position: int, index: int) -> str:
        """Return one cell as text."""
        return str(self.columns[position][index].as_py())

    def error(
        self, what: str, *, at: int = 0, position: int, code: str = "FILE_BROKEN", remedy: str = ""
    ) -> InputError:
        """Return the error about the cell in row `at`."""
        row, column = self.row(at), self.column(position)
        return file_error(self.name, what, row=row, column=column, code=code, remedy=remedy)


def read_table(source: SourceFile) -> Table:
    """Return the columns of a file. Errors: InputError naming the row whose number of cells differs."""
    return _parquet(source) if source.is_parquet else _text(source)


def _parquet(source: SourceFile) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = pq.read_table(pa.BufferReader(source.data), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise file_error(source.name, f"is damaged ({str(error).splitlines()[0]})", remedy="write it again") from error
    if not found.num_rows:
        raise file_error(source.name, "has no rows", code="FILE_EMPTY")
    marks = found.schema.metadata or {}
    columns = tuple(found.column(i).combine_chunks() for i in range(found.num_columns))
    return Table(source.name, tuple(found.column_names), True, columns, 1, metadata=marks.get(b"fks", b"").decode())


# ── text ─────────────────────────────────────────────────────────────────────────────────────────
def _text(source: SourceFile) -> Table:
    data = _utf8(source)
    whole = data.rstrip(b"\r\n \t\x1a")
    is_ended = any(end in data[len(whole) :] for end in (b"\n", b"\r"))
    data = whole
    if not data:
        raise file_error(source.name, "is empty", remedy="fetch it again")
    lines = data[:_SAMPLE].decode(errors="replace").replace("\r\n", "\n").split("\n")[:_LINES]
    if len(data) > _SAMPLE and len(lines) < _LINES:
        lines = lines[:-1] or lines  # the sample cuts the last one
    delimiter, width = _delimiter(source.name, lines)
    skipped = _preamble(source.name, lines, delimiter, width)
    head = _cells(lines[skipped], delimiter)
    has_header = is_header(head)
    first = skipped + has_header
    if data.count(b"\n") < first:
        raise file_error(source.name, "has a header and no rows", code="FILE_EMPTY")
    columns = _cut(source.name, data, delimiter, width, first)
    names = tuple(cell.strip() for cell in head) if has_header else ("",) * width
    notes = (f"{skipped} line{'s' if skipped > 1 else ''} before the header passed over",) if skipped else ()
    if not is_ended and not source.is_proven_whole and not _has_one_form(columns[-1]):
        raise file_error(
            source.name,
            "has no line end: its last number may have been cut, 12 of 123 is a number too",
            row=first + len(columns[0]),
            remedy="fetch it again; if the file is whole, end its last line",
        )
    return Table(source.name, names, has_header, columns, first + 1, delimiter, notes=notes)


def _has_one_form(column: Any) -> bool:
    """Return whether all cells of a file's last column have one number of decimal places, or are one word: then its
    last cell was not cut."""
    texts = column.to_pylist()
    if len(texts) < 2:
        return False
    if texts[-1] == texts[-2] and len(set(texts)) == 1:
        return True
    places = {len(text.partition(".")[2]) for text in texts}
    return len(places) == 1 and places != {0}


def _utf8(source: SourceFile) -> bytes:
    data = source.data
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return data.decode("utf-16").encode()
        except UnicodeDecodeError as error:
            raise file_error(source.name, "is half-written UTF-16 text", remedy="write it again") from error
    try:
        data.decode()
    except UnicodeDecodeError:  # an old spreadsheet: its numbers and names are ASCII
        data = data.decode("latin-1").encode()
    data = data.removeprefix(b"\xef\xbb\xbf")
    return data if b"\n" in data else data.replace(b"\r", b"\n")


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(line), delimiter=delimiter), [])
    except csv.Error:
        return []


def _delimiter(name: str, lines: Sequence[str]) -> tuple[str, int]:
    """Return the delimiter that splits most lines into the same number of cells, and that number: five or more, or
    three or four that may be a trade."""
    best: tuple[int, int, str] = (0, 0, "")
    for delimiter in ",;\t|":
        widths = Counter(len(_cells(line, delimiter)) for line in lines if line.strip())
        width, count = widths.most_common(1)[0] if widths else (0, 0)
        if width >= COLUMNS_MIN and (count, width) > best[:2]:
            best = (count, width, delimiter)
    if not best[2] or (best[1] < 5 and not _is_trade(_cells(lines[-1], best[2]))):
        raise file_error(
            name,
            "no delimiter cuts its lines into five columns or more",
            row=1,
            code="FILE_UNKNOWN",
            remedy="a file of bars has time, open, high, low, close and volume between commas, semicolons, tabs or "
            "bars",
        )
    return best[2], best[1]


def _is_trade(cells: Sequence[str]) -> bool:
    """Return whether a line of few cells may be a trade: time, price, quantity and perhaps a side."""
    return all(_NUMBERS.fullmatch(cell.strip()) for cell in cells[:3])


def is_header(cells: Sequence[str]) -> bool:
    """Return whether at most a quarter of a line's cells are numbers or times: then they are names."""
    plain = [cell.strip() for cell in cells if cell.strip()]
    return sum(_NUMBERS.fullmatch(cell) is not None for cell in plain) <= len(plain) // 4


def _preamble(name: str, lines: Sequence[str], delimiter: str, width: int) -> int:
    """Return the number of lines before the header. Errors: InputError when the first line is no row and no header
    follows."""
    for number, line in enumerate(lines[:_PREAMBLE_MAX]):
        cells = _cells(line, delimiter)
        if len(cells) == width:
            if number and not is_header(cells):
                break
            return number
    found = len(_cells(lines[0], delimiter))
    raise file_error(
        name, f"has {found} of {width} columns", row=1, remedy="the file's beginning is missing; fetch it again"
    )


def _cut(name: str, data: bytes, delimiter: str, width: int, skip: int) -> tuple[Any, ...]:
    import pyarrow as pa
    import pyarrow.csv as arrow

    odd: list[Any] = []

    def keep(row: Any) -> str:
        if not odd:
            odd.append(row)
        return "skip"

    names = [str(i) for i in range(width)]
    try:
        found = arrow.read_csv(
            pa.BufferReader(data),
            read_options=arrow.ReadOptions(use_threads=False, skip_rows=skip, column_names=names),
            parse_options=arrow.ParseOptions(delimiter=delimiter, ignore_empty_lines=False, invalid_row_handler=keep),
            convert_options=arrow.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=False,
                quoted_strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        raise file_error(name, f"cannot be read ({str(error).splitlines()[0]})", remedy="csv as UTF-8 text") from error
    if odd:
        is_last = data.count(b"\n") + 1 == odd[0].number
        raise file_error(
            name,
            f"has {odd[0].actual_columns} of {width} columns{': the file is half-written' if is_last else ''}",
            row=odd[0].number,
            remedy="fetch it again" if is_last else "correct that line",
        )
    return tuple(found.column(i).combine_chunks() for i in range(width))
