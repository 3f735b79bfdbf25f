-- The role of Grafana's data source: it reads what the dashboards show, and nothing else. May be run again at any time.
-- As the owner of the database:   psql "$NIGHTSHIFT_DATABASE_URL" -f compose/grafana/reader.sql
-- Then give it a password:        \password nightshift_dashboards
DO $$
BEGIN
    CREATE ROLE nightshift_dashboards LOGIN;
EXCEPTION WHEN duplicate_object THEN NULL;
END
$$;

ALTER ROLE nightshift_dashboards CONNECTION LIMIT 8;
ALTER ROLE nightshift_dashboards SET default_transaction_read_only = on;
-- A dashboard must never be what a night waits for.
ALTER ROLE nightshift_dashboards SET statement_timeout = '10s';
ALTER ROLE nightshift_dashboards SET lock_timeout = '2s';

GRANT USAGE ON SCHEMA public TO nightshift_dashboards;
GRANT SELECT ON runs, batches, quarantine, price_windows, held_prices, assets TO nightshift_dashboards;
-- Neither names nor addresses of users.
GRANT SELECT (day, rank, user_id, simulation_id, strategy, equity, total_return) ON leaderboard TO nightshift_dashboards;
