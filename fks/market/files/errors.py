"""Error messages about files: file, row, column, value and remedy, in one line."""

from __future__ import annotations

from fks.model.errors import InputError, invalid


def file_error(
    name: str, what: str, *, row: int | None = None, column: str = "", remedy: str = "", code: str = "FILE_BROKEN"
) -> InputError:
    """Return the error to raise. `row` counts lines from 1 as an editor does (in parquet: rows)."""
    place = ", ".join(part for part in (f"row {row}" if row else "", f"column {column}" if column else "") if part)
    return invalid(code, f"{name}{f' {place}' if place else ''}: {what}", remedy)
