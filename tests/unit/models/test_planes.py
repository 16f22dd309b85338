"""Hashes by planes against complex arithmetic, one k-mer at a time."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import StorageError, WeightsError
from penstock.models import planes
from penstock.models.kmers import Letters, Seeds

DNA = st.text("ACGT", min_size=1, max_size=80)
POINT = {"A": -1, "T": 1, "C": -1j, "G": 1j}
OTHER_STRAND = str.maketrans("ACGT", "TGCA")
RANDOM = "".join(np.random.default_rng(7).choice(list("ACGT"), 6000))


def letters(*texts):
    return Letters.of(pa.chunked_array([pa.array(texts, pa.string())]))


SHAPES = {(9, 5, 1): None, (15, 22, 1): None, (23, 10, 6): None, (31, 21, 3): None, (2, 1, 1): None}


def fitted(shape):
    k, bits, bands = shape
    SHAPES[shape] = SHAPES[shape] or planes.fit(letters(RANDOM), k, bits, bands=bands, seed=3, source="random")
    return SHAPES[shape]


def naive(text, given):
    """The definition in floating point; and how near to a plane a k-mer comes, over which rounding may decide."""
    normals = (given.normals[..., 0] + 1j * given.normals[..., 1]) / planes._ONE
    found, nearest = [], []
    for at in range(len(text) - given.span + 1):
        window = text[at : at + given.span]
        bits, near = [], 1.0
        for strand in (window, window[::-1].translate(OTHER_STRAND)):
            point = np.array([POINT[base] for base in strand])
            above = (normals.conj() @ point).real - given.offsets / planes._ONE
            bits.append((above > 0).reshape(given.bands, given.bits))
            near = min(near, np.abs(above).min())
        value = 0
        for band in range(given.bands):
            numbers = [sum(int(bit) << s for s, bit in enumerate(strand[band])) for strand in bits]
            value |= min(numbers) << (band * given.bits)
        found.append(value)
        nearest.append(near)
    return found, nearest


@given(DNA, st.sampled_from(list(SHAPES)))
def test_hashes_are_those_of_complex_arithmetic(text, shape):
    given = fitted(shape)
    expected, nearest = naive(text, given)
    found, counts = given.ids(letters(text))
    assert counts.tolist() == [len(expected)]
    # The sums are exact in fixed point, and off by a few 1e-16 in floating point.
    for mine, theirs, near in zip(found.tolist(), expected, nearest, strict=True):
        assert mine == theirs or near < 1e-12


@given(DNA, st.sampled_from(list(SHAPES)))
def test_the_other_strand_has_the_same_hashes_backwards(text, shape):
    given, other = fitted(shape), text[::-1].translate(OTHER_STRAND)
    assert given.ids(letters(text))[0].tolist() == given.ids(letters(other))[0].tolist()[::-1]


@given(DNA, DNA)
def test_hashes_do_not_depend_on_the_other_rows(one, two):
    given = fitted((9, 5, 1))
    apart = np.concatenate([given.ids(letters(text))[0] for text in (one, two)])
    assert np.array_equal(given.ids(letters(one, two))[0], apart)


def test_kmers_over_ambiguous_bases_are_left_out():
    given = fitted((9, 5, 1))
    ids, counts = given.ids(letters("ACGTACGTAC" + "N" + "GGGTTTAAAC", "ACGTNNNACGT"))
    assert counts.tolist() == [4, 0]
    assert np.array_equal(ids, given.ids(letters("ACGTACGTAC", "GGGTTTAAAC"))[0])


def test_planes_go_through_points_of_the_data():
    """k of the sampled k-mers lie on each plane, up to the rounding of the fixed point."""
    k, given = 9, fitted((9, 5, 1))
    ids, _ = Seeds.plain(k).ids(letters(RANDOM), "forward")
    points = planes._points(np.unique(ids), k)
    normals = (given.normals[..., 0] + 1j * given.normals[..., 1]) / planes._ONE
    above = (points @ normals.conj().T).real - given.offsets / planes._ONE
    assert ((np.abs(above) < 1e-4).sum(0) >= k).all()


def test_half_of_the_bits_are_set():
    given = planes.fit(letters(RANDOM), 23, 60, seed=1)
    ids, _ = given.ids(letters(RANDOM), "forward")
    shares = [(ids >> bit & 1).mean() for bit in range(60)]
    assert 0.4 < np.mean(shares) < 0.6


def test_one_substitution_moves_far_fewer_bits_than_another_kmer_has_different():
    given, rng = planes.fit(letters(RANDOM), 23, 22, seed=1), np.random.default_rng(0)
    kmers = [RANDOM[at : at + 23] for at in range(0, 5900, 23)]
    at = rng.integers(0, 23, len(kmers))
    changed = [
        kmer[:i] + rng.choice([base for base in "ACGT" if base != kmer[i]]) + kmer[i + 1 :]
        for kmer, i in zip(kmers, at, strict=True)
    ]
    mine, theirs = (given.ids(letters(*texts), "forward")[0] for texts in (kmers, changed))
    near, far = (np.mean([int(x).bit_count() for x in mine ^ other]) for other in (theirs, np.roll(mine, 1)))
    assert near < 0.45 * far
    assert 10 < far < 12


def test_bands_survive_a_substitution_that_moves_the_bucket():
    rng = np.random.default_rng(0)
    kmers = [RANDOM[at : at + 23] for at in range(0, 5900, 23)]
    at = rng.integers(0, 23, len(kmers))
    changed = [kmer[:i] + "ACGT"["CGTA".index(kmer[i])] + kmer[i + 1 :] for kmer, i in zip(kmers, at, strict=True)]

    def share(bits, bands):
        given = planes.fit(letters(RANDOM), 23, bits, bands=bands, seed=1)
        differ = np.bitwise_xor(*(given.ids(letters(*texts))[0] for texts in (kmers, changed)))
        return np.mean([any((x >> (band * bits)) & ((1 << bits) - 1) == 0 for band in range(bands)) for x in differ])

    assert share(10, 6) > 0.45 > 0.2 > share(22, 1)


def test_the_same_seed_gives_the_same_planes_and_another_seed_others():
    one, same, other = (planes.fit(letters(RANDOM), 9, 5, seed=seed) for seed in (1, 1, 2))
    assert one.sha256 == same.sha256 != other.sha256


def test_processes_with_other_numbers_of_threads_give_the_same_hashes(tmp_path):
    uri = str(tmp_path / "planes.npz")
    planes.save(fitted((23, 10, 6)), uri)
    code = (
        "import pyarrow as pa; from penstock.models import planes; from penstock.models.kmers import Letters; "
        f"print(planes.load({uri!r}).ids(Letters.of(pa.chunked_array([[{RANDOM[:300]!r}]])))[0].tolist())"
    )
    expected = str(fitted((23, 10, 6)).ids(letters(RANDOM[:300]))[0].tolist())
    for threads in ("1", "3"):
        more = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), threads)
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | more)
        assert told.stdout.strip() == expected, told.stderr


@pytest.mark.parametrize(("k", "bits", "bands"), [(1, 5, 1), (32, 5, 1), (9, 0, 1), (9, 16, 4)])
def test_sizes_out_of_bounds_are_refused(k, bits, bands):
    with pytest.raises(ValueError, match=f"k = {k} must be 2 to 31, and bits x bands = {bits} x {bands} at least 1"):
        planes.fit(letters(RANDOM), k, bits, bands=bands)


def test_data_without_kmers_are_refused():
    with pytest.raises(ValueError, match="there are no 9 bases in a row to put planes through"):
        planes.fit(letters("ACGT", "ACGTNNACGT"), 9, 5)


def test_planes_come_back_from_a_file(tmp_path):
    uri, given = str(tmp_path / "deep" / "planes.npz"), fitted((9, 5, 1))
    planes.save(given, uri)
    planes.save(given, uri)
    back = planes.load(uri)
    assert np.array_equal(back.normals, given.normals)
    assert np.array_equal(back.offsets, given.offsets)
    assert (back.bands, back.seed, back.source, back.sha256) == (1, 3, "random", given.sha256)


def test_other_planes_are_never_written_over(tmp_path):
    uri = str(tmp_path / "planes.npz")
    planes.save(fitted((9, 5, 1)), uri)
    with pytest.raises(StorageError, match=r"planes.npz: other planes lie there, on which models may depend"):
        planes.save(fitted((15, 22, 1)), uri)
    assert planes.load(uri).span == 9


def test_planes_that_are_not_there(tmp_path):
    with pytest.raises(WeightsError, match=r"no planes at .*none.npz; make them with"):
        planes.load(str(tmp_path / "none.npz"))


def changed(tmp_path, **changes):
    """A file of planes with some arrays or facts changed."""
    good = tmp_path / "good.npz"
    planes.save(fitted((9, 5, 1)), str(good))
    with np.load(good) as file:
        arrays = dict(file)
    facts = json.loads(arrays["about"].tobytes())
    facts |= {name: value for name, value in changes.items() if name not in arrays}
    arrays |= {name: value for name, value in changes.items() if name in arrays}
    arrays["about"] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    file = io.BytesIO()
    np.savez(file, **arrays)
    (tmp_path / "bad.npz").write_bytes(file.getvalue())
    return str(tmp_path / "bad.npz")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"normals": np.ones((5, 9, 2), np.int32)}, "is damaged: its planes have not the sha256"),
        ({"bands": 5}, "is damaged"),
        ({"version": 2}, "has planes of version 2, 1 was needed; update Penstock"),
        ({"format": "letters"}, "is no file of planes but of 'letters'"),
    ],
)
def test_damaged_files_are_refused_with_the_reason(tmp_path, changes, fault):
    uri = changed(tmp_path, **changes)
    with pytest.raises(WeightsError, match=fault):
        planes.load(uri)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 cut short", b"not a zip file at all"])
def test_files_of_something_else_are_refused(tmp_path, data):
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(WeightsError, match=r"x.npz is no file of planes, or cut short"):
        planes.load(str(tmp_path / "x.npz"))
