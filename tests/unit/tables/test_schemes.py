"""From ids to rows, beside plain Python integers."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.tables.layout import Layout
from penstock.tables.schemes import Bands, Compositional, Exact, Hashed, known, places

SCHEMES = st.one_of(
    st.builds(Exact, st.integers(1, 10**6)),
    st.builds(Hashed, st.integers(1, 10**6), st.integers(1, 4), st.integers(0, 9)),
    st.builds(Bands, st.integers(1, 4), st.integers(1, 15)),
    st.builds(Compositional, st.lists(st.integers(1, 5000), min_size=1, max_size=4).map(tuple)),
)
ID = st.integers(0, 2**63 - 1)
MASK = 2**64 - 1


def splitmix(x):
    """The finalizer of SplitMix64, by Python's integers."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def rows_of(scheme, number):
    """The rows of one id, by Python's integers."""
    match scheme:
        case Exact():
            return [number]
        case Hashed(rows, hashes, seed):
            steps = [(seed + 1 + at) * 0x9E3779B97F4A7C15 for at in range(hashes)]
            return [splitmix(number + step & MASK) % rows for step in steps]
        case Bands(bands, bits):
            return [band * 2**bits + number // 2 ** (bits * band) % 2**bits for band in range(bands)]
        case Compositional(radices):
            found, first = [], 0
            for radix in radices:
                found.append(first + number % radix)
                number, first = number // radix, first + radix
            return found


@given(SCHEMES, st.lists(ID, max_size=30))
def test_rows_are_those_of_the_definition(scheme, numbers):
    numbers = [number % scheme.limit for number in numbers]
    found = places(scheme, np.array(numbers, np.int64))
    assert found.tolist() == [rows_of(scheme, number) for number in numbers]
    assert ((found >= 0) & (found < scheme.rows)).all()


@given(SCHEMES, st.integers(-(2**63), 2**63 - 1))
def test_ids_from_zero_to_the_limit_are_known(scheme, number):
    assert known(scheme, np.array([number]))[0] == (0 <= number < scheme.limit)


@given(SCHEMES, st.integers(1, 100), st.sampled_from(["float32", "float16", "int8"]))
def test_layouts_come_back_from_json(scheme, dim, dtype):
    layout = Layout(scheme, dim, dtype)
    assert Layout.of(json.loads(json.dumps(layout.plain()))) == layout


def test_ids_without_a_row_are_refused():
    with pytest.raises(IndexError, match="2 of 3 ids have no row, the first: 5; the table takes ids from 0 to 4"):
        places(Exact(5), [0, 5, -1])
    with pytest.raises(TypeError, match=r"ids are float64 of shape \(1,\); integers in one dimension were needed"):
        places(Exact(5), [0.5])


def test_hashing_spreads_neighbouring_ids_evenly():
    """Consecutive ids, as k-mers with one prefix have them, fill the buckets as random ones would (chi-squared)."""
    rows, count = 1000, 200_000
    for scheme in (Hashed(rows), Hashed(rows, seed=5)):
        hits = np.bincount(places(scheme, np.arange(count) * 4)[:, 0], minlength=rows)
        chi = ((hits - count / rows) ** 2 / (count / rows)).sum()
        assert abs(chi - rows) < 5 * (2 * rows) ** 0.5


def test_two_hashes_rarely_collide_together():
    both = places(Hashed(1000, 2), np.arange(20_000))
    assert len(np.unique(both[:, 0])) == 1000
    assert len(np.unique(both, axis=0)) > 19_700  # 20,000 pairs among a million: 200 or so collide


@given(st.integers(0, 2**30 - 1), st.integers(0, 29))
def test_one_bit_changes_one_band(number, bit):
    one, other = places(Bands(5, 6), np.array([number, number ^ (1 << bit)]))
    assert (one != other).sum() == 1


def test_digits_tell_all_ids_apart():
    scheme = Compositional((7, 11, 3))
    found = places(scheme, np.arange(scheme.limit))
    assert (scheme.limit, scheme.rows, len(np.unique(found, axis=0))) == (231, 21, 231)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Exact(0), "rows is 0; at least 1 was needed"),
        (lambda: Bands(8, 8), "8 bands of 8 bits are 64; ids have 63 bits"),
        (lambda: Compositional(()), "the radices .* at least one was needed"),
        (lambda: Compositional((2**40, 2**40)), "at most 2\\^63 ids"),
        (lambda: Layout(Exact(3), 0), "dim is 0; at least 1 was needed"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(make, text):
    with pytest.raises(ValueError, match=text):
        make()
