"""Sizes of pools: held against trying all of them."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.balance import Crew, limiting, pace, sizes
from penstock.core.plan import Resources

MANY = 1 << 60


def tried(crews, have):
    """The best pace of all sizes that fit, by trying each."""
    ranges = [range(crew.low, int(min(crew.high, 12)) + 1) for crew in crews]
    fitting = [
        counts
        for counts in itertools.product(*ranges)
        if sum(n * crew.cpus for n, crew in zip(counts, crews, strict=True)) <= have.cpus + 1e-9
        and sum(n * crew.gpus for n, crew in zip(counts, crews, strict=True)) <= have.gpus + 1e-9
    ]
    return max(pace(crews, counts) for counts in fitting)


crew = st.builds(
    Crew,
    st.floats(0.01, 10),
    st.just(1),
    st.integers(1, 9),
    st.sampled_from([0.25, 0.5, 1.0]),
    st.sampled_from([0.0, 0.0, 0.5]),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(crew, min_size=1, max_size=3), st.floats(3, 8), st.floats(1.5, 4))
def test_no_other_sizes_are_faster(crews, cpus, gpus):
    have = Resources(cpus, gpus, MANY, "a test")
    assert pace(crews, sizes(crews, have)) == pytest.approx(tried(crews, have))


def test_the_toy_has_two_and_six_workers():
    found = sizes([Crew(0.1, cpus=0.2), Crew(0.3, cpus=0.2)], Resources(1.6, 0, MANY, "eight slots"))
    assert found == [2, 6]


def test_a_pool_that_may_not_grow_ends_the_growth_of_all():
    crews = [Crew(1.0, high=2), Crew(0.1)]
    found = sizes(crews, Resources(64, 0, MANY, "a test"))
    assert found == [2, 1]
    assert limiting(crews, found) == 0


def test_memory_is_looked_at_too():
    assert sizes([Crew(1.0, memory_bytes=10)], Resources(64, 0, 35, "a test")) == [3]


def test_pools_that_cost_nothing_keep_their_fewest():
    assert sizes([Crew(0.0, low=2), Crew(0.0)], Resources(64, 0, MANY, "a test")) == [2, 1]
    assert pace([Crew(0.0)], [1]) == float("inf")
