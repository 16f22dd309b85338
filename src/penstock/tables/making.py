"""Making tables: shard by shard, each alone and in any order, so that a table of any size takes little memory.

Finished shards are entered in a ledger, so a killed `create` goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from penstock.core.dataset import Manifest, commit, draft, publish_part
from penstock.core.ledger import Ledger
from penstock.core.nouns import Record, Unit
from penstock.core.storage import clear_scratch
from penstock.errors import StorageError
from penstock.tables.layout import FORMAT, Dtype, Floats, Layout, head
from penstock.tables.schemes import Exact, Scheme

__all__ = ["Fill", "Init", "create", "make", "publish_shard", "random_rows", "save"]

Init: TypeAlias = Literal["normal", "zeros"]

Fill: TypeAlias = Callable[[int, int], Floats]
"""Gives the rows from a first up to a last one, exclusive, ``"row dim"``; the same each time."""

SHARD_BYTES = 64 << 20
_BLOCK_BYTES = 8 << 20


def create(
    uri: str,
    rows: int | Scheme,
    dim: int,
    dtype: Dtype = "float32",
    *,
    init: Init = "normal",
    seed: int = 0,
    deviation: float = 0.0,
    shard_bytes: int = SHARD_BYTES,
) -> Manifest:
    """Make a table of fresh rows at *uri*; its next version where a table is there already.

    Args:
        uri: the table's root, a folder or ``s3://`` prefix.
        rows: how many, for one row an id; or a scheme.
        dim: numbers in a row.
        dtype: how they are stored.
        init: ``normal`` numbers or ``zeros``. A row follows from seed and its own number alone, bit for bit on
            every machine, so it does not matter how rows are cut into shards, and who makes which.
        seed: of the numbers.
        deviation: standard deviation of ``normal``; 0 is ``1 / sqrt(dim)``, which makes rows of length 1 or so.
        shard_bytes: about how large the shards are.

    Raises:
        StorageError: the table cannot be written.
    """
    layout = Layout(Exact(rows) if isinstance(rows, int) else rows, dim, dtype)
    scale = np.float32(deviation or dim**-0.5)

    def fill(start: int, stop: int) -> Floats:
        if init == "zeros":
            return np.zeros((stop - start, dim), np.float32)
        return random_rows(seed, start, stop, dim) * scale

    recipe = {"init": init, "seed": seed, "deviation": float(scale)}
    return make(uri, layout, fill, recipe, shard_bytes)


def save(
    uri: str,
    array: npt.NDArray[np.floating[Any]],
    scheme: Scheme | None = None,
    dtype: Dtype = "float32",
    shard_bytes: int = SHARD_BYTES,
) -> Manifest:
    """Make a table of the rows of *array*, ``"row dim"``, which may be a memory map larger than memory.

    Raises:
        ValueError: the scheme needs another number of rows, or a number does not fit *dtype*.
        StorageError: the table cannot be written.
    """
    layout = Layout(scheme or Exact(len(array)), array.shape[1], dtype)
    if layout.rows != len(array):
        raise ValueError(f"the scheme needs {layout.rows} rows, the array has {len(array)}")

    def fill(start: int, stop: int) -> Floats:
        return np.asarray(array[start:stop], np.float32)

    digest = hashlib.sha256()
    for start, stop in _blocks(0, layout.rows, layout.dim):
        digest.update(np.ascontiguousarray(array[start:stop]).data)
    return make(uri, layout, fill, {"array": digest.hexdigest()}, shard_bytes)


def make(uri: str, layout: Layout, fill: Fill, recipe: Mapping[str, Any], shard_bytes: int = SHARD_BYTES) -> Manifest:
    """Make a table of what *fill* gives.

    Args:
        uri: the table's root.
        layout: of the table.
        fill: gives the rows.
        recipe: what the rows follow from, as plain data; shards of an earlier attempt with the same recipe are kept.
        shard_bytes: about how large the shards are.

    Raises:
        StorageError: the table cannot be written.
    """
    units = layout.units(layout.shard_rows(shard_bytes))
    provenance = provenance_of(layout, recipe, units[0].stop)
    ledger = Ledger(uri, provenance["fingerprint"])
    done = ledger.done()
    for unit in units:
        if unit.key not in done:
            ledger.record(publish_shard(uri, layout, unit, fill))

    def records() -> Iterator[tuple[Unit, Record]]:
        return all_of(units, ledger.records(units), uri)

    manifest = commit(draft(uri, "table", provenance, layout.schema), FORMAT, records, 0)
    ledger.sweep(units)
    clear_scratch(uri)
    return manifest


def all_of(units: list[Unit], records: Iterator[tuple[Unit, Record]], uri: str) -> Iterator[tuple[Unit, Record]]:
    """The records of all *units*; a table without one of its shards is never committed.

    Raises:
        StorageError: some are lacking.
    """
    lacking = {unit.key for unit in units}
    for unit, record in records:
        lacking.discard(unit.key)
        yield unit, record
    if lacking:
        raise StorageError(
            f"{uri}: {len(lacking)} of {len(units)} shards have no record; another table was made at the same "
            "place meanwhile: run again, one at a time"
        )


def provenance_of(layout: Layout, recipe: Mapping[str, Any], shard_rows: int) -> dict[str, Any]:
    """What a table's manifest says of how it was made."""
    text = json.dumps([layout.plain(), recipe, shard_rows], sort_keys=True)
    return {"fingerprint": hashlib.sha256(text.encode()).hexdigest(), "table": layout.plain(), "recipe": dict(recipe)}


def publish_shard(uri: str, layout: Layout, unit: Unit, fill: Fill) -> Record:
    """Write the rows of one shard, a few megabytes at a time, and publish them under the name of their content."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            head(file, layout.record, unit.stop - unit.start)
            for start, stop in _blocks(unit.start, unit.stop, layout.dim):
                file.write(layout.encode(fill(start, stop)).data)

    return Record(unit.key, publish_part(uri, ".npy", write, unit.stop - unit.start))


def _blocks(first: int, last: int, dim: int) -> Iterator[tuple[int, int]]:
    step = max(1, _BLOCK_BYTES // (4 * dim))
    return ((start, min(start + step, last)) for start in range(first, last, step))


# --- random rows -----------------------------------------------------------------------------------------


def random_rows(seed: int, start: int, stop: int, dim: int) -> Floats:
    """Standard normal numbers, ``"row dim"``: the rows from *start* up to *stop* of an endless table.

    Row *n* is made of the words of Philox4x64 (Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405) from
    counter ``n * ceil(dim / 16)`` on. Each 16 bits choose one of 65,536 equally likely quantiles of the normal
    distribution: a table look-up gives the same bits on every machine, which logarithms and cosines do not.
    """
    blocks = -(-dim // 16)  # of the counter; one gives four words of 64 bits
    words = np.random.Philox(key=seed, counter=start * blocks).random_raw((stop - start) * blocks * 4)
    bits = words.astype("<u8", copy=False).view("<u2").reshape(stop - start, blocks * 16)
    return _quantiles().take(bits[:, :dim])


@cache
def _quantiles() -> Floats:
    """The middles of 65,536 equal shares of the standard normal distribution, exactly symmetric."""
    upper = [NormalDist().inv_cdf((n + 0.5) / 65536) for n in range(32768, 65536)]
    half = np.array(upper, np.float32)
    return np.concatenate([-half[::-1], half])
