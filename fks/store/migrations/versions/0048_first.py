"""The first revision that can be upgraded; an empty database is made from fks.store.schema and fks.store.routines."""

from __future__ import annotations

from alembic import op

from fks.model.errors import InputError
from fks.store.routines import DROP_INFORMATION, DROPS
from fks.store.schema import metadata

revision = "0048"
down_revision = None
branch_labels = None
depends_on = None
can_roll = False


def upgrade() -> None:
    raise InputError("an empty database is made at the newest revision", remedy="'fks db upgrade' without a revision")


def downgrade() -> None:
    for statement in (DROP_INFORMATION, *DROPS):
        op.get_bind().exec_driver_sql(statement)
    metadata.drop_all(op.get_bind())
