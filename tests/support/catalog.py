"""What a database says it consists of: the whole of it, where Alembic's comparison looks at a part."""

from __future__ import annotations

from sqlalchemy import Connection, text

_QUERIES = {
    "relations": """
        SELECT c.relname, c.relkind::text, coalesce(pg_get_partkeydef(c.oid), ''), coalesce(pg_get_viewdef(c.oid), '')
        FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S')
    """,
    "columns": """
        SELECT a.attrelid::regclass::text, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
            a.attidentity::text, coalesce(pg_get_expr(d.adbin, d.adrelid), '')
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND a.attnum > 0
            AND NOT a.attisdropped
    """,
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    """,
    "functions": """
        SELECT proname, pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    """,
    "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
}

Catalog = dict[str, set[tuple[object, ...]]]


def describe(connection: Connection) -> Catalog:
    """Relations, columns, constraints, functions and indexes of the schema `public`, without Alembic's own table."""
    return {
        kind: {tuple(row) for row in connection.execute(text(query)) if row[0] != "alembic_version"}
        for kind, query in _QUERIES.items()
    }
