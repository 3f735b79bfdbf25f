"""A simulation's row as the bytes that a night reads, kept by PostgreSQL beside the row.

Rewrites `simulations`: about ten seconds for a million, during which no simulation can be read or changed.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Big-endian values one after the other; of an array its elements, each behind its size, without the head that tells
# their type, number and lower bound. `array_send` is only STABLE, because elements of some types are sent as a setting
# says; integers are not.
_FUNCTION = """
CREATE FUNCTION simulation_frame(
    user_id bigint, id bigint, strategy smallint, start_day date, initial_cash bigint,
    params bigint[], asset_ids integer[], weights_ppm integer[]
) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN int8send(user_id) || int8send(id) || int2send(strategy) || date_send(start_day) || int8send(initial_cash)
    || substring(array_send(params) FROM 21) || substring(array_send(asset_ids) FROM 21)
    || substring(array_send(weights_ppm) FROM 21)
"""
_CALL = "simulation_frame(user_id, id, strategy, start_day, initial_cash, params, asset_ids, weights_ppm)"


def upgrade() -> None:
    op.execute(_FUNCTION)
    op.execute(f"ALTER TABLE simulations ADD COLUMN frame bytea NOT NULL GENERATED ALWAYS AS ({_CALL}) STORED")


def downgrade() -> None:
    op.drop_column("simulations", "frame")
    op.execute("DROP FUNCTION simulation_frame")
