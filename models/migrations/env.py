"""Alembic's environment: runs the migrations on the connection that models.migrate hands over.

There is no offline mode and no ini file: the schema is changed by `nightshift db migrate` only.
"""

from __future__ import annotations

from alembic import context

from models.migrate import AUTOGENERATE
from models.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    # So a migration may leave its transaction: `with op.get_context().autocommit_block()`.
    transaction_per_migration=True,
    **AUTOGENERATE,
)

with context.begin_transaction():
    context.run_migrations()
