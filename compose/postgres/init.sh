#!/bin/sh
# At the first start of a new cluster: the database, its owner, and the role of postgres-exporter. No password passes
# through a command line.
set -eu
export SECRETS="${SECRETS:-/run/secrets}"
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
\set owner_password `cat "$SECRETS/owner_password"`
\set monitor_password `cat "$SECRETS/monitor_password"`
-- Owner of the tables. Neither superuser nor able to make roles or databases. The others: `nightshift db roles`.
CREATE ROLE nightshift_owner LOGIN PASSWORD :'owner_password';
CREATE DATABASE nightshift OWNER nightshift_owner;
REVOKE CONNECT, TEMPORARY ON DATABASE nightshift FROM PUBLIC;
CREATE ROLE monitor LOGIN PASSWORD :'monitor_password' CONNECTION LIMIT 5 IN ROLE pg_monitor;
GRANT CONNECT ON DATABASE nightshift TO monitor;
ALTER ROLE monitor SET statement_timeout = '10s';
SQL
