"""Exact ids against a plain Python loop."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.models.kmers import LONGEST, Letters, Seeds, starts

DNA = st.text("ACGT", max_size=80)
MESSY = st.lists(st.text("ACGTacgtUuNnRY-", max_size=80), min_size=1, max_size=5)
PATTERNS = st.integers(1, 3).flatmap(
    lambda count: st.tuples(st.integers(1, 10), st.integers(0, 8)).flatmap(
        lambda sizes: st.lists(pattern(*sizes), min_size=count, max_size=count)
    )
)
DIGIT = {"A": 0, "C": 1, "G": 2, "T": 3, "U": 3}
OTHER_STRAND = {"A": "T", "C": "G", "G": "C", "T": "A", "U": "A"}


def pattern(weight, zeros):
    """Patterns of so many 1s and 0s, with 1s at both ends."""
    if weight == 1:
        return st.just("1")
    return st.permutations("1" * (weight - 2) + "0" * zeros).map(lambda inner: "1" + "".join(inner) + "1")


def letters(*texts):
    return Letters.of(pa.chunked_array([pa.array(texts, pa.string())]))


def reverse_complement(text):
    return "".join(OTHER_STRAND[base] for base in reversed(text))


def naive(text, patterns, canonical):
    """Ids and starts by string operations, one k-mer at a time."""
    text, span = text.upper(), len(patterns[0])
    found = []
    for at in range(len(text) - span + 1):
        window = text[at : at + span]
        if not set(window) <= set("ACGTU"):
            continue
        whole = 0
        for band, one in enumerate(patterns):
            both = [number(strand, one) for strand in (window, reverse_complement(window))]
            whole += (min(both) if canonical else both[0]) << (band * 2 * one.count("1"))
        found.append((whole, at))
    return found


def number(window, pattern):
    total = 0
    for base, taken in zip(window, pattern, strict=True):
        if taken == "1":
            total = 4 * total + DIGIT[base]
    return total


@given(MESSY, st.integers(1, LONGEST), st.sampled_from(["canonical", "forward"]))
def test_plain_ids_are_those_of_the_loop(texts, k, strand):
    ids, counts = Seeds.plain(k).ids(letters(*texts), strand)
    expected = [naive(text, ["1" * k], strand == "canonical") for text in texts]
    assert ids.tolist() == [number for row in expected for number, _ in row]
    assert counts.tolist() == [len(row) for row in expected]
    assert starts(letters(*texts), k).tolist() == [at for row in expected for _, at in row]


@given(MESSY, PATTERNS, st.sampled_from(["canonical", "forward"]))
def test_spaced_ids_are_those_of_the_loop(texts, patterns, strand):
    ids, counts = Seeds(tuple(patterns)).ids(letters(*texts), strand)
    expected = [naive(text, patterns, strand == "canonical") for text in texts]
    assert ids.tolist() == [number for row in expected for number, _ in row]
    assert counts.tolist() == [len(row) for row in expected]


@given(DNA, PATTERNS)
def test_the_other_strand_has_the_same_ids_backwards(text, patterns):
    seeds = Seeds(tuple(patterns))
    assert seeds.ids(letters(text))[0].tolist() == seeds.ids(letters(reverse_complement(text)))[0].tolist()[::-1]


@given(DNA, st.integers(0, 80), st.integers(2, LONGEST))
def test_ids_do_not_depend_on_where_a_batch_is_cut(text, cut, k):
    seeds, both = Seeds.plain(k), letters(text[:cut], text[cut:])
    apart = np.concatenate([seeds.ids(letters(part))[0] for part in (text[:cut], text[cut:])])
    assert np.array_equal(seeds.ids(both)[0], apart)


def test_the_longest_ids_are_positive_and_all_different_for_different_kmers():
    ids, _ = Seeds.plain(31).ids(letters("A" * 31, "C" * 31, "T" * 30 + "G", "C" + "A" * 30))
    last = 1 << 60  # "C" and thirty "A", and, on the other strand, thirty "T" and "G"
    assert ids.tolist() == [0, number("C" * 31, "1" * 31), last, last]


def test_no_letter_but_acgtu_is_a_base():
    every = [chr(code) for code in range(128)]
    ids, counts = Seeds.plain(1).ids(letters(*every), "forward")
    assert [letter for letter, count in zip(every, counts, strict=True) if count] == list("ACGTUacgtu")
    assert ids.tolist() == [0, 1, 2, 3, 3] * 2


def test_letters_beyond_ascii_are_no_bases_and_do_not_move_what_follows():
    assert Seeds.plain(2).ids(letters("ACéGT", "TT"))[1].tolist() == [2, 1]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_columns_in_pieces_with_offsets_and_nulls(kind):
    column = pa.chunked_array([pa.array(["xx", "ACGT", None], kind)[1:], pa.array(["GG"], kind)])
    ids, counts = Seeds.plain(2).ids(Letters.of(column))
    assert counts.tolist() == [3, 0, 1]
    assert ids.tolist() == [1, 6, 1, 5]


def test_no_rows_give_no_ids():
    ids, counts = Seeds.plain(5).ids(Letters.of(pa.chunked_array([], pa.string())))
    assert len(ids) == len(counts) == 0


def test_another_process_gives_the_same_ids():
    text = "ACGTTGCANACGTGGTCA" * 4
    code = (
        "import pyarrow as pa; from penstock.models.kmers import *; from penstock.models.kmers import Letters; "
        f"print(Seeds(('1101011', '1110101')).ids(Letters.of(pa.chunked_array([['{text}']])))[0].tolist())"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == str(Seeds(("1101011", "1110101")).ids(letters(text))[0].tolist())


@pytest.mark.parametrize(
    ("patterns", "fault"),
    [
        ((), "there is no pattern"),
        (("1021",), "'1021' must be of 0 and 1 alone"),
        (("0110",), "begin and end with 1"),
        (("1" * 32,), "spans 32 bases; at most 31"),
        (("111", "1101"), "of one length with equally many 1s"),
        (("1" * 16,) * 2, "2 patterns of 16 bases need 64 bits; an id has 63"),
    ],
)
def test_wrong_patterns_are_refused_with_the_reason(patterns, fault):
    with pytest.raises(ValueError, match=fault):
        Seeds(patterns)
