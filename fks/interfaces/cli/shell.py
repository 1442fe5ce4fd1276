"""`fks shell`: a Python prompt with the store open. `await` works at the prompt."""

from __future__ import annotations

import ast
import asyncio
import code
import contextlib
import threading
import traceback
import types
from collections.abc import Coroutine
from typing import Any

import click

from fks.model.errors import FksError


@click.command()
@click.option("--write", is_flag=True, help="Allow changes; without it the database refuses them.")
@click.option("-c", "--command", help="Run this code and leave.")
@click.pass_context
def shell(ctx: click.Context, write: bool, command: str | None) -> None:
    """A Python prompt with the store open: `await q("SELECT …")`, `db`, `settings`, `paths`. Read-only unless
    --write."""
    from fks.interfaces.cli.store import opened_store

    with opened_store(ctx) as (url, settings, paths), _Loop() as loop:
        from fks.store.db import Database

        async def connect() -> Database:
            return await Database.connect(
                url, settings.database, application="shell", retry_s=5.0, is_readonly=not write
            )

        store = loop.run(connect())

        async def q(text: str, *args: object) -> list[dict[str, Any]]:
            """Return the rows of a statement as dicts."""
            return [dict(row) for row in await store.sql(text, *args)]

        console = _Console(loop, {"db": store, "q": q, "settings": settings, "paths": paths, "asyncio": asyncio})
        try:
            if command is not None:
                if not console.run_all(command):
                    raise click.exceptions.Exit(1)
                return
            mode = "changes are allowed" if write else "read-only (--write allows changes)"
            console.interact(
                banner=f'FKS store of {paths.home}, {mode}. Try: await q("TABLE orders LIMIT 5")', exitmsg=""
            )
        finally:
            loop.run(store.close())


class _Loop:
    """An event loop on a thread of its own: the prompt blocks, connections must not."""

    def __enter__(self) -> _Loop:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        return self

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)


class _Console(code.InteractiveConsole):
    def __init__(self, loop: _Loop, names: dict[str, Any]) -> None:
        super().__init__(names)
        self._loop = loop
        self._has_failed = False
        self.compile.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        with contextlib.suppress(ImportError):
            import readline
            import rlcompleter

            readline.set_completer(rlcompleter.Completer(names).complete)
            readline.parse_and_bind("tab: complete")

    def runcode(self, compiled: types.CodeType) -> None:
        try:
            result = types.FunctionType(compiled, self.locals)()
            if asyncio.iscoroutine(result):
                self._loop.run(result)
        except SystemExit:
            raise
        except BaseException as error:
            self._has_failed = True
            if isinstance(error, FksError) or type(error).__module__.startswith("asyncpg"):
                click.echo(f"{type(error).__name__}: {error}", err=True)  # frames of FKS are of no use to the user
            else:
                found = error.__traceback__
                while found is not None and not found.tb_frame.f_code.co_filename.startswith("<"):
                    found = found.tb_next  # ours and asyncio's frames; the user's code is <command> or <console>
                click.echo("".join(traceback.format_exception(error.with_traceback(found))).rstrip(), err=True)

    def run_all(self, text: str) -> bool:
        """Run `text` as a whole; return whether it went through. Expressions do not print themselves."""
        try:
            compiled = compile(text, "<command>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        except SyntaxError as error:
            raise click.UsageError(f"no valid Python: {error}") from error
        self.runcode(compiled)
        return not self._has_failed
