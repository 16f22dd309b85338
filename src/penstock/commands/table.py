"""``penstock table plan|make|info``: embedding tables of any size."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table as Grid

from penstock.commands.telling import out, told
from penstock.core.dataset import Manifest
from penstock.errors import SpecError
from penstock.tables import planning
from penstock.tables.layout import Dtype, Layout, Table
from penstock.tables.making import Init, create, save
from penstock.tables.planning import Cluster, Estimate, SchemeName
from penstock.tables.schemes import Combine, Exact

__all__ = ["table"]

table = typer.Typer(no_args_is_help=True, help="Embedding tables larger than a node: plan, make, look at.")

Address = Annotated[str, typer.Argument(help="The table's root, a folder or s3:// prefix.", show_default=False)]
K = Annotated[int, typer.Option("--k", help="Length of k-mers; their ids lie below 4^k.", min=0, max=31)]
Rows = Annotated[int, typer.Option(help="Rows; for the compositional scheme, ids.", min=0)]
Bits = Annotated[int, typer.Option(help="Bits of a band of a locality-sensitive hash.", min=0, max=63)]
Parts = Annotated[int, typer.Option(help="Rows of one id: hashes, bands or digits.", min=0)]
SchemeOption = Annotated[SchemeName, typer.Option(help="From ids to rows.")]
CombineOption = Annotated[Combine, typer.Option(help="What the digits' rows of a compositional scheme become.")]
Dim = Annotated[int, typer.Option(help="Numbers in a row.", min=1)]
DtypeOption = Annotated[Dtype, typer.Option(help="How numbers are stored; int8 has a scale for each row.")]
ShardSize = Annotated[str, typer.Option(help="About how large a shard is: 64MB, 1GiB.", metavar="SIZE")]


@table.command()
def plan(
    *,
    k: K = 0,
    rows: Rows = 0,
    scheme: SchemeOption = "exact",
    bits: Bits = 0,
    parts: Parts = 0,
    combine: CombineOption = "product",
    dim: Dim = 100,
    dtype: DtypeOption = "float32",
    nodes: Annotated[int, typer.Option(help="Nodes that hold the table.", min=1)] = 1,
    memory: Annotated[str, typer.Option(help="Memory of a node for it: 64GB.", metavar="SIZE")] = "16GB",
    bag: Annotated[int, typer.Option(help="Ids that are pooled to one vector.", min=1)] = 128,
    shard: ShardSize = "64MiB",
) -> None:
    """Say what a table would take: rows, bytes, shards, memory of a node, traffic. Nothing is made."""
    with told(), _understood():
        ours = planning.scheme_of(scheme, k=k, rows=rows, bits=bits, parts=parts, combine=combine)
        found = planning.estimate(Layout(ours, dim, dtype), Cluster(nodes, _size(memory)), bag, _size(shard))
        out.print(_shown(found, k, nodes, _size(memory), bag))


@table.command()
def make(
    uri: Address,
    *,
    k: K = 0,
    rows: Rows = 0,
    scheme: SchemeOption = "exact",
    bits: Bits = 0,
    parts: Parts = 0,
    combine: CombineOption = "product",
    dim: Dim = 100,
    dtype: DtypeOption = "float32",
    init: Annotated[Init, typer.Option(help="What is in the rows.")] = "normal",
    seed: Annotated[int, typer.Option(help="Of normal numbers.", min=0)] = 0,
    array: Annotated[Path | None, typer.Option(help="Take the rows of this .npy file instead.")] = None,
    shard: ShardSize = "64MiB",
) -> None:
    """Make a table of fresh rows, or of an array; the next version where a table is there already."""
    with told(), _understood():
        if array is not None:
            manifest = _saved(uri, array, dtype, _size(shard))
        else:
            ours = planning.scheme_of(scheme, k=k, rows=rows, bits=bits, parts=parts, combine=combine)
            manifest = create(uri, ours, dim, dtype, init=init, seed=seed, shard_bytes=_size(shard))
        out.print(f"{manifest.uri}: version {manifest.version}, {manifest.rows:,} rows")


@table.command()
def info(uri: Address) -> None:
    """Say what a table is: rows, scheme, shards, versions, how it was made."""
    with told():
        found = Table.at(uri)
        grid = _grid(found.uri)
        grid.add_row("version", str(found.manifest.version))
        grid.add_row("sha256", found.manifest.sha256)
        _add_layout(grid, found.layout)
        grid.add_row("shards", f"{len(found.shards):,} of {found.shard_rows:,} rows")
        for name, value in found.manifest.provenance["recipe"].items():
            grid.add_row(name, str(value))
        out.print(grid)


def _saved(uri: str, array: Path, dtype: Dtype, shard_bytes: int) -> Manifest:
    import numpy as np

    try:
        rows = np.load(array, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise SpecError(f"{array}: {error}; a .npy file of numbers was needed") from error
    if rows.ndim != 2:
        raise SpecError(f"{array} has the shape {rows.shape}; rows of numbers were needed")
    return save(uri, rows, dtype=dtype, shard_bytes=shard_bytes)


@contextmanager
def _understood() -> Iterator[None]:
    """A number that makes no sense is a mistake of the command line."""
    try:
        yield
    except ValueError as error:
        raise SpecError(str(error)) from error


def _grid(title: str) -> Grid:
    return Grid(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))


def _add_layout(grid: Grid, layout: Layout) -> None:
    scheme = {name: value for name, value in layout.plain()["scheme"].items() if name != "kind"}
    words = ", ".join(f"{name} {value}" for name, value in scheme.items())
    grid.add_row("scheme", f"{layout.plain()['scheme']['kind']} ({words})")
    grid.add_row("ids", f"0 to {layout.scheme.limit - 1:,}")
    grid.add_row("rows", f"{layout.rows:,} of {layout.dim} x {layout.dtype}, {layout.row_bytes:,} bytes each")
    grid.add_row("size", _bytes(layout.size_bytes))


def _shown(found: Estimate, k: int, nodes: int, memory_bytes: int, bag: int) -> Grid:
    grid = _grid("table plan")
    if k:
        grid.add_row("k-mers", f"{planning.canonical_kmers(k):,} of length {k}, counted once for both strands")
    _add_layout(grid, found.layout)
    if k and isinstance(found.layout.scheme, Exact):
        used = planning.canonical_kmers(k)
        size = _bytes(used * found.layout.row_bytes)
        grid.add_row("in use", f"{used / found.layout.rows:.0%} of the rows, {size}: of both strands' ids one is taken")
    grid.add_row("shards", f"{found.shards:,} of up to {_bytes(found.shard_bytes)}")
    share = (
        "all of it in memory" if found.in_memory == 1 else f"{found.in_memory:.1%} of it in memory, the rest on disk"
    )
    grid.add_row("a node", f"{_bytes(found.node_bytes)} on each of {nodes} with {_bytes(memory_bytes)}: {share}")
    if found.in_memory < 1:
        grid.add_row("", "a row that is not in memory costs one read of a page (4 KiB) or two")
    ratio = found.shipped_bytes / found.pooled_bytes
    pooled = f"{_bytes(found.pooled_bytes)} when pooled in the shards ({ratio:.1f} times less)"
    if found.layout.scheme.combine == "product":
        pooled = "no less when pooled, since rows of an id are multiplied first"
    grid.add_row("traffic", f"{_bytes(found.shipped_bytes)} for a bag of {bag} ids when rows travel; {pooled}")
    grid.add_row("to train", f"{_bytes(found.training_bytes)} of disk for float32 rows and a number of state for each")
    return grid


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30}


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?", text.strip().upper())
    if match is None or (match[2] or "") not in _UNITS:
        raise SpecError(f"'{text}' is not a size; write it as 64MB or 16GiB")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def _bytes(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB", "TB", "PB", "EB"):
        if count < 1000 or unit == "EB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    raise AssertionError
