"""Closes that somebody changes by hand raise the version of the closes, by which workers know that theirs are old.

Nightshift's own changes say in their transaction that they see to it themselves, and are spared: the ticks of today,
which come every five minutes, leave every worker's market as it is.
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


_FUNCTION = """
CREATE FUNCTION raise_closes_version() RETURNS trigger
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    UPDATE closes_version SET version = version + 1;
    RETURN NULL;
END
$$
"""
_TRIGGER = """
CREATE TRIGGER closes_changed_by_hand
AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON closes
FOR EACH STATEMENT WHEN (current_setting('nightshift.closes_planned', true) IS DISTINCT FROM 'on')
EXECUTE FUNCTION raise_closes_version()
"""


def upgrade() -> None:
    op.execute(_FUNCTION)
    op.execute(_TRIGGER)


def downgrade() -> None:
    op.execute("DROP TRIGGER closes_changed_by_hand ON closes")
    op.execute("DROP FUNCTION raise_closes_version")
