"""A disk that is full, as the journal sees it: triggers that refuse every write with PostgreSQL's own code.

The triggers carry their own end (a moment in the function), so that a chaos run that is itself killed leaves a journal
that can be written; `free_disk` then only tidies up.
"""

from __future__ import annotations

import contextlib

from fks.lab.chaos.outside import DATABASE_ERRORS, Outside
from fks.model.errors import OutageError

TABLES = ("signals", "orders", "order_events", "trades", "positions")
_LOCKED = 5  # attempts at a lock that a busy table does not give at once


async def fill_disk(outside: Outside, number: int, seconds: float) -> None:
    """Refuse writes of the order journal for so long, as fault `number`. Errors: OutageError."""
    name = f"chaos_no_space_{number}"
    body = f"""
    CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      IF clock_timestamp() < to_timestamp({outside.now_s() + seconds:.3f}) THEN
        RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';
      END IF;
      RETURN NULL;
    END $$;"""
    triggers = " ".join(
        f"CREATE OR REPLACE TRIGGER {name} BEFORE INSERT OR UPDATE ON {table}"
        f" FOR EACH STATEMENT EXECUTE FUNCTION {name}();"
        for table in TABLES
    )
    await _run(outside, body + triggers)


async def free_disk(outside: Outside, number: int | None = None) -> None:
    """Remove the triggers of fault `number`, or of all; nothing to remove is fine. Errors: OutageError."""
    wanted = "chaos_no_space%" if number is None else f"chaos_no_space_{number}"
    rows = await outside.sql("SELECT proname FROM pg_proc WHERE proname LIKE $1", wanted.replace("_", r"\_"))
    for row in rows:
        await _run(outside, f"DROP FUNCTION IF EXISTS {row['proname']}() CASCADE")


async def _run(outside: Outside, script: str) -> None:
    for attempt in range(_LOCKED):
        connection = await outside.connect()
        try:
            async with connection.transaction():
                await connection.execute(script)
            return
        except DATABASE_ERRORS as error:
            if attempt == _LOCKED - 1:
                raise OutageError(f"PostgreSQL: {type(error).__name__}: {error}") from error
        finally:
            with contextlib.suppress(*DATABASE_ERRORS):
                await connection.close(timeout=1.0)
