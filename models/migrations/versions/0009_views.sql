-- The views of revision 0009. Every row of a simulation that counts: of days that are kept, and the newest of one that was
-- left out, whose day is not. A day that is no longer kept counts as gone while its partition is still there, so no row
-- is there twice. Columns as in portfolio_days: amounts are ticks. No query of a night reads this.
CREATE VIEW kept_days AS
SELECT
    day, nights, user_id, simulation_id, cash, equity, peak, return_mean, return_m2, max_drawdown,
    asset_ids, quantities, cost_basis, state
FROM portfolio_days
WHERE
    day >= coalesce((SELECT r.daily_from FROM retention AS r), DATE '0001-01-01')
    OR extract(day FROM day + 1) = 1
UNION ALL
SELECT
    day, nights, user_id, simulation_id, cash, equity, peak, return_mean, return_m2, max_drawdown,
    asset_ids, quantities, cost_basis, state
FROM portfolio_archive
WHERE NOT (
    day >= coalesce((SELECT r.daily_from FROM retention AS r), DATE '0001-01-01')
    OR extract(day FROM day + 1) = 1
);

-- As in revision 0001, over those rows.
CREATE OR REPLACE VIEW portfolio_history AS
SELECT
    p.day,
    p.user_id,
    u.name AS user_name,
    p.simulation_id,
    coalesce(st.name, s.strategy::text) AS strategy,
    p.nights,
    (s.initial_cash * 0.00000001)::numeric(20, 8) AS initial_cash,
    (p.cash * 0.00000001)::numeric(20, 8) AS cash,
    (p.equity * 0.00000001)::numeric(20, 8) AS equity,
    (p.peak * 0.00000001)::numeric(20, 8) AS peak,
    (p.equity - s.initial_cash)::double precision / nullif(s.initial_cash, 0) AS total_return,
    CASE WHEN p.nights > 1 THEN sqrt(p.return_m2 / (p.nights - 1)) * sqrt(365) END AS volatility,
    CASE
        WHEN p.nights > 1 AND p.return_m2 > 0 THEN p.return_mean / sqrt(p.return_m2 / (p.nights - 1)) * sqrt(365)
    END AS sharpe,
    p.max_drawdown,
    (
        SELECT coalesce(jsonb_object_agg(a.symbol, (h.quantity * 0.00000001)::numeric(20, 8)), '{}')
        FROM unnest(p.asset_ids, p.quantities) AS h (asset_id, quantity)
        JOIN assets AS a ON a.id = h.asset_id
        WHERE h.quantity <> 0
    ) AS positions
FROM kept_days AS p
LEFT JOIN simulations AS s ON s.id = p.simulation_id
LEFT JOIN users AS u ON u.id = p.user_id
LEFT JOIN strategies AS st ON st.code = s.strategy;
