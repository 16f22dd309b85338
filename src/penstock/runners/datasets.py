"""Penstock's datasets for users of plain Ray Data: a source by the manifest, and sinks that write each row once.

Ray Data may carry out a task of a write twice. Here that gives the same part under the same name, since parts are
named by their content; the manifest names one part for each block and is published by the driver when all are there.
A write that failed leaves parts that no manifest names.
https://docs.ray.io/en/latest/data/api/doc/ray.data.Datasink.html
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock.core.batch import digest, tensor_column, to_numpy
from penstock.core.dataset import existing
from penstock.core.ledger import identity_of
from penstock.core.nouns import Record, Sink, Unit
from penstock.core.reading import read_rows
from penstock.errors import RowErrors, SchemaError

__all__ = ["HDF5Datasink", "datasink", "read_manifest"]


def read_manifest(uri: str, columns: Sequence[str] = (), version: int = 0, rows: int = 1 << 13) -> Any:
    """A Ray Data dataset of the rows of a published one, in order, so many to a block.

    Tensors come as Ray Data's own, so that its batches in NumPy's form have arrays.

    Raises:
        DatasetError: there is no dataset, or not that version.
    """
    import ray.data

    manifest = existing(uri, version)
    edges = range(0, manifest.rows, rows)
    if not edges:
        return ray.data.from_arrow(_for_ray(read_rows(manifest, 0, 0, columns)))
    spans = [{"start": low, "stop": min(low + rows, manifest.rows)} for low in edges]

    def read(span: pa.Table) -> pa.Table:
        (one,) = span.to_pylist()
        return _for_ray(read_rows(manifest, one["start"], one["stop"], columns, "size"))

    found = ray.data.from_items(spans, override_num_blocks=len(spans)).map_batches(
        read, batch_size=1, batch_format="pyarrow"
    )
    # Of this dataset alone: Ray Data gives blocks in the order in which their tasks end, where nobody asks for another.
    found.context.execution_options.preserve_order = True
    return found


def _for_ray(table: pa.Table) -> pa.Table:
    from ray.data.extensions import ArrowTensorArray

    for at, kind in enumerate(table.schema.types):
        if isinstance(kind, pa.FixedShapeTensorType):
            column = ArrowTensorArray.from_numpy(to_numpy(table.column(at)))
            table = table.set_column(at, table.schema.names[at], column)
    return table


def HDF5Datasink(uri: str, **options: Any) -> Any:  # noqa: N802 (the name that users of Ray Data look for)
    """A Ray Data sink that writes an HDF5 dataset; see `datasink` and `penstock.sinks.hdf5.Hdf5` for its options."""
    from penstock.sinks.hdf5 import Hdf5

    return datasink(Hdf5(uri, **options))


def datasink(sink: Sink) -> Any:
    """A Ray Data sink that writes by one of Penstock's: ``dataset.write_datasink(datasink(Zarr("out")))``.

    Each block becomes a part, in the order of Ray Data's tasks. NumPy tensors become ``fixed_shape_tensor`` columns.
    Rows that the sink refuses fail the write, since plain Ray Data has no quarantine.

    Raises:
        SchemaError: from the write, when the sink cannot take a column.
        ValueError: from the write, when Ray Data was told to pass over blocks that fail.
    """
    from ray.data import Datasink

    class Parts(Datasink):  # type: ignore[misc]  # Ray is untyped here
        """See `datasink`."""

        def on_write_start(self, *_: Any) -> None:
            _refuse_losses()

        def write(self, blocks: Iterable[Any], ctx: Any) -> list[Any]:
            return [_written(sink, ctx.task_idx, at, block) for at, block in enumerate(blocks)]

        def on_write_complete(self, write_result: Any) -> None:
            _committed(sink, [line for lines in write_result.write_returns for line in lines])

        def get_name(self) -> str:
            return f"Penstock {type(sink).__name__}"

    return Parts()


def _refuse_losses() -> None:
    from ray.data import DataContext

    allowed = DataContext.get_current().max_errored_blocks
    if allowed:
        raise ValueError(
            f"Ray Data's DataContext.max_errored_blocks is {allowed}, so it would leave out blocks that fail and say "
            "nothing to the sink; set it to 0"
        )


def _written(sink: Sink, task: int, at: int, block: Any) -> tuple[int, int, Unit, Record, bytes]:
    """The part of one block; its unit is known by the content."""
    from ray.data.block import BlockAccessor

    table = _from_ray(BlockAccessor.for_block(block).to_arrow())
    schema = sink.schema(table.schema)
    unit = Unit.of("ray-data", digest(table), task, task + 1, table.nbytes)
    try:
        record = Record(unit.key, sink.write(unit, table))
    except RowErrors as errors:
        raise SchemaError(
            f"{len(errors.reasons)} rows cannot be written, the first: {errors.reasons[0]}; mend or filter them before"
        ) from errors
    return task, at, unit, record, schema.serialize().to_pybytes()


def _from_ray(table: pa.Table) -> pa.Table:
    for at, (name, kind) in enumerate(zip(table.schema.names, table.schema.types, strict=True)):
        if isinstance(kind, pa.ExtensionType) and not isinstance(kind, pa.FixedShapeTensorType):
            table = table.set_column(at, name, tensor_column(_stacked(name, table.column(at))))
    return table.replace_schema_metadata(None)


def _stacked(name: str, column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """A column of Ray Data's tensors, ``"row ..."``."""
    chunks = [chunk for chunk in column.chunks if len(chunk)]
    rows = [np.asarray(chunk.to_numpy_ndarray()) for chunk in chunks if hasattr(chunk, "to_numpy_ndarray")]
    if not rows or len(rows) < len(chunks) or len({each.shape[1:] for each in rows}) > 1:
        raise SchemaError(f"the tensors in column '{name}' have several shapes; solvers need one: pad them")
    return np.concatenate(rows)


def _committed(sink: Sink, lines: list[tuple[int, int, Unit, Record, bytes]]) -> None:
    lines = sorted(lines, key=lambda line: line[:2])
    filled = [line for line in lines if line[3].part.rows]
    schemas = {schema for *_, schema in filled or lines}
    if len(schemas) > 1:
        raise SchemaError("the blocks have other columns or types than each other; cast them before the write")
    schema = next(iter(schemas), pa.schema([]).serialize().to_pybytes())
    told = {"sink": identity_of("sinks", sink), "schema": schema.hex()}
    fingerprint = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    pairs = [(unit, record) for _, _, unit, record, _ in filled or lines]
    sink.commit(lambda: iter(pairs), {"fingerprint": fingerprint, "schema": schema.hex(), "runner": "ray data"})
