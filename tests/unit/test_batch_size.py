"""How many users go into a batch: bounded by memory, and in small nights by what divides among the workers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.planning import batch_size


@pytest.mark.parametrize(
    ("users", "batches"), [(1_000_000, 108), (120_000, 12), (100_000, 12), (10_000, 4), (2_000, 1)]
)
def test_a_night_is_cut_into_so_many_batches(users: int, batches: int) -> None:
    assert math.ceil(users / batch_size(10_000, users=users, simulations=users)) == batches


@given(st.integers(30_000, 10_000_000))
def test_two_three_four_and_six_workers_have_equally_many_of_them(users: int) -> None:
    assert math.ceil(users / batch_size(10_000, users=users, simulations=users)) % 12 == 0


def test_of_users_with_many_simulations_fewer_go_into_one() -> None:
    assert batch_size(10_000, users=1_000_000, simulations=100_000_000) == 100
    assert batch_size(50, users=1_000, simulations=100_000) == 1


@pytest.mark.parametrize(("users", "simulations"), [(-1, -1), (0, 0), (10, 0), (-1, 10)])
def test_of_what_was_never_analysed_the_limit_is_taken(users: int, simulations: int) -> None:
    assert batch_size(10_000, users=users, simulations=simulations) == 10_000


@given(st.integers(1, 10**6), st.integers(-1, 10**9), st.integers(-1, 10**11))
def test_it_is_never_none_and_never_more_than_the_limit(limit: int, users: int, simulations: int) -> None:
    assert 1 <= batch_size(limit, users=users, simulations=simulations) <= limit
