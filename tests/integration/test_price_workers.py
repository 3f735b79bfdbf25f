"""Two beats and four workers on one provider: never more than its limit, no window twice, none missing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.support.nights import rows, scalar
from tests.support.price_stack import PRICES, coins, most_in, price_stack
from tests.support.provider import Provider
from workers.embedded import ServerUrls

PARTS, WINDOWS, LENGTH = 24, 2, 15
# Six seconds with the limit's slack: even if the first window was asked for at its very end, the next one is asked for
# in time, 20 requests after six seconds and the rest after twelve.
LIMIT, PER = 20, 1


@pytest.mark.usefixtures("_plain_logs")
def test_a_limit_that_binds_is_kept_and_every_window_fetched_once(
    database: str, engine: Engine, redis_url: str, tmp_path: Path
) -> None:
    # More requests a window than the limit lets pass at once, so that some have to wait in every window.
    wanted = coins(PARTS * 250)
    # The first window may be nearly over when the workers are ready; to fill it would take half of the limit.
    limits = {
        "price_limits": f"coingecko={LIMIT}/{PER}second",
        "price_window_seconds": LENGTH,
        "price_fill_days": 0,
    }
    with (
        Provider() as server,
        price_stack(engine, ServerUrls(database, redis_url), tmp_path, server, wanted, **limits) as stack,
    ):
        stack.wait_done(WINDOWS, seconds=120)
        requests = server.asked(PRICES)
    assert most_in(requests, PER) <= LIMIT
    found = rows(engine, "SELECT status, error FROM price_windows ORDER BY starts_at")
    # The first may have been over before all its parts were asked for, and the last may be in work.
    assert [status for status, _ in found[1:-1]] == ["done"] * (len(found) - 2), found
    begun = rows(engine, "SELECT extract(epoch FROM starts_at)::bigint FROM price_windows ORDER BY 1")
    first = begun[0][0]
    assert [row[0] for row in begun] == [first + LENGTH * number for number in range(len(begun))]
    asked = Counter(request.query["ids"] for request in requests)
    assert len(asked) == PARTS
    assert max(asked.values()) <= len(begun), "no part of a window was asked for twice"
    assert min(asked.values()) >= len(stack.done())
    workers = scalar(engine, "SELECT count(DISTINCT worker) FROM price_chunks WHERE status = 'done'")
    assert workers == 4
