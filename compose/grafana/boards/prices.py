"""Prices: how old they are, what a source owes, what is held back, and whether the cache helps."""

from __future__ import annotations

from compose.grafana.boards.parts import Dashboard, Panel, Row, choice, column, lines, metric, now, sql, stat, table

_SOURCE = 'source=~"$source"'

STATE: list[Panel] = [
    stat(
        "Newest close", "Since the day of the newest close ended.", now("nightshift_price_age_seconds"),
        unit="s", steps=[(129_600, "orange"), (432_000, "red")],
    ),
    stat(
        "Newest window", "Since the newest window that was fetched began. Over 10 minutes is NightshiftPriceStale.",
        now(f"nightshift_price_window_age_seconds{{{_SOURCE}}}"
            " and on (job, instance, source) nightshift_price_source_enabled == 1", "{{source}}"),
        unit="s", steps=[(600, "orange")], width=8,
    ),
    stat(
        "Held", "Prices that jumped too far to be believed at once.", now("nightshift_held_prices"),
        steps=[(1, "orange")],
    ),
    stat(
        "Raised", "Alerts of the application, e.g. of a source that fails or of closes that are missing.",
        now('sum(nightshift_alerts_active) or sum(0 * nightshift_source_up{source="database"})'), steps=[(1, "red")],
    ),
    stat(
        "Sources", "Those that NIGHTSHIFT_PRICE_SOURCES names.", now("sum(nightshift_price_source_enabled)"),
        base="blue",
    ),
]  # fmt: skip

SOURCES: list[Panel] = [
    lines(
        "Age of the newest window", "By source; of one that is not asked any more it grows for ever.",
        metric(f"nightshift_price_window_age_seconds{{{_SOURCE}}}", "{{source}}"), unit="s", steps=[(600, "orange")],
    ),
    lines(
        "Windows that are not fetched", "By source and status. Failed ones are filled later from the source's history.",
        metric(f"nightshift_price_windows_open{{{_SOURCE}}}", "{{source}} {{status}}"), stacked=True,
    ),
    table(
        "Windows", "The newest 50: what each brought, and why one failed.",
        sql("SELECT source, starts_at, status, ticks, held, finished_at - starts_at AS took, counts::text AS refused,"
            " error FROM price_windows ORDER BY starts_at DESC, source LIMIT 50"),
        width=16,
    ),
    lines(
        "Alerts of the application", "Raised, by kind.",
        metric('sum by (kind) (nightshift_alerts_active) or on () sum(0 * nightshift_source_up{source="database"})',
               "{{kind}}"), width=8,
    ),
]  # fmt: skip

HELD: list[Panel] = [
    table(
        "Prices held back", "The newest 50, also those that were decided upon.",
        sql("SELECT a.symbol, h.source, h.kind, h.ts, h.price * 1e-8 AS price, h.reference * 1e-8 AS reference,"
            " h.jump_ppm / 1e6 AS jump, h.status, h.decided_by FROM held_prices h JOIN assets a ON a.id = h.asset_id"
            " ORDER BY h.id DESC LIMIT 50"),
        columns=[column("jump", unit="percentunit")], width=16,
    ),
    lines("Held", "Prices that wait for confirmation.", metric("nightshift_held_prices", "held"), width=8),
]  # fmt: skip

CACHE: list[Panel] = [
    lines(
        "Hit ratio", "Share of prices that were found in the cache, of the last 5 minutes.",
        metric("nightshift:price_cache_hits:ratio_rate5m", "hits"), unit="percentunit", min=0, max=1,
    ),
    lines(
        "Questions", "Prices that were asked for, a second.",
        metric("rate(nightshift_price_cache_hits_total[$__rate_interval])", "found"),
        metric("rate(nightshift_price_cache_misses_total[$__rate_interval])", "not found"), unit="suffix:/s",
        stacked=True,
    ),
]  # fmt: skip

PRICES = Dashboard(
    uid="nightshift-prices",
    title="Prices",
    description="How old prices are, what a source owes, what is held back, and whether the cache helps.",
    rows=[Row("Now", STATE), Row("Sources", SOURCES), Row("Held back", HELD), Row("Cache", CACHE)],
    variables=[
        choice(
            "source", "Source", {"query": "label_values(nightshift_price_source_enabled, source)", "refId": "sources"},
            several=True, description="The sources that are shown.",
        ),
    ],
)  # fmt: skip
