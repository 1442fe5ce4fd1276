"""Alembic's entry point: the connection comes from fks.store.migrate, the tables from fks.store.schema."""

from __future__ import annotations

from alembic import context

from fks.store.migrate import COMPARE
from fks.store.schema import metadata


def run() -> None:
    """Run the migrations on the given connection, or print their SQL when there is none."""
    connection = context.config.attributes.get("connection")
    if connection is None:
        context.configure(dialect_name="postgresql", target_metadata=metadata, literal_binds=True)
    else:
        context.configure(connection=connection, target_metadata=metadata, **COMPARE)
    with context.begin_transaction():
        context.run_migrations()


run()
