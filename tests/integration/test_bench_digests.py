"""The benchmark of nights beside digest mails: a small one has every figure, and the mails really arrived."""

from __future__ import annotations

import pytest

from benchmarks.digests import measure_digests
from core.errors import UsageError
from core.settings import Settings


def test_a_small_one_has_every_figure() -> None:
    told: list[str] = []
    result = measure_digests(users=300, nights=1, digests=20, workers=1, settings=Settings(), tell=told.append)
    assert result["mails"] >= 20
    assert 0 <= result["mails_beside_nights"] <= result["mails"]
    assert result["ratio"]["median"] > 0
    assert result["mails_a_second"]["median"] > 0
    for kind in ("alone", "beside"):
        assert 0 < result[f"{kind}_seconds"]["min"] <= result[f"{kind}_seconds"]["max"]
        assert any(kind in line for line in told)


@pytest.mark.parametrize(("nights", "digests", "what"), [(0, 20, "nights must be 1 to"), (1, 301, "digests must be")])
def test_numbers_out_of_range_are_refused(nights: int, digests: int, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        measure_digests(users=300, nights=nights, digests=digests, workers=1, settings=Settings())
