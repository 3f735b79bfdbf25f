#!/bin/sh
# The role of Grafana's data source, with the password of the secret. May be run again: after a migration, or to change
# the password. PGHOST, PGUSER (a superuser) and PGDATABASE say where.
set -eu
export SECRETS="${SECRETS:-/run/secrets}"
PGPASSWORD="$(cat "$SECRETS/postgres_password")"
export PGPASSWORD
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --file "${READER_SQL:-/etc/postgresql/reader.sql}"
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 <<'SQL'
\set password `cat "$SECRETS/grafana_database_password"`
ALTER ROLE nightshift_dashboards PASSWORD :'password';
GRANT CONNECT ON DATABASE nightshift TO nightshift_dashboards;
SQL
