"""What tables take, held against tables that are made and against arithmetic by hand."""

import itertools

import pytest

from penstock.errors import SpecError
from penstock.tables.layout import Layout, Table
from penstock.tables.making import create
from penstock.tables.planning import Cluster, canonical_kmers, estimate, scheme_of
from penstock.tables.schemes import Bands, Compositional, Exact, Hashed

COMPLEMENT = str.maketrans("ACGT", "TGCA")


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 6])
def test_canonical_kmers_are_counted(k):
    kmers = {"".join(letters) for letters in itertools.product("ACGT", repeat=k)}
    assert canonical_kmers(k) == len({min(kmer, kmer.translate(COMPLEMENT)[::-1]) for kmer in kmers})


def test_the_table_is_as_large_as_planned(tmp_path):
    for at, dtype in enumerate(("float32", "float16", "int8")):
        found = estimate(Layout(Exact(10_000), 7, dtype), Cluster(), 1, shard_bytes=1)
        table = Table.at(create(str(tmp_path / str(at)), 10_000, 7, dtype, shard_bytes=1).uri)
        sizes = [shard.path().stat().st_size - 4096 for shard in table.shards]
        assert (found.shards, found.size_bytes, found.shard_bytes) == (len(sizes), sum(sizes), sizes[0])


def test_a_cluster_by_hand():
    """4^9 rows of 100 float32 on four nodes; a bag of 128 ids."""
    found = estimate(Layout(Exact(4**9), 100), Cluster(4, 10**7), 128, shard_bytes=2 << 20)
    assert (found.size_bytes, found.shard_bytes, found.shards) == (4**9 * 400, 4096 * 400, 64)
    assert found.node_bytes == 16 * 4096 * 400
    assert found.in_memory == pytest.approx(10**7 / (16 * 4096 * 400))
    assert found.shipped_bytes == 128 * (8 + 400)
    assert found.pooled_bytes == 128 * 8 + 4 * (400 + 8)
    assert found.training_bytes == 4**9 * 404


def test_products_are_not_pooled_in_the_shards():
    one, other = (estimate(Layout(Compositional((9, 9), how), 100), Cluster(2), 128) for how in ("sum", "product"))
    assert one.pooled_bytes < one.shipped_bytes == other.shipped_bytes == other.pooled_bytes


@pytest.mark.parametrize(
    ("given", "scheme"),
    [
        ({"name": "exact", "k": 3}, Exact(64)),
        ({"name": "exact", "rows": 7}, Exact(7)),
        ({"name": "hashed", "k": 31, "rows": 7, "parts": 2}, Hashed(7, 2)),
        ({"name": "bands", "bits": 22}, Bands(1, 22)),
        ({"name": "compositional", "k": 23}, Compositional((4**11, 4**12))),
        ({"name": "compositional", "rows": 1000, "parts": 3, "combine": "sum"}, Compositional((10, 10, 10), "sum")),
        ({"name": "compositional", "rows": 1001}, Compositional((32, 32))),
    ],
)
def test_schemes_of_the_command_line(given, scheme):
    assert scheme_of(**given) == scheme


@pytest.mark.parametrize("name", ["exact", "hashed", "bands", "compositional"])
def test_what_is_lacking_is_named(name):
    with pytest.raises(SpecError, match=f"the scheme '{name}' needs --"):
        scheme_of(name)
