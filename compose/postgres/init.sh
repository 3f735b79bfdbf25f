#!/bin/sh
# At the first start of a new cluster: the database, its owner, and the role of postgres-exporter. No password passes
# through a command line.
set -eu
export SECRETS="${SECRETS:-/run/secrets}"
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
\set database_password `cat "$SECRETS/database_password"`
\set monitor_password `cat "$SECRETS/monitor_password"`
-- Owner of the tables: a night makes its partition. Neither superuser nor able to make roles or databases.
CREATE ROLE nightshift LOGIN PASSWORD :'database_password';
CREATE DATABASE nightshift OWNER nightshift;
REVOKE CONNECT, TEMPORARY ON DATABASE nightshift FROM PUBLIC;
CREATE ROLE monitor LOGIN PASSWORD :'monitor_password' CONNECTION LIMIT 5 IN ROLE pg_monitor;
GRANT CONNECT ON DATABASE nightshift TO monitor;
ALTER ROLE monitor SET statement_timeout = '10s';
SQL
