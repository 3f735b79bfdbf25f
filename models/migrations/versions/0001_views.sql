-- The views of revision 0001, for people and BI tools: amounts are NUMERIC(20,8) units, statistics are DOUBLE PRECISION.
-- A later revision that changes a view brings its own file; this one stays as it was.
-- Ticks become units by a multiplication with 0.00000001, which is exact in NUMERIC; a division would choose a scale.

-- The parameters and slots of a simulation as JSON, named by the strategy's registration.
CREATE VIEW simulation_settings AS
SELECT
    s.id AS simulation_id,
    s.user_id,
    u.name AS user_name,
    coalesce(st.name, s.strategy::text) AS strategy,
    s.start_day,
    (s.initial_cash * 0.00000001)::numeric(20, 8) AS initial_cash,
    (
        SELECT coalesce(jsonb_object_agg(coalesce(st.param_names[p.i], 'param_' || p.i), p.value ORDER BY p.i), '{}')
        FROM unnest(s.params) WITH ORDINALITY AS p (value, i)
    ) AS parameters,
    (
        SELECT coalesce(
            jsonb_agg(
                jsonb_build_object('asset_id', w.asset_id, 'symbol', a.symbol, 'weight_ppm', w.weight_ppm) ORDER BY w.i
            ),
            '[]'
        )
        FROM unnest(s.asset_ids, s.weights_ppm) WITH ORDINALITY AS w (asset_id, weight_ppm, i)
        LEFT JOIN assets AS a ON a.id = w.asset_id
    ) AS slots,
    s.created_at
FROM simulations AS s
LEFT JOIN users AS u ON u.id = s.user_id
LEFT JOIN strategies AS st ON st.code = s.strategy;

-- Every portfolio day. LEFT JOINs on keys, so that a query that does not ask for a name does not pay for it.
CREATE VIEW portfolio_history AS
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
FROM portfolio_days AS p
LEFT JOIN simulations AS s ON s.id = p.simulation_id
LEFT JOIN users AS u ON u.id = p.user_id
LEFT JOIN strategies AS st ON st.code = s.strategy;

-- The last day that a nightly run has finished. The scalar subquery is evaluated once and prunes all other partitions
-- at execution. A simulation in quarantine has no row that day, and so none here.
CREATE VIEW portfolio_latest AS
SELECT h.*
FROM portfolio_history AS h
WHERE h.day = (SELECT max(r.day) FROM runs AS r WHERE r.kind = 'nightly' AND r.status = 'done');

-- Every trade, its quantity without sign.
CREATE VIEW trade_history AS
SELECT
    t.day,
    t.user_id,
    u.name AS user_name,
    t.simulation_id,
    CASE WHEN t.quantity > 0 THEN 'buy' ELSE 'sell' END AS side,
    t.asset_id,
    a.symbol,
    (abs(t.quantity) * 0.00000001)::numeric(20, 8) AS quantity,
    (t.price * 0.00000001)::numeric(20, 8) AS price,
    (t.notional * 0.00000001)::numeric(20, 8) AS notional,
    (t.fee * 0.00000001)::numeric(20, 8) AS fee,
    (t.realised * 0.00000001)::numeric(20, 8) AS realised
FROM trades AS t
LEFT JOIN users AS u ON u.id = t.user_id
LEFT JOIN assets AS a ON a.id = t.asset_id;

-- The best simulations of the last day that has a leaderboard.
CREATE VIEW leaderboard AS
SELECT
    l.day,
    l.rank,
    l.user_id,
    u.name AS user_name,
    l.simulation_id,
    coalesce(st.name, s.strategy::text) AS strategy,
    (l.equity * 0.00000001)::numeric(20, 8) AS equity,
    l.return_ppm / 1e6::double precision AS total_return
FROM leaderboard_entries AS l
LEFT JOIN users AS u ON u.id = l.user_id
LEFT JOIN simulations AS s ON s.id = l.simulation_id
LEFT JOIN strategies AS st ON st.code = s.strategy
WHERE l.day = (SELECT max(e.day) FROM leaderboard_entries AS e);

-- What each user traded on each day; no row for a day without trades. The win rate is the share of sales that realised
-- a profit, NULL without sales. A sum of a trillion units or more does not fit NUMERIC(20,8) and is shown as NULL,
-- because an error would hide the days of everybody else.
CREATE VIEW user_days AS
SELECT
    d.day,
    d.user_id,
    u.name AS user_name,
    d.trades,
    d.sales,
    (CASE WHEN d.volume < 1e20 THEN d.volume * 0.00000001 END)::numeric(20, 8) AS volume,
    (CASE WHEN d.fees < 1e20 THEN d.fees * 0.00000001 END)::numeric(20, 8) AS fees,
    (CASE WHEN abs(d.realised) < 1e20 THEN d.realised * 0.00000001 END)::numeric(20, 8) AS realised,
    (d.wins::numeric / nullif(d.sales, 0))::numeric(20, 8) AS win_rate
FROM (
    SELECT
        t.day,
        t.user_id,
        count(*) AS trades,
        count(*) FILTER (WHERE t.quantity < 0) AS sales,
        count(*) FILTER (WHERE t.quantity < 0 AND t.realised > 0) AS wins,
        sum(t.notional) AS volume,
        sum(t.fee) AS fees,
        sum(t.realised) AS realised
    FROM trades AS t
    GROUP BY t.day, t.user_id
) AS d
LEFT JOIN users AS u ON u.id = d.user_id;
