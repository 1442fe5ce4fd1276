"""Alembic's environment and the versions: the only source of the schema. Driven by fks.store.migrate, never by hand."""
