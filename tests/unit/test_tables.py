"""A table is readable at any width: nothing is folded to letters, nothing vanishes unsaid."""

from __future__ import annotations

from io import StringIO

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from scripts.tables import print_rows

_COLUMNS = ["run>", "days", "status", "users>", "digest", "error"]
_LONG = "the asset XYZ has had no price for more than five days, since 2022-11-30"
_ROWS = [
    ["12", "2022-11-01 … 2022-12-28", "done", 1_000_000, "834d4665a9409c81", None],
    ["13", "2022-12-29", "failed", 5, None, _LONG],
]


def _printed(
    width: int, *, spare: tuple[str, ...] = ("digest", "users>"), rows: list[list[object]] | None = None
) -> tuple[str, tuple[str, ...]]:
    out = StringIO()
    left_out = print_rows(
        Console(file=out, width=width, highlight=False),
        _COLUMNS,
        _ROWS if rows is None else rows,
        title=None,
        spare=spare,
    )
    return out.getvalue(), left_out


def test_what_fits_is_shown_whole() -> None:
    text, left_out = _printed(200)
    assert left_out == ()
    assert all(word in text for word in ("2022-11-01 … 2022-12-28", "1,000,000", "834d4665a9409c81", _LONG))


def test_the_widest_text_is_narrowed_first() -> None:
    text, left_out = _printed(110)
    assert left_out == ()
    assert "834d4665a9409c81" in text
    assert "2022-11-01 … 2022-12-28" in text
    assert _LONG not in text
    assert all(word in text for word in _LONG.split())


def test_then_spare_columns_are_left_out_in_their_order_and_named() -> None:
    text, left_out = _printed(85)
    assert left_out == ("digest",)
    assert "834d4665a9409c81" not in text
    assert "1,000,000" in text


def test_then_every_row_stands_on_lines_of_its_own() -> None:
    text, left_out = _printed(40)
    assert left_out == ()
    assert "digest  834d4665a9409c81\n" in text
    assert f" error  {_LONG}\n" in text
    assert "–" not in text


@settings(max_examples=50)
@given(st.integers(20, 220), st.integers(0, 10**12))
def test_no_line_of_a_table_is_wider_than_the_terminal_and_no_number_is_broken(width: int, users: int) -> None:
    text, left_out = _printed(width, rows=[["1", "2022-12-28", "done", users, "834d4665a9409c81", "x" * 30]])
    assert f"{users:,}" in text or "users" in left_out
    if "─" in text:
        assert max(map(len, text.splitlines())) <= width
