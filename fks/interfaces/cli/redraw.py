"""A screen redrawn in place by rich.live, and aligned columns of coloured text."""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TextIO

import click

if TYPE_CHECKING:
    from rich.text import Text

PIPE_COLUMNS = 1000  # width of lines that go to a pipe


def watch(lines: Callable[[int], Sequence[str]], *, every_s: float) -> None:
    """Show the result of `lines(width)` every `every_s` seconds until Ctrl-C, which is an orderly end.

    On a terminal the screen is redrawn in place, cut to its size. Elsewhere (a pipe) the lines are simply printed
    again.
    """
    from rich.console import Console
    from rich.live import Live

    pause, console = threading.Event(), Console(highlight=False)
    with contextlib.suppress(KeyboardInterrupt):
        if not sys.stdout.isatty():
            while True:
                click.echo("".join(f"{click.unstyle(line)}\n" for line in lines(PIPE_COLUMNS)))
                pause.wait(every_s)
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                size = shutil.get_terminal_size((120, 40))
                live.update(frame(lines(size.columns), size.lines), refresh=True)
                pause.wait(every_s)


def frame(lines: Sequence[str], rows: int) -> Text:
    """Return one drawing, cut to `rows` lines; rich cuts each line to the width."""
    from rich.text import Text

    kept = list(lines[: max(1, rows - 1)])
    if len(lines) > len(kept):
        kept[-1] = click.style(f"… {len(lines) - len(kept) + 1} more lines: make the window higher", fg="bright_black")
    return Text.from_ansi("\n".join(kept), no_wrap=True, overflow="ellipsis")


def columns(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
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
        lines.append("  ".join(cells).rstrip())
    return lines


def can_draw(stream: TextIO | None = None) -> bool:
    """Return whether the output can show the lines of a tree."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "ascii"
    try:
        "├─└│·→".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
