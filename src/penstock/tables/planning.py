"""What a table would take, before anything is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from penstock.errors import SpecError
from penstock.tables.layout import Layout
from penstock.tables.making import SHARD_BYTES
from penstock.tables.schemes import Bands, Combine, Compositional, Exact, Hashed, Scheme

__all__ = ["Cluster", "Estimate", "SchemeName", "canonical_kmers", "estimate", "scheme_of"]

SchemeName: TypeAlias = Literal["exact", "hashed", "bands", "compositional"]

_ID_BYTES, _OFFSET_BYTES = 8, 8
"""On the way to an actor: the number of each row, and where each bag begins."""


@dataclass(frozen=True)
class Cluster:
    """Who would hold the table: so many nodes, and the memory that each has for it."""

    nodes: int = 1
    memory_bytes: int = 16 << 30


@dataclass(frozen=True)
class Estimate:
    """What a table takes.

    Attributes:
        shards: how many files.
        shard_bytes: the largest of them.
        size_bytes: all of them.
        node_bytes: what each node holds.
        in_memory: the share of it that its memory holds; 1 is all.
        parts: rows that one id has.
        shipped_bytes: over the network for one bag, when rows travel.
        pooled_bytes: the same when each node sums its rows first and the sums travel.
        training_bytes: of a working copy, float32 with one number of state a row.
    """

    layout: Layout
    shards: int
    shard_bytes: int
    size_bytes: int
    node_bytes: int
    in_memory: float
    parts: int
    shipped_bytes: int
    pooled_bytes: int
    training_bytes: int


def estimate(layout: Layout, cluster: Cluster, bag: int, shard_bytes: int = SHARD_BYTES) -> Estimate:
    """What the table takes on *cluster*, and what a look-up of a *bag* of so many ids costs its network."""
    shard_rows = min(layout.shard_rows(shard_bytes), layout.rows)
    shards, parts = -(-layout.rows // shard_rows), _parts(layout.scheme)
    node = -(-shards // cluster.nodes) * shard_rows * layout.row_bytes
    asked, answering = bag * parts, min(cluster.nodes, bag * parts)
    pushed = layout.scheme.combine == "sum"  # products must see all rows of an id
    shipped = asked * (_ID_BYTES + layout.row_bytes)
    return Estimate(
        layout,
        shards,
        shard_rows * layout.row_bytes,
        layout.size_bytes,
        node,
        min(1.0, cluster.memory_bytes / node),
        parts,
        shipped,
        asked * _ID_BYTES + answering * (4 * layout.dim + _OFFSET_BYTES) if pushed else shipped,
        layout.rows * 4 * (layout.dim + 1),
    )


def _parts(scheme: Scheme) -> int:
    if isinstance(scheme, Hashed):
        return scheme.hashes
    if isinstance(scheme, Bands):
        return scheme.bands
    return len(scheme.radices) if isinstance(scheme, Compositional) else 1


def canonical_kmers(k: int) -> int:
    """How many k-mers there are when a k-mer and its reverse complement are one.

    For even k some are their own reverse complement.
    """
    palindromes = 4 ** (k // 2) if k % 2 == 0 else 0
    return int(4**k + palindromes) // 2


def scheme_of(
    name: SchemeName, *, k: int = 0, rows: int = 0, bits: int = 0, parts: int = 0, combine: Combine = "product"
) -> Scheme:
    """The scheme that a command line describes.

    Args:
        name: of the scheme.
        k: of k-mers, whose 2-bit ids lie below 4^k; 0 when the ids are others.
        rows: of an exact or hashed table; ids of a compositional one.
        bits: of each band.
        parts: rows of an id: hashes, bands or digits; 0 takes the scheme's usual number.
        combine: what the rows of a compositional scheme's digits become.

    Raises:
        SpecError: something that the scheme needs is not given.
    """
    ids = rows or (4**k if k else 0)
    if name == "bands":
        return Bands(parts or 1, _given(bits, "bands", "--bits: 22 is LSHvec's default"))
    if name == "hashed":
        return Hashed(_given(rows, "hashed", "--rows: as many as memory or disk allow"), parts or 1)
    if name == "exact":
        return Exact(_given(ids, "exact", "--rows, or --k for k-mers"))
    return Compositional(_radices(_given(ids, name, "--rows, or --k for k-mers"), parts or 2, k), combine)


def _given(value: int, name: str, option: str) -> int:
    if value < 1:
        raise SpecError(f"the scheme '{name}' needs {option}")
    return value


def _radices(ids: int, digits: int, k: int) -> tuple[int, ...]:
    """About equal radices with a product of at least *ids*; for k-mers, powers of four: prefix and suffix."""
    if k:
        return tuple(4 ** ((k + at) // digits) for at in range(digits))
    radix = round(ids ** (1 / digits))
    while radix**digits < ids:
        radix += 1
    return (radix,) * digits
