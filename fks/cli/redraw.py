"""A screen redrawn in place: no flicker, no scrolling, and the terminal is restored."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TextIO

import click

_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # another screen and no cursor; back
_HOME, _END_OF_LINE, _REST = "\x1b[H", "\x1b[K", "\x1b[J"


def watch(lines: Callable[[int], Sequence[str]], *, every_s: float, out: TextIO | None = None) -> None:
    """Show the result of `lines(width)` every `every_s` seconds until Ctrl-C, which is an orderly end.

    On a terminal the screen is redrawn in place, cut to its size. Elsewhere (a pipe) the lines are simply printed
    again.
    """
    stream = out or sys.stdout
    is_terminal = stream.isatty()
    try:
        if is_terminal:
            stream.write(_ENTER)
        while True:
            size = shutil.get_terminal_size((120, 40))
            width = size.columns if is_terminal else 1000
            shown = lines(width)
            stream.write(frame(shown, size.columns, size.lines) if is_terminal else _plain(shown))
            stream.flush()
            threading.Event().wait(every_s)
    except KeyboardInterrupt:
        pass
    finally:
        if is_terminal:
            stream.write(_LEAVE)
            stream.flush()


def frame(lines: Sequence[str], columns: int, rows: int) -> str:
    """Return one drawing: from the top, each line cut to `columns` and cleared behind, the rest of the screen
    cleared."""
    kept = list(lines[: max(1, rows - 1)])
    if len(lines) > len(kept):
        kept[-1] = click.style(f"… {len(lines) - len(kept) + 1} more lines: make the window higher", fg="bright_black")
    return _HOME + "".join(f"{cut(line, columns)}{_END_OF_LINE}\n" for line in kept) + _REST


def _plain(lines: Sequence[str]) -> str:
    return "".join(f"{click.unstyle(line)}\n" for line in lines) + "\n"


def cut(text: str, columns: int) -> str:
    """Return `text` within `columns`, its colours kept and ended."""
    if len(click.unstyle(text)) <= columns:
        return text
    kept, shown, index = [], 0, 0
    while index < len(text) and shown < columns - 1:
        if text[index] == "\x1b":
            end = text.find("m", index)
            if end < 0:
                break
            kept.append(text[index : end + 1])
            index = end + 1
        else:
            kept.append(text[index])
            index, shown = index + 1, shown + 1
    return "".join(kept) + "…\x1b[0m"


def columns(heading: Sequence[str], rows: Sequence[Sequence[str]], *, gap: int = 2) -> list[str]:
    """Return rows of cells as aligned lines; an empty column takes no space."""
    has_text = [any(click.unstyle(row[i]).strip() for row in rows) for i in range(len(heading))]
    table = [heading, *rows]
    widths = [max(len(click.unstyle(row[i])) for row in table) if has_text[i] else -1 for i in range(len(heading))]
    lines = []
    for row in table:
        cells = [
            cell + " " * (width - len(click.unstyle(cell)))
            for cell, width in zip(row, widths, strict=True)
            if width >= 0
        ]
        lines.append((" " * gap).join(cells).rstrip())
    return lines


def can_draw(stream: TextIO | None = None) -> bool:
    """Return whether the output can show the lines of a tree."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "ascii"
    try:
        "├─└│·→".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
