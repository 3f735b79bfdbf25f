"""The history of a simulation shows its newest row wherever that is: views read the archive beside the days."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_HISTORY = "CREATE VIEW portfolio_history AS"


def upgrade() -> None:
    # Sent as written: the text has % and : of its own.
    op.get_bind().exec_driver_sql(_read("0009_views.sql"))


def downgrade() -> None:
    # portfolio_latest is made of it, so it is replaced and not made anew.
    _, _, before = _read("0001_views.sql").partition(_HISTORY)
    op.get_bind().exec_driver_sql(f"CREATE OR REPLACE VIEW portfolio_history AS {before.partition(';')[0]}")
    op.execute("DROP VIEW kept_days")


def _read(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
