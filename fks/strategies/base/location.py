"""Places in a strategy's own file, for messages: the line that raised, and the line of a method."""

from __future__ import annotations

import inspect
import sys
import traceback
from pathlib import Path

_TEXT_MAX = 100


def raised_at(error: BaseException, kind: type) -> str:
    """Return the innermost line of the strategy's own file that led to `error`, as "mine.py line 12: `x = 1 / 0`";
    empty when there is none."""
    bases = [base for base in kind.__mro__ if hasattr(base, "decide")]  # pydantic's own lines do not help
    files = {getattr(sys.modules.get(base.__module__), "__file__", None) for base in bases}
    files = {file for file in files if file and Path(file).parent != Path(__file__).parent}
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    if not frames:
        return ""
    last = frames[-1]
    source = f": `{last.line[:_TEXT_MAX]}`" if last.line else ""
    return f"{Path(last.filename).name} line {last.lineno}{source}"


def defined_at(kind: type, method: str) -> str:
    """Return where a method of the strategy begins, as "decide() in mine.py, line 30"; `on_bar` when it has that."""
    if (described := getattr(kind, "described", None)) is not None:  # its code is in another process
        return str(described.places.get(method, f"{method}()"))
    method = "on_bar" if method == "decide" and hasattr(kind, "on_bar") else method
    code = getattr(inspect.unwrap(getattr(kind, method)), "__code__", None)
    return f"{method}()" if code is None else f"{method}() in {Path(code.co_filename).name}, line {code.co_firstlineno}"


def one_line(error: BaseException) -> str:
    """Return the type and the first line of an error's text."""
    text = str(error).splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
